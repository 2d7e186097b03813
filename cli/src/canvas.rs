//! Pictures of pixels, as PNG files.
//!
//! The glyphs are those of GNU Unifont (SIL Open Font License 1.1), which has nearly all scripts.

use anyhow::Context;
use double_routing_common::heat::{Colour, PAPER};
use unifont::get_glyph;

use crate::save::Destination;

pub const FAINT: Colour = [0x8a, 0x8a, 0x8a];

/// Pixels of the picture for one of the font.
const SCALE: usize = 2;
/// Sizes in pixels of the font: a narrow glyph.
pub const GLYPH_WIDTH: usize = 8;
pub const GLYPH_HEIGHT: usize = 16;

/// Columns that a character takes: those of ideographs and kana are twice as wide.
pub fn columns(character: char) -> usize {
    get_glyph(character).map_or(1, |glyph| glyph.get_width() / GLYPH_WIDTH)
}

/// Pixels, addressed in those of the font.
pub struct Canvas {
    width: usize,
    pixels: Vec<u8>,
}

impl Canvas {
    pub fn new(width: usize, height: usize) -> Self {
        Self { width: width * SCALE, pixels: PAPER.repeat(width * SCALE * height * SCALE) }
    }

    fn height(&self) -> usize {
        self.pixels.len() / 3 / self.width
    }

    /// Fills a rectangle, as far as it is on the canvas.
    pub fn fill(&mut self, left: usize, top: usize, width: usize, height: usize, colour: Colour) {
        let columns = left * SCALE..((left + width) * SCALE).min(self.width);
        for row in top * SCALE..((top + height) * SCALE).min(self.height()) {
            for column in columns.clone() {
                let at = 3 * (row * self.width + column);
                self.pixels[at..at + 3].copy_from_slice(&colour);
            }
        }
    }

    /// Draws a character; one without a glyph leaves its place empty.
    pub fn glyph(&mut self, left: usize, top: usize, character: char, ink: Colour) {
        let Some(glyph) = get_glyph(character) else { return };
        for y in 0..GLYPH_HEIGHT {
            for x in (0..glyph.get_width()).filter(|&x| glyph.get_pixel(x, y)) {
                self.fill(left + x, top + y, 1, 1, ink);
            }
        }
    }

    pub fn text(&mut self, left: usize, top: usize, text: &str, ink: Colour) {
        let mut left = left;
        for character in text.chars() {
            self.glyph(left, top, character, ink);
            left += columns(character) * GLYPH_WIDTH;
        }
    }

    /// Writes the picture and puts the file in its place.
    pub fn save(&self, mut destination: Destination) -> anyhow::Result<()> {
        let (width, height) = (u32::try_from(self.width)?, u32::try_from(self.height())?);
        let mut encoder = png::Encoder::new(destination.file(), width, height);
        encoder.set_color(png::ColorType::Rgb);
        encoder.set_depth(png::BitDepth::Eight);
        let mut writer = encoder.write_header().context("cannot write the picture")?;
        writer.write_image_data(&self.pixels).context("cannot write the picture")?;
        writer.finish().context("cannot write the picture")?;
        destination.commit()
    }
}
