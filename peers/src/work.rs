//! What is measured: the works and their seeded operands.

use anyhow::Result;
use double_routing::{
    Element, Linear, Values, Weights,
    moe::{ExpertWeights, MoeWeights, RouterConfig, RouterWeights},
};

/// How paths are chosen, wherever they are.
pub const ROUTER: RouterConfig = RouterConfig::deepseek_v3();
/// Correction biases are within so much: scores are within 0.27 and 0.73.
const BIAS: f32 = 0.1;

#[derive(Debug, Clone, Copy)]
pub struct Work {
    pub name: &'static str,
    kind: Kind,
    /// Too long for a software adapter.
    pub large: bool,
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    /// `width` is A, R and O.
    Forward {
        batch: usize,
        tokens: usize,
        input: usize,
        width: usize,
    },
    /// Square. Transposed: B is stored as nn.Linear stores it, `[N, K]`.
    /// Half: of f16, with sums of f32.
    Matmul {
        size: usize,
        transposed: bool,
        half: bool,
    },
    Softmax {
        rows: usize,
        columns: usize,
    },
    /// The `count` largest of each row and where they are.
    Select {
        rows: usize,
        columns: usize,
        count: usize,
    },
    /// The paths of each token and their gates, from logits.
    Router {
        tokens: usize,
    },
    /// A mixture of experts: router, experts, sum.
    Moe {
        tokens: usize,
        features: usize,
        width: usize,
    },
}

impl Work {
    const fn new(name: &'static str, kind: Kind) -> Self {
        Self { name, kind, large: false }
    }

    const fn large(name: &'static str, kind: Kind) -> Self {
        Self { name, kind, large: true }
    }
}

pub const WORKS: [Work; 16] = [
    Work::new("forward a", Kind::Forward { batch: 8, tokens: 512, input: 768, width: 256 }),
    Work::new("forward b", Kind::Forward { batch: 1, tokens: 128, input: 768, width: 64 }),
    Work::new("forward c", Kind::Forward { batch: 4, tokens: 2048, input: 1024, width: 512 }),
    Work::large("forward large", Kind::Forward { batch: 32, tokens: 4096, input: 4096, width: 1024 }),
    Work::new("matmul 1024", Kind::Matmul { size: 1024, transposed: true, half: false }),
    Work::new("matmul 1024 f16", Kind::Matmul { size: 1024, transposed: true, half: true }),
    Work::new("matmul 2048", Kind::Matmul { size: 2048, transposed: true, half: false }),
    Work::new("matmul 2048 ab", Kind::Matmul { size: 2048, transposed: false, half: false }),
    Work::large("matmul 4096", Kind::Matmul { size: 4096, transposed: true, half: false }),
    Work::large("matmul 4096 f16", Kind::Matmul { size: 4096, transposed: true, half: true }),
    Work::new("softmax 4096x1024", Kind::Softmax { rows: 4096, columns: 1024 }),
    Work::new("softmax 64x65536", Kind::Softmax { rows: 64, columns: 65536 }),
    Work::new("select 4096x1024 k=32", Kind::Select { rows: 4096, columns: 1024, count: 32 }),
    Work::new("router 4096x256", Kind::Router { tokens: 4096 }),
    Work::new("moe 512x512", Kind::Moe { tokens: 512, features: 512, width: 128 }),
    Work::new("moe 1x512", Kind::Moe { tokens: 1, features: 512, width: 128 }),
];

/// A work's operands.
#[derive(Debug)]
pub enum Problem {
    Forward {
        shape: [usize; 3],
        weights: Weights,
        x: Vec<f32>,
    },
    /// The shape is rows, columns and depth. Half: every value is one of f16.
    Matmul {
        shape: [usize; 3],
        transposed: bool,
        half: bool,
        a: Vec<f32>,
        b: Vec<f32>,
    },
    Softmax {
        shape: [usize; 2],
        x: Vec<f32>,
    },
    Select {
        shape: [usize; 2],
        count: usize,
        x: Vec<f32>,
    },
    Router {
        tokens: usize,
        logits: Vec<f32>,
        bias: Vec<f32>,
    },
    Moe {
        tokens: usize,
        weights: MoeWeights,
        x: Vec<f32>,
    },
}

impl Work {
    /// The same operands every time.
    pub fn problem(&self) -> Result<Problem> {
        let mut values = seeded();
        Ok(match self.kind {
            Kind::Forward { batch, tokens, input, width } => {
                // As PyTorch initialises them: uniform within 1/√in.
                let mut linear = |out: usize, features: usize| {
                    let scale = 1.0 / (features as f32).sqrt();
                    Linear::new(values(out * features, scale), [out, features], values(out, scale))
                };
                let weights =
                    Weights::new(linear(width, input), linear(1, width), linear(width, width), linear(width, width))?;
                Problem::Forward { shape: [batch, tokens, input], weights, x: values(batch * tokens * input, 1.0) }
            }
            Kind::Matmul { size, transposed, half: false } => Problem::matmul([size; 3], transposed, values),
            Kind::Matmul { size, transposed, half: true } => Problem::matmul([size; 3], transposed, values).of_halves(),
            Kind::Softmax { rows, columns } => {
                Problem::Softmax { shape: [rows, columns], x: values(rows * columns, 1.0) }
            }
            Kind::Select { rows, columns, count } => {
                Problem::Select { shape: [rows, columns], count, x: values(rows * columns, 1.0) }
            }
            Kind::Router { tokens } => {
                Problem::Router { tokens, logits: values(tokens * ROUTER.paths, 1.0), bias: values(ROUTER.paths, BIAS) }
            }
            Kind::Moe { tokens, features, width } => {
                let paths = ROUTER.paths;
                // Maps keep the variance, as in moe.py.
                let mut map = |count: usize, depth: usize| values(count * depth, (3.0 / depth as f32).sqrt());
                let gate = map(paths, features);
                let (gate_proj, up) = (map(paths * width, features), map(paths * width, features));
                let down = map(paths * features, width);
                let weights = MoeWeights {
                    router: RouterWeights::new(gate, [paths, features], Some(values(paths, BIAS).into()))?,
                    experts: ExpertWeights::new(gate_proj, up, down, [paths, width, features])?,
                    shared: None,
                };
                Problem::Moe { tokens, weights, x: values(tokens * features, 1.0) }
            }
        })
    }
}

impl Problem {
    fn matmul(shape: [usize; 3], transposed: bool, mut values: impl FnMut(usize, f32) -> Vec<f32>) -> Self {
        let [rows, columns, depth] = shape;
        let (a, b) = (values(rows * depth, 1.0), values(columns * depth, 1.0));
        Self::Matmul { shape, transposed, half: false, a, b }
    }

    /// A product of the same factors, rounded to f16.
    fn of_halves(self) -> Self {
        match self {
            Self::Matmul { shape, transposed, a, b, .. } => {
                let rounded = |values: Vec<f32>| Values::rounded(&values, Element::F16).to_f32();
                Self::Matmul { shape, transposed, half: true, a: rounded(a), b: rounded(b) }
            }
            other => other,
        }
    }

    /// One product of what so many tokens need: as many rows as their experts have together, or of one token as many columns
    /// as its experts and the router have.
    pub fn dense(tokens: usize, experts: &ExpertWeights) -> Self {
        let (slots, columns) = (tokens * ROUTER.per_token, 3 * experts.width);
        let [rows, columns] = if tokens == 1 { [1, ROUTER.paths + slots * columns] } else { [slots, columns] };
        Self::matmul([rows, columns, experts.features], true, seeded())
    }
}

/// Values within ± the second argument, the same every time.
fn seeded() -> impl FnMut(usize, f32) -> Vec<f32> {
    let mut random = fastrand::Rng::with_seed(1);
    move |count, scale| (0..count).map(|_| scale * (2.0 * random.f32() - 1.0)).collect()
}
