//! Cases of the layer: both plans and every order.

use super::{Case, LayerTruth, bench::Random};
use crate::{
    Dimensions, DoubleRouting, Gpu, Linear, Order, PlanKind, Result, Settings, Values, Weights, check::Outcome,
};

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

        let mut truth = LayerTruth::new(&weights, settings);
        truth.extend(&x, &self.shape, lengths.as_deref(), &result)?;
        Ok(truth.judge().outcome(result.y.len() + result.w.len()))
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
    let shapes: [(&[usize], [usize; 3]); 13] = [
        (&[37, 24], [7, 5, 3]),
        (&[3, 17, 20], [6, 10, 14]),
        (&[2, 5, 3, 12], [8, 4, 9]),
        (&[2, 3, 2, 2, 7], [3, 5, 2]),
        (&[1, 1, 16], [4, 4, 4]),
        (&[2, 9, 1], [1, 1, 1]),
        (&[1, 3000, 24], [16, 8, 5]),
        (&[4, 64, 96], [64, 64, 64]),
        (&[2, 33, 64], [8, 40, 70]),
        // Enough weights that software adapters pack them once, for few tokens too.
        (&[1, 2, 301], [70, 66, 80]),
        (&[3, 7, 258], [64, 80, 70]),
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
        let many = plain(&[6, 9, 260], [68, 70, 66], order);
        specs.push(Spec { masked: true, half: true, invariant: true, ..many });
    }
    specs
        .into_iter()
        .map(|spec| {
            let name = spec.name();
            Case { kernel: "routing", name, heavy: false, run: Box::new(move |gpu| Box::pin(spec.clone().run(gpu))) }
        })
        .collect()
}
