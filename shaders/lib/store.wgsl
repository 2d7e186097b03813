// Writing output OPERAND (f32), four consecutive elements at a time, and reading back what was written.
//
// The host puts the operand's name in place of OPERAND and chooses OPERAND_ACCESS as in lib/load.wgsl: quads or elements.

//#if OPERAND_ACCESS == quads
alias OPERAND_word = vec4<f32>;

fn OPERAND_load(first: u32, valid: u32) -> vec4<f32> {
    return OPERAND[first >> 2u];
}

// Elements first .. first + 4; `valid`, the number of elements left from `first` on, is at least four.
fn OPERAND_store(first: u32, valid: u32, quad: vec4<f32>) {
    OPERAND[first >> 2u] = quad;
}
//#else
alias OPERAND_word = f32;

fn OPERAND_load(first: u32, valid: u32) -> vec4<f32> {
    var quad = vec4<f32>();
    if valid > 0u { quad.x = OPERAND[first]; }
    if valid > 1u { quad.y = OPERAND[first + 1u]; }
    if valid > 2u { quad.z = OPERAND[first + 2u]; }
    if valid > 3u { quad.w = OPERAND[first + 3u]; }
    return quad;
}

// Elements first .. first + 4, of which only those before `first + valid` are written.
fn OPERAND_store(first: u32, valid: u32, quad: vec4<f32>) {
    if valid > 0u { OPERAND[first] = quad.x; }
    if valid > 1u { OPERAND[first + 1u] = quad.y; }
    if valid > 2u { OPERAND[first + 2u] = quad.z; }
    if valid > 3u { OPERAND[first + 3u] = quad.w; }
}
//#endif
