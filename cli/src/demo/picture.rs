//! The weights of the characters as a picture.

use double_routing_common::{
    heat::{heat, readable_on, strength},
    languages::{Model, Reading},
};

use crate::{
    canvas::{Canvas, FAINT, GLYPH_HEIGHT, GLYPH_WIDTH as COLUMN, columns},
    save::Destination,
};

/// Sizes in pixels of the font: a line of text, and the space around everything.
const LINE: usize = 20;
const MARGIN: usize = 16;
/// Columns of a line of text.
const COLUMNS: usize = 80;

/// Draws the readings below each other, with a legend.
pub fn write(destination: Destination, model: &Model, readings: &[Reading]) -> anyhow::Result<()> {
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
    legend(&mut canvas, MARGIN, top + LINE / 2);
    canvas.save(destination)
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

/// The colours and what they stand for.
fn legend(canvas: &mut Canvas, left: usize, top: usize) {
    let caption = "routing weight, in multiples of an even share:  ";
    canvas.text(left, top + 2, caption, FAINT);
    let mut left = left + caption.chars().count() * COLUMN;
    for share in [1.0, 1.4, 2.0, 2.8, 4.0, 5.6, 8.0] {
        let colour = heat(strength(share));
        canvas.fill(left, top, 4 * COLUMN, LINE, colour);
        canvas.text(left, top + 2, &format!("{share:^4}"), readable_on(colour));
        left += 4 * COLUMN;
    }
}
