//! Cases of the selection of the largest.

use half::bf16;

use super::{
    Case, HEAVY,
    bench::{Operand, Random, Truth, judge_all},
};
use crate::{Element, Gpu, Result, Values, check::Outcome, kernels::Select, reference::select};

#[derive(Debug, Clone, Copy)]
struct Spec {
    rows: usize,
    length: usize,
    k: usize,
    data: Data,
    masked: bool,
    values: bool,
    shift: usize,
}

#[derive(Debug, Clone, Copy)]
enum Data {
    /// Uniform in −1 .. 1.
    Reals,
    /// From −3 to 3: nearly everything is one of several equals.
    Integers,
    /// All the same.
    Equal,
    /// Reals that were stored as bf16: some collide.
    Bf16,
    /// All below 0, of every magnitude.
    Negative,
    /// −0 and +0, and a few that differ.
    Zeros,
    /// Infinities of both signs among others.
    Infinite,
    /// Below the smallest normal number, of both signs.
    Subnormal,
    /// The largest last.
    Rising,
    /// The largest first.
    Falling,
    /// All the same but for one of 16, which are larger.
    Border,
    /// 1 and its neighbours.
    Ulps,
    /// −∞ but for one of 37: not masked, so they are chosen where nothing else is left.
    Lowest,
}

impl Data {
    fn value(self, random: &mut Random, position: usize) -> f32 {
        let one_of = |random: &mut Random, values: &[f32]| values[random.below(values.len() as u32) as usize];
        match self {
            Self::Reals => random.real(),
            Self::Integers => random.integer(),
            Self::Equal => -7.25,
            Self::Bf16 => bf16::from_f32(random.real()).to_f32(),
            Self::Negative => -(random.real() * 80.0).exp(),
            Self::Zeros => one_of(random, &[0.0, -0.0, 0.0, -0.0, 0.0, -0.0, f32::from_bits(1), -f32::from_bits(1)]),
            Self::Infinite => one_of(random, &[f32::INFINITY, f32::NEG_INFINITY, f32::MAX, f32::MIN, 0.5, -0.5]),
            Self::Subnormal => f32::from_bits(random.below(1 << 23)).copysign(random.real()),
            Self::Rising => position as f32,
            Self::Falling => -(position as f32),
            Self::Border => [1.0, 2.0][usize::from(position % 16 == 15)],
            Self::Ulps => f32::from_bits(1f32.to_bits() - 1 + random.below(3)),
            Self::Lowest => [f32::NEG_INFINITY, random.real()][usize::from(position % 37 == 5)],
        }
    }
}

impl Spec {
    fn name(&self) -> String {
        let Self { rows, length, k, .. } = self;
        let mut name = format!("select {rows}x{length} k={k} {:?}", self.data).to_lowercase();
        name += if self.masked { " lengths" } else { "" };
        name += if self.values { "" } else { " indices-only" };
        if self.shift > 0 {
            name += &format!(" shift={}", self.shift);
        }
        name
    }

    async fn run(self, gpu: &Gpu) -> Result<Outcome> {
        let Self { rows, length, k, shift, .. } = self;
        let mut random = Random::new((rows * 31 + length * 7 + k) as u64);
        let x: Vec<f32> = (0..rows * length).map(|at| self.data.value(&mut random, at % length)).collect();
        let lengths: Option<Vec<u32>> = self.masked.then(|| {
            let (all, k) = (length as u32, k as u32);
            let some = [0, 1, k - 1, k, all.saturating_sub(1), all, all + 5];
            (0..rows).map(|row| some.get(row).copied().unwrap_or_else(|| random.below(all + 1))).collect()
        });
        let (indices, values) = select(&x, rows, length, k, lengths.as_deref());

        let x_operand = Operand::input(gpu, &[rows, length], &Values::from(x), shift)?;
        let indices_operand = Operand::output(gpu, &[rows, k], Element::U32, shift)?;
        let values_operand = Operand::output(gpu, &[rows, k], Element::F32, shift)?;
        let lengths = lengths.map(|lengths| Operand::words(gpu, &[rows], &lengths, shift)).transpose()?;
        let mut kernel = Select::new(x_operand.tensor(), indices_operand.tensor());
        let mut inputs = vec![("x", &x_operand)];
        if let Some(lengths) = &lengths {
            kernel = kernel.lengths(lengths.tensor());
            inputs.push(("lengths", lengths));
        }
        let mut outputs = vec![("indices", &indices_operand, Truth::Words(indices))];
        if self.values {
            kernel = kernel.values(values_operand.tensor());
            let bits = values.iter().map(|value| value.to_bits()).collect();
            outputs.push(("values", &values_operand, Truth::Words(bits)));
        }
        judge_all(gpu, &kernel.plan(gpu)?, &inputs, &outputs).await
    }
}

pub(super) fn cases() -> Vec<Case> {
    let plain = |rows, length, k| Spec { rows, length, k, data: Data::Reals, masked: false, values: true, shift: 0 };
    let mut specs = Vec::new();
    // Rows about a quad, the lanes and a block, and of several; few, all but one, and all of them.
    for length in [1usize, 3, 8, 31, 33, 127, 128, 129, 256, 1000, 1023, 1024, 1025, 2049, 5000] {
        let mut counts = vec![1, 2, 7, 32, length / 8, length - 1, length];
        counts.retain(|&k| k > 0 && k <= length);
        counts.sort_unstable();
        counts.dedup();
        for (at, k) in counts.into_iter().enumerate() {
            let data = [Data::Reals, Data::Integers, Data::Bf16][at % 3];
            specs.push(Spec { data, ..plain(3, length, k) });
            specs.push(Spec { data, masked: true, values: at % 2 == 0, ..plain(9, length, k) });
        }
    }
    for data in [
        Data::Integers,
        Data::Equal,
        Data::Bf16,
        Data::Negative,
        Data::Zeros,
        Data::Infinite,
        Data::Subnormal,
        Data::Rising,
        Data::Falling,
    ] {
        for (length, k) in [(65, 9), (500, 140), (1000, 40), (3000, 20), (2500, 1500)] {
            specs.push(Spec { data, ..plain(2, length, k) });
            specs.push(Spec { data, masked: true, ..plain(8, length, k) });
        }
    }
    // Thousands of equals, zeros of both signs, subnormals and infinities: the best of a row, the ties at the border, and the whole row; in
    // one workgroup and in several stages. Keys are integers made of bits, so nothing is flushed, and infinities are numbers like others.
    for data in [Data::Equal, Data::Border, Data::Ulps, Data::Zeros, Data::Subnormal, Data::Infinite, Data::Lowest] {
        for (length, k) in [(4096, 1), (4096, 4096), (9_000, 1)] {
            specs.push(Spec { data, ..plain(2, length, k) });
        }
        for (length, k) in [(4096, 600), (9_000, 1_400)] {
            specs.push(Spec { data, ..plain(2, length, k) });
            specs.push(Spec { data, masked: true, ..plain(8, length, k) });
        }
    }
    for shift in [1, 2, 3] {
        specs.extend([
            Spec { shift, ..plain(5, 64, 6) },
            Spec { shift, masked: true, data: Data::Integers, ..plain(9, 63, 17) },
            Spec { shift, ..plain(2, 1500, 33) },
        ]);
    }
    // Long rows: of few and of many several stages, the last of which have few runs.
    for (length, k) in [(70_000, 1), (70_000, 32), (70_000, 513), (70_000, 8_750)] {
        specs.push(Spec { data: Data::Bf16, ..plain(2, length, k) });
    }
    specs.extend([
        Spec { data: Data::Integers, masked: true, ..plain(7, 70_000, 100) },
        Spec { data: Data::Integers, masked: true, ..plain(7, 20_000, 20_000) },
        Spec { data: Data::Integers, ..plain(1, 70_000, 69_999) },
        plain(1, 1_000_000, 32),
        Spec { data: Data::Bf16, ..plain(1, 1_000_000, 1_000_000) },
    ]);
    // Nothing to do; more than 65 535 workgroups; more than a binding of 128 MiB.
    specs.extend([plain(0, 8, 3), plain(70_000, 3, 2), plain(17_000, 2_048, 4)]);
    specs
        .into_iter()
        .map(|spec| Case {
            kernel: "select",
            name: spec.name(),
            heavy: spec.rows * spec.length > HEAVY,
            run: Box::new(move |gpu| Box::pin(spec.run(gpu))),
        })
        .collect()
}
