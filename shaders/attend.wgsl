// The attention logit of each token: the dot product of its row with one vector, plus a bias.
//
//   X [N, K], v [K]: f32, f16 or bf16, not two different types of 16 bits     bias [1], optional     logits [N] f32
//   logits[n] = Σ_k X[n, k] · v[k] + bias
//   packed, where PACKS: X as pack.wgsl lays it out, with one run, for the product that comes next: what is read here is not
//       read again
//
// A workgroup of LANES × ROWS invocations owns ROWS·EACH tokens; the LANES invocations of a row take the quads of its EACH
// tokens in turn, so that a quad of v is read once for all of them, and lib/lanes.wgsl adds their sums.
//   |ĉ − c| ≤ (K + 2) · 2⁻²⁴ · (Σ|x||v| + |bias|) to first order, in any order of summation.

//#import lib/grid
//#import lib/half
//#import lib/lanes
//#import lib/load x
//#import lib/load v
//#import lib/optional bias
//#if PACKS
//#import lib/texels
//#endif

// Tokens of an invocation.
const EACH: u32 = 4u;

struct Params {
    rows: u32,
    depth: u32,
    // Elements from the start of its binding to the first element of each; a bias is as lib/optional.wgsl has it.
    x_first: u32,
    v_first: u32,
    bias_at: u32,
    logits_first: u32,
    // Rows of a panel of X packed, a multiple of EACH.
    panel: u32,
    unused: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<x_word>;
@group(0) @binding(2) var<storage, read> v: array<v_word>;
@group(0) @binding(3) var<storage, read> bias: array<u32>;
@group(0) @binding(4) var<storage, read_write> logits: array<f32>;
//#if PACKS
@group(0) @binding(5) var packed: texture_storage_2d<rgba32float, write>;
//#endif

@compute @workgroup_size(LANES, ROWS)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_id) local: vec3<u32>,
//#if LANES_BY == subgroup
    @builtin(subgroup_invocation_id) in_subgroup: u32,
//#endif
) {
//#if LANES_BY == subgroup
    let lane = Lane(0u, in_subgroup);
//#else
    let lane = Lane(local.y, local.x);
//#endif
    let rows = params.rows;
    let depth = params.depth;
    let v_first = params.v_first;
    let row = (workgroup_index(group) * ROWS + lane.row) * EACH;
    // Rows past the end are the last row, and their sums are not stored.
    var starts: array<u32, EACH>;
    var sums: array<f32, EACH>;
//#for E in EACH
    starts[E] = params.x_first + min(row + E, rows - 1u) * depth;
//#endfor
//#if PACKS
    let panel = params.panel;
    let quads = (depth + 3u) / 4u;
    let texels = row / panel * ((quads + 1u) / 2u * 2u) * panel + row % panel;
    // pack.wgsl ends with an even quad.
    if quads % 2u == 1u && lane.lane == 0u {
//#for E in EACH
        textureStore(packed, texel_place(texels + quads * panel + E), vec4<f32>());
//#endfor
    }
//#endif
    for (var k = lane.lane * 4u; k < depth; k += LANES * 4u) {
        let of_v = v_quad(v_first + k, depth - k);
        // All are read before any is written, so that CPUs wait for what several rows miss in the cache at a time.
        var of_x: array<vec4<f32>, EACH>;
//#for E in EACH
        of_x[E] = x_quad(starts[E] + k, depth - k);
//#endfor
//#for E in EACH
        sums[E] += dot(of_x[E], of_v);
//#if PACKS
        {
            let inside = select(vec4<f32>(), of_x[E], row + E < rows);
            textureStore(packed, texel_place(texels + k / 4u * panel + E), inside);
        }
//#endif
//#endfor
    }
//#for E in EACH
    {
        let sum = lanes_add(lane, sums[E]);
        if lane.lane == 0u && row + E < rows {
            logits[params.logits_first + row + E] = sum + bias_quad(params.bias_at, 0u, 1u).x;
        }
    }
//#endfor
}
