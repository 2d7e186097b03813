//! Reading x, its lengths and the weights, and refusing what cannot be right. No file is trusted.

use std::{fs, ops::Range, path::Path};

use anyhow::{Context, bail, ensure};
use double_routing::{Dimensions, Element, Storage, Values, Weights, bytemuck};
use ndarray::{ArrayViewD, CowArray, IxDyn};
use ndarray_npy::{ViewElement, ViewNpyError, ViewNpyExt};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};

/// x and, where sequences differ in length, how many positions of each count.
#[derive(Debug)]
pub struct Input {
    pub x: Vec<f32>,
    pub shape: Vec<usize>,
    pub lengths: Option<Vec<u32>>,
    /// How x is stored in the file and y is to be in the output; they are on the device as well.
    pub storage: Storage,
}

/// A type that y can be written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum OutputType {
    F32,
    F16,
    Bf16,
}

impl From<OutputType> for Element {
    fn from(output: OutputType) -> Self {
        match output {
            OutputType::F32 => Self::F32,
            OutputType::F16 => Self::F16,
            OutputType::Bf16 => Self::BF16,
        }
    }
}

/// A type as safetensors call it.
pub fn dtype(element: Element) -> Dtype {
    match element {
        Element::F16 => Dtype::F16,
        Element::BF16 => Dtype::BF16,
        Element::U32 => Dtype::U32,
        _ => Dtype::F32,
    }
}

/// Some of the sequences of an [`Input`].
#[derive(Debug)]
pub struct Part<'a> {
    pub x: &'a [f32],
    pub shape: Vec<usize>,
    pub lengths: Option<&'a [u32]>,
}

impl Input {
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

/// Reads a whole file.
pub fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

/// Reads the weights.
pub fn read_weights(path: &Path, prefix: &str, allow_non_finite: bool) -> anyhow::Result<Weights> {
    let bytes = read(path)?;
    let weights = Weights::from_safetensors(&bytes, prefix).with_context(|| path.display().to_string())?;
    if !allow_non_finite && let Some((name, position)) = weights.first_non_finite() {
        let name = format!("{prefix}{name}");
        let file = SafeTensors::deserialize(&bytes)?;
        let view = file.tensor(&name)?;
        let value = Values::from_safetensors(&name, &view)?.to_f32()[position];
        bail!("{}: {}", path.display(), not_finite(&name, view.shape(), position, value));
    }
    Ok(weights)
}

/// Reads x for a layer of these dimensions: a .npy file, or safetensors with a tensor `x` and perhaps `lengths`.
pub fn read_input(path: &Path, dimensions: Dimensions, allow_non_finite: bool) -> anyhow::Result<Input> {
    let bytes = read(path)?;
    let input = if bytes.starts_with(b"\x93NUMPY") { from_npy(&bytes) } else { from_safetensors(&bytes) };
    input.and_then(|input| fitting(input, dimensions, allow_non_finite)).with_context(|| path.display().to_string())
}

/// Reads x for a router whose `gate.weight` has this shape: a .npy file, or safetensors with a tensor `x`. Tokens have nothing to
/// do with each other, so lengths do not matter.
pub fn read_tokens(path: &Path, gate: [usize; 2], allow_non_finite: bool) -> anyhow::Result<Input> {
    let bytes = read(path)?;
    let input = if bytes.starts_with(b"\x93NUMPY") { from_npy(&bytes) } else { tokens_from_safetensors(&bytes) };
    let fitting = |input: Input| {
        let shape = &input.shape;
        ensure!(shape.len() > 1, "x is {shape:?}, expected [T, {0}] or [B, S, {0}]", gate[1]);
        ensure!(shape.last() == Some(&gate[1]), "x is {shape:?}, gate.weight is {gate:?}");
        countable(input, allow_non_finite)
    };
    input.and_then(fitting).with_context(|| path.display().to_string())
}

fn tokens_from_safetensors(bytes: &[u8]) -> anyhow::Result<Input> {
    let file = opened(bytes)?;
    let x = x_of(&file)?;
    let shape = x.shape().to_vec();
    let x = Values::from_safetensors("x", &x)?;
    Ok(Input { x: x.to_f32(), shape, lengths: None, storage: storage_of(&x) })
}

fn storage_of(x: &Values) -> Storage {
    Storage { x: x.element(), ..Storage::default() }
}

fn opened(bytes: &[u8]) -> anyhow::Result<SafeTensors<'_>> {
    SafeTensors::deserialize(bytes).context("neither .npy nor safetensors")
}

fn x_of<'a>(file: &SafeTensors<'a>) -> anyhow::Result<TensorView<'a>> {
    let Ok(x) = file.tensor("x") else {
        let mut names = file.names();
        names.sort_unstable();
        bail!("no tensor x; the file holds {}", if names.is_empty() { "none".into() } else { names.join(", ") });
    };
    Ok(x)
}

fn from_safetensors(bytes: &[u8]) -> anyhow::Result<Input> {
    let file = opened(bytes)?;
    let x = x_of(&file)?;
    let lengths = match file.tensor("lengths") {
        Ok(view) => Some((integers(view.dtype(), view.data())?, view.shape().to_vec())),
        Err(_) => None,
    };
    let shape = x.shape().to_vec();
    let lengths =
        lengths.map(|(lengths, lengths_shape)| checked_lengths(lengths, &lengths_shape, &shape)).transpose()?;
    let x = Values::from_safetensors("x", &x)?;
    Ok(Input { x: x.to_f32(), shape, lengths, storage: storage_of(&x) })
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

fn from_npy(bytes: &[u8]) -> anyhow::Result<Input> {
    // A view of the numbers needs them aligned, which a vector of bytes does not promise.
    let mut aligned = vec![0u64; bytes.len().div_ceil(size_of::<u64>())];
    let aligned: &mut [u8] = bytemuck::cast_slice_mut(&mut aligned);
    let aligned = &mut aligned[..bytes.len()];
    aligned.copy_from_slice(bytes);
    let (x, shape) = match row_major::<f32>(aligned) {
        Err(ViewNpyError::WrongDescriptor(_)) => {
            let (x, shape) = row_major::<f64>(aligned).map_err(|error| match error {
                ViewNpyError::WrongDescriptor(found) => anyhow::anyhow!("its numbers are {found}, expected <f4 or <f8"),
                other => other.into(),
            })?;
            (x.into_iter().map(|x| x as f32).collect(), shape)
        }
        result => result?,
    };
    Ok(Input { x, shape, lengths: None, storage: Storage::default() })
}

/// The numbers in C order, whichever order the file has them in.
fn row_major<T: ViewElement + Clone>(bytes: &[u8]) -> Result<(Vec<T>, Vec<usize>), ViewNpyError> {
    let view = ArrayViewD::<T>::view_npy(bytes)?;
    let ordered: CowArray<'_, T, IxDyn> = view.as_standard_layout();
    Ok((ordered.iter().cloned().collect(), ordered.shape().to_vec()))
}

fn fitting(input: Input, dimensions: Dimensions, allow_non_finite: bool) -> anyhow::Result<Input> {
    let shape = &input.shape;
    let weight = [dimensions.attention, dimensions.input];
    ensure!(shape.len() > 1, "x is {shape:?}: softmax runs over axis 1, so its rank must be 2 or more");
    ensure!(shape.last() == Some(&dimensions.input), "x is {shape:?}, embedding.weight is {weight:?}");
    countable(input, allow_non_finite)
}

fn countable(input: Input, allow_non_finite: bool) -> anyhow::Result<Input> {
    let Input { x, shape, .. } = &input;
    // An empty file may claim any shape with a 0 in it.
    let countable = shape[1..].iter().try_fold(1usize, |product, &size| product.checked_mul(size));
    ensure!(countable.is_some(), "x is {shape:?}, more than can be counted");
    if !allow_non_finite && let Some(at) = x.iter().position(|x| !x.is_finite()) {
        bail!(not_finite("x", shape, at, x[at]));
    }
    Ok(input)
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
    format!("{name}{index:?} (element {position} of {shape:?}) is {value}; --allow-non-finite lets it pass")
}
