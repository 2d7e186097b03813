//! Activations of 16 bits: a layer computes the same with them as with f32, and rounds once.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test that cannot go on fails, and says why"
)]

mod common;

use common::{gpus, random, random_weights, storage, wait};
use double_routing::{
    DoubleRouting, Element, Gpu, Linear, Plan, PlanKind, Selection, Settings, Tensor, Values, Weights, bytemuck,
    kernels::Matmul,
    moe::{ExpertWeights, MoeFeedForward, MoeWeights, RouterConfig, RouterWeights, SharedWeights},
    wgpu,
};

const HALVES: [Element; 2] = [Element::F16, Element::BF16];

fn submit(gpu: &Gpu, record: impl FnOnce(&mut wgpu::ComputePass<'_>)) {
    let mut encoder = gpu.device().create_command_encoder(&Default::default());
    record(&mut encoder.begin_compute_pass(&Default::default()));
    gpu.queue().submit([encoder.finish()]);
}

fn upload<'a>(gpu: &Gpu, values: &Values, shape: &[usize], buffer: &'a mut Option<wgpu::Buffer>) -> Tensor<'a> {
    Tensor::new(buffer.insert(gpu.upload("x", values.bytes()).expect("a buffer")), values.element(), shape)
}

/// Runs a forward of x in its type and widened, and with y in f32 and in 16 bits: y must be the same numbers, rounded once.
fn rounds_once(
    what: &str,
    gpu: &Gpu,
    x: &[f32],
    shape: &[usize],
    outputs: &[usize],
    record: impl Fn(Tensor<'_>, Tensor<'_>, &mut wgpu::ComputePass<'_>),
) {
    for (of_x, of_y) in [(Element::F16, Element::BF16), (Element::BF16, Element::F16)] {
        let stored = Values::rounded(x, of_x);
        let y_of = |x: &Values, element: Element| {
            let mut buffer = None;
            let x = upload(gpu, x, shape, &mut buffer);
            // The half word behind an odd number of elements, and the words around it, are not y's.
            let count: usize = outputs.iter().product();
            let bytes = count * element.bytes();
            let before = vec![0xa5u8; 256 + bytes.next_multiple_of(4) + 256];
            let y = gpu.upload("y", &before).expect("a buffer");
            let tensor = Tensor::new(&y, element, outputs).offset(256);
            submit(gpu, |pass| record(x, tensor, pass));
            let after = wait(gpu, gpu.read(&Tensor::u32(&y, &[before.len() / 4]))).expect("a result");
            assert!(after[..256] == before[..256] && after[256 + bytes..] == before[256 + bytes..], "{what}: guards");
            after[256..256 + bytes].to_vec()
        };
        let wide = Values::F32(stored.to_f32());
        let full = y_of(&stored, Element::F32);
        assert!(full == y_of(&wide, Element::F32), "{what}: x in {of_x} and widened differ");
        let full: Vec<f32> = bytemuck::pod_collect_to_vec(&full);
        assert!(full.iter().any(|&y| y != 0.0) && full.iter().all(|y| y.is_finite()), "{what}");
        let expected = Values::rounded(&full, of_y);
        assert!(y_of(&stored, of_y) == expected.bytes(), "{what}: x in {of_x}, y in {of_y}");
    }
}

fn layer_rounds_once(what: &str, gpu: &Gpu, weights: &Weights, settings: Settings, shape: [usize; 3], skip: bool) {
    let layer = DoubleRouting::new(gpu, weights, settings).expect("a layer");
    let output = weights.dimensions().output;
    let outputs = [shape[0], shape[1], output];
    let skipped = random(9, outputs.iter().product());
    let mut buffer = None;
    let skipped = upload(gpu, &Values::rounded(&skipped, Element::BF16), &outputs, &mut buffer);
    rounds_once(what, gpu, &random(8, shape.iter().product()), &shape, &outputs, |x, y, pass| {
        let mut forward = layer.forward(x).output(y);
        if skip {
            forward = forward.skip(skipped.clone());
        }
        forward.plan().expect("a plan").record(pass);
    });
}

#[test]
fn the_layer_rounds_y_once() {
    for gpu in gpus() {
        let [even, odd] = [random_weights(1, [20, 6, 10, 14]), random_weights(2, [21, 6, 9, 13])];
        let folded = Settings::default();
        let written = Settings { plan: PlanKind::AsWritten, ..folded };
        let selecting = Settings { selection: Selection::TopK(5), ..folded };
        layer_rounds_once("folded", &gpu, &even, folded, [3, 17, 20], false);
        layer_rounds_once("as written, odd", &gpu, &odd, written, [3, 17, 21], false);
        layer_rounds_once("selecting", &gpu, &even, selecting, [3, 17, 20], true);
        layer_rounds_once("selecting, odd", &gpu, &odd, selecting, [3, 17, 21], true);
        let linear = |seed, out: usize, features: usize| {
            Linear::new(random(seed, out * features), [out, features], random(seed + 1, out))
        };
        let gate = linear(20, 4, 10);
        let paths = Linear::new(random(22, 4 * 14 * 10), [4 * 14, 10], random(23, 4 * 14));
        let several = Weights::with_paths(linear(24, 6, 20), linear(26, 1, 6), linear(28, 10, 6), gate, paths);
        layer_rounds_once("paths", &gpu, &several.expect("weights"), Settings::default(), [2, 9, 20], false);
    }
}

#[test]
fn the_block_rounds_y_once() {
    for gpu in gpus() {
        for features in [24, 19] {
            let experts = |seed, paths| {
                let stack = |seed| random(seed, paths * 12 * features);
                ExpertWeights::new(stack(seed), stack(seed + 1), stack(seed + 2), [paths, 12, features])
                    .expect("experts")
            };
            let weights = MoeWeights {
                router: RouterWeights::new(random(1, 8 * features), [8, features], None).expect("a router"),
                experts: experts(2, 8),
                shared: Some(SharedWeights { expert: experts(5, 1), gate: Some(random(8, features).into()) }),
            };
            let block = MoeFeedForward::new(&gpu, &weights, RouterConfig::mixtral()).expect("a block");
            let shape = [23, features];
            rounds_once(
                &format!("a block of {features}"),
                &gpu,
                &random(11, 23 * features),
                &shape,
                &shape,
                |x, y, pass| {
                    block.forward(x).output(y).plan().expect("a plan").record(pass);
                },
            );
        }
    }
}

/// On devices whose bindings are tiny: blocks of rows and of columns, and sums that go on in another dispatch.
#[test]
fn products_cut_into_dispatches_round_once() {
    for whole in gpus() {
        let backend = whole.info().backend;
        let adapters = pollster::block_on(Gpu::adapters(backend.into()));
        let limits = wgpu::Limits { max_storage_buffer_binding_size: 4096, ..Gpu::required_limits() };
        let features = Gpu::useful_features(&adapters[0]);
        let gpu = pollster::block_on(Gpu::open_adapter(&adapters[0], features, limits)).expect("a device");
        for (m, n, k, transposed) in
            [(70, 60, 50, true), (33, 127, 64, true), (300, 7, 20, false), (5, 200, 300, false), (3, 6, 1500, true)]
        {
            let (a, b) = (random(1, m * k), random(2, n * k));
            let mut buffers = [None, None];
            let [of_a, of_b] = &mut buffers;
            let a = upload(&gpu, &Values::rounded(&a, Element::F16), &[m, k], of_a);
            let b_shape = if transposed { [n, k] } else { [k, n] };
            let b = upload(&gpu, &Values::rounded(&b, Element::F16), &b_shape, of_b);
            let product = |c: Tensor<'_>| -> Plan {
                let mut product = Matmul::new(a.clone(), b.clone(), c).batch_invariant(true);
                if transposed {
                    product = product.transposed();
                }
                product.plan(&gpu).expect("a plan")
            };
            let c_of = |element: Element| {
                let c = storage(&gpu, (m * n * element.bytes()).next_multiple_of(4) as u64);
                let c = Tensor::new(&c, element, &[m, n]);
                let plan = product(c.clone());
                assert!(plan.steps().len() > 3, "{} steps", plan.steps().len());
                submit(&gpu, |pass| plan.record(pass));
                wait(&gpu, gpu.read(&c)).expect("a result")
            };
            let full: Vec<f32> = bytemuck::pod_collect_to_vec(&c_of(Element::F32));
            for element in HALVES {
                assert!(
                    c_of(element) == Values::rounded(&full, element).bytes(),
                    "{m}x{n}x{k} in {element} on {backend}"
                );
            }
        }
    }
}
