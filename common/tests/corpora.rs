//! The fuzzers' corpora, each file as the fuzzer runs it: what they found once stays found.

// A test that cannot go on fails, and says at which file.
#![allow(clippy::expect_used, clippy::print_stdout)]

use std::{fs, path::Path};

#[path = "../../fuzz/targets.rs"]
mod targets;

fn run(name: &str, target: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus").join(name);
    let mut count = 0;
    for entry in fs::read_dir(&folder).expect("a corpus") {
        let path = entry.expect("an entry").path();
        println!("{}", path.display());
        target(&fs::read(path).expect("a file"));
        count += 1;
    }
    assert!(count > 2, "{} holds next to nothing", folder.display());
}

#[test]
fn weights() {
    run("weights", targets::weights);
}

#[test]
fn npy() {
    run("npy", targets::npy);
}

#[test]
fn config() {
    run("config", targets::config);
}

#[test]
fn tuning() {
    run("tuning", targets::tuning);
}

#[test]
fn layer() {
    run("layer", targets::layer);
}
