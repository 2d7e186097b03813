//! One library at one work, in this process, timed as another process asks.

use std::{
    io::{self, BufRead, Write},
    time::Duration,
};

use anyhow::{Context, Result};
use double_routing::{
    AdapterChoice, Gpu,
    wgpu::{AdapterInfo, DeviceType},
};
use serde::{Deserialize, Serialize};

use crate::{
    Peer, burn_wgpu,
    measure::Adapter,
    ours,
    side::{Way, first, warm_up},
    truth::Truth,
    work::{Problem, Work},
};

/// The first line of a process that can be timed.
#[derive(Debug, Serialize, Deserialize)]
pub struct Prepared {
    pub adapter: Adapter,
    pub entrants: Vec<Entrant>,
}

/// Who does a work, or one that it is compared with; its result was right, and it is warm.
#[derive(Debug, Serialize, Deserialize)]
pub struct Entrant {
    pub name: String,
    pub ways: Vec<String>,
    /// The worst of its ways'.
    pub error: f64,
    pub allowed_error: f64,
    pub first_ms: f64,
    /// Its fastest way's.
    pub best_ms: f64,
}

/// A line that asks for a measurement, answered by one with its milliseconds for doing the work once. Ways count through all
/// entrants.
#[derive(Debug, Serialize, Deserialize)]
pub struct Turn {
    pub way: usize,
    pub repetitions: u32,
}

/// Who does a work here, not judged yet.
struct Unjudged {
    name: &'static str,
    ways: Vec<Way>,
    first: Duration,
    /// Of another work than the one that is measured.
    truth: Option<Truth>,
}

/// Gets ready for a work, says so on standard output, and is timed until standard input ends; in words what is wrong, where a
/// result is too far from the truth.
pub fn serve(work: &Work, peer: Peer, adapter: Option<&str>) -> Result<Result<(), String>> {
    // One that is stopped would not notice that nobody is left to continue it.
    #[cfg(target_os = "linux")]
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
    let problem = work.problem()?;
    let (adapter, entrants) = match peer {
        Peer::None => {
            let choice = AdapterChoice::default().experimental();
            let gpu = pollster::block_on(Gpu::open(&adapter.map_or(choice.clone(), |name| choice.named(name))))?;
            (describe(gpu.info()), our_entrants(&gpu, &problem)?)
        }
        Peer::BurnWgpu => {
            let (device, info) = burn_wgpu::open(adapter)?;
            // All experts for every token are minutes of work on a software adapter.
            let too_long = matches!(problem, Problem::Moe { tokens: 2.., .. }) && info.device_type == DeviceType::Cpu;
            let mut entrants = Vec::new();
            if !too_long {
                let (ways, first) = burn_wgpu::ways(&device, &problem)?;
                entrants.push(Unjudged { name: peer.name(), ways, first, truth: None });
            }
            (describe(&info), entrants)
        }
    };

    let truth = if entrants.is_empty() { None } else { Some(Truth::new(&problem)?) };
    let mut prepared = Prepared { adapter, entrants: Vec::new() };
    for entrant in &entrants {
        let truth = entrant.truth.as_ref().or(truth.as_ref()).context("nothing to judge by")?;
        let allowed = if peer == Peer::None { truth.allowed } else { truth.in_any_order };
        let (mut error, mut best) = (0.0f64, Duration::MAX);
        for way in &entrant.ways {
            let of_way = truth.error(&way.side.result()?)?;
            // An error that is NaN is not allowed either.
            if of_way.is_nan() || of_way > allowed {
                let (who, way) = (entrant.name, way.name);
                return Ok(Err(format!("{who} ({way}) is off by {of_way:.2e}, allowed {allowed:.2e}")));
            }
            error = error.max(of_way);
            best = best.min(warm_up(&*way.side)?);
        }
        prepared.entrants.push(Entrant {
            name: entrant.name.into(),
            ways: entrant.ways.iter().map(|way| way.name.into()).collect(),
            error,
            allowed_error: allowed,
            first_ms: milliseconds(entrant.first),
            best_ms: milliseconds(best),
        });
    }
    say(&prepared)?;

    let ways: Vec<_> = entrants.iter().flat_map(|entrant| &entrant.ways).collect();
    for line in io::stdin().lock().lines() {
        let Turn { way, repetitions } = serde_json::from_str(&line?)?;
        let way = ways.get(way).with_context(|| format!("no way {way}"))?;
        say(&(milliseconds(way.side.time(repetitions)?) / f64::from(repetitions)))?;
    }
    Ok(Ok(()))
}

fn say(what: &impl Serialize) -> Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{}", serde_json::to_string(what)?)?;
    Ok(out.flush()?)
}

fn describe(info: &AdapterInfo) -> Adapter {
    Adapter {
        name: info.name.clone(),
        backend: info.backend.to_string(),
        driver: [info.driver.trim(), info.driver_info.trim()].join(" ").trim().into(),
    }
}

/// double-routing, and what a mixture of experts cannot do without: one dense product of its size, and of a single token its own
/// products alone.
fn our_entrants(gpu: &Gpu, problem: &Problem) -> Result<Vec<Unjudged>> {
    let operands = ours::Operands::upload(gpu, problem)?;
    let (ours, ours_first) = first(|| operands.plan())?;
    let ours = Way { name: "double-routing", side: Box::new(ours) };
    let mut entrants = vec![Unjudged { name: "double-routing", ways: vec![ours], first: ours_first, truth: None }];
    if let Problem::Moe { tokens, weights, .. } = problem {
        if *tokens == 1 {
            let ways = operands.products()?;
            entrants.push(Unjudged { name: "matrix-vector", ways, first: Duration::ZERO, truth: None });
        }
        let dense = Problem::dense(*tokens, &weights.experts);
        let (side, first) = first(|| ours::Operands::upload(gpu, &dense)?.plan())?;
        let ways = vec![Way { name: "transposed", side: Box::new(side) }];
        let name = if *tokens == 1 { "dense gemv" } else { "dense gemm" };
        entrants.push(Unjudged { name, ways, first, truth: Some(Truth::new(&dense)?) });
    }
    Ok(entrants)
}

fn milliseconds(duration: Duration) -> f64 {
    1e3 * duration.as_secs_f64()
}
