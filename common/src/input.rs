//! x and its lengths, read from tensors, and refusing what cannot be right. No file is trusted.

use std::ops::Range;

use anyhow::{Context, bail, ensure};
use double_routing::{Checkpoint, Dimensions, Storage, Weights, names_like};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};

use crate::numbers::{Numbers, product};

/// x and, where sequences differ in length, how many positions of each count.
#[derive(Debug)]
pub struct Input<'a> {
    /// Axis 0 is that of the sequences, the last that of the features.
    pub x: Numbers<'a>,
    /// For each sequence.
    pub lengths: Option<Vec<u32>>,
    /// How x is stored on the device, which is as in the file where it can be, and y is to be in the output.
    pub storage: Storage,
}

/// Some of the sequences of an [`Input`].
#[derive(Debug)]
pub struct Part<'a> {
    /// Row-major.
    pub x: Vec<f32>,
    /// Axis 0 is that of the sequences, the last that of the features.
    pub shape: Vec<usize>,
    /// For each of these sequences.
    pub lengths: Option<&'a [u32]>,
}

/// What says which positions of a sequence count.
const MASKS: [&str; 2] = ["attention_mask", "mask"];

impl<'a> Input<'a> {
    /// The tensor `x`, and where the file has them `lengths`, or a `mask` or `attention_mask` that says as much.
    ///
    /// # Errors
    /// Where there is no x, where lengths do not fit it, and where there is anything else: it would be left unread.
    pub fn of_sequences(file: &SafeTensors<'a>) -> anyhow::Result<Self> {
        let mut input = Self::of_numbers(x_of(file, &["lengths", MASKS[0], MASKS[1]])?);
        let shape = input.shape();
        let mut lengths: Option<(&str, Vec<u32>)> = None;
        for name in ["lengths", MASKS[0], MASKS[1]] {
            let Ok(view) = file.tensor(name) else { continue };
            let own = if name == "lengths" { lengths_of(&view, shape)? } else { lengths_of_mask(name, &view, shape)? };
            match &lengths {
                Some((other, known)) if *known != own => bail!("{other} and {name} say different lengths"),
                _ => lengths = Some((name, own)),
            }
        }
        input.lengths = lengths.map(|(_, lengths)| lengths);
        Ok(input)
    }

    /// The tensor `x`. Tokens have nothing to do with each other, and all of them count.
    ///
    /// # Errors
    /// Where there is no x, and where there is anything else: it would be left unread.
    pub fn of_tokens(file: &SafeTensors<'a>) -> anyhow::Result<Self> {
        Ok(Self::of_numbers(x_of(file, &[])?))
    }

    /// x alone, of which all counts.
    pub fn of_numbers(x: Numbers<'a>) -> Self {
        let storage = Storage { x: x.kind.element(), ..Storage::default() };
        Self { x, lengths: None, storage }
    }

    /// Axis 0 is that of the sequences, the last that of the features.
    pub fn shape(&self) -> &[usize] {
        &self.x.shape
    }

    /// Refuses an x that is none for a layer of these dimensions.
    ///
    /// # Errors
    /// Says both shapes.
    pub fn check_layer(&self, dimensions: Dimensions) -> anyhow::Result<()> {
        let shape = self.shape();
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
        let shape = self.shape();
        ensure!(shape.len() > 1, "x is {shape:?}, expected [T, {0}] or [B, S, {0}]", gate[1]);
        ensure!(shape.last() == Some(&gate[1]), "x is {shape:?}, gate.weight is {gate:?}");
        self.check_countable()
    }

    fn check_countable(&self) -> anyhow::Result<()> {
        let shape = self.shape();
        // An empty file may claim any shape with a 0 in it; safetensors count from the first size on, 0 or not.
        let in_order = shape.iter().try_fold(1usize, |count, &size| count.checked_mul(size));
        ensure!(in_order.and(product(&shape[1..])).is_some(), "x is {shape:?}, more than can be counted");
        Ok(())
    }

    /// The size of axis 0, along which nothing depends on anything else.
    pub fn sequences(&self) -> usize {
        self.shape()[0]
    }

    /// Tokens of one sequence.
    pub fn tokens_each(&self) -> usize {
        let shape = self.shape();
        product(&shape[1..shape.len() - 1]).unwrap_or(usize::MAX)
    }

    /// Tokens in all.
    pub fn tokens(&self) -> usize {
        let shape = self.shape();
        product(&shape[..shape.len() - 1]).unwrap_or(usize::MAX)
    }

    /// The shape of what has `width` numbers for each token.
    pub fn shape_with(&self, width: usize) -> Vec<usize> {
        let shape = self.shape();
        [&shape[..shape.len() - 1], &[width]].concat()
    }

    /// The sequences in a range of axis 0.
    pub fn part(&self, range: Range<usize>) -> Part<'_> {
        let shape = self.shape();
        let each = product(&shape[1..]).unwrap_or(usize::MAX);
        Part {
            x: if each == 0 { Vec::new() } else { self.x.values(range.start * each..range.end * each) },
            shape: [&[range.len()], &shape[1..]].concat(),
            lengths: self.lengths.as_ref().map(|lengths| &lengths[range]),
        }
    }

    /// Some of the tokens, counted through all sequences.
    pub fn rows(&self, tokens: Range<usize>) -> Vec<f32> {
        let features = self.shape().last().copied().unwrap_or(0);
        self.x.values(tokens.start * features..tokens.end * features)
    }

    /// Where the first NaN or infinity is among numbers that begin at this place of x, if there is one.
    pub fn first_non_finite(&self, values: &[f32], start: usize) -> Option<String> {
        let at = start + values.iter().position(|x| !x.is_finite())?;
        let number = self.x.at(at);
        let beyond = if number.is_finite() { ", beyond f32" } else { "" };
        Some(format!("{} is {number:?}{beyond}", place("x", self.shape(), at)))
    }
}

impl Part<'_> {
    /// The size of axis 0.
    pub fn sequences(&self) -> usize {
        self.shape[0]
    }
}

/// The tensor x of a file that has nothing else but these.
fn x_of<'a>(file: &SafeTensors<'a>, beside: &[&str]) -> anyhow::Result<Numbers<'a>> {
    let mut names = file.names();
    names.sort_unstable();
    let Ok(view) = file.tensor("x") else {
        let held = if names.is_empty() { "none".into() } else { names_like("x", names) };
        bail!("no tensor x; the file holds {held}");
    };
    if let Some(unread) = names.into_iter().find(|name| *name != "x" && !beside.contains(name)) {
        let read = [&["x"], beside].concat().join(", ");
        bail!("there is a tensor {unread}, which is not read and might change the result; known: {read}");
    }
    Numbers::of(&view).with_context(|| format!("x is {:?}, expected F32, F16, BF16 or F64", view.dtype()))
}

/// Whole numbers of any type, each in 128 bits.
fn integers(name: &str, view: &TensorView<'_>) -> anyhow::Result<Vec<i128>> {
    fn all<const SIZE: usize>(data: &[u8], of: impl Fn([u8; SIZE]) -> i128) -> Vec<i128> {
        data.as_chunks().0.iter().map(|&bytes| of(bytes)).collect()
    }
    let data = view.data();
    Ok(match view.dtype() {
        Dtype::BOOL | Dtype::U8 => all(data, |bytes| u8::from_le_bytes(bytes).into()),
        Dtype::I8 => all(data, |bytes| i8::from_le_bytes(bytes).into()),
        Dtype::U16 => all(data, |bytes| u16::from_le_bytes(bytes).into()),
        Dtype::I16 => all(data, |bytes| i16::from_le_bytes(bytes).into()),
        Dtype::U32 => all(data, |bytes| u32::from_le_bytes(bytes).into()),
        Dtype::I32 => all(data, |bytes| i32::from_le_bytes(bytes).into()),
        Dtype::U64 => all(data, |bytes| u64::from_le_bytes(bytes).into()),
        Dtype::I64 => all(data, |bytes| i64::from_le_bytes(bytes).into()),
        other => bail!("{name} is {other:?}, expected whole numbers"),
    })
}

/// Positions of each sequence: in x [N, in] every row is a sequence of one token.
fn positions(x: &[usize]) -> usize {
    if x.len() > 2 { x[1] } else { 1 }
}

/// How many positions of each sequence count.
fn lengths_of(view: &TensorView<'_>, x: &[usize]) -> anyhow::Result<Vec<u32>> {
    let (shape, sequences) = (view.shape(), x.first().copied().unwrap_or(0));
    ensure!(view.dtype() != Dtype::BOOL, "lengths is BOOL, expected whole numbers");
    ensure!(shape == [sequences], "lengths is {shape:?}, x {x:?} needs it to be [{sequences}]");
    let positions = positions(x);
    let check = |(at, length): (usize, i128)| match u32::try_from(length) {
        Ok(short) if short as usize <= positions => Ok(short),
        _ => bail!("lengths[{at}] is {length}, expected 0 to {positions}: x is {x:?}"),
    };
    integers("lengths", view)?.into_iter().enumerate().map(check).collect()
}

/// The same from a mask of ones and zeros for each position, where the ones come first.
fn lengths_of_mask(name: &str, view: &TensorView<'_>, x: &[usize]) -> anyhow::Result<Vec<u32>> {
    ensure!(x.len() == 3, "{name}: x is {x:?}, and only [B, S, in] has positions to mask");
    let (shape, wanted) = (view.shape(), &x[..2]);
    ensure!(shape == wanted, "{name} is {shape:?}, x {x:?} needs it to be {wanted:?}");
    let marks: Vec<bool> = match Numbers::of(view) {
        Some(numbers) => {
            (0..x[0] * x[1]).map(|at| one_or_zero(name, shape, at, numbers.at(at))).collect::<anyhow::Result<_>>()?
        }
        None => {
            let marks = integers(name, view)?.into_iter().enumerate();
            marks.map(|(at, mark)| one_or_zero(name, shape, at, mark as f64)).collect::<anyhow::Result<_>>()?
        }
    };
    let of_sequence = |(sequence, marks): (usize, &[bool])| {
        let length = marks.iter().take_while(|&&mark| mark).count();
        if let Some(later) = marks[length..].iter().position(|&mark| mark) {
            let later = length + later;
            bail!(
                "{name}[{sequence}] is 0 at position {length} and 1 at {later}; only positions at the end can be masked"
            );
        }
        Ok(u32::try_from(length)?)
    };
    if x[1] == 0 {
        return Ok(vec![0; x[0]]);
    }
    marks.chunks(x[1]).enumerate().map(of_sequence).collect()
}

fn one_or_zero(name: &str, shape: &[usize], at: usize, mark: f64) -> anyhow::Result<bool> {
    ensure!(mark == 0.0 || mark == 1.0, "{} is {mark}, expected 0 or 1", place(name, shape, at));
    Ok(mark == 1.0)
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
    format!("{} is {value}", place(name, shape, position))
}

/// Names an element by its indices and by its position among all.
fn place(name: &str, shape: &[usize], position: usize) -> String {
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
    format!("{name}{index:?} (element {position} of {shape:?})")
}
