// y = x, in the units of quads.wgsl or octets.wgsl: a workgroup copies SIZE · EACH of them, neighbours next to each other. No
// barrier.

override SIZE: u32 = 64u;
override EACH: u32 = 1u;

@group(0) @binding(0) var<storage, read> x: array<Unit>;
@group(0) @binding(1) var<storage, read_write> y: array<Unit>;
@group(0) @binding(2) var<uniform> units: vec4<u32>;

@compute @workgroup_size(SIZE)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let first = (group.y * groups.x + group.x) * SIZE * EACH + lane;
    for (var i = 0u; i < EACH; i++) {
        let at = first + i * SIZE;
        if at < units.x {
            y[at] = x[at];
        }
    }
}
