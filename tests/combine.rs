//! The gate-weighted sum of gathered rows: the table of cases, and what is refused.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test that cannot go on fails, and says why"
)]

mod common;

use common::{any_gpu, run_cases, storage};
use double_routing::{Element, Tensor, kernels::Combine};

#[test]
fn agrees_with_the_reference() {
    run_cases("combine");
}

#[test]
fn refuses_operands_that_do_not_fit() {
    let gpu = any_gpu();
    let [rows, positions, y, other] = [1 << 12; 4].map(|bytes| storage(&gpu, bytes));
    let refusal = |combine: Combine<'_>| combine.plan(&gpu).expect_err("the operands do not fit").to_string();
    let (f32, u32) = (Tensor::f32, Tensor::u32);
    let with = |rows_shape: &[usize], positions_shape: &[usize], y_shape: &[usize]| {
        Combine::new(f32(&rows, rows_shape), u32(&positions, positions_shape), f32(&y, y_shape))
    };
    assert_eq!(
        refusal(with(&[7], &[5, 2], &[5, 3])),
        "combine: rows [7], positions [5, 2] and y [5, 3] need two dimensions each"
    );
    assert_eq!(
        refusal(with(&[7, 3], &[1, 5, 2], &[5, 3])),
        "combine: rows [7, 3], positions [1, 5, 2] and y [5, 3] differ in rank"
    );
    assert_eq!(
        refusal(with(&[2, 7, 3], &[3, 5, 2], &[2, 5, 3])),
        "combine: positions [3, 5, 2] should be [2, 5, 2], for rows [2, 7, 3] and positions [3, 5, 2]"
    );
    assert_eq!(
        refusal(with(&[7, 3], &[5, 2], &[6, 3])),
        "combine: y [6, 3] should be [5, 3], for rows [7, 3] and positions [5, 2]"
    );
    assert_eq!(
        refusal(with(&[7, 3], &[5, 2], &[6, 4]).targets(u32(&other, &[5]))),
        "combine: y [6, 4] should be [6, 3], for rows [7, 3] and positions [5, 2]"
    );
    let fitting = || with(&[7, 3], &[5, 2], &[5, 3]);
    assert_eq!(
        refusal(fitting().gates(f32(&other, &[5, 3]))),
        "combine: gates [5, 3] should be [5, 2], for rows [7, 3] and positions [5, 2]"
    );
    assert_eq!(
        refusal(fitting().plus(f32(&other, &[5]))),
        "combine: plus [5] should be [5, 3], for rows [7, 3] and positions [5, 2]"
    );
    assert_eq!(
        refusal(fitting().targets(u32(&other, &[4]))),
        "combine: targets [4] should be [5], for rows [7, 3] and positions [5, 2]"
    );
    assert_eq!(
        refusal(fitting().targets(u32(&other, &[5])).skip(f32(&other, &[4, 3]))),
        "combine: skip [4, 3] should be [5, 3], for rows [7, 3] and positions [5, 2]"
    );
    assert_eq!(
        refusal(fitting().skip(f32(&other, &[5, 3]))),
        "combine: skip needs targets: without them every row of y is a result"
    );
    assert_eq!(
        refusal(fitting().gates(Tensor::new(&other, Element::BF16, &[5, 2]))),
        "combine: gates is bf16, expected f32"
    );
    assert_eq!(
        refusal(fitting().plus(f32(&y, &[5, 3]).offset(1024))),
        "combine: plus and the output share a buffer; WebGPU binds a buffer either for reading or for writing"
    );
    assert_eq!(
        refusal(fitting().gates(f32(&other, &[5, 2]).offset(4088))),
        "combine: gates [5, 2] f32 from byte 4088 on ends beyond its buffer of 4096 bytes"
    );
    assert_eq!(
        refusal(with(&[7, 3], &[0, 60_001], &[0, 3])),
        "combine: positions [0, 60001] give a result 60001 slots, more than the 60000 it may have"
    );
}
