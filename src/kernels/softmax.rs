//! Softmax over an axis, with masked lengths. Shader: `shaders/softmax.wgsl`.

use super::{
    F32_STORE_ACCESSES, Kernel, OCTETS, Slot, in_octets,
    lanes::{self, Kind, Lanes},
    load_accesses, params, shader_u32, store_access,
};
use crate::{
    Element, Error, Gpu, Plan, Result, Step, Tensor,
    shader::Variant,
    step::GRID_WIDTH,
    tensor::{Bound, elements},
};

/// The kernel behind [`Softmax`].
///
/// ```
/// assert_eq!(double_routing::kernels::SOFTMAX.name(), "softmax");
/// ```
pub const SOFTMAX: Kernel = Kernel {
    name: "softmax",
    source: include_str!("../../shaders/softmax.wgsl"),
    params: Params::fields,
    slots: &[
        Slot::read(1, "x").when("!IN_PLACE"),
        Slot::read(2, "lengths").when("MASKED"),
        Slot::read(3, "partials").when("STAGE == apply"),
        Slot::write(3, "partials").when("STAGE == partial"),
        Slot::write(4, "y").when("STAGE != partial || IN_PLACE"),
    ],
    variants: || {
        let mut variants = vec![];
        let mut push = |shape: Shape, wide: bool, stage: Stage| {
            for flags in 0..4u32 {
                let (masked, in_place) = (flags & 1 == 1, flags & 2 == 2);
                if shape.quads() == OCTET_QUADS {
                    variants.push(variant(shape, stage, masked, in_place, OCTETS, OCTETS));
                    continue;
                }
                for x in load_accesses(Element::F32, wide && !in_place) {
                    for y in F32_STORE_ACCESSES {
                        variants.push(variant(shape, stage, masked, in_place, x, y));
                    }
                }
            }
        };
        for (kind, _, lanes, _) in SHAPES {
            let wide = *kind == Kind::Software;
            for &quads in if wide { &[1, OCTET_QUADS][..] } else { &[1] } {
                if !Shape::keeps_octets(*lanes, quads) {
                    for block in kind_blocks(*kind) {
                        push(Shape::rows(*lanes, quads, *block, Hold::Kept), wide, Stage::Whole);
                    }
                }
                for stage in [Stage::Whole, Stage::Partial, Stage::Apply] {
                    push(Shape::rows(*lanes, quads, LONG_BLOCK, Hold::Parts), wide, stage);
                }
            }
        }
        for (vectors, block) in octets_kept() {
            push(Shape::octets(vectors, 1, block, Hold::Kept), true, Stage::Whole);
            for rows in workgroup_rows(vectors) {
                push(Shape::octets(vectors, *rows, block, Hold::Fitted), true, Stage::Whole);
            }
        }
        for stage in [Stage::Whole, Stage::Partial, Stage::Apply] {
            push(Shape::Columns, true, stage);
        }
        variants
    },
};

params! {
    struct Params {
        outer,
        length,
        inner,
        chunk,
        x_first,
        y_first,
        lengths_first,
        unused,
    }
}

/// How a workgroup shares out its rows or columns.
#[derive(Debug, Clone, Copy)]
enum Shape {
    /// Lanes share a row and hold `block` spans of it at a time, each of `quads` quads.
    Rows { lanes: Lanes, quads: u32, block: u32, hold: Hold },
    /// An invocation owns a quad of columns, and nothing is shared.
    Columns,
}

/// What the spans that a lane holds are to a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hold {
    /// Some of it at a time.
    Parts,
    /// At least all of it.
    Kept,
    /// Just all of it, and workgroups have just as many rows as there are.
    Fitted,
}

/// The lanes that share a row, by its length.
const SHAPES: &[(Kind, u64, Lanes, ())] = &[
    // On CPUs one vector of lanes has a row to itself, and subgroups save the barriers.
    (Kind::Software, u64::MAX, Lanes::vector(8, 1), ()),
    (Kind::Software, u64::MAX, Lanes::vector(4, 1), ()),
    (Kind::Software, u64::MAX, Lanes::vector(16, 1), ()),
    (Kind::Software, u64::MAX, Lanes::memory(8, 1), ()),
    (Kind::Hardware, 128, Lanes::memory(32, 4), ()),
    // A subgroup holds its row in registers, eight quads a lane, and waits for no one.
    (Kind::Hardware, 1024, Lanes::subgroup(32), ()),
    // Where subgroups differ in size: of 256 invocations at most half would have a quad of such a row.
    (Kind::Hardware, 512, Lanes::memory(64, 4), ()),
    (Kind::Hardware, u64::MAX, Lanes::subgroups(256), ()),
    (Kind::Hardware, u64::MAX, Lanes::memory(256, 1), ()),
];

/// The lanes of the vectors that the next table is for.
const VECTOR_LANES: u32 = 8;

/// How many vectors keep a row of octets, and how many octets a lane has of it; the first that suffices is taken. The code is written
/// out for each octet and should stay in the first-level instruction cache, 32 KiB: where one vector has eight it does, and where several
/// take turns, with a barrier between loads, exponentials and stores, each of these need only stay by itself.
const OCTETS_KEPT: &[(u32, &[u32])] = &[
    (1, &[1, 2, 3, 4, 5, 6, 7, 8]),
    (4, &[3, 4]),
    (8, &[3, 4, 6, 8, 12, 16]),
    (16, &[12, 16]),
    (32, &[12, 16, 24, 32]),
];

fn octets_kept() -> impl Iterator<Item = (u32, u32)> {
    OCTETS_KEPT.iter().flat_map(|(vectors, blocks)| blocks.iter().map(move |block| (*vectors, *block)))
}

/// Rows that a workgroup may have where so many vectors have each; the most that divide the number of rows are taken.
fn workgroup_rows(vectors: u32) -> &'static [u32] {
    if vectors == 1 { &[16, 4, 1] } else { &[1] }
}

/// Invocations of a workgroup where each owns a quad of columns.
const COLUMN_LANES: u32 = 64;

/// Quads of a row that an invocation may keep: as many as its row needs, rounded up to one of these, or the row is read twice.
fn kind_blocks(kind: Kind) -> &'static [u32] {
    match kind {
        Kind::Software => &[1, 4, 16, 32],
        Kind::Hardware => &[1, 4, 8],
    }
}

/// Quads at a time of a row that is read twice: enough that following the maximum costs little.
const LONG_BLOCK: u32 = 8;

/// The quads of an octet.
const OCTET_QUADS: u32 = 2;

impl Shape {
    /// `held` quads at a time, or one span if that is more.
    fn rows(lanes: Lanes, quads: u32, held: u32, hold: Hold) -> Self {
        Self::Rows { lanes, quads, block: held.div_ceil(quads), hold }
    }

    fn octets(vectors: u32, rows: u32, block: u32, hold: Hold) -> Self {
        let lanes = match vectors {
            1 => Lanes::vector(VECTOR_LANES, rows),
            _ => Lanes::vectors(VECTOR_LANES, vectors),
        };
        Self::Rows { lanes, quads: OCTET_QUADS, block, hold }
    }

    /// Whether rows that are kept in such lanes are those of [`OCTETS_KEPT`].
    fn keeps_octets(lanes: Lanes, quads: u32) -> bool {
        quads == OCTET_QUADS && lanes.vector == VECTOR_LANES
    }

    fn choose(gpu: &Gpu, rows: u64, length: u64, quads: u32) -> Self {
        let (lanes, ()) = lanes::choose(gpu, SHAPES, length);
        if Self::keeps_octets(lanes, quads) {
            let keeps = |(vectors, block): (u32, u32)| u64::from(vectors * VECTOR_LANES * block * OCTET_QUADS * 4);
            return match octets_kept().find(|of| length <= keeps(*of)) {
                Some((vectors, block)) if length == keeps((vectors, block)) => {
                    let divides = |each: &&u32| rows.is_multiple_of(u64::from(**each));
                    let each = workgroup_rows(vectors).iter().find(divides).copied().unwrap_or(1);
                    Self::octets(vectors, each, block, Hold::Fitted)
                }
                Some((vectors, block)) => Self::octets(vectors, 1, block, Hold::Kept),
                None => Self::rows(lanes, quads, LONG_BLOCK, Hold::Parts),
            };
        }
        let keeps = |held: &&u32| length <= u64::from(lanes.lanes * 4 * **held);
        match kind_blocks(Kind::of(gpu)).iter().find(keeps) {
            Some(held) => Self::rows(lanes, quads, *held, Hold::Kept),
            None => Self::rows(lanes, quads, LONG_BLOCK, Hold::Parts),
        }
    }

    fn quads(self) -> u32 {
        match self {
            Self::Rows { quads, .. } => quads,
            Self::Columns => 1,
        }
    }
}

/// The most positions that one dispatch goes through for a row: two passes of 65 536 / (4 · 4) positions, and three of 8 192, stay well
/// below the 65 535 iterations after which software Vulkan drivers stop an invocation.
const ROW_CHUNK: u64 = 1 << 16;
const COLUMN_CHUNK: u64 = 1 << 13;

/// On hardware few long rows are cut until there are so many chunks, none shorter than this.
const FILL: u64 = 256;
const LEAST_CHUNK: u64 = 1 << 13;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Whole,
    Partial,
    Apply,
}

fn variant(shape: Shape, stage: Stage, masked: bool, in_place: bool, x: &'static str, y: &'static str) -> Variant {
    let variant = Variant::default();
    let variant = match shape {
        Shape::Rows { lanes, quads, block, hold } => {
            let variant = lanes.define(variant).flag("COLUMNS", false);
            let variant = variant.flag("KEPT", hold != Hold::Parts).flag("FITTED", hold == Hold::Fitted);
            variant.number("QUADS", quads).number("BLOCK", block)
        }
        Shape::Columns => {
            variant.flag("COLUMNS", true).word("LANES_BY", "nothing").number("LANES", COLUMN_LANES).number("ROWS", 1)
        }
    };
    let stage = match stage {
        Stage::Whole => "whole",
        Stage::Partial => "partial",
        Stage::Apply => "apply",
    };
    variant
        .word("STAGE", stage)
        .flag("MASKED", masked)
        .flag("IN_PLACE", in_place)
        .word("x_TYPE", "f32")
        .word("x_ACCESS", x)
        .word("y_ACCESS", y)
}

/// Softmax over one axis of a tensor of any rank, with an optional number of unmasked positions for each index before it.
///
/// | tensor | shape | elements |
/// |---|---|---|
/// | `x`, `y` | any, the same; they may be the same memory | f32 |
/// | `lengths` | `x.shape()[..axis]`, or the same number of elements | u32 |
///
/// Positions from `lengths` on get weight 0; where it is 0, the whole row is 0, never NaN. A position that is alone gets 1.
/// Relative error of an element, with E(d) = (3 + 2d)·2⁻²³ + d·2⁻²⁴ and d = max − x:
/// E(d) + Σ y·E + (length + 4)·2⁻²⁴ + 2.5·2⁻²³.
///
/// ```
/// use double_routing::{AdapterChoice, Gpu, Tensor, bytemuck, kernels::Softmax};
///
/// # fn main() -> double_routing::Result<()> { pollster::block_on(async {
/// let gpu = Gpu::open(&AdapterChoice::default()).await?;
/// let logits = gpu.upload("logits", bytemuck::cast_slice(&[3.0f32, 3.0, 7.0, 9.0]))?;
/// let lengths = gpu.upload("lengths", bytemuck::cast_slice(&[2u32, 1]))?;
/// // In place, over two sequences of two tokens, of which the second has one that counts.
/// let logits = Tensor::f32(&logits, &[2, 2]);
/// let plan = Softmax::new(logits.clone(), logits.clone(), 1).lengths(Tensor::u32(&lengths, &[2])).plan(&gpu)?;
/// let mut encoder = gpu.device().create_command_encoder(&Default::default());
/// plan.record(&mut encoder.begin_compute_pass(&Default::default()));
/// gpu.queue().submit([encoder.finish()]);
/// let w: Vec<f32> = bytemuck::pod_collect_to_vec(&gpu.read(&logits).await?);
/// assert!((w[0] - 0.5).abs() < 1e-6 && (w[1] - 0.5).abs() < 1e-6);
/// assert_eq!(w[2..], [1.0, 0.0]);
/// # Ok(()) }) }
/// ```
#[derive(Debug, Clone)]
pub struct Softmax<'a> {
    x: Tensor<'a>,
    y: Tensor<'a>,
    axis: usize,
    lengths: Option<Tensor<'a>>,
    batch_invariant: bool,
}

const NAME: &str = "softmax";

/// A tensor as the kernel sees it: the axis between what is before and what is behind it.
struct Geometry {
    outer: u64,
    length: u64,
    inner: u64,
    /// One invocation goes along the axis, instead of several that share it.
    columns: bool,
    in_place: bool,
}

impl<'a> Softmax<'a> {
    /// `y = softmax(x)` over `axis`.
    ///
    /// ```no_run
    /// # use double_routing::{Tensor, kernels::Softmax};
    /// # fn softmax<'a>(x: Tensor<'a>, y: Tensor<'a>) -> Softmax<'a> {
    /// Softmax::new(x, y, 1)
    /// # }
    /// ```
    pub fn new(x: Tensor<'a>, y: Tensor<'a>, axis: usize) -> Self {
        Self { x, y, axis, lengths: None, batch_invariant: false }
    }

    /// How many positions of the axis are unmasked, for each index before it. More than there are means all.
    ///
    /// ```no_run
    /// # use double_routing::{Tensor, kernels::Softmax};
    /// # fn softmax<'a>(softmax: Softmax<'a>, lengths: Tensor<'a>) -> Softmax<'a> {
    /// softmax.lengths(lengths)
    /// # }
    /// ```
    #[must_use]
    pub fn lengths(mut self, lengths: Tensor<'a>) -> Self {
        self.lengths = Some(lengths);
        self
    }

    /// Sums each row in an order that does not depend on how many others there are, also along a strided axis (one with
    /// dimensions behind it other than the last).
    ///
    /// ```no_run
    /// # use double_routing::kernels::Softmax;
    /// # fn softmax<'a>(softmax: Softmax<'a>) -> Softmax<'a> {
    /// softmax.batch_invariant(true)
    /// # }
    /// ```
    #[must_use]
    pub fn batch_invariant(mut self, invariant: bool) -> Self {
        self.batch_invariant = invariant;
        self
    }

    /// Checks everything and builds the steps.
    ///
    /// # Errors
    /// [`Error::Shape`], [`Error::Element`] or [`Error::Buffer`] for operands that do not fit, [`Error::Limit`] where the
    /// axis with all behind it exceeds a binding.
    ///
    /// ```no_run
    /// # use double_routing::{Gpu, Plan, Result, kernels::Softmax};
    /// # fn plan(gpu: &Gpu, softmax: Softmax<'_>) -> Result<Plan> {
    /// softmax.plan(gpu)
    /// # }
    /// ```
    pub fn plan(&self, gpu: &Gpu) -> Result<Plan> {
        let geometry = self.check()?;
        let mut plan = Plan::default();
        let row = geometry.length * geometry.inner;
        if geometry.outer * row == 0 {
            return Ok(plan);
        }
        let limit = gpu.unaligned_limit();
        if row * 4 > limit {
            return Err(Error::Limit {
                operation: NAME,
                what: "a row in bytes".into(),
                needed: row * 4,
                allowed: limit,
            });
        }
        let mut outer_each = limit / (row * 4);
        if Kind::of(gpu) == Kind::Software {
            // A row of the grid is never folded, and so has no workgroup too many.
            outer_each = outer_each.min(u64::from(GRID_WIDTH));
        }
        let mut first = 0;
        while first < geometry.outer {
            let outer = outer_each.min(geometry.outer - first);
            self.push(gpu, &mut plan, &geometry, first, outer)?;
            first += outer;
        }
        Ok(plan)
    }

    /// The steps for the rows `first .. first + outer`.
    fn push(&self, gpu: &Gpu, plan: &mut Plan, geometry: &Geometry, first: u64, outer: u64) -> Result<()> {
        let row = geometry.length * geometry.inner;
        let columns = geometry.columns;
        let mut x = self.x.bind(gpu, NAME, "x", first * row, outer * row)?;
        let y = self.y.bind(gpu, NAME, "y", first * row, outer * row)?;
        let octets = !columns && [&x, &y].iter().all(|bound| in_octets(gpu, bound, &[geometry.length]));
        let (shape, chunk) = match columns {
            true => (Shape::Columns, COLUMN_CHUNK),
            false => {
                let quads = if octets { OCTET_QUADS } else { 1 };
                (Shape::choose(gpu, outer, geometry.length, quads), self.row_chunk(gpu, geometry))
            }
        };
        let chunks = geometry.length.div_ceil(chunk);
        let groups = match shape {
            Shape::Columns => outer * geometry.inner.div_ceil(4).div_ceil(u64::from(COLUMN_LANES)),
            Shape::Rows { lanes, .. } => outer.div_ceil(u64::from(lanes.rows)),
        };
        let lengths = match &self.lengths {
            Some(lengths) => Some(lengths.bind(gpu, NAME, "lengths", first, outer)?),
            None => None,
        };
        let params = Params {
            outer: shader_u32(NAME, "rows", outer)?,
            length: shader_u32(NAME, "positions", geometry.length)?,
            inner: shader_u32(NAME, "columns", geometry.inner)?,
            chunk: shader_u32(NAME, "chunk", chunk)?,
            x_first: x.first,
            y_first: y.first,
            lengths_first: lengths.as_ref().map_or(0, |lengths| lengths.first),
            unused: 0,
        };
        let stride = if columns { geometry.inner } else { geometry.length };
        let in_place = geometry.in_place;
        let y_access = if octets { OCTETS } else { store_access(&y, Element::F32, &[stride]) };
        // What is read through y is read as y is written.
        let x_access = if octets || in_place { y_access } else { x.load_access(gpu, self.x.element(), &[stride]) };
        let step = |stage: Stage, partials: Option<&Bound<'_>>| {
            let masked = self.lengths.is_some();
            let mut operands = vec![("x", &x), ("y", &y)];
            operands.extend(lengths.as_ref().map(|lengths| ("lengths", lengths)));
            operands.extend(partials.map(|partials| ("partials", partials)));
            Step::new(
                gpu,
                &SOFTMAX,
                variant(shape, stage, masked, in_place, x_access, y_access),
                format!("{NAME} {stage:?} {outer}x{}x{}", geometry.length, geometry.inner).to_lowercase(),
                bytemuck::bytes_of(&params),
                &operands,
                groups * chunks,
            )
        };
        if chunks == 1 {
            plan.push(step(Stage::Whole, None)?);
        } else {
            let scratch = gpu.buffer("softmax partials", Element::F32, outer * geometry.inner * chunks * 2)?;
            let partials = Bound { buffer: &scratch, offset: 0, size: scratch.size(), first: 0 };
            plan.push(step(Stage::Partial, Some(&partials))?);
            plan.push(step(Stage::Apply, Some(&partials))?);
            plan.keep(scratch);
        }
        Ok(())
    }

    /// The positions of a row that one dispatch goes through.
    fn row_chunk(&self, gpu: &Gpu, geometry: &Geometry) -> u64 {
        if Kind::of(gpu) == Kind::Software || self.batch_invariant {
            return ROW_CHUNK;
        }
        let wanted = (FILL / geometry.outer).max(1);
        geometry.length.div_ceil(wanted).next_multiple_of(LEAST_CHUNK).min(ROW_CHUNK)
    }

    fn check(&self) -> Result<Geometry> {
        let (x, y) = (self.x.shape(), self.y.shape());
        if self.axis >= x.len() {
            return Err(Error::shape(NAME, format!("x {x:?} has no axis {}", self.axis)));
        }
        if x != y {
            return Err(Error::shape(NAME, format!("shapes differ: x is {x:?}, y is {y:?}")));
        }
        self.x.check_element(NAME, "x", &[Element::F32])?;
        self.y.check_element(NAME, "y", &[Element::F32])?;
        self.x.check(NAME, "x")?;
        self.y.check(NAME, "y")?;
        let outer = elements(NAME, &x[..self.axis])?;
        if let Some(lengths) = &self.lengths {
            lengths.check_element(NAME, "lengths", &[Element::U32])?;
            lengths.check(NAME, "lengths")?;
            if lengths.elements(NAME)? != outer {
                let wanted = &x[..self.axis];
                return Err(Error::shape(NAME, format!("lengths are {:?}, expected {wanted:?}", lengths.shape())));
            }
            lengths.check_apart(NAME, "lengths", &self.y)?;
        }
        let in_place = self.x.buffer() == self.y.buffer();
        if in_place && self.x.byte_offset() != self.y.byte_offset() {
            return Err(Error::buffer(
                NAME,
                format!(
                    "x and y are different parts (bytes {} and {}) of one buffer; use the same part, or two buffers",
                    self.x.byte_offset(),
                    self.y.byte_offset()
                ),
            ));
        }
        // The product is formed even where `outer` is 0, so it must be countable by itself.
        elements(NAME, &x[self.axis..])?;
        let inner = elements(NAME, &x[self.axis + 1..])?;
        // A strided axis may have one column only; what its sums look like must not depend on that.
        let strided = self.batch_invariant && self.axis + 2 < x.len();
        Ok(Geometry { outer, length: x[self.axis] as u64, inner, columns: inner > 1 || strided, in_place })
    }
}
