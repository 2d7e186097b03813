//! The selection of the largest: the table of cases, and what is refused.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test that cannot go on fails, and says why"
)]

mod common;

use common::{any_gpu, run_cases, storage};
use double_routing::{Tensor, kernels::Select};

#[test]
fn agrees_with_the_reference() {
    run_cases("select");
}

#[test]
fn refuses_operands_that_do_not_fit() {
    let gpu = any_gpu();
    let [x, indices, values, lengths] = [1 << 12; 4].map(|bytes| storage(&gpu, bytes));
    let refusal = |select: Select<'_>| select.plan(&gpu).expect_err("the operands do not fit").to_string();
    let (f32, u32) = (Tensor::f32, Tensor::u32);
    assert_eq!(
        refusal(Select::new(f32(&x, &[4, 8]), u32(&indices, &[4, 9]))),
        "select: k is 9, more than the 8 positions of a row"
    );
    assert_eq!(
        refusal(Select::new(f32(&x, &[4, 8]), u32(&indices, &[4, 0]))),
        "select: k is 0 of 8 positions, expected at least 1"
    );
    assert_eq!(
        refusal(Select::new(f32(&x, &[4, 8]), u32(&indices, &[5, 2]))),
        "select: leading dimensions differ: x is [4, 8], indices are [5, 2]"
    );
    assert_eq!(
        refusal(Select::new(f32(&x, &[]), u32(&indices, &[2]))),
        "select: x [] and indices [2] need a dimension each"
    );
    assert_eq!(refusal(Select::new(u32(&x, &[4, 8]), u32(&indices, &[4, 2]))), "select: x is u32, expected f32");
    assert_eq!(refusal(Select::new(f32(&x, &[4, 8]), f32(&indices, &[4, 2]))), "select: indices is f32, expected u32");
    let fitting = || Select::new(f32(&x, &[4, 8]), u32(&indices, &[4, 2]));
    assert_eq!(refusal(fitting().values(f32(&values, &[2, 4]))), "select: values are [2, 4], expected [4, 2]");
    assert_eq!(refusal(fitting().lengths(u32(&lengths, &[5]))), "select: lengths are [5], expected [4]");
    assert_eq!(
        refusal(fitting().lengths(u32(&indices, &[4]).offset(1024))),
        "select: lengths and the output share a buffer; WebGPU binds a buffer either for reading or for writing"
    );
    assert_eq!(
        refusal(fitting().values(f32(&x, &[4, 2]).offset(1024))),
        "select: x and the output share a buffer; WebGPU binds a buffer either for reading or for writing"
    );
}
