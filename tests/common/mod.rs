//! What the integration tests share: the adapters they run on, waiting for results, and running the cases of a kernel.

// Each test binary compiles this module and uses a part of it.
#![allow(dead_code, clippy::expect_used, clippy::panic, clippy::print_stdout)]

use std::{
    future::Future,
    io::Write,
    pin::pin,
    task::{Context, Poll, Waker},
};

use double_routing::{AdapterChoice, AdapterClass, Gpu, Linear, Weights, wgpu};

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

/// The backends that the tests run on, by what wgpu has on the platform.
const BACKENDS: &[(&str, wgpu::Backends)] = if cfg!(target_os = "macos") {
    &[("metal", wgpu::Backends::METAL)]
} else if cfg!(windows) {
    &[("dx12", wgpu::Backends::DX12)]
} else {
    &[("vulkan", wgpu::Backends::VULKAN), ("gl", wgpu::Backends::GL)]
};

/// The adapters that the tests run on, whatever hardware or software serves them, with their matrix units. A backend that is missing
/// fails the test unless `DOUBLE_ROUTING_WITHOUT` names it (`gl`, or `vulkan,gl`). `FIRST_FAILURE=1` ends the process with the first
/// test that fails from here on.
pub fn gpus() -> Vec<Gpu> {
    if first_failure_ends() {
        std::panic::set_hook(Box::new(|failure| {
            // What is printed by macros is the test's output, which the process does not live to show.
            let _ = writeln!(std::io::stderr(), "{failure}");
            std::process::abort();
        }));
    }
    let excused = std::env::var("DOUBLE_ROUTING_WITHOUT").unwrap_or_default();
    let mut gpus = Vec::new();
    for (name, backend) in BACKENDS {
        match pollster::block_on(Gpu::open(&AdapterChoice::default().backends(*backend).experimental())) {
            Ok(gpu) => {
                println!("on {} ({}, {})", gpu.info().name, gpu.info().backend, gpu.info().driver_info);
                gpus.push(gpu);
            }
            Err(error) if excused.split(',').any(|excuse| excuse.trim() == *name) => println!("excused: {error}"),
            Err(error) => panic!("{error}\nTests need a {name} adapter; scripts/test.sh installs a software one."),
        }
    }
    gpus
}

/// The best adapter there is, for tests of what no adapter changes.
pub fn any_gpu() -> Gpu {
    gpus().swap_remove(0)
}

/// Runs every case of a kernel on every adapter, and, where there are two of software, every case but the heavy once more in configurations
/// for hardware: a third of them as a discrete GPU and a third as an integrated one on the first adapter, and a third as a
/// discrete one on the second, without subgroups. `CASE=part-of-a-name` runs only the cases whose names contain it, in each of these.
pub fn run_cases(kernel: &str) {
    let failures = on_each(|number, gpu| {
        let of_hardware = [(0, AdapterClass::Discrete), (0, AdapterClass::Integrated), (1, AdapterClass::Discrete)];
        let thirds = of_hardware.iter().enumerate().filter(|(_, (on, class))| *on == number && *class != gpu.class());
        let mut failures = failures_in_class(kernel, gpu, gpu.class(), None);
        failures.extend(thirds.flat_map(|(third, (_, class))| failures_in_class(kernel, gpu, *class, Some(third))));
        failures
    });
    let failures = failures.concat();
    assert!(failures.is_empty(), "{} failed:\n{}", failures.len(), failures.join("\n"));
}

/// Does the same on every adapter, each on a thread of its own: most of it is the drivers' compiling, which takes one. Where the first
/// failure ends it all, what another adapter did beside it would be for nothing: one after the other.
pub fn on_each<T: Send>(work: impl Fn(usize, &Gpu) -> T + Sync) -> Vec<T> {
    let (gpus, work) = (gpus(), &work);
    if first_failure_ends() {
        return gpus.iter().enumerate().map(|(number, gpu)| work(number, gpu)).collect();
    }
    std::thread::scope(|threads| {
        let each = |(number, gpu)| threads.spawn(move || work(number, gpu));
        let running: Vec<_> = gpus.iter().enumerate().map(each).collect();
        running.into_iter().map(|thread| thread.join().expect("the thread said why")).collect()
    })
}

fn first_failure_ends() -> bool {
    std::env::var_os("FIRST_FAILURE").is_some()
}

/// All cases, or without the heavy ones one of three.
fn failures_in_class(kernel: &str, gpu: &Gpu, class: AdapterClass, third: Option<usize>) -> Vec<String> {
    let wanted = std::env::var("CASE").unwrap_or_default();
    let gpu = gpu.with_class(class);
    let mut cases = double_routing::check::cases();
    cases.retain(|case| case.kernel() == kernel && case.name().contains(&wanted) && (third.is_none() || !case.heavy()));
    if let Some(third) = third.filter(|_| wanted.is_empty()) {
        cases = cases.into_iter().skip(third).step_by(3).collect();
    }
    assert!(!cases.is_empty() || !wanted.is_empty(), "{kernel} has no cases");
    let mut failures = Vec::new();
    for case in &cases {
        match wait(&gpu, case.run(&gpu)) {
            Ok(outcome) if outcome.passed() => {}
            other => {
                failures.push(format!("{} on {} as {class:?}: {other:?}", case.name(), gpu.info().backend));
                assert!(!first_failure_ends(), "{} failed first", failures[0]);
            }
        }
    }
    println!("{} cases of {kernel} on {} in the configurations for {class:?}", cases.len(), gpu.info().backend);
    failures
}

/// A buffer for storage of this many bytes.
pub fn storage(gpu: &Gpu, bytes: u64) -> wgpu::Buffer {
    gpu.device().create_buffer(&wgpu::BufferDescriptor {
        label: None,
        size: bytes,
        usage: wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST,
        mapped_at_creation: false,
    })
}

/// Uniform values in −1 .. 1, the same for the same seed.
pub fn random(seed: u64, count: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u32 << 23) as f32 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

/// Weights as PyTorch initialises them, uniform within 1/√in, of `[in, A, R, O]`.
pub fn random_weights(seed: u64, [input, attention, routing, output]: [usize; 4]) -> Weights {
    let linear = |seed: u64, out: usize, features: usize| {
        let scale = 1.0 / (features as f32).sqrt();
        let values = |seed, count| random(seed, count).into_iter().map(|value| value * scale).collect::<Vec<f32>>();
        Linear::new(values(seed, out * features), [out, features], values(seed + 1, out))
    };
    Weights::new(
        linear(seed + 10, attention, input),
        linear(seed + 20, 1, attention),
        linear(seed + 30, routing, attention),
        linear(seed + 40, output, routing),
    )
    .expect("shapes fit")
}
