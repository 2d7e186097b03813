//! double-routing.

use std::time::{Duration, Instant};

use anyhow::Result;
use double_routing::{
    DoubleRouting, Element, Forward, Gpu, Plan, Settings, Tensor, Weights, bytemuck,
    kernels::{Matmul, Softmax},
    wgpu,
};

use crate::{side::Side, work::Problem};

/// A problem's operands on the device; a layer's weights are still on the host.
pub struct Operands<'a> {
    gpu: &'a Gpu,
    problem: &'a Problem,
    inputs: Vec<wgpu::Buffer>,
}

impl<'a> Operands<'a> {
    pub fn upload(gpu: &'a Gpu, problem: &'a Problem) -> Result<Self> {
        let upload = |values: &[f32]| gpu.upload("operand", bytemuck::cast_slice(values));
        let inputs = match problem {
            Problem::Forward { x, .. } | Problem::Softmax { x, .. } => vec![upload(x)?],
            Problem::Matmul { a, b, .. } => vec![upload(a)?, upload(b)?],
        };
        gpu.queue().submit([]);
        gpu.device().poll(wgpu::PollType::wait_indefinitely())?;
        Ok(Self { gpu, problem, inputs })
    }

    pub fn plan(&self) -> Result<Planned> {
        let gpu = self.gpu;
        let work = match (self.problem, self.inputs.as_slice()) {
            (Problem::Forward { shape, weights, .. }, [x, ..]) => Self::forward(gpu, shape, weights, x)?,
            (Problem::Matmul { size, transposed, .. }, [a, b, ..]) => {
                let shape = [*size, *size];
                let c = gpu.buffer("c", Element::F32, (size * size) as u64)?;
                let product = Matmul::new(Tensor::f32(a, &shape), Tensor::f32(b, &shape), Tensor::f32(&c, &shape));
                let plan = if *transposed { product.transposed() } else { product }.plan(gpu)?;
                Recorded::Plan { plan, output: c, shape }
            }
            (Problem::Softmax { shape, .. }, [x, ..]) => {
                let y = gpu.buffer("y", Element::F32, (shape[0] * shape[1]) as u64)?;
                let plan = Softmax::new(Tensor::f32(x, shape), Tensor::f32(&y, shape), 1).plan(gpu)?;
                Recorded::Plan { plan, output: y, shape: *shape }
            }
            _ => anyhow::bail!("an operand is missing"),
        };
        Ok(Planned { gpu: gpu.clone(), work })
    }

    fn forward(gpu: &Gpu, shape: &[usize], weights: &Weights, x: &wgpu::Buffer) -> Result<Recorded> {
        let layer = DoubleRouting::new(gpu, weights, Settings::default())?;
        Ok(Recorded::Forward(layer.forward(Tensor::f32(x, shape)).plan()?))
    }
}

/// A work that is ready to be recorded.
pub struct Planned {
    gpu: Gpu,
    work: Recorded,
}

enum Recorded {
    Forward(Forward),
    Plan { plan: Plan, output: wgpu::Buffer, shape: [usize; 2] },
}

impl Side for Planned {
    fn time(&self, repetitions: u32) -> Result<Duration> {
        let plan = match &self.work {
            Recorded::Forward(forward) => forward.plan(),
            Recorded::Plan { plan, .. } => plan,
        };
        let start = Instant::now();
        let mut encoder = self.gpu.device().create_command_encoder(&Default::default());
        let mut pass = encoder.begin_compute_pass(&Default::default());
        (0..repetitions).for_each(|_| plan.record(&mut pass));
        drop(pass);
        self.gpu.queue().submit([encoder.finish()]);
        self.gpu.device().poll(wgpu::PollType::wait_indefinitely())?;
        Ok(start.elapsed())
    }

    fn result(&self) -> Result<Vec<f32>> {
        self.time(1)?;
        let output = match &self.work {
            Recorded::Forward(forward) => forward.y(),
            Recorded::Plan { output, shape, .. } => Tensor::f32(output, shape),
        };
        Ok(bytemuck::pod_collect_to_vec(&pollster::block_on(self.gpu.read(&output))?))
    }
}
