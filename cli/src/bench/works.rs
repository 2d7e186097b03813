//! What is measured: the kernels and the layer at representative sizes.

use double_routing::{
    Dimensions, DoubleRouting, Element, Error, Gpu, Linear, Order, Plan, PlanKind, Result, Selection, Settings, Tensor,
    Weights,
    kernels::{Attend, Matmul, Route, RoutePaths, Select, Softmax},
    moe::{ExpertWeights, MoeFeedForward, MoeWeights, RouterConfig, RouterWeights},
    wgpu,
};

/// A kernel, or the layer's forward, at one size.
#[derive(Debug, Clone, Copy)]
pub enum Spec {
    Matmul {
        rows: usize,
        columns: usize,
        depth: usize,
        transposed: bool,
        /// Of the factors.
        element: Element,
    },
    Route {
        rows: usize,
        columns: usize,
        depth: usize,
    },
    Attend {
        rows: usize,
        depth: usize,
    },
    Softmax {
        rows: usize,
        columns: usize,
    },
    /// The `count` largest of each row.
    Select {
        rows: usize,
        columns: usize,
        count: usize,
    },
    /// The choice of DeepSeek-V3's router, from its logits.
    Router {
        tokens: usize,
    },
    Forward {
        layer: Layer,
        plan: PlanKind,
        /// The tiles do not follow the number of rows.
        batch_invariant: bool,
    },
    /// Folded, with one token in so many selected, and the others' y 0 or copied from elsewhere.
    Selecting {
        layer: Layer,
        one_in: usize,
        skips: bool,
    },
    /// A mixture of experts.
    Moe {
        router: RouterConfig,
        tokens: usize,
        features: usize,
        width: usize,
    },
}

/// A layer's dimensions and the tokens it is run on.
#[derive(Debug, Clone, Copy)]
pub struct Layer {
    pub batch: usize,
    pub tokens: usize,
    pub dimensions: Dimensions,
}

impl Layer {
    const fn square(batch: usize, tokens: usize, input: usize, width: usize) -> Self {
        let dimensions = Dimensions { input, attention: width, routing: width, output: width };
        Self { batch, tokens, dimensions }
    }

    pub const fn rows(&self) -> usize {
        self.batch * self.tokens
    }

    /// Plans a forward in this order from `x` to `y`.
    pub fn prepare(
        &self,
        gpu: &Gpu,
        settings: Settings,
        operands: &Operands,
        skip: Option<Tensor<'_>>,
    ) -> Result<(Order, Plan)> {
        let Self { batch, tokens, dimensions: Dimensions { input, output, .. } } = *self;
        let layer = DoubleRouting::new(gpu, &weights(self.dimensions)?, settings)?;
        let (x, y) = (
            Tensor::f32(&operands.input, &[batch, tokens, input]),
            Tensor::f32(&operands.output, &[batch, tokens, output]),
        );
        let forward = layer.forward(x).output(y);
        let forward = if let Some(skip) = skip { forward.skip(skip) } else { forward };
        Ok((layer.order(), forward.plan()?.plan().clone()))
    }
}

impl std::fmt::Display for Layer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { batch, tokens, dimensions: Dimensions { input, attention, routing, output } } = self;
        write!(f, "B={batch} S={tokens} in={input} ")?;
        if attention == routing && routing == output {
            write!(f, "A=R=O={output}")
        } else {
            write!(f, "A={attention} R={routing} O={output}")
        }
    }
}

/// The layers of the benches: a batch, a single short sequence, and a large one.
const LAYERS: [Layer; 3] =
    [Layer::square(8, 512, 768, 256), Layer::square(1, 128, 768, 64), Layer::square(4, 2048, 1024, 512)];

/// One token of a larger one, and a few of the first of them.
const DECODE: [Layer; 2] = [Layer::square(1, 1, 4096, 1024), Layer::square(1, 16, 768, 256)];

impl Spec {
    /// Everything there is to measure.
    pub fn all() -> Vec<Self> {
        let typed = |[rows, columns, depth]: [usize; 3], transposed, element| Self::Matmul {
            rows,
            columns,
            depth,
            transposed,
            element,
        };
        let matmul = |sizes, transposed| typed(sizes, transposed, Element::F32);
        let square = |size| [size, size, size];
        let mut specs = Vec::new();
        for transposed in [true, false] {
            specs.extend([square(1024), square(2048)].map(|size| matmul(size, transposed)));
        }
        // Odd sizes, more rows than columns, few rows, one row, a long sum.
        let sizes = [
            [127, 129, 131],
            [128, 128, 128],
            [1021, 1023, 1025],
            [4096, 256, 768],
            [16, 4096, 4096],
            [1, 4096, 4096],
            [64, 64, 65536],
        ];
        specs.extend(sizes.map(|size| matmul(size, true)));
        specs.extend([1024, 2048].map(|size| typed(square(size), true, Element::F16)));
        specs.extend(LAYERS.map(|layer| Self::Route {
            rows: layer.rows(),
            columns: layer.dimensions.output,
            depth: layer.dimensions.input,
        }));
        specs.extend(LAYERS.map(|layer| Self::Attend { rows: layer.rows(), depth: layer.dimensions.input }));
        specs.extend([[4096, 1024], [64, 65536]].map(|[rows, columns]| Self::Softmax { rows, columns }));
        for plan in [PlanKind::Folded, PlanKind::AsWritten] {
            specs.extend(LAYERS.map(|layer| Self::Forward { layer, plan, batch_invariant: false }));
        }
        // What it costs that a token's result does not depend on its batch: most where there are few rows.
        let plan = PlanKind::Folded;
        specs.extend(DECODE.map(|layer| Self::Forward { layer, plan, batch_invariant: false }));
        let layers = LAYERS.into_iter().chain(DECODE);
        specs.extend(layers.map(|layer| Self::Forward { layer, plan, batch_invariant: true }));
        specs.push(Self::Select { rows: 4096, columns: 1024, count: 32 });
        specs.push(Self::Router { tokens: 4096 });
        let selecting = |one_in, skips| Self::Selecting { layer: LAYERS[2], one_in, skips };
        specs.extend([8, 4, 2].map(|one_in| selecting(one_in, false)));
        specs.push(selecting(8, true));
        // The experts' products alone, as one; with many experts, of a few rows each, and with few.
        specs.push(matmul([4096, 384, 512], true));
        specs.extend([512, 1].map(|tokens| Self::Moe { router: ROUTER, tokens, features: 512, width: 128 }));
        specs.push(matmul([2048, 1536, 512], true));
        specs.push(Self::Moe { router: RouterConfig::mixtral(), tokens: 1024, features: 512, width: 512 });
        specs
    }

    /// Whether a quick look includes it: the first of each kind, and what is bound by memory.
    pub fn is_quick(&self) -> bool {
        match *self {
            Self::Matmul { rows, columns, depth, .. } => {
                matches!([rows, columns, depth], [1024, 1024, 1024] | [1021, ..] | [1, ..])
            }
            Self::Route { rows, .. } | Self::Attend { rows, .. } => rows == LAYERS[0].rows(),
            Self::Softmax { rows, .. } => rows == 4096,
            Self::Select { .. } | Self::Router { .. } => true,
            Self::Forward { layer, batch_invariant, .. } => layer.rows() == LAYERS[0].rows() && !batch_invariant,
            Self::Selecting { .. } => false,
            Self::Moe { tokens, .. } => tokens > 1,
        }
    }

    /// What runs it: a kernel, or the layer.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Matmul { .. } => Kind::Matmul,
            Self::Route { .. } => Kind::Route,
            Self::Attend { .. } => Kind::Attend,
            Self::Softmax { .. } => Kind::Softmax,
            Self::Select { .. } => Kind::Select,
            Self::Router { .. } => Kind::Router,
            Self::Forward { .. } | Self::Selecting { .. } => Kind::Forward,
            Self::Moe { .. } => Kind::Moe,
        }
    }

    /// Elements of the operands that are read, and of those that are written, without the weights and intermediates of a
    /// forward.
    fn elements(&self) -> (Vec<usize>, usize) {
        match *self {
            // In words of 32 bits.
            Self::Matmul { rows, columns, depth, element, .. } => {
                ([rows, columns].map(|count| count * depth * element.bytes() / 4).to_vec(), rows * columns)
            }
            Self::Route { rows, columns, depth } => {
                (vec![rows * depth, columns * depth, rows, columns, columns], rows * columns)
            }
            Self::Attend { rows, depth } => (vec![rows * depth, depth, 1], rows),
            Self::Softmax { rows, columns } => (vec![rows * columns], rows * columns),
            Self::Select { rows, columns, count } => (vec![rows * columns], rows * count),
            Self::Router { tokens } => {
                let RouterConfig { paths, per_token, .. } = ROUTER;
                (vec![tokens * paths, paths], tokens * per_token)
            }
            Self::Moe { tokens, features, .. } => (vec![tokens * features], tokens * features),
            Self::Forward { layer, .. } | Self::Selecting { layer, .. } => {
                let mut read = vec![layer.rows() * layer.dimensions.input];
                let written = layer.rows() * layer.dimensions.output;
                if matches!(self, Self::Selecting { skips: true, .. }) {
                    read.push(written);
                }
                (read, written)
            }
        }
    }

    /// Plans it.
    pub fn prepare(&self, gpu: &Gpu, operands: &Operands) -> Result<Subject> {
        let (read, written) = self.elements();
        let mut traffic = Traffic { read: 4 * read.iter().sum::<usize>() as u64, written: 4 * written as u64 };
        let x = |place: usize, shape: &[usize]| {
            Tensor::f32(&operands.input, shape).offset(4 * Operands::starts(&read)[place] as u64)
        };
        let y = |shape: &[usize]| Tensor::f32(&operands.output, shape);
        let (flops, plan) = match *self {
            Self::Matmul { rows, columns, depth, transposed, element } => {
                let b = if transposed { [columns, depth] } else { [depth, columns] };
                // The halves of these f32, taken for f16, are finite too.
                let factor = |place: usize, shape: &[usize]| {
                    Tensor::new(&operands.input, element, shape).offset(4 * Operands::starts(&read)[place] as u64)
                };
                let mut matmul = Matmul::new(factor(0, &[rows, depth]), factor(1, &b), y(&[rows, columns]));
                if transposed {
                    matmul = matmul.transposed();
                }
                (2 * rows * columns * depth, matmul.plan(gpu)?)
            }
            Self::Route { rows, columns, depth } => {
                let route =
                    Route::new(x(0, &[rows, depth]), x(1, &[columns, depth]), x(2, &[rows]), y(&[rows, columns]))
                        .inner(x(3, &[columns]))
                        .outer(x(4, &[columns]));
                // The weight and two biases for each element.
                (rows * columns * (2 * depth + 3), route.plan(gpu)?)
            }
            Self::Attend { rows, depth } => {
                let attend = Attend::new(x(0, &[rows, depth]), x(1, &[depth]), y(&[rows])).bias(x(2, &[1]));
                (rows * (2 * depth + 1), attend.plan(gpu)?)
            }
            Self::Softmax { rows, columns } => {
                let softmax = Softmax::new(x(0, &[rows, columns]), y(&[rows, columns]), 1);
                // A difference, an exponential, a sum and a division for each element.
                (4 * rows * columns, softmax.plan(gpu)?)
            }
            Self::Select { rows, columns, count } => {
                let indices = Tensor::u32(&operands.output, &[rows, count]);
                // A comparison for each element.
                (rows * columns, Select::new(x(0, &[rows, columns]), indices).plan(gpu)?)
            }
            Self::Router { tokens } => {
                let RouterConfig { paths, per_token, choice } = ROUTER;
                let ids = gpu.buffer("ids", Element::U32, (tokens * per_token) as u64)?;
                let shape = [tokens, per_token];
                let choose = RoutePaths::new(x(0, &[tokens, paths]), Tensor::u32(&ids, &shape), y(&shape), choice);
                // An exponential, two sums and a division for each score.
                (4 * tokens * paths, choose.correction_bias(x(1, &[paths])).plan(gpu)?)
            }
            Self::Selecting { layer, one_in, skips } => {
                let count = layer.tokens / one_in;
                let settings = Settings { selection: Selection::TopK(count), ..Settings::default() };
                let Dimensions { input, output, .. } = layer.dimensions;
                let skip = skips.then(|| x(1, &[layer.batch, layer.tokens, output]));
                let (_, forward) = layer.prepare(gpu, settings, operands, skip)?;
                // Every token is scored, the selected are multiplied.
                (2 * layer.rows() * input + 2 * layer.batch * count * input * output, forward)
            }
            Self::Moe { router, tokens, features, width } => {
                let RouterConfig { paths, per_token, .. } = router;
                let block = MoeFeedForward::new(gpu, &experts(paths, features, width)?, router)?;
                let forward = block.forward(x(0, &[tokens, features])).output(y(&[tokens, features])).plan()?;
                let chosen = (tokens * per_token).min(paths);
                traffic.read += 4 * (paths * features + 3 * chosen * features * width) as u64;
                let mut plan = forward.router().plan().clone();
                plan.append(forward.plan().clone());
                (2 * tokens * features * (paths + 3 * per_token * width), plan)
            }
            Self::Forward { layer, plan, batch_invariant } => {
                let settings = Settings { plan, batch_invariant, ..Settings::default() };
                let (order, forward) = layer.prepare(gpu, settings, operands, None)?;
                let cost = order.cost(layer.dimensions, layer.rows() as u64);
                traffic.read = cost.bytes.saturating_sub(traffic.written);
                (cost.flops as usize, forward)
            }
        };
        let halves = matches!(self, Self::Matmul { element: Element::F16, .. });
        Ok(Subject {
            name: self.to_string(),
            kind: self.kind(),
            flops: flops as u64,
            on_matrix_units: halves && gpu.matrix_units().is_some(),
            traffic,
            plan,
        })
    }
}

/// Products are named as `check` names them.
impl std::fmt::Display for Spec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Matmul { rows, columns, depth, transposed, element } => {
                let element = if *element == Element::F32 { String::new() } else { format!(" {element}") };
                write!(f, "matmul {rows}x{columns}x{depth}{element}{}", if *transposed { " bt" } else { "" })
            }
            Self::Route { rows, columns, depth } => write!(f, "route {rows}x{columns}x{depth}"),
            Self::Attend { rows, depth } => write!(f, "attend {rows}x{depth}"),
            Self::Softmax { rows, columns } => write!(f, "softmax {rows}x{columns}"),
            Self::Select { rows, columns, count } => write!(f, "select {rows}x{columns} k={count}"),
            Self::Router { tokens } => write!(f, "router {tokens}x{} e={} in groups", ROUTER.paths, ROUTER.per_token),
            Self::Selecting { layer, one_in, skips } => {
                write!(f, "forward {layer} folded selecting 1/{one_in}{}", if *skips { " with skip" } else { "" })
            }
            Self::Moe { router, tokens, features, width } => {
                write!(f, "moe {tokens}x{features} {} of {} width={width}", router.per_token, router.paths)
            }
            Self::Forward { layer, plan, batch_invariant } => {
                let plan = if *plan == PlanKind::Folded { "folded" } else { "as written" };
                write!(f, "forward {layer} {plan}{}", if *batch_invariant { " batch-invariant" } else { "" })
            }
        }
    }
}

/// The router that is measured by itself.
const ROUTER: RouterConfig = RouterConfig::deepseek_v3();

/// What runs a work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    Matmul,
    Route,
    Attend,
    Softmax,
    Select,
    Router,
    Forward,
    Moe,
}

/// Bytes of each operand, counted once.
#[derive(Debug, Clone, Copy)]
pub struct Traffic {
    pub read: u64,
    pub written: u64,
}

impl Traffic {
    pub fn bytes(&self) -> u64 {
        self.read + self.written
    }
}

/// A work that is ready to be timed.
pub struct Subject {
    pub name: String,
    pub kind: Kind,
    pub flops: u64,
    /// Whether matrix units compute it, which the arithmetic of shaders does not limit.
    pub on_matrix_units: bool,
    pub traffic: Traffic,
    pub plan: Plan,
}

/// A buffer that all works read and one that all write: each alone, since they take turns.
pub struct Operands {
    pub input: wgpu::Buffer,
    pub output: wgpu::Buffer,
    /// What the first one holds.
    pub values: Vec<f32>,
}

/// Operands start at multiples of so many elements, as every device lets bindings start.
const ALIGNMENT: usize = 64;

impl Operands {
    /// Buffers that are large enough for these works, and for reading or copying so many bytes.
    pub fn new(gpu: &Gpu, specs: &[Spec], bytes: u64) -> Result<Self> {
        let streamed = (bytes / 4) as usize;
        let (mut read, mut written) = (streamed, streamed);
        for spec in specs {
            let (input, output) = spec.elements();
            read = read.max(Self::starts(&input)[input.len()]);
            written = written.max(output);
        }
        Self::of(gpu, read, written)
    }

    /// Buffers of so many elements.
    pub fn of(gpu: &Gpu, read: usize, written: usize) -> Result<Self> {
        let values = sixty_fourths(read);
        Ok(Self {
            input: gpu.upload("input", double_routing::bytemuck::cast_slice(&values))?,
            output: gpu.buffer("output", double_routing::Element::F32, written as u64)?,
            values,
        })
    }

    /// Where operands of so many elements start, and where the last one ends.
    fn starts(counts: &[usize]) -> Vec<usize> {
        let mut starts = vec![0];
        for count in counts {
            starts.push(starts[starts.len() - 1] + count.next_multiple_of(ALIGNMENT));
        }
        starts
    }
}

/// Multiples of 1/64 in −1 .. 1, the same every time: sums of thousands of them are exact.
fn sixty_fourths(count: usize) -> Vec<f32> {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 57) as f32 / 64.0 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

/// Weights of a layer whose activations stay about as large as its input.
fn weights(dimensions: Dimensions) -> Result<Weights> {
    let Dimensions { input, attention, routing, output } = dimensions;
    let linear = |out: usize, features: usize| {
        let scale = 1.0 / (features.max(1) as f32).sqrt();
        let values = |count| sixty_fourths(count).into_iter().map(|value| scale * value).collect::<Vec<_>>();
        Linear::new(values(out * features), [out, features], values(out))
    };
    Weights::new(linear(attention, input), linear(1, attention), linear(routing, attention), linear(output, routing))
}

/// Weights of a mixture of experts that get about as many tokens each.
fn experts(paths: usize, features: usize, width: usize) -> Result<MoeWeights> {
    // Not all from the start of one sequence: experts that are alike would be chosen alike.
    let all = sixty_fourths(paths * features * (1 + 3 * width));
    let (gate, rest) = all.split_at(paths * features);
    let mut maps =
        rest.chunks_exact(paths * features * width).map(|map| map.iter().map(|value| value * 0.05).collect());
    let mut next = || -> Vec<f32> { maps.next().unwrap_or_default() };
    Ok(MoeWeights {
        router: RouterWeights::new(gate.to_vec(), [paths, features], None)?,
        experts: ExpertWeights::new(next(), next(), next(), [paths, width, features])?,
        shared: None,
    })
}

/// The works that the device has the room for, and a line for each that it has not.
pub fn prepare(gpu: &Gpu, specs: &[Spec], operands: &Operands) -> Result<(Vec<Subject>, Vec<String>)> {
    let (mut subjects, mut left_out) = (Vec::new(), Vec::new());
    for spec in specs {
        match spec.prepare(gpu, operands) {
            Ok(subject) => subjects.push(subject),
            Err(error @ Error::Limit { .. }) => left_out.push(format!("{spec}: {error}")),
            Err(error) => return Err(error),
        }
    }
    Ok((subjects, left_out))
}
