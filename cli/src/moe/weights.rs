//! Reading the weights of a router or of a whole block from the files of a checkpoint. No file is trusted.

use std::path::PathBuf;

use anyhow::{Context, bail, ensure};
use double_routing::{
    Checkpoint, Values,
    moe::{MoeWeights, RouterWeights},
    names_like,
};
use double_routing_common::{input::not_finite, model_config::ModelConfig};

use super::Part;
use crate::{
    input::refusal,
    source::Source,
    weights::{checkpoint, listed, with_way_out},
};

/// What was read.
#[derive(Debug)]
pub enum Weights {
    Router(RouterWeights),
    Block(Box<MoeWeights>),
}

impl Weights {
    pub fn router(&self) -> &RouterWeights {
        match self {
            Self::Router(router) => router,
            Self::Block(block) => &block.router,
        }
    }

    pub fn block(&self) -> Option<&MoeWeights> {
        match self {
            Self::Router(_) => None,
            Self::Block(block) => Some(block),
        }
    }

    fn all_finite(&self) -> bool {
        match self {
            Self::Router(router) => {
                let bias = router.correction_bias.as_ref();
                [Some(&router.gate), bias].into_iter().flatten().all(|values| values.first_non_finite().is_none())
            }
            Self::Block(block) => block.first_non_finite().is_none(),
        }
    }
}

/// The files of a checkpoint.
pub struct Files {
    name: String,
    sources: Vec<Source>,
}

/// Where something may lie below what the caller says.
const BELOW: [&str; 3] = ["", "mlp.", "block_sparse_moe."];

impl Files {
    pub fn read(paths: &[PathBuf]) -> anyhow::Result<Self> {
        let name = match paths {
            [only] => only.display().to_string(),
            [first, rest @ ..] => format!("{} and {} more", first.display(), rest.len()),
            [] => String::new(),
        };
        let sources = paths.iter().map(|path| Source::open(path)).collect::<anyhow::Result<_>>()?;
        Ok(Self { name, sources })
    }

    /// The weights of one router or block that suit the configuration, and what their names begin with. Tensors that are ignored are as if
    /// not there.
    pub fn weights(
        &self,
        prefix: Option<&str>,
        ignored: &[String],
        config: &ModelConfig,
        part: Part,
        allow_non_finite: bool,
    ) -> anyhow::Result<(Weights, String)> {
        let checkpoint = checkpoint(&self.sources)?.without(ignored);
        suitable(&checkpoint, prefix, config, part, allow_non_finite).with_context(|| self.name.clone())
    }
}

fn suitable(
    checkpoint: &Checkpoint<'_>,
    prefix: Option<&str>,
    config: &ModelConfig,
    part: Part,
    allow_non_finite: bool,
) -> anyhow::Result<(Weights, String)> {
    if part == Part::Block {
        config.check_experts()?;
    }
    let prefix = match prefix {
        Some(given) => below(checkpoint, given)?,
        None => only(checkpoint)?,
    };
    let weights = match part {
        Part::Router => Weights::Router(RouterWeights::from_checkpoint(checkpoint, &prefix).map_err(with_way_out)?),
        Part::Block => {
            Weights::Block(Box::new(MoeWeights::from_checkpoint(checkpoint, &prefix).map_err(with_way_out)?))
        }
    };
    suit(&weights, config, &prefix)?;
    if !allow_non_finite && !weights.all_finite() {
        finite(checkpoint, &prefix, part)?;
    }
    Ok((weights, prefix))
}

/// The router that lies at what the caller says, or below.
fn below(checkpoint: &Checkpoint<'_>, given: &str) -> anyhow::Result<String> {
    let dotted = format!("{given}.");
    let candidates = [given, &dotted].into_iter().flat_map(|start| BELOW.map(|below| format!("{start}{below}")));
    let found = candidates.into_iter().find(|prefix| checkpoint.contains(&format!("{prefix}gate.weight")));
    let routers = RouterWeights::prefixes(checkpoint);
    match found {
        Some(prefix) => Ok(prefix),
        None if routers.is_empty() => bail!("no tensor {given}gate.weight, nor any other gate.weight"),
        None => bail!("no tensor {given}gate.weight; there is one behind {}", listed(&routers)),
    }
}

/// The only router there is; of several the only one that has experts.
fn only(checkpoint: &Checkpoint<'_>) -> anyhow::Result<String> {
    let routers = RouterWeights::prefixes(checkpoint);
    let has_experts = |prefix: &&String| checkpoint.below(&format!("{prefix}experts.")).next().is_some();
    let with_experts: Vec<String> = routers.iter().filter(has_experts).cloned().collect();
    match (with_experts.as_slice(), routers.as_slice()) {
        ([one], _) | ([], [one]) => Ok(one.clone()),
        ([], []) => {
            let names = names_like("gate.weight", checkpoint.names());
            let names = if names.is_empty() { "nothing" } else { &names };
            bail!("no tensor whose name ends in gate.weight; there is {names}")
        }
        ([], several) | (several, _) => bail!("there are several routers; choose by --prefix: {}", listed(several)),
    }
}

/// Whether the weights are what the configuration speaks of.
fn suit(weights: &Weights, config: &ModelConfig, prefix: &str) -> anyhow::Result<()> {
    let (name, router) = (config.name(), weights.router());
    let shape = router.shape;
    let gate = || format!("{prefix}gate.weight is {shape:?}");
    ensure!(shape[0] == config.router.paths, "{}, the configuration has {} paths", gate(), config.router.paths);
    if let Some(features) = config.features {
        ensure!(shape[1] == features, "{}, the configuration's hidden_size is {features}", gate());
    }
    let lacks = |what: &str, tensor: &str| format!("{name} has {what}, but there is no tensor {prefix}{tensor}");
    if config.biased && router.correction_bias.is_none() {
        bail!(lacks("a correction bias", "gate.e_score_correction_bias"));
    }
    let Some(block) = weights.block() else { return Ok(()) };
    let of_qwen = name == "qwen2_moe";
    match &block.shared {
        None if config.shared => {
            let of_all = if of_qwen { "shared_expert" } else { "shared_experts" };
            bail!(lacks("a shared expert", &format!("{of_all}.gate_proj.weight")))
        }
        Some(shared) if of_qwen && shared.gate.is_none() => {
            bail!(lacks("a gate for its shared expert", "shared_expert_gate.weight"))
        }
        _ => Ok(()),
    }
}

/// Names the first number of the weights that is not finite.
fn finite(checkpoint: &Checkpoint<'_>, prefix: &str, part: Part) -> anyhow::Result<()> {
    let read: &[&str] = match part {
        Part::Router => &["gate."],
        Part::Block => &["gate.", "experts.", "shared_expert"],
    };
    for name in checkpoint.below(prefix) {
        if !read.iter().any(|start| name[prefix.len()..].starts_with(start)) {
            continue;
        }
        // What is beside the weights need not be of a type that can be read.
        let Ok(values) = checkpoint.values(name) else { continue };
        if let Some(position) = Values::first_non_finite(&values) {
            let value = values.to_f32()[position];
            return Err(refusal(&not_finite(name, checkpoint.shape(name)?, position, value)));
        }
    }
    Ok(())
}
