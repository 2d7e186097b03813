//! Reading x, its lengths and the weights from files.

use std::path::Path;

use anyhow::Context;
use double_routing::{Dimensions, Element, Storage, bytemuck};
use double_routing_common::input::Input;
use ndarray::{ArrayViewD, CowArray, IxDyn};
use ndarray_npy::{ViewElement, ViewNpyError, ViewNpyExt};
use safetensors::{Dtype, SafeTensors};

use crate::source::Source;

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

/// Reads x for a layer of these dimensions: a .npy file, or safetensors with a tensor `x` and perhaps `lengths`.
pub fn read_input(path: &Path, dimensions: Dimensions, allow_non_finite: bool) -> anyhow::Result<Input> {
    read_checked(path, Input::of_sequences, |input| input.check_layer(dimensions), allow_non_finite)
}

/// Reads x for a router whose `gate.weight` has this shape: a .npy file, or safetensors with a tensor `x`.
pub fn read_tokens(path: &Path, gate: [usize; 2], allow_non_finite: bool) -> anyhow::Result<Input> {
    read_checked(path, Input::of_tokens, |input| input.check_router(gate), allow_non_finite)
}

fn read_checked(
    path: &Path,
    from_tensors: impl Fn(&SafeTensors<'_>) -> anyhow::Result<Input>,
    check: impl Fn(&Input) -> anyhow::Result<()>,
    allow_non_finite: bool,
) -> anyhow::Result<Input> {
    let bytes = Source::open(path)?;
    let checked = || {
        let input = match bytes.starts_with(b"\x93NUMPY") {
            true => from_npy(&bytes)?,
            false => from_tensors(&SafeTensors::deserialize(&bytes).context("neither .npy nor safetensors")?)?,
        };
        check(&input)?;
        match input.first_non_finite().filter(|_| !allow_non_finite) {
            Some(found) => Err(refusal(&found)),
            None => Ok(input),
        }
    };
    checked().with_context(|| path.display().to_string())
}

/// Refuses a number that is not finite, and says what would let it pass.
pub fn refusal(found: &str) -> anyhow::Error {
    anyhow::anyhow!("{found}; --allow-non-finite lets it pass")
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
