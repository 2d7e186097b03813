//! Cases of the sum of a product's parts.

use super::{
    Case,
    bench::{Data, HALVES, Operand, Random, judge, typed},
};
use crate::{
    Element, Gpu, Result, Values,
    check::Outcome,
    kernels::Reduce,
    reference::{reduce, reduce_bound},
};

#[derive(Debug, Clone, Copy)]
struct Spec {
    parts: usize,
    rows: usize,
    columns: usize,
    weighted: bool,
    inner: bool,
    outer: bool,
    element: Element,
    of_y: Element,
    data: Data,
    shift: usize,
}

impl Spec {
    fn name(&self) -> String {
        let Self { parts, rows, columns, .. } = self;
        let mut name = format!("reduce {parts}x{rows}x{columns} {} {}", self.element, self.data.name());
        name += if self.weighted { " weighted" } else { "" };
        name += if self.inner { " inner" } else { "" };
        name += if self.outer { " outer" } else { "" };
        name += &typed("y", self.of_y);
        if self.shift > 0 {
            name += &format!(" shift={}", self.shift);
        }
        name
    }

    async fn run(self, gpu: &Gpu) -> Result<Outcome> {
        let Self { parts, rows, columns, .. } = self;
        let mut random = Random::new((parts * 31 + rows * 7 + columns) as u64);
        let p = self.data.values(&mut random, parts * rows * columns, Element::F32);
        let w = self.weighted.then(|| self.data.values(&mut random, rows, Element::F32));
        let inner = self.inner.then(|| self.data.values(&mut random, columns, self.element));
        let outer = self.outer.then(|| self.data.values(&mut random, columns, self.element));

        let input = |shape: &[usize], values: &Values| Operand::input(gpu, shape, values, self.shift);
        let p_operand = input(&[parts, rows, columns], &p)?;
        let w_operand = w.as_ref().map(|w| input(&[rows], w)).transpose()?;
        let inner_operand = inner.as_ref().map(|inner| input(&[columns], inner)).transpose()?;
        let outer_operand = outer.as_ref().map(|outer| input(&[columns], outer)).transpose()?;
        let y = Operand::output(gpu, &[rows, columns], self.of_y, self.shift)?;
        let mut kernel = Reduce::new(p_operand.tensor(), y.tensor());
        let mut inputs = vec![("p", &p_operand)];
        if let Some(w) = &w_operand {
            kernel = kernel.weights(w.tensor());
            inputs.push(("w", w));
        }
        if let Some(inner) = &inner_operand {
            kernel = kernel.inner(inner.tensor());
            inputs.push(("inner", inner));
        }
        if let Some(outer) = &outer_operand {
            kernel = kernel.outer(outer.tensor());
            inputs.push(("outer", outer));
        }
        let or = |values: Option<Values>, count: usize, absent: f64| {
            values.map_or(vec![absent; count], |values| values.to_f64())
        };
        let (p, w) = (p.to_f64(), or(w, rows, 1.0));
        let (inner, outer) = (or(inner, columns, 0.0), or(outer, columns, 0.0));
        let expected = reduce(&p, parts, &w, &inner, &outer);
        let bound = self.data.bound(reduce_bound(&p, parts, &w, &inner, &outer));
        judge(gpu, &kernel.plan(gpu)?, &inputs, &y, &expected, &bound).await
    }
}

pub(super) fn cases() -> Vec<Case> {
    let plain = |parts, rows, columns, data| Spec {
        parts,
        rows,
        columns,
        weighted: true,
        inner: true,
        outer: true,
        element: Element::F32,
        of_y: Element::F32,
        data,
        shift: 0,
    };
    let mut specs = Vec::new();
    for (parts, rows, columns) in [(1, 1, 1), (2, 7, 4), (3, 5, 33), (8, 64, 36), (40, 1, 257), (256, 3, 64)] {
        specs.extend([plain(parts, rows, columns, Data::Reals), plain(parts, rows, columns, Data::Integers)]);
    }
    for flags in 0..7 {
        let (weighted, inner, outer) = (flags & 1 == 1, flags & 2 == 2, flags & 4 == 4);
        specs.push(Spec { weighted, inner, outer, ..plain(4, 9, 37, Data::Reals) });
    }
    for element in [Element::F32, Element::F16, Element::BF16] {
        for shift in [0, 1, 2] {
            specs.push(Spec { element, shift, ..plain(3, 6, 28, Data::Reals) });
        }
    }
    for of_y in HALVES {
        for (parts, rows, columns, shift) in [(2, 7, 4, 0), (3, 5, 33, 2), (4, 1, 257, 0), (1, 3, 1, 0), (3, 6, 30, 1)]
        {
            specs.extend([Data::Reals, Data::Integers].map(|data| Spec {
                of_y,
                shift,
                ..plain(parts, rows, columns, data)
            }));
        }
    }
    // Nothing to do; nothing to add up, which leaves the biases; more than 65 535 workgroups.
    specs.extend([
        plain(2, 0, 8, Data::Reals),
        plain(0, 9, 33, Data::Integers),
        plain(1, 4_500_000, 1, Data::Integers),
    ]);
    specs
        .into_iter()
        .map(|spec| Case {
            kernel: "reduce",
            name: spec.name(),
            heavy: spec.parts * spec.rows * spec.columns > super::HEAVY,
            run: Box::new(move |gpu| Box::pin(spec.run(gpu))),
        })
        .collect()
}
