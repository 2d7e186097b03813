//! The orders in which the layer's linear maps can be multiplied, and what each costs.

use super::{Dimensions, Linear, Weights};
use crate::Values;

/// An order of evaluation. The routing weight is one number a token, so it commutes with the linear maps, and any of them
/// can be folded into one when the weights are loaded:
/// `y = w ⊙ (x·Wcᵀ + bc) + d` with `Wc = W2·W1·We`, `bc = W2·W1·be`, `d = W2·b1 + b2`, `logit = x·(Weᵀa) + (a·be + ba)`.
///
/// ```
/// use double_routing::{Dimensions, Order};
/// // A narrow embedding: keep it, and fold what is behind it.
/// let narrow = Dimensions { input: 4096, attention: 64, routing: 1024, output: 1024 };
/// assert_eq!(Order::cheapest(narrow), Order::Embedding);
/// let square = Dimensions { input: 768, attention: 256, routing: 256, output: 256 };
/// assert_eq!(Order::cheapest(square), Order::Whole);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Order {
    /// As the source writes it: embedding, attention, routing1 of h·w, routing2. Every intermediate can be read.
    AsWritten,
    /// W2·W1·We: one map.
    Whole,
    /// We, then W2·W1.
    Embedding,
    /// W1·We, then W2.
    Routing,
    /// We, then W1, then W2, with the weight applied last.
    Apart,
}

/// What one order costs.
///
/// ```
/// use double_routing::{Dimensions, Order};
/// let dimensions = Dimensions { input: 768, attention: 256, routing: 256, output: 256 };
/// let (folded, written) = (Order::Whole.cost(dimensions, 4096), Order::AsWritten.cost(dimensions, 4096));
/// assert!(folded.flops < written.flops && folded.bytes < written.bytes);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cost {
    /// Additions and multiplications.
    pub flops: u64,
    /// Bytes read and written if every operand passes once: f32 activations and weights.
    pub bytes: u64,
}

impl std::fmt::Display for Order {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::AsWritten => "as written",
            Self::Whole => "W2·W1·We",
            Self::Embedding => "We, W2·W1",
            Self::Routing => "W1·We, W2",
            Self::Apart => "We, W1, W2",
        })
    }
}

impl Order {
    /// The orders that the folded plan chooses from.
    ///
    /// ```
    /// assert!(double_routing::Order::FOLDED.contains(&double_routing::Order::Whole));
    /// ```
    pub const FOLDED: [Self; 4] = [Self::Whole, Self::Embedding, Self::Routing, Self::Apart];

    /// The folded order of least FLOPs; of fewest dispatches among equals. The number of tokens has no say in it.
    ///
    /// ```
    /// use double_routing::{Dimensions, Order};
    /// let bottleneck = Dimensions { input: 1024, attention: 512, routing: 8, output: 1024 };
    /// assert_eq!(Order::cheapest(bottleneck), Order::Routing);
    /// ```
    pub fn cheapest(dimensions: Dimensions) -> Self {
        let mut best = Self::Whole;
        for order in Self::FOLDED {
            if order.cost(dimensions, 1).flops < best.cost(dimensions, 1).flops {
                best = order;
            }
        }
        best
    }

    /// The same for a layer with several paths, whose maps end at routing1: [`Order::Routing`], folded up to there, or
    /// [`Order::Embedding`], which keeps a narrow embedding.
    ///
    /// ```
    /// use double_routing::{Dimensions, Order};
    /// let narrow = Dimensions { input: 1024, attention: 8, routing: 512, output: 1024 };
    /// assert_eq!(Order::cheapest_with_paths(narrow), Order::Embedding);
    /// ```
    pub fn cheapest_with_paths(dimensions: Dimensions) -> Self {
        let Dimensions { input, attention: a, routing: r, .. } = dimensions;
        if input * r <= input * a + a * r { Self::Routing } else { Self::Embedding }
    }

    /// What the order costs for this many tokens.
    ///
    /// ```
    /// use double_routing::{Dimensions, Order};
    /// let dimensions = Dimensions { input: 2, attention: 3, routing: 4, output: 5 };
    /// // x·Wcᵀ and x·(Weᵀa), a product and a sum for each; softmax; w·(…) + d.
    /// assert_eq!(Order::Whole.cost(dimensions, 1).flops, 2 * 2 * 5 + 2 * 2 + 4 + 3 * 5);
    /// ```
    pub fn cost(self, dimensions: Dimensions, tokens: u64) -> Cost {
        let [input, a, r, o] =
            [dimensions.input, dimensions.attention, dimensions.routing, dimensions.output].map(|size| size as u64);
        // The widths of the activations between x and y, and of the one that the logit is taken from.
        let (between, attended): (&[u64], u64) = match self {
            Self::AsWritten | Self::Apart => (&[a, r], a),
            Self::Whole => (&[], input),
            Self::Embedding => (&[a], a),
            Self::Routing => (&[r], input),
        };
        let widths: Vec<u64> = [&[input], between, &[o]].concat();
        let maps: u64 = widths.windows(2).map(|pair| pair[0] * pair[1]).sum();
        // Softmax: a difference, an exponential, a sum and a division for each token; then the weight and the two biases.
        let flops = tokens * (2 * maps + 2 * attended + 4 + 3 * o);
        // Each map reads its input and writes its output; attention reads once more; logits and weights pass twice each.
        let activations = 2 * widths.iter().sum::<u64>() - input - o + attended + 4;
        Cost { flops, bytes: 4 * (tokens * activations + maps + attended + o) }
    }
}

/// A layer's maps in one order, ready to be uploaded.
pub(crate) struct Ordered {
    /// Maps before the weight is applied, each a matrix product with its bias, if any.
    pub before: Vec<Map>,
    /// The attention row and its bias, and whether it reads the first map's result instead of x.
    pub attention: Map,
    pub attends_first: bool,
    /// The weighted map, its inner bias and its outer one.
    pub routed: Map,
    pub outer: Values,
    /// The map behind the weighted one.
    pub after: Option<Map>,
}

pub(crate) struct Map {
    pub weight: Values,
    pub shape: [usize; 2],
    pub bias: Option<Values>,
}

impl From<&Linear> for Map {
    fn from(linear: &Linear) -> Self {
        Self { weight: linear.weight.clone(), shape: linear.shape, bias: Some(linear.bias.clone()) }
    }
}

impl Ordered {
    /// Folds in f64; a map that is not folded stays in the type it came in. Several paths come behind routing1: of the orders
    /// only whether the maps up to there are folded is left.
    pub fn new(weights: &Weights, order: Order) -> Self {
        if weights.path_gate.is_some() { Self::up_to_paths(weights, order) } else { Self::dense(weights, order) }
    }

    /// The attention row that reads x where the order's own reads the first map's result: with it that map is for selected tokens
    /// only. As written, h is to be had for every token.
    pub fn attention_of_x(&self, weights: &Weights, order: Order) -> Option<Map> {
        (self.attends_first && order != Order::AsWritten).then(|| folded_attention(weights))
    }

    fn up_to_paths(weights: &Weights, order: Order) -> Self {
        let Weights { embedding, attention, routing1, .. } = weights;
        let outer = routing1.bias.clone();
        if matches!(order, Order::Whole | Order::Routing) {
            let routed = folded_routing1(weights);
            return Self {
                before: vec![],
                attention: folded_attention(weights),
                attends_first: false,
                routed,
                outer,
                after: None,
            };
        }
        Self {
            before: vec![embedding.into()],
            attention: attention.into(),
            attends_first: true,
            routed: Map { bias: None, ..routing1.into() },
            outer,
            after: None,
        }
    }

    fn dense(weights: &Weights, order: Order) -> Self {
        let Weights { embedding, attention, routing1, routing2, .. } = weights;
        let Dimensions { input, attention: a, routing: r, output: o } = weights.dimensions();
        if order == Order::AsWritten {
            return Self {
                before: vec![embedding.into()],
                attention: attention.into(),
                attends_first: true,
                routed: Map { bias: None, ..routing1.into() },
                outer: routing1.bias.clone(),
                after: Some(routing2.into()),
            };
        }
        let (we, be) = (embedding.weight.to_f64(), embedding.bias.to_f64());
        let (w1, w2) = (routing1.weight.to_f64(), routing2.weight.to_f64());
        // d = W2·b1 + b2, whatever the order.
        let mut d = product(&w2, &routing1.bias.to_f64(), o, r, 1);
        d.iter_mut().zip(routing2.bias.to_f64()).for_each(|(d, b2)| *d += b2);
        let w21 = || product(&w2, &w1, o, r, a);
        let without_bias = |linear: &Linear| Map { bias: None, ..linear.into() };
        let (before, attention, attends_first, routed) = match order {
            Order::Whole | Order::AsWritten => {
                let w21 = w21();
                let whole = folded(product(&w21, &we, o, a, input), [o, input], Some(product(&w21, &be, o, a, 1)));
                (vec![], folded_attention(weights), false, whole)
            }
            Order::Embedding => (vec![embedding.into()], attention.into(), true, folded(w21(), [o, a], None)),
            Order::Routing => {
                (vec![folded_routing1(weights)], folded_attention(weights), false, without_bias(routing2))
            }
            Order::Apart => {
                let maps = vec![embedding.into(), without_bias(routing1)];
                (maps, attention.into(), true, without_bias(routing2))
            }
        };
        Self { before, attention, attends_first, routed, outer: rounded(&d), after: None }
    }
}

fn folded(weight: Vec<f64>, shape: [usize; 2], bias: Option<Vec<f64>>) -> Map {
    Map { weight: rounded(&weight), shape, bias: bias.map(|bias| rounded(&bias)) }
}

/// The attention row as it reads x.
fn folded_attention(weights: &Weights) -> Map {
    let Dimensions { input, attention: a, .. } = weights.dimensions();
    let (we, be) = (weights.embedding.weight.to_f64(), weights.embedding.bias.to_f64());
    let row = weights.attention.weight.to_f64();
    let bias = dot(&row, &be) + weights.attention.bias.to_f64()[0];
    folded(product(&row, &we, 1, a, input), [1, input], Some(vec![bias]))
}

/// routing1 as it reads x, without its own bias.
fn folded_routing1(weights: &Weights) -> Map {
    let Dimensions { input, attention: a, routing: r, .. } = weights.dimensions();
    let (we, be) = (weights.embedding.weight.to_f64(), weights.embedding.bias.to_f64());
    let w1 = weights.routing1.weight.to_f64();
    folded(product(&w1, &we, r, a, input), [r, input], Some(product(&w1, &be, r, a, 1)))
}

fn rounded(values: &[f64]) -> Values {
    Values::F32(values.iter().map(|&value| value as f32).collect())
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// A `[rows, depth]` times B `[depth, columns]`, in f64. Row by row of B, so that the inner loop runs along memory.
fn product(a: &[f64], b: &[f64], rows: usize, depth: usize, columns: usize) -> Vec<f64> {
    let mut c = vec![0.0; rows * columns];
    for (c, a) in c.chunks_exact_mut(columns).zip(a.chunks_exact(depth)) {
        for (&a, b) in a.iter().zip(b.chunks_exact(columns)) {
            for (c, &b) in c.iter_mut().zip(b) {
                *c += a * b;
            }
        }
    }
    debug_assert_eq!(c.len(), rows * columns);
    c
}
