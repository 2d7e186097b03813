// The sum, the maximum and the minimum of what the invocations of a subgroup have, of type OPERAND.
//
// VECTOR is a subgroup's size where it is a vector of a CPU, else 0. CPUs make of a reduction a loop over the lanes that asks for
// each whether it is active; a broadcast from a known lane takes two instructions.

fn OPERAND_add(value: OPERAND) -> OPERAND {
//#if VECTOR == 0
    return subgroupAdd(value);
//#else
    var sum = OPERAND();
//#for I in VECTOR
    sum += subgroupBroadcast(value, I);
//#endfor
    return sum;
//#endif
}

fn OPERAND_max(value: OPERAND) -> OPERAND {
//#if VECTOR == 0
    return subgroupMax(value);
//#else
    var most = value;
//#for I in VECTOR
    most = max(most, subgroupBroadcast(value, I));
//#endfor
    return most;
//#endif
}

fn OPERAND_min(value: OPERAND) -> OPERAND {
//#if VECTOR == 0
    return subgroupMin(value);
//#else
    var least = value;
//#for I in VECTOR
    least = min(least, subgroupBroadcast(value, I));
//#endfor
    return least;
//#endif
}
