//! Cases of the layer's two levels: tokens that are selected, and paths that are chosen.

use super::{
    Case,
    bench::{Random, compare},
    moe::judge_choice,
    route_paths::rule,
};
use crate::{
    DoubleRouting, Gpu, Linear, PathSettings, PlanKind, Result, Selection, Settings, Weights,
    check::Outcome,
    kernels::{GroupLimit, GroupScore, PathChoice, Score},
    reference::Forward,
};

#[derive(Debug, Clone, Copy)]
struct Spec {
    shape: [usize; 3],
    /// A, R and O.
    widths: [usize; 3],
    plan: PlanKind,
    selection: Selection,
    paths: usize,
    per_token: usize,
    choice: PathChoice,
    masked: bool,
}

impl Spec {
    fn name(&self) -> String {
        let Self { shape: [b, s, input], widths: [a, r, o], paths, per_token, .. } = self;
        let plan = if self.plan == PlanKind::Folded { "folded" } else { "as-written" };
        let mut name = format!("levels {b}x{s}x{input} {a},{r},{o} {plan}");
        name += &match self.selection {
            Selection::All => String::new(),
            Selection::TopK(count) => format!(" top={count}"),
            Selection::Fraction(share) => format!(" fraction={share}"),
        };
        if *paths > 0 {
            name += &format!(" {per_token} of {paths} paths {:?}", self.choice.score).to_lowercase();
            name += if self.choice.groups.is_some() { " groups" } else { "" };
        }
        name += if self.masked { " masked" } else { "" };
        name
    }

    fn weights(&self, random: &mut Random) -> Result<Weights> {
        let ([_, _, input], [a, r, o]) = (self.shape, self.widths);
        let mut linear = |out: usize, features: usize, scale: f32| {
            let scale = scale / (features as f32).sqrt();
            let mut values = |count: usize| (0..count).map(|_| random.real() * scale).collect::<Vec<f32>>();
            Linear::new(values(out * features), [out, features], values(out))
        };
        let (embedding, attention, routing1) = (linear(a, input, 2.0), linear(1, a, 6.0), linear(r, a, 2.0));
        match self.paths {
            0 => Weights::new(embedding, attention, routing1, linear(o, r, 1.0)),
            paths => {
                let (gate, routing2) = (linear(paths, r, 8.0), linear(paths * o, r, 1.0));
                Weights::with_paths(embedding, attention, routing1, gate, routing2)
            }
        }
    }

    async fn run(self, gpu: &Gpu) -> Result<Outcome> {
        let [sequences, positions, input] = self.shape;
        let mut random = Random::new((sequences * 31 + positions * 7 + input + self.paths) as u64);
        let weights = self.weights(&mut random)?;
        let x: Vec<f32> = (0..sequences * positions * input).map(|_| random.real()).collect();
        let lengths: Option<Vec<u32>> = self.masked.then(|| {
            // One sequence without a token, one with fewer than are to be selected.
            let mut lengths: Vec<u32> = (0..sequences).map(|_| random.below(positions as u32 + 1)).collect();
            lengths.iter_mut().zip([0, 2]).for_each(|(length, short)| *length = short.min(positions as u32));
            lengths
        });
        let settings = Settings {
            plan: self.plan,
            selection: self.selection,
            paths: PathSettings { per_token: self.per_token, choice: self.choice },
            ..Settings::default()
        };
        let output = DoubleRouting::new(gpu, &weights, settings)?.run(&x, &self.shape, lengths.as_deref()).await?;

        let layer = weights.to_reference();
        let exact: Vec<f64> = x.iter().map(|&x| x.into()).collect();
        let truth = layer.forward(&exact, &self.shape, lengths.as_deref());
        let (of_w, of_routed) = layer.routed_bounds(&truth, &exact, &self.shape, lengths.as_deref());
        let of_y = match self.paths {
            0 => layer.bounds(&truth, &exact, &self.shape, lengths.as_deref()).1,
            _ => Vec::new(),
        };
        let mut fault = None;
        let rows: Vec<Option<usize>> = match self.selection.count(positions) {
            Some(count) => {
                fault = self.judge_selection(&output.indices, count, &truth, &of_w, lengths.as_deref());
                let token = |(at, &index): (usize, &u32)| {
                    (index != u32::MAX).then(|| at / count.max(1) * positions + index as usize)
                };
                output.indices.iter().enumerate().map(token).collect()
            }
            None => (0..sequences * positions).map(Some).collect(),
        };
        if let Some(fault) = fault {
            return Ok(Outcome { elements: 0, worst: f64::INFINITY, signal: None, fault: Some(fault) });
        }
        let wide = self.widths[2];
        let mut expected = vec![0.0; sequences * positions * wide];
        let mut bound = vec![0.0; expected.len()];
        let (mut gates, mut of_gates) = (Vec::new(), Vec::new());
        let paths = weights.paths_to_reference();
        for (row, token) in rows.iter().enumerate() {
            let slots = row * self.per_token..(row + 1) * self.per_token;
            let Some(token) = *token else {
                if paths.is_some() {
                    gates.extend(vec![0.0; self.per_token]);
                    of_gates.extend(vec![0.0; self.per_token]);
                    if output.ids[slots].iter().any(|&id| id != u32::MAX) {
                        fault = Some(format!("row {row} is no token, but has paths"));
                    }
                }
                continue;
            };
            let to = token * wide..(token + 1) * wide;
            let Some(paths) = &paths else {
                expected[to.clone()].copy_from_slice(&truth.y[to.clone()]);
                bound[to.clone()].copy_from_slice(&of_y[to]);
                continue;
            };
            let r = self.widths[1];
            let (routed, of_row) = (&truth.routed[token * r..][..r], &of_routed[token * r..][..r]);
            let logits = paths.logits(routed);
            let (of_logits, _) = paths.bounds(routed, of_row, &[], &[], &[]);
            let off = of_logits.into_iter().fold(0.0, f64::max);
            let ids = &output.ids[slots];
            let judged = judge_choice(&logits, off, None, ids, rule(&self.choice))?;
            fault = fault.or(judged.fault.map(|fault| format!("token {token}: {fault}")));
            expected[to.clone()].copy_from_slice(&paths.run(routed, ids, &judged.gates));
            bound[to].copy_from_slice(&paths.bounds(routed, of_row, ids, &judged.gates, &judged.of_gates).1);
            gates.extend(judged.gates);
            of_gates.extend(judged.of_gates);
        }
        let mut outcome = compare(&output.y, &expected, &bound);
        for (name, result, truth, bound) in
            [("w", &output.w, &truth.w, &of_w), ("gates", &output.gates, &gates, &of_gates)]
        {
            let own = compare(result, truth, bound);
            outcome.elements += own.elements;
            outcome.worst = outcome.worst.max(own.worst);
            fault = fault.or(own.fault.map(|fault| format!("{name}: {fault}")));
        }
        outcome.fault = fault.or(outcome.fault);
        Ok(outcome)
    }

    /// What is wrong with the selected positions, if anything is: they must be those of the largest weights, largest first,
    /// as far as weights are known.
    fn judge_selection(
        &self,
        indices: &[u32],
        count: usize,
        truth: &Forward<f64>,
        of_w: &[f64],
        lengths: Option<&[u32]>,
    ) -> Option<String> {
        let [sequences, positions, _] = self.shape;
        if indices.len() != sequences * count {
            return Some(format!("{} indices, expected {}", indices.len(), sequences * count));
        }
        for sequence in 0..sequences {
            let unmasked = lengths.map_or(positions, |lengths| lengths[sequence] as usize).min(positions);
            let own = &indices[sequence * count..][..count];
            let (tokens, rest) = own.split_at(count.min(unmasked));
            let mut left: Vec<usize> = (0..unmasked).collect();
            if rest.iter().any(|&index| index != u32::MAX) {
                return Some(format!("sequence {sequence} has {own:?} of {unmasked} tokens"));
            }
            for &token in tokens {
                let Some(at) = left.iter().position(|&other| other == token as usize) else {
                    return Some(format!("sequence {sequence} has {own:?} of {unmasked} tokens"));
                };
                left.swap_remove(at);
                let at = |position: usize| sequence * positions + position;
                let (w, off) = (truth.w[at(token as usize)], of_w[at(token as usize)]);
                let heavier = left.iter().find(|&&other| truth.w[at(other)] - of_w[at(other)] > w + off);
                if let Some(heavier) = heavier {
                    return Some(format!(
                        "sequence {sequence}: token {token} comes before {heavier}, which weighs more"
                    ));
                }
            }
        }
        None
    }
}

pub(super) fn cases() -> Vec<Case> {
    let plain = |shape, widths, selection| Spec {
        shape,
        widths,
        plan: PlanKind::Folded,
        selection,
        paths: 0,
        per_token: 1,
        choice: PathChoice::default(),
        masked: false,
    };
    let mut specs = Vec::new();
    let (small, narrow, wide) = (([3, 17, 20], [6, 10, 14]), ([2, 50, 40], [3, 33, 36]), ([1, 130, 12], [24, 16, 8]));
    for plan in [PlanKind::Folded, PlanKind::AsWritten] {
        for (shape, widths) in [small, narrow, wide] {
            for selection in [Selection::TopK(1), Selection::TopK(5), Selection::TopK(1000), Selection::Fraction(0.125)]
            {
                let masked = Spec { masked: true, ..plain(shape, widths, selection) };
                specs.extend([Spec { plan, ..plain(shape, widths, selection) }, Spec { plan, ..masked }]);
            }
            for (paths, per_token) in [(1, 1), (6, 2), (64, 8)] {
                for selection in [Selection::All, Selection::TopK(7), Selection::Fraction(1.0)] {
                    let spec = Spec { plan, paths, per_token, ..plain(shape, widths, selection) };
                    let masked = selection != Selection::All;
                    specs.push(Spec { masked, ..spec });
                }
            }
        }
    }
    for score in [Score::Sigmoid, Score::SqrtSoftplus, Score::SoftmaxOfChosen] {
        let choice = PathChoice { score, renormalise: true, scale: 2.5, groups: None };
        specs.push(Spec { paths: 12, per_token: 3, choice, ..plain(small.0, small.1, Selection::TopK(4)) });
        let limit = GroupLimit { groups: 4, kept: 2, score: GroupScore::SumOfTwo };
        let choice = PathChoice { groups: Some(limit), ..choice };
        specs.push(Spec { paths: 12, per_token: 3, choice, ..plain(narrow.0, narrow.1, Selection::All) });
    }
    // No token, no sequence.
    specs.push(plain([2, 0, 8], [4, 4, 4], Selection::TopK(3)));
    specs.push(Spec { paths: 5, per_token: 2, ..plain([0, 9, 8], [4, 4, 4], Selection::Fraction(0.5)) });
    specs
        .into_iter()
        .map(|spec| Case {
            kernel: "levels",
            name: spec.name(),
            heavy: false,
            run: Box::new(move |gpu| Box::pin(spec.run(gpu))),
        })
        .collect()
}
