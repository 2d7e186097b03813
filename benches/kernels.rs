//! Every kernel on the layer's shapes and on square and long ones.
//!
//!     cargo bench --bench kernels
//!     DOUBLE_ROUTING_ADAPTER=llvmpipe cargo bench --bench kernels -- softmax
//!
//! `elem/s` are FLOP/s; `B/s` count every operand once. Times are wall-clock, from recording to the end of waiting.

#![allow(clippy::expect_used)] // A bench that cannot go on has nobody to return an error to.

mod common;

use common::{SHAPES, group, open, operand, time};
use criterion::{Criterion, Throughput};
use double_routing::{
    Gpu, Tensor,
    kernels::{Attend, Matmul, Route, Select, Softmax},
    wgpu,
};

fn main() -> double_routing::Result<()> {
    let gpu = open()?;
    let mut criterion = common::criterion();
    submission(&mut criterion, &gpu);
    matmul(&mut criterion, &gpu);
    route(&mut criterion, &gpu);
    attend(&mut criterion, &gpu);
    softmax(&mut criterion, &gpu);
    select(&mut criterion, &gpu);
    criterion.final_summary();
    Ok(())
}

/// What every submission costs, whatever it is for.
fn submission(criterion: &mut Criterion, gpu: &Gpu) {
    criterion.bench_function("submit an empty pass and wait", |bencher| {
        bencher.iter(|| {
            let mut encoder = gpu.device().create_command_encoder(&Default::default());
            drop(encoder.begin_compute_pass(&Default::default()));
            gpu.queue().submit([encoder.finish()]);
            gpu.device().poll(wgpu::PollType::wait_indefinitely()).expect("the device works on");
        });
    });
}

/// The FLOPs of a product and the bytes of its operands.
fn product(rows: usize, columns: usize, depth: usize) -> Throughput {
    Throughput::ElementsAndBytes {
        elements: 2 * (rows * columns * depth) as u64,
        bytes: 4 * (rows * depth + columns * depth + rows * columns) as u64,
    }
}

fn matmul(criterion: &mut Criterion, gpu: &Gpu) {
    let mut group = group(criterion, "matmul abt");
    let embeddings = SHAPES.map(|shape| [shape.rows(), shape.width, shape.input]);
    for [m, n, k] in [[1024, 1024, 1024]].into_iter().chain(embeddings) {
        let (a, b, c) = (operand(gpu, 1, m * k), operand(gpu, 2, n * k), operand(gpu, 3, m * n));
        let (a, b, c) = (Tensor::f32(&a, &[m, k]), Tensor::f32(&b, &[n, k]), Tensor::f32(&c, &[m, n]));
        let plan = Matmul::new(a, b, c).transposed().plan(gpu).expect("a plan");
        group.throughput(product(m, n, k));
        group.bench_function(format!("{m}x{n}x{k}"), |bencher| time(bencher, gpu, |pass| plan.record(pass)));
    }
}

fn route(criterion: &mut Criterion, gpu: &Gpu) {
    let mut group = group(criterion, "route");
    for shape in SHAPES {
        let [m, n, k] = [shape.rows(), shape.width, shape.input];
        let (x, b, w) = (operand(gpu, 1, m * k), operand(gpu, 2, n * k), operand(gpu, 3, m));
        let (inner, outer, y) = (operand(gpu, 4, n), operand(gpu, 5, n), operand(gpu, 6, m * n));
        let (x, b, w) = (Tensor::f32(&x, &[m, k]), Tensor::f32(&b, &[n, k]), Tensor::f32(&w, &[m]));
        let plan = Route::new(x, b, w, Tensor::f32(&y, &[m, n]))
            .inner(Tensor::f32(&inner, &[n]))
            .outer(Tensor::f32(&outer, &[n]))
            .plan(gpu)
            .expect("a plan");
        group.throughput(product(m, n, k));
        group.bench_function(format!("{m}x{n}x{k}"), |bencher| time(bencher, gpu, |pass| plan.record(pass)));
    }
}

fn attend(criterion: &mut Criterion, gpu: &Gpu) {
    let mut group = group(criterion, "attend");
    for shape in SHAPES {
        let [rows, depth] = [shape.rows(), shape.input];
        let (x, v) = (operand(gpu, 1, rows * depth), operand(gpu, 2, depth));
        let (bias, logits) = (operand(gpu, 3, 1), operand(gpu, 4, rows));
        let plan =
            Attend::new(Tensor::f32(&x, &[rows, depth]), Tensor::f32(&v, &[depth]), Tensor::f32(&logits, &[rows]))
                .bias(Tensor::f32(&bias, &[1]))
                .plan(gpu)
                .expect("a plan");
        group.throughput(Throughput::Bytes(4 * (rows * depth + depth + rows) as u64));
        group.bench_function(format!("{rows}x{depth}"), |bencher| time(bencher, gpu, |pass| plan.record(pass)));
    }
}

fn softmax(criterion: &mut Criterion, gpu: &Gpu) {
    let mut group = group(criterion, "softmax");
    let weights = SHAPES.map(|shape| [shape.batch, shape.tokens]);
    for [rows, columns] in [[4096, 1024], [64, 65536]].into_iter().chain(weights) {
        let (x, y) = (operand(gpu, 1, rows * columns), operand(gpu, 2, rows * columns));
        let (x, y) = (Tensor::f32(&x, &[rows, columns]), Tensor::f32(&y, &[rows, columns]));
        let plan = Softmax::new(x, y, 1).plan(gpu).expect("a plan");
        group.throughput(Throughput::Bytes(2 * 4 * (rows * columns) as u64));
        group.bench_function(format!("{rows}x{columns}"), |bencher| time(bencher, gpu, |pass| plan.record(pass)));
    }

    // What reading and writing alone take for the first two.
    let count = 4096 * 1024;
    let (from, to) = (operand(gpu, 1, count), operand(gpu, 2, count));
    let copy = copy(gpu, &from, &to, (count / 4) as u32);
    group.throughput(Throughput::Bytes(2 * 4 * count as u64));
    group.bench_function("copy of 4096x1024 for comparison", |bencher| time(bencher, gpu, &copy));
}

fn select(criterion: &mut Criterion, gpu: &Gpu) {
    let mut group = group(criterion, "select");
    for [rows, columns, k] in [
        [4096, 1024, 32],
        [4096, 1024, 128],
        [4096, 256, 8],
        [64, 65_536, 64],
        [8, 4096, 512],
        [1, 1_000_000, 32],
        [1, 1_000_000, 1_000_000],
    ] {
        let (x, values) = (operand(gpu, 1, rows * columns), operand(gpu, 2, rows * k));
        let indices = operand(gpu, 3, rows * k);
        let (x, values) = (Tensor::f32(&x, &[rows, columns]), Tensor::f32(&values, &[rows, k]));
        let plan = Select::new(x, Tensor::u32(&indices, &[rows, k])).values(values).plan(gpu).expect("a plan");
        group.throughput(Throughput::Bytes(4 * (rows * columns + 2 * rows * k) as u64));
        group.bench_function(format!("{rows}x{columns} k={k}"), |bencher| time(bencher, gpu, |pass| plan.record(pass)));
    }
}

/// A copy kernel, one vec4 an invocation.
fn copy(gpu: &Gpu, from: &wgpu::Buffer, to: &wgpu::Buffer, quads: u32) -> impl Fn(&mut wgpu::ComputePass<'_>) + use<> {
    const WGSL: &str = "
        @group(0) @binding(0) var<storage, read> x: array<vec4f>;
        @group(0) @binding(1) var<storage, read_write> y: array<vec4f>;
        @compute @workgroup_size(64) fn main(@builtin(global_invocation_id) id: vec3u) {
            if id.x < arrayLength(&x) { y[id.x] = x[id.x]; }
        }";
    let device = gpu.device();
    let module = device.create_shader_module(wgpu::ShaderModuleDescriptor {
        label: Some("copy"),
        source: wgpu::ShaderSource::Wgsl(WGSL.into()),
    });
    let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
        label: Some("copy"),
        layout: None,
        module: &module,
        entry_point: None,
        compilation_options: Default::default(),
        cache: None,
    });
    let group = device.create_bind_group(&wgpu::BindGroupDescriptor {
        label: Some("copy"),
        layout: &pipeline.get_bind_group_layout(0),
        entries: &[
            wgpu::BindGroupEntry { binding: 0, resource: from.as_entire_binding() },
            wgpu::BindGroupEntry { binding: 1, resource: to.as_entire_binding() },
        ],
    });
    move |pass| {
        pass.set_pipeline(&pipeline);
        pass.set_bind_group(0, &group, &[]);
        pass.dispatch_workgroups(quads.div_ceil(64), 1, 1);
    }
}
