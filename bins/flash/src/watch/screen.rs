//! The auction on a terminal: price, leader and clock above, bids and chat below, at any size.

use std::collections::VecDeque;
use std::time::{SystemTime, UNIX_EPOCH};

use ratatui::Frame;
use ratatui::layout::{Alignment, Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style, Stylize};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, BorderType, Paragraph, Sparkline};
use serde_json::Value;

use super::auction::{Auction, Link};
use super::digits::big;
use crate::terminal::{Screen, countdown, grouped};

/// Lines of price and clock in large digits, with their frame.
const LARGE_LINES: u16 = 7;
/// Lines of the same in a small terminal.
const SMALL_LINES: u16 = 4;
/// Lines and columns from which there is room for large digits.
const LARGE_FROM: (u16, u16) = (20, 70);
/// Columns from which bids and chat stand side by side.
const SIDE_BY_SIDE_FROM: u16 = 60;
/// Lines of the curve of prices, and those of the bids from which it is shown.
const CURVE_LINES: u16 = 4;
const CURVE_FROM: u16 = 12;
/// Time of a full clock bar. Auctions are decided in their last minute.
const BAR_MS: u64 = 60_000;
/// Time left from which the clock is red.
const URGENT_MS: u64 = 10_000;

/// The messages of the feed.
pub enum Update {
    /// The auction's object of the API.
    Object(Value),
    /// A frame: event and data.
    Frame(String, Value),
    /// The connection has changed.
    Link(Link),
}

impl Screen for Auction {
    type Update = Update;

    fn update(&mut self, update: Update) {
        match update {
            Update::Object(object) => self.describe(&object),
            // Its sentences are for people who read line by line.
            Update::Frame(event, data) => _ = self.apply(&event, &data, now_ms()),
            Update::Link(link) => self.link = link,
        }
    }

    fn draw(&self, frame: &mut Frame<'_>) {
        draw(self, frame, now_ms());
    }
}

/// This machine's clock, in milliseconds since 1970.
pub fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

fn draw(auction: &Auction, frame: &mut Frame<'_>, now: u64) {
    let area = frame.area();
    let is_large = area.height >= LARGE_FROM.0 && area.width >= LARGE_FROM.1;
    let hero = if is_large { LARGE_LINES } else { SMALL_LINES };
    let [above, below, foot] =
        Layout::vertical([Constraint::Length(hero), Constraint::Min(0), Constraint::Length(1)]).areas(area);
    draw_hero(auction, frame, above, is_large, now);
    let sides = if area.width >= SIDE_BY_SIDE_FROM {
        Layout::horizontal([Constraint::Percentage(45), Constraint::Percentage(55)])
    } else {
        Layout::vertical([Constraint::Percentage(50), Constraint::Percentage(50)])
    };
    let [bids, chat] = sides.areas(below);
    draw_bids(auction, frame, bids);
    draw_chat(auction, frame, chat);
    frame.render_widget(footer(auction), foot);
}

fn block(title: &str) -> Block<'_> {
    Block::bordered().border_type(BorderType::Rounded).border_style(Style::new().dark_gray()).title(title)
}

fn draw_hero(auction: &Auction, frame: &mut Frame<'_>, area: Rect, is_large: bool, now: u64) {
    let title = if auction.title.is_empty() { "Auction" } else { &auction.title };
    let host = if auction.host.is_empty() { String::new() } else { format!("by {} ", auction.host) };
    let status = Span::styled(format!(" {} ", auction.status), status_style(auction));
    let block = Block::bordered()
        .border_type(BorderType::Rounded)
        .border_style(status_style(auction).remove_modifier(Modifier::all()))
        .title(Line::from(vec![Span::raw(" "), Span::raw(title).bold(), Span::raw(" "), Span::raw(host).dim()]))
        .title(Line::from(status).right_aligned());
    let inside = block.inner(area);
    frame.render_widget(block, area);
    let [left, right] =
        Layout::horizontal([Constraint::Min(0), Constraint::Percentage(if is_large { 40 } else { 50 })]).areas(inside);
    let price = auction.price.map_or_else(|| "-".to_owned(), grouped);
    let clock = auction.left_ms(now).map_or_else(|| "-".to_owned(), countdown);
    frame.render_widget(Paragraph::new(price_lines(auction, &price, is_large)), left);
    let bar_lines = u16::from(is_large);
    let [clock_area, bar] = Layout::vertical([Constraint::Min(0), Constraint::Length(bar_lines)]).areas(right);
    let lines = clock_lines(auction, &clock, is_large, now);
    frame.render_widget(Paragraph::new(lines).alignment(Alignment::Right), clock_area);
    if let Some(left_ms) = auction.left_ms(now).filter(|_| !auction.is_over()) {
        let columns = u64::from(bar.width) * left_ms.min(BAR_MS) / BAR_MS;
        let full = "━".repeat(usize::try_from(columns).unwrap_or_default());
        frame.render_widget(Line::from(Span::styled(full, clock_style(auction, now))).right_aligned(), bar);
    }
}

fn price_lines(auction: &Auction, price: &str, is_large: bool) -> Vec<Line<'static>> {
    let color = if auction.is_over() { Color::Magenta } else { Color::Green };
    let style = Style::new().fg(color).bold();
    let mut lines: Vec<Line> = if is_large {
        big(price).into_iter().map(|line| Line::from(Span::styled(format!(" {line}"), style))).collect()
    } else {
        vec![Line::from(Span::styled(format!(" {price} {}", auction.currency), style))]
    };
    let second = match (&auction.ending, &auction.leader) {
        (Some(ending), _) => Span::styled(format!(" {ending}"), Style::new().magenta().bold()),
        (None, Some(leader)) => Span::styled(format!(" {leader} leads"), Style::new().bold()),
        (None, None) => Span::raw(" no bid yet").dim(),
    };
    lines.push(Line::from(second));
    if is_large && !auction.is_over() {
        let next = auction.minimum.map(|minimum| format!(" next bid from {}", auction.priced(minimum)));
        lines.push(Line::from(next.unwrap_or_default()).dim());
    }
    lines
}

fn clock_lines(auction: &Auction, clock: &str, is_large: bool, now: u64) -> Vec<Line<'static>> {
    let style = clock_style(auction, now);
    let counts = format!(
        "{} {} · {} watching{} ",
        auction.bid_count,
        if auction.bid_count == 1 { "bid" } else { "bids" },
        auction.people,
        if auction.extensions > 0 { format!(" · +{} extended", auction.extensions) } else { String::new() }
    );
    let mut lines: Vec<Line> = if is_large {
        big(clock).into_iter().map(|line| Line::from(Span::styled(line, style))).collect()
    } else {
        vec![Line::from(Span::styled(format!("{clock} "), style))]
    };
    lines.push(Line::from(counts).dim());
    lines
}

fn clock_style(auction: &Auction, now: u64) -> Style {
    match auction.left_ms(now) {
        _ if auction.is_over() => Style::new().dark_gray(),
        Some(left) if left <= URGENT_MS => Style::new().red().bold(),
        Some(left) if left <= BAR_MS => Style::new().yellow().bold(),
        Some(_) => Style::new().cyan(),
        None => Style::new().dark_gray(),
    }
}

fn status_style(auction: &Auction) -> Style {
    match auction.status.as_str() {
        "live" => Style::new().green().bold(),
        "scheduled" => Style::new().blue(),
        "paused" => Style::new().yellow().bold(),
        "closed" => Style::new().magenta().bold(),
        _ => Style::new().red(),
    }
}

fn draw_bids(auction: &Auction, frame: &mut Frame<'_>, area: Rect) {
    let block = block(" bids ");
    let inside = block.inner(area);
    frame.render_widget(block, area);
    let curve_lines = if inside.height >= CURVE_FROM && auction.bids.len() > 1 { CURVE_LINES } else { 0 };
    let [list, curve] = Layout::vertical([Constraint::Min(0), Constraint::Length(curve_lines)]).areas(inside);
    let width = usize::from(list.width);
    let rows = auction.bids.iter().take(usize::from(list.height)).enumerate().map(|(nth, bid)| {
        let amount = grouped(bid.amount);
        let room = width.saturating_sub(amount.chars().count() + 2);
        let name: String = bid.name.chars().take(room).collect();
        let style = if nth == 0 { Style::new().green().bold() } else { Style::new() };
        Line::from(Span::styled(format!(" {name:<room$}{amount}"), style))
    });
    frame.render_widget(Paragraph::new(rows.collect::<Vec<_>>()), list);
    if curve_lines > 0 {
        draw_curve(auction, frame, curve);
    }
}

/// The prices of the newest bids, from left to right, above the lowest of them.
fn draw_curve(auction: &Auction, frame: &mut Frame<'_>, area: Rect) {
    let shown = auction.bids.iter().take(usize::from(area.width)).map(|bid| bid.amount.cents());
    let lowest = shown.clone().min().unwrap_or_default();
    let mut prices: Vec<u64> = shown.map(|cents| cents - lowest + 1).collect();
    prices.reverse();
    frame.render_widget(Sparkline::default().data(prices).style(Style::new().green().dim()), area);
}

fn draw_chat(auction: &Auction, frame: &mut Frame<'_>, area: Rect) {
    let block = block(" chat ");
    let inside = block.inner(area);
    frame.render_widget(block, area);
    let (width, height) = (usize::from(inside.width), usize::from(inside.height));
    // From the newest message at the bottom upwards, as many as there is room for.
    let mut lines: VecDeque<Line> = VecDeque::new();
    for message in auction.chat.iter().rev() {
        if lines.len() >= height {
            break;
        }
        let style = if message.is_host { Style::new().yellow().bold() } else { Style::new().cyan() };
        let name = Span::styled(format!(" {} ", message.name), style);
        let mut texts = wrapped(&message.text, name.width(), width).into_iter();
        let first = Line::from(vec![name, Span::raw(texts.next().unwrap_or_default())]);
        let rest = texts.map(Line::raw);
        for line in std::iter::once(first).chain(rest).collect::<Vec<_>>().into_iter().rev() {
            lines.push_front(line);
        }
    }
    let surplus = lines.len().saturating_sub(height);
    frame.render_widget(Paragraph::new(lines.into_iter().skip(surplus).collect::<Vec<_>>()), inside);
}

/// A text in lines of this width, of which the first has fewer columns. A word that is longer than a line is cut.
fn wrapped(text: &str, taken: usize, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    let mut used = taken;
    for word in text.split_inclusive(' ') {
        let columns = Span::raw(word.trim_end()).width();
        if used + columns > width && columns < width {
            lines.push(" ".to_owned());
            used = 1;
        }
        for character in word.chars() {
            let columns = Span::raw(character.to_string()).width();
            if used + columns > width && character != ' ' {
                lines.push(" ".to_owned());
                used = 1;
            }
            if let Some(line) = lines.last_mut() {
                line.push(character);
            }
            used += columns;
        }
    }
    lines
}

fn footer(auction: &Auction) -> Line<'static> {
    let link = match auction.link {
        Link::Connecting => Span::styled(" connecting …", Style::new().yellow()),
        Link::Live => Span::styled(" ● connected", Style::new().green()),
        Link::Lost => Span::styled(" ○ connection lost, trying again …", Style::new().red().bold()),
    };
    Line::from(vec![link, Span::raw("   q quits").dim()])
}

#[cfg(test)]
mod tests {
    use super::super::auction::tests::{NOW, joined};
    use super::*;
    use crate::terminal::testing;

    /// The lines of the screen.
    fn drawn(auction: &Auction, width: u16, height: u16) -> Vec<String> {
        testing::drawn(width, height, |frame| draw(auction, frame, NOW))
    }

    #[test]
    fn long_texts_are_wrapped_between_words() {
        assert_eq!(wrapped("good evening to all", 5, 12), ["good ", " evening to ", " all"]);
        assert_eq!(wrapped("abcdefghij", 2, 6), ["abcd", " efghi", " j"]);
        assert_eq!(wrapped("", 5, 12), [""]);
    }

    #[test]
    fn large_terminal_shows_large_digits_bids_and_chat() {
        let lines = drawn(&joined(), 100, 24);
        let text = lines.join("\n");
        assert!(lines[0].contains("Cello, 1780 by hanna") && lines[0].contains(" live "), "{text}");
        for (line, price, clock) in [(1, big("12,345.50"), big("4:37"))].into_iter().flat_map(|(at, price, clock)| {
            price.into_iter().zip(clock).enumerate().map(move |(nth, (price, clock))| (at + nth, price, clock))
        }) {
            assert!(lines[line].contains(price.trim()) && lines[line].contains(clock.trim()), "{line}: {text}");
        }
        for expected in
            ["anna leads", "next bid from 12,350.00 EUR", "2 bids · 17 watching", "hanna Good evening", "● connected"]
        {
            assert!(text.contains(expected), "{expected}: {text}");
        }
        let row = lines.iter().find(|line| line.contains(" ben ")).expect("the second bid");
        assert!(row.contains("9,000.00"), "{row}");
    }

    #[test]
    fn small_terminal_shows_the_same_in_one_line_each() {
        let lines = drawn(&joined(), 50, 14);
        let text = lines.join("\n");
        assert!(lines[1].contains("12,345.50 EUR") && lines[1].contains("4:37"), "{text}");
        assert!(lines[2].contains("anna leads") && text.contains("Good evening"), "{text}");
    }

    #[test]
    fn every_size_can_be_drawn() {
        for (width, height) in [(1, 1), (2, 3), (9, 5), (30, 8), (60, 12), (70, 20), (250, 80)] {
            assert_eq!(drawn(&joined(), width, height).len(), usize::from(height));
            assert_eq!(drawn(&Auction::default(), width, height).len(), usize::from(height));
        }
    }

    #[test]
    fn end_replaces_leader_and_clock() {
        let mut auction = joined();
        let end = serde_json::json!({"outcome": "sold", "winner_username": "ben", "winning_bid": 13_000});
        auction.apply("auction_ended", &end, NOW);
        auction.link = Link::Lost;
        let text = drawn(&auction, 100, 24).join("\n");
        assert!(text.contains("SOLD to ben for 13,000.00 EUR") && text.contains(" closed "), "{text}");
        assert!(!text.contains("next bid") && text.contains("connection lost"), "{text}");
    }

    #[test]
    fn newest_messages_are_visible_in_a_long_chat() {
        let mut auction = joined();
        for nth in 0..100 {
            let message = serde_json::json!({"message_id": nth.to_string(), "username": "ben", "message": format!("number {nth}")});
            auction.apply("chat_message", &message, NOW);
        }
        let text = drawn(&auction, 100, 24).join("\n");
        assert!(text.contains("number 99") && !text.contains("number 10 "), "{text}");
    }
}
