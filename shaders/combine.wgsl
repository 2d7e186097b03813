// Sums of gathered rows, weighted by gates: what paths computed for tokens goes back to the tokens; all row-major.
//
//   rows [B, N, O]     positions [B, T, e] u32     gates [B, T, e] f32, optional     plus [B, T, O], optional
//   y[b, t] = Σ_j gate[b, t, j] · rows[b, positions[b, t, j]] + plus[b, t], j ascending, with gate = 1 where there is none
// A position of N or more adds nothing, whatever its gate. y is [B, T, O], or [B, S, O] where there are targets [B, T] u32:
// then y[b, targets[b, t]] is written instead of y[b, t], and nothing where the target is S or more. rows, plus and y are f32, f16
// or bf16, each its own.
//
// Stages:  combine   the above.
//          fill      before it where there are targets: every row of y is 0 or, where there is `skip` [B, S, O], the row of that.
// Work: STAGE == fill: an invocation owns a quad of y, which is flat to it; an octet, where that is how it is written.
//       ALONE false: an invocation owns a quad of columns of a result.
//       ALONE true: a workgroup owns a result, and its lanes go through the columns together, BLOCK quads each at a time.
//       Positions and gates are then uniform, so that drivers that load lane by lane load them once.
// There is no barrier. Where MOVED (one slot, no gates, nothing to add; to `fill`, no skip) rows are copied as they are. Otherwise, to
// first order:
//   |ŷ − y| ≤ (e + 2) · 2⁻²⁴ · (Σ|gate||row| + |plus|), and half a ULP of a y of 16 bits

//#import lib/grid
//#import lib/half
//#if y_ACCESS == wide_octets
//#import lib/octets
//#endif
//#import lib/store y
//#if STAGE == combine
//#import lib/load rows
//#endif
//#if !MOVED
//#if y_ACCESS != wide_octets
//#import lib/optional plus
//#endif
//#endif

const LANES: u32 = 64u;
//#if ALONE
const BLOCK: u32 = 4u;
//#endif

struct Params {
    // Results of this dispatch (to `fill`, elements), and of a batch; the first is result `first` of the batches that are bound.
    results: u32,
    first: u32,
    of_batch: u32,
    // Slots of a result, and rows of a batch of rows and of y, as far as they are bound.
    slots: u32,
    rows: u32,
    targets: u32,
    columns: u32,
    // Elements from the start of its binding to the first element of each; plus is as lib/optional.wgsl has it.
    rows_first: u32,
    positions_first: u32,
    gates_first: u32,
    plus_at: u32,
    targets_first: u32,
    y_first: u32,
    // As lib/store.wgsl has it.
    y_kind: u32,
    // Where a batch is bound in parts, which takes results of one slot for its rows: the first row that is, of rows and of y.
    rows_from: u32,
    targets_from: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
//#if STAGE == combine
@group(0) @binding(1) var<storage, read> rows: array<rows_word>;
@group(0) @binding(2) var<storage, read> positions: array<u32>;
//#endif
//#if GATED
@group(0) @binding(3) var<storage, read> gates: array<f32>;
//#endif
//#if !MOVED
//#if y_ACCESS == wide_octets
@group(0) @binding(4) var<storage, read> plus: array<y_word>;
//#else
@group(0) @binding(4) var<storage, read> plus: array<u32>;
//#endif
//#endif
//#if TARGETED
@group(0) @binding(5) var<storage, read> targets: array<u32>;
//#endif
@group(0) @binding(6) var<storage, read_write> y: array<y_word>;

//#if STAGE == combine
// The element of y, from its first, at which a result's row starts; no place, where it has none.
fn row_of(result: u32) -> u32 {
//#if TARGETED
    let row = targets[params.targets_first + result] - params.targets_from;
    if row >= params.targets {
        return NOWHERE;
    }
    return ((params.first + result) / params.of_batch * params.targets + row) * params.columns;
//#else
    return result * params.columns;
//#endif
}
//#if TARGETED
const NOWHERE: u32 = 0xffffffffu;
//#endif

// Whether another dispatch moves the row of this result: the first one has those whose position is no row.
fn is_elsewhere(result: u32) -> bool {
    return params.rows_from > 0u && positions[params.positions_first + result] - params.rows_from >= params.rows;
}

// The first of the rows that positions of the result count from.
fn first_row(result: u32) -> u32 {
    return (params.first + result) / params.of_batch * params.rows;
}
//#endif

//#if STAGE == fill
@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let index = workgroup_index(group) * LANES + lane;
//#if y_ACCESS == wide_octets
    let first = index * 8u;
    if first < params.results {
//#if MOVED
        y_store_octet(params.y_first + first, Octet(vec4<f32>(), vec4<f32>()));
//#else
        y[(params.y_first + first) >> 3u] = plus[((params.plus_at >> 2u) + first) >> 3u];
//#endif
    }
//#else
    let first = index * 4u;
    if first < params.results {
        let left = params.results - first;
//#if MOVED
        y_store(params.y_first + first, left, vec4<f32>());
//#else
        y_store(params.y_first + first, left, plus_quad(params.plus_at, first, left));
//#endif
    }
//#endif
}
//#else
//#if ALONE
@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let result = workgroup_index(group);
    if result >= params.results || is_elsewhere(result) {
        return;
    }
    let to = row_of(result);
//#if TARGETED
    if to == NOWHERE {
        return;
    }
//#endif
    let columns = params.columns;
    let slots = params.slots;
    let all_rows = params.rows;
    let rows_from = params.rows_from;
    let batch_row = first_row(result);
    let rows_first = params.rows_first;
    for (var start = lane * 4u; start < columns; start += LANES * BLOCK * 4u) {
        var sum: array<vec4<f32>, BLOCK>;
//#for Q in BLOCK
        sum[Q] = vec4<f32>();
//#endfor
        for (var slot = 0u; slot < slots; slot++) {
            let place = result * slots + slot;
            let position = positions[params.positions_first + place] - rows_from;
            if position < all_rows {
                let row = rows_first + (batch_row + position) * columns;
//#if GATED
                let gate = gates[params.gates_first + place];
//#endif
//#for Q in BLOCK
                {
                    let column = start + Q * LANES * 4u;
                    if column < columns {
                        let quad = rows_quad(row + column, columns - column);
//#if MOVED
                        sum[Q] = quad;
//#else
//#if GATED
                        sum[Q] += gate * quad;
//#else
                        sum[Q] += quad;
//#endif
//#endif
                    }
                }
//#endfor
            }
        }
//#for Q in BLOCK
        {
            let column = start + Q * LANES * 4u;
            if column < columns {
                let left = columns - column;
//#if !MOVED
                sum[Q] += plus_quad(params.plus_at, result * columns + column, left);
//#endif
                y_store(params.y_first + to + column, left, sum[Q]);
            }
        }
//#endfor
    }
}
//#else
@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let columns = params.columns;
    let quads = (columns + 3u) / 4u;
    let index = workgroup_index(group) * LANES + lane;
    let result = index / quads;
    let column = (index % quads) * 4u;
    if result >= params.results || is_elsewhere(result) {
        return;
    }
    let to = row_of(result);
//#if TARGETED
    if to == NOWHERE {
        return;
    }
//#endif
    let left = columns - column;
    var sum = vec4<f32>();
    let slots = params.slots;
    let all_rows = params.rows;
    let rows_from = params.rows_from;
    let batch_row = first_row(result);
    let rows_first = params.rows_first;
    for (var slot = 0u; slot < slots; slot++) {
        let place = result * slots + slot;
        let position = positions[params.positions_first + place] - rows_from;
        if position < all_rows {
            let quad = rows_quad(rows_first + (batch_row + position) * columns + column, left);
//#if MOVED
            sum = quad;
//#else
//#if GATED
            sum += gates[params.gates_first + place] * quad;
//#else
            sum += quad;
//#endif
//#endif
        }
    }
//#if !MOVED
    sum += plus_quad(params.plus_at, result * columns + column, left);
//#endif
    y_store(params.y_first + to + column, left, sum);
}
//#endif
//#endif
