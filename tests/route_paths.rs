//! Choosing paths: the table of cases, and what is refused.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test that cannot go on fails, and says why"
)]

mod common;

use common::{any_gpu, run_cases, storage};
use double_routing::{
    Tensor,
    kernels::{GroupLimit, GroupScore, PathChoice, RoutePaths},
};

#[test]
fn agrees_with_the_reference() {
    run_cases("route_paths");
}

#[test]
fn refuses_operands_that_do_not_fit() {
    let gpu = any_gpu();
    let [logits, ids, gates, other] = [1 << 14; 4].map(|bytes| storage(&gpu, bytes));
    let refusal = |route: RoutePaths<'_>| route.plan(&gpu).expect_err("the operands do not fit").to_string();
    let (f32, u32) = (Tensor::f32, Tensor::u32);
    let routed = |of_logits: &[usize], of_ids: &[usize], of_gates: &[usize], choice| {
        RoutePaths::new(f32(&logits, of_logits), u32(&ids, of_ids), f32(&gates, of_gates), choice)
    };
    let shaped = |of_logits: &[usize], of_ids: &[usize], of_gates: &[usize]| {
        refusal(routed(of_logits, of_ids, of_gates, PathChoice::default()))
    };
    assert_eq!(shaped(&[], &[], &[]), "route_paths: logits [] and ids [] need a dimension each");
    assert_eq!(shaped(&[4, 8], &[5, 2], &[5, 2]), "route_paths: rows differ: logits are [4, 8], ids are [5, 2]");
    assert_eq!(shaped(&[4, 8], &[4, 2], &[4, 3]), "route_paths: shapes differ: ids are [4, 2], gates are [4, 3]");
    assert_eq!(shaped(&[4, 0], &[4, 2], &[4, 2]), "route_paths: 0 paths, expected 1 to 2048");
    assert_eq!(shaped(&[1, 2049], &[1, 2], &[1, 2]), "route_paths: 2049 paths, expected 1 to 2048");
    assert_eq!(shaped(&[4, 8], &[4, 0], &[4, 0]), "route_paths: 0 paths of a row to choose, expected 1 to 64");
    assert_eq!(shaped(&[4, 80], &[4, 65], &[4, 65]), "route_paths: 65 paths of a row to choose, expected 1 to 64");

    let grouped = |groups, kept| {
        let limit = GroupLimit { groups, kept, score: GroupScore::Max };
        refusal(routed(&[4, 66], &[4, 2], &[4, 2], PathChoice { groups: Some(limit), ..PathChoice::default() }))
    };
    assert_eq!(grouped(4, 2), "route_paths: 66 paths do not divide into 4 groups");
    assert_eq!(grouped(0, 0), "route_paths: 0 groups, expected 1 to 64");
    assert_eq!(grouped(66, 1), "route_paths: 66 groups, expected 1 to 64");
    assert_eq!(grouped(6, 7), "route_paths: 7 of 6 groups cannot be kept");
    assert_eq!(grouped(6, 0), "route_paths: 0 of 6 groups cannot be kept");

    let fitting = || routed(&[4, 8], &[4, 2], &[4, 2], PathChoice::default());
    assert_eq!(
        refusal(fitting().correction_bias(f32(&other, &[7]))),
        "route_paths: correction_bias is [7], expected [8]"
    );
    assert_eq!(refusal(fitting().margin(f32(&other, &[5]))), "route_paths: margin is [5], expected [4]");
    assert_eq!(refusal(fitting().selected(u32(&other, &[4, 1]))), "route_paths: selected is [4, 1], expected [4]");
    assert_eq!(refusal(fitting().selected(f32(&other, &[4]))), "route_paths: selected is f32, expected u32");
    assert_eq!(refusal(fitting().margin(u32(&other, &[4]))), "route_paths: margin is u32, expected f32");
    assert_eq!(
        refusal(fitting().correction_bias(f32(&gates, &[8]).offset(256))),
        "route_paths: correction_bias and the output share a buffer; WebGPU binds a buffer either for reading or for writing"
    );
    assert_eq!(
        refusal(fitting().margin(f32(&gates, &[4]).offset(256))),
        "route_paths: gates and margin share a buffer; outputs need one each"
    );
}
