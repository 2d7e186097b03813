// The end of a product whose sum was cut into parts: Y = w ⊙ (Σ_p P[p] + inner) + outer; all row-major.
//
//   P [parts, N, O] f32     w [N] f32, optional     inner, outer [O], each optional     Y [N, O]: f32, f16 or bf16
//   Y[n, o] = w[n] · (Σ_p P[p, n, o] + inner[o]) + outer[o], with w = 1 where there is none
//
// One invocation owns a quad of columns of a row and adds its parts in order; there is no barrier. To first order:
//   |ŷ − y| ≤ |w| · (parts + 2) · 2⁻²⁴ · (Σ|p| + |inner|) + 2⁻²⁴ · |outer|, and half a ULP of a Y of 16 bits

//#import lib/grid
//#import lib/half
//#import lib/load p
//#import lib/store y
//#import lib/optional inner
//#import lib/optional outer

const LANES: u32 = 64u;

struct Params {
    parts: u32,
    rows: u32,
    columns: u32,
    // Elements from the start of its binding to the first element of each; a bias is as lib/optional.wgsl has it.
    p_first: u32,
    w_first: u32,
    inner_at: u32,
    outer_at: u32,
    y_first: u32,
    // As lib/store.wgsl has it.
    y_kind: u32,
    unused_0: u32,
    unused_1: u32,
    unused_2: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> p: array<p_word>;
//#if WEIGHTED
@group(0) @binding(2) var<storage, read> w: array<f32>;
//#endif
@group(0) @binding(3) var<storage, read> inner: array<u32>;
@group(0) @binding(4) var<storage, read> outer: array<u32>;
@group(0) @binding(5) var<storage, read_write> y: array<y_word>;

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let columns = params.columns;
    let quads = (columns + 3u) / 4u;
    let index = workgroup_index(group) * LANES + local;
    let row = index / quads;
    let column = (index % quads) * 4u;
    if row >= params.rows {
        return;
    }
    let left = columns - column;
    let at = row * columns + column;
    let each = params.rows * columns;
    // Parameters alone must not say how often a loop turns: lavapipe would compile it anew, each time that it is bound.
    let parts = select(0u, params.parts, left > 0u);
    var sum = vec4<f32>();
    for (var part = 0u; part < parts; part++) {
        sum += p_quad(params.p_first + part * each + at, left);
    }
    sum += inner_quad(params.inner_at, column, left);
//#if WEIGHTED
    sum *= w[params.w_first + row];
//#endif
    sum += outer_quad(params.outer_at, column, left);
    y_store(params.y_first + at, left, sum);
}
