//! Cases of the matrix product.

use super::{
    Case, HEAVY,
    bench::{Data, HALF_FACTORS, HALVES, Operand, Random, judge, on_matrix_units, typed},
};
use crate::{
    Element, Gpu, Result,
    check::Outcome,
    kernels::Matmul,
    reference::{Product, matmul, matmul_bound},
};

#[derive(Debug, Clone, Copy)]
struct Spec {
    product: Product,
    bias: bool,
    element: Element,
    /// The types of a and c.
    of_a: Element,
    of_c: Element,
    data: Data,
    /// Elements by which operands are moved off their aligned place.
    shift: usize,
    /// The sum is never cut into parts.
    invariant: bool,
}

impl Spec {
    fn name(&self) -> String {
        let Product { batches, rows, columns, depth, transposed, b_batched } = self.product;
        let mut name = format!("matmul {rows}x{columns}x{depth} {} {}", self.element, self.data.name());
        if batches > 1 {
            name += &format!(" batches={batches}{}", if b_batched { "" } else { " one-b" });
        }
        name += if transposed { " bt" } else { "" };
        name += if self.bias { " bias" } else { "" };
        name += if self.invariant { " invariant" } else { "" };
        name += &typed("a", self.of_a);
        name += &typed("c", self.of_c);
        if self.shift > 0 {
            name += &format!(" shift={}", self.shift);
        }
        name
    }

    async fn run(self, gpu: &Gpu) -> Result<Outcome> {
        let Product { batches, rows, columns, depth, transposed, b_batched } = self.product;
        let mut random = Random::new((rows * 31 + columns * 7 + depth) as u64);
        let leading: &[usize] = if batches > 1 { &[batches] } else { &[] };
        let b_matrix = if transposed { [columns, depth] } else { [depth, columns] };
        let b_shape = if b_batched { [leading, &b_matrix].concat() } else { b_matrix.to_vec() };
        let a = self.data.values(&mut random, batches * rows * depth, self.of_a);
        let b = self.data.values(&mut random, b_shape.iter().product(), self.element);
        let bias = self.bias.then(|| self.data.values(&mut random, columns, self.element));

        let a_operand = Operand::input(gpu, &[leading, &[rows, depth]].concat(), &a, self.shift)?;
        let b_operand = Operand::input(gpu, &b_shape, &b, self.shift)?;
        let bias_operand = bias.as_ref().map(|bias| Operand::input(gpu, &[columns], bias, self.shift)).transpose()?;
        let c_operand = Operand::output(gpu, &[leading, &[rows, columns]].concat(), self.of_c, self.shift)?;

        let mut kernel =
            Matmul::new(a_operand.tensor(), b_operand.tensor(), c_operand.tensor()).batch_invariant(self.invariant);
        let mut inputs = vec![("a", &a_operand), ("b", &b_operand)];
        if transposed {
            kernel = kernel.transposed();
        }
        if let Some(bias) = &bias_operand {
            kernel = kernel.bias(bias.tensor());
            inputs.push(("bias", bias));
        }
        let (a, b, bias) = (a.to_f64(), b.to_f64(), bias.map(|bias| bias.to_f64()));
        let expected = matmul(&a, &b, bias.as_deref(), &self.product);
        let bound = matmul_bound(&a, &b, bias.as_deref(), &self.product);
        let bound = self.data.bound(on_matrix_units(gpu, [self.of_a, self.element], bound));
        judge(gpu, &kernel.plan(gpu)?, &inputs, &c_operand, &expected, &bound).await
    }
}

pub(super) fn cases() -> Vec<Case> {
    let plain = |rows, columns, depth, data| Spec {
        product: Product { rows, columns, depth, transposed: true, ..Product::default() },
        bias: true,
        element: Element::F32,
        of_a: Element::F32,
        of_c: Element::F32,
        data,
        shift: 0,
        invariant: false,
    };
    let mut specs = Vec::new();
    // One, and one off the edges of tiles of 1, 8 and 64 rows, 32, 64 and 256 columns and of stages of 4 and 16 k.
    for (rows, columns, depth) in [
        (1, 1, 1),
        (1, 300, 33),
        (2, 255, 16),
        (3, 257, 15),
        (5, 1, 64),
        (7, 31, 3),
        (8, 32, 4),
        (9, 33, 5),
        (9, 67, 6),
        (63, 65, 17),
        (64, 64, 16),
        (65, 63, 31),
        (97, 101, 103),
        (128, 256, 64),
        (130, 68, 132),
        (133, 70, 136),
        (259, 133, 70),
    ] {
        for data in [Data::Reals, Data::Integers] {
            for transposed in [true, false] {
                let mut spec = plain(rows, columns, depth, data);
                spec.product.transposed = transposed;
                spec.bias = (rows + columns) % 3 != 0;
                specs.push(spec);
            }
        }
    }
    // Every storage of B, aligned and not.
    for element in [Element::F32, Element::F16, Element::BF16] {
        for shift in [0, 1, 2] {
            for transposed in [true, false] {
                for (rows, columns, depth) in [(17, 36, 24), (4, 27, 29), (130, 150, 29)] {
                    let mut spec = Spec { element, shift, ..plain(rows, columns, depth, Data::Reals) };
                    spec.product.transposed = transposed;
                    specs.push(spec);
                }
            }
        }
    }
    specs.push(Spec { element: Element::F16, ..plain(9, 36, 64, Data::Subnormals) });
    // Batches, each with its own B and all with one.
    for b_batched in [true, false] {
        for transposed in [true, false] {
            for (rows, columns, depth) in [(5, 12, 8), (9, 33, 7), (50, 260, 7)] {
                let mut spec = plain(rows, columns, depth, Data::Integers);
                spec.product = Product { batches: 3, b_batched, transposed, ..spec.product };
                specs.push(spec);
            }
        }
    }
    // Nothing to do; nothing to add up, which leaves the bias.
    specs.extend([plain(0, 8, 8, Data::Reals), plain(8, 0, 8, Data::Reals), plain(9, 33, 0, Data::Reals)]);
    // Deeper than an invocation may loop in one dispatch of a software driver.
    for (rows, columns, depth) in [(3, 5, 200_000), (3, 5, 300_000), (9, 2, 300_000), (2, 34, 250_000)] {
        for transposed in [true, false] {
            let mut spec = plain(rows, columns, depth, Data::Integers);
            spec.product.transposed = transposed;
            specs.extend([spec, Spec { invariant: true, ..spec }]);
        }
    }
    // A long sum of few results, cut into parts of which the last is shorter.
    for (rows, columns, depth) in [(1, 5, 9000), (3, 66, 4097), (17, 64, 5000)] {
        for data in [Data::Reals, Data::Integers] {
            for transposed in [true, false] {
                let mut spec = plain(rows, columns, depth, data);
                spec.product.transposed = transposed;
                specs.push(spec);
            }
        }
    }
    // Activations of 16 bits: at any place, of widths that are quads and that are not.
    for [of_a, element] in HALF_FACTORS {
        for (rows, columns, depth, shift, transposed) in [
            (17, 36, 24, 0, true),
            (17, 36, 24, 1, false),
            (3, 27, 29, 0, true),
            (9, 28, 31, 3, true),
            (1, 40, 52, 0, true),
            (130, 150, 28, 1, true),
            (130, 151, 29, 3, false),
        ] {
            let mut spec = Spec { of_a, element, shift, ..plain(rows, columns, depth, Data::Reals) };
            spec.product.transposed = transposed;
            specs.push(spec);
        }
    }
    specs.push(Spec { of_a: Element::F16, bias: false, ..plain(7, 9, 33, Data::Subnormals) });
    // What matrix units multiply: beyond the edges of their tiles, a sum in parts, one that goes on.
    for (rows, columns, depth, invariant) in
        [(130, 260, 70, false), (129, 131, 33, false), (17, 64, 5000, false), (3, 5, 650_000, true)]
    {
        for transposed in [true, false] {
            let data = if rows == 130 { Data::Reals } else { Data::Integers };
            let half = Element::F16;
            let mut spec = Spec { of_a: half, element: half, invariant, ..plain(rows, columns, depth, data) };
            spec.product.transposed = transposed;
            specs.push(spec);
        }
    }
    // Results of 16 bits: rows of whole words and of halves, a single row, batches, parts, sums that go on.
    for of_c in HALVES {
        for (rows, columns, depth, shift) in [
            (17, 36, 24, 0),
            (9, 26, 11, 2),
            (5, 33, 17, 0),
            (1, 33, 40, 4),
            (1, 1, 1, 0),
            (66, 70, 9, 0),
            (130, 150, 9, 0),
        ] {
            for data in [Data::Reals, Data::Integers] {
                specs.push(Spec { of_c, shift, ..plain(rows, columns, depth, data) });
            }
        }
        for columns in [6, 5] {
            let mut spec = Spec { of_c, ..plain(3, columns, 8, Data::Reals) };
            (spec.product.batches, spec.product.b_batched, spec.bias) = (3, true, false);
            specs.push(spec);
            specs.push(Spec { of_c, ..plain(3, 60 + columns, 4097, Data::Integers) });
        }
        specs.push(Spec { of_c, of_a: of_c, element: of_c, ..plain(9, 32, 40, Data::Reals) });
        specs.push(Spec { of_c, invariant: true, ..plain(3, 6, 300_000, Data::Integers) });
    }
    // More than 65 535 workgroups.
    specs.push(plain(5_000_000, 1, 1, Data::Integers));
    // c is larger than a binding of 128 MiB.
    specs.push(plain(70_000, 512, 4, Data::Integers));
    specs
        .into_iter()
        .map(|spec| Case {
            kernel: "matmul",
            name: spec.name(),
            heavy: spec.product.rows * spec.product.columns * (spec.product.depth + 1) > HEAVY,
            run: Box::new(move |gpu| Box::pin(spec.run(gpu))),
        })
        .collect()
}
