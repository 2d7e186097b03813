// A stable permutation of slots by the path each was given: counts, offsets, order, positions.
//
//   ids [slots] u32: the path of each slot; one that is no path (≥ P) has none     sequence [slots] u32, optional
//   offsets [P + 1] u32     order [slots] u32     positions [slots] u32     counts [P] u32, optional
// Slots are taken in turn: turn i takes slot sequence[i], or slot i. A path keeps the first `capacity` slots it is given:
//   counts[p] = the slots of path p,     kept[p] = min(counts[p], capacity),     offsets[p] = Σ_{q < p} kept[q],
//   order[offsets[p] + r] = the slot of path p with r of that path before it, r < kept[p]; NONE from offsets[P] on,
//   positions[slot] = the slot's place in order; NONE where it has no path or was dropped.
//
// Stages, each a dispatch: the turns are cut into chunks, and a workgroup owns one.
//   count     how many slots of its path are before each slot in its chunk, left in positions; each chunk's tally of every path,
//             tallies [P, chunks];
//   scan      a workgroup for each path: its tallies become the sums of those before them, their total is the count;
//   offsets   one workgroup: the sums of what the paths before each keep;
//   place     an invocation for each turn: place in the path = slots of earlier chunks + slots before it in its own.
//   whole     count, offsets and place in one workgroup, where one chunk is all: the tallies then become the offsets.
// In `count` the workgroup goes through its chunk LANES turns a round. A lane compares its path with those of the others,
// which gives its rank among them; the last lane of a path raises the path's tally. Barriers: before the tallies are read in
// a round, all of the round before are written, and before any is written, all are read. Ranks come from comparisons and not
// from atomics, so nothing depends on timing. All results are integers, and exact.
//
// LANES_BY says how lanes see each other's values: `memory`, workgroup memory; `subgroup`, the workgroup is one subgroup.
// TALLIES says where a chunk's tallies are while it is counted: in `memory` of the workgroup, where there are at most PATHS
// of them, or in `storage`.

//#import lib/grid

const LANES: u32 = 64u;
//#if TALLIES == memory
const PATHS: u32 = 2048u;
//#endif
const NONE: u32 = 0xffffffffu;

struct Params {
    slots: u32,
    paths: u32,
    capacity: u32,
    // Turns of a chunk, and the number of chunks.
    chunk: u32,
    chunks: u32,
    // Elements from the start of its binding to the first element of each.
    ids_first: u32,
    sequence_first: u32,
    counts_first: u32,
    offsets_first: u32,
    order_first: u32,
    positions_first: u32,
    unused: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
//#if STAGE == whole || STAGE == count || STAGE == place
@group(0) @binding(1) var<storage, read> ids: array<u32>;
//#endif
//#if SEQUENCE
@group(0) @binding(2) var<storage, read> sequence: array<u32>;
//#endif
//#if STAGE == count || STAGE == scan
@group(0) @binding(3) var<storage, read_write> tallies: array<u32>;
//#endif
//#if STAGE == place
@group(0) @binding(3) var<storage, read> tallies: array<u32>;
//#endif
//#if COUNTED
@group(0) @binding(4) var<storage, read_write> counts: array<u32>;
//#endif
//#if STAGE == offsets
@group(0) @binding(4) var<storage, read> counts: array<u32>;
//#endif
//#if STAGE == whole || STAGE == offsets
@group(0) @binding(5) var<storage, read_write> offsets: array<u32>;
//#endif
//#if STAGE == place
@group(0) @binding(5) var<storage, read> offsets: array<u32>;
//#endif
//#if STAGE == whole || STAGE == place
@group(0) @binding(6) var<storage, read_write> order: array<u32>;
//#endif
//#if STAGE == whole || STAGE == count || STAGE == place
@group(0) @binding(7) var<storage, read_write> positions: array<u32>;

// What a slot or a turn out of range would read is replaced, not skipped: branches cost more than loads.

// The slot of a turn; NONE behind the last.
fn slot_of(turn: u32) -> u32 {
    let slots = params.slots;
//#if SEQUENCE
    let slot = sequence[params.sequence_first + min(turn, slots - 1u)];
//#else
    let slot = turn;
//#endif
    // A sequence may name what is no slot.
    return select(NONE, slot, turn < slots && slot < slots);
}

// The path of a slot; NONE where it has none.
fn path_of(slot: u32) -> u32 {
    let slots = params.slots;
    let path = ids[params.ids_first + min(slot, slots - 1u)];
    return select(NONE, path, slot != NONE && path < params.paths);
}
//#endif

//#if STAGE != place
//#if LANES_BY == memory
var<workgroup> of_lanes: array<u32, LANES>;
//#endif
//#endif

//#if STAGE == whole || STAGE == count
//#if TALLIES == memory
var<workgroup> own_tallies: array<u32, PATHS>;
//#endif

fn tally(path: u32, chunk: u32) -> u32 {
//#if TALLIES == memory
    return own_tallies[path];
//#else
//#if STAGE == whole
    return offsets[params.offsets_first + path];
//#else
    return tallies[path * params.chunks + chunk];
//#endif
//#endif
}

fn set_tally(path: u32, chunk: u32, tally: u32) {
//#if TALLIES == memory
    own_tallies[path] = tally;
//#else
//#if STAGE == whole
    offsets[params.offsets_first + path] = tally;
//#else
    tallies[path * params.chunks + chunk] = tally;
//#endif
//#endif
}

fn tallies_barrier() {
//#if TALLIES == memory || LANES_BY == memory
    workgroupBarrier();
//#endif
//#if TALLIES == storage
    storageBarrier();
//#endif
}

// Counts a chunk, and leaves in positions how many slots of its path are before each slot in the chunk.
fn count(lane: u32, chunk: u32, turns: u32) {
    let paths = params.paths;
    let positions_first = params.positions_first;
    let first = chunk * params.chunk;
    for (var path = lane; path < paths; path += LANES) {
        set_tally(path, chunk, 0u);
    }
    for (var start = 0u; start < turns; start += LANES) {
        let slot = slot_of(select(NONE, first + start + lane, start + lane < turns));
        let path = path_of(slot);
//#if LANES_BY == memory
        of_lanes[lane] = path;
//#endif
        tallies_barrier();
        var earlier = 0u;
        var same = 0u;
//#if LANES_BY == memory
        for (var other = 0u; other < LANES; other++) {
            let is_same = select(0u, 1u, of_lanes[other] == path);
            same += is_same;
            earlier += select(0u, is_same, other < lane);
        }
//#else
//#for L in LANES
        {
            let is_same = select(0u, 1u, subgroupBroadcast(path, L) == path);
            same += is_same;
            earlier += select(0u, is_same, L < lane);
        }
//#endfor
//#endif
        let before = tally(min(path, paths - 1u), chunk);
        tallies_barrier();
        if path != NONE {
            positions[positions_first + slot] = before + earlier;
            if earlier + 1u == same {
                set_tally(path, chunk, before + same);
            }
        }
    }
    tallies_barrier();
}
//#endif

//#if STAGE == place || STAGE == whole
// Turns the place of a slot in its chunk's part of its path into its place in order.
fn place(turn: u32, chunk: u32) {
    let slot = slot_of(turn);
    let path = path_of(slot);
    let some_path = min(path, params.paths - 1u);
    let at = params.positions_first + min(slot, params.slots - 1u);
    let order_first = params.order_first;
    var rank = positions[at];
//#if STAGE == place
    rank += tallies[some_path * params.chunks + chunk];
//#endif
    let kept = path != NONE && rank < params.capacity;
    let position = select(NONE, offsets[params.offsets_first + some_path] + rank, kept);
    let all_kept = offsets[params.offsets_first + params.paths];
    if slot != NONE {
        positions[at] = position;
    }
    if kept {
        order[order_first + position] = slot;
    }
    if turn >= all_kept {
        order[order_first + turn] = NONE;
    }
}
//#endif

//#if STAGE == whole || STAGE == scan || STAGE == offsets
// The sum of what the lanes before this one have.
fn sum_before(lane: u32, value: u32) -> u32 {
//#if LANES_BY == memory
    of_lanes[lane] = value;
    workgroupBarrier();
    var sum = 0u;
    for (var other = 0u; other < lane; other++) {
        sum += of_lanes[other];
    }
    return sum;
//#else
    return subgroupExclusiveAdd(value);
//#endif
}
//#endif

//#if STAGE == whole || STAGE == offsets
fn count_of(path: u32) -> u32 {
//#if STAGE == whole
    return tally(path, 0u);
//#else
    return counts[params.counts_first + path];
//#endif
}

// A lane has a stretch of neighbouring paths, whose counts are read before their offsets, in the same place, are written.
fn write_offsets(lane: u32) {
    let paths = params.paths;
    let capacity = params.capacity;
    let each = (paths + LANES - 1u) / LANES;
    let first = min(lane * each, paths);
    let end = min(first + each, paths);
    var kept = 0u;
    for (var path = first; path < end; path++) {
        kept += min(count_of(path), capacity);
    }
    var offset = sum_before(lane, kept);
    for (var path = first; path < end; path++) {
        let count = count_of(path);
//#if COUNTED
        counts[params.counts_first + path] = count;
//#endif
        offsets[params.offsets_first + path] = offset;
        offset += min(count, capacity);
    }
    if lane == LANES - 1u {
        offsets[params.offsets_first + paths] = offset;
    }
}
//#endif

@compute @workgroup_size(LANES)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
//#if LANES_BY == memory
    @builtin(local_invocation_index) lane: u32,
//#else
    @builtin(subgroup_invocation_id) lane: u32,
//#endif
) {
    let index = workgroup_index(group);
//#if STAGE == whole
    // All of them; as in reduce.wgsl, parameters alone must not say how often a loop turns.
    let slots = select(0u, params.slots, index == 0u);
    count(lane, 0u, slots);
    write_offsets(lane);
    storageBarrier();
    // The lane that counted a turn also places it.
    for (var turn = lane; turn < slots; turn += LANES) {
        place(turn, 0u);
    }
//#endif
//#if STAGE == count
    let chunks = params.chunks;
    if index >= chunks {
        return;
    }
    count(lane, index, min(params.chunk, params.slots - index * params.chunk));
//#if TALLIES == memory
    let paths = params.paths;
    for (var path = lane; path < paths; path += LANES) {
        tallies[path * chunks + index] = own_tallies[path];
    }
//#endif
//#endif
//#if STAGE == scan
    if index >= params.paths {
        return;
    }
    // A lane has a stretch of neighbouring chunks.
    let chunks = params.chunks;
    let each = (chunks + LANES - 1u) / LANES;
    let first = index * chunks + min(lane * each, chunks);
    let end = min(first + each, (index + 1u) * chunks);
    var own = 0u;
    for (var at = first; at < end; at++) {
        own += tallies[at];
    }
    var before = sum_before(lane, own);
    for (var at = first; at < end; at++) {
        let tally = tallies[at];
        tallies[at] = before;
        before += tally;
    }
    if lane == LANES - 1u {
        counts[params.counts_first + index] = before;
    }
//#endif
//#if STAGE == offsets
    if index == 0u {
        write_offsets(lane);
    }
//#endif
//#if STAGE == place
    let turn = index * LANES + lane;
    if turn < params.slots {
        // A chunk is a multiple of LANES.
        place(turn, index * LANES / params.chunk);
    }
//#endif
}
