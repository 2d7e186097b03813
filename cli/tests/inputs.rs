//! x in all the forms that people have it in, and what is wrong with it in all the ways that it can be.

// A test that cannot go on fails.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::time::{Duration, Instant};

use common::{Files, INPUT, Named, double_routing, f32_tensor, random, read_output, weights, weights_with, x};
use double_routing::bytemuck;
use half::f16;
use safetensors::Dtype;

const CPU: [&str; 2] = ["--adapter", "cpu"];

fn npy(descr: &str, shape: &str, data: &[u8]) -> Vec<u8> {
    let header = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}");
    let header = format!("{header:<117}\n");
    [b"\x93NUMPY\x01\x00", &(header.len() as u16).to_le_bytes()[..], header.as_bytes(), data].concat()
}

#[test]
fn npy_files_of_every_type_and_byte_order() {
    // Values that every type holds exactly.
    let values: Vec<f32> = random(99, 6 * INPUT).into_iter().map(|x| f16::from_f32(x).to_f32()).collect();
    let files = Files::new(&weights(), &[f32_tensor("x", &[2, 3, INPUT], &values)]);
    let output = |input: &str| {
        files.forward_to("output.safetensors", input, &CPU).passed();
        std::fs::read(files.path("output.safetensors")).unwrap()
    };
    let expected = output("input.safetensors");
    let halves = || values.iter().map(|&x| f16::from_f32(x));
    let kinds: [(&str, Vec<u8>); 6] = [
        ("<f2", halves().flat_map(f16::to_le_bytes).collect()),
        (">f2", halves().flat_map(f16::to_be_bytes).collect()),
        ("<f4", values.iter().flat_map(|x| x.to_le_bytes()).collect()),
        (">f4", values.iter().flat_map(|x| x.to_be_bytes()).collect()),
        ("<f8", values.iter().flat_map(|&x| f64::from(x).to_le_bytes()).collect()),
        (">f8", values.iter().flat_map(|&x| f64::from(x).to_be_bytes()).collect()),
    ];
    for (descr, data) in kinds {
        files.write("x.npy", &npy(descr, "(2, 3, 12)", &data));
        assert_eq!(output("x.npy"), expected, "{descr}");
    }
    // In batches as well, and read from a pipe.
    files.forward_to("output.safetensors", "x.npy", &[&CPU[..], &["--batch", "1"]].concat()).passed();
    assert_eq!(std::fs::read(files.path("output.safetensors")).unwrap(), expected);
    let doubles = values.iter().flat_map(|&x| f64::from(x).to_le_bytes()).collect();
    let tensor: Named = ("x".into(), Dtype::F64, vec![2, 3, INPUT], doubles);
    files.write("double.safetensors", &common::safetensors_bytes(&[tensor]));
    assert_eq!(output("double.safetensors"), expected);
}

#[test]
fn numbers_beyond_f32_are_refused() {
    let mut doubles = vec![0.5f64; 2 * INPUT];
    doubles[13] = 1e300;
    let files = Files::new(&weights(), &[]);
    files.write("x.npy", &npy("<f8", "(2, 12)", bytemuck::cast_slice(&doubles)));
    let run = |options: &[&str]| files.forward_to("output.safetensors", "x.npy", &[&CPU[..], options].concat());
    run(&[]).refused(&["x.npy", "x[1, 1]", "1e300", "beyond f32", "--allow-non-finite"]);
    run(&["--allow-non-finite"]).passed();
}

/// A header of nested brackets took twice as long for each; a huge size beside a 0 was counted up to.
#[test]
fn nothing_takes_for_ever() {
    let start = Instant::now();
    let files = Files::new(&weights(), &[]);
    let run = || files.forward_to("output.safetensors", "x.npy", &CPU);
    let header = format!("{{'descr': {}", "[".repeat(40_000));
    let nested = [b"\x93NUMPY\x01\x00", &(header.len() as u16).to_le_bytes()[..], header.as_bytes()].concat();
    files.write("x.npy", &nested);
    run().refused(&["x.npy", "records"]);
    files.write("x.npy", &npy("<f4", "(9223372036854775807, 0, 12)", &[]));
    run().passed();
    let output = read_output(&files.path("output.safetensors"));
    assert_eq!(output["y"].0, [usize::MAX >> 1, 0, common::OUTPUT]);
    files.write("x.npy", &npy("<f4", "(0, 9223372036854775807, 9223372036854775807, 12)", &[]));
    run().refused(&["x is [0, 9223372036854775807", "more than can be counted"]);
    files.write("x.npy", &npy("<f4", "(9223372036854775807, 9223372036854775807, 0, 12)", &[]));
    run().refused(&["more than can be counted"]);
    for adapter in [&CPU[..], &[]] {
        files.write("x.npy", &npy("<f4", "(3, 0, 12)", &[]));
        let options = [adapter, &["--select", "2"]].concat();
        files.forward_to("output.safetensors", "x.npy", &options).passed();
        assert_eq!(read_output(&files.path("output.safetensors"))["y"].0, [3, 0, common::OUTPUT]);
    }
    assert!(start.elapsed() < Duration::from_secs(60), "{:?}", start.elapsed());
}

#[test]
fn a_file_that_was_cut_short_says_so_once() {
    let files = Files::new(&weights(), &[]);
    files.write("x.npy", &npy("<f4", "(2, 3, 12)", &[0; 287]));
    let ran = files.forward_to("output.safetensors", "x.npy", &CPU);
    ran.refused(&["x.npy", "[2, 3, 12] needs 288 bytes, the file holds 287: it was cut short"]);
    assert_eq!(ran.stderr.matches("x.npy").count(), 1, "{}", ran.stderr);
}

#[test]
fn a_file_is_called_what_it_is() {
    let files = Files::new(&weights(), &[x(&[2, 3, INPUT])]);
    let whole = std::fs::read(files.path("input.safetensors")).unwrap();
    for (bytes, words) in [
        (&b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n"[..], "git lfs pull"),
        (b"<!DOCTYPE html><html>", "HTML"),
        (b"GGUF\x03\0\0\0", "GGUF"),
        (&whole[..whole.len() - 1], "cut short"),
        (b"", "an empty file"),
    ] {
        files.write("input.safetensors", bytes);
        files.forward(&CPU).refused(&["input.safetensors", "neither .npy nor safetensors", words]);
    }
}

#[test]
fn lengths_of_every_type_of_whole_numbers() {
    let files = |lengths: Named| Files::new(&weights(), &[x(&[3, 4, INPUT]), lengths]);
    let w = |tensor: Named| {
        let files = files(tensor);
        files.forward(&CPU).passed();
        read_output(&files.path("output.safetensors"))["w"].1.clone()
    };
    let lengths = [4i8, 0, 2];
    let of = |dtype, bytes: Vec<u8>| w(("lengths".into(), dtype, vec![3], bytes));
    let expected = of(Dtype::I64, lengths.iter().flat_map(|&n| i64::from(n).to_le_bytes()).collect());
    assert_eq!(expected.iter().filter(|&&w| w == 0.0).count(), 6);
    for (dtype, width) in [
        (Dtype::I8, 1),
        (Dtype::U8, 1),
        (Dtype::I16, 2),
        (Dtype::U16, 2),
        (Dtype::I32, 4),
        (Dtype::U32, 4),
        (Dtype::U64, 8),
    ] {
        let bytes = lengths.iter().flat_map(|&n| i64::from(n).to_le_bytes()[..width].to_vec()).collect();
        assert_eq!(of(dtype, bytes), expected, "{dtype:?}");
    }
    // Masks that say the same.
    let mask = [1u8, 1, 1, 1, 0, 0, 0, 0, 1, 1, 0, 0];
    let of = |name: &str, dtype, bytes: Vec<u8>| w((name.into(), dtype, vec![3, 4], bytes));
    assert_eq!(of("mask", Dtype::BOOL, mask.to_vec()), expected);
    let wide = |&mark: &u8| i64::from(mark).to_le_bytes();
    assert_eq!(of("attention_mask", Dtype::I64, mask.iter().flat_map(wide).collect()), expected);
    let floats = mask.iter().flat_map(|&mark| f32::from(mark).to_le_bytes()).collect();
    assert_eq!(of("attention_mask", Dtype::F32, floats), expected);
}

#[test]
fn what_would_be_left_unread_is_refused() {
    let refused = |tensors: &[Named], words: &[&str]| {
        Files::new(&weights(), tensors).forward(&CPU).refused(&[&["input.safetensors"], words].concat());
    };
    let x = || x(&[2, 3, INPUT]);
    let bytes = |name: &str, shape: &[usize], bytes: &[u8]| -> Named {
        (name.into(), Dtype::U8, shape.to_vec(), bytes.to_vec())
    };
    refused(&[x(), f32_tensor("position_ids", &[3], &[0.0; 3])], &["position_ids, which is not read"]);
    refused(&[x(), bytes("masks", &[2, 3], &[1; 6])], &["masks, which is not read", "attention_mask"]);
    let holes = bytes("mask", &[2, 3], &[1, 1, 1, 1, 0, 1]);
    refused(&[x(), holes], &["mask[1] is 0 at position 1 and 1 at 2", "only positions at the end"]);
    refused(&[x(), bytes("mask", &[3, 2], &[1; 6])], &["mask is [3, 2]", "needs it to be [2, 3]"]);
    refused(&[x(), bytes("mask", &[2, 3], &[1, 1, 2, 1, 1, 1])], &["mask[0, 2]", "is 2, expected 0 or 1"]);
    let additive = f32_tensor("attention_mask", &[2, 3], &[0.0, 0.0, -1e9, 0.0, 0.0, 0.0]);
    refused(&[x(), additive], &["attention_mask[0, 2]", "-1000000000, expected 0 or 1"]);
    let lengths = || bytes("lengths", &[2], &[3, 1]);
    refused(&[x(), lengths(), bytes("mask", &[2, 3], &[1; 6])], &["lengths and mask say different lengths"]);
    Files::new(&weights(), &[x(), lengths(), bytes("mask", &[2, 3], &[1, 1, 1, 1, 0, 0])]).forward(&CPU).passed();
    let rows = common::x(&[2, INPUT]);
    refused(&[rows, bytes("mask", &[2, 1], &[1, 0])], &["mask: x is [2, 12]"]);
    for adapter in [&CPU[..], &[]] {
        let files = Files::new(&weights(), &[common::x(&[2, INPUT])]);
        let ran = files.forward(&[adapter, &["--select", "1"]].concat());
        ran.refused(&["--select", "x is [2, 12]", "[B, S, in]"]);
    }
}

#[test]
fn a_single_path_behind_a_gate_has_its_gates() {
    for adapter in [&CPU[..], &[]] {
        let files = Files::new(&common::weights_with_paths(1), &[x(&[2, 3, INPUT])]);
        files.forward(&[adapter, &["--check"]].concat()).passed();
        let output = read_output(&files.path("output.safetensors"));
        assert_eq!(output["ids"], (vec![2, 3, 1], vec![0.0; 6]));
        assert_eq!(output["gates"], (vec![2, 3, 1], vec![1.0; 6]));
    }
}

#[test]
fn a_router_counts_every_token() {
    let files = Files::new(
        &[f32_tensor("gate.weight", &[4, INPUT], &random(3, 4 * INPUT))],
        &[x(&[2, 3, INPUT]), ("lengths".into(), Dtype::U8, vec![2], vec![3, 1])],
    );
    files.write("config.json", br#"{"paths": 4, "paths_per_token": 2}"#);
    let path = |name: &str| files.path(name).to_str().unwrap().to_owned();
    let (config, weights, input) = (path("config.json"), path("weights.safetensors"), path("input.safetensors"));
    let output = path("output.safetensors");
    let run = [
        "route",
        "--config",
        &config,
        "--weights",
        &weights,
        "--input",
        &input,
        "--output",
        &output,
        "--adapter",
        "cpu",
    ];
    double_routing(&run).refused(&["input.safetensors", "lengths, which is not read"]);
    files.write("input.safetensors", &common::safetensors_bytes(&[x(&[2, 3, INPUT])]));
    double_routing(&run).passed();
}

/// Finite numbers in, and none out that mean nothing.
#[test]
fn results_that_are_not_finite_are_refused() {
    for adapter in [&CPU[..], &[]] {
        let refused = |files: &Files, options: &[&str], words: &[&str]| {
            let before = files.names();
            files.forward(&[adapter, options].concat()).refused(&[words, &["--allow-non-finite"]].concat());
            assert_eq!(files.names(), before);
            files.forward(&[adapter, options, &["--allow-non-finite"]].concat()).passed();
        };
        // y[.., 4] beyond f16.
        let mut bias = vec![0.0; common::OUTPUT];
        bias[4] = 7e4;
        let large = weights_with(f32_tensor("routing2.bias", &[common::OUTPUT], &bias));
        let files = Files::new(&large, &[x(&[2, 3, INPUT])]);
        files.forward(adapter).passed();
        files.forward(&[adapter, &["--output-type", "bf16"]].concat()).passed();
        let words = ["y[0, 0, 4] (element 4 of [2, 3, 7]) is inf", "x is finite", "f16 ends at 65504"];
        let files = Files::new(&large, &[x(&[2, 3, INPUT])]);
        refused(&files, &["--output-type", "f16"], &words);
        // Logits beyond f32, in the second batch; softmax would make finite weights of them.
        let mut values = random(99, 6 * INPUT);
        values[3 * INPUT..].fill(3e38);
        let ones = weights_with(f32_tensor("embedding.weight", &[8, INPUT], &[1.0; 8 * INPUT]));
        let files = Files::new(&ones, &[f32_tensor("x", &[2, 3, INPUT], &values)]);
        refused(&files, &["--batch", "1"], &["logits[1, 0, 0] (element 3 of [2, 3, 1])", "beyond f32"]);
    }
}
