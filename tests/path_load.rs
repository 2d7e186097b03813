//! The load of paths: the table of cases, and what is refused.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test that cannot go on fails, and says why"
)]

mod common;

use common::{any_gpu, run_cases, storage};
use double_routing::{Tensor, kernels::PathLoad};

#[test]
fn agrees_with_the_reference() {
    run_cases("path_load");
}

#[test]
fn refuses_operands_that_do_not_fit() {
    let gpu = any_gpu();
    let [logits, counts, means, summary] = [1 << 14; 4].map(|bytes| storage(&gpu, bytes));
    let (f32, u32) = (Tensor::f32, Tensor::u32);
    let refusal = |logits, counts, means, summary| {
        PathLoad::new(logits, counts, means, summary).plan(&gpu).expect_err("the operands do not fit").to_string()
    };
    let shaped = |of_logits: &[usize], of_counts: &[usize], of_means: &[usize], of_summary: &[usize]| {
        refusal(f32(&logits, of_logits), u32(&counts, of_counts), f32(&means, of_means), f32(&summary, of_summary))
    };
    assert_eq!(shaped(&[8], &[8], &[8], &[4]), "path_load: logits are [8], expected [T, P]");
    assert_eq!(shaped(&[4, 0], &[0], &[0], &[4]), "path_load: 0 paths, expected 1 to 2048");
    assert_eq!(shaped(&[1, 2049], &[2049], &[2049], &[4]), "path_load: 2049 paths, expected 1 to 2048");
    assert_eq!(shaped(&[4, 8], &[7], &[8], &[4]), "path_load: counts is [7], expected [8]");
    assert_eq!(shaped(&[4, 8], &[8], &[4, 8], &[4]), "path_load: mean_scores is [4, 8], expected [8]");
    assert_eq!(shaped(&[4, 8], &[8], &[8], &[5]), "path_load: summary is [5], expected [4]");

    let [of_logits, of_means, of_summary] = [f32(&logits, &[4, 8]), f32(&means, &[8]), f32(&summary, &[4])];
    let of_counts = u32(&counts, &[8]);
    assert_eq!(
        refusal(of_logits.clone(), f32(&counts, &[8]), of_means.clone(), of_summary.clone()),
        "path_load: counts is f32, expected u32"
    );
    assert_eq!(
        refusal(of_logits.clone(), of_counts.clone(), f32(&logits, &[8]).offset(256), of_summary),
        "path_load: logits and mean_scores share a buffer; what a kernel writes needs a buffer of its own"
    );
    assert_eq!(
        refusal(of_logits, of_counts, of_means, f32(&means, &[4]).offset(256)),
        "path_load: mean_scores and summary share a buffer; what a kernel writes needs a buffer of its own"
    );
}
