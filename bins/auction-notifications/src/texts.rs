//! The texts of the mails.

use domain::Outcome;
use protocol::{AuctionClosed, Contact, MailKind};

/// Subject and text of one mail.
pub fn text(closed: &AuctionClosed, kind: MailKind, contact: &Contact) -> (String, String) {
    // A subject is one line.
    let title: String = closed.title.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
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
            (format!("Sold: {title}"), format!("\"{title}\" was sold to {} for {price}.", winner.username))
        }
        (MailKind::Lost | MailKind::Hosted, None) => {
            (format!("Not sold: {title}"), format!("\"{title}\" has ended without a sale."))
        }
    };
    let name = contact.name.as_deref().unwrap_or(&contact.username);
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
}
