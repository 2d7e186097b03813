//! A router on burn's own tensors: their buffers are bound where they lie, and nothing is copied.
//!
//!     cargo run --release --manifest-path peers/Cargo.toml --example router_on_burn
//!
//! burn makes the activations, double-routing reads them and writes ids and gates into tensors that burn made, and burn goes on
//! with those: one device, one queue, no waiting in between. Exit status 1 means that something was not as it should be.

#![allow(clippy::print_stdout, reason = "an example shows what it does")]

use anyhow::{Context, Result, anyhow, ensure};
use burn::{
    backend::{
        BackendTypes, Wgpu,
        wgpu::{CubeBackend, WgpuResource, WgpuRuntime},
    },
    tensor::{
        BackendPrimitive, DType, Device, Distribution, IndexingUpdateOp, Int, Tensor,
        kind::Basic,
        wgpu::{MemoryConfiguration, WgpuSetup},
    },
};
use cubecl_runtime::{runtime::Runtime, storage::ManagedResource};
use double_routing::{
    Element, Gpu, Tensor as View, bytemuck,
    moe::{Router, RouterConfig, RouterWeights},
    reference::{
        PathRule, PathsOfRow, Product, ROUNDING, gate_bound, group_score, matmul, path_scores, route_paths, score_bound,
    },
    wgpu,
};

const TOKENS: usize = 512;
const FEATURES: usize = 64;
const ROUTER: RouterConfig = RouterConfig::deepseek_v3();

fn main() -> Result<()> {
    let (paths, each) = (ROUTER.paths, ROUTER.per_token);
    // By default burn carves tensors out of common buffers. A dispatch may read a buffer or write it, not both: burn gets by as
    // its kernels declare whatever they bind as written; ours do not. So each tensor gets a buffer of its own.
    let options = Device::wgpu_options().memory_config(MemoryConfiguration::ExclusivePages);
    let (device, setup) = options.init_with_setup().map_err(|error| anyhow!("burn opens no adapter: {error}"))?;
    let WgpuSetup { device: shared, queue, .. } = setup;
    let gpu = Gpu::from_device(shared, queue);

    // In eighths, as x will be: products and their sums are exact in f32, so the reference has the same logits.
    let mut random = fastrand::Rng::with_seed(1);
    let gate: Vec<f32> = (0..paths * FEATURES).map(|_| random.i32(-4..=4) as f32 / 8.0).collect();
    let bias: Vec<f32> = (0..paths).map(|_| 0.1 * random.f32()).collect();
    let weights = RouterWeights::new(gate.clone(), [paths, FEATURES], Some(bias.clone().into()))?;
    let router = Router::new(&gpu, &weights, ROUTER)?;

    // Activations that no host has seen, and room for what comes of them.
    device.seed(3);
    let x = Tensor::<2>::random([TOKENS, FEATURES], Distribution::Uniform(-4.0, 4.0), &device).round() / 8.0;
    let ids = Tensor::<2, Int>::empty([TOKENS, each], (&device, DType::U32));
    let gates = Tensor::<2>::empty([TOKENS, each], (&device, DType::F32));

    // A plan names buffers, so it lives as long as they are lent.
    let (lent_x, lent_ids, lent_gates) = (Lent::new(&x)?, Lent::new(&ids)?, Lent::new(&gates)?);
    let forward = router.forward(lent_x.view(Element::F32)).ids(lent_ids.view(Element::U32));
    let routing = forward.gates(lent_gates.view(Element::F32)).dispatch().plan()?;
    let mut encoder = gpu.device().create_command_encoder(&Default::default());
    routing.record(&mut encoder.begin_compute_pass(&Default::default()));
    // burn submits in batches, and lending has submitted what the tensors come from. Whatever else it has kept back comes before
    // ours now, and what it is told from here on behind it.
    device.flush()?;
    gpu.queue().submit([encoder.finish()]);

    // burn goes on with its tensors: what each path weighs over all tokens.
    let dense = Tensor::<2>::zeros([TOKENS, paths], &device);
    let load = dense.scatter(1, ids.clone(), gates.clone(), IndexingUpdateOp::Add).sum_dim(0);

    for (name, bound, now) in [
        ("x", &lent_x, Lent::new(&x)?),
        ("ids", &lent_ids, Lent::new(&ids)?),
        ("gates", &lent_gates, Lent::new(&gates)?),
    ] {
        ensure!(bound.place() == now.place(), "burn's {name} is not where it was bound");
    }
    let counts = routing.counts().context("nothing was dispatched")?;
    let counts: Vec<u32> = bytemuck::pod_collect_to_vec(&pollster::block_on(gpu.read(&counts))?);
    let (x, ids, gates, load) =
        (read::<f32, _>(x)?, read::<u32, _>(ids)?, read::<f32, _>(gates)?, read::<f32, _>(load)?);

    // Everything is as the reference has it, from what burn reads back.
    let product = Product { rows: TOKENS, columns: paths, depth: FEATURES, transposed: true, ..Product::default() };
    let logits = matmul(&exactly(&x), &exactly(&gate), None, &product);
    let mut decided = 0;
    for (token, logits) in logits.chunks(paths).enumerate() {
        let slots = token * each..(token + 1) * each;
        let Some(expected) = choice(logits, &exactly(&bias)) else { continue };
        ensure!(ids[slots.clone()] == expected.ids, "token {token}: {:?}, expected {:?}", &ids[slots], expected.ids);
        let bounds = gate_bound(logits, &expected.ids, ROUTER.choice.into());
        for ((&gate, expected), bound) in gates[slots].iter().zip(&expected.gates).zip(bounds) {
            let error = (f64::from(gate) - expected).abs();
            ensure!(error <= bound, "token {token}: gate {gate}, expected {expected} ± {bound:.1e}");
        }
        decided += 1;
    }
    ensure!(decided * 100 >= TOKENS * 99, "f32 decides the paths of only {decided} tokens of {TOKENS}");
    for (path, (&count, &load)) in counts.iter().zip(&load).enumerate() {
        let of_path: Vec<_> = ids.iter().zip(&gates).filter(|(id, _)| **id as usize == path).collect();
        ensure!(count as usize == of_path.len(), "path {path}: {count} tokens counted, of {}", of_path.len());
        let sum: f64 = of_path.iter().map(|(_, gate)| f64::from(**gate)).sum();
        // As many additions as tokens at most, whatever the order.
        let bound = TOKENS as f64 * ROUNDING * sum;
        ensure!(
            (f64::from(load) - sum).abs() <= bound,
            "path {path}: burn adds up {load}, expected {sum} ± {bound:.1e}"
        );
    }

    println!("one device for both: {}", gpu.info().name);
    for (name, lent) in [("x", &lent_x), ("ids", &lent_ids), ("gates", &lent_gates)] {
        let WgpuResource { buffer, offset, .. } = lent.resource.resource();
        println!("{name:5} {:?} is burn's: byte {offset} of its buffer of {}", lent.shape, buffer.size());
    }
    println!(
        "{decided} of {TOKENS} tokens have the reference's paths and gates, {} f32 does not decide",
        TOKENS - decided
    );
    let busiest = counts.iter().zip(&load).enumerate().max_by_key(|(_, (count, _))| **count);
    let (path, (count, load)) = busiest.context("no path")?;
    println!("path {path} is the busiest: {count} tokens counted by our plan, {load:.2} of weight added up by burn");
    Ok(())
}

/// A tensor whose buffer burn lends: while this lives, the memory is neither moved nor used for anything else.
struct Lent {
    resource: ManagedResource<WgpuResource>,
    shape: Vec<usize>,
}

impl Lent {
    /// burn's lazy operations are run up to the tensor, which is what makes it have a buffer.
    fn new<K>(tensor: &Tensor<2, K>) -> Result<Self>
    where
        K: Basic + BackendPrimitive<Wgpu, Primitive = <Wgpu as BackendTypes>::FloatTensorPrimitive>,
    {
        let lazy =
            tensor.clone().try_into_primitive::<Wgpu>().map_err(|error| anyhow!("no tensor of wgpu: {error:?}"))?;
        let tensor = lazy.client.clone().resolve_tensor_float::<CubeBackend>(lazy);
        ensure!(tensor.is_contiguous(), "the tensor is a view whose strides are {:?}", tensor.meta.strides());
        let resource = tensor.client.get_resource::<<WgpuRuntime as Runtime>::Server>(tensor.handle.clone());
        let resource = resource.map_err(|error| anyhow!("burn lends no buffer: {error:?}"))?;
        Ok(Self { resource, shape: tensor.meta.shape().to_vec() })
    }

    fn view(&self, element: Element) -> View<'_> {
        let WgpuResource { buffer, offset, .. } = self.resource.resource();
        View::new(buffer, element, &self.shape).offset(*offset)
    }

    fn place(&self) -> (&wgpu::Buffer, u64) {
        let WgpuResource { buffer, offset, .. } = self.resource.resource();
        (buffer, *offset)
    }
}

/// The paths of a token by the reference; none where what f32 may be off could change them.
fn choice(logits: &[f64], bias: &[f64]) -> Option<PathsOfRow> {
    let rule: PathRule = ROUTER.choice.into();
    let c: Vec<_> = path_scores(logits, rule.score).iter().zip(bias).map(|(score, bias)| score + bias).collect();
    let of_scores = score_bound(logits, rule.score).into_iter().zip(&c);
    let bound = of_scores.map(|(bound, c)| bound + ROUNDING * c.abs()).fold(0.0, f64::max);
    let mut groups: Vec<_> = c.chunks(c.len() / rule.groups).map(|group| group_score(group, rule.sum_of_two)).collect();
    groups.sort_by(|one, other| other.total_cmp(one));
    // Two sums of two, each with a rounding of its own.
    let groups_apart = groups[rule.kept - 1] - groups[rule.kept] > 2.0 * (2.0 * bound + ROUNDING * groups[0].abs());
    let next = route_paths(logits, Some(bias), ROUTER.per_token + 1, rule).ids;
    let apart = next.windows(2).all(|pair| c[pair[0] as usize] - c[pair[1] as usize] > 2.0 * bound);
    (apart && groups_apart).then(|| route_paths(logits, Some(bias), ROUTER.per_token, rule))
}

fn exactly(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&value| value.into()).collect()
}

fn read<E: burn::tensor::Element, K: Basic>(tensor: Tensor<2, K>) -> Result<Vec<E>> {
    tensor.try_into_data()?.try_into_vec().map_err(|error| anyhow!("burn reads another type: {error:?}"))
}
