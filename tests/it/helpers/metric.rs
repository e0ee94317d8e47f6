//! Reading Prometheus' text format.

/// The value of a series in what `/metrics` answers.
pub fn metric(metrics: &str, series: &str) -> Option<f64> {
    let mut values = metrics.lines().filter_map(|line| line.strip_prefix(series));
    values.find_map(|value| value.trim().parse().ok())
}
