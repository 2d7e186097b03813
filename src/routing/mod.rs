//! The double-routing layer: weights, the order they are multiplied in, and forwards.

mod order;
mod session;
mod weights;

pub use order::{Cost, Order};
pub use session::{Output, Session};
pub use weights::{Dimensions, Linear, Values, Weights};

use crate::{
    Element, Error, Gpu, Plan, Result, Tensor,
    kernels::{Attend, Matmul, Route, Softmax},
    tensor::Owned,
};
use order::{Map, Ordered};

/// How a layer is evaluated.
///
/// ```
/// use double_routing::{PlanKind, Settings};
/// assert_eq!(Settings::default().plan, PlanKind::Folded);
/// let settings = Settings { plan: PlanKind::AsWritten, ..Settings::default() };
/// # let _ = settings;
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Settings {
    /// Which order the maps are multiplied in.
    pub plan: PlanKind,
    /// Chooses kernel configurations from the adapter and the layer's dimensions alone, so that a token's result does not
    /// depend on what else is in its batch.
    pub batch_invariant: bool,
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
    routed: Uploaded,
    outer: Uploaded,
    after: Option<Uploaded>,
}

/// A map on the device.
#[derive(Debug)]
struct Uploaded {
    weight: wgpu::Buffer,
    element: Element,
    shape: Vec<usize>,
    bias: Option<(wgpu::Buffer, Element)>,
}

impl Uploaded {
    fn new(gpu: &Gpu, label: &str, map: &Map) -> Result<Self> {
        let bias = match &map.bias {
            Some(bias) => Some((gpu.upload(label, bias.bytes())?, bias.element())),
            None => None,
        };
        Ok(Self {
            weight: gpu.upload(label, map.weight.bytes())?,
            element: map.weight.element(),
            shape: map.shape.to_vec(),
            bias,
        })
    }

    fn weight(&self) -> Tensor<'_> {
        Tensor::new(&self.weight, self.element, &self.shape)
    }

    fn bias(&self) -> Option<Tensor<'_>> {
        self.bias.as_ref().map(|(buffer, element)| Tensor::new(buffer, *element, &self.shape[..1]))
    }
}

const NAME: &str = "double routing";

impl DoubleRouting {
    /// Folds the weights as the settings say and writes them to the device with the queue's next submission.
    ///
    /// # Errors
    /// [`Error::Limit`] where a map exceeds the device's largest buffer. Where memory runs out, see
    /// [`Gpu::error_scope`].
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
            routed: Uploaded::new(gpu, "routed map", &ordered.routed)?,
            outer: Uploaded::new(gpu, "outer bias", &Map { weight: ordered.outer, shape: [outputs, 1], bias: None })?,
            after: ordered.after.as_ref().map(|map| Uploaded::new(gpu, "last map", map)).transpose()?,
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

    /// A forward for `x`, f32 `[…, in]` of rank 2 or more: softmax runs over axis 1, as PyTorch's `dim=1` has it
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
        ForwardBuilder { layer: self, x, output: None, lengths: None }
    }
}

/// What a forward reads and writes; made by [`DoubleRouting::forward`].
///
/// ```no_run
/// # use double_routing::{DoubleRouting, Forward, Result, Tensor};
/// # fn plan(layer: &DoubleRouting, x: Tensor<'_>, lengths: Tensor<'_>) -> Result<Forward> {
/// layer.forward(x).lengths(lengths).plan()
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct ForwardBuilder<'a> {
    layer: &'a DoubleRouting,
    x: Tensor<'a>,
    output: Option<Tensor<'a>>,
    lengths: Option<Tensor<'a>>,
}

/// A forward that is ready to be recorded: the plan, and where its results lie.
///
/// ```no_run
/// # use double_routing::{Forward, wgpu};
/// # fn record(forward: &Forward, encoder: &mut wgpu::CommandEncoder) {
/// forward.record(&mut encoder.begin_compute_pass(&Default::default()));
/// println!("weights: {:?}", forward.w().shape());
/// # }
/// ```
#[derive(Debug)]
pub struct Forward {
    plan: Plan,
    h: Option<Owned>,
    logits: Owned,
    w: Owned,
    routed: Option<Owned>,
    y: Owned,
}

impl<'a> ForwardBuilder<'a> {
    /// Writes y to a tensor of the caller's, f32 `[…, O]`, instead of a buffer of the forward's own.
    ///
    /// ```no_run
    /// # use double_routing::{ForwardBuilder, Tensor};
    /// # fn output<'a>(forward: ForwardBuilder<'a>, y: Tensor<'a>) -> ForwardBuilder<'a> {
    /// forward.output(y)
    /// # }
    /// ```
    #[must_use]
    pub fn output(mut self, y: Tensor<'a>) -> Self {
        self.output = Some(y);
        self
    }

    /// How many positions of axis 1 count, u32, one for each index of axis 0. The others get weight 0; where none counts,
    /// y is d (what every token shares), never NaN.
    ///
    /// ```no_run
    /// # use double_routing::{ForwardBuilder, Tensor};
    /// # fn masked<'a>(forward: ForwardBuilder<'a>, lengths: Tensor<'a>) -> ForwardBuilder<'a> {
    /// forward.lengths(lengths)
    /// # }
    /// ```
    #[must_use]
    pub fn lengths(mut self, lengths: Tensor<'a>) -> Self {
        self.lengths = Some(lengths);
        self
    }

    /// Checks everything, makes the intermediate buffers and builds the steps.
    ///
    /// # Errors
    /// [`Error::Shape`], [`Error::Element`] or [`Error::Buffer`] for tensors that do not fit, [`Error::Limit`] where an
    /// intermediate exceeds the device's largest buffer. Where memory runs out, see [`Gpu::error_scope`].
    ///
    /// ```no_run
    /// # use double_routing::{Forward, ForwardBuilder, Result};
    /// # fn plan(forward: ForwardBuilder<'_>) -> Result<Forward> {
    /// forward.plan()
    /// # }
    /// ```
    pub fn plan(&self) -> Result<Forward> {
        let layer = self.layer;
        let gpu = &layer.gpu;
        let shape = self.x.shape();
        let input = layer.dimensions.input;
        let [leading @ .., features] = shape else {
            return Err(Error::shape(NAME, "x has no dimension, expected [B, S, in], [N, in] or more"));
        };
        if leading.is_empty() {
            return Err(Error::shape(
                NAME,
                format!("x is {shape:?}: softmax runs over axis 1, so its rank must be 2 or more"),
            ));
        }
        if *features != input {
            let weight = [layer.dimensions.attention, input];
            return Err(Error::shape(NAME, format!("x is {shape:?}, embedding.weight is {weight:?}")));
        }
        if let Some(lengths) = &self.lengths
            && lengths.shape() != [leading[0]]
        {
            let wanted = [leading[0]];
            return Err(Error::shape(NAME, format!("lengths are {:?}, x {shape:?} needs {wanted:?}", lengths.shape())));
        }
        let scratch =
            |label: &'static str, width: usize| Owned::new(gpu, label, Element::F32, &[leading, &[width]].concat());
        let invariant = layer.settings.batch_invariant;
        let mut plan = Plan::default();

        let mut between = Vec::new();
        for map in &layer.before {
            let result = scratch("activation", map.shape[0])?;
            let from = between.last().map_or_else(|| self.x.clone(), Owned::tensor);
            let mut product = Matmul::new(from, map.weight(), result.tensor()).transposed().batch_invariant(invariant);
            if let Some(bias) = map.bias() {
                product = product.bias(bias);
            }
            plan.append(product.plan(gpu)?);
            between.push(result);
        }

        let logits = scratch("logits", 1)?;
        let attended = match between.first() {
            Some(first) if layer.attends_first => first.tensor(),
            _ => self.x.clone(),
        };
        let mut attend = Attend::new(attended, layer.attention.weight(), logits.tensor());
        if let Some(bias) = layer.attention.bias() {
            attend = attend.bias(bias);
        }
        plan.append(attend.plan(gpu)?);

        let w = scratch("w", 1)?;
        let mut softmax = Softmax::new(logits.tensor(), w.tensor(), 1).batch_invariant(invariant);
        if let Some(lengths) = &self.lengths {
            softmax = softmax.lengths(lengths.clone());
        }
        plan.append(softmax.plan(gpu)?);

        let y = match &self.output {
            Some(y) => {
                let wanted = [leading, &[layer.dimensions.output]].concat();
                if y.shape() != wanted {
                    return Err(Error::shape(NAME, format!("y is {:?}, x {shape:?} gives {wanted:?}", y.shape())));
                }
                // Some orders read x in an earlier dispatch than they write y in, but a plan is recorded more than once.
                self.x.check_apart(NAME, "x", y)?;
                if let Some(lengths) = &self.lengths {
                    lengths.check_apart(NAME, "lengths", y)?;
                }
                Owned::of(y)
            }
            None => scratch("y", layer.dimensions.output)?,
        };
        let y_tensor = self.output.clone().unwrap_or_else(|| y.tensor());
        let routed = match &layer.after {
            Some(_) => Some(scratch("routed", layer.routed.shape[0])?),
            None => None,
        };
        let from = between.last().map_or_else(|| self.x.clone(), Owned::tensor);
        let to = routed.as_ref().map_or_else(|| y_tensor.clone(), Owned::tensor);
        let outer = layer.outer.weight().reshape(&layer.outer.shape[..1]);
        let mut route = Route::new(from, layer.routed.weight(), w.tensor(), to).outer(outer).batch_invariant(invariant);
        if let Some(inner) = layer.routed.bias() {
            route = route.inner(inner);
        }
        plan.append(route.plan(gpu)?);
        if let (Some(map), Some(routed)) = (&layer.after, &routed) {
            let mut product =
                Matmul::new(routed.tensor(), map.weight(), y_tensor).transposed().batch_invariant(invariant);
            if let Some(bias) = map.bias() {
                product = product.bias(bias);
            }
            plan.append(product.plan(gpu)?);
        }

        for own in between.iter().chain([&logits, &w]).chain(&routed) {
            plan.keep(own.buffer().clone());
        }
        let h = between.into_iter().next().filter(|_| layer.attends_first);
        Ok(Forward { plan, h, logits, w, routed, y })
    }
}

impl Forward {
    /// Records every step. Submits nothing, waits for nothing, allocates nothing.
    ///
    /// ```no_run
    /// # use double_routing::{Forward, wgpu};
    /// # fn record(forward: &Forward, encoder: &mut wgpu::CommandEncoder) {
    /// forward.record(&mut encoder.begin_compute_pass(&Default::default()));
    /// # }
    /// ```
    pub fn record(&self, pass: &mut wgpu::ComputePass<'_>) {
        self.plan.record(pass);
    }

    /// The steps and what they need.
    ///
    /// ```no_run
    /// # fn show(forward: &double_routing::Forward) {
    /// println!("{} dispatches, {} bytes", forward.plan().steps().len(), forward.plan().scratch_bytes());
    /// # }
    /// ```
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// The routing weights, `[…, 1]`: x's shape with the last axis 1.
    ///
    /// ```no_run
    /// # async fn read(gpu: &double_routing::Gpu, forward: &double_routing::Forward) -> double_routing::Result<Vec<u8>> {
    /// gpu.read(&forward.w()).await
    /// # }
    /// ```
    pub fn w(&self) -> Tensor<'_> {
        self.w.tensor()
    }

    /// The result, `[…, O]`.
    ///
    /// ```no_run
    /// # async fn read(gpu: &double_routing::Gpu, forward: &double_routing::Forward) -> double_routing::Result<Vec<u8>> {
    /// gpu.read(&forward.y()).await
    /// # }
    /// ```
    pub fn y(&self) -> Tensor<'_> {
        self.y.tensor()
    }

    /// The attention logits, `[…, 1]`.
    ///
    /// ```no_run
    /// # async fn read(gpu: &double_routing::Gpu, forward: &double_routing::Forward) -> double_routing::Result<Vec<u8>> {
    /// gpu.read(&forward.logits()).await
    /// # }
    /// ```
    pub fn logits(&self) -> Tensor<'_> {
        self.logits.tensor()
    }

    /// The embedding, `[…, A]`, where the order computes it.
    ///
    /// ```no_run
    /// # fn shape(forward: &double_routing::Forward) -> Option<Vec<usize>> {
    /// forward.h().map(|h| h.shape().to_vec())
    /// # }
    /// ```
    pub fn h(&self) -> Option<Tensor<'_>> {
        self.h.as_ref().map(Owned::tensor)
    }

    /// `routing1(h * w)`, `[…, R]`, in the plan as written.
    ///
    /// ```no_run
    /// # fn shape(forward: &double_routing::Forward) -> Option<Vec<usize>> {
    /// forward.routed().map(|routed| routed.shape().to_vec())
    /// # }
    /// ```
    pub fn routed(&self) -> Option<Tensor<'_>> {
        self.routed.as_ref().map(Owned::tensor)
    }
}
