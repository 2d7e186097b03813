// Eight elements of f32 as four words of 64 bits. Software drivers load and store word by word for each lane, and start over for
// each access: the fewer words and accesses, the better.

struct Octet {
    low: vec4<f32>,
    high: vec4<f32>,
}

fn parts_of_word(word: u64) -> vec2<u32> {
    return vec2<u32>(u32(word), u32(word >> 32u));
}

fn octet_of_words(words: vec4<u64>) -> Octet {
    return Octet(
        bitcast<vec4<f32>>(vec4<u32>(parts_of_word(words.x), parts_of_word(words.y))),
        bitcast<vec4<f32>>(vec4<u32>(parts_of_word(words.z), parts_of_word(words.w))),
    );
}

fn words_of_quad(quad: vec4<f32>) -> vec2<u64> {
    let parts = bitcast<vec4<u32>>(quad);
    return vec2<u64>(u64(parts.x) | (u64(parts.y) << 32u), u64(parts.z) | (u64(parts.w) << 32u));
}

fn words_of_octet(octet: Octet) -> vec4<u64> {
    return vec4<u64>(words_of_quad(octet.low), words_of_quad(octet.high));
}
