//! What the integration tests share: the adapters they run on, and waiting for results.

use std::{
    future::Future,
    pin::pin,
    task::{Context, Poll, Waker},
};

use double_routing::{AdapterChoice, Gpu, wgpu};

/// Waits for a future of this crate, sleeping while the device works.
pub fn wait<T>(gpu: &Gpu, future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(result) => return result,
            Poll::Pending => {
                gpu.device().poll(wgpu::PollType::wait_indefinitely()).expect("the device works on");
            }
        }
    }
}

/// The adapters that the tests run on: Vulkan and GL, whatever hardware or software serves them. A backend that is missing
/// fails the test unless `DOUBLE_ROUTING_WITHOUT` names it (`gl`, `vulkan`, or both with a comma).
pub fn gpus() -> Vec<Gpu> {
    let excused = std::env::var("DOUBLE_ROUTING_WITHOUT").unwrap_or_default();
    let mut gpus = Vec::new();
    for (name, backend) in [("vulkan", wgpu::Backends::VULKAN), ("gl", wgpu::Backends::GL)] {
        match pollster::block_on(Gpu::open(&AdapterChoice::default().backends(backend))) {
            Ok(gpu) => {
                println!("on {} ({}, {})", gpu.info().name, gpu.info().backend, gpu.info().driver_info);
                gpus.push(gpu);
            }
            Err(error) if excused.split(',').any(|excuse| excuse.trim() == name) => println!("excused: {error}"),
            Err(error) => panic!("{error}\nTests need a {name} adapter; scripts/adapter.sh installs a software one."),
        }
    }
    gpus
}
