// f32 multiplications and additions, as many as the adapter can do: each invocation has EACH independent vec4
// accumulators and goes `rounds` times through 16 steps of
//   sum = sum · factor + addend
// without touching memory. Both operands are read from a buffer, so that no compiler knows them. With 1 for both, a sum
// has counted its steps at the end, exactly: a compiler that left some out, or a driver that stopped early, shows.
// 2 · 4 · EACH · 16 · rounds FLOPs for each invocation; no barrier.

override SIZE: u32 = 64u;
// Up to 16.
override EACH: u32 = 4u;

alias Sums = array<vec4<f32>, 16>;

@group(0) @binding(0) var<storage, read> operands: array<f32>;
@group(0) @binding(1) var<storage, read_write> results: array<vec4<f32>>;
@group(0) @binding(2) var<uniform> rounds: vec4<u32>;

// Indices are constants, so that the accumulators live in registers.
fn step(sums: ptr<function, Sums>, factor: f32, addend: f32) {
    (*sums)[0] = (*sums)[0] * factor + addend;
    (*sums)[1] = (*sums)[1] * factor + addend;
    if EACH > 2u {
        (*sums)[2] = (*sums)[2] * factor + addend;
    }
    if EACH > 3u {
        (*sums)[3] = (*sums)[3] * factor + addend;
    }
    if EACH > 4u {
        (*sums)[4] = (*sums)[4] * factor + addend;
        (*sums)[5] = (*sums)[5] * factor + addend;
        (*sums)[6] = (*sums)[6] * factor + addend;
        (*sums)[7] = (*sums)[7] * factor + addend;
    }
    if EACH > 8u {
        (*sums)[8] = (*sums)[8] * factor + addend;
        (*sums)[9] = (*sums)[9] * factor + addend;
        (*sums)[10] = (*sums)[10] * factor + addend;
        (*sums)[11] = (*sums)[11] * factor + addend;
        (*sums)[12] = (*sums)[12] * factor + addend;
        (*sums)[13] = (*sums)[13] * factor + addend;
        (*sums)[14] = (*sums)[14] * factor + addend;
        (*sums)[15] = (*sums)[15] * factor + addend;
    }
}

fn four_steps(sums: ptr<function, Sums>, factor: f32, addend: f32) {
    step(sums, factor, addend);
    step(sums, factor, addend);
    step(sums, factor, addend);
    step(sums, factor, addend);
}

@compute @workgroup_size(SIZE)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let index = (group.y * groups.x + group.x) * SIZE + lane;
    // One value for each invocation as far as the compiler knows: an operand that all share may be cheaper, or dearer.
    let factor = operands[2u * (index % 256u)];
    let addend = operands[2u * (index % 256u) + 1u];
    let first = f32(index % 256u);
    let start = vec4<f32>(first, first + 1.0, first + 2.0, first + 3.0);
    var sums = Sums(
        start, start + 1.0, start + 2.0, start + 3.0,
        start + 4.0, start + 5.0, start + 6.0, start + 7.0,
        start + 8.0, start + 9.0, start + 10.0, start + 11.0,
        start + 12.0, start + 13.0, start + 14.0, start + 15.0,
    );
    // Software drivers read a uniform again wherever a loop names it.
    let count = rounds.x;
    for (var round = 0u; round < count; round++) {
        four_steps(&sums, factor, addend);
        four_steps(&sums, factor, addend);
        four_steps(&sums, factor, addend);
        four_steps(&sums, factor, addend);
    }
    results[index] = sums[0] + sums[1] + sums[2] + sums[3]
        + sums[4] + sums[5] + sums[6] + sums[7]
        + sums[8] + sums[9] + sums[10] + sums[11]
        + sums[12] + sums[13] + sums[14] + sums[15];
}
