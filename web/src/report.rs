//! What the page is told, as JSON, and the file it can hand on.

use double_routing::{DoubleRouting, Output, bytemuck};
use double_routing_common::{
    heat::{Colour, heat, heat_on_dark, readable_on, strength},
    input::Input,
    languages::Guess,
};
use safetensors::{Dtype, tensor::TensorView};
use serde::Serialize;
use wasm_bindgen::JsError;

pub fn json(value: &impl Serialize) -> Result<String, JsError> {
    Ok(serde_json::to_string(value)?)
}

/// An error and its causes, as one line.
pub fn error(error: anyhow::Error) -> JsError {
    JsError::new(&format!("{error:#}").split_whitespace().collect::<Vec<_>>().join(" "))
}

/// Seconds, shapes and errors of a forward.
#[derive(Serialize)]
pub struct Evaluation {
    pub layer: String,
    pub order: String,
    pub x: Vec<usize>,
    pub y: Vec<usize>,
    pub w: Vec<usize>,
    /// With making the plan and compiling.
    pub first: f64,
    pub median: f64,
    pub runs: usize,
    /// By the device's own clock.
    pub device: Option<f64>,
    pub check: Check,
}

/// How far a result is from the CPU reference.
#[derive(Serialize)]
pub struct Check {
    pub passed: bool,
    pub error: f64,
    pub yardstick: f64,
    pub allowed: f64,
    pub worst: f64,
    pub fault: Option<String>,
    pub seconds: f64,
}

/// What a text was told to be.
#[derive(Serialize)]
pub struct Told<'a> {
    pub guesses: Vec<Guess<'a>>,
    /// Each with its weight in multiples of an even share, and the level of its colour.
    pub characters: Vec<(char, f64, usize)>,
    pub w: Vec<f32>,
    pub evaluation: Evaluation,
}

/// What came of a forward on files.
#[derive(Serialize)]
pub struct Ran {
    pub strip: Strip,
    pub evaluation: Evaluation,
}

/// Steps from the weakest colour to the strongest.
const LEVELS: usize = 64;

/// The level of the colour for a share.
pub fn level(share: f64) -> usize {
    (strength(share) * LEVELS as f64).round() as usize
}

/// A background and what can be read on it.
type Pair = [String; 2];

/// Of each level the colours on light and on dark.
pub fn colours() -> Vec<[Pair; 2]> {
    let css = |[red, green, blue]: Colour| format!("#{red:02x}{green:02x}{blue:02x}");
    let pair = |colour| [css(colour), css(readable_on(colour))];
    let of_level = |level: usize| {
        let strength = level as f64 / LEVELS as f64;
        [pair(heat(strength)), pair(heat_on_dark(strength))]
    };
    (0..=LEVELS).map(of_level).collect()
}

/// Routing weights as rows of colours' levels, a row for each softmax.
#[derive(Serialize)]
pub struct Strip {
    /// Rows there are, of which the first are shown.
    rows: usize,
    /// Positions of a row; of those that share a column the heaviest is shown.
    positions: usize,
    levels: Vec<Vec<usize>>,
}

const ROWS: usize = 48;
const COLUMNS: usize = 640;

impl Strip {
    pub fn new(input: &Input<'_>, w: &[f32]) -> Self {
        let shape = input.shape();
        // The weights are [B, S, …, 1]; in [N, 1] every token is alone on axis 1.
        let positions = if shape.len() > 2 { shape[1] } else { 1 };
        let behind: usize = shape[2.min(shape.len() - 1)..shape.len() - 1].iter().product();
        let rows = shape[0] * behind;
        let each = positions.div_ceil(COLUMNS).max(1);
        let row = |row: usize| {
            let (sequence, inner) = (row / behind, row % behind);
            let counted = input.lengths.as_ref().map_or(positions, |lengths| lengths[sequence] as usize);
            let share =
                |position: usize| f64::from(w[(sequence * positions + position) * behind + inner]) * counted as f64;
            let column = |first: usize| (first..positions.min(first + each)).map(share).fold(0.0, f64::max);
            (0..positions).step_by(each).map(|first| level(column(first))).collect()
        };
        Self { rows, positions, levels: (0..rows.min(ROWS)).map(row).collect() }
    }
}

/// y and w as a safetensors file, as the command writes it.
pub fn file(layer: &DoubleRouting, input: &Input<'_>, output: &Output) -> anyhow::Result<Vec<u8>> {
    let view = |values, width| TensorView::new(Dtype::F32, input.shape_with(width), bytemuck::cast_slice(values));
    let tensors = [("y", view(&output.y, layer.dimensions().output)?), ("w", view(&output.w, 1)?)];
    Ok(safetensors::serialize(tensors, None)?)
}
