//! One kernel in an app that owns everything: softmax, in place, over rows in the middle of a buffer of the app's.
//!
//!     cargo run --example softmax_in_place

#![allow(clippy::print_stdout)] // What it prints is what the example is for.

use std::error::Error;

use double_routing::{Gpu, Tensor, bytemuck, kernels::Softmax, wgpu};
use wgpu::util::DeviceExt as _;

const ROWS: usize = 3;
const COLUMNS: usize = 5;
/// Values of the app's own before and behind the rows.
const AROUND: usize = 7;

fn main() -> Result<(), Box<dyn Error>> {
    // The app's own: instance, device, queue and a buffer.
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle_from_env());
    let adapter = pollster::block_on(instance.request_adapter(&Default::default()))?;
    let (device, queue) = pollster::block_on(adapter.request_device(&wgpu::DeviceDescriptor {
        required_features: Gpu::required_features(),
        required_limits: Gpu::required_limits(),
        ..Default::default()
    }))?;
    let mut before = vec![-1.0f32; AROUND + ROWS * COLUMNS + AROUND];
    for (at, value) in before[AROUND..AROUND + ROWS * COLUMNS].iter_mut().enumerate() {
        *value = (at % COLUMNS * (at / COLUMNS)) as f32;
    }
    let buffer = device.create_buffer_init(&wgpu::util::BufferInitDescriptor {
        label: Some("the app's"),
        contents: bytemuck::cast_slice(&before),
        usage: wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC,
    });

    // The kernel: a view of the rows, given as input and as output, planned once and recorded where the app wants it.
    let gpu = Gpu::from_device(device.clone(), queue.clone());
    let rows = Tensor::f32(&buffer, &[ROWS, COLUMNS]).offset((AROUND * size_of::<f32>()) as u64);
    let softmax = Softmax::new(rows.clone(), rows, 1).plan(&gpu)?;
    let mut encoder = device.create_command_encoder(&Default::default());
    softmax.record(&mut encoder.begin_compute_pass(&Default::default()));
    queue.submit([encoder.finish()]);

    let whole = Tensor::f32(&buffer, &[before.len()]);
    let after: Vec<f32> = bytemuck::pod_collect_to_vec(&pollster::block_on(gpu.read(&whole))?);
    println!("{} ({})", gpu.info().name, gpu.info().backend);
    let (inside, behind) = (AROUND..AROUND + ROWS * COLUMNS, AROUND + ROWS * COLUMNS..);
    for (from, to) in before[inside.clone()].chunks(COLUMNS).zip(after[inside].chunks(COLUMNS)) {
        println!("{from:4.1?} -> {to:.4?}, sum {:.6}", to.iter().sum::<f32>());
    }
    let untouched = before[..AROUND] == after[..AROUND] && before[behind.clone()] == after[behind];
    println!(
        "the {AROUND} values before and the {AROUND} behind are {}",
        if untouched { "unchanged" } else { "CHANGED" }
    );
    if untouched { Ok(()) } else { Err("the kernel wrote outside its view".into()) }
}
