//! `route` and `moe`: the router of a mixture of experts alone, and the whole block.

mod evaluate;
mod judge;
mod picture;
mod reference;
mod weights;

use std::{
    io::Write,
    num::NonZeroUsize,
    path::{Path, PathBuf},
};

use anyhow::Context;
use double_routing::{
    Storage, Values, bytemuck,
    moe::{RouterConfig, Routing},
};
use double_routing_common::{input::Input, model_config::ModelConfig};
use safetensors::Dtype;
use serde_json::{Value, json};

use crate::{
    Verdict,
    evaluate::Run,
    forward::typed,
    gpu::{Selection, Target},
    input::{self, OutputType, Rows},
    kind,
    report::{self, BOLD, Out},
    save::{self, Destination},
    source::Source,
    tensors::Tensors,
};
use evaluate::{Evaluator, Output};
use judge::{Judge, Judgement};
use picture::{Cells, Picture, Scene};
use weights::{Files, Weights};

/// What --help has to say of the configuration.
pub const ABOUT_CONFIG: &str = "\
CONFIG.json is a model's config.json from the Hugging Face hub (deepseek_v2, deepseek_v3, kimi_k2, mixtral, olmoe, qwen2_moe, \
qwen3_moe), or an object without model_type and with these keys:
  paths            how many there are
  paths_per_token  how many of them a token gets
  score            softmax (default), sigmoid, sqrt_softplus or softmax_of_chosen
  groups           groups of neighbouring paths; 1 by default
  groups_kept      how many of them a token's paths may be of
  group_score      a group counts by its best path, max (default), or by its two best, sum_of_two
  renormalise      whether a token's gates are divided by their sum; false by default
  scale            what gates are multiplied by at the end; 1 by default";

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// A model's config.json, or an object with our own keys: see below
    #[arg(long, value_name = "CONFIG.json")]
    config: PathBuf,
    /// Safetensors files of the model, under the names of published checkpoints: gate.weight, and experts for a block
    #[arg(long, value_name = "FILE", required = true, num_args = 1..)]
    weights: Vec<PathBuf>,
    /// What stands before these names, such as `model.layers.3.mlp.` or `model.layers.3.`; needed where there are several
    #[arg(long)]
    prefix: Option<String>,
    /// A tensor behind the prefix that has nothing to do with it, or what the names of several begin with: `adapter.`
    #[arg(long, value_name = "NAME")]
    ignore: Vec<String>,
    /// Safetensors file with a tensor `x` [T, D] or [B, S, D] of F32, F16 or BF16, which stays so on the device, or F64; or .npy
    #[arg(long, value_name = "FILE")]
    input: PathBuf,
    /// Safetensors file to write, `-` for standard output: `ids` and `gates` [T, e], `counts` [P], `margin` [T], and a block's `y`, of the shape of x
    #[arg(long, value_name = "FILE")]
    output: PathBuf,
    /// What a block's y is stored in
    #[arg(long, value_enum, default_value_t = OutputType::F32)]
    output_type: OutputType,
    #[command(flatten)]
    selection: Selection,
    /// Let no result depend on what else is in its batch
    #[arg(long)]
    batch_invariant: bool,
    /// Tokens at a time, instead of as many as fit
    #[arg(long, value_name = "N")]
    batch: Option<NonZeroUsize>,
    /// Compare with the CPU reference; exit with 1 where something is not within its bound
    #[arg(long)]
    check: bool,
    /// Also draw which token has which paths, and the load of each path
    #[arg(long, value_name = "FILE.svg|FILE.png")]
    picture: Option<PathBuf>,
    /// Let NaN and infinities in x, in the weights and in the results pass
    #[arg(long)]
    allow_non_finite: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// What of a mixture of experts is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    Router,
    Block,
}

/// A margin below which another device may choose otherwise.
const CLOSE: f32 = 1e-6;

pub fn run(part: Part, arguments: &Arguments, out: &mut Out) -> anyhow::Result<Verdict> {
    let Arguments { allow_non_finite, .. } = *arguments;
    save::apart(&arguments.read(), &arguments.written())?;
    let config = read_config(arguments)?;
    let prefix = arguments.prefix.as_deref();
    let files = Files::read(&arguments.weights)?;
    let (weights, prefix) = files.weights(prefix, &arguments.ignore, &config, part, allow_non_finite)?;
    let source = Source::open(&arguments.input)?;
    let mut rows = Rows::of_router(&source, weights.router().shape, allow_non_finite)?;
    rows.input.storage.y = arguments.output_type.into();
    let destination = Destination::new(&arguments.output)?;
    let picture = arguments.picture.as_deref().map(Picture::new).transpose()?;
    out.make_way(&destination, arguments.json)?;
    let target = arguments.selection.open()?;
    let evaluator = Evaluator::new(&target, &weights, config.router, arguments.batch_invariant)?;
    let mut results = Results::new(arguments, &weights, &config, &rows.input, destination)?;
    let batch = arguments.batch.map(NonZeroUsize::get);
    let run = evaluator.run(&rows, batch, |x, output| results.take(x, output))?;
    let Results { mut tensors, counts, least_margin, close, cells, judge, .. } = results;
    tensors.extend("counts", bytemuck::cast_slice(&counts))?;
    if let Some((picture, cells)) = picture.zip(cells) {
        picture.save(&Scene::new(&config, cells, &counts))?;
    }
    tensors.commit()?;

    let judgement = judge.map(Judge::judgement);
    let report = Report {
        arguments,
        config: &config,
        target,
        weights: &weights,
        prefix,
        input: &rows.input,
        counts,
        least_margin,
        close,
        run,
        judgement,
    };
    if arguments.json {
        report.print_json(out)?;
    } else {
        report.print(out)?;
    }
    Ok(report.judgement.is_none_or(|judgement| judgement.passed).into())
}

impl Arguments {
    /// The files that are read, with the options that name them.
    fn read(&self) -> Vec<(&str, &Path)> {
        let weights = self.weights.iter().map(|path| ("--weights", &**path));
        let own = [("--config", &*self.config), ("--input", &*self.input)];
        own.into_iter().chain(weights).chain(self.selection.read()).collect()
    }

    /// Those that are written.
    fn written(&self) -> Vec<(&str, &Path)> {
        let picture = self.picture.as_deref().map(|path| ("--picture", path));
        [("--output", &*self.output)].into_iter().chain(picture).collect()
    }
}

fn read_config(arguments: &Arguments) -> anyhow::Result<ModelConfig> {
    let path = &arguments.config;
    let bytes = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let read = || -> anyhow::Result<ModelConfig> {
        let config = ModelConfig::parse(kind::json(&bytes)?)?;
        config.router.check()?;
        Ok(config)
    };
    read().with_context(|| path.display().to_string())
}

/// What comes of the batches.
struct Results<'a> {
    tensors: Tensors,
    storage: Storage,
    tokens: usize,
    /// Tokens that have come.
    done: usize,
    allow_non_finite: bool,
    counts: Vec<u32>,
    /// Infinite where no path was rejected.
    least_margin: f32,
    /// Tokens between whose last chosen and first rejected path there is next to nothing.
    close: usize,
    cells: Option<Cells>,
    judge: Option<Judge<'a>>,
}

impl<'a> Results<'a> {
    fn new(
        arguments: &Arguments,
        weights: &'a Weights,
        config: &ModelConfig,
        input: &Input<'_>,
        destination: Destination,
    ) -> anyhow::Result<Self> {
        let (tokens, storage) = (input.tokens(), input.storage);
        let RouterConfig { paths, per_token, .. } = config.router;
        let mut tensors = vec![
            ("ids", Dtype::U32, vec![tokens, per_token]),
            ("gates", Dtype::F32, vec![tokens, per_token]),
            ("counts", Dtype::U32, vec![paths]),
            ("margin", Dtype::F32, vec![tokens]),
        ];
        if weights.block().is_some() {
            tensors.push(("y", input::dtype(storage.y), input.shape().to_vec()));
        }
        Ok(Self {
            tensors: Tensors::new(destination, tensors)?,
            storage,
            tokens,
            done: 0,
            allow_non_finite: arguments.allow_non_finite,
            counts: vec![0; paths],
            least_margin: f32::INFINITY,
            close: 0,
            cells: arguments.picture.is_some().then(|| Cells::new(config, tokens)),
            judge: arguments.check.then(|| Judge::new(weights, config.router, storage.y)),
        })
    }

    fn take(&mut self, x: &[f32], output: Output) -> anyhow::Result<()> {
        let tokens = output.routing.margin.len();
        if let Some((name, at, value)) = output.first_non_finite().filter(|_| !self.allow_non_finite) {
            let each = match name {
                "logits" => self.counts.len(),
                "gates" => output.routing.gates.len() / tokens,
                "y" => x.len() / tokens,
                _ => 1,
            };
            return Err(input::overflow(name, &[self.tokens, each], self.done * each + at, value, self.storage.y));
        }
        self.done += tokens;
        if let Some(judge) = &mut self.judge {
            judge.extend(x, &output);
        }
        let Output { y, routing, .. } = output;
        if let Some(cells) = &mut self.cells {
            cells.extend(&routing);
        }
        let Routing { ids, gates, counts, margin, .. } = routing;
        self.tensors.extend("ids", bytemuck::cast_slice(&ids))?;
        self.tensors.extend("gates", bytemuck::cast_slice(&gates))?;
        self.tensors.extend("margin", bytemuck::cast_slice(&margin))?;
        if let Some(y) = y {
            self.tensors.extend("y", Values::rounded(&y, self.storage.y).bytes())?;
        }
        self.counts.iter_mut().zip(counts).for_each(|(sum, count)| *sum = sum.saturating_add(count));
        self.least_margin = margin.iter().copied().fold(self.least_margin, f32::min);
        self.close += margin.iter().filter(|&&margin| margin < CLOSE).count();
        Ok(())
    }
}

/// How tokens are spread over paths.
pub struct Load {
    pub busiest: usize,
    pub most: u32,
    pub mean: f64,
    pub idle: usize,
}

impl Load {
    pub fn new(counts: &[u32]) -> Self {
        let most = counts.iter().copied().max().unwrap_or(0);
        let slots: u64 = counts.iter().map(|&count| u64::from(count)).sum();
        Self {
            busiest: counts.iter().position(|&count| count == most).unwrap_or(0),
            most,
            mean: slots as f64 / counts.len().max(1) as f64,
            idle: counts.iter().filter(|&&count| count == 0).count(),
        }
    }

    /// The largest load by the mean; 1 where there is none.
    pub fn imbalance(&self) -> f64 {
        if self.mean > 0.0 { f64::from(self.most) / self.mean } else { 1.0 }
    }
}

struct Report<'a> {
    arguments: &'a Arguments,
    config: &'a ModelConfig,
    target: Target,
    weights: &'a Weights,
    prefix: String,
    input: &'a Input<'a>,
    counts: Vec<u32>,
    least_margin: f32,
    close: usize,
    run: Run,
    judgement: Option<Judgement>,
}

impl Report<'_> {
    /// The share of tokens between whose last chosen and first rejected path there is next to nothing.
    fn close(&self) -> f64 {
        self.close as f64 / self.input.tokens().max(1) as f64
    }

    fn print_json(&self, out: &mut Out) -> anyhow::Result<()> {
        let load = Load::new(&self.counts);
        let router = self.weights.router();
        let experts = self.weights.block().map(|block| {
            json!({
                "width": block.experts.width,
                "shared_width": block.shared.as_ref().map(|shared| shared.expert.width),
            })
        });
        let value: Value = json!({
            "adapter": self.target.description(),
            "config": self.config.to_json(),
            "prefix": self.prefix,
            "gate": router.shape,
            "correction_bias": router.correction_bias.is_some(),
            "experts": experts,
            "x": self.input.shape(),
            "types": { "x": self.input.storage.x.to_string(), "y": self.input.storage.y.to_string() },
            "tokens": self.input.tokens(),
            "counts": self.counts,
            "load": {
                "max": load.most,
                "mean": load.mean,
                "max_by_mean": load.imbalance(),
                "busiest": load.busiest,
                "idle": load.idle,
            },
            "margin": { "least": self.least_margin, "share_below_1e-6": self.close() },
            "batches": self.run.batches,
            "seconds": self.run.elapsed.as_secs_f64(),
            "output": self.arguments.output.display().to_string(),
            "picture": self.arguments.picture.as_ref().map(|path| path.display().to_string()),
            "check": self.judgement,
        });
        report::json(out, &value)
    }

    fn print(&self, out: &mut Out) -> anyhow::Result<()> {
        let router = self.weights.router();
        let bias = if router.correction_bias.is_some() { "; correction bias" } else { "" };
        writeln!(out, "{BOLD}adapter{BOLD:#}  {}", self.target.description())?;
        writeln!(out, "{BOLD}router{BOLD:#}   {}: {}{bias}", self.config.name(), self.config.rule())?;
        writeln!(out, "{BOLD}weights{BOLD:#}  {}gate.weight {:?}{}", self.prefix, router.shape, self.experts())?;
        let Storage { x: of_x, y: of_y } = self.input.storage;
        writeln!(out, "{BOLD}x{BOLD:#}        {:?}{}", self.input.shape(), typed(of_x))?;
        let load = Load::new(&self.counts);
        let row = [
            report::count(self.input.tokens() as u64),
            format!("{} of {}", self.config.router.per_token, self.config.router.paths),
            format!("{} ({} tokens)", load.busiest, report::count(load.most.into())),
            format!("{:.2} × mean", load.imbalance()),
            load.idle.to_string(),
            format!("{:.2e}", self.least_margin),
        ];
        let header = ["tokens", "paths a token", "busiest path", "its load", "idle paths", "least margin"];
        report::print_table(out, &report::table(header, 0, [row]))?;
        if self.close() > 0.0 {
            writeln!(out, "  {:.2} % of the tokens have a margin below {CLOSE:e}", 100.0 * self.close())?;
        }
        let Run { batches, elapsed } = &self.run;
        let y =
            self.weights.block().map_or_else(String::new, |_| format!("y {:?}{}, ", self.input.shape(), typed(of_y)));
        let (slots, paths) = ([self.input.tokens(), self.config.router.per_token], self.config.router.paths);
        let name = self.arguments.output.display();
        writeln!(
            out,
            "{BOLD}wrote{BOLD:#}    {name}: {y}ids and gates {slots:?}, counts [{paths}], margin [{}]",
            slots[0]
        )?;
        if let Some(picture) = &self.arguments.picture {
            writeln!(out, "         {}", picture.display())?;
        }
        let plural = if *batches == 1 { "batch" } else { "batches" };
        writeln!(out, "{BOLD}time{BOLD:#}     {elapsed:.3?} in {batches} {plural}")?;
        if let Some(judgement) = &self.judgement {
            judge::print(judgement, out)?;
            if !judgement.passed {
                writeln!(out, "The output was written all the same.")?;
            }
        }
        Ok(())
    }

    /// What a block has beside its router.
    fn experts(&self) -> String {
        let Some(block) = self.weights.block() else { return String::new() };
        let shared = match &block.shared {
            Some(shared) if shared.gate.is_some() => format!(", a gated shared one of width {}", shared.expert.width),
            Some(shared) => format!(", a shared one of width {}", shared.expert.width),
            None => String::new(),
        };
        format!(", experts of width {}{shared}", block.experts.width)
    }
}
