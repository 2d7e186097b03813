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
// Nothing is computed, so nothing is rounded: 16-bit elements are widened exactly. One invocation owns four rows and two quads of k,
// and finds them with two divisions: drivers divide lane by lane, and seven took as long as all else.

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
    // Rows of a panel, a multiple of four, and runs, as powers of two.
    log_panel: u32,
    log_runs: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> a: array<a_word>;
@group(0) @binding(2) var packed: texture_storage_2d<rgba32float, write>;

// Invocations of a workgroup; rows and quads of k of one.
const LANES: u32 = 64u;
const BLOCK: u32 = 4u;
const QUADS: u32 = 2u;

//#if TRANSPOSED
// The quad of rows from `first_row` on, for one k; 0 past the depth.
fn rows_at(start: u32, k: u32, stride: u32, first_row: u32) -> vec4<f32> {
    if k >= params.depth {
        return vec4<f32>();
    }
    return a_quad(start + k * stride + first_row, params.rows - first_row);
}
//#endif

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let index = workgroup_index(group) * LANES + local;
    let rows = params.rows;
    let depth = params.depth;
    let stride = params.stride;
    let log_panel = params.log_panel;
    let log_runs = params.log_runs;
    let panels = (rows + (1u << log_panel) - 1u) >> log_panel;
    let pairs = (depth + 4u * QUADS - 1u) / (4u * QUADS);
    // Blocks of a panel vary fastest, then pairs of quads, panels and batches.
    let log_blocks = log_panel - 2u;
    let pair_index = index >> log_blocks;
    let panel_index = pair_index / pairs;
    let batch = panel_index / panels;
    if batch >= params.batches {
        return;
    }
    let row = (index - (pair_index << log_blocks)) * BLOCK;
    let quad = (pair_index - panel_index * pairs) * QUADS;
    let first_row = ((panel_index - batch * panels) << log_panel) + row;
    let start = params.first + batch * params.batch;
    let texel = (panel_index * pairs * QUADS + quad) << log_panel;
//#for Q in QUADS
    {
        let k = (quad + Q) * 4u;
//#if TRANSPOSED
        var block = mat4x4<f32>();
        if first_row < rows {
            block = transpose(mat4x4<f32>(
                rows_at(start, k, stride, first_row),
                rows_at(start, k + 1u, stride, first_row),
                rows_at(start, k + 2u, stride, first_row),
                rows_at(start, k + 3u, stride, first_row),
            ));
        }
//#endif
//#for R in BLOCK
        {
//#if TRANSPOSED
            let value = block[R];
//#else
            var value = vec4<f32>();
            if first_row + R < rows && k < depth {
                value = a_quad(start + (first_row + R) * stride + k, depth - k);
            }
//#endif
            let run = (row + R) & ((1u << log_runs) - 1u);
            let slot = (run << (log_panel - log_runs)) + ((row + R) >> log_runs);
            textureStore(packed, texel_place(texel + (Q << log_panel) + slot), value);
        }
//#endfor
    }
//#endfor
}
