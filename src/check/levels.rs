//! Cases of the layer's two levels: tokens that are selected, and paths that are chosen.

use super::{
    Case, Judgement,
    bench::{Random, compare},
    moe::judge_choice,
    routing::allowed,
};
use crate::{
    DoubleRouting, Gpu, Linear, Output, PathSettings, PlanKind, Result, Selection, Settings, Weights,
    check::Outcome,
    kernels::{GroupLimit, GroupScore, PathChoice, Score},
    reference::{Forward, Layer, TwoLevels, path_gates},
};

/// The truth about the results of a layer that selects tokens or has several paths, judged part by part. What a device has decided is
/// taken as it is where the truth is not sure of it, and refused where it is.
///
/// ```no_run
/// # async fn check(layer: &double_routing::DoubleRouting, weights: &double_routing::Weights, x: &[f32])
/// # -> double_routing::Result<()> {
/// let output = layer.run(x, &[8, 512, 768], None).await?;
/// let mut truth = double_routing::check::LevelsTruth::new(weights, layer.settings());
/// truth.extend(x, &[8, 512, 768], None, &output)?;
/// let judgement = truth.judge();
/// assert!(judgement.passed(), "{judgement:?}");
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct LevelsTruth {
    layer: Layer<f64>,
    plain: Layer<f32>,
    levels: TwoLevels,
    selection: Selection,
    worst: f64,
    fault: Option<String>,
    /// Squares of the error of y, of plain f32 loops' error, and of the signal, over what was routed.
    error: f64,
    yardstick: f64,
    signal: f64,
}

impl LevelsTruth {
    /// Of a layer with these weights and settings, for no input yet.
    ///
    /// ```no_run
    /// # use double_routing::{Settings, Weights, check::LevelsTruth};
    /// # fn truth(weights: &Weights, settings: Settings) -> LevelsTruth {
    /// LevelsTruth::new(weights, settings)
    /// # }
    /// ```
    pub fn new(weights: &Weights, settings: Settings) -> Self {
        let layer = weights.to_reference();
        let paths = weights.paths_to_reference();
        let PathSettings { per_token, choice } = settings.paths;
        Self {
            plain: layer.cast(),
            layer,
            levels: TwoLevels { count: None, paths: paths.map(|paths| (paths, per_token, choice.into())) },
            selection: settings.selection,
            worst: 0.0,
            fault: None,
            error: 0.0,
            yardstick: 0.0,
            signal: 0.0,
        }
    }

    /// Adds the output for x (f32 `[…, in]`), with or without lengths.
    ///
    /// # Errors
    /// [`Error::Gpu`](crate::Error::Gpu) where the output names a path that there is not.
    ///
    /// # Panics
    /// Where x is shorter than its shape.
    ///
    /// ```no_run
    /// # use double_routing::{Output, Result, check::LevelsTruth};
    /// # fn add(truth: &mut LevelsTruth, x: &[f32], output: &Output) -> Result<()> {
    /// truth.extend(x, &[4, 9, 768], Some(&[9, 5, 1, 0]), output)
    /// # }
    /// ```
    pub fn extend(&mut self, x: &[f32], shape: &[usize], lengths: Option<&[u32]>, output: &Output) -> Result<()> {
        let exact: Vec<f64> = x.iter().map(|&x| x.into()).collect();
        let truth = self.layer.forward(&exact, shape, lengths);
        let (of_w, of_routed) = self.layer.routed_bounds(&truth, &exact, shape, lengths);
        let of_y = match self.levels.paths {
            None => self.layer.bounds(&truth, &exact, shape, lengths).1,
            Some(_) => Vec::new(),
        };
        let plain = self.plain.forward(x, shape, lengths);
        self.levels.count = shape.get(1).filter(|_| shape.len() == 3).and_then(|&s| self.selection.count(s));
        if self.levels.count.is_some() {
            let fault = self.judge_selection(&output.indices, shape, &truth, &of_w, lengths);
            if fault.is_some() {
                self.fault = fault;
                self.worst = f64::INFINITY;
                return Ok(());
            }
        }
        let (tokens, wide, r) = (truth.w.len(), self.levels.width(&self.layer), self.layer.routing);
        let mut expected = vec![0.0; tokens * wide];
        let mut bound = vec![0.0; expected.len()];
        let (mut gates, mut of_gates) = (Vec::new(), Vec::new());
        let mut wrong = None;
        for (row, token) in self.levels.rows(&output.indices, tokens, shape).into_iter().enumerate() {
            let Some((paths, each, rule)) = &self.levels.paths else {
                if let Some(token) = token {
                    let to = token * wide..(token + 1) * wide;
                    expected[to.clone()].copy_from_slice(&truth.y[to.clone()]);
                    bound[to.clone()].copy_from_slice(&of_y[to.clone()]);
                    self.error += distance(&output.y[to.clone()], &truth.y[to.clone()]);
                    self.yardstick += distance(&plain.y[to.clone()], &truth.y[to.clone()]);
                    self.signal += truth.y[to].iter().zip(&truth.d).map(|(y, d)| (y - d).powi(2)).sum::<f64>();
                }
                continue;
            };
            let ids = output.ids.get(row * each..(row + 1) * each).unwrap_or_default();
            let Some(token) = token else {
                if ids.iter().any(|&id| id != u32::MAX) {
                    wrong = Some(format!("row {row} is no token, but has paths {ids:?}"));
                }
                gates.extend(vec![0.0; *each]);
                of_gates.extend(vec![0.0; *each]);
                continue;
            };
            let to = token * wide..(token + 1) * wide;
            let (routed, of_row) = (&truth.routed[token * r..][..r], &of_routed[token * r..][..r]);
            let (of_logits, _) = paths.bounds(routed, of_row, &[], &[], &[]);
            let off = of_logits.into_iter().fold(0.0, f64::max);
            let judged = judge_choice(&paths.logits(routed), off, None, ids, *rule)?;
            wrong = wrong.or(judged.fault.map(|fault| format!("token {token}: {fault}")));
            let y = paths.run(routed, ids, &judged.gates);
            bound[to.clone()].copy_from_slice(&paths.bounds(routed, of_row, ids, &judged.gates, &judged.of_gates).1);
            // What the token's paths would give without the token: routing1's bias through them.
            let d = paths.run(&self.layer.routing1_bias, ids, &judged.gates);
            self.error += distance(&output.y[to.clone()], &y);
            let (plain_paths, plain_row) = (paths.cast::<f32>(), &plain.routed[token * r..][..r]);
            let plain_logits: Vec<f64> = plain_paths.logits(plain_row).iter().map(|&logit| logit.into()).collect();
            let plain_gates: Vec<f32> = path_gates(&plain_logits, ids, *rule).iter().map(|&gate| gate as f32).collect();
            self.yardstick += distance(&plain_paths.run(plain_row, ids, &plain_gates), &y);
            self.signal += y.iter().zip(&d).map(|(y, d)| (y - d).powi(2)).sum::<f64>();
            expected[to].copy_from_slice(&y);
            gates.extend(judged.gates);
            of_gates.extend(judged.of_gates);
        }
        for (name, result, truth, bound) in [
            ("y", &output.y, &expected, &bound),
            ("w", &output.w, &truth.w, &of_w),
            ("gates", &output.gates, &gates, &of_gates),
        ] {
            let own = compare(result, truth, bound);
            self.worst = self.worst.max(own.worst);
            wrong = wrong.or(own.fault.map(|fault| format!("{name}: {fault}")));
        }
        self.fault = self.fault.take().or(wrong);
        Ok(())
    }

    /// Judges all that was added. The error counts relative to the signal of what was routed.
    ///
    /// ```no_run
    /// # fn judge(truth: &double_routing::check::LevelsTruth) {
    /// assert!(truth.judge().passed());
    /// # }
    /// ```
    pub fn judge(&self) -> Judgement {
        let by_signal = |error: f64| if error == 0.0 { 0.0 } else { (error / self.signal).sqrt() };
        let (error, yardstick) = (by_signal(self.error), by_signal(self.yardstick));
        let allowed = allowed(yardstick);
        let too_far =
            (error.is_nan() || error > allowed).then(|| format!("error by signal {error:.3e}, allowed {allowed:.3e}"));
        Judgement { error, yardstick, allowed, worst: self.worst, fault: self.fault.clone().or(too_far) }
    }

    /// What is wrong with the selected positions, if anything is: they must be those of the largest weights, largest first,
    /// as far as weights are known.
    fn judge_selection(
        &self,
        indices: &[u32],
        shape: &[usize],
        truth: &Forward<f64>,
        of_w: &[f64],
        lengths: Option<&[u32]>,
    ) -> Option<String> {
        let (sequences, positions, count) = (shape[0], shape[1], self.levels.count?);
        if indices.len() != sequences * count {
            return Some(format!("{} indices, expected {}", indices.len(), sequences * count));
        }
        for sequence in 0..sequences {
            let unmasked = lengths.map_or(positions, |lengths| lengths[sequence] as usize).min(positions);
            let own = &indices[sequence * count..][..count];
            let (tokens, rest) = own.split_at(count.min(unmasked));
            let at = |position: usize| sequence * positions + position;
            let mut left = vec![true; unmasked];
            if rest.iter().any(|&index| index != u32::MAX) {
                return Some(format!("sequence {sequence} has {own:?} of {unmasked} tokens"));
            }
            for &token in tokens {
                if left.get(token as usize) != Some(&true) {
                    return Some(format!("sequence {sequence} has {own:?} of {unmasked} tokens"));
                }
                left[token as usize] = false;
            }
            // Every token weighs no less than any that comes behind it, selected or not.
            let least = |position: usize| truth.w[at(position)] - of_w[at(position)];
            let rejected = (0..unmasked).filter(|&position| left[position]);
            let mut heaviest = rejected.max_by(|&a, &b| least(a).total_cmp(&least(b)));
            for &token in tokens.iter().rev() {
                let token = token as usize;
                let most = truth.w[at(token)] + of_w[at(token)];
                if let Some(heavier) = heaviest.filter(|&other| least(other) > most) {
                    return Some(format!(
                        "sequence {sequence}: token {token} comes before {heavier}, which weighs more"
                    ));
                }
                if heaviest.is_none_or(|other| least(token) > least(other)) {
                    heaviest = Some(token);
                }
            }
        }
        None
    }
}

/// ‖result − truth‖².
fn distance(result: &[f32], truth: &[f64]) -> f64 {
    result.iter().zip(truth).map(|(&result, truth)| (f64::from(result) - truth).powi(2)).sum()
}

#[derive(Debug, Clone, Copy)]
struct Spec {
    shape: [usize; 3],
    /// A, R and O.
    widths: [usize; 3],
    plan: PlanKind,
    selection: Selection,
    paths: usize,
    per_token: usize,
    choice: PathChoice,
    masked: bool,
}

impl Spec {
    fn name(&self) -> String {
        let Self { shape: [b, s, input], widths: [a, r, o], paths, per_token, .. } = self;
        let plan = if self.plan == PlanKind::Folded { "folded" } else { "as-written" };
        let mut name = format!("levels {b}x{s}x{input} {a},{r},{o} {plan}");
        name += &match self.selection {
            Selection::All => String::new(),
            Selection::TopK(count) => format!(" top={count}"),
            Selection::Fraction(share) => format!(" fraction={share}"),
        };
        if *paths > 0 {
            name += &format!(" {per_token} of {paths} paths {:?}", self.choice.score).to_lowercase();
            name += if self.choice.groups.is_some() { " groups" } else { "" };
        }
        name += if self.masked { " masked" } else { "" };
        name
    }

    fn weights(&self, random: &mut Random) -> Result<Weights> {
        let ([_, _, input], [a, r, o]) = (self.shape, self.widths);
        let mut linear = |out: usize, features: usize, scale: f32| {
            let scale = scale / (features as f32).sqrt();
            let mut values = |count: usize| (0..count).map(|_| random.real() * scale).collect::<Vec<f32>>();
            Linear::new(values(out * features), [out, features], values(out))
        };
        let (embedding, attention, routing1) = (linear(a, input, 2.0), linear(1, a, 6.0), linear(r, a, 2.0));
        match self.paths {
            0 => Weights::new(embedding, attention, routing1, linear(o, r, 1.0)),
            paths => {
                let (gate, routing2) = (linear(paths, r, 8.0), linear(paths * o, r, 1.0));
                Weights::with_paths(embedding, attention, routing1, gate, routing2)
            }
        }
    }

    async fn run(self, gpu: &Gpu) -> Result<Outcome> {
        let [sequences, positions, input] = self.shape;
        let mut random = Random::new((sequences * 31 + positions * 7 + input + self.paths) as u64);
        let weights = self.weights(&mut random)?;
        let x: Vec<f32> = (0..sequences * positions * input).map(|_| random.real()).collect();
        let lengths: Option<Vec<u32>> = self.masked.then(|| {
            // One sequence without a token, one with fewer than are to be selected.
            let mut lengths: Vec<u32> = (0..sequences).map(|_| random.below(positions as u32 + 1)).collect();
            lengths.iter_mut().zip([0, 2]).for_each(|(length, short)| *length = short.min(positions as u32));
            lengths
        });
        let settings = Settings {
            plan: self.plan,
            selection: self.selection,
            paths: PathSettings { per_token: self.per_token, choice: self.choice },
            ..Settings::default()
        };
        let layer = DoubleRouting::new(gpu, &weights, settings)?;
        let output = layer.run(&x, &self.shape, lengths.as_deref()).await?;
        let mut truth = LevelsTruth::new(&weights, settings);
        truth.extend(&x, &self.shape, lengths.as_deref(), &output)?;
        let elements = output.y.len() + output.w.len() + output.gates.len();
        let Judgement { error, worst, fault, .. } = truth.judge();
        Ok(Outcome { elements, worst, signal: Some(error), fault })
    }
}

pub(super) fn cases() -> Vec<Case> {
    let plain = |shape, widths, selection| Spec {
        shape,
        widths,
        plan: PlanKind::Folded,
        selection,
        paths: 0,
        per_token: 1,
        choice: PathChoice::default(),
        masked: false,
    };
    let mut specs = Vec::new();
    let (small, narrow, wide) = (([3, 17, 20], [6, 10, 14]), ([2, 50, 40], [3, 33, 36]), ([1, 130, 12], [24, 16, 8]));
    for plan in [PlanKind::Folded, PlanKind::AsWritten] {
        for (shape, widths) in [small, narrow, wide] {
            for selection in [Selection::TopK(1), Selection::TopK(5), Selection::TopK(1000), Selection::Fraction(0.125)]
            {
                let masked = selection == Selection::TopK(1000) || shape[1] == 17;
                specs.push(Spec { plan, masked, ..plain(shape, widths, selection) });
            }
            for (paths, per_token) in [(1, 1), (6, 2), (64, 8)] {
                for selection in [Selection::All, Selection::TopK(7)] {
                    let masked = selection != Selection::All;
                    specs.push(Spec { plan, paths, per_token, masked, ..plain(shape, widths, selection) });
                }
            }
        }
    }
    for score in [Score::Sigmoid, Score::SqrtSoftplus, Score::SoftmaxOfChosen] {
        let choice = PathChoice { score, renormalise: true, scale: 2.5, groups: None };
        specs.push(Spec { paths: 12, per_token: 3, choice, ..plain(small.0, small.1, Selection::TopK(4)) });
        let limit = GroupLimit { groups: 4, kept: 2, score: GroupScore::SumOfTwo };
        let choice = PathChoice { groups: Some(limit), ..choice };
        specs.push(Spec { paths: 12, per_token: 3, choice, ..plain(narrow.0, narrow.1, Selection::All) });
    }
    // No token, no sequence.
    specs.push(plain([2, 0, 8], [4, 4, 4], Selection::TopK(3)));
    specs.push(Spec { paths: 5, per_token: 2, ..plain([0, 9, 8], [4, 4, 4], Selection::Fraction(0.5)) });
    specs
        .into_iter()
        .map(|spec| Case {
            kernel: "levels",
            name: spec.name(),
            heavy: false,
            run: Box::new(move |gpu| Box::pin(spec.run(gpu))),
        })
        .collect()
}
