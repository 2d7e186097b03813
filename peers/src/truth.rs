//! The truth about some rows of each result.

use std::thread;

use anyhow::{Context, Result, anyhow, ensure};
use double_routing::{
    kernels::{GroupLimit, GroupScore},
    moe::MoeWeights,
    reference::{
        Axis, Experts, Forward, Layer, PathRule, PathScore, PathsOfRow, Product, ROUNDING, Real, attend, feed_forward,
        gate_bound, group_score, matmul, matmul_bound, path_scores, route, route_paths, score_bound, select,
        signal_error, softmax,
    },
};

use crate::work::{Problem, ROUTER};

/// Rows of a result that are held against the truth.
const CHECKED_ROWS: usize = 16;
/// A result may be this many times as far from the truth as plain f32 loops on the CPU are; errors below the floor are too
/// small to compare.
const YARDSTICKS: f64 = 4.0;
const FLOOR: f64 = 1e-6;
/// Matrix units may cut off what others round, in `shaders/lib/tile.wgsl`'s words; so many times the error is allowed where both
/// factors are of f16.
const CUT_OFF: f64 = 3.0;
/// Of a router's rows, f32 may leave one in so many undecided.
const MOST_UNDECIDED: usize = 100;

/// The truth about some rows of a problem's result.
#[derive(Debug)]
pub struct Truth {
    rows: Vec<usize>,
    all: usize,
    exact: Forward<f64>,
    /// Of a choice, which ids come behind the values of each row; none where values are equal.
    ids: Option<Vec<Option<u32>>>,
    /// What an error may be, by the signal for a forward's y and by the norm for the rest.
    pub allowed: f64,
    /// The same where sums may be in any order, also one after the other: at least a rounding for each term of a softmax's.
    pub in_any_order: f64,
}

impl Truth {
    pub fn new(problem: &Problem) -> Result<Self> {
        let (rows, all, exact, plain) = match problem {
            Problem::Select { shape, count, x } => return Ok(Self::of_select(*shape, *count, x)),
            Problem::Router { tokens, logits, bias } => return Self::of_router(*tokens, logits, bias),
            Problem::Moe { tokens, weights, x } => {
                let routed = spread(*tokens).into_iter().filter_map(|row| Some((row, routed(weights, x, row)?)));
                let (rows, routed): (Vec<_>, Vec<_>) = routed.unzip();
                ensure!(!rows.is_empty(), "f32 decides the paths of no token");
                let features = weights.experts.features;
                let (mut exact, mut plain) = (Vec::new(), Vec::new());
                for (&row, routed) in rows.iter().zip(&routed) {
                    let x = &x[row * features..][..features];
                    let experts = chosen(weights, &routed.ids);
                    let ids: Vec<_> = (0..routed.ids.len() as u32).collect();
                    let gates: Vec<_> = routed.gates.iter().map(|&gate| gate as f32).collect();
                    plain.extend(feed_forward(&experts.cast::<f32>(), x, &ids, &gates, None));
                    exact.extend(feed_forward(&experts, &exactly(x), &ids, &routed.gates, None));
                }
                (rows, *tokens, unshared(exact), plain)
            }
            Problem::Forward { shape, weights, x } => {
                let &[batch, tokens, input] = shape;
                let layer = weights.to_reference();
                // A sequence does not depend on the others. The last is the one that a wrong stride misses.
                let x = &x[(batch - 1) * tokens * input..];
                let rows = spread(tokens);
                let exact = forward_rows(&layer, &exactly(x), input, &rows)?;
                let plain = forward_rows(&layer.cast::<f32>(), x, input, &rows)?.y;
                (rows.iter().map(|row| (batch - 1) * tokens + row).collect(), batch * tokens, exact, plain)
            }
            Problem::Matmul { shape: [count, columns, depth], transposed, a, b, .. } => {
                let rows = spread(*count);
                let a = gather(a, &rows, *depth)?;
                let product = Product {
                    rows: rows.len(),
                    columns: *columns,
                    depth: *depth,
                    transposed: *transposed,
                    ..Product::default()
                };
                let (exact, plain) =
                    both(|| matmul(&exactly(&a), &exactly(b), None, &product), || matmul(&a, b, None, &product))?;
                (rows, *count, unshared(exact), plain)
            }
            Problem::Softmax { shape: [count, columns], x } => {
                let rows = spread(*count);
                let x = gather(x, &rows, *columns)?;
                let axis = Axis { outer: rows.len(), length: *columns, inner: 1 };
                let (exact, plain) = both(|| softmax(&exactly(&x), axis, None), || softmax(&x, axis, None))?;
                (rows, *count, unshared(exact), plain)
            }
        };
        let units = if matches!(problem, Problem::Matmul { half: true, .. }) { CUT_OFF } else { 1.0 };
        let allowed = (YARDSTICKS * units * signal_error(&plain, &exact)).max(FLOOR);
        let terms = if let Problem::Softmax { shape: [_, columns], .. } = problem { *columns as f64 } else { 0.0 };
        Ok(Self { rows, all, exact, ids: None, allowed, in_any_order: allowed.max(terms * ROUNDING) })
    }

    /// Every row; values are the same to the last bit.
    fn of_select([rows, columns]: [usize; 2], count: usize, x: &[f32]) -> Self {
        let (indices, values) = select(x, rows, columns, count + 1, None);
        let (mut ids, mut exact) = (Vec::new(), Vec::new());
        for (indices, values) in indices.chunks(count + 1).zip(values.chunks(count + 1)) {
            for at in 0..count {
                let tied = values[at] == values[at + 1] || at > 0 && values[at] == values[at - 1];
                ids.push((!tied).then_some(indices[at]));
                exact.push(values[at].into());
            }
        }
        Self {
            rows: (0..rows).collect(),
            all: rows,
            exact: unshared(exact),
            ids: Some(ids),
            allowed: 0.0,
            in_any_order: 0.0,
        }
    }

    /// Every row whose paths f32 decides.
    fn of_router(tokens: usize, logits: &[f32], bias: &[f32]) -> Result<Self> {
        let (bias, none) = (exactly(bias), vec![0.0; ROUTER.paths]);
        let (mut rows, mut ids, mut exact, mut bounds) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for (row, logits) in logits.chunks(ROUTER.paths).enumerate() {
            let logits = exactly(logits);
            if let Some(routed) = decided(&logits, &none, &bias) {
                bounds.extend(gate_bound(&logits, &routed.ids, rule()));
                ids.extend(routed.ids.into_iter().map(Some));
                exact.extend(routed.gates);
                rows.push(row);
            }
        }
        let undecided = tokens - rows.len();
        ensure!(undecided * MOST_UNDECIDED <= tokens, "f32 leaves {undecided} of {tokens} rows undecided");
        let norm = |values: &[f64]| values.iter().map(|value| value * value).sum::<f64>().sqrt();
        let allowed = norm(&bounds) / norm(&exact);
        Ok(Self { rows, all: tokens, exact: unshared(exact), ids: Some(ids), allowed, in_any_order: allowed })
    }

    /// How far a result is from the truth; infinitely where it has chosen another path or position.
    pub fn error(&self, result: &[f32]) -> Result<f64> {
        let columns = self.exact.y.len() / self.rows.len();
        let width = if self.ids.is_some() { 2 * columns } else { columns };
        ensure!(result.len() == self.all * width, "{} values, expected {}", result.len(), self.all * width);
        let found = gather(result, &self.rows, width)?;
        let Some(ids) = &self.ids else {
            return Ok(signal_error(&found, &self.exact));
        };
        let (values, found_ids): (Vec<_>, Vec<_>) = found.chunks(width).map(|row| row.split_at(columns)).unzip();
        let same = |(found, id): (&f32, &Option<u32>)| id.is_none_or(|id| *found == id as f32);
        if !found_ids.concat().iter().zip(ids).all(same) {
            return Ok(f64::INFINITY);
        }
        Ok(signal_error(&values.concat(), &self.exact))
    }
}

/// A token's paths and gates; none where f32 may choose others.
pub fn routed(weights: &MoeWeights, x: &[f32], row: usize) -> Option<PathsOfRow> {
    let [paths, features] = weights.router.shape;
    let x = exactly(&x[row * features..][..features]);
    let product = Product { rows: 1, columns: paths, depth: features, transposed: true, ..Product::default() };
    let gate = weights.router.gate.to_f64();
    let (logits, bounds) = (matmul(&x, &gate, None, &product), matmul_bound(&x, &gate, None, &product));
    let bias = weights.router.correction_bias.as_ref()?.to_f64();
    decided(&logits, &bounds, &bias)
}

/// The paths for logits that are off by these bounds; none where that may change the order.
fn decided(logits: &[f64], bounds: &[f64], bias: &[f64]) -> Option<PathsOfRow> {
    let rule = rule();
    let c: Vec<_> = path_scores(logits, rule.score).iter().zip(bias).map(|(score, bias)| score + bias).collect();
    // The sigmoid's slope is 1/4 at most; the bias adds a rounding.
    let of_scores = score_bound(logits, rule.score).into_iter().zip(bounds).map(|(score, logit)| score + logit / 4.0);
    let bound = of_scores.zip(&c).map(|(bound, c)| bound + ROUNDING * c.abs()).fold(0.0, f64::max);
    let mut groups: Vec<_> = c.chunks(c.len() / rule.groups).map(|group| group_score(group, rule.sum_of_two)).collect();
    groups.sort_by(|one, other| other.total_cmp(one));
    // Two sums of two, each with a rounding of its own.
    let of_groups = 2.0 * (2.0 * bound + ROUNDING * groups[0].abs());
    let next = route_paths(logits, Some(bias), ROUTER.per_token + 1, rule).ids;
    let apart = next.windows(2).all(|pair| c[pair[0] as usize] - c[pair[1] as usize] > 2.0 * bound);
    let in_groups = groups[rule.kept - 1] - groups[rule.kept] > of_groups;
    (apart && in_groups).then(|| route_paths(logits, Some(bias), ROUTER.per_token, rule))
}

/// The router's choice in the reference's words.
fn rule() -> PathRule {
    let one = GroupLimit { groups: 1, kept: 1, score: GroupScore::Max };
    let GroupLimit { groups, kept, score } = ROUTER.choice.groups.unwrap_or(one);
    PathRule {
        score: PathScore::Sigmoid,
        groups: groups as usize,
        kept: kept as usize,
        sum_of_two: score == GroupScore::SumOfTwo,
        renormalise: ROUTER.choice.renormalise,
        scale: ROUTER.choice.scale.into(),
    }
}

/// These rows of a sequence's forward. Their weights need the logit of every token, which all processors share: at the large
/// size one alone would take minutes.
fn forward_rows<T: Real + Send + Sync>(layer: &Layer<T>, x: &[T], input: usize, rows: &[usize]) -> Result<Forward<T>> {
    let embed = |x: &[T]| {
        let (rows, columns) = (x.len() / input, layer.attention);
        let product = Product { rows, columns, depth: input, transposed: true, ..Product::default() };
        matmul(x, &layer.embedding_weight, Some(&layer.embedding_bias), &product)
    };
    let tokens = x.len() / input;
    let share = tokens.div_ceil(thread::available_parallelism()?.get());
    let logits = thread::scope(|scope| {
        let logits = |x| attend(&embed(x), &layer.attention_weight, layer.attention_bias[0], x.len() / input);
        let shares: Vec<_> = x.chunks(share * input).map(|x| scope.spawn(move || logits(x))).collect();
        let joined = shares.into_iter().map(|share| share.join().map_err(|_| anyhow!("the reference failed")));
        Ok::<_, anyhow::Error>(joined.collect::<Result<Vec<_>>>()?.concat())
    })?;
    let all_w = softmax(&logits, Axis { outer: 1, length: tokens, inner: 1 }, None);
    let (h, w) = (embed(&gather(x, rows, input)?), gather(&all_w, rows, 1)?);
    let nothing = vec![T::from_f64(0.0); layer.routing];
    let routed = route(&h, &layer.routing1_weight, &w, &nothing, &layer.routing1_bias, layer.attention);
    let after = |routed: &[T]| {
        let (rows, depth) = (routed.len() / layer.routing, layer.routing);
        let product = Product { rows, columns: layer.output, depth, transposed: true, ..Product::default() };
        matmul(routed, &layer.routing2_weight, Some(&layer.routing2_bias), &product)
    };
    Ok(Forward { y: after(&routed), d: after(&layer.routing1_bias), logits: gather(&logits, rows, 1)?, h, w, routed })
}

/// Only these experts.
fn chosen(weights: &MoeWeights, ids: &[u32]) -> Experts<f64> {
    let experts = &weights.experts;
    let of = |map: &double_routing::Values| exactly(&slices(&map.to_f32(), ids, experts.width * experts.features));
    Experts {
        gate: of(&experts.gate),
        up: of(&experts.up),
        down: of(&experts.down),
        width: experts.width,
        features: experts.features,
    }
}

/// Those of many equal parts that these ids name.
pub fn slices(values: &[f32], ids: &[u32], size: usize) -> Vec<f32> {
    ids.iter().flat_map(|&id| &values[id as usize * size..][..size]).copied().collect()
}

/// Runs both at once: each may take long.
fn both<A: Send, B>(one: impl FnOnce() -> A + Send, other: impl FnOnce() -> B) -> Result<(A, B)> {
    thread::scope(|scope| {
        let one = scope.spawn(one);
        let other = other();
        Ok((one.join().map_err(|_| anyhow!("the reference failed"))?, other))
    })
}

fn exactly(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&value| value.into()).collect()
}

/// A result without a part that all its rows share: its signal is the whole of it.
fn unshared(y: Vec<f64>) -> Forward<f64> {
    Forward { h: vec![], logits: vec![], w: vec![], routed: vec![], y, d: vec![0.0] }
}

/// Rows from the first to the last.
fn spread(count: usize) -> Vec<usize> {
    let checked = count.min(CHECKED_ROWS);
    (0..checked).map(|row| row * (count - 1) / (checked - 1).max(1)).collect()
}

fn gather<T: Copy>(matrix: &[T], rows: &[usize], columns: usize) -> Result<Vec<T>> {
    let row = |&row: &usize| matrix.get(row * columns..(row + 1) * columns).with_context(|| format!("no row {row}"));
    Ok(rows.iter().map(row).collect::<Result<Vec<_>>>()?.concat())
}
