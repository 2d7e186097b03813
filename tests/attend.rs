//! Attention logits: the table of cases, and what is refused.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test that cannot go on fails, and says why"
)]

mod common;

use common::{any_gpu, run_cases, storage};
use double_routing::{Tensor, kernels::Attend};

#[test]
fn agrees_with_the_reference() {
    run_cases("attend");
}

#[test]
fn refuses_operands_that_do_not_fit() {
    let gpu = any_gpu();
    let [x, v, logits, bias] = [1 << 12; 4].map(|bytes| storage(&gpu, bytes));
    let refusal = |attend: Attend<'_>| attend.plan(&gpu).expect_err("the operands do not fit").to_string();
    let f32 = Tensor::f32;
    assert_eq!(
        refusal(Attend::new(f32(&x, &[4, 8]), f32(&v, &[1, 9]), f32(&logits, &[4]))),
        "attend: inner dimensions differ: x is [4, 8], v is [1, 9]"
    );
    assert_eq!(
        refusal(Attend::new(f32(&x, &[4, 8]), f32(&v, &[2, 8]), f32(&logits, &[4]))),
        "attend: x [4, 8] needs a dimension, v [2, 8] is one row"
    );
    assert_eq!(
        refusal(Attend::new(f32(&x, &[4, 8]), f32(&v, &[8]), f32(&logits, &[5]))),
        "attend: logits are [5], x [4, 8] gives [4]"
    );
    assert_eq!(
        refusal(Attend::new(f32(&x, &[4, 8]), f32(&v, &[8]), f32(&logits, &[4])).bias(f32(&bias, &[2]))),
        "attend: bias is [2], expected [1]"
    );
}
