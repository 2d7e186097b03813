//! The attention logit of each token. Shader: `shaders/attend.wgsl`.

use super::{
    Access, Factor, Kernel, Packed, Read, Slot, check_factors, factor_reads, factor_variants,
    lanes::{self, By, Kind, Lanes},
    optional, params, shader_u32, tile,
};
use crate::{
    Element, Error, Gpu, Plan, Result, Step, Tensor,
    shader::Variant,
    tensor::{Bind, elements},
};

/// The kernel behind [`Attend`].
///
/// ```
/// assert_eq!(double_routing::kernels::ATTEND.name(), "attend");
/// ```
pub const ATTEND: Kernel = Kernel {
    name: "attend",
    source: include_str!("../../shaders/attend.wgsl"),
    params: Params::fields,
    slots: &[
        Slot::read(1, "x"),
        Slot::read(2, "v"),
        Slot::read(3, "bias"),
        Slot::write(4, "logits"),
        Slot::texels(5, "packed", Access::WriteTexels).when("PACKS"),
    ],
    variants: || {
        let mut variants = Vec::new();
        for (kind, _, lanes, each) in SHAPES {
            let wide = *kind == Kind::Software;
            for each in [rows_each(*lanes, *each, 1), *each] {
                for packs in [false, true] {
                    if may_pack(*lanes) || !packs {
                        variants.extend(factor_variants(wide).into_iter().map(|of| variant(*lanes, each, of, packs)));
                    }
                }
            }
        }
        variants
    },
};

params! {
    struct Params {
        rows,
        depth,
        x_first,
        v_first,
        bias_at,
        logits_first,
        panel,
        unused,
    }
}

/// The lanes that share a row, by its depth, and the rows of an invocation.
const SHAPES: &[(Kind, u64, Lanes, u32)] = &[
    // On CPUs a load is a load for each lane: one of v serves 8 rows. Subgroups save the barriers.
    (Kind::Software, 1 << 18, Lanes::vector(8, 1), 8),
    (Kind::Software, 1 << 17, Lanes::vector(4, 1), 8),
    (Kind::Software, 1 << 18, Lanes::vector(16, 1), 8),
    (Kind::Software, 1 << 18, Lanes::memory(8, 4), 4),
    (Kind::Hardware, 256, Lanes::memory(16, 4), 1),
    (Kind::Hardware, 1 << 18, Lanes::memory(32, 4), 1),
    // As many lanes as WebGPU allows: an invocation of the longest row that a binding of 128 MiB can hold then runs
    // 32 768 iterations, within the 65 535 after which software Vulkan drivers stop it.
    (Kind::Software, u64::MAX, Lanes::memory(256, 1), 1),
    (Kind::Hardware, u64::MAX, Lanes::memory(256, 1), 1),
];

fn variant(lanes: Lanes, each: u32, [x, v]: [Read; 2], packs: bool) -> Variant {
    lanes
        .define(Variant::default())
        .number("EACH", each)
        .flag("PACKS", packs)
        .word("x_TYPE", x.0.name())
        .word("x_ACCESS", x.1)
        .word("v_TYPE", v.0.name())
        .word("v_ACCESS", v.1)
}

/// The rows of an invocation: one where there are fewer than it would have. Which lanes add which quads stays the same.
fn rows_each(lanes: Lanes, each: u32, rows: u64) -> u32 {
    if lanes.by == By::Subgroup && rows < u64::from(each) { 1 } else { each }
}

/// Whether they can lay x out in a texture on the way: subgroups of a size whose products have such factors.
fn may_pack(lanes: Lanes) -> bool {
    lanes.by == By::Subgroup && tile::packed_lanes().any(|of_tile| of_tile == lanes.lanes)
}

/// The attention logit of each token: `logits = x·v + bias`.
///
/// | tensor | shape | elements |
/// |---|---|---|
/// | `x` | `[…, K]` | f32, f16, bf16 |
/// | `v` | `[K]`, or `[1, K]` as `nn.Linear` stores it | f32, f16, bf16 |
/// | `bias` | `[1]` | f32, f16, bf16 |
/// | `logits` | x's leading dimensions, with or without a last one of 1 | f32 |
///
/// Of `x` and `v` one is f32, or both are of the same type. |ĉ − c| ≤ (K + 2)·2⁻²⁴·(Σ|x||v| + |bias|).
///
/// ```
/// use double_routing::{AdapterChoice, Element, Gpu, Tensor, bytemuck, kernels::Attend};
///
/// # fn main() -> double_routing::Result<()> { pollster::block_on(async {
/// let gpu = Gpu::open(&AdapterChoice::default()).await?;
/// let h = gpu.upload("h", bytemuck::cast_slice(&[1.0f32, 2.0, 3.0, 4.0]))?;
/// let v = gpu.upload("v", bytemuck::cast_slice(&[1.0f32, -1.0]))?;
/// let logits = gpu.buffer("logits", Element::F32, 2)?;
/// // Two tokens of two features.
/// let (h, v, logits) = (Tensor::f32(&h, &[2, 2]), Tensor::f32(&v, &[1, 2]), Tensor::f32(&logits, &[2]));
/// let plan = Attend::new(h, v, logits.clone()).plan(&gpu)?;
/// let mut encoder = gpu.device().create_command_encoder(&Default::default());
/// plan.record(&mut encoder.begin_compute_pass(&Default::default()));
/// gpu.queue().submit([encoder.finish()]);
/// assert_eq!(bytemuck::pod_collect_to_vec::<u8, f32>(&gpu.read(&logits).await?), [-1.0, -1.0]);
/// # Ok(()) }) }
/// ```
#[derive(Debug, Clone)]
pub struct Attend<'a> {
    x: Tensor<'a>,
    v: Tensor<'a>,
    logits: Tensor<'a>,
    bias: Option<Tensor<'a>>,
    packed: Option<Packed>,
}

const NAME: &str = "attend";

impl<'a> Attend<'a> {
    /// `logits = x·v`.
    ///
    /// ```no_run
    /// # use double_routing::{Tensor, kernels::Attend};
    /// # fn attend<'a>(x: Tensor<'a>, v: Tensor<'a>, logits: Tensor<'a>) -> Attend<'a> {
    /// Attend::new(x, v, logits)
    /// # }
    /// ```
    pub fn new(x: Tensor<'a>, v: Tensor<'a>, logits: Tensor<'a>) -> Self {
        Self { x, v, logits, bias: None, packed: None }
    }

    /// Adds `bias` to every logit.
    ///
    /// ```no_run
    /// # use double_routing::{Tensor, kernels::Attend};
    /// # fn attend<'a>(attend: Attend<'a>, bias: Tensor<'a>) -> Attend<'a> {
    /// attend.bias(bias)
    /// # }
    /// ```
    #[must_use]
    pub fn bias(mut self, bias: Tensor<'a>) -> Self {
        self.bias = Some(bias);
        self
    }

    /// Whether it can lay x out in a texture on the way.
    pub(crate) fn packs(&self, gpu: &Gpu) -> Result<bool> {
        let (rows, depth) = self.check()?;
        let (lanes, _) = lanes::choose(gpu, SHAPES, depth);
        let whole = rows * depth * self.x.element().bytes() as u64 <= gpu.unaligned_limit();
        Ok(may_pack(lanes) && whole)
    }

    /// Lays x out on the way. The logits are the same.
    pub(crate) fn packing(mut self, x: Packed) -> Self {
        self.packed = Some(x);
        self
    }

    /// Checks everything and builds the steps.
    ///
    /// # Errors
    /// As [`Matmul::plan`](super::Matmul::plan).
    ///
    /// ```no_run
    /// # use double_routing::{Gpu, Plan, Result, kernels::Attend};
    /// # fn plan(gpu: &Gpu, attend: Attend<'_>) -> Result<Plan> {
    /// attend.plan(gpu)
    /// # }
    /// ```
    pub fn plan(&self, gpu: &Gpu) -> Result<Plan> {
        let (rows, depth) = self.check()?;
        let mut plan = Plan::default();
        let (lanes, each) = lanes::choose(gpu, SHAPES, depth);
        let each = rows_each(lanes, each, rows);
        let limit = gpu.unaligned_limit();
        let row_bytes = (depth * self.x.element().bytes() as u64).max(4);
        if row_bytes > limit {
            return Err(Error::Limit {
                operation: NAME,
                what: "a row of x in bytes".into(),
                needed: row_bytes,
                allowed: limit,
            });
        }
        let rows_each = limit / row_bytes;
        // Packed panels are whole.
        let panel = self.packed.as_ref().map_or(1, |packed| packed.layout().panel);
        let mut first = 0;
        while first < rows {
            let count = rows_each.min(rows - first);
            let mut x = self.x.bind(gpu, NAME, "x", first * depth, count * depth)?;
            let mut v = self.v.bind(gpu, NAME, "v", 0, depth)?;
            let logits = self.logits.bind(gpu, NAME, "logits", first, count)?;
            let (bias_at, bias) = optional::bind(gpu, NAME, "bias", self.bias.as_ref(), 0, 1)?;
            let params = Params {
                rows: shader_u32(NAME, "rows", count)?,
                depth: shader_u32(NAME, "depth", depth)?,
                x_first: x.first,
                v_first: v.first,
                bias_at,
                logits_first: logits.first,
                panel: shader_u32(NAME, "rows of a panel", panel)?,
                unused: 0,
            };
            let factors = [
                Factor { bound: &mut x, element: self.x.element(), strides: &[depth] },
                Factor { bound: &mut v, element: self.v.element(), strides: &[depth] },
            ];
            let factors = factor_reads(gpu, factors);
            let mut operands: Vec<(&str, &dyn Bind)> = vec![("x", &x), ("v", &v), ("bias", &bias), ("logits", &logits)];
            operands.extend(self.packed.as_ref().map(|packed| ("packed", packed as &dyn Bind)));
            plan.push(Step::new(
                gpu,
                &ATTEND,
                variant(lanes, each, factors, self.packed.is_some()),
                format!("{NAME} {count}x{depth}"),
                bytemuck::bytes_of(&params),
                &operands,
                count.next_multiple_of(panel).div_ceil(u64::from(lanes.rows * each)),
            )?);
            first += count;
        }
        if let Some(packed) = &self.packed {
            plan.keep_texels(packed.texels().clone());
        }
        Ok(plan)
    }

    /// The rows and the depth.
    fn check(&self) -> Result<(u64, u64)> {
        let (x, v, logits) = (self.x.shape(), self.v.shape(), self.logits.shape());
        let ([leading @ .., depth], [depth_of_v] | [1, depth_of_v]) = (x, v) else {
            return Err(Error::shape(NAME, format!("x {x:?} needs a dimension, v {v:?} is one row")));
        };
        if depth != depth_of_v {
            return Err(Error::shape(NAME, format!("inner dimensions differ: x is {x:?}, v is {v:?}")));
        }
        if logits != leading && logits != [leading, &[1]].concat() {
            return Err(Error::shape(NAME, format!("logits are {logits:?}, x {x:?} gives {leading:?}")));
        }
        check_factors(NAME, [("x", &self.x), ("v", &self.v)])?;
        self.logits.check_element(NAME, "logits", &[Element::F32])?;
        optional::check(NAME, "bias", self.bias.as_ref(), &[1], &self.logits)?;
        for (name, tensor) in [("x", &self.x), ("v", &self.v)] {
            tensor.check(NAME, name)?;
            tensor.check_apart(NAME, name, &self.logits)?;
        }
        self.logits.check(NAME, "logits")?;
        Ok((elements(NAME, leading)?, *depth as u64))
    }
}
