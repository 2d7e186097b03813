//! `bench`: how fast the kernels are on this machine's adapter, and how fast they could be there.

mod ceilings;
mod picture;
pub mod works;

use std::{io::Write, path::PathBuf, time::Duration};

use anyhow::{Context, bail};
use double_routing::Gpu;
use serde::Serialize;

use crate::{
    Verdict,
    chart::Svg,
    gpu::{Description, Selection},
    measure::{Clock, Effort, Timing, Work, measure},
    report::{self, BOLD, DIM, Out, engineering},
};
use ceilings::{Resource, Search, Shape, Yardstick};
use works::{Kind, Operands, Spec, Subject, Traffic, prepare};

#[derive(Debug, clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    selection: Selection,
    /// Only works that have this in their names
    #[arg(long, value_name = "PART")]
    work: Option<String>,
    /// Shorter and fewer samples, and without --work fewer works
    #[arg(long)]
    quick: bool,
    /// Also draw the roofline
    #[arg(long, value_name = "FILE.svg")]
    picture: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// What the adapter itself can do.
#[derive(Debug, Clone, Serialize)]
struct Ceiling {
    #[serde(flatten)]
    resource: Resource,
    /// FLOPs or bytes a second.
    per_second: f64,
    #[serde(flatten)]
    shape: Shape,
}

impl Ceiling {
    fn unit(&self) -> &'static str {
        match self.resource {
            Resource::Arithmetic => "FLOP/s",
            _ => "B/s",
        }
    }
}

impl std::fmt::Display for Ceiling {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}, {}{}", self.resource, engineering(self.per_second), self.unit())
    }
}

/// A work and how fast it was.
#[derive(Debug, Serialize)]
struct Row {
    name: String,
    kind: Kind,
    /// The median of the samples.
    seconds: f64,
    samples: Vec<f64>,
    repetitions: u32,
    flops: u64,
    bytes_read: u64,
    bytes_written: u64,
    flops_per_second: f64,
    bytes_per_second: f64,
    /// What keeps it from being faster than `seconds · share`.
    ceiling: Ceiling,
    share: f64,
    /// Of softmax: copying as many bytes in the simplest way, for comparison.
    #[serde(skip_serializing_if = "Option::is_none")]
    quad_copy: Option<Ceiling>,
}

impl Row {
    /// FLOPs for each byte.
    fn intensity(&self) -> f64 {
        self.flops as f64 / (self.bytes_read + self.bytes_written) as f64
    }

    /// FLOPs a second at its ceiling.
    fn attainable(&self) -> f64 {
        self.flops_per_second / self.share
    }
}

/// What decides which kernels and tiles were measured.
#[derive(Debug, Serialize)]
struct Setting {
    /// Of the crate.
    version: &'static str,
    class: String,
    /// Bytes of workgroup memory that the device was requested with.
    workgroup_memory: u32,
    /// The side of the fragments of matrix units, where they are used.
    matrix_units: Option<u32>,
    /// Whether tiles come from a tuning first.
    tuned: bool,
}

impl Setting {
    fn of(gpu: &Gpu) -> Self {
        Self {
            version: env!("CARGO_PKG_VERSION"),
            class: format!("{:?}", gpu.class()).to_lowercase(),
            workgroup_memory: gpu.device().limits().max_compute_workgroup_storage_size,
            matrix_units: gpu.matrix_units(),
            tuned: gpu.tuning().is_some(),
        }
    }
}

impl std::fmt::Display for Setting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { version, class, workgroup_memory, matrix_units, tuned } = self;
        let tiles = if *tuned { "a tuning" } else { "the table" };
        write!(f, "double-routing {version}, tiles of {tiles} for {class} adapters")?;
        write!(f, ", {} of workgroup memory", report::bytes(u64::from(*workgroup_memory)))?;
        matrix_units.map_or(Ok(()), |side| write!(f, ", matrix units of {side}x{side}"))
    }
}

/// All that was measured.
#[derive(Debug, Serialize)]
struct Roofline {
    adapter: Description,
    setting: Setting,
    clock: Clock,
    rounds: usize,
    /// Arithmetic, and reading and copying more than caches hold.
    ceilings: Vec<Ceiling>,
    works: Vec<Row>,
    left_out: Vec<String>,
}

/// Bytes that are read or copied for the ceilings of memory: as many as WebGPU lets every device bind.
const LARGE: u64 = 128 << 20;
/// The same for a quick look.
const QUICK: u64 = 32 << 20;

pub fn run(arguments: &Arguments, out: &mut Out) -> anyhow::Result<Verdict> {
    arguments.selection.apart_from(arguments.picture.as_deref())?;
    let picture = arguments.picture.as_deref().map(Svg::new).transpose()?;
    let specs = chosen(arguments)?;
    let gpu = arguments.selection.open_adapter("the CPU reference is no adapter whose speed matters")?;
    let roofline = Roofline::measure(&gpu, &specs, arguments.quick)?;
    if arguments.json {
        report::json(out, &roofline)?;
    } else {
        roofline.print(out)?;
    }
    if let Some(picture) = picture {
        let path = picture.save(picture::SIZE, |area| picture::draw(&roofline, area))?;
        if !arguments.json {
            writeln!(out, "\nThe picture is in {}.", path.display())?;
        }
    }
    Ok(Verdict::Passed)
}

/// The works whose names contain what was asked for.
fn chosen(arguments: &Arguments) -> anyhow::Result<Vec<Spec>> {
    let mut specs = Spec::all();
    match &arguments.work {
        Some(part) => {
            specs.retain(|spec| spec.to_string().contains(part));
            if specs.is_empty() {
                bail!("no work has '{part}' in its name");
            }
        }
        None if arguments.quick => specs.retain(Spec::is_quick),
        None => {}
    }
    Ok(specs)
}

impl Roofline {
    fn measure(gpu: &Gpu, specs: &[Spec], quick: bool) -> anyhow::Result<Self> {
        let milliseconds = Duration::from_millis;
        let (large, search_effort, effort) = if quick {
            let sample = milliseconds(10);
            (QUICK, Effort { rounds: 2, sample }, Effort { rounds: 3, sample })
        } else {
            (LARGE, Effort { rounds: 3, sample: milliseconds(15) }, Effort { rounds: 9, sample: milliseconds(30) })
        };
        let operands = Operands::new(gpu, specs, large)?;
        let (subjects, left_out) = prepare(gpu, specs, &operands)?;

        let mut search = Search::new(gpu, &operands);
        let main = [Resource::Arithmetic, Resource::Read { bytes: large }, Resource::Copy { bytes: large }];
        let mut best = |resources: &[Resource]| {
            let bar = report::progress("shapes tried for the ceilings", search.steps(resources, search_effort), true);
            let yardsticks = search.best(resources, search_effort, |name| report::step(&bar, name));
            bar.finish_and_clear();
            yardsticks
        };
        let mut yardsticks = best(&main)?;
        let mut streams: Vec<Resource> =
            subjects.iter().filter_map(|subject| own_stream(subject, &yardsticks, large)).collect();
        streams.extend(subjects.iter().filter_map(|subject| own_quad_copy(subject, large)));
        streams.sort_unstable();
        streams.dedup();
        yardsticks.extend(best(&streams)?);

        let mut works: Vec<Work<'_>> = yardsticks.iter().map(Yardstick::work).collect();
        works.extend(subjects.iter().map(|subject| Work::of(&subject.name, &subject.plan)));
        let bar = report::progress("samples", effort.steps(works.len()), true);
        let measured = measure(gpu, &works, effort, |name| report::step(&bar, name));
        bar.finish_and_clear();
        let measured = measured?;

        let (of_yardsticks, of_subjects) = measured.timings.split_at(yardsticks.len());
        let mut ceilings: Vec<Ceiling> = yardsticks
            .iter()
            .zip(of_yardsticks)
            .map(|(yardstick, timing)| Ceiling {
                resource: yardstick.resource,
                per_second: yardstick.amount / timing.median(),
                shape: yardstick.shape,
            })
            .collect();
        faster_copies(&mut ceilings);
        let row = |(subject, timing): (&Subject, &Timing)| {
            let (seconds, Traffic { read, written }) = (timing.median(), subject.traffic);
            let (ceiling, least) =
                limit(limited_flops(subject), subject.traffic, &ceilings).context("a ceiling was not measured")?;
            Ok(Row {
                name: subject.name.clone(),
                kind: subject.kind,
                seconds,
                samples: timing.samples.clone(),
                repetitions: timing.repetitions,
                flops: subject.flops,
                bytes_read: read,
                bytes_written: written,
                flops_per_second: subject.flops as f64 / seconds,
                bytes_per_second: subject.traffic.bytes() as f64 / seconds,
                ceiling: ceiling.clone(),
                share: least / seconds,
                quad_copy: own_quad_copy(subject, large)
                    .and_then(|copy| ceilings.iter().find(|ceiling| ceiling.resource == copy).cloned()),
            })
        };
        let works = subjects.iter().zip(of_subjects).map(row).collect::<anyhow::Result<_>>()?;
        Ok(Self {
            adapter: gpu.info().into(),
            setting: Setting::of(gpu),
            clock: measured.clock,
            rounds: effort.rounds,
            ceilings: ceilings[..main.len()].to_vec(),
            works,
            left_out,
        })
    }

    fn print(&self, out: &mut Out) -> anyhow::Result<()> {
        writeln!(out, "{BOLD}adapter{BOLD:#}  {}", self.adapter)?;
        writeln!(out, "{DIM}         {}{DIM:#}\n", self.setting)?;
        let rows = self.ceilings.iter().map(|ceiling| {
            [
                ceiling.resource.to_string(),
                format!("{}{}", engineering(ceiling.per_second), ceiling.unit()),
                ceiling.resource.with(ceiling.shape),
            ]
        });
        let mut table = report::table(["ceiling", "rate", "reached with"], 1, rows);
        if let Some(column) = table.column_mut(2) {
            column.set_cell_alignment(comfy_table::CellAlignment::Left);
        }
        report::print_table(out, &table)?;
        writeln!(out)?;

        let rows = self.works.iter().map(|row| {
            [
                row.name.clone(),
                report::seconds(row.seconds),
                engineering(row.flops_per_second) + "FLOP/s",
                engineering(row.bytes_per_second) + "B/s",
                format!("{:.0} %", 100.0 * row.share),
                row.ceiling.to_string(),
            ]
        });
        let mut table = report::table(["work", "time", "arithmetic", "memory", "share", "of its ceiling"], 1, rows);
        if let Some(column) = table.column_mut(5) {
            column.set_cell_alignment(comfy_table::CellAlignment::Left);
        }
        report::print_table(out, &table)?;
        writeln!(out)?;
        for row in &self.works {
            if let Some(Ceiling { resource, per_second, .. }) = &row.quad_copy {
                let times = row.bytes_per_second.recip() * per_second;
                writeln!(
                    out,
                    "  {} takes {times:.2} times as long as a {} of as many bytes",
                    row.name,
                    resource.name()
                )?;
            }
        }
        for line in &self.left_out {
            writeln!(out, "  left out: {line}")?;
        }
        let (rounds, clock) = (self.rounds, self.clock);
        writeln!(
            out,
            "{DIM}  Medians of {rounds} rounds in which all take turns, by {clock}. bt: B is stored transposed.{DIM:#}"
        )?;
        Ok(())
    }
}

/// The stream of a work's own bytes, where memory may be what limits it and caches may hold more of it than of the `large`
/// streams.
fn own_stream(subject: &Subject, main: &[Yardstick], large: u64) -> Option<Resource> {
    let like = Resource::like(subject.traffic);
    let arithmetic = main.iter().find(|yardstick| yardstick.resource == Resource::Arithmetic)?;
    let memory = main.iter().find(|yardstick| yardstick.resource.name() == like.name())?;
    let computing = limited_flops(subject) as f64 / arithmetic.rate;
    let moving = subject.traffic.bytes() as f64 / memory.rate;
    // Both rates will be measured again, and may turn out a little different.
    (like.bytes() < large && 1.25 * moving > computing).then_some(like)
}

/// The FLOPs that the arithmetic of shaders limits: matrix units have a rate of their own, which is not measured.
fn limited_flops(subject: &Subject) -> u64 {
    if subject.on_matrix_units { 0 } else { subject.flops }
}

/// Copying in `vec4<f32>` is a way of copying: where that was the faster one, it is the ceiling.
fn faster_copies(ceilings: &mut [Ceiling]) {
    for at in 0..ceilings.len() {
        let Resource::Copy { bytes } = ceilings[at].resource else { continue };
        let quads = ceilings.iter().find(|ceiling| ceiling.resource == Resource::QuadCopy { bytes });
        if let Some(&Ceiling { per_second, shape, .. }) =
            quads.filter(|quads| quads.per_second > ceilings[at].per_second)
        {
            ceilings[at] = Ceiling { per_second, shape, ..ceilings[at] };
        }
    }
}

/// What softmax, which has to read and write each byte once, is compared with.
fn own_quad_copy(subject: &Subject, large: u64) -> Option<Resource> {
    let bytes = Resource::like(subject.traffic).bytes().min(large);
    (subject.kind == Kind::Softmax).then_some(Resource::QuadCopy { bytes })
}

/// The ceiling that limits a work of so many FLOPs and bytes, and the least seconds it leaves.
fn limit(flops: u64, traffic: Traffic, ceilings: &[Ceiling]) -> Option<(&Ceiling, f64)> {
    let like = Resource::like(traffic);
    let arithmetic = ceilings.iter().find(|ceiling| ceiling.resource == Resource::Arithmetic)?;
    // Its own stream where there is one, else the large one of the same kind.
    let memory = ceilings
        .iter()
        .filter(|ceiling| ceiling.resource.name() == like.name())
        .min_by_key(|ceiling| ceiling.resource != like)?;
    let seconds = |ceiling: &Ceiling, amount: u64| amount as f64 / ceiling.per_second;
    let (computing, moving) = (seconds(arithmetic, flops), seconds(memory, traffic.bytes()));
    Some(if computing > moving { (arithmetic, computing) } else { (memory, moving) })
}

#[cfg(test)]
mod tests {
    use super::{Ceiling, Resource, Shape, Traffic, faster_copies, limit};

    fn ceiling(resource: Resource, per_second: f64) -> Ceiling {
        Ceiling { resource, per_second, shape: Shape { size: 64, each: 4, octets: false } }
    }

    #[test]
    fn the_faster_way_to_copy_is_the_ceiling() {
        let (copy, quads) = (Resource::Copy { bytes: 64 }, Resource::QuadCopy { bytes: 64 });
        for (of_copy, of_quads, expected) in [(3.0, 5.0, 5.0), (5.0, 3.0, 5.0)] {
            let mut ceilings =
                [ceiling(copy, of_copy), ceiling(quads, of_quads), ceiling(Resource::QuadCopy { bytes: 128 }, 9.0)];
            faster_copies(&mut ceilings);
            assert_eq!(ceilings.map(|ceiling| ceiling.per_second), [expected, of_quads, 9.0]);
        }
    }

    #[test]
    fn the_lower_ceiling_limits() {
        let ceilings = [
            ceiling(Resource::Arithmetic, 100.0),
            ceiling(Resource::Read { bytes: 1 << 20 }, 10.0),
            ceiling(Resource::Copy { bytes: 1 << 20 }, 5.0),
            ceiling(Resource::Read { bytes: 160 }, 40.0),
        ];
        let limit = |flops, read, written| {
            limit(flops, Traffic { read, written }, &ceilings).map(|(ceiling, least)| (ceiling.resource, least))
        };
        // 10 FLOPs a byte are as many as memory can feed.
        assert_eq!(limit(4000, 320, 0), Some((Resource::Arithmetic, 40.0)));
        assert_eq!(limit(2000, 320, 0), Some((Resource::Read { bytes: 1 << 20 }, 32.0)));
        assert_eq!(limit(420, 160, 0), Some((Resource::Arithmetic, 4.2)), "its own bytes are read from a cache");
        assert_eq!(limit(100, 100, 100), Some((Resource::Copy { bytes: 1 << 20 }, 40.0)));
        assert_eq!(limit(0, 80, 80), Some((Resource::Copy { bytes: 1 << 20 }, 32.0)));
    }
}
