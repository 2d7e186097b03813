// Softmax over the middle axis of a [outer, length, inner] tensor, row-major, with an optional number of unmasked
// positions for each outer index.
//
//   x [outer, length, inner] f32     lengths [outer] u32, optional     y like x (the same memory if IN_PLACE)
//   y[o, p, i] = exp(x[o, p, i] − max) / Σ exp(x[o, ·, i] − max), maximum and sum over p < lengths[o];
//   y = 0 where p ≥ lengths[o], so a fully masked row is all 0; exactly 1 where one position is left.
//
// Work: COLUMNS false (inner = 1): LANES invocations share a row, ROWS rows a workgroup; a lane takes the row's quads in
// turn, and lanes reduce in workgroup memory (a barrier before each halving, and one before the memory is used again).
// COLUMNS true: one invocation owns a quad of inner columns; it needs no barrier.
// A row of at most `chunk` positions is done by one dispatch (STAGE == whole). A longer one is cut into chunks:
// STAGE == partial leaves each chunk's maximum and sum, STAGE == apply merges them, in order, and writes y.
//
// Nothing here relies on Inf or NaN: a maximum starts from an element, and differences are taken halved so that they
// cannot overflow. Relative error of an element, with E(d) = (3 + 2d) · 2⁻²³ for exp and d · 2⁻²⁴ for its argument:
//   E(max − x) + Σ y·E + (length + 4) · 2⁻²⁴ + 2.5 · 2⁻²³

//#import lib/grid
//#if !IN_PLACE
//#import lib/load x
//#endif
//#if STAGE != partial || IN_PLACE
//#import lib/store y
//#endif

const LANES: u32 = 32u;
const ROWS: u32 = 2u;

struct Params {
    outer: u32,
    length: u32,
    inner: u32,
    chunk: u32,
    // Elements from the start of its binding to the first element of each.
    x_first: u32,
    y_first: u32,
    lengths_first: u32,
    unused: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
//#if !IN_PLACE
@group(0) @binding(1) var<storage, read> x: array<x_word>;
//#endif
//#if MASKED
@group(0) @binding(2) var<storage, read> lengths: array<u32>;
//#endif
//#if STAGE == apply
// Maximum and sum of [chunk] of [outer, inner]; a sum of 0 marks a chunk without an unmasked position.
@group(0) @binding(3) var<storage, read> partials: array<vec2<f32>>;
//#endif
//#if STAGE == partial
@group(0) @binding(3) var<storage, read_write> partials: array<vec2<f32>>;
//#endif
//#if STAGE != partial || IN_PLACE
@group(0) @binding(4) var<storage, read_write> y: array<y_word>;
//#endif

fn x_load(first: u32, valid: u32) -> vec4<f32> {
//#if IN_PLACE
    return y_load(first, valid);
//#else
    return x_quad(first, valid);
//#endif
}

fn unmasked(outer: u32) -> u32 {
//#if MASKED
    return min(lengths[params.lengths_first + outer], params.length);
//#else
    return params.length;
//#endif
}

// exp(x − maximum); below −128 the result is 0 in f32 whatever the difference.
fn exp_below(x: vec4<f32>, maximum: vec4<f32>) -> vec4<f32> {
    return exp(2.0 * max(0.5 * x - 0.5 * maximum, vec4<f32>(-64.0)));
}

fn chunks() -> u32 {
    return (params.length + params.chunk - 1u) / params.chunk;
}

//#if STAGE == apply
// Maximum and sum of a whole row from those of its chunks.
fn merge(row: u32) -> vec2<f32> {
    var merged = partials[row * chunks()];
    for (var c = 1u; c < chunks(); c++) {
        let next = partials[row * chunks() + c];
        if next.y > 0.0 {
            let maximum = max(merged.x, next.x);
            merged = vec2<f32>(
                maximum,
                merged.y * exp_below(merged.xxxx, vec4<f32>(maximum)).x + next.y * exp_below(next.xxxx, vec4<f32>(maximum)).x,
            );
        }
    }
    return merged;
}
//#endif

//#if COLUMNS
@compute @workgroup_size(LANES, ROWS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) local: vec3<u32>) {
    // Quads of columns vary fastest, so that neighbours read neighbouring memory.
    let quads = (params.inner + 3u) / 4u;
    let across = (quads + LANES * ROWS - 1u) / (LANES * ROWS);
    let index = workgroup_index(group);
    let column = ((index % across) * LANES * ROWS + local.y * LANES + local.x) * 4u;
    let chunk = (index / across) % chunks();
    let outer = index / across / chunks();
    if outer >= params.outer || column >= params.inner {
        return;
    }
    let left = params.inner - column;
    let length = unmasked(outer);
    let begin = chunk * params.chunk;
    let end = min(begin + params.chunk, params.length);
    let unmasked_end = min(end, length);
    let x_column = params.x_first + outer * params.length * params.inner + column;

    var maximum = vec4<f32>();
    var sum = vec4<f32>();
//#if STAGE == apply
    let row = outer * params.inner + column;
    let merged_0 = merge(row);
    let merged_1 = merge(row + min(1u, left - 1u));
    let merged_2 = merge(row + min(2u, left - 1u));
    let merged_3 = merge(row + min(3u, left - 1u));
    maximum = vec4<f32>(merged_0.x, merged_1.x, merged_2.x, merged_3.x);
    sum = vec4<f32>(merged_0.y, merged_1.y, merged_2.y, merged_3.y);
//#else
    if begin < unmasked_end {
        maximum = x_load(x_column + begin * params.inner, left);
        for (var p = begin + 1u; p < unmasked_end; p++) {
            maximum = max(maximum, x_load(x_column + p * params.inner, left));
        }
        for (var p = begin; p < unmasked_end; p++) {
            sum += exp_below(x_load(x_column + p * params.inner, left), maximum);
        }
    }
//#endif
//#if STAGE == partial
    for (var i = 0u; i < min(left, 4u); i++) {
        partials[(outer * params.inner + column + i) * chunks() + chunk] = vec2<f32>(maximum[i], sum[i]);
    }
//#else
    let y_column = params.y_first + outer * params.length * params.inner + column;
    for (var p = begin; p < end; p++) {
        var quad = vec4<f32>();
        if p < unmasked_end {
            quad = vec4<f32>(1.0);
            if length > 1u {
                quad = exp_below(x_load(x_column + p * params.inner, left), maximum) / sum;
            }
        }
        y_store(y_column + p * params.inner, left, quad);
    }
//#endif
}
//#else
var<workgroup> shared_lanes: array<f32, LANES * ROWS>;

// The maximum, or the sum, of the values of a row's lanes, known to all of them. Every invocation of the workgroup calls it.
fn reduce(local: vec3<u32>, value: f32, sum: bool) -> f32 {
    let row = local.y * LANES;
    let at = row + local.x;
    shared_lanes[at] = value;
    for (var half = LANES / 2u; half > 0u; half /= 2u) {
        workgroupBarrier();
        if local.x < half {
            let other = shared_lanes[at + half];
            shared_lanes[at] = select(max(shared_lanes[at], other), shared_lanes[at] + other, sum);
        }
    }
    workgroupBarrier();
    let result = shared_lanes[row];
    // All have read the result before the memory is used again.
    workgroupBarrier();
    return result;
}

@compute @workgroup_size(LANES, ROWS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) local: vec3<u32>) {
    let index = workgroup_index(group);
    let chunk = index % chunks();
    let outer = (index / chunks()) * ROWS + local.y;
    let begin = chunk * params.chunk;
    var length = 0u;
    var end = begin;
    if outer < params.outer {
        length = unmasked(outer);
        end = min(begin + params.chunk, params.length);
    }
    let unmasked_end = min(end, length);
    let x_row = params.x_first + outer * params.length;

    var maximum = 0.0;
    var sum = 0.0;
//#if STAGE == apply
    if outer < params.outer {
        let merged = merge(outer);
        maximum = merged.x;
        sum = merged.y;
    }
//#else
    if begin < unmasked_end {
        maximum = x_load(x_row + begin, params.length - begin).x;
    }
    for (var p = begin + local.x * 4u; p < unmasked_end; p += LANES * 4u) {
        let quad = x_load(x_row + p, params.length - p);
        // Masked positions stand in for the quad's first, which is unmasked.
        let known = select(quad.xxxx, quad, vec4<u32>(0u, 1u, 2u, 3u) < vec4<u32>(unmasked_end - p));
        maximum = max(maximum, max(max(known.x, known.y), max(known.z, known.w)));
    }
    maximum = reduce(local, maximum, false);
    for (var p = begin + local.x * 4u; p < unmasked_end; p += LANES * 4u) {
        let quad = exp_below(x_load(x_row + p, params.length - p), vec4<f32>(maximum));
        let known = select(vec4<f32>(), quad, vec4<u32>(0u, 1u, 2u, 3u) < vec4<u32>(unmasked_end - p));
        sum += (known.x + known.y) + (known.z + known.w);
    }
    sum = reduce(local, sum, true);
//#endif
//#if STAGE == partial
    if outer < params.outer && local.x == 0u {
        partials[outer * chunks() + chunk] = vec2<f32>(maximum, sum);
    }
//#else
    let y_row = params.y_first + outer * params.length;
    for (var p = begin + local.x * 4u; p < end; p += LANES * 4u) {
        var quad = vec4<f32>();
        if p < unmasked_end {
            quad = vec4<f32>(1.0);
            if length > 1u {
                quad = exp_below(x_load(x_row + p, params.length - p), vec4<f32>(maximum)) / sum;
            }
            quad = select(vec4<f32>(), quad, vec4<u32>(0u, 1u, 2u, 3u) < vec4<u32>(unmasked_end - p));
        }
        y_store(y_row + p, params.length - p, quad);
    }
//#endif
}
//#endif
