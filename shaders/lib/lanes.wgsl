// What the LANES invocations that share a row have in common: their sum and their maximum.
//
// A workgroup is LANES × ROWS invocations. LANES_BY says how they exchange values:
//   memory     in workgroup memory, halving each time, with a barrier before each halving;
//   subgroups  a row is the whole workgroup (ROWS = 1): subgroups reduce, and their results, in order, in workgroup memory;
//   subgroup   the workgroup is one subgroup; neither memory nor barrier.
// All invocations of a workgroup call each function alike.

const LANES: u32 = 32u;
const ROWS: u32 = 2u;

// An invocation among those of its workgroup.
struct Lane {
    row: u32,
    // Its number among those that share the row.
    lane: u32,
//#if LANES_BY == subgroups
    in_subgroup: u32,
    subgroup: u32,
    subgroups: u32,
//#endif
}

//#if LANES_BY == subgroup
fn lanes_add(lane: Lane, value: f32) -> f32 {
    return subgroupAdd(value);
}

fn lanes_max(lane: Lane, value: f32) -> f32 {
    return subgroupMax(value);
}
//#endif
//#if LANES_BY == subgroups
// One for each subgroup, of which none may be smaller than four invocations.
var<workgroup> of_subgroups: array<f32, (LANES + 3u) / 4u>;

fn lanes_add(lane: Lane, value: f32) -> f32 {
    let part = subgroupAdd(value);
    if lane.in_subgroup == 0u {
        of_subgroups[lane.subgroup] = part;
    }
    workgroupBarrier();
    var sum = of_subgroups[0];
    for (var i = 1u; i < lane.subgroups; i++) {
        sum += of_subgroups[i];
    }
    // All have read the parts before the memory is used again.
    workgroupBarrier();
    return sum;
}

fn lanes_max(lane: Lane, value: f32) -> f32 {
    let part = subgroupMax(value);
    if lane.in_subgroup == 0u {
        of_subgroups[lane.subgroup] = part;
    }
    workgroupBarrier();
    var maximum = of_subgroups[0];
    for (var i = 1u; i < lane.subgroups; i++) {
        maximum = max(maximum, of_subgroups[i]);
    }
    workgroupBarrier();
    return maximum;
}
//#endif
//#if LANES_BY == memory
var<workgroup> of_lanes: array<f32, LANES * ROWS>;

fn lanes_reduce(lane: Lane, value: f32, sum: bool) -> f32 {
    let row = lane.row * LANES;
    let at = row + lane.lane;
    of_lanes[at] = value;
    for (var half = LANES / 2u; half > 0u; half /= 2u) {
        workgroupBarrier();
        if lane.lane < half {
            let other = of_lanes[at + half];
            of_lanes[at] = select(max(of_lanes[at], other), of_lanes[at] + other, sum);
        }
    }
    workgroupBarrier();
    let result = of_lanes[row];
    // All have read the result before the memory is used again.
    workgroupBarrier();
    return result;
}

fn lanes_add(lane: Lane, value: f32) -> f32 {
    return lanes_reduce(lane, value, true);
}

fn lanes_max(lane: Lane, value: f32) -> f32 {
    return lanes_reduce(lane, value, false);
}
//#endif
