// Where texel `index` of a factor that pack.wgsl laid out lies: a texture may be only so wide, so its rows follow one another.

// A power of two, so that no division is needed.
const TEXELS_WIDTH: u32 = 2048u;

fn texel_place(index: u32) -> vec2<u32> {
    return vec2<u32>(index % TEXELS_WIDTH, index / TEXELS_WIDTH);
}
