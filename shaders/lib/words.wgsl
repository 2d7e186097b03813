// Reading operand OPERAND as words of 32 bits, just as they are: nothing here is a float that could be flushed.
//
// The host puts the operand's name in place of OPERAND and chooses OPERAND_ACCESS as lib/load.wgsl has it for f32.

//#if OPERAND_ACCESS == quads
alias OPERAND_word = vec4<u32>;
//#endif
//#if OPERAND_ACCESS == wide_quads
alias OPERAND_word = vec2<u64>;
//#endif
//#if OPERAND_ACCESS == wide_pairs
alias OPERAND_word = u64;
//#endif
//#if OPERAND_ACCESS == elements
alias OPERAND_word = u32;
//#endif

//#if OPERAND_ACCESS == wide_quads || OPERAND_ACCESS == wide_pairs
fn OPERAND_halves(word: u64) -> vec2<u32> {
    return vec2<u32>(u32(word), u32(word >> 32u));
}
//#endif

fn OPERAND_one(index: u32) -> u32 {
//#if OPERAND_ACCESS == quads
    return OPERAND[index >> 2u][index & 3u];
//#endif
//#if OPERAND_ACCESS == wide_quads
    return u32(OPERAND[index >> 2u][(index >> 1u) & 1u] >> ((index & 1u) * 32u));
//#endif
//#if OPERAND_ACCESS == wide_pairs
    return u32(OPERAND[index >> 1u] >> ((index & 1u) * 32u));
//#endif
//#if OPERAND_ACCESS == elements
    return OPERAND[index];
//#endif
}

// Words first .. first + 4, of which `valid` or more are the operand's; what the others are is not said.
fn OPERAND_four(first: u32, valid: u32) -> vec4<u32> {
//#if OPERAND_ACCESS == quads
    return OPERAND[first >> 2u];
//#endif
//#if OPERAND_ACCESS == wide_quads
    let word = OPERAND[first >> 2u];
    return vec4<u32>(OPERAND_halves(word.x), OPERAND_halves(word.y));
//#endif
//#if OPERAND_ACCESS == wide_pairs
    let low = OPERAND_halves(OPERAND[first >> 1u]);
    let middle = OPERAND_halves(OPERAND[(first >> 1u) + 1u]);
    if (first & 1u) == 1u {
        return vec4<u32>(low.y, middle, u32(OPERAND[(first >> 1u) + 2u]));
    }
    return vec4<u32>(low, middle);
//#endif
//#if OPERAND_ACCESS == elements
    var four = vec4<u32>(OPERAND[first], 0u, 0u, 0u);
    if valid > 1u { four.y = OPERAND[first + 1u]; }
    if valid > 2u { four.z = OPERAND[first + 2u]; }
    if valid > 3u { four.w = OPERAND[first + 3u]; }
    return four;
//#endif
}
