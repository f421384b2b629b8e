//! Digits of three lines, for what is read from across a room.

/// The lines of a text of digits, points, commas and colons. Other characters leave a gap.
pub fn big(text: &str) -> [String; 3] {
    let mut lines = [String::new(), String::new(), String::new()];
    for character in text.chars() {
        for (line, part) in lines.iter_mut().zip(parts(character)) {
            line.push_str(part);
            line.push(' ');
        }
    }
    lines
}

const fn parts(character: char) -> [&'static str; 3] {
    match character {
        '0' => ["┏━┓", "┃ ┃", "┗━┛"],
        '1' => [" ┓ ", " ┃ ", "╺┻╸"],
        '2' => ["╺━┓", "┏━┛", "┗━╸"],
        '3' => ["╺━┓", " ━┫", "╺━┛"],
        '4' => ["╻ ╻", "┗━┫", "  ╹"],
        '5' => ["┏━╸", "┗━┓", "╺━┛"],
        '6' => ["┏━╸", "┣━┓", "┗━┛"],
        '7' => ["╺━┓", "  ┃", "  ╹"],
        '8' => ["┏━┓", "┣━┫", "┗━┛"],
        '9' => ["┏━┓", "┗━┫", "╺━┛"],
        '.' => [" ", " ", "▪"],
        ',' => [" ", " ", "╻"],
        ':' => [" ", "▪", "▪"],
        _ => [" ", " ", " "],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_a_text_have_one_width() {
        let lines = big("0123456789.,: x");
        let width = |line: &String| line.chars().count();
        assert_eq!((width(&lines[1]), width(&lines[2])), (width(&lines[0]), width(&lines[0])));
        assert_eq!(big("7"), ["╺━┓ ", "  ┃ ", "  ╹ "]);
    }
}
