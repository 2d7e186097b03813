//! Other libraries' time for the same work on the same adapter, beside double-routing's.

mod burn_wgpu;
mod measure;
mod ours;
mod process;
mod serve;
mod side;
mod truth;
mod work;

use std::{
    io::{self, Write},
    num::NonZeroUsize,
    process::ExitCode,
};

use anyhow::{Context, Result, ensure};
use clap::{Parser, ValueEnum};
use comfy_table::{CellAlignment, LineStyle, Table, TableStyle};
use indicatif::{ProgressBar, ProgressStyle};

use crate::{
    measure::{Adapter, Record},
    work::WORKS,
};

/// Measures another library against double-routing: the same works, operands and adapter, each in a process of its own, in turns.
///
/// Exit status: 0 when all is well, 1 when a result is not the right one, 2 when something could not be done.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// What to measure against
    #[arg(long, value_enum, default_value_t = Peer::BurnWgpu)]
    peer: Peer,
    /// Part of the adapter's name; the best one there is by default
    #[arg(long, value_name = "NAME-PART")]
    adapter: Option<String>,
    /// Only works with this in their name
    #[arg(long, value_name = "PART", default_value = "")]
    work: String,
    /// Also the works that are too long for a software adapter
    #[arg(long)]
    large: bool,
    /// Measurements of each, of which the median counts
    #[arg(long, default_value = "15")]
    samples: NonZeroUsize,
    /// A JSON object a line
    #[arg(long)]
    json: bool,
    /// Log what the libraries do; RUST_LOG says more precisely
    #[arg(short, long)]
    verbose: bool,
    /// Do this work here with the one library, timed as standard input asks, as the command has processes of its own do
    #[arg(long, value_name = "WORK", hide = true)]
    serve: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Peer {
    /// burn with its wgpu backend
    BurnWgpu,
    /// Nobody: double-routing alone
    None,
}

impl Peer {
    fn name(self) -> &'static str {
        match self {
            Self::BurnWgpu => "burn-wgpu",
            Self::None => "none",
        }
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let level = if arguments.verbose { "info" } else { "off" };
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or(level)).init();
    match run(&arguments) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            if !error.is::<process::Said>() {
                report(&format!("{error:#}"));
            }
            ExitCode::from(2)
        }
    }
}

/// One line on standard error.
fn report(error: &str) {
    // Where even standard error is closed, there is nobody left to tell.
    let _ = writeln!(io::stderr(), "error: {}", error.split_whitespace().collect::<Vec<_>>().join(" "));
}

fn run(arguments: &Arguments) -> Result<bool> {
    if let Some(name) = &arguments.serve {
        let work = WORKS.iter().find(|work| work.name == name).with_context(|| format!("no work '{name}'"))?;
        let served = serve::serve(work, arguments.peer, arguments.adapter.as_deref())?;
        return Ok(served.map_err(|wrong| report(&format!("{name}: {wrong}"))).is_ok());
    }
    let chosen = |name: &str, large: bool| name.contains(&arguments.work) && (arguments.large || !large);
    let works: Vec<_> = WORKS.iter().filter(|work| chosen(work.name, work.large)).collect();
    let all = || WORKS.map(|work| work.name).join(", ");
    ensure!(!works.is_empty(), "--work '{}' is in none of: {}", arguments.work, all());

    let style = ProgressStyle::with_template("  {bar:32} {pos} of {len}  {msg}")?;
    let progress = ProgressBar::new(works.len() as u64).with_style(style);
    let (mut records, mut right) = (Vec::new(), true);
    for work in works {
        progress.set_message(work.name);
        match measure::measure(work, arguments, &progress)? {
            Some(measured) if arguments.json => {
                progress.suspend(|| measured.iter().try_for_each(print_json))?;
            }
            Some(measured) => records.extend(measured),
            None => right = false,
        }
        progress.inc(1);
    }
    progress.finish_and_clear();
    if !records.is_empty() {
        print_table(&records)?;
    }
    Ok(right)
}

fn print_json(record: &Record) -> Result<()> {
    Ok(writeln!(io::stdout(), "{}", serde_json::to_string(record)?)?)
}

fn print_table(records: &[Record]) -> Result<()> {
    const HEADER: [&str; 12] = [
        "work",
        "peer",
        "ours ms",
        "peer ms",
        "ratio",
        "peer's way",
        "our error",
        "allowed",
        "peer's error",
        "allowed",
        "our first ms",
        "peer's first ms",
    ];
    let mut table = Table::new();
    table.load_style(TableStyle::new().header_separator(LineStyle::none().fill('─').junction('─'))).set_header(HEADER);
    for record in records {
        let peer = record.peer.as_ref();
        let of_peer = |show: &dyn Fn(&measure::OfPeer) -> String| peer.map_or_else(String::new, show);
        table.add_row([
            record.work.clone(),
            of_peer(&|peer| peer.peer.clone()),
            format!("{:.2}", record.ours_ms),
            of_peer(&|peer| format!("{:.2}", peer.peer_ms)),
            of_peer(&|peer| format!("{:.2}", peer.ratio)),
            of_peer(&|peer| peer.way.clone()),
            format!("{:.1e}", record.ours_error),
            format!("{:.1e}", record.allowed_error),
            of_peer(&|peer| format!("{:.1e}", peer.peer_error)),
            of_peer(&|peer| format!("{:.1e}", peer.peer_allowed_error)),
            format!("{:.0}", record.ours_first_ms),
            of_peer(&|peer| format!("{:.0}", peer.peer_first_ms)),
        ]);
    }
    for column in [2, 3, 4, 6, 7, 8, 9, 10, 11] {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    let mut out = io::stdout().lock();
    if let Some(record) = records.first() {
        let Adapter { name, backend, driver } = &record.adapter;
        writeln!(out, "{name} ({backend}, {driver}), a process for each")?;
    }
    table.lines().try_for_each(|line| writeln!(out, "  {}", line.trim_end()))?;
    Ok(())
}
