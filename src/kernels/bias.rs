//! The rows that a kernel adds where it is given them, in any of the weights' types.

use super::{Slot, WEIGHT_ELEMENTS};
use crate::{Element, Error, Gpu, Result, Tensor, shader::Variant, tensor::Bound};

/// An operand that may be absent: what its shader calls it.
pub(crate) struct Bias {
    name: &'static str,
    /// The flag that says whether it is there.
    flag: &'static str,
    element: &'static str,
    access: &'static str,
}

pub(crate) const BIAS: Bias = Bias { name: "bias", flag: "BIAS", element: "bias_TYPE", access: "bias_ACCESS" };
pub(crate) const INNER: Bias = Bias { name: "inner", flag: "INNER", element: "inner_TYPE", access: "inner_ACCESS" };
pub(crate) const OUTER: Bias = Bias { name: "outer", flag: "OUTER", element: "outer_TYPE", access: "outer_ACCESS" };

impl Bias {
    pub const fn slot(&self, binding: u32) -> Slot {
        Slot::read(binding, self.name).when(self.flag)
    }

    /// A variant without it, and one for each type it may be stored in.
    pub fn variants(&self, variant: &Variant) -> impl Iterator<Item = Variant> {
        let elements = std::iter::once(None).chain(WEIGHT_ELEMENTS.iter().copied().map(Some));
        elements.map(|element| self.define_element(variant.clone(), element))
    }

    pub fn define(&self, variant: Variant, bias: Option<&Tensor<'_>>) -> Variant {
        self.define_element(variant, bias.map(Tensor::element))
    }

    fn define_element(&self, variant: Variant, element: Option<Element>) -> Variant {
        let variant = variant.flag(self.flag, element.is_some());
        match element {
            // Read once for a whole sum: how does not matter.
            Some(element) => variant.word(self.element, element.name()).word(self.access, "elements"),
            None => variant,
        }
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

/// Elements from the start of the binding to the first that is bound, where any is.
pub(crate) fn first(bound: Option<&(&'static str, Bound<'_>)>) -> u32 {
    bound.map_or(0, |(_, bound)| bound.first)
}
