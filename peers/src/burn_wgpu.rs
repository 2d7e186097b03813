//! burn on wgpu.

use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, bail, ensure};
use burn::{
    module::Param,
    nn::Linear,
    tensor::{
        Device, DeviceKind, Tensor, TensorData,
        activation::softmax,
        wgpu::{WgpuBackend, WgpuSetup},
    },
};
use double_routing::{Gpu, Weights, reference::Layer, wgpu};

use crate::{
    side::{Side, Way, first},
    work::Problem,
};

/// Opens the adapter as burn does for its users; double-routing is given the same device.
pub fn open(named: Option<&str>) -> Result<(Device, Gpu)> {
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
    let WgpuSetup { adapter, device: shared, queue, .. } = setup;
    let opened = adapter.get_info();
    ensure!(
        (&opened.name, opened.backend) == (&info.name, info.backend),
        "burn opened {} ({}) instead of {} ({})",
        opened.name,
        opened.backend,
        info.name,
        info.backend
    );
    Ok((device, Gpu::from_device(shared, queue)))
}

/// Every way to do a problem's work, and how long the first took for the first time.
pub fn ways(device: &Device, problem: &Problem) -> Result<(Vec<Way>, Duration)> {
    let (mut ways, mut first_time) = (Vec::new(), None);
    for &stored in Stored::ways(problem) {
        let operands = Operands::upload(device, problem, stored)?;
        let (way, time) = first(|| operands.prepare())?;
        first_time.get_or_insert(time);
        ways.push(way);
    }
    Ok((ways, first_time.unwrap_or_default()))
}

/// How the weights, or a product's B, lie in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stored {
    /// `[in, out]` or `[K, N]`, as burn's own layers have it.
    AsUsed,
    /// `[out, in]` or `[N, K]`, as PyTorch has it, seen through a transposition.
    Transposed,
}

impl Stored {
    /// The ways to do a work, first the one that a user would write first.
    fn ways(problem: &Problem) -> &'static [Self] {
        match problem {
            Problem::Matmul { transposed: true, .. } => &[Self::Transposed, Self::AsUsed],
            Problem::Matmul { .. } | Problem::Forward { .. } => &[Self::AsUsed, Self::Transposed],
            Problem::Softmax { .. } => &[Self::AsUsed],
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::AsUsed => "as used",
            Self::Transposed => "transposed",
        }
    }

    /// A map's matrix, which PyTorch has as `[out, in]`, as `[in, out]`.
    fn map(self, values: &[f32], [out, features]: [usize; 2], device: &Device) -> Tensor<2> {
        match self {
            Self::AsUsed => tensor(transposed(values, [out, features]), [features, out], device),
            Self::Transposed => tensor(values.to_vec(), [out, features], device).transpose(),
        }
    }
}

/// A problem's operands on the device; a layer's weights are still on the host.
struct Operands<'a> {
    device: &'a Device,
    problem: &'a Problem,
    stored: Stored,
    inputs: Inputs,
}

enum Inputs {
    Sequences(Tensor<3>),
    Matrices(Tensor<2>, Tensor<2>),
    Rows(Tensor<2>),
}

impl<'a> Operands<'a> {
    fn upload(device: &'a Device, problem: &'a Problem, stored: Stored) -> Result<Self> {
        let inputs = match problem {
            Problem::Forward { shape, x, .. } => Inputs::Sequences(tensor(x.clone(), *shape, device)),
            Problem::Softmax { shape, x } => Inputs::Rows(tensor(x.clone(), *shape, device)),
            Problem::Matmul { size, transposed: given, a, b } => {
                let shape = [*size; 2];
                let b = if *given == (stored == Stored::Transposed) { b.clone() } else { transposed(b, shape) };
                Inputs::Matrices(tensor(a.clone(), shape, device), tensor(b, shape, device))
            }
        };
        device.sync()?;
        Ok(Self { device, problem, stored, inputs })
    }

    fn prepare(&self) -> Result<Way> {
        let side: Box<dyn Side> = match (&self.inputs, self.problem) {
            (Inputs::Sequences(x), Problem::Forward { weights, .. }) => {
                let (x, layer) = (x.clone(), DoubleRouting::new(weights, self.stored, self.device));
                self.computed(move || layer.forward(x.clone()))
            }
            (Inputs::Matrices(a, b), _) => {
                let (a, b) = (a.clone(), b.clone());
                match self.stored {
                    Stored::AsUsed => self.computed(move || a.clone().matmul(b.clone())),
                    Stored::Transposed => self.computed(move || a.clone().matmul(b.clone().transpose())),
                }
            }
            (Inputs::Rows(x), _) => {
                let x = x.clone();
                self.computed(move || softmax(x.clone(), 1))
            }
            _ => bail!("an operand is missing"),
        };
        Ok(Way { name: self.stored.name(), side })
    }

    fn computed<const D: usize>(&self, compute: impl Fn() -> Tensor<D> + 'static) -> Box<dyn Side> {
        Box::new(Computed { device: self.device.clone(), compute })
    }
}

struct Computed<Compute> {
    device: Device,
    compute: Compute,
}

impl<const D: usize, Compute: Fn() -> Tensor<D>> Side for Computed<Compute> {
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
        let data = (self.compute)().try_into_data()?;
        data.try_into_vec::<f32>().map_err(|error| anyhow!("burn's result is no f32: {error:?}"))
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
    fn new(weights: &Weights, stored: Stored, device: &Device) -> Self {
        let layer: Layer<f32> = weights.to_reference().cast();
        let (a, r, o) = (layer.attention, layer.routing, layer.output);
        let linear = |weight: &[f32], bias: &[f32], shape: [usize; 2]| Linear {
            weight: Param::from_tensor(stored.map(weight, shape, device)),
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

fn tensor<const D: usize>(values: Vec<f32>, shape: [usize; D], device: &Device) -> Tensor<D> {
    Tensor::from_data(TensorData::new(values, shape), device)
}

/// A row-major matrix with its rows as columns.
fn transposed(values: &[f32], [rows, columns]: [usize; 2]) -> Vec<f32> {
    (0..columns).flat_map(|column| (0..rows).map(move |row| values[row * columns + column])).collect()
}
