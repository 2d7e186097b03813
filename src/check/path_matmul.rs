//! Cases of the products of paths.

use super::{
    Case, HEAVY,
    bench::{Data, HALF_FACTORS, HALVES, Operand, Random, judge_all, on_matrix_units, stored, typed},
};
use crate::{
    Element, Gpu, Result, Values,
    check::Outcome,
    kernels::PathMatmul,
    reference::{PathRows, PathWeights, path_matmul, path_matmul_bound},
};

/// How many rows the paths get.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Spread {
    /// Any numbers, many of them 0 where there are more paths than rows.
    Ragged,
    /// All on the last path.
    OnOne,
    /// Four fifths of the rows, the others on none.
    Some,
}

#[derive(Debug, Clone, Copy)]
struct Spec {
    tokens: usize,
    /// Rows of c for each row of a, gathered in any order; 0: a is in the order of c.
    each: usize,
    paths: usize,
    columns: usize,
    depth: usize,
    spread: Spread,
    bias: bool,
    swish: bool,
    element: Element,
    /// The types of a, of s, and of c.
    of_a: Element,
    of_s: Element,
    of_c: Element,
    data: Data,
    shift: usize,
}

impl Spec {
    fn name(&self) -> String {
        let Self { tokens, each, paths, columns, depth, .. } = self;
        let mut name =
            format!("path_matmul {paths} of {tokens}x{columns}x{depth} {} {}", self.element, self.data.name());
        if *each > 0 {
            name += &format!(" gathered={each}");
        }
        name += match self.spread {
            Spread::Ragged => "",
            Spread::OnOne => " on-one",
            Spread::Some => " some",
        };
        name += if self.bias { " bias" } else { "" };
        name += if self.swish { " swish" } else { "" };
        name += &typed("a", self.of_a);
        name += &typed("s", self.of_s);
        name += &typed("c", self.of_c);
        if self.shift > 0 {
            name += &format!(" shift={}", self.shift);
        }
        name
    }

    fn rows(&self) -> usize {
        self.tokens * self.each.max(1)
    }

    /// The rows before each path, and before the end.
    fn offsets(&self, random: &mut Random) -> Vec<u32> {
        let rows = self.rows() as u32;
        let used = if self.spread == Spread::Some { rows * 4 / 5 } else { rows };
        let mut offsets: Vec<u32> = match self.spread {
            Spread::OnOne => vec![0; self.paths - 1],
            _ => (1..self.paths).map(|_| random.below(used + 1)).collect(),
        };
        offsets.extend([0, used]);
        offsets.sort_unstable();
        offsets
    }

    async fn run(self, gpu: &Gpu) -> Result<Outcome> {
        let Self { tokens, each, paths, columns, depth, shift, .. } = self;
        let rows = self.rows();
        let mut random = Random::new((tokens * 31 + paths * 7 + columns + depth) as u64);
        let offsets = self.offsets(&mut random);
        // A permutation of the slots.
        let mut order: Vec<u32> = (0..rows as u32).collect();
        for at in (1..rows).rev() {
            order.swap(at, random.below(at as u32 + 1) as usize);
        }
        let a = self.data.values(&mut random, tokens * depth, self.of_a);
        let b = self.data.values(&mut random, paths * columns * depth, self.element);
        let bias = self.bias.then(|| self.data.values(&mut random, paths * columns, self.element));
        let s = self.swish.then(|| {
            let reals = (0..rows * columns).map(|at| random.real() * if at % 5 == 0 { 100.0 } else { 4.0 });
            match self.of_s {
                Element::BF16 => Values::BF16(reals.map(half::bf16::from_f32).collect()),
                _ => Values::F32(reals.collect()),
            }
        });

        let a_operand = Operand::input(gpu, &[tokens, depth], &a, shift)?;
        let b_operand = Operand::input(gpu, &[paths, columns, depth], &b, shift)?;
        let offsets_operand = Operand::words(gpu, &[paths + 1], &offsets, shift)?;
        let order_operand = Operand::words(gpu, &[rows], &order, shift)?;
        let c_operand = Operand::output(gpu, &[rows, columns], self.of_c, shift)?;
        let of_bias = bias.as_ref().map(|bias| Operand::input(gpu, &[paths, columns], bias, shift)).transpose()?;
        let of_s = s.as_ref().map(|s| Operand::input(gpu, &[rows, columns], s, shift)).transpose()?;
        let [a_tensor, b_tensor] = [a_operand.tensor(), b_operand.tensor()];
        let mut kernel = PathMatmul::new(a_tensor, b_tensor, offsets_operand.tensor(), c_operand.tensor());
        let mut inputs = vec![("a", &a_operand), ("b", &b_operand), ("offsets", &offsets_operand)];
        if each > 0 {
            kernel = kernel.gathered(order_operand.tensor(), each);
            inputs.push(("order", &order_operand));
        }
        if let Some(bias) = &of_bias {
            kernel = kernel.bias(bias.tensor());
            inputs.push(("bias", bias));
        }
        if let Some(s) = &of_s {
            kernel = kernel.swish(s.tensor());
            inputs.push(("s", s));
        }
        let (a, b) = (a.to_f64(), b.to_f64());
        let (bias, s) = (bias.map(|bias| bias.to_f64()), s.map(|s| s.to_f64()));
        let weights = PathWeights { b: &b, bias: bias.as_deref(), columns, depth };
        let paths_rows = PathRows { offsets: &offsets, order: (each > 0).then_some((&order, each)) };
        let mut expected = path_matmul(&a, weights, paths_rows, s.as_deref());
        let bound = path_matmul_bound(&a, weights, paths_rows, s.as_deref());
        let mut bound = on_matrix_units(gpu, [self.of_a, self.element], bound);
        if !self.swish {
            bound = self.data.bound(bound);
        }
        // The rows of no path stay as they were.
        expected.resize(rows * columns, f64::NAN);
        bound.resize(rows * columns, 0.0);
        let truth = stored(self.of_c, expected, bound);
        judge_all(gpu, &kernel.plan(gpu)?, &inputs, &[("c", &c_operand, truth)]).await
    }
}

pub(super) fn cases() -> Vec<Case> {
    let plain = |tokens, each, paths, columns, depth, data| Spec {
        tokens,
        each,
        paths,
        columns,
        depth,
        spread: Spread::Ragged,
        bias: true,
        swish: false,
        element: Element::F32,
        of_a: Element::F32,
        of_s: Element::F32,
        of_c: Element::F32,
        data,
        shift: 0,
    };
    let mut specs = Vec::new();
    // One path and many, more paths than rows and fewer, rows about those of tiles.
    for (tokens, each, paths, columns, depth) in [
        (1, 1, 1, 1, 1),
        (1, 2, 5, 33, 20),
        (1, 8, 256, 20, 36),
        (3, 8, 64, 68, 12),
        (9, 2, 2, 31, 33),
        (33, 0, 3, 64, 16),
        (40, 4, 7, 65, 17),
        (64, 6, 160, 12, 8),
        (130, 1, 4, 128, 64),
        (300, 8, 16, 36, 29),
        (257, 0, 384, 8, 24),
    ] {
        for data in [Data::Reals, Data::Integers] {
            for spread in [Spread::Ragged, Spread::OnOne, Spread::Some] {
                let bias = (columns + paths) % 3 != 0;
                specs.push(Spec { spread, bias, ..plain(tokens, each, paths, columns, depth, data) });
            }
        }
        specs.push(Spec { swish: true, bias: false, ..plain(tokens, each, paths, columns, depth, Data::Reals) });
    }
    for element in [Element::F32, Element::F16, Element::BF16] {
        for shift in [0, 1, 2] {
            for (columns, depth) in [(36, 24), (27, 29)] {
                for swish in [false, true] {
                    specs.push(Spec { element, shift, swish, ..plain(17, 2, 5, columns, depth, Data::Reals) });
                }
            }
        }
    }
    for [of_a, element] in HALF_FACTORS {
        for (columns, depth, shift, each) in [(36, 24, 0, 2), (27, 29, 0, 2), (28, 30, 1, 0)] {
            specs.push(Spec { of_a, element, shift, ..plain(17, each, 5, columns, depth, Data::Reals) });
        }
    }
    for of_c in HALVES {
        for (columns, spread) in [(36, Spread::Ragged), (30, Spread::Some)] {
            specs.push(Spec { of_c, spread, ..plain(17, 2, 5, columns, 24, Data::Integers) });
            specs.push(Spec {
                of_c,
                spread,
                swish: true,
                of_s: Element::BF16,
                ..plain(9, 2, 5, columns, 29, Data::Reals)
            });
        }
    }
    // Enough rows a path that software adapters pack the factors.
    for (columns, depth, each) in [(100, 44, 0), (97, 33, 2), (132, 20, 1)] {
        specs.push(plain(300, each, 3, columns, depth, Data::Reals));
        let half = Element::F16;
        specs.push(Spec {
            of_a: half,
            element: half,
            spread: Spread::Some,
            ..plain(300, each, 3, columns, depth, Data::Reals)
        });
    }
    // Everything in quads, but not from the start of its binding.
    specs.push(Spec { shift: 4, swish: true, ..plain(17, 2, 5, 36, 24, Data::Reals) });
    let swish = Spec { swish: true, of_a: Element::BF16, ..plain(110, 4, 8, 100, 36, Data::Reals) };
    specs.extend([swish, Spec { of_c: Element::F16, bias: false, data: Data::Integers, ..swish }]);
    // Nothing to do; nothing to add up, which leaves the bias.
    specs.extend([plain(0, 2, 4, 8, 8, Data::Reals), plain(9, 1, 4, 0, 8, Data::Reals)]);
    specs.push(plain(9, 1, 3, 33, 0, Data::Reals));
    // A long sum; more than 65 535 workgroups; weights of all paths that exceed a binding of 128 MiB.
    specs.push(plain(3, 2, 3, 5, 70_001, Data::Integers));
    specs.push(plain(70_000, 1, 70_000, 1, 1, Data::Integers));
    specs.push(Spec { bias: false, ..plain(5, 2, 70, 512, 1_000, Data::Integers) });
    specs
        .into_iter()
        .map(|spec| Case {
            kernel: "path_matmul",
            name: spec.name(),
            heavy: spec.rows() * spec.columns * (spec.depth + 1) > HEAVY
                || spec.paths * spec.columns * spec.depth > HEAVY,
            run: Box::new(move |gpu| Box::pin(spec.run(gpu))),
        })
        .collect()
}
