//! Lists page by page: what a request asks of them, and what the token of the next page is.

use serde::Deserialize;
use utoipa::IntoParams;

use super::problem::Problem;

/// Rows of a page, where the request says nothing.
const PAGE: usize = 50;
/// Rows of a page at most.
const LONGEST_PAGE: usize = 1_000;

/// Which page.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct PageQuery {
    /// Rows, 1 to 1,000; 50 where absent.
    pub(super) page_size: Option<usize>,
    /// `next_page_token` of the page before.
    pub(super) page_token: Option<String>,
}

/// The rows of a page.
///
/// # Errors
/// A problem that names the range.
pub(super) fn page_size(asked: Option<usize>) -> Result<usize, Problem> {
    match asked {
        None => Ok(PAGE),
        Some(size) if (1..=LONGEST_PAGE).contains(&size) => Ok(size),
        Some(size) => Err(Problem::invalid(format!(
            "a page has 1 to {LONGEST_PAGE} rows, not {size}"
        ))),
    }
}

/// The rows after that one, and the token for those after them. A token is its row's
/// names, so that rows that come and go meanwhile move no other to another page.
pub(super) fn page<T>(
    mut rows: Vec<T>,
    size: Option<usize>,
    token: Option<&str>,
    name: impl Fn(&T) -> String,
) -> Result<(Vec<T>, Option<String>), Problem> {
    let size = page_size(size)?;
    rows.sort_by_cached_key(&name);
    if let Some(token) = token {
        rows.retain(|row| name(row).as_str() > token);
    }
    Ok(first_of(rows, size, name))
}

/// The first so many rows of what was read, one more than that at least where there is one,
/// and the token for those after them: none where nothing follows.
pub(super) fn first_of<T>(
    mut rows: Vec<T>,
    size: usize,
    name: impl Fn(&T) -> String,
) -> (Vec<T>, Option<String>) {
    let more = rows.len() > size;
    rows.truncate(size);
    let next = rows.last().filter(|_| more).map(name);
    (rows, next)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_follow_each_other_although_rows_come_and_go() {
        let rows = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let all: Vec<String> = rows(&["c", "a", "b", "d"]);
        let read = |rows: Vec<String>, token: Option<&str>| {
            page(rows, Some(2), token, String::clone).expect("a page")
        };
        let (first, token) = read(all, None);
        assert_eq!(first, ["a", "b"]);
        assert_eq!(token.as_deref(), Some("b"));
        let (second, token) = read(rows(&["a", "a2", "c", "d"]), token.as_deref());
        assert_eq!(second, ["c", "d"]);
        assert_eq!(token, None);
        assert!(page(rows(&[]), Some(0), None, String::clone).is_err());
    }

    #[test]
    fn pages_have_a_size() {
        assert_eq!(page_size(None).ok(), Some(PAGE));
        assert_eq!(page_size(Some(1000)).ok(), Some(1000));
        assert!(page_size(Some(0)).is_err());
        assert!(page_size(Some(1001)).is_err());
    }
}
