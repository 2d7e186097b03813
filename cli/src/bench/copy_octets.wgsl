// copy.wgsl in octets, two neighbouring quads as words of 64 bits, which software drivers move faster.

override SIZE: u32 = 64u;
override EACH: u32 = 1u;

@group(0) @binding(0) var<storage, read> x: array<vec4<u64>>;
@group(0) @binding(1) var<storage, read_write> y: array<vec4<u64>>;
@group(0) @binding(2) var<uniform> octets: vec4<u32>;

@compute @workgroup_size(SIZE)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let first = (group.y * groups.x + group.x) * SIZE * EACH + lane;
    let count = octets.x;
    for (var i = 0u; i < EACH; i++) {
        let at = first + i * SIZE;
        if at < count {
            y[at] = x[at];
        }
    }
}
