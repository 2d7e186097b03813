//! The permutation of slots by path: the table of cases, and what is refused.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test that cannot go on fails, and says why"
)]

mod common;

use common::{any_gpu, run_cases, storage};
use double_routing::{Tensor, kernels::Dispatch};

#[test]
fn agrees_with_the_reference() {
    run_cases("dispatch");
}

#[test]
fn refuses_operands_that_do_not_fit() {
    let gpu = any_gpu();
    let [ids, offsets, order, positions, other] = [1 << 12; 5].map(|bytes| storage(&gpu, bytes));
    let refusal = |dispatch: Dispatch<'_>| dispatch.plan(&gpu).expect_err("the operands do not fit").to_string();
    let u32 = Tensor::u32;
    let with = |offsets_shape: &[usize], order_shape: &[usize], positions_shape: &[usize]| {
        let (offsets, order) = (u32(&offsets, offsets_shape), u32(&order, order_shape));
        Dispatch::new(u32(&ids, &[5, 2]), offsets, order, u32(&positions, positions_shape))
    };
    assert_eq!(refusal(with(&[2, 2], &[10], &[5, 2])), "dispatch: offsets [2, 2] need one dimension");
    assert_eq!(refusal(with(&[0], &[10], &[5, 2])), "dispatch: offsets [0] need one element more than there are paths");
    assert_eq!(
        refusal(with(&[65_538], &[10], &[5, 2])),
        "dispatch: offsets [65538] are those of 65537 paths, more than the 65536 there may be"
    );
    assert_eq!(refusal(with(&[4], &[11], &[5, 2])), "dispatch: order [11] must have as many elements as ids [5, 2]");
    assert_eq!(refusal(with(&[4], &[10], &[5])), "dispatch: positions [5] must have as many elements as ids [5, 2]");
    let fitting = || with(&[4], &[10], &[10]);
    assert_eq!(
        refusal(fitting().sequence(u32(&other, &[5]))),
        "dispatch: sequence [5] must have as many elements as ids [5, 2]"
    );
    assert_eq!(refusal(fitting().counts(u32(&other, &[4]))), "dispatch: counts are [4], expected [3] for offsets [4]");
    assert_eq!(refusal(fitting().counts(Tensor::f32(&other, &[3]))), "dispatch: counts is f32, expected u32");
    assert_eq!(
        refusal(fitting().counts(u32(&order, &[3]).offset(1024))),
        "dispatch: order and counts share a buffer; what a kernel writes needs a buffer of its own"
    );
    assert_eq!(
        refusal(fitting().sequence(u32(&positions, &[10]).offset(1024))),
        "dispatch: sequence and positions share a buffer; what a kernel writes needs a buffer of its own"
    );
    assert_eq!(
        refusal(fitting().sequence(u32(&other, &[10]).offset(4060))),
        "dispatch: sequence [10] u32 from byte 4060 on ends beyond its buffer of 4096 bytes"
    );
    fitting().sequence(u32(&ids, &[10]).offset(1024)).plan(&gpu).expect("inputs may share a buffer");
}
