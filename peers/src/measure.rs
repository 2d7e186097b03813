//! One work, done by double-routing and by a peer.

use anyhow::Result;
use double_routing::{AdapterChoice, Gpu};
use serde::{Deserialize, Serialize};

use crate::{
    Peer, burn_wgpu, ours,
    side::{Side, first, medians, repetitions, warm_up},
    work::{Truth, Work},
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

/// Measures a work; in words what is wrong, where a result is too far from the truth.
pub fn measure(work: &Work, peer: Peer, adapter: Option<&str>, samples: usize) -> Result<Result<Record, String>> {
    let (gpu, burn) = match peer {
        Peer::BurnWgpu => {
            let (burn, gpu) = burn_wgpu::open(adapter)?;
            (gpu, Some(burn))
        }
        Peer::None => {
            let choice = AdapterChoice::default();
            (pollster::block_on(Gpu::open(&adapter.map_or(choice.clone(), |name| choice.named(name))))?, None)
        }
    };
    let problem = work.problem()?;
    let operands = ours::Operands::upload(&gpu, &problem)?;
    let (ours, ours_first) = first(|| operands.plan())?;
    let (ways, peer_first) = burn.map(|device| burn_wgpu::ways(&device, &problem)).transpose()?.unwrap_or_default();
    let names: Vec<_> = ways.iter().map(|way| way.name).collect();
    let sides: Vec<&dyn Side> = [&ours as &dyn Side].into_iter().chain(ways.iter().map(|way| &*way.side)).collect();

    let truth = Truth::new(&problem)?;
    let (mut ours_error, mut peer_error) = (0.0, 0.0f64);
    for (at, side) in sides.iter().enumerate() {
        let error = truth.error(&side.result()?)?;
        // An error that is NaN is not allowed either.
        if error.is_nan() || error > truth.allowed {
            let who = if at == 0 { "double-routing" } else { peer.name() };
            return Ok(Err(format!("{who} is off by {error:.2e}, allowed {:.2e}", truth.allowed)));
        }
        if at == 0 { ours_error = error } else { peer_error = peer_error.max(error) }
    }

    let best = sides.iter().map(|side| warm_up(*side)).collect::<Result<Vec<_>>>()?.into_iter().min();
    let repetitions = repetitions(best.unwrap_or_default());
    let times = medians(&sides, repetitions, samples)?;
    let (ours_ms, ways_ms) = times.split_first().map(|(ours, ways)| (*ours, ways)).unwrap_or_default();
    let ways_ms: Vec<_> = names.into_iter().map(String::from).zip(ways_ms.iter().copied()).collect();
    let fastest = ways_ms.iter().min_by(|one, other| one.1.total_cmp(&other.1)).cloned();
    let info = gpu.info();
    Ok(Ok(Record {
        work: work.name.into(),
        ours_ms,
        peer: fastest.map(|(way, peer_ms)| OfPeer {
            peer: peer.name().into(),
            peer_ms,
            ratio: peer_ms / ours_ms,
            way,
            ways_ms,
            peer_error,
            peer_first_ms: milliseconds(peer_first),
        }),
        ours_error,
        allowed_error: truth.allowed,
        ours_first_ms: milliseconds(ours_first),
        repetitions,
        samples,
        adapter: info.name.clone(),
        backend: info.backend.to_string(),
        driver: [info.driver.trim(), info.driver_info.trim()].join(" ").trim().into(),
    }))
}

fn milliseconds(duration: std::time::Duration) -> f64 {
    1e3 * duration.as_secs_f64()
}
