//! Holding a layer's results against the CPU reference, by the rule that the library's own cases follow.

use std::io::Write;

use double_routing::{
    Output, Selection, Settings, Weights,
    check::{Judgement, LayerTruth, LevelsTruth},
};
use serde_json::{Value, json};

use crate::{
    input::{Input, Part},
    report::{self, BAD, BOLD, GOOD, Out},
};

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

/// Numbers of the reference's input in one piece of work: its intermediates are many times as large.
const PIECE: usize = 1 << 20;

/// Judges the output of a layer with these settings.
pub fn judge_levels(
    weights: &Weights,
    settings: Settings,
    input: &Input,
    output: &Output,
) -> anyhow::Result<Judgement> {
    if settings.selection == Selection::All && weights.paths_to_reference().is_none() {
        return Ok(judge(weights, input, output));
    }
    let mut truth = LevelsTruth::new(weights, settings);
    let sequences = input.sequences();
    let bar = report::progress("checked", sequences, sequences > 1);
    for sequence in 0..sequences {
        let Part { x, shape, lengths } = input.part(sequence..sequence + 1);
        let part = Output {
            y: of_sequence(&output.y, sequence, sequences).to_vec(),
            w: of_sequence(&output.w, sequence, sequences).to_vec(),
            indices: of_sequence(&output.indices, sequence, sequences).to_vec(),
            ids: of_sequence(&output.ids, sequence, sequences).to_vec(),
            gates: of_sequence(&output.gates, sequence, sequences).to_vec(),
        };
        truth.extend(x, &shape, lengths, &part)?;
        bar.inc(1);
    }
    bar.finish_and_clear();
    Ok(truth.judge())
}

fn of_sequence<T>(values: &[T], sequence: usize, sequences: usize) -> &[T] {
    let each = values.len() / sequences;
    &values[sequence * each..(sequence + 1) * each]
}

/// Judges y and w.
pub fn judge(weights: &Weights, input: &Input, output: &Output) -> Judgement {
    let mut truth = LayerTruth::new(weights);
    let sequences = input.sequences();
    let each = input.tokens_each().saturating_mul(weights.dimensions().input).max(1);
    let step = (PIECE / each).max(1);
    let bar = report::progress("checked", sequences, step < sequences);
    for start in (0..sequences).step_by(step) {
        let Part { x, shape, lengths } = input.part(start..sequences.min(start + step));
        truth.extend(x, &shape, lengths);
        bar.inc(shape[0] as u64);
    }
    bar.finish_and_clear();
    truth.judge(&output.y, &output.w)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

    use double_routing::{Linear, Settings, Weights};

    use super::judge;
    use crate::{evaluate::Evaluator, gpu::Target, input::Input};

    fn values(count: usize) -> Vec<f32> {
        (0..count).map(|at| ((at * 37 + 11) % 23) as f32 / 46.0 - 0.25).collect()
    }

    #[test]
    fn an_error_far_below_the_size_of_y_is_found() {
        let linear = |out: usize, features: usize| Linear::new(values(out * features), [out, features], values(out));
        let weights = Weights::new(linear(6, 9), linear(1, 6), linear(5, 6), linear(4, 5)).unwrap();
        let input = Input { x: values(2 * 50 * 9), shape: vec![2, 50, 9], lengths: Some(vec![50, 20]) };
        let evaluator = Evaluator::new(&Target::Reference, &weights, Settings::default()).unwrap();
        let right = evaluator.run(&input, None).unwrap().output;
        let judgement = judge(&weights, &input, &right);
        assert!(judgement.passed() && judgement.worst <= 1.0, "{judgement:?}");

        // One element by a hundred-thousandth of itself; every element by a millionth; a weight; a NaN.
        let mut wrong = [right.clone(), right.clone(), right.clone(), right];
        wrong[0].y[7] *= 1.00001;
        wrong[1].y.iter_mut().for_each(|y| *y *= 1.000001);
        wrong[2].w[3] *= 1.0001;
        wrong[3].y[0] = f32::NAN;
        for output in &wrong {
            let judgement = judge(&weights, &input, output);
            assert!(!judgement.passed(), "{judgement:?}");
        }
    }
}
