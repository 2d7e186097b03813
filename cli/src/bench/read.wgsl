// The sums of x's quads, in the units of quads.wgsl or octets.wgsl: a workgroup reads SIZE · EACH of them, neighbours next to
// each other, and each invocation writes the sum of its own. No barrier.

override SIZE: u32 = 64u;
// A multiple of 4.
override EACH: u32 = 16u;

@group(0) @binding(0) var<storage, read> x: array<Unit>;
@group(0) @binding(1) var<storage, read_write> sums: array<vec4<f32>>;
@group(0) @binding(2) var<uniform> units: vec4<u32>;

@compute @workgroup_size(SIZE)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let workgroup = group.y * groups.x + group.x;
    let first = workgroup * SIZE * EACH + lane;
    var sum = vec4<f32>();
    for (var i = 0u; i < EACH; i += 4u) {
        // Four loads that wait for nothing.
        let at = first + i * SIZE;
        if at + 3u * SIZE < units.x {
            sum += (sum_of(x[at]) + sum_of(x[at + SIZE])) + (sum_of(x[at + 2u * SIZE]) + sum_of(x[at + 3u * SIZE]));
        } else {
            for (var j = at; j < min(units.x, at + 4u * SIZE); j += SIZE) {
                sum += sum_of(x[j]);
            }
        }
    }
    sums[workgroup * SIZE + lane] = sum;
}
