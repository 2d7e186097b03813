//! Routers and blocks on the CPU.

use double_routing::{
    Values,
    moe::{ExpertWeights, MoeWeights, RouterConfig, RouterWeights, Routing},
    reference::{PathRule, Product, Real, matmul, matmul_bound, route_paths, silu},
};

/// A router in f64.
#[derive(Debug)]
pub struct ReferenceRouter {
    pub config: RouterConfig,
    pub rule: PathRule,
    gate: Vec<f64>,
    features: usize,
    pub bias: Option<Vec<f64>>,
}

impl ReferenceRouter {
    pub fn new(weights: &RouterWeights, config: RouterConfig) -> Self {
        Self {
            config,
            rule: config.choice.into(),
            gate: weights.gate.to_f64(),
            features: weights.shape[1],
            bias: weights.correction_bias.as_ref().map(Values::to_f64),
        }
    }

    fn product(&self, x: &[f64]) -> Product {
        let [rows, columns, depth] = [x.len() / self.features, self.config.paths, self.features];
        Product { rows, columns, depth, transposed: true, ..Product::default() }
    }

    /// The logits of tokens.
    pub fn logits(&self, x: &[f64]) -> Vec<f64> {
        matmul(x, &self.gate, None, &self.product(x))
    }

    /// How far f32 logits may be from them.
    pub fn logits_bound(&self, x: &[f64]) -> Vec<f64> {
        matmul_bound(x, &self.gate, None, &self.product(x))
    }

    /// The logits as plain f32 loops have them.
    pub fn plain_logits(&self, x: &[f64]) -> Vec<f64> {
        let plain = |values: &[f64]| values.iter().map(|&value| value as f32).collect::<Vec<f32>>();
        let logits = matmul(&plain(x), &plain(&self.gate), None, &self.product(x));
        logits.into_iter().map(f64::from).collect()
    }

    /// Routes tokens; also returns the gates before they are rounded.
    pub fn route(&self, x: &[f32]) -> (Routing, Vec<f64>) {
        let x: Vec<f64> = x.iter().map(|&x| x.into()).collect();
        self.route_logits(&self.logits(&x))
    }

    /// Routes tokens that have these logits.
    pub fn route_logits(&self, logits: &[f64]) -> (Routing, Vec<f64>) {
        let RouterConfig { paths, per_token, .. } = self.config;
        let mut routing =
            Routing { ids: vec![], gates: vec![], counts: vec![0; paths], margin: vec![], logits: vec![] };
        let mut gates = Vec::new();
        for logits in logits.chunks(paths) {
            let row = route_paths(logits, self.bias.as_deref(), per_token, self.rule);
            row.ids.iter().filter(|&&id| id != u32::MAX).for_each(|&id| routing.counts[id as usize] += 1);
            routing.ids.extend(row.ids);
            routing.gates.extend(row.gates.iter().map(|&gate| gate as f32));
            routing.margin.push(row.margin as f32);
            routing.logits.extend(logits.iter().map(|&logit| logit as f32));
            gates.extend(row.gates);
        }
        (routing, gates)
    }
}

/// What a block makes of tokens whose paths and gates are given:
/// `y = Σ_j gate_j · down_j(silu(gate_j(x)) ⊙ up_j(x)) + shared(x)`, in the arithmetic of `T`.
pub fn block<T: Real>(weights: &MoeWeights, x: &[f32], ids: &[u32], gates: &[f64]) -> Vec<T> {
    let features = weights.router.shape[1];
    let tokens = x.len() / features;
    let per_token = ids.len().checked_div(tokens).unwrap_or(0);
    // One row of a matrix, times a vector.
    let dot = |matrix: &Values, row: usize, vector: &[T]| -> T {
        let columns = row * vector.len()..(row + 1) * vector.len();
        let row: Vec<T> = match matrix {
            Values::F32(values) => values[columns].iter().map(|&value| T::from_f64(value.into())).collect(),
            Values::F16(values) => values[columns].iter().map(|&value| T::from_f64(value.into())).collect(),
            Values::BF16(values) => values[columns].iter().map(|&value| T::from_f64(value.into())).collect(),
            other => other.to_f64()[columns].iter().map(|&value| T::from_f64(value)).collect(),
        };
        row.iter().zip(vector).fold(T::from_f64(0.0), |sum, (&a, &b)| sum + a * b)
    };
    let expert = |experts: &ExpertWeights, path: usize, x: &[T]| -> Vec<T> {
        let width = experts.width;
        let row = |at: usize| path * width + at;
        let hidden: Vec<T> =
            (0..width).map(|at| silu(dot(&experts.gate, row(at), x)) * dot(&experts.up, row(at), x)).collect();
        (0..features).map(|at| dot(&experts.down, path * features + at, &hidden)).collect()
    };
    let mut y = Vec::with_capacity(x.len());
    for token in 0..tokens {
        let x: Vec<T> = x[token * features..][..features].iter().map(|&x| T::from_f64(x.into())).collect();
        let mut of_token = vec![T::from_f64(0.0); features];
        let mut add = |gate: T, result: Vec<T>| {
            of_token.iter_mut().zip(result).for_each(|(sum, value)| *sum += gate * value);
        };
        for slot in token * per_token..(token + 1) * per_token {
            if ids[slot] != u32::MAX {
                add(T::from_f64(gates[slot]), expert(&weights.experts, ids[slot] as usize, &x));
            }
        }
        if let Some(shared) = &weights.shared {
            let one = T::from_f64(1.0);
            let gate = shared.gate.as_ref().map_or(one, |gate| {
                let logit = dot(gate, 0, &x);
                one / (one + (T::from_f64(0.0) - logit).exp())
            });
            add(gate, expert(&shared.expert, 0, &x));
        }
        y.extend(of_token);
    }
    y
}
