//! The layer's forward in both plans, and what it costs the host to plan and record one.
//!
//!     cargo bench --bench forward
//!     DOUBLE_ROUTING_ADAPTER=llvmpipe cargo bench --bench forward -- folded
//!
//! `elem/s` are FLOP/s and `B/s` bytes by the cost of the plan's own order: compare plans by their times.

#![allow(clippy::expect_used)] // A bench that cannot go on has nobody to return an error to.

mod common;

use std::time::{Duration, Instant};

use common::{SHAPES, Shape, group, open, operand, time};
use criterion::{Criterion, Throughput};
use double_routing::{DoubleRouting, Forward, Gpu, PlanKind, Settings, Tensor, wgpu};

const PLANS: [(&str, PlanKind); 2] = [("as written", PlanKind::AsWritten), ("folded", PlanKind::Folded)];

fn main() -> double_routing::Result<()> {
    let gpu = open()?;
    let mut criterion = common::criterion();
    device(&mut criterion, &gpu);
    host(&mut criterion, &gpu);
    criterion.final_summary();
    Ok(())
}

fn layer(gpu: &Gpu, shape: Shape, plan: PlanKind) -> DoubleRouting {
    DoubleRouting::new(gpu, &shape.weights(), Settings { plan, ..Settings::default() }).expect("a layer")
}

fn plan(layer: &DoubleRouting, shape: Shape, x: &wgpu::Buffer) -> Forward {
    layer.forward(Tensor::f32(x, &[shape.batch, shape.tokens, shape.input])).plan().expect("a forward")
}

fn device(criterion: &mut Criterion, gpu: &Gpu) {
    for (name, kind) in PLANS {
        let mut group = group(criterion, &format!("forward {name}"));
        for shape in SHAPES {
            let layer = layer(gpu, shape, kind);
            let x = operand(gpu, 9, shape.rows() * shape.input);
            let forward = plan(&layer, shape, &x);
            let cost = layer.order().cost(layer.dimensions(), shape.rows() as u64);
            group.throughput(Throughput::ElementsAndBytes { elements: cost.flops, bytes: cost.bytes });
            group.bench_function(shape.to_string(), |bencher| time(bencher, gpu, |pass| forward.record(pass)));
        }
    }
}

/// What is done on the CPU; nothing is submitted.
fn host(criterion: &mut Criterion, gpu: &Gpu) {
    let shape = SHAPES[0];
    let x = operand(gpu, 9, shape.rows() * shape.input);
    for (name, kind) in PLANS {
        let layer = layer(gpu, shape, kind);
        let forward = plan(&layer, shape, &x);
        let mut group = group(criterion, &format!("host {name}"));
        // The crate's share of recording, and the whole of it: wgpu encodes a pass when the encoder is finished.
        group.bench_function("record into a pass", |bencher| {
            bencher.iter_custom(|iterations| {
                let mut elapsed = Duration::ZERO;
                for _ in 0..iterations {
                    let mut encoder = gpu.device().create_command_encoder(&Default::default());
                    let mut pass = encoder.begin_compute_pass(&Default::default());
                    let start = Instant::now();
                    forward.record(&mut pass);
                    elapsed += start.elapsed();
                }
                elapsed
            });
        });
        group.bench_function("record and finish an encoder", |bencher| {
            bencher.iter(|| {
                let mut encoder = gpu.device().create_command_encoder(&Default::default());
                forward.record(&mut encoder.begin_compute_pass(&Default::default()));
                encoder.finish()
            });
        });
        group.bench_function("plan", |bencher| {
            bencher.iter_custom(|iterations| {
                let mut elapsed = Duration::ZERO;
                for _ in 0..iterations {
                    let start = Instant::now();
                    let forward = plan(&layer, shape, &x);
                    elapsed += start.elapsed();
                    drop(forward);
                    // What the plan wrote waits for a submission, and would pile up and slow down all that follows.
                    gpu.queue().submit([]);
                    gpu.device().poll(wgpu::PollType::wait_indefinitely()).expect("the device works on");
                }
                elapsed
            });
        });
    }
}
