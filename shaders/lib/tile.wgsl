// The tile product: one workgroup's tile of A·B or A·Bᵀ, shared by every kernel that multiplies matrices.
//
// A workgroup of TILE_X × TILE_Y invocations owns TILE_Y·TILE_ROWS rows and TILE_X·TILE_QUADS·4 columns of the product;
// invocation (x, y) owns rows y·TILE_ROWS + r and the column quads x + q·TILE_X, so that neighbours in x touch
// neighbouring quads. The kernel that imports this file supplies the operands a and b through lib/load.wgsl, the output
// c through lib/store.wgsl and `params.product`; it decides what happens to the accumulators (its epilogue).
//
// TILE_SOURCE says where an invocation finds its operands:
//   direct    it reads them straight from memory; no barrier (few rows);
//   shared    the workgroup stages TILE_DEPTH of k at a time in workgroup memory;
//   subgroup  the workgroup is one subgroup: each lane reads the rows of A whose number is its own, modulo TILE_X, and
//             hands them round; B straight from memory; no barrier (software adapters).
// Accumulators are indexed by constants (//#for), so that compilers keep them apart.
//
// Either way element (m, n) is the sum over quads of k, in ascending order, of the four products of a quad added left
// to right; the order as written does not depend on the tile. A product too deep for one dispatch goes on where the
// last one stopped: its accumulators start from what that one stored.

const TILE_X: u32 = 8u;
const TILE_Y: u32 = 8u;
const TILE_ROWS: u32 = 4u;
const TILE_QUADS: u32 = 1u;
const TILE_DEPTH: u32 = 16u;

const TILE_M: u32 = TILE_Y * TILE_ROWS;
const TILE_N: u32 = TILE_X * TILE_QUADS * 4u;

// One dispatch's share of C[batch] = A[batch] · B[batch]. Firsts and strides count elements; a first counts from the
// start of the binding, `batch` strides are 0 where all batches share an operand.
struct Product {
    rows: u32,
    columns: u32,
    depth: u32,
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
    unused: u32,
}

alias Accumulators = array<vec4<f32>, TILE_ROWS * TILE_QUADS>;

// Where an invocation's part of the product lies, and where its operands start.
struct TilePlace {
    // First row and first column of the workgroup's tile.
    row: u32,
    column: u32,
    // The invocation within the workgroup.
    x: u32,
    y: u32,
    // Elements from the start of the binding to A[0, 0], B[0, 0] and C[0, 0] of this batch.
    a_first: u32,
    b_first: u32,
    c_first: u32,
}

fn tiles_per_batch() -> u32 {
    return ((params.product.rows + TILE_M - 1u) / TILE_M) * ((params.product.columns + TILE_N - 1u) / TILE_N);
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
    );
}

fn tile_row(place: TilePlace, r: u32) -> u32 {
    return place.row + place.y * TILE_ROWS + r;
}

fn tile_column(place: TilePlace, q: u32) -> u32 {
    return place.column + (place.x + q * TILE_X) * 4u;
}

// A[row, k .. k + 4]; rows past the end read the last row, and their products are never stored.
fn a_block(place: TilePlace, row: u32, k: u32) -> vec4<f32> {
    return a_quad(place.a_first + min(row, params.product.rows - 1u) * params.product.a_stride + k, params.product.depth - k);
}

// The 4 × 4 block of B that multiplies a quad of k into a quad of columns: column i of the result is B[k + i, n .. n + 4].
fn b_block(place: TilePlace, k: u32, n: u32) -> mat4x4<f32> {
//#if B_TRANSPOSED
    let left = params.product.depth - k;
    let last = params.product.columns - 1u;
    return transpose(mat4x4<f32>(
        b_quad(place.b_first + min(n, last) * params.product.b_stride + k, left),
        b_quad(place.b_first + min(n + 1u, last) * params.product.b_stride + k, left),
        b_quad(place.b_first + min(n + 2u, last) * params.product.b_stride + k, left),
        b_quad(place.b_first + min(n + 3u, last) * params.product.b_stride + k, left),
    ));
//#else
    return mat4x4<f32>(b_row(place, k, n), b_row(place, k + 1u, n), b_row(place, k + 2u, n), b_row(place, k + 3u, n));
//#endif
}

//#if !B_TRANSPOSED
// B[k, n .. n + 4]; 0 past the end of k or of the columns.
fn b_row(place: TilePlace, k: u32, n: u32) -> vec4<f32> {
    if k >= params.product.depth || n >= params.product.columns {
        return vec4<f32>();
    }
    return b_quad(place.b_first + k * params.product.b_stride + n, params.product.columns - n);
}
//#endif

// The sum over the k before this dispatch's: 0 at the start, else what C holds.
fn tile_start(place: TilePlace) -> Accumulators {
    var sums: Accumulators;
    if params.product.continues == 1u {
//#for R in TILE_ROWS
//#for Q in TILE_QUADS
        sums[R * TILE_QUADS + Q] = tile_load(place, tile_row(place, R), tile_column(place, Q));
//#endfor
//#endfor
    }
    return sums;
}

fn tile_load(place: TilePlace, row: u32, column: u32) -> vec4<f32> {
    if row >= params.product.rows || column >= params.product.columns {
        return vec4<f32>();
    }
    return c_load(tile_c(place, row, column), params.product.columns - column);
}

// Where C[row, column] is stored.
fn tile_c(place: TilePlace, row: u32, column: u32) -> u32 {
    return place.c_first + row * params.product.c_stride + column;
}

//#if TILE_SOURCE == shared
const TILE_K_QUADS: u32 = TILE_DEPTH / 4u;
const TILE_N_QUADS: u32 = TILE_X * TILE_QUADS;

// [row][quad of k]: all invocations of a row of the workgroup read the same quad.
var<workgroup> a_tile: array<vec4<f32>, TILE_M * TILE_K_QUADS>;
// [k][quad of columns]: neighbours in x read neighbouring quads.
var<workgroup> b_tile: array<vec4<f32>, TILE_DEPTH * TILE_N_QUADS>;

// Adds A·B over all of depth to the accumulators.
fn tile_product(sums: ptr<function, Accumulators>, place: TilePlace) {
    let invocation = place.y * TILE_X + place.x;
    for (var k = 0u; k < params.product.depth; k += TILE_DEPTH) {
        for (var i = invocation; i < TILE_M * TILE_K_QUADS; i += TILE_X * TILE_Y) {
            let at = k + (i % TILE_K_QUADS) * 4u;
            var quad = vec4<f32>();
            if at < params.product.depth {
                quad = a_block(place, place.row + i / TILE_K_QUADS, at);
            }
            a_tile[i] = quad;
        }
        for (var i = invocation; i < TILE_K_QUADS * TILE_N_QUADS; i += TILE_X * TILE_Y) {
            let k_quad = i % TILE_K_QUADS;
            let n_quad = i / TILE_K_QUADS;
            let at = k + k_quad * 4u;
            var block = mat4x4<f32>();
            if at < params.product.depth {
                block = b_block(place, at, place.column + n_quad * 4u);
            }
            let first = k_quad * 4u * TILE_N_QUADS + n_quad;
            b_tile[first] = block[0];
            b_tile[first + TILE_N_QUADS] = block[1];
            b_tile[first + 2u * TILE_N_QUADS] = block[2];
            b_tile[first + 3u * TILE_N_QUADS] = block[3];
        }
        // The stage is complete before anyone reads it.
        workgroupBarrier();
        for (var k_quad = 0u; k_quad < TILE_K_QUADS; k_quad++) {
            let first = k_quad * 4u * TILE_N_QUADS + place.x;
            var blocks: array<mat4x4<f32>, TILE_QUADS>;
//#for Q in TILE_QUADS
            blocks[Q] = mat4x4<f32>(
                b_tile[first + Q * TILE_X],
                b_tile[first + Q * TILE_X + TILE_N_QUADS],
                b_tile[first + Q * TILE_X + 2u * TILE_N_QUADS],
                b_tile[first + Q * TILE_X + 3u * TILE_N_QUADS],
            );
//#endfor
//#for R in TILE_ROWS
            {
                let quad = a_tile[(place.y * TILE_ROWS + R) * TILE_K_QUADS + k_quad];
//#for Q in TILE_QUADS
                (*sums)[R * TILE_QUADS + Q] += blocks[Q] * quad;
//#endfor
            }
//#endfor
        }
        // Everyone has read the stage before the next one overwrites it.
        workgroupBarrier();
    }
}
//#else
// Adds A·B over all of depth to the accumulators.
fn tile_product(sums: ptr<function, Accumulators>, place: TilePlace) {
    for (var k = 0u; k < params.product.depth; k += 4u) {
        var blocks: array<mat4x4<f32>, TILE_QUADS>;
//#for Q in TILE_QUADS
        blocks[Q] = b_block(place, k, tile_column(place, Q));
//#endfor
//#if TILE_SOURCE == subgroup
//#for G in TILE_ROWS_A_LANE
        {
            let own = a_block(place, tile_row(place, G * TILE_X + place.x), k);
//#for L in TILE_X
            {
                let quad = subgroupBroadcast(own, L);
//#for Q in TILE_QUADS
                (*sums)[(G * TILE_X + L) * TILE_QUADS + Q] += blocks[Q] * quad;
//#endfor
            }
//#endfor
        }
//#endfor
//#else
//#for R in TILE_ROWS
        {
            let quad = a_block(place, tile_row(place, R), k);
//#for Q in TILE_QUADS
            (*sums)[R * TILE_QUADS + Q] += blocks[Q] * quad;
//#endfor
        }
//#endfor
//#endif
    }
}
//#endif
