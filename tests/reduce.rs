//! The sum of a product's parts: the table of cases, and what is refused.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test that cannot go on fails, and says why"
)]

mod common;

use common::{any_gpu, run_cases, storage};
use double_routing::{Element, Tensor, kernels::Reduce};

#[test]
fn agrees_with_the_reference() {
    run_cases("reduce");
}

#[test]
fn refuses_operands_that_do_not_fit() {
    let gpu = any_gpu();
    let [p, y, w] = [1 << 12; 3].map(|bytes| storage(&gpu, bytes));
    let refusal = |reduce: Reduce<'_>| reduce.plan(&gpu).expect_err("the operands do not fit").to_string();
    let f32 = Tensor::f32;
    assert_eq!(
        refusal(Reduce::new(f32(&p, &[4, 5]), f32(&y, &[4, 5]))),
        "reduce: p [4, 5] needs three dimensions, y [4, 5] two"
    );
    assert_eq!(
        refusal(Reduce::new(f32(&p, &[2, 4, 5]), f32(&y, &[4, 6]))),
        "reduce: y is [4, 6], p [2, 4, 5] gives [4, 5]"
    );
    let fitting = || Reduce::new(f32(&p, &[2, 4, 5]), f32(&y, &[4, 5]));
    assert_eq!(refusal(fitting().weights(f32(&w, &[5]))), "reduce: w is [5], expected [4]");
    assert_eq!(refusal(fitting().inner(f32(&w, &[4]))), "reduce: inner is [4], expected [5]");
    assert_eq!(
        refusal(fitting().outer(Tensor::new(&w, Element::U32, &[5]))),
        "reduce: outer is u32, expected f32 or f16 or bf16"
    );
    assert_eq!(
        refusal(fitting().weights(f32(&y, &[4]).offset(1024))),
        "reduce: w and the output share a buffer; WebGPU binds a buffer either for reading or for writing"
    );
}
