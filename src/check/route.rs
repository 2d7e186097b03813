//! Cases of the weighted routing step.

use super::{
    Case, HEAVY,
    bench::{Data, HALF_FACTORS, HALVES, Operand, Random, judge, on_matrix_units, typed},
};
use crate::{
    Element, Gpu, Result, Values,
    check::Outcome,
    kernels::Route,
    reference::{route, route_bound},
};

#[derive(Debug, Clone, Copy)]
struct Spec {
    tokens: usize,
    outputs: usize,
    depth: usize,
    inner: bool,
    outer: bool,
    element: Element,
    /// The types of x and y.
    of_x: Element,
    of_y: Element,
    data: Data,
    shift: usize,
}

impl Spec {
    fn name(&self) -> String {
        let Self { tokens, outputs, depth, .. } = self;
        let mut name = format!("route {tokens}x{outputs}x{depth} {} {}", self.element, self.data.name());
        name += if self.inner { " inner" } else { "" };
        name += if self.outer { " outer" } else { "" };
        name += &typed("x", self.of_x);
        name += &typed("y", self.of_y);
        if self.shift > 0 {
            name += &format!(" shift={}", self.shift);
        }
        name
    }

    async fn run(self, gpu: &Gpu) -> Result<Outcome> {
        let Self { tokens, outputs, depth, .. } = self;
        let mut random = Random::new((tokens * 31 + outputs * 7 + depth) as u64);
        let x = self.data.values(&mut random, tokens * depth, self.of_x);
        let b = self.data.values(&mut random, outputs * depth, self.element);
        let w = self.data.values(&mut random, tokens, Element::F32);
        let inner = self.inner.then(|| self.data.values(&mut random, outputs, self.element));
        let outer = self.outer.then(|| self.data.values(&mut random, outputs, self.element));

        let input = |shape: &[usize], values: &Values| Operand::input(gpu, shape, values, self.shift);
        let (x_operand, b_operand) = (input(&[tokens, depth], &x)?, input(&[outputs, depth], &b)?);
        let w_operand = input(&[tokens, 1], &w)?;
        let inner_operand = inner.as_ref().map(|inner| input(&[outputs], inner)).transpose()?;
        let outer_operand = outer.as_ref().map(|outer| input(&[outputs], outer)).transpose()?;
        let y = Operand::output(gpu, &[tokens, outputs], self.of_y, self.shift)?;
        let mut kernel = Route::new(x_operand.tensor(), b_operand.tensor(), w_operand.tensor(), y.tensor());
        let mut inputs = vec![("x", &x_operand), ("b", &b_operand), ("w", &w_operand)];
        if let Some(inner) = &inner_operand {
            kernel = kernel.inner(inner.tensor());
            inputs.push(("inner", inner));
        }
        if let Some(outer) = &outer_operand {
            kernel = kernel.outer(outer.tensor());
            inputs.push(("outer", outer));
        }
        let biases = |values: Option<Values>| values.map_or(vec![0.0; outputs], |values| values.to_f64());
        let (x, b, w, inner, outer) = (x.to_f64(), b.to_f64(), w.to_f64(), biases(inner), biases(outer));
        let expected = route(&x, &b, &w, &inner, &outer, depth);
        let bound = route_bound(&x, &b, &w, &inner, &outer, depth);
        let bound = self.data.bound(on_matrix_units(gpu, [self.of_x, self.element], bound));
        judge(gpu, &kernel.plan(gpu)?, &inputs, &y, &expected, &bound).await
    }
}

pub(super) fn cases() -> Vec<Case> {
    let plain = |tokens, outputs, depth, data| Spec {
        tokens,
        outputs,
        depth,
        inner: true,
        outer: true,
        element: Element::F32,
        of_x: Element::F32,
        of_y: Element::F32,
        data,
        shift: 0,
    };
    let mut specs = Vec::new();
    for (tokens, outputs, depth) in [
        (1, 1, 1),
        (1, 257, 5),
        (2, 31, 16),
        (5, 33, 17),
        (8, 32, 4),
        (63, 65, 15),
        (65, 64, 33),
        (130, 68, 132),
        (259, 133, 70),
    ] {
        specs.extend([plain(tokens, outputs, depth, Data::Reals), plain(tokens, outputs, depth, Data::Integers)]);
    }
    for (inner, outer) in [(false, false), (false, true), (true, false)] {
        specs.push(Spec { inner, outer, ..plain(9, 37, 11, Data::Integers) });
        specs.push(Spec { inner, outer, ..plain(70, 40, 16, Data::Reals) });
    }
    for element in [Element::F32, Element::F16, Element::BF16] {
        for shift in [0, 1, 2] {
            specs.push(Spec { element, shift, ..plain(17, 36, 24, Data::Reals) });
            specs.push(Spec { element, shift, ..plain(3, 27, 29, Data::Reals) });
        }
    }
    // Activations of 16 bits; results of them, where rows are whole words and where they are not, and cut into parts.
    for [of_x, element] in HALF_FACTORS {
        for (tokens, outputs, depth, shift) in [(17, 36, 24, 0), (3, 27, 29, 0), (9, 28, 30, 1), (130, 150, 29, 1)] {
            specs.push(Spec { of_x, element, shift, ..plain(tokens, outputs, depth, Data::Reals) });
        }
    }
    for of_y in HALVES {
        for (tokens, outputs, depth, shift) in [
            (17, 36, 24, 0),
            (9, 30, 11, 2),
            (5, 33, 17, 0),
            (1, 35, 9, 0),
            (130, 150, 11, 2),
            (3, 66, 4100, 0),
            (3, 65, 4100, 0),
        ] {
            specs.push(Spec { of_y, shift, ..plain(tokens, outputs, depth, Data::Reals) });
        }
        specs.push(Spec { of_y, of_x: of_y, element: of_y, ..plain(6, 32, 20, Data::Integers) });
    }
    // Nothing to do; nothing to add up, which leaves the biases.
    specs.extend([plain(0, 8, 8, Data::Reals), plain(9, 33, 0, Data::Integers)]);
    // A long sum of few results, cut into parts.
    specs.extend([plain(3, 66, 4100, Data::Reals), plain(17, 36, 5001, Data::Integers)]);
    // Deeper than an invocation may loop; more than 65 535 workgroups; more than a binding of 128 MiB.
    specs.push(plain(3, 5, 200_000, Data::Integers));
    specs.push(plain(5_000_000, 1, 1, Data::Integers));
    specs.push(plain(70_000, 512, 4, Data::Integers));
    specs
        .into_iter()
        .map(|spec| Case {
            kernel: "route",
            name: spec.name(),
            heavy: spec.tokens * spec.outputs * spec.depth > HEAVY,
            run: Box::new(move |gpu| Box::pin(spec.run(gpu))),
        })
        .collect()
}
