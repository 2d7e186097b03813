// What the LANES invocations that share a row have in common: their sum and their maximum.
//
// A workgroup is LANES × ROWS invocations. LANES_BY says how they exchange values:
//   memory     in workgroup memory, halving each time, with a barrier before each halving;
//   subgroups  a row is the whole workgroup (ROWS = 1): subgroups reduce, and their results, in order, in workgroup memory;
//   subgroup   each subgroup has a row; neither memory nor barrier.
// Where subgroups are vectors of a CPU, a row has VECTORS of them, so that their results are loaded from known addresses.
// All invocations of a workgroup call each function alike.

//#if LANES_BY != memory
//#import lib/subgroup f32
//#endif

const LANES: u32 = 32u;
const ROWS: u32 = 2u;
//#if LANES_BY != memory
const VECTOR: u32 = 0u;
//#endif

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
    return f32_add(value);
}

fn lanes_max(lane: Lane, value: f32) -> f32 {
    return f32_max(value);
}
//#endif
//#if LANES_BY == subgroups
// One for each subgroup, of which none may be smaller than four invocations. A workgroup takes one sum and one maximum at most, so
// that no barrier need guard memory that is used again.
var<workgroup> sums: array<f32, (LANES + 3u) / 4u>;
var<workgroup> maxima: array<f32, (LANES + 3u) / 4u>;

fn lanes_add(lane: Lane, value: f32) -> f32 {
    let part = f32_add(value);
    if lane.in_subgroup == 0u {
        sums[lane.subgroup] = part;
    }
    workgroupBarrier();
//#if VECTOR == 0
    var sum = sums[0];
    for (var i = 1u; i < lane.subgroups; i++) {
        sum += sums[i];
    }
//#else
    var sum = 0.0;
//#for I in VECTORS
    sum += sums[I];
//#endfor
//#endif
    return sum;
}

fn lanes_max(lane: Lane, value: f32) -> f32 {
    let part = f32_max(value);
    if lane.in_subgroup == 0u {
        maxima[lane.subgroup] = part;
    }
    workgroupBarrier();
    var maximum = maxima[0];
//#if VECTOR == 0
    for (var i = 1u; i < lane.subgroups; i++) {
        maximum = max(maximum, maxima[i]);
    }
//#else
//#for I in VECTORS
    maximum = max(maximum, maxima[I]);
//#endfor
//#endif
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
