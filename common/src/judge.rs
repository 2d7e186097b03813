//! Holding a layer's results against the CPU reference, piece by piece.

use std::ops::Range;

use double_routing::{Output, Result, Weights, check::LayerTruth};

use crate::{input::Part, numbers::product};

/// Numbers of the reference's input in one piece of work: its intermediates are many times as large.
const PIECE: usize = 1 << 20;

/// The sequences of each piece, in order.
pub fn pieces(weights: &Weights, part: &Part<'_>) -> impl Iterator<Item = Range<usize>> + use<> {
    // However many sequences have no tokens, there is nothing to judge.
    let sequences = if part.x.is_empty() { 0 } else { part.sequences() };
    let tokens = product(&part.shape[1..part.shape.len() - 1]).unwrap_or(usize::MAX);
    let each = tokens.saturating_mul(weights.dimensions().input).max(1);
    let step = (PIECE / each).max(1);
    (0..sequences).step_by(step).map(move |start| start..sequences.min(start + step))
}

/// Adds one piece of a part's output to the truth about it.
///
/// # Errors
/// As [`LayerTruth::extend`].
pub fn extend(truth: &mut LayerTruth, part: &Part<'_>, output: &Output, piece: Range<usize>) -> Result<()> {
    let sequences = part.sequences();
    let each = part.x.len() / sequences;
    let shape = [&[piece.len()], &part.shape[1..]].concat();
    let lengths = part.lengths.map(|lengths| &lengths[piece.clone()]);
    let x = &part.x[piece.start * each..piece.end * each];
    truth.extend(x, &shape, lengths, &of_sequences(output, piece, sequences))
}

/// What an output has of some of its sequences, of which each has as much as any other.
fn of_sequences(output: &Output, piece: Range<usize>, sequences: usize) -> Output {
    fn part<T: Clone>(values: &[T], piece: &Range<usize>, sequences: usize) -> Vec<T> {
        let each = values.len() / sequences;
        values[piece.start * each..piece.end * each].to_vec()
    }
    Output {
        y: part(&output.y, &piece, sequences),
        w: part(&output.w, &piece, sequences),
        indices: part(&output.indices, &piece, sequences),
        ids: part(&output.ids, &piece, sequences),
        gates: part(&output.gates, &piece, sequences),
        logits: part(&output.logits, &piece, sequences),
        path_logits: part(&output.path_logits, &piece, sequences),
    }
}
