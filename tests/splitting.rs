//! Tensors larger than a binding may be: on a device whose bindings are tiny, so that everything is cut in many pieces.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test that cannot go on fails, and says why"
)]

mod common;

use common::{gpus, random, random_weights, storage, wait};
use double_routing::{
    DoubleRouting, Element, Gpu, Linear, Order, Output, PathSettings, Selection, Settings, Storage, Tensor, Weights,
    bytemuck,
    check::LayerTruth,
    kernels::{
        Attend, Combine, Dispatch, GroupLimit, GroupScore, Matmul, PathChoice, PathLoad, PathMatmul, Route, RoutePaths,
        Score, Softmax,
    },
    moe::{Router, RouterConfig, RouterWeights},
    wgpu,
};

/// The same adapters with bindings of at most this many bytes; their features choose the kernels' configurations, so they stay.
fn confined(bytes: u64) -> Vec<Gpu> {
    let backends = gpus().into_iter().map(|gpu| gpu.info().backend);
    backends
        .map(|backend| {
            let adapters = pollster::block_on(Gpu::adapters(backend.into()));
            let limits = wgpu::Limits { max_storage_buffer_binding_size: bytes, ..Gpu::required_limits() };
            let features = Gpu::useful_features(&adapters[0]);
            pollster::block_on(Gpu::open_adapter(&adapters[0], features, limits)).expect("a device")
        })
        .collect()
}

/// Compares the outputs of both devices bit for bit: neither splitting nor alignment changes the order of a sum, as long as a
/// binding holds eight rows of b, what a tile multiplies at a time at most.
fn same_bits(what: &str, steps: usize, whole: Vec<f32>, parts: (Vec<f32>, usize)) {
    assert!(parts.1 >= steps, "{what} was cut into {} steps, expected {steps} or more", parts.1);
    let differing = whole.iter().zip(&parts.0).position(|(whole, part)| whole.to_bits() != part.to_bits());
    assert_eq!((differing, whole.len()), (None, parts.0.len()), "{what}");
}

fn f32<'a>(buffer: &'a wgpu::Buffer, shape: &[usize]) -> Tensor<'a> {
    Tensor::f32(buffer, shape)
}

type Build<'a> = &'a dyn Fn(&Gpu, &[wgpu::Buffer], &wgpu::Buffer) -> double_routing::Plan;

fn run(gpu: &Gpu, inputs: &[Vec<f32>], outputs: usize, build: Build<'_>) -> (Vec<f32>, usize) {
    let buffers: Vec<_> =
        inputs.iter().map(|input| gpu.upload("input", bytemuck::cast_slice(input)).expect("a buffer")).collect();
    let output = storage(gpu, outputs as u64 * 4);
    let plan = build(gpu, &buffers, &output);
    let mut encoder = gpu.device().create_command_encoder(&Default::default());
    plan.record(&mut encoder.begin_compute_pass(&Default::default()));
    gpu.queue().submit([encoder.finish()]);
    let bytes = wait(gpu, gpu.read(&Tensor::f32(&output, &[outputs]))).expect("a result");
    (bytemuck::pod_collect_to_vec(&bytes), plan.steps().len())
}

#[test]
fn kernels_cut_into_parts_give_the_same_bits() {
    for (whole, parts) in gpus().iter().zip(confined(4096)) {
        let compare = |what: &str, steps: usize, inputs: &[Vec<f32>], outputs: usize, build: Build<'_>| {
            same_bits(what, steps, run(whole, inputs, outputs, build).0, run(&parts, inputs, outputs, build));
        };
        for (m, n, k) in [(70, 60, 50), (33, 119, 64), (300, 7, 20), (5, 110, 300)] {
            let inputs = [random(1, m * k), random(2, n * k), random(3, n)];
            compare(&format!("matmul bt {m}x{n}x{k}"), 4, &inputs, m * n, &|gpu, b, c| {
                let product = Matmul::new(f32(&b[0], &[m, k]), f32(&b[1], &[n, k]), f32(c, &[m, n])).transposed();
                product.bias(f32(&b[2], &[n])).batch_invariant(true).plan(gpu).expect("a plan")
            });
            compare(&format!("matmul {m}x{n}x{k}"), 4, &inputs, m * n, &|gpu, b, c| {
                let product = Matmul::new(f32(&b[0], &[m, k]), f32(&b[1], &[k, n]), f32(c, &[m, n]));
                product.bias(f32(&b[2], &[n])).batch_invariant(true).plan(gpu).expect("a plan")
            });
            let inputs = [random(4, m * k), random(5, n * k), random(6, m), random(7, n), random(8, n)];
            compare(&format!("route {m}x{n}x{k}"), 4, &inputs, m * n, &|gpu, b, y| {
                let (x, weight, w) = (f32(&b[0], &[m, k]), f32(&b[1], &[n, k]), f32(&b[2], &[m]));
                let route = Route::new(x, weight, w, f32(y, &[m, n])).batch_invariant(true);
                route.inner(f32(&b[3], &[n])).outer(f32(&b[4], &[n])).plan(gpu).expect("a plan")
            });
        }
        let inputs = [random(9, 6 * 40 * 30), random(10, 6 * 30 * 20)];
        compare("batched matmul", 6, &inputs, 6 * 40 * 20, &|gpu, b, c| {
            let product = Matmul::new(f32(&b[0], &[6, 40, 30]), f32(&b[1], &[6, 30, 20]), f32(c, &[6, 40, 20]));
            product.batch_invariant(true).plan(gpu).expect("a plan")
        });
        compare("attend", 4, &[random(11, 90 * 50), random(12, 50)], 90, &|gpu, b, logits| {
            Attend::new(f32(&b[0], &[90, 50]), f32(&b[1], &[50]), f32(logits, &[90])).plan(gpu).expect("a plan")
        });
        for shape in [[90, 50, 1], [12, 25, 7]] {
            let count = shape.iter().product();
            compare("softmax", 2, &[random(13, count)], count, &|gpu, b, y| {
                Softmax::new(f32(&b[0], &shape), f32(y, &shape), 1).plan(gpu).expect("a plan")
            });
        }
        // Two batches of 8 rows, 31 results and 29 rows of y; positions and targets travel as the bits of floats.
        let bits = |count: u32, end: u32| (0..count).map(|i| f32::from_bits(i * 7 % end)).collect();
        let inputs = [random(14, 2 * 8 * 50), bits(2 * 31 * 3, 9), random(15, 2 * 31 * 3), random(16, 2 * 31 * 50)];
        compare("combine", 4, &inputs, 2 * 31 * 50, &|gpu, b, y| {
            let positions = Tensor::u32(&b[1], &[2, 31, 3]);
            let combine = Combine::new(f32(&b[0], &[2, 8, 50]), positions, f32(y, &[2, 31, 50]));
            combine.gates(f32(&b[2], &[2, 31, 3])).plus(f32(&b[3], &[2, 31, 50])).plan(gpu).expect("a plan")
        });
        let inputs = [random(17, 2 * 5 * 3), bits(2 * 300 * 3, 6), bits(2 * 300, 401), random(18, 2 * 150 * 3)];
        compare("combine to targets", 3, &inputs, 2 * 150 * 3, &|gpu, b, y| {
            let positions = Tensor::u32(&b[1], &[2, 300, 3]);
            let combine = Combine::new(f32(&b[0], &[2, 5, 3]), positions, f32(y, &[2, 150, 3]));
            let targets = Tensor::u32(&b[2], &[2, 300]);
            combine.targets(targets).skip(f32(&b[3], &[2, 150, 3])).plan(gpu).expect("a plan")
        });
        // Three batches, of which rows or y, or those of a single one, exceed a binding, which has 30 of them. Some positions and targets
        // are nowhere.
        for (rows, results, targets, steps) in [(8, 31, 29, 6), (70, 31, 29, 12), (8, 131, 150, 30), (70, 131, 150, 60)]
        {
            let positions = bits(3 * results, rows + 2);
            let [rows, results, targets] = [rows, results, targets].map(|count| count as usize);
            // Within a batch they are different.
            let of_y = bits(3 * results as u32, if targets == 29 { 37 } else { 151 });
            let inputs =
                [random(14, 3 * rows * 33), positions, of_y, random(15, 3 * targets * 33), random(16, 3 * results)];
            let shape = format!("{results} of {rows} rows to {targets}");
            compare(&format!("combine {shape}"), steps, &inputs, 3 * targets * 33, &|gpu, b, y| {
                let positions = Tensor::u32(&b[1], &[3, results, 1]);
                let combine = Combine::new(f32(&b[0], &[3, rows, 33]), positions, f32(y, &[3, targets, 33]));
                let combine = combine.targets(Tensor::u32(&b[2], &[3, results])).skip(f32(&b[3], &[3, targets, 33]));
                combine.plan(gpu).expect("a plan")
            });
            for gated in [false, true] {
                compare(&format!("combine {shape} gated={gated}"), 3, &inputs, 3 * results * 33, &|gpu, b, y| {
                    let positions = Tensor::u32(&b[1], &[3, results, 1]);
                    let combine = Combine::new(f32(&b[0], &[3, rows, 33]), positions, f32(y, &[3, results, 33]));
                    let gates = f32(&b[4], &[3, results, 1]);
                    if gated { combine.gates(gates) } else { combine }.plan(gpu).expect("a plan")
                });
            }
        }
        let (rows, paths, chosen) = (150, 60, 5);
        let selected = (0..rows as u32).map(|row| f32::from_bits(if row % 7 == 3 { u32::MAX } else { row })).collect();
        let inputs = [random(14, rows * paths), random(15, paths), selected];
        for output in ["ids", "gates", "margin"] {
            let outputs = if output == "margin" { rows } else { rows * chosen };
            compare(&format!("{output} of route_paths"), 9, &inputs, outputs, &|gpu, b, out| {
                let others = [0; 3].map(|_| storage(gpu, (rows * chosen) as u64 * 4));
                let place = |name, at: usize| if output == name { out } else { &others[at] };
                let choice = PathChoice {
                    score: Score::Sigmoid,
                    groups: Some(GroupLimit { groups: 4, kept: 2, score: GroupScore::SumOfTwo }),
                    ..PathChoice::default()
                };
                let of_ids = Tensor::u32(place("ids", 0), &[rows, chosen]);
                RoutePaths::new(f32(&b[0], &[rows, paths]), of_ids, f32(place("gates", 1), &[rows, chosen]), choice)
                    .correction_bias(f32(&b[1], &[paths]))
                    .selected(Tensor::u32(&b[2], &[rows]))
                    .margin(f32(place("margin", 2), &[rows]))
                    .plan(gpu)
                    .expect("a plan")
            });
        }
        // The bits of these floats are the paths' counts.
        let (tokens, paths) = (400, 8);
        let inputs = [random(19, tokens * paths), vec![1.0, 2.0, 0.0, 4.0, 1.0, 0.5, 0.25, 3.0]];
        for output in ["mean_scores", "summary"] {
            let outputs = if output == "summary" { 4 } else { paths };
            compare(&format!("{output} of path_load"), 4, &inputs, outputs, &|gpu, b, out| {
                let other = storage(gpu, 64);
                let [means, summary] = if output == "summary" { [&other, out] } else { [out, &other] };
                let (logits, counts) = (f32(&b[0], &[tokens, paths]), Tensor::u32(&b[1], &[paths]));
                PathLoad::new(logits, counts, f32(means, &[paths]), f32(summary, &[4])).plan(gpu).expect("a plan")
            });
        }
    }
}

/// Rows of one path are never apart, so the bindings hold all of them; the weights of all paths, packed or not, they do not.
#[test]
fn weights_of_paths_cut_into_parts_give_the_same_bits() {
    // So many rows a path that packing pays, and several parts of as many paths each.
    let (rows, paths, columns, depth) = (1200, 12, 200, 208);
    let offsets = (0..=paths as u32).map(|path| f32::from_bits(path * path * 8)).collect();
    let order = (0..rows as u32).map(|row| f32::from_bits(row * 7 % 1200)).collect();
    let inputs = [random(1, rows * depth), random(2, paths * columns * depth), offsets, order];
    for (whole, parts) in gpus().iter().zip(confined(1 << 20)) {
        let build: Build<'_> = &|gpu, b, c| {
            let (a, weights) = (f32(&b[0], &[rows, depth]), f32(&b[1], &[paths, columns, depth]));
            let product = PathMatmul::new(a, weights, Tensor::u32(&b[2], &[paths + 1]), f32(c, &[rows, columns]));
            product.gathered(Tensor::u32(&b[3], &[rows]), 1).plan(gpu).expect("a plan")
        };
        let outputs = 1152 * columns;
        let [one, cut] = [whole, &parts].map(|gpu| run(gpu, &inputs, rows * columns, build));
        assert!(cut.1 > one.1, "{} steps, {} with small bindings", one.1, cut.1);
        let [one, cut] = [one, cut].map(|(mut c, steps)| {
            c.truncate(outputs);
            (c, steps)
        });
        same_bits("path_matmul", 2, one.0, cut);
    }
}

#[test]
fn the_layer_cut_into_parts_gives_the_same_bits() {
    let weights = random_weights(1, [24, 10, 12, 30]);
    let x = random(2, 9 * 40 * 24);
    for (whole, parts) in gpus().iter().zip(confined(4096)) {
        for order in [Order::AsWritten].into_iter().chain(Order::FOLDED) {
            let settings = Settings { batch_invariant: true, ..Settings::default() };
            let run = |gpu: &Gpu| {
                let layer = DoubleRouting::with_order(gpu, &weights, settings, order).expect("a layer");
                wait(gpu, layer.run(&x, &[9, 40, 24], Some(&[40, 39, 0, 1, 7, 12, 40, 40, 3]))).expect("a result")
            };
            assert_eq!(run(&parts), run(whole), "{order}");
        }
    }
}

/// Of several sequences, each of which fits a binding, and of one that does not.
const MANY: [usize; 3] = [9, 40, 24];
const LONG: [usize; 3] = [1, 300, 24];

/// What a layer computes, which has the paths' counts and the steps beside it; y stored in this type.
fn run_layer(
    gpu: &Gpu,
    (weights, settings, order): (&Weights, Settings, Order),
    shape: [usize; 3],
    lengths: Option<&[u32]>,
    stored: Element,
) -> (Output, Vec<u8>, usize) {
    let layer = DoubleRouting::with_order(gpu, weights, settings, order).expect("a layer");
    let storage = Storage { x: stored, y: stored };
    let session = wait(gpu, layer.session_with(&shape, lengths.is_some(), storage)).expect("a session");
    let output = wait(gpu, session.run(&random(2, shape.iter().product()), lengths)).expect("a result");
    let counts = session.forward().counts().map(|counts| wait(gpu, gpu.read(&counts)).expect("counts"));
    (output, counts.unwrap_or_default(), session.forward().plan().steps().len())
}

/// The same, whole and with small bindings: the same bits in more steps.
fn cut_the_same(
    [whole, parts]: [&Gpu; 2],
    of: (&Weights, Settings, Order),
    shape: [usize; 3],
    lengths: Option<&[u32]>,
    stored: Element,
) -> Output {
    let [one, cut] = [whole, parts].map(|gpu| run_layer(gpu, of, shape, lengths, stored));
    let what = format!("{} {:?} of {shape:?} {lengths:?} {stored}", of.2, of.1.selection);
    assert!(cut.2 > one.2, "{what}: {} steps, {} with small bindings", one.2, cut.2);
    assert!((cut.0 == one.0) && (cut.1 == one.1), "{what}");
    cut.0
}

/// Many sequences of several lengths, and one that is longer than a binding: with small bindings the same as with large ones, and what the
/// reference says.
fn many_and_long(gpus: [&Gpu; 2], of: (&Weights, Settings, Order), stored: Element) {
    for (shape, lengths) in [(MANY, Some(&LENGTHS[..])), (LONG, None)] {
        let output = cut_the_same(gpus, of, shape, lengths, stored);
        if stored == Element::F32 {
            let mut truth = LayerTruth::new(of.0, of.1);
            truth.extend(&random(2, shape.iter().product()), &shape, lengths, &output).expect("paths there are");
            assert!(truth.judge().passed(), "{:?}", truth.judge());
        }
    }
}

const LENGTHS: [u32; 9] = [40, 39, 0, 1, 7, 12, 40, 40, 3];

/// More than is submitted at a time, and no whole number of pieces or words.
#[test]
fn an_upload_in_pieces_is_whole() {
    let bytes: Vec<u8> = (0..(64usize << 20) + 4099).map(|at| (at / 3 % 251) as u8).collect();
    for gpu in gpus() {
        let buffer = gpu.upload("bytes", &bytes).expect("a buffer");
        let words = bytes.len().div_ceil(4);
        let read = wait(&gpu, gpu.read(&Tensor::u32(&buffer, &[words]))).expect("a result");
        let differing = read.iter().zip(&bytes).position(|(read, written)| read != written);
        assert_eq!((differing, read.len()), (None, 4 * words), "{}", gpu.info().backend);
    }
}

#[test]
fn selected_tokens_cut_into_parts_give_the_same_bits() {
    let mut settings = Settings { batch_invariant: true, ..Settings::default() };
    for (whole, parts) in gpus().iter().zip(confined(4096)) {
        // Rows of y that are whole words of 16 bits, and those that are not.
        for (order, selection, outputs, stored) in [
            (Order::AsWritten, Selection::TopK(9), 30, Element::F32),
            (Order::Whole, Selection::Fraction(0.5), 31, Element::BF16),
            (Order::Embedding, Selection::TopK(40), 30, Element::F16),
        ] {
            settings.selection = selection;
            let weights = random_weights(1, [24, 10, 12, outputs]);
            let of = (&weights, settings, order);
            many_and_long([whole, &parts], of, stored);
        }
    }
}

#[test]
fn several_paths_cut_into_parts_give_the_same_bits() {
    let paths_of = |outputs: usize| {
        let linear = |seed, out: usize, features: usize| {
            Linear::new(random(seed, out * features), [out, features], random(seed + 1, out))
        };
        let (embedding, attention, routing1) = (linear(1, 10, 24), linear(3, 1, 10), linear(5, 12, 10));
        Weights::with_paths(embedding, attention, routing1, linear(7, 4, 12), linear(9, 4 * outputs, 12))
    };
    let choice = PathChoice { renormalise: true, ..PathChoice::default() };
    let paths = PathSettings { per_token: 2, choice };
    let mut settings = Settings { batch_invariant: true, paths, ..Settings::default() };
    for (whole, parts) in gpus().iter().zip(confined(4096)) {
        // Of 30 outputs 16 rows go through their paths at a time, of 2 as many as have the 12 features before them.
        for (selection, outputs, stored) in [
            (Selection::All, 30, Element::F32),
            (Selection::Fraction(0.5), 2, Element::F32),
            (Selection::All, 31, Element::F16),
        ] {
            settings.selection = selection;
            let weights = paths_of(outputs).expect("weights");
            let of = (&weights, settings, Order::AsWritten);
            many_and_long([whole, &parts], of, stored);
        }
    }
}

#[test]
fn a_router_cut_into_parts_gives_the_same_bits() {
    let (tokens, paths, features) = (150, 60, 20);
    let weights = RouterWeights::new(random(1, paths * features), [paths, features], None).expect("a router");
    let choice = PathChoice { score: Score::Sigmoid, ..PathChoice::default() };
    let config = RouterConfig { paths, per_token: 4, choice };
    for (whole, parts) in gpus().iter().zip(confined(4096)) {
        let [one, cut] = [whole, &parts].map(|gpu| {
            let router = Router::new(gpu, &weights, config).expect("a router").batch_invariant(true);
            wait(gpu, router.run(&random(2, tokens * features), tokens)).expect("a result")
        });
        assert_eq!(cut, one);
    }
}

/// As many whole batches as fit go into one dispatch.
#[test]
fn small_batches_are_not_cut_one_by_one() {
    for gpu in confined(4096) {
        let [a, b, c] = [64 * 400; 3].map(|bytes| storage(&gpu, bytes));
        let shape = [400, 4, 4];
        let product = Matmul::new(f32(&a, &shape), f32(&b, &shape), f32(&c, &shape)).plan(&gpu).expect("a plan");
        assert!(product.steps().len() < 8, "{} steps for 400 batches of 64 bytes", product.steps().len());
    }
}

/// What cannot be cut is refused with both numbers.
#[test]
fn a_single_row_beyond_a_binding_is_refused() {
    for gpu in confined(4096) {
        let buffer = || storage(&gpu, 1 << 16);
        let (x, v, y) = (buffer(), buffer(), buffer());
        let long = [2, 2000];
        let limit = 4096 - gpu.device().limits().min_storage_buffer_offset_alignment;
        let refusal = Softmax::new(Tensor::f32(&x, &long), Tensor::f32(&y, &long), 1).plan(&gpu).expect_err("too long");
        assert_eq!(refusal.to_string(), format!("softmax: a row in bytes needs 8000, the device allows {limit}"));
        let (row, out) = (Tensor::f32(&v, &[2000]), Tensor::f32(&y, &[2]));
        let refusal = Attend::new(Tensor::f32(&x, &long), row, out).plan(&gpu).expect_err("too long");
        assert_eq!(refusal.to_string(), format!("attend: a row of x in bytes needs 8000, the device allows {limit}"));
        let product = Matmul::new(Tensor::f32(&x, &long), Tensor::f32(&v, &[2000, 3]), Tensor::f32(&y, &[2, 3]));
        let refusal = product.plan(&gpu).expect_err("too long");
        assert_eq!(refusal.to_string(), format!("matmul: a row of a in bytes needs 8000, the device allows {limit}"));
        let (positions, wide) = (Tensor::u32(&v, &[2, 1]), Tensor::f32(&y, &long));
        let refusal = Combine::new(Tensor::f32(&x, &long), positions.clone(), wide).plan(&gpu).expect_err("too long");
        assert_eq!(refusal.to_string(), format!("combine: a row in bytes needs 8000, the device allows {limit}"));
        let positions = positions.reshape(&[2, 2]);
        let many = Combine::new(Tensor::f32(&x, &[600, 2]), positions, Tensor::f32(&y, &[2, 2]));
        let refusal = many.plan(&gpu).expect_err("too many").to_string();
        let expected = "combine: binding the rows of a batch in bytes needs 4800, the device allows";
        assert_eq!(refusal, format!("{expected} {limit}"));
        let [order, positions] = [(); 2].map(|()| buffer());
        let words = |buffer| Tensor::u32(buffer, &[2000]);
        let many = Dispatch::new(words(&x), Tensor::u32(&y, &[3]), words(&order), words(&positions));
        let refusal = many.plan(&gpu).expect_err("too many").to_string();
        assert_eq!(refusal, "dispatch: binding ids in bytes needs 8000, the device allows 4096");
        let (ids, gates) = (Tensor::u32(&v, &[2, 3]), Tensor::f32(&y, &[2, 3]));
        let paths = RoutePaths::new(Tensor::f32(&x, &long), ids, gates, PathChoice::default());
        let refusal = paths.plan(&gpu).expect_err("too long");
        assert_eq!(refusal.to_string(), format!("route_paths: a row in bytes needs 8000, the device allows {limit}"));
        let (counts, means) = (Tensor::u32(&v, &[2000]), Tensor::f32(&y, &[2000]));
        let summary = buffer();
        let load = PathLoad::new(Tensor::f32(&x, &long), counts, means, Tensor::f32(&summary, &[4]));
        let refusal = load.plan(&gpu).expect_err("too long");
        assert_eq!(refusal.to_string(), format!("path_load: a row in bytes needs 8000, the device allows {limit}"));
    }
}
