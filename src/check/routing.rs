//! Cases of the layer: both plans and every order.

use super::{
    Case,
    bench::{Random, compare},
};
use crate::{
    Dimensions, DoubleRouting, Gpu, Linear, Order, PlanKind, Result, Settings, Values, Weights, check::Outcome,
    reference::signal_error,
};

/// An evaluation of the layer may be this many times as far from the truth as plain f32 loops on the CPU are on the same
/// input, by [`signal_error`].
///
/// ```
/// use double_routing::check::{SIGNAL_FLOOR, YARDSTICKS};
/// let of_plain_loops = 2e-6_f64;
/// assert_eq!((YARDSTICKS * of_plain_loops).max(SIGNAL_FLOOR), 8e-6);
/// ```
pub const YARDSTICKS: f64 = 4.0;

/// Errors of the layer by [`signal_error`] below this are too small to compare.
///
/// ```
/// assert!(double_routing::check::SIGNAL_FLOOR < 1e-5);
/// ```
pub const SIGNAL_FLOOR: f64 = 1e-6;

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
        let settings = Settings { plan, batch_invariant: self.invariant };
        let layer = DoubleRouting::with_order(gpu, &weights, settings, self.order)?;
        let result = layer.run(&x, &self.shape, lengths.as_deref()).await?;

        let reference = weights.to_reference();
        let exact: Vec<f64> = x.iter().map(|&x| x.into()).collect();
        let truth = reference.forward(&exact, &self.shape, lengths.as_deref());
        let (of_w, of_y) = reference.bounds(&truth, &exact, &self.shape, lengths.as_deref());
        let by_element = compare(&result.y, &truth.y, &of_y);
        let by_weight = compare(&result.w, &truth.w, &of_w);

        let yardstick = reference.cast::<f32>().forward(&x, &self.shape, lengths.as_deref());
        let signal = signal_error(&result.y, &truth);
        let allowed = (YARDSTICKS * signal_error(&yardstick.y, &truth)).max(SIGNAL_FLOOR);
        let too_far = (signal > allowed).then(|| format!("error by signal {signal:.3e}, allowed {allowed:.3e}"));
        Ok(Outcome {
            elements: result.y.len() + result.w.len(),
            worst: by_element.worst.max(by_weight.worst).max(signal / allowed),
            signal: Some(signal),
            fault: by_weight.fault.map(|fault| format!("w: {fault}")).or(by_element.fault).or(too_far),
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
