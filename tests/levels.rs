//! Both levels of the layer: which tokens are selected, which paths they take, and that nothing else changes.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test that cannot go on fails, and says why"
)]

mod common;

use common::{any_gpu, gpus, random, random_weights, run_cases, wait};
use double_routing::{
    DoubleRouting, Gpu, Linear, Order, Output, PathSettings, PlanKind, Selection, Settings, Tensor, Weights, bytemuck,
    kernels::{PathChoice, Score},
};

const DIMENSIONS: [usize; 4] = [20, 6, 10, 14];
const SHAPE: [usize; 3] = [3, 17, DIMENSIONS[0]];
const OUTPUT: usize = DIMENSIONS[3];

#[test]
fn agrees_with_the_reference() {
    run_cases("levels");
}

fn run(gpu: &Gpu, weights: &Weights, order: Order, selection: Selection, lengths: Option<&[u32]>) -> Output {
    let settings = Settings { batch_invariant: true, selection, ..Settings::default() };
    let layer = DoubleRouting::with_order(gpu, weights, settings, order).expect("a layer");
    wait(gpu, layer.run(&random(5, SHAPE.iter().product()), &SHAPE, lengths)).expect("a result")
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

/// Selecting every token is the dense layer, bit for bit, in every order.
#[test]
fn selecting_all_tokens_is_the_dense_layer() {
    let weights = random_weights(7, DIMENSIONS);
    for gpu in gpus() {
        for order in [Order::AsWritten].into_iter().chain(Order::FOLDED) {
            let dense = run(&gpu, &weights, order, Selection::All, None);
            for selection in [Selection::TopK(SHAPE[1]), Selection::TopK(1000), Selection::Fraction(1.0)] {
                let sparse = run(&gpu, &weights, order, selection, None);
                assert_eq!((bits(&sparse.y), bits(&sparse.w)), (bits(&dense.y), bits(&dense.w)), "{order}");
                assert_eq!(sparse.indices.len(), 3 * SHAPE[1]);
            }
            // So too where some are masked, for those that are not.
            let lengths = [17, 0, 4];
            let dense = run(&gpu, &weights, order, Selection::All, Some(&lengths));
            let sparse = run(&gpu, &weights, order, Selection::TopK(SHAPE[1]), Some(&lengths));
            assert_eq!(bits(&sparse.w), bits(&dense.w), "{order}");
            for (token, (ours, theirs)) in sparse.y.chunks(OUTPUT).zip(dense.y.chunks(OUTPUT)).enumerate() {
                let unmasked = token % SHAPE[1] < lengths[token / SHAPE[1]] as usize;
                let expected = if unmasked { bits(theirs) } else { vec![0; OUTPUT] };
                assert_eq!(bits(ours), expected, "{order}: token {token}");
            }
        }
    }
}

/// A selected token's y is the dense layer's, bit for bit; the others' is 0 or what is to stand there.
#[test]
fn selected_tokens_are_the_dense_layers() {
    let weights = random_weights(7, DIMENSIONS);
    let lengths = [17, 0, 4];
    for gpu in gpus() {
        for order in [Order::AsWritten, Order::Whole, Order::Routing] {
            let dense = run(&gpu, &weights, order, Selection::All, Some(&lengths));
            for count in [1, 5, 17] {
                let sparse = run(&gpu, &weights, order, Selection::TopK(count), Some(&lengths));
                assert_eq!(bits(&sparse.w), bits(&dense.w), "{order}");
                for (sequence, &length) in lengths.iter().enumerate() {
                    // A stable order: the heaviest first, of equals the first.
                    let mut wanted: Vec<usize> = (0..length as usize).collect();
                    let w = |position: &usize| dense.w[sequence * SHAPE[1] + position];
                    wanted.sort_by(|a, b| w(b).total_cmp(&w(a)));
                    wanted.truncate(count);
                    let own = &sparse.indices[sequence * count..][..count];
                    let expected: Vec<u32> = wanted.iter().map(|&at| at as u32).collect();
                    assert_eq!(own[..wanted.len()], expected, "{order}");
                    assert!(own[wanted.len()..].iter().all(|&index| index == u32::MAX));
                    for position in 0..SHAPE[1] {
                        let at = (sequence * SHAPE[1] + position) * OUTPUT;
                        let (ours, theirs) = (&sparse.y[at..at + OUTPUT], &dense.y[at..at + OUTPUT]);
                        let selected = wanted.contains(&position);
                        let expected = if selected { bits(theirs) } else { vec![0; OUTPUT] };
                        assert_eq!(bits(ours), expected, "{order}: token {position} of sequence {sequence}");
                    }
                }
            }
        }
    }
}

/// The same weights with one path behind a gate: a softmax over one path is 1, so nothing changes.
#[test]
fn one_path_is_the_dense_layer() {
    let linear = |seed: u64, out: usize, features: usize| {
        Linear::new(random(seed, out * features), [out, features], random(seed + 1, out))
    };
    let [input, a, r, o] = DIMENSIONS;
    let maps = || (linear(1, a, input), linear(3, 1, a), linear(5, r, a), linear(7, o, r));
    let (embedding, attention, routing1, routing2) = maps();
    let dense = Weights::new(embedding, attention, routing1, routing2).expect("weights");
    let (embedding, attention, routing1, routing2) = maps();
    let one = Weights::with_paths(embedding, attention, routing1, linear(9, 1, r), routing2).expect("weights");
    for gpu in gpus() {
        let dense = run(&gpu, &dense, Order::AsWritten, Selection::All, None);
        let path = run(&gpu, &one, Order::AsWritten, Selection::All, None);
        assert_eq!((bits(&path.y), bits(&path.w)), (bits(&dense.y), bits(&dense.w)));
        assert_eq!(path.ids, vec![0; SHAPE[0] * SHAPE[1]]);
        assert!(path.gates.iter().all(|&gate| gate == 1.0));
    }
}

/// What is skipped is what the caller says: here x itself.
#[test]
fn skipped_tokens_keep_what_they_are_given() {
    let [input, a, r, _] = DIMENSIONS;
    let weights = random_weights(7, [input, a, r, input]);
    let gpu = any_gpu();
    let settings = Settings { selection: Selection::TopK(4), ..Settings::default() };
    let layer = DoubleRouting::new(&gpu, &weights, settings).expect("a layer");
    let x = random(5, SHAPE.iter().product());
    let buffer = gpu.upload("x", bytemuck::cast_slice(&x)).expect("a buffer");
    let tensor = Tensor::f32(&buffer, &SHAPE);
    let forward = layer.forward(tensor.clone()).skip(tensor).plan().expect("a plan");
    let mut encoder = gpu.device().create_command_encoder(&Default::default());
    forward.record(&mut encoder.begin_compute_pass(&Default::default()));
    gpu.queue().submit([encoder.finish()]);
    let y: Vec<f32> = bytemuck::pod_collect_to_vec(&wait(&gpu, gpu.read(&forward.y())).expect("y"));
    let indices = forward.indices().expect("selected tokens");
    let indices: Vec<u32> = bytemuck::pod_collect_to_vec(&wait(&gpu, gpu.read(&indices)).expect("indices"));
    for (token, (y, x)) in y.chunks_exact(input).zip(x.chunks_exact(input)).enumerate() {
        let own = &indices[token / SHAPE[1] * 4..][..4];
        assert_eq!(bits(y) != bits(x), own.contains(&((token % SHAPE[1]) as u32)), "token {token}");
    }
}

#[test]
fn refuses_what_cannot_be_selected() {
    let gpu = any_gpu();
    let weights = random_weights(7, DIMENSIONS);
    let layer = |selection| {
        DoubleRouting::new(&gpu, &weights, Settings { selection, plan: PlanKind::Folded, ..Settings::default() })
    };
    let refusal = |selection| layer(selection).expect_err("refused").to_string();
    assert_eq!(refusal(Selection::TopK(0)), "double routing: selection: 0 tokens of each sequence");
    assert_eq!(refusal(Selection::Fraction(1.5)), "double routing: selection: the fraction 1.5 is not within 0 and 1");
    let selecting = layer(Selection::TopK(3)).expect("a layer");
    let error = wait(&gpu, selecting.run(&random(1, 40), &[2, 20], None)).expect_err("no sequences");
    assert_eq!(error.to_string(), "double routing: x is [2, 20]: selecting tokens needs sequences, [B, S, in]");
    let linear = |out: usize, features: usize| Linear::new(random(1, out * features), [out, features], random(2, out));
    let paths = |gate, routing2| {
        Weights::with_paths(linear(6, 20), linear(1, 6), linear(10, 6), gate, routing2).map(|weights| weights.paths())
    };
    assert_eq!(paths(linear(4, 10), linear(8, 10)), Ok(4));
    let error = paths(linear(4, 9), linear(8, 10)).expect_err("another width");
    assert_eq!(
        error.to_string(),
        "weights: path_gate.weight is [4, 9], routing1.weight [10, 6] needs it to be [4, 10]"
    );
    let error = paths(linear(4, 10), linear(9, 10)).expect_err("no multiple");
    assert_eq!(error.to_string(), "weights: routing2.weight has 9 rows for 4 paths");
    let several = Weights::with_paths(linear(6, 20), linear(1, 6), linear(10, 6), linear(4, 10), linear(8, 10));
    let choice = PathChoice { score: Score::Sigmoid, ..PathChoice::default() };
    let settings = Settings { paths: PathSettings { per_token: 5, choice }, ..Settings::default() };
    let error = DoubleRouting::new(&gpu, &several.expect("weights"), settings).expect_err("too many");
    assert_eq!(error.to_string(), "router: 5 paths a token, of 4");
}

/// What fits a binding is not cut: one dispatch gathers, one fills y and one scatters; rows go through their paths at once.
#[test]
fn what_fits_takes_a_dispatch_each() {
    let linear = |out: usize, features: usize| Linear::new(random(1, out * features), [out, features], random(2, out));
    let [input, a, r, o] = DIMENSIONS;
    let weights = Weights::with_paths(linear(a, input), linear(1, a), linear(r, a), linear(5, r), linear(5 * o, r));
    let settings = Settings { selection: Selection::TopK(4), ..Settings::default() };
    for gpu in gpus() {
        let layer = DoubleRouting::new(&gpu, weights.as_ref().expect("weights"), settings).expect("a layer");
        let session = wait(&gpu, layer.session(&SHAPE, true)).expect("a session");
        let steps = session.forward().plan().steps();
        let count = |kernel| steps.iter().filter(|step| step.label().split(' ').next() == Some(kernel)).count();
        let kernels = ["combine", "select", "route_paths", "dispatch", "path_matmul"];
        assert_eq!(kernels.map(count), [4, 1, 1, 1, 1]);
    }
}
