//! Softmax over an axis, with masked lengths. Shader: `shaders/softmax.wgsl`.

use super::{Kernel, Slot, in_quads, params, shader_u32};
use crate::{
    Element, Error, Gpu, Plan, Result, Step, Tensor,
    device::AdapterClass,
    shader::Variant,
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
        let mut variants = Vec::new();
        let rows = SHAPES.iter().map(|(_, _, shape)| (*shape, false));
        for (shape, columns) in rows.chain([(COLUMNS, true)]) {
            for stage in [Stage::Whole, Stage::Partial, Stage::Apply] {
                for flags in 0..16u32 {
                    let flag = |bit: u32| flags >> bit & 1 == 1;
                    variants.push(variant(shape, columns, stage, flag(0), flag(1), flag(2), flag(3)));
                }
            }
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

/// How a workgroup shares out its rows.
#[derive(Debug, Clone, Copy)]
struct Shape {
    /// Invocations that share a row (a power of two).
    lanes: u32,
    /// Rows of a workgroup.
    rows: u32,
}

/// The shape for rows of an adapter class and a length; the first that fits is taken.
const SHAPES: &[(AdapterClass, u64, Shape)] = &[
    // On CPUs one vector of lanes has a row to itself: the fewest barriers, and they cost the most there.
    (AdapterClass::Software, u64::MAX, Shape { lanes: 8, rows: 1 }),
    (AdapterClass::Hardware, 128, Shape { lanes: 32, rows: 4 }),
    (AdapterClass::Hardware, u64::MAX, Shape { lanes: 256, rows: 1 }),
];

/// The shape where one invocation owns a quad of columns and nothing is shared.
const COLUMNS: Shape = Shape { lanes: 64, rows: 1 };

/// Positions that one dispatch goes through for a row. Three passes of 65 536 / (4 · 8) and of 8 192 positions stay well
/// below the 65 535 iterations after which software Vulkan drivers stop an invocation.
const ROW_CHUNK: u64 = 1 << 16;
const COLUMN_CHUNK: u64 = 1 << 13;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Whole,
    Partial,
    Apply,
}

fn variant(
    shape: Shape,
    columns: bool,
    stage: Stage,
    masked: bool,
    in_place: bool,
    x_quads: bool,
    y_quads: bool,
) -> Variant {
    Variant::default()
        .number("LANES", shape.lanes)
        .number("ROWS", shape.rows)
        .flag("COLUMNS", columns)
        .word(
            "STAGE",
            match stage {
                Stage::Whole => "whole",
                Stage::Partial => "partial",
                Stage::Apply => "apply",
            },
        )
        .flag("MASKED", masked)
        .flag("IN_PLACE", in_place)
        .word("x_TYPE", "f32")
        .flag("x_QUADS", x_quads)
        .flag("y_QUADS", y_quads)
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
        let outer_each = limit / (row * 4);
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
        let fits = |(class, most, _): &&(AdapterClass, u64, Shape)| *class == gpu.class() && geometry.length <= *most;
        // The last row of either class fits every length.
        let by_rows = SHAPES.iter().find(fits).map_or(SHAPES[SHAPES.len() - 1].2, |(_, _, shape)| *shape);
        let (shape, chunk) = if columns { (COLUMNS, COLUMN_CHUNK) } else { (by_rows, ROW_CHUNK) };
        let chunks = geometry.length.div_ceil(chunk);
        let invocations = u64::from(shape.lanes * shape.rows);
        let groups = if columns {
            outer * geometry.inner.div_ceil(4).div_ceil(invocations)
        } else {
            outer.div_ceil(u64::from(shape.rows))
        };
        let x = self.x.bind(gpu, NAME, "x", first * row, outer * row)?;
        let y = self.y.bind(gpu, NAME, "y", first * row, outer * row)?;
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
        let (x_quads, y_quads) = (in_quads(&x, &[stride]), in_quads(&y, &[stride]));
        let step = |stage: Stage, partials: Option<&Bound<'_>>| {
            let masked = self.lengths.is_some();
            let mut operands = vec![("x", &x), ("y", &y)];
            operands.extend(lengths.as_ref().map(|lengths| ("lengths", lengths)));
            operands.extend(partials.map(|partials| ("partials", partials)));
            Step::new(
                gpu,
                &SOFTMAX,
                variant(shape, columns, stage, masked, geometry.in_place, x_quads, y_quads),
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
