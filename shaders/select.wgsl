// The k largest of each row, in order: larger first, of equals the one with the lower index.
//
//   x [rows, L] f32     lengths [rows] u32, optional     indices [rows, k] u32     values [rows, k] f32, optional
//   indices[r, ·] = the first k of argsort(−x[r, p], stable) over p < lengths[r]; values[r, i] = x[r, indices[r, i]]
// Where lengths[r] < k, the rest are index 0xffffffff with value 0. −0 equals +0; infinities are in order.
//
// Nothing is computed with floats. A value is ordered by its key, a signed number made of its bits, and values are words that are
// moved; so subnormals count, and the result is exact. NaNs are ordered somehow.
//
// A row is done in stages. Each goes through blocks of a row's positions and leaves of each a sorted run of its best k, as keys and
// indices with `stride` from one run to the next; what a run is short of is EMPTY. One block a row is the result.
//   STAGE == select  One workgroup to a block. Its lanes hold neighbouring quads of it in registers, as keys; it is read once.
//     1. The k-th largest key is found by halving an interval of keys and counting those above; the count is summed over the
//        lanes. It stops when as many as are wanted are above, or one key is left: of that, the first in the row are taken.
//     2. A bit for each key that is chosen; the lanes before a lane say where it puts its own in workgroup memory, by position.
//        A barrier; then each finds its rank by counting the chosen ones that come before it, and writes to that place.
//     READS == x: the blocks are the input's. READS == runs: a block is several runs of the stage before, as they lie: equal
//     keys are then in order of their indices, so that the position decides as well as the index.
//   STAGE == merge   One invocation to a section of a run to be. A block is two runs; it finds by bisection how many of each come
//     before its section, and merges from there. The first run wins a tie. There is no barrier.

//#import lib/grid
//#if READS == x || VALUES
//#import lib/words x
//#endif
//#if STAGE == select
//#if READS == runs
//#import lib/words from_keys
//#endif
//#import lib/group
//#else
const LANES: u32 = 64u;
// Places of a run that an invocation fills.
const SECTION: u32 = 32u;
//#endif

struct Params {
    rows: u32,
    // Positions of a row as the stage reads it, and of one of its blocks.
    positions: u32,
    block: u32,
    blocks: u32,
    // Quads of a block that a lane holds.
    share: u32,
    // How many of a block are wanted.
    wanted: u32,
    // From one block's result to the next.
    stride: u32,
    // L.
    length: u32,
    // Words from the start of its binding to the first of each.
    x_first: u32,
    lengths_first: u32,
    indices_first: u32,
    values_first: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
//#if READS == x || VALUES
@group(0) @binding(1) var<storage, read> x: array<x_word>;
//#endif
//#if MASKED
@group(0) @binding(2) var<storage, read> lengths: array<u32>;
//#endif
//#if READS == runs
//#if STAGE == select
@group(0) @binding(3) var<storage, read> from_keys: array<from_keys_word>;
//#else
@group(0) @binding(3) var<storage, read> from_keys: array<i32>;
//#endif
@group(0) @binding(4) var<storage, read> from_indices: array<u32>;
//#endif
//#if WRITES == runs
@group(0) @binding(5) var<storage, read_write> to_keys: array<i32>;
@group(0) @binding(6) var<storage, read_write> to_indices: array<u32>;
//#else
@group(0) @binding(5) var<storage, read_write> indices: array<u32>;
//#if VALUES
@group(0) @binding(6) var<storage, read_write> values: array<u32>;
//#endif
//#endif

// Of a masked position, or of a place of a run that nothing is left for: below every element's key.
const EMPTY: i32 = -0x7fffffff;
// Of a position behind a block or a run: below EMPTY too.
const OUTSIDE: i32 = -0x7fffffff - 1;
const NO_INDEX: u32 = 0xffffffffu;

// Puts one into its place of a block's result.
fn put(row: u32, block: u32, place: u32, key: i32, index: u32) {
//#if WRITES == runs
    let at = (row * params.blocks + block) * params.stride + place;
    to_keys[at] = key;
    to_indices[at] = index;
//#else
    let at = row * params.stride + place;
    let exists = key != EMPTY;
    indices[params.indices_first + at] = select(NO_INDEX, index, exists);
//#if VALUES
    var value = 0u;
    if exists {
        value = x_one(params.x_first + row * params.length + index);
    }
    values[params.values_first + at] = value;
//#endif
//#endif
}

//#if STAGE == select
const BLOCK: u32 = 4u;
// Words of 32 bits that have a bit for each key of a lane, EACH quads to a word.
const WORDS: u32 = 1u;
const EACH: u32 = 4u;
const KEYS: u32 = LANES * BLOCK * 4u;

// What was chosen, by position; padded to whole quads of all lanes with OUTSIDE.
var<workgroup> chosen_keys: array<vec4<i32>, KEYS / 4u>;
var<workgroup> chosen_positions: array<vec4<u32>, KEYS / 4u>;

//#if READS == x
// Whole numbers in the order of the floats that the words are.
fn order(words: vec4<u32>) -> vec4<i32> {
    let bits = bitcast<vec4<i32>>(words);
    let key = bits ^ ((bits >> vec4<u32>(31u)) & vec4<i32>(0x7fffffff));
    // −0 comes out as −1, which no other float does. The limits only keep NaNs from the numbers that mean something else.
    return clamp(select(key, vec4<i32>(), key == vec4<i32>(-1)), vec4<i32>(EMPTY + 1), vec4<i32>(0x7ffffffe));
}
//#endif

// The keys of four positions of a block, of which it has `count`, `unmasked` of them unmasked.
fn keys_at(first: u32, position: u32, count: u32, unmasked: u32) -> vec4<i32> {
    let behind = vec4<u32>(position) + vec4<u32>(0u, 1u, 2u, 3u);
//#if READS == x
    var keys = order(x_four(first + position, count - position));
//#if MASKED
    keys = select(vec4<i32>(EMPTY), keys, behind < vec4<u32>(unmasked));
//#endif
//#else
    let keys = bitcast<vec4<i32>>(from_keys_four(first + position, count - position));
//#endif
    return select(vec4<i32>(OUTSIDE), keys, behind < vec4<u32>(count));
}

fn key_at(first: u32, position: u32, unmasked: u32) -> i32 {
//#if READS == x
    return select(EMPTY, order(vec4<u32>(x_one(first + position))).x, position < unmasked);
//#else
    return bitcast<i32>(from_keys_one(first + position));
//#endif
}

// Puts a position of a block, which starts at position `start` of the row and word `first`, into its place.
fn put_position(row: u32, block: u32, place: u32, key: i32, start: u32, first: u32, position: u32) {
//#if READS == x
    put(row, block, place, key, start + position);
//#else
    put(row, block, place, key, from_indices[first + position]);
//#endif
}

// Which of `keys`, the quad with number `own` of those chosen, come behind a key `theirs` of quad `other`: behind a larger
// one, or an equal one before them. So each key is compared with its own or one less.
fn behind(keys: vec4<i32>, own: u32, theirs: vec4<i32>, other: u32) -> vec4<i32> {
    let later = keys - select(0, 1, own > other);
    let same = keys - select(0, 1, own >= other);
    let no = vec4<i32>();
    let yes = vec4<i32>(1);
    return select(no, yes, theirs.xxxx > vec4<i32>(later.x, same.yzw)) +
        select(no, yes, theirs.yyyy > vec4<i32>(later.xy, same.zw)) +
        select(no, yes, theirs.zzzz > vec4<i32>(later.xyz, same.w)) +
        select(no, yes, theirs.wwww > later);
}

@compute @workgroup_size(LANES)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
//#if LANES_BY != memory
    @builtin(subgroup_invocation_id) in_subgroup: u32,
//#endif
//#if LANES_BY == subgroups
    @builtin(subgroup_id) subgroup: u32,
    @builtin(num_subgroups) subgroups: u32,
//#endif
) {
//#if LANES_BY == memory
    let lane = Lane(local);
//#endif
//#if LANES_BY == subgroup
    let lane = Lane(in_subgroup);
//#endif
//#if LANES_BY == subgroups
    let lane = group_lane(in_subgroup, subgroup, subgroups);
//#endif
    let index = workgroup_index(group);
    let row = index / params.blocks;
    let block = index % params.blocks;
    if row >= params.rows {
        return;
    }
    let start = block * params.block;
    let count = min(params.block, params.positions - start);
    let wanted = i32(min(params.wanted, count));
    let share = params.share;
    var unmasked = count;
//#if MASKED
    unmasked = max(lengths[params.lengths_first + row], start) - start;
//#endif
//#if READS == x
    let first = params.x_first + row * params.positions + start;
//#else
    let first = row * params.positions + start;
//#endif
    let own_first = lane.lane * share * 4u;

    var keys: array<vec4<i32>, BLOCK>;
//#for B in BLOCK
    keys[B] = vec4<i32>(OUTSIDE);
    if B < share && own_first + B * 4u < count {
        keys[B] = keys_at(first, own_first + B * 4u, count, unmasked);
    }
//#endfor

    // The largest of each lane, or of each component of it, are so many different keys that are no smaller than the least of them.
    var tops = keys[0];
//#for B in BLOCK
    tops = max(tops, keys[B]);
//#endfor
    let top = max(max(tops.x, tops.y), max(tops.z, tops.w));
    let least_top = group_min(lane, select(min(min(tops.x, tops.y), min(tops.z, tops.w)), top, wanted <= i32(LANES)));
    // At least as many as wanted are not below `low`, and fewer are not below `high`.
    var low = max(least_top, EMPTY);
    if wanted > i32(LANES * 4u) {
        low = EMPTY;
    }
    let highest = group_max(lane, top);
    if wanted == 1 {
        low = highest;
    }
    var high = highest + 1;
    var above = 0;
    var exact = wanted == i32(count);
    if exact {
        low = EMPTY;
    }
    while !exact && high - 1 != low {
        let middle = low + i32(u32(high - low) / 2u);
        var own = vec4<i32>();
//#for B in BLOCK
        own += select(vec4<i32>(), vec4<i32>(1), keys[B] >= vec4<i32>(middle));
//#endfor
        let reached = group_add(lane, (own.x + own.y) + (own.z + own.w));
        if reached >= wanted {
            low = middle;
            exact = reached == wanted;
        } else {
            high = middle;
            above = reached;
        }
    }

    // A bit for each key above, in order of their positions, and one for each that is one of several equal ones at the border.
    let border = select(low, low - 1, exact);
    var chosen: array<u32, WORDS>;
    var equal: array<u32, WORDS>;
    var chosen_count = 0;
    var equal_count = 0;
//#for W in WORDS
    {
        var own_chosen = vec4<u32>();
        var own_equal = vec4<u32>();
//#for E in EACH
        own_chosen |= select(vec4<u32>(), vec4<u32>(1u, 2u, 4u, 8u) << vec4<u32>(E * 4u), keys[W * 8u + E] > vec4<i32>(border));
        own_equal |= select(vec4<u32>(), vec4<u32>(1u, 2u, 4u, 8u) << vec4<u32>(E * 4u), keys[W * 8u + E] == vec4<i32>(border));
//#endfor
        chosen[W] = (own_chosen.x | own_chosen.y) | (own_chosen.z | own_chosen.w);
        equal[W] = (own_equal.x | own_equal.y) | (own_equal.z | own_equal.w);
        chosen_count += i32(countOneBits(chosen[W]));
        equal_count += i32(countOneBits(equal[W]));
    }
//#endfor
    // Of the equal ones only so many are wanted, those of the first lanes first.
    let equal_wanted = select(wanted - above, 0, exact);
    var equal_left = clamp(equal_wanted - group_before(lane, equal_count), 0, equal_count);
    let own_count = chosen_count + equal_left;
    var place = u32(group_before(lane, own_count));
    for (var left = own_count; left > 0; left--) {
        // The first word that has a bit is searched.
        var word = 0u;
        var bits = 0u;
//#for W in WORDS
        if bits == 0u {
            word = W;
            bits = chosen[W] | select(0u, equal[W], equal_left > 0);
        }
//#endfor
        let bit = bits & (~bits + 1u);
//#for W in WORDS
        if word == W {
            equal_left -= select(0, 1, (equal[W] & bit) != 0u);
            chosen[W] &= ~bit;
            equal[W] &= ~bit;
        }
//#endfor
        let position = own_first + word * 32u + countTrailingZeros(bit);
        chosen_keys[place / 4u][place % 4u] = key_at(first, position, unmasked);
        chosen_positions[place / 4u][place % 4u] = position;
        place++;
    }
    let padded = (u32(wanted) + LANES * 4u - 1u) / (LANES * 4u) * (LANES * 4u);
    for (var i = u32(wanted) + lane.lane; i < padded; i += LANES) {
        chosen_keys[i / 4u][i % 4u] = OUTSIDE;
    }
    // All that was chosen is there before anyone counts.
    workgroupBarrier();

    let quads = (u32(wanted) + 3u) / 4u;
    for (var round = 0u; round < quads; round += LANES) {
        let own = round + lane.lane;
        let own_keys = chosen_keys[own];
        var rank = vec4<i32>();
//#if BROADCAST
        for (var others = 0u; others < quads; others += LANES) {
            let theirs = chosen_keys[others + lane.lane];
//#for L in LANES
            rank += behind(own_keys, own, subgroupBroadcast(theirs, L), others + L);
//#endfor
        }
//#else
        for (var other = 0u; other < quads; other++) {
            rank += behind(own_keys, own, chosen_keys[other], other);
        }
//#endif
        if own < quads {
            let positions = chosen_positions[own];
            let own_wanted = u32(wanted) - own * 4u;
            put_position(row, block, u32(rank.x), own_keys.x, start, first, positions.x);
            if own_wanted > 1u {
                put_position(row, block, u32(rank.y), own_keys.y, start, first, positions.y);
            }
            if own_wanted > 2u {
                put_position(row, block, u32(rank.z), own_keys.z, start, first, positions.z);
            }
            if own_wanted > 3u {
                put_position(row, block, u32(rank.w), own_keys.w, start, first, positions.w);
            }
        }
    }
    for (var i = u32(wanted) + lane.lane; i < params.stride; i += LANES) {
        put(row, block, i, EMPTY, NO_INDEX);
    }
}
//#else
@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let stride = params.stride;
    let sections = (stride + SECTION - 1u) / SECTION;
    let index = workgroup_index(group) * LANES + local;
    let block = (index / sections) % params.blocks;
    let row = index / sections / params.blocks;
    if row >= params.rows {
        return;
    }
    let begin = (index % sections) * SECTION;
    let end = min(begin + SECTION, stride);
    let start = block * params.block;
    // The two runs; the second may be missing.
    let count = min(params.block, params.positions - start);
    let one_count = min(params.block / 2u, count);
    let two_count = count - one_count;
    let one = row * params.positions + start;
    let two = one + one_count;

    // How many of the first run are among the `begin` that come before the section.
    var low = u32(max(i32(begin) - i32(two_count), 0));
    var high = min(begin, one_count);
    while low < high {
        let middle = (low + high) / 2u;
        if from_keys[one + middle] >= from_keys[two + begin - 1u - middle] {
            low = middle + 1u;
        } else {
            high = middle;
        }
    }
    var i = low;
    var j = begin - low;
    var one_key = OUTSIDE;
    var two_key = OUTSIDE;
    if i < one_count {
        one_key = from_keys[one + i];
    }
    if j < two_count {
        two_key = from_keys[two + j];
    }
    for (var place = begin; place < end; place++) {
        if place < count {
            let take_one = one_key >= two_key;
            let taken = select(two + j, one + i, take_one);
            put(row, block, place, max(one_key, two_key), from_indices[taken]);
            i += select(0u, 1u, take_one);
            j += select(1u, 0u, take_one);
            let more = select(j < two_count, i < one_count, take_one);
            var next = OUTSIDE;
            if more {
                next = from_keys[taken + 1u];
            }
            one_key = select(one_key, next, take_one);
            two_key = select(next, two_key, take_one);
        } else {
            put(row, block, place, EMPTY, NO_INDEX);
        }
    }
}
//#endif
