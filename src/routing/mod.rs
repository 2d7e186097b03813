//! The double-routing layer: weights, the order they are multiplied in, and forwards.

mod forward;
mod order;
mod session;
mod weights;

pub use forward::{Forward, ForwardBuilder};
pub use order::{Cost, Order};
pub(crate) use session::non_finite;
pub use session::{Output, Session};
pub use weights::{Dimensions, Linear, Values, Weights};

use crate::{
    Error, Gpu, Result, Tensor,
    kernels::{Constant, PathChoice},
    moe::RouterConfig,
    tensor::Owned,
};
use order::{Map, Ordered};

/// How a layer is evaluated.
///
/// ```
/// use double_routing::{PlanKind, Selection, Settings};
/// assert_eq!(Settings::default().plan, PlanKind::Folded);
/// // Only the 64 tokens of each sequence that weigh most.
/// let settings = Settings { selection: Selection::TopK(64), ..Settings::default() };
/// # let _ = settings;
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Settings {
    /// Which order the maps are multiplied in.
    pub plan: PlanKind,
    /// Chooses how sums are added up from the adapter and the layer's dimensions alone, so that a token's result does not
    /// depend on what else is in its batch, to the last bit.
    pub batch_invariant: bool,
    /// The first level: which tokens of a sequence are routed at all.
    pub selection: Selection,
    /// The second level, for weights with several paths: how many of them a token takes, and how they are chosen.
    pub paths: PathSettings,
}

/// Which tokens of a sequence are routed. Those that are not cost nothing but their weight, and their y is 0 or what
/// [`ForwardBuilder::skip`] says.
///
/// ```
/// use double_routing::Selection;
/// assert_eq!(Selection::TopK(64).count(512), Some(64));
/// assert_eq!(Selection::Fraction(0.125).count(100), Some(13));
/// assert_eq!(Selection::default().count(512), None);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub enum Selection {
    /// Every token.
    #[default]
    All,
    /// So many with the largest weights, of equals the first; all, where a sequence has no more.
    TopK(usize),
    /// This share of a sequence's positions, rounded up.
    Fraction(f32),
}

impl Selection {
    /// The tokens of a sequence of so many positions that are routed, where not simply all are.
    ///
    /// ```
    /// assert_eq!(double_routing::Selection::TopK(5).count(3), Some(3));
    /// ```
    pub fn count(self, positions: usize) -> Option<usize> {
        match self {
            Self::All => None,
            Self::TopK(count) => Some(count.min(positions)),
            Self::Fraction(share) => Some(((f64::from(share) * positions as f64).ceil() as usize).min(positions)),
        }
    }

    fn check(self) -> Result<()> {
        match self {
            Self::TopK(0) => Err(Error::shape(NAME, "selection: 0 tokens of each sequence")),
            Self::Fraction(share) if !(share > 0.0 && share <= 1.0) => {
                Err(Error::shape(NAME, format!("selection: the fraction {share} is not within 0 and 1")))
            }
            _ => Ok(()),
        }
    }
}

/// How a token's paths are chosen.
///
/// ```
/// assert_eq!(double_routing::PathSettings::default().per_token, 1);
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PathSettings {
    /// e: the paths of a token.
    pub per_token: usize,
    /// How they are chosen and what they weigh.
    pub choice: PathChoice,
}

impl Default for PathSettings {
    /// The best path, by softmax.
    fn default() -> Self {
        Self { per_token: 1, choice: PathChoice::default() }
    }
}

/// The two plans.
///
/// ```
/// assert_eq!(double_routing::PlanKind::default(), double_routing::PlanKind::Folded);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PlanKind {
    /// Maps folded in f64 when the layer is made, in the cheapest order for its dimensions: [`Order::cheapest`].
    #[default]
    Folded,
    /// [`Order::AsWritten`]: `h`, `w`, `routed` and `y` can each be read.
    AsWritten,
}

/// A double-routing layer whose weights are on a device:
/// `h = embedding(x);  w = softmax(attention(h), dim=1);  y = routing2(routing1(h * w))`.
///
/// ```
/// use double_routing::{AdapterChoice, DoubleRouting, Gpu, Linear, Settings, Weights};
///
/// # fn main() -> double_routing::Result<()> { pollster::block_on(async {
/// let gpu = Gpu::open(&AdapterChoice::default()).await?;
/// // From a file: Weights::from_safetensors(&std::fs::read("router.safetensors")?, "").
/// let weights = Weights::new(
///     Linear::new(vec![1.0f32, 0.0, 0.0, 1.0], [2, 2], vec![0.0f32; 2]),
///     Linear::new(vec![1.0f32, 1.0], [1, 2], vec![0.0f32; 1]),
///     Linear::new(vec![2.0f32, 0.0, 0.0, 2.0], [2, 2], vec![0.0f32; 2]),
///     Linear::new(vec![1.0f32, 0.0, 0.0, 1.0], [2, 2], vec![1.0f32; 2]),
/// )?;
/// let layer = DoubleRouting::new(&gpu, &weights, Settings::default())?;
/// // One sequence of two tokens with equal logits: each weighs a half.
/// let output = layer.run(&[3.0, 1.0, 1.0, 3.0], &[1, 2, 2], None).await?;
/// for (y, expected) in output.y.iter().zip([4.0, 2.0, 2.0, 4.0]) {
///     assert!((y - expected).abs() < 1e-5, "y is {y}, expected {expected}");
/// }
/// # Ok(()) }) }
/// ```
#[derive(Debug)]
pub struct DoubleRouting {
    gpu: Gpu,
    dimensions: Dimensions,
    settings: Settings,
    order: Order,
    before: Vec<Uploaded>,
    attention: Uploaded,
    attends_first: bool,
    /// Where it reads the first map's result: the one that reads x, for when only some tokens are selected.
    attention_of_x: Option<Uploaded>,
    routed: Uploaded,
    outer: Uploaded,
    after: Option<Uploaded>,
    paths: Option<Paths>,
}

/// The second level of a layer with several paths.
#[derive(Debug)]
struct Paths {
    config: RouterConfig,
    gate: Uploaded,
    /// `[P, O, R]` and `[P, O]`.
    weight: Constant,
    bias: Owned,
}

impl Paths {
    fn new(gpu: &Gpu, weights: &Weights, settings: PathSettings) -> Result<Option<Self>> {
        let Some(gate) = &weights.path_gate else { return Ok(None) };
        let paths = weights.paths();
        let config = RouterConfig { paths, per_token: settings.per_token, choice: settings.choice };
        config.check()?;
        let Dimensions { routing, output, .. } = weights.dimensions();
        Ok(Some(Self {
            config,
            gate: Uploaded::new(gpu, "path gate", &gate.into())?,
            weight: Constant::upload(gpu, "paths", &weights.routing2.weight, &[paths, output, routing])?,
            bias: Owned::upload(gpu, "paths' biases", &weights.routing2.bias, &[paths, output])?,
        }))
    }
}

/// A map on the device.
#[derive(Debug)]
struct Uploaded {
    weight: Constant,
    bias: Option<Owned>,
}

impl Uploaded {
    fn new(gpu: &Gpu, label: &str, map: &Map) -> Result<Self> {
        let bias = match &map.bias {
            Some(bias) => Some(Owned::upload(gpu, label, bias, &map.shape[..1])?),
            None => None,
        };
        Ok(Self { weight: Constant::upload(gpu, label, &map.weight, &map.shape)?, bias })
    }

    /// `[out, in]`.
    fn shape(&self) -> &[usize] {
        self.weight.shape()
    }

    fn weight(&self) -> Tensor<'_> {
        self.weight.tensor()
    }

    fn bias(&self) -> Option<Tensor<'_>> {
        self.bias.as_ref().map(Owned::tensor)
    }
}

const NAME: &str = "double routing";

impl DoubleRouting {
    /// Folds the weights as the settings say and writes them to the device with the queue's next submission.
    ///
    /// # Errors
    /// [`Error::Limit`] where a map exceeds the device's largest buffer, [`Error::Shape`] for a selection of nothing or paths that
    /// do not fit the weights. Where memory runs out, see [`Gpu::error_scope`].
    ///
    /// ```no_run
    /// # use double_routing::{DoubleRouting, Gpu, Result, Settings, Weights};
    /// # fn layer(gpu: &Gpu, weights: &Weights) -> Result<DoubleRouting> {
    /// DoubleRouting::new(gpu, weights, Settings::default())
    /// # }
    /// ```
    pub fn new(gpu: &Gpu, weights: &Weights, settings: Settings) -> Result<Self> {
        let dimensions = weights.dimensions();
        let order = match settings.plan {
            PlanKind::AsWritten => Order::AsWritten,
            PlanKind::Folded if weights.path_gate.is_some() => Order::cheapest_with_paths(dimensions),
            PlanKind::Folded => Order::cheapest(dimensions),
        };
        Self::with_order(gpu, weights, settings, order)
    }

    /// As [`DoubleRouting::new`], in an order of the caller's choice instead of the cheapest.
    ///
    /// # Errors
    /// As [`DoubleRouting::new`].
    ///
    /// ```no_run
    /// # use double_routing::{DoubleRouting, Gpu, Order, Result, Settings, Weights};
    /// # fn layer(gpu: &Gpu, weights: &Weights) -> Result<DoubleRouting> {
    /// DoubleRouting::with_order(gpu, weights, Settings::default(), Order::Embedding)
    /// # }
    /// ```
    pub fn with_order(gpu: &Gpu, weights: &Weights, settings: Settings, order: Order) -> Result<Self> {
        settings.selection.check()?;
        let ordered = Ordered::new(weights, order);
        let before: Result<Vec<_>> = ordered.before.iter().map(|map| Uploaded::new(gpu, "map", map)).collect();
        let outputs = ordered.routed.shape[0];
        let layer = Self {
            gpu: gpu.clone(),
            dimensions: weights.dimensions(),
            settings,
            order,
            before: before?,
            attention: Uploaded::new(gpu, "attention", &ordered.attention)?,
            attends_first: ordered.attends_first,
            attention_of_x: match settings.selection {
                Selection::All => None,
                _ => ordered
                    .attention_of_x(weights, order)
                    .map(|map| Uploaded::new(gpu, "attention of x", &map))
                    .transpose()?,
            },
            routed: Uploaded::new(gpu, "routed map", &ordered.routed)?,
            outer: Uploaded::new(gpu, "outer bias", &Map { weight: ordered.outer, shape: [outputs, 1], bias: None })?,
            after: ordered.after.as_ref().map(|map| Uploaded::new(gpu, "last map", map)).transpose()?,
            paths: Paths::new(gpu, weights, settings.paths)?,
        };
        log::info!("double routing {}: order {}", layer.dimensions, layer.order);
        Ok(layer)
    }

    /// The layer's dimensions.
    ///
    /// ```no_run
    /// # fn show(layer: &double_routing::DoubleRouting) {
    /// println!("{}", layer.dimensions());
    /// # }
    /// ```
    pub fn dimensions(&self) -> Dimensions {
        self.dimensions
    }

    /// The order its maps are multiplied in; [`Order::cost`] says what each order costs.
    ///
    /// ```no_run
    /// # fn show(layer: &double_routing::DoubleRouting) {
    /// println!("{}: {} FLOPs", layer.order(), layer.order().cost(layer.dimensions(), 4096).flops);
    /// # }
    /// ```
    pub fn order(&self) -> Order {
        self.order
    }

    /// How it is evaluated.
    ///
    /// ```no_run
    /// # fn show(layer: &double_routing::DoubleRouting) {
    /// println!("{:?}", layer.settings().selection);
    /// # }
    /// ```
    pub fn settings(&self) -> Settings {
        self.settings
    }

    /// The device that the weights are on.
    ///
    /// ```no_run
    /// # fn show(layer: &double_routing::DoubleRouting) {
    /// println!("{}", layer.gpu().info().name);
    /// # }
    /// ```
    pub fn gpu(&self) -> &Gpu {
        &self.gpu
    }

    /// A forward for `x`, f32, f16 or bf16 `[…, in]` of rank 2 or more; weights of 16 bits that it is multiplied with are of the same type
    /// or it is f32. What lies between x and y is f32. Softmax runs over axis 1, as PyTorch's `dim=1` has it
    /// (`[B, S, in]`: the S tokens; `[N, in]`: every weight is 1; `[B, C, …, in]`: C, strided).
    ///
    /// ```no_run
    /// # use double_routing::{DoubleRouting, Tensor, wgpu};
    /// # fn record(layer: &DoubleRouting, x: &wgpu::Buffer, y: &wgpu::Buffer, encoder: &mut wgpu::CommandEncoder)
    /// # -> double_routing::Result<()> {
    /// let forward = layer.forward(Tensor::f32(x, &[8, 512, 768])).output(Tensor::f32(y, &[8, 512, 256])).plan()?;
    /// forward.record(&mut encoder.begin_compute_pass(&Default::default()));
    /// # Ok(()) }
    /// ```
    pub fn forward<'a>(&'a self, x: Tensor<'a>) -> ForwardBuilder<'a> {
        ForwardBuilder::new(self, x)
    }
}
