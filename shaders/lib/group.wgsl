// What the LANES invocations of a workgroup have in common, in whole numbers: their sum, their extremes, and for each the sum
// of those before it.
//
// LANES_BY says how they exchange values, as in lib/lanes.wgsl:
//   memory     in workgroup memory, with barriers; sums and extremes are loaded so that WGSL knows them to be uniform;
//   subgroups  subgroups reduce, and their results, in order, in workgroup memory;
//   subgroup   the workgroup is one subgroup; neither memory nor barrier.
// All invocations of a workgroup call each function alike.

//#if LANES_BY != memory
//#import lib/subgroup i32
//#endif

const LANES: u32 = 32u;

// An invocation among those of its workgroup.
struct Lane {
    lane: u32,
//#if LANES_BY == subgroups
    in_subgroup: u32,
    subgroup: u32,
    subgroups: u32,
//#endif
}

//#if LANES_BY == subgroup
fn group_add(lane: Lane, value: i32) -> i32 {
    return i32_add(value);
}

fn group_max(lane: Lane, value: i32) -> i32 {
    return i32_max(value);
}

fn group_min(lane: Lane, value: i32) -> i32 {
    return i32_min(value);
}

fn group_before(lane: Lane, value: i32) -> i32 {
    return subgroupExclusiveAdd(value);
}
//#endif
//#if LANES_BY == subgroups
// One for each subgroup, of which none may be smaller than four invocations.
var<workgroup> of_subgroups: array<i32, (LANES + 3u) / 4u>;

// The lane's number: subgroups are whole, and those before it hold the lower numbers.
fn group_lane(in_subgroup: u32, subgroup: u32, subgroups: u32) -> Lane {
    return Lane(subgroup * (LANES / subgroups) + in_subgroup, in_subgroup, subgroup, subgroups);
}

fn group_share(lane: Lane, part: i32) {
    if lane.in_subgroup == 0u {
        of_subgroups[lane.subgroup] = part;
    }
    workgroupBarrier();
}

fn group_add(lane: Lane, value: i32) -> i32 {
    group_share(lane, i32_add(value));
    var sum = of_subgroups[0];
    for (var i = 1u; i < lane.subgroups; i++) {
        sum += of_subgroups[i];
    }
    // All have read the parts before the memory is used again.
    workgroupBarrier();
    return sum;
}

fn group_max(lane: Lane, value: i32) -> i32 {
    group_share(lane, i32_max(value));
    var maximum = of_subgroups[0];
    for (var i = 1u; i < lane.subgroups; i++) {
        maximum = max(maximum, of_subgroups[i]);
    }
    workgroupBarrier();
    return maximum;
}

fn group_min(lane: Lane, value: i32) -> i32 {
    return ~group_max(lane, ~value);
}

fn group_before(lane: Lane, value: i32) -> i32 {
    group_share(lane, i32_add(value));
    var sum = subgroupExclusiveAdd(value);
    for (var i = 0u; i < lane.subgroup; i++) {
        sum += of_subgroups[i];
    }
    workgroupBarrier();
    return sum;
}
//#endif
//#if LANES_BY == memory
var<workgroup> of_lanes: array<i32, LANES>;

fn group_reduce(lane: Lane, value: i32, sum: bool) -> i32 {
    of_lanes[lane.lane] = value;
    for (var half = LANES / 2u; half > 0u; half /= 2u) {
        workgroupBarrier();
        if lane.lane < half {
            let own = of_lanes[lane.lane];
            let other = of_lanes[lane.lane + half];
            of_lanes[lane.lane] = select(max(own, other), own + other, sum);
        }
    }
    // It waits before and behind the load, so that the memory can be used again.
    return workgroupUniformLoad(&of_lanes[0]);
}

fn group_add(lane: Lane, value: i32) -> i32 {
    return group_reduce(lane, value, true);
}

fn group_max(lane: Lane, value: i32) -> i32 {
    return group_reduce(lane, value, false);
}

fn group_min(lane: Lane, value: i32) -> i32 {
    return ~group_max(lane, ~value);
}

fn group_before(lane: Lane, value: i32) -> i32 {
    var sum = value;
    of_lanes[lane.lane] = sum;
    for (var step = 1u; step < LANES; step *= 2u) {
        workgroupBarrier();
        var other = 0;
        if lane.lane >= step {
            other = of_lanes[lane.lane - step];
        }
        // All have read before anyone writes; what is written last is not read by others.
        workgroupBarrier();
        sum += other;
        of_lanes[lane.lane] = sum;
    }
    return sum - value;
}
//#endif
