//! How long works take on a device, measured in rounds: whatever slows the machine for a while slows all of them.

use std::time::{Duration, Instant};

use double_routing::{AdapterClass, Error, Gpu, Plan, Result, Tensor, bytemuck, wgpu};
use serde::Serialize;

use crate::gpu::wait;

/// Something to be timed: what it records into a pass is done once.
pub struct Work<'a> {
    name: String,
    record: Box<dyn Fn(&mut wgpu::ComputePass<'_>) + 'a>,
}

impl<'a> Work<'a> {
    pub fn new(name: impl Into<String>, record: impl Fn(&mut wgpu::ComputePass<'_>) + 'a) -> Self {
        Self { name: name.into(), record: Box::new(record) }
    }

    /// A plan's steps.
    pub fn of(name: impl Into<String>, plan: &'a Plan) -> Self {
        Self::new(name, |pass| plan.record(pass))
    }
}

/// How much is spent on each work.
#[derive(Debug, Clone, Copy)]
pub struct Effort {
    /// Samples of each work; one is taken of every work before the next is taken of any.
    pub rounds: usize,
    /// A work is repeated within one submission until a sample takes about this long.
    pub sample: Duration,
}

impl Effort {
    /// How often [`measure`] reports progress for so many works.
    pub fn steps(self, works: usize) -> usize {
        works * (1 + self.rounds)
    }
}

/// What times are read from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Clock {
    /// The device's own.
    Timestamps,
    /// The host's, from submission to the end of waiting.
    Wall,
}

impl std::fmt::Display for Clock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Timestamps => "the device's timestamps",
            Self::Wall => "the wall clock, short works repeated within a submission",
        })
    }
}

/// How long a work takes.
#[derive(Debug, Clone)]
pub struct Timing {
    /// Seconds of one repetition, for each round.
    pub samples: Vec<f64>,
    /// Repetitions of a sample.
    pub repetitions: u32,
}

impl Timing {
    /// The median over the rounds, in seconds.
    pub fn median(&self) -> f64 {
        median(&self.samples)
    }
}

/// The timings of works, in the works' order, and what they were read from.
#[derive(Debug, Clone)]
pub struct Measured {
    pub clock: Clock,
    pub timings: Vec<Timing>,
}

/// Repetitions of a sample at most: what a pass records is kept until it is done.
const MOST_REPETITIONS: u32 = 1024;

/// A GPU that was idle stays at a fraction of its clock until it has been busy for some tenths of a second: an H200 at 345 MHz
/// of 1980.
const AWAKE: Duration = Duration::from_millis(500);

/// Times the works in rounds. `progress` hears the name of each work before it is run, [`Effort::steps`] times in all.
pub fn measure(gpu: &Gpu, works: &[Work<'_>], effort: Effort, mut progress: impl FnMut(&str)) -> Result<Measured> {
    let errors = gpu.error_scope();
    let stopwatch = Stopwatch::new(gpu)?;
    if gpu.class() != AdapterClass::Software {
        stopwatch.wake(works)?;
    }
    let mut repetitions = Vec::with_capacity(works.len());
    for work in works {
        progress(&work.name);
        repetitions.push(stopwatch.repetitions(work, effort.sample)?);
    }
    let mut samples = vec![Vec::with_capacity(effort.rounds); works.len()];
    for _ in 0..effort.rounds {
        for ((work, &count), samples) in works.iter().zip(&repetitions).zip(&mut samples) {
            progress(&work.name);
            samples.push(stopwatch.sample(work, count)?);
        }
    }
    wait(gpu, errors.close())?;
    let clock = clock(&samples);
    let each = |(samples, repetitions): (Vec<Sample>, u32)| Timing {
        samples: samples.iter().map(|sample| sample.seconds(clock) / f64::from(repetitions)).collect(),
        repetitions,
    };
    Ok(Measured { clock, timings: samples.into_iter().zip(repetitions).map(each).collect() })
}

/// Seconds that a submission took by either clock; the device's may be missing.
#[derive(Debug, Clone, Copy)]
struct Sample {
    wall: f64,
    device: Option<f64>,
}

impl Sample {
    fn seconds(&self, clock: Clock) -> f64 {
        match (clock, self.device) {
            (Clock::Timestamps, Some(device)) => device,
            _ => self.wall,
        }
    }
}

/// The device's clock where it can be believed: it never runs longer than the host waited, and with every work usually for most of
/// that time.
fn clock(works: &[Vec<Sample>]) -> Clock {
    let believed = |samples: &Vec<Sample>| {
        let shares: Option<Vec<f64>> = samples.iter().map(|sample| Some(sample.device? / sample.wall)).collect();
        shares.is_some_and(|shares| shares.iter().all(|&share| share > 0.0 && share <= 1.0) && median(&shares) > 0.5)
    };
    if works.iter().all(believed) { Clock::Timestamps } else { Clock::Wall }
}

/// The middle value, or the mean of the two in the middle; NaN for none.
fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        count if count.is_multiple_of(2) => (sorted[count / 2 - 1] + sorted[count / 2]) / 2.0,
        count => sorted[count / 2],
    }
}

/// Runs works and takes their time.
struct Stopwatch<'a> {
    gpu: &'a Gpu,
    timestamps: Option<Timestamps>,
}

/// The two timestamps of a pass, and where they are resolved to.
struct Timestamps {
    queries: wgpu::QuerySet,
    resolved: wgpu::Buffer,
}

impl<'a> Stopwatch<'a> {
    fn new(gpu: &'a Gpu) -> Result<Self> {
        let device = gpu.device();
        // Drivers for CPUs take the first one late, after as much as a pass's first dispatch: 15 ms of 19 looked plausible.
        let software = gpu.info().device_type == wgpu::DeviceType::Cpu;
        let has_queries = !software && device.features().contains(wgpu::Features::TIMESTAMP_QUERY);
        let timestamps = has_queries.then(|| Timestamps {
            queries: device.create_query_set(&wgpu::QuerySetDescriptor {
                label: Some("start and end"),
                ty: wgpu::QueryType::Timestamp,
                count: 2,
            }),
            resolved: device.create_buffer(&wgpu::BufferDescriptor {
                label: Some("start and end"),
                size: 16,
                usage: wgpu::BufferUsages::QUERY_RESOLVE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::STORAGE,
                mapped_at_creation: false,
            }),
        });
        Ok(Self { gpu, timestamps })
    }

    /// Compiles and touches all that the works need, and then keeps the device busy until its clock is up.
    fn wake(&self, works: &[Work<'_>]) -> Result<()> {
        for work in works {
            self.sample(work, 1)?;
        }
        let start = Instant::now();
        for work in works.iter().cycle() {
            if start.elapsed() >= AWAKE {
                break;
            }
            self.sample(work, self.repetitions(work, AWAKE / 10)?)?;
        }
        Ok(())
    }

    /// How often a work must be repeated to take as long as `sample`. Compiles and touches all that the work needs.
    fn repetitions(&self, work: &Work<'_>, sample: Duration) -> Result<u32> {
        self.sample(work, 1)?;
        let mut count = 1;
        loop {
            let took = self.sample(work, count)?.wall;
            let missing = sample.as_secs_f64() / took;
            if missing < 2.0 || count == MOST_REPETITIONS {
                return Ok(count);
            }
            // Submitting and waiting takes most of the time of a few short repetitions.
            count = (f64::from(count) * missing).ceil().min(f64::from(MOST_REPETITIONS)) as u32;
        }
    }

    /// Submits so many repetitions in one pass and waits for them. They run one after the other, since they write to the
    /// same buffers.
    fn sample(&self, work: &Work<'_>, repetitions: u32) -> Result<Sample> {
        let mut encoder = self.gpu.device().create_command_encoder(&Default::default());
        let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor {
            label: Some(&work.name),
            timestamp_writes: self.timestamps.as_ref().map(|timestamps| wgpu::ComputePassTimestampWrites {
                query_set: &timestamps.queries,
                beginning_of_pass_write_index: Some(0),
                end_of_pass_write_index: Some(1),
            }),
        });
        for _ in 0..repetitions {
            (work.record)(&mut pass);
        }
        drop(pass);
        if let Some(Timestamps { queries, resolved }) = &self.timestamps {
            encoder.resolve_query_set(queries, 0..2, resolved, 0);
        }
        let commands = encoder.finish();
        let start = Instant::now();
        self.gpu.queue().submit([commands]);
        self.gpu
            .device()
            .poll(wgpu::PollType::wait_indefinitely())
            .map_err(|error| Error::DeviceLost(self.gpu.lost().map_or_else(|| error.to_string(), String::from)))?;
        let wall = start.elapsed().as_secs_f64();
        let device = match &self.timestamps {
            Some(timestamps) => Some(self.elapsed(timestamps)?),
            None => None,
        };
        Ok(Sample { wall, device })
    }

    /// Seconds between the two timestamps.
    fn elapsed(&self, timestamps: &Timestamps) -> Result<f64> {
        let words = Tensor::u32(&timestamps.resolved, &[4]);
        let bytes = wait(self.gpu, self.gpu.read(&words))?;
        let words: Vec<u32> = bytemuck::pod_collect_to_vec(&bytes);
        let [start_low, start_high, end_low, end_high] = words[..] else { return Ok(0.0) };
        let ticks = |low, high| u64::from(high) << 32 | u64::from(low);
        let elapsed = ticks(end_low, end_high).wrapping_sub(ticks(start_low, start_high)) as i64;
        Ok(elapsed as f64 * f64::from(self.gpu.queue().get_timestamp_period()) * 1e-9)
    }
}

#[cfg(test)]
mod tests {
    use super::{Clock, Sample, clock, median};

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 3.0, 2.0]), 2.5);
        assert!(median(&[]).is_nan());
    }

    #[test]
    fn timestamps_are_believed_where_they_fit_the_wall_clock() {
        let samples =
            |device: &[Option<f64>]| -> Vec<_> { device.iter().map(|&device| Sample { wall: 1.0, device }).collect() };
        let plausible = || samples(&[Some(0.9), Some(0.99), Some(0.2)]);
        assert_eq!(clock(&[plausible(), plausible()]), Clock::Timestamps);
        for implausible in [Some(0.0), Some(-1.0), Some(1.5), None] {
            assert_eq!(clock(&[samples(&[Some(0.9), Some(0.99), implausible])]), Clock::Wall, "{implausible:?}");
        }
        // One work's timestamps are enough to see that they are not to be trusted.
        assert_eq!(clock(&[plausible(), plausible(), samples(&[Some(0.9), Some(0.001), Some(0.002)])]), Clock::Wall);
    }
}
