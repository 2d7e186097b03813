// Reading operand OPERAND, four consecutive elements at a time, widened to f32.
//
// The host puts the operand's name in place of OPERAND and chooses
//   OPERAND_TYPE   f32 | f16 | bf16: how an element is stored (f16 and bf16: two to a 32-bit word, lower half first;
//                  both are unpacked with integer arithmetic, so no device feature is needed);
//   OPERAND_QUADS  true where every quad that is read starts at a multiple of four elements and lies within the
//                  operand, so that it is one aligned load. Otherwise each element is read by itself.

//#if OPERAND_QUADS
//#if OPERAND_TYPE == f32
alias OPERAND_word = vec4<f32>;
//#else
alias OPERAND_word = vec2<u32>;
//#endif
//#else
//#if OPERAND_TYPE == f32
alias OPERAND_word = f32;
//#else
alias OPERAND_word = u32;
//#endif
//#endif

//#if OPERAND_TYPE == f16
// Moving the exponent and mantissa of a normal f16 into place leaves only the exponent's bias to correct; a subnormal one is
// its mantissa times 2⁻²⁴. unpack2x16float is not to be had on every driver, and may flush subnormals.
fn OPERAND_unpack(word: u32) -> vec2<f32> {
    let halves = vec2<u32>(word & 0xffffu, word >> 16u);
    let magnitude = halves & vec2<u32>(0x7fffu);
    let normal = bitcast<vec2<f32>>((magnitude << vec2<u32>(13u)) + vec2<u32>(0x38000000u));
    let subnormal = vec2<f32>(magnitude) * 5.9604644775390625e-8;
    let positive = select(normal, subnormal, magnitude < vec2<u32>(0x400u));
    return bitcast<vec2<f32>>(bitcast<vec2<u32>>(positive) | ((halves & vec2<u32>(0x8000u)) << vec2<u32>(16u)));
}
//#endif
//#if OPERAND_TYPE == bf16
fn OPERAND_unpack(word: u32) -> vec2<f32> {
    return bitcast<vec2<f32>>(vec2<u32>(word << 16u, word & 0xffff0000u));
}
//#endif

//#if OPERAND_QUADS
// Elements first .. first + 4; `valid`, the number of elements left from `first` on, is at least four.
fn OPERAND_quad(first: u32, valid: u32) -> vec4<f32> {
    let word = OPERAND[first >> 2u];
//#if OPERAND_TYPE == f32
    return word;
//#else
    return vec4<f32>(OPERAND_unpack(word.x), OPERAND_unpack(word.y));
//#endif
}
//#else
fn OPERAND_element(index: u32) -> f32 {
//#if OPERAND_TYPE == f32
    return OPERAND[index];
//#else
    let pair = OPERAND_unpack(OPERAND[index >> 1u]);
    return select(pair.x, pair.y, (index & 1u) == 1u);
//#endif
}

// Elements first .. first + 4, those from `first + valid` on taken as 0.
fn OPERAND_quad(first: u32, valid: u32) -> vec4<f32> {
    var quad = vec4<f32>();
    if valid > 0u { quad.x = OPERAND_element(first); }
    if valid > 1u { quad.y = OPERAND_element(first + 1u); }
    if valid > 2u { quad.z = OPERAND_element(first + 2u); }
    if valid > 3u { quad.w = OPERAND_element(first + 3u); }
    return quad;
}
//#endif
