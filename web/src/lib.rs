//! The page's program: the library on the visitor's GPU, and beside it the CPU reference, both in the browser.
//!
//! What it hands to the page are JSON texts, one for each thing to show, and errors of one line.

mod browser;
mod check;
mod evaluate;
mod report;

use anyhow::{Context, bail};
use double_routing::{AdapterChoice, Checkpoint, DoubleRouting, Gpu, Settings, Weights, wgpu};
use double_routing_common::{
    input::{Input, first_non_finite_weight},
    languages::Model,
};
use js_sys::Function;
use safetensors::SafeTensors;
use serde::Serialize;
use wasm_bindgen::prelude::*;

use check::Checks;
use evaluate::Evaluation;
use report::json;

/// Runs when the program is loaded.
#[wasm_bindgen(start)]
pub fn start() {
    browser::report_to_console();
}

/// The visitor's GPU.
#[wasm_bindgen]
pub struct Page {
    gpu: Gpu,
}

/// A device as the page shows it.
#[derive(Serialize)]
struct Device {
    class: String,
    timestamps: bool,
    limits: Vec<(&'static str, u64)>,
}

#[wasm_bindgen]
impl Page {
    /// Opens the adapter that the browser gives.
    pub async fn open() -> Result<Page, JsError> {
        Ok(Self { gpu: Gpu::open(&AdapterChoice::default()).await? })
    }

    /// How the library sees the device.
    pub fn device(&self) -> Result<String, JsError> {
        let limits = self.gpu.device().limits();
        json(&Device {
            class: format!("{:?}", self.gpu.class()).to_lowercase(),
            timestamps: self.gpu.device().features().contains(wgpu::Features::TIMESTAMP_QUERY),
            limits: vec![
                ("bytes of a buffer", limits.max_buffer_size),
                ("bytes of a binding", limits.max_storage_buffer_binding_size),
                ("invocations of a workgroup", limits.max_compute_invocations_per_workgroup.into()),
                ("bytes of workgroup memory", limits.max_compute_workgroup_storage_size.into()),
                ("workgroups of a dispatch, each way", limits.max_compute_workgroups_per_dimension.into()),
            ],
        })
    }

    /// The colours of routing weights, by level.
    pub fn colours(&self) -> Result<String, JsError> {
        json(&report::colours())
    }

    /// Makes the model that tells languages from its file.
    pub async fn languages(&self, file: Vec<u8>) -> Result<Languages, JsError> {
        let model = Model::from_safetensors(&file).context("the model").map_err(report::error)?;
        let layer = self.layer(&model.weights).await.map_err(report::error)?;
        Ok(Languages { model, layer })
    }

    /// Runs a layer on an input, both from safetensors files. `progress` hears what is being done.
    pub async fn forward(
        &self,
        weights_name: String,
        weights: Vec<u8>,
        input_name: String,
        input: Vec<u8>,
        progress: Function,
    ) -> Result<Forward, JsError> {
        let files = || -> anyhow::Result<_> {
            let weights = read_weights(&weights).context(weights_name)?;
            let input = read_input(&input, &weights).context(input_name)?;
            Ok((weights, input))
        };
        let run = async {
            let (weights, input) = files()?;
            let layer = self.layer(&weights).await?;
            let evaluation = Evaluation::new(&layer, &weights, &input, |stage| browser::tell(&progress, stage)).await?;
            Forward::new(&layer, &input, &evaluation)
        };
        run.await.map_err(report::error)
    }

    /// The library's checks whose names contain `filter`, without those that are heavy.
    pub fn checks(&self, filter: &str) -> Checks {
        Checks::new(self.gpu.clone(), filter)
    }
}

impl Page {
    async fn layer(&self, weights: &Weights) -> anyhow::Result<DoubleRouting> {
        let scope = self.gpu.error_scope();
        let layer = DoubleRouting::new(&self.gpu, weights, Settings::default());
        scope.close().await?;
        Ok(layer?)
    }
}

fn read_weights(file: &[u8]) -> anyhow::Result<Weights> {
    let checkpoint = Checkpoint::open(&[("", file)])?;
    let prefix = match Weights::prefixes(&checkpoint).as_slice() {
        [] => String::new(),
        [only] => only.clone(),
        several => bail!("there are {} layers, behind '{}'; the page takes one", several.len(), several.join("', '")),
    };
    let weights = Weights::from_checkpoint(&checkpoint, &prefix)?;
    match first_non_finite_weight(&weights, file, &prefix)? {
        Some(found) => bail!(found),
        None => Ok(weights),
    }
}

fn read_input<'a>(file: &'a [u8], weights: &Weights) -> anyhow::Result<Input<'a>> {
    let input = Input::of_sequences(&SafeTensors::deserialize(file).context("not safetensors")?)?;
    input.check_layer(weights.dimensions())?;
    match input.first_non_finite(&input.part(0..input.sequences()).x, 0) {
        Some(found) => bail!(found),
        None => Ok(input),
    }
}

/// A layer that tells the language of a text.
#[wasm_bindgen]
pub struct Languages {
    model: Model,
    layer: DoubleRouting,
}

#[wasm_bindgen]
impl Languages {
    /// The languages: codes and names.
    pub fn names(&self) -> Result<String, JsError> {
        json(&self.model.labels.iter().zip(&self.model.names).collect::<Vec<_>>())
    }

    /// Tells the language of a text. `progress` hears what is being done.
    pub async fn tell(&self, text: String, progress: Function) -> Result<String, JsError> {
        let input = self.model.input(&[&text]);
        let stage = |stage: &str| browser::tell(&progress, stage);
        let evaluation =
            Evaluation::new(&self.layer, &self.model.weights, &input, stage).await.map_err(report::error)?;
        let told = || -> anyhow::Result<_> {
            let mut readings = self.model.readings(&[&text], &input, &evaluation.output);
            let reading = readings.pop().context("no reading")?;
            Ok(report::Told {
                guesses: self.model.guesses(&reading),
                characters: reading
                    .shares()
                    .map(|(character, share)| (character, share, report::level(share)))
                    .collect(),
                w: reading.w,
                evaluation: evaluation.report(&self.layer, &input),
            })
        };
        json(&told().map_err(report::error)?)
    }
}

/// What came of a forward on files.
#[wasm_bindgen]
pub struct Forward {
    report: String,
    file: Vec<u8>,
}

#[wasm_bindgen]
impl Forward {
    /// What there is to show.
    pub fn report(&self) -> String {
        self.report.clone()
    }

    /// y and w as a safetensors file.
    pub fn file(&self) -> Vec<u8> {
        self.file.clone()
    }
}

impl Forward {
    fn new(layer: &DoubleRouting, input: &Input<'_>, evaluation: &Evaluation) -> anyhow::Result<Self> {
        let output = &evaluation.output;
        let strip = report::Strip::new(input, &output.w);
        let report = serde_json::to_string(&report::Ran { strip, evaluation: evaluation.report(layer, input) })?;
        Ok(Self { report, file: report::file(layer, input, output)? })
    }
}
