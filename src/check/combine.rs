//! Cases of the gate-weighted sum of gathered rows.

use half::{bf16, f16};

use super::{
    Case,
    bench::{Data, HALVES, Operand, Random, Truth, judge_all, stored, typed},
};
use crate::{
    Element, Gpu, Result, Values,
    check::Outcome,
    kernels::Combine,
    reference::{Combination, combine, combine_bound},
};

/// The rows that slots take.
#[derive(Debug, Clone, Copy)]
enum Positions {
    /// Any of them.
    Spread,
    /// A third none, by several numbers that are no row.
    Sparse,
    /// None.
    Nowhere,
}

/// The rows of y that results go to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Targets {
    /// Their own.
    Own,
    /// So many, of which the results have different ones, and some none.
    Of(usize),
}

#[derive(Debug, Clone, Copy)]
struct Spec {
    batches: usize,
    rows: usize,
    results: usize,
    slots: usize,
    columns: usize,
    positions: Positions,
    targets: Targets,
    gated: bool,
    plus: bool,
    skip: bool,
    /// The types of rows, of plus and skip, and of y.
    of_rows: Element,
    of_plus: Element,
    of_y: Element,
    data: Data,
    shift: usize,
    /// Whether y is not shifted.
    aligned_y: bool,
}

impl Spec {
    fn name(&self) -> String {
        let Self { batches, rows, results, slots, columns, .. } = self;
        let mut name = format!("combine {results}x{slots} of {rows}x{columns} {:?}", self.positions).to_lowercase();
        if *batches != 1 {
            name += &format!(" batches={batches}");
        }
        if let Targets::Of(targets) = self.targets {
            name += &format!(" targets={targets}");
        }
        name += &format!(" {}", self.data.name());
        name += if self.gated { " gated" } else { "" };
        name += if self.plus { " plus" } else { "" };
        name += if self.skip { " skip" } else { "" };
        name += &typed("rows", self.of_rows);
        name += &typed("plus", self.of_plus);
        name += &typed("y", self.of_y);
        if self.shift > 0 {
            name += &format!(" shift={}", self.shift);
        }
        name += if self.aligned_y { " but y" } else { "" };
        name
    }

    fn position(&self, random: &mut Random) -> u32 {
        let rows = self.rows as u32;
        match self.positions {
            Positions::Spread => random.below(rows),
            Positions::Sparse => match random.below(9) {
                0 => u32::MAX,
                1 => rows,
                2 => rows + random.below(1000),
                _ => random.below(rows),
            },
            Positions::Nowhere => u32::MAX,
        }
    }

    /// Distinct rows of y in each batch; every seventh result, and those for which there is none left, have none.
    fn targets(&self, random: &mut Random, targets: usize) -> Vec<u32> {
        let mut all = Vec::with_capacity(self.batches * self.results);
        for _ in 0..self.batches {
            let mut free: Vec<u32> = (0..targets as u32).collect();
            for result in 0..self.results {
                all.push(match free.len() as u32 {
                    0 => u32::MAX,
                    _ if result % 7 == 6 => targets as u32 + random.below(9),
                    left => free.swap_remove(random.below(left) as usize),
                });
            }
        }
        all
    }

    async fn run(self, gpu: &Gpu) -> Result<Outcome> {
        let Self { batches, rows, results, slots, columns, shift, .. } = self;
        let mut random = Random::new((results * 31 + slots * 7 + columns) as u64);
        let rows_values = self.data.values(&mut random, batches * rows * columns, self.of_rows);
        let positions: Vec<u32> = (0..batches * results * slots).map(|_| self.position(&mut random)).collect();
        let mut optional =
            |there: bool, count: usize, element| there.then(|| self.data.values(&mut random, count, element));
        let gates = optional(self.gated, batches * results * slots, Element::F32);
        let plus = optional(self.plus, batches * results * columns, self.of_plus);
        let (of_y, targets) = match self.targets {
            Targets::Own => (results, None),
            Targets::Of(targets) => (targets, Some(self.targets(&mut random, targets))),
        };
        let skip = self.skip.then(|| self.data.values(&mut random, batches * of_y * columns, self.of_plus));

        let input =
            |shape: &[usize], values: &Values| Operand::input(gpu, &[&[batches], shape].concat(), values, shift);
        let rows_operand = input(&[rows, columns], &rows_values)?;
        let positions_operand = Operand::words(gpu, &[batches, results, slots], &positions, shift)?;
        let gates_operand = gates.as_ref().map(|gates| input(&[results, slots], gates)).transpose()?;
        let plus_operand = plus.as_ref().map(|plus| input(&[results, columns], plus)).transpose()?;
        let targets_operand = match &targets {
            Some(targets) => Some(Operand::words(gpu, &[batches, results], targets, shift)?),
            None => None,
        };
        let skip_operand = skip.as_ref().map(|skip| input(&[of_y, columns], skip)).transpose()?;
        let y_shift = if self.aligned_y { 0 } else { shift };
        let y = Operand::output(gpu, &[batches, of_y, columns], self.of_y, y_shift)?;
        let mut kernel = Combine::new(rows_operand.tensor(), positions_operand.tensor(), y.tensor());
        let mut inputs = vec![("rows", &rows_operand), ("positions", &positions_operand)];
        if let Some(gates) = &gates_operand {
            kernel = kernel.gates(gates.tensor());
            inputs.push(("gates", gates));
        }
        if let Some(plus) = &plus_operand {
            kernel = kernel.plus(plus.tensor());
            inputs.push(("plus", plus));
        }
        if let Some(targets) = &targets_operand {
            kernel = kernel.targets(targets.tensor());
            inputs.push(("targets", targets));
        }
        if let Some(skip) = &skip_operand {
            kernel = kernel.skip(skip.tensor());
            inputs.push(("skip", skip));
        }
        let shape = Combination { batches, rows, results, slots, columns, targets: of_y };
        let [rows, gates, plus, skip] =
            [Some(rows_values), gates, plus, skip].map(|values| values.map(|values| values.to_f64()));
        let rows = rows.unwrap_or_default();
        let (gates, plus, targets) = (gates.as_deref(), plus.as_deref(), targets.as_deref());
        let expected = combine(&rows, &positions, gates, plus, targets, skip.as_deref(), &shape);
        // A row that is only moved keeps its bits.
        let truth = if self.of_y == Element::F32 && slots == 1 && gates.is_none() && plus.is_none() {
            Truth::Words(expected.iter().map(|&value| (value as f32).to_bits()).collect())
        } else {
            let bound = self.data.bound(combine_bound(&rows, &positions, gates, plus, targets, &shape));
            stored(self.of_y, expected, bound)
        };
        judge_all(gpu, &kernel.plan(gpu)?, &inputs, &[("y", &y, truth)]).await
    }
}

pub(super) fn cases() -> Vec<Case> {
    let plain = |results, slots, rows, columns| Spec {
        batches: 1,
        rows,
        results,
        slots,
        columns,
        positions: Positions::Spread,
        targets: Targets::Own,
        gated: true,
        plus: false,
        skip: false,
        of_rows: Element::F32,
        of_plus: Element::F32,
        of_y: Element::F32,
        data: Data::Reals,
        shift: 0,
        aligned_y: false,
    };
    let mut specs = Vec::new();
    for columns in [1, 3, 4, 33, 63, 64, 65, 129, 512] {
        for (results, slots, rows) in [(1, 8, 8), (2, 1, 9), (31, 2, 40), (257, 6, 300)] {
            specs.push(plain(results, slots, rows, columns));
            specs.push(Spec { plus: true, positions: Positions::Sparse, ..plain(results, slots, rows, columns) });
            specs.push(Spec { data: Data::Integers, gated: false, ..plain(results, slots, rows, columns) });
        }
    }
    // Rows that are only moved: all bits as they were.
    for columns in [1, 3, 4, 33, 64, 130, 1024] {
        let moved = Spec { gated: false, ..plain(77, 1, 90, columns) };
        let sparse = Spec { positions: Positions::Sparse, ..moved };
        specs.extend([moved, sparse, Spec { targets: Targets::Of(100), skip: true, ..moved }]);
    }
    for columns in [4, 33, 64, 129] {
        for flags in 0..8 {
            let (gated, plus, skip) = (flags & 1 == 1, flags & 2 == 2, flags & 4 == 4);
            let optional = Spec { gated, plus, positions: Positions::Sparse, ..plain(50, 3, 60, columns) };
            if !skip {
                specs.push(optional);
            }
            // More results than targets, and fewer.
            for targets in [20, 200] {
                specs.push(Spec { skip, targets: Targets::Of(targets), ..optional });
            }
        }
        for shift in [1, 2, 3] {
            let shifted = Spec { shift, plus: true, ..plain(19, 2, 21, columns) };
            specs.extend([shifted, Spec { targets: Targets::Of(33), skip: true, ..shifted }]);
            specs.push(Spec { slots: 1, gated: false, plus: false, ..shifted });
        }
        let batched = Spec { batches: 3, positions: Positions::Sparse, ..plain(17, 2, 25, columns) };
        specs.extend([batched, Spec { plus: true, skip: true, targets: Targets::Of(30), ..batched }]);
        specs.push(Spec { batches: 0, ..batched });
        specs.push(Spec { positions: Positions::Nowhere, ..plain(9, 2, 5, columns) });
        specs.push(Spec { positions: Positions::Nowhere, plus: true, ..plain(9, 2, 0, columns) });
    }
    // Octets of y, but not of skip.
    specs.push(Spec { shift: 1, aligned_y: true, targets: Targets::Of(33), skip: true, ..plain(19, 2, 21, 64) });
    // Activations and results of 16 bits: moved, added, skipped; rows that are whole words and those that are not.
    for element in HALVES {
        for (columns, shift) in [(64, 0), (130, 1), (33, 0), (30, 2)] {
            let from = Spec { of_rows: element, shift, ..plain(19, 2, 21, columns) };
            let to = Spec { of_y: element, shift, ..plain(19, 2, 21, columns) };
            specs.extend([from, Spec { of_plus: element, plus: true, ..to }]);
            let moved = Spec { slots: 1, gated: false, positions: Positions::Sparse, ..from };
            specs.extend([moved, Spec { of_y: element, ..moved }]);
            let skipping = Spec { targets: Targets::Of(33), skip: true, of_plus: element, ..from };
            specs.extend([Spec { of_rows: Element::F32, ..skipping }, Spec { of_y: element, ..skipping }]);
        }
    }
    // Nothing to combine, which leaves what is added or skipped; no row of y; more than 65 535 workgroups.
    specs.extend([
        plain(0, 8, 5, 64),
        Spec { plus: true, ..plain(9, 0, 5, 64) },
        Spec { targets: Targets::Of(12), ..plain(0, 8, 5, 64) },
        Spec { targets: Targets::Of(12), skip: true, ..plain(0, 8, 5, 33) },
        Spec { targets: Targets::Of(0), ..plain(4, 8, 5, 64) },
        plain(5, 8, 5, 0),
        plain(3, 300, 50, 70),
        Spec { data: Data::Integers, ..plain(70_000, 1, 9, 64) },
        Spec { data: Data::Integers, ..plain(4_300_000, 1, 9, 1) },
    ]);
    let mut cases: Vec<Case> = specs
        .into_iter()
        .map(|spec| Case {
            kernel: "combine",
            name: spec.name(),
            heavy: spec.batches * spec.results * spec.slots * spec.columns > super::HEAVY,
            run: Box::new(move |gpu| Box::pin(spec.run(gpu))),
        })
        .collect();
    cases.extend(HALVES.map(|element| Case {
        kernel: "combine",
        name: format!("combine rounds to {element}"),
        heavy: false,
        run: Box::new(move |gpu| Box::pin(rounding(gpu, element))),
    }));
    cases
}

/// Every kind of f32 by the element that it is nearest to: between two of them, a little off the middle, beyond the largest, near 0.
/// They are moved, so what is left of them is their rounding; an odd number, so that half a word behind them is not theirs.
async fn rounding(gpu: &Gpu, element: Element) -> Result<Outcome> {
    let halves: Vec<u16> = match element {
        Element::F16 => (0..1100).chain((0x0700..0x7c00).step_by(83)).chain(0x7bf0..0x7c00).collect(),
        _ => (0x0080..0x0100).chain((0x0100..0x7f80).step_by(89)).chain(0x7f70..0x7f80).collect(),
    };
    let wide = |half: u16| match element {
        Element::F16 => f16::from_bits(half).to_f32(),
        _ => bf16::from_bits(half).to_f32(),
    };
    let mut values = Vec::new();
    for half in halves {
        let value = wide(half);
        // Beyond the largest the next would be as far away as the one before.
        let step = if wide(half + 1).is_finite() { wide(half + 1) - value } else { value - wide(half - 1) };
        let middle = f64::from(value) + 0.5 * f64::from(step);
        let bits = (middle as f32).to_bits();
        values.extend([value, f32::from_bits(bits - 1), f32::from_bits(bits), f32::from_bits(bits + 1)]);
    }
    values.extend([f32::MIN_POSITIVE, 1e-10, 1e6, 3e38, f32::MAX, f32::INFINITY]);
    // A device may flush a subnormal f32.
    values.retain(|value| *value == 0.0 || *value >= f32::MIN_POSITIVE);
    values.extend(values.clone().into_iter().map(|value| -value));
    values.truncate((values.len() - 1) | 1);
    let nearest = |value: &f32| match element {
        Element::F16 => f16::from_f32(*value).to_bits(),
        _ => bf16::from_f32(*value).to_bits(),
    };
    let truth = Truth::Halves(values.iter().map(nearest).collect());
    let columns = values.len();
    let rows = Operand::input(gpu, &[1, columns], &Values::F32(values), 0)?;
    let positions = Operand::words(gpu, &[1, 1], &[0], 0)?;
    let y = Operand::output(gpu, &[1, columns], element, 0)?;
    let plan = Combine::new(rows.tensor(), positions.tensor(), y.tensor()).plan(gpu)?;
    judge_all(gpu, &plan, &[("rows", &rows), ("positions", &positions)], &[("y", &y, truth)]).await
}
