//! Holding what a router chose, and what a block made of it, against the CPU reference.
//!
//! A device computes logits and scores in f32, in whatever order it adds. Where the bounds on that leave one choice only, ids have to be
//! the reference's; where they do not, ids have to be among those that the bounds allow. Gates and y are judged for the ids that
//! were chosen.

use std::{collections::BTreeSet, io::Write};

use double_routing::{
    Element, Values,
    moe::{RouterConfig, Routing},
    reference::{
        PathRule, PathsOfRow, ROUNDING, gate_bound, gates_moved, group_score, path_gates, path_scores, route_paths,
        score_bound, scores_moved,
    },
};
use serde::Serialize;

use super::{
    evaluate::Output,
    reference::{ReferenceRouter, block},
    weights::Weights,
};
use crate::report::{self, BAD, BOLD, GOOD, Out};

/// What came of it.
#[derive(Debug, Clone, Serialize)]
pub struct Judgement {
    pub tokens: usize,
    /// Tokens whose ids are the reference's.
    pub same: usize,
    /// Tokens whose ids the bounds leave no choice in.
    pub decided: usize,
    /// Tokens whose ids are not what they may be.
    pub wrong: usize,
    /// The largest relative error of a gate.
    pub gates: Measure,
    /// The norm of y's error by that of y; of blocks only.
    pub y: Option<Measure>,
    /// What is wrong first.
    pub fault: Option<String>,
    pub passed: bool,
}

/// An error, that of plain f32 loops, and what it may be: a gate may also lose what f32 loses in its score.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Measure {
    pub error: f64,
    pub yardstick: f64,
    pub allowed: f64,
}

/// An error may be 4 times that of plain f32 loops, and 1e-6 where that is less.
const YARDSTICKS: f64 = 4.0;
const FLOOR: f64 = 1e-6;

/// Where a single rounding of the summands may change a logit by so much, what plain f32 loops lose says nothing of what other orders lose:
/// only the bound does.
const WIDE: f64 = 1.0 / 64.0;

/// Numbers of the logits or of x in one piece of work.
const PIECE: usize = 1 << 20;

/// Judges ids, gates, counts, margins and y, which was stored in this type: what plain f32 loops compute is rounded to it too.
pub struct Judge<'a> {
    weights: &'a Weights,
    router: ReferenceRouter,
    stored: Element,
    truth: Truth,
}

impl<'a> Judge<'a> {
    pub fn new(weights: &'a Weights, config: RouterConfig, stored: Element) -> Self {
        Self { weights, router: ReferenceRouter::new(weights.router(), config), stored, truth: Truth::new(config) }
    }

    /// Takes what came of some tokens.
    pub fn extend(&mut self, x: &[f32], output: &Output) {
        let Self { weights, router, stored, truth } = self;
        let (features, per_token) = (weights.router().shape[1], truth.config.per_token);
        let tokens = x.len() / features;
        let step = (PIECE / features.max(truth.config.paths)).max(1);
        // A block takes far longer than its router.
        let step = if weights.block().is_some() { step.min(16) } else { step };
        let bar = report::progress("checked", tokens, step < tokens);
        for start in (0..tokens).step_by(step) {
            let range = start..tokens.min(start + step);
            let x = &x[start * features..range.end * features];
            let slots = start * per_token..range.end * per_token;
            let ids = &output.routing.ids[slots.clone()];
            let gates = truth.routes(router, x, ids, &output.routing.margin[range.clone()]);
            truth.gates.extend(&gates, &output.routing.gates[slots], per_token);
            if let (Some(weights), Some(y), true) = (weights.block(), &output.y, gates.all_paths) {
                let Gates { exact, plain, .. } = &gates;
                let (exact, plain) = (block::<f64>(weights, x, ids, exact), block::<f32>(weights, x, ids, plain));
                let plain = Values::rounded(&plain, *stored).to_f32();
                truth.products(&y[start * features..range.end * features], &exact, &plain);
            }
            bar.inc(range.len() as u64);
        }
        bar.finish_and_clear();
        truth.count(&output.routing);
    }

    pub fn judgement(self) -> Judgement {
        let has_y = self.weights.block().is_some();
        self.truth.judge(has_y)
    }
}

/// What is known of the tokens so far.
struct Truth {
    config: RouterConfig,
    tokens: usize,
    same: usize,
    decided: usize,
    wrong: usize,
    fault: Option<String>,
    gates: OfGates,
    /// Sums of squares: of y, of its error, and of that of plain f32 loops.
    squares: [f64; 3],
}

/// The gates of a piece's ids.
#[derive(Default)]
struct Gates {
    /// From exact logits.
    exact: Vec<f64>,
    /// From those of plain f32 loops.
    plain: Vec<f64>,
    /// What f32 may lose in the scores of gates whose logits are exact.
    bound: Vec<f64>,
    /// How far gates may be moved by what their logits are off, where that is [`WIDE`].
    moved: Vec<Option<f64>>,
    /// Whether every id is a path or none.
    all_paths: bool,
}

/// The largest relative errors of gates so far.
#[derive(Default)]
struct OfGates {
    slots: usize,
    error: f64,
    yardstick: f64,
    /// What may be lost beside what logits lose, and all that may be where logits may be off by much.
    bound: f64,
    wide: f64,
    /// The gate that needs most to be allowed beyond its bound.
    needed: f64,
    neediest: Option<String>,
    fault: Option<String>,
}

impl OfGates {
    /// Takes the gates of a piece.
    fn extend(&mut self, piece: &Gates, given: &[f32], per_token: usize) {
        // So small a gate is as good as none, and f32 may have none of it.
        let relative = |error: f64, gate: f64| if gate.abs() > 1e-30 { error.abs() / gate.abs() } else { 0.0 };
        let Gates { exact, plain, bound, moved, .. } = piece;
        for ((((&exact, plain), &bound), moved), &gate) in exact.iter().zip(plain).zip(bound).zip(moved).zip(given) {
            let difference = f64::from(gate) - exact;
            let (token, slot) = (self.slots / per_token, self.slots % per_token);
            let said = || format!("token {token}: gate {slot} is {gate}, expected {exact:.9}");
            self.slots += 1;
            self.error = self.error.max(relative(difference, exact));
            if let Some(moved) = moved {
                self.wide = self.wide.max(relative(moved + bound, exact));
                // A NaN is not allowed either.
                if difference.is_nan() || difference.abs() > moved + bound {
                    self.fault.get_or_insert_with(said);
                }
                continue;
            }
            self.yardstick = self.yardstick.max(relative(plain - exact, exact));
            self.bound = self.bound.max(relative(bound, exact));
            let beyond = if difference.is_nan() { f64::INFINITY } else { difference.abs() - bound };
            let needed = if beyond > 0.0 { beyond / exact.abs() } else { 0.0 };
            if needed > self.needed {
                (self.needed, self.neediest) = (needed, Some(said()));
            }
        }
    }

    /// The errors, and what is wrong.
    fn measure(self) -> (Measure, Option<String>) {
        let of_logits = (YARDSTICKS * self.yardstick).max(FLOOR);
        let allowed = (of_logits + self.bound).max(self.wide);
        let too_far = self.neediest.filter(|_| self.needed > of_logits);
        (Measure { error: self.error, yardstick: self.yardstick, allowed }, self.fault.or(too_far))
    }
}

impl Truth {
    fn new(config: RouterConfig) -> Self {
        Self {
            config,
            tokens: 0,
            same: 0,
            decided: 0,
            wrong: 0,
            fault: None,
            gates: OfGates::default(),
            squares: [0.0; 3],
        }
    }

    /// Judges ids and margins of some tokens. Returns what their gates have to be.
    fn routes(&mut self, router: &ReferenceRouter, x: &[f32], ids: &[u32], margins: &[f32]) -> Gates {
        let RouterConfig { paths, per_token, .. } = self.config;
        let x: Vec<f64> = x.iter().map(|&x| x.into()).collect();
        let (logits, bound, plain) = (router.logits(&x), router.logits_bound(&x), router.plain_logits(&x));
        let mut gates = Gates { all_paths: true, ..Gates::default() };
        let depth = (x.len() / (ids.len() / per_token).max(1)).max(1) as f64;
        for (at, ids) in ids.chunks(per_token).enumerate() {
            let row = at * paths..(at + 1) * paths;
            let row = (&logits[row.clone()], &bound[row.clone()], &plain[row]);
            let of_a_rounding = row.1.iter().copied().fold(0.0, f64::max) / depth;
            let judged = Row::new(row.0, row.1, router.bias.as_deref(), router.rule, per_token);
            self.same += usize::from(ids == judged.expected.ids);
            match judged.judge(ids, margins[at]) {
                Ok(decided) => self.decided += usize::from(decided),
                Err(reason) => {
                    self.wrong += 1;
                    let token = self.tokens;
                    self.fault.get_or_insert_with(|| format!("token {token}: {reason}"));
                }
            }
            self.tokens += 1;
            let is_path = |id: u32| (id as usize) < paths;
            gates.all_paths &= ids.iter().all(|&id| is_path(id) || id == u32::MAX);
            let ids: Vec<u32> = ids.iter().map(|&id| if is_path(id) { id } else { u32::MAX }).collect();
            gates.exact.extend(path_gates(row.0, &ids, router.rule));
            gates.plain.extend(path_gates(row.2, &ids, router.rule).into_iter().map(|gate| f64::from(gate as f32)));
            gates.bound.extend(gate_bound(row.0, &ids, router.rule));
            if of_a_rounding > WIDE {
                gates.moved.extend(gates_moved(row.0, row.1, &ids, router.rule).into_iter().map(Some));
            } else {
                gates.moved.resize(gates.exact.len(), None);
            }
        }
        gates
    }

    /// Takes y of some tokens.
    fn products(&mut self, y: &[f32], exact: &[f64], plain: &[f32]) {
        for ((&y, &plain), &exact) in y.iter().zip(plain).zip(exact) {
            let terms = [exact, f64::from(y) - exact, f64::from(plain) - exact];
            self.squares.iter_mut().zip(terms).for_each(|(sum, term)| *sum += term * term);
        }
    }

    /// Holds what was counted of some tokens against their ids.
    fn count(&mut self, routing: &Routing) {
        let mut counts = vec![0; self.config.paths];
        for &id in &routing.ids {
            if let Some(count) = counts.get_mut(id as usize) {
                *count += 1;
            }
        }
        if let Some(path) = (0..counts.len()).find(|&path| routing.counts[path] != counts[path]) {
            let counted = routing.counts[path];
            self.fault.get_or_insert_with(|| format!("path {path} has {} tokens, {counted} counted", counts[path]));
        }
    }

    fn judge(mut self, has_y: bool) -> Judgement {
        let (gates, fault) = std::mem::take(&mut self.gates).measure();
        self.fault = self.fault.take().or(fault);
        let y = has_y.then(|| self.y());
        Judgement {
            tokens: self.tokens,
            same: self.same,
            decided: self.decided,
            wrong: self.wrong,
            gates,
            y,
            passed: self.fault.is_none(),
            fault: self.fault,
        }
    }

    fn y(&mut self) -> Measure {
        let [norm, error, plain] = self.squares.map(f64::sqrt);
        let share = |error: f64| if error == 0.0 { 0.0 } else { error / norm };
        let (error, yardstick) = (share(error), share(plain));
        let allowed = (YARDSTICKS * yardstick).max(FLOOR);
        // An error that is NaN is not allowed either.
        if error.is_nan() || error > allowed {
            let fault = || format!("the error of y is {error:.3e} of y, allowed {allowed:.3e}");
            self.fault.get_or_insert_with(fault);
        }
        Measure { error, yardstick, allowed }
    }
}

/// One token's scores, and how far from them an f32 evaluation may be, to first order in the logits' error.
struct Row {
    rule: PathRule,
    c: Vec<f64>,
    bound: Vec<f64>,
    /// The groups' scores and their bounds.
    groups: Vec<f64>,
    group_bound: Vec<f64>,
    expected: PathsOfRow,
}

impl Row {
    fn new(logits: &[f64], logits_bound: &[f64], bias: Option<&[f64]>, rule: PathRule, chosen: usize) -> Self {
        let mut c = path_scores(logits, rule.score);
        let mut bound = score_bound(logits, rule.score);
        for (bound, moved) in bound.iter_mut().zip(scores_moved(logits, logits_bound, rule.score)) {
            *bound += moved;
        }
        if let Some(bias) = bias {
            for path in 0..c.len() {
                c[path] += bias[path];
                bound[path] += ROUNDING * (c[path].abs() + bound[path]);
            }
        }
        let size = c.len() / rule.groups;
        let groups: Vec<f64> = c.chunks(size).map(|group| group_score(group, rule.sum_of_two)).collect();
        let terms = if rule.sum_of_two { 2.0 } else { 1.0 };
        let group_bound = bound
            .chunks(size)
            .zip(&groups)
            .map(|(group, score)| terms * group.iter().copied().fold(0.0, f64::max) + ROUNDING * score.abs());
        let group_bound = group_bound.collect();
        Self { rule, c, bound, groups, group_bound, expected: route_paths(logits, bias, chosen, rule) }
    }

    /// Whether the bounds leave one choice only; what is wrong with ids and margin that they do not allow.
    fn judge(&self, ids: &[u32], margin: f32) -> Result<bool, String> {
        let size = self.c.len() / self.rule.groups;
        let kept = best(&self.groups);
        let (kept, dropped) = kept.split_at(self.rule.kept.min(kept.len()));
        let groups_decided = self.all_before(&self.groups, &self.group_bound, kept, dropped);
        let chosen: Vec<usize> =
            self.expected.ids.iter().filter(|&&id| id != u32::MAX).map(|&id| id as usize).collect();
        let of_kept = kept.iter().flat_map(|&group| group * size..(group + 1) * size);
        let rejected: Vec<usize> = of_kept.filter(|path| !chosen.contains(path)).collect();
        let in_order = chosen.windows(2).all(|pair| self.all_before(&self.c, &self.bound, &pair[..1], &pair[1..]));
        let decided = groups_decided && in_order && self.all_before(&self.c, &self.bound, &chosen, &rejected);
        if decided {
            if ids != self.expected.ids {
                return Err(format!("the paths are {ids:?}, expected {:?}", self.expected.ids));
            }
            self.judge_margin(margin, &chosen, &rejected)?;
            return Ok(true);
        }

        let (paths, rest) = ids.split_at(chosen.len());
        let distinct: BTreeSet<u32> = paths.iter().copied().filter(|&id| (id as usize) < self.c.len()).collect();
        if distinct.len() < paths.len() || rest.iter().any(|&id| id != u32::MAX) {
            return Err(format!("the paths are {ids:?}, expected {} of {}", chosen.len(), self.c.len()));
        }
        // Neither may be surely worse than what the reference takes last.
        let allowed = |values: &[f64], bound: &[f64], at: usize, last: Option<&usize>| {
            last.is_none_or(|&last| values[at] + bound[at] >= values[last] - bound[last])
        };
        let paths: Vec<usize> = paths.iter().map(|&path| path as usize).collect();
        for &path in &paths {
            let group = path / size;
            if !allowed(&self.groups, &self.group_bound, group, kept.last()) {
                return Err(format!("path {path} is of group {group}, which is not kept"));
            }
            if groups_decided && !allowed(&self.c, &self.bound, path, chosen.last()) {
                return Err(format!("path {path} was chosen, {} are better", chosen.len()));
            }
        }
        self.judge_order(&paths, size)?;
        Ok(false)
    }

    /// Among paths of groups that were kept for sure, none may stand behind one that is surely worse, or be left out for it.
    fn judge_order(&self, paths: &[usize], size: usize) -> Result<(), String> {
        let surely_before = |a: usize, b: usize| self.c[a] - self.bound[a] > self.c[b] + self.bound[b];
        for (at, &path) in paths.iter().enumerate() {
            if let Some(later) = paths[at + 1..].iter().find(|&&later| surely_before(later, path)) {
                return Err(format!("path {path} stands before {later}, which is better"));
            }
        }
        let mut groups: BTreeSet<usize> = paths.iter().map(|path| path / size).collect();
        if groups.len() > self.rule.kept {
            return Err(format!("{} groups are used, {} are kept", groups.len(), self.rule.kept));
        }
        let before = |a: usize, b: usize| self.groups[a] - self.group_bound[a] > self.groups[b] + self.group_bound[b];
        let all = || 0..self.groups.len();
        groups.extend(all().filter(|&group| all().filter(|&other| !before(group, other)).count() <= self.rule.kept));
        let rejected = groups.iter().flat_map(|group| group * size..(group + 1) * size);
        let worst = paths.iter().copied().min_by(|&a, &b| self.most(a).total_cmp(&self.most(b)));
        let mut rejected = rejected.filter(|path| !paths.contains(path));
        match worst.and_then(|worst| Some((worst, rejected.find(|&other| surely_before(other, worst))?))) {
            Some((path, other)) => Err(format!("path {path} was chosen, {other} is better")),
            None => Ok(()),
        }
    }

    /// What a path's c is at most.
    fn most(&self, path: usize) -> f64 {
        self.c[path] + self.bound[path]
    }

    /// Whether each of `first` is larger than each of `then`, whatever the rounding.
    fn all_before(&self, values: &[f64], bound: &[f64], first: &[usize], then: &[usize]) -> bool {
        let least = first.iter().map(|&at| values[at] - bound[at]).fold(f64::INFINITY, f64::min);
        then.iter().all(|&at| least > values[at] + bound[at])
    }

    fn judge_margin(&self, margin: f32, chosen: &[usize], rejected: &[usize]) -> Result<(), String> {
        let expected = self.expected.margin;
        let worst = |paths: &[usize]| paths.iter().map(|&path| self.bound[path]).fold(0.0, f64::max);
        let bound = worst(chosen) + worst(rejected) + ROUNDING * expected.abs() + f64::from(f32::MIN_POSITIVE);
        let margin = f64::from(margin);
        // It may be larger than f32 has numbers.
        let largest = f64::from(f32::MAX);
        if margin == expected || (margin - expected).abs() <= bound || (margin == f64::INFINITY && expected > largest) {
            return Ok(());
        }
        Err(format!("the margin is {margin}, expected {expected} ± {bound:.1e}"))
    }
}

/// Indices by falling value, those of equals rising.
fn best(values: &[f64]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&a, &b| values[b].total_cmp(&values[a]));
    order
}

/// Prints the errors, what they may be, and the verdict.
pub fn print(judgement: &Judgement, out: &mut Out) -> anyhow::Result<()> {
    let Judgement { tokens, same, decided, wrong, gates, y, fault, passed } = judgement;
    let (style, verdict) = if *passed { (GOOD, "passed") } else { (BAD, "FAILED") };
    writeln!(out, "{BOLD}check{BOLD:#}    {style}{verdict}{style:#} against the CPU reference in f64")?;
    let open = tokens - decided;
    writeln!(
        out,
        "         paths: the reference's in {same} of {tokens} tokens, {wrong} wrong; rounding may decide in {open}"
    )?;
    let print = |out: &mut Out, what: &str, measure: &Measure| {
        let Measure { error, yardstick, allowed } = measure;
        writeln!(
            out,
            "         {what}: relative error {error:.2e}, allowed {allowed:.2e} (plain f32 loops: {yardstick:.2e})"
        )
    };
    print(out, "gates", gates)?;
    if let Some(y) = y {
        print(out, "y", y)?;
    }
    match fault {
        Some(fault) => Ok(writeln!(out, "         {fault}")?),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

    use double_routing::{
        Element, Values,
        kernels::{GroupLimit, GroupScore, PathChoice, Score},
        moe::{ExpertWeights, MoeWeights, RouterConfig, RouterWeights},
    };

    use double_routing_common::{input::Input, numbers::Numbers};

    use super::{Judge, Judgement, Output, ReferenceRouter, Weights};
    use crate::{gpu::Target, input::Rows, moe::evaluate::Evaluator};

    fn values(count: usize) -> Vec<f32> {
        (0..count).map(|at| ((at * 37 + 11) % 1009) as f32 / 504.5 - 1.0).collect()
    }

    /// A judge of what is changed in what the reference computes.
    fn judged(config: RouterConfig, x: &[f32], change: impl FnOnce(&mut Output)) -> Judgement {
        let (paths, features) = (config.paths, 5);
        let bias = Some(Values::from(vec![0.01; paths]));
        let stack = || values(paths * 3 * features);
        let block = MoeWeights {
            router: RouterWeights::new(values(paths * features), [paths, features], bias).unwrap(),
            experts: ExpertWeights::new(stack(), stack(), stack(), [paths, 3, features]).unwrap(),
            shared: None,
        };
        let weights = Weights::Block(Box::new(block));
        let mut output = reference(&weights, config, x);
        change(&mut output);
        judge(&weights, config, x, &output)
    }

    /// What the reference makes of x, in batches.
    fn reference(weights: &Weights, config: RouterConfig, x: &[f32]) -> Output {
        let evaluator = Evaluator::new(&Target::Reference, weights, config, false).unwrap();
        let features = weights.router().shape[1];
        let rows = Rows::of_input(Input::of_numbers(Numbers::new(x, vec![x.len() / features, features])));
        let mut whole: Option<Output> = None;
        let each = |_: &[f32], output| {
            match &mut whole {
                Some(whole) => whole.append(output),
                None => whole = Some(output),
            }
            Ok(())
        };
        evaluator.run(&rows, Some(7), each).unwrap();
        whole.unwrap()
    }

    fn judge(weights: &Weights, config: RouterConfig, x: &[f32], output: &Output) -> Judgement {
        let mut judge = Judge::new(weights, config, Element::F32);
        judge.extend(x, output);
        judge.judgement()
    }

    fn config() -> RouterConfig {
        let groups = Some(GroupLimit { groups: 4, kept: 2, score: GroupScore::SumOfTwo });
        let choice = PathChoice { score: Score::Sigmoid, groups, renormalise: true, scale: 2.5 };
        RouterConfig { paths: 16, per_token: 3, choice }
    }

    #[test]
    fn every_kind_of_error_is_found() {
        for score in [Score::Softmax, Score::Sigmoid, Score::SqrtSoftplus, Score::SoftmaxOfChosen] {
            let config = RouterConfig { choice: PathChoice { score, ..config().choice }, ..config() };
            let judged = |change: fn(&mut Output)| judged(config, &values(20 * 5), change);
            let right = judged(|_| {});
            assert!(right.passed && right.same == 20 && right.decided == 20 && right.wrong == 0, "{right:?}");
            assert!(right.y.is_some_and(|y| y.error < 1e-7), "{right:?}");

            let wrong: [fn(&mut Output); 8] = [
                |output| output.routing.ids.swap(3, 4),
                |output| output.routing.ids[9] = (output.routing.ids[9] + 1) % 16,
                |output| output.routing.ids[9] = 16,
                |output| output.routing.gates[7] *= 1.0001,
                |output| output.routing.gates[8] = f32::NAN,
                |output| output.routing.counts[0] += 1,
                |output| output.routing.margin[2] += 1e-4,
                |output| output.y.iter_mut().flatten().for_each(|y| *y *= 1.00001),
            ];
            for (at, change) in wrong.into_iter().enumerate() {
                let judgement = judged(change);
                assert!(!judgement.passed && judgement.fault.is_some(), "{at}: {judgement:?}");
                assert_eq!(judgement.wrong, usize::from([0, 1, 2, 6].contains(&at)), "{at}: {judgement:?}");
            }
        }
    }

    /// Logits of up to this, by weights and x that no sum of products of overflows.
    fn large(largest: f32) -> (Weights, Vec<f32>) {
        let router = RouterWeights::new(values(16 * 5), [16, 5], None).unwrap();
        (Weights::Router(router), values(20 * 5).into_iter().map(|x| x * (largest / 5.0)).collect())
    }

    #[test]
    fn logits_of_any_size_are_judged() {
        let groups = |kept, score| Some(GroupLimit { groups: 4, kept, score });
        for score in [Score::Softmax, Score::Sigmoid, Score::SqrtSoftplus, Score::SoftmaxOfChosen] {
            for groups in [None, groups(2, GroupScore::Max), groups(2, GroupScore::SumOfTwo)] {
                for renormalise in [false, true] {
                    let choice = PathChoice { score, groups, renormalise, scale: 2.5 };
                    let config = RouterConfig { paths: 16, per_token: 3, choice };
                    for largest in [1e4, 1e10, 1e30, 3e38] {
                        let what = format!("{config:?} up to {largest}");
                        let (weights, x) = large(largest);
                        let right = reference(&weights, config, &x);
                        let judged = |output: &Output| judge(&weights, config, &x, output);
                        let judgement = judged(&right);
                        assert!(judgement.passed && judgement.same == 20, "{what}: {judgement:?}");
                        assert!(judgement.gates.allowed.is_finite(), "{what}: {judgement:?}");

                        // As f32 has them, whose ties are others.
                        let router = ReferenceRouter::new(weights.router(), config);
                        let exact: Vec<f64> = x.iter().map(|&x| x.into()).collect();
                        let mut plain = right.clone();
                        plain.routing = router.route_logits(&router.plain_logits(&exact)).0;
                        let judgement = judged(&plain);
                        assert!(judgement.passed, "{what} in f32: {judgement:?}");

                        let ids = &right.routing.ids;
                        let logits = router.logits(&exact);
                        let of_first = |id: &u32| logits[*id as usize];
                        let best = ids[..3].iter().copied().max_by(|a, b| of_first(a).total_cmp(&of_first(b))).unwrap();
                        let wrong: [&dyn Fn(&mut Output); 5] = [
                            // The best path is left out, and stands behind.
                            &|output| {
                                let at = ids.iter().position(|&id| id == best).unwrap();
                                output.routing.ids[at] = (0..16).find(|id| !ids[..3].contains(id)).unwrap();
                            },
                            &|output| output.routing.ids[1] = output.routing.ids[0],
                            &|output| output.routing.gates[0] *= 1.001,
                            &|output| output.routing.gates[2] += 0.25 * output.routing.gates[0],
                            &|output| output.routing.gates[1] = f32::NAN,
                        ];
                        for (at, change) in wrong.iter().enumerate() {
                            let mut output = right.clone();
                            change(&mut output);
                            output.routing.counts = vec![0; 16];
                            output.routing.ids.iter().for_each(|&id| output.routing.counts[id as usize] += 1);
                            let judgement = judged(&output);
                            assert!(!judgement.passed, "{what}: {at}: {judgement:?}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn what_rounding_decides_is_left_to_it() {
        // All logits are 0: every choice is between equals.
        let config = config();
        let zeros = [0.0; 4 * 5];
        let of_zeros = |ids: [u32; 3]| {
            judged(config, &zeros, |output| {
                output.routing.ids[..3].copy_from_slice(&ids);
                output.routing.counts = vec![0; 16];
                output.routing.ids.iter().for_each(|&id| output.routing.counts[id as usize] += 1);
            })
        };
        let judgement = of_zeros([15, 12, 3]);
        assert!(judgement.passed && judgement.same == 3 && judgement.decided == 0, "{judgement:?}");
        let judgement = of_zeros([15, 15, 3]);
        assert_eq!((judgement.passed, judgement.wrong), (false, 1), "{judgement:?}");
    }
}
