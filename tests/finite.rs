//! Finite input whose results are not: what overflows is found, also where softmax or sigmoid makes something finite of it.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test that cannot go on fails, and says why"
)]

mod common;

use common::{gpus, random, wait};
use double_routing::{
    DoubleRouting, Element, Gpu, Linear, Output, PathSettings, Selection, Settings, Storage, Weights,
    kernels::{PathChoice, Score},
    moe::{ExpertWeights, MoeFeedForward, MoeWeights, Router, RouterConfig, RouterWeights, SharedWeights},
};

const DIMENSIONS: [usize; 4] = [20, 6, 10, 14];
const SHAPE: [usize; 3] = [3, 17, DIMENSIONS[0]];

fn forward(gpu: &Gpu, weights: &Weights, selection: Selection, x: &[f32], lengths: Option<&[u32]>) -> Output {
    let layer = DoubleRouting::new(gpu, weights, Settings { selection, ..Settings::default() }).expect("a layer");
    wait(gpu, layer.run(x, &SHAPE, lengths)).expect("a result")
}

/// Usual values, but for the row of one token.
fn x_with_row(sequence: usize, token: usize, value: f32) -> Vec<f32> {
    let mut x = random(5, SHAPE.iter().product());
    x[(sequence * SHAPE[1] + token) * SHAPE[2]..][..SHAPE[2]].fill(value);
    x
}

#[test]
fn a_y_beyond_f16_is_found() {
    let [input, a, r, o] = DIMENSIONS;
    let linear = |out: usize, features: usize, bias: f32| {
        Linear::new(random(1, out * features), [out, features], vec![bias; out])
    };
    let mut last = linear(o, r, 65_000.0);
    let mut bias = vec![0.0; o];
    bias[3] = 70_000.0;
    last.bias = bias.into();
    let weights = Weights::new(linear(a, input, 0.1), linear(1, a, 0.1), linear(r, a, 0.1), last).expect("weights");
    let x = random(5, SHAPE.iter().product());
    for gpu in gpus() {
        let layer = DoubleRouting::new(&gpu, &weights, Settings::default()).expect("a layer");
        for (y, expected) in [(Element::F32, None), (Element::BF16, None), (Element::F16, Some(("y", 3)))] {
            let session = wait(&gpu, layer.session_with(&SHAPE, false, Storage { y, ..Storage::default() }));
            let output = wait(&gpu, session.expect("a session").run(&x, None)).expect("a result");
            assert_eq!(output.first_non_finite(), expected, "{y}");
        }
    }
}

#[test]
fn logits_that_overflow_are_found_where_they_count() {
    let [input, a, r, o] = DIMENSIONS;
    // Of one sign, so that nothing cancels.
    let linear = |out: usize, features: usize| {
        let weight: Vec<f32> = random(1, out * features).into_iter().map(|value| value.abs() + 1.0).collect();
        Linear::new(weight, [out, features], random(2, out))
    };
    let weights = Weights::new(linear(a, input), linear(1, a), linear(r, a), linear(o, r)).expect("weights");
    for gpu in gpus() {
        for selection in [Selection::All, Selection::TopK(4)] {
            let found = |value, lengths: Option<&[u32]>| {
                let x = x_with_row(1, 5, value);
                forward(&gpu, &weights, selection, &x, lengths).first_non_finite()
            };
            assert_eq!(found(1e30, None), None);
            assert_eq!(found(-3e38, Some(&[17, 6, 0])), Some(("logits", SHAPE[1] + 5)));
        }
        // What is masked is in none of the results where it is not selected either.
        let x = x_with_row(1, 5, 3e38);
        let output = forward(&gpu, &weights, Selection::TopK(4), &x, Some(&[17, 5, 0]));
        assert_eq!(output.first_non_finite(), None);
        assert_eq!(output.logits[SHAPE[1] + 5..], [0.0; 2 * 17 - 5]);
        assert!(output.logits[..SHAPE[1] + 5].iter().all(|&logit| logit != 0.0));
    }
}

/// A sigmoid of an infinite logit is 1, and y is as finite as before.
#[test]
fn path_logits_that_overflow_are_found() {
    let [input, a, r, o] = DIMENSIONS;
    let linear = |seed, out: usize, features: usize| {
        Linear::new(random(seed, out * features), [out, features], random(seed + 1, out))
    };
    let weights = |gate: f32| {
        let mut path_gate = linear(4, 5, r);
        // The logits of the second path.
        path_gate.weight = (0..5 * r).map(|at| if at / r == 1 { gate } else { 0.01 }).collect::<Vec<f32>>().into();
        let mut routing1 = linear(3, r, a);
        routing1.bias = vec![7.0; r].into();
        Weights::with_paths(linear(1, a, input), linear(2, 1, a), routing1, path_gate, linear(5, 5 * o, r))
            .expect("weights")
    };
    for gpu in gpus() {
        for (score, selections) in
            [(Score::Sigmoid, &[Selection::All, Selection::TopK(4)][..]), (Score::Softmax, &[Selection::All])]
        {
            for &selection in selections {
                let run = |gate| {
                    let choice = PathChoice { score, ..PathChoice::default() };
                    let paths = PathSettings { per_token: 2, choice };
                    let settings = Settings { selection, paths, ..Settings::default() };
                    let layer = DoubleRouting::new(&gpu, &weights(gate), settings).expect("a layer");
                    let x = random(5, SHAPE.iter().product());
                    wait(&gpu, layer.run(&x, &SHAPE, Some(&[17, 2, 0]))).expect("a result")
                };
                assert_eq!(run(0.02).first_non_finite(), None);
                let output = run(3e38);
                assert_eq!(output.first_non_finite(), Some(("path_logits", 1)));
                assert!(score != Score::Sigmoid || output.y.iter().all(|y| y.is_finite()));
                if selection == Selection::All {
                    continue;
                }
                // Rows 6 to 11 are no tokens: of the second sequence two are unmasked, of the third none.
                assert_eq!(output.path_logits[6 * 5..], [0.0; 6 * 5]);
                assert!(output.path_logits[..6 * 5].iter().all(|&logit| logit != 0.0));
            }
        }
    }
}

#[test]
fn a_router_and_a_block_say_what_overflows() {
    let (features, paths, tokens) = (8, 5, 3);
    let ones = |count: usize| vec![1.0f32; count];
    let experts = |paths: usize, gate: f32| {
        let gates = vec![gate; paths * 8];
        ExpertWeights::new(gates, ones(paths * 8), ones(paths * 8), [paths, 1, features]).expect("experts")
    };
    // The third path's logits are the sum of x, the others' nothing.
    let gate: Vec<f32> = (0..paths * features).map(|at| if at / features == 2 { 1.0 } else { 0.0 }).collect();
    let weights = |expert_gate: f32, shared_gate: f32| MoeWeights {
        router: RouterWeights::new(gate.clone(), [paths, features], None).expect("a router"),
        experts: experts(paths, expert_gate),
        shared: Some(SharedWeights { expert: experts(1, 1.0), gate: Some(vec![shared_gate; features].into()) }),
    };
    let with_row = |value: f32| (0..tokens * features).map(|at| if at / features == 1 { value } else { 0.5 }).collect();
    for gpu in gpus() {
        for score in [Score::Softmax, Score::Sigmoid, Score::SqrtSoftplus, Score::SoftmaxOfChosen] {
            let choice = PathChoice { score, ..PathChoice::default() };
            let config = RouterConfig { paths, per_token: 2, choice };
            let router = Router::new(&gpu, &weights(1.0, 0.0).router, config).expect("a router");
            let found = |value: f32| {
                let x: Vec<f32> = with_row(value);
                wait(&gpu, router.run(&x, tokens)).expect("a result").first_non_finite()
            };
            assert_eq!(found(4e37), None, "{score:?}");
            assert_eq!(found(1e38), Some(("logits", paths + 2)), "{score:?}");
            assert_eq!(found(-1e38), Some(("logits", paths + 2)), "{score:?}");
        }
        let block = |gates: [f32; 2], y, value: f32| {
            let choice = PathChoice { score: Score::SoftmaxOfChosen, ..PathChoice::default() };
            let config = RouterConfig { paths, per_token: 2, choice };
            let block = MoeFeedForward::new(&gpu, &weights(gates[0], gates[1]), config).expect("a block");
            let x: Vec<f32> = with_row(value);
            let storage = Storage { y, ..Storage::default() };
            let output = wait(&gpu, block.run_with(&x, &[tokens, features], storage)).expect("a result");
            assert_eq!(output.shared_logits.len(), tokens);
            output.first_non_finite()
        };
        assert_eq!(block([1.0, 0.0], Element::F32, 90.0), None);
        // One and a half times silu of a sum of 720, times that sum.
        assert_eq!(block([1.0, 0.0], Element::F16, 90.0), Some(("y", features)));
        assert_eq!(block([1.0, 0.0], Element::F32, 1e20), Some(("y", features)));
        assert_eq!(block([1.0, 0.0], Element::F32, 1e38), Some(("logits", paths + 2)));
        // An expert's gate(x) of −∞ does not count as one of which silu is 0.
        assert_eq!(block([-1.0, 0.0], Element::F32, 90.0), None);
        assert_eq!(block([-1e38, 0.0], Element::F32, 90.0), Some(("y", 0)));
        assert_eq!(block([1.0, 1e37], Element::F32, 1.0), None);
        assert_eq!(block([1.0, 1e38], Element::F32, -0.75), Some(("shared_logits", 0)));
    }
}
