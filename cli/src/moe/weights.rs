//! Reading the weights of a router or of a whole block from the files of a checkpoint. No file is trusted.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use anyhow::{Context, bail, ensure};
use double_routing::{
    Values,
    moe::{MoeWeights, RouterWeights},
};
use double_routing_common::input::not_finite;
use safetensors::{SafeTensors, tensor::TensorView};

use super::Part;
use crate::{input::refusal, model_config::ModelConfig, source::Source};

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
}

/// The files of a checkpoint.
pub struct Files {
    name: String,
    bytes: Vec<Source>,
}

/// Where something may lie below what the caller says.
const BELOW: [&str; 3] = ["", "mlp.", "block_sparse_moe."];
/// Prefixes that an error lists.
const LISTED: usize = 6;

type Tensors<'a> = BTreeMap<String, TensorView<'a>>;

impl Files {
    pub fn read(paths: &[PathBuf]) -> anyhow::Result<Self> {
        let name = match paths {
            [only] => only.display().to_string(),
            [first, rest @ ..] => format!("{} and {} more", first.display(), rest.len()),
            [] => String::new(),
        };
        let bytes = paths.iter().map(|path| readable(path)).collect::<anyhow::Result<_>>()?;
        Ok(Self { name, bytes })
    }

    /// The weights of one router or block that suit the configuration, and what their names begin with.
    pub fn weights(
        &self,
        prefix: Option<&str>,
        config: &ModelConfig,
        part: Part,
        allow_non_finite: bool,
    ) -> anyhow::Result<(Weights, String)> {
        self.suitable(prefix, config, part, allow_non_finite).with_context(|| self.name.clone())
    }

    fn suitable(
        &self,
        prefix: Option<&str>,
        config: &ModelConfig,
        part: Part,
        allow_non_finite: bool,
    ) -> anyhow::Result<(Weights, String)> {
        let tensors = self.tensors()?;
        let prefix = match prefix {
            Some(given) => below(&tensors, given)?,
            None => only(&tensors)?,
        };
        let bytes: Vec<&[u8]> = self.bytes.iter().map(|bytes| &**bytes).collect();
        let weights = match part {
            Part::Router => Weights::Router(RouterWeights::from_safetensors(&bytes, &prefix)?),
            Part::Block => Weights::Block(Box::new(MoeWeights::from_safetensors(&bytes, &prefix)?)),
        };
        suit(&weights, config, &prefix)?;
        if !allow_non_finite {
            finite(&tensors, &prefix, part)?;
        }
        Ok((weights, prefix))
    }

    /// All tensors; of a name that several files have, the first.
    fn tensors(&self) -> anyhow::Result<Tensors<'_>> {
        let mut tensors = BTreeMap::new();
        for bytes in &self.bytes {
            for (name, view) in SafeTensors::deserialize(bytes)?.iter() {
                tensors.entry(name.to_owned()).or_insert(view);
            }
        }
        Ok(tensors)
    }
}

fn readable(path: &Path) -> anyhow::Result<Source> {
    let bytes = Source::open(path)?;
    SafeTensors::deserialize(&bytes).with_context(|| format!("{}: not safetensors", path.display()))?;
    Ok(bytes)
}

/// What the names of all routers' tensors begin with, in the order of their layers.
fn routers<'a>(tensors: &'a Tensors<'_>) -> Vec<&'a str> {
    let mut prefixes: Vec<&str> = tensors.keys().filter_map(|name| name.strip_suffix("gate.weight")).collect();
    // shared_expert_gate.weight is none.
    prefixes.retain(|prefix| prefix.is_empty() || prefix.ends_with('.'));
    prefixes.sort_by_key(|prefix| (prefix.len(), *prefix));
    prefixes
}

fn listed(prefixes: &[&str]) -> String {
    let shown = prefixes.iter().take(LISTED).map(|prefix| format!("'{prefix}'")).collect::<Vec<_>>().join(", ");
    if prefixes.len() > LISTED { format!("{shown}, … ({} in all)", prefixes.len()) } else { shown }
}

/// The router that lies at what the caller says, or below.
fn below(tensors: &Tensors<'_>, given: &str) -> anyhow::Result<String> {
    let dotted = format!("{given}.");
    let candidates = [given, &dotted].into_iter().flat_map(|start| BELOW.map(|below| format!("{start}{below}")));
    let found = candidates.into_iter().find(|prefix| tensors.contains_key(&format!("{prefix}gate.weight")));
    let routers = routers(tensors);
    match found {
        Some(prefix) => Ok(prefix),
        None if routers.is_empty() => bail!("no tensor {given}gate.weight, nor any other gate.weight"),
        None => bail!("no tensor {given}gate.weight; there is one behind {}", listed(&routers)),
    }
}

/// The only router there is; of several the only one that has experts.
fn only(tensors: &Tensors<'_>) -> anyhow::Result<String> {
    let routers = routers(tensors);
    let has_experts = |prefix: &&&str| {
        let experts = format!("{prefix}experts.");
        tensors.range(experts.clone()..).next().is_some_and(|(name, _)| name.starts_with(&experts))
    };
    let with_experts: Vec<&str> = routers.iter().filter(has_experts).copied().collect();
    match (with_experts.as_slice(), routers.as_slice()) {
        ([one], _) | ([], [one]) => Ok((*one).to_owned()),
        ([], []) => {
            let names: Vec<&str> = tensors.keys().map(String::as_str).collect();
            let names = if names.is_empty() { "nothing".into() } else { listed(&names) };
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
    if let Some(activation) = &config.activation {
        let known = ["silu", "swish"].contains(&activation.as_str());
        ensure!(known, "the configuration's hidden_act is '{activation}', expected 'silu'");
    }
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

fn finite(tensors: &Tensors<'_>, prefix: &str, part: Part) -> anyhow::Result<()> {
    let read: &[&str] = match part {
        Part::Router => &["gate."],
        Part::Block => &["gate.", "experts.", "shared_expert"],
    };
    for (name, view) in tensors {
        let of_part = |rest: &str| read.iter().any(|start| rest.starts_with(start));
        if !name.strip_prefix(prefix).is_some_and(of_part) {
            continue;
        }
        let values = Values::from_safetensors(name, view)?;
        if let Some(position) = values.first_non_finite() {
            return Err(refusal(&not_finite(name, view.shape(), position, values.to_f32()[position])));
        }
    }
    Ok(())
}
