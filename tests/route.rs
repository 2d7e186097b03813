//! The weighted routing step: the table of cases, and what is refused.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test that cannot go on fails, and says why"
)]

mod common;

use common::{any_gpu, run_cases, storage};
use double_routing::{Tensor, kernels::Route};

#[test]
fn agrees_with_the_reference() {
    run_cases("route");
}

#[test]
fn refuses_operands_that_do_not_fit() {
    let gpu = any_gpu();
    let [x, b, w, bias, y] = [1 << 12; 5].map(|bytes| storage(&gpu, bytes));
    let refusal = |route: Route<'_>| route.plan(&gpu).expect_err("the operands do not fit").to_string();
    let f32 = Tensor::f32;
    assert_eq!(
        refusal(Route::new(f32(&x, &[4, 8]), f32(&b, &[5, 9]), f32(&w, &[4]), f32(&y, &[4, 5]))),
        "route: inner dimensions differ: x is [4, 8], b as [O, K] is [5, 9]"
    );
    assert_eq!(
        refusal(Route::new(f32(&x, &[4, 8]), f32(&b, &[5, 8]), f32(&w, &[4, 2]), f32(&y, &[4, 5]))),
        "route: w is [4, 2], x [4, 8] needs one weight a token: [4]"
    );
    assert_eq!(
        refusal(Route::new(f32(&x, &[4, 8]), f32(&b, &[5, 8]), f32(&w, &[4]), f32(&y, &[4, 6]))),
        "route: y is [4, 6], x [4, 8] and b as [O, K] [5, 8] give [4, 5]"
    );
    let fitting = || Route::new(f32(&x, &[4, 8]), f32(&b, &[5, 8]), f32(&w, &[4, 1]), f32(&y, &[4, 5]));
    assert_eq!(refusal(fitting().inner(f32(&bias, &[4]))), "route: inner is [4], expected [5]");
    assert_eq!(
        refusal(fitting().outer(f32(&y, &[5]).offset(1024))),
        "route: outer and the output share a buffer; WebGPU binds a buffer either for reading or for writing"
    );
}
