//! What recording promises an app that owns the device, the encoder and the buffers.

#![allow(clippy::expect_used, clippy::panic)]

mod common;

use std::{
    cell::Cell,
    collections::BTreeMap,
    sync::{
        Arc, Once,
        atomic::{AtomicU32, Ordering},
    },
};

use common::{gpus, on_each, random, random_weights, storage, wait};
use double_routing::{
    AdapterClass, DoubleRouting, Element, Forward, Gpu, Order, PlanKind, Settings, Tensor, bytemuck, check,
    kernels::Softmax,
    reference::{Axis, softmax, softmax_bound},
    wgpu,
};

const DIMENSIONS: [usize; 4] = [20, 6, 10, 14];
const SHAPE: [usize; 3] = [3, 17, DIMENSIONS[0]];
const TOKENS: usize = 3 * 17;
const OUTPUT: usize = DIMENSIONS[3];
/// A NaN that no kernel writes.
const POISON: u32 = 0x7fc0_beef;

fn layer(gpu: &Gpu, plan: PlanKind) -> DoubleRouting {
    let settings = Settings { plan, ..Settings::default() };
    DoubleRouting::new(gpu, &random_weights(7, DIMENSIONS), settings).expect("a layer")
}

/// A layer's forward between buffers of the app's.
struct App {
    x: wgpu::Buffer,
    y: wgpu::Buffer,
    forward: Forward,
}

impl App {
    fn new(gpu: &Gpu, layer: &DoubleRouting, x: &[f32]) -> Self {
        let x = gpu.upload("x", bytemuck::cast_slice(x)).expect("a buffer");
        let y = storage(gpu, (TOKENS * OUTPUT * 4) as u64);
        let out = Tensor::f32(&y, &[SHAPE[0], SHAPE[1], OUTPUT]);
        let forward = layer.forward(Tensor::f32(&x, &SHAPE)).output(out).plan().expect("a forward");
        let app = Self { x, y, forward };
        app.poison(gpu);
        app
    }

    /// Overwrites everything that the forward writes.
    fn poison(&self, gpu: &Gpu) {
        for tensor in self.written() {
            let elements = tensor.shape().iter().product();
            gpu.write(tensor.buffer(), bytemuck::cast_slice(&vec![POISON; elements]));
        }
    }

    fn written(&self) -> Vec<Tensor<'_>> {
        let forward = &self.forward;
        [Some(forward.logits()), Some(forward.w()), Some(forward.y()), forward.h(), forward.routed()]
            .into_iter()
            .flatten()
            .collect()
    }

    fn record(&self, encoder: &mut wgpu::CommandEncoder) {
        self.forward.record(&mut encoder.begin_compute_pass(&Default::default()));
    }

    /// The bits of everything that the forward writes.
    fn bits(&self, gpu: &Gpu) -> Vec<Vec<u32>> {
        self.written().iter().map(|tensor| read(gpu, tensor)).collect()
    }
}

fn encoder(gpu: &Gpu) -> wgpu::CommandEncoder {
    gpu.device().create_command_encoder(&Default::default())
}

fn read<T: bytemuck::Pod>(gpu: &Gpu, tensor: &Tensor<'_>) -> Vec<T> {
    bytemuck::pod_collect_to_vec(&wait(gpu, gpu.read(tensor)).expect("a tensor"))
}

fn assert_within(result: &[f32], truth: &[f64], bound: &[f64]) {
    assert_eq!(result.len(), truth.len());
    for (at, &value) in result.iter().enumerate() {
        let error = (f64::from(value) - truth[at]).abs();
        assert!(error <= bound[at], "element {at} is {value}, expected {} ± {:.1e}", truth[at], bound[at]);
    }
}

/// Commands that are dropped instead of submitted leave every buffer as it was, whether the encoder was finished or not.
#[test]
fn recording_submits_nothing() {
    for gpu in gpus() {
        for plan in [PlanKind::Folded, PlanKind::AsWritten] {
            let app = App::new(&gpu, &layer(&gpu, plan), &random(8, TOKENS * DIMENSIONS[0]));
            let mut dropped = encoder(&gpu);
            app.record(&mut dropped);
            drop(dropped);
            let mut finished = encoder(&gpu);
            app.record(&mut finished);
            drop(finished.finish());
            // Reading submits, and so carries along whatever else was waiting for a submission.
            assert!(app.bits(&gpu).iter().flatten().all(|&bits| bits == POISON), "{plan:?}");

            let mut submitted = encoder(&gpu);
            app.record(&mut submitted);
            gpu.queue().submit([submitted.finish()]);
            assert!(app.bits(&gpu).iter().flatten().all(|&bits| bits != POISON), "{plan:?}");
        }
    }
}

/// A dispatch of the app's own: 64 invocations a workgroup, buffers at the bindings 0 and 1.
fn dispatch(
    gpu: &Gpu,
    body: &str,
    buffers: &[&wgpu::Buffer],
    invocations: usize,
) -> impl Fn(&mut wgpu::ComputePass<'_>) + use<> {
    let source = format!(
        "@group(0) @binding(0) var<storage, read_write> to: array<f32>;
         @group(0) @binding(1) var<storage, read_write> origin: array<f32>;
         @compute @workgroup_size(64) fn main(@builtin(global_invocation_id) id: vec3u) {{
             let i = id.x;
             if i < {invocations}u {{ {body} }}
         }}"
    );
    let scope = gpu.error_scope();
    let module = gpu.device().create_shader_module(wgpu::ShaderModuleDescriptor {
        label: Some("the app's"),
        source: wgpu::ShaderSource::Wgsl(source.into()),
    });
    let pipeline = gpu.device().create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
        label: Some("the app's"),
        layout: None,
        module: &module,
        entry_point: None,
        compilation_options: Default::default(),
        cache: None,
    });
    let entries: Vec<_> = buffers
        .iter()
        .zip(0..)
        .map(|(buffer, binding)| wgpu::BindGroupEntry { binding, resource: buffer.as_entire_binding() })
        .collect();
    let group = gpu.device().create_bind_group(&wgpu::BindGroupDescriptor {
        label: Some("the app's"),
        layout: &pipeline.get_bind_group_layout(0),
        entries: &entries,
    });
    wait(gpu, scope.close()).expect("the app's own dispatch is valid");
    let workgroups = invocations.div_ceil(64) as u32;
    move |pass| {
        pass.set_pipeline(&pipeline);
        pass.set_bind_group(0, &group, &[]);
        pass.dispatch_workgroups(workgroups, 1, 1);
    }
}

/// The app makes x, the forward reads it, the app reads y and w: in one submission, with passes of its own around the
/// forward's or all in one pass.
#[test]
fn the_app_computes_before_and_behind_it() {
    let half = random(9, TOKENS * DIMENSIONS[0]);
    // Doubling is exact, so that the app's shader and this agree on every bit.
    let x: Vec<f32> = half.iter().map(|value| 2.0 * value).collect();
    let exact: Vec<f64> = x.iter().map(|&value| value.into()).collect();
    let reference = random_weights(7, DIMENSIONS).to_reference();
    let truth = reference.forward(&exact, &SHAPE, None);
    let (of_w, of_y) = reference.bounds(&truth, &exact, &SHAPE, None);
    for gpu in gpus() {
        for (plan, in_one_pass) in [PlanKind::Folded, PlanKind::AsWritten].into_iter().zip([false, true]) {
            let layer = layer(&gpu, plan);
            let app = App::new(&gpu, &layer, &half);
            let w = app.forward.w();
            let seen = [storage(&gpu, (TOKENS * OUTPUT * 4) as u64), storage(&gpu, (TOKENS * 4) as u64)];
            let before = dispatch(&gpu, "to[i] = 2.0 * to[i];", &[&app.x], x.len());
            let of_results = dispatch(&gpu, "to[i] = -origin[i];", &[&seen[0], &app.y], TOKENS * OUTPUT);
            let of_weights = dispatch(&gpu, "to[i] = -origin[i];", &[&seen[1], w.buffer()], TOKENS);

            let mut encoder = encoder(&gpu);
            if in_one_pass {
                let mut pass = encoder.begin_compute_pass(&Default::default());
                before(&mut pass);
                app.forward.record(&mut pass);
                of_results(&mut pass);
                of_weights(&mut pass);
            } else {
                before(&mut encoder.begin_compute_pass(&Default::default()));
                app.record(&mut encoder);
                let mut pass = encoder.begin_compute_pass(&Default::default());
                of_results(&mut pass);
                of_weights(&mut pass);
            }
            gpu.queue().submit([encoder.finish()]);

            let apart = wait(&gpu, layer.run(&x, &SHAPE, None)).expect("a result");
            for (tensor, expected, truth, bound) in [
                (Tensor::f32(&seen[0], &[TOKENS, OUTPUT]), &apart.y, &truth.y, &of_y),
                (Tensor::f32(&seen[1], &[TOKENS]), &apart.w, &truth.w, &of_w),
            ] {
                let result: Vec<f32> = read::<f32>(&gpu, &tensor).into_iter().map(|value| -value).collect();
                assert!(&result == expected, "{plan:?}: other bits than in a submission of its own");
                assert_within(&result, truth, bound);
            }
        }
    }
}

/// One forward, recorded into many encoders, many times into one, and twice into a pass: the same bits in every run.
#[test]
fn a_forward_is_recorded_any_number_of_times() {
    for gpu in gpus() {
        for plan in [PlanKind::Folded, PlanKind::AsWritten] {
            let app = App::new(&gpu, &layer(&gpu, plan), &random(10, TOKENS * DIMENSIONS[0]));
            let mut first = None;
            for run in 0..20 {
                app.poison(&gpu);
                let mut encoders = [encoder(&gpu), encoder(&gpu)];
                app.record(&mut encoders[0]);
                if run % 3 == 1 {
                    app.record(&mut encoders[0]);
                }
                let mut pass = encoders[1].begin_compute_pass(&Default::default());
                app.forward.record(&mut pass);
                app.forward.record(&mut pass);
                drop(pass);
                // The second of the two was recorded behind the first, and may be submitted before or without it.
                let [one, two] = encoders.map(wgpu::CommandEncoder::finish);
                match run % 4 {
                    0 => drop(gpu.queue().submit([one, two])),
                    1 => drop(gpu.queue().submit([two, one])),
                    2 => drop(gpu.queue().submit([one])),
                    _ => drop(gpu.queue().submit([two])),
                }
                let bits = app.bits(&gpu);
                assert!(bits.iter().flatten().all(|&bits| bits != POISON), "{plan:?}, run {run}");
                assert_eq!(first.get_or_insert_with(|| bits.clone()), &bits, "{plan:?}, run {run}");
            }
        }
    }
}

/// Every kernel and the layer work on a device that was asked for no feature, and for WebGPU's default limits or the crate's
/// required ones.
#[test]
fn the_smallest_device_will_do() {
    // The first case of every kernel and each 61st from there: `scripts/drivers.sh` runs them all on such a device, of the adapter's own
    // class.
    let mut of_kernel = BTreeMap::<_, usize>::new();
    let mut cases = check::cases();
    cases.retain(|case| {
        let count = of_kernel.entry(case.kernel()).or_default();
        *count += 1;
        *count % 61 == 1 && !case.heavy()
    });
    on_each(|_, gpu| {
        let adapters = pollster::block_on(Gpu::adapters(gpu.info().backend.into()));
        for limits in [wgpu::Limits::default(), Gpu::required_limits()] {
            let (device, queue) = pollster::block_on(adapters[0].request_device(&wgpu::DeviceDescriptor {
                required_features: Gpu::required_features(),
                required_limits: limits.clone(),
                ..Default::default()
            }))
            .expect("a device");
            assert_eq!((device.features(), device.limits()), (wgpu::Features::empty(), limits));
            let small = Gpu::from_device(device, queue);
            for class in AdapterClass::ALL {
                let gpu = small.with_class(class);
                for case in &cases {
                    let outcome = wait(&gpu, case.run(&gpu)).expect("an outcome");
                    assert!(outcome.passed(), "{} as {class:?}: {outcome:?}", case.name());
                }
            }
        }
    });
}

thread_local! {
    /// Pipelines that this thread has compiled, by what the crate logs of it.
    static COMPILED: Cell<usize> = const { Cell::new(0) };
}

struct CountCompiled;

impl log::Log for CountCompiled {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        metadata.target().starts_with("double_routing")
    }

    fn log(&self, record: &log::Record<'_>) {
        if self.enabled(record.metadata()) && record.args().to_string().starts_with("compiling ") {
            COMPILED.set(COMPILED.get() + 1);
        }
    }

    fn flush(&self) {}
}

/// How many pipelines `work` compiles.
fn compiled<T>(work: impl FnOnce() -> T) -> (T, usize) {
    static INSTALL: Once = Once::new();
    INSTALL.call_once(|| {
        log::set_logger(&CountCompiled).expect("no other logger");
        log::set_max_level(log::LevelFilter::Debug);
    });
    let before = COMPILED.get();
    let result = work();
    (result, COMPILED.get() - before)
}

/// Pipelines are compiled with the first plan that needs them: not by another plan or another layer, not by a clone of the
/// device, and never by recording.
#[test]
fn plans_share_pipelines() {
    for gpu in gpus() {
        let x = random(11, TOKENS * DIMENSIONS[0]);
        let (app, count) = compiled(|| App::new(&gpu, &layer(&gpu, PlanKind::AsWritten), &x));
        // Kernels may share a variant between steps, but not with each other.
        let kernels = ["matmul", "attend", "softmax", "route"];
        assert!((kernels.len()..=app.forward.plan().steps().len()).contains(&count), "compiled {count}");
        let ((), count) = compiled(|| {
            app.record(&mut encoder(&gpu));
            gpu.queue().submit([encoder(&gpu).finish()]);
        });
        assert_eq!(count, 0, "by recording");
        let (_, count) = compiled(|| App::new(&gpu.clone(), &layer(&gpu.clone(), PlanKind::AsWritten), &x));
        assert_eq!(count, 0, "by a second layer");
    }
}

/// Recording makes no buffers, as far as the device's allocator tells.
#[test]
fn recording_allocates_nothing() {
    for gpu in gpus() {
        let allocations = || gpu.device().generate_allocator_report().map(|report| report.allocations.len());
        let before = allocations();
        let app = App::new(&gpu, &layer(&gpu, PlanKind::AsWritten), &random(12, TOKENS * DIMENSIONS[0]));
        let planned = allocations();
        let mut encoder = encoder(&gpu);
        for _ in 0..10 {
            app.record(&mut encoder);
        }
        assert_eq!(allocations(), planned);
        // Where there is a report, it sees the buffers that planning makes; it cannot be blind to those of recording.
        assert!(before.is_none() || planned > before, "{before:?}, {planned:?}");
    }
}

/// Softmax of rows in the middle of the app's buffer, at offsets that no binding may start at: what lies around them stays.
#[test]
fn softmax_in_place_leaves_the_rest() {
    let (rows, columns, rest) = (5, 33, 1e30f32.to_bits());
    let x = random(13, rows * columns);
    let exact: Vec<f64> = x.iter().map(|&value| value.into()).collect();
    let axis = Axis { outer: rows, length: columns, inner: 1 };
    let (truth, bound) = (softmax(&exact, axis, None), softmax_bound(&exact, axis, None));
    for gpu in gpus() {
        for class in AdapterClass::ALL {
            let gpu = gpu.with_class(class);
            for start in [0, 1, 4, 63, 67] {
                let inside = start..start + x.len();
                let mut contents = vec![rest; start + x.len() + 67];
                contents[inside.clone()].copy_from_slice(bytemuck::cast_slice(&x));
                let buffer = gpu.upload("the app's", bytemuck::cast_slice(&contents)).expect("a buffer");
                let part = Tensor::f32(&buffer, &[rows, columns]).offset(4 * start as u64);
                let plan = Softmax::new(part.clone(), part, 1).plan(&gpu).expect("a plan");
                let mut encoder = encoder(&gpu);
                plan.record(&mut encoder.begin_compute_pass(&Default::default()));
                gpu.queue().submit([encoder.finish()]);

                let after: Vec<u32> = read(&gpu, &Tensor::u32(&buffer, &[contents.len()]));
                assert_within(bytemuck::cast_slice(&after[inside.clone()]), &truth, &bound);
                let around = after[..inside.start].iter().chain(&after[inside.end..]);
                assert!(around.into_iter().all(|&bits| bits == rest), "from {start} as {class:?}");
            }
        }
    }
}

/// Errors of the app's own keep going to the app's handler, and its error scopes stay its own.
#[test]
fn the_app_keeps_its_error_handler() {
    for gpu in gpus() {
        let adapters = pollster::block_on(Gpu::adapters(gpu.info().backend.into()));
        let description = wgpu::DeviceDescriptor { required_limits: Gpu::required_limits(), ..Default::default() };
        let (device, queue) = pollster::block_on(adapters[0].request_device(&description)).expect("a device");
        let errors = Arc::new(AtomicU32::new(0));
        let counted = errors.clone();
        device.on_uncaptured_error(Arc::new(move |_| {
            counted.fetch_add(1, Ordering::Relaxed);
        }));

        let gpu = Gpu::from_device(device.clone(), queue);
        let scope = device.push_error_scope(wgpu::ErrorFilter::Validation);
        let weights = random_weights(7, DIMENSIONS);
        for order in [Order::AsWritten].into_iter().chain(Order::FOLDED) {
            let layer = DoubleRouting::with_order(&gpu, &weights, Settings::default(), order).expect("a layer");
            let app = App::new(&gpu, &layer, &random(14, TOKENS * DIMENSIONS[0]));
            let mut encoder = encoder(&gpu);
            app.record(&mut encoder);
            gpu.queue().submit([encoder.finish()]);
        }
        assert_eq!(wait(&gpu, scope.pop()).map(|error| error.to_string()), None);

        assert_eq!(errors.load(Ordering::Relaxed), 0);
        let usage = wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::MAP_WRITE;
        let _ =
            device.create_buffer(&wgpu::BufferDescriptor { label: None, size: 4, usage, mapped_at_creation: false });
        assert_eq!(errors.load(Ordering::Relaxed), 1);
    }
}

/// A device requested with less than the library needs is refused with both numbers, before anything reaches the graphics API.
#[test]
fn a_device_with_too_little_is_refused() {
    for gpu in gpus() {
        let adapters = pollster::block_on(Gpu::adapters(gpu.info().backend.into()));
        let descriptor =
            wgpu::DeviceDescriptor { required_limits: wgpu::Limits::downlevel_defaults(), ..Default::default() };
        let (device, queue) = pollster::block_on(adapters[0].request_device(&descriptor)).expect("a small device");
        let small = Gpu::from_device(device, queue);
        let buffer = || small.buffer("operand", Element::F32, 64).expect("a buffer");
        let (x, y) = (buffer(), buffer());
        let refusal = Softmax::new(Tensor::f32(&x, &[8, 8]), Tensor::f32(&y, &[8, 8]), 1).plan(&small);
        let refusal = refusal.expect_err("too few bindings").to_string();
        assert_eq!(refusal, "device: storage buffers of a stage needs 8, the device allows 4");
    }
}

/// A scope that an early return drops ends quietly, and later ones still work.
#[test]
fn an_error_scope_may_be_dropped() {
    for gpu in gpus() {
        drop(gpu.error_scope());
        let scope = gpu.error_scope();
        assert_eq!(wait(&gpu, scope.close()), Ok(()));
    }
}

/// A device that is gone gives errors, whatever is asked of it; nothing panics and nothing waits for ever.
#[test]
fn a_lost_device_is_an_error() {
    for gpu in gpus() {
        let layer = layer(&gpu, PlanKind::Folded);
        let session = wait(&gpu, layer.session(&SHAPE, false)).expect("a session");
        let x = random(1, TOKENS * DIMENSIONS[0]);
        assert!(wait(&gpu, session.run(&x, None)).is_ok());
        gpu.device().destroy();
        // Polling a destroyed device may itself fail, so the future is driven by an executor that does not.
        let after = pollster::block_on(session.run(&x, None));
        assert!(after.is_err(), "{after:?}");
        assert!(pollster::block_on(layer.session(&SHAPE, false)).is_err());
    }
}
