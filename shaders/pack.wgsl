// A factor of a product, laid out as a tile reads it: panels of rows, in texels of a quad of k. All row-major.
//
//   a [batches, rows, depth], or with TRANSPOSED [batches, depth, rows]: f32, f16 or bf16
//   packed, texels of four f32: [batches, panels, quads of k, PANEL]
//       packed[batch, p, q, slot(r)] = a[batch, p · PANEL + r, 4q .. 4q + 4],   slot(r) = r mod runs · PANEL / runs + r / runs
//
// Software drivers load a buffer word by word for each lane, but a texel at once, so a product that reads each element many times
// has its factors packed first (lib/tile.wgsl). With runs = 1 the rows of a panel lie as they are; with runs = 4 the first of
// each four follow one another, then the second ones, …: lane l of a subgroup, which owns columns 4l .. 4l + 4 of the product,
// finds each of the four beside its neighbours' own.
// What lies past the last k or row is 0: the one adds nothing, and the other's products are never stored. The quads are an even
// number, so that a tile may take two at a time.
// Nothing is computed, so nothing is rounded: 16-bit elements are widened exactly. One invocation owns four rows and a quad of k.

//#import lib/grid
//#import lib/half
//#import lib/texels
//#import lib/load a

struct Params {
    batches: u32,
    rows: u32,
    depth: u32,
    // Elements from the start of the binding to the first, and from a row (TRANSPOSED: a k) and a batch to the next.
    first: u32,
    stride: u32,
    batch: u32,
    // Rows of a panel, a multiple of four.
    panel: u32,
    runs: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> a: array<a_word>;
@group(0) @binding(2) var packed: texture_storage_2d<rgba32float, write>;

// Invocations of a workgroup, and rows of one.
const LANES: u32 = 64u;
const BLOCK: u32 = 4u;

//#if TRANSPOSED
// The quad of rows from `first_row` on, for one k; 0 past the depth.
fn rows_at(start: u32, k: u32, first_row: u32) -> vec4<f32> {
    if k >= params.depth {
        return vec4<f32>();
    }
    return a_quad(start + k * params.stride + first_row, params.rows - first_row);
}
//#endif

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let index = workgroup_index(group) * LANES + local;
    let panels = (params.rows + params.panel - 1u) / params.panel;
    let quads = (params.depth + 7u) / 8u * 2u;
    let blocks = params.panel / BLOCK;
    let batch = index / (panels * quads * blocks);
    if batch >= params.batches {
        return;
    }
    let panel = (index / (quads * blocks)) % panels;
    let quad = (index / blocks) % quads;
    let row = (index % blocks) * BLOCK;
    let k = quad * 4u;
    let start = params.first + batch * params.batch;
    let first_row = panel * params.panel + row;
//#if TRANSPOSED
    var block = mat4x4<f32>();
    if first_row < params.rows {
        block = transpose(mat4x4<f32>(
            rows_at(start, k, first_row),
            rows_at(start, k + 1u, first_row),
            rows_at(start, k + 2u, first_row),
            rows_at(start, k + 3u, first_row),
        ));
    }
//#endif
    let texel = ((batch * panels + panel) * quads + quad) * params.panel;
//#for R in BLOCK
    {
//#if TRANSPOSED
        let value = block[R];
//#else
        var value = vec4<f32>();
        if first_row + R < params.rows && k < params.depth {
            value = a_quad(start + (first_row + R) * params.stride + k, params.depth - k);
        }
//#endif
        let slot = (row + R) % params.runs * (params.panel / params.runs) + (row + R) / params.runs;
        textureStore(packed, texel_place(texel + slot), value);
    }
//#endfor
}
