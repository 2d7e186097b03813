//! The sum of a product's parts, with the epilogue of the routing step. Shader: `shaders/reduce.wgsl`.

use super::{
    Kernel, STORE_ACCESSES, Slot, check_output, load_accesses, optional, params, shader_u32, store_access, whole_words,
};
use crate::{
    Element, Error, Gpu, Plan, Result, Step, Tensor,
    shader::Variant,
    tensor::{Owned, elements},
};

/// The kernel behind [`Reduce`].
///
/// ```
/// assert_eq!(double_routing::kernels::REDUCE.name(), "reduce");
/// ```
pub const REDUCE: Kernel = Kernel {
    name: "reduce",
    source: include_str!("../../shaders/reduce.wgsl"),
    params: Params::fields,
    slots: &[
        Slot::read(1, "p"),
        Slot::read(2, "w").when("WEIGHTED"),
        Slot::read(3, "inner"),
        Slot::read(4, "outer"),
        Slot::write(5, "y"),
    ],
    variants: || {
        let mut variants = Vec::new();
        for p in load_accesses(Element::F32, true) {
            for y in STORE_ACCESSES {
                variants.extend([false, true].map(|weighted| variant(p, y, weighted)));
            }
        }
        variants
    },
};

params! {
    struct Params {
        parts,
        rows,
        columns,
        p_first,
        w_first,
        inner_at,
        outer_at,
        y_first,
        y_kind,
        unused_0,
        unused_1,
        unused_2,
    }
}

/// Invocations of a workgroup.
const LANES: u32 = 64;

fn variant(p: &'static str, y: &'static str, weighted: bool) -> Variant {
    Variant::default()
        .number("LANES", LANES)
        .word("p_TYPE", "f32")
        .word("p_ACCESS", p)
        .word("y_ACCESS", y)
        .flag("WEIGHTED", weighted)
}

/// The sum of the parts of a product, finished as [`Route`](super::Route) finishes a whole one: `y = w ⊙ (Σ p + inner) + outer`.
/// [`Matmul`](super::Matmul) and `Route` cut a long sum with few results into parts, so that all of a device works on it.
///
/// | tensor | shape | elements |
/// |---|---|---|
/// | `p` | `[parts, N, O]` | f32 |
/// | `w` | `[N]`, with or without a last dimension of 1 | f32 |
/// | `inner`, `outer` | `[O]` | f32, f16, bf16 |
/// | `y` | `[N, O]` | f32, f16, bf16 |
///
/// `p` and `y` must each fit a binding. Parts are added in order:
/// |ŷ − y| ≤ |w|·(parts + 2)·2⁻²⁴·(Σ|p| + |inner|) + 2⁻²⁴·|outer|, and half a ULP of a `y` of 16 bits, which starts at a
/// multiple of 4 bytes.
///
/// ```
/// use double_routing::{AdapterChoice, Element, Gpu, Tensor, bytemuck, kernels::Reduce};
///
/// # fn main() -> double_routing::Result<()> { pollster::block_on(async {
/// let gpu = Gpu::open(&AdapterChoice::default()).await?;
/// let p = gpu.upload("p", bytemuck::cast_slice(&[1.0f32, 2.0, 30.0, 40.0]))?;
/// let outer = gpu.upload("outer", bytemuck::cast_slice(&[0.5f32, 0.25]))?;
/// let y = gpu.buffer("y", Element::F32, 2)?;
/// // Two parts of one row.
/// let y = Tensor::f32(&y, &[1, 2]);
/// let plan = Reduce::new(Tensor::f32(&p, &[2, 1, 2]), y.clone()).outer(Tensor::f32(&outer, &[2])).plan(&gpu)?;
/// let mut encoder = gpu.device().create_command_encoder(&Default::default());
/// plan.record(&mut encoder.begin_compute_pass(&Default::default()));
/// gpu.queue().submit([encoder.finish()]);
/// assert_eq!(bytemuck::pod_collect_to_vec::<u8, f32>(&gpu.read(&y).await?), [31.5, 42.25]);
/// # Ok(()) }) }
/// ```
#[derive(Debug, Clone)]
pub struct Reduce<'a> {
    p: Tensor<'a>,
    y: Tensor<'a>,
    w: Option<Tensor<'a>>,
    inner: Option<Tensor<'a>>,
    outer: Option<Tensor<'a>>,
}

const NAME: &str = "reduce";

impl<'a> Reduce<'a> {
    /// `y = Σ p`.
    ///
    /// ```no_run
    /// # use double_routing::{Tensor, kernels::Reduce};
    /// # fn reduce<'a>(p: Tensor<'a>, y: Tensor<'a>) -> Reduce<'a> {
    /// Reduce::new(p, y)
    /// # }
    /// ```
    pub fn new(p: Tensor<'a>, y: Tensor<'a>) -> Self {
        Self { p, y, w: None, inner: None, outer: None }
    }

    /// The weight of each row.
    ///
    /// ```no_run
    /// # use double_routing::{Tensor, kernels::Reduce};
    /// # fn weighted<'a>(reduce: Reduce<'a>, w: Tensor<'a>) -> Reduce<'a> {
    /// reduce.weights(w)
    /// # }
    /// ```
    #[must_use]
    pub fn weights(mut self, w: Tensor<'a>) -> Self {
        self.w = Some(w);
        self
    }

    /// The bias that is weighted with the sum.
    ///
    /// ```no_run
    /// # use double_routing::{Tensor, kernels::Reduce};
    /// # fn biased<'a>(reduce: Reduce<'a>, bias: Tensor<'a>) -> Reduce<'a> {
    /// reduce.inner(bias)
    /// # }
    /// ```
    #[must_use]
    pub fn inner(mut self, inner: Tensor<'a>) -> Self {
        self.inner = Some(inner);
        self
    }

    /// The bias that every row gets in full.
    ///
    /// ```no_run
    /// # use double_routing::{Tensor, kernels::Reduce};
    /// # fn biased<'a>(reduce: Reduce<'a>, bias: Tensor<'a>) -> Reduce<'a> {
    /// reduce.outer(bias)
    /// # }
    /// ```
    #[must_use]
    pub fn outer(mut self, outer: Tensor<'a>) -> Self {
        self.outer = Some(outer);
        self
    }

    /// Checks everything and builds the step.
    ///
    /// # Errors
    /// As [`Matmul::plan`](super::Matmul::plan); [`Error::Limit`] where `p` or `y` exceeds a binding.
    ///
    /// ```no_run
    /// # use double_routing::{Gpu, Plan, Result, kernels::Reduce};
    /// # fn plan(gpu: &Gpu, reduce: Reduce<'_>) -> Result<Plan> {
    /// reduce.plan(gpu)
    /// # }
    /// ```
    pub fn plan(&self, gpu: &Gpu) -> Result<Plan> {
        let [parts, rows, columns] = self.check()?;
        let mut plan = Plan::default();
        if rows * columns == 0 {
            return Ok(plan);
        }
        if !whole_words(self.y.element(), rows, columns) {
            let sums = Sums::new(gpu, &self.y)?;
            let plan = Reduce { y: sums.tensor(), ..self.clone() }.plan(gpu)?;
            return sums.round(gpu, plan, &self.y);
        }
        let mut p = self.p.bind(gpu, NAME, "p", 0, parts * rows * columns)?;
        let y = self.y.bind(gpu, NAME, "y", 0, rows * columns)?;
        let w = self.w.as_ref().map(|w| w.bind(gpu, NAME, "w", 0, rows)).transpose()?;
        let (inner_at, inner) = optional::bind(gpu, NAME, "inner", self.inner.as_ref(), 0, columns)?;
        let (outer_at, outer) = optional::bind(gpu, NAME, "outer", self.outer.as_ref(), 0, columns)?;
        let params = Params {
            parts: shader_u32(NAME, "parts", parts)?,
            rows: shader_u32(NAME, "rows", rows)?,
            columns: shader_u32(NAME, "columns", columns)?,
            p_first: p.first,
            w_first: w.as_ref().map_or(0, |w| w.first),
            inner_at,
            outer_at,
            y_first: y.first,
            y_kind: optional::kind(self.y.element()),
            ..Params::default()
        };
        let p_access = p.load_access(gpu, Element::F32, &[columns]);
        let variant = variant(p_access, store_access(&y, self.y.element(), &[columns]), w.is_some());
        let mut operands = vec![("p", &p), ("inner", &inner), ("outer", &outer), ("y", &y)];
        operands.extend(w.as_ref().map(|w| ("w", w)));
        plan.push(Step::new(
            gpu,
            &REDUCE,
            variant,
            format!("{NAME} {parts}x{rows}x{columns}"),
            bytemuck::bytes_of(&params),
            &operands,
            (rows * columns.div_ceil(4)).div_ceil(u64::from(LANES)),
        )?);
        Ok(plan)
    }

    /// The parts, rows and columns.
    fn check(&self) -> Result<[u64; 3]> {
        let (p, y) = (self.p.shape(), self.y.shape());
        let ([parts, rows, columns], [y_rows, y_columns]) = (p, y) else {
            return Err(Error::shape(NAME, format!("p {p:?} needs three dimensions, y {y:?} two")));
        };
        if (rows, columns) != (y_rows, y_columns) {
            return Err(Error::shape(NAME, format!("y is {y:?}, p {p:?} gives {:?}", [rows, columns])));
        }
        self.p.check_element(NAME, "p", &[Element::F32])?;
        if let Some(w) = &self.w {
            if w.shape() != [*rows] && w.shape() != [*rows, 1] {
                return Err(Error::shape(NAME, format!("w is {:?}, expected {:?}", w.shape(), [rows])));
            }
            w.check_element(NAME, "w", &[Element::F32])?;
        }
        optional::check(NAME, "inner", self.inner.as_ref(), &[*columns], &self.y)?;
        optional::check(NAME, "outer", self.outer.as_ref(), &[*columns], &self.y)?;
        for (name, tensor) in [("p", Some(&self.p)), ("w", self.w.as_ref())] {
            if let Some(tensor) = tensor {
                tensor.check(NAME, name)?;
                tensor.check_apart(NAME, name, &self.y)?;
            }
        }
        check_output(NAME, "y", &self.y)?;
        elements(NAME, p)?;
        Ok([*parts as u64, *rows as u64, *columns as u64])
    }
}

/// Finished sums, f32, of an output of 16 bits that cannot be written as it is computed, in its shape.
pub(super) struct Sums(Owned);

impl Sums {
    pub fn new(gpu: &Gpu, output: &Tensor<'_>) -> Result<Self> {
        Ok(Self(Owned::new(gpu, "sums to be rounded", Element::F32, output.shape())?))
    }

    pub fn tensor(&self) -> Tensor<'_> {
        self.0.tensor()
    }

    /// Puts what rounds them behind the plan that computes them: sums of one part, all in one row, so that words are whole.
    pub fn round(self, gpu: &Gpu, mut plan: Plan, output: &Tensor<'_>) -> Result<Plan> {
        let count = elements(NAME, output.shape())?;
        let each = gpu.unaligned_limit() / 16 * 4;
        let mut first = 0;
        while first < count {
            let columns = each.min(count - first);
            let (of_p, of_y) = ([1, 1, columns as usize], [1, columns as usize]);
            let p = self.tensor().reshape(&of_p).offset(first * 4);
            let y = output.clone().reshape(&of_y).offset(output.byte_offset() + first * 2);
            plan.append(Reduce::new(p, y).plan(gpu)?);
            first += columns;
        }
        plan.keep(self.0.buffer().clone());
        Ok(plan)
    }
}
