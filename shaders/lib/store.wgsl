// Writing output OPERAND, four consecutive elements at a time, and reading back the f32 that was written.
//
// The host puts the operand's name in place of OPERAND and chooses OPERAND_ACCESS:
//   quads        f32; every quad that is written starts at a multiple of four elements and lies within the output;
//   wide_octets  f32; the same of eight elements, in words of 64 bits. Needs lib/octets;
//   elements     f32, each element by itself;
//   words        f16 or bf16, rounded to nearest even, in whole words of 32 bits: every quad starts at an even element, and only
//                the output's last may have an odd number of elements. The type is no variant but params.OPERAND_kind: 1 for f16,
//                2 for bf16. Needs lib/half.

//#if OPERAND_ACCESS == quads
alias OPERAND_word = vec4<f32>;

fn OPERAND_load(first: u32, valid: u32) -> vec4<f32> {
    return OPERAND[first >> 2u];
}

// Elements first .. first + 4; `valid`, the number of elements left from `first` on, is at least four.
fn OPERAND_store(first: u32, valid: u32, quad: vec4<f32>) {
    OPERAND[first >> 2u] = quad;
}
//#endif
//#if OPERAND_ACCESS == wide_octets
alias OPERAND_word = vec4<u64>;

fn OPERAND_octet(first: u32) -> Octet {
    return octet_of_words(OPERAND[first >> 3u]);
}

// Elements first .. first + 8, aligned and within the output.
fn OPERAND_store_octet(first: u32, octet: Octet) {
    OPERAND[first >> 3u] = words_of_octet(octet);
}
//#endif
//#if OPERAND_ACCESS == elements
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
//#if OPERAND_ACCESS == words
alias OPERAND_word = u32;

// A word, of which `valid` halves exist: the upper one of an odd output's last word may be somebody else's.
fn OPERAND_store_pair(at: u32, valid: u32, pair: vec2<f32>) {
    var word = 0u;
    if params.OPERAND_kind == 2u {
        word = pack_bf16(pair);
    } else {
        word = pack_f16(pair);
    }
    if valid == 1u {
        word = (OPERAND[at] & 0xffff0000u) | (word & 0xffffu);
    }
    OPERAND[at] = word;
}

// Elements first .. first + 4, of which only those before `first + valid` are written; `valid` is at least one.
fn OPERAND_store(first: u32, valid: u32, quad: vec4<f32>) {
    OPERAND_store_pair(first >> 1u, valid, quad.xy);
    if valid > 2u { OPERAND_store_pair((first >> 1u) + 1u, valid - 2u, quad.zw); }
}
//#endif
