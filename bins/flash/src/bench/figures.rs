//! Figures of a benchmark: quantiles of a series, and rows of a printed table.

use serde_json::{Value, json};

/// The median, the 99th percentile and the maximum of these values. Null without any.
pub fn spread(mut values: Vec<f64>) -> Value {
    values.sort_unstable_by(f64::total_cmp);
    let Some(last) = values.len().checked_sub(1) else { return Value::Null };
    json!({"p50": values[last / 2], "p99": values[last * 99 / 100], "max": values[last]})
}

/// Prints one figure, if it was measured.
pub fn row(name: &str, value: &Value, unit: &str) {
    if let Some(number) = value.as_f64() {
        println!("  {name:<44} {number:>10.2} {unit}");
    }
}

/// Prints a row for each quantile of a [`spread`].
pub fn rows(name: &str, spread: &Value, unit: &str) {
    for quantile in ["p50", "p99", "max"] {
        row(&format!("{name}, {quantile}"), &spread[quantile], unit);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spread_is_of_values_that_occurred() {
        assert_eq!(spread(Vec::new()), Value::Null);
        assert_eq!(spread(vec![7.0]), json!({"p50": 7.0, "p99": 7.0, "max": 7.0}));
        let hundred = (1..=101).rev().map(f64::from).collect();
        assert_eq!(spread(hundred), json!({"p50": 51.0, "p99": 100.0, "max": 101.0}));
    }
}
