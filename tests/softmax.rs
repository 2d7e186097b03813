//! Softmax: the table of cases, and what is refused.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test that cannot go on fails, and says why"
)]

mod common;

use common::{any_gpu, gpus, random, run_cases, storage, wait};
use double_routing::{AdapterClass, Tensor, bytemuck, kernels::Softmax};

#[test]
fn agrees_with_the_reference() {
    run_cases("softmax");
}

#[test]
fn refuses_operands_that_do_not_fit() {
    let gpu = any_gpu();
    let [x, y, lengths] = [1 << 12; 3].map(|bytes| storage(&gpu, bytes));
    let refusal = |softmax: Softmax<'_>| softmax.plan(&gpu).expect_err("the operands do not fit").to_string();
    let f32 = Tensor::f32;
    assert_eq!(refusal(Softmax::new(f32(&x, &[4, 8]), f32(&y, &[4, 8]), 2)), "softmax: x [4, 8] has no axis 2");
    assert_eq!(
        refusal(Softmax::new(f32(&x, &[4, 8]), f32(&y, &[8, 4]), 1)),
        "softmax: shapes differ: x is [4, 8], y is [8, 4]"
    );
    let fitting = || Softmax::new(f32(&x, &[4, 8]), f32(&y, &[4, 8]), 1);
    assert_eq!(refusal(fitting().lengths(Tensor::u32(&lengths, &[5]))), "softmax: lengths are [5], expected [4]");
    assert_eq!(refusal(fitting().lengths(f32(&lengths, &[4]))), "softmax: lengths is f32, expected u32");
    assert_eq!(
        refusal(Softmax::new(f32(&x, &[4, 8]), f32(&x, &[4, 8]).offset(256), 1)),
        "softmax: x and y are different parts (bytes 0 and 256) of one buffer; use the same part, or two buffers"
    );
    assert_eq!(
        refusal(fitting().lengths(Tensor::u32(&y, &[4]).offset(1024))),
        "softmax: lengths and the output share a buffer; WebGPU binds a buffer either for reading or for writing"
    );
}

/// However many rows a workgroup has, and whether they fill its lanes.
#[test]
fn a_row_has_the_same_bits_among_others() {
    for gpu in gpus() {
        for length in [64, 120, 448, 768, 1000, 2048] {
            let row = random(5, length);
            let softmax = |rows: usize| {
                let mut x = random(6, rows * length);
                x[(rows - 1) * length..].copy_from_slice(&row);
                let x = gpu.upload("x", bytemuck::cast_slice(&x)).expect("a buffer");
                let x = Tensor::f32(&x, &[rows, length]);
                let plan =
                    Softmax::new(x.clone(), x.clone(), 1).batch_invariant(true).plan(&gpu).expect("the operands fit");
                let mut encoder = gpu.device().create_command_encoder(&Default::default());
                plan.record(&mut encoder.begin_compute_pass(&Default::default()));
                gpu.queue().submit([encoder.finish()]);
                let y = wait(&gpu, gpu.read(&x)).expect("a result");
                y[(rows - 1) * length * 4..].to_vec()
            };
            let alone = softmax(1);
            assert_ne!(alone, bytemuck::cast_slice::<f32, u8>(&row), "{length} positions: nothing was done");
            assert!([4, 11, 48].iter().all(|rows| softmax(*rows) == alone), "{length} positions");
        }
    }
}

/// Nothing in the shader stops a workgroup of such rows that is one too many, or has a row too many.
#[test]
fn rows_of_octets_fill_their_workgroups() {
    let gpu = any_gpu().with_class(AdapterClass::Software);
    for (rows, length) in [(48, 64), (20, 192), (11, 448), (32_771, 64)] {
        let [x, y] = [rows * length * 4; 2].map(|bytes| storage(&gpu, bytes));
        let shape = [rows as usize, length as usize];
        let plan =
            Softmax::new(Tensor::f32(&x, &shape), Tensor::f32(&y, &shape), 1).plan(&gpu).expect("the operands fit");
        let grids: Vec<_> = plan.steps().iter().map(|step| step.grid()).collect();
        assert!(grids.iter().all(|grid| grid[1..] == [1, 1]), "{rows} rows: {grids:?}");
        let workgroups: u64 = grids.iter().map(|grid| u64::from(grid[0])).sum();
        // A vector has one row, and a workgroup 1, 4 or 16 of them; the last step of several may have fewer.
        let each = [1, 4, 16].iter().any(|each| rows == workgroups * each);
        assert!(grids.len() > 1 || each, "{rows} rows: {grids:?}");
    }
}
