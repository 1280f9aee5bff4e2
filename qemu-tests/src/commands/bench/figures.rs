//! Figures of several runs: their middle and their range, and how tables show them.

/// The middle of some values, which is one of them: of an even number the upper of the two.
pub(super) fn median(values: impl IntoIterator<Item = f64>) -> Option<f64> {
    let values = sorted(values);
    values.get(values.len() / 2).copied()
}

/// Median and range. Between the two in the middle of an even number, this median is half-way.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Spread {
    pub(super) median: f64,
    pub(super) min: f64,
    pub(super) max: f64,
}

impl Spread {
    /// None of no values.
    pub(super) fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let values = sorted(values);
        let upper = *values.get(values.len() / 2)?;
        let lower = *values.get(values.len().saturating_sub(1) / 2)?;
        let median = f64::midpoint(lower, upper);
        Some(Self { median, min: *values.first()?, max: *values.last()? })
    }
}

fn sorted(values: impl IntoIterator<Item = f64>) -> Vec<f64> {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    values
}

/// To so many decimals, for rows.
pub(super) fn rounded(value: f64, decimals: i32) -> f64 {
    let scale = 10_f64.powi(decimals);
    (value * scale).round() / scale
}

/// With so many decimals; a dash where nothing was measured.
pub(super) fn shown(value: Option<f64>, decimals: usize) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{value:.decimals$}"))
}

/// Lowest and highest with so many decimals; a dash where nothing was measured.
pub(super) fn range(values: impl IntoIterator<Item = f64>, decimals: usize) -> String {
    Spread::of(values)
        .map_or_else(|| "-".to_owned(), |it| format!("{:.decimals$}-{:.decimals$}", it.min, it.max))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_median_is_the_middle_of_the_sorted_values_and_one_of_them() {
        assert_eq!(median([3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median([7.0]), Some(7.0));
        assert_eq!(median([4.0, 1.0, 3.0, 2.0]), Some(3.0));
        assert_eq!(median([]), None);
    }

    #[test]
    fn a_run_without_a_result_counts_as_the_highest() {
        assert_eq!(median([f64::NAN, 2.0, 1.0]), Some(2.0));
        assert!(median([f64::NAN, 1.0]).is_some_and(f64::is_nan));
    }

    #[test]
    fn a_spread_is_from_the_lowest_to_the_highest_around_the_half_way() {
        assert_eq!(Spread::of([3.0, 1.0, 2.0]), Some(Spread { median: 2.0, min: 1.0, max: 3.0 }));
        assert_eq!(Spread::of([1.0, 2.0]), Some(Spread { median: 1.5, min: 1.0, max: 2.0 }));
        assert_eq!(Spread::of([]), None);
    }

    #[test]
    fn rounding_keeps_so_many_decimals() {
        assert_eq!([3, 1, 0].map(|decimals| rounded(1234.5678, decimals)), [1234.568, 1234.6, 1235.0]);
    }

    #[test]
    fn tables_show_figures_with_their_decimals_and_a_dash_for_none() {
        assert_eq!([0, 1, 2].map(|decimals| shown(Some(2.25), decimals)), ["2", "2.2", "2.25"]);
        assert_eq!(shown(None, 1), "-");
        assert_eq!(range([2.25, 1.0, 10.0], 1), "1.0-10.0");
        assert_eq!(range([5.0], 0), "5-5");
        assert_eq!(range([], 0), "-");
    }
}
