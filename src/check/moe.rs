//! Cases of the mixture-of-experts block.

use super::{
    Case,
    bench::{Random, compare},
};
use crate::{
    Error, Gpu, Result, Values,
    check::Outcome,
    kernels::{GroupLimit, GroupScore, PathChoice, Score},
    moe::{ExpertWeights, MoeFeedForward, MoeWeights, RouterConfig, RouterWeights, SharedWeights},
    reference::{
        Experts, PathRule, Product, experts_bound, feed_forward, feed_forward_bound, gate_bound, gates_moved,
        group_score, matmul, matmul_bound, path_gates, path_scores, route_paths, score_bound,
    },
};

#[derive(Debug, Clone, Copy)]
struct Spec {
    name: &'static str,
    config: RouterConfig,
    bias: bool,
    shared: bool,
    half: bool,
    tokens: usize,
    /// D and the experts' width.
    sizes: [usize; 2],
}

impl Spec {
    fn name(&self) -> String {
        let Self { name, config, tokens, sizes: [features, width], .. } = self;
        let mut name = format!("moe {name} {} of {} {tokens}x{features} width={width}", config.per_token, config.paths);
        name += if self.bias { " bias" } else { "" };
        name += if self.shared { " shared" } else { "" };
        name += if self.half { " bf16" } else { "" };
        name
    }

    fn values(&self, random: &mut Random, count: usize, scale: f32) -> Values {
        let values = (0..count).map(|_| random.real() * scale);
        if self.half { Values::BF16(values.map(half::bf16::from_f32).collect()) } else { Values::F32(values.collect()) }
    }

    fn experts(&self, random: &mut Random, paths: usize) -> Result<ExpertWeights> {
        let [features, width] = self.sizes;
        let count = paths * features * width;
        let (first, last) = (3.0 / (features as f32).sqrt(), 1.0 / (width as f32).sqrt());
        let (gate, up) = (self.values(random, count, first), self.values(random, count, first));
        ExpertWeights::new(gate, up, self.values(random, count, last), [paths, width, features])
    }

    async fn run(self, gpu: &Gpu) -> Result<Outcome> {
        let Self { config, tokens, sizes: [features, _], .. } = self;
        let RouterConfig { paths, per_token, choice } = config;
        let mut random = Random::new((tokens * 31 + features + paths) as u64);
        let bias = self.bias.then(|| Values::F32((0..paths).map(|_| random.real() * 0.2).collect()));
        let gate = self.values(&mut random, paths * features, 3.0 / (features as f32).sqrt());
        let weights = MoeWeights {
            router: RouterWeights::new(gate, [paths, features], bias)?,
            experts: self.experts(&mut random, paths)?,
            shared: match self.shared {
                true => Some(SharedWeights { expert: self.experts(&mut random, 1)?, gate: None }),
                false => None,
            },
        };
        let x: Vec<f32> = (0..tokens * features).map(|_| random.real()).collect();
        let output = MoeFeedForward::new(gpu, &weights, config)?.run(&x, &[tokens, features]).await?;

        let exact: Vec<f64> = x.iter().map(|&x| x.into()).collect();
        let gate = weights.router.gate.to_f64();
        let product = Product { rows: tokens, columns: paths, depth: features, transposed: true, ..Product::default() };
        let (logits, of_logits) = (matmul(&exact, &gate, None, &product), matmul_bound(&exact, &gate, None, &product));
        let bias = weights.router.correction_bias.as_ref().map(Values::to_f64);
        let (ids, rule) = (&output.routing.ids, choice.into());
        let (mut gates, mut of_gates) = (Vec::new(), Vec::new());
        let mut fault = None;
        for token in 0..tokens {
            let row = &logits[token * paths..][..paths];
            let slots = token * per_token..(token + 1) * per_token;
            let off = of_logits[token * paths..][..paths].iter().copied().fold(0.0, f64::max);
            let judged = judge_choice(row, off, bias.as_deref(), &ids[slots], rule)?;
            fault = fault.or(judged.fault.map(|fault| format!("token {token}: {fault}")));
            gates.extend(judged.gates);
            of_gates.extend(judged.of_gates);
        }
        let experts = reference(&weights.experts);
        let shared = weights.shared.as_ref().map(|shared| reference(&shared.expert));
        let first = vec![0; tokens];
        let of_shared =
            shared.as_ref().map(|shared| (shared.run(&exact, &first), experts_bound(shared, &exact, &first)));
        let shared = of_shared.as_ref().map(|(y, _)| y.as_slice());
        let expected = feed_forward(&experts, &exact, ids, &gates, shared);
        let mut bound = feed_forward_bound(&experts, &exact, ids, &gates, &of_gates, shared);
        if let Some((_, of_shared)) = &of_shared {
            bound.iter_mut().zip(of_shared).for_each(|(bound, shared)| *bound += shared);
        }
        let mut outcome = compare(&output.y, &expected, &bound);
        let by_gates = compare(&output.routing.gates, &gates, &of_gates);
        outcome.elements += by_gates.elements;
        outcome.worst = outcome.worst.max(by_gates.worst);
        outcome.fault = fault.or(by_gates.fault.map(|fault| format!("gates: {fault}"))).or(outcome.fault);
        Ok(outcome)
    }
}

/// The truth about the gates of a row whose paths a device has chosen.
pub(super) struct JudgedChoice {
    pub gates: Vec<f64>,
    pub of_gates: Vec<f64>,
    /// What is wrong with the choice, if anything is.
    pub fault: Option<String>,
}

/// Judges the paths that a device has chosen for a row whose logits it may have off by `off`: where the margins are larger than
/// what the scores may be off, they must be the reference's.
pub(super) fn judge_choice(
    logits: &[f64],
    off: f64,
    bias: Option<&[f64]>,
    ids: &[u32],
    rule: PathRule,
) -> Result<JudgedChoice> {
    let paths = logits.len();
    if !ids.iter().all(|&id| id == u32::MAX || (id as usize) < paths) {
        return Err(Error::Gpu(format!("paths {ids:?} of {paths}")));
    }
    // No score has a slope of more than 1 by any logit, nor of more than 2 by all; a group's score is at most two of them.
    let of_score = 2.0 * off + score_bound(logits, rule.score).into_iter().fold(0.0, f64::max);
    let expected = route_paths(logits, bias, ids.len(), rule);
    let sure = expected.margin > 2.0 * of_score && group_margin(logits, bias, rule) > 4.0 * of_score;
    let wrong = sure && expected.ids.iter().any(|id| !ids.contains(id));
    let gates = path_gates(logits, ids, rule);
    // To first order a gate is off by four times what the logits are, relative to itself: itself and the sum.
    let moved = match off {
        ..0.25 => gates.iter().map(|gate| 4.0 * off * gate.abs()).collect(),
        _ => gates_moved(logits, &vec![off; paths], ids, rule),
    };
    Ok(JudgedChoice {
        of_gates: gate_bound(logits, ids, rule).iter().zip(moved).map(|(bound, moved)| bound + moved).collect(),
        gates,
        fault: wrong.then(|| format!("paths {ids:?}, expected {:?}", expected.ids)),
    })
}

/// By how much the last group that is kept scores more than the first that is not.
fn group_margin(logits: &[f64], bias: Option<&[f64]>, rule: PathRule) -> f64 {
    let mut c = path_scores(logits, rule.score);
    if let Some(bias) = bias {
        c.iter_mut().zip(bias).for_each(|(c, bias)| *c += bias);
    }
    let groups = c.chunks_exact(logits.len() / rule.groups);
    let mut scores: Vec<f64> = groups.map(|group| group_score(group, rule.sum_of_two)).collect();
    scores.sort_by(|a, b| b.total_cmp(a));
    scores.get(rule.kept).map_or(f64::INFINITY, |rejected| scores[rule.kept - 1] - rejected)
}

fn reference(experts: &ExpertWeights) -> Experts<f64> {
    let ExpertWeights { gate, up, down, width, features, .. } = experts;
    Experts { gate: gate.to_f64(), up: up.to_f64(), down: down.to_f64(), width: *width, features: *features }
}

pub(super) fn cases() -> Vec<Case> {
    let plain =
        |name, config, tokens, sizes| Spec { name, config, bias: false, shared: false, half: false, tokens, sizes };
    let few = |config: RouterConfig, paths| RouterConfig { paths, ..config };
    let grouped = PathChoice {
        score: Score::SqrtSoftplus,
        groups: Some(GroupLimit { groups: 3, kept: 2, score: GroupScore::Max }),
        renormalise: true,
        scale: 0.5,
    };
    let specs = [
        plain("mixtral", RouterConfig::mixtral(), 33, [40, 24]),
        Spec { half: true, ..plain("mixtral", RouterConfig::mixtral(), 1, [64, 48]) },
        Spec { shared: true, ..plain("deepseek-v2", RouterConfig::deepseek_v2(), 20, [32, 16]) },
        Spec { bias: true, shared: true, ..plain("deepseek-v3", RouterConfig::deepseek_v3(), 24, [32, 16]) },
        Spec { bias: true, half: true, ..plain("deepseek-v3", few(RouterConfig::deepseek_v3(), 64), 2, [28, 12]) },
        Spec { bias: true, ..plain("kimi-k2", RouterConfig::kimi_k2(), 1, [16, 8]) },
        plain("olmoe", RouterConfig::olmoe(), 65, [24, 20]),
        Spec { shared: true, ..plain("qwen2", RouterConfig::qwen2_moe(), 17, [33, 21]) },
        plain("qwen3", RouterConfig::qwen3_moe(), 40, [36, 12]),
        Spec { bias: true, ..plain("own", RouterConfig { paths: 9, per_token: 6, choice: grouped }, 50, [19, 7]) },
        plain("alone", RouterConfig { paths: 1, per_token: 1, choice: PathChoice::default() }, 40, [12, 12]),
        plain("mixtral", RouterConfig::mixtral(), 0, [40, 24]),
    ];
    specs
        .into_iter()
        .map(|spec| Case {
            kernel: "moe",
            name: spec.name(),
            heavy: false,
            run: Box::new(move |gpu| Box::pin(spec.run(gpu))),
        })
        .collect()
}
