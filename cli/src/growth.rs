//! `growth`: how the time of a folded forward grows with each of its sizes.

use std::{io::Write, path::PathBuf, time::Duration};

use anyhow::Context;
use double_routing::{Dimensions, Error, Gpu, Plan, Settings};
use plotters::{prelude::*, style::text_anchor::HPos};
use serde::Serialize;

use crate::{
    Verdict,
    bench::works::{Layer, Operands},
    chart::{Area, BLUE, INK, MUTED, Svg, bold, logarithmic, text, write},
    gpu::{Description, Selection},
    measure::{Clock, Effort, Timing, Work, measure},
    report::{self, BOLD, DIM, Out},
};

#[derive(Debug, clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    selection: Selection,
    /// Fewer sizes, shorter and fewer samples
    #[arg(long)]
    quick: bool,
    /// Also draw time against each size
    #[arg(long, value_name = "FILE.svg")]
    picture: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// What varies while all else stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
enum Axis {
    S,
    B,
    #[serde(rename = "in")]
    Input,
    O,
}

impl Axis {
    const ALL: [Self; 4] = [Self::S, Self::B, Self::Input, Self::O];

    /// The layer at this size.
    fn layer(self, size: usize) -> Layer {
        let (batch, tokens, [input, attention, routing, output]) = match self {
            Self::S => (1, size, [256, 64, 64, 64]),
            Self::B => (size, 16, [256, 64, 64, 64]),
            Self::Input => (8, 128, [size, 64, 64, 64]),
            Self::O => (8, 128, [64, 16, 16, size]),
        };
        Layer { batch, tokens, dimensions: Dimensions { input, attention, routing, output } }
    }

    /// Sizes in equal steps, over three decades and more.
    fn sizes(self, quick: bool) -> Vec<usize> {
        let (first, last) = match self {
            Self::B => (0, 12),
            _ => (3, 14),
        };
        let powers = if quick { (first..=first + 10).step_by(2) } else { (first..=last).step_by(1) };
        powers.map(|power| 1 << power).collect()
    }

    /// The layer's sizes that stay.
    fn fixed(self) -> &'static str {
        match self {
            Self::S => "B=1 in=256 A=R=O=64",
            Self::B => "S=16 in=256 A=R=O=64",
            Self::Input => "B=8 S=128 A=R=O=64",
            Self::O => "B=8 S=128 in=64 A=R=16",
        }
    }
}

impl std::fmt::Display for Axis {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::S => "S",
            Self::B => "B",
            Self::Input => "in",
            Self::O => "O",
        })
    }
}

/// A forward that is ready to be timed.
struct Subject {
    axis: Axis,
    size: usize,
    order: String,
    forward: Plan,
}

#[derive(Debug, Clone, Serialize)]
struct Point {
    size: usize,
    /// The order its maps are multiplied in.
    order: String,
    /// The median of the samples.
    seconds: f64,
    samples: Vec<f64>,
}

/// The times along an axis, and the power of the size that they grow with.
#[derive(Debug, Serialize)]
struct Curve {
    axis: Axis,
    fixed: &'static str,
    points: Vec<Point>,
    #[serde(flatten)]
    fit: Fit,
}

/// `seconds = factor · size ^ exponent`, from this size up.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
struct Fit {
    exponent: f64,
    factor: f64,
    fitted_from: usize,
}

#[derive(Debug, Serialize)]
struct Growth {
    adapter: Description,
    clock: Clock,
    rounds: usize,
    curves: Vec<Curve>,
    left_out: Vec<String>,
}

pub fn run(arguments: &Arguments, out: &mut Out) -> anyhow::Result<Verdict> {
    arguments.selection.apart_from(arguments.picture.as_deref())?;
    let picture = arguments.picture.as_deref().map(Svg::new).transpose()?;
    let gpu = arguments.selection.open_adapter("the CPU reference is no adapter whose speed matters")?;
    let growth = Growth::measure(&gpu, arguments.quick)?;
    if arguments.json {
        report::json(out, &growth)?;
    } else {
        growth.print(out)?;
    }
    if let Some(picture) = picture {
        let path = picture.save(SIZE, |area| growth.draw(area))?;
        if !arguments.json {
            writeln!(out, "\nThe picture is in {}.", path.display())?;
        }
    }
    Ok(Verdict::Passed)
}

impl Growth {
    fn measure(gpu: &Gpu, quick: bool) -> anyhow::Result<Self> {
        let effort = if quick {
            Effort { rounds: 3, sample: Duration::from_millis(5) }
        } else {
            Effort { rounds: 7, sample: Duration::from_millis(20) }
        };
        let all = || Axis::ALL.into_iter().flat_map(|axis| axis.sizes(quick).into_iter().map(move |size| (axis, size)));
        let most = |elements: fn(&Layer) -> usize| {
            all().map(|(axis, size)| elements(&axis.layer(size))).max().unwrap_or_default()
        };
        let operands = Operands::of(
            gpu,
            most(|layer| layer.rows() * layer.dimensions.input),
            most(|layer| layer.rows() * layer.dimensions.output),
        )?;
        let (mut subjects, mut left_out) = (Vec::new(), Vec::new());
        for (axis, size) in all() {
            match axis.layer(size).prepare(gpu, Settings::default(), &operands, None) {
                Ok((order, forward)) => subjects.push(Subject { axis, size, order: order.to_string(), forward }),
                Err(error @ Error::Limit { .. }) => left_out.push(format!("{axis}={size}: {error}")),
                Err(error) => return Err(error.into()),
            }
        }
        let name = |subject: &Subject| format!("{}={}", subject.axis, subject.size);
        let works: Vec<_> = subjects.iter().map(|subject| Work::of(name(subject), &subject.forward)).collect();
        let bar = report::progress("samples", effort.steps(works.len()), true);
        let measured = measure(gpu, &works, effort, |name| report::step(&bar, name));
        bar.finish_and_clear();
        let measured = measured?;

        let timed: Vec<_> = subjects.iter().zip(&measured.timings).collect();
        let curves = timed.chunk_by(|(a, _), (b, _)| a.axis == b.axis).map(|timed| {
            let axis = timed[0].0.axis;
            let point = |(subject, timing): &(&Subject, &Timing)| Point {
                size: subject.size,
                order: subject.order.clone(),
                seconds: timing.median(),
                samples: timing.samples.clone(),
            };
            let points: Vec<_> = timed.iter().map(point).collect();
            let fit = Fit::of(&points.iter().map(|point| (point.size, point.seconds)).collect::<Vec<_>>())
                .with_context(|| format!("too few sizes of {axis} fit the device"))?;
            Ok(Curve { axis, fixed: axis.fixed(), points, fit })
        });
        Ok(Self {
            adapter: gpu.info().into(),
            clock: measured.clock,
            rounds: effort.rounds,
            curves: curves.collect::<anyhow::Result<_>>()?,
            left_out,
        })
    }

    fn print(&self, out: &mut Out) -> anyhow::Result<()> {
        writeln!(out, "{BOLD}adapter{BOLD:#}  {}\n", self.adapter)?;
        let rows = self.curves.iter().map(|curve| {
            let [first, .., last] = &curve.points[..] else { return Default::default() };
            [
                curve.axis.to_string(),
                format!("{} … {}", first.size, last.size),
                format!("{} … {}", report::seconds(first.seconds), report::seconds(last.seconds)),
                format!("{}^{:.2}", curve.axis, curve.fit.exponent),
                format!("{} … {}", curve.fit.fitted_from, last.size),
                format!("{}, {}", curve.fixed, curve.orders()),
            ]
        });
        let mut table = report::table(["", "sizes", "time", "grows with", "fitted to", "at"], 1, rows);
        if let Some(column) = table.column_mut(5) {
            column.set_cell_alignment(comfy_table::CellAlignment::Left);
        }
        report::print_table(out, &table)?;
        writeln!(out)?;
        for line in &self.left_out {
            writeln!(out, "  left out: {line}")?;
        }
        let rounds = self.rounds;
        writeln!(
            out,
            "{DIM}  Folded forwards. Medians of {rounds} rounds in which all take turns, by {}.",
            self.clock
        )?;
        writeln!(
            out,
            "  Fitted to the times of {FIXED_COST} times the shortest and more: below, fixed costs weigh in.{DIM:#}"
        )?;
        Ok(())
    }

    fn draw(&self, area: &Area<'_>) -> anyhow::Result<()> {
        let (header, below) = area.split_vertically(64);
        write(&header, "Time of a folded forward", (24, 26), HPos::Left, &bold(20.0, INK))?;
        write(&header, &self.adapter.to_string(), (24, 50), HPos::Left, &text(12.0, MUTED))?;
        let times = || self.curves.iter().flat_map(|curve| &curve.points).map(|point| point.seconds);
        let (least, most) = (times().fold(f64::MAX, f64::min), times().fold(0.0, f64::max));
        // The same times in all panels.
        let seconds = least / 2.0..most * 2.0;
        for (panel, curve) in below.split_evenly((2, 2)).iter().zip(&self.curves) {
            curve.draw(panel, seconds.clone())?;
        }
        Ok(())
    }
}

const SIZE: (u32, u32) = (1200, 900);

impl Curve {
    /// The orders of the folded plan, in the order in which they come.
    fn orders(&self) -> String {
        let mut orders: Vec<&str> = self.points.iter().map(|point| point.order.as_str()).collect();
        orders.dedup();
        orders.join(", then ")
    }

    fn draw(&self, panel: &Area<'_>, seconds: std::ops::Range<f64>) -> anyhow::Result<()> {
        let [first, .., last] = &self.points[..] else { return Ok(()) };
        let (title, below) = panel.split_vertically(34);
        let sizes = first.size as f64 / 1.6..last.size as f64 * 1.6;
        let Fit { exponent, factor, fitted_from } = self.fit;
        write(&title, &format!("{} at {}", self.axis, self.fixed), (100, 20), HPos::Left, &text(13.0, INK))?;
        let law = format!("time ∝ {}^{exponent:.2} from {fitted_from}", self.axis);
        let (width, _) = title.dim_in_pixel();
        write(&title, &law, (width as i32 - 18, 20), HPos::Right, &bold(13.0, BLUE))?;
        let mut chart = logarithmic(&below, [sizes, seconds], [&self.axis.to_string(), ""], "s")?;
        let line = [fitted_from, last.size].map(|size| (size as f64, factor * (size as f64).powf(exponent)));
        chart.draw_series(LineSeries::new(line, BLUE.stroke_width(2)))?;
        let dot = |point: &Point| {
            let colour = if point.size < fitted_from { MUTED } else { INK };
            Circle::new((point.size as f64, point.seconds), 4, colour.filled())
        };
        chart.draw_series(self.points.iter().map(dot))?;
        Ok(())
    }
}

/// A time of so many times the shortest is mostly not fixed cost.
const FIXED_COST: f64 = 8.0;
/// Points that a line is fitted to at least.
const FEWEST: usize = 3;

impl Fit {
    /// Least squares in the logarithms, over the sizes whose times are mostly not fixed cost, and over the three largest at
    /// least. `None` where there are fewer.
    fn of(points: &[(usize, f64)]) -> Option<Self> {
        let shortest = points.iter().map(|(_, seconds)| *seconds).fold(f64::INFINITY, f64::min);
        // Above the last size that is still mostly fixed cost.
        let fixed = points.iter().rposition(|(_, seconds)| *seconds < FIXED_COST * shortest).map_or(0, |at| at + 1);
        let upper = &points[fixed.min(points.len().checked_sub(FEWEST)?)..];
        let logarithms = || upper.iter().map(|&(size, seconds)| ((size as f64).ln(), seconds.ln()));
        let count = upper.len() as f64;
        let (x, y) = logarithms().fold((0.0, 0.0), |sum, (x, y)| (sum.0 + x / count, sum.1 + y / count));
        let (across, along) = logarithms()
            .fold((0.0, 0.0), |sum, (at, time)| (sum.0 + (at - x) * (time - y), sum.1 + (at - x) * (at - x)));
        let exponent = across / along;
        Some(Self { exponent, factor: (y - exponent * x).exp(), fitted_from: upper[0].0 })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

    use super::{Axis, Fit};

    #[test]
    fn a_power_is_found_behind_a_fixed_cost() {
        let points: Vec<_> =
            (0..14).map(|power| (1usize << power, 1e-4 + 3e-7 * f64::from(1 << power).powf(1.5))).collect();
        let fit = Fit::of(&points).unwrap();
        assert!((fit.exponent - 1.5).abs() < 0.05, "{fit:?}");
        assert!(fit.fitted_from >= 128, "{fit:?}");
        // An exact power is found exactly, whatever the number of points.
        let exact: Vec<_> = (0..3).map(|power| (1usize << power, 2.0 * f64::from(1 << power).powi(2))).collect();
        let fit = Fit::of(&exact).unwrap();
        assert!((fit.exponent - 2.0).abs() < 1e-12 && (fit.factor - 2.0).abs() < 1e-12, "{fit:?}");
        assert_eq!(Fit::of(&exact[..2]), None);
    }

    #[test]
    fn sizes_span_three_decades() {
        for axis in Axis::ALL {
            for quick in [false, true] {
                let sizes = axis.sizes(quick);
                assert!(sizes[sizes.len() - 1] >= 1000 * sizes[0] && sizes.len() >= 4, "{axis}: {sizes:?}");
            }
        }
    }
}
