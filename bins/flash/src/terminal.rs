//! A screen that `watch` and `top` draw: keys, redrawing, and the terminal given back at the end.

use std::time::Duration;

use anyhow::Result;
use crossterm::event::{Event, EventStream, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use futures_util::StreamExt;
use ratatui::{DefaultTerminal, Frame};
use tokio::sync::mpsc;

/// Updates that wait to be shown. Each is one frame of the edge or one round of questions.
pub const MAX_WAITING: usize = 256;
/// Interval between two drawings. Clocks show tenths of a second at the end.
const DRAW_EVERY: Duration = Duration::from_millis(100);

/// The content of a screen, made from updates.
pub trait Screen {
    /// The messages of the screen's source.
    type Update;

    /// Takes one update.
    fn update(&mut self, update: Self::Update);

    /// Draws everything, at any size.
    fn draw(&self, frame: &mut Frame<'_>);
}

/// Gives the terminal back, also when the future that draws is dropped.
struct Restored;

impl Drop for Restored {
    fn drop(&mut self) {
        ratatui::restore();
    }
}

/// Shows updates until the user quits. The terminal is given back then, and after an error or a panic.
///
/// # Errors
/// When the terminal cannot be used.
pub async fn show<S: Screen>(screen: &mut S, updates: &mut mpsc::Receiver<S::Update>) -> Result<()> {
    let _restored = Restored;
    let mut terminal = ratatui::try_init()?;
    show_on(&mut terminal, screen, updates).await
}

async fn show_on<S: Screen>(
    terminal: &mut DefaultTerminal,
    screen: &mut S,
    updates: &mut mpsc::Receiver<S::Update>,
) -> Result<()> {
    let mut keys = EventStream::new();
    let mut drawing = tokio::time::interval(DRAW_EVERY);
    loop {
        tokio::select! {
            Some(update) = updates.recv() => screen.update(update),
            event = keys.next() => match event {
                Some(Ok(Event::Key(key))) if quits(key) => return Ok(()),
                // The next drawing has the new size.
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(error.into()),
                None => return Ok(()),
            },
            _ = drawing.tick() => {
                terminal.draw(|frame| screen.draw(frame))?;
            }
        }
    }
}

/// `q`, Escape and Ctrl-C quit.
fn quits(key: KeyEvent) -> bool {
    let is_control = key.modifiers.contains(KeyModifiers::CONTROL);
    let is_quit = matches!(key.code, KeyCode::Char('q') | KeyCode::Esc);
    key.kind == KeyEventKind::Press && (is_quit || (key.code == KeyCode::Char('c') && is_control))
}

/// Text of other people without characters that would move the cursor, and without those that hide or reorder text.
/// Joiners within emoji stay.
pub fn clean(text: &str) -> String {
    let is_misleading = |character: char| {
        matches!(
            character,
            '\u{ad}' | '\u{200b}' | '\u{200e}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}'
        )
    };
    let shown = |character: char| if character.is_control() || is_misleading(character) { ' ' } else { character };
    text.chars().map(shown).collect()
}

/// An amount of a reply with two decimals and groups of three digits.
pub fn money(value: &serde_json::Value) -> Option<String> {
    domain::Amount::parse(&value.to_string()).ok().map(grouped)
}

/// `1,234,567.00`
pub fn grouped(amount: domain::Amount) -> String {
    let text = amount.to_string();
    let (whole, decimals) = text.split_once('.').unwrap_or((&text, "00"));
    let mut grouped = String::new();
    for (nth, digit) in whole.chars().enumerate() {
        if nth > 0 && (whole.len() - nth).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    format!("{grouped}.{decimals}")
}

/// The time that is left: `4:37`, in the last minute `37.2`.
pub fn countdown(left_ms: u64) -> String {
    let seconds = left_ms / 1000;
    match seconds {
        0..60 => format!("{seconds}.{}", left_ms % 1000 / 100),
        60..3600 => format!("{}:{:02}", seconds / 60, seconds % 60),
        _ => format!("{}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60),
    }
}

#[cfg(test)]
pub mod testing {
    //! Drawings as text.

    use ratatui::backend::TestBackend;
    use ratatui::{Frame, Terminal};

    /// The lines of a drawing of this size, without the spaces at their ends.
    pub fn drawn(width: u16, height: u16, draw: impl FnOnce(&mut Frame<'_>)) -> Vec<String> {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).expect("a terminal");
        terminal.draw(draw).expect("a drawing");
        let buffer = terminal.backend().buffer().clone();
        let line = |y| (0..width).map(|x| buffer[(x, y)].symbol()).collect::<String>().trim_end().to_owned();
        (0..height).map(line).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_have_groups_and_times_their_unit() {
        for (value, text) in
            [("1", "1.00"), ("999.5", "999.50"), ("1000", "1,000.00"), ("99999999.99", "99,999,999.99")]
        {
            assert_eq!(money(&serde_json::from_str(value).expect("JSON")).as_deref(), Some(text));
        }
        assert_eq!(money(&serde_json::Value::Null), None);
        for (left, text) in
            [(0, "0.0"), (9_950, "9.9"), (59_999, "59.9"), (60_000, "1:00"), (277_000, "4:37"), (3_661_000, "1:01:01")]
        {
            assert_eq!(countdown(left), text);
        }
    }

    #[test]
    fn q_escape_and_control_c_quit() {
        let key = |code, modifiers| KeyEvent::new(code, modifiers);
        for code in [KeyCode::Char('q'), KeyCode::Esc] {
            assert!(quits(key(code, KeyModifiers::NONE)));
        }
        assert!(quits(key(KeyCode::Char('c'), KeyModifiers::CONTROL)));
        assert!(!quits(key(KeyCode::Char('c'), KeyModifiers::NONE)));
    }

    #[test]
    fn text_of_others_cannot_control_the_terminal() {
        assert_eq!(clean("a\u{1b}[2Jb\r\n\u{9b}c"), "a [2Jb   c");
        assert_eq!(clean("a\u{202e}b\u{200b}c\u{2066}d\u{feff}e"), "a b c d e");
        assert_eq!(clean("👩\u{200d}🚀"), "👩\u{200d}🚀");
    }
}
