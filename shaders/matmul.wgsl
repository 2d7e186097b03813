// C = A·B + bias, or C = A·Bᵀ + bias, for each batch; all row-major.
//
//   A [batch, M, K] f32     B [batch, K, N] or, transposed, [batch, N, K] (f32, f16 or bf16; one for all batches if b_batch is 0)
//   bias [N], type of B     C [batch, M, N] f32
//   C[m, n] = Σ_k A[m, k] · B[k, n] + bias[n]
//
// One workgroup owns a tile of C, one invocation the rows and column quads that lib/tile.wgsl gives it. Barriers are
// those of the tile product. Products and sums are f32 whatever the storage type:
//   |ĉ − c| ≤ (K + 2) · 2⁻²⁴ · (Σ|a||b| + |bias|) to first order, in any order of summation.

//#import lib/grid
//#import lib/tile
//#import lib/load a
//#import lib/load b
//#import lib/store c
//#if BIAS
//#import lib/load bias
//#endif

struct Params {
    product: Product,
    // Elements from the start of its binding to bias[0].
    bias_first: u32,
    unused_0: u32,
    unused_1: u32,
    unused_2: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> a: array<a_word>;
@group(0) @binding(2) var<storage, read> b: array<b_word>;
//#if BIAS
@group(0) @binding(3) var<storage, read> bias: array<bias_word>;
//#endif
@group(0) @binding(4) var<storage, read_write> c: array<c_word>;

@compute @workgroup_size(TILE_X, TILE_Y)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) local: vec3<u32>) {
    let index = workgroup_index(group);
    if index >= tiles_per_batch() * params.product.batches {
        return;
    }
    let place = tile_place(index, local);
    var sums = tile_start(place);
    tile_product(&sums, place);
    for (var q = 0u; q < TILE_QUADS; q++) {
        let column = tile_column(place, q);
        if column >= params.product.columns {
            continue;
        }
        let valid = params.product.columns - column;
        var addend = vec4<f32>();
//#if BIAS
        if params.product.finishes == 1u {
            addend = bias_quad(params.bias_first + column, valid);
        }
//#endif
        for (var r = 0u; r < TILE_ROWS; r++) {
            let row = tile_row(place, r);
            if row < params.product.rows {
                c_store(tile_c(place, row, column), valid, sums[r * TILE_QUADS + q] + addend);
            }
        }
    }
}
