//! Reading x, its lengths and the weights from files.

use std::ops::Range;

use anyhow::{Context, anyhow};
use double_routing::{Dimensions, Element};
use double_routing_common::{
    input::{Input, Part, not_finite},
    npy,
};
use safetensors::{Dtype, SafeTensors};

use crate::{
    kind::{self, Kind},
    source::Source,
};

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

/// x in a file, of which no more is in memory than is worked on.
#[derive(Debug)]
pub struct Rows<'a> {
    pub input: Input<'a>,
    source: Option<&'a Source>,
    allow_non_finite: bool,
}

impl<'a> Rows<'a> {
    /// x for a layer of these dimensions: a .npy file, or safetensors with a tensor `x` and perhaps `lengths`.
    pub fn of_layer(source: &'a Source, dimensions: Dimensions, allow_non_finite: bool) -> anyhow::Result<Self> {
        let check = |input: &Input<'_>| input.check_layer(dimensions);
        Self::checked(source, Input::of_sequences, check, allow_non_finite)
    }

    /// x for a router whose `gate.weight` has this shape: a .npy file, or safetensors with a tensor `x`.
    pub fn of_router(source: &'a Source, gate: [usize; 2], allow_non_finite: bool) -> anyhow::Result<Self> {
        let check = |input: &Input<'_>| input.check_router(gate);
        Self::checked(source, Input::of_tokens, check, allow_non_finite)
    }

    /// x that is in no file, and known to be finite.
    pub fn of_input(input: Input<'a>) -> Self {
        Self { input, source: None, allow_non_finite: true }
    }

    fn checked(
        source: &'a Source,
        from_tensors: impl Fn(&SafeTensors<'a>) -> anyhow::Result<Input<'a>>,
        check: impl Fn(&Input<'_>) -> anyhow::Result<()>,
        allow_non_finite: bool,
    ) -> anyhow::Result<Self> {
        let checked = || {
            let bytes: &'a [u8] = source;
            let input = match bytes.starts_with(npy::MAGIC) {
                true => Input::of_numbers(npy::read(bytes)?),
                false => from_tensors(&tensors(bytes)?)?,
            };
            check(&input)?;
            anyhow::Ok(input)
        };
        let input = checked().with_context(|| source.path().display().to_string())?;
        Ok(Self { input, source: Some(source), allow_non_finite })
    }

    /// The sequences in a range of axis 0.
    pub fn part(&self, range: Range<usize>) -> anyhow::Result<Part<'_>> {
        let start = range.start;
        let part = self.input.part(range);
        let each = part.x.len() / part.sequences().max(1);
        self.taken(&part.x, start * each)?;
        Ok(part)
    }

    /// Some of the tokens, counted through all sequences.
    pub fn tokens(&self, range: Range<usize>) -> anyhow::Result<Vec<f32>> {
        let (start, tokens) = (range.start, range.len());
        let x = self.input.rows(range);
        self.taken(&x, start * (x.len() / tokens.max(1)))?;
        Ok(x)
    }

    /// Checks what was taken from a place of x on, and lets the file's pages go.
    fn taken(&self, values: &[f32], start: usize) -> anyhow::Result<()> {
        let Some(source) = self.source else { return Ok(()) };
        source.release(0..source.len());
        match self.input.first_non_finite(values, start).filter(|_| !self.allow_non_finite) {
            None => Ok(()),
            Some(found) => Err(refusal(&found)).with_context(|| source.path().display().to_string()),
        }
    }
}

/// The tensors of what is no .npy file.
fn tensors(bytes: &[u8]) -> anyhow::Result<SafeTensors<'_>> {
    SafeTensors::deserialize(bytes).map_err(|error| {
        let kind = kind::of(bytes).filter(|kind| *kind != Kind::Safetensors);
        let what = kind.map_or_else(|| error.to_string(), |kind| format!("it is {kind}"));
        anyhow!("neither .npy nor safetensors: {what}")
    })
}

/// Refuses a number that is not finite, and says what would let it pass.
pub fn refusal(found: &str) -> anyhow::Error {
    anyhow!("{found}; --allow-non-finite lets it pass")
}

/// Refuses a result that is not finite: x is, and the result means nothing.
pub fn overflow(name: &str, shape: &[usize], position: usize, value: f32, y: Element) -> anyhow::Error {
    let beyond = match (name, y) {
        ("y", Element::F16) => "f16 ends at 65504, --output-type f32 or bf16 at 3.4e38",
        _ => "it is beyond f32, which ends at 3.4e38",
    };
    anyhow!(
        "{}, though x is finite: {beyond}; --allow-non-finite lets it pass",
        not_finite(name, shape, position, value)
    )
}
