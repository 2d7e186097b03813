//! What the adapter itself can do: the most multiplications and additions, and the most bytes read or copied, in a second.

use std::collections::HashMap;

use anyhow::bail;
use double_routing::{AdapterClass, Gpu, Tensor, bytemuck, wgpu};
use serde::Serialize;

use super::works::{Operands, Traffic};
use crate::{
    gpu::wait,
    measure::{Effort, Work, measure},
    report,
};

/// What a ceiling limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(tag = "resource", rename_all = "snake_case")]
pub enum Resource {
    /// Multiplications and additions in f32.
    Arithmetic,
    /// Reading so many bytes.
    Read { bytes: u64 },
    /// Reading half of so many bytes, and writing them elsewhere.
    Copy { bytes: u64 },
    /// The same as every adapter can do it, in vec4<f32>.
    QuadCopy { bytes: u64 },
}

impl Resource {
    /// The stream that is most like this traffic.
    pub fn like(traffic: Traffic) -> Self {
        // A result that is small beside what is read costs little to write.
        if traffic.written * 8 < traffic.read {
            Self::Read { bytes: traffic.bytes().next_multiple_of(32) }
        } else {
            Self::Copy { bytes: traffic.bytes().next_multiple_of(64) }
        }
    }

    /// Bytes read and written.
    pub fn bytes(self) -> u64 {
        match self {
            Self::Arithmetic => 0,
            Self::Read { bytes } | Self::Copy { bytes } | Self::QuadCopy { bytes } => bytes,
        }
    }

    /// The resource alone, whatever the bytes.
    pub fn name(self) -> &'static str {
        match self {
            Self::Arithmetic => "arithmetic",
            Self::Read { .. } => "read",
            Self::Copy { .. } => "copy",
            Self::QuadCopy { .. } => "copy in vec4<f32>",
        }
    }

    /// A shape that this was tried with, in words.
    pub fn with(self, Shape { size, each, octets }: Shape) -> String {
        let units = match (self, octets) {
            (Self::Arithmetic, _) => "accumulators",
            (_, false) => "quads",
            (_, true) => "octets",
        };
        format!("workgroups of {size}, {each} {units} each")
    }

    fn source(self, octets: bool) -> String {
        let units = if octets { include_str!("octets.wgsl") } else { include_str!("quads.wgsl") };
        match self {
            Self::Arithmetic => include_str!("arithmetic.wgsl").into(),
            Self::Read { .. } => units.to_owned() + include_str!("read.wgsl"),
            Self::Copy { .. } | Self::QuadCopy { .. } => units.to_owned() + include_str!("copy.wgsl"),
        }
    }

    /// The shapes to try: which is best differs from adapter to adapter.
    fn shapes(self, gpu: &Gpu) -> Vec<Shape> {
        let class = gpu.class();
        let (sizes, each): (&[u32], &[u32]) = match (self, class) {
            // A CPU has registers for three quads of accumulators in the widest case.
            (Self::Arithmetic, AdapterClass::Software) => (&[8, 64], &[2, 3, 4, 8]),
            (Self::Arithmetic, _) => (&[64, 256], &[2, 4, 8]),
            (Self::Read { .. }, AdapterClass::Software) => (&[8, 64], &[16, 64, 256]),
            (Self::Read { .. }, _) => (&[64, 256], &[4, 16, 64]),
            (_, AdapterClass::Software) => (&[8, 64, 256], &[1, 4, 64]),
            _ => (&[64, 256], &[1, 4]),
        };
        let shape = |octets| move |size| each.iter().map(move |&each| Shape { size, each, octets });
        let mut shapes: Vec<_> = sizes.iter().copied().flat_map(shape(false)).collect();
        if in_octets(gpu) && matches!(self, Self::Read { .. } | Self::Copy { .. }) {
            shapes.extend([8, 64].into_iter().flat_map(shape(true)));
        }
        shapes
    }
}

/// Whether memory is also read and copied in octets: words of 64 bits are a GPU's slow path, and on a CPU they are fewer.
fn in_octets(gpu: &Gpu) -> bool {
    gpu.class() == AdapterClass::Software && gpu.device().features().contains(wgpu::Features::SHADER_INT64)
}

impl std::fmt::Display for Resource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Arithmetic => f.write_str(self.name()),
            _ => write!(f, "{} {}", self.name(), report::bytes(self.bytes())),
        }
    }
}

/// Invocations of a workgroup, and how much an invocation has: quads of accumulators, or quads or octets of memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
pub struct Shape {
    pub size: u32,
    pub each: u32,
    pub octets: bool,
}

impl Shape {
    /// Bytes of memory that an invocation reads at a time.
    fn unit(self) -> u64 {
        if self.octets { 32 } else { 16 }
    }
}

/// A shader that comes up to a ceiling, as far as one can.
pub struct Yardstick {
    pub resource: Resource,
    pub shape: Shape,
    /// FLOPs, or bytes, of one dispatch.
    pub amount: f64,
    /// FLOPs, or bytes, a second when it was chosen.
    pub rate: f64,
    pipeline: wgpu::ComputePipeline,
    bind_group: wgpu::BindGroup,
    grid: [u32; 2],
    /// Where results are: all that the dispatch writes.
    results: wgpu::Buffer,
}

/// Steps of a round in arithmetic.wgsl.
const STEPS: u64 = 16;
/// Rounds: long enough that starting an invocation is nothing beside them, and far below the 65 535 iterations after which
/// software Vulkan drivers stop it. All sums stay exact in f32.
const ROUNDS: u64 = 128;
/// Workgroups in a row of the grid.
const GRID_WIDTH: u64 = 32768;

/// Looks for the shapes that come up to the ceilings.
pub struct Search<'a> {
    gpu: &'a Gpu,
    operands: &'a Operands,
    pipelines: HashMap<(&'static str, Shape), wgpu::ComputePipeline>,
}

impl<'a> Search<'a> {
    pub fn new(gpu: &'a Gpu, operands: &'a Operands) -> Self {
        Self { gpu, operands, pipelines: HashMap::new() }
    }

    /// How often [`Search::best`] reports progress for these resources.
    pub fn steps(&self, resources: &[Resource], effort: Effort) -> usize {
        effort.steps(resources.iter().map(|resource| resource.shapes(self.gpu).len()).sum())
    }

    /// The fastest shape for each resource, its results checked. `progress` is [`measure`]'s.
    pub fn best(
        &mut self,
        resources: &[Resource],
        effort: Effort,
        progress: impl FnMut(&str),
    ) -> anyhow::Result<Vec<Yardstick>> {
        let mut candidates = Vec::new();
        for &resource in resources {
            for shape in resource.shapes(self.gpu) {
                candidates.push(self.yardstick(resource, shape)?);
            }
        }
        let measured =
            measure(self.gpu, &candidates.iter().map(Yardstick::work).collect::<Vec<_>>(), effort, progress)?;
        let mut best: Vec<Yardstick> = Vec::new();
        for (mut candidate, timing) in candidates.into_iter().zip(&measured.timings) {
            candidate.rate = candidate.amount / timing.median();
            let with = candidate.resource.with(candidate.shape);
            log::info!("{}, {with}: {:.2} G/s", candidate.resource, candidate.rate * 1e-9);
            match best.last_mut() {
                Some(best) if best.resource == candidate.resource => {
                    if candidate.rate > best.rate {
                        *best = candidate;
                    }
                }
                _ => best.push(candidate),
            }
        }
        best.iter().try_for_each(|yardstick| yardstick.verify(self.gpu, self.operands))?;
        Ok(best)
    }

    fn yardstick(&mut self, resource: Resource, shape: Shape) -> double_routing::Result<Yardstick> {
        let gpu = self.gpu;
        let moved = |bytes: u64| (bytes / shape.unit(), (bytes / shape.unit()).div_ceil(shape.each.into()));
        let (count, invocations, amount) = match resource {
            Resource::Arithmetic => {
                // Enough for every core of a large GPU to hide its latencies.
                let invocations = if gpu.class() == AdapterClass::Software { 1 << 14 } else { 1u64 << 20 };
                (ROUNDS, invocations, invocations * u64::from(shape.each) * 4 * 2 * STEPS * ROUNDS)
            }
            Resource::Read { bytes } => {
                let (count, invocations) = moved(bytes);
                (count, invocations, bytes)
            }
            Resource::Copy { bytes } | Resource::QuadCopy { bytes } => {
                let (count, invocations) = moved(bytes / 2);
                (count, invocations, bytes)
            }
        };
        let (input, results) = match resource {
            Resource::Arithmetic => (
                gpu.upload("ones", bytemuck::cast_slice(&[1.0f32; 512]))?,
                gpu.buffer("results", double_routing::Element::F32, 4 * invocations)?,
            ),
            _ => (self.operands.input.clone(), self.operands.output.clone()),
        };
        let params = gpu.device().create_buffer(&wgpu::BufferDescriptor {
            label: Some("count"),
            size: 16,
            usage: wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        });
        gpu.write(&params, bytemuck::cast_slice(&[count as u32, 0, 0, 0]));
        let pipeline = self.pipeline(resource, shape);
        let entries = [&input, &results, &params]
            .into_iter()
            .zip(0..)
            .map(|(buffer, binding)| wgpu::BindGroupEntry { binding, resource: buffer.as_entire_binding() });
        let bind_group = gpu.device().create_bind_group(&wgpu::BindGroupDescriptor {
            label: Some(resource.name()),
            layout: &pipeline.get_bind_group_layout(0),
            entries: &entries.collect::<Vec<_>>(),
        });
        let workgroups = invocations.div_ceil(shape.size.into());
        let grid = [workgroups.min(GRID_WIDTH) as u32, workgroups.div_ceil(GRID_WIDTH) as u32];
        Ok(Yardstick { resource, shape, amount: amount as f64, rate: 0.0, pipeline, bind_group, grid, results })
    }

    fn pipeline(&mut self, resource: Resource, shape: Shape) -> wgpu::ComputePipeline {
        let device = self.gpu.device();
        let compile = || {
            let module = device.create_shader_module(wgpu::ShaderModuleDescriptor {
                label: Some(resource.name()),
                source: wgpu::ShaderSource::Wgsl(resource.source(shape.octets).into()),
            });
            device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
                label: Some(resource.name()),
                layout: None,
                module: &module,
                entry_point: Some("main"),
                compilation_options: wgpu::PipelineCompilationOptions {
                    constants: &[("SIZE", shape.size.into()), ("EACH", shape.each.into())],
                    ..Default::default()
                },
                cache: None,
            })
        };
        self.pipelines.entry((resource.name(), shape)).or_insert_with(compile).clone()
    }
}

impl Yardstick {
    /// One dispatch, for [`measure`].
    pub fn work(&self) -> Work<'_> {
        Work::new(self.resource.to_string(), |pass| self.record(pass))
    }

    fn record(&self, pass: &mut wgpu::ComputePass<'_>) {
        pass.set_pipeline(&self.pipeline);
        pass.set_bind_group(0, &self.bind_group, &[]);
        pass.dispatch_workgroups(self.grid[0], self.grid[1], 1);
    }

    /// Runs it once and holds every result against what it must be, so that work a driver left out is not counted.
    fn verify(&self, gpu: &Gpu, operands: &Operands) -> anyhow::Result<()> {
        let mut encoder = gpu.device().create_command_encoder(&Default::default());
        // What another shape left there would hide what this one leaves out.
        encoder.clear_buffer(&self.results, 0, None);
        self.record(&mut encoder.begin_compute_pass(&Default::default()));
        gpu.queue().submit([encoder.finish()]);
        let expected = self.expected(operands);
        let results = wait(gpu, gpu.read(&Tensor::f32(&self.results, &[expected.len()])))?;
        let results: Vec<f32> = bytemuck::pod_collect_to_vec(&results);
        let wrong = results.iter().zip(&expected).position(|(result, expected)| result != expected);
        if let Some(at) = wrong {
            let (resource, result, expected) = (self.resource, results[at], expected[at]);
            bail!("{resource}: element {at} is {result}, expected {expected}: the adapter leaves out work");
        }
        Ok(())
    }

    /// What the results must be; everything is exact in f32.
    fn expected(&self, operands: &Operands) -> Vec<f32> {
        let (size, each) = (self.shape.size as usize, self.shape.each as usize);
        let workgroups = self.grid[0] as usize * self.grid[1] as usize;
        match self.resource {
            Resource::Arithmetic => {
                // 16 sums start from first + component + 0 … 15, and EACH of them count the steps.
                let counted = u64::from(self.shape.each) * STEPS * ROUNDS + 120;
                let of = |at: usize| (16 * (at / 4 % 256 + at % 4)) as u64 + counted;
                (0..workgroups * size * 4).map(|at| of(at) as f32).collect()
            }
            Resource::Copy { bytes } | Resource::QuadCopy { bytes } => operands.values[..bytes as usize / 8].to_vec(),
            Resource::Read { bytes } => {
                let values = &operands.values[..bytes as usize / 4];
                let mut sums = vec![0.0f32; workgroups * size * 4];
                for (at, value) in values.iter().enumerate() {
                    let unit = 4 * at / self.shape.unit() as usize;
                    let invocation = unit / (size * each) * size + unit % size;
                    sums[4 * invocation + at % 4] += value;
                }
                sums
            }
        }
    }
}
