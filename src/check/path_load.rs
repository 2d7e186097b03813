//! Cases of the load of paths.

use super::{
    Case, HEAVY, Outcome,
    bench::{Operand, Random, Truth, judge_all},
};
use crate::{
    Element, Gpu, Result, Values,
    kernels::PathLoad,
    reference::{PathLoads, path_load, path_load_bound},
};

#[derive(Debug, Clone, Copy)]
struct Spec {
    tokens: usize,
    paths: usize,
    logits: Logits,
    counts: Counts,
    shift: usize,
}

#[derive(Debug, Clone, Copy)]
enum Logits {
    /// Within ±4.
    Usual,
    /// Integers within ±3.
    Integers,
    /// Within ±100: nearly every token has one path.
    Large,
    /// All the same: the entropy is ln P.
    Equal,
    /// Each token has another path, for sure: the entropy is 0.
    Certain,
    /// The last token alone has logits of 60: what it adds outweighs all the others.
    Rising,
}

#[derive(Debug, Clone, Copy)]
enum Counts {
    /// From 0 to 99.
    Some,
    /// All the same.
    Even,
    /// All tokens have the last path.
    Last,
    /// No path has a token.
    None,
    /// More than f32 counts exactly.
    Many,
}

impl Spec {
    fn name(&self) -> String {
        let Self { tokens, paths, logits, counts, shift } = self;
        let name = format!("path_load {tokens}x{paths} {logits:?} counts={counts:?}").to_lowercase();
        if *shift > 0 { format!("{name} shift={shift}") } else { name }
    }

    async fn run(self, gpu: &Gpu) -> Result<Outcome> {
        let Self { tokens, paths, shift, .. } = self;
        let mut random = Random::new((tokens * 31 + paths) as u64);
        let logits: Vec<f32> = (0..tokens * paths)
            .map(|at| match self.logits {
                Logits::Usual => 4.0 * random.real(),
                Logits::Integers => random.integer(),
                Logits::Large => 100.0 * random.real(),
                Logits::Equal => -7.25,
                Logits::Certain => 200.0 * f32::from(u8::from(at % paths == at / paths % paths)),
                Logits::Rising if at / paths + 1 == tokens => 60.0 + random.real(),
                Logits::Rising => 0.01 * random.real(),
            })
            .collect();
        let counts: Vec<u32> = (0..paths)
            .map(|path| match self.counts {
                Counts::Some => random.below(100),
                Counts::Even => 7,
                Counts::Last => {
                    if path + 1 == paths {
                        tokens as u32
                    } else {
                        0
                    }
                }
                Counts::None => 0,
                Counts::Many => (1 << 24) + 1 + random.below(1 << 20),
            })
            .collect();
        let exact: Vec<f64> = logits.iter().map(|&logit| logit.into()).collect();
        let expected = path_load(&exact, &counts, paths);
        let bound = path_load_bound(&exact, &counts, paths);
        let summary = |loads: &PathLoads| vec![loads.balance, loads.z, loads.entropy, loads.factor];
        let truth_of_summary = Truth::Values { expected: summary(&expected), bound: summary(&bound) };
        let truth_of_means = Truth::Values { expected: expected.mean_scores, bound: bound.mean_scores };

        let of_logits = Operand::input(gpu, &[tokens, paths], &Values::from(logits), shift)?;
        let of_counts = Operand::words(gpu, &[paths], &counts, shift)?;
        let means = Operand::output(gpu, &[paths], Element::F32, shift)?;
        let summary = Operand::output(gpu, &[4], Element::F32, shift)?;
        let kernel = PathLoad::new(of_logits.tensor(), of_counts.tensor(), means.tensor(), summary.tensor());
        let outputs = [("mean_scores", &means, truth_of_means), ("summary", &summary, truth_of_summary)];
        judge_all(gpu, &kernel.plan(gpu)?, &[("logits", &of_logits), ("counts", &of_counts)], &outputs).await
    }
}

pub(super) fn cases() -> Vec<Case> {
    let plain = |tokens, paths| Spec { tokens, paths, logits: Logits::Usual, counts: Counts::Some, shift: 0 };
    let mut specs = Vec::new();
    // One path; quads and lanes that are filled and not; the most paths there may be. Chunks that are filled and not.
    for paths in [1, 7, 60, 256, 384, 1024] {
        specs.push(plain(33, paths));
    }
    specs.extend([plain(1, 7), plain(3, 256), plain(255, 60), plain(16, 64), plain(17, 1023)]);
    specs.extend([plain(35, 1025), plain(2, 2048), plain(4096, 8), plain(4096, 60)]);
    // Longer chunks than the shortest.
    specs.push(plain(70_000, 2));
    for logits in [Logits::Integers, Logits::Large, Logits::Equal, Logits::Certain, Logits::Rising] {
        specs.push(Spec { logits, ..plain(100, 60) });
    }
    for counts in [Counts::Even, Counts::Last, Counts::None, Counts::Many] {
        specs.push(Spec { counts, ..plain(40, 24) });
    }
    for shift in [1, 2, 4] {
        specs.extend([Spec { shift, ..plain(21, 64) }, Spec { shift, ..plain(21, 61) }]);
    }
    // Nothing to do, whatever the counts.
    specs.extend([plain(0, 60), Spec { counts: Counts::Many, ..plain(0, 1) }]);
    specs
        .into_iter()
        .map(|spec| Case {
            kernel: "path_load",
            name: spec.name(),
            heavy: spec.tokens * spec.paths > HEAVY,
            run: Box::new(move |gpu| Box::pin(spec.run(gpu))),
        })
        .collect()
}
