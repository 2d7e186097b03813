//! The paths of each token and what they weigh.

use super::{Axis, FLUSHED, ROUNDING, softmax, softmax_bound};

/// What a path scores for its logit.
///
/// ```
/// use double_routing::reference::{PathScore, path_scores};
/// assert_eq!(path_scores(&[0.0, 0.0], PathScore::Softmax), [0.5, 0.5]);
/// assert_eq!(path_scores(&[0.0, 0.0], PathScore::Sigmoid), [0.5, 0.5]);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PathScore {
    /// Softmax over the row.
    Softmax,
    /// 1 / (1 + e⁻ˣ).
    Sigmoid,
    /// √ln(1 + eˣ).
    SqrtSoftplus,
    /// The logit itself; gates are the softmax over the chosen logits.
    Logit,
}

/// How the paths of a row are chosen.
///
/// ```
/// use double_routing::reference::{PathRule, PathScore};
/// let rule = PathRule { score: PathScore::Sigmoid, groups: 8, kept: 4, sum_of_two: true, renormalise: true, scale: 2.5 };
/// assert!(rule.kept < rule.groups);
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PathRule {
    /// What a path scores.
    pub score: PathScore,
    /// Groups of neighbouring paths; 1 where there are none.
    pub groups: usize,
    /// The groups that can be chosen from.
    pub kept: usize,
    /// A group scores the sum of its two largest c instead of the largest.
    pub sum_of_two: bool,
    /// The gates of a row are divided by their sum and 1e-20.
    pub renormalise: bool,
    /// What every gate is multiplied by at the end.
    pub scale: f64,
}

/// What came of a row.
///
/// ```
/// # fn show(row: double_routing::reference::PathsOfRow) {
/// println!("{:?} by a margin of {}", row.ids, row.margin);
/// # }
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct PathsOfRow {
    /// The chosen paths, best first; `u32::MAX` where fewer can be chosen.
    pub ids: Vec<u32>,
    /// Their gates.
    pub gates: Vec<f64>,
    /// c of the last chosen less that of the best rejected; infinite where there is none.
    pub margin: f64,
}

/// The score of every path of a row.
///
/// ```
/// use double_routing::reference::{PathScore, path_scores};
/// assert!(path_scores(&[-1000.0], PathScore::SqrtSoftplus)[0] < 1e-200);
/// ```
pub fn path_scores(logits: &[f64], score: PathScore) -> Vec<f64> {
    let each = |f: fn(f64) -> f64| logits.iter().map(|&x| f(x)).collect();
    match score {
        PathScore::Softmax => softmax(logits, row_axis(logits), None),
        PathScore::Sigmoid => each(|x| 1.0 / (1.0 + (-x).exp())),
        PathScore::SqrtSoftplus => each(|x| softplus(x).sqrt()),
        PathScore::Logit => logits.to_vec(),
    }
}

/// How far each score of an f32 evaluation may be from [`path_scores`] of the same logits.
///
/// With E = (3 + 2|x|)·2⁻²³ for exp(−|x|) and u = 2⁻²⁴, relative to the score:
/// - softmax: as [`softmax_bound`];
/// - sigmoid: E / (1 + eˣ) for what exp's error makes of the quotient, u for the sum and 2.5 ULP for the division;
/// - √softplus: half of softplus' error, of which E + 12u is in ln(1 + e⁻ˣ) (exp; 2.5 ULP for the quotient and u for the sum in it,
///   of which the series is made; at most 6u for the series itself) and u in the sum; and 4.5 ULP for sqrt, which is 1 / inverseSqrt;
/// - the logit: exact.
///
/// What flushing exp(−|x|) may lose comes on top; under the root that is much.
///
/// ```
/// use double_routing::reference::{PathScore, score_bound};
/// assert!(score_bound(&[0.0], PathScore::Sigmoid)[0] < 1e-6);
/// assert_eq!(score_bound(&[0.3], PathScore::Logit), [0.0]);
/// ```
pub fn score_bound(logits: &[f64], score: PathScore) -> Vec<f64> {
    let of_exp = |x: f64| (3.0 + 2.0 * x.abs()) * 2.0 * ROUNDING;
    let scores = path_scores(logits, score);
    let each = |f: &dyn Fn(f64, f64) -> f64| logits.iter().zip(&scores).map(|(&x, &score)| f(x, score)).collect();
    match score {
        // A path that is alone has its exp divided by itself.
        PathScore::Softmax if logits.len() == 1 => vec![5.0 * ROUNDING],
        PathScore::Softmax => softmax_bound(logits, row_axis(logits), None),
        PathScore::Sigmoid => each(&|x, score| score * (of_exp(x) / (1.0 + x.exp()) + 6.0 * ROUNDING) + 2.0 * FLUSHED),
        PathScore::SqrtSoftplus => each(&|x, score| {
            let of_logarithm = (-x.abs()).exp().ln_1p() / softplus(x).max(f64::MIN_POSITIVE);
            let of_softplus = (of_exp(x) + 12.0 * ROUNDING) * of_logarithm + ROUNDING;
            score * (0.5 * of_softplus + 9.0 * ROUNDING) + 4.0 * FLUSHED / score.max(FLUSHED.sqrt())
        }),
        PathScore::Logit => vec![0.0; logits.len()],
    }
}

/// How far each score may be from [`path_scores`] where each logit is off by no more than `bound`.
///
/// Scores rise with their own logit; those of softmax fall with the others'. So each is between two scores of logits that are moved
/// as far as they may be, however far that is.
///
/// # Panics
/// Where the bound is shorter than the logits.
///
/// ```
/// use double_routing::reference::{PathScore, scores_moved};
/// // What is far behind stays behind, and nothing exceeds 1.
/// assert_eq!(scores_moved(&[1e10, 0.0], &[1e3, 1e3], PathScore::Softmax), [0.0, 0.0]);
/// assert_eq!(scores_moved(&[1e10, 1e10], &[1e3, 1e3], PathScore::Softmax), [0.5, 0.5]);
/// ```
pub fn scores_moved(logits: &[f64], bound: &[f64], score: PathScore) -> Vec<f64> {
    let moved = |sign: f64| -> Vec<f64> { logits.iter().zip(bound).map(|(logit, by)| logit + sign * by).collect() };
    let (up, down) = (moved(1.0), moved(-1.0));
    let between = match score {
        PathScore::Softmax => [(&down, &up), (&up, &down)].map(|(own, others)| {
            let others = ln_of_others(others);
            own.iter().zip(others).map(|(own, others)| 1.0 / (1.0 + (others - own).exp())).collect()
        }),
        score => [path_scores(&down, score), path_scores(&up, score)],
    };
    let scores = path_scores(logits, score);
    let [least, most] = between;
    (0..scores.len()).map(|path| (most[path] - scores[path]).max(scores[path] - least[path]).max(0.0)).collect()
}

/// For each value, the logarithm of the sum of the others' exp.
fn ln_of_others(values: &[f64]) -> Vec<f64> {
    let Some(&first) = best_first(values).first() else { return Vec::new() };
    let largest = values[first];
    let sum: f64 = values.iter().map(|value| (value - largest).exp()).sum();
    // Whatever is taken from it, the largest's 1 is left; but what is beside the largest may be far smaller.
    let mut others: Vec<f64> = values.iter().map(|value| largest + (sum - (value - largest).exp()).ln()).collect();
    let beside = || values.iter().enumerate().filter(|(at, _)| *at != first).map(|(_, value)| value);
    let second = beside().copied().fold(f64::NEG_INFINITY, f64::max);
    others[first] = match values.len() {
        1 => f64::NEG_INFINITY,
        _ => second + beside().map(|value| (value - second).exp()).sum::<f64>().ln(),
    };
    others
}

/// What the given paths of a row weigh; 0 for `u32::MAX`.
///
/// # Panics
/// Where an id is neither a path nor `u32::MAX`.
///
/// ```
/// use double_routing::reference::{PathRule, PathScore, path_gates};
/// let rule = PathRule { score: PathScore::Logit, groups: 1, kept: 1, sum_of_two: false, renormalise: false, scale: 3.0 };
/// assert_eq!(path_gates(&[7.0, 1.0, 7.0], &[2, 0], rule), [1.5, 1.5]);
/// ```
pub fn path_gates(logits: &[f64], ids: &[u32], rule: PathRule) -> Vec<f64> {
    let all = path_scores(logits, rule.score);
    let chosen = chosen_of(&all, ids);
    let gates = match rule.score {
        PathScore::Logit => softmax(&chosen, row_axis(&chosen), None),
        _ if rule.renormalise => {
            let sum = chosen.iter().sum::<f64>() + TINY;
            chosen.iter().map(|score| score / sum).collect()
        }
        _ => chosen,
    };
    placed(gates.into_iter().map(|gate| gate * rule.scale).collect(), ids)
}

/// How far each gate of an f32 evaluation may be from [`path_gates`] of the same logits and ids.
///
/// A score's own bound and a rounding for the scale; where gates are divided by their sum, that of the sum, one rounding an
/// addition and 2.5 ULP as well; for the softmax over the chosen that of softmax.
///
/// # Panics
/// As [`path_gates`].
///
/// ```
/// use double_routing::reference::{PathRule, PathScore, gate_bound};
/// let rule = PathRule { score: PathScore::Sigmoid, groups: 1, kept: 1, sum_of_two: false, renormalise: true, scale: 1.0 };
/// assert!(gate_bound(&[0.5, 1.0], &[1], rule)[0] < 2e-6);
/// ```
pub fn gate_bound(logits: &[f64], ids: &[u32], rule: PathRule) -> Vec<f64> {
    let scale = rule.scale.abs();
    let chosen = chosen_of(&path_scores(logits, rule.score), ids);
    let bound = match rule.score {
        PathScore::Logit => softmax_bound(&chosen, row_axis(&chosen), None),
        // A path that is alone has all of the weight.
        PathScore::Softmax if logits.len() == 1 => vec![0.0; chosen.len()],
        score => chosen_of(&score_bound(logits, score), ids),
    };
    let bound: Vec<f64> = if rule.renormalise && rule.score != PathScore::Logit {
        let (sum, sum_bound) = (chosen.iter().sum::<f64>() + TINY, bound.iter().sum::<f64>());
        let least = sum - sum_bound;
        let roundings = (chosen.len() as f64 + 6.0) * ROUNDING;
        let divided = |(score, bound): (&f64, &f64)| {
            let gate = score / sum;
            // Where flushing may have left anything of the sum, or nothing, a gate is only known to be at most 1.
            if least < 0.5 * sum { 1.0 } else { (bound + gate * sum_bound) / least + roundings * gate + FLUSHED }
        };
        chosen.iter().zip(&bound).map(divided).collect()
    } else {
        bound
    };
    let gates = path_gates(logits, ids, rule);
    let scaled = if rule.scale == 1.0 { 0.0 } else { ROUNDING };
    let bound = placed(bound.into_iter().map(|bound| bound * scale * (1.0 + ROUNDING)).collect(), ids);
    bound
        .iter()
        .zip(&gates)
        .map(|(bound, gate)| bound + gate.abs() * scaled + if scaled > 0.0 { FLUSHED } else { 0.0 })
        .collect()
}

/// How far each gate may be from [`path_gates`] where each logit is off by no more than `bound`.
///
/// # Panics
/// As [`path_gates`], and where the bound is shorter than the logits.
///
/// ```
/// use double_routing::reference::{PathRule, PathScore, gates_moved};
/// let rule = PathRule { score: PathScore::Logit, groups: 1, kept: 1, sum_of_two: false, renormalise: false, scale: 3.0 };
/// assert_eq!(gates_moved(&[1e10, 0.0], &[1e3, 1e3], &[0, 1], rule), [0.0, 0.0]);
/// assert_eq!(gates_moved(&[1e10, 1e10], &[1e3, 1e3], &[0, 1], rule), [1.5, 1.5]);
/// ```
pub fn gates_moved(logits: &[f64], bound: &[f64], ids: &[u32], rule: PathRule) -> Vec<f64> {
    let moved = match rule.score {
        PathScore::Logit => scores_moved(&chosen_of(logits, ids), &chosen_of(bound, ids), PathScore::Softmax),
        score => {
            let scores = chosen_of(&path_scores(logits, score), ids);
            let moved = chosen_of(&scores_moved(logits, bound, score), ids);
            if rule.renormalise { shares_moved(&scores, &moved) } else { moved }
        }
    };
    placed(moved.into_iter().map(|moved| moved * rule.scale.abs()).collect(), ids)
}

/// How far the shares of scores in their sum may be where each score is off by no more than `bound`.
fn shares_moved(scores: &[f64], bound: &[f64]) -> Vec<f64> {
    let [least, most] =
        [-1.0, 1.0].map(|sign| scores.iter().zip(bound).map(|(score, by)| (score + sign * by).max(0.0)).collect());
    let (least, most): (Vec<f64>, Vec<f64>) = (least, most);
    let share = |own: &[f64], others: &[f64], at: usize| {
        let others: f64 = (0..others.len()).filter(|other| *other != at).map(|other| others[other]).sum();
        own[at] / (own[at] + others + TINY)
    };
    let moved = |at: usize| {
        let exact = share(scores, scores, at);
        (share(&most, &least, at) - exact).max(exact - share(&least, &most, at)).max(0.0)
    };
    (0..scores.len()).map(moved).collect()
}

/// The best `chosen` paths of a row by c = score + bias, best first; of equals the first. Only the `kept` best groups can be
/// chosen from.
///
/// # Panics
/// Where the bias is shorter than the logits, or the groups do not divide them.
///
/// ```
/// use double_routing::reference::{PathRule, PathScore, route_paths};
/// let rule = PathRule { score: PathScore::Logit, groups: 2, kept: 1, sum_of_two: true, renormalise: false, scale: 1.0 };
/// // The first group has the best path, the second the better two.
/// let row = route_paths(&[5.0, 0.0, 3.0, 3.0], None, 3, rule);
/// assert_eq!(row.ids, [2, 3, u32::MAX]);
/// assert_eq!(row.gates, [0.5, 0.5, 0.0]);
/// assert_eq!(row.margin, f64::INFINITY);
/// ```
pub fn route_paths(logits: &[f64], bias: Option<&[f64]>, chosen: usize, rule: PathRule) -> PathsOfRow {
    let mut c = path_scores(logits, rule.score);
    if let Some(bias) = bias {
        for (path, c) in c.iter_mut().enumerate() {
            *c += bias[path];
        }
    }
    let size = logits.len() / rule.groups;
    let groups: Vec<f64> = c.chunks(size).map(|group| group_score(group, rule.sum_of_two)).collect();
    let mut allowed: Vec<usize> = Vec::new();
    for group in best_first(&groups).into_iter().take(rule.kept) {
        allowed.extend(group * size..(group + 1) * size);
    }
    allowed.sort_unstable();
    let of_allowed: Vec<f64> = allowed.iter().map(|&path| c[path]).collect();
    let order: Vec<usize> = best_first(&of_allowed).into_iter().map(|at| allowed[at]).collect();
    let mut ids: Vec<u32> = order.iter().take(chosen).map(|&path| path as u32).collect();
    ids.resize(chosen, u32::MAX);
    let margin = if chosen < order.len() { c[order[chosen - 1]] - c[order[chosen]] } else { f64::INFINITY };
    let gates = path_gates(logits, &ids, rule);
    PathsOfRow { ids, gates, margin }
}

/// What a group scores with these c.
///
/// ```
/// assert_eq!(double_routing::reference::group_score(&[1.0, 4.0, 3.0], true), 7.0);
/// assert_eq!(double_routing::reference::group_score(&[4.0], true), 4.0);
/// ```
pub fn group_score(c: &[f64], sum_of_two: bool) -> f64 {
    let order = best_first(c);
    order.iter().take(if sum_of_two { 2 } else { 1 }).map(|&at| c[at]).sum()
}

/// What a sum of gates is kept away from 0 by.
const TINY: f64 = 1e-20;

fn softplus(x: f64) -> f64 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

fn row_axis(row: &[f64]) -> Axis {
    Axis { outer: 1, length: row.len(), inner: 1 }
}

/// Indices by falling value, those of equals rising.
fn best_first(values: &[f64]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&a, &b| values[b].partial_cmp(&values[a]).unwrap_or(std::cmp::Ordering::Equal));
    order
}

/// The values of the ids that are paths.
fn chosen_of(values: &[f64], ids: &[u32]) -> Vec<f64> {
    ids.iter().filter(|&&id| id != u32::MAX).map(|&id| values[id as usize]).collect()
}

/// The values of paths in the places of their ids, 0 in the others.
fn placed(values: Vec<f64>, ids: &[u32]) -> Vec<f64> {
    let mut values = values.into_iter();
    ids.iter().map(|&id| if id == u32::MAX { 0.0 } else { values.next().unwrap_or(0.0) }).collect()
}
