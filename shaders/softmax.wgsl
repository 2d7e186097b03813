// Softmax over the middle axis of a [outer, length, inner] tensor, row-major, with an optional number of unmasked
// positions for each outer index.
//
//   x [outer, length, inner] f32     lengths [outer] u32, optional     y like x (the same memory if IN_PLACE)
//   y[o, p, i] = exp(x[o, p, i] − max) / Σ exp(x[o, ·, i] − max), maximum and sum over p < lengths[o];
//   y = 0 where p ≥ lengths[o], so a fully masked row is all 0; exactly 1 where one position is left.
//
// Work: COLUMNS false (inner = 1): LANES invocations share a row, ROWS rows a workgroup; a lane takes the row's quads in
// turn, BLOCK of them at a time in registers. Where KEPT, a block is all that a lane has of its row, so x is read once;
// otherwise the sum follows the maximum from block to block, and x is read again to be divided. Lanes reduce as
// lib/lanes.wgsl has it.
// COLUMNS true: one invocation owns a quad of inner columns; it needs no barrier.
// A row of at most `chunk` positions is done by one dispatch (STAGE == whole). A longer one is cut into chunks:
// STAGE == partial leaves each chunk's maximum and sum, STAGE == apply merges them, in order, and writes y.
//
// Nothing here relies on Inf or NaN: a maximum starts from an element, and differences are taken halved so that they
// cannot overflow. Relative error of an element, with E(d) = (3 + 2d) · 2⁻²³ for exp and d · 2⁻²⁴ for its argument:
//   E(max − x) + Σ y·E + (length + 4) · 2⁻²⁴ + 2.5 · 2⁻²³

//#import lib/grid
//#if !COLUMNS
//#import lib/lanes
//#endif
//#if !IN_PLACE
//#import lib/load x
//#endif
//#if STAGE != partial || IN_PLACE
//#import lib/store y
//#endif

//#if COLUMNS
const LANES: u32 = 64u;
const ROWS: u32 = 1u;
//#else
// Quads that an invocation holds at a time.
const BLOCK: u32 = 4u;
//#endif

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
    let count = chunks();
    var merged = partials[row * count];
    for (var c = 1u; c < count; c++) {
        let next = partials[row * count + c];
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
    let inner = params.inner;
    let left = inner - column;
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
        maximum = x_load(x_column + begin * inner, left);
        for (var p = begin + 1u; p < unmasked_end; p++) {
            maximum = max(maximum, x_load(x_column + p * inner, left));
        }
        for (var p = begin; p < unmasked_end; p++) {
            sum += exp_below(x_load(x_column + p * inner, left), maximum);
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
                quad = exp_below(x_load(x_column + p * inner, left), maximum) / sum;
            }
        }
        y_store(y_column + p * inner, left, quad);
    }
//#endif
}
//#else
// Of a quad that begins at p, the positions before `end`; `other` stands in for those behind it.
fn before(quad: vec4<f32>, p: u32, end: u32, other: f32) -> vec4<f32> {
    return select(vec4<f32>(other), quad, vec4<u32>(0u, 1u, 2u, 3u) < vec4<u32>(end - p));
}

fn largest(quad: vec4<f32>) -> f32 {
    return max(max(quad.x, quad.y), max(quad.z, quad.w));
}

@compute @workgroup_size(LANES, ROWS)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_id) local: vec3<u32>,
//#if LANES_BY != memory
    @builtin(subgroup_invocation_id) in_subgroup: u32,
//#endif
//#if LANES_BY == subgroups
    @builtin(subgroup_id) subgroup: u32,
    @builtin(num_subgroups) subgroups: u32,
//#endif
) {
//#if LANES_BY == memory
    let lane = Lane(local.y, local.x);
//#endif
//#if LANES_BY == subgroup
    let lane = Lane(0u, in_subgroup);
//#endif
//#if LANES_BY == subgroups
    let lane = Lane(0u, local.x, in_subgroup, subgroup, subgroups);
//#endif
    let all = params.length;
    let index = workgroup_index(group);
    let chunk = index % chunks();
    let outer = (index / chunks()) * ROWS + lane.row;
    let begin = chunk * params.chunk;
    var length = 0u;
    var end = begin;
    if outer < params.outer {
        length = unmasked(outer);
        end = min(begin + params.chunk, all);
    }
    let unmasked_end = min(end, length);
    let x_row = params.x_first + outer * all;
    let first = begin + lane.lane * 4u;

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
        maximum = x_load(x_row + begin, all - begin).x;
    }
    var block: array<vec4<f32>, BLOCK>;
//#if KEPT
//#for B in BLOCK
    block[B] = vec4<f32>(maximum);
    if first + B * LANES * 4u < unmasked_end {
        let p = first + B * LANES * 4u;
        block[B] = before(x_load(x_row + p, all - p), p, unmasked_end, maximum);
    }
//#endfor
//#for B in BLOCK
    maximum = max(maximum, largest(block[B]));
//#endfor
    maximum = lanes_max(lane, maximum);
//#for B in BLOCK
    if first + B * LANES * 4u < unmasked_end {
        let p = first + B * LANES * 4u;
        block[B] = before(exp_below(block[B], vec4<f32>(maximum)), p, unmasked_end, 0.0);
        sum += (block[B].x + block[B].y) + (block[B].z + block[B].w);
    }
//#endfor
//#else
    for (var start = first; start < unmasked_end; start += BLOCK * LANES * 4u) {
//#for B in BLOCK
        block[B] = vec4<f32>(maximum);
        if start + B * LANES * 4u < unmasked_end {
            let p = start + B * LANES * 4u;
            block[B] = before(x_load(x_row + p, all - p), p, unmasked_end, maximum);
        }
//#endfor
        var top = maximum;
//#for B in BLOCK
        top = max(top, largest(block[B]));
//#endfor
        if top > maximum {
            sum *= exp_below(vec4<f32>(maximum), vec4<f32>(top)).x;
            maximum = top;
        }
//#for B in BLOCK
        if start + B * LANES * 4u < unmasked_end {
            let p = start + B * LANES * 4u;
            let quad = before(exp_below(block[B], vec4<f32>(maximum)), p, unmasked_end, 0.0);
            sum += (quad.x + quad.y) + (quad.z + quad.w);
        }
//#endfor
    }
    let own = maximum;
    maximum = lanes_max(lane, maximum);
    if maximum > own {
        sum *= exp_below(vec4<f32>(own), vec4<f32>(maximum)).x;
    }
//#endif
    sum = lanes_add(lane, sum);
//#endif
//#if STAGE == partial
    if outer < params.outer && lane.lane == 0u {
        partials[outer * chunks() + chunk] = vec2<f32>(maximum, sum);
    }
//#else
    let y_row = params.y_first + outer * all;
//#if KEPT
//#for B in BLOCK
    if first + B * LANES * 4u < end {
        let p = first + B * LANES * 4u;
        var quad = vec4<f32>();
        if p < unmasked_end {
            quad = before(vec4<f32>(1.0), p, unmasked_end, 0.0);
            if length > 1u {
                quad = block[B] / sum;
            }
        }
        y_store(y_row + p, all - p, quad);
    }
//#endfor
//#else
    for (var p = first; p < end; p += LANES * 4u) {
        var quad = vec4<f32>();
        if p < unmasked_end {
            quad = vec4<f32>(1.0);
            if length > 1u {
                quad = exp_below(x_load(x_row + p, all - p), vec4<f32>(maximum)) / sum;
            }
            quad = before(quad, p, unmasked_end, 0.0);
        }
        y_store(y_row + p, all - p, quad);
    }
//#endif
//#endif
}
//#endif
