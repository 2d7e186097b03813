//! What every kernel with a tile product shares: tile configurations, and how a product is cut into dispatches.
//! The shader side is `shaders/lib/tile.wgsl`.

use super::{in_quads, params, shader_u32};
use crate::{Error, Gpu, Result, Tensor, device::AdapterClass, shader::Variant, tensor::Bound};

/// How a workgroup shares out its tile of the product.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tile {
    /// Invocations of the workgroup along columns and along rows.
    x: u32,
    y: u32,
    /// Rows, and quads of columns, that one invocation owns.
    rows: u32,
    quads: u32,
    source: Source,
}

/// Where an invocation finds its operands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    /// In memory.
    Direct,
    /// In workgroup memory, staged so much of k at a time.
    Shared(u32),
    /// A from the lanes of its subgroup, which is the whole workgroup; B in memory.
    Subgroup,
}

/// The tile for an adapter class and a number of rows; the first row that fits is taken. A tile that needs subgroups fits
/// adapters whose subgroups all have its `x` lanes.
const TILES: &[(AdapterClass, u64, Tile)] = &[
    // One row, as in decoding: nothing to share.
    (AdapterClass::Software, 1, Tile { x: 8, y: 1, rows: 1, quads: 1, source: Source::Direct }),
    // On CPUs a lane is a vector element, barriers cost a context switch, and a load that differs from lane to lane is a load
    // for each: rows of A are loaded once and handed round, and 8 columns a lane make up for the loads of B. More rows were
    // no faster and take the driver longer to compile (32 rows 2.5 s, 24 rows 1.9 s); few rows want more tiles for the cores.
    (AdapterClass::Software, 256, Tile { x: 8, y: 1, rows: 8, quads: 2, source: Source::Subgroup }),
    (AdapterClass::Software, u64::MAX, Tile { x: 8, y: 1, rows: 24, quads: 2, source: Source::Subgroup }),
    (AdapterClass::Software, u64::MAX, Tile { x: 4, y: 1, rows: 24, quads: 2, source: Source::Subgroup }),
    (AdapterClass::Software, u64::MAX, Tile { x: 16, y: 1, rows: 32, quads: 1, source: Source::Subgroup }),
    (AdapterClass::Software, u64::MAX, Tile { x: 8, y: 1, rows: 8, quads: 1, source: Source::Direct }),
    // Few rows leave nothing to share: the product is bound by reading B once.
    (AdapterClass::Hardware, 4, Tile { x: 64, y: 1, rows: 4, quads: 1, source: Source::Direct }),
    // 64 × 64 from 256 invocations with 4 × 4 outputs each: enough workgroups for small products, 8 KiB of workgroup memory.
    (AdapterClass::Hardware, u64::MAX, Tile { x: 16, y: 16, rows: 4, quads: 1, source: Source::Shared(16) }),
];

/// Loop iterations that an invocation may run in one dispatch, all its loops together: software Vulkan drivers stop it,
/// silently, after 65 535.
const MAX_ITERATIONS: u64 = 60_000;

impl Tile {
    /// The tile for products of `rows` rows. With `batch_invariant` the number of rows has no say.
    pub(crate) fn choose(gpu: &Gpu, rows: u64, batch_invariant: bool) -> Self {
        let rows = if batch_invariant { u64::MAX } else { rows };
        let fits = |(class, most, tile): &&(AdapterClass, u64, Self)| {
            *class == gpu.class()
                && rows <= *most
                && (tile.source != Source::Subgroup || gpu.subgroup_lanes() == Some(tile.x))
        };
        // The last row of either class fits every product.
        TILES.iter().find(fits).map_or(TILES[TILES.len() - 1].2, |(_, _, tile)| *tile)
    }

    /// Every tile of the table.
    pub(crate) fn all() -> impl Iterator<Item = Self> {
        TILES.iter().map(|(_, _, tile)| *tile)
    }

    pub(crate) fn define(self, variant: Variant) -> Variant {
        let (source, depth) = match self.source {
            Source::Direct => ("direct", 4),
            Source::Shared(depth) => ("shared", depth),
            Source::Subgroup => ("subgroup", 4),
        };
        variant
            .number("TILE_X", self.x)
            .number("TILE_Y", self.y)
            .number("TILE_ROWS", self.rows)
            .number("TILE_QUADS", self.quads)
            .number("TILE_ROWS_A_LANE", self.rows / self.x)
            .word("TILE_SOURCE", source)
            .number("TILE_DEPTH", depth)
    }

    /// The most of k that one dispatch may go through.
    fn max_depth(self) -> u64 {
        match self.source {
            Source::Direct | Source::Subgroup => MAX_ITERATIONS * 4,
            Source::Shared(depth) => {
                let invocations = u64::from(self.x * self.y);
                let k_quads = u64::from(depth / 4);
                let a_loads = (u64::from(self.y * self.rows) * k_quads).div_ceil(invocations);
                let b_loads = (k_quads * u64::from(self.x * self.quads)).div_ceil(invocations);
                MAX_ITERATIONS / (1 + a_loads + b_loads + k_quads) * u64::from(depth)
            }
        }
    }

    fn workgroups(self, rows: u64, columns: u64, batches: u64) -> u64 {
        rows.div_ceil(u64::from(self.y * self.rows)) * columns.div_ceil(u64::from(self.x * self.quads * 4)) * batches
    }
}

params! {
    /// `Product` in `shaders/lib/tile.wgsl`.
    struct Product {
        rows,
        columns,
        depth,
        batches,
        a_first,
        a_stride,
        a_batch,
        b_first,
        b_stride,
        b_batch,
        c_first,
        c_stride,
        c_batch,
        continues,
        finishes,
        unused,
    }
}

/// C = A·B or A·Bᵀ, batch by batch. The shapes have been checked against each other.
pub(crate) struct Multiplication<'a> {
    pub operation: &'static str,
    pub a: &'a Tensor<'a>,
    pub b: &'a Tensor<'a>,
    pub c: &'a Tensor<'a>,
    pub batches: u64,
    pub rows: u64,
    pub columns: u64,
    pub depth: u64,
    /// B is stored [columns, depth].
    pub transposed: bool,
    /// Every batch has a B of its own.
    pub b_batched: bool,
}

/// What one dispatch does of a multiplication.
pub(crate) struct Piece<'a> {
    pub product: Product,
    pub a: Bound<'a>,
    pub b: Bound<'a>,
    pub c: Bound<'a>,
    /// First row and column of C, and the number of columns, that this piece computes.
    pub row: u64,
    pub rows: u64,
    pub column: u64,
    pub columns: u64,
    pub workgroups: u64,
    a_quads: bool,
    b_quads: bool,
    c_quads: bool,
}

impl Piece<'_> {
    /// The names of the tile product's variant.
    pub(crate) fn define(&self, multiplication: &Multiplication<'_>, tile: Tile) -> Variant {
        tile.define(Variant::default())
            .flag("B_TRANSPOSED", multiplication.transposed)
            .word("a_TYPE", multiplication.a.element().name())
            .flag("a_QUADS", self.a_quads)
            .word("b_TYPE", multiplication.b.element().name())
            .flag("b_QUADS", self.b_quads)
            .flag("c_QUADS", self.c_quads)
    }
}

/// A block of C: which batches, rows and columns of it.
struct Block {
    batch: u64,
    batches: u64,
    row: u64,
    rows: u64,
    column: u64,
    columns: u64,
}

impl Multiplication<'_> {
    /// Cuts the product so that each dispatch stays within the binding limit and the iterations of an invocation.
    /// Blocks of C follow one another; within a block k ascends, and each piece goes on where the last one stopped.
    pub(crate) fn pieces<'a>(&'a self, gpu: &'a Gpu, tile: Tile) -> Result<Vec<Piece<'a>>> {
        let mut pieces = Vec::new();
        let (blocks, depth_each) = self.blocks(gpu, tile)?;
        for block in blocks {
            let mut k = 0;
            loop {
                let depth = (self.depth - k).min(depth_each);
                pieces.push(self.piece(gpu, tile, &block, k, depth)?);
                k += depth;
                if k == self.depth {
                    break;
                }
            }
        }
        Ok(pieces)
    }

    fn blocks(&self, gpu: &Gpu, tile: Tile) -> Result<(Vec<Block>, u64)> {
        let limit = gpu.unaligned_limit();
        let (a_size, b_size, c_size) =
            (self.a.element().bytes() as u64, self.b.element().bytes() as u64, self.c.element().bytes() as u64);
        let max_depth = tile.max_depth();
        // As many whole batches as fit; all share b unless each has its own.
        let each = [self.rows * self.depth * a_size, self.rows * self.columns * c_size];
        let of_b = self.depth * self.columns * b_size;
        let largest = each.into_iter().chain(self.b_batched.then_some(of_b)).max().unwrap_or(0).max(1);
        let batches_each = if of_b > limit { 0 } else { limit / largest };
        if batches_each > 0 {
            let block =
                |(batch, batches)| Block { batch, batches, row: 0, rows: self.rows, column: 0, columns: self.columns };
            return Ok((cut(self.batches, batches_each).map(block).collect(), max_depth));
        }
        let at_most = |what: &str, bytes: u64| {
            if bytes > limit {
                return Err(Error::Limit {
                    operation: self.operation,
                    what: what.into(),
                    needed: bytes,
                    allowed: limit,
                });
            }
            Ok(limit / bytes.max(1))
        };
        let rows_each = at_most("a row of a in bytes", self.depth * a_size)?
            .min(at_most("a row of c in bytes", self.columns * c_size)?);
        let (columns_each, depth_each) = if self.transposed {
            (quads_of(at_most("a row of b in bytes", self.depth * b_size)?), max_depth)
        } else {
            (u64::MAX, quads_of(at_most("a row of b in bytes", self.columns * b_size)?).min(max_depth))
        };
        let mut blocks = Vec::new();
        for batch in 0..self.batches {
            for (row, rows) in cut(self.rows, rows_each) {
                for (column, columns) in cut(self.columns, columns_each) {
                    blocks.push(Block { batch, batches: 1, row, rows, column, columns });
                }
            }
        }
        Ok((blocks, depth_each))
    }

    fn piece<'a>(&'a self, gpu: &'a Gpu, tile: Tile, block: &Block, k: u64, depth: u64) -> Result<Piece<'a>> {
        let operation = self.operation;
        let (a_batch, c_batch) = (self.rows * self.depth, self.rows * self.columns);
        let b_batch = if self.b_batched { self.columns * self.depth } else { 0 };
        let batches_between = block.batches - 1;
        let last = |batch: u64, within: u64| if depth == 0 { 0 } else { batches_between * batch + within };

        let a_first = block.batch * a_batch + block.row * self.depth + k;
        let a = self.a.bind(gpu, operation, "a", a_first, last(a_batch, (block.rows - 1) * self.depth + depth))?;
        let (b_stride, b_row, b_column) =
            if self.transposed { (self.depth, block.column, k) } else { (self.columns, k, block.column) };
        let b_first = block.batch * b_batch + b_row * b_stride + b_column;
        let (b_rows, b_columns) = if self.transposed { (block.columns, depth) } else { (depth, block.columns) };
        let b = self.b.bind(
            gpu,
            operation,
            "b",
            b_first,
            last(b_batch, b_rows.max(1) * b_stride - b_stride + b_columns),
        )?;
        let c_first = block.batch * c_batch + block.row * self.columns + block.column;
        let c_count = batches_between * c_batch + (block.rows - 1) * self.columns + block.columns;
        let c = self.c.bind(gpu, operation, "c", c_first, c_count)?;

        let number = |what, count| shader_u32(operation, what, count);
        let product = Product {
            rows: number("rows", block.rows)?,
            columns: number("columns", block.columns)?,
            depth: number("depth", depth)?,
            batches: number("batches", block.batches)?,
            a_first: a.first,
            a_stride: number("the stride of a", self.depth)?,
            a_batch: number("the batch stride of a", a_batch)?,
            b_first: b.first,
            b_stride: number("the stride of b", b_stride)?,
            b_batch: number("the batch stride of b", b_batch)?,
            c_first: c.first,
            c_stride: number("the stride of c", self.columns)?,
            c_batch: number("the batch stride of c", c_batch)?,
            continues: u32::from(k > 0),
            finishes: u32::from(k + depth == self.depth),
            unused: 0,
        };
        let (a_quads, b_quads, c_quads) = (
            in_quads(&a, &[self.depth, a_batch, depth]),
            in_quads(&b, &[b_stride, b_batch, b_columns]),
            in_quads(&c, &[self.columns, c_batch, block.columns]),
        );
        Ok(Piece {
            product,
            row: block.row,
            rows: block.rows,
            column: block.column,
            columns: block.columns,
            workgroups: tile.workgroups(block.rows, block.columns, block.batches),
            a,
            b,
            c,
            a_quads,
            b_quads,
            c_quads,
        })
    }
}

/// Every variant of the tile product: tiles × storage of B × layout of B × which operands load in quads.
pub(crate) fn variants() -> Vec<Variant> {
    let mut variants = Vec::new();
    for tile in Tile::all() {
        for b_type in super::WEIGHT_ELEMENTS {
            for flags in 0..16u32 {
                let flag = |bit: u32| flags >> bit & 1 == 1;
                variants.push(
                    tile.define(Variant::default())
                        .flag("B_TRANSPOSED", flag(0))
                        .word("a_TYPE", "f32")
                        .flag("a_QUADS", flag(1))
                        .word("b_TYPE", b_type.name())
                        .flag("b_QUADS", flag(2))
                        .flag("c_QUADS", flag(3)),
                );
            }
        }
    }
    variants
}

/// A number of rows, columns or k that keeps what follows it aligned to quads, if there are any quads in it.
fn quads_of(count: u64) -> u64 {
    if count >= 4 { count / 4 * 4 } else { count }
}

/// `0 .. total` in parts of at most `each`: (first, count).
fn cut(total: u64, each: u64) -> impl Iterator<Item = (u64, u64)> {
    let mut first = 0;
    std::iter::from_fn(move || {
        let count = each.min(total - first);
        let part = (count > 0).then_some((first, count));
        first += count;
        part
    })
}
