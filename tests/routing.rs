//! The layer: the table of cases, its intermediates, its invariances, and what is refused.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test that cannot go on fails, and says why"
)]

mod common;

use common::{any_gpu, gpus, random, random_weights, run_cases, storage, wait};
use double_routing::{
    AdapterClass, DoubleRouting, Linear, Order, PlanKind, Settings, Tensor, Weights, bytemuck,
    reference::{Product, attend, attend_bound, matmul, matmul_bound, route, route_bound, softmax, softmax_bound},
};

#[test]
fn agrees_with_the_reference() {
    run_cases("routing");
}

/// The plan as written can be read stage by stage, and each stage is what its kernel's oracle makes of the one before.
#[test]
fn every_intermediate_can_be_read() {
    let dimensions = [20, 6, 10, 14];
    let [input, a, r, o] = dimensions;
    let weights = random_weights(7, dimensions);
    let layer64 = weights.to_reference();
    let (shape, tokens) = ([3, 17, input], 3 * 17);
    let x = random(8, tokens * input);
    for gpu in gpus() {
        let settings = Settings { plan: PlanKind::AsWritten, ..Settings::default() };
        let layer = DoubleRouting::new(&gpu, &weights, settings).expect("a layer");
        let session = wait(&gpu, layer.session(&shape, false)).expect("a session");
        let output = wait(&gpu, session.run(&x, None)).expect("a result");
        let read = |tensor: &Tensor<'_>| -> Vec<f64> {
            let bytes = wait(&gpu, gpu.read(tensor)).expect("a tensor");
            bytemuck::pod_collect_to_vec::<u8, f32>(&bytes).into_iter().map(f64::from).collect()
        };
        let forward = session.forward();
        let (h, routed) = (forward.h().expect("h"), forward.routed().expect("routed"));
        assert_eq!((h.shape(), routed.shape()), ([3, 17, a].as_slice(), [3, 17, r].as_slice()));
        assert_eq!((forward.w().shape(), forward.y().shape()), ([3, 17, 1].as_slice(), [3, 17, o].as_slice()));
        let (h, routed, logits) = (read(&h), read(&routed), read(&forward.logits()));
        let (w, y) = (read(&forward.w()), read(&forward.y()));
        assert_eq!(y, output.y.iter().map(|&y| f64::from(y)).collect::<Vec<_>>());

        let within = |name: &str, result: &[f64], expected: Vec<f64>, bound: Vec<f64>| {
            assert_eq!(result.len(), expected.len(), "{name}");
            for (at, value) in result.iter().enumerate() {
                assert!(
                    (value - expected[at]).abs() <= bound[at],
                    "{name}[{at}] is {value}, expected {}",
                    expected[at]
                );
            }
        };
        let x: Vec<f64> = x.iter().map(|&x| x.into()).collect();
        let product = |columns, depth| Product { rows: tokens, columns, depth, transposed: true, ..Product::default() };
        let (weight, bias) = (&layer64.embedding_weight, Some(layer64.embedding_bias.as_slice()));
        within(
            "h",
            &h,
            matmul(&x, weight, bias, &product(a, input)),
            matmul_bound(&x, weight, bias, &product(a, input)),
        );
        let (weight, bias) = (&layer64.attention_weight, layer64.attention_bias[0]);
        within("logits", &logits, attend(&h, weight, bias, tokens), attend_bound(&h, weight, bias, tokens));
        let axis = double_routing::reference::Axis { outer: 3, length: 17, inner: 1 };
        within("w", &w, softmax(&logits, axis, None), softmax_bound(&logits, axis, None));
        let (weight, none, outer) = (&layer64.routing1_weight, vec![0.0; r], &layer64.routing1_bias);
        let bound = route_bound(&h, weight, &w, &none, outer, a);
        within("routed", &routed, route(&h, weight, &w, &none, outer, a), bound);
        let (weight, bias) = (&layer64.routing2_weight, Some(layer64.routing2_bias.as_slice()));
        within(
            "y",
            &y,
            matmul(&routed, weight, bias, &product(o, r)),
            matmul_bound(&routed, weight, bias, &product(o, r)),
        );
    }
}

/// Rank 2 has a softmax over one logit: every weight is 1, not merely close to it.
#[test]
fn rank_2_weighs_every_token_with_exactly_1() {
    for gpu in gpus() {
        for plan in [PlanKind::Folded, PlanKind::AsWritten] {
            let layer =
                DoubleRouting::new(&gpu, &random_weights(3, [24, 7, 5, 3]), Settings { plan, ..Settings::default() });
            let layer = layer.expect("a layer");
            let output = wait(&gpu, layer.run(&random(4, 37 * 24), &[37, 24], None)).expect("a result");
            assert_eq!(output.w, [1.0; 37]);
        }
    }
}

/// Fully masked sequences weigh nothing, and their tokens are d.
#[test]
fn masked_tokens_weigh_nothing() {
    let weights = random_weights(5, [8, 6, 7, 5]);
    let d = weights.to_reference().forward(&[0.0; 8], &[1, 1, 8], Some(&[0])).d;
    for gpu in gpus() {
        for order in [Order::AsWritten].into_iter().chain(Order::FOLDED) {
            let layer = DoubleRouting::with_order(&gpu, &weights, Settings::default(), order).expect("a layer");
            let output = wait(&gpu, layer.run(&random(6, 2 * 4 * 8), &[2, 4, 8], Some(&[0, 3]))).expect("a result");
            assert_eq!((&output.w[..4], output.w[7]), ([0.0; 4].as_slice(), 0.0), "{order}");
            for (at, y) in output.y[..4 * 5].iter().chain(&output.y[7 * 5..]).enumerate() {
                assert!((f64::from(*y) - d[at % 5]).abs() < 1e-6, "{order}: y is {y}, d is {}", d[at % 5]);
            }
        }
    }
}

#[test]
fn the_same_bits_from_run_to_run() {
    for gpu in gpus() {
        for plan in [PlanKind::Folded, PlanKind::AsWritten] {
            let settings = Settings { plan, ..Settings::default() };
            let layer = DoubleRouting::new(&gpu, &random_weights(11, [33, 20, 18, 40]), settings).expect("a layer");
            let x = random(12, 4 * 50 * 33);
            let session = wait(&gpu, layer.session(&[4, 50, 33], false)).expect("a session");
            let first = wait(&gpu, session.run(&x, None)).expect("a result");
            for _ in 0..20 {
                assert_eq!(wait(&gpu, session.run(&x, None)).expect("a result"), first);
            }
        }
    }
}

/// With `batch_invariant` a sequence gives the same bits alone and in any batch.
#[test]
fn batch_invariant_results_do_not_depend_on_the_batch() {
    let tokens = 3;
    // Also one whose weights are worth packing once.
    let sizes = [[40, 12, 16, 24], [130, 140, 136, 150]];
    for (gpu, sizes) in gpus().iter().flat_map(|gpu| sizes.map(|sizes| (gpu, sizes))) {
        let [input, .., output] = sizes;
        for order in [Order::AsWritten].into_iter().chain(Order::FOLDED) {
            let settings = Settings { batch_invariant: true, ..Settings::default() };
            let weights = random_weights(21, sizes);
            let layer = DoubleRouting::with_order(gpu, &weights, settings, order).expect("a layer");
            let sequence = random(22, tokens * input);
            let alone = wait(gpu, layer.run(&sequence, &[1, tokens, input], None)).expect("a result");
            for (batch, place) in [(2, 0), (2, 1), (7, 3), (40, 39), (300, 111)] {
                let mut x = random(23, batch * tokens * input);
                x[place * tokens * input..][..tokens * input].copy_from_slice(&sequence);
                let together = wait(gpu, layer.run(&x, &[batch, tokens, input], None)).expect("a result");
                assert_eq!(together.y[place * tokens * output..][..tokens * output], alone.y, "{order}: y in {batch}");
                assert_eq!(together.w[place * tokens..][..tokens], alone.w, "{order}: w in {batch}");
            }
        }
    }
}

/// Also where the axis is strided: a token's siblings behind axis 1 are other rows of the softmax.
#[test]
fn batch_invariant_weights_do_not_depend_on_siblings() {
    let (channels, input) = (300, 16);
    for gpu in gpus() {
        for class in AdapterClass::ALL {
            let settings = Settings { batch_invariant: true, ..Settings::default() };
            let gpu = gpu.with_class(class);
            let layer = DoubleRouting::new(&gpu, &random_weights(31, [input, 6, 5, 4]), settings).expect("a layer");
            let alone = random(32, channels * input);
            let first = wait(&gpu, layer.run(&alone, &[1, channels, 1, input], None)).expect("a result");
            for siblings in [2, 3, 5] {
                let mut x = random(33, channels * siblings * input);
                for channel in 0..channels {
                    x[channel * siblings * input..][..input].copy_from_slice(&alone[channel * input..][..input]);
                }
                let together = wait(&gpu, layer.run(&x, &[1, channels, siblings, input], None)).expect("a result");
                let own: Vec<f32> = together.w.iter().step_by(siblings).copied().collect();
                assert_eq!(own, first.w, "{siblings} siblings as {class:?}");
            }
        }
    }
}

/// A forward is recorded more than once, so its result may not take the place of its input, whatever the order.
#[test]
fn refuses_to_write_y_over_x() {
    let gpu = any_gpu();
    let buffer = storage(&gpu, 1 << 12);
    for order in [Order::AsWritten].into_iter().chain(Order::FOLDED) {
        let layer = DoubleRouting::with_order(&gpu, &random_weights(1, [8, 4, 5, 6]), Settings::default(), order);
        let layer = layer.expect("a layer");
        let y = Tensor::f32(&buffer, &[2, 3, 6]).offset(2048);
        let refusal =
            layer.forward(Tensor::f32(&buffer, &[2, 3, 8])).output(y).plan().expect_err("refused").to_string();
        assert!(refusal.contains("x and the output share a buffer"), "{order}: {refusal}");
    }
}

#[test]
fn the_folded_plan_takes_the_cheapest_order_and_says_so() {
    let gpu = any_gpu();
    let cases = [
        ([768, 256, 256, 256], Order::Whole),
        ([512, 8, 300, 400], Order::Embedding),
        ([512, 300, 8, 400], Order::Routing),
        ([64, 12, 2, 64], Order::Routing),
        ([100, 4, 1, 100], Order::Routing),
    ];
    for (dimensions, order) in cases {
        let layer = DoubleRouting::new(&gpu, &random_weights(1, dimensions), Settings::default()).expect("a layer");
        assert_eq!(layer.order(), order, "{dimensions:?}");
        for other in Order::FOLDED {
            assert!(order.cost(layer.dimensions(), 1).flops <= other.cost(layer.dimensions(), 1).flops);
        }
    }
}

/// Three where all maps fold into one: what packs x for the product is what attends, and weights are packed once.
#[test]
fn a_folded_forward_is_three_dispatches() {
    for gpu in gpus() {
        let layer = DoubleRouting::new(&gpu, &random_weights(1, [300, 64, 64, 64]), Settings::default());
        let layer = layer.expect("a layer");
        let x = storage(&gpu, 4 * 40 * 300 * 4);
        for shape in [[1, 1, 300], [1, 16, 300], [4, 40, 300]] {
            let forward = layer.forward(Tensor::f32(&x, &shape)).plan().expect("a plan");
            let labels: Vec<_> = forward.plan().steps().iter().map(double_routing::Step::label).collect();
            assert_eq!(labels.len(), 3, "{:?}: {labels:?}", gpu.info().backend);
        }
    }
}

#[test]
fn refuses_tensors_that_do_not_fit() {
    let gpu = any_gpu();
    let layer = DoubleRouting::new(&gpu, &random_weights(1, [8, 4, 5, 6]), Settings::default()).expect("a layer");
    let [x, y, lengths] = [1 << 12; 3].map(|bytes| storage(&gpu, bytes));
    let refusal = |shape: &[usize]| layer.forward(Tensor::f32(&x, shape)).plan().expect_err("refused").to_string();
    assert_eq!(refusal(&[8]), "double routing: x is [8]: softmax runs over axis 1, so its rank must be 2 or more");
    assert_eq!(refusal(&[]), "double routing: x has no dimension, expected [B, S, in], [N, in] or more");
    assert_eq!(refusal(&[2, 3, 7]), "double routing: x is [2, 3, 7], embedding.weight is [4, 8]");
    let forward = || layer.forward(Tensor::f32(&x, &[2, 3, 8]));
    assert_eq!(
        forward().output(Tensor::f32(&y, &[2, 3, 5])).plan().expect_err("refused").to_string(),
        "double routing: y is [2, 3, 5], x [2, 3, 8] gives [2, 3, 6]"
    );
    assert_eq!(
        forward().lengths(Tensor::u32(&lengths, &[3])).plan().expect_err("refused").to_string(),
        "double routing: lengths are [3], x [2, 3, 8] needs [2]"
    );
}

#[test]
fn refuses_weights_that_do_not_fit_each_other() {
    let linear =
        |out: usize, features: usize| Linear::new(vec![0.5f32; out * features], [out, features], vec![0.0f32; out]);
    let refusal = |embedding, attention, routing1, routing2| {
        Weights::new(embedding, attention, routing1, routing2).expect_err("refused").to_string()
    };
    assert_eq!(
        refusal(linear(4, 8), linear(2, 4), linear(5, 4), linear(6, 5)),
        "weights: attention.weight is [2, 4], embedding.weight [4, 8] needs it to be [1, 4]"
    );
    assert_eq!(
        refusal(linear(4, 8), linear(1, 4), linear(5, 3), linear(6, 5)),
        "weights: routing1.weight is [5, 3], embedding.weight [4, 8] needs it to be [5, 4]"
    );
    assert_eq!(
        refusal(linear(4, 8), linear(1, 4), linear(5, 4), linear(6, 4)),
        "weights: routing2.weight is [6, 4], routing1.weight [5, 4] needs it to be [6, 5]"
    );
    let short = Linear::new(vec![0.5f32; 31], [4, 8], vec![0.0f32; 4]);
    assert_eq!(
        refusal(short, linear(1, 4), linear(5, 4), linear(6, 5)),
        "weights: embedding.weight has 31 values for [4, 8]"
    );
    let biased = Linear::new(vec![0.5f32; 32], [4, 8], vec![0.0f32; 3]);
    assert_eq!(
        refusal(biased, linear(1, 4), linear(5, 4), linear(6, 5)),
        "weights: embedding.bias is [3], embedding.weight [4, 8] needs [4]"
    );
}
