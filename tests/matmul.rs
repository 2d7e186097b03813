//! Matrix product: the table of cases, and what is refused.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test that cannot go on fails, and says why"
)]

mod common;

use common::{any_gpu, run_cases, storage};
use double_routing::{Element, Tensor, kernels::Matmul, wgpu};

#[test]
fn agrees_with_the_reference() {
    run_cases("matmul");
}

#[test]
fn refuses_operands_that_do_not_fit() {
    let gpu = any_gpu();
    let [a, b, c, bias] = [1 << 16; 4].map(|bytes| storage(&gpu, bytes));
    let refusal = |matmul: Matmul<'_>| matmul.plan(&gpu).expect_err("the operands do not fit").to_string();
    let f32 = Tensor::f32;

    assert_eq!(
        refusal(Matmul::new(f32(&a, &[64, 33]), f32(&b, &[32, 16]), f32(&c, &[64, 16]))),
        "matmul: inner dimensions differ: a is [64, 33], b as [K, N] is [32, 16]"
    );
    assert_eq!(
        refusal(Matmul::new(f32(&a, &[64, 33]), f32(&b, &[128, 32]), f32(&c, &[64, 128])).transposed()),
        "matmul: inner dimensions differ: a is [64, 33], b as [N, K] is [128, 32]"
    );
    assert_eq!(
        refusal(Matmul::new(f32(&a, &[8, 4]), f32(&b, &[4, 2]), f32(&c, &[8, 3]))),
        "matmul: c is [8, 3], a [8, 4] times b as [K, N] [4, 2] gives [8, 2]"
    );
    assert_eq!(
        refusal(Matmul::new(f32(&a, &[2, 8, 4]), f32(&b, &[3, 4, 2]), f32(&c, &[2, 8, 2]))),
        "matmul: batch dimensions differ: a is [2, 8, 4], b is [3, 4, 2]"
    );
    assert_eq!(
        refusal(Matmul::new(f32(&a, &[4]), f32(&b, &[4, 2]), f32(&c, &[2]))),
        "matmul: a [4] and b [4, 2] need at least two dimensions"
    );
    let fitting = || Matmul::new(f32(&a, &[8, 4]), f32(&b, &[4, 2]), f32(&c, &[8, 2]));
    assert_eq!(refusal(fitting().bias(f32(&bias, &[3]))), "matmul: bias is [3], expected [2]");
    assert_eq!(
        refusal(Matmul::new(
            Tensor::new(&a, Element::BF16, &[8, 4]),
            Tensor::new(&b, Element::F16, &[4, 2]),
            f32(&c, &[8, 2])
        )),
        "matmul: a is bf16, b is f16: one must be f32, or both the same"
    );
    let half = Tensor::new(&c, Element::F16, &[8, 2]).offset(6);
    assert_eq!(
        refusal(Matmul::new(f32(&a, &[8, 4]), f32(&b, &[4, 2]), half)),
        "matmul: c is f16 and starts at byte 6; an output of 16 bits starts at a multiple of 4 bytes"
    );
    assert_eq!(
        refusal(Matmul::new(f32(&a, &[8, 4]), Tensor::u32(&b, &[4, 2]), f32(&c, &[8, 2]))),
        "matmul: b is u32, expected f32 or f16 or bf16"
    );
    assert_eq!(
        refusal(Matmul::new(f32(&a, &[8, 4]), f32(&a, &[4, 2]).offset(4096), f32(&a, &[8, 2]).offset(8192))),
        "matmul: a and the output share a buffer; WebGPU binds a buffer either for reading or for writing"
    );
    assert_eq!(
        refusal(Matmul::new(f32(&a, &[8, 4]).offset(2), f32(&b, &[4, 2]), f32(&c, &[8, 2]))),
        "matmul: a starts at byte 2, which is no multiple of the 4 bytes of f32"
    );
    assert_eq!(
        refusal(Matmul::new(f32(&a, &[8, 4]).offset(65500), f32(&b, &[4, 2]), f32(&c, &[8, 2]))),
        "matmul: a [8, 4] f32 from byte 65500 on ends beyond its buffer of 65536 bytes"
    );
    let huge = [usize::MAX, 4];
    assert!(
        refusal(Matmul::new(f32(&a, &huge), f32(&b, &[4, 2]), f32(&c, &[usize::MAX, 2])))
            .ends_with("has more elements than can be counted")
    );
    let unbindable = gpu.device().create_buffer(&wgpu::BufferDescriptor {
        label: None,
        size: 1024,
        usage: wgpu::BufferUsages::COPY_DST,
        mapped_at_creation: false,
    });
    assert_eq!(
        refusal(Matmul::new(f32(&unbindable, &[8, 4]), f32(&b, &[4, 2]), f32(&c, &[8, 2]))),
        "matmul: a's buffer lacks BufferUsages::STORAGE"
    );
}
