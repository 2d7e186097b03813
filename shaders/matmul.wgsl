// C = A·B + bias, or C = A·Bᵀ + bias, for each batch; all row-major.
//
//   A [batch, M, K]     B [batch, K, N] or, transposed, [batch, N, K] (one for all batches if b_batch is 0)
//   bias [N], optional     C [batch, M, N]     each f32, f16 or bf16; A and B not of two different types of 16 bits
//   C[m, n] = Σ_k A[m, k] · B[k, n] + bias[n]
//
// One workgroup owns a tile of C, one invocation the rows and column quads that lib/tile.wgsl gives it. Barriers are
// those of the tile product. Products and sums are f32 whatever the storage type:
//   |ĉ − c| ≤ (K + 2) · 2⁻²⁴ · (Σ|a||b| + |bias|) to first order, in any order of summation,
//   and where C is f16 or bf16 half a ULP of it, since the finished sum is rounded once.

//#import lib/tile
//#import lib/grid
//#import lib/half
//#if b_ACCESS == texels
//#import lib/texels
//#endif
//#if a_ACCESS == wide_octets
//#import lib/octets
//#endif
//#import lib/load a
//#import lib/load b
//#import lib/store c
//#import lib/optional bias

struct Params {
    product: Product,
    // As lib/optional.wgsl has it.
    bias_at: u32,
    // As lib/store.wgsl has it.
    c_kind: u32,
    unused_0: u32,
    unused_1: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
//#if a_ACCESS == texels
@group(0) @binding(1) var a: texture_storage_2d<rgba32float, read>;
//#else
@group(0) @binding(1) var<storage, read> a: array<a_word>;
//#endif
//#if b_ACCESS == texels
@group(0) @binding(2) var b: texture_storage_2d<rgba32float, read>;
//#else
@group(0) @binding(2) var<storage, read> b: array<b_word>;
//#endif
@group(0) @binding(3) var<storage, read> bias: array<u32>;
@group(0) @binding(4) var<storage, read_write> c: array<c_word>;

@compute @workgroup_size(TILE_X * TILE_Y)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
//#if TILE_SOURCE == subgroup || TILE_SOURCE == cooperative
    @builtin(subgroup_invocation_id) number: u32,
//#else
    @builtin(local_invocation_index) number: u32,
//#endif
//#if TILE_SOURCE == cooperative
    @builtin(subgroup_id) subgroup: u32,
//#endif
) {
//#if TILE_SOURCE == cooperative
    let at = vec2<u32>(number, subgroup);
//#else
    let at = tile_invocation(number);
//#endif
    let index = workgroup_index(group);
    if index >= tiles_per_batch() * params.product.batches {
        return;
    }
    let place = tile_place(index, at);
    var sums = tile_start(place);
    tile_product(&sums, place, tile_depth(index));
    if !tile_stores(place) {
        return;
    }
//#for Q in TILE_QUADS
    {
        let column = tile_column(place, Q);
        if column < place.columns {
            let valid = place.columns - column;
            var addend = vec4<f32>();
            if params.product.finishes == 1u {
                addend = bias_quad(params.bias_at, column, valid);
            }
//#for R in TILE_ROWS
            if tile_row(place, R) < place.rows {
                c_store(tile_c(place, tile_row(place, R), column), valid, sums[R * TILE_QUADS + Q] + addend);
            }
//#endfor
        }
    }
//#endfor
}
