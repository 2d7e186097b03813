//! What every kernel with a tile product shares: tile configurations, and how a product is cut into dispatches.
//! The shader side is `shaders/lib/tile.wgsl`.

use super::{
    Factor, OCTET_BYTES, OCTETS, Read, factor_reads, factor_variants,
    pack::{self, Constant, Layout},
    params, shader_u32, store_access,
    tuning::Tuning,
    whole_words,
};
use crate::{
    AdapterClass, Element, Error, Gpu, Plan, Result, Tensor,
    shader::Variant,
    tensor::{Bind, Bound, Texels},
};

/// How a workgroup shares out its tile of a matrix product: one configuration of the kernels that multiply matrices.
///
/// Written as `SOURCE XxY RxQ`: the invocations of a workgroup along columns and rows, then the rows and quads of columns
/// that one of them owns; `shared` has the depth of a stage and the number of stages behind it, `cooperative` the depth and the side of
/// a fragment. The sources are those of `shaders/lib/tile.wgsl`, and `packed`: `subgroup`, with both factors packed into textures first,
/// and behind it how many quads of k it multiplies at a time: with two, an A of f32 whose rows are whole octets is read where it is.
///
/// ```
/// use double_routing::kernels::Tile;
/// let tile: Tile = "shared 16x16 8x2 16 2".parse()?;
/// assert_eq!((tile.rows(), tile.columns()), (128, 128));
/// assert_eq!(tile.to_string(), "shared 16x16 8x2 16 2");
/// # Ok::<(), double_routing::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Tile {
    source: Source,
    /// Invocations of the workgroup along columns and along rows.
    x: u32,
    y: u32,
    /// Rows, and quads of columns, that one invocation owns.
    rows: u32,
    quads: u32,
}

/// Where an invocation finds its operands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Source {
    /// In memory.
    Direct,
    /// In memory, the quads of k taken in turn by the invocations of a row.
    Lanes,
    /// In workgroup memory, staged so much of k at a time, with room for one stage or two.
    Shared { depth: u32, stages: u32 },
    /// A from the lanes of its subgroup, which is the whole workgroup; B in memory.
    Subgroup,
    /// The same with both packed into textures first, by `shaders/pack.wgsl`, so many quads of k at a time. With two, A stays where it is
    /// if its rows can be read in octets.
    Packed { times: u32 },
    /// In workgroup memory, staged so much of k at a time, from where matrix units of the device take fragments with sides of
    /// so many elements. Both are f16.
    Cooperative { fragment: u32, depth: u32 },
}

const fn tile(source: Source, [x, y]: [u32; 2], [rows, quads]: [u32; 2]) -> Tile {
    Tile { source, x, y, rows, quads }
}

/// Every tile that can be chosen, by the table or by a tuning. The sizes of `shared` and `cooperative` are those that fill their stages evenly.
const TILES: &[Tile] = &[
    tile(Source::Direct, [8, 1], [1, 2]),
    tile(Source::Direct, [8, 1], [8, 1]),
    tile(Source::Direct, [64, 1], [1, 1]),
    tile(Source::Direct, [64, 1], [4, 1]),
    tile(Source::Lanes, [32, 4], [1, 1]),
    tile(Source::Lanes, [32, 8], [1, 1]),
    tile(Source::Lanes, [32, 4], [4, 1]),
    tile(Source::Lanes, [32, 4], [8, 1]),
    tile(Source::Lanes, [64, 4], [4, 1]),
    tile(Source::Shared { depth: 16, stages: 1 }, [8, 8], [4, 1]),
    tile(Source::Shared { depth: 16, stages: 1 }, [8, 8], [8, 2]),
    tile(Source::Shared { depth: 16, stages: 2 }, [8, 8], [8, 2]),
    tile(Source::Shared { depth: 16, stages: 1 }, [8, 4], [8, 2]),
    tile(Source::Shared { depth: 16, stages: 1 }, [8, 16], [4, 2]),
    tile(Source::Shared { depth: 16, stages: 1 }, [16, 16], [8, 2]),
    tile(Source::Shared { depth: 16, stages: 2 }, [16, 16], [8, 2]),
    tile(Source::Subgroup, [4, 1], [8, 2]),
    tile(Source::Subgroup, [4, 1], [24, 2]),
    tile(Source::Subgroup, [8, 1], [8, 2]),
    tile(Source::Subgroup, [8, 1], [16, 2]),
    tile(Source::Subgroup, [8, 1], [32, 1]),
    tile(Source::Subgroup, [16, 1], [16, 1]),
    tile(Source::Subgroup, [16, 1], [32, 1]),
    tile(Source::Packed { times: 1 }, [8, 1], [8, 1]),
    tile(Source::Packed { times: 1 }, [8, 1], [16, 1]),
    tile(Source::Packed { times: 2 }, [8, 1], [8, 1]),
    tile(Source::Packed { times: 2 }, [8, 1], [16, 1]),
    tile(Source::Packed { times: 2 }, [8, 1], [16, 2]),
    tile(Source::Packed { times: 2 }, [8, 1], [32, 1]),
    tile(Source::Packed { times: 1 }, [16, 1], [16, 1]),
    tile(Source::Cooperative { fragment: 8, depth: 16 }, [8, 4], [4, 2]),
    tile(Source::Cooperative { fragment: 16, depth: 32 }, [32, 4], [4, 2]),
    tile(Source::Cooperative { fragment: 16, depth: 32 }, [32, 4], [8, 4]),
];

/// A row of the table of tiles: it fits products of an adapter class with at most so many rows and columns that the tile cuts
/// into so many workgroups or more; one that needs subgroups fits adapters whose subgroups all have its `x` lanes.
struct Choice {
    class: AdapterClass,
    rows: u64,
    columns: u64,
    workgroups: u64,
    /// Only where B is packed once.
    constant: bool,
    /// On which CPUs, which is what a software adapter runs on.
    cpu: fn() -> bool,
    tile: Tile,
}

/// What a tile is sought for: a product, one of `products` that share the device, of factors of these types.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sought {
    pub rows: u64,
    pub columns: u64,
    pub products: u64,
    pub elements: [Element; 2],
    pub transposed: bool,
    pub packs: Packs,
}

/// Whether factors may be packed, and how often B is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Packs {
    Never,
    Each,
    /// B never changes.
    Once,
}

const ANY: Choice = Choice {
    class: AdapterClass::Software,
    rows: u64::MAX,
    columns: u64::MAX,
    workgroups: 0,
    constant: false,
    cpu: || true,
    tile: TILES[0],
};

/// The first row that fits is taken. `tune` measures all tiles on an adapter and writes down better rows for it.
const CHOICES: &[Choice] = &[
    // On CPUs a lane is a vector element, barriers cost a context switch, and a load from a buffer is a load for each lane, 10 to 20
    // cycles where the driver has no AVX-512. What counts is how few loads a multiplication needs: a tile of R rows and C columns needs
    // 1/R + 1/C of one. lavapipe loads texels far faster, so what would be read again and again is packed first: 2.5 to 3 times as fast,
    // with a tile that compiles in a quarter of the time. (SwiftShader, of 4 lanes, loads texels no faster.)
    // AVX-512 has 32 vector registers, and there a multiplication is bound by arithmetic and by what surrounds it: twice the columns and
    // two quads of k at a time make 0.8 to 0.9 of the time, and one load of A for both costs what two texels do, so A is not packed.
    // Where B is packed already, few rows are worth packing too: with 768 × 64 weights a forward of 1 to 32 tokens takes 0.5 to 0.6 of
    // the time, with 4096 × 1024 0.15 to 0.25.
    Choice { rows: 8, constant: true, cpu: avx512, tile: tile(Source::Packed { times: 2 }, [8, 1], [8, 1]), ..ANY },
    Choice { rows: 16, constant: true, cpu: avx512, tile: tile(Source::Packed { times: 2 }, [8, 1], [16, 1]), ..ANY },
    Choice {
        columns: 32,
        constant: true,
        cpu: avx512,
        tile: tile(Source::Packed { times: 2 }, [8, 1], [32, 1]),
        ..ANY
    },
    Choice { constant: true, cpu: avx512, tile: tile(Source::Packed { times: 2 }, [8, 1], [16, 2]), ..ANY },
    Choice { rows: 8, constant: true, tile: tile(Source::Packed { times: 1 }, [8, 1], [8, 1]), ..ANY },
    Choice { constant: true, tile: tile(Source::Packed { times: 1 }, [8, 1], [16, 1]), ..ANY },
    Choice { constant: true, tile: tile(Source::Packed { times: 1 }, [16, 1], [16, 1]), ..ANY },
    // Where it has to be packed each time, that pays from some hundred rows on, and with AVX-512 from as few workgroups as fill a CPU;
    // below, there, 32 rows take 0.8 to 0.95 of the time that 16 of twice the columns do.
    Choice { rows: 1, tile: tile(Source::Direct, [8, 1], [1, 2]), ..ANY },
    Choice { rows: 8, tile: tile(Source::Subgroup, [8, 1], [8, 2]), ..ANY },
    Choice {
        columns: 32,
        workgroups: 16,
        cpu: avx512,
        tile: tile(Source::Packed { times: 2 }, [8, 1], [32, 1]),
        ..ANY
    },
    Choice { columns: 32, workgroups: 2, tile: tile(Source::Subgroup, [8, 1], [32, 1]), ..ANY },
    Choice { rows: 16, workgroups: 4, tile: tile(Source::Subgroup, [8, 1], [16, 2]), ..ANY },
    Choice { rows: 96, workgroups: 4, cpu: avx512, tile: tile(Source::Subgroup, [8, 1], [32, 1]), ..ANY },
    Choice { rows: 32, workgroups: 4, tile: tile(Source::Subgroup, [8, 1], [16, 2]), ..ANY },
    Choice { workgroups: 16, cpu: avx512, tile: tile(Source::Packed { times: 2 }, [8, 1], [16, 2]), ..ANY },
    Choice { workgroups: 32, tile: tile(Source::Packed { times: 1 }, [8, 1], [16, 1]), ..ANY },
    Choice { workgroups: 4, tile: tile(Source::Subgroup, [8, 1], [16, 2]), ..ANY },
    Choice { tile: tile(Source::Subgroup, [8, 1], [8, 2]), ..ANY },
    Choice { rows: 8, tile: tile(Source::Subgroup, [4, 1], [8, 2]), ..ANY },
    Choice { tile: tile(Source::Subgroup, [4, 1], [24, 2]), ..ANY },
    Choice { rows: 16, tile: tile(Source::Subgroup, [16, 1], [16, 1]), ..ANY },
    Choice { workgroups: 32, tile: tile(Source::Packed { times: 1 }, [16, 1], [16, 1]), ..ANY },
    Choice { tile: tile(Source::Subgroup, [16, 1], [32, 1]), ..ANY },
    Choice { tile: tile(Source::Direct, [8, 1], [8, 1]), ..ANY },
    // Few rows: bound by reading B once, in neighbouring words. For integrated adapters nothing is measured yet: these are the shapes
    // that others found good, with 8 × 8 outputs an invocation where there are enough workgroups to fill the processors.
    Choice { rows: 1, tile: tile(Source::Lanes, [32, 4], [1, 1]), ..INTEGRATED },
    Choice { rows: 4, tile: tile(Source::Lanes, [32, 4], [4, 1]), ..INTEGRATED },
    Choice { rows: 16, tile: tile(Source::Lanes, [32, 4], [8, 1]), ..INTEGRATED },
    Choice { rows: 4, tile: tile(Source::Direct, [64, 1], [4, 1]), ..INTEGRATED },
    Choice { workgroups: 32, tile: tile(Source::Shared { depth: 16, stages: 1 }, [8, 8], [8, 2]), ..INTEGRATED },
    Choice { tile: tile(Source::Shared { depth: 16, stages: 1 }, [8, 8], [4, 1]), ..INTEGRATED },
    Choice { rows: 1, tile: tile(Source::Lanes, [32, 4], [1, 1]), ..DISCRETE },
    Choice { rows: 4, tile: tile(Source::Lanes, [32, 4], [4, 1]), ..DISCRETE },
    Choice { rows: 16, tile: tile(Source::Lanes, [32, 4], [8, 1]), ..DISCRETE },
    Choice { rows: 4, tile: tile(Source::Direct, [64, 1], [4, 1]), ..DISCRETE },
    // A tile computes all of its rows, so few rows take a low one, however many columns or paths there are. Else as large a tile as leaves
    // workgroups for all processors of a large card: a fragment is read once for four products. On an H200 stages of 32 make it 1.2
    // times as fast as those of 16.
    Choice { rows: 64, tile: tile(Source::Cooperative { fragment: 16, depth: 32 }, [32, 4], [4, 2]), ..DISCRETE },
    Choice {
        workgroups: 128,
        tile: tile(Source::Cooperative { fragment: 16, depth: 32 }, [32, 4], [8, 4]),
        ..DISCRETE
    },
    Choice { tile: tile(Source::Cooperative { fragment: 16, depth: 32 }, [32, 4], [4, 2]), ..DISCRETE },
    // On an H200 a large product runs at 44 TFLOP/s with 128 × 128 and at 35 with 64 × 64, of cuBLAS's 50. Not every device has the memory
    // for two stages.
    Choice { rows: 32, tile: tile(Source::Shared { depth: 16, stages: 1 }, [8, 8], [4, 1]), ..DISCRETE },
    Choice {
        rows: 64,
        workgroups: 128,
        tile: tile(Source::Shared { depth: 16, stages: 2 }, [8, 8], [8, 2]),
        ..DISCRETE
    },
    Choice {
        rows: 64,
        workgroups: 128,
        tile: tile(Source::Shared { depth: 16, stages: 1 }, [8, 8], [8, 2]),
        ..DISCRETE
    },
    Choice { workgroups: 256, tile: tile(Source::Shared { depth: 16, stages: 2 }, [16, 16], [8, 2]), ..DISCRETE },
    Choice { workgroups: 256, tile: tile(Source::Shared { depth: 16, stages: 1 }, [16, 16], [8, 2]), ..DISCRETE },
    Choice { workgroups: 128, tile: tile(Source::Shared { depth: 16, stages: 2 }, [8, 8], [8, 2]), ..DISCRETE },
    Choice { workgroups: 128, tile: tile(Source::Shared { depth: 16, stages: 1 }, [8, 8], [8, 2]), ..DISCRETE },
    Choice { tile: tile(Source::Shared { depth: 16, stages: 1 }, [8, 8], [4, 1]), ..DISCRETE },
];
/// Fewer weights are not worth the dispatch that packs what they are multiplied with.
const LEAST_WEIGHTS: u64 = 1 << 14;
const INTEGRATED: Choice = Choice { class: AdapterClass::Integrated, ..ANY };
const DISCRETE: Choice = Choice { class: AdapterClass::Discrete, ..ANY };

/// Loop iterations that an invocation may run in one dispatch, all its loops together: software Vulkan drivers stop it,
/// silently, after 65 535.
const MAX_ITERATIONS: u64 = 60_000;

/// The number of rows whose tile says how batch-invariant sums are added up, whatever their number is.
const NOMINAL_ROWS: u64 = 4096;

/// A long sum is cut until so many workgroups share the product, but into parts no less deep than this.
const fn fill(class: AdapterClass) -> (u64, u64) {
    match class {
        AdapterClass::Software => (8, 2048),
        AdapterClass::Integrated => (32, 512),
        AdapterClass::Discrete => (256, 256),
    }
}

impl Packs {
    /// Once for a B that never changes, batches of columns of this depth, if it can be packed as a whole and is enough to be worth it.
    pub fn of(gpu: &Gpu, b: Option<&Constant>, [batches, columns]: [u64; 2], depth: u64) -> Self {
        let packed =
            Tile::all().filter(|tile| tile.suits(gpu)).find_map(|tile| tile.b_layout([batches, columns], depth));
        let fits = packed.is_some_and(|of_b| of_b.texels() <= gpu.texels_limit());
        let enough = batches * columns * depth >= LEAST_WEIGHTS;
        if b.is_some() && fits && enough { Self::Once } else { Self::Each }
    }
}

impl Tile {
    /// Every tile that can be chosen.
    ///
    /// ```
    /// assert!(double_routing::kernels::Tile::all().any(|tile| tile.columns() == 64));
    /// ```
    pub fn all() -> impl Iterator<Item = Self> {
        TILES.iter().copied()
    }

    pub(crate) fn named(name: &str) -> Option<Self> {
        Self::all().find(|tile| tile.to_string() == name)
    }

    /// The rows of a workgroup's tile.
    ///
    /// ```
    /// # let tile: double_routing::kernels::Tile = "lanes 32x4 8x1".parse()?;
    /// assert_eq!(tile.rows(), 8);
    /// # Ok::<(), double_routing::Error>(())
    /// ```
    pub fn rows(self) -> u32 {
        match self.source {
            Source::Lanes => self.rows,
            Source::Cooperative { fragment, .. } => self.y / self.across() * self.fragment_rows(fragment) * fragment,
            _ => self.y * self.rows,
        }
    }

    /// The columns of a workgroup's tile.
    ///
    /// ```
    /// # let tile: double_routing::kernels::Tile = "lanes 32x4 8x1".parse()?;
    /// assert_eq!(tile.columns(), 16);
    /// # Ok::<(), double_routing::Error>(())
    /// ```
    pub fn columns(self) -> u32 {
        match self.source {
            Source::Lanes => 4 * self.quads * self.y,
            Source::Cooperative { fragment, .. } => self.across() * self.quads * fragment,
            _ => 4 * self.quads * self.x,
        }
    }

    /// Quads of a fragment that an invocation owns.
    fn parts(self, fragment: u32) -> u32 {
        fragment * fragment / 4 / self.x
    }

    /// Fragments of a subgroup, one above the other.
    fn fragment_rows(self, fragment: u32) -> u32 {
        self.rows / self.parts(fragment)
    }

    /// Subgroups of a workgroup along the columns of its tile.
    fn across(self) -> u32 {
        self.y.min(2)
    }

    /// Whether the device can run it, with the workgroup memory that it was requested with, and its class is one that the tile was made
    /// for: `subgroup` and the narrow `direct` are for software, barriers for hardware, and `cooperative` for devices with such
    /// [matrix units](Gpu::matrix_units).
    ///
    /// ```no_run
    /// # fn candidates(gpu: &double_routing::Gpu) -> Vec<double_routing::kernels::Tile> {
    /// double_routing::kernels::Tile::all().filter(|tile| tile.suits(gpu)).collect()
    /// # }
    /// ```
    pub fn suits(self, gpu: &Gpu) -> bool {
        let software = gpu.class() == AdapterClass::Software;
        let made_for = match self.source {
            Source::Subgroup => software && gpu.subgroup_lanes() == Some(self.x),
            Source::Packed { .. } => software && gpu.subgroup_lanes() == Some(self.x) && gpu.packs(),
            Source::Direct => software == (self.x < 32),
            Source::Lanes | Source::Shared { .. } => !software,
            Source::Cooperative { .. } => {
                let [side, lanes] = [gpu.matrix_units(), gpu.subgroup_lanes()];
                side.zip(lanes).is_some_and(|(side, lanes)| self.cooperates(side, lanes))
            }
        };
        made_for && self.workgroup_bytes() <= gpu.limits().max_compute_workgroup_storage_size
    }

    /// The bytes of workgroup memory that it takes at most.
    ///
    /// ```
    /// # let tile: double_routing::kernels::Tile = "shared 16x16 8x2 16 2".parse()?;
    /// assert_eq!(tile.workgroup_bytes(), 34_816);
    /// # Ok::<(), double_routing::Error>(())
    /// ```
    pub fn workgroup_bytes(self) -> u32 {
        match self.source {
            Source::Direct | Source::Subgroup | Source::Packed { .. } => 0,
            Source::Lanes => 16 * self.x * self.y * self.rows * self.quads,
            // One k more than the stage's, for the banks.
            Source::Shared { depth, stages } => stages * (self.rows() + self.columns()) * (depth + 1) * 4,
            Source::Cooperative { fragment, depth } => {
                // Rows of f16, two quads longer, and a fragment of f32 for each subgroup.
                let stage = |rows: u32, length: u32| rows * (length + 8) * 2;
                let b = stage(self.columns(), depth).max(stage(depth, self.columns()));
                stage(self.rows(), depth) + b + self.y * fragment * fragment * 4
            }
        }
    }

    /// Whether it takes fragments of this side to matrix units, by subgroups of so many lanes.
    pub(crate) fn cooperates(self, side: u32, lanes: u32) -> bool {
        matches!(self.source, Source::Cooperative { fragment, .. } if fragment == side) && self.x == lanes
    }

    /// Whether it multiplies factors of these types: `cooperative` f16 by f16, all others any that a kernel takes.
    ///
    /// ```
    /// use double_routing::{Element, kernels::Tile};
    /// let tile: Tile = "shared 8x8 8x2 16 1".parse()?;
    /// assert!(tile.multiplies(Element::F32, Element::BF16));
    /// # Ok::<(), double_routing::Error>(())
    /// ```
    pub fn multiplies(self, a: Element, b: Element) -> bool {
        !matches!(self.source, Source::Cooperative { .. }) || [a, b] == [Element::F16; 2]
    }

    /// Whether it multiplies a B that is stored so: neighbours of `lanes` read neighbouring memory of Bᵀ alone.
    fn takes(self, b_transposed: bool) -> bool {
        b_transposed || self.source != Source::Lanes
    }

    /// The tile for a product. With `batch_invariant` the number of rows has no say in how its elements are added up.
    pub(crate) fn choose(gpu: &Gpu, sought: Sought, batch_invariant: bool) -> Self {
        let own = Self::fastest(gpu, sought);
        if !batch_invariant {
            return own;
        }
        let nominal = Self::fastest(gpu, Sought { rows: NOMINAL_ROWS, ..sought });
        if own.adds_like(nominal) { own } else { nominal }
    }

    /// Whether the sums of both are the same to the last bit: those of `subgroup` and `packed` add every element up by itself, however many
    /// rows and columns there are. (Compilers of hardware may contract multiplications and additions, in one shader and not in another.)
    fn adds_like(self, other: Self) -> bool {
        self.in_lanes() && Self { rows: other.rows, quads: other.quads, ..self } == other
    }

    /// A tuning of the device's has the first say, unless B is packed once: `tune` has not measured that, nor `lanes` where B is not transposed.
    fn fastest(gpu: &Gpu, sought: Sought) -> Self {
        let Sought { rows, columns, products, elements: [a, b], transposed, packs } = sought;
        let may_pack = packs != Packs::Never;
        let possible = |tile: Self| {
            tile.suits(gpu) && tile.multiplies(a, b) && (may_pack || !tile.packs()) && tile.takes(transposed)
        };
        let tuning = gpu.tuning().filter(|_| packs != Packs::Once);
        let halves = [a, b] == [Element::F16; 2];
        let tuned = |tuning: &Tuning| tuning.tiles(rows, columns, halves).find(|tile| possible(*tile));
        if let Some(tile) = tuning.and_then(tuned) {
            return tile;
        }
        let fits = |choice: &&Choice| {
            choice.class == gpu.class()
                && rows <= choice.rows
                && columns <= choice.columns
                && (!choice.constant || packs == Packs::Once)
                && (choice.cpu)()
                && choice.tile.workgroups(rows, columns, products) >= choice.workgroups
                && possible(choice.tile)
        };
        // The last row of each class fits every product.
        CHOICES.iter().find(fits).map_or(TILES[1], |choice| choice.tile)
    }

    /// The variant of a tile product whose factors, product and rows are such.
    pub(super) fn variant(self, operands: Operands) -> Variant {
        let Operands { factors, b_transposed, a_gathered, ragged, c_access } = operands;
        let [a, b] = if matches!(self.source, Source::Cooperative { .. }) { factors.map(as_halves) } else { factors };
        let loops = if ragged && self.in_lanes() { self.rows / self.x } else { 1 };
        self.define(Variant::default())
            .number("TILE_LOOPS", loops)
            .flag("RAGGED_LOOPS", loops > 1)
            .flag("B_TRANSPOSED", b_transposed)
            .flag("A_GATHERED", a_gathered)
            .word("a_TYPE", a.0.name())
            .word("a_ACCESS", a.1)
            .word("b_TYPE", b.0.name())
            .word("b_ACCESS", b.1)
            .word("c_ACCESS", c_access)
    }

    /// What the shader has to know of the tile.
    fn define(self, variant: Variant) -> Variant {
        let variant = variant
            .word("TILE_SOURCE", if self.in_lanes() { "subgroup" } else { self.source_name() })
            .number("TILE_X", self.x)
            .number("TILE_Y", self.y)
            .number("TILE_ROWS", self.rows)
            .number("TILE_QUADS", self.quads);
        let invocations = self.x * self.y;
        match self.source {
            Source::Direct | Source::Lanes => {
                variant.number("TILE_TIMES", 1).number("TILE_TIMES_MORE", 0).number("TILE_SUMS", self.rows * self.quads)
            }
            Source::Subgroup | Source::Packed { .. } => variant
                .number("TILE_TIMES", self.times())
                .number("TILE_TIMES_MORE", self.times() - 1)
                .number("TILE_ROWS_A_LANE", self.rows / self.x),
            Source::Shared { depth, stages } => variant
                .number("TILE_DEPTH", depth)
                .number("TILE_STAGES", stages)
                .flag("TWO_STAGES", stages == 2)
                .number("TILE_ROW_QUADS", self.rows / 4)
                .number("TILE_LOADS", (self.rows() + self.columns()) / 4 * (depth / 4) / invocations),
            Source::Cooperative { fragment, depth } => variant
                .number("TILE_DEPTH", depth)
                .number("TILE_A_LOADS", self.rows() * (depth / 4) / invocations)
                .number("TILE_B_LOADS", self.columns() * (depth / 4) / invocations)
                .word("TILE_MATRIX", if fragment == 8 { "8x8" } else { "16x16" })
                .number("TILE_FRAGMENT", fragment)
                .number("TILE_FRAGMENT_ROWS", self.fragment_rows(fragment))
                .number("TILE_PARTS", self.parts(fragment))
                .number("TILE_ACROSS", self.across()),
        }
    }

    /// Whether this variant of a kernel, one with a tile product, is for this tile.
    ///
    /// ```
    /// use double_routing::kernels::{MATMUL, Tile};
    /// let tile: Tile = "shared 8x8 8x2 16 1".parse()?;
    /// assert!(MATMUL.variants().iter().any(|variant| tile.is_of(variant)));
    /// # Ok::<(), double_routing::Error>(())
    /// ```
    pub fn is_of(self, variant: &Variant) -> bool {
        let packed = matches!(variant.holds(B_PACKED), Ok(true));
        variant.contains(&self.define(Variant::default())) && packed == (self.packs())
    }

    pub(super) fn packs(self) -> bool {
        matches!(self.source, Source::Packed { .. })
    }

    /// Whether the lanes of a subgroup hand A round.
    fn in_lanes(self) -> bool {
        matches!(self.source, Source::Subgroup | Source::Packed { .. })
    }

    /// The quads of k that an invocation multiplies at a time, where it has its factors from memory.
    fn times(self) -> u32 {
        if let Source::Packed { times } = self.source { times } else { 1 }
    }

    fn source_name(self) -> &'static str {
        match self.source {
            Source::Direct => "direct",
            Source::Lanes => "lanes",
            Source::Shared { .. } => "shared",
            Source::Subgroup => "subgroup",
            Source::Packed { .. } => "packed",
            Source::Cooperative { .. } => "cooperative",
        }
    }

    /// The most of k that one dispatch may go through.
    pub(crate) fn max_depth(self) -> u64 {
        match self.source {
            Source::Direct | Source::Subgroup | Source::Packed { .. } => MAX_ITERATIONS * 4 * u64::from(self.times()),
            Source::Shared { depth, .. } => MAX_ITERATIONS * u64::from(depth),
            Source::Lanes => MAX_ITERATIONS * 4 * u64::from(self.x),
            Source::Cooperative { fragment, depth } => {
                MAX_ITERATIONS / u64::from(1 + depth / fragment) * u64::from(depth)
            }
        }
    }

    /// How the factors are packed, each if it is: A as batches of rows of this length at this distance, B as batches of columns. A of f32
    /// stays where it is if it can be read in octets, each row a number of whole ones.
    pub(super) fn layouts(
        self,
        gpu: &Gpu,
        a: &Tensor<'_>,
        stride: u64,
        [of_a, of_b]: [[u64; 2]; 2],
        depth: u64,
    ) -> [Option<Layout>; 2] {
        let begins = a.byte_offset().is_multiple_of(OCTET_BYTES);
        let whole = begins && [stride, depth].iter().all(|count| count.is_multiple_of(8));
        let in_octets = self.times() == 2 && gpu.wide_words() && a.element() == Element::F32 && whole;
        [self.layout(of_a, depth, 1).filter(|_| !in_octets), self.b_layout(of_b, depth)]
    }

    /// How B, as batches of columns, is packed, if it is.
    pub(super) fn b_layout(self, of_b: [u64; 2], depth: u64) -> Option<Layout> {
        self.layout(of_b, depth, 4)
    }

    fn layout(self, [batches, rows]: [u64; 2], depth: u64, runs: u64) -> Option<Layout> {
        self.packs().then(|| Layout { batches, rows, depth, panel: runs * u64::from(self.x), runs })
    }

    fn workgroups(self, rows: u64, columns: u64, batches: u64) -> u64 {
        rows.div_ceil(u64::from(self.rows())) * columns.div_ceil(u64::from(self.columns())) * batches
    }
}

impl std::fmt::Display for Tile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { source, x, y, rows, quads } = self;
        write!(f, "{} {x}x{y} {rows}x{quads}", self.source_name())?;
        match source {
            Source::Shared { depth, stages } => write!(f, " {depth} {stages}"),
            Source::Cooperative { fragment, depth } => write!(f, " {depth} {fragment}"),
            Source::Packed { times } => write!(f, " {times}"),
            Source::Direct | Source::Lanes | Source::Subgroup => Ok(()),
        }
    }
}

impl std::str::FromStr for Tile {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::named(text).ok_or_else(|| Error::Tuning(format!("'{text}' is no tile; one is '{}'", TILES[0])))
    }
}

/// When a variant's factors are in buffers, and when in textures, in the words of the shader's `//#if`.
pub(crate) const A_STORED: &str = "a_ACCESS != texels";
pub(crate) const A_PACKED: &str = "a_ACCESS == texels";
pub(crate) const B_STORED: &str = "b_ACCESS != texels";
pub(crate) const B_PACKED: &str = "b_ACCESS == texels";

params! {
    /// `Product` in `shaders/lib/tile.wgsl`.
    struct Product {
        rows,
        columns,
        depth,
        last_depth,
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
    }
}

impl Product {
    /// The same of factors of which each that has a layout is packed in a texture of its own.
    pub(super) fn of_packed(mut self, operation: &'static str, layouts: [Option<Layout>; 2]) -> Result<Self> {
        let number = |what, count| shader_u32(operation, what, count);
        let [of_a, of_b] = layouts;
        if let Some(layout) = of_a {
            self.a_first = 0;
            self.a_stride = number("the panels of a", layout.of_panel())?;
            self.a_batch = number("the batches of a", layout.of_batch())?;
        }
        if let Some(layout) = of_b {
            self.b_first = 0;
            self.b_stride = number("the panels of b", layout.of_panel())?;
            // Batches that share it have none of their own.
            self.b_batch = if self.b_batch == 0 { 0 } else { number("the batches of b", layout.of_batch())? };
        }
        Ok(self)
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
    /// A as a whole, where it is packed already.
    pub a_packed: Option<&'a Packed>,
    /// B, where it never changes.
    pub b_constant: Option<&'a Constant>,
}

/// A factor that is packed, however it was stored.
const TEXELS: Read = (Element::F32, "texels");

/// What a variant of the tile product says besides its tile.
#[derive(Debug, Clone, Copy)]
pub(super) struct Operands {
    /// A and B.
    pub factors: [Read; 2],
    pub b_transposed: bool,
    pub a_gathered: bool,
    /// Tiles often end before their last row.
    pub ragged: bool,
    pub c_access: &'static str,
}

/// What one dispatch does of a multiplication.
pub(crate) struct Piece<'a> {
    pub product: Product,
    pub a: Operand<'a>,
    pub b: Operand<'a>,
    pub c: Bound<'a>,
    /// What comes before it: its factors are packed, unless the piece before has had the same.
    pub before: Plan,
    /// First row and column of C, and the number of columns, that this piece computes.
    pub row: u64,
    pub rows: u64,
    pub column: u64,
    pub columns: u64,
    pub workgroups: u64,
    factors: [Read; 2],
    b_transposed: bool,
    c_access: &'static str,
}

/// A factor as the product finds it.
#[derive(Debug)]
pub(crate) enum Operand<'a> {
    Stored(Bound<'a>),
    Packed(Texels),
}

impl Bind for Operand<'_> {
    fn resource(&self) -> wgpu::BindingResource<'_> {
        match self {
            Self::Stored(bound) => bound.resource(),
            Self::Packed(texels) => texels.resource(),
        }
    }
}

impl Piece<'_> {
    /// The names of the tile product's variant.
    pub(crate) fn variant(&self, tile: Tile) -> Variant {
        let &Self { factors, b_transposed, c_access, .. } = self;
        tile.variant(Operands { factors, b_transposed, a_gathered: false, ragged: false, c_access })
    }
}

/// The textures that a product's factors are packed into, which its pieces use one after the other.
#[derive(Debug, Default)]
pub(super) struct Packing([Option<Packed>; 2]);

/// A texture, and which part of a factor it holds: from which element on, in which layout.
#[derive(Debug, Clone)]
pub(crate) struct Packed {
    texels: Texels,
    first: u64,
    layout: Layout,
}

impl Packing {
    /// With what is packed before: A, and a B that never changes, in the layout that it would have as a whole.
    pub fn holding(gpu: &Gpu, a: Option<Packed>, b: Option<&Constant>, of_b: Option<Layout>) -> Result<Self> {
        let b = match (b, of_b) {
            (Some(constant), Some(layout)) => constant.packed(gpu, layout)?,
            _ => None,
        };
        Ok(Self([a, b]))
    }

    pub fn into_a(self) -> Option<Packed> {
        self.0.into_iter().next().flatten()
    }

    /// The parts of A and B from these elements on: each that has a layout packed, by steps of `before`, unless its texture holds it
    /// already.
    pub fn pack<'a>(
        &mut self,
        gpu: &Gpu,
        sources: [pack::Source<'a>; 2],
        firsts: [u64; 2],
        layouts: [Option<Layout>; 2],
        before: &mut Plan,
    ) -> Result<[Operand<'a>; 2]> {
        let [a, b] = sources;
        let [of_a, of_b] = &mut self.0;
        let mut operand = |held, name, source: pack::Source<'a>, first, layout: Option<Layout>| match layout {
            Some(layout) => Packed::hold(held, gpu, name, source, first, layout, before),
            None => Ok(Operand::Stored(source.bound)),
        };
        Ok([operand(of_a, "a", a, firsts[0], layouts[0])?, operand(of_b, "b", b, firsts[1], layouts[1])?])
    }
}

impl Bind for Packed {
    fn resource(&self) -> wgpu::BindingResource<'_> {
        self.texels.resource()
    }
}

impl Packed {
    /// A factor as a whole, which somebody else packs: once for many products, or on the way.
    pub fn whole(texels: Texels, layout: Layout) -> Self {
        Self { texels, first: 0, layout }
    }

    pub fn texels(&self) -> &Texels {
        &self.texels
    }

    pub fn layout(&self) -> Layout {
        self.layout
    }

    fn hold<'a>(
        held: &mut Option<Self>,
        gpu: &Gpu,
        name: &str,
        source: pack::Source<'_>,
        first: u64,
        layout: Layout,
        before: &mut Plan,
    ) -> Result<Operand<'a>> {
        if let Some(packed) = held.as_ref().filter(|packed| packed.first == first && packed.layout == layout) {
            return Ok(Operand::Packed(packed.texels.clone()));
        }
        let texels = match held.take().filter(|packed| packed.texels.bytes() >= layout.texels() * Texels::BYTES) {
            Some(packed) => packed.texels,
            None => {
                let texels = Texels::new(gpu, &format!("{name} packed"), layout.texels())?;
                before.keep_texels(texels.clone());
                texels
            }
        };
        if layout.texels() > 0 {
            before.push(pack::pack(gpu, name, source, layout, &texels)?);
        }
        *held = Some(Self { texels: texels.clone(), first, layout });
        Ok(Operand::Packed(texels))
    }
}

/// A block of C: which batches, rows and columns of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Block {
    batch: u64,
    batches: u64,
    row: u64,
    rows: u64,
    column: u64,
    columns: u64,
}

impl Multiplication<'_> {
    /// The tile it is computed by.
    pub(crate) fn tile(&self, gpu: &Gpu, batch_invariant: bool) -> Tile {
        let (rows, columns, transposed) = (self.rows, self.columns, self.transposed);
        let elements = [self.a.element(), self.b.element()];
        let packs = Packs::of(gpu, self.b_constant, [1, columns], self.depth);
        Tile::choose(gpu, Sought { rows, columns, products: 1, elements, transposed, packs }, batch_invariant)
    }

    /// Into how many parts of which depth the sum is cut, so that enough workgroups share it, if it is: where all of it is one
    /// dispatch, and the number of rows may have a say.
    pub(super) fn cut(&self, gpu: &Gpu, tile: Tile, batch_invariant: bool) -> Option<(u64, u64)> {
        let (enough, deep) = fill(gpu.class());
        let parts = enough.div_ceil(tile.workgroups(self.rows, self.columns, self.batches)).min(self.depth / deep);
        if batch_invariant || self.batches != 1 || parts < 2 {
            return None;
        }
        // Whole cache lines, whatever the storage type.
        let depth = self.depth.div_ceil(parts).next_multiple_of(64);
        let parts = self.depth.div_ceil(depth);
        let limit = gpu.unaligned_limit();
        let fits = |count: u64, element: Element| count * element.bytes() as u64 <= limit;
        let packed = self.layouts(gpu, tile, &self.whole(), self.depth);
        let whole = packed.iter().flatten().all(|layout| layout.texels() <= gpu.texels_limit())
            && fits(self.rows * self.depth, self.a.element())
            && fits(self.columns * self.depth, self.b.element())
            && fits(parts * self.rows * self.columns, Element::F32);
        (whole && depth <= tile.max_depth()).then_some((parts, depth))
    }

    /// All parts of the sum at once: batches that share rows of A and columns of B, each with k of its own.
    pub(super) fn part_piece<'a>(&'a self, gpu: &'a Gpu, tile: Tile, parts: u64, depth: u64) -> Result<Piece<'a>> {
        let mut piece = self.piece(gpu, tile, &self.whole(), [0, self.depth], &mut self.packing(gpu, tile)?)?;
        let number = |what, count| shader_u32(self.operation, what, count);
        let each = self.rows * self.columns;
        piece.c = self.c.bind(gpu, self.operation, "parts", 0, parts * each)?;
        piece.c_access = store_access(&piece.c, self.c.element(), &[self.columns, each]);
        piece.workgroups = tile.workgroups(self.rows, self.columns, parts);
        let [of_a, of_b] = self.layouts(gpu, tile, &self.whole(), depth);
        let a_batch = of_a.map_or(depth, Layout::of_panel);
        let b_batch = of_b.map_or(if self.transposed { depth } else { depth * self.columns }, Layout::of_panel);
        piece.product = Product {
            depth: number("depth", depth)?,
            last_depth: number("depth", self.depth - (parts - 1) * depth)?,
            batches: number("parts", parts)?,
            a_batch: number("depth", a_batch)?,
            b_batch: number("depth", b_batch)?,
            c_first: piece.c.first,
            c_batch: number("elements of a part", each)?,
            finishes: 0,
            ..piece.product
        };
        Ok(piece)
    }

    /// Cuts the product so that each dispatch stays within the binding limit and the iterations of an invocation.
    /// Blocks of C follow one another; within a block k ascends, and each piece goes on where the last one stopped. With them comes what
    /// A is packed as once they have run, if it is.
    pub(crate) fn pieces<'a>(&'a self, gpu: &'a Gpu, tile: Tile) -> Result<(Vec<Piece<'a>>, Option<Packed>)> {
        let mut pieces = Vec::new();
        let mut packing = self.packing(gpu, tile)?;
        let (blocks, depth_each) = self.blocks(gpu, tile)?;
        for block in blocks {
            let mut k = 0;
            loop {
                let depth = (self.depth - k).min(depth_each);
                pieces.push(self.piece(gpu, tile, &block, [k, depth], &mut packing)?);
                k += depth;
                if k == self.depth {
                    break;
                }
            }
        }
        Ok((pieces, packing.into_a()))
    }

    /// How A and B are packed, each if it is, and as a whole.
    fn packed_whole(&self, gpu: &Gpu, tile: Tile) -> Result<[Option<Layout>; 2]> {
        let nothing = [self.rows, self.columns, self.depth].contains(&0);
        if nothing || !tile.packs() {
            return Ok([None; 2]);
        }
        let [of_a, of_b] = self.layouts(gpu, tile, &self.whole(), self.depth);
        let (blocks, depth_each) = self.blocks(gpu, tile)?;
        let deep = self.depth <= depth_each;
        let wide = !self.b_batched && blocks.iter().all(|block| block.columns == self.columns);
        Ok([of_a.filter(|_| deep && blocks == [self.whole()]), of_b.filter(|_| deep && wide)])
    }

    /// What is packed already.
    fn packing(&self, gpu: &Gpu, tile: Tile) -> Result<Packing> {
        let [of_a, of_b] = self.packed_whole(gpu, tile)?;
        Packing::holding(gpu, self.a_packed.filter(|_| of_a.is_some()).cloned(), self.b_constant, of_b)
    }

    /// How A would be packed, if as a whole.
    pub(super) fn a_layout(&self, gpu: &Gpu, batch_invariant: bool) -> Result<Option<Layout>> {
        let [of_a, _] = self.packed_whole(gpu, self.tile(gpu, batch_invariant))?;
        Ok(of_a)
    }

    /// Whether C can be written as it is computed. One of 16 bits cannot where a row or a piece would start within a word, or where
    /// several dispatches add up a sum: it is rounded once.
    pub(super) fn writes_c(&self, gpu: &Gpu, tile: Tile) -> Result<bool> {
        let element = self.c.element();
        if element == Element::F32 {
            return Ok(true);
        }
        let (blocks, depth_each) = self.blocks(gpu, tile)?;
        let starts = blocks.iter().all(|block| block.column.is_multiple_of(2));
        Ok(self.depth <= depth_each && starts && whole_words(element, self.batches * self.rows, self.columns))
    }

    fn blocks(&self, gpu: &Gpu, tile: Tile) -> Result<(Vec<Block>, u64)> {
        let limit = gpu.unaligned_limit();
        let (a_size, b_size, c_size) =
            (self.a.element().bytes() as u64, self.b.element().bytes() as u64, self.c.element().bytes() as u64);
        // Packed, a panel of either factor fits its texture, so that there is always a next block.
        let room = gpu.texels_limit();
        let panel_depth = if tile.packs() { groups_of(8, room / u64::from(tile.x)) } else { u64::MAX };
        let max_depth = tile.max_depth().min(panel_depth);
        let packed = self.layouts(gpu, tile, &self.whole(), self.depth.min(max_depth));
        // As many whole batches as fit; all share b unless each has its own.
        let each = [self.rows * self.depth * a_size, self.rows * self.columns * c_size];
        let of_b = self.depth * self.columns * b_size;
        let largest = each.into_iter().chain(self.b_batched.then_some(of_b)).max().unwrap_or(0).max(1);
        let packed_each =
            packed.iter().flatten().map(|layout| room / layout.of_batch().max(1)).min().unwrap_or(u64::MAX);
        let batches_each = if of_b > limit { 0 } else { (limit / largest).min(packed_each) };
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
        let [packed_rows, packed_columns] =
            packed.map(|layout| layout.map_or(u64::MAX, |layout| room / layout.of_panel().max(1) * layout.panel));
        let rows_each = at_most("a row of a in bytes", self.depth * a_size)?
            .min(at_most("a row of c in bytes", self.columns * c_size)?)
            .min(packed_rows);
        let (columns_each, depth_each) = if self.transposed {
            (groups_of(4, at_most("a row of b in bytes", self.depth * b_size)?).min(packed_columns), max_depth)
        } else {
            let depth_each = at_most("a row of b in bytes", self.columns * b_size)?.min(max_depth);
            // No step of the product's loop is cut.
            (packed_columns, groups_of(4 * u64::from(tile.times()), depth_each))
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

    fn whole(&self) -> Block {
        Block { batch: 0, batches: 1, row: 0, rows: self.rows, column: 0, columns: self.columns }
    }

    /// How the factors of a block are packed, each if it is.
    fn layouts(&self, gpu: &Gpu, tile: Tile, block: &Block, depth: u64) -> [Option<Layout>; 2] {
        let batches = if self.b_batched { block.batches } else { 1 };
        tile.layouts(gpu, self.a, self.depth, [[block.batches, block.rows], [batches, block.columns]], depth)
    }

    /// The product over `depth` of k from `k` on.
    fn piece<'a>(
        &'a self,
        gpu: &'a Gpu,
        tile: Tile,
        block: &Block,
        [k, depth]: [u64; 2],
        packing: &mut Packing,
    ) -> Result<Piece<'a>> {
        let operation = self.operation;
        let (a_batch, c_batch) = (self.rows * self.depth, self.rows * self.columns);
        let b_batch = if self.b_batched { self.columns * self.depth } else { 0 };
        let batches_between = block.batches - 1;
        let last = |batch: u64, within: u64| if depth == 0 { 0 } else { batches_between * batch + within };

        let a_first = block.batch * a_batch + block.row * self.depth + k;
        let mut a = self.a.bind(gpu, operation, "a", a_first, last(a_batch, (block.rows - 1) * self.depth + depth))?;
        let (b_stride, b_row, b_column) =
            if self.transposed { (self.depth, block.column, k) } else { (self.columns, k, block.column) };
        let b_first = block.batch * b_batch + b_row * b_stride + b_column;
        let (b_rows, b_columns) = if self.transposed { (block.columns, depth) } else { (depth, block.columns) };
        let mut b = self.b.bind(
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
            last_depth: number("depth", depth)?,
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
        };
        let strides = [[self.depth, a_batch, depth], [b_stride, b_batch, b_columns]];
        let elements = [self.a.element(), self.b.element()];
        let mut before = Plan::default();
        let (a, b, factors, product) = if tile.packs() {
            let layouts = self.layouts(gpu, tile, block, depth);
            let source = |bound, factor: usize, transposed| pack::Source {
                bound,
                element: elements[factor],
                stride: strides[factor][0],
                batch: strides[factor][1],
                transposed,
            };
            let sources = [source(a, 0, false), source(b, 1, !self.transposed)];
            let [a, b] = packing.pack(gpu, sources, [a_first, b_first], layouts, &mut before)?;
            (a, b, packed_reads(layouts), product.of_packed(operation, layouts)?)
        } else {
            let factor = |bound, factor: usize| Factor { bound, element: elements[factor], strides: &strides[factor] };
            let factors = factor_reads(gpu, [factor(&mut a, 0), factor(&mut b, 1)]);
            (Operand::Stored(a), Operand::Stored(b), factors, product)
        };
        let c_access = store_access(&c, self.c.element(), &[self.columns, c_batch, block.columns]);
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
            before,
            factors,
            b_transposed: self.transposed || tile.packs(),
            c_access,
        })
    }
}

/// How a tile reads factors of which each that has a layout is packed.
pub(super) fn packed_reads([of_a, of_b]: [Option<Layout>; 2]) -> [Read; 2] {
    [of_a, of_b].map(|layout| layout.map_or((Element::F32, OCTETS), |_| TEXELS))
}

/// The sizes of subgroups whose products have packed factors.
pub(super) fn packed_lanes() -> impl Iterator<Item = u32> {
    Tile::all().filter(|tile| tile.packs()).map(|tile| tile.x)
}

/// Every variant of the tile product of whole matrices: tiles × types of A and B × layout of B × how operands are read and
/// written.
pub(crate) fn variants() -> Vec<Variant> {
    Tile::all().flat_map(|tile| [false, true].into_iter().flat_map(move |b| tile.variants(b, false, false))).collect()
}

/// The same for products whose rows have a path each: B transposed, the rows of A gathered or in order.
pub(crate) fn path_variants() -> Vec<Variant> {
    Tile::all().flat_map(|tile| [false, true].into_iter().flat_map(move |a| tile.variants(true, a, true))).collect()
}

impl Tile {
    fn variants(self, b_transposed: bool, a_gathered: bool, ragged: bool) -> Vec<Variant> {
        let mut factors: Vec<[Read; 2]> = if self.packs() {
            // However B was stored, it is packed transposed.
            match (b_transposed, self.times()) {
                (false, _) => vec![],
                (true, 1) => vec![[TEXELS; 2]],
                (true, _) => vec![[TEXELS; 2], [(Element::F32, OCTETS), TEXELS]],
            }
        } else {
            // Only tiles for software read in words of 64 bits.
            factor_variants(self.source == Source::Subgroup || (self.source == Source::Direct && self.x < 32))
        };
        factors.retain(|[a, b]| self.takes(b_transposed) && self.multiplies(a.0, b.0));
        let mut variants = Vec::new();
        for factors in factors {
            for c_access in super::STORE_ACCESSES {
                variants.push(self.variant(Operands { factors, b_transposed, a_gathered, ragged, c_access }));
            }
        }
        variants
    }
}

/// The same without widening to f32.
fn as_halves((element, access): Read) -> Read {
    (element, if access == "quads" { "half_quads" } else { "half_elements" })
}

/// Whether the CPU has AVX-512 for vectors of any length, as LLVM uses it for those of 8 lanes.
fn avx512() -> bool {
    #[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
    return std::arch::is_x86_feature_detected!("avx512vl");
    #[cfg(not(any(target_arch = "x86", target_arch = "x86_64")))]
    return false;
}

/// As many rows, columns or k of `count` as are groups of so many, if there is one: what follows them is aligned to groups.
fn groups_of(size: u64, count: u64) -> u64 {
    if count >= size { count / size * size } else { count }
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
