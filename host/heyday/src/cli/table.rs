//! Tables of text: left-aligned columns under a header, numbers to the right.

use super::output::{Style, one_line};

/// No cell of a table is wider than this many columns; the rest is cut.
const WIDEST_CELL: usize = 72;

/// How a column is aligned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Align {
    Left,
    Right,
}

/// A table under construction.
#[derive(Debug)]
pub struct Table {
    headers: Vec<(String, Align)>,
    rows: Vec<Vec<String>>,
    status_column: Option<usize>,
}

impl Table {
    /// A table of these columns; a header that begins with `>` is aligned right, the
    /// column `STATUS` (or `STATE`) is coloured.
    pub fn new(headers: &[&str]) -> Self {
        let headers: Vec<_> = headers
            .iter()
            .map(|header| match header.strip_prefix('>') {
                Some(header) => (header.to_owned(), Align::Right),
                None => ((*header).to_owned(), Align::Left),
            })
            .collect();
        let status_column = headers
            .iter()
            .position(|(header, _)| header == "STATUS" || header == "STATE");
        Self {
            headers,
            rows: Vec::new(),
            status_column,
        }
    }

    /// Adds a row: as many cells as there are columns.
    pub fn row<I, S>(&mut self, cells: I)
    where
        I: IntoIterator<Item = S>,
        S: AsRef<str>,
    {
        let mut cells: Vec<String> = cells
            .into_iter()
            .map(|cell| cut(&one_line(cell.as_ref())))
            .collect();
        cells.resize(self.headers.len(), String::new());
        self.rows.push(cells);
    }

    /// Whether it has no rows.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The table's lines, without a line feed at the end.
    pub fn render(&self, style: Style) -> String {
        let widths: Vec<usize> = self
            .headers
            .iter()
            .enumerate()
            .map(|(column, (header, _))| {
                let cells = self.rows.iter().map(|row| width(&row[column]));
                cells.chain([width(header)]).max().unwrap_or_default()
            })
            .collect();
        let last = self.headers.len().saturating_sub(1);
        let line = |cells: &[String], paint: &dyn Fn(usize, &str) -> String| {
            let mut line = String::new();
            for (column, cell) in cells.iter().enumerate() {
                let fill = " ".repeat(widths[column].saturating_sub(width(cell)));
                if column > 0 {
                    line.push_str("  ");
                }
                // Padding goes outside of the paint, so that colours do not disturb it.
                match self.headers[column].1 {
                    Align::Left if column == last => line.push_str(&paint(column, cell)),
                    Align::Left => line.push_str(&format!("{}{fill}", paint(column, cell))),
                    Align::Right => line.push_str(&format!("{fill}{}", paint(column, cell))),
                }
            }
            line.trim_end().to_owned()
        };
        let headers: Vec<String> = self
            .headers
            .iter()
            .map(|(header, _)| header.clone())
            .collect();
        let mut lines = vec![line(&headers, &|_, cell| style.dim(cell))];
        for row in &self.rows {
            lines.push(line(row, &|column, cell| {
                if Some(column) == self.status_column {
                    style.status(cell)
                } else {
                    cell.to_owned()
                }
            }));
        }
        lines.join("\n")
    }
}

/// Label and value on lines of their own; values of several lines are indented under
/// their first. Empty values are left out.
pub fn fields(style: Style, pairs: &[(&str, String)]) -> String {
    let present = || pairs.iter().filter(|(_, value)| !value.is_empty());
    let widest = present()
        .map(|(label, _)| width(label))
        .max()
        .unwrap_or_default();
    present()
        .map(|(label, value)| {
            let fill = " ".repeat(widest - width(label));
            let value = value
                .trim_end()
                .replace('\n', &format!("\n{}", " ".repeat(widest + 2)));
            format!("{}{fill}  {value}", style.dim(label))
        })
        .collect::<Vec<_>>()
        .join("\n")
}

fn cut(cell: &str) -> String {
    if width(cell) <= WIDEST_CELL {
        return cell.to_owned();
    }
    let mut kept = String::new();
    let mut used = 1;
    for c in cell.chars() {
        used += character_width(c);
        if used > WIDEST_CELL {
            break;
        }
        kept.push(c);
    }
    kept.push('…');
    kept
}

/// Columns that a text takes on a terminal.
fn width(text: &str) -> usize {
    text.chars().map(character_width).sum()
}

/// Columns of one character: 2 for East Asian wide ones and emoji, 0 for combining
/// marks, 1 otherwise. The main blocks are enough for aligning a table.
fn character_width(c: char) -> usize {
    match u32::from(c) {
        0x0300..=0x036f | 0x200b..=0x200f | 0x20d0..=0x20ff | 0xfe00..=0xfe0f | 0xfe20..=0xfe2f => {
            0
        }
        0x1100..=0x115f
        | 0x2e80..=0x303e
        | 0x3041..=0xa4cf
        | 0xac00..=0xd7a3
        | 0xf900..=0xfaff
        | 0xfe30..=0xfe4f
        | 0xff00..=0xff60
        | 0xffe0..=0xffe6
        | 0x1f300..=0x1faff
        | 0x20000..=0x3fffd => 2,
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let mut table = Table::new(&["NAME", ">COUNT", "STATUS"]);
        table.row(["a", "1", "Completed"]);
        table.row(["文字", "1000", "Failed"]);
        assert_eq!(
            table.render(Style::plain()),
            "NAME  COUNT  STATUS\na         1  Completed\n文字   1000  Failed"
        );
    }

    #[test]
    fn missing_cells_are_empty_and_long_ones_cut() {
        let mut table = Table::new(&["A", "B"]);
        table.row(["x".repeat(200)]);
        let text = table.render(Style::plain());
        let row = text.lines().nth(1).expect("a row");
        assert_eq!(width(row), WIDEST_CELL);
        assert!(row.ends_with('…'));
    }

    #[test]
    fn cells_cannot_break_the_table() {
        let mut table = Table::new(&["A", "B"]);
        table.row(["one\ntwo", "\u{1b}[31m"]);
        assert_eq!(table.render(Style::plain()).lines().count(), 2);
        assert!(!table.render(Style::plain()).contains('\u{1b}'));
    }

    #[test]
    fn fields_leave_out_what_is_empty() {
        let text = fields(
            Style::plain(),
            &[
                ("id", "7".to_owned()),
                ("nothing", String::new()),
                ("text", "a\nb".to_owned()),
            ],
        );
        assert_eq!(text, "id    7\ntext  a\n      b");
    }
}
