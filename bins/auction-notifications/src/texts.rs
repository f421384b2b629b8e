//! The texts of the mails.

use domain::Outcome;
use protocol::{AuctionClosed, Contact, MailKind, characters};

/// Longest title in a mail, in characters. Longer ones are cut, so that a title cannot be the mail's message.
const MAX_TITLE_CHARACTERS: usize = 80;
/// Longest name in a mail, in characters.
const MAX_NAME_CHARACTERS: usize = 60;

/// A text of another person as one short line of which no mail program makes a link: without schemes, with blanks behind
/// the dots of host names, and without @. None if nothing is left.
fn plain(text: &str, most: usize) -> Option<String> {
    let mut plain = String::new();
    let line = characters::one_line(text, usize::MAX)?.replace("://", " ").replace('@', " at ");
    let mut rest = line.chars().peekable();
    while let Some(c) = rest.next() {
        plain.push(c);
        if c == '.' && rest.peek().is_some_and(|next| next.is_alphabetic()) {
            plain.push(' ');
        }
    }
    let is_cut = plain.chars().count() > most;
    let mut cut: String = plain.chars().take(most).collect();
    if is_cut {
        cut.push('…');
    }
    Some(cut)
}

fn name(contact: &Contact) -> String {
    plain(&contact.username, MAX_NAME_CHARACTERS).unwrap_or_else(|| "customer".to_owned())
}

/// Subject and text of one mail.
pub fn text(closed: &AuctionClosed, kind: MailKind, contact: &Contact) -> (String, String) {
    let title = plain(&closed.title, MAX_TITLE_CHARACTERS).unwrap_or_else(|| "your auction".to_owned());
    let price = closed.final_price.map(|price| format!("{price} {}", closed.currency)).unwrap_or_default();
    let cancelled = closed.outcome == Outcome::Cancelled;
    let (subject, sentence) = match (kind, &closed.winner) {
        (MailKind::Won, _) => (format!("You won: {title}"), format!("Your bid of {price} has won \"{title}\".")),
        (_, _) if cancelled => {
            (format!("Cancelled: {title}"), format!("\"{title}\" was cancelled by its host. There is no winner."))
        }
        (MailKind::Lost, Some(_)) => {
            (format!("Ended: {title}"), format!("\"{title}\" went to another bidder for {price}."))
        }
        (MailKind::Hosted, Some(winner)) => {
            (format!("Sold: {title}"), format!("\"{title}\" was sold to {} for {price}.", name(winner)))
        }
        (MailKind::Lost | MailKind::Hosted, None) => {
            (format!("Not sold: {title}"), format!("\"{title}\" has ended without a sale."))
        }
    };
    let name =
        contact.name.as_deref().and_then(|name| plain(name, MAX_NAME_CHARACTERS)).unwrap_or_else(|| name(contact));
    (subject, format!("Hello {name},\n\n{sentence}\n\nAuction {}\n", closed.auction_id))
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::AUCTION_CLOSED;

    #[test]
    fn mails_name_outcome_price_and_recipient() {
        let body = serde_json::json!({
            "type": AUCTION_CLOSED, "auction_id": "0b7c2f6e-5a53-4f7e-9a35-2a0d0c9d1e11", "title": "Lamp\nof brass",
            "final_price": 12.5, "currency": "USD", "outcome": "sold", "losers": [], "part": 1, "parts": 1, "timestamp": 1,
            "winner": {"user_id": "0b7c2f6e-5a53-4f7e-9a35-2a0d0c9d1e12", "email": null, "name": "Anna", "username": "anna"},
            "host": {"user_id": "0b7c2f6e-5a53-4f7e-9a35-2a0d0c9d1e13", "email": null, "name": null, "username": "host"},
        });
        let mut closed: AuctionClosed = serde_json::from_str(&body.to_string()).unwrap();
        let winner = closed.winner.clone().unwrap();
        let subject = |closed: &AuctionClosed, kind| text(closed, kind, &closed.host).0;
        assert_eq!(text(&closed, MailKind::Won, &winner).0, "You won: Lamp of brass");
        assert!(text(&closed, MailKind::Won, &winner).1.starts_with("Hello Anna,\n\nYour bid of 12.50 USD has won"));
        assert_eq!(subject(&closed, MailKind::Lost), "Ended: Lamp of brass");
        assert!(text(&closed, MailKind::Hosted, &closed.host).1.contains("sold to anna for 12.50 USD"));
        closed.winner = None;
        assert_eq!(subject(&closed, MailKind::Hosted), "Not sold: Lamp of brass");
        closed.outcome = Outcome::Cancelled.into();
        assert_eq!(subject(&closed, MailKind::Lost), "Cancelled: Lamp of brass");
    }

    #[test]
    fn texts_of_others_are_short_and_hold_no_links() {
        let check = |text: &str, expected: &str| assert_eq!(plain(text, 40).as_deref(), Some(expected), "{text:?}");
        check("Lamp No.5, 12.50 m", "Lamp No.5, 12.50 m");
        check("claim at https://evil.example/claim", "claim at https evil. example/claim");
        check("write to me@evil.example", "write to me at evil. example");
        check("Lamp\r\nBcc: b", "Lamp Bcc: b");
        check("\u{202e}pmaL", "pmaL");
        check(&"x".repeat(500), &format!("{}…", "x".repeat(40)));
        assert_eq!(plain("\u{200b}", 40), None);
    }
}
