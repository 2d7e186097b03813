//! The colours of routing weights.

/// Red, green and blue.
pub type Colour = [u8; 3];

/// What is drawn on.
pub const PAPER: Colour = [0xff, 0xff, 0xff];
/// What is written with.
pub const INK: Colour = [0x1a, 0x1a, 0x1a];

/// From nothing to the strongest: lightness falls steadily, so that it also works without colours.
const ON_PAPER: [Colour; 5] = [PAPER, [0xfd, 0xd4, 0x9e], [0xfc, 0x8d, 0x59], [0xd7, 0x30, 0x1f], [0x7f, 0x00, 0x00]];

/// The same on a dark screen, from its own darkness: lightness rises steadily.
const ON_DARK: [Colour; 5] =
    [[0x1a, 0x1a, 0x1a], [0x5c, 0x1e, 0x12], [0xb0, 0x3a, 0x12], [0xf0, 0x7c, 0x1c], [0xff, 0xd9, 0x8a]];

/// The share from which the colour stays the strongest.
const STRONGEST: f64 = 8.0;

/// How strongly a token shows whose weight is `share` times an even one: not at all up to that, then by its logarithm up to 1.
pub fn strength(share: f64) -> f64 {
    (share.max(1.0).ln() / STRONGEST.ln()).min(1.0)
}

/// The colour of a strength in 0 .. 1 on paper.
pub fn heat(strength: f64) -> Colour {
    mixed(&ON_PAPER, strength)
}

/// The colour of a strength in 0 .. 1 on a dark screen.
pub fn heat_on_dark(strength: f64) -> Colour {
    mixed(&ON_DARK, strength)
}

fn mixed(colours: &[Colour; 5], strength: f64) -> Colour {
    let position = strength * (colours.len() - 1) as f64;
    let below = (position as usize).min(colours.len() - 2);
    let part = position - below as f64;
    let mix = |channel: usize| {
        let (from, to) = (f64::from(colours[below][channel]), f64::from(colours[below + 1][channel]));
        (from + part * (to - from)).round() as u8
    };
    [mix(0), mix(1), mix(2)]
}

/// What can be read on this colour.
pub fn readable_on([red, green, blue]: Colour) -> Colour {
    let lightness = 0.299 * f64::from(red) + 0.587 * f64::from(green) + 0.114 * f64::from(blue);
    if lightness < 140.0 { PAPER } else { INK }
}

#[cfg(test)]
mod tests {
    use super::{heat, heat_on_dark, strength};

    #[test]
    fn lightness_falls_on_paper_and_rises_on_dark() {
        assert_eq!([strength(0.1), strength(1.0), strength(8.0), strength(1e9)], [0.0, 0.0, 1.0, 1.0]);
        let lightness = |colour: [u8; 3]| {
            let [red, green, blue] = colour.map(f64::from);
            0.299 * red + 0.587 * green + 0.114 * blue
        };
        for step in 0..100 {
            let (weak, strong) = (f64::from(step) / 100.0, f64::from(step + 1) / 100.0);
            assert!(lightness(heat(weak)) > lightness(heat(strong)), "{weak}");
            assert!(lightness(heat_on_dark(weak)) < lightness(heat_on_dark(strong)), "{weak}");
        }
    }
}
