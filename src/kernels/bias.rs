//! The rows that a kernel adds where it is given them, in any of the weights' types.

use super::{Slot, WEIGHT_ELEMENTS};
use crate::{Element, Error, Gpu, Result, Tensor, shader::Variant, tensor::Bound};

/// An operand that may be absent: what its shader calls it. How it is read: `shaders/lib/bias.wgsl`.
pub(crate) struct Bias {
    name: &'static str,
    /// The flag that says whether it is there.
    flag: &'static str,
}

pub(crate) const BIAS: Bias = Bias { name: "bias", flag: "BIAS" };
pub(crate) const INNER: Bias = Bias { name: "inner", flag: "INNER" };
pub(crate) const OUTER: Bias = Bias { name: "outer", flag: "OUTER" };

impl Bias {
    pub const fn slot(&self, binding: u32) -> Slot {
        Slot::read(binding, self.name).when(self.flag)
    }

    /// A variant without it, and one with it.
    pub fn variants(&self, variant: &Variant) -> [Variant; 2] {
        [false, true].map(|there| variant.clone().flag(self.flag, there))
    }

    pub fn define(&self, variant: Variant, bias: Option<&Tensor<'_>>) -> Variant {
        variant.flag(self.flag, bias.is_some())
    }

    /// Checks that it has this many elements of a type for weights, within a buffer that `output` does not lie in.
    pub fn check(
        &self,
        operation: &'static str,
        bias: Option<&Tensor<'_>>,
        columns: usize,
        output: &Tensor<'_>,
    ) -> Result<()> {
        let Some(bias) = bias else { return Ok(()) };
        if bias.shape() != [columns] {
            let (name, shape) = (self.name, bias.shape());
            return Err(Error::shape(operation, format!("{name} is {shape:?}, expected {:?}", [columns])));
        }
        bias.check_element(operation, self.name, WEIGHT_ELEMENTS)?;
        bias.check(operation, self.name)?;
        bias.check_apart(operation, self.name, output)
    }

    /// Its elements `first .. first + count`, with the name they are bound by.
    pub fn bind<'a>(
        &self,
        gpu: &'a Gpu,
        operation: &'static str,
        bias: Option<&'a Tensor<'a>>,
        first: u64,
        count: u64,
    ) -> Result<Option<(&'static str, Bound<'a>)>> {
        bias.map(|bias| Ok((self.name, bias.bind(gpu, operation, self.name, first, count)?))).transpose()
    }
}

/// The parameter that says where it is: its first element from the start of the binding, times 4, plus its type.
pub(crate) fn at(bias: Option<&Tensor<'_>>, bound: Option<&(&'static str, Bound<'_>)>) -> u32 {
    let kind = match bias.map(Tensor::element) {
        Some(Element::F16) => 1,
        Some(Element::BF16) => 2,
        _ => 0,
    };
    bound.map_or(0, |(_, bound)| bound.first * 4 + kind)
}
