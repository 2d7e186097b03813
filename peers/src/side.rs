//! One library at one work, and how it is timed.

use std::time::{Duration, Instant};

use anyhow::Result;

/// A library that has a work's operands on the device.
pub trait Side {
    /// Does the work so many times and waits for all of them; the time from the first call to the end of waiting.
    fn time(&self, repetitions: u32) -> Result<Duration>;

    /// The result of the work, done once more; of a choice, each row's values and then its ids.
    fn result(&self) -> Result<Vec<f32>>;
}

/// One way that a library can do a work.
pub struct Way {
    pub name: &'static str,
    pub side: Box<dyn Side>,
}

impl Side for Way {
    fn time(&self, repetitions: u32) -> Result<Duration> {
        self.side.time(repetitions)
    }

    fn result(&self) -> Result<Vec<f32>> {
        self.side.result()
    }
}

/// Each row's values and then its ids, which f32 has to hold exactly.
pub fn side_by_side(values: &[f32], ids: &[f32], columns: usize) -> Vec<f32> {
    values
        .chunks(columns)
        .zip(ids.chunks(columns))
        .flat_map(|(values, ids)| values.iter().chain(ids))
        .copied()
        .collect()
}

/// A measurement takes about this long, by repetitions where once is shorter.
const MEASUREMENT: Duration = Duration::from_millis(60);
const MOST_REPETITIONS: u32 = 64;
/// A library is warm when the best of its next calls is not better by more than this.
const SETTLED: f64 = 1.05;
const NEXT_CALLS: usize = 3;
const MOST_ROUNDS: usize = 10;
/// And not before it has kept the device busy for so long: one that was idle runs at a fraction of its clock at first.
const AWAKE: Duration = Duration::from_millis(500);

/// Makes a side and lets it do its work for the first time; how long that took, compiling, choosing kernels and all.
pub fn first<Made: Side>(make: impl FnOnce() -> Result<Made>) -> Result<(Made, Duration)> {
    let start = Instant::now();
    let made = make()?;
    made.time(1)?;
    Ok((made, start.elapsed()))
}

/// Runs until times settle; the best of them.
pub fn warm_up(side: &dyn Side) -> Result<Duration> {
    let start = Instant::now();
    let mut best = side.time(1)?;
    let mut rounds = 0;
    loop {
        let before = best;
        for _ in 0..NEXT_CALLS {
            best = best.min(side.time(1)?);
        }
        rounds += 1;
        let settled = best.mul_f64(SETTLED) > before || rounds >= MOST_ROUNDS;
        if settled && start.elapsed() >= AWAKE {
            return Ok(best);
        }
    }
}

/// How often a work that takes so many milliseconds is done in one measurement, the same for all who do it.
pub fn repetitions(best_ms: f64) -> u32 {
    let times = 1e3 * MEASUREMENT.as_secs_f64() / best_ms.max(1e-6);
    (times.ceil() as u32).clamp(1, MOST_REPETITIONS)
}

pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len() % 2 == 1 { values[middle] } else { (values[middle - 1] + values[middle]) / 2.0 }
}
