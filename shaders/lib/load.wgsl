// Reading operand OPERAND, four consecutive elements at a time, widened to f32.
//
// The host puts the operand's name in place of OPERAND and chooses
//   OPERAND_TYPE     f32 | f16 | bf16: how an element is stored (f16 and bf16: two to a 32-bit word, lower half first, and
//                    the kernel imports lib/half too);
//   OPERAND_ACCESS   how it is read:
//     quads          every quad that is read starts at a multiple of four elements and lies within the operand, so that
//                    it is one aligned load;
//     wide_quads     the same in words of 64 bits: software drivers load word by word for each lane, whatever its width;
//     wide_pairs     f32 at any place in words of 64 bits, of which a quad touches two or three;
//     wide_octets    f32, not in quads but eight elements at a time, in words of 64 bits; the kernel imports lib/octets too;
//     elements       each element by itself;
//     half_quads     as quads, half_elements as elements, of f16 that stay f16;
//     texels         not through this file: lib/tile.wgsl reads what pack.wgsl laid out in a texture.

//#if OPERAND_ACCESS == quads
//#if OPERAND_TYPE == f32
alias OPERAND_word = vec4<f32>;
//#else
alias OPERAND_word = vec2<u32>;
//#endif
//#endif
//#if OPERAND_ACCESS == wide_quads
//#if OPERAND_TYPE == f32
alias OPERAND_word = vec2<u64>;
//#else
alias OPERAND_word = u64;
//#endif
//#endif
//#if OPERAND_ACCESS == wide_pairs
alias OPERAND_word = u64;
//#endif
//#if OPERAND_ACCESS == wide_octets
alias OPERAND_word = vec4<u64>;
//#endif
//#if OPERAND_ACCESS == elements
//#if OPERAND_TYPE == f32
alias OPERAND_word = f32;
//#else
alias OPERAND_word = u32;
//#endif
//#endif

//#if OPERAND_ACCESS == half_quads
alias OPERAND_word = vec4<f16>;

fn OPERAND_quad(first: u32, valid: u32) -> vec4<f16> {
    return OPERAND[first >> 2u];
}
//#endif
//#if OPERAND_ACCESS == half_elements
alias OPERAND_word = f16;

fn OPERAND_quad(first: u32, valid: u32) -> vec4<f16> {
    var quad = vec4<f16>();
    if valid > 0u { quad.x = OPERAND[first]; }
    if valid > 1u { quad.y = OPERAND[first + 1u]; }
    if valid > 2u { quad.z = OPERAND[first + 2u]; }
    if valid > 3u { quad.w = OPERAND[first + 3u]; }
    return quad;
}
//#endif

//#if OPERAND_ACCESS == wide_quads || OPERAND_ACCESS == wide_pairs
fn OPERAND_halves(word: u64) -> vec2<u32> {
    return vec2<u32>(u32(word), u32(word >> 32u));
}
//#endif

//#if OPERAND_TYPE == f16
fn OPERAND_unpack(word: u32) -> vec2<f32> {
    return unpack_f16(word);
}
//#endif
//#if OPERAND_TYPE == bf16
fn OPERAND_unpack(word: u32) -> vec2<f32> {
    return unpack_bf16(word);
}
//#endif

//#if OPERAND_ACCESS == quads || OPERAND_ACCESS == wide_quads
// Elements first .. first + 4; `valid`, the number of elements left from `first` on, is at least four.
fn OPERAND_quad(first: u32, valid: u32) -> vec4<f32> {
    let word = OPERAND[first >> 2u];
//#if OPERAND_ACCESS == wide_quads
//#if OPERAND_TYPE == f32
    return bitcast<vec4<f32>>(vec4<u32>(OPERAND_halves(word.x), OPERAND_halves(word.y)));
//#else
    let halves = OPERAND_halves(word);
    return vec4<f32>(OPERAND_unpack(halves.x), OPERAND_unpack(halves.y));
//#endif
//#else
//#if OPERAND_TYPE == f32
    return word;
//#else
    return vec4<f32>(OPERAND_unpack(word.x), OPERAND_unpack(word.y));
//#endif
//#endif
}
//#endif
//#if OPERAND_ACCESS == wide_octets
// Elements first .. first + 8, aligned and within the operand.
fn OPERAND_octet(first: u32) -> Octet {
    return octet_of_words(OPERAND[first >> 3u]);
}
//#endif
//#if OPERAND_ACCESS == wide_pairs
// Elements first .. first + 4, those from `first + valid` on taken as 0.
fn OPERAND_quad(first: u32, valid: u32) -> vec4<f32> {
    let low = bitcast<vec2<f32>>(OPERAND_halves(OPERAND[first >> 1u]));
    let middle = bitcast<vec2<f32>>(OPERAND_halves(OPERAND[(first >> 1u) + 1u]));
    var quad = vec4<f32>(low, middle);
    if (first & 1u) == 1u {
        quad = vec4<f32>(quad.yzw, bitcast<f32>(u32(OPERAND[(first >> 1u) + 2u])));
    }
    // What lies behind the operand may be anything, so it is replaced, not multiplied by 0.
    return select(vec4<f32>(), quad, vec4<u32>(0u, 1u, 2u, 3u) < vec4<u32>(valid));
}
//#endif
//#if OPERAND_ACCESS == elements
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
