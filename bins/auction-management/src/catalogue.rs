//! Lists of auctions: `GET /auctions` and `GET /auctions/categories`.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use domain::{Names, Status, UserId};
use protocol::{AuctionPage, Categories, Code, CommittedState, Failure, Stored, parse_pagination};
use store::{Filter, Order};
use warp::http::StatusCode;

use crate::auctions::Auctions;
use crate::context::{Answered, MAX_PAGE, Query, store_failure};

/// Auctions on one page where the client asks for no number.
const DEFAULT_PAGE: u64 = 20;
/// Characters of a search.
const MAX_SEARCH_CHARACTERS: usize = 200;
/// Words of a search. Each is one scan of the index, a short one of a large part of it.
const MAX_SEARCH_WORDS: usize = 10;

/// Time for which counted categories are shown: counting reads the index of all auctions, and any client may ask.
const CATEGORIES_MAX_AGE: Duration = Duration::from_secs(5);

/// The names of statuses that are asked for.
type Statuses = BTreeSet<&'static str>;
/// Categories, and when they were counted.
type Counted = BTreeMap<Statuses, (Instant, Arc<Categories>)>;

/// The categories as they were counted last, by the statuses that were asked for: 32 entries at most.
#[derive(Default)]
pub struct CountedCategories(Mutex<Counted>);

impl CountedCategories {
    fn current(&self, statuses: &Statuses, now: Instant) -> Option<Arc<Categories>> {
        let (counted_at, categories) = self.lock().get(statuses).cloned()?;
        (now - counted_at < CATEGORIES_MAX_AGE).then_some(categories)
    }

    /// A poisoned lock is still used: each change of the map is one call.
    fn lock(&self) -> MutexGuard<'_, Counted> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An auction's row, and its committed state where there is one.
type Listed = (Stored, Option<Arc<CommittedState>>);

impl Auctions {
    /// `GET /auctions`.
    pub async fn list(&self, token: Option<&str>, query: &Query) -> Answered {
        let context = &self.context;
        let viewer = context.viewer(token).await?;
        let page = parse_pagination(|name| query.find(name), DEFAULT_PAGE, MAX_PAGE)?;
        let filter = Filter {
            statuses: statuses(query)?,
            category: text(query, "category")?,
            host: query.find("host").map(|host| protocol::input::id::<UserId>("host", &host)).transpose()?,
            search: search(query)?,
        };
        let order = order(query)?;
        let stored = context.store.auctions(&filter, order, page).await;
        let (rows, mut total) = stored.map_err(|error| store_failure(&error))?;
        let mut auctions = context.with_states(rows).await;
        // An auction may have ended since its row was written.
        let fits = |state: &CommittedState| {
            filter.statuses.is_empty() || filter.statuses.iter().any(|status| state.state.status == *status)
        };
        auctions.retain(|(_, state)| {
            let is_listed = state.as_deref().is_none_or(fits);
            total -= u64::from(!is_listed);
            is_listed
        });
        arrange(&mut auctions, order);
        let objects = auctions.iter().map(|(stored, state)| context.object(stored, state.as_deref(), viewer)).collect();
        let body = AuctionPage { auctions: objects, limit: page.limit, offset: page.offset, total };
        Ok(service::http::json(StatusCode::OK, &body))
    }

    /// `GET /auctions/categories`.
    pub async fn categories(&self, query: &Query) -> Answered {
        let (statuses, now) = (statuses(query)?, Instant::now());
        let names = statuses.iter().map(|status| status.name()).collect();
        let counted = &self.context.views.categories;
        if let Some(categories) = counted.current(&names, now) {
            return Ok(service::http::json(StatusCode::OK, &*categories));
        }
        let found = self.context.store.categories(&statuses).await;
        let categories = Arc::new(Categories { categories: found.map_err(|error| store_failure(&error))? });
        counted.lock().insert(names, (now, Arc::clone(&categories)));
        Ok(service::http::json(StatusCode::OK, &*categories))
    }
}

/// Orders a page by the committed states, which are newer than the rows: an end may have moved, a price risen.
fn arrange(auctions: &mut [Listed], order: Order) {
    let price = |(stored, state): &Listed| {
        let high_bid = state.as_ref().map_or(stored.winning_bid, |state| state.state.high_bid);
        high_bid.unwrap_or(stored.starting_bid)
    };
    let end = |(stored, state): &Listed| {
        let (ended, end) = match state {
            Some(state) => (state.state.ended_at, state.state.shown_end()),
            None => (stored.ended_at, stored.end_time),
        };
        // Those that are over come last, the last that ended before the others.
        let open_end = if ended.is_none() { end } else { None };
        (ended.is_some(), open_end.unwrap_or(u64::MAX), Reverse(ended))
    };
    match order {
        Order::Latest => {}
        Order::Ending => auctions.sort_by_key(end),
        Order::Price => auctions.sort_by_key(price),
    }
}

/// `status`: repeated, or several separated by commas.
fn statuses(query: &Query) -> Result<Vec<Status>, Failure> {
    let mut statuses = Vec::with_capacity(Status::NAMES.len());
    for name in query.all("status").flat_map(|names| names.split(',')) {
        let unknown =
            |_| Failure::new(Code::InvalidRequest, "status must be scheduled, live, paused, closed or cancelled");
        let status = name.trim().parse().map_err(unknown)?;
        if !statuses.contains(&status) {
            statuses.push(status);
        }
    }
    Ok(statuses)
}

fn order(query: &Query) -> Result<Order, Failure> {
    match query.find("sort").as_deref() {
        None | Some("newest") => Ok(Order::Latest),
        Some("ending") => Ok(Order::Ending),
        Some("price") => Ok(Order::Price),
        Some(_) => Err(Failure::new(Code::InvalidRequest, "sort must be newest, ending or price")),
    }
}

/// `q`; None if it is empty.
fn search(query: &Query) -> Result<Option<String>, Failure> {
    let search = text(query, "q")?.filter(|search| !search.trim().is_empty());
    if search.as_ref().is_some_and(|search| search.chars().count() > MAX_SEARCH_CHARACTERS) {
        let most = format!("q must have at most {MAX_SEARCH_CHARACTERS} characters");
        return Err(Failure::new(Code::InvalidRequest, most));
    }
    if search.as_ref().is_some_and(|search| search.split_whitespace().count() > MAX_SEARCH_WORDS) {
        return Err(Failure::new(Code::InvalidRequest, format!("q must have at most {MAX_SEARCH_WORDS} words")));
    }
    Ok(search)
}

/// A text that PostgreSQL can take.
fn text(query: &Query, name: &str) -> Result<Option<String>, Failure> {
    let text = query.find(name);
    if text.as_ref().is_some_and(|text| text.contains('\0')) {
        return Err(Failure::new(Code::InvalidRequest, format!("{name} must not contain a NUL character")));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(text: &str) -> Query {
        let pairs = text.split('&').filter_map(|pair| pair.split_once('='));
        pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
    }

    #[test]
    fn statuses_are_repeated_or_separated_by_commas() {
        let check = |text: &str, expected: Option<&[Status]>| {
            assert_eq!(statuses(&query(text)).ok().as_deref(), expected, "{text}");
        };
        check("", Some(&[]));
        check("status=live", Some(&[Status::Live]));
        check(
            "status=live,closed&limit=5&status=live&status=paused",
            Some(&[Status::Live, Status::Closed, Status::Paused]),
        );
        check("status=live,", None);
        check("status=creating", None);
        check("status=", None);
    }

    #[test]
    fn searches_are_bounded() {
        assert_eq!(search(&query("q=%20")).ok().flatten().as_deref(), Some("%20"), "the query is decoded before");
        assert_eq!(search(&query("q= ")).ok(), Some(None));
        assert!(search(&query(&format!("q={}", "a".repeat(MAX_SEARCH_CHARACTERS)))).is_ok());
        assert!(search(&query(&format!("q={}", "a".repeat(MAX_SEARCH_CHARACTERS + 1)))).is_err());
        assert!(search(&query("q=a\0")).is_err());
        assert!(search(&query(&format!("q={}", "a ".repeat(MAX_SEARCH_WORDS)))).is_ok());
        assert!(search(&query(&format!("q={}", "a ".repeat(MAX_SEARCH_WORDS + 1)))).is_err());
    }
}
