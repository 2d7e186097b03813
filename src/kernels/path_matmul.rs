//! The matrix products of the second level: each row with the weights of its path. Shader: `shaders/path_matmul.wgsl`.

use super::{
    Access, Constant, Factor, Kernel, Layout, PackSource, Packed, Slot, check_factors, check_output, factor_reads,
    in_quads, optional, params, shader_u32, store_access,
    tile::{
        self, A_PACKED, A_STORED, B_PACKED, B_STORED, Operand, Operands, Packing, Packs, Product, Sought, Tile,
        packed_reads,
    },
    whole_words,
};
use crate::{Element, Error, Gpu, Plan, Result, Step, Tensor, tensor::Bind};

/// The kernel behind [`PathMatmul`].
///
/// ```
/// assert_eq!(double_routing::kernels::PATH_MATMUL.name(), "path_matmul");
/// ```
pub const PATH_MATMUL: Kernel = Kernel {
    name: "path_matmul",
    source: include_str!("../../shaders/path_matmul.wgsl"),
    params: Params::fields,
    slots: &[
        Slot::read(1, "a").when(A_STORED),
        Slot::read(2, "b").when(B_STORED),
        Slot::texels(1, "a", Access::ReadTexels).when(A_PACKED),
        Slot::texels(2, "b", Access::ReadTexels).when(B_PACKED),
        Slot::read(3, "offsets"),
        Slot::read(4, "order").when("A_GATHERED"),
        Slot::read(5, "bias"),
        Slot::read(6, "s").when("SWISH"),
        Slot::write(7, "c"),
    ],
    // Drivers for CPUs take three times as long to compile the one that reads s.
    variants: || {
        let products = tile::path_variants();
        [false, true]
            .into_iter()
            .flat_map(|swish| products.iter().map(move |it| it.clone().flag("SWISH", swish)))
            .collect()
    },
};

params! {
    struct Params embeds product: Product {
        paths,
        divisor,
        by_rows,
        offsets_first,
        order_first,
        bias_at,
        s_at,
        c_kind,
    }
}

/// Rows times the weights of their paths: `c[r] = a[source(r)]·b[p]ᵀ + bias[p]` for the rows
/// `offsets[p] .. offsets[p + 1]` of path p. With [`swish`](PathMatmul::swish) times `silu(s[r])`.
///
/// | tensor | shape | elements |
/// |---|---|---|
/// | `a` | `[N, K]` | f32, f16, bf16 |
/// | `b` | `[P, O, K]`: for each path what `nn.Linear` stores | f32, f16, bf16 |
/// | `offsets` | `[P + 1]`, ascending, the last at most `rows` | u32 |
/// | `order` | `[rows]`: row r of c comes from row `order[r] / divisor` of a; without it from row r | u32 |
/// | `bias` | `[P, O]` | f32, f16, bf16 |
/// | `s`, `c` | `[rows, O]` | f32, f16, bf16 |
///
/// Of `a` and `b` one is f32, or both are of the same type. A `c` of 16 bits starts at a multiple of 4 bytes and has an even O.
/// `offsets` and `order` are what [`Dispatch`](super::Dispatch) makes; the host never sees them. Rows of `c` from the last offset on
/// are left as they are. A path without rows costs nothing but the workgroups that find nothing to do.
/// |ĉ − c| ≤ (K + 2)·2⁻²⁴·(Σ|a||b| + |bias|), times |silu(s)| and with K + 19 + 4|s| for K + 2 where there is an `s`; and
/// half a ULP of a `c` of 16 bits. On matrix units three times as much, as [`Matmul`](super::Matmul) has it.
///
/// ```
/// use double_routing::{AdapterChoice, Element, Gpu, Tensor, bytemuck, kernels::PathMatmul};
///
/// # fn main() -> double_routing::Result<()> { pollster::block_on(async {
/// let gpu = Gpu::open(&AdapterChoice::default()).await?;
/// let upload = |values: &[f32]| gpu.upload("operand", bytemuck::cast_slice(values));
/// let (a, b) = (upload(&[1.0, 2.0, 3.0, 4.0])?, upload(&[1.0, 1.0, 10.0, 10.0])?);
/// let offsets = gpu.upload("offsets", bytemuck::cast_slice(&[0u32, 1, 2]))?;
/// let c = gpu.buffer("c", Element::F32, 2)?;
/// // Two rows of two features, the first on path 0, the second on path 1; one output.
/// let c = Tensor::f32(&c, &[2, 1]);
/// let (a, b) = (Tensor::f32(&a, &[2, 2]), Tensor::f32(&b, &[2, 1, 2]));
/// let plan = PathMatmul::new(a, b, Tensor::u32(&offsets, &[3]), c.clone()).plan(&gpu)?;
/// let mut encoder = gpu.device().create_command_encoder(&Default::default());
/// plan.record(&mut encoder.begin_compute_pass(&Default::default()));
/// gpu.queue().submit([encoder.finish()]);
/// assert_eq!(bytemuck::pod_collect_to_vec::<u8, f32>(&gpu.read(&c).await?), [3.0, 70.0]);
/// # Ok(()) }) }
/// ```
#[derive(Debug, Clone)]
pub struct PathMatmul<'a> {
    a: Tensor<'a>,
    b: Tensor<'a>,
    offsets: Tensor<'a>,
    c: Tensor<'a>,
    order: Option<Tensor<'a>>,
    divisor: usize,
    bias: Option<Tensor<'a>>,
    s: Option<Tensor<'a>>,
    batch_invariant: bool,
    b_constant: Option<&'a Constant>,
}

const NAME: &str = "path_matmul";

/// The dimensions of the products.
struct Geometry {
    /// Rows of a.
    sources: u64,
    rows: u64,
    paths: u64,
    columns: u64,
    depth: u64,
}

impl<'a> PathMatmul<'a> {
    /// `c = a·b[path]ᵀ`, with a in the order of c.
    ///
    /// ```no_run
    /// # use double_routing::{Tensor, kernels::PathMatmul};
    /// # fn product<'a>(a: Tensor<'a>, b: Tensor<'a>, offsets: Tensor<'a>, c: Tensor<'a>) -> PathMatmul<'a> {
    /// PathMatmul::new(a, b, offsets, c)
    /// # }
    /// ```
    pub fn new(a: Tensor<'a>, b: Tensor<'a>, offsets: Tensor<'a>, c: Tensor<'a>) -> Self {
        Self {
            a,
            b,
            offsets,
            c,
            order: None,
            divisor: 1,
            bias: None,
            s: None,
            batch_invariant: false,
            b_constant: None,
        }
    }

    /// Row r of c comes from row `order[r] / divisor` of a: with the order of slots that [`Dispatch`](super::Dispatch) makes,
    /// `divisor` slots a token.
    ///
    /// ```no_run
    /// # use double_routing::{Tensor, kernels::PathMatmul};
    /// # fn gathered<'a>(product: PathMatmul<'a>, order: Tensor<'a>) -> PathMatmul<'a> {
    /// // Every token has chosen 8 paths.
    /// product.gathered(order, 8)
    /// # }
    /// ```
    #[must_use]
    pub fn gathered(mut self, order: Tensor<'a>, divisor: usize) -> Self {
        self.order = Some(order);
        self.divisor = divisor;
        self
    }

    /// Adds a row to every row of a path.
    ///
    /// ```no_run
    /// # use double_routing::{Tensor, kernels::PathMatmul};
    /// # fn biased<'a>(product: PathMatmul<'a>, bias: Tensor<'a>) -> PathMatmul<'a> {
    /// product.bias(bias)
    /// # }
    /// ```
    #[must_use]
    pub fn bias(mut self, bias: Tensor<'a>) -> Self {
        self.bias = Some(bias);
        self
    }

    /// Multiplies the result by `silu(s)`, elementwise: the product with a gated feed-forward's `up_proj`, where `s` is that with its
    /// `gate_proj`.
    ///
    /// ```no_run
    /// # use double_routing::{Tensor, kernels::PathMatmul};
    /// # fn gated<'a>(product: PathMatmul<'a>, s: Tensor<'a>) -> PathMatmul<'a> {
    /// product.swish(s)
    /// # }
    /// ```
    #[must_use]
    pub fn swish(mut self, s: Tensor<'a>) -> Self {
        self.s = Some(s);
        self
    }

    /// As [`Matmul::batch_invariant`](super::Matmul::batch_invariant).
    ///
    /// ```no_run
    /// # use double_routing::kernels::PathMatmul;
    /// # fn invariant<'a>(product: PathMatmul<'a>) -> PathMatmul<'a> {
    /// product.batch_invariant(true)
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

    /// Checks everything and builds the steps: one, or more where the weights of all paths exceed a binding; and before them, for
    /// software adapters and many rows a path, those that [pack](super::PACK) the factors.
    ///
    /// # Errors
    /// As [`Matmul::plan`](super::Matmul::plan); [`Error::Limit`] where `a`, `c`, `s` or the weights of one path exceed a binding.
    ///
    /// ```no_run
    /// # use double_routing::{Gpu, Plan, Result, kernels::PathMatmul};
    /// # fn plan(gpu: &Gpu, product: PathMatmul<'_>) -> Result<Plan> {
    /// product.plan(gpu)
    /// # }
    /// ```
    pub fn plan(&self, gpu: &Gpu) -> Result<Plan> {
        self.plan_sharing(gpu, &mut None)
    }

    /// The same, for products that follow one another and have the same `a`: what it is packed as.
    pub(crate) fn plan_sharing(&self, gpu: &Gpu, a_packed: &mut Option<Packed>) -> Result<Plan> {
        let geometry = self.check()?;
        let Geometry { sources, rows, paths, columns, depth } = geometry;
        let mut plan = Plan::default();
        if [rows, columns, sources, paths].contains(&0) {
            return Ok(plan);
        }
        let tile = self.tile(gpu, &geometry);
        if depth > tile.max_depth() {
            return Err(Error::Limit {
                operation: NAME,
                what: "the depth of a sum".into(),
                needed: depth,
                allowed: tile.max_depth(),
            });
        }
        let each = columns * depth * self.b.element().bytes() as u64;
        if each > gpu.unaligned_limit() {
            return Err(Error::Limit {
                operation: NAME,
                what: "the weights of a path in bytes".into(),
                needed: each,
                allowed: gpu.unaligned_limit(),
            });
        }
        let packed = tile.b_layout([1, columns], depth).map(|b| gpu.texels_limit() / b.texels().max(1));
        let paths_each = gpu.unaligned_limit().checked_div(each).unwrap_or(paths).min(packed.unwrap_or(u64::MAX));
        let whole = tile.b_layout([paths, columns], depth).filter(|_| paths <= paths_each);
        let mut packing = Packing::holding(gpu, a_packed.take(), self.b_constant, whole)?;
        let mut first = 0;
        while first < paths {
            let count = paths_each.min(paths - first);
            self.push_step(gpu, &geometry, tile, [first, count], &mut packing, &mut plan)?;
            first += count;
        }
        *a_packed = packing.into_a();
        Ok(plan)
    }

    /// Where the weights are packed here, all paths' are, whether they have rows or not: it needs so many rows a path on average that it
    /// pays. A batch-invariant choice would not know them, nor whether A fits a texture.
    fn tile(&self, gpu: &Gpu, geometry: &Geometry) -> Tile {
        let &Geometry { rows, paths, columns, depth, .. } = geometry;
        let packs = match self.batch_invariant {
            true => Packs::Never,
            false => Packs::of(gpu, self.b_constant, [paths, columns], depth),
        };
        let choose = |packs| {
            let elements = [self.a.element(), self.b.element()];
            let rows = rows.div_ceil(paths);
            let sought = Sought { rows, columns, products: paths, elements, transposed: true, packs };
            Tile::choose(gpu, sought, self.batch_invariant)
        };
        let tile = choose(packs);
        let layouts = self.layouts(gpu, tile, geometry, 1);
        let fits = layouts.iter().flatten().all(|layout| layout.texels() <= gpu.texels_limit());
        if fits { tile } else { choose(Packs::Never) }
    }

    /// How A and the weights of so many paths are packed, each if it is.
    fn layouts(&self, gpu: &Gpu, tile: Tile, geometry: &Geometry, paths: u64) -> [Option<Layout>; 2] {
        let &Geometry { sources, columns, depth, .. } = geometry;
        tile.layouts(gpu, &self.a, depth, [[1, sources], [paths, columns]], depth)
    }

    /// The products of the paths `first .. first + paths`.
    fn push_step(
        &self,
        gpu: &Gpu,
        geometry: &Geometry,
        tile: Tile,
        [first, paths]: [u64; 2],
        packing: &mut Packing,
        plan: &mut Plan,
    ) -> Result<()> {
        let Geometry { sources, rows, columns, depth, .. } = *geometry;
        let mut a = self.a.bind(gpu, NAME, "a", 0, sources * depth)?;
        let mut b = self.b.bind(gpu, NAME, "b", first * columns * depth, paths * columns * depth)?;
        let offsets = self.offsets.bind(gpu, NAME, "offsets", first, paths + 1)?;
        let order = self.order.as_ref().map(|order| order.bind(gpu, NAME, "order", 0, rows)).transpose()?;
        let (bias_at, bias) = optional::bind(gpu, NAME, "bias", self.bias.as_ref(), first * columns, paths * columns)?;
        let (s_at, s) = optional::bind(gpu, NAME, "s", self.s.as_ref(), 0, rows * columns)?;
        let c = self.c.bind(gpu, NAME, "c", 0, rows * columns)?;
        // s is read in quads where c is written in them.
        let s_in_quads = |of_s: &Tensor<'_>| of_s.element() == Element::F32 && in_quads(&s, &[columns]);
        let c_access = match store_access(&c, self.c.element(), &[columns]) {
            "quads" if !self.s.as_ref().is_none_or(s_in_quads) => "elements",
            access => access,
        };

        let number = |what, count| shader_u32(NAME, what, count);
        // A row of tiles for each path's tiles, or for each row: whichever are fewer.
        let by_tiles = rows / u64::from(tile.rows()) + paths;
        let by_rows = rows <= by_tiles;
        let product = Product {
            rows: number("rows of a", sources)?,
            columns: number("columns", columns)?,
            depth: number("depth", depth)?,
            last_depth: number("depth", depth)?,
            batches: 1,
            a_first: a.first,
            a_stride: number("the stride of a", depth)?,
            b_first: b.first,
            b_stride: number("the stride of b", depth)?,
            b_batch: number("the weights of a path", columns * depth)?,
            c_first: c.first,
            c_stride: number("the stride of c", columns)?,
            finishes: 1,
            ..Product::default()
        };
        let (a, b, factors, product) = if tile.packs() {
            let layouts = self.layouts(gpu, tile, geometry, paths);
            let source = |bound, element, batch| PackSource { bound, element, stride: depth, batch, transposed: false };
            let sources = [source(a, self.a.element(), 0), source(b, self.b.element(), columns * depth)];
            let [a, b] = packing.pack(gpu, sources, [0, first], layouts, plan)?;
            (a, b, packed_reads(layouts), product.of_packed(NAME, layouts)?)
        } else {
            let factors = [
                Factor { bound: &mut a, element: self.a.element(), strides: &[depth] },
                Factor { bound: &mut b, element: self.b.element(), strides: &[depth] },
            ];
            let factors = factor_reads(gpu, factors);
            (Operand::Stored(a), Operand::Stored(b), factors, product)
        };
        let params = Params {
            product,
            paths: number("paths", paths)?,
            divisor: number("divisor", self.divisor as u64)?,
            by_rows: u32::from(by_rows),
            offsets_first: offsets.first,
            order_first: order.as_ref().map_or(0, |order| order.first),
            bias_at,
            s_at,
            c_kind: optional::kind(self.c.element()),
        };
        let variant =
            tile.variant(Operands { factors, b_transposed: true, a_gathered: order.is_some(), ragged: true, c_access });
        let variant = variant.flag("SWISH", self.s.is_some());
        let mut operands: Vec<(&str, &dyn Bind)> =
            vec![("a", &a), ("b", &b), ("offsets", &offsets), ("bias", &bias), ("c", &c)];
        if let Some(order) = &order {
            operands.push(("order", order));
        }
        if self.s.is_some() {
            operands.push(("s", &s));
        }
        plan.push(Step::new(
            gpu,
            &PATH_MATMUL,
            variant,
            format!("{NAME} {rows}x{columns}x{depth} on {paths} paths"),
            bytemuck::bytes_of(&params),
            &operands,
            rows.min(by_tiles) * columns.div_ceil(u64::from(tile.columns())),
        )?);
        Ok(())
    }

    fn check(&self) -> Result<Geometry> {
        let (a, b, offsets, c) = (self.a.shape(), self.b.shape(), self.offsets.shape(), self.c.shape());
        let (&[sources, depth], &[paths, columns, b_depth], &[rows, c_columns]) = (a, b, c) else {
            return Err(Error::shape(NAME, format!("a {a:?} and c {c:?} need two dimensions, b {b:?} three")));
        };
        if depth != b_depth {
            return Err(Error::shape(NAME, format!("inner dimensions differ: a is {a:?}, b as [P, O, K] is {b:?}")));
        }
        if c_columns != columns {
            return Err(Error::shape(NAME, format!("c is {c:?}, b as [P, O, K] is {b:?}")));
        }
        if offsets != [paths + 1] {
            let wanted = [paths + 1];
            return Err(Error::shape(NAME, format!("offsets are {offsets:?}, b as [P, O, K] {b:?} needs {wanted:?}")));
        }
        check_factors(NAME, [("a", &self.a), ("b", &self.b)])?;
        self.offsets.check_element(NAME, "offsets", &[Element::U32])?;
        if !whole_words(self.c.element(), rows as u64, columns as u64) {
            // Rows that are on no path stay as they are, so there is no rounding all of c at the end.
            let c_element = self.c.element();
            return Err(Error::shape(NAME, format!("c is {c:?} {c_element}: rows of 16 bits need an even length")));
        }
        match &self.order {
            Some(order) => {
                if order.shape() != [rows] || self.divisor == 0 {
                    let (order, divisor) = (order.shape(), self.divisor);
                    return Err(Error::shape(
                        NAME,
                        format!("order is {order:?} with divisor {divisor}, c {c:?} needs {:?} and 1 or more", [rows]),
                    ));
                }
                order.check_element(NAME, "order", &[Element::U32])?;
            }
            None if sources != rows => {
                return Err(Error::shape(NAME, format!("rows differ: a is {a:?}, c is {c:?}, and there is no order")));
            }
            None => {}
        }
        optional::check(NAME, "bias", self.bias.as_ref(), &[paths, columns], &self.c)?;
        optional::check(NAME, "s", self.s.as_ref(), c, &self.c)?;
        let inputs = [
            ("a", Some(&self.a)),
            ("b", Some(&self.b)),
            ("offsets", Some(&self.offsets)),
            ("order", self.order.as_ref()),
        ];
        for (name, tensor) in inputs {
            if let Some(tensor) = tensor {
                tensor.check(NAME, name)?;
                tensor.check_apart(NAME, name, &self.c)?;
            }
        }
        check_output(NAME, "c", &self.c)?;
        Ok(Geometry {
            sources: sources as u64,
            rows: rows as u64,
            paths: paths as u64,
            columns: columns as u64,
            depth: depth as u64,
        })
    }
}
