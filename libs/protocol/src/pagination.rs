//! The requested part of a list: `limit` and `offset`.

use crate::{Code, Failure};

/// The requested part of a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pagination {
    /// Most items on the page.
    pub limit: u64,
    /// Items before the page.
    pub offset: u64,
}

/// Reads `limit` (from 1, by default `default`; above `most` it counts as `most`) and `offset`.
///
/// # Errors
/// `invalid_request` naming the parameter.
pub fn parse_pagination(find: impl Fn(&str) -> Option<String>, default: u64, most: u64) -> Result<Pagination, Failure> {
    let number = |name: &str, otherwise, min, max| match find(name) {
        None => Ok(otherwise),
        Some(text) => text.parse().ok().filter(|number| (min..=max).contains(number)).ok_or_else(|| {
            Failure::new(Code::InvalidRequest, format!("{name} must be a whole number from {min} to {max}"))
        }),
    };
    /// Far beyond any list, and within what PostgreSQL's `bigint` takes.
    const MAX_OFFSET: u64 = 1_000_000_000;
    /// More than any client means: clients that ask for everything get the largest page.
    const MAX_LIMIT: u64 = 1_000_000_000;
    let limit = number("limit", default, 1, MAX_LIMIT)?.min(most);
    Ok(Pagination { limit, offset: number("offset", 0, 0, MAX_OFFSET)? })
}
