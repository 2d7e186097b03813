//! Holding a layer's results against the CPU reference, by the rule that the library's own cases follow.

use std::io::Write;

use double_routing::{
    Element, Output, Settings, Weights,
    check::{Judgement, LayerTruth},
};
use double_routing_common::{
    input::Part,
    judge::{extend, pieces},
};
use serde_json::{Value, json};

use crate::report::{self, BAD, BOLD, GOOD, Out};

/// A judgement for a machine to read.
pub fn to_json(judgement: &Judgement) -> Value {
    let Judgement { error, yardstick, allowed, worst, fault } = judgement;
    json!({
        "error": error,
        "yardstick": yardstick,
        "allowed": allowed,
        "worst_share": worst,
        "passed": judgement.passed(),
        "fault": fault,
    })
}

/// Prints the errors, what they may be, and the verdict.
pub fn print(judgement: &Judgement, out: &mut Out) -> anyhow::Result<()> {
    let (style, verdict) = if judgement.passed() { (GOOD, "passed") } else { (BAD, "FAILED") };
    let Judgement { error, yardstick, allowed, worst, fault } = judgement;
    writeln!(out, "{BOLD}check{BOLD:#}    {style}{verdict}{style:#} against the CPU reference in f64")?;
    writeln!(out, "         error of y by its signal {error:.2e}, allowed {allowed:.2e}")?;
    writeln!(out, "         (plain f32 loops on the CPU have {yardstick:.2e})")?;
    writeln!(out, "         worst element: {worst:.3} of its error bound")?;
    match fault {
        Some(fault) => Ok(writeln!(out, "         {fault}")?),
        None => Ok(()),
    }
}

/// What is known of a layer's output so far.
pub struct Judge<'a> {
    weights: &'a Weights,
    truth: LayerTruth,
}

impl<'a> Judge<'a> {
    /// Of the output of a layer with these settings whose y is stored in this type.
    pub fn new(weights: &'a Weights, settings: Settings, stored: Element) -> Self {
        Self { weights, truth: LayerTruth::new(weights, settings).stored(stored) }
    }

    /// Takes what came of some sequences.
    pub fn extend(&mut self, part: &Part<'_>, output: &Output) -> anyhow::Result<()> {
        let pieces: Vec<_> = pieces(self.weights, part).collect();
        let bar = report::progress("checked", part.sequences(), pieces.len() > 1);
        for piece in pieces {
            bar.inc(piece.len() as u64);
            extend(&mut self.truth, part, output, piece)?;
        }
        bar.finish_and_clear();
        Ok(())
    }

    pub fn judgement(&self) -> Judgement {
        self.truth.judge()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

    use double_routing::{Element, Linear, Output, Settings, Weights};
    use double_routing_common::{input::Input, numbers::Numbers};

    use super::Judge;
    use crate::{evaluate::Evaluator, gpu::Target, input::Rows};

    fn values(count: usize) -> Vec<f32> {
        (0..count).map(|at| ((at * 37 + 11) % 23) as f32 / 46.0 - 0.25).collect()
    }

    #[test]
    fn an_error_far_below_the_size_of_y_is_found() {
        let linear = |out: usize, features: usize| Linear::new(values(out * features), [out, features], values(out));
        let weights = Weights::new(linear(6, 9), linear(1, 6), linear(5, 6), linear(4, 5)).unwrap();
        let x = Numbers::new(&values(2 * 50 * 9), vec![2, 50, 9]);
        let rows = Rows::of_input(Input { lengths: Some(vec![50, 20]), ..Input::of_numbers(x) });
        let evaluator = Evaluator::new(&Target::Reference, &weights, Settings::default()).unwrap();
        let (right, _) = evaluator.run_whole(&rows).unwrap();
        let judged = |output: &Output| {
            let mut judge = Judge::new(&weights, Settings::default(), Element::F32);
            judge.extend(&rows.part(0..2).unwrap(), output).unwrap();
            judge.judgement()
        };
        let judgement = judged(&right);
        assert!(judgement.passed() && judgement.worst <= 1.0, "{judgement:?}");

        // One element by a hundred-thousandth of itself; every element by a millionth; a weight; a NaN.
        let mut wrong = [right.clone(), right.clone(), right.clone(), right];
        wrong[0].y[7] *= 1.00001;
        wrong[1].y.iter_mut().for_each(|y| *y *= 1.000001);
        wrong[2].w[3] *= 1.0001;
        wrong[3].y[0] = f32::NAN;
        for output in &wrong {
            let judgement = judged(output);
            assert!(!judgement.passed(), "{judgement:?}");
        }
    }
}
