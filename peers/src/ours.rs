//! double-routing.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use double_routing::{
    DoubleRouting, Element, Gpu, Plan, Settings, Tensor, Values, bytemuck,
    kernels::{Matmul, PathMatmul, RoutePaths, Select, Softmax},
    moe::{ExpertWeights, MoeFeedForward, MoeWeights},
    reference::PathsOfRow,
    wgpu,
};

use crate::{
    side::{Side, Way, side_by_side},
    truth::{routed, slices},
    work::{Problem, ROUTER},
};

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
            Problem::Forward { x, .. }
            | Problem::Softmax { x, .. }
            | Problem::Select { x, .. }
            | Problem::Moe { x, .. } => vec![upload(x)?],
            Problem::Matmul { a, b, half: false, .. } => vec![upload(a)?, upload(b)?],
            Problem::Matmul { a, b, half: true, .. } => {
                let halves = |values: &[f32]| gpu.upload("operand", Values::rounded(values, Element::F16).bytes());
                vec![halves(a)?, halves(b)?]
            }
            Problem::Router { logits, bias, .. } => vec![upload(logits)?, upload(bias)?],
        };
        gpu.queue().submit([]);
        gpu.device().poll(wgpu::PollType::wait_indefinitely())?;
        Ok(Self { gpu, problem, inputs })
    }

    pub fn plan(&self) -> Result<Planned> {
        let gpu = self.gpu;
        let f32s = |label, count: usize| gpu.buffer(label, Element::F32, count as u64);
        let (plan, output) = match (self.problem, self.inputs.as_slice()) {
            (Problem::Forward { shape, weights, .. }, [x, ..]) => {
                let layer = DoubleRouting::new(gpu, weights, Settings::default())?;
                let &[batch, tokens, _] = shape;
                let y_shape = [batch, tokens, weights.dimensions().output];
                let y = f32s("y", y_shape.iter().product())?;
                let forward = layer.forward(Tensor::f32(x, shape)).output(Tensor::f32(&y, &y_shape)).plan()?;
                (forward.plan().clone(), Output::Values(y))
            }
            (Problem::Matmul { shape: [rows, columns, depth], transposed, half, .. }, [a, b, ..]) => {
                let c = f32s("c", rows * columns)?;
                let b_shape = if *transposed { [*columns, *depth] } else { [*depth, *columns] };
                let element = if *half { Element::F16 } else { Element::F32 };
                let (a, b) = (Tensor::new(a, element, &[*rows, *depth]), Tensor::new(b, element, &b_shape));
                let product = Matmul::new(a, b, Tensor::f32(&c, &[*rows, *columns]));
                let plan = if *transposed { product.transposed() } else { product }.plan(gpu)?;
                (plan, Output::Values(c))
            }
            (Problem::Softmax { shape, .. }, [x, ..]) => {
                let y = f32s("y", shape[0] * shape[1])?;
                let plan = Softmax::new(Tensor::f32(x, shape), Tensor::f32(&y, shape), 1).plan(gpu)?;
                (plan, Output::Values(y))
            }
            (Problem::Select { shape, count, .. }, [x, ..]) => {
                let chosen = Chosen::new(gpu, [shape[0], *count])?;
                let select = Select::new(Tensor::f32(x, shape), chosen.ids()).values(chosen.values());
                (select.plan(gpu)?, Output::Chosen(chosen))
            }
            (Problem::Router { tokens, .. }, [logits, bias, ..]) => {
                let chosen = Chosen::new(gpu, [*tokens, ROUTER.per_token])?;
                let logits = Tensor::f32(logits, &[*tokens, ROUTER.paths]);
                let route = RoutePaths::new(logits, chosen.ids(), chosen.values(), ROUTER.choice)
                    .correction_bias(Tensor::f32(bias, &[ROUTER.paths]));
                (route.plan(gpu)?, Output::Chosen(chosen))
            }
            (Problem::Moe { tokens, weights, .. }, [x, ..]) => {
                let block = MoeFeedForward::new(gpu, weights, ROUTER)?;
                let shape = [*tokens, weights.experts.features];
                let y = f32s("y", shape[0] * shape[1])?;
                let forward = block.forward(Tensor::f32(x, &shape)).output(Tensor::f32(&y, &shape)).plan()?;
                let mut plan = forward.router().plan().clone();
                plan.append(forward.plan().clone());
                (plan, Output::Values(y))
            }
            _ => anyhow::bail!("an operand is missing"),
        };
        Ok(Planned { gpu: gpu.clone(), plan, output })
    }

    /// The products of a mixture of one token and nothing else: the gate's and those of the experts it has.
    pub fn products(&self) -> Result<Vec<Way>> {
        let (Problem::Moe { weights, x, .. }, [uploaded, ..]) = (self.problem, self.inputs.as_slice()) else {
            anyhow::bail!("only a mixture has these products");
        };
        let PathsOfRow { ids, gates, .. } = routed(weights, x, 0).context("f32 does not decide the token's paths")?;
        let gates: Vec<_> = gates.into_iter().map(|gate| gate as f32).collect();
        let MoeWeights { experts, .. } = weights;
        let of = |map: &Values| slices(&map.to_f32(), &ids, experts.width * experts.features);
        let shape = [ids.len(), experts.width, experts.features];
        let compact = ExpertWeights::new(of(&experts.gate), of(&experts.up), of(&experts.down), shape)?;
        let places: Vec<_> = (0..ids.len() as u32).collect();
        let way = |name, experts: &ExpertWeights, ids: &[u32]| -> Result<Way> {
            let side = Box::new(self.steps(weights, experts, uploaded, ids, &gates)?);
            Ok(Way { name, side })
        };
        Ok(vec![way("of all paths", experts, &ids)?, way("of the chosen alone", &compact, &places)?])
    }

    /// The products of a token with the experts of these ids.
    fn steps(
        &self,
        weights: &MoeWeights,
        experts: &ExpertWeights,
        x: &wgpu::Buffer,
        ids: &[u32],
        gates: &[f32],
    ) -> Result<Planned> {
        let gpu = self.gpu;
        let ExpertWeights { gate, up, down, paths, width, features } = experts;
        let (paths, width, features, slots) = (*paths, *width, *features, ids.len());
        let all_paths = weights.router.shape[0];
        let mut order: Vec<_> = (0..slots as u32).collect();
        order.sort_by_key(|&slot| ids[slot as usize]);
        let offsets: Vec<_> =
            (0..=paths as u32).map(|path| ids.iter().filter(|&&id| id < path).count() as u32).collect();
        let gates = order.iter().map(|&slot| gates[slot as usize]).collect();

        let upload = |bytes: &[u8]| gpu.upload("operand", bytes);
        let (router, gate, up, down) =
            (upload(weights.router.gate.bytes())?, upload(gate.bytes())?, upload(up.bytes())?, upload(down.bytes())?);
        let (order, offsets) = (upload(bytemuck::cast_slice(&order))?, upload(bytemuck::cast_slice(&offsets))?);
        let f32s = |label, count: usize| gpu.buffer(label, Element::F32, count as u64);
        let (logits, gated) = (f32s("logits", all_paths)?, f32s("gate(x)", slots * width)?);
        let (hidden, results) = (f32s("hidden", slots * width)?, f32s("experts' results", slots * features)?);

        let x = Tensor::f32(x, &[1, features]);
        let (order, offsets) = (Tensor::u32(&order, &[slots]), Tensor::u32(&offsets, &[paths + 1]));
        let (wide, narrow, inner) = ([paths, width, features], [paths, features, width], [slots, width]);
        let (gated, hidden) = (Tensor::f32(&gated, &inner), Tensor::f32(&hidden, &inner));
        let product = |a, b, c| PathMatmul::new(a, b, offsets.clone(), c);
        let router = Tensor::f32(&router, &[all_paths, features]);
        let mut plan = Matmul::new(x.clone(), router, Tensor::f32(&logits, &[1, all_paths])).transposed().plan(gpu)?;
        let of_gate = product(x.clone(), Tensor::f32(&gate, &wide), gated.clone()).gathered(order.clone(), slots);
        plan.append(of_gate.plan(gpu)?);
        let of_up =
            product(x, Tensor::f32(&up, &wide), hidden.clone()).gathered(order.clone(), slots).swish(gated.clone());
        plan.append(of_up.plan(gpu)?);
        let of_down = product(hidden, Tensor::f32(&down, &narrow), Tensor::f32(&results, &[slots, features]));
        plan.append(of_down.plan(gpu)?);
        Ok(Planned { gpu: gpu.clone(), plan, output: Output::Slots { results, gates } })
    }
}

/// A work that is ready to be recorded.
pub struct Planned {
    gpu: Gpu,
    plan: Plan,
    output: Output,
}

enum Output {
    Values(wgpu::Buffer),
    Chosen(Chosen),
    /// What each expert of a token returns, and its gate.
    Slots {
        results: wgpu::Buffer,
        gates: Vec<f32>,
    },
}

/// Values of a choice, and where they are.
struct Chosen {
    values: wgpu::Buffer,
    ids: wgpu::Buffer,
    shape: [usize; 2],
}

impl Chosen {
    fn new(gpu: &Gpu, shape: [usize; 2]) -> Result<Self> {
        let count = (shape[0] * shape[1]) as u64;
        let (values, ids) = (gpu.buffer("values", Element::F32, count)?, gpu.buffer("ids", Element::U32, count)?);
        Ok(Self { values, ids, shape })
    }

    fn values(&self) -> Tensor<'_> {
        Tensor::f32(&self.values, &self.shape)
    }

    fn ids(&self) -> Tensor<'_> {
        Tensor::u32(&self.ids, &self.shape)
    }
}

impl Planned {
    fn read(&self, buffer: &wgpu::Buffer) -> Result<Vec<f32>> {
        let count = buffer.size() as usize / size_of::<f32>();
        let bytes = pollster::block_on(self.gpu.read(&Tensor::f32(buffer, &[count])))?;
        Ok(bytemuck::pod_collect_to_vec(&bytes))
    }
}

impl Side for Planned {
    fn time(&self, repetitions: u32) -> Result<Duration> {
        let start = Instant::now();
        let mut encoder = self.gpu.device().create_command_encoder(&Default::default());
        let mut pass = encoder.begin_compute_pass(&Default::default());
        (0..repetitions).for_each(|_| self.plan.record(&mut pass));
        drop(pass);
        self.gpu.queue().submit([encoder.finish()]);
        self.gpu.device().poll(wgpu::PollType::wait_indefinitely())?;
        Ok(start.elapsed())
    }

    fn result(&self) -> Result<Vec<f32>> {
        self.time(1)?;
        match &self.output {
            Output::Values(values) => self.read(values),
            Output::Chosen(chosen) => {
                let ids: Vec<u32> = bytemuck::pod_collect_to_vec(&pollster::block_on(self.gpu.read(&chosen.ids()))?);
                let ids: Vec<_> = ids.into_iter().map(|id| id as f32).collect();
                Ok(side_by_side(&self.read(&chosen.values)?, &ids, chosen.shape[1]))
            }
            Output::Slots { results, gates } => {
                let results = self.read(results)?;
                let features = results.len() / gates.len();
                let sum = |at| gates.iter().enumerate().map(|(slot, gate)| gate * results[slot * features + at]).sum();
                Ok((0..features).map(sum).collect())
            }
        }
    }
}
