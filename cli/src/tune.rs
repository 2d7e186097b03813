//! `tune`: which tile multiplies matrices of which size fastest on this machine's adapter.

use std::{
    io::Write,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context;
use double_routing::{
    Element, Gpu, Plan, Result, Tensor,
    kernels::{Matmul, Tile, Tuning},
    wgpu,
};
use serde::Serialize;

use crate::{
    Verdict,
    gpu::{Description, Selection},
    measure::{Effort, Work, measure},
    report::{self, BOLD, DIM, Out, engineering},
    save::{self, Destination},
};

#[derive(Debug, clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    selection: Selection,
    /// Where the tiles go: a text file for --tuning, or for Gpu::with_tuning
    #[arg(long, value_name = "FILE")]
    output: PathBuf,
    /// Shorter and fewer samples of fewer sizes
    #[arg(long)]
    quick: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Sizes up to these bounds share a tile; the last of each stand for all that are larger.
const ROWS: &[usize] = &[1, 4, 16, 64, 256, 1024, 4096];
const COLUMNS: &[usize] = &[64, 512, 2048];
const QUICK_ROWS: &[usize] = &[1, 64, 512];
const QUICK_COLUMNS: &[usize] = &[64, 512];
/// Deep enough that a tile's beginning and end do not matter.
const DEPTH: usize = 1024;

/// A size, and how fast each tile was.
#[derive(Debug, Serialize)]
struct Row {
    /// Of both factors.
    element: String,
    rows: usize,
    columns: usize,
    depth: usize,
    /// FLOPs a second with the choice there was: the crate's own, or that of --tuning.
    before: f64,
    /// FLOPs a second with each tile, the best first.
    tiles: Vec<(String, f64)>,
}

pub fn run(arguments: &Arguments, out: &mut Out) -> anyhow::Result<Verdict> {
    let read: Vec<_> = arguments.selection.read().into_iter().collect();
    save::apart(&read, &[("--output", &arguments.output)])?;
    let destination = Destination::new(&arguments.output)?;
    out.make_way(&destination, arguments.json)?;
    let gpu = arguments.selection.open_adapter("the CPU reference has no tiles")?;
    let (rows, columns) = if arguments.quick { (QUICK_ROWS, QUICK_COLUMNS) } else { (ROWS, COLUMNS) };
    let effort = match arguments.quick {
        true => Effort { rounds: 3, sample: Duration::from_millis(5) },
        false => Effort { rounds: 5, sample: Duration::from_millis(30) },
    };
    // Where matrix units have tiles of their own for f16, these products are measured too, and come first in the file.
    let of = |element| {
        let measurable = |tile: &Tile| tile.suits(&gpu) && tile.multiplies(element, element);
        (element, Tile::all().filter(measurable).collect::<Vec<_>>())
    };
    let (all, halves) = (of(Element::F32), of(Element::F16));
    let kinds: Vec<_> = [Some(halves).filter(|(_, tiles)| *tiles != all.1), Some(all)].into_iter().flatten().collect();
    let works: usize = kinds.iter().map(|(_, tiles)| tiles.len() + 1).sum();
    let bar = report::progress("samples", effort.steps(works) * rows.len() * columns.len(), true);
    let mut table = Vec::new();
    let mut tuning = Tuning::default();
    for (element, candidates) in &kinds {
        let add = if *element == Element::F16 { Tuning::push_halves } else { Tuning::push };
        for &m in rows {
            for &n in columns {
                let progress = |name: &str| report::step(&bar, name);
                let (best, measured) = measure_size(&gpu, *element, [m, n], candidates, effort, progress)?;
                let most = |size, sizes: &[usize]| if sizes.last() == Some(&size) { u64::MAX } else { size as u64 };
                add(&mut tuning, most(m, rows), most(n, columns), best);
                table.push(measured);
            }
        }
    }
    bar.finish_and_clear();

    let adapter = Description::from(gpu.info());
    write(destination, &adapter, &tuning)?;
    if arguments.json {
        report::json(out, &serde_json::json!({ "adapter": adapter, "sizes": table, "tuning": tuning.to_string() }))?;
    } else {
        print(out, &adapter, &table, &arguments.output)?;
    }
    Ok(Verdict::Passed)
}

/// Times A·Bᵀ with every tile, and with the choice there is: the fastest tile, and all times.
fn measure_size(
    gpu: &Gpu,
    element: Element,
    [m, n]: [usize; 2],
    candidates: &[Tile],
    effort: Effort,
    progress: impl FnMut(&str),
) -> anyhow::Result<(Tile, Row)> {
    let operand = |label, element, count: usize| gpu.buffer(label, element, count as u64);
    let (a, b) = (operand("a", element, m * DEPTH)?, operand("b", element, n * DEPTH)?);
    let c = operand("c", Element::F32, m * n)?;
    let product = |gpu: &Gpu| -> Result<Plan> {
        let (a, b) = (Tensor::new(&a, element, &[m, DEPTH]), Tensor::new(&b, element, &[n, DEPTH]));
        Matmul::new(a, b, Tensor::f32(&c, &[m, n])).transposed().plan(gpu)
    };
    let mut plans = vec![(format!("{m}x{n} before"), product(gpu)?)];
    for tile in candidates {
        let mut only = Tuning::default();
        only.push(u64::MAX, u64::MAX, *tile);
        plans.push((format!("{m}x{n} {tile}"), product(&gpu.with_tuning(only))?));
    }
    let works: Vec<_> = plans
        .iter()
        .map(|(name, plan)| Work::new(name.clone(), |pass: &mut wgpu::ComputePass<'_>| plan.record(pass)))
        .collect();
    let measured = measure(gpu, &works, effort, progress)?;
    let rate = |at: usize| 2.0 * (m * n * DEPTH) as f64 / measured.timings[at].median();
    let by_rate = |&(a, _): &(usize, &Tile), &(b, _): &(usize, &Tile)| rate(a + 1).total_cmp(&rate(b + 1));
    let (_, &best) = candidates.iter().enumerate().max_by(by_rate).context("no tile suits the adapter")?;
    let mut tiles: Vec<_> = candidates.iter().enumerate().map(|(at, tile)| (tile.to_string(), rate(at + 1))).collect();
    tiles.sort_by(|(_, a), (_, b)| b.total_cmp(a));
    let element = element.to_string();
    Ok((best, Row { element, rows: m, columns: n, depth: DEPTH, before: rate(0), tiles }))
}

fn write(mut destination: Destination, adapter: &Description, tuning: &Tuning) -> anyhow::Result<()> {
    let file = destination.file();
    writeln!(file, "# double-routing {}: tiles measured on {adapter}", env!("CARGO_PKG_VERSION"))
        .and_then(|()| write!(file, "{tuning}"))
        .context("cannot write the tuning")?;
    destination.commit()
}

fn print(out: &mut Out, adapter: &Description, table: &[Row], path: &Path) -> anyhow::Result<()> {
    writeln!(out, "{BOLD}adapter{BOLD:#}  {adapter}\n")?;
    let rows = table.iter().map(|row| {
        let (best, rate) = row.tiles.first().map_or(("", row.before), |(tile, rate)| (tile.as_str(), *rate));
        [
            format!("{}x{}x{} {}", row.rows, row.columns, row.depth, row.element),
            engineering(row.before) + "FLOP/s",
            engineering(rate) + "FLOP/s",
            format!("{:.2}", rate / row.before),
            best.to_owned(),
        ]
    });
    let mut table = report::table(["product", "before", "tuned", "ratio", "tile"], 1, rows);
    if let Some(column) = table.column_mut(4) {
        column.set_cell_alignment(comfy_table::CellAlignment::Left);
    }
    report::print_table(out, &table)?;
    writeln!(out, "\n{DIM}  --tuning {} uses these tiles.{DIM:#}", path.display())?;
    Ok(())
}
