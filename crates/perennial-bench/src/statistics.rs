//! Medians and quantiles of what was measured, and how sure they are.

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// How sure an interval is to hold what it is for, at least.
const SURE: f64 = 0.95;

/// Draws of a bootstrap.
const DRAWS: usize = 1_000;

/// The value below which this part of them lies (nearest rank); 0 if there is none.
pub fn quantile(values: &[f64], part: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (part * sorted.len() as f64).ceil() as usize;
    sorted
        .get(rank.saturating_sub(1))
        .copied()
        .unwrap_or_default()
}

/// The value in the middle; 0 if there is none.
pub fn median(values: &[f64]) -> f64 {
    quantile(values, 0.5)
}

/// Between which two of them lies, with 95 % or more, the median of what they were drawn from.
///
/// By the sign test, so for any distribution: each draw lies above that median or below it with
/// the odds of a coin. Of 15 draws these are the fourth and the twelfth; fewer than six are too few.
pub fn interval_of_the_median(values: &[f64]) -> Option<Interval> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let last = sorted.len().checked_sub(1)?;
    let unsure = |&outside: &usize| 2.0 * at_most_heads(sorted.len(), outside) > 1.0 - SURE;
    let outside = (0..=last).find(unsure)?.checked_sub(1)?;
    Some(Interval {
        low: sorted[outside],
        high: sorted[last - outside],
    })
}

/// Ratios of pairs: their median, and how sure it is.
pub fn ratio(ours: &[f64], theirs: &[f64]) -> (f64, Option<Interval>) {
    let ratios: Vec<_> = ours.iter().zip(theirs).map(|(a, b)| a / b).collect();
    (median(&ratios), interval_of_the_median(&ratios))
}

/// The quantiles' ratio of two sets of batches taken in pairs, and how sure it is.
///
/// By the bootstrap: pairs are drawn again and again, with replacement, as many as there are.
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
        low: quantile(&draws, (1.0 - SURE) / 2.0),
        high: quantile(&draws, (1.0 + SURE) / 2.0),
    };
    (of(&all), Some(interval))
}

/// Where something lies with 95 %.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Interval {
    /// From here.
    pub low: f64,
    /// To here.
    pub high: f64,
}

/// For what follows a figure: `95 % within 0.98 and 1.03`.
pub fn tell(interval: Option<Interval>) -> String {
    interval.map_or_else(
        || "too few to tell how sure".to_owned(),
        |Interval { low, high }| format!("95 % within {low:.3} and {high:.3}"),
    )
}

/// The odds that of this many coins at most `heads` show heads.
fn at_most_heads(coins: usize, heads: usize) -> f64 {
    let mut odds = 0.5f64.powi(coins as i32);
    let mut sum = odds;
    for head in 0..heads {
        odds *= (coins - head) as f64 / (head + 1) as f64;
        sum += odds;
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_values_that_were_measured() {
        let values = [5.0, 1.0, 4.0, 2.0, 3.0];
        assert_eq!(median(&values), 3.0);
        assert_eq!(
            [0.2, 0.21, 0.99, 1.0].map(|part| quantile(&values, part)),
            [1.0, 2.0, 5.0, 5.0]
        );
        assert_eq!(median(&[]), 0.0);
    }

    #[test]
    fn interval_of_the_median_is_that_of_the_sign_test() {
        let draws = |count: u32| (1..=count).map(f64::from).collect::<Vec<_>>();
        // From the tables of the binomial distribution.
        for (count, low, high) in [(6, 1.0, 6.0), (15, 4.0, 12.0), (20, 6.0, 15.0)] {
            let interval = interval_of_the_median(&draws(count));
            assert_eq!(interval, Some(Interval { low, high }), "{count}");
        }
        assert_eq!(interval_of_the_median(&draws(5)), None);
    }

    #[test]
    fn ratio_of_quantiles_is_as_sure_as_its_pairs_agree() {
        let batch = |slowest: f64| vec![1.0, 2.0, 3.0, slowest];
        let alike = vec![(batch(11.0), batch(10.0)); 20];
        let (ratio, interval) = ratio_of_quantiles(&alike, 0.99);
        let (low, high) = (1.1, 1.1);
        assert_eq!((ratio, interval), (1.1, Some(Interval { low, high })));

        let mut torn = alike;
        torn[0].0 = batch(50.0);
        let (ratio, interval) = ratio_of_quantiles(&torn, 0.99);
        assert_eq!(ratio, 5.0);
        // One pair in twenty is missing from a third of the draws.
        let (low, high) = (1.1, 5.0);
        assert_eq!(interval, Some(Interval { low, high }));
    }
}
