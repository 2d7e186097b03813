//! A router or a block on a device or on the CPU, run over any number of tokens in batches.

use std::time::Instant;

use double_routing::{
    Error, Gpu, Result, Storage, Values,
    moe::{MoeFeedForward, MoeOutput, Router, RouterConfig, Routing},
    wgpu,
};

use super::{
    reference::{ReferenceRouter, block},
    weights::Weights,
};
use crate::{
    evaluate::Run,
    gpu::{Target, wait},
    input::Rows,
    report,
};

/// A router or a block that is ready to run.
#[derive(Debug)]
pub struct Evaluator<'a> {
    weights: &'a Weights,
    config: RouterConfig,
    on: On,
}

#[derive(Debug)]
enum On {
    Router(Box<Router>),
    Block(Box<MoeFeedForward>),
    Reference(Box<ReferenceRouter>),
}

/// What a router or a block makes of tokens.
#[derive(Debug, Clone)]
pub struct Output {
    /// Of a block only.
    pub y: Option<Vec<f32>>,
    pub routing: Routing,
    /// Of a block whose shared expert has a gate, where a device has computed them in f32.
    pub shared_logits: Vec<f32>,
}

impl Output {
    /// The first value that is infinite or NaN: what it is of, which of its values, and the value.
    pub fn first_non_finite(&self) -> Option<(&'static str, usize, f32)> {
        let of = |name, values: &[f32]| {
            let at = values.iter().position(|value| !value.is_finite())?;
            Some((name, at, values[at]))
        };
        let routing = || {
            let (name, at) = self.routing.first_non_finite()?;
            let Routing { logits, gates, margin, .. } = &self.routing;
            let values = if name == "logits" {
                logits
            } else if name == "gates" {
                gates
            } else {
                margin
            };
            Some((name, at, values.get(at).copied().unwrap_or(f32::NAN)))
        };
        routing().or_else(|| of("shared_logits", &self.shared_logits)).or_else(|| of("y", self.y.as_deref()?))
    }
}

/// Device memory that a batch may take: well beyond what keeps a GPU busy, well below what a small one has.
const BATCH_BYTES: u64 = 256 << 20;
/// Tokens of a batch on the CPU: as many as show that it goes on.
const REFERENCE_BATCH: usize = 64;

impl<'a> Evaluator<'a> {
    pub fn new(target: &Target, weights: &'a Weights, config: RouterConfig, batch_invariant: bool) -> Result<Self> {
        let on = match target {
            Target::Device(gpu) => {
                let scope = gpu.error_scope();
                let on = Self::on_device(gpu, weights, config, batch_invariant);
                wait(gpu, scope.close())?;
                on?
            }
            Target::Reference => {
                config.check()?;
                On::Reference(Box::new(ReferenceRouter::new(weights.router(), config)))
            }
        };
        Ok(Self { weights, config, on })
    }

    fn on_device(gpu: &Gpu, weights: &Weights, config: RouterConfig, batch_invariant: bool) -> Result<On> {
        Ok(match weights {
            Weights::Router(weights) => {
                On::Router(Box::new(Router::new(gpu, weights, config)?.batch_invariant(batch_invariant)))
            }
            Weights::Block(weights) => {
                On::Block(Box::new(MoeFeedForward::new(gpu, weights, config)?.batch_invariant(batch_invariant)))
            }
        })
    }

    /// Runs every token, `batch` at a time or as many as fit, and hands over what comes of each batch. Where the device runs out of memory,
    /// half as many.
    pub fn run(
        &self,
        rows: &Rows<'_>,
        batch: Option<usize>,
        mut results: impl FnMut(&[f32], Output) -> anyhow::Result<()>,
    ) -> anyhow::Result<Run> {
        let tokens = rows.input.tokens();
        let mut batch = batch.unwrap_or_else(|| self.fitting_batch()).clamp(1, tokens.max(1));
        let bar = report::progress("tokens", tokens, batch < tokens);
        let mut run = Run::default();
        let mut done = 0;
        while done < tokens {
            let count = batch.min(tokens - done);
            let start = Instant::now();
            let x = rows.tokens(done..done + count)?;
            match self.run_batch(&x, count, rows.input.storage) {
                Ok(output) => {
                    run.elapsed += start.elapsed();
                    run.batches += 1;
                    done += count;
                    bar.suspend(|| results(&x, output))?;
                    bar.inc(count as u64);
                }
                Err(Error::OutOfMemory(reason)) if count > 1 => {
                    batch = count / 2;
                    bar.suspend(|| report::note(&format!("{reason}: going on with {batch} tokens at a time")));
                }
                Err(error) => return Err(error.into()),
            }
        }
        bar.finish_and_clear();
        Ok(run)
    }

    fn run_batch(&self, x: &[f32], tokens: usize, storage: Storage) -> Result<Output> {
        match &self.on {
            On::Router(router) => {
                let routing = wait(router.gpu(), router.run_with(x, tokens, storage.x))?;
                Ok(Output { y: None, routing, shared_logits: Vec::new() })
            }
            On::Block(block) => {
                let shape = [tokens, block.router().features()];
                let MoeOutput { y, routing, shared_logits } =
                    wait(block.router().gpu(), block.run_with(x, &shape, storage))?;
                Ok(Output { y: Some(y), routing, shared_logits })
            }
            On::Reference(router) => {
                let (routing, gates) = router.route(x);
                let y = self.weights.block().map(|weights| block::<f64>(weights, x, &routing.ids, &gates));
                let rounded = |y: Vec<f64>| {
                    let y: Vec<f32> = y.into_iter().map(|y| y as f32).collect();
                    Values::rounded(&y, storage.y).to_f32()
                };
                Ok(Output { y: y.map(rounded), routing, shared_logits: Vec::new() })
            }
        }
    }

    fn fitting_batch(&self) -> usize {
        let RouterConfig { paths, per_token, .. } = self.config;
        let features = self.weights.router().shape[1];
        // x, logits, ids, gates, order, positions and margin, and what is read back of it.
        let of_router = features + paths + 6 * per_token + 2;
        let (gpu, most, whole) = match &self.on {
            On::Reference(_) => return REFERENCE_BATCH,
            On::Router(router) => (router.gpu(), usize::MAX, of_router),
            On::Block(block) => {
                let width = self.weights.block().map_or(0, |weights| weights.experts.width);
                let shared = self.weights.block().and_then(|weights| weights.shared.as_ref());
                let of_shared = shared.map_or(0, |shared| 2 * shared.expert.width + features);
                // The experts' hidden rows and results, y, and the copy of it that is read back.
                let of_block = per_token * (2 * width + features) + 2 * features + of_shared;
                (block.router().gpu(), block.max_tokens(), of_router + of_block)
            }
        };
        let wgpu::Limits { max_buffer_size, max_storage_buffer_binding_size: binding, .. } = gpu.device().limits();
        let tensor = max_buffer_size.min(binding) / (4 * features.max(paths) as u64);
        let fitting = (BATCH_BYTES / (4 * whole as u64)).min(tensor);
        usize::try_from(fitting).unwrap_or(usize::MAX).min(most)
    }
}

#[cfg(test)]
impl Output {
    /// The tokens of `more` behind these.
    pub fn append(&mut self, more: Self) {
        let Self { y, routing, .. } = more;
        if let (Some(all), Some(y)) = (&mut self.y, y) {
            all.extend(y);
        }
        self.routing.ids.extend(routing.ids);
        self.routing.gates.extend(routing.gates);
        self.routing.margin.extend(routing.margin);
        self.routing.logits.extend(routing.logits);
        self.routing.counts.iter_mut().zip(routing.counts).for_each(|(sum, count)| *sum += count);
    }
}
