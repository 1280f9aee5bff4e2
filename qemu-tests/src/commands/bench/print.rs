//! A benchmark's result as a table for people or one JSON object for programs.

use anyhow::Result;
use qemu_tests::report::{Bar, commit, machine};
use serde_json::{Value, json};

#[expect(clippy::cast_precision_loss, reason = "sizes below 2^53")]
pub(super) fn bar(name: &'static str, value: u64, limit: u64) -> Bar {
    Bar { name: name.into(), value: value as f64, limit: limit as f64, holds: value <= limit, is_time: false }
}

pub(super) fn print_rows(
    name: &str,
    as_json: bool,
    rows: &[Value],
    limited_by: &str,
    bars: &[Bar],
) -> Result<()> {
    if as_json {
        return print_json(name, rows, limited_by, bars);
    }
    print_title(name);
    for row in rows.iter().filter_map(Value::as_object) {
        let cells: Vec<String> = row.iter().map(|(key, value)| format!("{key} {value}")).collect();
        println!("  {}", cells.join("  "));
    }
    println!("  limited by: {limited_by}");
    print_bars(bars);
    Ok(())
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
    if as_json {
        return print_json(name, rows, limited_by, bars);
    }
    print_title(name);
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
        println!("  {}", cells.join("  "));
    };
    line(&|column| column.to_owned());
    rows.iter().for_each(|row| line(&|column| cell(row, column)));
    println!("  limited by: {limited_by}");
    print_bars(bars);
    Ok(())
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
        println!("  {}: {} (limit {}): {verdict}", bar.name, rounded(bar.value), rounded(bar.limit));
    }
}

/// To three decimals, of which a whole number shows none.
fn rounded(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}
