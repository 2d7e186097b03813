//! A router or a block on a device or on the CPU, run over any number of tokens in batches.

use std::time::{Duration, Instant};

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
    gpu::{Target, wait},
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
}

/// What came of a run.
#[derive(Debug)]
pub struct Run {
    pub output: Output,
    pub batches: usize,
    pub elapsed: Duration,
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

    /// Runs every token, `batch` at a time or as many as fit. Where the device runs out of memory, half as many.
    pub fn run(&self, x: &[f32], storage: Storage, batch: Option<usize>) -> Result<Run> {
        let features = self.weights.router().shape[1];
        let tokens = x.len() / features;
        let mut batch = batch.unwrap_or_else(|| self.fitting_batch()).clamp(1, tokens.max(1));
        let bar = report::progress("tokens", tokens, batch < tokens);
        let start = Instant::now();
        let counts = vec![0; self.config.paths];
        let routing = Routing { ids: vec![], gates: vec![], counts, margin: vec![], logits: vec![] };
        let mut output = Output { y: self.weights.block().map(|_| Vec::new()), routing };
        let (mut done, mut batches) = (0, 0);
        while done < tokens {
            let count = batch.min(tokens - done);
            match self.run_batch(&x[done * features..][..count * features], count, storage) {
                Ok(of_batch) => {
                    append(&mut output, of_batch);
                    batches += 1;
                    done += count;
                    bar.inc(count as u64);
                }
                Err(Error::OutOfMemory(reason)) if count > 1 => {
                    batch = count / 2;
                    bar.suspend(|| report::note(&format!("{reason}: going on with {batch} tokens at a time")));
                }
                Err(error) => return Err(error),
            }
        }
        bar.finish_and_clear();
        Ok(Run { output, batches, elapsed: start.elapsed() })
    }

    fn run_batch(&self, x: &[f32], tokens: usize, storage: Storage) -> Result<Output> {
        match &self.on {
            On::Router(router) => {
                let routing = wait(router.gpu(), router.run_with(x, tokens, storage.x))?;
                Ok(Output { y: None, routing })
            }
            On::Block(block) => {
                let shape = [tokens, block.router().features()];
                let MoeOutput { y, routing, .. } = wait(block.router().gpu(), block.run_with(x, &shape, storage))?;
                Ok(Output { y: Some(y), routing })
            }
            On::Reference(router) => {
                let (routing, gates) = router.route(x);
                let y = self.weights.block().map(|weights| block::<f64>(weights, x, &routing.ids, &gates));
                let rounded = |y: Vec<f64>| {
                    let y: Vec<f32> = y.into_iter().map(|y| y as f32).collect();
                    Values::rounded(&y, storage.y).to_f32()
                };
                Ok(Output { y: y.map(rounded), routing })
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

/// The tokens of `more` behind those of `output`.
fn append(output: &mut Output, more: Output) {
    let Output { y, routing } = more;
    if let (Some(all), Some(y)) = (&mut output.y, y) {
        all.extend(y);
    }
    output.routing.ids.extend(routing.ids);
    output.routing.gates.extend(routing.gates);
    output.routing.margin.extend(routing.margin);
    output.routing.logits.extend(routing.logits);
    output.routing.counts.iter_mut().zip(routing.counts).for_each(|(sum, count)| *sum = sum.saturating_add(count));
}
