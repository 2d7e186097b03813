//! What every case stands on: seeded inputs, guarded buffers, and the comparison with a bound.

use half::{bf16, f16};

use super::Outcome;
use crate::{
    Element, Gpu, Plan, Result, Tensor, Values,
    reference::{BF16_UNIT, F16_UNIT, rounded_bound},
};

/// SplitMix64: every case seeds its own, so that it replays alone.
pub(super) struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    }

    /// Uniform in −1 .. 1.
    pub fn real(&mut self) -> f32 {
        (self.bits() >> 40) as f32 / (1u32 << 23) as f32 - 1.0
    }

    /// Uniform in −3 ..= 3: a value that every storage type holds exactly.
    pub fn integer(&mut self) -> f32 {
        (self.bits() % 7) as f32 - 3.0
    }

    pub fn below(&mut self, end: u32) -> u32 {
        (self.bits() % u64::from(end)) as u32
    }
}

/// What a case's numbers are like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Data {
    /// Uniform reals; compared by the kernel's bound.
    Reals,
    /// Small integers: sums are exact in f32 in any order, so the result must be too.
    Integers,
    /// Small integers, and weights that are multiples of 2⁻²⁴: subnormal in f16. Sums are exact as well.
    Subnormals,
}

impl Data {
    pub fn values(self, random: &mut Random, count: usize, element: Element) -> Values {
        let values = (0..count).map(|_| match self {
            Self::Reals => random.real(),
            Self::Subnormals if element == Element::F16 => 2f32.powi(-24) * (random.below(2047) as f32 - 1023.0),
            Self::Integers | Self::Subnormals => random.integer(),
        });
        match element {
            Element::F16 => Values::F16(values.map(f16::from_f32).collect()),
            Element::BF16 => Values::BF16(values.map(bf16::from_f32).collect()),
            _ => Values::F32(values.collect()),
        }
    }

    pub fn bound(self, bound: Vec<f64>) -> Vec<f64> {
        match self {
            Self::Reals => bound,
            Self::Integers | Self::Subnormals => vec![0.0; bound.len()],
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Reals => "reals",
            Self::Integers => "integers",
            Self::Subnormals => "subnormals",
        }
    }
}

/// What a case's name says of an activation's type, where it is not f32.
pub(super) fn typed(name: &str, element: Element) -> String {
    if element == Element::F32 { String::new() } else { format!(" {name}={element}") }
}

/// The pairs of a 16-bit activation and the type of what it is multiplied with.
pub(super) const HALF_FACTORS: [[Element; 2]; 4] = [
    [Element::F16, Element::F32],
    [Element::F16, Element::F16],
    [Element::BF16, Element::F32],
    [Element::BF16, Element::BF16],
];
/// The bound of a product where the device's matrix units may compute it. Those known cut what they add off instead of rounding it, a few
/// products at a time together with the sum so far, and then the sum: (K + 2·K/4) times 2⁻²³ at most, in place of K times 2⁻²⁴.
pub(super) fn on_matrix_units(gpu: &Gpu, factors: [Element; 2], bound: Vec<f64>) -> Vec<f64> {
    let factor = if gpu.matrix_units().is_some() && factors == [Element::F16; 2] { 3.0 } else { 1.0 };
    bound.into_iter().map(|bound| factor * bound).collect()
}

pub(super) const HALVES: [Element; 2] = [Element::F16, Element::BF16];

/// Guard words lie for this many bytes before and behind every operand. What they hold is finite and large, so that a
/// kernel that reads it shows.
const GUARD: usize = 256;
const GUARD_WORD: [u8; 4] = 1e30f32.to_le_bytes();
/// A NaN that no kernel writes: an output element that nobody computed shows.
const POISON: [u8; 4] = 0x7fc0_beef_u32.to_le_bytes();
/// The same for 16 bits, both as f16 and as bf16.
const HALF_POISON: [u8; 2] = 0x7fd1_u16.to_le_bytes();

fn poison(element: Element) -> &'static [u8] {
    if element.bytes() == 2 { &HALF_POISON } else { &POISON }
}

/// An operand in a buffer of its own, between guard words.
#[derive(Debug)]
pub(super) struct Operand {
    buffer: wgpu::Buffer,
    contents: Vec<u8>,
    start: usize,
    bytes: usize,
    shape: Vec<usize>,
    element: Element,
}

impl Operand {
    /// `shift` elements of the operand's type move it off the aligned place.
    fn new(gpu: &Gpu, shape: &[usize], element: Element, data: Option<&[u8]>, shift: usize) -> Result<Self> {
        let bytes = shape.iter().product::<usize>() * element.bytes();
        let start = GUARD + shift * element.bytes();
        let mut contents: Vec<u8> =
            GUARD_WORD.into_iter().cycle().take((start + bytes + GUARD).next_multiple_of(16)).collect();
        match data {
            Some(data) => contents[start..start + bytes].copy_from_slice(data),
            None => contents[start..start + bytes]
                .iter_mut()
                .zip(poison(element).iter().cycle())
                .for_each(|(to, from)| *to = *from),
        }
        let buffer = gpu.upload("operand", &contents)?;
        Ok(Self { buffer, contents, start, bytes, shape: shape.to_vec(), element })
    }

    pub fn input(gpu: &Gpu, shape: &[usize], values: &Values, shift: usize) -> Result<Self> {
        Self::new(gpu, shape, values.element(), Some(values.bytes()), shift)
    }

    /// Lengths or indices.
    pub fn words(gpu: &Gpu, shape: &[usize], words: &[u32], shift: usize) -> Result<Self> {
        Self::new(gpu, shape, Element::U32, Some(bytemuck::cast_slice(words)), shift)
    }

    /// One of 16 bits is moved by whole words only.
    pub fn output(gpu: &Gpu, shape: &[usize], element: Element, shift: usize) -> Result<Self> {
        let shift = if element.bytes() == 2 { shift.next_multiple_of(2) } else { shift };
        Self::new(gpu, shape, element, None, shift)
    }

    pub fn tensor(&self) -> Tensor<'_> {
        Tensor::new(&self.buffer, self.element, &self.shape).offset(self.start as u64)
    }

    /// Everything in the buffer now.
    async fn read(&self, gpu: &Gpu) -> Result<Vec<u8>> {
        let words = Tensor::new(&self.buffer, Element::U32, &[self.contents.len() / 4]);
        gpu.read(&words).await
    }
}

/// Submits the plan in one pass.
pub(super) fn submit(gpu: &Gpu, plan: &Plan) {
    let mut encoder = gpu.device().create_command_encoder(&Default::default());
    plan.record(&mut encoder.begin_compute_pass(&Default::default()));
    gpu.queue().submit([encoder.finish()]);
}

/// What an output must hold.
#[derive(Debug, Clone)]
pub(super) enum Truth {
    /// Floats, each within its bound; those that are NaN in truth must not be written.
    Values { expected: Vec<f64>, bound: Vec<f64> },
    /// These words exactly: indices, counts, or the bits of values that are only moved.
    Words(Vec<u32>),
    /// The same for 16 bits.
    Halves(Vec<u16>),
}

/// What an output of this type must hold of sums that lie within `bound` of `expected`: they are rounded to it once, and exact ones
/// have only one rounding.
pub(super) fn stored(element: Element, mut expected: Vec<f64>, mut bound: Vec<f64>) -> Truth {
    let (unit, nearest): (_, fn(f32) -> f64) = match element {
        Element::F16 => (F16_UNIT, |value| f16::from_f32(value).to_f64()),
        Element::BF16 => (BF16_UNIT, |value| bf16::from_f32(value).to_f64()),
        _ => return Truth::Values { expected, bound },
    };
    for (expected, bound) in expected.iter_mut().zip(&mut bound) {
        if *bound == 0.0 {
            *expected = nearest(*expected as f32);
        } else {
            *bound = rounded_bound(*expected, *bound, unit);
        }
    }
    Truth::Values { expected, bound }
}

impl Truth {
    fn judge(&self, bytes: &[u8], element: Element) -> Outcome {
        match self {
            Self::Values { expected, bound } => {
                let mut result = Values::from_bytes(bytes, element).to_f32();
                let mut expected = expected.clone();
                let stored = bytes.chunks_exact(element.bytes());
                for ((result, expected), stored) in result.iter_mut().zip(&mut expected).zip(stored) {
                    if expected.is_nan() && stored == poison(element) {
                        (*result, *expected) = (0.0, 0.0);
                    }
                }
                compare(&result, &expected, bound)
            }
            Self::Words(expected) => compare_words(&bytemuck::pod_collect_to_vec::<u8, u32>(bytes), expected),
            Self::Halves(expected) => compare_words(&bytemuck::pod_collect_to_vec::<u8, u16>(bytes), expected),
        }
    }
}

/// Runs the plan, reads the output, and holds it against the expectation; inputs and guard words must be as before.
pub(super) async fn judge(
    gpu: &Gpu,
    plan: &Plan,
    inputs: &[(&str, &Operand)],
    output: &Operand,
    expected: &[f64],
    bound: &[f64],
) -> Result<Outcome> {
    let truth = stored(output.element, expected.to_vec(), bound.to_vec());
    judge_all(gpu, plan, inputs, &[("the output", output, truth)]).await
}

/// As [`judge`], for any number of outputs: the worst of them.
pub(super) async fn judge_all(
    gpu: &Gpu,
    plan: &Plan,
    inputs: &[(&str, &Operand)],
    outputs: &[(&str, &Operand, Truth)],
) -> Result<Outcome> {
    let operands: Vec<_> = outputs.iter().map(|&(name, output, _)| (name, output)).collect();
    judge_together(gpu, plan, inputs, &operands, |results| {
        let mut outcome = Outcome { elements: 0, worst: 0.0, signal: None, fault: None };
        for ((name, output, truth), result) in outputs.iter().zip(results) {
            let own = truth.judge(result, output.element);
            outcome.elements += own.elements;
            outcome.worst = outcome.worst.max(own.worst);
            if let Some(fault) = own.fault {
                outcome.fault = Some(format!("{name}: {fault}"));
            }
        }
        outcome
    })
    .await
}

/// As [`judge_all`], where what an output must hold depends on what another does: `truth` sees the bytes of all of them.
pub(super) async fn judge_together(
    gpu: &Gpu,
    plan: &Plan,
    inputs: &[(&str, &Operand)],
    outputs: &[(&str, &Operand)],
    truth: impl FnOnce(&[Vec<u8>]) -> Outcome,
) -> Result<Outcome> {
    submit(gpu, plan);
    let mut results = Vec::with_capacity(outputs.len());
    let mut overwritten = None;
    for (name, output) in outputs {
        let mut after = output.read(gpu).await?;
        let end = output.start + output.bytes;
        if after[..output.start] != output.contents[..output.start] || after[end..] != output.contents[end..] {
            overwritten = Some(format!("a guard word around {name} was overwritten"));
        }
        after.truncate(end);
        after.drain(..output.start);
        results.push(after);
    }
    for (name, input) in inputs {
        if input.read(gpu).await? != input.contents {
            overwritten = Some(format!("{name} was overwritten"));
        }
    }
    let outcome = truth(&results);
    Ok(Outcome { fault: overwritten.or(outcome.fault), ..outcome })
}

fn compare_words<T: PartialEq + std::fmt::LowerHex>(result: &[T], expected: &[T]) -> Outcome {
    let mut outcome = Outcome { elements: result.len(), worst: 0.0, signal: None, fault: None };
    if result != expected {
        let at = result.iter().zip(expected).position(|(word, expected)| word != expected);
        outcome.worst = f64::INFINITY;
        outcome.fault = Some(match at {
            Some(at) => format!("element {at} is {:#x}, expected {:#x}", result[at], expected[at]),
            None => format!("{} elements, expected {}", result.len(), expected.len()),
        });
    }
    outcome
}

/// Holds a result against the truth, element by element: the worst by its bound.
pub(super) fn compare(result: &[f32], expected: &[f64], bound: &[f64]) -> Outcome {
    let mut outcome = Outcome { elements: result.len(), worst: 0.0, signal: None, fault: None };
    if result.len() != expected.len() || result.len() != bound.len() {
        outcome.worst = f64::INFINITY;
        outcome.fault = Some(format!("{} elements, expected {}", result.len(), expected.len()));
        return outcome;
    }
    let mut at = None;
    for (index, &value) in result.iter().enumerate() {
        let error = (f64::from(value) - expected[index]).abs();
        let share = if error == 0.0 { 0.0 } else { error / bound[index] };
        // Where the result, the truth or the bound is no number, nothing has been shown.
        let share = if share.is_nan() { f64::INFINITY } else { share };
        if share > outcome.worst {
            outcome.worst = share;
            at = Some(index);
        }
    }
    if let Some(index) = at.filter(|_| outcome.worst > 1.0) {
        outcome.fault =
            Some(format!("element {index} is {}, expected {} ± {:.3e}", result[index], expected[index], bound[index]));
    }
    outcome
}
