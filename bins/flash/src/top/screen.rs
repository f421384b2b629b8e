//! The report on a terminal: services and trouble above, auctions below.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout};
use ratatui::style::{Style, Stylize};
use ratatui::text::Line;
use ratatui::widgets::{Block, BorderType, Cell, Paragraph, Row, Table};

use super::collect::Round;
use super::report::{Auction, Report, shown};
use crate::terminal::Screen;

/// Lines of trouble that are shown. The first ones are the worst.
const MAX_TROUBLE: usize = 4;

/// The last two rounds, as a report.
#[derive(Debug, Default)]
pub struct Top {
    last: Option<Round>,
    /// None before the first round.
    pub report: Option<Report>,
}

impl Screen for Top {
    type Update = Round;

    fn update(&mut self, round: Round) {
        self.report = Some(Report::of(self.last.as_ref(), &round));
        self.last = Some(round);
    }

    fn draw(&self, frame: &mut Frame<'_>) {
        match &self.report {
            Some(report) => draw(report, frame),
            None => frame.render_widget(Line::from(" asking …   q quits").dim(), frame.area()),
        }
    }
}

fn draw(report: &Report, frame: &mut Frame<'_>) {
    let trouble = report.trouble.len().clamp(1, MAX_TROUBLE);
    let lines = |count: usize| Constraint::Length(u16::try_from(count).unwrap_or(u16::MAX));
    let [head, services, troubles, auctions, foot] = Layout::vertical([
        Constraint::Length(1),
        lines(report.services.len()),
        lines(trouble),
        Constraint::Min(0),
        Constraint::Length(1),
    ])
    .areas(frame.area());
    let title = format!(" {} live auctions   {} bids/s", report.total, shown(report.rate));
    frame.render_widget(Line::from(title).bold().cyan(), head);
    let widths = [Constraint::Length(23), Constraint::Length(10), Constraint::Min(0)];
    frame.render_widget(Table::new(report.services.iter().map(service_row), widths), services);
    let sentences: Vec<Line> = if report.trouble.is_empty() {
        vec![Line::from(" no trouble").green().dim()]
    } else {
        report.trouble.iter().take(MAX_TROUBLE).map(|text| Line::from(format!(" ! {text}")).red().bold()).collect()
    };
    frame.render_widget(Paragraph::new(sentences), troubles);
    let widths = [
        Constraint::Min(12),
        Constraint::Length(8),
        Constraint::Length(13),
        Constraint::Max(16),
        Constraint::Length(7),
        Constraint::Length(7),
        Constraint::Length(8),
        Constraint::Max(36),
    ];
    let header = ["auction", "left", "price", "leader", "bids", "bids/s", "watching", "id"];
    let table = Table::new(report.rows.iter().map(auction_row), widths)
        .header(Row::new(header).style(Style::new().dim()))
        .block(Block::bordered().border_type(BorderType::Rounded).border_style(Style::new().dark_gray()));
    frame.render_widget(table, auctions);
    frame.render_widget(Line::from(" q quits").dim(), foot);
}

fn service_row([name, status, figures]: &[String; 3]) -> Row<'_> {
    let style = if status == "ready" { Style::new().green() } else { Style::new().red().bold() };
    Row::new([Cell::from(format!(" {name}")), Cell::from(status.as_str()).style(style), Cell::from(figures.as_str())])
}

fn auction_row(auction: &Auction) -> Row<'_> {
    let [title, left, price, leader] = auction.texts.each_ref().map(String::as_str);
    let right = |text: &str| Cell::from(Line::from(text.to_owned()).right_aligned());
    let [bids, rate, people] =
        [auction.bids.to_string(), shown(auction.rate), auction.people.to_string()].map(|count| right(&count));
    let style = if auction.rate > Some(0) { Style::new().bold() } else { Style::new() };
    let id = auction.id.as_str().into();
    Row::new([title.into(), right(left), right(price), leader.into(), bids, rate, people, id]).style(style)
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::super::report::tests::round;
    use super::*;
    use crate::terminal::testing::drawn;

    #[test]
    fn report_is_drawn_and_trouble_is_seen() {
        let (start, mut top) = (Instant::now(), Top::default());
        assert!(drawn(80, 5, |frame| top.draw(frame))[0].contains("asking"));
        top.update(round(start, 0, 10, ""));
        top.update(round(start, 2, 50, "flash_log_used_ratio 0.9\n"));
        let text = drawn(140, 20, |frame| top.draw(frame)).join("\n");
        for expected in ["2 live auctions   20 bids/s", "bid-processing", "! the log is 90 % full", "Cello", "1,500.50"]
        {
            assert!(text.contains(expected), "{expected}: {text}");
        }
        assert!(text.find("Cello") < text.find("Lamp"), "the busiest is first: {text}");
        top.update(round(start, 4, 50, ""));
        let text = drawn(140, 20, |frame| top.draw(frame)).join("\n");
        assert!(text.contains("no trouble") && !text.contains("! "), "{text}");
    }

    #[test]
    fn every_size_can_be_drawn() {
        let mut top = Top::default();
        top.update(round(Instant::now(), 0, 10, ""));
        for (width, height) in [(1, 1), (3, 2), (20, 4), (60, 10), (300, 90)] {
            assert_eq!(drawn(width, height, |frame| top.draw(frame)).len(), usize::from(height));
        }
    }
}
