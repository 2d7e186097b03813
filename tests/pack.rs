//! The layout of packed factors: the table of cases. What is done with it: `tests/matmul.rs`, `tests/route.rs`.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test that cannot go on fails, and says why"
)]

mod common;

use common::run_cases;

#[test]
fn agrees_with_the_reference() {
    run_cases("pack");
}
