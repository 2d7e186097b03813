//! What the pictures of measurements share: files, colours, logarithmic axes, and labels that keep out of each other's way.

use std::{io::Write, ops::Range, path::Path};

use anyhow::ensure;
use plotters::{
    coord::{Shift, combinators::LogCoord},
    prelude::*,
    style::text_anchor::{HPos, Pos, VPos},
};

use crate::{report::engineering, save::Destination};

pub type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
pub type Chart<'a, 'b> = ChartContext<'a, SVGBackend<'b>, Cartesian2d<LogCoord<f64>, LogCoord<f64>>>;

pub const INK: RGBColor = RGBColor(0x1f, 0x29, 0x33);
pub const MUTED: RGBColor = RGBColor(0x6b, 0x72, 0x80);
pub const BLUE: RGBColor = RGBColor(0x25, 0x63, 0xeb);
const GRID: RGBColor = RGBColor(0xe5, 0xe7, 0xeb);
const FINE_GRID: RGBColor = RGBColor(0xf3, 0xf4, 0xf6);

/// An SVG file that takes its place when it is complete.
pub struct Svg<'a> {
    path: &'a Path,
    destination: Destination,
}

impl<'a> Svg<'a> {
    /// Finds out early whether the file can be written.
    pub fn new(path: &'a Path) -> anyhow::Result<Self> {
        let is_svg = path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("svg"));
        ensure!(is_svg, "cannot write {}: the picture is SVG, so its name must end in .svg", path.display());
        Ok(Self { path, destination: Destination::new(path)? })
    }

    /// Draws the picture and puts the file in its place.
    pub fn save(
        mut self,
        size: (u32, u32),
        draw: impl FnOnce(&Area<'_>) -> anyhow::Result<()>,
    ) -> anyhow::Result<&'a Path> {
        let mut svg = String::new();
        let area = SVGBackend::with_string(&mut svg, size).into_drawing_area();
        area.fill(&WHITE)?;
        draw(&area)?;
        area.present()?;
        drop(area);
        self.destination.file().write_all(svg.as_bytes())?;
        self.destination.commit()?;
        Ok(self.path)
    }
}

/// The pixels of a text's height; plotters counts a font's size by its line.
const LINE: f64 = 1.24;

/// Text of so many pixels.
pub fn text(pixels: f64, colour: RGBColor) -> TextStyle<'static> {
    ("sans-serif", pixels * LINE).into_font().color(&colour)
}

pub fn bold(pixels: f64, colour: RGBColor) -> TextStyle<'static> {
    ("sans-serif", pixels * LINE, FontStyle::Bold).into_font().color(&colour)
}

/// Writes a line of text whose middle is at the height of `at`.
pub fn write(area: &Area<'_>, line: &str, at: (i32, i32), from: HPos, style: &TextStyle<'_>) -> anyhow::Result<()> {
    Ok(area.draw_text(line, &style.pos(Pos::new(from, VPos::Center)), at)?)
}

/// A chart with two logarithmic axes; ticks of `y` are in this unit.
pub fn logarithmic<'a, 'b>(
    area: &'a Area<'b>,
    [x, y]: [Range<f64>; 2],
    [x_title, y_title]: [&str; 2],
    unit: &str,
) -> anyhow::Result<Chart<'a, 'b>> {
    let decades = |range: &Range<f64>| (range.end / range.start).log10().ceil() as usize;
    let (x_decades, y_decades) = (decades(&x), decades(&y));
    let mut chart = ChartBuilder::on(area)
        .margin(16)
        .x_label_area_size(46)
        .y_label_area_size(84)
        .build_cartesian_2d(x.log_scale(), y.log_scale())?;
    chart
        .configure_mesh()
        .x_labels(x_decades.max(2))
        .y_labels(y_decades.max(2))
        .bold_line_style(GRID)
        .light_line_style(FINE_GRID)
        .axis_style(MUTED)
        .label_style(text(11.0, MUTED))
        .axis_desc_style(text(12.0, INK))
        .x_desc(x_title)
        .y_desc(y_title)
        .x_label_formatter(&|value| tick(*value, ""))
        .y_label_formatter(&|value| tick(*value, unit))
        .draw()?;
    Ok(chart)
}

/// A power of ten, without digits behind the point.
fn tick(value: f64, unit: &str) -> String {
    let text = engineering(value);
    let (number, prefix) = text.split_once(' ').unwrap_or((&text, ""));
    let whole = number.split('.').next().unwrap_or(number);
    format!("{whole} {prefix}{unit}").trim_end().to_owned()
}

/// Places in a picture that are taken.
#[derive(Debug, Default)]
pub struct Places {
    /// Left, top, right, bottom.
    taken: Vec<[i32; 4]>,
}

impl Places {
    /// Takes a rectangle around `(x, y)`.
    pub fn take(&mut self, (x, y): (i32, i32), (width, height): (i32, i32)) {
        self.taken.push([x - width / 2, y - height / 2, x + width / 2, y + height / 2]);
    }

    /// Takes the first of these places for a label of this size that is free, or the first one where none is; returns its
    /// centre.
    pub fn find(&mut self, candidates: impl IntoIterator<Item = (i32, i32)>, size: (i32, i32)) -> Option<(i32, i32)> {
        let mut candidates = candidates.into_iter().peekable();
        let first = candidates.peek().copied();
        let place = candidates.find(|&place| self.is_free(place, size)).or(first)?;
        self.take(place, size);
        Some(place)
    }

    fn is_free(&self, (x, y): (i32, i32), (width, height): (i32, i32)) -> bool {
        let [left, top, right, bottom] = [x - width / 2, y - height / 2, x + width / 2, y + height / 2];
        !self.taken.iter().any(|taken| left < taken[2] && taken[0] < right && top < taken[3] && taken[1] < bottom)
    }
}

/// Places around a point, the nearest first.
pub fn around((x, y): (i32, i32), nearest: i32) -> impl Iterator<Item = (i32, i32)> {
    (0..6).flat_map(move |ring| {
        let distance = f64::from(nearest + 5 * ring);
        (0..12).map(move |step| {
            let (sine, cosine) = (f64::from(step) * std::f64::consts::PI / 6.0).sin_cos();
            (x + (distance * cosine) as i32, y - (distance * sine) as i32)
        })
    })
}

#[cfg(test)]
mod tests {
    use super::{Places, around, tick};

    #[test]
    fn ticks_have_no_digits_to_spare() {
        assert_eq!(tick(1e9, "FLOP/s"), "1 GFLOP/s");
        assert_eq!(tick(0.1, "s"), "100 ms");
        assert_eq!(tick(10.0, ""), "10");
    }

    #[test]
    fn labels_keep_apart() {
        let mut places = Places::default();
        places.take((50, 50), (10, 10));
        let size = (16, 12);
        let found: Vec<_> = (0..6).filter_map(|_| places.find(around((50, 50), 14), size)).collect();
        assert_eq!(found.len(), 6);
        for (at, a) in found.iter().enumerate() {
            assert!((a.0 - 50).abs() >= 13 || (a.1 - 50).abs() >= 11, "{a:?} covers the point");
            for b in &found[..at] {
                assert!((a.0 - b.0).abs() >= size.0 || (a.1 - b.1).abs() >= size.1, "{a:?} covers {b:?}");
            }
        }
    }
}
