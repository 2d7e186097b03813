//! x and its lengths, read from tensors, and refusing what cannot be right. No file is trusted.

use std::ops::Range;

use anyhow::{bail, ensure};
use double_routing::{Checkpoint, Dimensions, Storage, Values, Weights, bytemuck};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};

/// x and, where sequences differ in length, how many positions of each count.
#[derive(Debug)]
pub struct Input {
    /// Row-major.
    pub x: Vec<f32>,
    /// Axis 0 is that of the sequences, the last that of the features.
    pub shape: Vec<usize>,
    /// For each sequence.
    pub lengths: Option<Vec<u32>>,
    /// How x is stored in the file and y is to be in the output; they are on the device as well.
    pub storage: Storage,
}

/// Some of the sequences of an [`Input`].
#[derive(Debug)]
pub struct Part<'a> {
    /// Row-major.
    pub x: &'a [f32],
    /// The same but for axis 0.
    pub shape: Vec<usize>,
    /// For each of these sequences.
    pub lengths: Option<&'a [u32]>,
}

impl Input {
    /// The tensor `x`, and `lengths` where the file has them.
    ///
    /// # Errors
    /// Where there is no x, and where lengths do not fit it.
    pub fn of_sequences(file: &SafeTensors<'_>) -> anyhow::Result<Self> {
        let x = x_of(file)?;
        let shape = x.shape().to_vec();
        let lengths = match file.tensor("lengths") {
            Ok(view) => Some(checked_lengths(integers(view.dtype(), view.data())?, view.shape(), &shape)?),
            Err(_) => None,
        };
        Self::stored(&x, lengths)
    }

    /// The tensor `x`. Tokens have nothing to do with each other, so lengths do not matter.
    ///
    /// # Errors
    /// Where there is no x.
    pub fn of_tokens(file: &SafeTensors<'_>) -> anyhow::Result<Self> {
        Self::stored(&x_of(file)?, None)
    }

    fn stored(x: &TensorView<'_>, lengths: Option<Vec<u32>>) -> anyhow::Result<Self> {
        let values = Values::from_safetensors("x", x)?;
        let storage = Storage { x: values.element(), ..Storage::default() };
        Ok(Self { x: values.to_f32(), shape: x.shape().to_vec(), lengths, storage })
    }

    /// Refuses an x that is none for a layer of these dimensions.
    ///
    /// # Errors
    /// Says both shapes.
    pub fn check_layer(&self, dimensions: Dimensions) -> anyhow::Result<()> {
        let shape = &self.shape;
        let weight = [dimensions.attention, dimensions.input];
        ensure!(shape.len() > 1, "x is {shape:?}: softmax runs over axis 1, so its rank must be 2 or more");
        ensure!(shape.last() == Some(&dimensions.input), "x is {shape:?}, embedding.weight is {weight:?}");
        self.check_countable()
    }

    /// Refuses an x that is none for a router whose `gate.weight` has this shape.
    ///
    /// # Errors
    /// Says both shapes.
    pub fn check_router(&self, gate: [usize; 2]) -> anyhow::Result<()> {
        let shape = &self.shape;
        ensure!(shape.len() > 1, "x is {shape:?}, expected [T, {0}] or [B, S, {0}]", gate[1]);
        ensure!(shape.last() == Some(&gate[1]), "x is {shape:?}, gate.weight is {gate:?}");
        self.check_countable()
    }

    fn check_countable(&self) -> anyhow::Result<()> {
        let shape = &self.shape;
        // An empty file may claim any shape with a 0 in it.
        let countable = shape[1..].iter().try_fold(1usize, |product, &size| product.checked_mul(size));
        ensure!(countable.is_some(), "x is {shape:?}, more than can be counted");
        Ok(())
    }

    /// Where the first NaN or infinity is, if there is one.
    pub fn first_non_finite(&self) -> Option<String> {
        let at = self.x.iter().position(|x| !x.is_finite())?;
        Some(not_finite("x", &self.shape, at, self.x[at]))
    }

    /// The size of axis 0, along which nothing depends on anything else.
    pub fn sequences(&self) -> usize {
        self.shape[0]
    }

    /// Tokens of one sequence.
    pub fn tokens_each(&self) -> usize {
        self.shape[1..self.shape.len() - 1].iter().product()
    }

    /// Tokens in all.
    pub fn tokens(&self) -> usize {
        self.sequences() * self.tokens_each()
    }

    /// The shape of what has `width` numbers for each token.
    pub fn shape_with(&self, width: usize) -> Vec<usize> {
        [&self.shape[..self.shape.len() - 1], &[width]].concat()
    }

    /// The sequences in a range of axis 0.
    pub fn part(&self, range: Range<usize>) -> Part<'_> {
        let each: usize = self.shape[1..].iter().product();
        Part {
            x: &self.x[range.start * each..range.end * each],
            shape: [&[range.len()], &self.shape[1..]].concat(),
            lengths: self.lengths.as_ref().map(|lengths| &lengths[range]),
        }
    }
}

fn x_of<'a>(file: &SafeTensors<'a>) -> anyhow::Result<TensorView<'a>> {
    let Ok(x) = file.tensor("x") else {
        let mut names = file.names();
        names.sort_unstable();
        bail!("no tensor x; the file holds {}", if names.is_empty() { "none".into() } else { names.join(", ") });
    };
    Ok(x)
}

fn integers(dtype: Dtype, data: &[u8]) -> anyhow::Result<Vec<i64>> {
    match dtype {
        Dtype::I64 => Ok(bytemuck::pod_collect_to_vec(data)),
        Dtype::U32 => Ok(bytemuck::pod_collect_to_vec::<u8, u32>(data).into_iter().map(i64::from).collect()),
        other => bail!("lengths is {other:?}, expected I64 or U32"),
    }
}

/// Lengths that say for each sequence how many of its positions count.
fn checked_lengths(lengths: Vec<i64>, shape: &[usize], x: &[usize]) -> anyhow::Result<Vec<u32>> {
    let sequences = x.first().copied().unwrap_or(0);
    ensure!(shape == [sequences], "lengths is {shape:?}, x {x:?} needs it to be [{sequences}]");
    // In x [N, in] every row is a sequence of one token.
    let positions = if x.len() > 2 { x[1] } else { 1 };
    let check = |(at, length): (usize, i64)| match u32::try_from(length) {
        Ok(short) if short as usize <= positions => Ok(short),
        _ => bail!("lengths[{at}] is {length}, expected 0 to {positions}: x is {x:?}"),
    };
    lengths.into_iter().enumerate().map(check).collect()
}

/// Where the first NaN or infinity of a layer's weights is, if there is one. The file is the one they were read from.
///
/// # Errors
/// Where it is another file.
pub fn first_non_finite_weight(weights: &Weights, file: &[u8], prefix: &str) -> anyhow::Result<Option<String>> {
    let Some((name, position)) = weights.first_non_finite() else { return Ok(None) };
    let name = format!("{prefix}{name}");
    let file = Checkpoint::open(&[("the file", file)])?;
    let value = file.values(&name)?.to_f32()[position];
    Ok(Some(not_finite(&name, file.shape(&name)?, position, value)))
}

/// Says where a number is that is not finite.
pub fn not_finite(name: &str, shape: &[usize], position: usize, value: f32) -> String {
    let mut rest = position;
    let mut index: Vec<usize> = shape
        .iter()
        .rev()
        .map(|&size| {
            let at = rest % size;
            rest /= size;
            at
        })
        .collect();
    index.reverse();
    format!("{name}{index:?} (element {position} of {shape:?}) is {value}")
}
