//! Cases of the layer: both plans and every order.

use super::{
    Case,
    bench::{Random, compare},
};
use crate::{
    Dimensions, DoubleRouting, Gpu, Linear, Order, PlanKind, Result, Settings, Values, Weights,
    check::Outcome,
    reference::{Forward, Layer, signal_error},
};

/// An evaluation may be this many times as far from the truth as plain f32 loops on the CPU are on the same input, by the
/// signal measure; errors below the floor are too small to compare.
const YARDSTICKS: f64 = 4.0;
const FLOOR: f64 = 1e-6;

/// What an error by signal may be.
pub(super) fn allowed(yardstick: f64) -> f64 {
    (YARDSTICKS * yardstick).max(FLOOR)
}

/// The truth about a layer's results: its f64 forward, the bounds on an f32 one, and a plain f32 one as yardstick. Gathered
/// part by part, since sequences are independent and the reference's intermediates are large.
///
/// ```no_run
/// # async fn check(layer: &double_routing::DoubleRouting, weights: &double_routing::Weights, x: &[f32])
/// # -> double_routing::Result<()> {
/// let mut truth = double_routing::check::LayerTruth::new(weights);
/// truth.extend(x, &[8, 512, 768], None);
/// let output = layer.run(x, &[8, 512, 768], None).await?;
/// let judgement = truth.judge(&output.y, &output.w);
/// assert!(judgement.passed(), "{judgement:?}");
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct LayerTruth {
    layer: Layer<f64>,
    plain: Layer<f32>,
    truth: Forward<f64>,
    plain_y: Vec<f32>,
    of_w: Vec<f64>,
    of_y: Vec<f64>,
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
    /// The error of y by its signal, [`signal_error`].
    pub error: f64,
    /// The same for plain f32 loops on the CPU.
    pub yardstick: f64,
    /// What the error may be: 4 times the yardstick, and 1e-6 where that is less.
    pub allowed: f64,
    /// The worst element of y and w, its error as a share of its forward error bound ([`Layer::bounds`]).
    pub worst: f64,
    /// What is wrong, if anything is.
    pub fault: Option<String>,
}

impl Judgement {
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

impl LayerTruth {
    /// Of a layer with these weights, for no input yet.
    ///
    /// ```no_run
    /// # fn truth(weights: &double_routing::Weights) -> double_routing::check::LayerTruth {
    /// double_routing::check::LayerTruth::new(weights)
    /// # }
    /// ```
    pub fn new(weights: &Weights) -> Self {
        let layer = weights.to_reference();
        Self {
            plain: layer.cast(),
            layer,
            truth: Forward { h: vec![], logits: vec![], w: vec![], routed: vec![], y: vec![], d: vec![] },
            plain_y: Vec::new(),
            of_w: Vec::new(),
            of_y: Vec::new(),
        }
    }

    /// Adds the forward of x (f32 `[…, in]`, rank 2 or more), with or without lengths, behind those already there.
    ///
    /// # Panics
    /// Where x is shorter than its shape.
    ///
    /// ```no_run
    /// # fn add(truth: &mut double_routing::check::LayerTruth, x: &[f32]) {
    /// truth.extend(x, &[4, 9, 768], Some(&[9, 5, 1, 0]));
    /// # }
    /// ```
    pub fn extend(&mut self, x: &[f32], shape: &[usize], lengths: Option<&[u32]>) {
        let exact: Vec<f64> = x.iter().map(|&x| x.into()).collect();
        let part = self.layer.forward(&exact, shape, lengths);
        let (of_w, of_y) = self.layer.bounds(&part, &exact, shape, lengths);
        self.of_w.extend(of_w);
        self.of_y.extend(of_y);
        self.plain_y.extend(self.plain.forward(x, shape, lengths).y);
        self.truth.w.extend(part.w);
        self.truth.y.extend(part.y);
        self.truth.d = part.d;
    }

    /// Judges the results for all that was added.
    ///
    /// ```no_run
    /// # fn judge(truth: &double_routing::check::LayerTruth, output: &double_routing::Output) {
    /// assert!(truth.judge(&output.y, &output.w).passed());
    /// # }
    /// ```
    pub fn judge(&self, y: &[f32], w: &[f32]) -> Judgement {
        let (by_y, by_w) = (compare(y, &self.truth.y, &self.of_y), compare(w, &self.truth.w, &self.of_w));
        let complete = y.len() == self.truth.y.len();
        let error = if complete { signal_error(y, &self.truth) } else { f64::INFINITY };
        let yardstick = signal_error(&self.plain_y, &self.truth);
        let allowed = allowed(yardstick);
        // An error that is NaN is not allowed either.
        let too_far =
            (error.is_nan() || error > allowed).then(|| format!("error by signal {error:.3e}, allowed {allowed:.3e}"));
        let fault = by_w.fault.map(|fault| format!("w: {fault}")).or(by_y.fault.map(|fault| format!("y: {fault}")));
        Judgement { error, yardstick, allowed, worst: by_y.worst.max(by_w.worst), fault: fault.or(too_far) }
    }
}

#[derive(Debug, Clone)]
struct Spec {
    shape: Vec<usize>,
    /// A, R and O.
    widths: [usize; 3],
    order: Order,
    masked: bool,
    half: bool,
    invariant: bool,
}

impl Spec {
    fn name(&self) -> String {
        let order = match self.order {
            Order::AsWritten => "as-written",
            Order::Whole => "folded-whole",
            Order::Embedding => "folded-behind-embedding",
            Order::Routing => "folded-before-routing2",
            Order::Apart => "folded-apart",
        };
        let shape: Vec<_> = self.shape.iter().map(usize::to_string).collect();
        let widths: Vec<_> = self.widths.iter().map(usize::to_string).collect();
        let mut name = format!("routing {} {} {order}", shape.join("x"), widths.join(","));
        name += if self.masked { " lengths" } else { "" };
        name += if self.half { " bf16" } else { "" };
        name += if self.invariant { " invariant" } else { "" };
        name
    }

    async fn run(self, gpu: &Gpu) -> Result<Outcome> {
        let [attention, routing, output] = self.widths;
        let input = self.shape[self.shape.len() - 1];
        let mut random = Random::new(self.shape.iter().fold(attention, |seed, size| seed * 31 + size) as u64);
        let dimensions = Dimensions { input, attention, routing, output };
        let weights = random_weights(&mut random, dimensions, self.half)?;
        let x: Vec<f32> = (0..self.shape.iter().product()).map(|_| 2.0 * random.real()).collect();
        let lengths: Option<Vec<u32>> = self.masked.then(|| {
            let all = self.shape[1] as u32;
            let some = [all, 1, 0, all.saturating_sub(1)];
            (0..self.shape[0]).map(|row| some.get(row).copied().unwrap_or_else(|| random.below(all + 1))).collect()
        });

        let plan = if self.order == Order::AsWritten { PlanKind::AsWritten } else { PlanKind::Folded };
        let settings = Settings { plan, batch_invariant: self.invariant, ..Settings::default() };
        let layer = DoubleRouting::with_order(gpu, &weights, settings, self.order)?;
        let result = layer.run(&x, &self.shape, lengths.as_deref()).await?;

        let mut truth = LayerTruth::new(&weights);
        truth.extend(&x, &self.shape, lengths.as_deref());
        let Judgement { error, allowed, worst, fault, .. } = truth.judge(&result.y, &result.w);
        Ok(Outcome {
            elements: result.y.len() + result.w.len(),
            worst: worst.max(error / allowed),
            signal: Some(error),
            fault,
        })
    }
}

/// Weights as PyTorch initialises them: uniform within 1/√in.
fn random_weights(random: &mut Random, dimensions: Dimensions, half: bool) -> Result<Weights> {
    let Dimensions { input, attention, routing, output } = dimensions;
    let mut linear = |out: usize, features: usize| {
        let scale = 1.0 / (features as f32).sqrt();
        let mut values = |count: usize| -> Values {
            let values: Vec<f32> = (0..count).map(|_| scale * random.real()).collect();
            if half {
                Values::BF16(values.into_iter().map(half::bf16::from_f32).collect())
            } else {
                Values::F32(values)
            }
        };
        Linear { weight: values(out * features), shape: [out, features], bias: values(out) }
    };
    Weights::new(linear(attention, input), linear(1, attention), linear(routing, attention), linear(output, routing))
}

pub(super) fn cases() -> Vec<Case> {
    let plain = |shape: &[usize], widths, order| Spec {
        shape: shape.to_vec(),
        widths,
        order,
        masked: false,
        half: false,
        invariant: false,
    };
    let mut specs = Vec::new();
    let orders = || [Order::AsWritten].into_iter().chain(Order::FOLDED);
    // Ranks 2 to 5, widths that all differ, one token, one feature, a long sequence, no sequence and no token.
    let shapes: [(&[usize], [usize; 3]); 11] = [
        (&[37, 24], [7, 5, 3]),
        (&[3, 17, 20], [6, 10, 14]),
        (&[2, 5, 3, 12], [8, 4, 9]),
        (&[2, 3, 2, 2, 7], [3, 5, 2]),
        (&[1, 1, 16], [4, 4, 4]),
        (&[2, 9, 1], [1, 1, 1]),
        (&[1, 3000, 24], [16, 8, 5]),
        (&[4, 64, 96], [64, 64, 64]),
        (&[2, 33, 64], [8, 40, 70]),
        (&[0, 4, 8], [4, 4, 4]),
        (&[2, 0, 8], [4, 4, 4]),
    ];
    for (shape, widths) in shapes {
        specs.extend(orders().map(|order| plain(shape, widths, order)));
    }
    for order in orders() {
        specs.push(Spec { masked: true, ..plain(&[6, 9, 20], [6, 10, 14], order) });
        specs.push(Spec { masked: true, ..plain(&[5, 7, 3, 8], [5, 6, 7], order) });
        specs.push(Spec { half: true, ..plain(&[2, 40, 33], [12, 10, 9], order) });
        specs.push(Spec { invariant: true, ..plain(&[3, 21, 32], [12, 10, 8], order) });
    }
    specs
        .into_iter()
        .map(|spec| {
            let name = spec.name();
            Case { kernel: "routing", name, heavy: false, run: Box::new(move |gpu| Box::pin(spec.clone().run(gpu))) }
        })
        .collect()
}
