//! The weights of routers and of their experts: from safetensors files under the names of published checkpoints, or from the
//! caller's values.

use std::collections::BTreeSet;

use crate::{Checkpoint, Error, Result, Values, checkpoint};

/// A router's weights: one row of the gate for each path.
///
/// ```
/// use double_routing::moe::RouterWeights;
/// let weights = RouterWeights::new(vec![0.1f32; 8 * 16], [8, 16], Some(vec![0.0f32; 8].into()))?;
/// assert_eq!(weights.shape, [8, 16]);
/// # Ok::<(), double_routing::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct RouterWeights {
    /// `[P, D]`.
    pub gate: Values,
    /// P and D.
    pub shape: [usize; 2],
    /// `[P]`: moves the choice, never the weights.
    pub correction_bias: Option<Values>,
}

/// What all experts of a block have: gated feed-forwards `down(silu(gate(x)) ⊙ up(x))` without biases.
///
/// ```
/// # fn show(experts: &double_routing::moe::ExpertWeights) {
/// println!("{} experts of width {}", experts.paths, experts.width);
/// # }
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct ExpertWeights {
    /// `[P, I, D]`.
    pub gate: Values,
    /// `[P, I, D]`.
    pub up: Values,
    /// `[P, D, I]`.
    pub down: Values,
    /// P.
    pub paths: usize,
    /// I: features between the maps.
    pub width: usize,
    /// D: features of a token.
    pub features: usize,
}

/// What every token passes through beside its experts.
///
/// ```
/// # fn show(shared: &double_routing::moe::SharedWeights) {
/// println!("shared width {}, gated: {}", shared.expert.width, shared.gate.is_some());
/// # }
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct SharedWeights {
    /// One expert; several shared ones are one of their common width.
    pub expert: ExpertWeights,
    /// `[1, D]`: what it returns is weighted by `sigmoid(x·gateᵀ)`, as Qwen2-MoE has it.
    pub gate: Option<Values>,
}

/// A mixture-of-experts block: router, experts, and shared experts where the model has them.
///
/// ```no_run
/// let bytes = std::fs::read("model.safetensors").expect("a file");
/// let weights = double_routing::moe::MoeWeights::from_safetensors(&[&bytes], "model.layers.3.")?;
/// println!("{} experts of width {}", weights.experts.paths, weights.experts.width);
/// # Ok::<(), double_routing::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct MoeWeights {
    /// Which experts a token gets.
    pub router: RouterWeights,
    /// The experts.
    pub experts: ExpertWeights,
    /// What every token passes through.
    pub shared: Option<SharedWeights>,
}

impl RouterWeights {
    /// A gate of `shape` `[P, D]`, and a correction bias `[P]` where the router has one.
    ///
    /// # Errors
    /// [`Error::Weights`] where the numbers of values do not fit, naming both.
    ///
    /// ```
    /// let error = double_routing::moe::RouterWeights::new(vec![0.0f32; 7], [4, 2], None).unwrap_err();
    /// assert_eq!(error.to_string(), "weights: gate.weight has 7 values for [4, 2]");
    /// ```
    pub fn new(gate: impl Into<Values>, shape: [usize; 2], correction_bias: Option<Values>) -> Result<Self> {
        let gate = gate.into();
        let [paths, features] = shape;
        if Some(gate.len()) != paths.checked_mul(features) {
            return Err(Error::Weights(format!("gate.weight has {} values for {shape:?}", gate.len())));
        }
        if paths == 0 || features == 0 {
            return Err(Error::Weights(format!("gate.weight is {shape:?}: a dimension is 0")));
        }
        if let Some(bias) = &correction_bias
            && bias.len() != paths
        {
            return Err(Error::Weights(format!(
                "e_score_correction_bias is [{}], gate.weight {shape:?} needs [{paths}]",
                bias.len()
            )));
        }
        Ok(Self { gate, shape, correction_bias })
    }

    /// A router's weights from the bytes of safetensors files: [`RouterWeights::from_checkpoint`] of these.
    ///
    /// # Errors
    /// As [`RouterWeights::from_checkpoint`]; [`Error::Weights`] for a file that is malformed.
    ///
    /// ```no_run
    /// let bytes = std::fs::read("model.safetensors").expect("a file");
    /// let router = double_routing::moe::RouterWeights::from_safetensors(&[&bytes], "model.layers.3.mlp.")?;
    /// # Ok::<(), double_routing::Error>(())
    /// ```
    pub fn from_safetensors(files: &[&[u8]], prefix: &str) -> Result<Self> {
        Self::from_checkpoint(&opened(files)?, prefix)
    }

    /// A router's weights: `gate.weight`, and `gate.e_score_correction_bias` where there is one, below `prefix`, or below `mlp.` or
    /// `block_sparse_moe.` there. Of what else lies there its experts, and shared ones, do not matter; any other tensor is refused, as
    /// [`Weights::from_checkpoint`](crate::Weights::from_checkpoint) does.
    ///
    /// # Errors
    /// As [`Weights::from_checkpoint`](crate::Weights::from_checkpoint).
    ///
    /// ```no_run
    /// # fn read(shard: &[u8]) -> double_routing::Result<()> {
    /// use double_routing::{Checkpoint, moe::RouterWeights};
    /// let router = RouterWeights::from_checkpoint(&Checkpoint::open(&[("shard", shard)])?, "model.layers.3.mlp.")?;
    /// # Ok(()) }
    /// ```
    pub fn from_checkpoint(checkpoint: &Checkpoint<'_>, prefix: &str) -> Result<Self> {
        let block = Block::new(checkpoint, prefix);
        block.shape(GATE)?;
        checkpoint.refuse_unread(&block.prefix, |name| [GATE, CORRECTION].contains(&name) || of_experts(name))?;
        block.router()
    }

    /// What stands before the names of each router there is, in the order of their layers.
    ///
    /// ```no_run
    /// # fn read(checkpoint: &double_routing::Checkpoint<'_>) {
    /// // `model.layers.3.mlp.`, `model.layers.4.mlp.`, …
    /// println!("{:?}", double_routing::moe::RouterWeights::prefixes(checkpoint));
    /// # }
    /// ```
    pub fn prefixes(checkpoint: &Checkpoint<'_>) -> Vec<String> {
        let mut prefixes: Vec<&str> = checkpoint.names().filter_map(|name| name.strip_suffix(GATE)).collect();
        // shared_expert_gate.weight is none.
        prefixes.retain(|prefix| prefix.is_empty() || prefix.ends_with('.'));
        prefixes.sort_by_key(|prefix| (prefix.len(), *prefix));
        prefixes.into_iter().map(str::to_owned).collect()
    }
}

impl MoeWeights {
    /// A block's weights from the bytes of safetensors files: [`MoeWeights::from_checkpoint`] of these.
    ///
    /// # Errors
    /// As [`MoeWeights::from_checkpoint`]; [`Error::Weights`] for a file that is malformed.
    ///
    /// ```no_run
    /// let bytes = std::fs::read("model.safetensors").expect("a file");
    /// let weights = double_routing::moe::MoeWeights::from_safetensors(&[&bytes], "model.layers.3.mlp.")?;
    /// # Ok::<(), double_routing::Error>(())
    /// ```
    pub fn from_safetensors(files: &[&[u8]], prefix: &str) -> Result<Self> {
        Self::from_checkpoint(&opened(files)?, prefix)
    }

    /// A block's weights under the names of published checkpoints below `prefix` (or below `mlp.` or `block_sparse_moe.` there): the
    /// router's, `experts.N.{gate,up,down}_proj.weight` or Mixtral's `experts.N.{w1,w3,w2}.weight`, and `shared_experts.*` or
    /// `shared_expert.*` with `shared_expert_gate.weight`. Any other tensor there is refused, as
    /// [`Weights::from_checkpoint`](crate::Weights::from_checkpoint) does. All experts' values are copied once.
    ///
    /// # Errors
    /// As [`Weights::from_checkpoint`](crate::Weights::from_checkpoint), naming the expert.
    ///
    /// ```no_run
    /// # fn read(shard: &[u8]) -> double_routing::Result<()> {
    /// use double_routing::{Checkpoint, moe::MoeWeights};
    /// let block = MoeWeights::from_checkpoint(&Checkpoint::open(&[("shard", shard)])?, "model.layers.3.mlp.")?;
    /// # Ok(()) }
    /// ```
    pub fn from_checkpoint(checkpoint: &Checkpoint<'_>, prefix: &str) -> Result<Self> {
        let block = Block::new(checkpoint, prefix);
        let [paths, features] = block.matrix(GATE)?;
        let experts = block.experts([paths, features])?;
        let shared = block.shared(features)?;
        let read: BTreeSet<String> = experts.names().chain(shared.iter().flat_map(Maps::names)).collect();
        checkpoint.refuse_unread(&block.prefix, |name| [GATE, CORRECTION].contains(&name) || read.contains(name))?;
        let shared = match shared {
            Some(maps) => {
                let gate = if maps.gated { Some(block.values(SHARED_GATE)?) } else { None };
                Some(SharedWeights { expert: block.stacked(&maps)?, gate })
            }
            None => None,
        };
        Ok(Self { router: block.router()?, experts: block.stacked(&experts)?, shared })
    }

    /// The first NaN or infinity: the tensor's name and its position.
    ///
    /// ```no_run
    /// # fn check(weights: &double_routing::moe::MoeWeights) {
    /// assert_eq!(weights.first_non_finite(), None);
    /// # }
    /// ```
    pub fn first_non_finite(&self) -> Option<(&'static str, usize)> {
        let Self { router, experts, shared } = self;
        let of_experts = |e: &ExpertWeights| [&e.gate, &e.up, &e.down].into_iter().find_map(Values::first_non_finite);
        (router.gate.first_non_finite().map(|at| ("gate.weight", at)))
            .or_else(|| router.correction_bias.as_ref()?.first_non_finite().map(|at| ("e_score_correction_bias", at)))
            .or_else(|| of_experts(experts).map(|at| ("experts", at)))
            .or_else(|| of_experts(&shared.as_ref()?.expert).map(|at| ("shared_experts", at)))
            .or_else(|| {
                let gate = shared.as_ref()?.gate.as_ref()?;
                gate.first_non_finite().map(|at| ("shared_expert_gate.weight", at))
            })
    }
}

impl ExpertWeights {
    /// Experts from stacked weights: gate and up `[P, I, D]`, down `[P, D, I]`.
    ///
    /// # Errors
    /// [`Error::Weights`] where the numbers of values do not fit.
    ///
    /// ```
    /// use double_routing::moe::ExpertWeights;
    /// let values = || vec![0.1f32; 4 * 3 * 2];
    /// let experts = ExpertWeights::new(values(), values(), values(), [4, 3, 2])?;
    /// assert_eq!(experts.width, 3);
    /// # Ok::<(), double_routing::Error>(())
    /// ```
    pub fn new(
        gate: impl Into<Values>,
        up: impl Into<Values>,
        down: impl Into<Values>,
        [paths, width, features]: [usize; 3],
    ) -> Result<Self> {
        let (gate, up, down) = (gate.into(), up.into(), down.into());
        let shape = [paths, width, features];
        let wanted = paths.checked_mul(width).and_then(|count| count.checked_mul(features));
        for (name, values) in [("gate_proj", &gate), ("up_proj", &up), ("down_proj", &down)] {
            if Some(values.len()) != wanted {
                return Err(Error::Weights(format!("{name} has {} values for {shape:?}", values.len())));
            }
        }
        if shape.contains(&0) {
            return Err(Error::Weights(format!("experts are {shape:?}: a dimension is 0")));
        }
        Ok(Self { gate, up, down, paths, width, features })
    }
}

const GATE: &str = "gate.weight";
const CORRECTION: &str = "gate.e_score_correction_bias";
const SHARED_GATE: &str = "shared_expert_gate.weight";

/// Where a block may lie below what the caller says.
const BELOW: [&str; 3] = ["", "mlp.", "block_sparse_moe."];

/// The names of an expert's gate, up and down maps.
const EXPERT_NAMES: [[&str; 3]; 2] = [["gate_proj", "up_proj", "down_proj"], ["w1", "w3", "w2"]];

/// The maps of experts that are stored as one.
const STACKED_NAMES: [&str; 9] =
    ["gate_up_proj", "gate_proj", "up_proj", "down_proj", "w13_weight", "w2_weight", "w1", "w2", "w3"];

/// Whether a tensor is of a block's experts, so that it does not matter to its router.
fn of_experts(name: &str) -> bool {
    let is_number = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    let of_map = |map: &str, name: &str| {
        name.strip_prefix(map).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '_']))
    };
    match name.split_once('.') {
        Some(("experts", rest)) => {
            rest.split_once('.').is_some_and(|(number, _)| is_number(number))
                || STACKED_NAMES.iter().any(|map| of_map(map, rest))
        }
        Some((module, _)) => ["shared_expert", "shared_experts", "shared_expert_gate"].contains(&module),
        None => false,
    }
}

fn opened<'a>(files: &[&'a [u8]]) -> Result<Checkpoint<'a>> {
    let names: Vec<String> = (1..=files.len()).map(|number| format!("file {number}")).collect();
    let named: Vec<(&str, &[u8])> = names.iter().map(String::as_str).zip(files.iter().copied()).collect();
    Checkpoint::open(&named)
}

/// A block in a checkpoint, and what the names of its tensors begin with.
struct Block<'c, 'a> {
    checkpoint: &'c Checkpoint<'a>,
    prefix: String,
}

/// Experts in a checkpoint, whose tensors are all there and of the right shapes.
struct Maps {
    /// What stands before the names of their maps: one for each expert.
    experts: Vec<String>,
    /// Of their gate, up and down maps.
    maps: [&'static str; 3],
    width: usize,
    features: usize,
    /// Whether [`SHARED_GATE`] is theirs.
    gated: bool,
}

impl Maps {
    /// The names of all of their tensors.
    fn names(&self) -> impl Iterator<Item = String> {
        let of_expert = |expert: &String| self.maps.map(|map| format!("{expert}.{map}.weight"));
        let gate = self.gated.then(|| SHARED_GATE.to_owned());
        self.experts.iter().flat_map(of_expert).chain(gate)
    }
}

impl<'c, 'a> Block<'c, 'a> {
    fn new(checkpoint: &'c Checkpoint<'a>, prefix: &str) -> Self {
        Self { checkpoint, prefix: checkpoint::resolved(checkpoint, prefix, &BELOW, GATE) }
    }

    fn full(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    fn has(&self, name: &str) -> bool {
        self.checkpoint.contains(&self.full(name))
    }

    fn shape(&self, name: &str) -> Result<&'c [usize]> {
        self.checkpoint.shape(&self.full(name))
    }

    /// The shape of a tensor of two dimensions.
    fn matrix(&self, name: &str) -> Result<[usize; 2]> {
        match self.shape(name)? {
            &[rows, columns] => Ok([rows, columns]),
            shape => Err(Error::Weights(format!("{} is {shape:?}, expected two dimensions", self.full(name)))),
        }
    }

    fn check(&self, name: &str, wanted: [usize; 2]) -> Result<()> {
        let shape = self.matrix(name)?;
        if shape != wanted {
            return Err(Error::Weights(format!("{} is {shape:?}, expected {wanted:?}", self.full(name))));
        }
        Ok(())
    }

    fn values(&self, name: &str) -> Result<Values> {
        self.checkpoint.values(&self.full(name))
    }

    fn router(&self) -> Result<RouterWeights> {
        let shape = self.matrix(GATE)?;
        let bias = if self.has(CORRECTION) { Some(self.values(CORRECTION)?) } else { None };
        RouterWeights::new(self.values(GATE)?, shape, bias)
    }

    fn experts(&self, [paths, features]: [usize; 2]) -> Result<Maps> {
        let spelling = |maps: &&[&str; 3]| self.has(&format!("experts.0.{}.weight", maps[0]));
        let maps = *EXPERT_NAMES.iter().find(spelling).unwrap_or(&EXPERT_NAMES[0]);
        let found = self.maps("experts.0", maps, features)?;
        let beyond = format!("experts.{paths}.{}.weight", maps[0]);
        if self.has(&beyond) {
            let (gate, beyond) = (self.full(GATE), self.full(&beyond));
            return Err(Error::Weights(format!("{gate} is {:?}, but there is {beyond}", [paths, features])));
        }
        // Counted before there is room for their names: an empty file may claim any number.
        let experts: Vec<String> = (0..paths)
            .map(|n| format!("experts.{n}"))
            .map(|expert| self.check_maps(&expert, &found).map(|()| expert))
            .collect::<Result<_>>()?;
        Ok(Maps { experts, ..found })
    }

    fn shared(&self, features: usize) -> Result<Option<Maps>> {
        let there = |name: &&str| self.has(&format!("{name}.{}.weight", EXPERT_NAMES[0][0]));
        let Some(name) = ["shared_experts", "shared_expert"].into_iter().find(there) else { return Ok(None) };
        let gated = self.has(SHARED_GATE);
        if gated {
            self.check(SHARED_GATE, [1, features])?;
        }
        Ok(Some(Maps { gated, ..self.maps(name, EXPERT_NAMES[0], features)? }))
    }

    /// One expert, whose width its first map says.
    fn maps(&self, expert: &str, maps: [&'static str; 3], features: usize) -> Result<Maps> {
        let [width, _] = self.matrix(&format!("{expert}.{}.weight", maps[0]))?;
        let found = Maps { experts: vec![expert.into()], maps, width, features, gated: false };
        self.check_maps(expert, &found)?;
        Ok(found)
    }

    fn check_maps(&self, expert: &str, maps: &Maps) -> Result<()> {
        let (wide, narrow) = ([maps.width, maps.features], [maps.features, maps.width]);
        for (map, shape) in maps.maps.iter().zip([wide, wide, narrow]) {
            self.check(&format!("{expert}.{map}.weight"), shape)?;
        }
        Ok(())
    }

    fn stacked(&self, maps: &Maps) -> Result<ExpertWeights> {
        let Maps { experts, maps, width, features, .. } = maps;
        let stacked = |map: &str| -> Result<Values> {
            let names: Vec<String> =
                experts.iter().map(|expert| self.full(&format!("{expert}.{map}.weight"))).collect();
            let Some(first) = names.first() else { return Ok(Vec::<f32>::new().into()) };
            let element = self.checkpoint.element(first)?;
            for name in &names {
                let other = self.checkpoint.element(name)?;
                if other != element {
                    return Err(Error::Weights(format!(
                        "{first} and {name} are not of one type: {element} and {other}"
                    )));
                }
            }
            // Each of the tensors has its numbers in a file.
            let mut values = Values::with_capacity(element, names.len() * (width * features));
            names.iter().try_for_each(|name| self.checkpoint.append(name, &mut values))?;
            Ok(values)
        };
        let [gate, up, down] = maps;
        ExpertWeights::new(stacked(gate)?, stacked(up)?, stacked(down)?, [experts.len(), *width, *features])
    }
}
