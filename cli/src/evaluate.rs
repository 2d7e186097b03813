//! A layer on a device or on the CPU, run over any number of sequences in batches.

use std::time::{Duration, Instant};

use double_routing::{
    DoubleRouting, Error, Order, Output, Result, Selection, Session, Settings, Storage, Values, Weights,
    reference::{Layer, TwoLevels},
    wgpu,
};
use double_routing_common::input::{Input, Part};

use crate::{
    gpu::{Target, wait},
    input::Rows,
    report,
};

/// A layer that is ready to run.
#[derive(Debug)]
pub enum Evaluator {
    Device(Box<DoubleRouting>),
    Reference(Box<Reference>),
}

/// A layer as the CPU reference has it.
#[derive(Debug)]
pub struct Reference {
    layer: Layer<f64>,
    levels: TwoLevels,
    selection: Selection,
}

/// How a run went.
#[derive(Debug, Default)]
pub struct Run {
    pub batches: usize,
    /// Of the batches themselves, without what was done with their results.
    pub elapsed: Duration,
}

/// Device memory that a batch may take: well beyond what keeps a GPU busy, well below what a small one has.
const BATCH_BYTES: u64 = 256 << 20;

impl Evaluator {
    pub fn new(target: &Target, weights: &Weights, settings: Settings) -> Result<Self> {
        match target {
            Target::Device(gpu) => {
                let scope = gpu.error_scope();
                let layer = DoubleRouting::new(gpu, weights, settings);
                wait(gpu, scope.close())?;
                Ok(Self::Device(Box::new(layer?)))
            }
            Target::Reference => {
                let paths = weights.paths_to_reference();
                let Settings { selection, paths: settings, .. } = settings;
                let paths = paths.map(|paths| (paths, settings.per_token, settings.choice.into()));
                let levels = TwoLevels { count: None, paths };
                Ok(Self::Reference(Box::new(Reference { layer: weights.to_reference(), levels, selection })))
            }
        }
    }

    /// The order that the maps are multiplied in.
    pub fn order(&self) -> Order {
        match self {
            Self::Device(layer) => layer.order(),
            Self::Reference(_) => Order::AsWritten,
        }
    }

    /// Runs every sequence, `batch` at a time or as many as fit, and hands over what comes of each batch. Where the device runs out of
    /// memory, half as many.
    pub fn run(
        &self,
        rows: &Rows<'_>,
        batch: Option<usize>,
        mut results: impl FnMut(&Part<'_>, Output) -> anyhow::Result<()>,
    ) -> anyhow::Result<Run> {
        let input = &rows.input;
        // Without tokens there is nothing to run, however many sequences have none.
        let sequences = if input.tokens() == 0 { 0 } else { input.sequences() };
        let mut batch = batch.unwrap_or_else(|| self.fitting_batch(input)).clamp(1, sequences.max(1));
        let bar = report::progress("sequences", sequences, batch < sequences);
        let mut run = Run::default();
        let mut batches = Batches { evaluator: self, storage: input.storage, session: None };
        let mut done = 0;
        while done < sequences {
            let count = batch.min(sequences - done);
            let start = Instant::now();
            let shape = [&[count], &input.shape()[1..]].concat();
            let ran = batches.run(shape, input.lengths.is_some(), || rows.part(done..done + count));
            match ran {
                Ok((part, output)) => {
                    run.elapsed += start.elapsed();
                    run.batches += 1;
                    done += count;
                    bar.suspend(|| results(&part, output))?;
                    bar.inc(count as u64);
                }
                Err(error) => match error.downcast() {
                    Ok(Error::OutOfMemory(reason)) if count > 1 => {
                        batch = count / 2;
                        bar.suspend(|| report::note(&format!("{reason}: going on with {batch} sequences at a time")));
                    }
                    Ok(error) => return Err(error.into()),
                    Err(error) => return Err(error),
                },
            }
        }
        bar.finish_and_clear();
        Ok(run)
    }

    /// Runs every sequence of an input that is small.
    pub fn run_whole(&self, rows: &Rows<'_>) -> anyhow::Result<(Output, Run)> {
        let mut whole = Output::default();
        let run = self.run(rows, None, |_, output| {
            let Output { y, w, indices, ids, gates, logits, path_logits } = output;
            whole.logits.extend(logits);
            whole.path_logits.extend(path_logits);
            whole.y.extend(y);
            whole.w.extend(w);
            whole.indices.extend(indices);
            whole.ids.extend(ids);
            whole.gates.extend(gates);
            Ok(())
        })?;
        Ok((whole, run))
    }

    fn fitting_batch(&self, input: &Input) -> usize {
        let (widest, whole, largest_buffer) = match self {
            Self::Device(layer) => {
                let dimensions = layer.dimensions();
                // Of several paths a token takes, each has a result of its own.
                let results = dimensions.output * layer.settings().paths.per_token;
                let widths = [dimensions.input, dimensions.attention, dimensions.routing, results];
                // Whatever the order: x, h, h', y, the copy of y that is read back, logits and w.
                let whole = widths.iter().sum::<usize>() + dimensions.output + 4;
                let wgpu::Limits { max_buffer_size, .. } = layer.gpu().device().limits();
                (widths.into_iter().max().unwrap_or(1), whole, max_buffer_size)
            }
            // In f64, and twice that in passing.
            Self::Reference(reference) => {
                let layer = &reference.layer;
                let whole = 4 * (layer.input + layer.attention + layer.routing + layer.output);
                (whole, whole, BATCH_BYTES)
            }
        };
        let bytes = |width: usize| 4 * (width as u64).saturating_mul(input.tokens_each().max(1) as u64);
        let fitting = (BATCH_BYTES / bytes(whole)).min(largest_buffer / bytes(widest));
        usize::try_from(fitting).unwrap_or(usize::MAX)
    }
}

/// Batches one after the other: the session is kept for as long as their shape stays the same.
struct Batches<'a> {
    evaluator: &'a Evaluator,
    storage: Storage,
    session: Option<(Vec<usize>, Session<'a>)>,
}

impl Batches<'_> {
    /// Runs a part of this shape, which is read when it is known that it can be run.
    fn run<'p>(
        &mut self,
        shape: Vec<usize>,
        masked: bool,
        read: impl FnOnce() -> anyhow::Result<Part<'p>>,
    ) -> anyhow::Result<(Part<'p>, Output)> {
        let layer = match self.evaluator {
            Evaluator::Device(layer) => layer,
            Evaluator::Reference(reference) => {
                let part = read()?;
                let output = reference.run(&part, self.storage);
                return Ok((part, output));
            }
        };
        let session = match self.session.take() {
            Some((made_for, session)) if made_for == shape => session,
            // The old buffers go before new ones are made.
            old => {
                drop(old);
                wait(layer.gpu(), layer.session_with(&shape, masked, self.storage))?
            }
        };
        let part = read()?;
        let output = wait(layer.gpu(), session.run(&part.x, part.lengths))?;
        self.session = Some((shape, session));
        Ok((part, output))
    }
}

impl Reference {
    fn run(&self, part: &Part<'_>, storage: Storage) -> Output {
        let Part { x, shape, lengths } = part;
        let exact: Vec<f64> = x.iter().map(|&x| x.into()).collect();
        let positions = shape.get(1).filter(|_| shape.len() == 3);
        let count = positions.and_then(|&positions| self.selection.count(positions));
        let routed = TwoLevels { count, ..self.levels.clone() }.forward(&self.layer, &exact, shape, *lengths);
        let rounded = |values: Vec<f64>| -> Vec<f32> { values.into_iter().map(|value| value as f32).collect() };
        let mut logits = rounded(routed.dense.logits);
        if let Some(lengths) = lengths {
            let inner: usize = shape[2..shape.len().max(3) - 1].iter().product();
            let each = (logits.len() / lengths.len().max(1)).max(1);
            for (logits, &length) in logits.chunks_mut(each).zip(*lengths) {
                logits.iter_mut().skip(length as usize * inner).for_each(|logit| *logit = 0.0);
            }
        }
        Output {
            y: Values::rounded(&rounded(routed.y), storage.y).to_f32(),
            w: rounded(routed.dense.w),
            indices: routed.indices,
            ids: routed.ids,
            gates: rounded(routed.gates),
            logits,
            path_logits: rounded(routed.path_logits),
        }
    }
}
