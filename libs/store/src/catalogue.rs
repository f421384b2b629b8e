//! Lists of auctions: filters, orders, text search, and the categories in use.

use domain::{Status, UserId};
use protocol::{CategoryCount, Pagination, Stored};
use sqlx::FromRow;

use crate::auctions::{Row, select_auction};
use crate::{Store, StoreError, signed, unsigned};

/// Conditions that listed auctions meet.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// One of these is the status in the row. Empty: any.
    pub statuses: Vec<Status>,
    /// The exact category. None: any.
    pub category: Option<String>,
    /// The host. None: any.
    pub host: Option<UserId>,
    /// Words that title, category or description have, each at least as the beginning of a word. None: no condition.
    pub search: Option<String>,
}

/// The order of a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Order {
    /// The newest first.
    #[default]
    Latest,
    /// Auctions that run before those that are over; the next to end first, then the last that ended.
    Ending,
    /// The cheapest first: by the hammer price, or the starting bid where PostgreSQL has no price yet.
    Price,
}

/// Categories that are returned: more than a page shows.
const MAX_CATEGORIES: i64 = 200;

/// The rows that a filter allows: $1 statuses, $2 category, $3 host, $4 search. With a search, the expression is that of
/// the index `auctions_search`; without one, the planner never sees it.
macro_rules! matching {
    () => {
        concat!(matching!(filter), " AND $4::text IS NULL")
    };
    (search) => {
        concat!(
            matching!(filter),
            " AND to_tsvector('simple', title || ' ' || coalesce(auctions.category, '') || ' ' || coalesce(description, '')) \
             @@ to_tsquery('simple', $4)"
        )
    };
    (filter) => {
        "WHERE status <> 'creating' AND ($1::text[] IS NULL OR status = ANY($1)) \
         AND ($2::text IS NULL OR auctions.category = $2) AND ($3::uuid IS NULL OR host_user_id = $3)"
    };
}

/// Order and part: $5 order, $6 limit, $7 offset.
macro_rules! page {
    () => {
        " ORDER BY CASE WHEN $5 = 'ending' THEN outcome IS NOT NULL END, \
         CASE WHEN $5 = 'ending' AND outcome IS NULL THEN end_time END, \
         CASE WHEN $5 = 'ending' THEN ended_at END DESC, \
         CASE WHEN $5 = 'price' THEN coalesce(winning_bid, starting_bid) END, \
         auctions.created_at DESC, auction_id LIMIT $6 OFFSET $7"
    };
}

#[derive(FromRow)]
struct ListedRow {
    #[sqlx(flatten)]
    row: Row,
    total: i64,
}

impl Order {
    const fn name(self) -> &'static str {
        match self {
            Self::Latest => "newest",
            Self::Ending => "ending",
            Self::Price => "price",
        }
    }
}

impl Filter {
    /// The statuses for PostgreSQL. None: any.
    fn statuses(&self) -> Option<Vec<&'static str>> {
        (!self.statuses.is_empty()).then(|| self.statuses.iter().map(|status| status.name()).collect())
    }

    /// The search as PostgreSQL's `to_tsquery` reads it: each word quoted, as the beginning of a word.
    fn tsquery(&self) -> Option<String> {
        let quoted = |word: &str| format!("'{}':*", word.replace('\\', "\\\\").replace('\'', "''"));
        self.search.as_ref().map(|search| search.split_whitespace().map(quoted).collect::<Vec<_>>().join(" & "))
    }
}

impl Store {
    /// A page of auctions, and the number of all that match the filter. Rows and number are of one moment.
    ///
    /// # Errors
    /// When the query fails.
    pub async fn auctions(
        &self,
        filter: &Filter,
        order: Order,
        page: Pagination,
    ) -> Result<(Vec<Stored>, u64), StoreError> {
        let search = filter.tsquery();
        let rows = if search.is_some() {
            select_auction!(", count(*) OVER () AS total", concat!(matching!(search), page!()))
        } else {
            select_auction!(", count(*) OVER () AS total", concat!(matching!(), page!()))
        };
        let rows = sqlx::query_as::<_, ListedRow>(rows)
            .bind(filter.statuses())
            .bind(&filter.category)
            .bind(filter.host.map(UserId::uuid))
            .bind(&search)
            .bind(order.name())
            .bind(signed(page.limit))
            .bind(signed(page.offset))
            .fetch_all(&self.pool)
            .await?;
        // Counted by the same statement, so that the number fits the rows.
        if let Some(total) = rows.first().map(|listed| listed.total) {
            let stored = rows.into_iter().map(|listed| Stored::try_from(listed.row));
            return Ok((stored.collect::<Result<_, _>>()?, unsigned(total)?));
        }
        if page.offset == 0 {
            return Ok((Vec::new(), 0));
        }
        // The page begins behind the last row. Rows inserted between the two statements are not counted.
        let count = if search.is_some() {
            concat!("SELECT least(count(*), $5) FROM auctions ", matching!(search))
        } else {
            concat!("SELECT least(count(*), $5) FROM auctions ", matching!())
        };
        let (total,): (i64,) = sqlx::query_as(count)
            .bind(filter.statuses())
            .bind(&filter.category)
            .bind(filter.host.map(UserId::uuid))
            .bind(&search)
            .bind(signed(page.offset))
            .fetch_one(&self.pool)
            .await?;
        Ok((Vec::new(), unsigned(total)?))
    }

    /// The most used categories of auctions with one of these statuses (none: any), and how many auctions have each.
    ///
    /// # Errors
    /// When the query fails.
    pub async fn categories(&self, statuses: &[Status]) -> Result<Vec<CategoryCount>, StoreError> {
        let filter = Filter { statuses: statuses.to_vec(), ..Filter::default() };
        let rows: Vec<(String, i64)> = sqlx::query_as(
            "SELECT category, count(*) FROM auctions WHERE status <> 'creating' \
             AND ($1::text[] IS NULL OR status = ANY($1)) AND category IS NOT NULL \
             GROUP BY category ORDER BY count(*) DESC, category LIMIT $2",
        )
        .bind(filter.statuses())
        .bind(MAX_CATEGORIES)
        .fetch_all(&self.pool)
        .await?;
        rows.into_iter().map(|(category, count)| Ok(CategoryCount { category, count: unsigned(count)? })).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn search_words_are_quoted_prefixes() {
        let check = |search: &str, expected: &str| {
            let filter = Filter { search: Some(search.to_owned()), ..Filter::default() };
            assert_eq!(filter.tsquery().as_deref(), Some(expected), "{search:?}");
        };
        check("Lamp", "'Lamp':*");
        check("  red\tlamp ", "'red':* & 'lamp':*");
        check("it's | !x & (y) <-> z:*", "'it''s':* & '|':* & '!x':* & '&':* & '(y)':* & '<->':* & 'z:*':*");
        check("back\\slash\\", "'back\\\\slash\\\\':*");
        check("", "");
    }
}
