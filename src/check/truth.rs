//! Judging what a layer computes.

use super::{Outcome, bench::compare, moe::judge_choice};
use crate::{
    Element, Output, PathSettings, Result, Selection, Settings, Values, Weights,
    reference::{BF16_UNIT, F16_UNIT, Forward, Layer, TwoLevels, path_gates, rounded_bound},
};

/// An evaluation may be this many times as far from the truth as plain f32 loops on the CPU are on the same input, by the
/// signal measure; errors below the floor are too small to compare.
const YARDSTICKS: f64 = 4.0;
const FLOOR: f64 = 1e-6;

/// The truth about a layer's results: its f64 forward, the bounds on an f32 one, and a plain f32 one as yardstick. Judged part by part,
/// since sequences are independent and the reference's intermediates are large. Which tokens and paths a device has chosen is taken as
/// it is where the truth is not sure of it, and refused where it is.
///
/// ```no_run
/// # async fn check(layer: &double_routing::DoubleRouting, weights: &double_routing::Weights, x: &[f32])
/// # -> double_routing::Result<()> {
/// let output = layer.run(x, &[8, 512, 768], None).await?;
/// let mut truth = double_routing::check::LayerTruth::new(weights, layer.settings());
/// truth.extend(x, &[8, 512, 768], None, &output)?;
/// let judgement = truth.judge();
/// assert!(judgement.passed(), "{judgement:?}");
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct LayerTruth {
    layer: Layer<f64>,
    plain: Layer<f32>,
    levels: TwoLevels,
    selection: Selection,
    /// How y was stored.
    stored: Element,
    worst: f64,
    fault: Option<String>,
    /// Squares of the error of y, of plain f32 loops' error, of the signal and of y, over what was routed.
    error: f64,
    yardstick: f64,
    signal: f64,
    size: f64,
}

impl LayerTruth {
    /// Of a layer with these weights and settings, for no input yet.
    ///
    /// ```no_run
    /// # use double_routing::{Settings, Weights, check::LayerTruth};
    /// # fn truth(weights: &Weights, settings: Settings) -> LayerTruth {
    /// LayerTruth::new(weights, settings)
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
            stored: Element::F32,
            worst: 0.0,
            fault: None,
            error: 0.0,
            yardstick: 0.0,
            signal: 0.0,
            size: 0.0,
        }
    }

    /// Of a layer whose y was stored in this type: its elements may be off by half a ULP more, and what plain f32 loops compute is rounded
    /// as well.
    ///
    /// ```no_run
    /// # use double_routing::{Element, check::LayerTruth};
    /// # fn truth(truth: LayerTruth) -> LayerTruth {
    /// truth.stored(Element::BF16)
    /// # }
    /// ```
    #[must_use]
    pub fn stored(mut self, y: Element) -> Self {
        self.stored = y;
        self
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
    /// # use double_routing::{Output, Result, check::LayerTruth};
    /// # fn add(truth: &mut LayerTruth, x: &[f32], output: &Output) -> Result<()> {
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
            if let Some(fault) = fault {
                self.refuse(fault);
                return Ok(());
            }
        }
        let (tokens, wide, r) = (truth.w.len(), self.levels.width(&self.layer), self.layer.routing);
        if output.y.len() != tokens * wide {
            self.refuse(format!("y has {} elements, expected {}", output.y.len(), tokens * wide));
            return Ok(());
        }
        let mut expected = vec![0.0; tokens * wide];
        let mut bound = vec![0.0; expected.len()];
        let (mut gates, mut of_gates) = (Vec::new(), Vec::new());
        let mut wrong = None;
        let levels = self.levels.clone();
        for (row, token) in levels.rows(&output.indices, tokens, shape).into_iter().enumerate() {
            let Some((paths, each, rule)) = &levels.paths else {
                if let Some(token) = token {
                    let to = token * wide..(token + 1) * wide;
                    self.count(&output.y[to.clone()], &plain.y[to.clone()], &truth.y[to.clone()], &truth.d);
                    expected[to.clone()].copy_from_slice(&truth.y[to.clone()]);
                    bound[to.clone()].copy_from_slice(&of_y[to]);
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
            let (plain_paths, plain_row) = (paths.cast::<f32>(), &plain.routed[token * r..][..r]);
            let plain_logits: Vec<f64> = plain_paths.logits(plain_row).iter().map(|&logit| logit.into()).collect();
            let plain_gates: Vec<f32> = path_gates(&plain_logits, ids, *rule).iter().map(|&gate| gate as f32).collect();
            self.count(&output.y[to.clone()], &plain_paths.run(plain_row, ids, &plain_gates), &y, &d);
            expected[to].copy_from_slice(&y);
            gates.extend(judged.gates);
            of_gates.extend(judged.of_gates);
        }
        let unit = match self.stored {
            Element::F16 => Some(F16_UNIT),
            Element::BF16 => Some(BF16_UNIT),
            Element::F32 | Element::U32 => None,
        };
        if let Some(unit) = unit {
            // Where nothing was routed y is 0.
            let elements = bound.iter_mut().zip(&expected).filter(|(bound, _)| **bound > 0.0);
            elements.for_each(|(bound, &y)| *bound = rounded_bound(y, *bound, unit));
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

    fn refuse(&mut self, fault: String) {
        self.fault = Some(fault);
        self.worst = f64::INFINITY;
    }

    /// A row's share of the error, of plain f32 loops' and of the signal, which is what y has beside d.
    fn count(&mut self, y: &[f32], plain: &[f32], truth: &[f64], d: &[f64]) {
        self.error += distance(y, truth);
        self.yardstick += distance(&Values::rounded(plain, self.stored).to_f32(), truth);
        self.signal += truth.iter().zip(d).map(|(y, d)| (y - d).powi(2)).sum::<f64>();
        self.size += truth.iter().map(|y| y.powi(2)).sum::<f64>();
    }

    /// Judges all that was added. The error counts relative to the signal of what was routed, as in
    /// [`signal_error`](crate::reference::signal_error).
    ///
    /// ```no_run
    /// # fn judge(truth: &double_routing::check::LayerTruth) {
    /// assert!(truth.judge().passed());
    /// # }
    /// ```
    pub fn judge(&self) -> Judgement {
        let scale = if self.signal > 0.0 { self.signal } else { self.size };
        let by_signal = |error: f64| if error == 0.0 { 0.0 } else { (error / scale).sqrt() };
        let (error, yardstick) = (by_signal(self.error), by_signal(self.yardstick));
        let allowed = (YARDSTICKS * yardstick).max(FLOOR);
        // An error that is NaN is not allowed either.
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

/// How far a layer's results are from the truth.
///
/// ```
/// # fn show(judgement: double_routing::check::Judgement) {
/// println!("error by signal {:.1e}, allowed {:.1e}", judgement.error, judgement.allowed);
/// # }
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Judgement {
    /// The error of y by its signal, [`signal_error`](crate::reference::signal_error).
    pub error: f64,
    /// The same for plain f32 loops on the CPU.
    pub yardstick: f64,
    /// What the error may be: 4 times the yardstick, and 1e-6 where that is less.
    pub allowed: f64,
    /// The worst element of y and w, its error as a share of its forward error bound ([`Layer::bounds`](crate::reference::Layer::bounds)).
    pub worst: f64,
    /// What is wrong, if anything is.
    pub fault: Option<String>,
}

impl Judgement {
    /// The same as what comes of a case.
    pub(super) fn outcome(self, elements: usize) -> Outcome {
        let Self { error, allowed, worst, fault, .. } = self;
        Outcome { elements, worst: worst.max(error / allowed), signal: Some(error), fault }
    }

    /// Whether the error by signal is allowed and every element is within its bound.
    ///
    /// ```
    /// # fn show(judgement: double_routing::check::Judgement) {
    /// assert!(judgement.passed());
    /// # }
    /// ```
    pub fn passed(&self) -> bool {
        self.fault.is_none()
    }
}
