//! The stable permutation of slots by the path each was given. Shader: `shaders/dispatch.wgsl`.

use super::{
    Kernel, Slot,
    lanes::{self, By, Kind, Lanes},
    params, shader_u32,
};
use crate::{Element, Error, Gpu, Plan, Result, Step, Tensor, shader::Variant, tensor::Bound};

/// The kernel behind [`Dispatch`].
///
/// ```
/// assert_eq!(double_routing::kernels::DISPATCH.name(), "dispatch");
/// ```
pub const DISPATCH: Kernel = Kernel {
    name: "dispatch",
    source: include_str!("../../shaders/dispatch.wgsl"),
    params: Params::fields,
    slots: &[
        Slot::read(1, "ids").when("STAGE == whole || STAGE == count || STAGE == place"),
        Slot::read(2, "sequence").when("SEQUENCE"),
        Slot::write(3, "tallies").when("STAGE == count || STAGE == scan"),
        Slot::read(3, "tallies").when("STAGE == place"),
        Slot::write(4, "counts").when("COUNTED"),
        Slot::read(4, "counts").when("STAGE == offsets"),
        Slot::write(5, "offsets").when("STAGE == whole || STAGE == offsets"),
        Slot::read(5, "offsets").when("STAGE == place"),
        Slot::write(6, "order").when("STAGE == whole || STAGE == place"),
        Slot::write(7, "positions").when("STAGE == whole || STAGE == count || STAGE == place"),
    ],
    variants: || {
        let mut variants = Vec::new();
        for (_, _, lanes, ()) in SHAPES {
            for sequence in [false, true] {
                for in_memory in [false, true] {
                    for counted in [false, true] {
                        variants.push(variant(*lanes, Stage::Whole, sequence, in_memory, counted));
                    }
                    variants.push(variant(*lanes, Stage::Count, sequence, in_memory, false));
                }
            }
            variants.push(variant(*lanes, Stage::Scan, false, false, true));
            variants.push(variant(*lanes, Stage::Offsets, false, false, false));
        }
        variants.extend([false, true].map(|sequence| variant(PLACES, Stage::Place, sequence, false, false)));
        variants
    },
};

params! {
    struct Params {
        slots,
        paths,
        capacity,
        chunk,
        chunks,
        ids_first,
        sequence_first,
        counts_first,
        offsets_first,
        order_first,
        positions_first,
        unused,
    }
}

/// The lanes that go through a chunk together.
const SHAPES: &[(Kind, u64, Lanes, ())] = &[
    // On CPUs one vector of lanes saves the barriers.
    (Kind::Software, u64::MAX, Lanes::vector(8, 1), ()),
    (Kind::Software, u64::MAX, Lanes::vector(4, 1), ()),
    (Kind::Software, u64::MAX, Lanes::vector(16, 1), ()),
    (Kind::Software, u64::MAX, Lanes::memory(8, 1), ()),
    (Kind::Hardware, u64::MAX, Lanes::memory(64, 1), ()),
];

/// The invocations of a workgroup where each has a turn of its own.
const PLACES: Lanes = Lanes::memory(64, 1);

/// The turns of a chunk: at least this many, and so many that the tallies are not more than the slots.
const LEAST_CHUNK: u64 = 1024;

/// The most turns of a chunk, and paths: software Vulkan drivers stop an invocation after 65 535 iterations. One of four
/// lanes goes three times through its quarter of the paths and twice through its quarter of the turns, one of eight lanes
/// without subgroups ten times through its eighth.
const MOST_CHUNK: u64 = 1 << 14;
const MOST_PATHS: u64 = 1 << 16;

/// The most chunks, for the same reason: a lane goes twice through its share of them.
const MOST_CHUNKS: u64 = 1 << 16;

/// Paths whose tallies fit workgroup memory and leave room for other workgroups.
const PATHS_IN_MEMORY: u32 = 2048;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Whole,
    Count,
    Scan,
    Offsets,
    Place,
}

fn variant(lanes: Lanes, stage: Stage, sequence: bool, in_memory: bool, counted: bool) -> Variant {
    let stage = match stage {
        Stage::Whole => "whole",
        Stage::Count => "count",
        Stage::Scan => "scan",
        Stage::Offsets => "offsets",
        Stage::Place => "place",
    };
    Variant::default()
        .word("STAGE", stage)
        .word("LANES_BY", if lanes.by == By::Memory { "memory" } else { "subgroup" })
        .number("LANES", lanes.lanes)
        .word("TALLIES", if in_memory { "memory" } else { "storage" })
        .number("PATHS", PATHS_IN_MEMORY)
        .flag("SEQUENCE", sequence)
        .flag("COUNTED", counted)
}

/// The stable permutation of slots by the path each was given: slots of one path become neighbours, in their order.
///
/// | tensor | shape | elements |
/// |---|---|---|
/// | `ids` | any, `[T, e]` as a rule; slots are its elements in order | u32 |
/// | `offsets` | `[P + 1]` | u32 |
/// | `order` | `[slots]` | u32 |
/// | `positions` | as many elements as `ids` | u32 |
/// | `counts` | `[P]` | u32 |
/// | `sequence` | `[slots]`, a permutation of them | u32 |
///
/// A slot with an id of P or more has no path: `u32::MAX` says so. The slots that path p keeps are
/// `order[offsets[p]..offsets[p + 1]]`, and `order` is `u32::MAX` from `offsets[P]` on. `positions` is its inverse: the
/// place of each slot in `order`, and `u32::MAX` for one without a path. Slots are taken in order, or in that of
/// `sequence`, and a path keeps no more than its `capacity`: the others are dropped, which leaves them in `counts` but in
/// `positions` gives them `u32::MAX`. All results are exact, and the same in every run.
///
/// P may be up to 65 536. Every tensor must fit a binding. Up to 1024 slots, and up to 16 384 where there are as
/// many paths, take one dispatch of one workgroup; more of them four dispatches.
///
/// ```
/// use double_routing::{AdapterChoice, Element, Gpu, Tensor, bytemuck, kernels::Dispatch};
///
/// # fn main() -> double_routing::Result<()> { pollster::block_on(async {
/// let gpu = Gpu::open(&AdapterChoice::default()).await?;
/// // Three tokens of two slots each; the last slot has no path.
/// let ids = gpu.upload("ids", bytemuck::cast_slice(&[2, 0, 0, 2, 2, u32::MAX]))?;
/// let [offsets, order, positions] = ["offsets", "order", "positions"].map(|name| gpu.buffer(name, Element::U32, 6));
/// let (offsets, order, positions) = (offsets?, order?, positions?);
/// let [offsets, order] = [(&offsets, 4), (&order, 6)].map(|(buffer, length)| Tensor::u32(buffer, &[length]));
/// let positions = Tensor::u32(&positions, &[3, 2]);
/// let plan = Dispatch::new(Tensor::u32(&ids, &[3, 2]), offsets.clone(), order.clone(), positions.clone()).plan(&gpu)?;
/// let mut encoder = gpu.device().create_command_encoder(&Default::default());
/// plan.record(&mut encoder.begin_compute_pass(&Default::default()));
/// gpu.queue().submit([encoder.finish()]);
/// assert_eq!(bytemuck::pod_collect_to_vec::<u8, u32>(&gpu.read(&offsets).await?), [0, 2, 2, 5]);
/// assert_eq!(bytemuck::pod_collect_to_vec::<u8, u32>(&gpu.read(&order).await?), [1, 2, 0, 3, 4, u32::MAX]);
/// assert_eq!(bytemuck::pod_collect_to_vec::<u8, u32>(&gpu.read(&positions).await?), [2, 0, 1, 3, 4, u32::MAX]);
/// # Ok(()) }) }
/// ```
#[derive(Debug, Clone)]
pub struct Dispatch<'a> {
    ids: Tensor<'a>,
    offsets: Tensor<'a>,
    order: Tensor<'a>,
    positions: Tensor<'a>,
    counts: Option<Tensor<'a>>,
    sequence: Option<Tensor<'a>>,
    capacity: u32,
}

const NAME: &str = "dispatch";

impl<'a> Dispatch<'a> {
    /// Sorts slots by path; there is one path fewer than `offsets`.
    ///
    /// ```no_run
    /// # use double_routing::{Tensor, kernels::Dispatch};
    /// # fn dispatch<'a>(ids: Tensor<'a>, offsets: Tensor<'a>, order: Tensor<'a>, positions: Tensor<'a>) -> Dispatch<'a> {
    /// Dispatch::new(ids, offsets, order, positions)
    /// # }
    /// ```
    pub fn new(ids: Tensor<'a>, offsets: Tensor<'a>, order: Tensor<'a>, positions: Tensor<'a>) -> Self {
        Self { ids, offsets, order, positions, counts: None, sequence: None, capacity: u32::MAX }
    }

    /// Also counts the slots of each path, those included that it does not keep.
    ///
    /// ```no_run
    /// # use double_routing::{Tensor, kernels::Dispatch};
    /// # fn counted<'a>(dispatch: Dispatch<'a>, counts: Tensor<'a>) -> Dispatch<'a> {
    /// dispatch.counts(counts)
    /// # }
    /// ```
    #[must_use]
    pub fn counts(mut self, counts: Tensor<'a>) -> Self {
        self.counts = Some(counts);
        self
    }

    /// The most slots that a path keeps: its first.
    ///
    /// ```no_run
    /// # use double_routing::kernels::Dispatch;
    /// # fn limited<'a>(dispatch: Dispatch<'a>) -> Dispatch<'a> {
    /// dispatch.capacity(64)
    /// # }
    /// ```
    #[must_use]
    pub fn capacity(mut self, capacity: u32) -> Self {
        self.capacity = capacity;
        self
    }

    /// The order in which slots are taken, each once. By descending gate, the capacity drops the smallest gates.
    ///
    /// ```no_run
    /// # use double_routing::{Tensor, kernels::Dispatch};
    /// # fn by_gate<'a>(dispatch: Dispatch<'a>, sequence: Tensor<'a>) -> Dispatch<'a> {
    /// dispatch.capacity(64).sequence(sequence)
    /// # }
    /// ```
    #[must_use]
    pub fn sequence(mut self, sequence: Tensor<'a>) -> Self {
        self.sequence = Some(sequence);
        self
    }

    /// Checks everything and builds the steps. Without slots there is still one: it writes the offsets and counts, which
    /// are 0.
    ///
    /// # Errors
    /// [`Error::Shape`], [`Error::Element`] or [`Error::Buffer`] for operands that do not fit, [`Error::Limit`] where a
    /// tensor exceeds a binding.
    ///
    /// ```no_run
    /// # use double_routing::{Gpu, Plan, Result, kernels::Dispatch};
    /// # fn plan(gpu: &Gpu, dispatch: Dispatch<'_>) -> Result<Plan> {
    /// dispatch.plan(gpu)
    /// # }
    /// ```
    pub fn plan(&self, gpu: &Gpu) -> Result<Plan> {
        let [slots, paths] = self.check()?;
        let (lanes, ()) = lanes::choose(gpu, SHAPES, slots);
        let chunk = slots.div_ceil(MOST_CHUNKS).max(paths.clamp(LEAST_CHUNK, MOST_CHUNK)).next_power_of_two();
        let chunks = slots.div_ceil(chunk);

        let ids = self.ids.bind(gpu, NAME, "ids", 0, slots)?;
        let sequence = self.sequence.as_ref().map(|own| own.bind(gpu, NAME, "sequence", 0, slots)).transpose()?;
        let counts = self.counts.as_ref().filter(|_| paths > 0);
        let counts = counts.map(|own| own.bind(gpu, NAME, "counts", 0, paths)).transpose()?;
        let offsets = self.offsets.bind(gpu, NAME, "offsets", 0, paths + 1)?;
        // What is written, even if it has no elements, can share no buffer with what is read.
        let empty = match slots {
            0 => Some([gpu.buffer("no order", Element::U32, 0)?, gpu.buffer("no positions", Element::U32, 0)?]),
            _ => None,
        };
        let [order, positions] = match &empty {
            Some([order, positions]) => [Tensor::u32(order, &[1]), Tensor::u32(positions, &[1])],
            None => [self.order.clone(), self.positions.clone()],
        };
        let order = order.bind(gpu, NAME, "order", 0, slots.max(1))?;
        let positions = positions.bind(gpu, NAME, "positions", 0, slots.max(1))?;
        let number = |what: &str, count: u64| shader_u32(NAME, what, count);
        let params = Params {
            slots: number("slots", slots)?,
            paths: number("paths", paths)?,
            capacity: self.capacity,
            chunk: number("chunk", chunk)?,
            chunks: number("chunks", chunks)?,
            ids_first: ids.first,
            sequence_first: sequence.as_ref().map_or(0, |own| own.first),
            counts_first: counts.as_ref().map_or(0, |own| own.first),
            offsets_first: offsets.first,
            order_first: order.first,
            positions_first: positions.first,
            unused: 0,
        };
        let mut operands = vec![("ids", &ids), ("offsets", &offsets), ("order", &order), ("positions", &positions)];
        operands.extend(sequence.as_ref().map(|sequence| ("sequence", sequence)));
        let in_memory = paths <= u64::from(PATHS_IN_MEMORY);
        let sequenced = sequence.is_some();
        let step = |stage: Stage, variant: Variant, operands: &[(&str, &Bound<'_>)], groups: u64| {
            let label = format!("{NAME} {stage:?} {slots} to {paths}").to_lowercase();
            Step::new(gpu, &DISPATCH, variant, label, bytemuck::bytes_of(&params), operands, groups)
        };
        let mut plan = Plan::default();
        if chunks <= 1 {
            operands.extend(counts.as_ref().map(|counts| ("counts", counts)));
            let variant = variant(lanes, Stage::Whole, sequenced, in_memory, counts.is_some());
            plan.push(step(Stage::Whole, variant, &operands, 1)?);
            drop(operands);
            empty.into_iter().flatten().for_each(|buffer| plan.keep(buffer));
            return Ok(plan);
        }
        let tallies = gpu.buffer("dispatch tallies", Element::U32, paths * chunks)?;
        let own_counts = match counts {
            Some(_) => None,
            None => Some(gpu.buffer("dispatch counts", Element::U32, paths)?),
        };
        let bound_tallies = Tensor::u32(&tallies, &[]).bind(gpu, NAME, "tallies", 0, (paths * chunks).max(1))?;
        let bound_counts = match &own_counts {
            Some(own) => Some(Tensor::u32(own, &[]).bind(gpu, NAME, "counts", 0, paths)?),
            None => counts,
        };
        operands.push(("tallies", &bound_tallies));
        operands.extend(bound_counts.as_ref().map(|counts| ("counts", counts)));
        plan.push(step(Stage::Count, variant(lanes, Stage::Count, sequenced, in_memory, false), &operands, chunks)?);
        if paths > 0 {
            plan.push(step(Stage::Scan, variant(lanes, Stage::Scan, false, false, true), &operands, paths)?);
        }
        plan.push(step(Stage::Offsets, variant(lanes, Stage::Offsets, false, false, false), &operands, 1)?);
        plan.push(step(
            Stage::Place,
            variant(PLACES, Stage::Place, sequenced, false, false),
            &operands,
            slots.div_ceil(u64::from(PLACES.lanes)),
        )?);
        drop(operands);
        plan.keep(tallies);
        own_counts.into_iter().for_each(|own| plan.keep(own));
        Ok(plan)
    }

    /// The slots and paths.
    fn check(&self) -> Result<[u64; 2]> {
        let slots = self.ids.elements(NAME)?;
        let &[ends] = self.offsets.shape() else {
            let offsets = self.offsets.shape();
            return Err(Error::shape(NAME, format!("offsets {offsets:?} need one dimension")));
        };
        let Some(paths) = ends.checked_sub(1).map(|paths| paths as u64) else {
            return Err(Error::shape(NAME, "offsets [0] need one element more than there are paths"));
        };
        if paths > MOST_PATHS {
            return Err(Error::shape(
                NAME,
                format!("offsets [{ends}] are those of {paths} paths, more than the {MOST_PATHS} there may be"),
            ));
        }
        for (name, tensor) in
            [("order", Some(&self.order)), ("positions", Some(&self.positions)), ("sequence", self.sequence.as_ref())]
        {
            if let Some(tensor) = tensor.filter(|tensor| tensor.elements(NAME).is_ok_and(|count| count != slots)) {
                let (shape, ids) = (tensor.shape(), self.ids.shape());
                return Err(Error::shape(NAME, format!("{name} {shape:?} must have as many elements as ids {ids:?}")));
            }
        }
        if let Some(counts) = self.counts.as_ref().filter(|counts| counts.shape() != [ends - 1]) {
            let offsets = self.offsets.shape();
            return Err(Error::shape(
                NAME,
                format!("counts are {:?}, expected {:?} for offsets {offsets:?}", counts.shape(), [ends - 1]),
            ));
        }
        let outputs = [
            ("offsets", Some(&self.offsets)),
            ("order", Some(&self.order)),
            ("positions", Some(&self.positions)),
            ("counts", self.counts.as_ref()),
        ];
        let inputs = [("ids", Some(&self.ids)), ("sequence", self.sequence.as_ref())];
        let all = inputs.into_iter().chain(outputs).filter_map(|(name, tensor)| Some((name, tensor?)));
        for (name, tensor) in all {
            tensor.check_element(NAME, name, &[Element::U32])?;
            tensor.check(NAME, name)?;
            for (other, output) in outputs.iter().filter_map(|(other, output)| Some((*other, (*output)?))) {
                if other != name && tensor.buffer() == output.buffer() {
                    return Err(Error::buffer(
                        NAME,
                        format!("{name} and {other} share a buffer; what a kernel writes needs a buffer of its own"),
                    ));
                }
            }
        }
        Ok([slots, paths])
    }
}
