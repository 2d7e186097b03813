//! Characters on a background that shows their weight.

use std::io::{self, Write};

use anstyle::{Ansi256Color, Style};
use double_routing_common::{heat::strength, languages::Reading};

use crate::report::{DIM, Out};

/// Backgrounds from weak to strong, all of which stand out from a dark and from a light terminal, with a foreground that
/// can be read on them.
const BACKGROUNDS: [(u8, u8); 5] = [(94, 231), (130, 231), (172, 16), (208, 16), (214, 16)];

fn style(share: f64) -> Style {
    let last = BACKGROUNDS.len() - 1;
    match strength(share) {
        0.0 if share < 0.5 => DIM,
        0.0 => Style::new(),
        strength => {
            let (background, foreground) = BACKGROUNDS[((strength * BACKGROUNDS.len() as f64) as usize).min(last)];
            Ansi256Color(foreground).on(Ansi256Color(background))
        }
    }
}

/// Prints a sentence: coloured, or followed by the characters of most weight, between their neighbours, where colours are
/// not shown.
pub fn print(out: &mut Out, reading: &Reading) -> io::Result<()> {
    write!(out, "  ")?;
    for (character, share) in reading.shares() {
        let style = style(share);
        write!(out, "{style}{}{style:#}", visible(character))?;
    }
    writeln!(out)?;
    if out.is_coloured() {
        return Ok(());
    }
    let mut shares: Vec<_> = reading.shares().enumerate().collect();
    shares.sort_by(|(_, (_, a)), (_, (_, b))| b.total_cmp(a));
    let most = shares.iter().take(6).map(|(place, (character, share))| {
        let around = |range: std::ops::Range<usize>| -> String {
            reading.characters[range].iter().map(|&character| visible(character)).collect()
        };
        let before = around(place.saturating_sub(1)..*place);
        let after = around(place + 1..reading.characters.len().min(place + 2));
        format!("{before}[{}]{after} {share:.1}×", visible(*character))
    });
    writeln!(out, "    most on {}", most.collect::<Vec<_>>().join(", "))
}

/// Says what the colours mean.
pub fn print_legend(out: &mut Out) -> io::Result<()> {
    write!(out, "  {DIM}routing weight, in multiples of an even share:{DIM:#}")?;
    for share in [0.25, 1.0, 1.4, 2.0, 3.0, 5.0, 8.0] {
        let style = style(share);
        write!(out, " {style} {share}× {style:#}")?;
    }
    writeln!(out)
}

/// Control characters would move the cursor.
fn visible(character: char) -> char {
    if character.is_control() { '·' } else { character }
}
