// The weighted routing step in one pass: Y = w ⊙ (X·Bᵀ + inner) + outer; all row-major.
//
//   X [N, K] f32     B [O, K]: f32, f16 or bf16     w [N] f32     inner, outer [O], type of B, each optional
//   Y [N, O] f32     Y[n, o] = w[n] · (Σ_k X[n, k] · B[o, k] + inner[o]) + outer[o]
//
// A weight is one number a token, so it commutes with the linear map and is applied once, to the finished sum. One
// workgroup owns a tile of Y, one invocation the rows and column quads that lib/tile.wgsl gives it (there A is X and
// C is Y). Barriers are those of the tile product. To first order, in any order of summation:
//   |ŷ − y| ≤ |w| · (K + 4) · 2⁻²⁴ · (Σ|x||b| + |inner|) + 2⁻²⁴ · |outer|

//#import lib/grid
//#import lib/tile
//#import lib/load a
//#import lib/load b
//#import lib/store c
//#if INNER
//#import lib/load inner
//#endif
//#if OUTER
//#import lib/load outer
//#endif

struct Params {
    product: Product,
    // Elements from the start of its binding to the first element of each.
    w_first: u32,
    inner_first: u32,
    outer_first: u32,
    unused: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> a: array<a_word>;
@group(0) @binding(2) var<storage, read> b: array<b_word>;
@group(0) @binding(3) var<storage, read> w: array<f32>;
//#if INNER
@group(0) @binding(4) var<storage, read> inner: array<inner_word>;
//#endif
//#if OUTER
@group(0) @binding(5) var<storage, read> outer: array<outer_word>;
//#endif
@group(0) @binding(6) var<storage, read_write> c: array<c_word>;

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
        var inside = vec4<f32>();
        var outside = vec4<f32>();
//#if INNER
        inside = inner_quad(params.inner_first + column, valid);
//#endif
//#if OUTER
        outside = outer_quad(params.outer_first + column, valid);
//#endif
        for (var r = 0u; r < TILE_ROWS; r++) {
            let row = tile_row(place, r);
            if row < params.product.rows {
                var y = sums[r * TILE_QUADS + q];
                if params.product.finishes == 1u {
                    y = w[params.w_first + row] * (y + inside) + outside;
                }
                c_store(tile_c(place, row, column), valid, y);
            }
        }
    }
}
