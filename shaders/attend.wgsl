// The attention logit of each token: the dot product of its row with one vector, plus a bias.
//
//   X [N, K] f32     v [K]: f32, f16 or bf16     bias [1], type of v, optional     logits [N] f32
//   logits[n] = Σ_k X[n, k] · v[k] + bias
//
// A workgroup of LANES × ROWS invocations owns ROWS tokens; the LANES invocations of a row take its quads in turn, then
// add their sums in workgroup memory, halving each time (a barrier before each halving, for all invocations alike).
//   |ĉ − c| ≤ (K + 2) · 2⁻²⁴ · (Σ|x||v| + |bias|) to first order, in any order of summation.

//#import lib/grid
//#import lib/load x
//#import lib/load v
//#if BIAS
//#import lib/load bias
//#endif

// Invocations that share a row (a power of two), and rows of a workgroup.
const LANES: u32 = 16u;
const ROWS: u32 = 4u;

struct Params {
    rows: u32,
    depth: u32,
    // Elements from the start of its binding to the first element of each.
    x_first: u32,
    v_first: u32,
    bias_first: u32,
    logits_first: u32,
    unused_0: u32,
    unused_1: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<x_word>;
@group(0) @binding(2) var<storage, read> v: array<v_word>;
//#if BIAS
@group(0) @binding(3) var<storage, read> bias: array<bias_word>;
//#endif
@group(0) @binding(4) var<storage, read_write> logits: array<f32>;

var<workgroup> sums: array<f32, LANES * ROWS>;

@compute @workgroup_size(LANES, ROWS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) local: vec3<u32>) {
    let row = workgroup_index(group) * ROWS + local.y;
    var sum = 0.0;
    if row < params.rows {
        let first = params.x_first + row * params.depth;
        for (var k = local.x * 4u; k < params.depth; k += LANES * 4u) {
            let left = params.depth - k;
            sum += dot(x_quad(first + k, left), v_quad(params.v_first + k, left));
        }
    }
    let at = local.y * LANES + local.x;
    sums[at] = sum;
    for (var half = LANES / 2u; half > 0u; half /= 2u) {
        workgroupBarrier();
        if local.x < half {
            sums[at] += sums[at + half];
        }
    }
    if local.x == 0u && row < params.rows {
        var logit = sums[at];
//#if BIAS
        logit += bias_quad(params.bias_first, 1u).x;
//#endif
        logits[params.logits_first + row] = logit;
    }
}
