//! Cases of the layer's two levels: tokens that are selected, and paths that are chosen.

use super::{Case, LayerTruth, bench::Random};
use crate::{
    DoubleRouting, Gpu, Linear, PathSettings, PlanKind, Result, Selection, Settings, Weights,
    check::Outcome,
    kernels::{GroupLimit, GroupScore, PathChoice, Score},
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
        let layer = DoubleRouting::new(gpu, &weights, settings)?;
        let output = layer.run(&x, &self.shape, lengths.as_deref()).await?;
        let mut truth = LayerTruth::new(&weights, settings);
        truth.extend(&x, &self.shape, lengths.as_deref(), &output)?;
        Ok(truth.judge().outcome(output.y.len() + output.w.len() + output.gates.len()))
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
                let masked = selection == Selection::TopK(1000) || shape[1] == 17;
                specs.push(Spec { plan, masked, ..plain(shape, widths, selection) });
            }
            for (paths, per_token) in [(1, 1), (6, 2), (64, 8)] {
                for selection in [Selection::All, Selection::TopK(7)] {
                    let masked = selection != Selection::All;
                    specs.push(Spec { plan, paths, per_token, masked, ..plain(shape, widths, selection) });
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
    // Every token, of which paths are told in the order of their weights all the same.
    specs.push(Spec { paths: 6, per_token: 2, ..plain(small.0, small.1, Selection::TopK(1000)) });
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
