//! Do the tests test anything? Each mutant is a copy of the crate with one deliberate fault, and the named ordinary test
//! must fail on it. Slow (a build for every fault of the host's), so it runs on request:
//!
//!     cargo test --test mutants -- --ignored --nocapture

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test that cannot go on fails, and says why"
)]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

struct Mutant {
    fault: &'static str,
    file: &'static str,
    /// Text that occurs in the file exactly once, and what the mutant has in its place.
    from: &'static str,
    to: &'static str,
    /// The test that must fail, and the cases it is confined to (all, where empty).
    test: &'static str,
    cases: &'static str,
}

const MUTANTS: &[Mutant] = &[
    Mutant {
        fault: "tile product: no barrier before the stage is read",
        file: "shaders/lib/tile.wgsl",
        from: "        // and so is each that follows.\n        workgroupBarrier();\n",
        to: "",
        test: "matmul",
        cases: "matmul 65x63x31",
    },
    Mutant {
        fault: "tile product: of two stages only one is used",
        file: "shaders/lib/tile.wgsl",
        from: "        at = 1u - at;\n",
        to: "",
        test: "tiles",
        cases: "",
    },
    Mutant {
        fault: "tile product: no barrier before the stage is overwritten",
        file: "shaders/lib/tile.wgsl",
        from: "        // Everyone has read the stage before the next one overwrites it.\n        workgroupBarrier();\n",
        to: "",
        test: "matmul",
        cases: "matmul 130x68x132",
    },
    Mutant {
        fault: "lanes: no barrier before workgroup memory is used again",
        file: "shaders/lib/lanes.wgsl",
        from: "    // All have read the result before the memory is used again.\n    workgroupBarrier();\n",
        to: "",
        test: "softmax",
        cases: "softmax 7x1000x1",
    },
    Mutant {
        fault: "lanes: halves are added without a barrier",
        file: "shaders/lib/lanes.wgsl",
        from: "        workgroupBarrier();\n        if lane.lane < half {",
        to: "        if lane.lane < half {",
        test: "attend",
        cases: "attend 65x128",
    },
    Mutant {
        fault: "matmul: the last row is skipped",
        file: "shaders/matmul.wgsl",
        from: "if tile_row(place, R) < place.rows {",
        to: "if tile_row(place, R) + 1u < place.rows {",
        test: "matmul",
        cases: "matmul 9x33x5",
    },
    Mutant {
        fault: "route: the last columns are skipped",
        file: "shaders/route.wgsl",
        from: "if column < place.columns {",
        to: "if column + 1u < place.columns {",
        test: "route",
        cases: "route 5x33x17",
    },
    Mutant {
        fault: "matmul: the bias is dropped",
        file: "shaders/matmul.wgsl",
        from: "addend = bias_quad(",
        to: "addend = 0.0 * bias_quad(",
        test: "matmul",
        cases: "matmul 17x36x24",
    },
    Mutant {
        fault: "route: w is ignored",
        file: "shaders/route.wgsl",
        from: "let y = w[params.w_first + tile_row(place, R)] * (sum + inside) + outside;",
        to: "let y = w[params.w_first + tile_row(place, R)] * vec4<f32>() + (sum + inside) + outside;",
        test: "routing",
        cases: "routing 3x17x20",
    },
    Mutant {
        fault: "route: w is applied to the outer bias too",
        file: "shaders/route.wgsl",
        from: "* (sum + inside) + outside;",
        to: "* (sum + inside + outside);",
        test: "goldens",
        cases: "",
    },
    Mutant {
        fault: "route: the inner bias escapes the weight",
        file: "shaders/route.wgsl",
        from: "* (sum + inside) + outside;",
        to: "* sum + inside + outside;",
        test: "routing",
        cases: "folded-whole",
    },
    Mutant {
        fault: "tile product: rows of A follow the depth of the dispatch instead of the stride",
        file: "shaders/lib/tile.wgsl",
        from: "place.a_first + a_index(place, row) * place.a_stride",
        to: "place.a_first + a_index(place, row) * place.depth",
        test: "splitting",
        cases: "",
    },
    Mutant {
        fault: "tile product: lanes hand round the rows of their neighbours",
        file: "shaders/lib/tile.wgsl",
        from: "subgroupBroadcast(own[T], L)",
        to: "subgroupBroadcast(own[T], L ^ 1u)",
        test: "matmul",
        cases: "matmul 9x33x5",
    },
    Mutant {
        fault: "tile product: of the quads of k that are multiplied at a time only the first counts",
        file: "shaders/lib/tile.wgsl",
        from: "                    products += blocks[(T + 1u) * TILE_QUADS + Q] * quads[T + 1u];\n",
        to: "",
        test: "tiles",
        cases: "",
    },
    Mutant {
        fault: "attend: what it packs on the way does not end with an even quad of k",
        file: "shaders/attend.wgsl",
        from: "quads % 2u == 1u && lane.lane == 0u",
        to: "false",
        test: "pack",
        cases: "attending",
    },
    Mutant {
        fault: "tile product: the panels of packed B lie as far apart as those of A",
        file: "shaders/lib/tile.wgsl",
        from: "n / (4u * TILE_X) * place.b_stride",
        to: "n / (4u * TILE_X) * place.a_stride",
        test: "matmul",
        cases: "matmul 259x133x70",
    },
    Mutant {
        fault: "tile product: of an octet of A the second quad is multiplied twice",
        file: "shaders/lib/tile.wgsl",
        from: "own[0] = octet.low;",
        to: "own[0] = octet.high;",
        test: "tiles",
        cases: "",
    },
    Mutant {
        fault: "host: A is read in octets wherever its rows begin",
        file: "src/kernels/tile.rs",
        from: "begins && [stride, depth].iter().all(|count| count.is_multiple_of(8))",
        to: "begins",
        test: "tiles",
        cases: "",
    },
    Mutant {
        fault: "host: A is read in octets wherever it begins",
        file: "src/kernels/tile.rs",
        from: "a.byte_offset().is_multiple_of(OCTET_BYTES)",
        to: "a.byte_offset().is_multiple_of(4)",
        test: "tiles",
        cases: "",
    },
    Mutant {
        fault: "pack: the rows of a panel are not dealt into runs",
        file: "shaders/pack.wgsl",
        from: "(run << (log_panel - log_runs)) + ((row + R) >> log_runs)",
        to: "row + R",
        test: "pack",
        cases: "pack 1x32x36",
    },
    Mutant {
        fault: "pack: k past the depth holds what lies behind",
        file: "shaders/pack.wgsl",
        from: "    if k >= params.depth {",
        to: "    if k > params.depth {",
        test: "pack",
        cases: "pack 1x9x5",
    },
    Mutant {
        fault: "tile product: a texture that is packed already is taken for another part of the factor",
        file: "src/kernels/tile.rs",
        from: "packed.first == first && packed.layout == layout",
        to: "packed.layout == layout",
        test: "splitting",
        cases: "",
    },
    Mutant {
        fault: "tile product: a staged block is fetched one stage late",
        file: "shaders/lib/tile.wgsl",
        from: "block_fetch(place, invocation + L * TILE_X * TILE_Y, starts[L], k);",
        to: "block_fetch(place, invocation + L * TILE_X * TILE_Y, starts[L], k - TILE_DEPTH);",
        test: "matmul",
        cases: "matmul 65x63x31",
    },
    Mutant {
        fault: "tile product: the lanes that share a sum read the same quads of k",
        file: "shaders/lib/tile.wgsl",
        from: "for (var k = place.x * 4u; k < depth; k += TILE_X * 4u) {",
        to: "for (var k = 0u; k < depth; k += TILE_X * 4u) {",
        test: "matmul",
        cases: "matmul 3x257x15",
    },
    Mutant {
        fault: "tile product: sums that lanes share are halved without a barrier",
        file: "shaders/lib/tile.wgsl",
        from: "        workgroupBarrier();\n        if place.x < half {",
        to: "        if place.x < half {",
        test: "tiles",
        cases: "",
    },
    Mutant {
        fault: "tile product: every sum that lanes share gets the other halves of the first",
        file: "shaders/lib/tile.wgsl",
        from: "+= lane_sums[S * TILE_X * TILE_Y + at + half];",
        to: "+= lane_sums[at + half];",
        test: "matmul",
        cases: "matmul 3x257x15",
    },
    Mutant {
        fault: "tile product: the last part of a sum is as deep as the others",
        file: "src/kernels/tile.rs",
        from: "last_depth: number(\"depth\", self.depth - (parts - 1) * depth)?,",
        to: "last_depth: number(\"depth\", depth)?,",
        test: "matmul",
        cases: "x5000 f32",
    },
    Mutant {
        fault: "host: a tuning's tile is taken also where the device cannot run it",
        file: "src/kernels/tile.rs",
        from: "tuning.tiles(rows, columns, halves).find(|tile| possible(*tile))",
        to: "tuning.tiles(rows, columns, halves).next()",
        test: "tiles",
        cases: "",
    },
    Mutant {
        fault: "reduce: the last part is left out",
        file: "shaders/reduce.wgsl",
        from: "for (var part = 0u; part < parts; part++) {",
        to: "for (var part = 0u; part + 1u < parts; part++) {",
        test: "reduce",
        cases: "reduce 3x5x33",
    },
    Mutant {
        fault: "loads: pairs ignore that a quad starts in the middle of one",
        file: "shaders/lib/load.wgsl",
        from: "if (first & 1u) == 1u {",
        to: "if false {",
        test: "matmul",
        cases: "matmul 9x33x5",
    },
    Mutant {
        fault: "loads: what lies behind an operand counts",
        file: "shaders/lib/load.wgsl",
        from: "return select(vec4<f32>(), quad, vec4<u32>(0u, 1u, 2u, 3u) < vec4<u32>(valid));",
        to: "return quad;",
        test: "matmul",
        cases: "matmul 9x33x5",
    },
    Mutant {
        fault: "softmax: the sum does not follow the maximum from block to block",
        file: "shaders/softmax.wgsl",
        from: "            sum *= exp_below(vec4<f32>(maximum), vec4<f32>(top)).x;\n",
        to: "",
        test: "softmax",
        cases: "rising",
    },
    Mutant {
        fault: "softmax: the sums of lanes are added without rescaling",
        file: "shaders/softmax.wgsl",
        from: "        sum *= exp_below(vec4<f32>(own), vec4<f32>(maximum)).x;\n",
        to: "",
        test: "softmax",
        cases: "softmax 7x4097x1",
    },
    Mutant {
        fault: "attend: packs rows past the last",
        file: "shaders/attend.wgsl",
        from: "select(vec4<f32>(), of_x[E], row + E < rows)",
        to: "of_x[E]",
        test: "pack",
        cases: "attending",
    },
    Mutant {
        fault: "host: attend leaves the last panel as it was",
        file: "src/kernels/attend.rs",
        from: "count.next_multiple_of(panel)",
        to: "count",
        test: "pack",
        cases: "1x8x4 f32 panels=16 runs=1 attending",
    },
    Mutant {
        fault: "host: all paths are packed as the first",
        file: "src/kernels/pack.rs",
        from: "            batch: rows * depth,\n",
        to: "            batch: 0,\n",
        test: "levels",
        cases: "8 of 64 paths",
    },
    Mutant {
        fault: "host: packed weights are taken for packed x",
        file: "src/kernels/tile.rs",
        from: "Ok(Self([a, b]))",
        to: "Ok(Self([b.clone().or(a), b]))",
        test: "moe",
        cases: "",
    },
    Mutant {
        fault: "attend: the rows of an invocation are all the first",
        file: "shaders/attend.wgsl",
        from: "min(row + E, rows - 1u) * depth",
        to: "min(row, rows - 1u) * depth",
        test: "attend",
        cases: "attend 65x128",
    },
    Mutant {
        fault: "loads: one element too many at the end of a row",
        file: "shaders/lib/load.wgsl",
        from: "if valid > 1u { quad.y = OPERAND_element(",
        to: "if valid > 0u { quad.y = OPERAND_element(",
        test: "matmul",
        cases: "matmul 9x33x5",
    },
    Mutant {
        fault: "loads: the halves of a bf16 word are swapped",
        file: "shaders/lib/half.wgsl",
        from: "vec2<u32>(word << 16u, word & 0xffff0000u)",
        to: "vec2<u32>(word & 0xffff0000u, word << 16u)",
        test: "attend",
        cases: "bf16",
    },
    Mutant {
        fault: "loads: subnormal f16 are flushed",
        file: "shaders/lib/half.wgsl",
        from: "* 5.9604644775390625e-8",
        to: "* 0.0",
        test: "matmul",
        cases: "subnormals",
    },
    Mutant {
        fault: "stores: one element too many at the end of a row",
        file: "shaders/lib/store.wgsl",
        from: "if valid > 3u { OPERAND[first + 3u] = quad.w; }",
        to: "if valid > 2u { OPERAND[first + 3u] = quad.w; }",
        test: "matmul",
        cases: "matmul 9x67x6",
    },
    Mutant {
        fault: "grid: the second row of a folded grid repeats the first",
        file: "shaders/lib/grid.wgsl",
        from: "return id.y * GRID_WIDTH + id.x;",
        to: "return id.x;",
        test: "softmax",
        cases: "softmax 300000x3",
    },
    Mutant {
        fault: "softmax: the maximum is not subtracted",
        file: "shaders/softmax.wgsl",
        from: "return exp(2.0 * max(0.5 * x - 0.5 * maximum, vec4<f32>(-64.0)));",
        to: "return exp(x - 0.0 * maximum);",
        test: "softmax",
        cases: "saturated",
    },
    Mutant {
        fault: "softmax: the mask is off by one",
        file: "shaders/softmax.wgsl",
        from: "return min(lengths[params.lengths_first + outer], params.length);",
        to: "return min(lengths[params.lengths_first + outer] + 1u, params.length);",
        test: "softmax",
        cases: "softmax 11x77x1",
    },
    Mutant {
        fault: "softmax: the mask of an octet is that of its first quad",
        file: "shaders/softmax.wgsl",
        from: "vec4<u32>(0u, 1u, 2u, 3u) + Q * 4u < vec4<u32>(left)",
        to: "vec4<u32>(0u, 1u, 2u, 3u) < vec4<u32>(left)",
        test: "softmax",
        cases: "softmax 11x1024x1",
    },
    Mutant {
        fault: "softmax: what lies behind an odd row's end counts",
        file: "shaders/softmax.wgsl",
        from: "//#if MASKED || x_ACCESS == elements || x_ACCESS == wide_pairs",
        to: "//#if MASKED",
        test: "softmax",
        cases: "softmax 7x77x1",
    },
    Mutant {
        fault: "lanes: vectors read each other's sums before all are there",
        file: "shaders/lib/lanes.wgsl",
        from: "        sums[lane.subgroup] = part;\n    }\n    workgroupBarrier();\n",
        to: "        sums[lane.subgroup] = part;\n    }\n",
        test: "softmax",
        cases: "softmax 7x768x1",
    },
    Mutant {
        fault: "lanes: the last vector's maximum does not count",
        file: "shaders/lib/lanes.wgsl",
        from: "//#for I in VECTORS\n    maximum = max(maximum, maxima[I]);",
        to: "//#for I in VECTORS\n    maximum = max(maximum, maxima[I / 2u]);",
        test: "softmax",
        cases: "softmax 9x1024x1 extreme",
    },
    Mutant {
        fault: "softmax: each vector reads what the first does",
        file: "shaders/softmax.wgsl",
        from: "lane.lane / ABREAST * BLOCK * ABREAST + lane.lane % ABREAST",
        to: "lane.lane % ABREAST",
        test: "softmax",
        cases: "softmax 7x768x1",
    },
    Mutant {
        fault: "host: rows that end within their octets are taken for fitted",
        file: "src/kernels/softmax.rs",
        from: "if length == keeps((vectors, block))",
        to: "if length <= keeps((vectors, block))",
        test: "softmax",
        cases: "softmax 7x504x1",
    },
    Mutant {
        fault: "host: a workgroup has more rows than are left",
        file: "src/kernels/softmax.rs",
        from: "rows.is_multiple_of(u64::from(**each))",
        to: "rows > 0 && **each > 0",
        test: "softmax",
        cases: "",
    },
    Mutant {
        fault: "host: the grid is folded where no workgroup may be too many",
        file: "src/kernels/softmax.rs",
        from: "outer_each = outer_each.min(u64::from(GRID_WIDTH));",
        to: "outer_each = outer_each.min(u64::from(GRID_WIDTH) << 8);",
        test: "softmax",
        cases: "",
    },
    Mutant {
        fault: "octets: the parts of a word change places",
        file: "shaders/lib/octets.wgsl",
        from: "u64(parts.x) | (u64(parts.y) << 32u)",
        to: "u64(parts.y) | (u64(parts.x) << 32u)",
        test: "softmax",
        cases: "softmax 7x1024x1",
    },
    Mutant {
        fault: "softmax: chunks are merged without rescaling",
        file: "shaders/softmax.wgsl",
        from: "merged.y * exp_below(merged.xxxx, vec4<f32>(maximum)).x + next.y",
        to: "merged.y + next.y",
        test: "softmax",
        cases: "rising",
    },
    Mutant {
        fault: "host: products are not cut to what an invocation may loop",
        file: "src/kernels/tile.rs",
        from: "const MAX_ITERATIONS: u64 = 60_000;",
        to: "const MAX_ITERATIONS: u64 = 60_000_000;",
        test: "matmul",
        cases: "x300000 f32 integers bt bias invariant",
    },
    Mutant {
        fault: "host: batch invariance takes the tile that few rows take, however it adds up",
        file: "src/kernels/tile.rs",
        from: "if own.adds_like(nominal) { own } else { nominal }",
        to: "own",
        test: "tiles",
        cases: "",
    },
    Mutant {
        fault: "host: a part of a product starts over instead of going on",
        file: "src/kernels/tile.rs",
        from: "continues: u32::from(k > 0),",
        to: "continues: 0,",
        test: "matmul",
        cases: "matmul 3x5x300000 f32 integers bt bias invariant",
    },
    Mutant {
        fault: "host: softmax runs over the sequences instead of the tokens",
        file: "src/routing/forward.rs",
        from: "Softmax::new(logits.tensor(), w.tensor(), 1)",
        to: "Softmax::new(logits.tensor(), w.tensor(), 0)",
        test: "goldens",
        cases: "",
    },
    Mutant {
        fault: "host: folding forgets the second bias of d",
        file: "src/routing/order.rs",
        from: ".for_each(|(d, b2)| *d += b2);",
        to: ".for_each(|(d, b2)| *d += 0.0 * b2);",
        test: "goldens",
        cases: "",
    },
    Mutant {
        fault: "host: folding forgets the bias of the embedding",
        file: "src/routing/order.rs",
        from: "Some(product(&w1, &be, r, a, 1))",
        to: "Some(vec![0.0; r])",
        test: "routing",
        cases: "folded-before-routing2",
    },
    Mutant {
        fault: "select: of equals at the border those of the last lanes are taken",
        file: "shaders/select.wgsl",
        from: "clamp(equal_wanted - group_before(lane, equal_count), 0, equal_count)",
        to: "clamp(equal_wanted - group_add(lane, equal_count) + group_before(lane, equal_count) + equal_count, 0, equal_count)",
        test: "select",
        cases: "select 2x500 k=140",
    },
    Mutant {
        fault: "select: equals within a quad are given one place",
        file: "shaders/select.wgsl",
        from: "let same = keys - select(0, 1, own >= other);",
        to: "let same = keys - select(0, 1, own > other);",
        test: "select",
        cases: "select 3x31 k=",
    },
    Mutant {
        fault: "select: of equals the second run is merged first",
        file: "shaders/select.wgsl",
        from: "let take_one = one_key >= two_key;",
        to: "let take_one = one_key > two_key;",
        test: "select",
        cases: "k=1500 integers",
    },
    Mutant {
        fault: "select: -0 comes behind +0",
        file: "shaders/select.wgsl",
        from: "select(key, vec4<i32>(), key == vec4<i32>(-1))",
        to: "key",
        test: "select",
        cases: "zeros",
    },
    Mutant {
        fault: "select: what is −∞ counts as masked",
        file: "shaders/select.wgsl",
        from: "let exists = key != EMPTY;",
        to: "let exists = key > -0x7f800001;",
        test: "select",
        cases: "k=4096 lowest",
    },
    Mutant {
        fault: "select: the border of what is chosen is off by one",
        file: "shaders/select.wgsl",
        from: "let border = select(low, low - 1, exact);",
        to: "let border = low;",
        test: "select",
        cases: "select 3x128 k=7 bf16",
    },
    Mutant {
        fault: "select: the mask of a row begins anew in each block",
        file: "shaders/select.wgsl",
        from: "unmasked = max(lengths[params.lengths_first + row], start) - start;",
        to: "unmasked = lengths[params.lengths_first + row];",
        test: "select",
        cases: "select 9x2049 k=32",
    },
    Mutant {
        fault: "dispatch: the ranks of a round are reversed",
        file: "shaders/dispatch.wgsl",
        from: "is_same, L < lane",
        to: "is_same, L > lane",
        test: "dispatch",
        cases: "dispatch 5x33",
    },
    Mutant {
        fault: "dispatch: the ranks of a round are reversed, without subgroups",
        file: "shaders/dispatch.wgsl",
        from: "is_same, other < lane",
        to: "is_same, other > lane",
        test: "dispatch",
        cases: "dispatch 5x33",
    },
    Mutant {
        fault: "dispatch: no barrier before a tally is raised",
        file: "shaders/dispatch.wgsl",
        from: "        let before = tally(min(path, paths - 1u), chunk);\n        tallies_barrier();\n",
        to: "        let before = tally(min(path, paths - 1u), chunk);\n",
        test: "dispatch",
        cases: "crowded",
    },
    Mutant {
        fault: "dispatch: a slot without a path counts for the last one",
        file: "shaders/dispatch.wgsl",
        from: "select(NONE, path, slot != NONE && path < params.paths)",
        to: "select(NONE, min(path, params.paths - 1u), slot != NONE)",
        test: "dispatch",
        cases: "sparse",
    },
    Mutant {
        fault: "dispatch: offsets are off by one path",
        file: "shaders/dispatch.wgsl",
        from: "        offsets[params.offsets_first + path] = offset;\n        offset += min(count, capacity);\n",
        to: "        offset += min(count, capacity);\n        offsets[params.offsets_first + path] = offset;\n",
        test: "dispatch",
        cases: "dispatch 5x33",
    },
    Mutant {
        fault: "dispatch: a path keeps one slot more than its capacity",
        file: "shaders/dispatch.wgsl",
        from: "rank < params.capacity",
        to: "rank <= params.capacity",
        test: "dispatch",
        cases: "capacity=1",
    },
    Mutant {
        fault: "dispatch: dropped slots are not counted",
        file: "shaders/dispatch.wgsl",
        from: "counts[params.counts_first + path] = count;",
        to: "counts[params.counts_first + path] = min(count, capacity);",
        test: "dispatch",
        cases: "capacity=1 counted",
    },
    Mutant {
        fault: "dispatch: a chunk is placed behind itself",
        file: "shaders/dispatch.wgsl",
        from: "        tallies[at] = before;\n        before += tally;\n",
        to: "        before += tally;\n        tallies[at] = before;\n",
        test: "dispatch",
        cases: "dispatch 50x33",
    },
    Mutant {
        fault: "dispatch: the sequence is ignored",
        file: "shaders/dispatch.wgsl",
        from: "let slot = sequence[params.sequence_first + min(turn, slots - 1u)];",
        to: "let slot = turn;",
        test: "dispatch",
        cases: "sequence",
    },
    Mutant {
        fault: "combine: gates are ignored",
        file: "shaders/combine.wgsl",
        from: "sum[Q] += gate * quad;",
        to: "sum[Q] += quad;",
        test: "combine",
        cases: "x64 spread reals gated",
    },
    Mutant {
        fault: "combine: the last slot is left out",
        file: "shaders/combine.wgsl",
        from: "    var sum = vec4<f32>();\n    let slots = params.slots;",
        to: "    var sum = vec4<f32>();\n    let slots = max(params.slots, 1u) - 1u;",
        test: "combine",
        cases: "x33",
    },
    Mutant {
        fault: "combine: a position that is no row takes the last one",
        file: "shaders/combine.wgsl",
        from: "        if position < all_rows {\n            let quad",
        to: "        if true {\n            let quad",
        test: "combine",
        cases: "x33 sparse",
    },
    Mutant {
        fault: "combine: every batch takes the rows of the first",
        file: "shaders/combine.wgsl",
        from: "/ params.of_batch * params.rows;",
        to: "/ params.of_batch * 0u;",
        test: "combine",
        cases: "batches=3",
    },
    Mutant {
        fault: "combine: the last window of rows has what is in none",
        file: "shaders/combine.wgsl",
        from: "return params.rows_from > 0u && ",
        to: "return false && ",
        test: "splitting",
        cases: "",
    },
    Mutant {
        fault: "combine: targets count from the first of their window",
        file: "shaders/combine.wgsl",
        from: "targets[params.targets_first + result] - params.targets_from",
        to: "targets[params.targets_first + result]",
        test: "splitting",
        cases: "",
    },
    Mutant {
        fault: "host: rows of y that nothing goes to are not filled",
        file: "src/kernels/combine.rs",
        from: "if self.targets.is_some() {",
        to: "if self.skip.is_some() {",
        test: "combine",
        cases: "targets=200",
    },
    Mutant {
        fault: "combine: y is filled with the start of skip",
        file: "shaders/combine.wgsl",
        from: "plus_quad(params.plus_at, first, left)",
        to: "plus_quad(params.plus_at, 0u, left)",
        test: "combine",
        cases: "skip",
    },
    Mutant {
        fault: "combine: y is filled with the first octet of skip",
        file: "shaders/combine.wgsl",
        from: "plus[((params.plus_at >> 2u) + first) >> 3u]",
        to: "plus[(params.plus_at >> 2u) >> 3u]",
        test: "combine",
        cases: "skip",
    },
    Mutant {
        fault: "host: skip is read in octets wherever y is written in octets",
        file: "src/kernels/combine.rs",
        from: "in_octets(gpu, bound, &[all])",
        to: "in_octets(gpu, &y, &[all])",
        test: "combine",
        cases: "but y",
    },
    Mutant {
        fault: "host: half as many workgroups fill y as it has octets",
        file: "src/kernels/combine.rs",
        from: "(OCTETS, 8)",
        to: "(OCTETS, 16)",
        test: "combine",
        cases: "targets",
    },
    Mutant {
        fault: "path_matmul: slots are taken for tokens",
        file: "shaders/path_matmul.wgsl",
        from: "order[params.order_first + row] / params.divisor",
        to: "order[params.order_first + row]",
        test: "path_matmul",
        cases: "2 of 9x31x33",
    },
    Mutant {
        fault: "tile product: rows of packed A are counted from the first of their path",
        file: "shaders/lib/tile.wgsl",
        from: "index / TILE_X * place.a_stride + index % TILE_X",
        to: "row / TILE_X * place.a_stride + row % TILE_X",
        test: "path_matmul",
        cases: "3 of 300x100x44",
    },
    Mutant {
        fault: "host: packed weights of the first paths are taken for those of the next",
        file: "src/kernels/path_matmul.rs",
        from: "packing.pack(gpu, sources, [0, first], layouts, plan)",
        to: "packing.pack(gpu, sources, [0, 0], layouts, plan)",
        test: "splitting",
        cases: "",
    },
    Mutant {
        fault: "path_matmul: every path has the bias of the first",
        file: "shaders/path_matmul.wgsl",
        from: "path * place.columns + column, valid);",
        to: "column, valid);",
        test: "path_matmul",
        cases: "16 of 300x36x29",
    },
    Mutant {
        fault: "path_matmul: a path begins one tile late",
        file: "shaders/path_matmul.wgsl",
        from: "if tiles_before(middle) <= of_tiles {",
        to: "if tiles_before(middle) < of_tiles {",
        test: "path_matmul",
        cases: "7 of 40x65x17",
    },
    Mutant {
        fault: "path_matmul: silu loses its sigmoid for negative arguments",
        file: "shaders/path_matmul.wgsl",
        from: "select(below, vec4<f32>(1.0), s >= vec4<f32>())",
        to: "vec4<f32>(1.0)",
        test: "path_matmul",
        cases: "swish",
    },
    Mutant {
        fault: "path_matmul: s in quads is read from its binding's start",
        file: "shaders/path_matmul.wgsl",
        from: "s[((s_at >> 2u) + of_s) >> 2u]",
        to: "s[of_s >> 2u]",
        test: "path_matmul",
        cases: "shift=4",
    },
    Mutant {
        fault: "levels: the weights of unselected tokens are given to the selected",
        file: "src/routing/forward.rs",
        from: "let weights = gathered.map_or_else(|| w.tensor(), |selected| selected.weights.tensor());",
        to: "let weights = gathered.map_or_else(|| w.tensor(), |selected| w.tensor().reshape(&[w.shape()[0] * w.shape()[1]]).reshape(selected.weights.shape()));",
        test: "levels",
        cases: "top=5",
    },
    Mutant {
        fault: "levels: masked tokens can be selected",
        file: "src/routing/forward.rs",
        from: "select = select.lengths(lengths.clone());",
        to: "",
        test: "levels",
        cases: "masked",
    },
    Mutant {
        fault: "route_paths: the paths of other groups are 0 instead of excluded",
        file: "shaders/route_paths.wgsl",
        from: "        keys[B] = select(vec4<i32>(EXCLUDED), keys[B], keep);",
        to: "        keys[B] = select(vec4<i32>(), keys[B], keep);",
        test: "route_paths",
        cases: "bias=uniform",
    },
    Mutant {
        fault: "route_paths: the last of equal paths comes first, within a lane",
        file: "shaders/route_paths.wgsl",
        from: "quad = select(quad, vec4<u32>(B), keys[B] > largest);",
        to: "quad = select(quad, vec4<u32>(B), keys[B] >= largest);",
        test: "route_paths",
        cases: "integers",
    },
    Mutant {
        fault: "route_paths: the last of equal paths comes first, among lanes of a subgroup",
        file: "shaders/route_paths.wgsl",
        from: "return Best(key, u32_min(select(NONE, own.path, own.key == key)));",
        to: "return Best(key, u32_max(select(0u, own.path, own.key == key)));",
        test: "route_paths",
        cases: "integers",
    },
    Mutant {
        fault: "route_paths: the last of equal paths comes first, among lanes in memory",
        file: "shaders/route_paths.wgsl",
        from: "(other.key == mine.key && other.path < mine.path)",
        to: "(other.key == mine.key && other.path > mine.path)",
        test: "route_paths",
        cases: "integers",
    },
    Mutant {
        fault: "route_paths: the last of equal groups is kept, in subgroups",
        file: "shaders/route_paths.wgsl",
        from: "(other == score && before)",
        to: "(other == score && !before && H / group_lanes != group)",
        test: "route_paths",
        cases: "groups",
    },
    Mutant {
        fault: "route_paths: the last of equal groups is kept, in memory",
        file: "shaders/route_paths.wgsl",
        from: "(value == score && other < group)",
        to: "(value == score && other > group)",
        test: "route_paths",
        cases: "groups",
    },
    Mutant {
        fault: "route_paths: gates are c instead of the score",
        file: "shaders/route_paths.wgsl",
        from: "gate = select(scores(kind, logit, sum).x, 1.0, kind == SOFTMAX && paths == 1u);",
        to: "gate = value_of(last);",
        test: "route_paths",
        cases: "bias=usual",
    },
    Mutant {
        fault: "route_paths: the sum of two has one term",
        file: "shaders/route_paths.wgsl",
        from: "select(0.0, 0.5 * value_of(largest.y), largest.y != EXCLUDED)",
        to: "select(0.0, 0.5 * value_of(largest.x), largest.y != EXCLUDED)",
        test: "route_paths",
        cases: "sum renormalised",
    },
    Mutant {
        fault: "route_paths: renormalised gates forget the scale",
        file: "shaders/route_paths.wgsl",
        from: "gate * bitcast<f32>(params.scale), 0.0,",
        to: "gate * select(bitcast<f32>(params.scale), 1.0, divided), 0.0,",
        test: "route_paths",
        cases: "by 2.5",
    },
    Mutant {
        fault: "route_paths: the margin is that of the last two chosen",
        file: "shaders/route_paths.wgsl",
        from: "if round == count {",
        to: "if round + 1u == count {",
        test: "route_paths",
        cases: "margin",
    },
    Mutant {
        fault: "route_paths: a negative zero is less than zero",
        file: "shaders/route_paths.wgsl",
        from: "return select(keys, vec4<i32>(), keys == vec4<i32>(-1));",
        to: "return keys;",
        test: "route_paths",
        cases: "zeros",
    },
    Mutant {
        fault: "route_paths: rows that are left out keep their gates",
        file: "shaders/route_paths.wgsl",
        from: "left_out || slot >= found",
        to: "slot >= found",
        test: "route_paths",
        cases: "selected=none",
    },
    Mutant {
        fault: "route_paths: no barrier before groups read their paths' keys",
        file: "shaders/route_paths.wgsl",
        from: "        workgroupBarrier();\n        for (var group = lane.lane;",
        to: "        for (var group = lane.lane;",
        test: "route_paths",
        cases: "8of64",
    },
    Mutant {
        fault: "route_paths: softplus loses small exponentials",
        file: "shaders/route_paths.wgsl",
        from: "return 2.0 * s * (1.0 + tail);",
        to: "return log(1.0 + t);",
        test: "route_paths",
        cases: "sqrtsoftplus renormalised tail",
    },
    Mutant {
        fault: "path_load: the last chunk is left out",
        file: "shaders/path_load.wgsl",
        from: "column], c + A < chunks);",
        to: "column], c + A + 1u < chunks);",
        test: "path_load",
        cases: "4096x60",
    },
    Mutant {
        fault: "path_load: the last token of a chunk is left out",
        file: "shaders/path_load.wgsl",
        from: "let counted = token < rows;",
        to: "let counted = token < rows && i + 1u < chunk;",
        test: "path_load",
        cases: "33x60",
    },
    Mutant {
        fault: "path_load: counts are not normalised",
        file: "shaders/path_load.wgsl",
        from: "let divisor = select(1.0, total, some);",
        to: "let divisor = 1.0;",
        test: "path_load",
        cases: "counts=even",
    },
    Mutant {
        fault: "path_load: the entropy has the wrong sign",
        file: "shaders/path_load.wgsl",
        from: "own_weighted -= x[B] * difference;",
        to: "own_weighted += x[B] * difference;",
        test: "path_load",
        cases: "100x60 integers",
    },
    Mutant {
        fault: "path_load: parts of the logits write the first part's chunks",
        file: "shaders/path_load.wgsl",
        from: "(params.first_chunk + index) * params.stride",
        to: "index * params.stride",
        test: "splitting",
        cases: "",
    },
    Mutant {
        fault: "moe: a token's experts are added up without their gates",
        file: "src/moe/feed_forward.rs",
        from: ".gates(routed.gates())",
        to: "",
        test: "moe",
        cases: "mixtral",
    },
    Mutant {
        fault: "moe: the correction bias is read and not used",
        file: "src/moe/router.rs",
        from: "choice = choice.correction_bias(bias.tensor());",
        to: "let _ = bias;",
        test: "moe",
        cases: "deepseek-v3",
    },
    Mutant {
        fault: "half: ties of f16 go up",
        file: "shaders/lib/half.wgsl",
        from: "+ vec2<u32>(0xfffu) + odd)",
        to: "+ vec2<u32>(0x1000u))",
        test: "combine",
        cases: "combine rounds",
    },
    Mutant {
        fault: "half: subnormal f16 are cut off",
        file: "shaders/lib/half.wgsl",
        from: "(mantissa + below_half + ((mantissa >> shift) & vec2<u32>(1u))) >> shift",
        to: "mantissa >> shift",
        test: "combine",
        cases: "combine rounds",
    },
    Mutant {
        fault: "half: what is too large for f16 is not infinite",
        file: "shaders/lib/half.wgsl",
        from: "min(normal, vec2<u32>(0x7c00u))",
        to: "normal",
        test: "combine",
        cases: "combine rounds",
    },
    Mutant {
        fault: "store: the half word behind an odd output is overwritten",
        file: "shaders/lib/store.wgsl",
        from: "if valid == 1u {",
        to: "if false {",
        test: "reduce",
        cases: "4x1x257",
    },
    Mutant {
        fault: "host: rows of 16 bits that start within a word are written directly",
        file: "src/kernels/mod.rs",
        from: "columns.is_multiple_of(2) || rows < 2",
        to: "true",
        test: "route",
        cases: "route 5x33x17",
    },
    Mutant {
        fault: "host: a sum of several dispatches is rounded in between",
        file: "src/kernels/tile.rs",
        from: "Ok(self.depth <= depth_each && starts &&",
        to: "Ok(starts &&",
        test: "half",
        cases: "",
    },
];

#[test]
fn every_fault_has_one_place() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for Mutant { file, from, fault, .. } in MUTANTS {
        let source = fs::read_to_string(root.join(file)).unwrap_or_else(|error| panic!("{file}: {error}"));
        assert_eq!(source.matches(from).count(), 1, "{fault}: {file} and {from:?}");
    }
}

#[test]
#[ignore = "builds the crate for every fault of the host's, and runs a test for each of all"]
fn every_mutant_is_caught() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("the target folder");
    let copy = Copy::of(root, target);
    let only = std::env::var("MUTANT").unwrap_or_default();
    let chosen = || MUTANTS.iter().filter(|mutant| mutant.fault.contains(&only));

    let tests: BTreeSet<&str> = chosen().map(|mutant| mutant.test).collect();
    // Faults of the host's build in the same place, so these are kept elsewhere.
    let built = copy.keep(&copy.build(&tests));
    // Without a fault the tests pass, or they prove nothing.
    in_turns(&built.iter().collect::<Vec<_>>(), |_, (test, executable)| {
        let run = copy.test(executable, "x33").output().expect("the test runs");
        assert!(run.status.success(), "tests/{test}.rs fails without a fault:\n{}", text(&run.stdout));
    });

    let of_shaders: Vec<&Mutant> = chosen().filter(|mutant| mutant.in_shader()).collect();
    let survivors = Mutex::new(Vec::new());
    std::thread::scope(|threads| {
        threads.spawn(|| {
            in_turns(&of_shaders, |thread, mutant| {
                let [original, faulty] = ["was", "is"].map(|name| copy.at.join(format!("{name}-{thread}")));
                let source = fs::read_to_string(root.join(mutant.file)).expect("the shader");
                fs::write(&faulty, source.replace(mutant.from, mutant.to)).expect("the copy can be written");
                fs::write(&original, source).expect("the copy can be written");
                let mut test = copy.test(&built[mutant.test], mutant.cases);
                let run = test.env("MUTANT_WAS", &original).env("MUTANT_IS", &faulty).output();
                mutant.judge(&run.expect("the test runs"), &survivors);
            });
        });
        for mutant in chosen().filter(|mutant| !mutant.in_shader()) {
            let file = copy.at.join(mutant.file);
            let original = fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", mutant.file));
            fs::write(&file, original.replace(mutant.from, mutant.to)).expect("the copy can be written");
            let built = copy.build(&BTreeSet::from([mutant.test]));
            let run = copy.test(&built[mutant.test], mutant.cases).output();
            mutant.judge(&run.expect("the test runs"), &survivors);
            fs::write(&file, original).expect("the copy can be written");
        }
    });
    let survivors = survivors.into_inner().expect("no thread failed");
    assert!(survivors.is_empty(), "not caught: {survivors:#?}");
}

/// Does each piece of work on one of two threads, whose number it is told.
fn in_turns<T: Sync>(works: &[T], work: impl Fn(usize, &T) + Sync) {
    let next = AtomicUsize::new(0);
    std::thread::scope(|threads| {
        for thread in 0..2 {
            let (next, work) = (&next, &work);
            threads.spawn(move || {
                while let Some(piece) = works.get(next.fetch_add(1, Ordering::Relaxed)) {
                    work(thread, piece);
                }
            });
        }
    });
}

impl Mutant {
    fn in_shader(&self) -> bool {
        self.file.starts_with("shaders/")
    }

    fn judge(&self, run: &Output, survivors: &Mutex<Vec<&str>>) {
        let caught = !run.status.success();
        // A fault that no shader compiler accepts would be caught by any test.
        let said = format!("{}{}", text(&run.stdout), text(&run.stderr));
        let runs = !said.contains(" parsing error: ") && !said.contains("Shader validation error");
        assert!(runs, "{} is no shader:\n{said}", self.fault);
        let word = if caught { "caught" } else { "MISSED" };
        println!("{word} by tests/{}.rs {:24} {}", self.test, self.cases, self.fault);
        if !caught {
            survivors.lock().expect("no thread failed").push(self.fault);
        }
    }
}

/// A copy of the crate whose shaders can be replaced at run time, so that one build serves all faults in shaders.
struct Copy {
    at: PathBuf,
    target: PathBuf,
}

impl Copy {
    fn of(root: &Path, target: &Path) -> Self {
        let at = target.join("mutants");
        if at.exists() {
            fs::remove_dir_all(&at).expect("an old copy can be removed");
        }
        fs::create_dir_all(&at).expect("the target folder can be written");
        for name in
            ["Cargo.toml", "Cargo.lock", "README.md", "src", "shaders", "tests", "benches", "examples", "cli", "common"]
        {
            copy_tree(&root.join(name), &at.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
        }
        let copy = Self { at, target: target.into() };
        // Under another version the copy's artefacts lie beside the crate's own instead of taking their place.
        let version = env!("CARGO_PKG_VERSION");
        copy.edit(
            "Cargo.toml",
            &format!("version = \"{version}\""),
            &format!("version = \"{}.999\"", version.rsplit_once('.').map_or("0.1", |(minor, _)| minor)),
        );
        // Most of the time is building: the copy is not optimised, its dependencies are those of the crate.
        let unoptimised = |name| format!("[profile.dev.package.{name}]\nopt-level = 0\n\n");
        let packages = ["double-routing", "double-routing-cli", "double-routing-common"].map(unoptimised).concat();
        copy.edit("Cargo.toml", "[profile.dev]", &format!("{packages}[profile.dev]"));
        copy.edit(
            "src/kernels/mod.rs",
            "assemble(self.source, variant)",
            "assemble(&crate::shader::replaced(self.source), variant)",
        );
        copy.edit(
            "src/shader.rs",
            "text.replace(\"OPERAND\", operand)",
            "replaced(text).replace(\"OPERAND\", operand)",
        );
        copy.edit("src/shader.rs", "/// What a name in a shader stands for.", REPLACED);
        copy
    }

    fn edit(&self, file: &str, from: &str, to: &str) {
        let source = fs::read_to_string(self.at.join(file)).expect("a file of the copy");
        assert!(source.contains(from), "{file} has no {from}");
        fs::write(self.at.join(file), source.replacen(from, to, 1)).expect("the copy can be written");
    }

    /// Builds these tests: their names and executables.
    fn build(&self, tests: &BTreeSet<&str>) -> BTreeMap<String, PathBuf> {
        let mut command = Command::new(env!("CARGO"));
        // With --workspace the dependencies are those already built.
        command.args(["test", "--offline", "--workspace", "--no-run", "--message-format=json"]);
        command.args(tests.iter().flat_map(|test| ["--test", test]));
        command.current_dir(&self.at).env("CARGO_TARGET_DIR", &self.target);
        let build = command.output().expect("cargo runs");
        assert!(build.status.success(), "{tests:?} do not build:\n{}", text(&build.stderr));
        let executables = text(&build.stdout)
            .lines()
            .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
            .filter_map(|message| {
                let source = message["target"]["src_path"].as_str()?;
                let name = message["target"]["name"].as_str()?;
                let executable = message["executable"].as_str()?;
                // The command has a test of a kernel's name.
                Path::new(source).starts_with(self.at.join("tests")).then(|| (name.to_owned(), executable.into()))
            })
            .collect::<BTreeMap<_, _>>();
        for test in tests {
            assert!(executables.contains_key(*test), "tests/{test}.rs was not built");
        }
        executables
    }

    /// Copies of these executables.
    fn keep(&self, executables: &BTreeMap<String, PathBuf>) -> BTreeMap<String, PathBuf> {
        let kept = |(test, executable): (&String, &PathBuf)| {
            let copy = self.at.join(format!("{test}.built"));
            fs::copy(executable, &copy).expect("an executable can be copied");
            (test.clone(), copy)
        };
        executables.iter().map(kept).collect()
    }

    fn test(&self, executable: &Path, cases: &str) -> Command {
        let mut command = Command::new(executable);
        command.current_dir(&self.at).env("CASE", cases).env("FIRST_FAILURE", "1").env("RUST_BACKTRACE", "0");
        command
    }
}

/// What the copy has before the named line of `src/shader.rs`.
const REPLACED: &str = "\
/// The shader that stands in the place of this one, if any does.
pub(crate) fn replaced(source: &str) -> String {
    let read = |name: &str| std::fs::read_to_string(std::env::var(name).ok()?).ok();
    read(\"MUTANT_WAS\").filter(|was| was == source).and_then(|_| read(\"MUTANT_IS\")).unwrap_or_else(|| source.into())
}

/// What a name in a shader stands for.";

fn text(bytes: &[u8]) -> std::borrow::Cow<'_, str> {
    String::from_utf8_lossy(bytes)
}

fn copy_tree(from: &Path, to: &Path) -> io::Result<()> {
    if from.is_file() {
        return fs::copy(from, to).map(|_| ());
    }
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        copy_tree(&entry.path(), &to.join(entry.file_name()))?;
    }
    Ok(())
}
