//! Figures in rows and columns, for measurements that compare nothing but their own points.

use serde_json::{Map, Value};

use crate::cli::exit::Failure;
use crate::cli::output::{Output, readable_size};

/// One figure.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Cell {
    /// There is none.
    None,
    Text(String),
    /// So much a second.
    Rate(f64),
    Ratio(f64),
    Seconds(f64),
    Bytes(f64),
}

impl Cell {
    /// A cell, or none.
    pub(super) fn of<T>(value: Option<T>, cell: impl Fn(T) -> Self) -> Self {
        value.map_or(Self::None, cell)
    }

    fn text(&self) -> String {
        match self {
            Self::None => String::new(),
            Self::Text(text) => text.clone(),
            Self::Rate(rate) if *rate < 100.0 => format!("{rate:.1}/s"),
            Self::Rate(rate) => format!("{rate:.0}/s"),
            Self::Ratio(ratio) => format!("{ratio:.2}"),
            Self::Seconds(seconds) if *seconds < 0.1 => format!("{:.3} ms", seconds * 1e3),
            Self::Seconds(seconds) => format!("{seconds:.3} s"),
            Self::Bytes(bytes) => readable_size(bytes.max(0.0) as u64),
        }
    }

    fn json(&self) -> Value {
        match self {
            Self::None => Value::Null,
            Self::Text(text) => text.clone().into(),
            Self::Rate(number)
            | Self::Ratio(number)
            | Self::Seconds(number)
            | Self::Bytes(number) => (*number).into(),
        }
    }
}

/// Figures with the names of their columns: for people, and for programs.
#[derive(Clone, Debug)]
pub(super) struct Table<const N: usize> {
    pub(super) bench: &'static str,
    pub(super) columns: [(&'static str, &'static str); N],
    pub(super) rows: Vec<[Cell; N]>,
}

impl<const N: usize> Table<N> {
    /// Prints it for people or for programs.
    pub(super) fn print(&self, output: &mut Output) -> Result<(), Failure> {
        if output.is_json() {
            return output.json(&self.json());
        }
        let headers = self.columns.map(|(header, _)| header);
        output.table(headers, self.rows.iter().map(|row| row.each_ref().map(Cell::text)))
    }

    fn json(&self) -> Value {
        let of_row = |row: &[Cell; N]| {
            let cells = self.columns.iter().zip(row).filter(|(_, cell)| **cell != Cell::None);
            let fields = cells.map(|((_, key), cell)| ((*key).to_owned(), cell.json()));
            Value::Object(fields.collect::<Map<_, _>>())
        };
        let results: Vec<Value> = self.rows.iter().map(of_row).collect();
        serde_json::json!({"bench": self.bench, "results": results})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_there_is_not_is_left_out() {
        let table = Table {
            bench: "x",
            columns: [("Point", "point"), ("In", "in"), ("Memory", "memory")],
            rows: vec![[Cell::Text("a".into()), Cell::Rate(2.0), Cell::of(None, Cell::Bytes)]],
        };
        let expected = serde_json::json!({"bench": "x", "results": [{"point": "a", "in": 2.0}]});
        assert_eq!(table.json(), expected);
        assert_eq!(Cell::Seconds(0.0015).text(), "1.500 ms");
    }
}
