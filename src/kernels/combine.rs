//! The gate-weighted sum of gathered rows, scattered back. Shader: `shaders/combine.wgsl`.

use super::{
    FLOATS, Kernel, OCTETS, STORE_ACCESSES, Slot, check_output, in_octets, in_quads, lanes::Kind, load_accesses,
    optional, params, reduce, shader_u32, store_access, whole_words,
};
use crate::{
    Element, Error, Gpu, Plan, Result, Step, Tensor,
    shader::Variant,
    tensor::{Bound, elements},
};

/// The kernel behind [`Combine`].
///
/// ```
/// assert_eq!(double_routing::kernels::COMBINE.name(), "combine");
/// ```
pub const COMBINE: Kernel = Kernel {
    name: "combine",
    source: include_str!("../../shaders/combine.wgsl"),
    params: Params::fields,
    slots: &[
        Slot::read(1, "rows").when("STAGE == combine"),
        Slot::read(2, "positions").when("STAGE == combine"),
        Slot::read(3, "gates").when("GATED"),
        Slot::read(4, "plus").when("!MOVED"),
        Slot::read(5, "targets").when("TARGETED"),
        Slot::write(6, "y"),
    ],
    variants: || {
        let mut variants = Vec::new();
        for y in STORE_ACCESSES {
            for alone in [false, true] {
                for element in FLOATS {
                    for access in load_accesses(*element, alone) {
                        for targeted in [false, true] {
                            for (moved, gated) in [(false, false), (false, true), (true, false)] {
                                let rows = Rows { alone, element: *element, access, moved };
                                variants.push(variant(rows, y, gated, targeted));
                            }
                        }
                    }
                }
            }
            variants.extend([false, true].map(|skips| fill(y, skips)));
        }
        variants.extend([false, true].map(|skips| fill(OCTETS, skips)));
        variants
    },
};

params! {
    struct Params {
        results,
        first,
        of_batch,
        slots,
        rows,
        targets,
        columns,
        rows_first,
        positions_first,
        gates_first,
        plus_at,
        targets_first,
        y_first,
        y_kind,
        rows_from,
        targets_from,
    }
}

/// Invocations of a workgroup: of one that owns a result, and of one whose invocations own a quad each.
const ALONE_LANES: u32 = 8;
const LANES: u32 = 64;

/// Quads that a lane takes at a time of the result that its workgroup owns.
const BLOCK: u32 = 4;

/// On software adapters, the fewest columns that are worth a workgroup: two quads for each lane.
const ALONE_COLUMNS: u64 = 64;

/// Software Vulkan drivers stop an invocation after 65 535 iterations, and it goes through the slots of its quads.
const MOST_SLOTS: u64 = 60_000;

/// How rows are read.
#[derive(Debug, Clone, Copy)]
struct Rows {
    alone: bool,
    element: Element,
    access: &'static str,
    moved: bool,
}

fn variant(rows: Rows, y: &'static str, gated: bool, targeted: bool) -> Variant {
    Variant::default()
        .word("STAGE", "combine")
        .flag("ALONE", rows.alone)
        .number("LANES", if rows.alone { ALONE_LANES } else { LANES })
        .number("BLOCK", BLOCK)
        .word("rows_TYPE", rows.element.name())
        .word("rows_ACCESS", rows.access)
        .flag("MOVED", rows.moved)
        .word("y_ACCESS", y)
        .flag("GATED", gated)
        .flag("TARGETED", targeted)
}

fn fill(y: &'static str, skips: bool) -> Variant {
    Variant::default()
        .word("STAGE", "fill")
        .flag("ALONE", false)
        .number("LANES", LANES)
        .word("y_ACCESS", y)
        .flag("MOVED", !skips)
        .flag("GATED", false)
        .flag("TARGETED", false)
}

/// The gate-weighted sum of gathered rows, put where its token belongs.
///
/// | tensor | shape | elements |
/// |---|---|---|
/// | `rows` | `[.., N, O]` | f32, f16, bf16 |
/// | `positions` | `[.., T, e]`, as [`Dispatch`](super::Dispatch) gives them | u32 |
/// | `gates` | `[.., T, e]` | f32 |
/// | `plus` | `[.., T, O]` | f32, f16, bf16 |
/// | `targets` | `[.., T]` | u32 |
/// | `skip` | `[.., S, O]` | f32, f16, bf16 |
/// | `y` | `[.., T, O]`; with `targets` `[.., S, O]` | f32, f16, bf16 |
///
/// `y[t] = Σ_j gate[t, j] · rows[positions[t, j]] + plus[t]`, added in the order of j; a position of N or more, such as
/// `u32::MAX`, adds nothing, whatever its gate. Dimensions before the last two are batches, the same in all tensors;
/// positions and targets count within their batch. A result may have 60 000 slots. |ŷ − y| ≤ (e + 2)·2⁻²⁴·(Σ|gate||row| +
/// |plus|), and half a ULP of a `y` of 16 bits, which starts at a multiple of 4 bytes; with one slot, no gates and no `plus` rows are
/// copied as they are, where `y` is of their type.
///
/// ```
/// use double_routing::{AdapterChoice, Element, Gpu, Tensor, bytemuck, kernels::Combine};
///
/// # fn main() -> double_routing::Result<()> { pollster::block_on(async {
/// let gpu = Gpu::open(&AdapterChoice::default()).await?;
/// let rows = gpu.upload("rows", bytemuck::cast_slice(&[1.0f32, 2.0, 10.0, 20.0]))?;
/// let positions = gpu.upload("positions", bytemuck::cast_slice(&[1, 0, u32::MAX, 1]))?;
/// let gates = gpu.upload("gates", bytemuck::cast_slice(&[0.5f32, 2.0, 1.0, 3.0]))?;
/// let y = gpu.buffer("y", Element::F32, 4)?;
/// let y = Tensor::f32(&y, &[2, 2]);
/// let combine = Combine::new(Tensor::f32(&rows, &[2, 2]), Tensor::u32(&positions, &[2, 2]), y.clone());
/// let plan = combine.gates(Tensor::f32(&gates, &[2, 2])).plan(&gpu)?;
/// let mut encoder = gpu.device().create_command_encoder(&Default::default());
/// plan.record(&mut encoder.begin_compute_pass(&Default::default()));
/// gpu.queue().submit([encoder.finish()]);
/// assert_eq!(bytemuck::pod_collect_to_vec::<u8, f32>(&gpu.read(&y).await?), [7.0, 14.0, 30.0, 60.0]);
/// # Ok(()) }) }
/// ```
#[derive(Debug, Clone)]
pub struct Combine<'a> {
    rows: Tensor<'a>,
    positions: Tensor<'a>,
    y: Tensor<'a>,
    gates: Option<Tensor<'a>>,
    plus: Option<Tensor<'a>>,
    targets: Option<Tensor<'a>>,
    skip: Option<Tensor<'a>>,
}

const NAME: &str = "combine";

/// B, N, T, e, S and O of [`Combine`].
#[derive(Debug, Clone, Copy)]
struct Shape {
    batches: u64,
    rows: u64,
    results: u64,
    slots: u64,
    targets: u64,
    columns: u64,
}

/// What a dispatch sees: some batches with all of their rows and targets, or a part of those of one batch. Each by its first and how many
/// there are.
#[derive(Debug, Clone, Copy)]
struct Window {
    batches: [u64; 2],
    rows: [u64; 2],
    targets: [u64; 2],
}

/// Parts of at most `each`, by their first and how many they have.
fn parts(count: u64, each: u64) -> impl Iterator<Item = [u64; 2]> {
    (0..count.div_ceil(each)).map(move |part| [part * each, each.min(count - part * each)])
}

impl<'a> Combine<'a> {
    /// `y[t] = Σ_j rows[positions[t, j]]`.
    ///
    /// ```no_run
    /// # use double_routing::{Tensor, kernels::Combine};
    /// # fn combine<'a>(rows: Tensor<'a>, positions: Tensor<'a>, y: Tensor<'a>) -> Combine<'a> {
    /// Combine::new(rows, positions, y)
    /// # }
    /// ```
    pub fn new(rows: Tensor<'a>, positions: Tensor<'a>, y: Tensor<'a>) -> Self {
        Self { rows, positions, y, gates: None, plus: None, targets: None, skip: None }
    }

    /// The weight of each slot.
    ///
    /// ```no_run
    /// # use double_routing::{Tensor, kernels::Combine};
    /// # fn weighted<'a>(combine: Combine<'a>, gates: Tensor<'a>) -> Combine<'a> {
    /// combine.gates(gates)
    /// # }
    /// ```
    #[must_use]
    pub fn gates(mut self, gates: Tensor<'a>) -> Self {
        self.gates = Some(gates);
        self
    }

    /// What is added to the sums at the end.
    ///
    /// ```no_run
    /// # use double_routing::{Tensor, kernels::Combine};
    /// # fn with_shared<'a>(combine: Combine<'a>, shared: Tensor<'a>) -> Combine<'a> {
    /// combine.plus(shared)
    /// # }
    /// ```
    #[must_use]
    pub fn plus(mut self, plus: Tensor<'a>) -> Self {
        self.plus = Some(plus);
        self
    }

    /// The rows of `y`, all different, that the results go to; a result whose target is no row of `y`, such as
    /// `u32::MAX`, is left out. All other rows of `y` become 0, or those of [`Combine::skip`].
    ///
    /// ```no_run
    /// # use double_routing::{Tensor, kernels::Combine};
    /// # fn scattered<'a>(combine: Combine<'a>, selected: Tensor<'a>) -> Combine<'a> {
    /// combine.targets(selected)
    /// # }
    /// ```
    #[must_use]
    pub fn targets(mut self, targets: Tensor<'a>) -> Self {
        self.targets = Some(targets);
        self
    }

    /// The rows that `y` gets where no target is.
    ///
    /// ```no_run
    /// # use double_routing::{Tensor, kernels::Combine};
    /// # fn residual<'a>(combine: Combine<'a>, selected: Tensor<'a>, x: Tensor<'a>) -> Combine<'a> {
    /// combine.targets(selected).skip(x)
    /// # }
    /// ```
    #[must_use]
    pub fn skip(mut self, skip: Tensor<'a>) -> Self {
        self.skip = Some(skip);
        self
    }

    /// Checks everything and builds the steps.
    ///
    /// # Errors
    /// [`Error::Shape`], [`Error::Element`] or [`Error::Buffer`] for operands that do not fit, [`Error::Limit`] where a single row of a
    /// tensor exceeds a binding, or, for results of more than one slot, all `rows` of a batch.
    ///
    /// ```no_run
    /// # use double_routing::{Gpu, Plan, Result, kernels::Combine};
    /// # fn plan(gpu: &Gpu, combine: Combine<'_>) -> Result<Plan> {
    /// combine.plan(gpu)
    /// # }
    /// ```
    pub fn plan(&self, gpu: &Gpu) -> Result<Plan> {
        let shape = self.check()?;
        let mut plan = Plan::default();
        let of_y = elements(NAME, self.y.shape())?;
        if of_y == 0 {
            return Ok(plan);
        }
        if !whole_words(self.y.element(), of_y / shape.columns, shape.columns) {
            let sums = reduce::Sums::new(gpu, &self.y)?;
            let plan = Combine { y: sums.tensor(), ..self.clone() }.plan(gpu)?;
            return sums.round(gpu, plan, &self.y);
        }
        let limit = gpu.unaligned_limit();
        let row = 4 * shape.columns.max(shape.slots);
        if row > limit {
            return Err(Error::Limit { operation: NAME, what: "a row in bytes".into(), needed: row, allowed: limit });
        }
        if self.targets.is_some() {
            for [first, count] in parts(shape.batches * shape.targets, limit / (4 * shape.columns)) {
                plan.push(self.fill(gpu, &shape, first, count)?);
            }
        }
        for window in self.windows(gpu, &shape)? {
            let [batch, batches] = window.batches;
            for [first, count] in parts(batches * shape.results, limit / row) {
                plan.push(self.step(gpu, &shape, &window, batch * shape.results + first, count)?);
            }
        }
        Ok(plan)
    }

    /// Windows of what is read or written anywhere in a batch, each of which fits a binding: everything, else as many batches as fit, else
    /// a part of one batch. A result is put where its position and its target are both in the window; the first window of the rows also
    /// has those whose position is nowhere.
    fn windows(&self, gpu: &Gpu, shape: &Shape) -> Result<Vec<Window>> {
        let &Shape { batches, rows, targets, columns, .. } = shape;
        let y = self.targets.as_ref().map(|_| &self.y);
        let whole = |name, tensor: &Tensor<'a>, each| tensor.bind(gpu, NAME, name, 0, batches * each * columns).is_ok();
        if whole("rows", &self.rows, rows) && y.is_none_or(|y| whole("y", y, targets)) {
            return Ok(vec![Window { batches: [0, batches], rows: [0, rows], targets: [0, targets] }]);
        }
        // Every row fits.
        let fitting = |tensor: &Tensor<'_>| gpu.unaligned_limit() / (columns * tensor.element().bytes() as u64);
        let (rows_each, targets_each) = (fitting(&self.rows), y.map_or(u64::MAX, fitting));
        let batches_each = (rows_each / rows.max(1)).min(targets_each / targets.max(1));
        if batches_each > 0 {
            let windows = parts(batches, batches_each);
            return Ok(windows.map(|batches| Window { batches, rows: [0, rows], targets: [0, targets] }).collect());
        }
        // Sums in the order of their slots need all of their rows.
        if shape.slots != 1 && rows > rows_each {
            return Err(Error::Limit {
                operation: NAME,
                what: "binding the rows of a batch in bytes".into(),
                needed: rows * columns * self.rows.element().bytes() as u64,
                allowed: gpu.unaligned_limit(),
            });
        }
        let mut windows = Vec::new();
        for batch in 0..batches {
            for targets in parts(targets.max(1), targets_each) {
                let of_rows = parts(rows.max(1), rows_each);
                windows.extend(of_rows.map(|rows| Window { batches: [batch, 1], rows, targets }));
            }
        }
        Ok(windows)
    }

    /// The step that fills the rows `first .. first + count` of y.
    fn fill(&self, gpu: &Gpu, shape: &Shape, first: u64, count: u64) -> Result<Step> {
        let columns = shape.columns;
        let all = count * columns;
        let y = self.y.bind(gpu, NAME, "y", first * columns, all)?;
        let (plus_at, skip) = optional::bind(gpu, NAME, "skip", self.skip.as_ref(), first * columns, all)?;
        let params = Params {
            results: shader_u32(NAME, "elements of y", all)?,
            plus_at,
            y_first: y.first,
            y_kind: optional::kind(self.y.element()),
            ..Params::default()
        };
        let octets = [(Some(&self.y), &y), (self.skip.as_ref(), &skip)].iter().all(|(tensor, bound)| {
            tensor.is_none_or(|tensor| tensor.element() == Element::F32 && in_octets(gpu, bound, &[all]))
        });
        let (access, each) = if octets { (OCTETS, 8) } else { (store_access(&y, self.y.element(), &[all]), 4) };
        let mut operands = vec![("y", &y)];
        operands.extend(self.skip.as_ref().map(|_| ("plus", &skip)));
        Step::new(
            gpu,
            &COMBINE,
            fill(access, self.skip.is_some()),
            format!("{NAME} fill {count}x{columns}"),
            bytemuck::bytes_of(&params),
            &operands,
            all.div_ceil(each).div_ceil(u64::from(LANES)),
        )
    }

    /// The step for the results `first .. first + count`, which are of the window's batches.
    fn step(&self, gpu: &Gpu, shape: &Shape, window: &Window, first: u64, count: u64) -> Result<Step> {
        let &Shape { slots, columns, .. } = shape;
        let [batch, batches] = window.batches;
        let within = |each: u64, [from, count]: [u64; 2]| [batch * each + from, batches * count].map(|n| n * columns);
        let [rows_at, of_rows] = within(shape.rows, window.rows);
        let mut rows = self.rows.bind(gpu, NAME, "rows", rows_at, of_rows)?;
        let positions = self.positions.bind(gpu, NAME, "positions", first * slots, count * slots)?;
        let gates = part_of(gpu, self.gates.as_ref(), "gates", first * slots, count * slots)?;
        let (plus_at, plus) = optional::bind(gpu, NAME, "plus", self.plus.as_ref(), first * columns, count * columns)?;
        let targets = part_of(gpu, self.targets.as_ref(), "targets", first, count)?;
        let y = match &targets {
            Some(_) => {
                let [y_at, of_y] = within(shape.targets, window.targets);
                self.y.bind(gpu, NAME, "y", y_at, of_y)?
            }
            None => self.y.bind(gpu, NAME, "y", first * columns, count * columns)?,
        };
        let number = |what: &str, count: u64| shader_u32(NAME, what, count);
        let start = |bound: Option<&Bound<'_>>| bound.map_or(0, |bound| bound.first);
        let params = Params {
            results: number("results", count)?,
            first: number("results", first - batch * shape.results)?,
            of_batch: number("results", shape.results)?,
            slots: number("slots", slots)?,
            rows: number("rows", window.rows[1])?,
            targets: number("targets", window.targets[1])?,
            columns: number("columns", columns)?,
            rows_first: rows.first,
            positions_first: positions.first,
            gates_first: start(gates.as_ref()),
            plus_at,
            targets_first: start(targets.as_ref()),
            y_first: y.first,
            y_kind: optional::kind(self.y.element()),
            rows_from: number("rows", window.rows[0])?,
            targets_from: number("targets", window.targets[0])?,
        };
        let blocks = columns.div_ceil(u64::from(4 * ALONE_LANES * BLOCK));
        let alone = Kind::of(gpu) == Kind::Software
            && columns >= ALONE_COLUMNS
            && blocks * (slots + 1 + u64::from(BLOCK)) <= MOST_SLOTS;
        let element = self.rows.element();
        let access = match alone {
            true => rows.load_access(gpu, element, &[columns]),
            false if in_quads(&rows, &[columns]) => "quads",
            false => "elements",
        };
        let moved = slots == 1 && gates.is_none() && self.plus.is_none();
        let variant = variant(
            Rows { alone, element, access, moved },
            store_access(&y, self.y.element(), &[columns]),
            gates.is_some(),
            targets.is_some(),
        );
        let mut operands = vec![("rows", &rows), ("positions", &positions), ("plus", &plus), ("y", &y)];
        for (name, bound) in [("gates", &gates), ("targets", &targets)] {
            operands.extend(bound.as_ref().map(|bound| (name, bound)));
        }
        let groups = if alone { count } else { (count * columns.div_ceil(4)).div_ceil(u64::from(LANES)) };
        let label = format!("{NAME} {count}x{slots} of {}x{columns}", window.rows[1]);
        Step::new(gpu, &COMBINE, variant, label, bytemuck::bytes_of(&params), &operands, groups)
    }

    fn check(&self) -> Result<Shape> {
        let [rows, positions, y] = [&self.rows, &self.positions, &self.y].map(Tensor::shape);
        let ([lead @ .., n, columns], [_, .., slots], [_, .., _]) = (rows, positions, y) else {
            return Err(Error::shape(
                NAME,
                format!("rows {rows:?}, positions {positions:?} and y {y:?} need two dimensions each"),
            ));
        };
        let rank = rows.len();
        let (results, targets) = match (positions.get(rank - 2), y.get(rank - 2)) {
            (Some(results), Some(targets)) if positions.len() == rank && y.len() == rank => (*results, *targets),
            _ => {
                return Err(Error::shape(
                    NAME,
                    format!("rows {rows:?}, positions {positions:?} and y {y:?} differ in rank"),
                ));
            }
        };
        let expect = |name: &str, shape: &[usize], last: &[usize]| {
            let expected = [lead, last].concat();
            match shape == expected {
                true => Ok(()),
                false => Err(Error::shape(
                    NAME,
                    format!("{name} {shape:?} should be {expected:?}, for rows {rows:?} and positions {positions:?}"),
                )),
            }
        };
        if *slots as u64 > MOST_SLOTS {
            return Err(Error::shape(
                NAME,
                format!("positions {positions:?} give a result {slots} slots, more than the {MOST_SLOTS} it may have"),
            ));
        }
        let scattered = self.targets.is_some();
        expect("positions", positions, &[results, *slots])?;
        expect("y", y, &[if scattered { targets } else { results }, *columns])?;
        if self.skip.is_some() && !scattered {
            return Err(Error::shape(NAME, "skip needs targets: without them every row of y is a result"));
        }
        let optional = [
            ("gates", &self.gates, vec![results, *slots], &[Element::F32][..]),
            ("plus", &self.plus, vec![results, *columns], FLOATS),
            ("targets", &self.targets, vec![results], &[Element::U32]),
            ("skip", &self.skip, vec![targets, *columns], FLOATS),
        ];
        let mut inputs = vec![("rows", &self.rows, FLOATS), ("positions", &self.positions, &[Element::U32])];
        for (name, tensor, last, allowed) in optional {
            if let Some(tensor) = tensor {
                expect(name, tensor.shape(), &last)?;
                inputs.push((name, tensor, allowed));
            }
        }
        for (name, tensor, allowed) in inputs {
            tensor.check_element(NAME, name, allowed)?;
            tensor.check(NAME, name)?;
            tensor.check_apart(NAME, name, &self.y)?;
        }
        check_output(NAME, "y", &self.y)?;
        Ok(Shape {
            batches: elements(NAME, lead)?,
            rows: *n as u64,
            results: results as u64,
            slots: *slots as u64,
            targets: targets as u64,
            columns: *columns as u64,
        })
    }
}

/// The binding for a part of a tensor that there may be.
fn part_of<'a>(
    gpu: &'a Gpu,
    tensor: Option<&Tensor<'a>>,
    name: &str,
    first: u64,
    count: u64,
) -> Result<Option<Bound<'a>>> {
    tensor.map(|tensor| tensor.bind(gpu, NAME, name, first, count)).transpose()
}
