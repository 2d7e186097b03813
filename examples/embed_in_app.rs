//! Double routing inside an app that has a device, a queue, an encoder and render passes of its own.
//!
//!     cargo run --release --example embed_in_app -- picture.png
//!
//! The app draws sentences off-screen. In the same encoder, between two of its render passes, it records a layer that was
//! trained to tell languages apart; the second render pass's fragment shader reads the layer's buffers where they lie.
//! There is one submission, and nothing is read back but the finished picture. What embedding takes is in `run`, marked
//! "Routing"; how the app draws is in `embed_in_app/`.
//!
//! wgpu's own variables choose the adapter: `WGPU_BACKEND=gl`.

#![allow(clippy::print_stdout)] // Says where the picture is.

#[path = "embed_in_app/picture.rs"]
mod picture;

use std::{error::Error, fs, path::Path};

use double_routing::{Checkpoint, DoubleRouting, Gpu, Settings, Tensor, Weights, bytemuck, wgpu};
use picture::Picture;
use safetensors::SafeTensors;

const SENTENCES: [&str; 8] = [
    "The password could not be changed, please try again later.",
    "Das Passwort konnte nicht geändert werden.",
    "Le mot de passe n’a pas pu être modifié, réessayez.",
    "Lösenordet kunde inte ändras, försök igen senare.",
    "Parola değiştirilemedi, lütfen yeniden deneyin.",
    "Не удалось изменить пароль, попробуйте ещё раз.",
    "パスワードを変更できませんでした。",
    "无法更改密码，请稍后再试。",
];

fn main() -> Result<(), Box<dyn Error>> {
    let path = std::env::args().nth(1).unwrap_or_else(|| "target/embed_in_app.png".into());
    pollster::block_on(run(Path::new(&path)))
}

async fn run(path: &Path) -> Result<(), Box<dyn Error>> {
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle_from_env());
    let adapter = instance.request_adapter(&Default::default()).await?;
    let info = adapter.get_info();
    if !adapter.get_downlevel_capabilities().flags.contains(wgpu::DownlevelFlags::FRAGMENT_STORAGE) {
        return Err(format!("{} ({}): fragment shaders cannot read storage buffers", info.name, info.backend).into());
    }
    // Routing: what the device must have. An app with needs of its own asks for the larger of both.
    let (device, queue) = adapter
        .request_device(&wgpu::DeviceDescriptor {
            required_features: Gpu::required_features(),
            required_limits: Gpu::useful_limits(&adapter),
            ..Default::default()
        })
        .await?;

    // Routing: a layer, and a forward over the sentences, padded to the longest.
    let model = Model::read()?;
    let (x, shape) = model.input();
    let lengths = SENTENCES.map(|sentence| sentence.chars().count() as u32);
    let gpu = Gpu::from_device(device.clone(), queue.clone());
    let layer = DoubleRouting::new(&gpu, &model.weights, Settings::default())?;
    let x = gpu.upload("x", bytemuck::cast_slice(&x))?;
    let lengths = gpu.upload("lengths", bytemuck::cast_slice(&lengths))?;
    let (x, lengths) = (Tensor::f32(&x, &shape), Tensor::u32(&lengths, &[SENTENCES.len()]));
    let forward = layer.forward(x).lengths(lengths).plan()?;

    // The app, with the results bound where the forward leaves them.
    let picture = Picture::new(&device, &SENTENCES, &model.languages, &forward.w(), &forward.y());
    let mut encoder = device.create_command_encoder(&Default::default());
    picture.draw_scene(&mut encoder);
    forward.record(&mut encoder.begin_compute_pass(&Default::default())); // Routing.
    picture.draw_heat(&mut encoder);
    let copy = picture.copy(&device, &mut encoder);
    queue.submit([encoder.finish()]);

    copy.map_async(wgpu::MapMode::Read, .., |_| {});
    device.poll(wgpu::PollType::wait_indefinitely())?;
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    picture::save(path, &copy.get_mapped_range(..)?)?;
    println!("{} ({}) drew {}", info.name, info.backend, path.display());
    Ok(())
}

/// A layer over character trigrams; `examples/training` made it.
struct Model {
    weights: Weights,
    /// A row of features for each bucket of trigrams.
    tokens: Vec<f32>,
    languages: Vec<String>,
}

impl Model {
    fn read() -> Result<Self, Box<dyn Error>> {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/cli/data/languages.safetensors");
        let bytes = fs::read(path).map_err(|error| format!("{path}, which is in the repository: {error}"))?;
        let (_, header) = SafeTensors::read_metadata(&bytes)?;
        let labels = header.metadata().as_ref().and_then(|metadata| metadata.get("labels")).ok_or("no labels")?;
        let checkpoint = Checkpoint::open(&[(path, &bytes)])?;
        let tokens = checkpoint.values("tokens.weight")?.to_f32();
        Ok(Self {
            // All that lies beside a layer's tensors is read, or left out.
            weights: Weights::from_checkpoint(&checkpoint.without(&["tokens.weight"]), "")?,
            tokens,
            languages: labels.split(',').map(str::to_owned).collect(),
        })
    }

    /// The sentences' features and their shape: sentences, characters of the longest, features.
    fn input(&self) -> (Vec<f32>, [usize; 3]) {
        let features = self.weights.dimensions().input;
        let buckets = self.tokens.len() / features;
        let longest = SENTENCES.iter().map(|sentence| sentence.chars().count()).max().unwrap_or(0);
        let mut x = vec![0.0; SENTENCES.len() * longest * features];
        for (sentence, x) in SENTENCES.iter().zip(x.chunks_exact_mut(longest * features)) {
            let padded: Vec<char> = ['\u{2}'].into_iter().chain(sentence.chars()).chain(['\u{3}']).collect();
            for (trigram, x) in padded.windows(3).zip(x.chunks_exact_mut(features)) {
                let fnv1a = |hash: u32, byte: u8| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193);
                let bucket = String::from_iter(trigram).bytes().fold(0x811c_9dc5, fnv1a) as usize % buckets;
                x.copy_from_slice(&self.tokens[bucket * features..][..features]);
            }
        }
        (x, [SENTENCES.len(), longest, features])
    }
}
