// How evenly a router loads its paths: the mean score of each path, and four numbers about all tokens.
//
//   logits [T, P] f32     counts [P] u32: the tokens of each path     mean_scores [P] f32     summary [4] f32
//   y[t, ·] = softmax(logits[t, ·])     lse[t] = max + ln(S), S = Σ exp(logits[t, ·] − max)     f[p] = counts[p] / Σ counts
//   mean_scores[p] = (1/T) Σ_t y[t, p]
//   summary = balance P · Σ_p f[p] · mean_scores[p],     z (1/T) Σ_t lse[t]²,
//             entropy (1/T) Σ_t (ln(S) + Σ_p y[t, p] · (max − logits[t, p])),     load factor P · max_p f[p]
//   f = 0 where no path has a token; all results are 0 where T is 0.
//
// Stages, each a dispatch:
//   chunk    LANES invocations go through a chunk of tokens, token by token, ROWS chunks a workgroup. A lane takes a token's quads of
//            paths in turn, BLOCK of them, and keeps both them and the sums of their y in registers. What a chunk adds up to is
//            left in partials [chunks, quads + 1]: the sums of the paths' y, then those of lse² and of the entropy. Lanes exchange
//            a token's maximum and sum as lib/lanes.wgsl has it; tokens behind the last are the last, and count as nothing.
//   finish   one workgroup: an invocation adds up a path's partials in the chunks' order, then all reduce what the paths have in
//            common.
//
// Nothing relies on Inf or NaN: a maximum starts from an element, and differences are taken halved so that they cannot
// overflow. With u = 2⁻²⁴ a score's error is that of shaders/softmax.wgsl; a sum over tokens has T roundings at the most, and one
// over paths P. ln is within 3 ULP, or 2⁻²¹ where S is at most 2; all terms of the entropy are positive, so none cancel.

//#import lib/grid
//#import lib/lanes
//#if STAGE == chunk
//#import lib/load logits
//#endif

//#if STAGE == chunk
// Quads of paths that an invocation holds.
const BLOCK: u32 = 8u;
//#else
// Partials of a path that are loaded before they are added.
const AHEAD: u32 = 8u;
//#endif

struct Params {
    // Tokens of this dispatch, and of all.
    rows: u32,
    tokens: u32,
    paths: u32,
    // Quads of partials of a chunk: those of the paths, and one.
    stride: u32,
    // Tokens of a chunk, the first chunk of this dispatch, and all chunks.
    chunk: u32,
    first_chunk: u32,
    chunks: u32,
    // Elements from the start of its binding to the first element of each.
    logits_first: u32,
    counts_first: u32,
    mean_scores_first: u32,
    summary_first: u32,
    unused: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
//#if STAGE == chunk
@group(0) @binding(1) var<storage, read> logits: array<logits_word>;
@group(0) @binding(2) var<storage, read_write> partials: array<vec4<f32>>;
//#else
@group(0) @binding(2) var<storage, read> partials: array<f32>;
@group(0) @binding(3) var<storage, read> counts: array<u32>;
@group(0) @binding(4) var<storage, read_write> mean_scores: array<f32>;
@group(0) @binding(5) var<storage, read_write> summary: array<f32>;
//#endif

//#if STAGE == chunk
// x − maximum, but not below −128: exp of that is 0 in f32.
fn below(x: vec4<f32>, maximum: f32) -> vec4<f32> {
    return 2.0 * max(0.5 * x - vec4<f32>(0.5 * maximum), vec4<f32>(-64.0));
}

// Of a quad that begins at path p, the paths before `end`; `other` stands in for those behind it.
fn before(quad: vec4<f32>, p: u32, end: u32, other: f32) -> vec4<f32> {
    return select(vec4<f32>(other), quad, vec4<u32>(0u, 1u, 2u, 3u) < vec4<u32>(end - p));
}

fn sum_of(quad: vec4<f32>) -> f32 {
    return (quad.x + quad.y) + (quad.z + quad.w);
}

@compute @workgroup_size(LANES, ROWS)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
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
    let paths = params.paths;
    let rows = params.rows;
    let chunk = params.chunk;
    let logits_first = params.logits_first;
    let index = workgroup_index(workgroup) * ROWS + lane.row;
    // This lane's quads begin here, and every LANES quads; one that has none looks at the last quad for its maximum.
    let first = lane.lane * 4u;
    let some = min(first, (paths - 1u) & ~3u);

    var sums: array<vec4<f32>, BLOCK>;
    var z = 0.0;
    var logarithms = 0.0;
    var weighted = 0.0;
    for (var i = 0u; i < chunk; i++) {
        let token = index * chunk + i;
        let counted = token < rows;
        let row = logits_first + min(token, rows - 1u) * paths;
        var x: array<vec4<f32>, BLOCK>;
        let quad = logits_quad(row + some, paths - some);
        x[0] = before(quad, some, paths, quad.x);
        var largest = x[0];
//#for B in BLOCK
        if B > 0u && first + B * LANES * 4u < paths {
            let p = first + B * LANES * 4u;
            x[B] = before(logits_quad(row + p, paths - p), p, paths, quad.x);
            largest = max(largest, x[B]);
        }
//#endfor
        let maximum = lanes_max(lane, max(max(largest.x, largest.y), max(largest.z, largest.w)));
        var own = vec4<f32>();
        var own_weighted = vec4<f32>();
//#for B in BLOCK
        if first + B * LANES * 4u < paths {
            let p = first + B * LANES * 4u;
            let difference = below(x[B], maximum);
            x[B] = before(exp(difference), p, paths, 0.0);
            own += x[B];
            own_weighted -= x[B] * difference;
        }
//#endfor
        let sum = lanes_add(lane, sum_of(own));
        if counted {
//#for B in BLOCK
            if first + B * LANES * 4u < paths {
                sums[B] += x[B] / sum;
            }
//#endfor
            let logarithm = log(sum);
            let lse = maximum + logarithm;
            z += lse * lse;
            logarithms += logarithm;
            weighted += sum_of(own_weighted) / sum;
        }
    }
    let all_weighted = lanes_add(lane, weighted);
    // Whole chunks may lie behind the last token.
    if index * chunk < rows {
        let at = (params.first_chunk + index) * params.stride;
//#for B in BLOCK
        if first + B * LANES * 4u < paths {
            partials[at + lane.lane + B * LANES] = sums[B];
        }
//#endfor
        if lane.lane == 0u {
            partials[at + params.stride - 1u] = vec4<f32>(z, logarithms + all_weighted, 0.0, 0.0);
        }
    }
}
//#else
@compute @workgroup_size(LANES, ROWS)
fn main(@builtin(local_invocation_id) local: vec3<u32>) {
    let lane = Lane(local.y, local.x);
    let paths = params.paths;
    let chunks = params.chunks;
    let stride = params.stride * 4u;
    let tokens = f32(max(params.tokens, 1u));

    var total = 0.0;
    var most = 0.0;
    var balance = 0.0;
    // The paths, then the sum of lse² and that of the entropy.
    for (var item = lane.lane; item < paths + 2u; item += LANES) {
        let column = select(item, stride - 4u + item - paths, item >= paths);
        var sum = 0.0;
        for (var c = 0u; c < chunks; c += AHEAD) {
            var next: array<f32, AHEAD>;
//#for A in AHEAD
            next[A] = select(0.0, partials[min(c + A, chunks - 1u) * stride + column], c + A < chunks);
//#endfor
//#for A in AHEAD
            sum += next[A];
//#endfor
        }
        let mean = sum / tokens;
        if item < paths {
            let count = f32(counts[params.counts_first + item]);
            mean_scores[params.mean_scores_first + item] = mean;
            total += count;
            most = max(most, count);
            balance += count * mean;
        } else {
            summary[params.summary_first + 1u + item - paths] = mean;
        }
    }
    total = lanes_add(lane, total);
    most = lanes_max(lane, most);
    balance = lanes_add(lane, balance);
    if lane.lane == 0u {
        let some = params.tokens > 0u && total > 0.0;
        let divisor = select(1.0, total, some);
        let factor = select(0.0, f32(paths), some);
        summary[params.summary_first] = balance / divisor * factor;
        summary[params.summary_first + 3u] = most / divisor * factor;
    }
}
//#endif
