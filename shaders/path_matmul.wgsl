// The matrix products of a routing's second level, each row with the weights of its path; all row-major.
//
//   A [N, K], B [P, O, K]: f32, f16 or bf16, not two different types of 16 bits     offsets [P + 1] u32
//   bias [P, O], optional     C [rows, O]     each f32, f16 or bf16
//   C[r, o] = Σ_k A[source(r), k] · B[p, o, k] + bias[p, o]     for offsets[p] ≤ r < offsets[p + 1]
//   GATHERED: source(r) = order[r] / divisor, with order [rows] u32; otherwise source(r) = r
//   SWISH: with S [rows, O] C[r, o] = silu(S[r, o]) · (…), with silu(s) = s / (1 + e⁻ˢ)
// Rows from offsets[P] on are not written.
//
// One workgroup owns a tile of one path's rows; nobody but the device knows how many each path has, so the grid is an upper
// bound and workgroups without a tile leave. Path p's tiles start at workgroup (in rows of tiles) offsets[p] / GRAIN + p · STEP,
// found by bisection: with GRAIN = TILE_M and STEP = 1 that leaves room for the last tile of every path, ⌊rows / TILE_M⌋ + P in
// all; with GRAIN = 1 and STEP = 0 every row has a workgroup, of which those at the start of a tile work: cheaper where
// there are fewer rows than paths. Barriers are those of the tile product. To first order, in any order of summation:
//   |ĉ − c| ≤ (K + 2) · 2⁻²⁴ · (Σ|a||b| + |bias|), with S times |silu(s)| and (K + 19 + 4|s|) for (K + 2);
//   and half a ULP of a C of 16 bits

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
//#if SWISH
//#if c_ACCESS != quads
//#import lib/optional s
//#endif
//#endif

struct Params {
    product: Product,
    paths: u32,
    // Rows of A have this many rows of C each, one after the other in the numbers of order.
    divisor: u32,
    // 1: a workgroup for every row, 0: for every tile and path.
    by_rows: u32,
    // Elements from the start of its binding to the first element of each; bias and s are as lib/optional.wgsl has it.
    offsets_first: u32,
    order_first: u32,
    bias_at: u32,
    s_at: u32,
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
@group(0) @binding(3) var<storage, read> offsets: array<u32>;
//#if A_GATHERED
@group(0) @binding(4) var<storage, read> order: array<u32>;
//#endif
@group(0) @binding(5) var<storage, read> bias: array<u32>;
//#if SWISH
//#if c_ACCESS == quads
// As C is written: in quads of f32.
@group(0) @binding(6) var<storage, read> s: array<vec4<f32>>;
//#else
@group(0) @binding(6) var<storage, read> s: array<u32>;
//#endif
//#endif
@group(0) @binding(7) var<storage, read_write> c: array<c_word>;

//#if A_GATHERED
// The row of A that row `row` of C comes from.
fn a_row(row: u32) -> u32 {
    return min(order[params.order_first + row] / params.divisor, params.product.rows - 1u);
}
//#endif

// The row of tiles that path p's tiles start at.
fn tiles_before(p: u32) -> u32 {
    let offset = offsets[params.offsets_first + p];
    return select(offset / TILE_M + p, offset, params.by_rows == 1u);
}

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
    let across = (params.product.columns + TILE_N - 1u) / TILE_N;
    // These paths may be some of all: their tiles start at 0.
    let of_tiles = index / across + tiles_before(0u);
    var path = 0u;
    var beyond = params.paths;
    while beyond - path > 1u {
        let middle = (path + beyond) / 2u;
        if tiles_before(middle) <= of_tiles {
            path = middle;
        } else {
            beyond = middle;
        }
    }
    let first = offsets[params.offsets_first + path];
    let count = offsets[params.offsets_first + path + 1u] - first;
    let row = (of_tiles - tiles_before(path)) * select(TILE_M, 1u, params.by_rows == 1u);
    if row >= count || row % TILE_M != 0u {
        return;
    }
    let place = TilePlace(
        row,
        (index % across) * TILE_N,
        at.x,
        at.y,
        params.product.a_first,
        params.product.b_first + path * params.product.b_batch,
        params.product.c_first + first * params.product.c_stride,
        count,
        params.product.columns,
        params.product.depth,
        params.product.a_stride,
        params.product.b_stride,
        params.product.c_stride,
        first,
    );
    var sums: Accumulators;
    tile_product(&sums, place, params.product.depth);
    if !tile_stores(place) {
        return;
    }
//#if SWISH
    let s_at = params.s_at;
//#endif
//#for Q in TILE_QUADS
    {
        let column = tile_column(place, Q);
        if column < place.columns {
            let valid = place.columns - column;
            let addend = bias_quad(params.bias_at, path * place.columns + column, valid);
//#for R in TILE_ROWS
            if tile_row(place, R) < place.rows {
                let at_c = tile_c(place, tile_row(place, R), column);
                var product = sums[R * TILE_QUADS + Q] + addend;
//#if SWISH
                let of_s = (first + tile_row(place, R)) * place.columns + column;
//#if c_ACCESS == quads
                product *= silu(s[((s_at >> 2u) + of_s) >> 2u]);
//#else
                product *= silu(s_quad(s_at, of_s, valid));
//#endif
//#endif
                c_store(at_c, valid, product);
            }
//#endfor
        }
    }
//#endfor
}

//#if SWISH
// exp of a positive argument only where it is small: no overflow.
fn silu(s: vec4<f32>) -> vec4<f32> {
    let below = exp(-abs(s));
    return s * select(below, vec4<f32>(1.0), s >= vec4<f32>()) / (1.0 + below);
}
//#endif
