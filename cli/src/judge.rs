//! Holding a layer's results against the CPU reference, by the rule that the library's own cases follow.

use std::io::Write;

use double_routing::{
    Output, Settings, Weights,
    check::{Judgement, LayerTruth},
};
use double_routing_common::{
    input::Input,
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

/// Judges the output of a layer with these settings.
pub fn judge(weights: &Weights, settings: Settings, input: &Input, output: &Output) -> anyhow::Result<Judgement> {
    let mut truth = LayerTruth::new(weights, settings).stored(input.storage.y);
    let pieces: Vec<_> = pieces(weights, input).collect();
    let bar = report::progress("checked", input.sequences(), pieces.len() > 1);
    for piece in pieces {
        bar.inc(piece.len() as u64);
        extend(&mut truth, input, output, piece)?;
    }
    bar.finish_and_clear();
    Ok(truth.judge())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

    use double_routing::{Linear, Settings, Storage, Weights};
    use double_routing_common::input::Input;

    use super::judge;
    use crate::{evaluate::Evaluator, gpu::Target};

    fn values(count: usize) -> Vec<f32> {
        (0..count).map(|at| ((at * 37 + 11) % 23) as f32 / 46.0 - 0.25).collect()
    }

    #[test]
    fn an_error_far_below_the_size_of_y_is_found() {
        let linear = |out: usize, features: usize| Linear::new(values(out * features), [out, features], values(out));
        let weights = Weights::new(linear(6, 9), linear(1, 6), linear(5, 6), linear(4, 5)).unwrap();
        let input = Input {
            x: values(2 * 50 * 9),
            shape: vec![2, 50, 9],
            lengths: Some(vec![50, 20]),
            storage: Storage::default(),
        };
        let evaluator = Evaluator::new(&Target::Reference, &weights, Settings::default()).unwrap();
        let right = evaluator.run(&input, None).unwrap().output;
        let judgement = judge(&weights, Settings::default(), &input, &right).unwrap();
        assert!(judgement.passed() && judgement.worst <= 1.0, "{judgement:?}");

        // One element by a hundred-thousandth of itself; every element by a millionth; a weight; a NaN.
        let mut wrong = [right.clone(), right.clone(), right.clone(), right];
        wrong[0].y[7] *= 1.00001;
        wrong[1].y.iter_mut().for_each(|y| *y *= 1.000001);
        wrong[2].w[3] *= 1.0001;
        wrong[3].y[0] = f32::NAN;
        for output in &wrong {
            let judgement = judge(&weights, Settings::default(), &input, output).unwrap();
            assert!(!judgement.passed(), "{judgement:?}");
        }
    }
}
