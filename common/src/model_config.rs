//! What a router chooses, from a published model's `config.json` or from keys of our own.

use std::borrow::Cow;

use anyhow::{Context, bail, ensure};
use double_routing::{
    kernels::{GroupLimit, GroupScore, PathChoice, Score},
    moe::RouterConfig,
};
use serde_json::{Map, Value, json};

/// A router's configuration, and what else a model's says about its blocks.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelConfig {
    /// None where the keys are our own.
    pub model_type: Option<String>,
    /// How many paths there are, and how a token's are chosen.
    pub router: RouterConfig,
    /// `hidden_size`: the features of a token.
    pub features: Option<usize>,
    /// What the experts do that ours do not, where the configuration says so: a key, what it is, and what would be right.
    pub other_experts: Option<String>,
    /// Whether the router has a correction bias; otherwise it may.
    pub biased: bool,
    /// Whether the block has a shared expert; otherwise it may.
    pub shared: bool,
}

/// The published models: their names in `model_type`.
const KNOWN: [&str; 7] = ["deepseek_v2", "deepseek_v3", "kimi_k2", "mixtral", "olmoe", "qwen2_moe", "qwen3_moe"];

/// Our own keys.
const OWN: [&str; 8] =
    ["paths", "paths_per_token", "score", "groups", "groups_kept", "group_score", "renormalise", "scale"];

/// The same thing in the three spellings that models have for it.
const PATHS: [&str; 3] = ["n_routed_experts", "num_experts", "num_local_experts"];

const SCORES: [(&str, Score); 4] = [
    ("softmax", Score::Softmax),
    ("sigmoid", Score::Sigmoid),
    ("sqrt_softplus", Score::SqrtSoftplus),
    ("softmax_of_chosen", Score::SoftmaxOfChosen),
];

const GROUP_SCORES: [(&str, GroupScore); 2] = [("max", GroupScore::Max), ("sum_of_two", GroupScore::SumOfTwo)];

/// Where models of several parts have the text model's configuration.
const NESTED: [&[&str]; 5] =
    [&["text_config"], &["language_config"], &["llm_config"], &["thinker_config"], &["thinker_config", "text_config"]];

/// What a key says where it changes nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Off {
    /// Nothing, false or 0, or a list of these.
    No,
    /// Nothing, or infinite.
    Unlimited,
    /// Nothing, or 1.
    One,
    /// Nothing, or one group at most.
    OneGroup,
    /// Nothing, or SiLU under one of its names.
    Silu,
    /// Nothing, or the model's own score.
    Score,
    /// Nothing, or whether the model divides gates by their sum.
    Renormalised,
    /// Nothing, or what the model multiplies gates by.
    Scale,
    /// Nothing, or whether the model has a correction bias.
    Biased,
    /// Nothing, or the model's paths a token.
    PerToken,
    /// Nothing, or the model's paths.
    Paths,
    /// Nothing, or one of these.
    OneOf(&'static [&'static str]),
    /// Nothing, or a list of these.
    AllOf(&'static [&'static str]),
}

/// Keys by which some model's router is another: those of all mixtures in transformers 5.24, and of some models' own code. A model that reads
/// one itself ([`READ`]) is not asked here.
const ROUTERS: [(&str, Off); 54] = [
    ("scoring_func", Off::Score),
    ("score_func", Off::Score),
    ("score_function", Off::Score),
    ("expert_selection_fn", Off::Score),
    ("moe_router_activation_func", Off::Score),
    ("moe_router_score_function", Off::Score),
    ("router_score_function", Off::Score),
    ("topk_method", Off::OneOf(&["greedy"])),
    ("n_group", Off::OneGroup),
    ("topk_group", Off::OneGroup),
    ("num_expert_group", Off::OneGroup),
    ("norm_topk_prob", Off::Renormalised),
    ("moe_renormalize", Off::Renormalised),
    ("moe_normalize_expert_weights", Off::Renormalised),
    ("norm_expert_weight", Off::Renormalised),
    ("route_norm", Off::Renormalised),
    ("routed_scaling_factor", Off::Scale),
    ("moe_routed_scaling_factor", Off::Scale),
    ("moe_router_scaling_factor", Off::Scale),
    ("moe_router_topk_scaling_factor", Off::Scale),
    ("router_scaling_factor", Off::Scale),
    ("router_scale", Off::Scale),
    ("route_scale", Off::Scale),
    ("output_multiplier", Off::One),
    ("router_logit_multiplier", Off::One),
    ("router_temperature", Off::One),
    ("moe_router_logit_softcapping", Off::No),
    ("router_logit_softcapping", Off::No),
    ("moe_norm_min", Off::No),
    ("use_expert_bias", Off::Biased),
    ("use_routing_bias", Off::Biased),
    ("moe_use_correction_bias", Off::Biased),
    ("moe_router_enable_expert_bias", Off::Biased),
    ("router_bias", Off::No),
    ("use_router_bias", Off::No),
    ("moe_router_bias", Off::No),
    ("gate_bias", Off::No),
    ("moe_router_enable_shared_expert", Off::No),
    ("shared_expert_sink", Off::No),
    ("zero_expert_num", Off::No),
    ("moe_identity_expert", Off::No),
    ("n_hash_layers", Off::No),
    ("num_hash_layers", Off::No),
    ("mlp_layer_types", Off::AllOf(&["dense", "sparse", "moe"])),
    ("router_hidden_size", Off::No),
    ("rms_norm_eps_moe_gate", Off::No),
    ("expert_capacity", Off::No),
    ("num_experts_per_token", Off::PerToken),
    ("num_selected_experts", Off::PerToken),
    ("moe_topk", Off::PerToken),
    ("moe_top_k", Off::PerToken),
    ("moe_k", Off::PerToken),
    ("top_k_experts", Off::PerToken),
    ("moe_num_experts", Off::Paths),
];

/// Keys by which some model's experts are others, or what is made of them.
const EXPERTS: [(&str, Off); 24] = [
    ("hidden_act", Off::Silu),
    ("hidden_activation", Off::Silu),
    ("mlp_hidden_act", Off::Silu),
    ("moe_hidden_act", Off::Silu),
    ("ffn_act_fn", Off::Silu),
    ("swiglu_limit", Off::Unlimited),
    ("swiglu_limits", Off::No),
    ("swiglu_limits_shared", Off::No),
    ("swiglu_alpha", Off::No),
    ("swiglu_beta", Off::No),
    ("mlp_gate_softcap", Off::No),
    ("mlp_up_softcap", Off::No),
    ("moe_latent_size", Off::No),
    ("moe_hidden_size", Off::No),
    ("mlp_bias", Off::No),
    ("use_bias", Off::No),
    ("use_mlp_bias", Off::No),
    ("moe_bias", Off::No),
    ("moe_use_bias", Off::No),
    ("add_bias_linear", Off::No),
    ("moe_apply_router_weight_on_input", Off::No),
    ("apply_router_weight_on_input", Off::No),
    ("use_double_wide_mlp", Off::No),
    ("shared_expert_combination_strategy", Off::OneOf(&["sum"])),
];

const OF_DEEPSEEK: &[&str] =
    &["scoring_func", "topk_method", "n_group", "topk_group", "norm_topk_prob", "routed_scaling_factor"];

/// What a model's own code reads of these, so that whatever they say is done or refused where they are read.
const READ: [(&str, &[&str]); 6] = [
    ("deepseek_v2", OF_DEEPSEEK),
    ("deepseek_v3", OF_DEEPSEEK),
    ("kimi_k2", OF_DEEPSEEK),
    ("olmoe", &["norm_topk_prob"]),
    ("qwen2_moe", &["norm_topk_prob"]),
    ("qwen3_moe", &["norm_topk_prob"]),
];

/// How many shared experts a model has, in its spellings.
const SHARED: [&str; 3] = ["n_shared_experts", "num_shared_experts", "moe_num_shared_experts"];

impl ModelConfig {
    /// Reads a configuration. That of a text model in another's, such as in `text_config`, is read where it is. Python's `Infinity` and
    /// `NaN`, which JSON does not have, may stand in keys that are not ours.
    ///
    /// # Errors
    /// For what is not JSON, a model that is not known, and keys that say what is not done here.
    pub fn parse(text: &str) -> anyhow::Result<Self> {
        let text = without_bare_numbers(text.strip_prefix('\u{feff}').unwrap_or(text));
        let value: Value = serde_json::from_str(&text).context("not JSON")?;
        let Value::Object(object) = value else { bail!("not a JSON object") };
        let at =
            |path: &&[&str]| path.iter().try_fold(&object, |object, key| object.get(*key).and_then(Value::as_object));
        let mut unknown = Vec::new();
        for object in [Some(&object)].into_iter().chain(NESTED.iter().map(at)).flatten() {
            let keys = Keys { object, model_type: None };
            match keys.text("model_type")? {
                Some(known) if KNOWN.contains(&known) => {
                    return Keys { object, model_type: Some(known) }.published(known);
                }
                other => unknown.extend(other.map(|name| format!("'{name}'"))),
            }
        }
        if unknown.is_empty() {
            return Keys { object: &object, model_type: None }.own();
        }
        let are = if unknown.len() == 1 { "is" } else { "are" };
        bail!("model_type {} {are} not known; known: {}", unknown.join(" and "), KNOWN.join(", "))
    }

    /// Refuses experts that are not those of our blocks.
    ///
    /// # Errors
    /// Names the key, what it is and what would be right.
    pub fn check_experts(&self) -> anyhow::Result<()> {
        match &self.other_experts {
            Some(other) => bail!("the configuration's {other}"),
            None => Ok(()),
        }
    }

    /// What to call it.
    pub fn name(&self) -> &str {
        self.model_type.as_deref().unwrap_or("router")
    }

    /// How paths are chosen and what they weigh, in words.
    pub fn rule(&self) -> String {
        let PathChoice { score, groups, renormalise, scale } = self.router.choice;
        let score = match score {
            Score::Softmax => "softmax",
            Score::Sigmoid => "sigmoid",
            Score::SqrtSoftplus => "√softplus",
            Score::SoftmaxOfChosen => "softmax over the chosen",
        };
        let mut rule = String::new();
        if let Some(GroupLimit { groups, kept, score }) = groups {
            let by = if score == GroupScore::Max { "largest" } else { "two largest" };
            rule += &format!("from {kept} of {groups} groups by their {by}; ");
        }
        rule += score;
        rule += if renormalise { ", renormalised" } else { "" };
        if scale != 1.0 {
            rule += &format!(", times {scale}");
        }
        rule
    }

    /// The configuration in our own keys, and the `model_type`.
    pub fn to_json(&self) -> Value {
        let RouterConfig { paths, per_token, choice } = self.router;
        let named = |score| SCORES.iter().find(|(_, known)| *known == score).map(|(name, _)| *name);
        let group_score = |limit: GroupLimit| GROUP_SCORES.iter().find(|(_, known)| *known == limit.score);
        json!({
            "model_type": self.model_type,
            "paths": paths,
            "paths_per_token": per_token,
            "score": named(choice.score),
            "groups": choice.groups.map(|limit| limit.groups),
            "groups_kept": choice.groups.map(|limit| limit.kept),
            "group_score": choice.groups.and_then(group_score).map(|(name, _)| *name),
            "renormalise": choice.renormalise,
            "scale": choice.scale,
        })
    }
}

/// A text in which numbers that JSON does not have, but Python's writer writes, are texts.
fn without_bare_numbers(text: &str) -> Cow<'_, str> {
    const BARE: [&str; 3] = ["-Infinity", "Infinity", "NaN"];
    if !BARE.iter().any(|bare| text.contains(bare)) {
        return text.into();
    }
    let (mut changed, mut rest, mut quoted) = (String::with_capacity(text.len() + 64), text, false);
    while let Some(next) = rest.chars().next() {
        let bare = BARE.iter().find(|bare| !quoted && rest.starts_with(**bare));
        let length = match (bare, next) {
            (Some(bare), _) => bare.len(),
            // What is escaped ends no text.
            (None, '\\') if quoted => 1 + rest[1..].chars().next().map_or(0, char::len_utf8),
            _ => next.len_utf8(),
        };
        quoted ^= next == '"';
        let (token, behind) = rest.split_at(length);
        changed += &bare.map_or_else(|| Cow::from(token), |bare| format!("\"{bare}\"").into());
        rest = behind;
    }
    changed.into()
}

/// A value as its file has it.
fn shown(value: &Value) -> String {
    match value.as_str() {
        Some(bare @ ("Infinity" | "-Infinity" | "NaN")) => bare.into(),
        Some(text) => format!("'{text}'"),
        None => value.to_string(),
    }
}

impl Off {
    /// Whether a key changes nothing, and what it would have to say.
    fn holds(self, value: &Value, config: &ModelConfig) -> Result<(), String> {
        let RouterConfig { paths, per_token, choice } = config.router;
        let is = |number: f64| value.as_f64() == Some(number);
        let no = |value: &Value| value.is_null() || value == &Value::Bool(false) || value.as_f64() == Some(0.0);
        let one_of = |all: &[&str]| value.as_str().is_some_and(|text| all.contains(&text));
        let in_quotes = |all: &[&str]| all.iter().map(|one| format!("'{one}'")).collect::<Vec<_>>().join(" or ");
        let renormalised = choice.renormalise || choice.score == Score::SoftmaxOfChosen;
        let (holds, expected) = match self {
            _ if value.is_null() => (true, String::new()),
            Self::No => (no(value) || value.as_array().is_some_and(|list| list.iter().all(no)), "null or 0".into()),
            Self::Unlimited => (one_of(&["Infinity"]), "null".into()),
            Self::One => (is(1.0), "1".into()),
            Self::OneGroup => (is(0.0) || is(1.0), "1".into()),
            Self::Silu => (one_of(&["silu", "swish"]), "'silu'".into()),
            Self::Score => {
                let name = if choice.score == Score::Sigmoid { "sigmoid" } else { "softmax" };
                (one_of(&[name]), in_quotes(&[name]))
            }
            Self::Renormalised => {
                let same =
                    value.as_bool().map_or_else(|| is(f64::from(u8::from(renormalised))), |is| is == renormalised);
                (same, renormalised.to_string())
            }
            Self::Scale => {
                (value.as_f64().is_some_and(|number| number as f32 == choice.scale), choice.scale.to_string())
            }
            Self::Biased => (value.as_bool() == Some(config.biased), config.biased.to_string()),
            Self::PerToken => (is(per_token as f64), per_token.to_string()),
            Self::Paths => (is(paths as f64), paths.to_string()),
            Self::OneOf(names) => (one_of(names), in_quotes(names)),
            Self::AllOf(names) => {
                let known = |value: &Value| value.as_str().is_some_and(|text| names.contains(&text));
                (value.as_array().is_some_and(|list| list.iter().all(known)), in_quotes(names))
            }
        };
        if holds { Ok(()) } else { Err(expected) }
    }
}

/// The keys of a configuration. One that is null is not there, but where a model's default is another.
struct Keys<'a> {
    object: &'a Map<String, Value>,
    /// Whose they are, for errors.
    model_type: Option<&'a str>,
}

impl<'a> Keys<'a> {
    fn published(&self, model_type: &str) -> anyhow::Result<ModelConfig> {
        let mut choice = PathChoice { score: Score::Softmax, groups: None, renormalise: false, scale: 1.0 };
        let (mut biased, mut shared) = (false, false);
        let [experts, all_experts, local_experts] = PATHS;
        let (paths, per_token) = match model_type {
            "deepseek_v2" => {
                self.only("scoring_func", "softmax")?;
                if self.flag("norm_topk_prob")? == Some(true) {
                    bail!(
                        "deepseek_v2: norm_topk_prob is true, of which the published implementations make different things"
                    );
                }
                self.not_null("topk_method")?;
                choice.groups = match self.text("topk_method")?.unwrap_or("greedy") {
                    "greedy" => None,
                    "group_limited_greedy" => self.groups("n_group", "topk_group", [None, None], GroupScore::Max)?,
                    other => {
                        bail!("deepseek_v2: topk_method is '{other}', expected 'greedy' or 'group_limited_greedy'")
                    }
                };
                self.not_null("routed_scaling_factor")?;
                choice.scale = self.number("routed_scaling_factor")?.unwrap_or(1.0);
                (self.paths(experts, 64)?, self.required("num_experts_per_tok")?)
            }
            "deepseek_v3" | "kimi_k2" => {
                self.only("scoring_func", "sigmoid")?;
                self.only("topk_method", "noaux_tc")?;
                choice.score = Score::Sigmoid;
                choice.groups = self.groups_of_v3()?;
                // Python takes null for false.
                choice.renormalise =
                    self.flag("norm_topk_prob")?.unwrap_or(!self.object.contains_key("norm_topk_prob"));
                self.not_null("routed_scaling_factor")?;
                choice.scale = self.number("routed_scaling_factor")?.unwrap_or(2.5);
                biased = true;
                (self.paths(experts, 256)?, self.per_token(8)?)
            }
            "mixtral" => {
                choice.score = Score::SoftmaxOfChosen;
                (self.paths(local_experts, 8)?, self.per_token(2)?)
            }
            qwen_or_olmoe => {
                choice.renormalise = self.flag("norm_topk_prob")?.unwrap_or(false);
                shared = qwen_or_olmoe == "qwen2_moe";
                let (paths, per_token) = match qwen_or_olmoe {
                    "qwen2_moe" => (60, 4),
                    "qwen3_moe" => (128, 8),
                    _ => (64, 8),
                };
                (self.paths(all_experts, paths)?, self.per_token(per_token)?)
            }
        };
        for key in SHARED {
            shared |= self.count(key)?.is_some_and(|count| count > 0);
        }
        let mut config = ModelConfig {
            model_type: Some(model_type.into()),
            router: RouterConfig { paths, per_token, choice },
            features: self.count("hidden_size")?,
            other_experts: None,
            biased,
            shared,
        };
        let read = READ.iter().find(|(name, _)| *name == model_type).map_or(&[][..], |(_, read)| *read);
        let routers: Vec<_> = ROUTERS.into_iter().filter(|(key, _)| !read.contains(key)).collect();
        if let Some(other) = self.changing(&routers, &config) {
            bail!("{}{other}", self.whose());
        }
        config.other_experts = self.changing(&EXPERTS, &config);
        Ok(config)
    }

    /// The first of some keys that changes what is computed: what it is and what would be right.
    fn changing(&self, keys: &[(&str, Off)], config: &ModelConfig) -> Option<String> {
        keys.iter().find_map(|(key, off)| {
            let value = self.object.get(*key)?;
            let expected = off.holds(value, config).err()?;
            Some(format!("{key} is {}, expected {expected}", shown(value)))
        })
    }

    /// The groups of DeepSeek-V3 and what follows it. `n_group: null` says that there are none, and is read so where `topk_group` does not
    /// speak of some; transformers' module divides by it and fails.
    fn groups_of_v3(&self) -> anyhow::Result<Option<GroupLimit>> {
        let null = |key: &str| self.object.get(key).is_some_and(Value::is_null);
        if null("n_group") {
            let kept = self.count("topk_group")?.unwrap_or(1);
            ensure!(kept <= 1, "{}n_group is null, but topk_group is {kept}", self.whose());
            return Ok(None);
        }
        let limit = self.groups("n_group", "topk_group", [Some(8), Some(4)], GroupScore::SumOfTwo)?;
        if limit.is_some() {
            self.not_null("topk_group")?;
        }
        Ok(limit)
    }

    /// Refuses a key that is null where the model's default is something else.
    fn not_null(&self, key: &str) -> anyhow::Result<()> {
        ensure!(!self.object.get(key).is_some_and(Value::is_null), "{}{key} is null", self.whose());
        Ok(())
    }

    fn own(&self) -> anyhow::Result<ModelConfig> {
        let known = |key: &&String| OWN.contains(&key.as_str()) || *key == "model_type";
        if let Some(unknown) = self.object.keys().find(|key| !known(key)) {
            bail!("there is no model_type, and '{unknown}' is none of our own keys: {}", OWN.join(", "));
        }
        let group_score = self.one_of("group_score", &GROUP_SCORES)?.unwrap_or(GroupScore::Max);
        let groups = self.groups("groups", "groups_kept", [Some(1), None], group_score)?;
        if let (None, Some(kept @ 2..)) = (groups, self.count("groups_kept")?) {
            bail!("groups_kept is {kept}, but there is one group");
        }
        let choice = PathChoice {
            score: self.one_of("score", &SCORES)?.unwrap_or(Score::Softmax),
            groups,
            renormalise: self.flag("renormalise")?.unwrap_or(false),
            scale: self.number("scale")?.unwrap_or(1.0),
        };
        let router =
            RouterConfig { paths: self.required("paths")?, per_token: self.required("paths_per_token")?, choice };
        let other_experts = None;
        Ok(ModelConfig { model_type: None, router, features: None, other_experts, biased: false, shared: false })
    }

    /// The number of paths, under the model's own spelling or another model's.
    fn paths(&self, own: &str, default: usize) -> anyhow::Result<usize> {
        let mut found: Option<(&str, usize)> = None;
        for key in [own].into_iter().chain(PATHS) {
            match (found, self.count(key)?) {
                (None, Some(count)) => found = Some((key, count)),
                (Some((first, count)), Some(other)) if count != other => {
                    bail!("{}{first} is {count}, {key} is {other}", self.whose())
                }
                _ => {}
            }
        }
        if found.is_none() {
            self.not_null(own)?;
        }
        Ok(found.map_or(default, |(_, count)| count))
    }

    fn per_token(&self, default: usize) -> anyhow::Result<usize> {
        self.not_null("num_experts_per_tok")?;
        Ok(self.count("num_experts_per_tok")?.unwrap_or(default))
    }

    /// The limit to groups; none where there is one group, of which only one can be kept.
    fn groups(
        &self,
        of_groups: &str,
        of_kept: &str,
        [groups, kept]: [Option<usize>; 2],
        score: GroupScore,
    ) -> anyhow::Result<Option<GroupLimit>> {
        let count = |key: &str, default: Option<usize>| -> anyhow::Result<u32> {
            let count = match (self.count(key)?, default) {
                (Some(count), _) | (None, Some(count)) => count,
                (None, None) => self.required(key)?,
            };
            u32::try_from(count).with_context(|| format!("{}{key} is {count}", self.whose()))
        };
        match count(of_groups, groups)? {
            1 => Ok(None),
            groups => Ok(Some(GroupLimit { groups, kept: count(of_kept, kept)?, score })),
        }
    }

    fn get(&self, key: &str) -> Option<&'a Value> {
        self.object.get(key).filter(|value| !value.is_null())
    }

    fn count(&self, key: &str) -> anyhow::Result<Option<usize>> {
        let read = |value: &Value| value.as_u64().and_then(|count| usize::try_from(count).ok());
        self.read(key, "a whole number", read)
    }

    fn required(&self, key: &str) -> anyhow::Result<usize> {
        self.count(key)?.with_context(|| format!("{}there is no {key}", self.whose()))
    }

    fn number(&self, key: &str) -> anyhow::Result<Option<f32>> {
        self.read(key, "a number", |value| value.as_f64().map(|number| number as f32))
    }

    fn flag(&self, key: &str) -> anyhow::Result<Option<bool>> {
        self.read(key, "true or false", Value::as_bool)
    }

    fn text(&self, key: &str) -> anyhow::Result<Option<&'a str>> {
        self.read(key, "a text", Value::as_str)
    }

    fn one_of<T: Copy>(&self, key: &str, all: &[(&str, T)]) -> anyhow::Result<Option<T>> {
        let Some(text) = self.text(key)? else { return Ok(None) };
        let names = || all.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
        let found = all.iter().find(|(name, _)| *name == text);
        Ok(Some(found.with_context(|| format!("{key} is '{text}', expected one of {}", names()))?.1))
    }

    /// Refuses a text that is there and is another.
    fn only(&self, key: &str, expected: &str) -> anyhow::Result<()> {
        let found = self.text(key)?.unwrap_or(expected);
        ensure!(found == expected, "{}{key} is '{found}', expected '{expected}'", self.whose());
        Ok(())
    }

    fn read<T>(&self, key: &str, expected: &str, read: impl Fn(&'a Value) -> Option<T>) -> anyhow::Result<Option<T>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let found = read(value).with_context(|| {
            let value =
                if value.is_string() && shown(value).starts_with('\'') { value.to_string() } else { shown(value) };
            format!("{}{key} is {value}, expected {expected}", self.whose())
        })?;
        Ok(Some(found))
    }

    /// What an error begins with.
    fn whose(&self) -> String {
        self.model_type.map_or_else(String::new, |model_type| format!("{model_type}: "))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

    use double_routing::{
        kernels::{GroupLimit, GroupScore, Score},
        moe::RouterConfig,
    };
    use serde_json::{Value, json};

    use super::ModelConfig;

    fn parsed(value: Value) -> ModelConfig {
        ModelConfig::parse(&value.to_string()).unwrap()
    }

    #[track_caller]
    fn refused(value: Value, expected: &str) {
        assert_eq!(format!("{:#}", ModelConfig::parse(&value.to_string()).unwrap_err()), expected);
    }

    #[test]
    fn published_models_are_what_the_library_says() {
        let v2 = json!({
            "model_type": "deepseek_v2", "n_routed_experts": 160, "num_experts_per_tok": 6, "n_group": 8,
            "topk_group": 3, "topk_method": "group_limited_greedy", "routed_scaling_factor": 16.0,
            "norm_topk_prob": false, "scoring_func": "softmax", "n_shared_experts": 2, "hidden_size": 5120,
            "hidden_act": "silu", "rope_scaling": { "type": "yarn" },
        });
        let config = parsed(v2);
        assert_eq!(config.router, RouterConfig::deepseek_v2());
        assert_eq!((config.features, config.other_experts.as_deref()), (Some(5120), None));
        assert!(config.shared && !config.biased);
        let kimi = json!({
            "model_type": "kimi_k2", "n_routed_experts": 384, "num_experts_per_tok": 8, "n_group": 1, "topk_group": 1,
            "scoring_func": "sigmoid", "topk_method": "noaux_tc", "norm_topk_prob": true,
            "routed_scaling_factor": 2.827,
        });
        assert_eq!(parsed(kimi).router, RouterConfig::kimi_k2());
        assert_eq!(
            parsed(json!({ "model_type": "qwen3_moe", "norm_topk_prob": true })).router,
            RouterConfig::qwen3_moe()
        );
    }

    #[test]
    fn what_is_missing_is_what_the_models_have_by_default() {
        for (name, expected) in [
            ("deepseek_v3", RouterConfig::deepseek_v3()),
            ("mixtral", RouterConfig::mixtral()),
            ("olmoe", RouterConfig::olmoe()),
            ("qwen2_moe", RouterConfig::qwen2_moe()),
        ] {
            assert_eq!(parsed(json!({ "model_type": name })).router, expected, "{name}");
        }
        let qwen3 = parsed(json!({ "model_type": "qwen3_moe" })).router;
        assert_eq!((qwen3.paths, qwen3.per_token, qwen3.choice.renormalise), (128, 8, false));
        let v2 = parsed(json!({ "model_type": "deepseek_v2", "num_experts_per_tok": 6, "topk_group": null })).router;
        assert_eq!((v2.paths, v2.per_token, v2.choice.groups, v2.choice.scale), (64, 6, None, 1.0));
        refused(json!({ "model_type": "deepseek_v2" }), "deepseek_v2: there is no num_experts_per_tok");
    }

    #[test]
    fn paths_have_other_spellings() {
        let of = |key: &str| parsed(json!({ "model_type": "mixtral", key: 16 })).router.paths;
        assert_eq!(["num_experts", "num_local_experts", "n_routed_experts"].map(of), [16; 3]);
        let both = json!({ "model_type": "mixtral", "num_local_experts": 8, "num_experts": 16 });
        refused(both, "mixtral: num_local_experts is 8, num_experts is 16");
    }

    #[test]
    fn a_text_model_may_be_nested() {
        let of_text = json!({ "model_type": "kimi_k2", "n_group": 1, "num_experts_per_tok": 6 });
        let config = parsed(json!({ "model_type": "some_vision_model", "text_config": of_text }));
        assert_eq!(config.model_type.as_deref(), Some("kimi_k2"));
        assert_eq!((config.router.per_token, config.router.choice.groups), (6, None));
    }

    #[test]
    fn keys_of_our_own() {
        let config = parsed(json!({
            "paths": 48, "paths_per_token": 5, "score": "sqrt_softplus", "groups": 6, "groups_kept": 2,
            "group_score": "sum_of_two", "renormalise": true, "scale": 1.5,
        }));
        let RouterConfig { paths, per_token, choice } = config.router;
        assert_eq!((paths, per_token, choice.score), (48, 5, Score::SqrtSoftplus));
        assert_eq!(choice.groups, Some(GroupLimit { groups: 6, kept: 2, score: GroupScore::SumOfTwo }));
        assert_eq!((choice.renormalise, choice.scale), (true, 1.5));
        // What is reported can be read again.
        for config in [config, parsed(json!({ "paths": 4, "paths_per_token": 1 }))] {
            assert_eq!(parsed(config.to_json()), config);
        }
    }

    #[test]
    fn rules_are_told_in_words() {
        let rule = |name: &str| parsed(json!({ "model_type": name })).rule();
        assert_eq!(rule("mixtral"), "softmax over the chosen");
        assert_eq!(rule("deepseek_v3"), "from 4 of 8 groups by their two largest; sigmoid, renormalised, times 2.5");
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        refused(
            json!({ "model_type": "llama" }),
            "model_type 'llama' is not known; \
             known: deepseek_v2, deepseek_v3, kimi_k2, mixtral, olmoe, qwen2_moe, qwen3_moe",
        );
        refused(json!([1]), "not a JSON object");
        assert!(format!("{:#}", ModelConfig::parse("{").unwrap_err()).starts_with("not JSON: "));
        let v2 = |key: &str, value: Value| json!({ "model_type": "deepseek_v2", "num_experts_per_tok": 6, "n_group": 8, key: value });
        refused(
            v2("norm_topk_prob", true.into()),
            "deepseek_v2: norm_topk_prob is true, of which the published implementations make different things",
        );
        refused(
            v2("topk_method", "noaux_tc".into()),
            "deepseek_v2: topk_method is 'noaux_tc', expected 'greedy' or 'group_limited_greedy'",
        );
        refused(v2("topk_method", "group_limited_greedy".into()), "deepseek_v2: there is no topk_group");
        refused(v2("scoring_func", "sigmoid".into()), "deepseek_v2: scoring_func is 'sigmoid', expected 'softmax'");
        refused(
            json!({ "model_type": "deepseek_v3", "scoring_func": "softmax" }),
            "deepseek_v3: scoring_func is 'softmax', expected 'sigmoid'",
        );
        refused(
            json!({ "model_type": "olmoe", "num_experts_per_tok": "8" }),
            "olmoe: num_experts_per_tok is \"8\", expected a whole number",
        );
        refused(json!({ "paths": 8 }), "there is no paths_per_token");
        refused(
            json!({ "paths": 8, "experts": 2 }),
            "there is no model_type, and 'experts' is none of our own keys: \
             paths, paths_per_token, score, groups, groups_kept, group_score, renormalise, scale",
        );
        refused(
            json!({ "paths": 8, "paths_per_token": 2, "score": "relu" }),
            "score is 'relu', expected one of softmax, sigmoid, sqrt_softplus, softmax_of_chosen",
        );
        refused(json!({ "paths": 8, "paths_per_token": 2, "groups": 4 }), "there is no groups_kept");
        refused(
            json!({ "paths": 8, "paths_per_token": 2, "groups_kept": 2 }),
            "groups_kept is 2, but there is one group",
        );
    }

    #[test]
    fn null_is_what_python_makes_of_it() {
        let v3 = |key: &str, value: Value| json!({ "model_type": "deepseek_v3", key: value });
        // No groups; never the default's.
        assert_eq!(parsed(v3("n_group", Value::Null)).router.choice.groups, None);
        let mut both = v3("n_group", Value::Null);
        both["topk_group"] = 4.into();
        refused(both.clone(), "deepseek_v3: n_group is null, but topk_group is 4");
        both["topk_group"] = Value::Null;
        assert_eq!(parsed(both).router.choice.groups, None);
        refused(v3("topk_group", Value::Null), "deepseek_v3: topk_group is null");
        assert!(!parsed(v3("norm_topk_prob", Value::Null)).router.choice.renormalise);
        for key in ["routed_scaling_factor", "num_experts_per_tok", "n_routed_experts"] {
            refused(v3(key, Value::Null), &format!("deepseek_v3: {key} is null"));
        }
        let v2 = json!({ "model_type": "deepseek_v2", "num_experts_per_tok": 6, "topk_method": null });
        refused(v2, "deepseek_v2: topk_method is null");
    }

    #[test]
    fn keys_that_change_a_router_say_what_it_does_or_are_refused() {
        let with = |model_type: &str, key: &str, value: Value| json!({ "model_type": model_type, key: value });
        for (model_type, key, value, expected) in [
            ("deepseek_v3", "topk_method", json!("greedy"), "topk_method is 'greedy', expected 'noaux_tc'"),
            ("deepseek_v3", "use_routing_bias", json!(false), "use_routing_bias is false, expected true"),
            ("deepseek_v3", "score_function", json!("softmax"), "score_function is 'softmax', expected 'sigmoid'"),
            ("deepseek_v3", "moe_renormalize", json!(false), "moe_renormalize is false, expected true"),
            ("deepseek_v3", "route_scale", json!(1.0), "route_scale is 1.0, expected 2.5"),
            (
                "deepseek_v3",
                "mlp_layer_types",
                json!(["hash_moe", "moe"]),
                "mlp_layer_types is [\"hash_moe\",\"moe\"], expected 'dense' or 'sparse' or 'moe'",
            ),
            ("mixtral", "norm_topk_prob", json!(false), "norm_topk_prob is false, expected true"),
            ("mixtral", "n_group", json!(4), "n_group is 4, expected 1"),
            ("olmoe", "topk_method", json!("noaux_tc"), "topk_method is 'noaux_tc', expected 'greedy'"),
            (
                "olmoe",
                "moe_router_logit_softcapping",
                json!(30.0),
                "moe_router_logit_softcapping is 30.0, expected null or 0",
            ),
            ("olmoe", "moe_topk", json!(4), "moe_topk is 4, expected 8"),
            ("qwen2_moe", "moe_num_experts", json!(64), "moe_num_experts is 64, expected 60"),
            ("qwen3_moe", "router_temperature", json!(2), "router_temperature is 2, expected 1"),
        ] {
            refused(with(model_type, key, value), &format!("{model_type}: {expected}"));
        }
        for (model_type, key, value) in [
            ("deepseek_v3", "topk_method", json!("noaux_tc")),
            ("deepseek_v3", "use_routing_bias", json!(true)),
            ("deepseek_v3", "score_function", json!("sigmoid")),
            ("deepseek_v3", "route_scale", json!(2.5)),
            ("deepseek_v3", "mlp_layer_types", json!(["dense", "sparse"])),
            ("mixtral", "norm_topk_prob", json!(true)),
            ("mixtral", "router_jitter_noise", json!(0.1)),
            ("olmoe", "n_group", json!(1)),
            ("olmoe", "routed_scaling_factor", json!(1)),
            ("olmoe", "moe_router_logit_softcapping", json!(0.0)),
        ] {
            let plain = parsed(json!({ "model_type": model_type }));
            assert_eq!(parsed(with(model_type, key, value)), plain, "{key}");
        }
        assert!(parsed(with("mixtral", "num_shared_experts", json!(1))).shared);
    }

    #[test]
    fn keys_that_change_experts_are_none_of_a_routers_business() {
        let with = |key: &str, value: Value| parsed(json!({ "model_type": "deepseek_v3", key: value }));
        for (key, value, expected) in [
            ("hidden_act", json!("relu2"), "hidden_act is 'relu2', expected 'silu'"),
            ("mlp_hidden_act", json!("gelu"), "mlp_hidden_act is 'gelu', expected 'silu'"),
            ("swiglu_limit", json!(0), "swiglu_limit is 0, expected null"),
            ("swiglu_limits", json!([null, 16.0]), "swiglu_limits is [null,16.0], expected null or 0"),
            (
                "shared_expert_combination_strategy",
                json!("average"),
                "shared_expert_combination_strategy is 'average', expected 'sum'",
            ),
            (
                "moe_apply_router_weight_on_input",
                json!(true),
                "moe_apply_router_weight_on_input is true, expected null or 0",
            ),
        ] {
            let config = with(key, value);
            assert_eq!(config.check_experts().unwrap_err().to_string(), format!("the configuration's {expected}"));
        }
        for (key, value) in [
            ("hidden_act", json!("swish")),
            ("swiglu_limit", Value::Null),
            ("swiglu_limits", json!([null, 0.0])),
            ("mlp_bias", json!(false)),
            ("attention_bias", json!(true)),
            ("quantization_config", json!({ "quant_method": "fp8" })),
        ] {
            assert!(with(key, value).check_experts().is_ok(), "{key}");
        }
        let unlimited = ModelConfig::parse(r#"{"model_type": "deepseek_v3", "swiglu_limit": Infinity}"#).unwrap();
        assert!(unlimited.check_experts().is_ok());
    }

    #[test]
    fn what_python_writes_is_read() {
        let parse = |text: &str| ModelConfig::parse(text);
        let text = r#"{"a": "\"NaN\\", "b": [-Infinity, NaN, Infinity], "paths\u0020": 1, "model_type": "mixtral"}"#;
        assert_eq!(parse(text).unwrap(), parsed(json!({ "model_type": "mixtral" })));
        assert_eq!(parse("\u{feff}{\"model_type\": \"mixtral\"}").unwrap(), parse(text).unwrap());
        let own = r#"{"paths": 4, "paths_per_token": 2, "scale": NaN}"#;
        assert_eq!(parse(own).unwrap_err().to_string(), "scale is NaN, expected a number");
        for broken in ["{\"a\": Infinit}", "{\"a\": \"Infinity", "{\"a\": \"NaN\\"] {
            assert!(format!("{:#}", parse(broken).unwrap_err()).starts_with("not JSON: "), "{broken}");
        }
    }

    #[test]
    fn models_of_several_parts_have_their_texts_somewhere() {
        let text = json!({ "model_type": "olmoe", "num_experts": 16 });
        for nested in [
            json!({ "text_config": text }),
            json!({ "model_type": "some_model", "language_config": text }),
            json!({ "model_type": "some_model", "llm_config": text }),
            json!({ "model_type": "some_model", "thinker_config": { "model_type": "another", "text_config": text } }),
        ] {
            assert_eq!(parsed(nested).router.paths, 16);
        }
        refused(
            json!({ "model_type": "some_model", "text_config": { "model_type": "another" } }),
            "model_type 'some_model' and 'another' are not known; \
             known: deepseek_v2, deepseek_v3, kimi_k2, mixtral, olmoe, qwen2_moe, qwen3_moe",
        );
    }
}
