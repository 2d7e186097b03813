// Softmax over the middle axis of a [outer, length, inner] tensor, row-major, with an optional number of unmasked
// positions for each outer index.
//
//   x [outer, length, inner] f32     lengths [outer] u32, optional     y like x (the same memory if IN_PLACE)
//   y[o, p, i] = exp(x[o, p, i] − max) / Σ exp(x[o, ·, i] − max), maximum and sum over p < lengths[o];
//   y = 0 where p ≥ lengths[o], so a fully masked row is all 0; exactly 1 where one position is left.
//
// Work: COLUMNS false (inner = 1): LANES invocations share a row, ROWS rows a workgroup; they take the row's spans in turn,
// each of QUADS quads, BLOCK spans at a time in registers. Where KEPT, a block is all that a lane has of its row, so x is
// read once; otherwise the sum follows the maximum from block to block, and x is read again to be divided. Where FITTED, each lane
// has just BLOCK spans of each row, and there are just as many rows as the grid has: no load or store is conditional, so that CPUs
// need not ask for each lane whether it is active. Lanes reduce as lib/lanes.wgsl has it.
// COLUMNS true: one invocation owns a quad of inner columns; it needs no barrier.
// A row of at most `chunk` positions is done by one dispatch (STAGE == whole). A longer one is cut into chunks:
// STAGE == partial leaves each chunk's maximum and sum, STAGE == apply merges them, in order, and writes y.
//
// Nothing here relies on Inf or NaN: a maximum starts from the lowest number, and differences are taken halved so that they
// cannot overflow. Relative error of an element, with E(d) = (3 + 2d) · 2⁻²³ for exp and d · 2⁻²⁴ for its argument:
//   E(max − x) + Σ y·E + (length + 4) · 2⁻²⁴ + 2.5 · 2⁻²³

//#import lib/grid
//#if !COLUMNS
//#import lib/lanes
//#endif
//#if x_ACCESS == wide_octets
//#import lib/octets
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
// Neighbouring quads that an invocation reads and writes together: two where operands are read in octets, else one.
const QUADS: u32 = 1u;
// Spans that an invocation holds at a time.
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

//#if x_ACCESS != wide_octets
fn x_load(first: u32, valid: u32) -> vec4<f32> {
//#if IN_PLACE
    return y_load(first, valid);
//#else
    return x_quad(first, valid);
//#endif
}
//#endif

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
const LOWEST: f32 = -3.4028234e38;

// What a lane reads and writes together.
alias Span = array<vec4<f32>, QUADS>;
// Lanes whose spans lie next to each other: a CPU's vectors come one after the other, and so should what they read.
//#if LANES_BY == memory || VECTOR == 0
const ABREAST: u32 = LANES;
//#else
const ABREAST: u32 = VECTOR;
//#endif
// Elements from a lane's span to its next.
const STEP: u32 = ABREAST * QUADS * 4u;

// Elements first .. first + QUADS * 4 of x, of which `valid` are left.
fn x_span(first: u32, valid: u32) -> Span {
//#if x_ACCESS != wide_octets
    return Span(x_load(first, valid));
//#else
//#if IN_PLACE
    let octet = y_octet(first);
//#else
    let octet = x_octet(first);
//#endif
    return Span(octet.low, octet.high);
//#endif
}

//#if STAGE != partial
fn y_span_store(first: u32, valid: u32, span: Span) {
//#if x_ACCESS == wide_octets
    y_store_octet(first, Octet(span[0], span[1]));
//#else
    y_store(first, valid, span[0]);
//#endif
}
//#endif

// Of a span that begins at p, the positions before `end`; `other` stands in for those behind it.
fn before(span: Span, p: u32, end: u32, other: f32) -> Span {
    var cut = span;
    let left = max(end, p) - p;
    // Without a mask, a row that is read whole quads at a time ends with one.
//#if MASKED || x_ACCESS == elements || x_ACCESS == wide_pairs
//#for Q in QUADS
    cut[Q] = select(vec4<f32>(other), span[Q], vec4<u32>(0u, 1u, 2u, 3u) + Q * 4u < vec4<u32>(left));
//#endfor
//#endif
    return cut;
}

// What a lane keeps while others work. Where that is several vectors of a CPU, they are suspended at barriers with the operands of the last
// operations instead of their results, and compute those again behind it; but not what a maximum returns, which this one leaves as it is.
fn kept(span: Span) -> Span {
    var same = span;
//#if LANES_BY == subgroups
//#if VECTOR != 0
//#for Q in QUADS
    same[Q] = max(span[Q], vec4<f32>(LOWEST));
//#endfor
//#endif
//#endif
    return same;
}

fn filled(value: f32) -> Span {
    var span: Span;
//#for Q in QUADS
    span[Q] = vec4<f32>(value);
//#endfor
    return span;
}

fn span_exp_below(span: Span, maximum: f32) -> Span {
    var below: Span;
//#for Q in QUADS
    below[Q] = exp_below(span[Q], vec4<f32>(maximum));
//#endfor
    return below;
}

fn span_sum(span: Span) -> f32 {
    var sum = 0.0;
//#for Q in QUADS
    sum += (span[Q].x + span[Q].y) + (span[Q].z + span[Q].w);
//#endfor
    return sum;
}

fn largest(span: Span) -> f32 {
    var top = span[0];
//#for Q in QUADS
    top = max(top, span[Q]);
//#endfor
    return max(max(top.x, top.y), max(top.z, top.w));
}

fn divided(span: Span, sum: f32) -> Span {
    var shares: Span;
//#for Q in QUADS
    shares[Q] = span[Q] / sum;
//#endfor
    return shares;
}

//#if LANES_BY == memory
@compute @workgroup_size(LANES, ROWS)
//#else
@compute @workgroup_size(LANES * ROWS)
//#endif
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_id) local: vec3<u32>,
//#if LANES_BY != memory
    @builtin(subgroup_invocation_id) in_subgroup: u32,
    @builtin(subgroup_id) subgroup: u32,
//#endif
//#if LANES_BY == subgroups
    @builtin(num_subgroups) subgroups: u32,
//#endif
) {
//#if LANES_BY == memory
    let lane = Lane(local.y, local.x);
//#endif
//#if LANES_BY == subgroup
    let lane = Lane(subgroup, in_subgroup);
//#endif
//#if LANES_BY == subgroups
    let lane = Lane(0u, local.x, in_subgroup, subgroup, subgroups);
//#endif
    let all = params.length;
//#if STAGE == whole
    let chunk = 0u;
    let outer = workgroup_index(group) * ROWS + lane.row;
//#else
    let index = workgroup_index(group);
    let chunk = index % chunks();
    let outer = (index / chunks()) * ROWS + lane.row;
//#endif
    let begin = chunk * params.chunk;
//#if FITTED
    let length = unmasked(outer);
    let end = all;
//#else
    var length = 0u;
    var end = begin;
    if outer < params.outer {
        length = unmasked(outer);
        end = min(begin + params.chunk, all);
    }
//#endif
    let first = begin + (lane.lane / ABREAST * BLOCK * ABREAST + lane.lane % ABREAST) * QUADS * 4u;
    let unmasked_end = min(end, length);
    let x_row = params.x_first + outer * all;
    // What is known is added last: CPUs compute an index lane by lane, from the last sum that several have in common.
    let x_lane = x_row + first;

    var maximum = LOWEST;
    var sum = 0.0;
//#if STAGE == apply
    if outer < params.outer {
        let merged = merge(outer);
        maximum = merged.x;
        sum = merged.y;
    }
//#else
    var block: array<Span, BLOCK>;
//#if KEPT
//#for B in BLOCK
    block[B] = filled(LOWEST);
//#if !FITTED
    if first + B * STEP < unmasked_end
//#endif
    {
        let p = first + B * STEP;
        block[B] = kept(before(x_span(x_lane + B * STEP, all - p), p, unmasked_end, LOWEST));
    }
//#endfor
//#for B in BLOCK
    maximum = max(maximum, largest(block[B]));
//#endfor
    maximum = lanes_max(lane, maximum);
//#for B in BLOCK
//#if !FITTED
    if first + B * STEP < unmasked_end
//#endif
    {
        block[B] = kept(before(span_exp_below(block[B], maximum), first + B * STEP, unmasked_end, 0.0));
        sum += span_sum(block[B]);
    }
//#endfor
//#else
    for (var start = first; start < unmasked_end; start += BLOCK * STEP) {
        let x_block = x_row + start;
//#for B in BLOCK
        block[B] = filled(maximum);
        if start + B * STEP < unmasked_end {
            let p = start + B * STEP;
            block[B] = before(x_span(x_block + B * STEP, all - p), p, unmasked_end, maximum);
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
        if start + B * STEP < unmasked_end {
            sum += span_sum(before(span_exp_below(block[B], maximum), start + B * STEP, unmasked_end, 0.0));
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
    let y_lane = y_row + first;
//#if KEPT
//#for B in BLOCK
//#if !FITTED
    if first + B * STEP < end
//#endif
    {
        let p = first + B * STEP;
//#if MASKED || !FITTED
        var span = filled(0.0);
        if p < unmasked_end {
            span = before(filled(1.0), p, unmasked_end, 0.0);
            if length > 1u {
                span = divided(block[B], sum);
            }
        }
//#else
        let span = divided(block[B], sum);
//#endif
        y_span_store(y_lane + B * STEP, all - p, span);
    }
//#endfor
//#else
    for (var p = first; p < end; p += STEP) {
        var span = filled(0.0);
        if p < unmasked_end {
            span = filled(1.0);
            if length > 1u {
                span = divided(span_exp_below(x_span(x_row + p, all - p), maximum), sum);
            }
            span = before(span, p, unmasked_end, 0.0);
        }
        y_span_store(y_row + p, all - p, span);
    }
//#endif
//#endif
}
//#endif
