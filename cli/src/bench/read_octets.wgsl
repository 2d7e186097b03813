// read.wgsl in octets, two neighbouring quads as words of 64 bits, which software drivers load faster.

override SIZE: u32 = 64u;
override EACH: u32 = 16u;

@group(0) @binding(0) var<storage, read> x: array<vec4<u64>>;
@group(0) @binding(1) var<storage, read_write> sums: array<vec4<f32>>;
@group(0) @binding(2) var<uniform> octets: vec4<u32>;

fn quad(words: vec2<u64>) -> vec4<f32> {
    let low = vec2<u32>(u32(words.x), u32(words.y));
    let high = vec2<u32>(u32(words.x >> 32u), u32(words.y >> 32u));
    return bitcast<vec4<f32>>(vec4<u32>(low.x, high.x, low.y, high.y));
}

@compute @workgroup_size(SIZE)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let workgroup = group.y * groups.x + group.x;
    let first = workgroup * SIZE * EACH + lane;
    let end = min(octets.x, first + SIZE * EACH);
    var sum = vec4<f32>();
    for (var at = first; at < end; at += SIZE) {
        let words = x[at];
        sum += quad(words.xy) + quad(words.zw);
    }
    sums[workgroup * SIZE + lane] = sum;
}
