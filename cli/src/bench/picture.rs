//! The roofline as a picture: what memory and arithmetic allow as lines, each work as a point with a stem up to its own
//! ceiling.

use plotters::{prelude::*, style::text_anchor::HPos};

use super::{Ceiling, Kind, Resource, Roofline, Row};
use crate::{
    chart::{Area, Chart, INK, MUTED, Places, around, bold, logarithmic, text, write},
    report::seconds,
};

pub const SIZE: (u32, u32) = (1280, 800);
/// Pixels of the chart's width; the list of works is beside it.
const CHART: u32 = 840;
const HEADER: u32 = 64;

impl Kind {
    fn colour(self) -> RGBColor {
        match self {
            Self::Matmul => RGBColor(0x25, 0x63, 0xeb),
            Self::Route => RGBColor(0xd9, 0x77, 0x06),
            Self::Attend => RGBColor(0x05, 0x96, 0x69),
            Self::Softmax => RGBColor(0x93, 0x33, 0xea),
            Self::Select => RGBColor(0x0e, 0x74, 0x90),
            Self::Router => RGBColor(0xbe, 0x18, 0x5d),
            Self::Forward => RGBColor(0xdc, 0x26, 0x26),
            Self::Moe => RGBColor(0x65, 0xa3, 0x0d),
        }
    }
}

pub fn draw(roofline: &Roofline, area: &Area<'_>) -> anyhow::Result<()> {
    let (header, below) = area.split_vertically(HEADER);
    write(&header, "Roofline", (24, 26), HPos::Left, &bold(20.0, INK))?;
    write(&header, &roofline.adapter.to_string(), (24, 50), HPos::Left, &text(12.0, MUTED))?;
    let (left, right) = below.split_horizontally(CHART);
    chart(roofline, &left)?;
    list(roofline, &right)
}

fn chart(roofline: &Roofline, area: &Area<'_>) -> anyhow::Result<()> {
    let points = || roofline.works.iter().map(|row| (row.intensity(), row.flops_per_second));
    let arithmetic = roofline.ceilings.iter().find(|ceiling| ceiling.resource == Resource::Arithmetic);
    let memories: Vec<&Ceiling> =
        roofline.ceilings.iter().filter(|ceiling| ceiling.resource != Resource::Arithmetic).collect();
    let Some(peak) = arithmetic.map(|ceiling| ceiling.per_second) else { return Ok(()) };
    // Every point, and where memory and arithmetic allow as much.
    let ridges = || memories.iter().map(|memory| peak / memory.per_second);
    let (mut x, mut y) = ((f64::MAX, 0.0), (peak, peak));
    for intensity in points().map(|(intensity, _)| intensity).chain(ridges()) {
        x = (intensity.min(x.0), intensity.max(x.1));
    }
    for rate in roofline.works.iter().flat_map(|row| [row.flops_per_second, row.attainable()]) {
        y = (rate.min(y.0), rate.max(y.1));
    }
    let (x, y) = (x.0 / 2.0..x.1 * 2.0, y.0 / 2.0..y.1 * 1.6);
    let mut chart = logarithmic(area, [x.clone(), y.clone()], ["FLOPs for each byte", ""], "FLOP/s")?;

    let mut places = Places::default();
    for row in &roofline.works {
        let point = chart.backend_coord(&(row.intensity(), row.flops_per_second));
        let top = chart.backend_coord(&(row.intensity(), row.attainable()));
        places.take(point, (12, 12));
        places.take((point.0, (point.1 + top.1) / 2), (6, (point.1 - top.1).abs()));
    }
    let thick = INK.stroke_width(2);
    // Left of the first ridge only memory limits.
    let first = ridges().fold(f64::MAX, f64::min);
    chart.draw_series(LineSeries::new([(first, peak), (x.end, peak)], thick))?;
    for memory in &memories {
        let slope = memory.per_second;
        let ends = [x.start.max(y.start / slope), peak / slope].map(|at| (at, at * slope));
        chart.draw_series(LineSeries::new(ends, thick))?;
    }
    if let Some(ceiling) = arithmetic {
        let (right, height) = chart.backend_coord(&(x.end, peak));
        let label = ceiling.to_string();
        places.take((right - 100, height - 12), (200, 16));
        write(area, &label, relative(area, (right - 6, height - 12)), HPos::Right, &bold(12.0, INK))?;
    }
    label_memories(area, &chart, &memories, (&x, &y), peak, &mut places)?;

    // Points cover stems.
    for row in &roofline.works {
        let (colour, at) = (row.kind.colour(), row.intensity());
        let stem = [(at, row.flops_per_second), (at, row.attainable())];
        chart.draw_series(LineSeries::new(stem, colour.mix(0.35)))?;
        let (x, y) = chart.backend_coord(&stem[1]);
        let tick = [(x - 4, y), (x + 4, y)].map(|at| relative(area, at));
        area.draw(&PathElement::new(tick, colour.mix(0.6)))?;
    }
    for (number, row) in numbered(roofline) {
        let at = (row.intensity(), row.flops_per_second);
        chart.draw_series([Circle::new(at, 5, row.kind.colour().filled())])?;
        let at = chart.backend_coord(&at);
        let number = number.to_string();
        if let Some(place) = places.find(around(at, 13), (7 * number.len() as i32 + 3, 12)) {
            write(area, &number, relative(area, place), HPos::Center, &bold(11.0, row.kind.colour()))?;
        }
    }
    Ok(())
}

/// The names of memory's ceilings along their lines: the highest line's to the left of it, the others' to the right.
fn label_memories(
    area: &Area<'_>,
    chart: &Chart<'_, '_>,
    memories: &[&Ceiling],
    (x, y): (&std::ops::Range<f64>, &std::ops::Range<f64>),
    peak: f64,
    places: &mut Places,
) -> anyhow::Result<()> {
    let highest = memories.iter().map(|memory| memory.per_second).fold(0.0, f64::max);
    for memory in memories {
        let label = memory.to_string();
        let width = 7 * label.chars().count() as i32;
        let (slope, is_highest) = (memory.per_second, memory.per_second == highest);
        let (start, end) = (x.start.max(y.start / slope), peak / slope);
        let side = if is_highest { -1 } else { 1 };
        let left_edge = chart.backend_coord(&(x.start, peak)).0;
        let along = (1..20).filter_map(|step| {
            let at = start * (end / start).powf(f64::from(step) / 20.0);
            let (on_line, height) = chart.backend_coord(&(at, at * slope));
            let centre = on_line + side * (width / 2 + 12);
            (centre - width / 2 > left_edge).then_some((centre, height))
        });
        if let Some(place) = places.find(along.collect::<Vec<_>>(), (width, 16)) {
            write(area, &label, relative(area, place), HPos::Center, &bold(12.0, INK))?;
        }
    }
    Ok(())
}

/// A pixel of the picture as a pixel of this part of it.
fn relative(area: &Area<'_>, (x, y): (i32, i32)) -> (i32, i32) {
    let (left, top) = area.get_base_pixel();
    (x - left, y - top)
}

/// The works under the numbers they have in the picture.
fn numbered(roofline: &Roofline) -> impl Iterator<Item = (usize, &Row)> {
    (1..).zip(&roofline.works)
}

fn list(roofline: &Roofline, area: &Area<'_>) -> anyhow::Result<()> {
    let (width, _) = area.dim_in_pixel();
    let right = width as i32 - 24;
    let mut height = 26;
    let rows: Vec<_> = numbered(roofline).collect();
    let of_times = right - 60;
    write(area, "time", (of_times, height), HPos::Right, &text(11.0, MUTED))?;
    write(area, "share", (right, height), HPos::Right, &text(11.0, MUTED))?;
    for rows in rows.chunk_by(|(_, a), (_, b)| a.kind == b.kind) {
        for (place, (number, row)) in rows.iter().enumerate() {
            let colour = row.kind.colour();
            let (kind, size) = row.name.split_once(' ').unwrap_or((&row.name, ""));
            if place == 0 {
                write(area, kind, (8, height), HPos::Left, &bold(13.0, colour))?;
                height += 21;
            }
            write(area, &number.to_string(), (26, height), HPos::Right, &bold(11.0, colour))?;
            write(area, size, (36, height), HPos::Left, &text(12.0, INK))?;
            write(area, &seconds(row.seconds), (of_times, height), HPos::Right, &text(12.0, INK))?;
            write(area, &format!("{:.0} %", 100.0 * row.share), (right, height), HPos::Right, &text(12.0, INK))?;
            height += 19;
        }
        height += 10;
    }
    Ok(())
}
