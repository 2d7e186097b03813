// Pairs of 16-bit floats in a 32-bit word, lower half first, widened to f32 and rounded from it with integer arithmetic: no
// device feature is needed.

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

// Rounding is to nearest, ties to even, and what is too large becomes infinite; pack2x16float promises neither. A carry out of
// the mantissa goes into the exponent, as it should.

fn pack_f16(pair: vec2<f32>) -> u32 {
    let bits = bitcast<vec2<u32>>(pair);
    let magnitude = bits & vec2<u32>(0x7fffffffu);
    let odd = (magnitude >> vec2<u32>(13u)) & vec2<u32>(1u);
    let normal = (magnitude - vec2<u32>(0x38000000u) + vec2<u32>(0xfffu) + odd) >> vec2<u32>(13u);
    // A subnormal f16 counts 2⁻²⁴; from a shift by 25 on that is 0.
    let mantissa = (magnitude & vec2<u32>(0x7fffffu)) | vec2<u32>(0x800000u);
    let shift = min(vec2<u32>(126u) - (magnitude >> vec2<u32>(23u)), vec2<u32>(25u));
    let below_half = ((vec2<u32>(1u) << shift) >> vec2<u32>(1u)) - vec2<u32>(1u);
    let subnormal = (mantissa + below_half + ((mantissa >> shift) & vec2<u32>(1u))) >> shift;
    let number = select(min(normal, vec2<u32>(0x7c00u)), subnormal, magnitude < vec2<u32>(0x38800000u));
    let not_a_number = vec2<u32>(0x7e00u) | ((magnitude >> vec2<u32>(13u)) & vec2<u32>(0x3ffu));
    let rounded = select(number, not_a_number, magnitude > vec2<u32>(0x7f800000u));
    let halves = rounded | ((bits >> vec2<u32>(16u)) & vec2<u32>(0x8000u));
    return halves.x | (halves.y << 16u);
}

fn pack_bf16(pair: vec2<f32>) -> u32 {
    let bits = bitcast<vec2<u32>>(pair);
    let upper = bits >> vec2<u32>(16u);
    let number = (bits + vec2<u32>(0x7fffu) + (upper & vec2<u32>(1u))) >> vec2<u32>(16u);
    let is_number = (bits & vec2<u32>(0x7fffffffu)) <= vec2<u32>(0x7f800000u);
    let halves = select(upper | vec2<u32>(0x40u), number, is_number);
    return halves.x | (halves.y << 16u);
}
