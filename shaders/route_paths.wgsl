// The paths of each token: of its scores over P paths the e best, in order, and what each of them weighs.
//
//   logits [N, P] f32     bias [P] f32, optional     selected [N] u32, optional: a row whose word is NONE is left out
//   ids [N, e] u32     gates [N, e] f32     margin [N] f32, optional
//   score = softmax over the row | 1 / (1 + exp(−x)) | √ln(1 + exp(x)) | x        c = score + bias
//   groups of P/G neighbouring paths: the M with the largest max of c, or sum of its two largest c, are kept
//   ids = the e largest c among the kept groups, in descending order; of equals, groups and paths, the first
//   gate = score, for score = x the softmax over the chosen x; divided by the sum of the gates + 1e-20 if told so; · scale
//   margin = c of the last chosen − c of the best that was not, +infinity where none is left
//   Where fewer than e paths can be chosen, the remaining ids are NONE and their gates 0. All of a row left out is NONE and 0.
//
// Work: LANES invocations share a row, ROWS rows a workgroup. A lane holds `lane_paths` neighbouring paths in registers, BLOCK
// quads, so that each lane lies within a group, or each group within a lane. The order of c is that of integers: a key is the
// bits of c, those below the sign flipped where it is set, and EXCLUDED is less than that of any number. Each choice is a
// round: every lane finds the first of its largest keys, then the lanes the first among theirs, and it is excluded.
// Groups compare through subgroups where no lane holds more than one (GROUPS == lanes), otherwise in workgroup memory, with a
// barrier after their paths' keys and one after their scores.
//
// Nothing relies on Inf or NaN; exp has no positive argument. ln(1 + t) is 2·artanh(t / (2 + t)) as a polynomial: WGSL's log is only
// good to 2⁻²¹ near 1, and for small t that would be all of it. Equal logits go through equal instructions, so their scores
// are equal. Relative errors, with E(d) = (3 + 2d) · 2⁻²³ for exp(−d) and u = 2⁻²⁴:
//   softmax       E(d) + d·u + Σ y·(E + d·u) + (P + 4)·u + 5u, d = max − x
//   sigmoid       E(|x|) / (1 + exp(x)) + 6u
//   √softplus     (E(|x|) + 12u) / 2 · ln(1 + exp(−|x|)) / softplus + 10u

//#import lib/grid
//#import lib/lanes
//#import lib/load logits
//#if BIASED
//#import lib/load bias
//#endif

// Quads of paths that an invocation holds.
const BLOCK: u32 = 8u;

// Which score: one of these, or the parameter's.
const SCORE: u32 = 4u;
const SOFTMAX = 0u;
const SIGMOID = 1u;
const SQRT_SOFTPLUS = 2u;
const LOGIT = 3u;
const PARAMETER = 4u;

const NONE = 0xffffffffu;
const EXCLUDED = -0x7fffffff;
const INFINITY_BITS = 0x7f800000u;

struct Params {
    rows: u32,
    paths: u32,
    chosen: u32,
    score: u32,
    // Groups, those that are kept, and the paths of each.
    groups: u32,
    kept: u32,
    size: u32,
    sum_of_two: u32,
    // Lanes that share a group, or groups that share a lane: one of them is 1. The paths of a lane.
    group_lanes: u32,
    lane_groups: u32,
    lane_paths: u32,
    renormalise: u32,
    // The bits of an f32.
    scale: u32,
    with_margin: u32,
    with_selected: u32,
    // Elements from the start of its binding to the first element of each.
    logits_first: u32,
    bias_first: u32,
    selected_first: u32,
    ids_first: u32,
    gates_first: u32,
    margin_first: u32,
    unused_0: u32,
    unused_1: u32,
    unused_2: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> logits: array<logits_word>;
//#if BIASED
@group(0) @binding(2) var<storage, read> bias: array<bias_word>;
//#endif
@group(0) @binding(3) var<storage, read> selected: array<u32>;
@group(0) @binding(4) var<storage, read_write> ids: array<u32>;
@group(0) @binding(5) var<storage, read_write> gates: array<f32>;
// Bits of f32: WGSL cannot name infinity.
@group(0) @binding(6) var<storage, read_write> margin: array<u32>;

fn logit_at(index: u32) -> f32 {
//#if logits_ACCESS == elements
    return logits_quad(index, 1u).x;
//#else
    return logits_quad(index & ~3u, 4u)[index & 3u];
//#endif
}

// exp(x − maximum); below −128 the result is 0 in f32 whatever the difference.
fn exp_below(x: vec4<f32>, maximum: vec4<f32>) -> vec4<f32> {
    return exp(2.0 * max(0.5 * x - 0.5 * maximum, vec4<f32>(-64.0)));
}

// ln(1 + t) for t in 0 .. 1.
fn ln_1_plus(t: vec4<f32>) -> vec4<f32> {
    let s = t / (2.0 + t);
    let z = s * s;
    let tail = z * (0.33333333 + z * (0.2 + z * (0.14285715 + z * (0.11111111 + z * (0.09090909 + z * (0.07692308 + z * 0.06666667))))));
    return 2.0 * s * (1.0 + tail);
}

// The scores of logits x, for softmax of their exp and the sum of all exp in its row.
fn scores(kind: u32, x: vec4<f32>, sum: f32) -> vec4<f32> {
    if kind == SOFTMAX {
        return x / sum;
    }
    if kind == LOGIT {
        return x;
    }
    let t = exp(max(-abs(x), vec4<f32>(-128.0)));
    if kind == SIGMOID {
        return select(t, vec4<f32>(1.0), x >= vec4<f32>()) / (1.0 + t);
    }
    return sqrt(max(x, vec4<f32>()) + ln_1_plus(t));
}

fn keys_of(c: vec4<f32>) -> vec4<i32> {
    let bits = bitcast<vec4<i32>>(c);
    let keys = bits ^ ((bits >> vec4<u32>(31u)) & vec4<i32>(0x7fffffff));
    // −0 is as large as 0.
    return select(keys, vec4<i32>(), keys == vec4<i32>(-1));
}

fn value_of(key: i32) -> f32 {
    return bitcast<f32>(key ^ ((key >> 31u) & 0x7fffffff));
}

// The two largest of two pairs of keys, of which the first is not the smaller.
fn two_largest(a: vec2<i32>, b: vec2<i32>) -> vec2<i32> {
    return vec2<i32>(max(a.x, b.x), max(min(a.x, b.x), max(a.y, b.y)));
}

// What a group is worth with these two largest keys: half the sum of two, which cannot overflow, or the largest.
fn group_score(largest: vec2<i32>) -> f32 {
    let first = value_of(largest.x);
    if params.sum_of_two == 0u {
        return first;
    }
    return 0.5 * first + select(0.0, 0.5 * value_of(largest.y), largest.y != EXCLUDED);
}

// A path and the key of its c.
struct Best {
    key: i32,
    path: u32,
}

// The largest key among the lanes of a row, and of equal ones the lowest path.
//#if LANES_BY == subgroup
//#import lib/subgroup i32
//#import lib/subgroup u32

fn lanes_best(lane: Lane, own: Best) -> Best {
    let key = i32_max(own.key);
    return Best(key, u32_min(select(NONE, own.path, own.key == key)));
}
//#else
var<workgroup> best_of_lanes: array<Best, LANES * ROWS>;

fn lanes_best(lane: Lane, own: Best) -> Best {
    let row = lane.row * LANES;
    let at = row + lane.lane;
    best_of_lanes[at] = own;
    for (var half = LANES / 2u; half > 0u; half /= 2u) {
        workgroupBarrier();
        if lane.lane < half {
            let mine = best_of_lanes[at];
            let other = best_of_lanes[at + half];
            let better = other.key > mine.key || (other.key == mine.key && other.path < mine.path);
            best_of_lanes[at] = Best(select(mine.key, other.key, better), select(mine.path, other.path, better));
        }
    }
    workgroupBarrier();
    let best = best_of_lanes[row];
    // All have read the result before the memory is used again.
    workgroupBarrier();
    return best;
}
//#endif

//#if GROUPS == memory
const MOST_GROUPS = 64u;
// The two largest keys of each group that lies within a lane, or of each lane within a group.
var<workgroup> of_pieces: array<vec2<i32>, (MOST_GROUPS + LANES) * ROWS>;
var<workgroup> of_groups: array<f32, MOST_GROUPS * ROWS>;
//#endif

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
    let kind = select(SCORE, params.score, SCORE == PARAMETER);
    let paths = params.paths;
    let group_lanes = params.group_lanes;
    // Rows past the end are the last row, and nothing of them is stored.
    let row = workgroup_index(workgroup) * ROWS + lane.row;
    let stored = row < params.rows;
    let at = min(row, params.rows - 1u);
    let logits_row = params.logits_first + at * paths;
    // This lane's paths: `own` from `base` on.
    let span = params.lane_groups * params.size;
    let base = lane.lane / group_lanes * span + lane.lane % group_lanes * params.lane_paths;
    let end = min(lane.lane / group_lanes * span + span, paths);
    let own = select(0u, min(params.lane_paths, end - base), base < end);

    var x: array<vec4<f32>, BLOCK>;
//#for B in BLOCK
    if B * 4u < own {
        x[B] = logits_quad(logits_row + base + B * 4u, own - B * 4u);
    }
//#endfor
    var maximum = 0.0;
    var sum = 0.0;
    if kind == SOFTMAX {
        maximum = logits_quad(logits_row, paths).x;
        let first = vec4<f32>(maximum);
        var largest = first;
//#for B in BLOCK
        largest = max(largest, select(first, x[B], vec4<u32>(0u, 1u, 2u, 3u) + B * 4u < vec4<u32>(own)));
//#endfor
        maximum = lanes_max(lane, max(max(largest.x, largest.y), max(largest.z, largest.w)));
        var sums = vec4<f32>();
//#for B in BLOCK
        x[B] = exp_below(x[B], vec4<f32>(maximum));
        sums += select(vec4<f32>(), x[B], vec4<u32>(0u, 1u, 2u, 3u) + B * 4u < vec4<u32>(own));
//#endfor
        sum = lanes_add(lane, (sums.x + sums.y) + (sums.z + sums.w));
    }
    var keys: array<vec4<i32>, BLOCK>;
//#for B in BLOCK
    {
        var c = scores(kind, x[B], sum);
//#if BIASED
        if B * 4u < own {
            c += bias_quad(params.bias_first + base + B * 4u, own - B * 4u);
        }
//#endif
        keys[B] = select(vec4<i32>(EXCLUDED), keys_of(c), vec4<u32>(0u, 1u, 2u, 3u) + B * 4u < vec4<u32>(own));
    }
//#endfor

//#if GROUPS == lanes
    {
        var first = vec4<i32>(EXCLUDED);
        var second = vec4<i32>(EXCLUDED);
//#for B in BLOCK
        second = max(second, min(first, keys[B]));
        first = max(first, keys[B]);
//#endfor
        let of_lane = two_largest(
            two_largest(vec2<i32>(first.x, second.x), vec2<i32>(first.y, second.y)),
            two_largest(vec2<i32>(first.z, second.z), vec2<i32>(first.w, second.w)),
        );
        let group = lane.lane / group_lanes;
        var of_group = of_lane;
//#for H in LANES
        {
            let other = vec2<i32>(subgroupBroadcast(of_lane.x, H), subgroupBroadcast(of_lane.y, H));
            if H / group_lanes == group && H != lane.lane {
                of_group = two_largest(of_group, other);
            }
        }
//#endfor
        let score = group_score(of_group);
        var better = 0u;
//#for H in LANES
        {
            let other = subgroupBroadcast(score, H);
            let before = H / group_lanes < group;
            let counts = H % group_lanes == 0u && H / group_lanes < params.groups;
            better += select(0u, 1u, counts && (other > score || (other == score && before)));
        }
//#endfor
        let keep = vec4<bool>(better < params.kept);
//#for B in BLOCK
        keys[B] = select(vec4<i32>(EXCLUDED), keys[B], keep);
//#endfor
    }
//#endif
//#if GROUPS == memory
    if params.groups > 1u {
        let pieces_row = lane.row * (MOST_GROUPS + LANES);
        let groups_row = lane.row * MOST_GROUPS;
        for (var piece = 0u; piece < params.lane_groups; piece++) {
            var first = vec4<i32>(EXCLUDED);
            var second = vec4<i32>(EXCLUDED);
//#for B in BLOCK
            {
                let inside = vec4<u32>(0u, 1u, 2u, 3u) + B * 4u - piece * params.size < vec4<u32>(params.size);
                let key = select(vec4<i32>(EXCLUDED), keys[B], inside);
                second = max(second, min(first, key));
                first = max(first, key);
            }
//#endfor
            of_pieces[pieces_row + lane.lane * params.lane_groups + piece] = two_largest(
                two_largest(vec2<i32>(first.x, second.x), vec2<i32>(first.y, second.y)),
                two_largest(vec2<i32>(first.z, second.z), vec2<i32>(first.w, second.w)),
            );
        }
        workgroupBarrier();
        for (var group = lane.lane; group < params.groups; group += LANES) {
            var largest = of_pieces[pieces_row + group * group_lanes];
            for (var piece = 1u; piece < group_lanes; piece++) {
                largest = two_largest(largest, of_pieces[pieces_row + group * group_lanes + piece]);
            }
            of_groups[groups_row + group] = group_score(largest);
        }
        workgroupBarrier();
        for (var piece = 0u; piece < params.lane_groups; piece++) {
            let group = min(lane.lane / group_lanes * params.lane_groups + piece, params.groups - 1u);
            let score = of_groups[groups_row + group];
            var better = 0u;
            for (var other = 0u; other < params.groups; other++) {
                let value = of_groups[groups_row + other];
                better += select(0u, 1u, value > score || (value == score && other < group));
            }
//#for B in BLOCK
            {
                let inside = vec4<u32>(0u, 1u, 2u, 3u) + B * 4u - piece * params.size < vec4<u32>(params.size);
                let excluded = inside & vec4<bool>(better >= params.kept);
                keys[B] = select(keys[B], vec4<i32>(EXCLUDED), excluded);
            }
//#endfor
        }
    }
//#endif

    let chosen = params.chosen;
    let gates_row = params.gates_first + at * chosen;
    let ids_row = params.ids_first + at * chosen;
    var left_out = false;
    if params.with_selected != 0u {
        left_out = selected[params.selected_first + at] == NONE;
    }
    // Of the chosen: how many there are, the last, the largest logit of this lane's, and the sum of their gates.
    var found = 0u;
    var last = 0;
    var largest_logit = EXCLUDED;
    var gates_sum = 0.0;
    // Of all rounds together: the slot that this lane lost in the last one, and the best that was not chosen.
    var taken = NONE;
    var rejected = EXCLUDED;
    for (var start = 0u; start < chosen; start += LANES) {
        let count = min(chosen - start, LANES);
        // The last round is the margin's.
        let rounds = count + select(0u, params.with_margin, start + LANES >= chosen);
        var mine = NONE;
        for (var round = 0u; round < rounds; round++) {
            var largest = vec4<i32>(EXCLUDED);
            var quad = vec4<u32>();
//#for B in BLOCK
            keys[B] = select(keys[B], vec4<i32>(EXCLUDED), vec4<u32>(0u, 1u, 2u, 3u) + B * 4u == vec4<u32>(taken));
            quad = select(quad, vec4<u32>(B), keys[B] > largest);
            largest = max(largest, keys[B]);
//#endfor
            let key = max(max(largest.x, largest.y), max(largest.z, largest.w));
            let slots = select(vec4<u32>(NONE), quad * 4u + vec4<u32>(0u, 1u, 2u, 3u), largest == vec4<i32>(key));
            let slot = min(min(slots.x, slots.y), min(slots.z, slots.w));
            let best = lanes_best(lane, Best(key, base + slot));
            taken = select(NONE, slot, best.path == base + slot);
            if best.key != EXCLUDED && round < count {
                found += 1u;
                last = best.key;
                mine = select(mine, best.path, lane.lane == round);
            }
            if round == count {
                rejected = best.key;
            }
        }
        if lane.lane < count {
            var gate = 0.0;
            if mine != NONE {
                var logit = vec4<f32>(logit_at(logits_row + mine));
                if kind == LOGIT {
                    largest_logit = max(largest_logit, keys_of(logit).x);
                }
                if kind == SOFTMAX {
                    logit = exp_below(logit, vec4<f32>(maximum));
                }
                // A path that is alone has all of the weight.
                gate = select(scores(kind, logit, sum).x, 1.0, kind == SOFTMAX && paths == 1u);
            }
            gates_sum += gate;
            if stored {
                ids[ids_row + start + lane.lane] = select(mine, NONE, left_out);
                gates[gates_row + start + lane.lane] = gate;
            }
        }
    }
    if kind == LOGIT {
        maximum = value_of(lanes_best(lane, Best(largest_logit, 0u)).key);
        gates_sum = 0.0;
        for (var slot = lane.lane; slot < found; slot += LANES) {
            if stored {
                let gate = exp_below(vec4<f32>(gates[gates_row + slot]), vec4<f32>(maximum)).x;
                gates[gates_row + slot] = gate;
                gates_sum += gate;
            }
        }
    }
    let divided = kind == LOGIT || params.renormalise != 0u;
    if divided {
        gates_sum = lanes_add(lane, gates_sum) + 1e-20;
    }
    for (var slot = lane.lane; slot < chosen; slot += LANES) {
        if stored {
            var gate = gates[gates_row + slot];
            if divided {
                gate = select(gate / gates_sum, 1.0, kind == LOGIT && found == 1u && slot == 0u);
            }
            gates[gates_row + slot] = select(gate * bitcast<f32>(params.scale), 0.0, left_out || slot >= found);
        }
    }
    if params.with_margin != 0u && stored && lane.lane == 0u {
        let difference = bitcast<u32>(value_of(last) - value_of(rejected));
        margin[params.margin_first + at] = select(select(difference, INFINITY_BITS, rejected == EXCLUDED), 0u, left_out);
    }
}
