//! Cases of softmax.

use super::{
    Case, HEAVY,
    bench::{Operand, Random, judge},
};
use crate::{
    Element, Gpu, Result, Values,
    check::Outcome,
    kernels::Softmax,
    reference::{Axis, softmax, softmax_bound},
};

#[derive(Debug, Clone, Copy)]
struct Spec {
    axis: Axis,
    logits: Logits,
    mask: Mask,
    in_place: bool,
    shift: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Logits {
    /// Within ±4.
    Usual,
    /// Within ±100: nearly everything underflows.
    Saturated,
    /// Up to ±3e38: differences overflow.
    Extreme,
    /// All the same.
    Equal,
    /// From −20 to 4 along the axis: each part of a long row has another maximum.
    Rising,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mask {
    None,
    /// In turn: nothing, one, all but one, all, more than all, and random numbers of positions.
    Lengths,
}

impl Spec {
    fn name(&self) -> String {
        let Axis { outer, length, inner } = self.axis;
        let mut name = format!("softmax {outer}x{length}x{inner} {:?}", self.logits).to_lowercase();
        name += if self.mask == Mask::Lengths { " lengths" } else { "" };
        name += if self.in_place { " in-place" } else { "" };
        if self.shift > 0 {
            name += &format!(" shift={}", self.shift);
        }
        name
    }

    async fn run(self, gpu: &Gpu) -> Result<Outcome> {
        let Axis { outer, length, inner } = self.axis;
        let mut random = Random::new((outer * 31 + length * 7 + inner) as u64);
        let x: Vec<f32> = (0..outer * length * inner)
            .map(|at| match self.logits {
                Logits::Usual => 4.0 * random.real(),
                Logits::Saturated => 100.0 * random.real(),
                Logits::Extreme => 3e38 * random.real(),
                Logits::Equal => -7.25,
                Logits::Rising => 24.0 * (at / inner % length) as f32 / length as f32 - 20.0 + random.real(),
            })
            .collect();
        let lengths: Option<Vec<u32>> = (self.mask == Mask::Lengths).then(|| {
            let all = length as u32;
            let some = [0, 1, all.saturating_sub(1), all, all + 5];
            (0..outer).map(|row| some.get(row).copied().unwrap_or_else(|| random.below(all + 1))).collect()
        });
        let shape = [outer, length, inner];
        let exact: Vec<f64> = x.iter().map(|&x| x.into()).collect();
        let expected = softmax(&exact, self.axis, lengths.as_deref());
        let bound = softmax_bound(&exact, self.axis, lengths.as_deref());

        let values = Values::from(x);
        let x_operand = Operand::input(gpu, &shape, &values, self.shift)?;
        let y_operand = Operand::output(gpu, &shape, Element::F32, self.shift)?;
        let lengths = lengths.map(|lengths| Operand::words(gpu, &[lengths.len()], &lengths, self.shift)).transpose()?;
        let y = if self.in_place { &x_operand } else { &y_operand };
        let mut kernel = Softmax::new(x_operand.tensor(), y.tensor(), 1);
        if let Some(lengths) = &lengths {
            kernel = kernel.lengths(lengths.tensor().reshape(&[outer]));
        }
        let mut inputs: Vec<_> = lengths.iter().map(|lengths| ("lengths", lengths)).collect();
        if !self.in_place {
            inputs.push(("x", &x_operand));
        }
        judge(gpu, &kernel.plan(gpu)?, &inputs, y, &expected, &bound).await
    }
}

pub(super) fn cases() -> Vec<Case> {
    let plain = |outer, length, inner| Spec {
        axis: Axis { outer, length, inner },
        logits: Logits::Usual,
        mask: Mask::None,
        in_place: false,
        shift: 0,
    };
    let mut specs = Vec::new();
    // Lengths about the lanes and quads of a row; two that are odd in every way; 65 536 and one more, where chunks begin.
    for length in [1, 2, 3, 4, 5, 31, 32, 33, 77, 127, 128, 129, 1000, 1024, 4097] {
        specs.push(plain(7, length, 1));
        specs.push(Spec { mask: Mask::Lengths, ..plain(11, length, 1) });
    }
    specs.extend([plain(2, 65_536, 1), plain(2, 65_537, 1), plain(1, 643_251, 1), plain(1, 650_000, 1)]);
    specs.push(Spec { mask: Mask::Lengths, ..plain(7, 140_001, 1) });
    for (outer, length) in [(7, 131_076), (7, 131_080), (9, 64)] {
        specs.push(Spec { mask: Mask::Lengths, in_place: true, ..plain(outer, length, 1) });
    }
    // Rows of octets: such as one vector of a CPU keeps, 16 of them to a workgroup, 4 or one; such as several keep; some that leave
    // lanes without; more rows than a row of the grid.
    for (outer, length) in [(48, 64), (20, 192), (11, 448), (7, 504), (7, 768), (6, 760), (5, 2_048), (5, 3_064)] {
        specs.push(plain(outer, length, 1));
        specs.push(Spec { mask: Mask::Lengths, in_place: true, ..plain(outer, length, 1) });
    }
    for (outer, length) in [(5, 8_192), (3, 24_576), (3, 40_000), (2, 65_528), (32_771, 64)] {
        specs.push(Spec { mask: Mask::Lengths, ..plain(outer, length, 1) });
    }
    // A strided axis: inner sizes about a quad and a workgroup; an axis longer than a chunk.
    for (length, inner) in [(1, 2), (3, 3), (5, 4), (9, 5), (17, 70), (2, 257), (8_193, 3), (20_000, 4)] {
        specs.push(plain(3, length, inner));
        specs.push(Spec { mask: Mask::Lengths, ..plain(7, length, inner) });
    }
    for logits in [Logits::Saturated, Logits::Extreme, Logits::Equal] {
        specs.extend([
            Spec { logits, ..plain(9, 301, 1) },
            Spec { logits, mask: Mask::Lengths, ..plain(9, 64, 1) },
            Spec { logits, ..plain(9, 1_024, 1) },
            Spec { logits, ..plain(2, 19, 6) },
            Spec { logits, ..plain(2, 70_001, 1) },
        ]);
    }
    specs.push(Spec { logits: Logits::Rising, ..plain(3, 150_001, 1) });
    specs.push(Spec { logits: Logits::Rising, mask: Mask::Lengths, ..plain(7, 17_000, 3) });
    for shift in [1, 2, 4] {
        specs.extend([
            Spec { shift, ..plain(5, 64, 1) },
            Spec { shift, in_place: true, mask: Mask::Lengths, ..plain(9, 63, 1) },
            Spec { shift, in_place: true, ..plain(3, 11, 8) },
        ]);
    }
    // Nothing to do; more than 65 535 workgroups; more than a binding of 128 MiB.
    specs.extend([plain(0, 8, 1), plain(8, 0, 1), plain(8, 8, 0), plain(300_000, 3, 1), plain(100_000, 352, 1)]);
    specs
        .into_iter()
        .map(|spec| Case {
            kernel: "softmax",
            name: spec.name(),
            heavy: spec.axis.outer * spec.axis.length * spec.axis.inner > HEAVY,
            run: Box::new(move |gpu| Box::pin(spec.run(gpu))),
        })
        .collect()
}
