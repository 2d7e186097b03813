// What is moved at a time: two neighbouring quads, as words of 64 bits, which software drivers move faster.

alias Unit = vec4<u64>;

fn quad(words: vec2<u64>) -> vec4<f32> {
    let low = vec2<u32>(u32(words.x), u32(words.y));
    let high = vec2<u32>(u32(words.x >> 32u), u32(words.y >> 32u));
    return bitcast<vec4<f32>>(vec4<u32>(low.x, high.x, low.y, high.y));
}

fn sum_of(unit: Unit) -> vec4<f32> {
    return quad(unit.xy) + quad(unit.zw);
}

