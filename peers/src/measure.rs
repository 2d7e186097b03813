//! One work, done by double-routing and by a peer.

use std::time::Duration;

use anyhow::Result;
use double_routing::{AdapterChoice, Gpu, wgpu::DeviceType};
use serde::{Deserialize, Serialize};

use crate::{
    Peer, burn_wgpu, ours,
    side::{Side, Way, first, medians, repetitions, warm_up},
    truth::Truth,
    work::{Problem, Work},
};

/// What was measured of a work. Errors of y are by its signal, others relative to the norm.
#[derive(Debug, Serialize, Deserialize)]
pub struct Record {
    pub work: String,
    pub ours_ms: f64,
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub peer: Option<OfPeer>,
    pub ours_error: f64,
    pub allowed_error: f64,
    pub ours_first_ms: f64,
    pub repetitions: u32,
    pub samples: usize,
    pub adapter: String,
    pub backend: String,
    pub driver: String,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct OfPeer {
    pub peer: String,
    /// Of its fastest way.
    pub peer_ms: f64,
    /// The peer's time as a multiple of ours.
    pub ratio: f64,
    pub way: String,
    /// Every way's time.
    pub ways_ms: Vec<(String, f64)>,
    /// The worst of its ways'.
    pub peer_error: f64,
    /// Of its first way.
    pub peer_first_ms: f64,
}

/// Who does a work, or one that it is compared with.
struct Entrant {
    name: &'static str,
    ways: Vec<Way>,
    first: Duration,
    /// Of another work than the one that is measured.
    truth: Option<Truth>,
}

/// Measures a work, a record for each that it is measured against; in words what is wrong, where a result is too far from the
/// truth.
pub fn measure(work: &Work, peer: Peer, adapter: Option<&str>, samples: usize) -> Result<Result<Vec<Record>, String>> {
    let (gpu, burn) = match peer {
        Peer::BurnWgpu => {
            let (burn, gpu) = burn_wgpu::open(adapter)?;
            (gpu, Some(burn))
        }
        Peer::None => {
            let choice = AdapterChoice::default().experimental();
            (pollster::block_on(Gpu::open(&adapter.map_or(choice.clone(), |name| choice.named(name))))?, None)
        }
    };
    let problem = work.problem()?;
    let operands = ours::Operands::upload(&gpu, &problem)?;
    let (ours, ours_first) = first(|| operands.plan())?;
    let ours = Way { name: "double-routing", side: Box::new(ours) };
    let mut entrants = vec![Entrant { name: "double-routing", ways: vec![ours], first: ours_first, truth: None }];
    // All experts for every token are minutes of work on a software adapter.
    let too_long = matches!(problem, Problem::Moe { tokens: 2.., .. }) && gpu.info().device_type == DeviceType::Cpu;
    if let Some(device) = burn.filter(|_| !too_long) {
        let (ways, first) = burn_wgpu::ways(&device, &problem)?;
        entrants.push(Entrant { name: peer.name(), ways, first, truth: None });
    }
    entrants.extend(bare(&gpu, &problem, &operands)?);

    let truth = Truth::new(&problem)?;
    let mut errors = Vec::new();
    for entrant in &entrants {
        let truth = entrant.truth.as_ref().unwrap_or(&truth);
        let mut worst = 0.0f64;
        for way in &entrant.ways {
            let error = truth.error(&way.result()?)?;
            // An error that is NaN is not allowed either.
            if error.is_nan() || error > truth.allowed {
                let (who, way) = (entrant.name, way.name);
                return Ok(Err(format!("{who} ({way}) is off by {error:.2e}, allowed {:.2e}", truth.allowed)));
            }
            worst = worst.max(error);
        }
        errors.push(worst);
    }

    let ways = || entrants.iter().flat_map(|entrant| &entrant.ways);
    let sides: Vec<_> = ways().map(|way| &*way.side).collect();
    let best = sides.iter().map(|side| warm_up(*side)).collect::<Result<Vec<_>>>()?.into_iter().min();
    let repetitions = repetitions(best.unwrap_or_default());
    let mut times = medians(&sides, repetitions, samples)?.into_iter();
    let mut peers = Vec::new();
    for (entrant, error) in entrants.iter().zip(errors) {
        let ways_ms: Vec<_> = entrant.ways.iter().map(|way| way.name.to_string()).zip(times.by_ref()).collect();
        let fastest = ways_ms.iter().min_by(|one, other| one.1.total_cmp(&other.1)).cloned();
        let (way, peer_ms) = fastest.unwrap_or_default();
        let peer_first_ms = milliseconds(entrant.first);
        let peer = entrant.name.into();
        peers.push(OfPeer { peer, peer_ms, ratio: 1.0, way, ways_ms, peer_error: error, peer_first_ms });
    }
    let ours = peers.remove(0);
    let info = gpu.info();
    let record = |peer: Option<OfPeer>| Record {
        work: work.name.into(),
        ours_ms: ours.peer_ms,
        peer: peer.map(|peer| OfPeer { ratio: peer.peer_ms / ours.peer_ms, ..peer }),
        ours_error: ours.peer_error,
        allowed_error: truth.allowed,
        ours_first_ms: ours.peer_first_ms,
        repetitions,
        samples,
        adapter: info.name.clone(),
        backend: info.backend.to_string(),
        driver: [info.driver.trim(), info.driver_info.trim()].join(" ").trim().into(),
    };
    Ok(Ok(if peers.is_empty() {
        vec![record(None)]
    } else {
        peers.into_iter().map(|peer| record(Some(peer))).collect()
    }))
}

/// What a mixture of experts cannot do without: one dense product of its size, and of a single token its own products alone.
fn bare(gpu: &Gpu, problem: &Problem, operands: &ours::Operands) -> Result<Vec<Entrant>> {
    let Problem::Moe { tokens, weights, .. } = problem else { return Ok(Vec::new()) };
    let mut entrants = Vec::new();
    if *tokens == 1 {
        let ways = operands.products()?;
        entrants.push(Entrant { name: "matrix-vector", ways, first: Duration::ZERO, truth: None });
    }
    let dense = Problem::dense(*tokens, &weights.experts);
    let (side, first) = first(|| ours::Operands::upload(gpu, &dense)?.plan())?;
    let ways = vec![Way { name: "transposed", side: Box::new(side) }];
    let name = if *tokens == 1 { "dense gemv" } else { "dense gemm" };
    entrants.push(Entrant { name, ways, first, truth: Some(Truth::new(&dense)?) });
    Ok(entrants)
}

fn milliseconds(duration: Duration) -> f64 {
    1e3 * duration.as_secs_f64()
}
