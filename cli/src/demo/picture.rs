//! The weights of the characters as a picture.
//!
//! The glyphs are those of GNU Unifont (SIL Open Font License 1.1), which has all the scripts that the model knows.

use anyhow::Context;

use super::{
    heat::strength,
    model::{Model, Reading, columns},
};
use crate::save::Destination;

type Colour = [u8; 3];

const PAPER: Colour = [0xff, 0xff, 0xff];
const INK: Colour = [0x1a, 0x1a, 0x1a];
const FAINT: Colour = [0x8a, 0x8a, 0x8a];
/// From an even share to the strongest: lightness falls steadily, so that it also works without colours.
const HEAT: [Colour; 5] =
    [[0xff, 0xff, 0xff], [0xfd, 0xd4, 0x9e], [0xfc, 0x8d, 0x59], [0xd7, 0x30, 0x1f], [0x7f, 0x00, 0x00]];

/// Pixels of the picture for one of the font.
const SCALE: usize = 2;
/// Sizes in pixels of the font: a column and a line of text, and the space around everything.
const COLUMN: usize = 8;
const LINE: usize = 20;
const MARGIN: usize = 16;
const GLYPH_HEIGHT: usize = 16;
/// Columns of a line of text.
const COLUMNS: usize = 80;

/// Draws the readings below each other, with a legend.
pub fn write(mut destination: Destination, model: &Model, readings: &[Reading]) -> anyhow::Result<()> {
    let wrapped: Vec<_> = readings.iter().map(|reading| (reading, wrap(reading))).collect();
    // Each reading has a line that names its language, and half a line of space behind it.
    let lines: usize = wrapped.iter().map(|(_, lines)| lines.len() + 1).sum();
    let height = 2 * MARGIN + (lines + 2) * LINE + wrapped.len() * LINE / 2;
    let mut canvas = Canvas::new(2 * MARGIN + COLUMNS * COLUMN, height);

    let mut top = MARGIN;
    for (reading, lines) in wrapped {
        let name = &model.names[reading.best()];
        canvas.text(MARGIN, top, &format!("{name}  {:.1} %", 100.0 * reading.confidence()), FAINT);
        top += LINE;
        for line in lines {
            let mut left = MARGIN;
            for (character, share) in line {
                let heat = heat(strength(share));
                canvas.fill(left, top, columns(character) * COLUMN, LINE, heat);
                let ink = if share < 0.5 { FAINT } else { readable_on(heat) };
                canvas.glyph(left, top + (LINE - GLYPH_HEIGHT) / 2, character, ink);
                left += columns(character) * COLUMN;
            }
            top += LINE;
        }
        top += LINE / 2;
    }
    canvas.legend(MARGIN, top + LINE / 2);

    let (width, height) = (u32::try_from(canvas.width)?, u32::try_from(canvas.height())?);
    let mut encoder = png::Encoder::new(destination.file(), width, height);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    let mut writer = encoder.write_header().context("cannot write the picture")?;
    writer.write_image_data(&canvas.pixels).context("cannot write the picture")?;
    writer.finish().context("cannot write the picture")?;
    destination.commit()
}

/// The characters and their shares, line by line.
fn wrap(reading: &Reading) -> Vec<Vec<(char, f64)>> {
    let (mut lines, mut line, mut used) = (Vec::new(), Vec::new(), 0);
    for (character, share) in reading.shares() {
        if used + columns(character) > COLUMNS {
            lines.push(std::mem::take(&mut line));
            used = 0;
        }
        used += columns(character);
        line.push((character, share));
    }
    lines.push(line);
    lines
}

fn heat(strength: f64) -> Colour {
    let position = strength * (HEAT.len() - 1) as f64;
    let below = (position as usize).min(HEAT.len() - 2);
    let part = position - below as f64;
    let mix = |channel: usize| {
        let (from, to) = (f64::from(HEAT[below][channel]), f64::from(HEAT[below + 1][channel]));
        (from + part * (to - from)).round() as u8
    };
    [mix(0), mix(1), mix(2)]
}

fn readable_on([red, green, blue]: Colour) -> Colour {
    let lightness = 0.299 * f64::from(red) + 0.587 * f64::from(green) + 0.114 * f64::from(blue);
    if lightness < 140.0 { PAPER } else { INK }
}

/// Pixels, addressed in those of the font.
struct Canvas {
    width: usize,
    pixels: Vec<u8>,
}

impl Canvas {
    fn new(width: usize, height: usize) -> Self {
        Self { width: width * SCALE, pixels: PAPER.repeat(width * SCALE * height * SCALE) }
    }

    fn height(&self) -> usize {
        self.pixels.len() / 3 / self.width
    }

    /// Fills a rectangle, as far as it is on the canvas.
    fn fill(&mut self, left: usize, top: usize, width: usize, height: usize, colour: Colour) {
        let columns = left * SCALE..((left + width) * SCALE).min(self.width);
        for row in top * SCALE..((top + height) * SCALE).min(self.height()) {
            for column in columns.clone() {
                let at = 3 * (row * self.width + column);
                self.pixels[at..at + 3].copy_from_slice(&colour);
            }
        }
    }

    /// Draws a character; one without a glyph leaves its place empty.
    fn glyph(&mut self, left: usize, top: usize, character: char, ink: Colour) {
        let Some(glyph) = unifont::get_glyph(character) else { return };
        for y in 0..GLYPH_HEIGHT {
            for x in (0..glyph.get_width()).filter(|&x| glyph.get_pixel(x, y)) {
                self.fill(left + x, top + y, 1, 1, ink);
            }
        }
    }

    fn text(&mut self, left: usize, top: usize, text: &str, ink: Colour) {
        let mut left = left;
        for character in text.chars() {
            self.glyph(left, top, character, ink);
            left += columns(character) * COLUMN;
        }
    }

    /// The colours and what they stand for.
    fn legend(&mut self, left: usize, top: usize) {
        let caption = "routing weight, in multiples of an even share:  ";
        self.text(left, top + 2, caption, FAINT);
        let mut left = left + caption.chars().count() * COLUMN;
        for share in [1.0, 1.4, 2.0, 2.8, 4.0, 5.6, 8.0] {
            let colour = heat(strength(share));
            self.fill(left, top, 4 * COLUMN, LINE, colour);
            self.text(left, top + 2, &format!("{share:^4}"), readable_on(colour));
            left += 4 * COLUMN;
        }
    }
}
