//! Medians and quantiles of measurements, with confidence intervals.

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// The least confidence level of an interval.
const CONFIDENCE: f64 = 0.95;

/// The number of draws of a bootstrap.
const DRAWS: usize = 1_000;

/// The quantile at `part` (nearest rank); 0 if there are no values.
pub fn quantile(values: &[f64], part: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (part * sorted.len() as f64).ceil() as usize;
    sorted
        .get(rank.saturating_sub(1))
        .copied()
        .unwrap_or_default()
}

/// The median; 0 if there are no values.
pub fn median(values: &[f64]) -> f64 {
    quantile(values, 0.5)
}

/// An interval that contains the median of the underlying distribution with at least 95 % confidence.
///
/// It uses the sign test, so it holds for any distribution: each value lies above or below that median
/// with equal probability. Of 15 values it is the fourth to the twelfth; `None` for fewer than six.
pub fn interval_of_the_median(values: &[f64]) -> Option<Interval> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let last = sorted.len().checked_sub(1)?;
    let uncertain =
        |&outside: &usize| 2.0 * at_most_heads(sorted.len(), outside) > 1.0 - CONFIDENCE;
    let outside = (0..=last).find(uncertain)?.checked_sub(1)?;
    Some(Interval {
        low: sorted[outside],
        high: sorted[last - outside],
    })
}

/// The median of the ratios of pairs, and its confidence interval.
pub fn ratio(ours: &[f64], theirs: &[f64]) -> (f64, Option<Interval>) {
    let ratios: Vec<_> = ours.iter().zip(theirs).map(|(a, b)| a / b).collect();
    (median(&ratios), interval_of_the_median(&ratios))
}

/// The ratio of the quantiles of two sets of paired batches, and its confidence interval.
///
/// It uses the bootstrap: as many pairs as there are, drawn with replacement, a thousand times.
pub fn ratio_of_quantiles(pairs: &[(Vec<f64>, Vec<f64>)], part: f64) -> (f64, Option<Interval>) {
    let of = |pairs: &[&(Vec<f64>, Vec<f64>)]| {
        let (ours, theirs): (Vec<&[f64]>, Vec<&[f64]>) =
            pairs.iter().map(|(a, b)| (&a[..], &b[..])).unzip();
        quantile(&ours.concat(), part) / quantile(&theirs.concat(), part)
    };
    let all: Vec<_> = pairs.iter().collect();
    if all.len() < 2 {
        return (of(&all), None);
    }
    let mut rng = StdRng::seed_from_u64(1);
    let draws: Vec<_> = (0..DRAWS)
        .map(|_| {
            let drawn: Vec<_> = (0..all.len())
                .map(|_| all[rng.random_range(0..all.len())])
                .collect();
            of(&drawn)
        })
        .collect();
    let interval = Interval {
        low: quantile(&draws, (1.0 - CONFIDENCE) / 2.0),
        high: quantile(&draws, (1.0 + CONFIDENCE) / 2.0),
    };
    (of(&all), Some(interval))
}

/// A 95 % confidence interval.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Interval {
    /// The lower bound.
    pub low: f64,
    /// The upper bound.
    pub high: f64,
}

/// The text behind a figure, such as `95 % between 0.98 and 1.03`.
pub fn describe(interval: Option<Interval>) -> String {
    interval.map_or_else(
        || "too few values for an interval".to_owned(),
        |Interval { low, high }| format!("95 % between {low:.3} and {high:.3}"),
    )
}

/// The probability that at most `heads` of this many coins show heads.
fn at_most_heads(coins: usize, heads: usize) -> f64 {
    let mut probability = 0.5f64.powi(coins as i32);
    let mut sum = probability;
    for head in 0..heads {
        probability *= (coins - head) as f64 / (head + 1) as f64;
        sum += probability;
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_measured_values() {
        let values = [5.0, 1.0, 4.0, 2.0, 3.0];
        assert_eq!(median(&values), 3.0);
        assert_eq!(
            [0.2, 0.21, 0.99, 1.0].map(|part| quantile(&values, part)),
            [1.0, 2.0, 5.0, 5.0]
        );
        assert_eq!(median(&[]), 0.0);
    }

    #[test]
    fn interval_of_the_median_matches_the_sign_test() {
        let draws = |count: u32| (1..=count).map(f64::from).collect::<Vec<_>>();
        // From the tables of the binomial distribution.
        for (count, low, high) in [(6, 1.0, 6.0), (15, 4.0, 12.0), (20, 6.0, 15.0)] {
            let interval = interval_of_the_median(&draws(count));
            assert_eq!(interval, Some(Interval { low, high }), "{count}");
        }
        assert_eq!(interval_of_the_median(&draws(5)), None);
    }

    #[test]
    fn ratio_of_quantiles_is_as_certain_as_its_pairs_agree() {
        let batch = |slowest: f64| vec![1.0, 2.0, 3.0, slowest];
        let alike = vec![(batch(11.0), batch(10.0)); 20];
        let (ratio, interval) = ratio_of_quantiles(&alike, 0.99);
        let (low, high) = (1.1, 1.1);
        assert_eq!((ratio, interval), (1.1, Some(Interval { low, high })));

        let mut with_outlier = alike;
        with_outlier[0].0 = batch(50.0);
        let (ratio, interval) = ratio_of_quantiles(&with_outlier, 0.99);
        assert_eq!(ratio, 5.0);
        // A third of the draws do not contain the one pair in twenty.
        let (low, high) = (1.1, 5.0);
        assert_eq!(interval, Some(Interval { low, high }));
    }
}
