//! PyTorch's own module against both plans: files and yardsticks from `tests/goldens/generate.py`.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test that cannot go on fails, and says why"
)]

mod common;

use common::{gpus, wait};
use double_routing::{
    Checkpoint, DoubleRouting, Order, Settings, Values, Weights,
    reference::{Forward, signal_error},
};
use safetensors::SafeTensors;

/// y may be this many times as far from the truth as PyTorch's float32 is; errors below the floor are too small to compare.
const YARDSTICKS: f64 = 4.0;
const FLOOR: f64 = 1e-6;

/// What a golden's file holds beside the layer.
const BESIDE: [&str; 8] = ["x", "lengths", "h", "logits", "w", "routed", "y", "d"];

struct Golden {
    name: String,
    shape: Vec<usize>,
    x: Vec<f32>,
    lengths: Option<Vec<u32>>,
    weights: Weights,
    truth: Forward<f64>,
    pytorch_error: f64,
    pytorch_weight_error: f64,
}

fn goldens() -> Vec<Golden> {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens");
    let list = std::fs::read_to_string(folder.join("goldens.json")).expect("the list of goldens");
    let list: Vec<serde_json::Value> = serde_json::from_str(&list).expect("JSON");
    assert!(list.len() >= 15, "{} goldens", list.len());
    list.iter()
        .map(|entry| {
            let name = entry["name"].as_str().expect("a name").to_string();
            let bytes = std::fs::read(folder.join(format!("{name}.safetensors"))).expect("a golden");
            let file = SafeTensors::deserialize(&bytes).expect("safetensors");
            let x = file.tensor("x").expect("x");
            let layer = Checkpoint::open(&[(&name, &bytes)]).expect("safetensors").without(&BESIDE);
            let doubles = |name: &str| -> Vec<f64> {
                double_routing::bytemuck::pod_collect_to_vec(file.tensor(name).expect("a result").data())
            };
            let lengths = file.tensor("lengths").ok().map(|lengths| {
                let lengths: Vec<i64> = double_routing::bytemuck::pod_collect_to_vec(lengths.data());
                lengths.into_iter().map(|length| u32::try_from(length).expect("a length")).collect()
            });
            Golden {
                shape: x.shape().to_vec(),
                x: Values::from_safetensors("x", &x).expect("f32").to_f32(),
                lengths,
                weights: Weights::from_checkpoint(&layer, "").expect("weights"),
                truth: Forward {
                    h: doubles("h"),
                    logits: doubles("logits"),
                    w: doubles("w"),
                    routed: doubles("routed"),
                    y: doubles("y"),
                    d: doubles("d"),
                },
                pytorch_error: entry["pytorch_error"]["y"].as_f64().expect("a number"),
                pytorch_weight_error: entry["pytorch_error"]["w"].as_f64().expect("a number"),
                name,
            }
        })
        .collect()
}

/// The CPU reference is PyTorch's float64, to the last digits that the order of a sum decides.
#[test]
fn the_reference_is_pytorch_in_float64() {
    for golden in goldens() {
        let x: Vec<f64> = golden.x.iter().map(|&x| x.into()).collect();
        let forward = golden.weights.to_reference().forward(&x, &golden.shape, golden.lengths.as_deref());
        let results = [
            ("h", &forward.h, &golden.truth.h),
            ("w", &forward.w, &golden.truth.w),
            ("routed", &forward.routed, &golden.truth.routed),
            ("y", &forward.y, &golden.truth.y),
            ("d", &forward.d, &golden.truth.d),
        ];
        for (name, ours, theirs) in results {
            assert_eq!(ours.len(), theirs.len(), "{} {name}", golden.name);
            let scale = theirs.iter().fold(0.0f64, |scale, value| scale.max(value.abs()));
            for (at, (ours, theirs)) in ours.iter().zip(theirs).enumerate() {
                // 2 000 roundings of f64: far above any of these sums, far below f32.
                assert!((ours - theirs).abs() <= 4.5e-13 * scale, "{} {name}[{at}]: {ours}, {theirs}", golden.name);
            }
        }
    }
}

#[test]
fn both_plans_keep_within_four_times_pytorchs_error() {
    let goldens = goldens();
    for gpu in gpus() {
        let mut failures = Vec::new();
        let mut worst = [0.0f64; 2];
        println!(
            "{:16} {:>12} {:>12} {:>12}  on {}",
            "golden",
            "PyTorch f32",
            "as written",
            "folded",
            gpu.info().backend
        );
        for golden in &goldens {
            let allowed = (YARDSTICKS * golden.pytorch_error).max(FLOOR);
            let mut shown = Vec::new();
            for order in [Order::AsWritten].into_iter().chain(Order::FOLDED) {
                let layer =
                    DoubleRouting::with_order(&gpu, &golden.weights, Settings::default(), order).expect("a layer");
                let output =
                    wait(&gpu, layer.run(&golden.x, &golden.shape, golden.lengths.as_deref())).expect("a result");
                let error = signal_error(&output.y, &golden.truth);
                if error.is_nan() || error > allowed {
                    failures.push(format!("{} {order}: y is off by {error:.2e}, allowed {allowed:.2e}", golden.name));
                }
                weights_are_close(golden, order, &output.w, &mut failures);
                if order == Order::AsWritten || order == Order::cheapest(layer.dimensions()) {
                    shown.push(error);
                }
            }
            println!("{:16} {:12.2e} {:12.2e} {:12.2e}", golden.name, golden.pytorch_error, shown[0], shown[1]);
            for (worst, error) in worst.iter_mut().zip(shown).filter(|_| golden.pytorch_error > 0.0) {
                *worst = worst.max(error / golden.pytorch_error);
            }
        }
        println!("{:16} {:12.2} {:12.2} {:12.2}", "worst multiple", 1.0, worst[0], worst[1]);
        assert!(failures.is_empty(), "{}:\n{}", gpu.info().backend, failures.join("\n"));
    }
}

/// Weights that are 0 or 1 in truth (masked, alone, saturated) are judged absolutely, all others relative to themselves.
fn weights_are_close(golden: &Golden, order: Order, w: &[f32], failures: &mut Vec<String>) {
    let allowed = (YARDSTICKS * golden.pytorch_weight_error).max(FLOOR);
    let masked = |at: usize| {
        golden.lengths.as_ref().is_some_and(|lengths| {
            let behind: usize = golden.shape[2..golden.shape.len() - 1].iter().product();
            let (sequence, position) = (at / (golden.shape[1] * behind), at / behind % golden.shape[1]);
            position >= lengths[sequence] as usize
        })
    };
    for (at, (&ours, &theirs)) in w.iter().zip(&golden.truth.w).enumerate() {
        let error = (f64::from(ours) - theirs).abs();
        let close = if masked(at) { ours == 0.0 } else { error <= allowed * theirs + f64::from(f32::MIN_POSITIVE) };
        if !close {
            failures.push(format!("{} {order}: w[{at}] is {ours}, expected {theirs}", golden.name));
        }
    }
}
