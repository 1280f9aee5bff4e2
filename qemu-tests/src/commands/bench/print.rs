//! A benchmark's result as a table for people or one JSON object for programs.

use anyhow::Result;
use qemu_tests::report::{Bar, commit, machine};
use serde_json::{Map, Value, json};

use super::figures::rounded;

/// Of a bar's figures; a whole number shows none.
const BAR_DECIMALS: i32 = 3;

#[expect(clippy::cast_precision_loss, reason = "sizes below 2^53")]
pub(super) fn bar(name: &'static str, value: u64, limit: u64) -> Bar {
    Bar { name: name.into(), value: value as f64, limit: limit as f64, holds: value <= limit, is_time: false }
}

/// Each row as its names and values.
pub(super) fn print_rows(
    name: &str,
    as_json: bool,
    rows: &[Value],
    limited_by: &str,
    bars: &[Bar],
) -> Result<()> {
    let line = |row: &Map<String, Value>| {
        row.iter().map(|(key, value)| format!("{key} {value}")).collect::<Vec<_>>().join("  ")
    };
    let table: Vec<String> = rows.iter().filter_map(Value::as_object).map(line).collect();
    print(name, as_json, rows, &table, limited_by, bars)
}

/// The same with these columns, each as wide as it must be.
pub(super) fn print_columns(
    name: &str,
    as_json: bool,
    columns: &[&str],
    rows: &[Value],
    limited_by: &str,
    bars: &[Bar],
) -> Result<()> {
    print(name, as_json, rows, &aligned(columns, rows), limited_by, bars)
}

fn print(
    name: &str,
    as_json: bool,
    rows: &[Value],
    table: &[String],
    limited_by: &str,
    bars: &[Bar],
) -> Result<()> {
    if as_json {
        return print_json(name, rows, limited_by, bars);
    }
    print_title(name);
    table.iter().for_each(|line| println!("  {line}"));
    println!("  limited by: {limited_by}");
    print_bars(bars);
    Ok(())
}

/// A line of headings and one for each row.
fn aligned(columns: &[&str], rows: &[Value]) -> Vec<String> {
    let cell = |row: &Value, column: &str| match row.get(column) {
        Some(Value::String(text)) => text.clone(),
        Some(value) => value.to_string(),
        None => String::new(),
    };
    let width = |column: &str| {
        rows.iter().map(|row| cell(row, column).len()).chain([column.len()]).max().unwrap_or_default()
    };
    let line = |cell: &dyn Fn(&str) -> String| {
        let cells: Vec<String> =
            columns.iter().map(|column| format!("{:>width$}", cell(column), width = width(column))).collect();
        cells.join("  ")
    };
    let headings = line(&|column| column.to_owned());
    std::iter::once(headings).chain(rows.iter().map(|row| line(&|column| cell(row, column)))).collect()
}

pub(super) fn print_json(name: &str, rows: &[Value], limited_by: &str, bars: &[Bar]) -> Result<()> {
    let whole = json!({
        "name": name, "commit": commit(), "machine": machine(), "rows": rows, "limited_by": limited_by, "bars": bars,
    });
    println!("{}", serde_json::to_string(&whole)?);
    Ok(())
}

pub(super) fn print_title(name: &str) {
    println!("{name}, commit {}, {}", commit(), machine());
}

pub(super) fn print_bars(bars: &[Bar]) {
    for bar in bars {
        let verdict = if bar.holds { "holds" } else { "DOES NOT HOLD" };
        let [value, limit] = [bar.value, bar.limit].map(|figure| rounded(figure, BAR_DECIMALS));
        println!("  {}: {value} (limit {limit}): {verdict}", bar.name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [json!({ "way": "tar", "MB": 1.5, "more": 1 }), json!({ "way": "casync", "MB": null })];
        assert_eq!(
            aligned(&["way", "MB", "s"], &rows),
            ["   way    MB  s", "   tar   1.5   ", "casync  null   "]
        );
    }
}
