// What the example draws: a night sky, glyphs over it, and behind those the layer's results.

override WIDTH: f32;
override HEIGHT: f32;
override LANGUAGES: u32;

@vertex
fn everywhere(@builtin(vertex_index) corner: u32) -> @builtin(position) vec4f {
    return vec4f(f32(corner & 1u) * 2.0 - 1.0, f32(corner >> 1u) * 2.0 - 1.0, 0.0, 1.0);
}

fn hash(at: vec2f) -> f32 {
    return fract(sin(dot(at, vec2f(127.1, 311.7))) * 43758.547);
}

// Night, a few stars, and two curtains of light.
@fragment
fn sky(@builtin(position) position: vec4f) -> @location(0) vec4f {
    let at = position.xy / vec2f(WIDTH, HEIGHT);
    var colour = mix(vec3f(0.050, 0.055, 0.115), vec3f(0.020, 0.022, 0.045), at.y);
    for (var band = 0.0; band < 2.0; band += 1.0) {
        let curve = 0.30 + 0.38 * band + 0.10 * sin(at.x * 5.0 + 2.1 * band) + 0.04 * sin(at.x * 17.0 - band);
        let above = (at.y - curve) * 7.0;
        let rays = 0.75 + 0.25 * sin(at.x * 90.0 + 12.0 * sin(at.x * 7.0 + band));
        let tint = mix(vec3f(0.02, 0.13, 0.12), vec3f(0.10, 0.04, 0.16), band);
        colour += tint * rays * exp(-above * above * select(1.0, 6.0, above > 0.0));
    }
    let place = floor(position.xy / 9.0);
    let away = length(fract(position.xy / 9.0) - vec2f(hash(place + 0.5), hash(place + 7.5)));
    colour += 0.5 * hash(place + 3.5) * step(0.982, hash(place)) * (1.0 - smoothstep(0.0, 0.16, away));
    return vec4f(colour, 1.0);
}

struct Cell {
    @location(0) area: vec4f,
    @location(1) upper: vec4u,
    @location(2) lower: vec4u,
    @location(3) style: vec3f,
    @location(4) shows: vec4u,
}

struct Pixel {
    @builtin(position) position: vec4f,
    @location(0) at: vec2f,
    @location(1) @interpolate(flat) size: vec2f,
    @location(2) @interpolate(flat) upper: vec4u,
    @location(3) @interpolate(flat) lower: vec4u,
    @location(4) @interpolate(flat) style: vec3f,
    @location(5) @interpolate(flat) shows: vec4u,
}

@vertex
fn cell(@builtin(vertex_index) corner: u32, cell: Cell) -> Pixel {
    let at = vec2f(f32(corner & 1u), f32(corner >> 1u)) * cell.area.zw;
    let place = (cell.area.xy + at) / vec2f(WIDTH, HEIGHT) * vec2f(2.0, -2.0) + vec2f(-1.0, 1.0);
    return Pixel(vec4f(place, 0.0, 1.0), at, cell.area.zw, cell.upper, cell.lower, cell.style, cell.shows);
}

@fragment
fn glyphs(pixel: Pixel) -> @location(0) vec4f {
    let middle = 0.5 * vec2f(pixel.style.x, 16.0);
    let at = vec2i(floor((pixel.at - 0.5 * pixel.size) / pixel.style.y + middle));
    if any(at < vec2i(0)) || any(at > vec2i(15)) {
        return vec4f(0.0);
    }
    let row = select(pixel.lower, pixel.upper, at.y < 8)[u32(at.y) % 8u / 2u] >> (u32(at.y) % 2u * 16u);
    return vec4f(vec3f(0.92, 0.95, 1.0) * pixel.style.z, f32(row >> u32(15 - at.x) & 1u));
}

// The layer's results, where the forward leaves them: a weight for each token, a score for each token and language.
@group(0) @binding(0) var<storage, read> w: array<f32>;
@group(0) @binding(1) var<storage, read> y: array<f32>;

fn score(first: u32, count: u32, language: u32) -> f32 {
    var sum = 0.0;
    for (var token = 0u; token < count; token++) {
        sum += y[(first + token) * LANGUAGES + language];
    }
    return sum;
}

// 1 / Σ exp(score of each language - score of this one).
fn probability(first: u32, count: u32, language: u32) -> f32 {
    let own = score(first, count, language);
    var sum = 0.0;
    for (var other = 0u; other < LANGUAGES; other++) {
        sum += exp(min(score(first, count, other) - own, 60.0));
    }
    return 1.0 / sum;
}

// What is drawn so far is multiplied by alpha; the colour is added.
@fragment
fn heat(pixel: Pixel) -> @location(0) vec4f {
    let first = pixel.shows.y;
    let count = pixel.shows.z;
    // In even shares; what has no weight to show is as it was.
    var share = 1.0;
    var strength = 0.0;
    switch pixel.shows.x {
        case 1u: { share = w[first] * f32(count); }
        case 2u: { strength = probability(first, count, pixel.shows.w); }
        case 3u: { share = f32(first) / 100.0; }
        default: {}
    }
    strength = max(strength, clamp(log2(max(share, 1.0)) / 3.0, 0.0, 1.0));
    let keep = mix(0.45, 1.0, smoothstep(0.25, 1.0, share));
    let warm = mix(vec3f(0.30, 0.08, 0.52), vec3f(0.86, 0.22, 0.36), smoothstep(0.0, 0.55, strength));
    let colour = mix(warm, vec3f(0.98, 0.55, 0.10), smoothstep(0.5, 1.0, strength));
    // A box with round corners and a soft edge.
    let corner = abs(pixel.at - 0.5 * pixel.size) - 0.5 * pixel.size + 5.0;
    let inside = clamp(4.5 - length(max(corner, vec2f(0.0))) + 0.5, 0.0, 1.0);
    return vec4f(colour * inside * smoothstep(0.0, 0.25, strength) * 0.9, keep);
}
