//! burn on wgpu.

use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, bail, ensure};
use burn::{
    module::Param,
    nn::Linear,
    tensor::{
        Device, DeviceKind, IndexingUpdateOp, Int, Tensor, TensorData,
        activation::{sigmoid, silu, softmax},
        wgpu::{WgpuBackend, WgpuSetup},
    },
};
use double_routing::{
    Gpu, Values, Weights,
    kernels::GroupLimit,
    moe::{ExpertWeights, MoeWeights, RouterConfig},
    reference::Layer,
    wgpu,
};

use crate::{
    side::{Side, Way, first, side_by_side},
    work::{Problem, ROUTER},
};

/// Opens the adapter as burn does for its users.
pub fn open(named: Option<&str>) -> Result<(Device, wgpu::AdapterInfo)> {
    let infos: Vec<_> =
        pollster::block_on(Gpu::adapters(wgpu::Backends::all())).iter().map(wgpu::Adapter::get_info).collect();
    let fits =
        |info: &wgpu::AdapterInfo| named.is_none_or(|named| info.name.to_lowercase().contains(&named.to_lowercase()));
    let Some(chosen) = infos.iter().position(fits) else {
        let names: Vec<_> = infos.iter().map(|info| format!("{} ({})", info.name, info.backend)).collect();
        bail!("no adapter named '{}'; there: {}", named.unwrap_or_default(), names.join(", "));
    };
    let info = &infos[chosen];
    // burn counts the adapters of a kind on one backend.
    let like = |other: &&wgpu::AdapterInfo| other.device_type == info.device_type && other.backend == info.backend;
    let place = infos[..chosen].iter().filter(like).count();
    let kind = match info.device_type {
        wgpu::DeviceType::DiscreteGpu => DeviceKind::DiscreteGpu(place),
        wgpu::DeviceType::IntegratedGpu => DeviceKind::IntegratedGpu(place),
        wgpu::DeviceType::VirtualGpu => DeviceKind::VirtualGpu(place),
        wgpu::DeviceType::Cpu => DeviceKind::Cpu,
        wgpu::DeviceType::Other => bail!("burn cannot be told to open {} ({})", info.name, info.backend),
    };
    let backend = match info.backend {
        wgpu::Backend::Vulkan => WgpuBackend::Vulkan,
        wgpu::Backend::Metal => WgpuBackend::Metal,
        wgpu::Backend::Dx12 => WgpuBackend::Dx12,
        wgpu::Backend::Gl => WgpuBackend::Gl,
        other => bail!("burn cannot be told to open {} ({other})", info.name),
    };
    let (device, setup) = Device::wgpu_options()
        .device_kind(kind)
        .graphics_api(backend)
        .init_with_setup()
        .map_err(|error| anyhow!("burn cannot open {} ({}): {error}", info.name, info.backend))?;
    let WgpuSetup { adapter, .. } = setup;
    let opened = adapter.get_info();
    ensure!(
        (&opened.name, opened.backend) == (&info.name, info.backend),
        "burn opened {} ({}) instead of {} ({})",
        opened.name,
        opened.backend,
        info.name,
        info.backend
    );
    Ok((device, opened))
}

/// Every way to do a problem's work, and how long the first took for the first time.
pub fn ways(device: &Device, problem: &Problem) -> Result<(Vec<Way>, Duration)> {
    let (mut ways, mut first_time) = (Vec::new(), None);
    for &manner in Manner::ways(problem) {
        let operands = Operands::upload(device, problem, manner)?;
        let (way, time) = first(|| operands.prepare())?;
        first_time.get_or_insert(time);
        ways.push(way);
    }
    Ok((ways, first_time.unwrap_or_default()))
}

/// What users can write in more than one way: how the weights, or a product's B, lie in memory, and how a router leaves groups
/// out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Manner {
    /// `[in, out]` or `[K, N]`, as burn's own layers have it.
    AsUsed,
    /// `[out, in]` or `[N, K]`, as PyTorch has it, seen through a transposition.
    Transposed,
    /// The kept groups are scattered into a mask.
    Scattered,
    /// Groups below the last one kept are left out.
    Threshold,
    /// Weights of the chosen experts are copied for each token: only few tokens allow it.
    Gathered,
}

impl Manner {
    /// The ways to do a work, first the one that a user would write first.
    fn ways(problem: &Problem) -> &'static [Self] {
        match problem {
            Problem::Matmul { transposed: true, .. } => &[Self::Transposed, Self::AsUsed],
            Problem::Matmul { .. } | Problem::Forward { .. } => &[Self::AsUsed, Self::Transposed],
            Problem::Softmax { .. } | Problem::Select { .. } => &[Self::AsUsed],
            Problem::Router { .. } => &[Self::Scattered, Self::Threshold],
            Problem::Moe { tokens: 1, .. } => &[Self::Gathered, Self::AsUsed],
            Problem::Moe { .. } => &[Self::AsUsed, Self::Transposed],
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::AsUsed => "as used",
            Self::Transposed => "transposed",
            Self::Scattered => "scattered mask",
            Self::Threshold => "threshold",
            Self::Gathered => "gathered",
        }
    }

    /// A map's matrix, which PyTorch has as `[out, in]`, as `[in, out]`.
    fn map(self, values: &[f32], [out, features]: [usize; 2], device: &Device) -> Tensor<2> {
        match self {
            Self::Transposed => tensor(values.to_vec(), [out, features], device).transpose(),
            _ => tensor(transposed(values, [out, features]), [features, out], device),
        }
    }
}

/// A problem's operands on the device; a layer's weights are still on the host.
struct Operands<'a> {
    device: &'a Device,
    problem: &'a Problem,
    manner: Manner,
    inputs: Inputs,
}

enum Inputs {
    Sequences(Tensor<3>),
    Matrices(Tensor<2>, Tensor<2>),
    Rows(Tensor<2>),
}

impl<'a> Operands<'a> {
    fn upload(device: &'a Device, problem: &'a Problem, manner: Manner) -> Result<Self> {
        let inputs = match problem {
            Problem::Forward { shape, x, .. } => Inputs::Sequences(tensor(x.clone(), *shape, device)),
            Problem::Softmax { shape, x } => Inputs::Rows(tensor(x.clone(), *shape, device)),
            Problem::Select { shape, x, .. } => Inputs::Rows(tensor(x.clone(), *shape, device)),
            Problem::Router { tokens, logits, bias } => Inputs::Matrices(
                tensor(logits.clone(), [*tokens, ROUTER.paths], device),
                tensor(bias.clone(), [1, ROUTER.paths], device),
            ),
            Problem::Moe { tokens, weights, x } => {
                Inputs::Rows(tensor(x.clone(), [*tokens, weights.experts.features], device))
            }
            // Of f16 too: the same values in f32.
            Problem::Matmul { shape: [rows, columns, depth], transposed: given, a, b, .. } => {
                let (stored, other) = ([*columns, *depth], [*depth, *columns]);
                let (had, other) = if *given { (stored, other) } else { (other, stored) };
                let as_given = *given == (manner == Manner::Transposed);
                let b =
                    if as_given { tensor(b.clone(), had, device) } else { tensor(transposed(b, had), other, device) };
                Inputs::Matrices(tensor(a.clone(), [*rows, *depth], device), b)
            }
        };
        device.sync()?;
        Ok(Self { device, problem, manner, inputs })
    }

    fn prepare(&self) -> Result<Way> {
        let side: Box<dyn Side> = match (&self.inputs, self.problem) {
            (Inputs::Sequences(x), Problem::Forward { weights, .. }) => {
                let (x, layer) = (x.clone(), DoubleRouting::new(weights, self.manner, self.device));
                self.computed(move || layer.forward(x.clone()))
            }
            (Inputs::Matrices(logits, bias), Problem::Router { .. }) => {
                let (logits, bias, mask) = (logits.clone(), bias.clone(), self.manner);
                self.computed(move || choose(logits.clone(), bias.clone(), mask))
            }
            (Inputs::Matrices(a, b), _) => {
                let (a, b) = (a.clone(), b.clone());
                match self.manner {
                    Manner::Transposed => self.computed(move || a.clone().matmul(b.clone().transpose())),
                    _ => self.computed(move || a.clone().matmul(b.clone())),
                }
            }
            (Inputs::Rows(x), Problem::Select { count, .. }) => {
                let (x, count) = (x.clone(), *count);
                // On the device, by one reduction that keeps `count` candidates; indices come with the values.
                self.computed(move || x.clone().topk_with_indices(count, 1))
            }
            (Inputs::Rows(x), Problem::Moe { weights, .. }) => {
                let (x, block) = (x.clone(), Mixture::new(weights, self.manner, self.device));
                self.computed(move || block.forward(x.clone()))
            }
            (Inputs::Rows(x), _) => {
                let x = x.clone();
                self.computed(move || softmax(x.clone(), 1))
            }
            _ => bail!("an operand is missing"),
        };
        Ok(Way { name: self.manner.name(), side })
    }

    fn computed<R: Readable + 'static>(&self, compute: impl Fn() -> R + 'static) -> Box<dyn Side> {
        Box::new(Computed { device: self.device.clone(), compute })
    }
}

struct Computed<Compute> {
    device: Device,
    compute: Compute,
}

/// A result that can be read back.
trait Readable {
    fn read(self) -> Result<Vec<f32>>;
}

impl<const D: usize> Readable for Tensor<D> {
    fn read(self) -> Result<Vec<f32>> {
        let data = self.try_into_data()?;
        data.try_into_vec::<f32>().map_err(|error| anyhow!("burn's result is no f32: {error:?}"))
    }
}

/// A choice.
impl Readable for (Tensor<2>, Tensor<2, Int>) {
    fn read(self) -> Result<Vec<f32>> {
        let (values, ids) = self;
        let [_, columns] = values.dims();
        let ids: Vec<f32> = ids.try_into_data()?.iter::<f32>().collect();
        Ok(side_by_side(&values.read()?, &ids, columns))
    }
}

impl<R: Readable, Compute: Fn() -> R> Side for Computed<Compute> {
    fn time(&self, repetitions: u32) -> Result<Duration> {
        let start = Instant::now();
        // Kept until the clock has stopped: what nobody can read any more need not be computed.
        let results: Vec<_> = (0..repetitions).map(|_| (self.compute)()).collect();
        self.device.sync()?;
        let elapsed = start.elapsed();
        drop(results);
        Ok(elapsed)
    }

    fn result(&self) -> Result<Vec<f32>> {
        (self.compute)().read()
    }
}

/// The layer as its source writes it.
struct DoubleRouting {
    embedding: Linear,
    attention: Linear,
    routing1: Linear,
    routing2: Linear,
}

impl DoubleRouting {
    fn new(weights: &Weights, manner: Manner, device: &Device) -> Self {
        let layer: Layer<f32> = weights.to_reference().cast();
        let (a, r, o) = (layer.attention, layer.routing, layer.output);
        let linear = |weight: &[f32], bias: &[f32], shape: [usize; 2]| Linear {
            weight: Param::from_tensor(manner.map(weight, shape, device)),
            bias: Some(Param::from_tensor(tensor(bias.to_vec(), [shape[0]], device))),
        };
        Self {
            embedding: linear(&layer.embedding_weight, &layer.embedding_bias, [a, layer.input]),
            attention: linear(&layer.attention_weight, &layer.attention_bias, [1, a]),
            routing1: linear(&layer.routing1_weight, &layer.routing1_bias, [r, a]),
            routing2: linear(&layer.routing2_weight, &layer.routing2_bias, [o, r]),
        }
    }

    fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let h = self.embedding.forward(x);
        let w = softmax(self.attention.forward(h.clone()), 1);
        self.routing2.forward(self.routing1.forward(h * w))
    }
}

/// The router: gates and paths of each row of logits.
fn choose(logits: Tensor<2>, bias: Tensor<2>, mask: Manner) -> (Tensor<2>, Tensor<2, Int>) {
    let RouterConfig { paths, per_token, choice } = ROUTER;
    let [tokens, _] = logits.dims();
    let scores = sigmoid(logits);
    let mut c = scores.clone() + bias;
    if let Some(GroupLimit { groups, kept, .. }) = choice.groups {
        let (groups, kept) = (groups as usize, kept as usize);
        let of_groups = c.clone().reshape([tokens, groups, paths / groups]).topk(2, 2).sum_dim(2);
        let of_groups = of_groups.reshape([tokens, groups]);
        let excluded = if mask == Manner::Threshold {
            let least = of_groups.clone().topk(kept, 1).narrow(1, kept - 1, 1);
            of_groups.lower(least)
        } else {
            let (best, places) = of_groups.clone().topk_with_indices(kept, 1);
            of_groups.zeros_like().scatter(1, places, best.ones_like(), IndexingUpdateOp::Add).equal_elem(0.0)
        };
        let excluded = excluded.reshape([tokens, groups, 1]).expand([tokens, groups, paths / groups]);
        c = c.mask_fill(excluded.reshape([tokens, paths]), f32::NEG_INFINITY);
    }
    let (_, ids) = c.topk_with_indices(per_token, 1);
    let chosen = scores.gather(1, ids.clone());
    let sum = chosen.clone().sum_dim(1) + 1e-20;
    (chosen / sum * choice.scale, ids)
}

/// A mixture of experts.
struct Mixture {
    router: Tensor<2>,
    bias: Tensor<2>,
    experts: Experts,
}

/// Their gate, up and down maps.
enum Experts {
    /// All of them as three matrices: every expert is computed for every token, and weighs 0 where it was not chosen.
    Dense([Tensor<2>; 3]),
    /// `[P, out, in]`
    Stacked([Tensor<3>; 3]),
}

impl Mixture {
    fn new(weights: &MoeWeights, manner: Manner, device: &Device) -> Self {
        let MoeWeights { router, experts, .. } = weights;
        let ExpertWeights { gate, up, down, paths, width, features } = experts;
        let (paths, width, features) = (*paths, *width, *features);
        let bias = router.correction_bias.as_ref().map_or_else(|| vec![0.0; paths], Values::to_f32);
        let (gate, up, down) = (gate.to_f32(), up.to_f32(), down.to_f32());
        let experts = if manner == Manner::Gathered {
            let stacked = |values, out, depth| tensor(values, [paths, out, depth], device);
            Experts::Stacked([
                stacked(gate, width, features),
                stacked(up, width, features),
                stacked(down, features, width),
            ])
        } else {
            // `[P, D, I]` as `[D, P, I]`.
            let from = |at: usize| (at / width % paths * features + at / width / paths) * width + at % width;
            let down: Vec<_> = (0..down.len()).map(|at| down[from(at)]).collect();
            let all = paths * width;
            Experts::Dense([
                manner.map(&gate, [all, features], device),
                manner.map(&up, [all, features], device),
                manner.map(&down, [features, all], device),
            ])
        };
        Self {
            router: manner.map(&router.gate.to_f32(), router.shape, device),
            bias: tensor(bias, [1, paths], device),
            experts,
        }
    }

    fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        let ([tokens, features], paths) = (x.dims(), ROUTER.paths);
        let logits = x.clone().matmul(self.router.clone());
        let (gates, ids) = choose(logits.clone(), self.bias.clone(), Manner::Threshold);
        match &self.experts {
            Experts::Dense([gate, up, down]) => {
                let gates = logits.zeros_like().scatter(1, ids, gates, IndexingUpdateOp::Add);
                let hidden = silu(x.clone().matmul(gate.clone())) * x.matmul(up.clone());
                let [_, all] = hidden.dims();
                // Before the last product, which then adds up the experts too.
                let weighted = hidden.reshape([tokens, paths, all / paths]) * gates.reshape([tokens, paths, 1]);
                weighted.reshape([tokens, all]).matmul(down.clone())
            }
            Experts::Stacked(maps) => {
                let slots = tokens * ROUTER.per_token;
                let ids: Tensor<1, Int> = ids.reshape([slots]);
                let [gate, up, down] = maps.each_ref().map(|map| map.clone().select(0, ids.clone()).swap_dims(1, 2));
                let each = [tokens, ROUTER.per_token, features];
                let x = x.reshape([tokens, 1, features]).expand(each).reshape([slots, 1, features]);
                let hidden = silu(x.clone().matmul(gate)) * x.matmul(up);
                let weighted = hidden.matmul(down) * gates.reshape([slots, 1, 1]);
                weighted.reshape(each).sum_dim(1).reshape([tokens, features])
            }
        }
    }
}

fn tensor<const D: usize>(values: Vec<f32>, shape: [usize; D], device: &Device) -> Tensor<D> {
    Tensor::from_data(TensorData::new(values, shape), device)
}

/// A row-major matrix with its rows as columns.
fn transposed(values: &[f32], [rows, columns]: [usize; 2]) -> Vec<f32> {
    (0..columns).flat_map(|column| (0..rows).map(move |row| values[row * columns + column])).collect()
}
