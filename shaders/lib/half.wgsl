// Pairs of 16-bit floats in a 32-bit word, lower half first, widened to f32 with integer arithmetic: no device feature is needed.

// Moving the exponent and mantissa of a normal f16 into place leaves only the exponent's bias to correct; a subnormal one is
// its mantissa times 2⁻²⁴. unpack2x16float is not to be had on every driver, and may flush subnormals.
fn unpack_f16(word: u32) -> vec2<f32> {
    let halves = vec2<u32>(word & 0xffffu, word >> 16u);
    let magnitude = halves & vec2<u32>(0x7fffu);
    let normal = bitcast<vec2<f32>>((magnitude << vec2<u32>(13u)) + vec2<u32>(0x38000000u));
    let subnormal = vec2<f32>(magnitude) * 5.9604644775390625e-8;
    let positive = select(normal, subnormal, magnitude < vec2<u32>(0x400u));
    return bitcast<vec2<f32>>(bitcast<vec2<u32>>(positive) | ((halves & vec2<u32>(0x8000u)) << vec2<u32>(16u)));
}

fn unpack_bf16(word: u32) -> vec2<f32> {
    return bitcast<vec2<f32>>(vec2<u32>(word << 16u, word & 0xffff0000u));
}
