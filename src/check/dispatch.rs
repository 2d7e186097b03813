//! Cases of the permutation of slots by path.

use super::{
    Case,
    bench::{Operand, Random, Truth, judge_all},
};
use crate::{Element, Gpu, Result, check::Outcome, kernels::Dispatch, reference::dispatch};

/// Slots from which a case counts as heavy.
const HEAVY: usize = 100_000;

/// The paths that slots are given.
#[derive(Debug, Clone, Copy)]
enum Ids {
    /// Any of them.
    Spread,
    /// Half of the slots the same one, the others any.
    Crowded,
    /// All the last one.
    Last,
    /// A third none, by several numbers that are no path.
    Sparse,
    /// None.
    Nowhere,
}

#[derive(Debug, Clone, Copy)]
struct Spec {
    tokens: usize,
    each: usize,
    paths: usize,
    ids: Ids,
    capacity: Option<u32>,
    sequence: bool,
    counted: bool,
    shift: usize,
}

impl Spec {
    fn name(&self) -> String {
        let Self { tokens, each, paths, .. } = self;
        let mut name = format!("dispatch {tokens}x{each} to {paths} {:?}", self.ids).to_lowercase();
        if let Some(capacity) = self.capacity {
            name += &format!(" capacity={capacity}");
        }
        name += if self.sequence { " sequence" } else { "" };
        name += if self.counted { " counted" } else { "" };
        if self.shift > 0 {
            name += &format!(" shift={}", self.shift);
        }
        name
    }

    fn path(&self, random: &mut Random) -> u32 {
        let paths = self.paths as u32;
        match self.ids {
            Ids::Crowded if random.below(2) == 0 => paths / 2,
            Ids::Spread | Ids::Crowded => random.below(paths),
            Ids::Last => paths - 1,
            Ids::Sparse => match random.below(9) {
                0 => u32::MAX,
                1 => paths,
                2 => paths + random.below(1000),
                _ => random.below(paths),
            },
            Ids::Nowhere => u32::MAX,
        }
    }

    async fn run(self, gpu: &Gpu) -> Result<Outcome> {
        let Self { tokens, each, paths, shift, .. } = self;
        let slots = tokens * each;
        let mut random = Random::new((tokens * 31 + each * 7 + paths) as u64);
        let ids: Vec<u32> = (0..slots).map(|_| self.path(&mut random)).collect();
        let sequence = self.sequence.then(|| {
            let mut sequence: Vec<u32> = (0..slots as u32).collect();
            for end in (1..slots).rev() {
                sequence.swap(end, random.below(end as u32 + 1) as usize);
            }
            sequence
        });

        let ids_operand = Operand::words(gpu, &[tokens, each], &ids, shift)?;
        let sequence_operand =
            sequence.as_ref().map(|sequence| Operand::words(gpu, &[slots], sequence, shift)).transpose()?;
        let output = |shape: &[usize]| Operand::output(gpu, shape, Element::U32, shift);
        let (offsets, order, positions) = (output(&[paths + 1])?, output(&[slots])?, output(&[tokens, each])?);
        let counts = self.counted.then(|| output(&[paths])).transpose()?;
        let mut kernel = Dispatch::new(ids_operand.tensor(), offsets.tensor(), order.tensor(), positions.tensor());
        let mut inputs = vec![("ids", &ids_operand)];
        if let Some(sequence) = &sequence_operand {
            kernel = kernel.sequence(sequence.tensor());
            inputs.push(("sequence", sequence));
        }
        if let Some(capacity) = self.capacity {
            kernel = kernel.capacity(capacity);
        }
        let expected = dispatch(&ids, paths, self.capacity.unwrap_or(u32::MAX), sequence.as_deref());
        let mut outputs = vec![
            ("offsets", &offsets, Truth::Words(expected.offsets)),
            ("order", &order, Truth::Words(expected.order)),
            ("positions", &positions, Truth::Words(expected.positions)),
        ];
        if let Some(counts) = &counts {
            kernel = kernel.counts(counts.tensor());
            outputs.push(("counts", counts, Truth::Words(expected.counts)));
        }
        judge_all(gpu, &kernel.plan(gpu)?, &inputs, &outputs).await
    }
}

pub(super) fn cases() -> Vec<Case> {
    let plain = |tokens, each, paths| Spec {
        tokens,
        each,
        paths,
        ids: Ids::Spread,
        capacity: None,
        sequence: false,
        counted: false,
        shift: 0,
    };
    let mut specs = Vec::new();
    for tokens in [0, 1, 2, 3, 31, 255, 256, 257] {
        for (each, paths) in [(1, 1), (1, 2), (2, 7), (6, 60), (8, 256), (8, 384), (1, 1024), (8, 4096)] {
            specs.push(Spec { counted: tokens % 2 == 1, ..plain(tokens, each, paths) });
        }
    }
    for (tokens, each) in [(37, 6), (128, 8), (1300, 8)] {
        let slots = (tokens * each) as u32;
        for ids in [Ids::Spread, Ids::Crowded, Ids::Last, Ids::Sparse, Ids::Nowhere] {
            for sequence in [false, true] {
                specs.push(Spec { ids, sequence, counted: true, ..plain(tokens, each, 13) });
                // Nothing, one, as many as a path may have on average, all but one of a path that has all, all, more than
                // there are.
                for capacity in [0, 1, slots / 13, slots - 1, slots, u32::MAX] {
                    let crowded = matches!(ids, Ids::Crowded | Ids::Last) || capacity <= slots / 13;
                    if crowded && (sequence || capacity != u32::MAX) {
                        let capacity = Some(capacity);
                        specs.push(Spec { ids, sequence, capacity, counted: slots < 300, ..plain(tokens, each, 13) });
                    }
                }
            }
        }
    }
    for shift in [1, 2, 3] {
        for tokens in [33, 1111] {
            let sparse = Spec { ids: Ids::Sparse, shift, ..plain(tokens, 2, 60) };
            specs.push(sparse);
            specs.push(Spec { sequence: true, counted: true, capacity: Some(20), ..sparse });
        }
    }
    // One more and one fewer than one workgroup does, and than chunks have.
    for tokens in [1023, 1024, 1025, 2047, 2048, 2049, 4103] {
        specs.push(Spec { counted: true, ..plain(tokens, 1, 5) });
        specs.push(Spec { counted: true, sequence: true, ids: Ids::Sparse, ..plain(tokens, 1, 2500) });
    }
    specs.extend([
        // Tallies no longer fit workgroup memory; as many paths as there may be.
        plain(5000, 2, 2048),
        Spec { counted: true, ..plain(5000, 2, 2049) },
        Spec { capacity: Some(2), ..plain(5000, 8, 4096) },
        Spec { ids: Ids::Crowded, ..plain(3000, 1, 65_536) },
        Spec { ids: Ids::Last, ..plain(50, 1, 65_536) },
        // As often as lanes may loop: the largest chunk, alone and followed by another.
        Spec { counted: true, ..plain(16_384, 1, 65_536) },
        plain(17_000, 1, 16_000),
        plain(5, 33, 60),
        plain(50, 33, 60),
        plain(5000, 8, 256),
        plain(65_536, 8, 256),
        // No path at all.
        Spec { ids: Ids::Nowhere, counted: true, ..plain(0, 1, 0) },
        Spec { ids: Ids::Nowhere, counted: true, ..plain(9, 1, 0) },
        Spec { ids: Ids::Nowhere, ..plain(1025, 1, 0) },
        // More than 65 535 workgroups.
        Spec { counted: true, ..plain(4_400_000, 1, 60) },
    ]);
    specs
        .into_iter()
        .map(|spec| Case {
            kernel: "dispatch",
            name: spec.name(),
            heavy: spec.tokens * spec.each > HEAVY,
            run: Box::new(move |gpu| Box::pin(spec.run(gpu))),
        })
        .collect()
}
