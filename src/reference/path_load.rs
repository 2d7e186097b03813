//! How evenly a router loads its paths.

use super::{Axis, FLUSHED, ROUNDING, softmax, softmax_bound};

/// The load of a router, or bounds on the errors of each of its numbers.
///
/// ```
/// # fn show(loads: double_routing::reference::PathLoads) {
/// println!("balance {}, entropy {}", loads.balance, loads.entropy);
/// # }
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct PathLoads {
    /// Each path's softmax score, meant over the tokens.
    pub mean_scores: Vec<f64>,
    /// P · Σ of the paths' shares of the counts, by their mean scores.
    pub balance: f64,
    /// The mean of the squared logarithms of the sums of exponentials.
    pub z: f64,
    /// The mean entropy of the scores, in nats.
    pub entropy: f64,
    /// P times the largest share of the counts.
    pub factor: f64,
}

/// The load that logits `[T, paths]` and the tokens of each path are; all 0 where there is no token.
///
/// # Panics
/// Where there are fewer counts than paths, or no paths.
///
/// ```
/// use double_routing::reference::path_load;
/// let loads = path_load(&[3.0, 3.0, -1.0, -1.0], &[0, 2], 2);
/// assert_eq!((loads.mean_scores, loads.balance, loads.factor), (vec![0.5, 0.5], 1.0, 2.0));
/// assert_eq!(loads.entropy, 2f64.ln());
/// ```
pub fn path_load(logits: &[f64], counts: &[u32], paths: usize) -> PathLoads {
    let tokens = logits.len() / paths;
    let mut loads = PathLoads { mean_scores: vec![0.0; paths], balance: 0.0, z: 0.0, entropy: 0.0, factor: 0.0 };
    if tokens == 0 {
        return loads;
    }
    for row in logits.chunks(paths) {
        let Row { maximum, sum } = Row::new(row);
        for (path, &x) in row.iter().enumerate() {
            let score = (x - maximum).exp() / sum;
            loads.mean_scores[path] += score / tokens as f64;
            loads.entropy += score * (maximum - x) / tokens as f64;
        }
        loads.entropy += sum.ln() / tokens as f64;
        loads.z += (maximum + sum.ln()).powi(2) / tokens as f64;
    }
    let shares = shares(counts);
    for (share, mean_score) in shares.iter().zip(&loads.mean_scores) {
        loads.balance += paths as f64 * share * mean_score;
        loads.factor = loads.factor.max(paths as f64 * share);
    }
    loads
}

/// How far each number of an f32 evaluation may be from [`path_load`] of the same logits and counts.
///
/// With u = 2⁻²⁴, d = max − x, E = (3 + 2d)·2u + d·u for exp, S the sum of a token's exp and ε = Σ y·E + (P + 4)·u its relative error:
/// - a mean of T terms: the mean of their bounds, γ(T) = Tu / (1 − Tu) for the sum, 5u for the division and u for T itself;
/// - a score: as [`softmax_bound`];
/// - ln S: ε, and the larger of 3 ULP and 2⁻²¹ for ln; lse: a rounding more; its square: 2·|lse| times that, and a rounding;
/// - entropy: that of ln S and of Σ y·d: relative to each term E, u for d and u for the product; γ(P + 4) + ε + 5u for the sum and
///   quotient; the sum over tokens has as many roundings more as terms are added up within a token;
/// - balance: the means' bounds, and 2·γ(P) + 10u for counts, products, the two sums over the paths, quotient and factor;
/// - load factor: γ(P) + 8u.
///
/// # Panics
/// As [`path_load`].
///
/// ```
/// use double_routing::reference::path_load_bound;
/// assert!(path_load_bound(&[3.0, 3.0, -1.0, -1.0], &[0, 2], 2).entropy < 2e-6);
/// ```
pub fn path_load_bound(logits: &[f64], counts: &[u32], paths: usize) -> PathLoads {
    let tokens = logits.len() / paths;
    let loads = path_load(logits, counts, paths);
    let mut bound = PathLoads { mean_scores: vec![0.0; paths], balance: 0.0, z: 0.0, entropy: 0.0, factor: 0.0 };
    if tokens == 0 {
        return bound;
    }
    for row in logits.chunks(paths) {
        let axis = Axis { outer: 1, length: paths, inner: 1 };
        let scores = softmax(row, axis, None);
        let of_scores = match paths {
            // A path that is alone has its exp divided by itself.
            1 => vec![5.0 * ROUNDING],
            _ => softmax_bound(row, axis, None),
        };
        for (total, of_score) in bound.mean_scores.iter_mut().zip(of_scores) {
            *total += of_score;
        }
        let Row { maximum, sum } = Row::new(row);
        let of_exp = |below: f64| (3.0 + 2.0 * below) * 2.0 * ROUNDING + below * ROUNDING;
        let mut of_sum = gamma(paths + 4);
        let (mut weighted, mut of_weighted) = (0.0, 0.0);
        for (&x, score) in row.iter().zip(scores) {
            let below = maximum - x;
            of_sum += score * of_exp(below);
            weighted += score * below;
            of_weighted += score * below * (of_exp(below) + 2.0 * ROUNDING) + LEAST_WEIGHTED;
        }
        of_weighted += weighted * (gamma(paths + 4) + of_sum + 5.0 * ROUNDING);
        let of_logarithm = of_sum / (1.0 - of_sum) + (8.0 * ROUNDING).max(6.0 * ROUNDING * sum.ln());
        bound.entropy += of_logarithm + of_weighted;
        let lse = maximum + sum.ln();
        let of_lse = of_logarithm + ROUNDING * (lse.abs() + of_logarithm);
        let squared = (lse.abs() + of_lse).powi(2);
        bound.z += squared - lse * lse + ROUNDING * squared + FLUSHED;
    }
    let mean = |total: f64, value: f64, roundings: usize| {
        let each = total / tokens as f64;
        each + (value + each) * (gamma(roundings) + 6.0 * ROUNDING) + FLUSHED
    };
    for (of_mean, value) in bound.mean_scores.iter_mut().zip(&loads.mean_scores) {
        *of_mean = mean(*of_mean, *value, tokens);
    }
    bound.z = mean(bound.z, loads.z, tokens);
    bound.entropy = mean(bound.entropy, loads.entropy, tokens + paths + 1);
    let shares = shares(counts);
    let of_means: f64 =
        shares.iter().zip(&bound.mean_scores).map(|(share, of_mean)| paths as f64 * share * of_mean).sum();
    bound.balance = of_means + (loads.balance + of_means) * (2.0 * gamma(paths) + 10.0 * ROUNDING);
    bound.factor = loads.factor * (gamma(paths) + 8.0 * ROUNDING);
    bound
}

/// The most that y·d may be where exp(−d) is flushed: d is then 88 or more.
const LEAST_WEIGHTED: f64 = 128.0 * FLUSHED;

/// The relative error of so many roundings, one after the other.
fn gamma(roundings: usize) -> f64 {
    let all = roundings as f64 * ROUNDING;
    all / (1.0 - all)
}

/// What a token's softmax is made of.
struct Row {
    maximum: f64,
    sum: f64,
}

impl Row {
    fn new(row: &[f64]) -> Self {
        let maximum = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        Self { maximum, sum: row.iter().map(|x| (x - maximum).exp()).sum() }
    }
}

/// The share of each path in all counts; 0 where they are all 0.
fn shares(counts: &[u32]) -> Vec<f64> {
    let total: f64 = counts.iter().map(|&count| f64::from(count)).sum();
    counts.iter().map(|&count| if total > 0.0 { f64::from(count) / total } else { 0.0 }).collect()
}
