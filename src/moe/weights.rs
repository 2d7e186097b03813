//! The weights of routers and of their experts: from safetensors files under the names of published checkpoints, or from the
//! caller's values.

use safetensors::SafeTensors;

use crate::{Error, Result, Values};

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

    /// A router's weights from the bytes of safetensors files: `gate.weight`, and `gate.e_score_correction_bias` where there is
    /// one, below `prefix`, or below `mlp.` or `block_sparse_moe.` there. A checkpoint may be spread over several files.
    ///
    /// # Errors
    /// As [`Weights::from_safetensors`](crate::Weights::from_safetensors).
    ///
    /// ```no_run
    /// let bytes = std::fs::read("model.safetensors").expect("a file");
    /// let router = double_routing::moe::RouterWeights::from_safetensors(&[&bytes], "model.layers.3.mlp.")?;
    /// # Ok::<(), double_routing::Error>(())
    /// ```
    pub fn from_safetensors(files: &[&[u8]], prefix: &str) -> Result<Self> {
        Files::open(files, prefix)?.router()
    }
}

impl MoeWeights {
    /// A block's weights from the bytes of safetensors files, under the names of published checkpoints below `prefix` (or below
    /// `mlp.` or `block_sparse_moe.` there): the router's, `experts.N.{gate,up,down}_proj.weight` or Mixtral's
    /// `experts.N.{w1,w3,w2}.weight`, and `shared_experts.*` or `shared_expert.*` with `shared_expert_gate.weight`.
    ///
    /// # Errors
    /// As [`Weights::from_safetensors`](crate::Weights::from_safetensors), naming the expert.
    ///
    /// ```no_run
    /// let bytes = std::fs::read("model.safetensors").expect("a file");
    /// let weights = double_routing::moe::MoeWeights::from_safetensors(&[&bytes], "model.layers.3.mlp.")?;
    /// # Ok::<(), double_routing::Error>(())
    /// ```
    pub fn from_safetensors(files: &[&[u8]], prefix: &str) -> Result<Self> {
        let files = Files::open(files, prefix)?;
        let router = files.router()?;
        let experts = files.experts(router.shape)?;
        let shared = files.shared(router.shape[1])?;
        Ok(Self { router, experts, shared })
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

/// The files of a checkpoint, and what the names of a block's tensors begin with.
struct Files<'a> {
    files: Vec<SafeTensors<'a>>,
    prefix: String,
}

/// The names of an expert's gate, up and down maps.
const EXPERT_NAMES: [[&str; 3]; 2] = [["gate_proj", "up_proj", "down_proj"], ["w1", "w3", "w2"]];

impl<'a> Files<'a> {
    fn open(files: &[&'a [u8]], prefix: &str) -> Result<Self> {
        let open = |bytes: &&'a [u8]| {
            SafeTensors::deserialize(bytes).map_err(|error| Error::Weights(format!("not safetensors: {error}")))
        };
        let files: Vec<_> = files.iter().map(open).collect::<Result<_>>()?;
        let mut found = Self { files, prefix: prefix.into() };
        for below in ["mlp.", "block_sparse_moe."] {
            if !found.has("gate.weight") && found.has(&format!("{below}gate.weight")) {
                found.prefix += below;
            }
        }
        Ok(found)
    }

    fn has(&self, name: &str) -> bool {
        let name = format!("{}{name}", self.prefix);
        self.files.iter().any(|file| file.tensor(&name).is_ok())
    }

    fn tensor(&self, name: &str) -> Result<(Values, Vec<usize>)> {
        let name = format!("{}{name}", self.prefix);
        let view = self.files.iter().find_map(|file| file.tensor(&name).ok());
        let view = view.ok_or_else(|| Error::Weights(format!("no tensor {name}{}", self.known())))?;
        Ok((Values::from_safetensors(&name, &view)?, view.shape().to_vec()))
    }

    /// A tensor of two dimensions.
    fn matrix(&self, name: &str) -> Result<(Values, [usize; 2])> {
        let (values, shape) = self.tensor(name)?;
        let &[rows, columns] = shape.as_slice() else {
            return Err(Error::Weights(format!("{}{name} is {shape:?}, expected two dimensions", self.prefix)));
        };
        Ok((values, [rows, columns]))
    }

    fn matrix_of(&self, name: &str, wanted: [usize; 2]) -> Result<Values> {
        let (values, shape) = self.matrix(name)?;
        if shape != wanted {
            return Err(Error::Weights(format!("{}{name} is {shape:?}, expected {wanted:?}", self.prefix)));
        }
        Ok(values)
    }

    fn router(&self) -> Result<RouterWeights> {
        let (gate, shape) = self.matrix("gate.weight")?;
        let name = "gate.e_score_correction_bias";
        let bias = if self.has(name) { Some(self.tensor(name)?.0) } else { None };
        RouterWeights::new(gate, shape, bias)
    }

    fn experts(&self, [paths, features]: [usize; 2]) -> Result<ExpertWeights> {
        let spelling = |names: &&[&str; 3]| self.has(&format!("experts.0.{}.weight", names[0]));
        let [gate, up, down] = EXPERT_NAMES.iter().find(spelling).unwrap_or(&EXPERT_NAMES[0]);
        let (_, [width, _]) = self.matrix(&format!("experts.0.{gate}.weight"))?;
        let stacked = |name: &str, shape: [usize; 2]| -> Result<Values> {
            let of_expert = |n: usize| self.matrix_of(&format!("experts.{n}.{name}.weight"), shape);
            let parts: Vec<_> = (0..paths).map(of_expert).collect::<Result<_>>()?;
            Values::concat(parts).ok_or_else(|| {
                Error::Weights(format!("{}experts.*.{name}.weight are not all of one type", self.prefix))
            })
        };
        let (wide, narrow) = ([width, features], [features, width]);
        let beyond = format!("experts.{paths}.{gate}.weight");
        if self.has(&beyond) {
            let (gate, prefix) = ([paths, features], &self.prefix);
            return Err(Error::Weights(format!("{prefix}gate.weight is {gate:?}, but there is {prefix}{beyond}")));
        }
        ExpertWeights::new(stacked(gate, wide)?, stacked(up, wide)?, stacked(down, narrow)?, [paths, width, features])
    }

    fn shared(&self, features: usize) -> Result<Option<SharedWeights>> {
        let [gate, up, down] = EXPERT_NAMES[0];
        let there = |name: &&str| self.has(&format!("{name}.{gate}.weight"));
        let Some(name) = ["shared_experts", "shared_expert"].into_iter().find(|name| there(name)) else {
            return Ok(None);
        };
        let (_, [width, _]) = self.matrix(&format!("{name}.{gate}.weight"))?;
        let of = |map: &str, shape| self.matrix_of(&format!("{name}.{map}.weight"), shape);
        let expert = ExpertWeights::new(
            of(gate, [width, features])?,
            of(up, [width, features])?,
            of(down, [features, width])?,
            [1, width, features],
        )?;
        let name = "shared_expert_gate.weight";
        let gate = if self.has(name) { Some(self.matrix_of(name, [1, features])?) } else { None };
        Ok(Some(SharedWeights { expert, gate }))
    }

    /// What the files do hold, for the error about what they lack.
    fn known(&self) -> String {
        let mut names: Vec<_> = self.files.iter().flat_map(SafeTensors::names).collect();
        names.sort_unstable();
        names.truncate(8);
        if names.is_empty() { "; the file holds none".into() } else { format!("; the file holds {}", names.join(", ")) }
    }
}
