//! Operands that a kernel reads once for each result and that may be absent: biases, and what is added or multiplied at the
//! end. The shader side is `shaders/lib/optional.wgsl`.

use super::FLOATS;
use crate::{Element, Error, Gpu, Result, Tensor, tensor::Bound};

/// Checks that it has this shape and a float type, and lies within a buffer that `output` does not lie in.
pub(super) fn check(
    operation: &'static str,
    name: &'static str,
    tensor: Option<&Tensor<'_>>,
    wanted: &[usize],
    output: &Tensor<'_>,
) -> Result<()> {
    let Some(tensor) = tensor else { return Ok(()) };
    if tensor.shape() != wanted {
        return Err(Error::shape(operation, format!("{name} is {:?}, expected {wanted:?}", tensor.shape())));
    }
    tensor.check_element(operation, name, FLOATS)?;
    tensor.check(operation, name)?;
    tensor.check_apart(operation, name, output)
}

/// The binding for its elements `first .. first + count`, and the parameter that says where and what it is: its first element
/// from the start of the binding, times 4, plus its type or absence.
pub(super) fn bind<'a>(
    gpu: &'a Gpu,
    operation: &'static str,
    name: &'static str,
    tensor: Option<&Tensor<'a>>,
    first: u64,
    count: u64,
) -> Result<(u32, Bound<'a>)> {
    let Some(tensor) = tensor else { return Ok((3, Bound::absent(gpu))) };
    let bound = tensor.bind(gpu, operation, name, first, count)?;
    Ok((bound.first * 4 + kind(tensor.element()), bound))
}

/// How shaders that learn a float type from a parameter call it.
pub(super) fn kind(element: Element) -> u32 {
    match element {
        Element::F16 => 1,
        Element::BF16 => 2,
        Element::F32 | Element::U32 => 0,
    }
}
