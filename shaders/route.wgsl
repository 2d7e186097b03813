// The weighted routing step in one pass: Y = w ⊙ (X·Bᵀ + inner) + outer; all row-major.
//
//   X [N, K], B [O, K]: f32, f16 or bf16, not two different types of 16 bits     w [N] f32     inner, outer [O], each optional
//   Y [N, O] f32, f16 or bf16     Y[n, o] = w[n] · (Σ_k X[n, k] · B[o, k] + inner[o]) + outer[o]
//
// A weight is one number a token, so it commutes with the linear map and is applied once, to the finished sum. One
// workgroup owns a tile of Y, one invocation the rows and column quads that lib/tile.wgsl gives it (there A is X and
// C is Y). Barriers are those of the tile product. To first order, in any order of summation:
//   |ŷ − y| ≤ |w| · (K + 4) · 2⁻²⁴ · (Σ|x||b| + |inner|) + 2⁻²⁴ · |outer|, and half a ULP of a Y of 16 bits

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
//#import lib/optional inner
//#import lib/optional outer

struct Params {
    product: Product,
    // Elements from the start of its binding to the first element of each; a bias is as lib/optional.wgsl has it.
    w_first: u32,
    inner_at: u32,
    outer_at: u32,
    // As lib/store.wgsl has it.
    c_kind: u32,
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
@group(0) @binding(3) var<storage, read> w: array<f32>;
@group(0) @binding(4) var<storage, read> inner: array<u32>;
@group(0) @binding(5) var<storage, read> outer: array<u32>;
@group(0) @binding(6) var<storage, read_write> c: array<c_word>;

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
            let inside = inner_quad(params.inner_at, column, valid);
            let outside = outer_quad(params.outer_at, column, valid);
//#for R in TILE_ROWS
            if tile_row(place, R) < place.rows {
                let sum = sums[R * TILE_QUADS + Q];
                let y = w[params.w_first + tile_row(place, R)] * (sum + inside) + outside;
                // A sum that goes on in another dispatch is stored as it is.
                c_store(
                    tile_c(place, tile_row(place, R), column),
                    valid,
                    select(sum, y, params.product.finishes == 1u),
                );
            }
//#endfor
        }
    }
//#endfor
}
