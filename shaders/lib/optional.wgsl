// Reading operand OPERAND, an array<u32> of f32, f16 or bf16 elements that may be absent, four at a time, widened to f32.
//
// It is read once for a whole sum, so neither its type nor whether it is there is a variant; both are part of a parameter:
// OPERAND_at is 4 × the number, from the start of the binding, of its first element, plus 0 for f32, 1 for f16, 2 for bf16; or
// 3, where there is none. Needs lib/half.

fn OPERAND_half(index: u32, kind: u32) -> f32 {
    let word = OPERAND[index >> 1u];
    let pair = select(unpack_f16(word), unpack_bf16(word), kind == 2u);
    return select(pair.x, pair.y, (index & 1u) == 1u);
}

// Elements column .. column + 4, of which `valid` exist; the others are 0, and so are all where there is no operand. Loops of one
// turn instead of branches: software drivers run all sides of a branch, but leave a loop that nobody is in. And lavapipe compiles a
// shader anew, each time that it is bound, for the parameters that it has then, if their values alone decide that half of it goes: so
// `valid` has a say.
fn OPERAND_quad(at: u32, column: u32, valid: u32) -> vec4<f32> {
    let kind = at & 3u;
    let first = (at >> 2u) + column;
    var quad = vec4<f32>();
    for (var turns = u32(kind == 0u && valid > 0u); turns > 0u; turns--) {
        if valid > 0u { quad.x = bitcast<f32>(OPERAND[first]); }
        if valid > 1u { quad.y = bitcast<f32>(OPERAND[first + 1u]); }
        if valid > 2u { quad.z = bitcast<f32>(OPERAND[first + 2u]); }
        if valid > 3u { quad.w = bitcast<f32>(OPERAND[first + 3u]); }
    }
    for (var turns = u32((kind == 1u || kind == 2u) && valid > 0u); turns > 0u; turns--) {
        if valid > 0u { quad.x = OPERAND_half(first, kind); }
        if valid > 1u { quad.y = OPERAND_half(first + 1u, kind); }
        if valid > 2u { quad.z = OPERAND_half(first + 2u, kind); }
        if valid > 3u { quad.w = OPERAND_half(first + 3u, kind); }
    }
    return quad;
}
