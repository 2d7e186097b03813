//#if TILE_SOURCE == cooperative
enable f16;
enable wgpu_cooperative_matrix;

//#endif
// The tile product: one workgroup's tile of A·B or A·Bᵀ, shared by every kernel that multiplies matrices.
//
// A workgroup of TILE_X × TILE_Y invocations owns TILE_M rows and TILE_N columns of the product; an invocation owns
// TILE_ROWS rows and TILE_QUADS quads of columns. The kernel that imports this file supplies the operands a and b through
// lib/load.wgsl, the output c through lib/store.wgsl and `params.product`, and imports this file before all others; it decides
// what happens to the accumulators (its epilogue), in those invocations that tile_stores() names. One whose rows are gathered
// (A_GATHERED) says where each is; one whose tiles often end early has RAGGED_LOOPS, so that `subgroup` leaves out the rows that
// are not there.
//
// TILE_SOURCE says where an invocation finds its operands:
//   direct    it reads them straight from memory; no barrier (few rows);
//   lanes     the TILE_X invocations of a row of the workgroup own the same outputs and take the quads of k in turn, so that
//             they read neighbouring memory of Bᵀ; their sums are added in workgroup memory (few rows);
//   shared    the workgroup stages TILE_DEPTH of k at a time in workgroup memory, A transposed, and fetches the next stage
//             into registers while it multiplies this one; with two TILE_STAGES it has memory for both, and waits once for each
//             instead of twice;
//   subgroup  the workgroup is one subgroup: each lane reads the rows of A whose number is its own, modulo TILE_X, and
//             hands them round; B straight from memory; no barrier (software adapters). With OPERAND_ACCESS == texels an operand
//             was laid out by pack.wgsl, A in panels of TILE_X rows, B in panels of 4 · TILE_X columns, and TILE_TIMES quads of k
//             are multiplied at a time: two of an A that is read in octets;
//   cooperative  A and B are of f16: the workgroup stages them as they are, TILE_DEPTH of k at a time, and each of its TILE_Y subgroups,
//             of TILE_X invocations, multiplies fragments of TILE_FRAGMENT × TILE_FRAGMENT in the device's matrix units,
//             which add in f32. The sums go through workgroup memory to the invocations that own them. Such units may cut off
//             what others round: their errors are up to three times the kernels' bounds for sums.
// Otherwise invocation (x, y) owns rows y·TILE_ROWS + r and the column quads x + q·TILE_X: neighbours in x touch
// neighbouring quads. Accumulators are indexed by constants (//#for), so that compilers keep them apart.
//
// In what order the products of an element are added depends on the tile, not on where the element lies in it. A product too
// deep for one dispatch goes on where the last one stopped: its accumulators start from what that one stored.

const TILE_X: u32 = 8u;
const TILE_Y: u32 = 8u;
const TILE_ROWS: u32 = 4u;
const TILE_QUADS: u32 = 1u;

//#if TILE_SOURCE == lanes
const TILE_M: u32 = TILE_ROWS;
const TILE_N: u32 = TILE_Y * TILE_QUADS * 4u;
//#else
//#if TILE_SOURCE == cooperative
// Rows and columns of a fragment; subgroups along the columns of a tile.
const TILE_FRAGMENT: u32 = 16u;
const TILE_ACROSS: u32 = 2u;
// Fragments that a subgroup owns, one above the other; beside each other it has TILE_QUADS.
const TILE_FRAGMENT_ROWS: u32 = 2u;
// Quads of a fragment that an invocation owns, and the rows from one to the next.
const TILE_PARTS: u32 = 2u;
const TILE_PART_ROWS: u32 = TILE_FRAGMENT / TILE_PARTS;
const TILE_M: u32 = TILE_Y / TILE_ACROSS * TILE_FRAGMENT_ROWS * TILE_FRAGMENT;
const TILE_N: u32 = TILE_ACROSS * TILE_QUADS * TILE_FRAGMENT;
//#else
const TILE_M: u32 = TILE_Y * TILE_ROWS;
const TILE_N: u32 = TILE_X * TILE_QUADS * 4u;
//#endif
//#endif

// One dispatch's share of C[batch] = A[batch] · B[batch]. Firsts and strides count elements; a first counts from the
// start of the binding, `batch` strides are 0 where all batches share an operand. Of a packed operand they count texels, and its
// stride is that of its panels.
struct Product {
    rows: u32,
    columns: u32,
    depth: u32,
    // The depth of the last batch: batches may be the parts of one long sum.
    last_depth: u32,
    batches: u32,
    a_first: u32,
    a_stride: u32,
    a_batch: u32,
    b_first: u32,
    b_stride: u32,
    b_batch: u32,
    c_first: u32,
    c_stride: u32,
    c_batch: u32,
    // 1: an earlier dispatch has stored the sum over the k before these.
    continues: u32,
    // 1: these are the last k, so the epilogue applies.
    finishes: u32,
}

alias Accumulators = array<vec4<f32>, TILE_ROWS * TILE_QUADS>;

// Where an invocation's part of the product lies, and where its operands start. The product's numbers are copied here since
// software drivers read a uniform again, lane by lane, wherever a loop names it.
struct TilePlace {
    // First row and first column of the workgroup's tile.
    row: u32,
    column: u32,
    // The invocation within the workgroup, as tile_invocation() has it.
    x: u32,
    y: u32,
    // Elements from the start of the binding to A[0, 0], B[0, 0] and C[0, 0] of this batch.
    a_first: u32,
    b_first: u32,
    c_first: u32,
    rows: u32,
    columns: u32,
    depth: u32,
    a_stride: u32,
    b_stride: u32,
    c_stride: u32,
    // The row of A that row 0 is; of C, where those of A are gathered.
    first_row: u32,
}

// Which of the workgroup's TILE_X × TILE_Y invocations has this number; where TILE_SOURCE is `subgroup`, in its only subgroup.
fn tile_invocation(number: u32) -> vec2<u32> {
//#if TILE_SOURCE == subgroup
    return vec2<u32>(number, 0u);
//#else
    return vec2<u32>(number % TILE_X, number / TILE_X);
//#endif
}

fn tiles_per_batch() -> u32 {
    return ((params.product.rows + TILE_M - 1u) / TILE_M) * ((params.product.columns + TILE_N - 1u) / TILE_N);
}

// The depth of tile `index`: the same for all invocations of a workgroup, so that loops over it may have barriers.
fn tile_depth(index: u32) -> u32 {
    let last = index / tiles_per_batch() + 1u == params.product.batches;
    return select(params.product.depth, params.product.last_depth, last);
}

// The place of tile `index` of all batches' tiles; columns vary fastest, so that neighbours share rows of A.
fn tile_place(index: u32, local: vec2<u32>) -> TilePlace {
    let batch = index / tiles_per_batch();
    let tile = index % tiles_per_batch();
    let across = (params.product.columns + TILE_N - 1u) / TILE_N;
    return TilePlace(
        (tile / across) * TILE_M,
        (tile % across) * TILE_N,
        local.x,
        local.y,
        params.product.a_first + batch * params.product.a_batch,
        params.product.b_first + batch * params.product.b_batch,
        params.product.c_first + batch * params.product.c_batch,
        params.product.rows,
        params.product.columns,
        tile_depth(index),
        params.product.a_stride,
        params.product.b_stride,
        params.product.c_stride,
        0u,
    );
}

//#if TILE_SOURCE == lanes
fn tile_row(place: TilePlace, r: u32) -> u32 {
    return place.row + r;
}

fn tile_column(place: TilePlace, q: u32) -> u32 {
    return place.column + (place.y * TILE_QUADS + q) * 4u;
}

fn tile_stores(place: TilePlace) -> bool {
    return place.x == 0u;
}
//#else
//#if TILE_SOURCE == cooperative
// A subgroup's fragments follow one another; of each, an invocation owns every TILE_X-th quad.
fn tile_row(place: TilePlace, r: u32) -> u32 {
    let of_subgroup = place.y / TILE_ACROSS * TILE_FRAGMENT_ROWS * TILE_FRAGMENT;
    return place.row + of_subgroup + r * TILE_PART_ROWS + place.x / (TILE_FRAGMENT / 4u);
}

fn tile_column(place: TilePlace, q: u32) -> u32 {
    let of_subgroup = place.y % TILE_ACROSS * TILE_QUADS;
    return place.column + (of_subgroup + q) * TILE_FRAGMENT + place.x % (TILE_FRAGMENT / 4u) * 4u;
}
//#else
fn tile_row(place: TilePlace, r: u32) -> u32 {
    return place.row + place.y * TILE_ROWS + r;
}

fn tile_column(place: TilePlace, q: u32) -> u32 {
    return place.column + (place.x + q * TILE_X) * 4u;
}
//#endif

fn tile_stores(place: TilePlace) -> bool {
    return true;
}
//#endif

// The row of A that row `row` of the product is; past the end the last one's, whose products are never stored. A kernel that
// gathers rows says in a_row() which row of A each is.
fn a_index(place: TilePlace, row: u32) -> u32 {
    let index = place.first_row + min(row, place.rows - 1u);
//#if A_GATHERED
    return a_row(index);
//#else
    return index;
//#endif
}

//#if a_ACCESS == texels
// Where A[row] starts.
fn a_start(place: TilePlace, row: u32) -> u32 {
    let index = a_index(place, row);
    return place.a_first + index / TILE_X * place.a_stride + index % TILE_X;
}

// A quad of k of the row that starts there.
fn a_block(place: TilePlace, start: u32, k: u32) -> vec4<f32> {
    return textureLoad(a, texel_place(start + k / 4u * TILE_X));
}
//#else
// Where A[row] starts.
fn a_start(place: TilePlace, row: u32) -> u32 {
    return place.a_first + a_index(place, row) * place.a_stride;
}
//#if TILE_SOURCE != cooperative
//#if a_ACCESS != wide_octets

fn a_block(place: TilePlace, start: u32, k: u32) -> vec4<f32> {
    return a_quad(start + k, place.depth - k);
}
//#endif
//#endif
//#endif

//#if b_ACCESS == texels
// Where column n starts; the three after it follow at distances of TILE_X.
alias BStarts = u32;

fn b_starts(place: TilePlace, n: u32) -> BStarts {
    return place.b_first + n / (4u * TILE_X) * place.b_stride + n / 4u % TILE_X;
}

// The 4 × 4 block of B that multiplies a quad of k into a quad of columns: column i of the result is B[k + i, n .. n + 4]. Its texels
// lie in one row of the texture, since the 4 · TILE_X of a panel's quad of k divide the row's.
fn b_block(place: TilePlace, start: BStarts, k: u32, n: u32) -> mat4x4<f32> {
    let at = texel_place(start + k * TILE_X);
    return transpose(mat4x4<f32>(
        textureLoad(b, at),
        textureLoad(b, at + vec2<u32>(TILE_X, 0u)),
        textureLoad(b, at + vec2<u32>(2u * TILE_X, 0u)),
        textureLoad(b, at + vec2<u32>(3u * TILE_X, 0u)),
    ));
}
//#else
//#if TILE_SOURCE != cooperative
// Where the four rows of Bᵀ that are columns n .. n + 4 start, or where column n does in each row of B.
alias BStarts = vec4<u32>;

fn b_starts(place: TilePlace, n: u32) -> BStarts {
//#if B_TRANSPOSED
    let rows = min(vec4<u32>(n) + vec4<u32>(0u, 1u, 2u, 3u), vec4<u32>(place.columns - 1u));
    return vec4<u32>(place.b_first) + rows * place.b_stride;
//#else
    return vec4<u32>(place.b_first + n);
//#endif
}

// The 4 × 4 block of B that multiplies a quad of k into a quad of columns: column i of the result is B[k + i, n .. n + 4].
fn b_block(place: TilePlace, starts: vec4<u32>, k: u32, n: u32) -> mat4x4<f32> {
//#if B_TRANSPOSED
    let left = place.depth - k;
    return transpose(mat4x4<f32>(
        b_quad(starts.x + k, left),
        b_quad(starts.y + k, left),
        b_quad(starts.z + k, left),
        b_quad(starts.w + k, left),
    ));
//#else
    return mat4x4<f32>(
        b_row(place, starts.x, k, n),
        b_row(place, starts.x, k + 1u, n),
        b_row(place, starts.x, k + 2u, n),
        b_row(place, starts.x, k + 3u, n),
    );
//#endif
}

//#if !B_TRANSPOSED
// B[k, n .. n + 4]; 0 past the end of k or of the columns.
fn b_row(place: TilePlace, start: u32, k: u32, n: u32) -> vec4<f32> {
    if k >= place.depth || n >= place.columns {
        return vec4<f32>();
    }
    return b_quad(start + k * place.b_stride, place.columns - n);
}
//#endif
//#endif
//#endif

// The sum over the k before this dispatch's: 0 at the start, else what C holds. A C of 16 bits never holds part of a sum.
fn tile_start(place: TilePlace) -> Accumulators {
    var sums: Accumulators;
//#if c_ACCESS != words
    if params.product.continues == 1u && tile_stores(place) {
//#for R in TILE_ROWS
//#for Q in TILE_QUADS
        sums[R * TILE_QUADS + Q] = tile_load(place, tile_row(place, R), tile_column(place, Q));
//#endfor
//#endfor
    }
//#endif
    return sums;
}
//#if c_ACCESS != words

fn tile_load(place: TilePlace, row: u32, column: u32) -> vec4<f32> {
    if row >= place.rows || column >= place.columns {
        return vec4<f32>();
    }
    return c_load(tile_c(place, row, column), place.columns - column);
}
//#endif

// Where C[row, column] is stored.
fn tile_c(place: TilePlace, row: u32, column: u32) -> u32 {
    return place.c_first + row * place.c_stride + column;
}

//#if TILE_SOURCE == cooperative
//#if TILE_MATRIX == 8x8
alias TileMatrixA = coop_mat8x8<f16, A>;
alias TileMatrixB = coop_mat8x8<f16, B>;
alias TileMatrixC = coop_mat8x8<f32, C>;
//#else
alias TileMatrixA = coop_mat16x16<f16, A>;
alias TileMatrixB = coop_mat16x16<f16, B>;
alias TileMatrixC = coop_mat16x16<f32, C>;
//#endif

const TILE_FRAGMENT_QUADS: u32 = TILE_FRAGMENT * TILE_FRAGMENT / 4u;

// A fragment of each subgroup, row-major, on its way from the matrix units to the invocations or back.
var<workgroup> fragments: array<vec4<f32>, TILE_Y * TILE_FRAGMENT_QUADS>;

const TILE_DEPTH: u32 = 16u;
const TILE_K_QUADS: u32 = TILE_DEPTH / 4u;
const TILE_N_QUADS: u32 = TILE_N / 4u;
// The quads of A and of B that an invocation fetches for a stage.
const TILE_A_LOADS: u32 = 2u;
const TILE_B_LOADS: u32 = 2u;

// The stage has both as they are stored, each row two quads longer: rows then start at multiples of 16 bytes, but those of a
// fragment not all in the same bank of the memory.
const TILE_A_WIDTH: u32 = TILE_K_QUADS + 2u;
var<workgroup> stage_a: array<vec4<f16>, TILE_M * TILE_A_WIDTH>;
//#if B_TRANSPOSED
const TILE_B_WIDTH: u32 = TILE_K_QUADS + 2u;
var<workgroup> stage_b: array<vec4<f16>, TILE_N * TILE_B_WIDTH>;
//#else
const TILE_B_WIDTH: u32 = TILE_N_QUADS + 2u;
var<workgroup> stage_b: array<vec4<f16>, TILE_DEPTH * TILE_B_WIDTH>;
//#endif

// Quad i of a stage of A, of the row that starts there, where the stage begins at k; 0 past the end of k.
fn a_fetch(place: TilePlace, i: u32, start: u32, k: u32) -> vec4<f16> {
    let at = k + (i % TILE_K_QUADS) * 4u;
    if at >= place.depth {
        return vec4<f16>();
    }
    return a_quad(start + at, place.depth - at);
}

// The same of B: a quad of k of a column, or of columns of a k.
fn b_fetch(place: TilePlace, i: u32, k: u32) -> vec4<f16> {
//#if B_TRANSPOSED
    let at = k + (i % TILE_K_QUADS) * 4u;
    if at >= place.depth {
        return vec4<f16>();
    }
    // Columns past the end are the last one, and their products are never stored.
    let column = min(place.column + i / TILE_K_QUADS, place.columns - 1u);
    return b_quad(place.b_first + column * place.b_stride + at, place.depth - at);
//#else
    let at = k + i / TILE_N_QUADS;
    let column = place.column + (i % TILE_N_QUADS) * 4u;
    if at >= place.depth || column >= place.columns {
        return vec4<f16>();
    }
    return b_quad(place.b_first + at * place.b_stride + column, place.columns - column);
//#endif
}

// Adds A·B over all of depth, which is place.depth, to the accumulators.
fn tile_product(sums: ptr<function, Accumulators>, place: TilePlace, depth: u32) {
    let invocation = place.y * TILE_X + place.x;
    let fragment = place.y * TILE_FRAGMENT_QUADS;
    var products: array<TileMatrixC, TILE_FRAGMENT_ROWS * TILE_QUADS>;
//#if c_ACCESS != words
    if params.product.continues == 1u {
//#for I in TILE_FRAGMENT_ROWS
//#for Q in TILE_QUADS
//#for P in TILE_PARTS
        fragments[fragment + P * TILE_X + place.x] = (*sums)[(I * TILE_PARTS + P) * TILE_QUADS + Q];
//#endfor
        workgroupBarrier();
        products[I * TILE_QUADS + Q] = coopLoadT<TileMatrixC>(&fragments[fragment], TILE_FRAGMENT / 4u);
        workgroupBarrier();
//#endfor
//#endfor
    }
//#endif
    // The subgroup's rows and columns within the tile.
    let of_a = place.y / TILE_ACROSS * TILE_FRAGMENT_ROWS * TILE_FRAGMENT;
    let of_b = place.y % TILE_ACROSS * TILE_QUADS * TILE_FRAGMENT;
    var starts: array<u32, TILE_A_LOADS>;
    var next_a: array<vec4<f16>, TILE_A_LOADS>;
    var next_b: array<vec4<f16>, TILE_B_LOADS>;
//#for L in TILE_A_LOADS
    starts[L] = a_start(place, place.row + (invocation + L * TILE_X * TILE_Y) / TILE_K_QUADS);
    next_a[L] = a_fetch(place, invocation + L * TILE_X * TILE_Y, starts[L], 0u);
//#endfor
//#for L in TILE_B_LOADS
    next_b[L] = b_fetch(place, invocation + L * TILE_X * TILE_Y, 0u);
//#endfor
    for (var k = 0u; k < depth; k += TILE_DEPTH) {
//#for L in TILE_A_LOADS
        {
            let i = invocation + L * TILE_X * TILE_Y;
            stage_a[i / TILE_K_QUADS * TILE_A_WIDTH + i % TILE_K_QUADS] = next_a[L];
        }
//#endfor
//#for L in TILE_B_LOADS
        {
            let i = invocation + L * TILE_X * TILE_Y;
//#if B_TRANSPOSED
            stage_b[i / TILE_K_QUADS * TILE_B_WIDTH + i % TILE_K_QUADS] = next_b[L];
//#else
            stage_b[i / TILE_N_QUADS * TILE_B_WIDTH + i % TILE_N_QUADS] = next_b[L];
//#endif
        }
//#endfor
        workgroupBarrier();
//#for L in TILE_A_LOADS
        next_a[L] = a_fetch(place, invocation + L * TILE_X * TILE_Y, starts[L], k + TILE_DEPTH);
//#endfor
//#for L in TILE_B_LOADS
        next_b[L] = b_fetch(place, invocation + L * TILE_X * TILE_Y, k + TILE_DEPTH);
//#endfor
        for (var in_stage = 0u; in_stage < TILE_DEPTH; in_stage += TILE_FRAGMENT) {
            var rows: array<TileMatrixA, TILE_FRAGMENT_ROWS>;
//#for I in TILE_FRAGMENT_ROWS
            rows[I] = coopLoadT<TileMatrixA>(
                &stage_a[(of_a + I * TILE_FRAGMENT) * TILE_A_WIDTH + in_stage / 4u],
                TILE_A_WIDTH,
            );
//#endfor
//#for Q in TILE_QUADS
            {
                let column = of_b + Q * TILE_FRAGMENT;
//#if B_TRANSPOSED
                let columns = coopLoad<TileMatrixB>(&stage_b[column * TILE_B_WIDTH + in_stage / 4u], TILE_B_WIDTH);
//#else
                let columns = coopLoadT<TileMatrixB>(&stage_b[in_stage * TILE_B_WIDTH + column / 4u], TILE_B_WIDTH);
//#endif
//#for I in TILE_FRAGMENT_ROWS
                products[I * TILE_QUADS + Q] = coopMultiplyAdd(rows[I], columns, products[I * TILE_QUADS + Q]);
//#endfor
            }
//#endfor
        }
        workgroupBarrier();
    }
//#for I in TILE_FRAGMENT_ROWS
//#for Q in TILE_QUADS
    coopStoreT(products[I * TILE_QUADS + Q], &fragments[fragment], TILE_FRAGMENT / 4u);
    // The fragment is there before its owners read it, and they have before the next one overwrites it.
    workgroupBarrier();
//#for P in TILE_PARTS
    (*sums)[(I * TILE_PARTS + P) * TILE_QUADS + Q] = fragments[fragment + P * TILE_X + place.x];
//#endfor
    workgroupBarrier();
//#endfor
//#endfor
}
//#else
//#if TILE_SOURCE == shared
const TILE_DEPTH: u32 = 16u;
const TILE_K_QUADS: u32 = TILE_DEPTH / 4u;
const TILE_STAGES: u32 = 1u;
// Quads of rows of an invocation.
const TILE_ROW_QUADS: u32 = 2u;
// The 4 × 4 blocks that an invocation fetches for a stage.
const TILE_LOADS: u32 = 2u;
// Quads of rows of A, then quads of columns of B, that a stage has for each k.
const TILE_WIDTH: u32 = (TILE_M + TILE_N) / 4u;

// [quad of rows of A | quad of columns of B][k]. The loop over k, unrolled, then finds all that an invocation reads at constant
// distances from where it starts; one k more than a stage has keeps what neighbours read in different banks of the memory.
var<workgroup> stage: array<array<array<vec4<f32>, TILE_DEPTH + 1u>, TILE_WIDTH>, TILE_STAGES>;

// Block i of a stage: its quad of k varies fastest, so that neighbours read neighbouring memory of A and Bᵀ.
fn block_starts(place: TilePlace, i: u32) -> vec4<u32> {
    let quad = i / TILE_K_QUADS;
    if quad < TILE_M / 4u {
        let row = place.row + quad * 4u;
        return vec4<u32>(
            a_start(place, row),
            a_start(place, row + 1u),
            a_start(place, row + 2u),
            a_start(place, row + 3u),
        );
    }
    return b_starts(place, place.column + quad * 4u - TILE_M);
}

// Its four quads, by k, for the stage that begins at k; 0 past the end of k.
fn block_fetch(place: TilePlace, i: u32, starts: vec4<u32>, k: u32) -> mat4x4<f32> {
    let quad = i / TILE_K_QUADS;
    let at = k + (i % TILE_K_QUADS) * 4u;
    if at >= place.depth {
        return mat4x4<f32>();
    }
    if quad < TILE_M / 4u {
        return transpose(mat4x4<f32>(
            a_block(place, starts.x, at),
            a_block(place, starts.y, at),
            a_block(place, starts.z, at),
            a_block(place, starts.w, at),
        ));
    }
    return b_block(place, starts, at, place.column + quad * 4u - TILE_M);
}

// Puts block i, as block_fetch() has it, into a stage.
fn block_store(at: u32, i: u32, block: mat4x4<f32>) {
    let quad = i / TILE_K_QUADS;
    let k = (i % TILE_K_QUADS) * 4u;
    stage[at][quad][k] = block[0];
    stage[at][quad][k + 1u] = block[1];
    stage[at][quad][k + 2u] = block[2];
    stage[at][quad][k + 3u] = block[3];
}

// Adds A·B over all of depth, which is place.depth, to the accumulators.
fn tile_product(sums: ptr<function, Accumulators>, place: TilePlace, depth: u32) {
    let invocation = place.y * TILE_X + place.x;
    let of_a = place.y * TILE_ROW_QUADS;
    let of_b = TILE_M / 4u + place.x;
    var at = 0u;
    var starts: array<vec4<u32>, TILE_LOADS>;
    var next: array<mat4x4<f32>, TILE_LOADS>;
//#for L in TILE_LOADS
    starts[L] = block_starts(place, invocation + L * TILE_X * TILE_Y);
    next[L] = block_fetch(place, invocation + L * TILE_X * TILE_Y, starts[L], 0u);
    block_store(at, invocation + L * TILE_X * TILE_Y, next[L]);
//#endfor
    // The first stage is complete before anyone reads it,
    workgroupBarrier();
    for (var k = TILE_DEPTH; k < depth + TILE_DEPTH; k += TILE_DEPTH) {
//#for L in TILE_LOADS
        next[L] = block_fetch(place, invocation + L * TILE_X * TILE_Y, starts[L], k);
//#endfor
//#for K in TILE_DEPTH
        {
            var columns: array<vec4<f32>, TILE_QUADS>;
//#for Q in TILE_QUADS
            columns[Q] = stage[at][of_b + Q * TILE_X][K];
//#endfor
//#for G in TILE_ROW_QUADS
            {
                let rows = stage[at][of_a + G][K];
//#for Q in TILE_QUADS
                (*sums)[G * 4u * TILE_QUADS + Q] += rows.x * columns[Q];
                (*sums)[(G * 4u + 1u) * TILE_QUADS + Q] += rows.y * columns[Q];
                (*sums)[(G * 4u + 2u) * TILE_QUADS + Q] += rows.z * columns[Q];
                (*sums)[(G * 4u + 3u) * TILE_QUADS + Q] += rows.w * columns[Q];
//#endfor
            }
//#endfor
        }
//#endfor
//#if TWO_STAGES
        at = 1u - at;
//#else
        // Everyone has read the stage before the next one overwrites it.
        workgroupBarrier();
//#endif
//#for L in TILE_LOADS
        block_store(at, invocation + L * TILE_X * TILE_Y, next[L]);
//#endfor
        // and so is each that follows.
        workgroupBarrier();
    }
}
//#else
//#if TILE_SOURCE == lanes
const TILE_SUMS: u32 = 4u;
var<workgroup> lane_sums: array<vec4<f32>, TILE_SUMS * TILE_X * TILE_Y>;

// Gives the first invocation of each row of the workgroup the sums over all of that row, every sum in the same steps. All
// invocations call it.
fn lanes_add(sums: ptr<function, Accumulators>, place: TilePlace) {
    let at = place.y * TILE_X + place.x;
//#for S in TILE_SUMS
    lane_sums[S * TILE_X * TILE_Y + at] = (*sums)[S];
//#endfor
    for (var half = TILE_X / 2u; half > 0u; half /= 2u) {
        workgroupBarrier();
        if place.x < half {
//#for S in TILE_SUMS
            lane_sums[S * TILE_X * TILE_Y + at] += lane_sums[S * TILE_X * TILE_Y + at + half];
//#endfor
        }
    }
//#for S in TILE_SUMS
    (*sums)[S] = lane_sums[S * TILE_X * TILE_Y + at];
//#endfor
}
//#endif

//#if TILE_SOURCE == subgroup
const TILE_ROWS_A_LANE: u32 = 3u;
//#endif
// Quads of k whose products are added up before the accumulators are touched, which software drivers blend with the mask of active
// lanes each time. More than one only of packed factors, which end with zeros.
const TILE_TIMES: u32 = 1u;

// Adds A·B over all of depth, which is place.depth, to the accumulators.
fn tile_product(sums: ptr<function, Accumulators>, place: TilePlace, depth: u32) {
    var b_at: array<BStarts, TILE_QUADS>;
//#for Q in TILE_QUADS
    b_at[Q] = b_starts(place, tile_column(place, Q));
//#endfor
//#if TILE_SOURCE == subgroup
    var a_at: array<u32, TILE_ROWS_A_LANE>;
//#for G in TILE_ROWS_A_LANE
    a_at[G] = a_start(place, tile_row(place, G * TILE_X + place.x));
//#endfor
//#else
    var a_at: array<u32, TILE_ROWS>;
//#for R in TILE_ROWS
    a_at[R] = a_start(place, tile_row(place, R));
//#endfor
//#endif
//#if RAGGED_LOOPS
    // Tiles of paths are seldom full, so there is a loop for each number of groups of TILE_X rows. Software drivers run both sides of a
    // branch, but leave a loop that nobody is in.
    let last_group = (min(TILE_ROWS, place.rows - place.row) - 1u) / TILE_X;
//#endif
//#for N in TILE_LOOPS
//#if TILE_SOURCE == lanes
    for (var k = place.x * 4u; k < depth; k += TILE_X * 4u) {
//#else
//#if RAGGED_LOOPS
    for (var k = select(depth, 0u, last_group == N); k < depth; k += 4u * TILE_TIMES) {
//#else
    for (var k = 0u; k < depth; k += 4u * TILE_TIMES) {
//#endif
//#endif
        var blocks: array<mat4x4<f32>, TILE_TIMES * TILE_QUADS>;
//#for T in TILE_TIMES
//#for Q in TILE_QUADS
        blocks[T * TILE_QUADS + Q] = b_block(place, b_at[Q], k + T * 4u, tile_column(place, Q));
//#endfor
//#endfor
//#if TILE_SOURCE == subgroup
//#for G in TILE_ROWS_A_LANE
//#if RAGGED_LOOPS
        if G <= N {
//#else
        {
//#endif
            var own: array<vec4<f32>, TILE_TIMES>;
//#if a_ACCESS == wide_octets
//#if TILE_ROWS_A_LANE == 1
            // All lanes load, one by one, unless none of a vector's does: not for rows that there are none of.
            var octet: Octet;
            if place.row + place.x < place.rows {
                octet = a_octet(a_at[G] + k);
            }
//#else
            let octet = a_octet(a_at[G] + k);
//#endif
            own[0] = octet.low;
            own[1] = octet.high;
//#else
//#for T in TILE_TIMES
            own[T] = a_block(place, a_at[G], k + T * 4u);
//#endfor
//#endif
//#for L in TILE_X
            {
                var quads: array<vec4<f32>, TILE_TIMES>;
//#for T in TILE_TIMES
                quads[T] = subgroupBroadcast(own[T], L);
//#endfor
//#for Q in TILE_QUADS
                {
                    var products = blocks[Q] * quads[0];
//#for T in TILE_TIMES_MORE
                    products += blocks[(T + 1u) * TILE_QUADS + Q] * quads[T + 1u];
//#endfor
                    (*sums)[(G * TILE_X + L) * TILE_QUADS + Q] += products;
                }
//#endfor
            }
//#endfor
        }
//#endfor
//#else
//#for R in TILE_ROWS
        {
            let quad = a_block(place, a_at[R], k);
//#for Q in TILE_QUADS
            (*sums)[R * TILE_QUADS + Q] += blocks[Q] * quad;
//#endfor
        }
//#endfor
//#endif
    }
//#endfor
//#if TILE_SOURCE == lanes
    lanes_add(sums, place);
//#endif
}
//#endif
//#endif
