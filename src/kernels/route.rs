//! The fused weight-multiply routing step. Shader: `shaders/route.wgsl`.

use super::{
    Access, Constant, Kernel, Layout, Packed, Slot, check_factors, check_output, optional, params,
    reduce::{self, Reduce},
    tile::{self, A_PACKED, A_STORED, B_PACKED, B_STORED, Multiplication, Product},
};
use crate::{Element, Error, Gpu, Plan, Result, Step, Tensor, tensor::Bind};

/// The kernel behind [`Route`].
///
/// ```
/// assert_eq!(double_routing::kernels::ROUTE.name(), "route");
/// ```
pub const ROUTE: Kernel = Kernel {
    name: "route",
    source: include_str!("../../shaders/route.wgsl"),
    params: Params::fields,
    slots: &[
        Slot::read(1, "a").when(A_STORED),
        Slot::read(2, "b").when(B_STORED),
        Slot::texels(1, "a", Access::ReadTexels).when(A_PACKED),
        Slot::texels(2, "b", Access::ReadTexels).when(B_PACKED),
        Slot::read(3, "w"),
        Slot::read(4, "inner"),
        Slot::read(5, "outer"),
        Slot::write(6, "c"),
    ],
    variants: || {
        let mut products = tile::variants();
        products.retain(|product| product.holds("B_TRANSPOSED") == Ok(true));
        products
    },
};

params! {
    struct Params embeds product: Product {
        w_first,
        inner_at,
        outer_at,
        c_kind,
    }
}

/// The weighted routing step, in one pass over the data: `y = w ⊙ (x·bᵀ + inner) + outer`.
///
/// | tensor | shape | elements |
/// |---|---|---|
/// | `x` | `[…, K]` | f32, f16, bf16 |
/// | `b` | `[O, K]`, as `nn.Linear` stores it | f32, f16, bf16 |
/// | `w` | x's leading dimensions, with or without a last one of 1 | f32 |
/// | `inner`, `outer` | `[O]` | f32, f16, bf16 |
/// | `y` | `[…, O]` | f32, f16, bf16 |
///
/// Of `x` and `b` one is f32, or both are of the same type. A `y` of 16 bits starts at a multiple of 4 bytes.
/// |ŷ − y| ≤ |w|·(K + 4)·2⁻²⁴·(Σ|x||b| + |inner|) + 2⁻²⁴·|outer|, and half a ULP of a `y` of 16 bits. On matrix
/// units three times as much, as [`Matmul`](super::Matmul) has it.
///
/// ```
/// use double_routing::{AdapterChoice, Element, Gpu, Tensor, bytemuck, kernels::Route};
///
/// # fn main() -> double_routing::Result<()> { pollster::block_on(async {
/// let gpu = Gpu::open(&AdapterChoice::default()).await?;
/// let upload = |values: &[f32]| gpu.upload("operand", bytemuck::cast_slice(values));
/// let (x, b) = (upload(&[1.0, 2.0, 3.0, 4.0])?, upload(&[1.0, 1.0])?);
/// let (w, outer) = (upload(&[0.5, 0.25])?, upload(&[10.0])?);
/// let y = gpu.buffer("y", Element::F32, 2)?;
/// // Two tokens of two features, one output.
/// let (x, b, y) = (Tensor::f32(&x, &[2, 2]), Tensor::f32(&b, &[1, 2]), Tensor::f32(&y, &[2, 1]));
/// let plan = Route::new(x, b, Tensor::f32(&w, &[2]), y.clone()).outer(Tensor::f32(&outer, &[1])).plan(&gpu)?;
/// let mut encoder = gpu.device().create_command_encoder(&Default::default());
/// plan.record(&mut encoder.begin_compute_pass(&Default::default()));
/// gpu.queue().submit([encoder.finish()]);
/// assert_eq!(bytemuck::pod_collect_to_vec::<u8, f32>(&gpu.read(&y).await?), [11.5, 11.75]);
/// # Ok(()) }) }
/// ```
#[derive(Debug, Clone)]
pub struct Route<'a> {
    x: Tensor<'a>,
    b: Tensor<'a>,
    w: Tensor<'a>,
    y: Tensor<'a>,
    inner: Option<Tensor<'a>>,
    outer: Option<Tensor<'a>>,
    batch_invariant: bool,
    a_packed: Option<Packed>,
    b_constant: Option<&'a Constant>,
}

const NAME: &str = "route";

impl<'a> Route<'a> {
    /// `y = w ⊙ (x·bᵀ)`.
    ///
    /// ```no_run
    /// # use double_routing::{Tensor, kernels::Route};
    /// # fn route<'a>(x: Tensor<'a>, b: Tensor<'a>, w: Tensor<'a>, y: Tensor<'a>) -> Route<'a> {
    /// Route::new(x, b, w, y)
    /// # }
    /// ```
    pub fn new(x: Tensor<'a>, b: Tensor<'a>, w: Tensor<'a>, y: Tensor<'a>) -> Self {
        Self { x, b, w, y, inner: None, outer: None, batch_invariant: false, a_packed: None, b_constant: None }
    }

    /// The bias that is weighted with the product.
    ///
    /// ```no_run
    /// # use double_routing::{Tensor, kernels::Route};
    /// # fn route<'a>(route: Route<'a>, bias: Tensor<'a>) -> Route<'a> {
    /// route.inner(bias)
    /// # }
    /// ```
    #[must_use]
    pub fn inner(mut self, inner: Tensor<'a>) -> Self {
        self.inner = Some(inner);
        self
    }

    /// The bias that every token gets in full.
    ///
    /// ```no_run
    /// # use double_routing::{Tensor, kernels::Route};
    /// # fn route<'a>(route: Route<'a>, bias: Tensor<'a>) -> Route<'a> {
    /// route.outer(bias)
    /// # }
    /// ```
    #[must_use]
    pub fn outer(mut self, outer: Tensor<'a>) -> Self {
        self.outer = Some(outer);
        self
    }

    /// As [`Matmul::batch_invariant`](super::Matmul::batch_invariant).
    ///
    /// ```no_run
    /// # use double_routing::kernels::Route;
    /// # fn route<'a>(route: Route<'a>) -> Route<'a> {
    /// route.batch_invariant(true)
    /// # }
    /// ```
    #[must_use]
    pub fn batch_invariant(mut self, invariant: bool) -> Self {
        self.batch_invariant = invariant;
        self
    }

    /// As [`Matmul::constant`](super::Matmul::constant).
    pub(crate) fn constant(mut self, b: &'a Constant) -> Self {
        self.b_constant = Some(b);
        self
    }

    /// As [`Matmul::a_layout`](super::Matmul::a_layout), of `x`.
    pub(crate) fn a_layout(&self, gpu: &Gpu) -> Result<Option<Layout>> {
        self.check()?.a_layout(gpu, self.batch_invariant)
    }

    /// As [`Matmul::packed`](super::Matmul::packed), of `x`.
    pub(crate) fn packed(mut self, a: Option<Packed>) -> Self {
        self.a_packed = a;
        self
    }

    /// Checks everything and builds the steps.
    ///
    /// # Errors
    /// As [`Matmul::plan`](super::Matmul::plan).
    ///
    /// ```no_run
    /// # use double_routing::{Gpu, Plan, Result, kernels::Route};
    /// # fn plan(gpu: &Gpu, route: Route<'_>) -> Result<Plan> {
    /// route.plan(gpu)
    /// # }
    /// ```
    pub fn plan(&self, gpu: &Gpu) -> Result<Plan> {
        let multiplication = self.check()?;
        let mut plan = Plan::default();
        if multiplication.rows * multiplication.columns == 0 {
            return Ok(plan);
        }
        let tile = multiplication.tile(gpu, self.batch_invariant);
        if let Some(parts) = multiplication.parts(gpu, tile, self.batch_invariant)? {
            let rows_and_columns = &parts.shape[1..];
            let w = self.w.clone().reshape(&rows_and_columns[..1]);
            let mut reduce = Reduce::new(parts.tensor(), self.y.clone().reshape(rows_and_columns)).weights(w);
            if let Some(inner) = &self.inner {
                reduce = reduce.inner(inner.clone());
            }
            if let Some(outer) = &self.outer {
                reduce = reduce.outer(outer.clone());
            }
            let reduce = reduce.plan(gpu)?;
            parts.finish(&mut plan, reduce);
            return Ok(plan);
        }
        if !multiplication.writes_c(gpu, tile)? {
            let sums = reduce::Sums::new(gpu, &self.y)?;
            let plan = Route { y: sums.tensor(), ..self.clone() }.plan(gpu)?;
            return sums.round(gpu, plan, &self.y);
        }
        let (pieces, _) = multiplication.pieces(gpu, tile)?;
        for mut piece in pieces {
            plan.append(std::mem::take(&mut piece.before));
            let addend = |name, tensor| optional::bind(gpu, NAME, name, tensor, piece.column, piece.columns);
            let (inner_at, inner) = addend("inner", self.inner.as_ref())?;
            let (outer_at, outer) = addend("outer", self.outer.as_ref())?;
            let w = self.w.bind(gpu, NAME, "w", piece.row, piece.rows)?;
            let c_kind = optional::kind(self.y.element());
            let params = Params { product: piece.product, w_first: w.first, inner_at, outer_at, c_kind };
            let operands: [(&str, &dyn Bind); 6] =
                [("a", &piece.a), ("b", &piece.b), ("w", &w), ("inner", &inner), ("outer", &outer), ("c", &piece.c)];
            plan.push(Step::new(
                gpu,
                &ROUTE,
                piece.variant(tile),
                format!("{NAME} {}x{}x{}", piece.rows, piece.columns, piece.product.depth),
                bytemuck::bytes_of(&params),
                &operands,
                piece.workgroups,
            )?);
        }
        Ok(plan)
    }

    fn check(&self) -> Result<Multiplication<'_>> {
        let (x, b, w, y) = (self.x.shape(), self.b.shape(), self.w.shape(), self.y.shape());
        let ([leading @ .., depth], [columns, b_depth]) = (x, b) else {
            return Err(Error::shape(NAME, format!("x {x:?} needs a dimension, b {b:?} two")));
        };
        if depth != b_depth {
            return Err(Error::shape(NAME, format!("inner dimensions differ: x is {x:?}, b as [O, K] is {b:?}")));
        }
        if w != leading && w != [leading, &[1]].concat() {
            return Err(Error::shape(NAME, format!("w is {w:?}, x {x:?} needs one weight a token: {leading:?}")));
        }
        let wanted = [leading, &[*columns]].concat();
        if y != wanted {
            return Err(Error::shape(NAME, format!("y is {y:?}, x {x:?} and b as [O, K] {b:?} give {wanted:?}")));
        }
        check_factors(NAME, [("x", &self.x), ("b", &self.b)])?;
        self.w.check_element(NAME, "w", &[Element::F32])?;
        optional::check(NAME, "inner", self.inner.as_ref(), &[*columns], &self.y)?;
        optional::check(NAME, "outer", self.outer.as_ref(), &[*columns], &self.y)?;
        for (name, tensor) in [("x", &self.x), ("b", &self.b), ("w", &self.w)] {
            tensor.check(NAME, name)?;
            tensor.check_apart(NAME, name, &self.y)?;
        }
        check_output(NAME, "y", &self.y)?;
        Ok(Multiplication {
            operation: NAME,
            a: &self.x,
            b: &self.b,
            c: &self.y,
            batches: 1,
            rows: crate::tensor::elements(NAME, leading)?,
            columns: *columns as u64,
            depth: *depth as u64,
            transposed: true,
            b_batched: false,
            a_packed: self.a_packed.as_ref(),
            b_constant: self.b_constant,
        })
    }
}
