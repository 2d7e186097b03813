//! Bad input: one line that says what is wrong, status 2, and no output.

// A test that cannot go on fails.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use common::{
    Files, INPUT, Named, double_routing, f32_tensor, random, safetensors_bytes, weights, weights_with,
    weights_with_paths, x,
};
use safetensors::Dtype;

const CPU: [&str; 2] = ["--adapter", "cpu"];

/// Asserts that `forward` refuses and leaves nothing behind.
#[track_caller]
fn refused(files: &Files, words: &[&str]) {
    let before = files.names();
    files.forward(&CPU).refused(words);
    assert_eq!(files.names(), before, "an output, or a part of one, is left");
}

#[track_caller]
fn refused_weights(bytes: &[u8], words: &[&str]) {
    let files = Files::new(&weights(), &[x(&[2, 3, INPUT])]);
    files.write("weights.safetensors", bytes);
    refused(&files, &[&["weights.safetensors"], words].concat());
}

#[track_caller]
fn refused_input(tensors: &[Named], words: &[&str]) {
    refused(&Files::new(&weights(), tensors), &[&["input.safetensors"], words].concat());
}

/// A file whose header says this, with `bytes` zeros behind it.
fn with_header(header: &str, bytes: usize) -> Vec<u8> {
    let length = (header.len() as u64).to_le_bytes();
    [&length, header.as_bytes(), &vec![0; bytes]].concat()
}

#[test]
fn levels_that_do_not_fit() {
    let files = Files::new(&weights(), &[x(&[2, 3, INPUT])]);
    let refused = |options: &[&str], words: &[&str]| files.forward(&[&CPU, options].concat()).refused(words);
    refused(&["--paths-per-token", "2"], &["--paths-per-token is 2", "weights.safetensors has 1 path"]);
    refused(&["--path-groups", "1/2"], &["--path-groups", "weights.safetensors has 1 path"]);
    files.write("weights.safetensors", &safetensors_bytes(&weights_with_paths(6)));
    let refused = |options: &[&str], words: &[&str]| files.forward(&[&CPU, options].concat()).refused(words);
    refused(&["--paths-per-token", "7"], &["7 paths a token, of 6"]);
    refused(&["--path-groups", "2/4"], &["6 paths in 4 groups"]);
    let mut weights = weights_with_paths(6);
    weights.retain(|(name, ..)| name != "routing2.bias");
    weights.push(f32_tensor("routing2.bias", &[7], &random(1, 7)));
    refused_weights(&safetensors_bytes(&weights), &["routing2.bias is [7]", "routing2.weight [6, 7, 5] needs [6, 7]"]);
}

#[test]
fn missing_files() {
    let files = Files::new(&weights(), &[x(&[2, 3, INPUT])]);
    std::fs::remove_file(files.path("weights.safetensors")).expect("was there");
    refused(&files, &["cannot read", "weights.safetensors"]);
    let files = Files::new(&weights(), &[x(&[2, 3, INPUT])]);
    files.forward_to("output.safetensors", "other.safetensors", &CPU).refused(&["cannot read", "other.safetensors"]);
}

#[test]
fn malformed_weights() {
    let whole = safetensors_bytes(&weights());
    refused_weights(&[], &["not safetensors"]);
    refused_weights(b"PK\x03\x04 a zip file", &["not safetensors"]);
    for end in [4, 8, 100, whole.len() - 1] {
        refused_weights(&whole[..end], &["not safetensors"]);
    }
    // More behind the tensors than the header speaks of.
    refused_weights(&[&whole[..], &[0; 4]].concat(), &["not safetensors"]);
    // A header longer than the file, and one longer than any memory.
    for lie in [whole.len() as u64, u64::MAX] {
        refused_weights(&[&lie.to_le_bytes(), &whole[8..]].concat(), &["not safetensors"]);
    }
    refused_weights(&with_header("{\"embedding.weight\": 5}", 0), &["not safetensors"]);
    let overlapping = r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},
        "b":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}}"#;
    refused_weights(&with_header(overlapping, 12), &["not safetensors"]);
    let too_many = r#"{"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,4]}}"#;
    refused_weights(&with_header(too_many, 4), &["not safetensors"]);
}

#[test]
fn weights_that_are_no_layer() {
    let mut lacking = weights();
    lacking.remove(4);
    refused_weights(&safetensors_bytes(&lacking), &["no tensor routing1.weight", "routing1.bias"]);

    let integers = ("attention.bias".to_owned(), Dtype::I32, vec![1], vec![0; 4]);
    refused_weights(&safetensors_bytes(&weights_with(integers)), &["attention.bias is I32", "F32, F16 or BF16"]);

    let narrow = f32_tensor("routing1.weight", &[5, 6], &random(1, 30));
    let words = ["routing1.weight is [5, 6]", "embedding.weight [8, 12]"];
    refused_weights(&safetensors_bytes(&weights_with(narrow)), &words);

    let flat = f32_tensor("embedding.weight", &[96], &random(1, 96));
    refused_weights(&safetensors_bytes(&weights_with(flat)), &["embedding.weight is [96]", "two dimensions"]);

    let files = Files::new(&weights(), &[x(&[2, 3, INPUT])]);
    files.forward(&["--prefix", "model.", "--adapter", "cpu"]).refused(&["no tensor model.embedding.weight"]);
}

#[test]
fn inputs_that_do_not_fit() {
    refused_input(&[f32_tensor("y", &[2, 12], &random(1, 24))], &["no tensor x", "the file holds y"]);
    refused_input(&[x(&[INPUT])], &["x is [12]", "rank must be 2 or more"]);
    refused_input(&[x(&[])], &["x is []", "rank must be 2 or more"]);
    refused_input(&[x(&[2, 3, 5])], &["x is [2, 3, 5]", "embedding.weight is [8, 12]"]);
    let integers = ("x".to_owned(), Dtype::I64, vec![2, INPUT], vec![0; 8 * 2 * INPUT]);
    refused_input(&[integers], &["x is I64", "F32, F16, BF16 or F64"]);
    let files = Files::new(&weights(), &[]);
    files.write("input.safetensors", b"neither");
    refused(&files, &["input.safetensors", "neither .npy nor safetensors"]);
}

#[test]
fn lengths_that_do_not_fit() {
    let lengths = |shape: &[usize], values: &[i64]| -> Named {
        ("lengths".into(), Dtype::I64, shape.to_vec(), values.iter().flat_map(|value| value.to_le_bytes()).collect())
    };
    let x = || x(&[3, 4, INPUT]);
    refused_input(&[x(), lengths(&[3], &[4, 5, 0])], &["lengths[1] is 5", "expected 0 to 4"]);
    refused_input(&[x(), lengths(&[3], &[4, 3, -1])], &["lengths[2] is -1", "expected 0 to 4"]);
    refused_input(&[x(), lengths(&[3], &[1 << 32, 3, 1])], &["lengths[0] is 4294967296"]);
    refused_input(&[x(), lengths(&[2], &[4, 3])], &["lengths is [2]", "needs it to be [3]"]);
    refused_input(&[x(), f32_tensor("lengths", &[3], &[1.0, 2.0, 3.0])], &["lengths is F32", "whole numbers"]);
    // Each row of x [N, in] is a sequence of one token.
    let rows = common::x(&[2, INPUT]);
    refused_input(&[rows, lengths(&[2], &[1, 2])], &["lengths[1] is 2", "expected 0 to 1"]);
}

#[test]
fn numbers_that_are_not_finite() {
    let mut values = random(99, 2 * 3 * INPUT);
    values[INPUT + 5] = f32::NAN;
    let input = [f32_tensor("x", &[2, 3, INPUT], &values)];
    refused_input(&input, &["x[0, 1, 5]", "element 17 of [2, 3, 12]", "NaN", "--allow-non-finite"]);
    Files::new(&weights(), &input).forward(&["--adapter", "cpu", "--allow-non-finite"]).passed();

    let mut values = random(1, 5 * 8);
    values[3 * 8 + 2] = f32::NEG_INFINITY;
    let infinite = weights_with(f32_tensor("routing1.weight", &[5, 8], &values));
    refused_weights(&safetensors_bytes(&infinite), &["routing1.weight[3, 2]", "element 26 of [5, 8]", "-inf"]);
    Files::new(&infinite, &[x(&[2, 3, INPUT])]).forward(&["--adapter", "cpu", "--allow-non-finite"]).passed();
}

#[test]
fn outputs_that_cannot_be_written() {
    let files = Files::new(&weights(), &[x(&[2, 3, INPUT])]);
    files.forward_to("missing/output.safetensors", "input.safetensors", &CPU).refused(&["cannot write", "missing"]);
    std::fs::create_dir(files.path("folder")).expect("a folder");
    files.forward_to("folder", "input.safetensors", &CPU).refused(&["cannot write", "folder: it is a folder"]);
}

#[test]
fn an_output_that_is_there_stays_when_a_run_fails() {
    let files = Files::new(&weights(), &[x(&[2, 3, 5])]);
    files.write("output.safetensors", b"precious");
    refused(&files, &["x is [2, 3, 5]"]);
    assert_eq!(std::fs::read(files.path("output.safetensors")).expect("still there"), b"precious");
}

#[cfg(unix)]
#[test]
fn an_output_has_the_rights_of_any_new_file() {
    use std::os::unix::fs::PermissionsExt;
    let files = Files::new(&weights(), &[x(&[2, 3, INPUT])]);
    files.forward(&CPU).passed();
    let mode = |name: &str| std::fs::metadata(files.path(name)).expect("a file").permissions().mode();
    assert_eq!(mode("output.safetensors"), mode("input.safetensors"));
}

#[test]
fn adapters_that_are_not_there() {
    let files = Files::new(&weights(), &[x(&[2, 3, INPUT])]);
    files.forward(&["--adapter", "abacus"]).refused(&["no adapter named 'abacus'", "there:"]);
    files.forward(&["--adapter", "99"]).refused(&["no adapter named '99'", "there:"]);
    double_routing(&["demo", "--adapter", "abacus"]).refused(&["abacus"]);
    double_routing(&["check", "--adapter", "cpu"]).refused(&["CPU reference"]);
    let files = Files::new(&weights(), &[x(&[2, 3, INPUT])]);
    files.forward(&[&CPU[..], &["--baseline"]].concat()).refused(&["--adapter cpu has no --baseline"]);
    files.forward(&[&CPU[..], &["--class", "discrete"]].concat()).refused(&["--adapter cpu has no --class"]);
    double_routing(&["check", "--case", "matmul 1x1x1", "--case", "no such case"]).refused(&["'no such case'"]);
    double_routing(&["check", "--case", "no such case"]).refused(&["no such case"]);
    for command in ["bench", "growth"] {
        double_routing(&[command, "--adapter", "abacus"]).refused(&["abacus"]);
        double_routing(&[command, "--adapter", "cpu"]).refused(&["CPU reference"]);
    }
}

#[test]
fn measurements_that_cannot_be_made_or_drawn() {
    double_routing(&["bench", "--work", "no such work"]).refused(&["no such work"]);
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name).to_str().expect("text").to_owned();
    for command in ["bench", "growth"] {
        double_routing(&[command, "--picture", &path("picture.png")]).refused(&["picture.png", ".svg"]);
        double_routing(&[command, "--picture", &path("missing/picture.svg")]).refused(&["cannot write", "missing"]);
    }
    // A picture that is there stays when there is nothing to draw.
    std::fs::write(path("picture.svg"), "precious").expect("a file");
    let drawn = ["--picture", &path("picture.svg")];
    double_routing(&[&["bench", "--work", "no such work"], &drawn[..]].concat()).refused(&["no such work"]);
    double_routing(&[&["growth", "--adapter", "abacus"], &drawn[..]].concat()).refused(&["abacus"]);
    assert_eq!(std::fs::read(path("picture.svg")).expect("still there"), b"precious");
    assert_eq!(std::fs::read_dir(folder.path()).expect("a folder").count(), 1, "a part of a picture is left");
}

#[test]
fn tunings_that_cannot_be_read() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("tuning.txt");
    let path = file.to_str().expect("text");
    let check = || double_routing(&["check", "--case", "matmul 1x1x1", "--tuning", path]);
    check().refused(&["cannot read", "tuning.txt"]);
    for (text, words) in [
        ("rows<=4 columns<=* nothing 1x1 1x1", "line 1: there is no tile 'nothing 1x1 1x1'"),
        ("# fine\nrows<=many columns<=* lanes 32x4 1x1", "line 2"),
        ("rows<=4", "expected 'rows<=N columns<=N TILE'"),
    ] {
        std::fs::write(&file, text).expect("a file");
        check().refused(&["tuning", words]);
    }
}

#[test]
fn arguments_that_are_not_there() {
    double_routing(&["frobnicate"]).refused(&["'frobnicate'", "--help"]);
    let whole = "error: unexpected argument '--quikc' found; tip: a similar argument exists: '--quick'; see --help\n";
    double_routing(&["check", "--quikc"]).refused(&[whole]);
    double_routing(&["check", "--class", "abacus"]).refused(&["'abacus'", "--class", "software, integrated, discrete"]);
    double_routing(&["forward"]).refused(&["required arguments", "--weights"]);
    double_routing(&["check", "--quick", "--quick"]).refused(&["'--quick'", "multiple times"]);
}

/// What was asked for and cannot be is no check of anything else.
#[test]
fn what_the_adapter_does_not_have() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("tuning.txt");
    let path = file.to_str().expect("text");
    std::fs::write(&file, "rows<=* columns<=* lanes 32x4 1x1").expect("a file");
    double_routing(&["check", "--case", "matmul 1x1x1", "--class", "software", "--tuning", path])
        .refused(&["tuning.txt", "none of its tiles"]);
    if cfg!(target_os = "linux") {
        double_routing(&["check", "--case", "matmul 1x1x1", "--backend", "gl", "--experimental"])
            .refused(&["--experimental", "no matrix units"]);
    }
}
