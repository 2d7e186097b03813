//! Cases of the attention logit.

use super::{
    Case, HEAVY,
    bench::{Data, HALF_FACTORS, Operand, Random, judge, typed},
};
use crate::{
    Element, Gpu, Result,
    check::Outcome,
    kernels::Attend,
    reference::{attend, attend_bound},
};

#[derive(Debug, Clone, Copy)]
struct Spec {
    tokens: usize,
    depth: usize,
    bias: bool,
    element: Element,
    of_x: Element,
    data: Data,
    shift: usize,
}

impl Spec {
    fn name(&self) -> String {
        let mut name = format!("attend {}x{} {} {}", self.tokens, self.depth, self.element, self.data.name());
        name += if self.bias { " bias" } else { "" };
        name += &typed("x", self.of_x);
        if self.shift > 0 {
            name += &format!(" shift={}", self.shift);
        }
        name
    }

    async fn run(self, gpu: &Gpu) -> Result<Outcome> {
        let Self { tokens, depth, .. } = self;
        let mut random = Random::new((tokens * 31 + depth) as u64);
        let x = self.data.values(&mut random, tokens * depth, self.of_x);
        let v = self.data.values(&mut random, depth, self.element);
        let bias = self.bias.then(|| self.data.values(&mut random, 1, self.element));

        let x_operand = Operand::input(gpu, &[tokens, depth], &x, self.shift)?;
        let v_operand = Operand::input(gpu, &[1, depth], &v, self.shift)?;
        let bias_operand = bias.as_ref().map(|bias| Operand::input(gpu, &[1], bias, self.shift)).transpose()?;
        let logits = Operand::output(gpu, &[tokens], Element::F32, self.shift)?;
        let mut kernel = Attend::new(x_operand.tensor(), v_operand.tensor(), logits.tensor());
        let mut inputs = vec![("x", &x_operand), ("v", &v_operand)];
        if let Some(bias) = &bias_operand {
            kernel = kernel.bias(bias.tensor());
            inputs.push(("bias", bias));
        }
        let (x, v, bias) = (x.to_f64(), v.to_f64(), bias.map_or(0.0, |bias| bias.to_f64()[0]));
        let expected = attend(&x, &v, bias, tokens);
        let bound = self.data.bound(attend_bound(&x, &v, bias, tokens));
        judge(gpu, &kernel.plan(gpu)?, &inputs, &logits, &expected, &bound).await
    }
}

pub(super) fn cases() -> Vec<Case> {
    let plain = |tokens, depth, data| Spec {
        tokens,
        depth,
        bias: true,
        element: Element::F32,
        of_x: Element::F32,
        data,
        shift: 0,
    };
    let mut specs = Vec::new();
    // Depths about a quad and the lanes of a row, tokens about the rows of a workgroup.
    for (tokens, depth) in
        [(1, 1), (3, 3), (4, 4), (5, 31), (7, 32), (9, 33), (64, 127), (65, 128), (13, 129), (33, 768), (2, 1031)]
    {
        specs.extend([plain(tokens, depth, Data::Reals), plain(tokens, depth, Data::Integers)]);
        specs.push(Spec { bias: false, ..plain(tokens, depth, Data::Integers) });
    }
    for element in [Element::F32, Element::F16, Element::BF16] {
        for shift in [0, 1, 2] {
            specs.push(Spec { element, shift, ..plain(11, 64, Data::Reals) });
            specs.push(Spec { element, shift, ..plain(6, 29, Data::Reals) });
        }
    }
    for [of_x, element] in HALF_FACTORS {
        for (tokens, depth, shift) in [(11, 64, 0), (6, 29, 0), (9, 33, 1), (70, 260, 4), (13, 132, 3)] {
            specs.push(Spec { of_x, element, shift, ..plain(tokens, depth, Data::Reals) });
        }
    }
    // Nothing to do; nothing to add up, which leaves the bias.
    specs.extend([plain(0, 8, Data::Reals), plain(9, 0, Data::Reals)]);
    // Deeper than an invocation may loop; more than 65 535 workgroups; more than a binding of 128 MiB.
    specs.extend([plain(3, 200_000, Data::Integers), plain(2, 1_300_003, Data::Integers)]);
    specs.extend([plain(300_000, 1, Data::Integers), plain(36_000, 1_000, Data::Integers)]);
    specs
        .into_iter()
        .map(|spec| Case {
            kernel: "attend",
            name: spec.name(),
            heavy: spec.tokens * spec.depth > HEAVY,
            run: Box::new(move |gpu| Box::pin(spec.run(gpu))),
        })
        .collect()
}
