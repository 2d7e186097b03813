//! The gate-weighted sum of gathered rows: the table of cases, and what is refused.

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
    run_cases("combine");
}
