//! The products of paths: the table of cases, and what is refused.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test that cannot go on fails, and says why"
)]

mod common;

use common::{any_gpu, run_cases, storage};
use double_routing::{Element, Tensor, kernels::PathMatmul};

#[test]
fn agrees_with_the_reference() {
    run_cases("path_matmul");
}

#[test]
fn refuses_operands_that_do_not_fit() {
    let gpu = any_gpu();
    let [a, b, offsets, c, other] = [1 << 12; 5].map(|bytes| storage(&gpu, bytes));
    let refusal = |product: PathMatmul<'_>| product.plan(&gpu).expect_err("the operands do not fit").to_string();
    let (f32, u32) = (Tensor::f32, Tensor::u32);
    let product = |depth: usize, paths: usize, rows: usize| {
        let (a, b) = (f32(&a, &[4, depth]), f32(&b, &[3, 5, 8]));
        PathMatmul::new(a, b, u32(&offsets, &[paths + 1]), f32(&c, &[rows, 5]))
    };
    assert_eq!(
        refusal(product(7, 3, 4)),
        "path_matmul: inner dimensions differ: a is [4, 7], b as [P, O, K] is [3, 5, 8]"
    );
    assert_eq!(refusal(product(8, 4, 4)), "path_matmul: offsets are [5], b as [P, O, K] [3, 5, 8] needs [4]");
    assert_eq!(refusal(product(8, 3, 9)), "path_matmul: rows differ: a is [4, 8], c is [9, 5], and there is no order");
    assert_eq!(
        refusal(product(8, 3, 8).gathered(u32(&other, &[7]), 2)),
        "path_matmul: order is [7] with divisor 2, c [8, 5] needs [8] and 1 or more"
    );
    assert_eq!(
        refusal(product(8, 3, 8).gathered(u32(&other, &[8]), 0)),
        "path_matmul: order is [8] with divisor 0, c [8, 5] needs [8] and 1 or more"
    );
    assert_eq!(refusal(product(8, 3, 4).bias(f32(&other, &[5]))), "path_matmul: bias is [5], expected [3, 5]");
    assert_eq!(refusal(product(8, 3, 4).swish(f32(&other, &[4, 4]))), "path_matmul: s is [4, 4], expected [4, 5]");
    let half = Tensor::new(&c, Element::BF16, &[4, 5]);
    assert_eq!(
        refusal(PathMatmul::new(f32(&a, &[4, 8]), f32(&b, &[3, 5, 8]), u32(&offsets, &[4]), half)),
        "path_matmul: c is [4, 5] bf16: rows of 16 bits need an even length"
    );
    assert_eq!(
        refusal(product(8, 3, 4).swish(f32(&c, &[4, 5]))),
        "path_matmul: s and the output share a buffer; WebGPU binds a buffer either for reading or for writing"
    );
}
