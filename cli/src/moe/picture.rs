//! A routing as a picture: a row for each token and a column for each path, coloured by the gates, and above it the load of
//! each path.

use std::path::Path;

use anyhow::bail;
use double_routing::moe::Routing;
use double_routing_common::{
    heat::{Colour, INK, heat},
    model_config::ModelConfig,
};
use plotters::{prelude::*, style::text_anchor::HPos};

use super::Load;
use crate::{
    canvas::{Canvas, FAINT, GLYPH_HEIGHT, GLYPH_WIDTH},
    chart::{self, Svg},
    report,
    save::Destination,
};

/// A file for a picture, of the kind that its name says.
pub enum Picture<'a> {
    Svg(Svg<'a>),
    Png(Destination),
}

impl<'a> Picture<'a> {
    /// Finds out early whether the file can be written.
    pub fn new(path: &'a Path) -> anyhow::Result<Self> {
        let extension = path.extension().map(|extension| extension.to_ascii_lowercase());
        match extension.as_deref().and_then(|extension| extension.to_str()) {
            Some("svg") => Ok(Self::Svg(Svg::new(path)?)),
            Some("png") => Ok(Self::Png(Destination::new(path)?)),
            _ => bail!("cannot write {}: the picture's name must end in .svg or .png", path.display()),
        }
    }

    pub fn save(self, scene: &Scene<'_>) -> anyhow::Result<()> {
        let size = scene.size();
        match self {
            Self::Svg(svg) => svg.save((size[0] as u32, size[1] as u32), |area| scene.draw(&mut OnSvg(area))).map(drop),
            Self::Png(destination) => {
                let mut canvas = Canvas::new(size[0] as usize, size[1] as usize);
                scene.draw(&mut canvas)?;
                canvas.save(destination)
            }
        }
    }
}

/// What a picture is drawn on.
trait Surface {
    fn fill(&mut self, at: [i32; 2], size: [i32; 2], colour: Colour) -> anyhow::Result<()>;

    /// Writes a line of text whose middle is at the height of `at`.
    fn text(&mut self, line: &str, at: [i32; 2], from: HPos, style: Style) -> anyhow::Result<()>;
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Style {
    Title,
    Plain,
    Faint,
}

impl Style {
    fn colour(self) -> Colour {
        if self == Self::Faint { FAINT } else { INK }
    }
}

struct OnSvg<'a, 'b>(&'a chart::Area<'b>);

impl Surface for OnSvg<'_, '_> {
    fn fill(&mut self, [left, top]: [i32; 2], [width, height]: [i32; 2], [r, g, b]: Colour) -> anyhow::Result<()> {
        let corners = [(left, top), (left + width, top + height)];
        Ok(self.0.draw(&Rectangle::new(corners, RGBColor(r, g, b).filled()))?)
    }

    fn text(&mut self, line: &str, [x, y]: [i32; 2], from: HPos, style: Style) -> anyhow::Result<()> {
        let [r, g, b] = style.colour();
        let colour = RGBColor(r, g, b);
        let font = if style == Style::Title { chart::bold(18.0, colour) } else { chart::text(13.0, colour) };
        chart::write(self.0, line, (x, y), from, &font)
    }
}

impl Surface for Canvas {
    fn fill(&mut self, at: [i32; 2], size: [i32; 2], colour: Colour) -> anyhow::Result<()> {
        let [left, top, width, height] = [at[0], at[1], size[0], size[1]].map(|number| number.max(0) as usize);
        Canvas::fill(self, left, top, width, height, colour);
        Ok(())
    }

    fn text(&mut self, line: &str, [x, y]: [i32; 2], from: HPos, style: Style) -> anyhow::Result<()> {
        let width = text_width(line);
        let left = match from {
            HPos::Left => x,
            HPos::Center => x - width / 2,
            HPos::Right => x - width,
        };
        let (left, top) = (left.max(0) as usize, (y - GLYPH_HEIGHT as i32 / 2).max(0) as usize);
        Canvas::text(self, left, top, line, style.colour());
        if style == Style::Title {
            Canvas::text(self, left + 1, top, line, style.colour());
        }
        Ok(())
    }
}

/// Pixels of a line of text; in the SVG it is narrower.
fn text_width(line: &str) -> i32 {
    (line.chars().count() * GLYPH_WIDTH) as i32
}

/// Pixels around everything, and left of the rows for their numbers.
const MARGIN: i32 = 24;
const NUMBERS: i32 = 72;
/// Pixels right of the rows for what the line of the mean is.
const BESIDE: i32 = 96;
const LINE: i32 = 22;
/// Pixels of the highest bar.
const BARS: i32 = 96;
/// What the columns and rows may take, and the least and the most of one of them.
const WIDEST: usize = 1152;
const HIGHEST: usize = 560;
const WIDTHS: [usize; 2] = [2, 56];
const HEIGHTS: [usize; 2] = [1, 16];
/// Pixels between groups.
const GAP: i32 = 5;
/// Pixels of a tick's label and the space to the next.
const TICK: i32 = 44;

const EMPTY: Colour = [0xf5, 0xf6, 0xf8];
const IN_USE: Colour = [0xdf, 0xe5, 0xef];
const BAR: Colour = [0x64, 0x74, 0x8b];
const RULE: Colour = [0xc4, 0xca, 0xd4];
/// The colour of the weakest gate, as a strength: it differs from no gate.
const WEAKEST: f64 = 0.2;
/// Most gates of a softmax are far below the strongest; with an exponent below 1 they differ more.
const DARKER: f64 = 0.7;

/// The gates of the picture's rows, as they come.
pub struct Cells {
    paths: usize,
    per_token: usize,
    tokens: usize,
    /// Tokens that have come.
    done: usize,
    /// Tokens in a row: more than one where there are more than rows.
    binned: usize,
    /// A row's gate for each path, row after row; the mean of the tokens in it. NaN where none has the path.
    cells: Vec<f64>,
}

impl Cells {
    pub fn new(config: &ModelConfig, tokens: usize) -> Self {
        let (paths, per_token) = (config.router.paths, config.router.per_token);
        let binned = tokens.div_ceil(HIGHEST).max(1);
        let cells = vec![f64::NAN; tokens.div_ceil(binned) * paths];
        Self { paths, per_token, tokens, done: 0, binned, cells }
    }

    /// Takes the routing of the tokens that come next.
    pub fn extend(&mut self, routing: &Routing) {
        let Self { paths, per_token, tokens, binned, .. } = *self;
        for (slot, (&id, &gate)) in routing.ids.iter().zip(&routing.gates).enumerate() {
            let token = self.done + slot / per_token;
            if (id as usize) < paths {
                let cell = &mut self.cells[token / binned * paths + id as usize];
                let in_row = binned.min(tokens - token / binned * binned);
                *cell = if cell.is_nan() { 0.0 } else { *cell } + f64::from(gate.abs()) / in_row as f64;
            }
        }
        self.done += routing.margin.len();
    }
}

/// What is drawn, and where.
pub struct Scene<'a> {
    config: &'a ModelConfig,
    counts: &'a [u32],
    tokens: usize,
    binned: usize,
    cells: Vec<f64>,
    /// The weakest and the strongest gate.
    range: [f64; 2],
    /// Width and height of a cell.
    cell: [i32; 2],
    /// Paths in a group.
    group: usize,
    load: Load,
}

impl<'a> Scene<'a> {
    pub fn new(config: &'a ModelConfig, cells: Cells, counts: &'a [u32]) -> Self {
        let Cells { paths, tokens, binned, cells, .. } = cells;
        let gates = || cells.iter().copied().filter(|gate| !gate.is_nan());
        let strongest = gates().fold(0.0, f64::max);
        let range = [gates().fold(strongest, f64::min), strongest];
        let rows = tokens.div_ceil(binned).max(1);
        let [width, height] = [(WIDEST / paths, WIDTHS), (HIGHEST / rows, HEIGHTS)]
            .map(|(fitting, [least, most])| fitting.clamp(least, most) as i32);
        let cell = [width, height];
        let groups = config.router.choice.groups.map_or(1, |limit| limit.groups as usize);
        let load = Load::new(counts);
        Self { config, counts, tokens, binned, cells, range, cell, group: paths / groups, load }
    }

    fn paths(&self) -> usize {
        self.config.router.paths
    }

    fn groups(&self) -> usize {
        self.paths() / self.group
    }

    fn rows(&self) -> usize {
        self.cells.len() / self.paths()
    }

    /// The left side of a path's column.
    fn column(&self, path: usize) -> i32 {
        MARGIN + NUMBERS + path as i32 * self.cell[0] + (path / self.group) as i32 * GAP
    }

    fn right(&self) -> i32 {
        self.column(self.paths() - 1) + self.cell[0]
    }

    fn bars_bottom(&self) -> i32 {
        MARGIN + 4 * LINE + BARS
    }

    fn rows_top(&self) -> i32 {
        self.bars_bottom() + LINE + 4
    }

    fn rows_bottom(&self) -> i32 {
        self.rows_top() + self.rows() as i32 * self.cell[1]
    }

    fn size(&self) -> [i32; 2] {
        let widest = [self.title(), self.rule(), self.busiest()].iter().map(|line| text_width(line)).max().unwrap_or(0);
        [(self.right() + BESIDE).max(widest + MARGIN) + MARGIN, self.rows_bottom() + 3 * LINE + MARGIN]
    }

    fn title(&self) -> String {
        let tokens = report::count(self.tokens as u64);
        format!(
            "{}: {tokens} tokens, each through {} of {} paths",
            self.config.name(),
            self.config.router.per_token,
            self.paths()
        )
    }

    fn rule(&self) -> String {
        self.config.rule()
    }

    fn busiest(&self) -> String {
        if self.tokens == 0 {
            return "no tokens".into();
        }
        let Load { busiest, most, idle, .. } = self.load;
        let imbalance = self.load.imbalance();
        let idle = if idle == 0 { "no path is idle".into() } else { format!("{idle} paths are idle") };
        format!(
            "tokens of each path: at most {} (path {busiest}), {imbalance:.1} times the mean; {idle}",
            report::count(most.into())
        )
    }

    fn draw(&self, surface: &mut dyn Surface) -> anyhow::Result<()> {
        surface.text(&self.title(), [MARGIN, MARGIN + 8], HPos::Left, Style::Title)?;
        surface.text(&self.rule(), [MARGIN, MARGIN + 8 + LINE], HPos::Left, Style::Faint)?;
        self.draw_load(surface)?;
        self.draw_cells(surface)?;
        self.draw_numbers(surface)?;
        if self.tokens > 0 { self.draw_legend(surface) } else { Ok(()) }
    }

    /// The bars, and the line of their mean.
    fn draw_load(&self, surface: &mut dyn Surface) -> anyhow::Result<()> {
        let (left, right, bottom) = (self.column(0), self.right(), self.bars_bottom());
        surface.text(&self.busiest(), [MARGIN, bottom - BARS - LINE / 2 - 5], HPos::Left, Style::Plain)?;
        let height = |count: f64| (f64::from(BARS) * count / f64::from(self.load.most.max(1))).round() as i32;
        let space = i32::from(self.cell[0] > 3);
        for (path, &count) in self.counts.iter().enumerate() {
            let height = height(count.into());
            surface.fill([self.column(path), bottom - height], [self.cell[0] - space, height], BAR)?;
        }
        surface.fill([left, bottom], [right - left, 1], RULE)?;
        let most = report::count(self.load.most.into());
        surface.text(&most, [left - 8, bottom - BARS + 4], HPos::Right, Style::Faint)?;
        surface.text("0", [left - 8, bottom - 4], HPos::Right, Style::Faint)?;
        let mean = bottom - height(self.load.mean);
        surface.fill([left, mean], [right - left + 4, 1], INK)?;
        let label = format!("mean {:.1}", self.load.mean);
        surface.text(&label, [right + 8, mean], HPos::Left, Style::Plain)
    }

    fn draw_cells(&self, surface: &mut dyn Surface) -> anyhow::Result<()> {
        let (top, [width, height]) = (self.rows_top(), self.cell);
        let group_width = self.group as i32 * width;
        for group in 0..self.groups() {
            let left = self.column(group * self.group);
            surface.fill([left, top], [group_width, self.rows_bottom() - top], EMPTY)?;
            if group > 0 {
                let middle = left - (GAP + 1) / 2;
                surface.fill([middle, self.bars_bottom()], [1, self.rows_bottom() - self.bars_bottom()], RULE)?;
            }
        }
        for (row, cells) in self.cells.chunks(self.paths()).enumerate() {
            let top = top + row as i32 * height;
            if self.groups() > 1 {
                for (group, cells) in cells.chunks(self.group).enumerate() {
                    if cells.iter().any(|gate| !gate.is_nan()) {
                        surface.fill([self.column(group * self.group), top], [group_width, height], IN_USE)?;
                    }
                }
            }
            for (path, &gate) in cells.iter().enumerate().filter(|(_, gate)| !gate.is_nan()) {
                surface.fill([self.column(path), top], [width, height], self.colour(gate))?;
            }
        }
        Ok(())
    }

    fn colour(&self, gate: f64) -> Colour {
        let [weakest, strongest] = self.range;
        let share = if strongest > weakest { (gate - weakest) / (strongest - weakest) } else { 1.0 };
        heat(WEAKEST + (1.0 - WEAKEST) * share.powf(DARKER))
    }

    /// The numbers of groups, paths and tokens.
    fn draw_numbers(&self, surface: &mut dyn Surface) -> anyhow::Result<()> {
        let (left, top, bottom) = (self.column(0), self.rows_top(), self.rows_bottom());
        if self.groups() > 1 {
            let width = self.group as i32 * self.cell[0];
            let every = step(TICK / 2, width + GAP);
            for group in (0..self.groups()).step_by(every) {
                let name = if width >= text_width("group 00") { format!("group {group}") } else { group.to_string() };
                let middle = self.column(group * self.group) + width / 2;
                surface.text(&name, [middle, top - LINE / 2 - 1], HPos::Center, Style::Faint)?;
            }
        }
        // A group's first path, where its groups are wide enough.
        let every = if self.groups() > 1 && self.group as i32 * self.cell[0] >= TICK {
            self.group
        } else {
            step(TICK, self.cell[0])
        };
        for path in (0..self.paths()).step_by(every) {
            let middle = self.column(path) + self.cell[0] / 2;
            surface.fill([middle, bottom], [1, 4], RULE)?;
            surface.text(&path.to_string(), [middle, bottom + 13], HPos::Center, Style::Faint)?;
        }
        surface.text("path", [self.right() + 8, bottom + 13], HPos::Left, Style::Faint)?;
        surface.text("token", [left - 8, top - LINE / 2 - 1], HPos::Right, Style::Faint)?;
        for row in (0..self.rows()).step_by(step(TICK, self.cell[1])) {
            // The first of low rows would be too near to the title above it.
            let middle = top + (row as i32 * self.cell[1] + self.cell[1] / 2).max(6);
            let token = report::count((row * self.binned) as u64);
            surface.text(&token, [left - 8, middle], HPos::Right, Style::Faint)?;
        }
        Ok(())
    }

    fn draw_legend(&self, surface: &mut dyn Surface) -> anyhow::Result<()> {
        const STEPS: i32 = 60;
        let (mut left, middle) = (self.column(0), self.rows_bottom() + 2 * LINE + LINE / 2);
        let height = 14;
        let label = |surface: &mut dyn Surface, left: &mut i32, line: &str| -> anyhow::Result<()> {
            surface.text(line, [*left, middle], HPos::Left, Style::Faint)?;
            *left += text_width(line) + 8;
            Ok(())
        };
        let what = if self.binned == 1 { "gate" } else { "mean gate" };
        let [weakest, strongest] = self.range;
        let first = format!("{what}  {weakest:.3}");
        left += text_width(&first);
        surface.text(&first, [left, middle], HPos::Right, Style::Faint)?;
        left += 8;
        for at in 0..STEPS {
            let gate = weakest + (strongest - weakest) * f64::from(at) / f64::from(STEPS - 1);
            surface.fill([left + 2 * at, middle - height / 2], [2, height], self.colour(gate))?;
        }
        left += 2 * STEPS + 8;
        label(surface, &mut left, &format!("{strongest:.3}"))?;
        if self.groups() > 1 {
            left += 24;
            surface.fill([left, middle - height / 2], [28, height], IN_USE)?;
            left += 36;
            label(surface, &mut left, "groups that a token's paths are of")?;
        }
        if self.binned > 1 {
            left += 24;
            label(surface, &mut left, &format!("{} tokens in each row", self.binned))?;
        }
        Ok(())
    }
}

/// How many places of `width` pixels to go on for at least `pixels`: a round number.
fn step(pixels: i32, width: i32) -> usize {
    let least = (pixels as usize).div_ceil(width.max(1) as usize);
    let powers = (0..8).map(|power| 10usize.pow(power));
    powers.flat_map(|power| [1, 2, 5].map(|number| number * power)).find(|&number| number >= least).unwrap_or(least)
}

#[cfg(test)]
mod tests {
    use super::step;

    #[test]
    fn ticks_are_round_and_apart() {
        assert_eq!(step(44, 56), 1);
        assert_eq!(step(44, 5), 10);
        assert_eq!(step(44, 4), 20);
        assert_eq!(step(44, 1), 50);
    }
}
