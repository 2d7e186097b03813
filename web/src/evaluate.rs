//! A forward on the device: its result, its time, and how far it is from the CPU reference.

use anyhow::bail;
use double_routing::{
    DoubleRouting, Forward, Gpu, Output, Result, Session, Settings, Tensor, Weights, bytemuck,
    check::{Judgement, LayerTruth},
    wgpu,
};
use double_routing_common::{
    input::{Input, Part},
    judge::{extend, pieces},
};

use crate::{
    browser::{breathe, now},
    report,
};

/// Runs that are timed at most, and seconds after which no more are begun.
const RUNS: usize = 31;
const SECONDS: f64 = 0.5;

/// What came of a forward.
pub struct Evaluation {
    pub output: Output,
    first: f64,
    runs: Vec<f64>,
    device: Option<f64>,
    judgement: Judgement,
    judging: f64,
}

impl Evaluation {
    pub async fn new(
        layer: &DoubleRouting,
        weights: &Weights,
        input: &Input<'_>,
        progress: impl Fn(&str),
    ) -> anyhow::Result<Self> {
        progress("running on the GPU");
        breathe().await;
        let start = now();
        let whole = input.part(0..input.sequences());
        let session = layer.session_with(&whole.shape, whole.lengths.is_some(), input.storage).await?;
        let output = session.run(&whole.x, whole.lengths).await?;
        let first = now() - start;
        if let Some((name, position)) = output.first_non_finite() {
            bail!("{name} is not finite at element {position}, though x is: it is beyond f32, which ends at 3.4e38");
        }
        let runs = time(&session, &whole).await?;
        let device = device_seconds(layer.gpu(), session.forward(), median(&runs)).await?;

        let start = now();
        let mut truth = LayerTruth::new(weights, Settings::default());
        for piece in pieces(weights, &whole) {
            progress(&format!(
                "checking against the CPU reference, sequence {} of {}",
                piece.start + 1,
                input.sequences()
            ));
            breathe().await;
            extend(&mut truth, &whole, &output, piece)?;
        }
        Ok(Self { output, first, runs, device, judgement: truth.judge(), judging: now() - start })
    }

    /// What there is to show of it.
    pub fn report(&self, layer: &DoubleRouting, input: &Input<'_>) -> report::Evaluation {
        let Judgement { error, yardstick, allowed, worst, fault } = self.judgement.clone();
        report::Evaluation {
            layer: layer.dimensions().to_string(),
            order: layer.order().to_string(),
            x: input.shape().to_vec(),
            y: input.shape_with(layer.dimensions().output),
            w: input.shape_with(1),
            first: self.first,
            median: median(&self.runs),
            runs: self.runs.len(),
            device: self.device,
            check: report::Check {
                passed: self.judgement.passed(),
                error,
                yardstick,
                allowed,
                worst,
                fault,
                seconds: self.judging,
            },
        }
    }
}

/// Seconds from writing the input to having the result, for each run.
async fn time(session: &Session<'_>, whole: &Part<'_>) -> Result<Vec<f64>> {
    let begin = now();
    let mut runs = Vec::with_capacity(RUNS);
    while runs.is_empty() || (runs.len() < RUNS && now() - begin < SECONDS) {
        let start = now();
        session.run(&whole.x, whole.lengths).await?;
        runs.push(now() - start);
    }
    Ok(runs)
}

/// Seconds that a forward takes by the device's own clock, where it has one that can be believed. Browsers round it, so that
/// a short forward is repeated.
async fn device_seconds(gpu: &Gpu, forward: &Forward, wall: f64) -> Result<Option<f64>> {
    let device = gpu.device();
    if !device.features().contains(wgpu::Features::TIMESTAMP_QUERY) {
        return Ok(None);
    }
    let repetitions = (5e-3 / wall).clamp(1.0, 64.0).ceil();
    let scope = gpu.error_scope();
    let queries = device.create_query_set(&wgpu::QuerySetDescriptor {
        label: Some("start and end"),
        ty: wgpu::QueryType::Timestamp,
        count: 2,
    });
    let resolved = device.create_buffer(&wgpu::BufferDescriptor {
        label: Some("start and end"),
        size: 16,
        usage: wgpu::BufferUsages::QUERY_RESOLVE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::STORAGE,
        mapped_at_creation: false,
    });
    let mut encoder = device.create_command_encoder(&Default::default());
    let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor {
        label: Some("timed"),
        timestamp_writes: Some(wgpu::ComputePassTimestampWrites {
            query_set: &queries,
            beginning_of_pass_write_index: Some(0),
            end_of_pass_write_index: Some(1),
        }),
    });
    for _ in 0..repetitions as usize {
        forward.record(&mut pass);
    }
    drop(pass);
    encoder.resolve_query_set(&queries, 0..2, &resolved, 0);
    let start = now();
    gpu.queue().submit([encoder.finish()]);
    let bytes = gpu.read(&Tensor::u32(&resolved, &[4])).await?;
    let waited = now() - start;
    scope.close().await?;
    let ticks: Vec<u64> = bytemuck::pod_collect_to_vec(&bytes);
    let elapsed = ticks[1].saturating_sub(ticks[0]) as f64 * f64::from(gpu.queue().get_timestamp_period()) * 1e-9;
    Ok((elapsed > 0.0 && elapsed <= waited).then_some(elapsed / repetitions))
}

/// The middle value, the upper of two.
fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}
