//! C = A·B + bias and C = A·Bᵀ + bias. Shader: `shaders/matmul.wgsl`.

use super::{
    Access, Constant, Kernel, Layout, Packed, Slot, check_factors, check_output, optional, params,
    reduce::{self, Reduce},
    tile::{self, A_PACKED, A_STORED, B_PACKED, B_STORED, Multiplication, Piece, Product, Tile},
};
use crate::{
    Element, Error, Gpu, Plan, Result, Step, Tensor,
    tensor::{Bind, Bound, elements},
};

/// The kernel behind [`Matmul`].
///
/// ```
/// assert_eq!(double_routing::kernels::MATMUL.name(), "matmul");
/// ```
pub const MATMUL: Kernel = Kernel {
    name: "matmul",
    source: include_str!("../../shaders/matmul.wgsl"),
    params: Params::fields,
    slots: &[
        Slot::read(1, "a").when(A_STORED),
        Slot::read(2, "b").when(B_STORED),
        Slot::texels(1, "a", Access::ReadTexels).when(A_PACKED),
        Slot::texels(2, "b", Access::ReadTexels).when(B_PACKED),
        Slot::read(3, "bias"),
        Slot::write(4, "c"),
    ],
    variants: tile::variants,
};

params! {
    struct Params embeds product: Product {
        bias_at,
        c_kind,
        unused_0,
        unused_1,
    }
}

/// Matrix product: `c = a·b + bias`, or with [`Matmul::transposed`] `c = a·bᵀ + bias`, the layout of PyTorch's `nn.Linear`.
///
/// | tensor | shape | elements |
/// |---|---|---|
/// | `a` | `[…, M, K]` | f32, f16, bf16 |
/// | `b` | `[K, N]`, or `[N, K]` transposed, for all batches; or one for each: `[…, K, N]` with a's leading dimensions | f32, f16, bf16 |
/// | `bias` | `[N]` | f32, f16, bf16 |
/// | `c` | `[…, M, N]` | f32, f16, bf16 |
///
/// Of `a` and `b` one is f32, or both are of the same type. A `c` of 16 bits starts at a multiple of 4 bytes.
/// No dimension is too small (K = 0 gives the bias) or too large: what exceeds a binding or a dispatch is split.
/// Sums are f32: |ĉ − c| ≤ (K + 2)·2⁻²⁴·(Σ|a||b| + |bias|). Finished, they are rounded once to c's type, to nearest even: by
/// u·|ĉ| more, u = 2⁻¹¹ for f16 (2⁻²⁵ at least), 2⁻⁸ for bf16. Where [matrix units](crate::Gpu::matrix_units) multiply f16 by f16,
/// the sums may be off by three times as much: those known cut off what others round.
///
/// ```
/// use double_routing::{AdapterChoice, Element, Gpu, Tensor, bytemuck, kernels::Matmul};
///
/// # fn main() -> double_routing::Result<()> { pollster::block_on(async {
/// let gpu = Gpu::open(&AdapterChoice::default()).await?;
/// let a = gpu.upload("a", bytemuck::cast_slice(&[1.0f32, 2.0, 3.0, 4.0]))?;
/// let b = gpu.upload("b", bytemuck::cast_slice(&[1.0f32, 0.0, 1.0, 1.0, 0.0, 2.0]))?;
/// let c = gpu.buffer("c", Element::F32, 6)?;
/// // [2, 2] times the transpose of [3, 2].
/// let (a, b, c) = (Tensor::f32(&a, &[2, 2]), Tensor::f32(&b, &[3, 2]), Tensor::f32(&c, &[2, 3]));
/// let plan = Matmul::new(a, b, c.clone()).transposed().plan(&gpu)?;
/// let mut encoder = gpu.device().create_command_encoder(&Default::default());
/// plan.record(&mut encoder.begin_compute_pass(&Default::default()));
/// gpu.queue().submit([encoder.finish()]);
/// assert_eq!(bytemuck::pod_collect_to_vec::<u8, f32>(&gpu.read(&c).await?), [1.0, 3.0, 4.0, 3.0, 7.0, 8.0]);
/// # Ok(()) }) }
/// ```
#[derive(Debug, Clone)]
pub struct Matmul<'a> {
    a: Tensor<'a>,
    b: Tensor<'a>,
    c: Tensor<'a>,
    bias: Option<Tensor<'a>>,
    transposed: bool,
    batch_invariant: bool,
    a_packed: Option<Packed>,
    b_constant: Option<&'a Constant>,
}

const NAME: &str = "matmul";

impl Piece<'_> {
    fn operands<'a>(&'a self, bias: &'a Bound<'_>) -> [(&'static str, &'a dyn Bind); 4] {
        [("a", &self.a), ("b", &self.b), ("bias", bias), ("c", &self.c)]
    }
}

/// The parts of a long sum, `[parts, rows, columns]`, and the step that computes them.
pub(super) struct Parts {
    before: Plan,
    step: Step,
    scratch: wgpu::Buffer,
    pub shape: [usize; 3],
}

impl Parts {
    pub fn tensor(&self) -> Tensor<'_> {
        Tensor::f32(&self.scratch, &self.shape)
    }

    /// Puts the step and what adds its parts up into a plan.
    pub fn finish(self, plan: &mut Plan, reduce: Plan) {
        plan.append(self.before);
        plan.push(self.step);
        plan.append(reduce);
        plan.keep(self.scratch);
    }
}

impl Multiplication<'_> {
    /// The product as parts of its sum, for [`Reduce`] to add, where it would otherwise leave most of the device idle.
    pub(super) fn parts(&self, gpu: &Gpu, tile: Tile, batch_invariant: bool) -> Result<Option<Parts>> {
        let Some((parts, depth)) = self.cut(gpu, tile, batch_invariant) else { return Ok(None) };
        let shape = [parts as usize, self.rows as usize, self.columns as usize];
        let scratch = gpu.buffer("parts of a product", Element::F32, parts * self.rows * self.columns)?;
        let c = Tensor::f32(&scratch, &shape);
        let in_parts = Multiplication { c: &c, ..*self };
        let piece = in_parts.part_piece(gpu, tile, parts, depth)?;
        let (bias_at, bias) = optional::bind(gpu, self.operation, "bias", None, 0, 0)?;
        let params = Params { product: piece.product, bias_at, ..Params::default() };
        let step = Step::new(
            gpu,
            &MATMUL,
            piece.variant(tile),
            format!("{} {}x{}x{} in {parts} parts", self.operation, self.rows, self.columns, self.depth),
            bytemuck::bytes_of(&params),
            &piece.operands(&bias),
            piece.workgroups,
        )?;
        Ok(Some(Parts { before: piece.before, step, scratch, shape }))
    }
}

impl<'a> Matmul<'a> {
    /// `c = a·b`.
    ///
    /// ```no_run
    /// # use double_routing::{Tensor, kernels::Matmul};
    /// # fn product<'a>(a: Tensor<'a>, b: Tensor<'a>, c: Tensor<'a>) -> Matmul<'a> {
    /// Matmul::new(a, b, c)
    /// # }
    /// ```
    pub fn new(a: Tensor<'a>, b: Tensor<'a>, c: Tensor<'a>) -> Self {
        Self { a, b, c, bias: None, transposed: false, batch_invariant: false, a_packed: None, b_constant: None }
    }

    /// B is stored `[N, K]`: `c = a·bᵀ`.
    ///
    /// ```no_run
    /// # use double_routing::kernels::Matmul;
    /// # fn product<'a>(matmul: Matmul<'a>) -> Matmul<'a> {
    /// matmul.transposed()
    /// # }
    /// ```
    #[must_use]
    pub fn transposed(mut self) -> Self {
        self.transposed = true;
        self
    }

    /// Adds `bias` to every row.
    ///
    /// ```no_run
    /// # use double_routing::{Tensor, kernels::Matmul};
    /// # fn product<'a>(matmul: Matmul<'a>, bias: Tensor<'a>) -> Matmul<'a> {
    /// matmul.bias(bias)
    /// # }
    /// ```
    #[must_use]
    pub fn bias(mut self, bias: Tensor<'a>) -> Self {
        self.bias = Some(bias);
        self
    }

    /// Chooses how sums are added up without regard to the number of rows, so that a row's result does not depend on how
    /// many others there are.
    ///
    /// ```no_run
    /// # use double_routing::kernels::Matmul;
    /// # fn product<'a>(matmul: Matmul<'a>) -> Matmul<'a> {
    /// matmul.batch_invariant(true)
    /// # }
    /// ```
    #[must_use]
    pub fn batch_invariant(mut self, invariant: bool) -> Self {
        self.batch_invariant = invariant;
        self
    }

    /// That `b` is this.
    pub(crate) fn constant(mut self, b: &'a Constant) -> Self {
        self.b_constant = Some(b);
        self
    }

    /// How `a` would be packed, if as a whole.
    pub(crate) fn a_layout(&self, gpu: &Gpu) -> Result<Option<Layout>> {
        self.check()?.a_layout(gpu, self.batch_invariant)
    }

    /// What `a` is packed as already, with [`Self::a_layout`].
    pub(crate) fn packed(mut self, a: Option<Packed>) -> Self {
        self.a_packed = a;
        self
    }

    /// Checks everything and builds the steps.
    ///
    /// # Errors
    /// [`Error::Shape`], [`Error::Element`] or [`Error::Buffer`] for operands that do not fit, [`Error::Limit`] where a
    /// single row exceeds a binding.
    ///
    /// ```no_run
    /// # use double_routing::{Gpu, Plan, Result, kernels::Matmul};
    /// # fn plan(gpu: &Gpu, matmul: Matmul<'_>) -> Result<Plan> {
    /// matmul.plan(gpu)
    /// # }
    /// ```
    pub fn plan(&self, gpu: &Gpu) -> Result<Plan> {
        self.plan_sharing(gpu, &mut self.a_packed.clone())
    }

    /// The same, for products that follow one another and have the same `a`: what it is packed as.
    pub(crate) fn plan_sharing(&self, gpu: &Gpu, a_packed: &mut Option<Packed>) -> Result<Plan> {
        let packed_before = a_packed.take();
        let multiplication = Multiplication { a_packed: packed_before.as_ref(), ..self.check()? };
        let mut plan = Plan::default();
        if multiplication.batches * multiplication.rows * multiplication.columns == 0 {
            return Ok(plan);
        }
        let tile = multiplication.tile(gpu, self.batch_invariant);
        if let Some(parts) = multiplication.parts(gpu, tile, self.batch_invariant)? {
            let mut reduce = Reduce::new(parts.tensor(), self.c.clone().reshape(&parts.shape[1..]));
            if let Some(bias) = &self.bias {
                reduce = reduce.inner(bias.clone());
            }
            let reduce = reduce.plan(gpu)?;
            parts.finish(&mut plan, reduce);
            return Ok(plan);
        }
        if !multiplication.writes_c(gpu, tile)? {
            let sums = reduce::Sums::new(gpu, &self.c)?;
            let plan = Matmul { c: sums.tensor(), ..self.clone() }.plan(gpu)?;
            return sums.round(gpu, plan, &self.c);
        }
        let (pieces, packed) = multiplication.pieces(gpu, tile)?;
        for mut piece in pieces {
            plan.append(std::mem::take(&mut piece.before));
            let (bias_at, bias) = optional::bind(gpu, NAME, "bias", self.bias.as_ref(), piece.column, piece.columns)?;
            let c_kind = optional::kind(self.c.element());
            let params = Params { product: piece.product, bias_at, c_kind, ..Params::default() };
            plan.push(Step::new(
                gpu,
                &MATMUL,
                piece.variant(tile),
                format!("{NAME} {}x{}x{}", piece.rows, piece.columns, piece.product.depth),
                bytemuck::bytes_of(&params),
                &piece.operands(&bias),
                piece.workgroups,
            )?);
        }
        *a_packed = packed;
        Ok(plan)
    }

    fn check(&self) -> Result<Multiplication<'_>> {
        let layout = if self.transposed { "[N, K]" } else { "[K, N]" };
        let (a, b, c) = (self.a.shape(), self.b.shape(), self.c.shape());
        let ([a_batch @ .., rows, depth], [b_batch @ .., b_0, b_1]) = (a, b) else {
            return Err(Error::shape(NAME, format!("a {a:?} and b {b:?} need at least two dimensions")));
        };
        let (b_depth, columns) = if self.transposed { (b_1, b_0) } else { (b_0, b_1) };
        if depth != b_depth {
            return Err(Error::shape(NAME, format!("inner dimensions differ: a is {a:?}, b as {layout} is {b:?}")));
        }
        if !b_batch.is_empty() && b_batch != a_batch {
            return Err(Error::shape(NAME, format!("batch dimensions differ: a is {a:?}, b is {b:?}")));
        }
        let wanted = [a_batch, &[*rows, *columns]].concat();
        if c != wanted {
            return Err(Error::shape(NAME, format!("c is {c:?}, a {a:?} times b as {layout} {b:?} gives {wanted:?}")));
        }
        check_factors(NAME, [("a", &self.a), ("b", &self.b)])?;
        optional::check(NAME, "bias", self.bias.as_ref(), &[*columns], &self.c)?;
        for (name, tensor) in [("a", &self.a), ("b", &self.b)] {
            tensor.check(NAME, name)?;
            tensor.check_apart(NAME, name, &self.c)?;
        }
        check_output(NAME, "c", &self.c)?;
        let batches = elements(NAME, a_batch)?;
        let b_batched = !b_batch.is_empty();
        // One B for all batches: their rows are the rows of one product.
        let (batches, rows) = if b_batched { (batches, *rows as u64) } else { (1, batches * *rows as u64) };
        Ok(Multiplication {
            operation: NAME,
            a: &self.a,
            b: &self.b,
            c: &self.c,
            batches,
            rows,
            columns: *columns as u64,
            depth: *depth as u64,
            transposed: self.transposed,
            b_batched,
            a_packed: self.a_packed.as_ref(),
            b_constant: self.b_constant,
        })
    }
}
