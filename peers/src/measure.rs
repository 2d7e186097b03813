//! One work, done by double-routing and by a peer in turns, each in a process of its own.

use std::iter;

use anyhow::{Result, ensure};
use indicatif::ProgressBar;
use serde::{Deserialize, Serialize};

use crate::{
    Arguments, Peer,
    process::{Process, Started},
    serve::{Entrant, Prepared},
    side::{median, repetitions},
    work::Work,
};

/// What was measured of a work. Errors of y are by its signal, others relative to the norm.
#[derive(Debug, Serialize)]
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
    #[serde(flatten)]
    pub adapter: Adapter,
}

#[derive(Debug, Serialize)]
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
    pub peer_allowed_error: f64,
    /// Of its first way.
    pub peer_first_ms: f64,
}

/// What a work was measured on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Adapter {
    #[serde(rename = "adapter")]
    pub name: String,
    pub backend: String,
    pub driver: String,
}

/// Measures a work, a record for each that it is measured against; nothing where a result is not the right one, which has been
/// said then.
pub fn measure(work: &Work, arguments: &Arguments, progress: &ProgressBar) -> Result<Option<Vec<Record>>> {
    let mut processes = Vec::new();
    let other = (arguments.peer != Peer::None).then_some(arguments.peer);
    for library in iter::once(Peer::None).chain(other) {
        match Process::start(work, library, arguments, progress)? {
            Started::Ready(process) => processes.push(process),
            Started::Wrong => return Ok(None),
        }
    }
    let adapters: Vec<_> = processes.iter().map(|process| &process.prepared.adapter).collect();
    ensure!(
        adapters.windows(2).all(|pair| pair[0] == pair[1]),
        "{}: {adapters:?} are to be one; choose it with --adapter",
        work.name
    );

    let best = processes.iter().flat_map(|process| &process.prepared.entrants).map(|entrant| entrant.best_ms);
    let repetitions = repetitions(best.fold(f64::INFINITY, f64::min));
    let samples = arguments.samples.get();
    let ways = |prepared: &Prepared| prepared.entrants.iter().map(|entrant| entrant.ways.len()).sum();
    let mut times: Vec<Vec<Vec<f64>>> =
        processes.iter().map(|process| vec![Vec::with_capacity(samples); ways(&process.prepared)]).collect();
    for _ in 0..samples {
        for (process, times) in processes.iter_mut().zip(&mut times) {
            process.resume()?;
            for (way, times) in times.iter_mut().enumerate() {
                times.push(process.turn(way, repetitions)?);
            }
            process.pause()?;
        }
    }

    let adapter = processes[0].prepared.adapter.clone();
    let mut sides = Vec::new();
    for (process, times) in processes.iter().zip(times) {
        let mut times = times.into_iter().map(median);
        sides.extend(process.prepared.entrants.iter().map(|entrant| (entrant, of_peer(entrant, &mut times))));
    }
    let (Entrant { allowed_error, .. }, ours) = sides.remove(0);
    // The peer's before what our own process has beside the work itself.
    let peers = sides.len();
    sides.rotate_left(processes[0].prepared.entrants.len() - 1);
    let record = |peer: Option<OfPeer>| Record {
        work: work.name.into(),
        ours_ms: ours.peer_ms,
        peer: peer.map(|peer| OfPeer { ratio: peer.peer_ms / ours.peer_ms, ..peer }),
        ours_error: ours.peer_error,
        allowed_error: *allowed_error,
        ours_first_ms: ours.peer_first_ms,
        repetitions,
        samples,
        adapter: adapter.clone(),
    };
    Ok(Some(match peers {
        0 => vec![record(None)],
        _ => sides.into_iter().map(|(_, peer)| record(Some(peer))).collect(),
    }))
}

/// An entrant with the medians of its ways.
fn of_peer(entrant: &Entrant, times: &mut impl Iterator<Item = f64>) -> OfPeer {
    let ways_ms: Vec<_> = entrant.ways.iter().cloned().zip(times).collect();
    let (way, peer_ms) = ways_ms.iter().min_by(|one, other| one.1.total_cmp(&other.1)).cloned().unwrap_or_default();
    OfPeer {
        peer: entrant.name.clone(),
        peer_ms,
        ratio: 1.0,
        way,
        ways_ms,
        peer_error: entrant.error,
        peer_allowed_error: entrant.allowed_error,
        peer_first_ms: entrant.first_ms,
    }
}
