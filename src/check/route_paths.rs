//! Cases of choosing paths.
//!
//! Scores are only known within a bound, so a choice is judged by what the bound decides: a path or group is before another where
//! the difference exceeds both bounds, or where both have the same logits and biases and it comes first. Nothing that is decided
//! may be otherwise; gates are compared for the paths that were chosen.

use half::bf16;

use super::{
    Case, Outcome,
    bench::{Operand, Random, compare, judge_together},
};
use crate::{
    Element, Gpu, Result, Values,
    kernels::{GroupLimit, GroupScore, PathChoice, RoutePaths, Score},
    reference::{
        PathRule, PathScore, ROUNDING, gate_bound, group_score, path_gates, path_scores, route_paths, score_bound,
    },
};

#[derive(Debug, Clone, Copy)]
struct Spec {
    rows: usize,
    paths: usize,
    chosen: usize,
    choice: PathChoice,
    logits: Logits,
    bias: Bias,
    selected: Selected,
    margin: bool,
    shift: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Logits {
    /// Within ±4.
    Usual,
    /// Integers within ±3: nearly every choice is between equals.
    Integers,
    /// Within ±2, rounded to bf16: some are equal.
    Rounded,
    /// From −6 to −2.
    Negative,
    /// From −80 to −10: all but the tail of exp is lost where 1 is added to it.
    Tail,
    /// Within ±100.
    Large,
    /// Within ±10 000.
    Huge,
    /// From −10 000 to −100: sigmoid underflows.
    Lost,
    /// One integer a group: all groups with it are equal.
    Groups,
    /// −0 and 0 in turn.
    Zeros,
    /// All the same.
    Equal,
    /// 1 and its neighbours.
    Ulps,
    /// From 40 to 100: sigmoid is 1.
    Saturated,
    /// 0 and numbers up to nearly the largest there is, each of them often.
    End,
    /// Below the smallest normal number, of both signs. A device may take them for 0, if it does so with all of them.
    Subnormal,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Bias {
    None,
    /// Within ±0.2.
    Usual,
    /// −0.9 for all: every c is negative.
    Uniform,
    /// −1, 0 and 1.
    Integers,
    /// −0 and 0.
    Zeros,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Selected {
    All,
    /// Every third row is left out.
    Some,
    None,
}

/// The largest share of rows in which a case of usual logits may leave anything undecided.
const UNDECIDED: f64 = 0.05;

/// One row of a case.
struct Row<'a> {
    logits: &'a [f64],
    bias: Option<&'a [f64]>,
    rule: PathRule,
    c: Vec<f64>,
    bound: Vec<f64>,
}

/// So much below 0, or below the largest for softmax, exp has the same argument whatever the logit; and from so much on sigmoid is 1, since
/// what is added to 1 is lost.
const LOST: f64 = 129.0;
const SATURATED: f64 = 40.0;

/// The logits as far as their scores tell them apart in f32: those of equal scores are made equal, and keep their order beside others.
fn told_apart(logits: &[f64], score: PathScore) -> Vec<f64> {
    let largest = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let each = |f: &dyn Fn(f64) -> f64| logits.iter().map(|&x| f(x)).collect();
    match score {
        PathScore::Softmax => each(&|x| (x - largest).max(-LOST)),
        PathScore::Sigmoid => each(&|x| x.clamp(-LOST, SATURATED)),
        PathScore::SqrtSoftplus => each(&|x| x.max(-LOST)),
        PathScore::Logit => logits.to_vec(),
    }
}

impl<'a> Row<'a> {
    /// Of logits that are [told apart](told_apart).
    fn new(logits: &'a [f64], bias: Option<&'a [f64]>, rule: PathRule) -> Self {
        let mut c = path_scores(logits, rule.score);
        let mut bound = score_bound(logits, rule.score);
        if let Some(bias) = bias {
            for path in 0..c.len() {
                c[path] += bias[path];
                bound[path] += ROUNDING * (c[path].abs() + bound[path]);
            }
        }
        Self { logits, bias, rule, c, bound }
    }

    /// Whether two paths have the same inputs, or such as give the same score, and so the same c on any device.
    fn same(&self, a: usize, b: usize) -> bool {
        self.logits[a] == self.logits[b] && self.bias.is_none_or(|bias| bias[a] == bias[b])
    }

    /// Whether path `a` comes before `b` whatever the rounding.
    fn before(&self, a: usize, b: usize) -> bool {
        if self.same(a, b) { a < b } else { self.c[a] - self.c[b] > self.bound[a] + self.bound[b] }
    }

    /// The best three paths of a group.
    fn best(&self, group: usize) -> Vec<usize> {
        let size = self.c.len() / self.rule.groups;
        let mut paths: Vec<usize> = (group * size..(group + 1) * size).collect();
        paths.sort_by(|&a, &b| self.c[b].total_cmp(&self.c[a]));
        paths.truncate(3);
        paths
    }

    /// Whether two groups have the same score on any device: their best, or best two, have the same inputs, and no other can rise.
    fn same_groups(&self, a: &[usize], b: &[usize]) -> bool {
        let terms = if self.rule.sum_of_two { 2 } else { 1 };
        let settled = |best: &[usize]| match best.get(terms) {
            Some(&next) => self.same(best[terms - 1], next) || self.before(best[terms - 1], next),
            None => true,
        };
        settled(a) && settled(b) && a.iter().zip(b).take(terms).all(|(&a, &b)| self.same(a, b))
    }

    /// For each group: whether it is kept, where that is decided.
    fn kept(&self) -> Vec<Option<bool>> {
        let size = self.c.len() / self.rule.groups;
        let groups = || 0..self.rule.groups;
        let best: Vec<Vec<usize>> = groups().map(|group| self.best(group)).collect();
        let scores: Vec<f64> = self.c.chunks(size).map(|group| group_score(group, self.rule.sum_of_two)).collect();
        // The largest is taken as it is.
        let (terms, roundings) = if self.rule.sum_of_two { (2.0, 1.0) } else { (1.0, 0.0) };
        let bounds: Vec<f64> = self
            .bound
            .chunks(size)
            .zip(&scores)
            .map(|(group, score)| {
                terms * group.iter().copied().fold(0.0, f64::max) + roundings * ROUNDING * score.abs()
            })
            .collect();
        let before = |a: usize, b: usize| {
            if self.same_groups(&best[a], &best[b]) { a < b } else { scores[a] - scores[b] > bounds[a] + bounds[b] }
        };
        groups()
            .map(|group| {
                let others = || groups().filter(|&other| other != group);
                let surely_better = others().filter(|&other| before(other, group)).count();
                let perhaps_better = others().filter(|&other| !before(group, other)).count();
                if surely_better >= self.rule.kept {
                    Some(false)
                } else if perhaps_better < self.rule.kept {
                    Some(true)
                } else {
                    None
                }
            })
            .collect()
    }

    /// What is wrong with these ids and this margin, and whether all of it was decided.
    fn judge(&self, ids: &[u32], margin: Option<f32>) -> std::result::Result<bool, String> {
        let size = self.c.len() / self.rule.groups;
        let count = ids.len().min(size * self.rule.kept);
        let (paths, rest) = ids.split_at(count);
        if let Some(id) = rest.iter().find(|&&id| id != u32::MAX) {
            return Err(format!("there is path {id} where none is left to choose"));
        }
        let paths: Vec<usize> = paths.iter().map(|&id| id as usize).collect();
        for (at, &path) in paths.iter().enumerate() {
            if path >= self.c.len() || paths[..at].contains(&path) {
                return Err(format!("id {path} is no path, or is there twice"));
            }
        }
        let kept = self.kept();
        let undecided = kept.iter().filter(|kept| kept.is_none()).count();
        let mut used: Vec<usize> =
            paths.iter().map(|path| path / size).filter(|&group| kept[group].is_none()).collect();
        used.sort_unstable();
        used.dedup();
        if let Some(path) = paths.iter().find(|&&path| kept[path / size] == Some(false)) {
            return Err(format!("path {path} is of a group that is not kept"));
        }
        if used.len() + kept.iter().filter(|&&kept| kept == Some(true)).count() > self.rule.kept {
            return Err("more groups are used than are kept".into());
        }
        for (at, &path) in paths.iter().enumerate() {
            if let Some(later) = paths[at + 1..].iter().find(|&&later| self.before(later, path)) {
                return Err(format!("path {path} stands before {later}, which is better"));
            }
        }
        let rejected: Vec<usize> =
            (0..self.c.len()).filter(|path| kept[path / size] == Some(true) && !paths.contains(path)).collect();
        for &other in &rejected {
            if let Some(path) = paths.iter().find(|&&path| self.before(other, path)) {
                return Err(format!("path {path} was chosen, {other} is better"));
            }
        }
        let all = paths.iter().chain(&rejected).copied();
        let decided = undecided == 0
            && paths
                .iter()
                .enumerate()
                .all(|(at, &path)| all.clone().skip(at + 1).all(|other| self.before(path, other)));
        if decided {
            let expected = route_paths(self.logits, self.bias, ids.len(), self.rule);
            if expected.ids != ids {
                return Err(format!("the paths are {ids:?}, expected {:?}", expected.ids));
            }
        }
        if let Some(margin) = margin {
            self.judge_margin(margin, &paths, &rejected, undecided)?;
        }
        Ok(decided)
    }

    fn judge_margin(
        &self,
        margin: f32,
        paths: &[usize],
        rejected: &[usize],
        undecided: usize,
    ) -> std::result::Result<(), String> {
        let size = self.c.len() / self.rule.groups;
        if paths.len() == size * self.rule.kept {
            return if margin == f32::INFINITY {
                Ok(())
            } else {
                Err(format!("the margin is {margin}, expected infinity"))
            };
        }
        // Among groups that are not decided, the best rejected may be any.
        if undecided > 0 {
            return if margin >= 0.0 { Ok(()) } else { Err(format!("the margin is {margin}")) };
        }
        let least = paths.iter().map(|&path| self.c[path]).fold(f64::INFINITY, f64::min);
        let best = rejected.iter().map(|&path| self.c[path]).fold(f64::NEG_INFINITY, f64::max);
        // The least of the chosen is off by no more than the worst of them, and so is the best of the rejected.
        let worst = |paths: &[usize]| paths.iter().map(|&path| self.bound[path]).fold(0.0, f64::max);
        let near = |paths: &[usize], value: f64| {
            let reach = 2.0 * worst(paths);
            let close: Vec<usize> =
                paths.iter().copied().filter(|&path| (self.c[path] - value).abs() <= reach).collect();
            worst(&close)
        };
        let expected = least - best;
        let bound =
            near(paths, least) + near(rejected, best) + ROUNDING * expected.abs() + f64::from(f32::MIN_POSITIVE);
        if (f64::from(margin) - expected).abs() > bound {
            return Err(format!("the margin is {margin}, expected {expected} ± {bound:.3e}"));
        }
        Ok(())
    }
}

impl Spec {
    fn name(&self) -> String {
        let mut name = format!("route_paths {}x{} {} {:?}", self.rows, self.paths, self.chosen, self.choice.score);
        if let Some(limit) = self.choice.groups {
            name += &format!(" {}of{}", limit.kept, limit.groups);
            name += if limit.score == GroupScore::SumOfTwo { " sum" } else { " max" };
        }
        name += if self.choice.renormalise { " renormalised" } else { "" };
        if self.choice.scale != 1.0 {
            name += &format!(" by {}", self.choice.scale);
        }
        name += &format!(" {:?}", self.logits);
        if self.bias != Bias::None {
            name += &format!(" bias={:?}", self.bias);
        }
        if self.selected != Selected::All {
            name += &format!(" selected={:?}", self.selected);
        }
        name += if self.margin { " margin" } else { "" };
        if self.shift > 0 {
            name += &format!(" shift={}", self.shift);
        }
        name.to_lowercase()
    }

    fn logits(&self, random: &mut Random) -> Vec<f32> {
        let size = self.choice.groups.map_or(1, |limit| self.paths / limit.groups as usize).max(1);
        let mut of_group = 0.0;
        (0..self.rows * self.paths)
            .map(|at| {
                if at % size == 0 {
                    of_group = random.integer();
                }
                match self.logits {
                    Logits::Usual => 4.0 * random.real(),
                    Logits::Integers => random.integer(),
                    Logits::Rounded => bf16::from_f32(2.0 * random.real()).to_f32(),
                    Logits::Negative => 2.0 * random.real() - 4.0,
                    Logits::Tail => 35.0 * random.real() - 45.0,
                    Logits::Large => 100.0 * random.real(),
                    Logits::Huge => 1e4 * random.real(),
                    Logits::Lost => -5050.0 + 4950.0 * random.real(),
                    Logits::Groups => of_group,
                    Logits::Zeros => {
                        if random.below(2) == 0 {
                            -0.0
                        } else {
                            0.0
                        }
                    }
                    Logits::Equal => -2.75,
                    Logits::Ulps => f32::from_bits(1f32.to_bits() - 1 + random.below(3)),
                    Logits::Saturated => 70.0 + 30.0 * random.real(),
                    Logits::End => [0.0, 1e10, 1e30, 3e38][random.below(4) as usize],
                    Logits::Subnormal => f32::from_bits(random.below(1 << 23)).copysign(random.real()),
                }
            })
            .collect()
    }

    fn bias(&self, random: &mut Random) -> Option<Vec<f32>> {
        let each = |_| match self.bias {
            Bias::None | Bias::Usual => 0.2 * random.real(),
            Bias::Uniform => -0.9,
            Bias::Integers => random.below(3) as f32 - 1.0,
            Bias::Zeros => [0.0, -0.0][random.below(2) as usize],
        };
        (self.bias != Bias::None).then(|| (0..self.paths).map(each).collect())
    }

    /// Whether every choice is between equals, or between logits that are scores themselves.
    fn leaves_no_choice(&self) -> bool {
        let Self { logits, bias, .. } = *self;
        let of_equals = matches!(logits, Logits::Equal | Logits::Zeros);
        let saturated = logits == Logits::Saturated && self.choice.score == Score::Sigmoid;
        let summed = self.choice.groups.is_some_and(|limit| limit.score == GroupScore::SumOfTwo);
        let exact = self.choice.score == Score::SoftmaxOfChosen && bias == Bias::None && !summed;
        of_equals || saturated || (exact && matches!(logits, Logits::Ulps | Logits::Subnormal))
    }

    async fn run(self, gpu: &Gpu) -> Result<Outcome> {
        let Self { rows, paths, chosen, .. } = self;
        let mut random = Random::new((rows * 31 + paths * 7 + chosen) as u64);
        let logits = self.logits(&mut random);
        let bias = self.bias(&mut random);
        let selected: Option<Vec<u32>> = match self.selected {
            Selected::All => None,
            Selected::Some => Some((0..rows as u32).map(|row| if row % 3 == 1 { u32::MAX } else { row }).collect()),
            Selected::None => Some(vec![u32::MAX; rows]),
        };
        let exact = |values: &[f32]| values.iter().map(|&value| f64::from(value)).collect::<Vec<f64>>();
        let (exact_logits, exact_bias) = (exact(&logits), bias.as_deref().map(exact));

        let logits = Operand::input(gpu, &[rows, paths], &Values::from(logits), self.shift)?;
        let bias = bias.map(|bias| Operand::input(gpu, &[paths], &Values::from(bias), self.shift)).transpose()?;
        let words = selected.as_ref().map(|words| Operand::words(gpu, &[rows], words, self.shift)).transpose()?;
        let ids = Operand::output(gpu, &[rows, chosen], Element::U32, self.shift)?;
        let gates = Operand::output(gpu, &[rows, chosen], Element::F32, self.shift)?;
        let margin = Operand::output(gpu, &[rows], Element::F32, self.shift)?;
        let mut kernel = RoutePaths::new(logits.tensor(), ids.tensor(), gates.tensor(), self.choice);
        let mut inputs = vec![("logits", &logits)];
        let mut outputs = vec![("ids", &ids), ("gates", &gates)];
        if let Some(bias) = &bias {
            kernel = kernel.correction_bias(bias.tensor());
            inputs.push(("bias", bias));
        }
        if let Some(words) = &words {
            kernel = kernel.selected(words.tensor());
            inputs.push(("selected", words));
        }
        if self.margin {
            kernel = kernel.margin(margin.tensor());
            outputs.push(("margin", &margin));
        }
        judge_together(gpu, &kernel.plan(gpu)?, &inputs, &outputs, |results| {
            let left_out = |row: usize| selected.as_ref().is_some_and(|selected| selected[row] == u32::MAX);
            let judge = |logits: &[f64]| self.judge(logits, exact_bias.as_deref(), left_out, results);
            let outcome = judge(&exact_logits);
            if self.logits == Logits::Subnormal && !outcome.passed() {
                return judge(&vec![0.0; exact_logits.len()]);
            }
            outcome
        })
        .await
    }

    fn judge(
        &self,
        logits: &[f64],
        bias: Option<&[f64]>,
        left_out: impl Fn(usize) -> bool,
        results: &[Vec<u8>],
    ) -> Outcome {
        let ids: Vec<u32> = bytemuck::pod_collect_to_vec(&results[0]);
        let gates: Vec<f32> = bytemuck::pod_collect_to_vec(&results[1]);
        let margin: Option<Vec<f32>> = results.get(2).map(|margin| bytemuck::pod_collect_to_vec(margin));
        let rule: PathRule = self.choice.into();
        let (mut expected, mut bound) = (Vec::new(), Vec::new());
        let mut undecided = 0;
        let fault = |row: usize, fault: String| Outcome {
            elements: ids.len(),
            worst: f64::INFINITY,
            signal: None,
            fault: Some(format!("row {row}: {fault}")),
        };
        for row in 0..self.rows {
            let ids = &ids[row * self.chosen..][..self.chosen];
            let margin = margin.as_ref().map(|margin| margin[row]);
            if left_out(row) {
                if ids.iter().any(|&id| id != u32::MAX) || margin.is_some_and(|margin| margin != 0.0) {
                    return fault(row, format!("is left out, its paths are {ids:?}, its margin {margin:?}"));
                }
                expected.resize(expected.len() + self.chosen, 0.0);
                bound.resize(expected.len(), 0.0);
                continue;
            }
            let logits = &logits[row * self.paths..][..self.paths];
            match Row::new(&told_apart(logits, rule.score), bias, rule).judge(ids, margin) {
                Ok(decided) => undecided += usize::from(!decided),
                Err(reason) => return fault(row, reason),
            }
            expected.extend(path_gates(logits, ids, rule));
            bound.extend(gate_bound(logits, ids, rule));
        }
        if undecided > 0 && self.leaves_no_choice() {
            return fault(0, format!("and others, {undecided} of {}: the bound decides too little", self.rows));
        }
        if matches!(self.logits, Logits::Usual) && undecided as f64 > UNDECIDED * self.rows as f64 {
            return fault(0, format!("and others, {undecided} of {}: the bound decides too little", self.rows));
        }
        compare(&gates, &expected, &bound)
    }
}

/// The routers of published models: paths, chosen, and how.
fn published() -> Vec<(usize, usize, PathChoice, Bias)> {
    let groups = |kept, score| Some(GroupLimit { groups: 8, kept, score });
    let softmax = PathChoice::default();
    let sigmoid = PathChoice { score: Score::Sigmoid, renormalise: true, ..softmax };
    vec![
        (160, 6, PathChoice { groups: groups(3, GroupScore::Max), scale: 16.0, ..softmax }, Bias::None),
        (256, 8, PathChoice { groups: groups(4, GroupScore::SumOfTwo), scale: 2.5, ..sigmoid }, Bias::Usual),
        (384, 8, PathChoice { scale: 2.827, ..sigmoid }, Bias::Usual),
        (8, 2, PathChoice { score: Score::SoftmaxOfChosen, ..softmax }, Bias::None),
        (64, 8, softmax, Bias::None),
        (128, 8, PathChoice { renormalise: true, ..softmax }, Bias::None),
        (60, 4, softmax, Bias::None),
    ]
}

pub(super) fn cases() -> Vec<Case> {
    let plain = |rows, paths, chosen, choice| Spec {
        rows,
        paths,
        chosen,
        choice,
        logits: Logits::Usual,
        bias: Bias::None,
        selected: Selected::All,
        margin: true,
        shift: 0,
    };
    let scored = |score| PathChoice { score, ..PathChoice::default() };
    let limited =
        |score, groups, kept, of| PathChoice { groups: Some(GroupLimit { groups, kept, score: of }), ..scored(score) };
    let all_scores = [Score::Softmax, Score::Sigmoid, Score::SqrtSoftplus, Score::SoftmaxOfChosen];
    let mut specs = Vec::new();
    for (paths, chosen, choice, bias) in published() {
        let published = Spec { bias, ..plain(67, paths, chosen, choice) };
        specs.extend([published, Spec { logits: Logits::Integers, ..published }]);
        specs.push(Spec { logits: Logits::Rounded, margin: false, selected: Selected::Some, ..published });
    }
    let [grouped_by_max, grouped_by_sum] = [0, 1].map(|at| published()[at]);
    for (paths, chosen, choice, bias) in [grouped_by_max, grouped_by_sum] {
        let published = Spec { bias, ..plain(65, paths, chosen, choice) };
        // Groups that are equal; c that are all negative, among which a score of 0 would win.
        specs.push(Spec { logits: Logits::Groups, bias: Bias::None, ..published });
        specs.push(Spec { bias: Bias::Uniform, ..published });
        specs.push(Spec { logits: Logits::Negative, bias: Bias::Uniform, ..published });
        specs.push(Spec { selected: Selected::None, ..published });
        // Nothing to do, one row, and rows that do not start at a quad.
        specs.extend([0, 1].map(|rows| Spec { rows, ..published }));
        specs.extend([1, 2, 4].map(|shift| Spec { shift, ..published }));
    }
    // Rows of any length, and all of a row or as many as can be chosen.
    for (at, &paths) in [1, 2, 7, 33, 384, 1000, 1024].iter().enumerate() {
        let score = all_scores[at % 4];
        specs.push(plain(9, paths, 1, scored(score)));
        specs.push(Spec { bias: Bias::Usual, ..plain(9, paths, paths.min(64), scored(score)) });
    }
    specs.push(Spec { bias: Bias::Usual, ..plain(5, 2048, 64, scored(Score::Sigmoid)) });
    // More chosen than there are.
    specs.push(plain(9, 5, 8, scored(Score::Softmax)));
    specs.push(plain(9, 64, 20, limited(Score::Sigmoid, 16, 2, GroupScore::Max)));
    specs.push(plain(9, 8, 4, limited(Score::SoftmaxOfChosen, 8, 1, GroupScore::SumOfTwo)));
    // Groups in lanes and lanes in groups, of sizes that no quad fits.
    for (paths, groups, kept) in
        [(1024, 64, 8), (960, 64, 5), (1023, 3, 2), (1020, 5, 2), (2040, 17, 3), (60, 4, 2), (96, 2, 1)]
    {
        for (score, of) in [(Score::Sigmoid, GroupScore::SumOfTwo), (Score::SoftmaxOfChosen, GroupScore::Max)] {
            let spec = plain(9, paths, 6, limited(score, groups, kept, of));
            specs.extend([spec, Spec { logits: Logits::Integers, bias: Bias::Integers, ..spec }]);
        }
    }
    // Logits at which exp is 0 or its argument is large.
    for score in all_scores {
        for logits in [Logits::Large, Logits::Huge, Logits::Lost, Logits::Negative, Logits::Tail, Logits::Zeros] {
            let choice = PathChoice { renormalise: true, ..scored(score) };
            specs.push(Spec { logits, ..plain(33, 64, 6, choice) });
        }
        specs.push(Spec { bias: Bias::Usual, margin: false, ..plain(33, 64, 6, scored(score)) });
    }
    // Equals by the thousand: among paths, among groups, through saturated scores, and where zeros differ in sign. Infinite logits are left
    // out: what WGSL makes of them is not defined, nor is it with the biases that published routers have; nor are groups of subnormals,
    // whose scores are computed and may be flushed while their paths' are not.
    let attacked = all_scores.into_iter().flat_map(|score| {
        let ends = [Logits::Equal, Logits::Zeros, Logits::End].into_iter();
        let own = match score {
            Score::Sigmoid => Some(Logits::Saturated),
            Score::SoftmaxOfChosen => Some(Logits::Ulps),
            _ => None,
        };
        ends.chain(own).map(move |logits| (score, logits))
    });
    for (score, logits) in attacked {
        let choice = PathChoice { renormalise: true, ..scored(score) };
        let grouped = [(8, 4, GroupScore::SumOfTwo), (16, 3, GroupScore::Max)]
            .map(|(groups, kept, of)| plain(7, 256, 8, limited(score, groups, kept, of)));
        let all = [plain(7, 2048, 64, scored(score))].into_iter().chain(grouped).map(|spec| Spec { logits, ..spec });
        specs.extend(all);
        if matches!(logits, Logits::Equal | Logits::Zeros) {
            specs.push(Spec { logits, bias: Bias::Zeros, ..plain(7, 64, 1, choice) });
            specs.push(Spec { logits, bias: Bias::Integers, ..plain(7, 61, 61, choice) });
            specs.extend(grouped.map(|spec| Spec { logits, bias: Bias::Zeros, ..spec }));
        }
    }
    for (paths, chosen) in [(64, 6), (1000, 64), (2048, 1)] {
        specs.push(Spec { logits: Logits::Subnormal, ..plain(7, paths, chosen, scored(Score::SoftmaxOfChosen)) });
    }
    // More than 65 535 workgroups.
    specs.push(plain(70_001, 8, 2, scored(Score::SoftmaxOfChosen)));
    specs
        .into_iter()
        .map(|spec| Case {
            kernel: "route_paths",
            name: spec.name(),
            heavy: spec.rows * spec.paths > 500_000,
            run: Box::new(move |gpu| Box::pin(spec.run(gpu))),
        })
        .collect()
}
