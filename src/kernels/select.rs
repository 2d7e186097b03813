//! The k largest of each row. Shader: `shaders/select.wgsl`.

use super::{
    Kernel, Slot,
    lanes::{self, By, Kind, Lanes},
    load_accesses, params, shader_u32,
};
use crate::{
    Element, Error, Gpu, Plan, Result, Step, Tensor,
    shader::Variant,
    tensor::{Bound, elements},
};

/// The kernel behind [`Select`].
///
/// ```
/// assert_eq!(double_routing::kernels::SELECT.name(), "select");
/// ```
pub const SELECT: Kernel = Kernel {
    name: "select",
    source: include_str!("../../shaders/select.wgsl"),
    params: Params::fields,
    slots: &[
        Slot::read(1, "x").when("READS == x || VALUES"),
        Slot::read(2, "lengths").when("MASKED"),
        Slot::read(3, "from_keys").when("READS == runs"),
        Slot::read(4, "from_indices").when("READS == runs"),
        Slot::write(5, "to_keys").when("WRITES == runs"),
        Slot::write(6, "to_indices").when("WRITES == runs"),
        Slot::write(5, "indices").when("WRITES == result"),
        Slot::write(6, "values").when("VALUES"),
    ],
    variants: || {
        let mut variants = Vec::new();
        for (kind, _, lanes, blocks) in SHAPES {
            let wide = *kind == Kind::Software;
            for (at, block) in blocks.iter().enumerate() {
                let shape = Shape { kind: *kind, lanes: *lanes, block: *block };
                for access in load_accesses(Element::F32, wide) {
                    for masked in [false, true] {
                        let mut writes = vec![Writes::Result { values: false }, Writes::Result { values: true }];
                        // Rows of several blocks have the largest.
                        if at + 1 == blocks.len() {
                            writes.push(Writes::Runs);
                        }
                        let stage = Stage::Select { shape, reads: Reads::X { masked } };
                        variants.extend(writes.into_iter().map(|writes| variant(stage, writes, access)));
                    }
                }
                if at + 1 == blocks.len() {
                    push_of_runs(&mut variants, Stage::Select { shape, reads: Reads::Runs }, wide);
                }
            }
        }
        push_of_runs(&mut variants, Stage::Merge, false);
        variants
    },
};

params! {
    struct Params {
        rows,
        positions,
        block,
        blocks,
        share,
        wanted,
        stride,
        length,
        x_first,
        lengths_first,
        indices_first,
        values_first,
    }
}

/// The lanes that share a block, by the length of a row, and the quads that each may hold: as many as needed, rounded up to one of
/// these.
const SHAPES: &[(Kind, u64, Lanes, &[u32])] = &[
    // On CPUs one vector of lanes has a block to itself, and subgroups save the barriers.
    (Kind::Software, u64::MAX, Lanes::vector(8, 1), &[1, 4, 8, 16, 32]),
    (Kind::Software, u64::MAX, Lanes::vector(4, 1), &[1, 8, 32]),
    (Kind::Software, u64::MAX, Lanes::vector(16, 1), &[1, 4, 8, 16]),
    (Kind::Software, u64::MAX, Lanes::memory(8, 1), &[1, 8, 32]),
    (Kind::Hardware, 128, Lanes::subgroup(32), &[1]),
    (Kind::Hardware, 128, Lanes::memory(32, 1), &[1]),
    (Kind::Hardware, u64::MAX, Lanes::subgroups(256), &[1]),
    (Kind::Hardware, u64::MAX, Lanes::memory(256, 1), &[1]),
];

/// Invocations of a workgroup that merges, and the places of a run that each fills.
const MERGE_LANES: u32 = 64;
const SECTION: u32 = 32;

/// How a workgroup shares out a block.
#[derive(Debug, Clone, Copy)]
struct Shape {
    kind: Kind,
    lanes: Lanes,
    /// Quads of a block that a lane has room for.
    block: u32,
}

impl Shape {
    fn choose(gpu: &Gpu, length: u64) -> Self {
        let (lanes, blocks) = lanes::choose(gpu, SHAPES, length);
        let shape = |block: &u32| Self { kind: Kind::of(gpu), lanes, block: *block };
        let fitting = blocks.iter().map(shape).find(|shape| length <= shape.positions());
        fitting.unwrap_or_else(|| shape(&blocks[blocks.len() - 1]))
    }

    /// The most positions of a block.
    fn positions(self) -> u64 {
        u64::from(self.lanes.lanes * self.block * 4)
    }
}

#[derive(Debug, Clone, Copy)]
enum Stage {
    Select { shape: Shape, reads: Reads },
    Merge,
}

#[derive(Debug, Clone, Copy)]
enum Reads {
    X { masked: bool },
    Runs,
}

#[derive(Debug, Clone, Copy)]
enum Writes {
    Runs,
    Result { values: bool },
}

/// The variants of a stage that reads runs.
fn push_of_runs(variants: &mut Vec<Variant>, stage: Stage, wide: bool) {
    for writes in [Writes::Runs, Writes::Result { values: false }, Writes::Result { values: true }] {
        variants.push(variant(stage, writes, "quads"));
        if wide {
            variants.push(variant(stage, writes, "wide_quads"));
        }
    }
}

/// `access` is how the stage reads the row that it goes through.
fn variant(stage: Stage, writes: Writes, access: &'static str) -> Variant {
    let variant = match writes {
        Writes::Runs => Variant::default().word("WRITES", "runs").flag("VALUES", false),
        Writes::Result { values } => Variant::default().word("WRITES", "result").flag("VALUES", values),
    };
    match stage {
        Stage::Select { shape: Shape { kind, lanes, block }, reads } => {
            // Software lanes hand their keys round; elsewhere reading what all read costs nothing.
            let broadcast = kind == Kind::Software && lanes.by == By::Subgroup;
            let variant = lanes
                .define(variant.word("STAGE", "select"))
                .number("BLOCK", block)
                // A quad has four bits of a word of 32.
                .number("WORDS", block.div_ceil(8))
                .number("EACH", block.min(8))
                .flag("BROADCAST", broadcast);
            match reads {
                Reads::X { masked } => variant.word("READS", "x").flag("MASKED", masked).word("x_ACCESS", access),
                Reads::Runs => of_runs(variant).word("from_keys_ACCESS", access),
            }
        }
        Stage::Merge => of_runs(variant.word("STAGE", "merge")).number("LANES", MERGE_LANES).number("SECTION", SECTION),
    }
}

/// Of x only what was selected is read then, for its value.
fn of_runs(variant: Variant) -> Variant {
    variant.word("READS", "runs").flag("MASKED", false).word("x_ACCESS", "elements")
}

/// The k largest elements of each row, in order: larger first, of equals the one with the lower index.
///
/// | tensor | shape | elements |
/// |---|---|---|
/// | `x` | `[.., L]` | f32 |
/// | `indices` | `[.., k]`, 1 ≤ k ≤ L | u32 |
/// | `values` | as `indices` | f32 |
/// | `lengths` | `x` without its last dimension, or the same number of elements | u32 |
///
/// Positions from `lengths` on are masked. What a row is then short of k is index `u32::MAX` with value 0. The order is that of a
/// stable sort and the result exact: −0 equals +0, infinities are in order, subnormal values count, and `values` are the bits of
/// x. NaNs come at some place or other.
///
/// ```
/// use double_routing::{AdapterChoice, Element, Gpu, Tensor, bytemuck, kernels::Select};
///
/// # fn main() -> double_routing::Result<()> { pollster::block_on(async {
/// let gpu = Gpu::open(&AdapterChoice::default()).await?;
/// let x = gpu.upload("x", bytemuck::cast_slice(&[3.0f32, 7.0, 7.0, -1.0, 5.0, 6.0, 8.0, 9.0]))?;
/// let lengths = gpu.upload("lengths", bytemuck::cast_slice(&[4u32, 2]))?;
/// let indices = gpu.buffer("indices", Element::U32, 6)?;
/// // The three best of four, and of two.
/// let indices = Tensor::u32(&indices, &[2, 3]);
/// let plan = Select::new(Tensor::f32(&x, &[2, 4]), indices.clone()).lengths(Tensor::u32(&lengths, &[2])).plan(&gpu)?;
/// let mut encoder = gpu.device().create_command_encoder(&Default::default());
/// plan.record(&mut encoder.begin_compute_pass(&Default::default()));
/// gpu.queue().submit([encoder.finish()]);
/// assert_eq!(bytemuck::pod_collect_to_vec::<u8, u32>(&gpu.read(&indices).await?), [1, 2, 0, 1, 0, u32::MAX]);
/// # Ok(()) }) }
/// ```
#[derive(Debug, Clone)]
pub struct Select<'a> {
    x: Tensor<'a>,
    indices: Tensor<'a>,
    values: Option<Tensor<'a>>,
    lengths: Option<Tensor<'a>>,
}

const NAME: &str = "select";

/// What one stage does to each row: blocks of its positions become runs of `stride`.
#[derive(Debug, Clone, Copy)]
struct Level {
    stage: Stage,
    positions: u64,
    block: u64,
    blocks: u64,
    stride: u64,
}

impl Level {
    /// The words of a row's runs.
    fn words(&self) -> u64 {
        self.blocks * self.stride
    }
}

/// The buffers that runs are kept in, keys apart from indices.
struct Runs {
    keys: wgpu::Buffer,
    indices: wgpu::Buffer,
}

impl Runs {
    fn new(gpu: &Gpu, words: u64) -> Result<Self> {
        Ok(Self {
            keys: gpu.buffer("select keys", Element::U32, words)?,
            indices: gpu.buffer("select indices", Element::U32, words)?,
        })
    }
}

fn whole(buffer: &wgpu::Buffer) -> Bound<'_> {
    Bound { buffer, offset: 0, size: buffer.size(), first: 0 }
}

impl<'a> Select<'a> {
    /// The indices of the largest elements of each row of `x`: as many as a row of `indices` has.
    ///
    /// ```no_run
    /// # use double_routing::{Tensor, kernels::Select};
    /// # fn select<'a>(x: Tensor<'a>, indices: Tensor<'a>) -> Select<'a> {
    /// Select::new(x, indices)
    /// # }
    /// ```
    pub fn new(x: Tensor<'a>, indices: Tensor<'a>) -> Self {
        Self { x, indices, values: None, lengths: None }
    }

    /// Where the selected values go; 0 where the index is `u32::MAX`.
    ///
    /// ```no_run
    /// # use double_routing::{Tensor, kernels::Select};
    /// # fn select<'a>(select: Select<'a>, values: Tensor<'a>) -> Select<'a> {
    /// select.values(values)
    /// # }
    /// ```
    #[must_use]
    pub fn values(mut self, values: Tensor<'a>) -> Self {
        self.values = Some(values);
        self
    }

    /// How many positions of each row are unmasked. More than there are means all.
    ///
    /// ```no_run
    /// # use double_routing::{Tensor, kernels::Select};
    /// # fn select<'a>(select: Select<'a>, lengths: Tensor<'a>) -> Select<'a> {
    /// select.lengths(lengths)
    /// # }
    /// ```
    #[must_use]
    pub fn lengths(mut self, lengths: Tensor<'a>) -> Self {
        self.lengths = Some(lengths);
        self
    }

    /// Checks everything and builds the steps.
    ///
    /// # Errors
    /// [`Error::Shape`], [`Error::Element`] or [`Error::Buffer`] for operands that do not fit, [`Error::Limit`] where a row, or
    /// what is kept of it between stages, exceeds a binding.
    ///
    /// ```no_run
    /// # use double_routing::{Gpu, Plan, Result, kernels::Select};
    /// # fn plan(gpu: &Gpu, select: Select<'_>) -> Result<Plan> {
    /// select.plan(gpu)
    /// # }
    /// ```
    pub fn plan(&self, gpu: &Gpu) -> Result<Plan> {
        let [rows, length, k] = self.check()?;
        let mut plan = Plan::default();
        if rows == 0 {
            return Ok(plan);
        }
        let levels = self.levels(gpu, length, k);
        // Runs lie in two pairs of buffers in turn.
        let widest = |parity: usize| {
            let runs = levels[..levels.len() - 1].iter().skip(parity).step_by(2);
            runs.map(Level::words).max().unwrap_or(0)
        };
        let words = [widest(0), widest(1)];
        let most = length.max(words[0]).max(words[1]);
        let limit = gpu.unaligned_limit();
        if most * 4 > limit {
            return Err(Error::Limit {
                operation: NAME,
                what: "a row in bytes".into(),
                needed: most * 4,
                allowed: limit,
            });
        }
        let rows_each = (limit / (most * 4)).min(rows);
        let scratch = match levels.len() {
            1 => Vec::new(),
            _ => words.iter().map(|words| Runs::new(gpu, rows_each * words)).collect::<Result<_>>()?,
        };
        let mut first = 0;
        while first < rows {
            let rows = rows_each.min(rows - first);
            for (at, level) in levels.iter().enumerate() {
                let reads = (at > 0).then(|| &scratch[(at - 1) % 2]);
                let writes = (at + 1 < levels.len()).then(|| &scratch[at % 2]);
                plan.push(self.step(gpu, [rows, length, k], first, *level, reads, writes)?);
            }
            first += rows;
        }
        for Runs { keys, indices } in scratch {
            plan.keep(keys);
            plan.keep(indices);
        }
        Ok(plan)
    }

    /// The stages, of which the last leaves one run.
    fn levels(&self, gpu: &Gpu, length: u64, k: u64) -> Vec<Level> {
        let shape = Shape::choose(gpu, length);
        let mut levels: Vec<Level> = Vec::new();
        loop {
            let (stage, positions, block) = match levels.last() {
                None => {
                    let reads = Reads::X { masked: self.lengths.is_some() };
                    (Stage::Select { shape, reads }, length, shape.positions())
                }
                Some(last) if last.stride * 2 <= shape.positions() => {
                    let runs = shape.positions() / last.stride;
                    (Stage::Select { shape, reads: Reads::Runs }, last.words(), runs * last.stride)
                }
                Some(last) => (Stage::Merge, last.words(), last.stride * 2),
            };
            let blocks = positions.div_ceil(block);
            // Whole quads of each run, so that the next stage reads in quads.
            let stride = if blocks == 1 { k } else { k.min(block).next_multiple_of(4) };
            levels.push(Level { stage, positions, block, blocks, stride });
            if blocks == 1 {
                return levels;
            }
        }
    }

    /// One stage for the rows from `first_row` on.
    fn step(
        &self,
        gpu: &Gpu,
        [rows, length, k]: [u64; 3],
        first_row: u64,
        level: Level,
        reads: Option<&Runs>,
        writes: Option<&Runs>,
    ) -> Result<Step> {
        let Level { stage, positions, block, blocks, stride } = level;
        let mut x = self.x.bind(gpu, NAME, "x", first_row * length, rows * length)?;
        let indices = self.indices.bind(gpu, NAME, "indices", first_row * k, rows * k)?;
        let values = self.values.as_ref().map(|values| values.bind(gpu, NAME, "values", first_row * k, rows * k));
        let values = values.transpose()?;
        let lengths = self.lengths.as_ref().map(|lengths| lengths.bind(gpu, NAME, "lengths", first_row, rows));
        let lengths = lengths.transpose()?;
        let (access, lanes_share) = match stage {
            Stage::Select { shape, reads } => {
                let access = match reads {
                    Reads::X { .. } => x.load_access(gpu, Element::F32, &[length]),
                    Reads::Runs if gpu.wide_words() => "wide_quads",
                    Reads::Runs => "quads",
                };
                (access, block.min(positions).div_ceil(u64::from(shape.lanes.lanes) * 4))
            }
            Stage::Merge => ("quads", 0),
        };
        let params = Params {
            rows: shader_u32(NAME, "rows", rows)?,
            positions: shader_u32(NAME, "positions", positions)?,
            block: shader_u32(NAME, "block", block)?,
            blocks: shader_u32(NAME, "blocks", blocks)?,
            share: shader_u32(NAME, "share", lanes_share)?,
            wanted: shader_u32(NAME, "k", k.min(block))?,
            stride: shader_u32(NAME, "stride", stride)?,
            length: shader_u32(NAME, "length", length)?,
            x_first: x.first,
            lengths_first: lengths.as_ref().map_or(0, |lengths| lengths.first),
            indices_first: indices.first,
            values_first: values.as_ref().map_or(0, |values| values.first),
        };
        let runs = [reads, writes].map(|runs| runs.map(|runs| (whole(&runs.keys), whole(&runs.indices))));
        let mut operands = vec![("x", &x), ("indices", &indices)];
        operands.extend(values.as_ref().map(|values| ("values", values)));
        operands.extend(lengths.as_ref().map(|lengths| ("lengths", lengths)));
        let names = [["from_keys", "from_indices"], ["to_keys", "to_indices"]];
        for (names, runs) in names.iter().zip(&runs) {
            if let Some((keys, indices)) = runs {
                operands.extend([(names[0], keys), (names[1], indices)]);
            }
        }
        let (name, groups) = match stage {
            Stage::Select { .. } => ("", rows * blocks),
            Stage::Merge => {
                let sections = stride.div_ceil(u64::from(SECTION));
                (" merge", (rows * blocks * sections).div_ceil(u64::from(MERGE_LANES)))
            }
        };
        let written = match writes {
            Some(_) => Writes::Runs,
            None => Writes::Result { values: self.values.is_some() },
        };
        Step::new(
            gpu,
            &SELECT,
            variant(stage, written, access),
            format!("{NAME}{name} {rows}x{positions} k={k}"),
            bytemuck::bytes_of(&params),
            &operands,
            groups,
        )
    }

    /// Rows, positions of a row, and k.
    fn check(&self) -> Result<[u64; 3]> {
        let (x, indices) = (self.x.shape(), self.indices.shape());
        let (Some((length, rows)), Some((k, index_rows))) = (x.split_last(), indices.split_last()) else {
            return Err(Error::shape(NAME, format!("x {x:?} and indices {indices:?} need a dimension each")));
        };
        if rows != index_rows {
            return Err(Error::shape(NAME, format!("leading dimensions differ: x is {x:?}, indices are {indices:?}")));
        }
        if k > length {
            return Err(Error::shape(NAME, format!("k is {k}, more than the {length} positions of a row")));
        }
        if *k == 0 {
            return Err(Error::shape(NAME, format!("k is 0 of {length} positions, expected at least 1")));
        }
        self.x.check_element(NAME, "x", &[Element::F32])?;
        self.indices.check_element(NAME, "indices", &[Element::U32])?;
        self.x.check(NAME, "x")?;
        self.indices.check(NAME, "indices")?;
        self.x.check_apart(NAME, "x", &self.indices)?;
        if let Some(values) = &self.values {
            if values.shape() != indices {
                return Err(Error::shape(NAME, format!("values are {:?}, expected {indices:?}", values.shape())));
            }
            values.check_element(NAME, "values", &[Element::F32])?;
            values.check(NAME, "values")?;
            self.x.check_apart(NAME, "x", values)?;
            if values.buffer() == self.indices.buffer() {
                return Err(Error::buffer(NAME, "values and indices share a buffer; use two"));
            }
        }
        let count = elements(NAME, rows)?;
        if let Some(lengths) = &self.lengths {
            if lengths.elements(NAME)? != count {
                return Err(Error::shape(NAME, format!("lengths are {:?}, expected {rows:?}", lengths.shape())));
            }
            lengths.check_element(NAME, "lengths", &[Element::U32])?;
            lengths.check(NAME, "lengths")?;
            for out in [Some(&self.indices), self.values.as_ref()].into_iter().flatten() {
                lengths.check_apart(NAME, "lengths", out)?;
            }
        }
        Ok([count, *length as u64, *k as u64])
    }
}
