//! What the benches share: the adapter, seeded operands, and how submissions are timed.

// Each bench compiles this module and uses a part of it. A bench that cannot go on has nobody to return an error to.
#![allow(dead_code, clippy::expect_used, clippy::print_stdout)]

use std::time::{Duration, Instant};

use criterion::{Bencher, Criterion, SamplingMode, measurement::WallTime};
use double_routing::{AdapterChoice, Gpu, Linear, Weights, bytemuck, wgpu};

/// Recordings that go into one submission at most.
const RECORDINGS: u64 = 64;

/// A layer's dimensions and the tokens it is run on.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    pub batch: usize,
    pub tokens: usize,
    pub input: usize,
    /// A, R and O.
    pub width: usize,
}

pub const SHAPES: [Shape; 3] = [
    Shape { batch: 8, tokens: 512, input: 768, width: 256 },
    Shape { batch: 1, tokens: 128, input: 768, width: 64 },
    Shape { batch: 4, tokens: 2048, input: 1024, width: 512 },
];

impl Shape {
    pub fn rows(self) -> usize {
        self.batch * self.tokens
    }

    pub fn weights(self) -> Weights {
        let linear = |seed: u64, out: usize, features: usize| {
            let scale = 1.0 / (features as f32).sqrt();
            let values = |seed, count| random(seed, count).into_iter().map(|value| scale * value).collect::<Vec<_>>();
            Linear::new(values(seed, out * features), [out, features], values(seed + 1, out))
        };
        let (input, width) = (self.input, self.width);
        Weights::new(linear(1, width, input), linear(3, 1, width), linear(5, width, width), linear(7, width, width))
            .expect("shapes fit")
    }
}

impl std::fmt::Display for Shape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "B={} S={} in={} A=R=O={}", self.batch, self.tokens, self.input, self.width)
    }
}

/// The best adapter, or the one that `DOUBLE_ROUTING_ADAPTER` names a part of.
pub fn open() -> double_routing::Result<Gpu> {
    let mut choice = AdapterChoice::default();
    if let Ok(name) = std::env::var("DOUBLE_ROUTING_ADAPTER") {
        choice = choice.named(name);
    }
    let gpu = pollster::block_on(Gpu::open(&choice))?;
    println!("{} ({}, {})", gpu.info().name, gpu.info().backend, gpu.info().driver_info);
    Ok(gpu)
}

/// Few and short samples, so that a software adapter is through in minutes.
pub fn criterion() -> Criterion {
    Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(2))
        .configure_from_args()
}

pub fn group<'a>(criterion: &'a mut Criterion, name: &str) -> criterion::BenchmarkGroup<'a, WallTime> {
    let mut group = criterion.benchmark_group(name);
    // As many iterations in each sample: slow ones would otherwise be run 55 times.
    group.sampling_mode(SamplingMode::Flat);
    group
}

/// Times what `record` records. An iteration is one recording; where it is short, a sample's iterations share submissions, so
/// that the time to submit and wait does not hide it. Recordings of one submission run one after the other, since they
/// write the same buffers.
pub fn time(bencher: &mut Bencher<'_>, gpu: &Gpu, record: impl Fn(&mut wgpu::ComputePass<'_>)) {
    bencher.iter_custom(|iterations| {
        let start = Instant::now();
        let mut left = iterations;
        while left > 0 {
            let now = left.min(RECORDINGS);
            let mut encoder = gpu.device().create_command_encoder(&Default::default());
            let mut pass = encoder.begin_compute_pass(&Default::default());
            (0..now).for_each(|_| record(&mut pass));
            drop(pass);
            gpu.queue().submit([encoder.finish()]);
            gpu.device().poll(wgpu::PollType::wait_indefinitely()).expect("the device works on");
            left -= now;
        }
        start.elapsed()
    });
}

/// A buffer of values in −1 .. 1, the same for the same seed.
pub fn operand(gpu: &Gpu, seed: u64, count: usize) -> wgpu::Buffer {
    gpu.upload("operand", bytemuck::cast_slice(&random(seed, count))).expect("a buffer")
}

fn random(seed: u64, count: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u32 << 23) as f32 - 1.0
    };
    (0..count).map(|_| next()).collect()
}
