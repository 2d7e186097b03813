//! The feed-forward block of a mixture of experts.

use super::{ExpertWeights, MoeWeights, Router, RouterConfig, RouterForward, Routing};
use crate::{
    Element, Error, Gpu, Plan, Result, Storage, Tensor, Values,
    kernels::{Attend, Combine, Constant, Matmul, Packed, PathChoice, PathMatmul, Route, RoutePaths, Score},
    routing::non_finite,
    tensor::{Owned, elements},
};

/// A mixture-of-experts block whose weights are on a device:
/// `y_t = Σ_j gate_tj · down_j(silu(gate_j(x_t)) ⊙ up_j(x_t)) + shared(x_t)` over the experts j of token t.
///
/// ```
/// use double_routing::{AdapterChoice, Gpu, moe::{ExpertWeights, MoeFeedForward, MoeWeights, RouterConfig, RouterWeights}};
///
/// # fn main() -> double_routing::Result<()> { pollster::block_on(async {
/// let gpu = Gpu::open(&AdapterChoice::default()).await?;
/// // From a file: MoeWeights::from_safetensors(&[&bytes], "model.layers.3.mlp.").
/// let ones = |count: usize| vec![1.0f32; count];
/// let weights = MoeWeights {
///     router: RouterWeights::new((0..8).map(|path| path as f32).collect::<Vec<f32>>(), [8, 1], None)?,
///     experts: ExpertWeights::new(ones(8), ones(8), ones(8), [8, 1, 1])?,
///     shared: None,
/// };
/// let block = MoeFeedForward::new(&gpu, &weights, RouterConfig::mixtral())?;
/// // All experts are alike, and the gates add up to 1: y = silu(x) · x.
/// let output = block.run(&[2.0], &[1, 1]).await?;
/// assert!((output.y[0] - 2.0 * 2.0 / (1.0 + (-2.0f32).exp())).abs() < 1e-5);
/// assert_eq!(output.routing.ids, [7, 6]);
/// # Ok(()) }) }
/// ```
#[derive(Debug)]
pub struct MoeFeedForward {
    router: Router,
    experts: Experts,
    shared: Option<(Experts, Option<Owned>)>,
}

/// Experts on the device.
#[derive(Debug)]
struct Experts {
    gate: Constant,
    up: Constant,
    down: Constant,
}

impl Experts {
    fn new(gpu: &Gpu, weights: &ExpertWeights) -> Result<Self> {
        let ExpertWeights { gate, up, down, paths, width, features } = weights;
        let upload = |label, values: &Values, shape: [usize; 3]| Constant::upload(gpu, label, values, &shape);
        Ok(Self {
            gate: upload("gate_proj", gate, [*paths, *width, *features])?,
            up: upload("up_proj", up, [*paths, *width, *features])?,
            down: upload("down_proj", down, [*paths, *features, *width])?,
        })
    }

    /// Features between the maps.
    fn width(&self) -> usize {
        self.gate.shape()[1]
    }
}

const NAME: &str = "mixture of experts";

impl MoeFeedForward {
    /// Writes the weights to the device with the queue's next submission.
    ///
    /// # Errors
    /// As [`Router::new`]; [`Error::Shape`] where the experts are not as many as the router's paths or of other features;
    /// [`Error::Limit`] where a stack of weights exceeds a buffer.
    ///
    /// ```no_run
    /// # use double_routing::{Gpu, Result, moe::{MoeFeedForward, MoeWeights, RouterConfig}};
    /// # fn block(gpu: &Gpu, weights: &MoeWeights) -> Result<MoeFeedForward> {
    /// MoeFeedForward::new(gpu, weights, RouterConfig::deepseek_v3())
    /// # }
    /// ```
    pub fn new(gpu: &Gpu, weights: &MoeWeights, config: RouterConfig) -> Result<Self> {
        let MoeWeights { router, experts, shared } = weights;
        let [paths, features] = router.shape;
        if [experts.paths, experts.features] != router.shape {
            let stacked = [experts.paths, experts.width, experts.features];
            return Err(Error::shape(NAME, format!("experts are {stacked:?}, gate.weight is {:?}", router.shape)));
        }
        let shared_experts = match shared {
            Some(shared) => {
                let expert = &shared.expert;
                let gate_fits = shared.gate.as_ref().is_none_or(|gate| gate.len() == features);
                if [expert.paths, expert.features] != [1, features] || !gate_fits {
                    let stacked = [expert.paths, expert.width, expert.features];
                    return Err(Error::shape(
                        NAME,
                        format!("the shared expert is {stacked:?}, x has {features} features"),
                    ));
                }
                let gate = match &shared.gate {
                    Some(gate) => Some(Owned::upload(gpu, "shared_expert_gate", gate, &[1, features])?),
                    None => None,
                };
                Some((Experts::new(gpu, expert)?, gate))
            }
            None => None,
        };
        log::info!("mixture of {paths} experts, {} a token", config.per_token);
        Ok(Self {
            router: Router::new(gpu, router, config)?,
            experts: Experts::new(gpu, experts)?,
            shared: shared_experts,
        })
    }

    /// Chooses tiles whatever the number of tokens, so that a token's result does not depend on what else is in its batch.
    ///
    /// ```no_run
    /// # fn invariant(block: double_routing::moe::MoeFeedForward) -> double_routing::moe::MoeFeedForward {
    /// block.batch_invariant(true)
    /// # }
    /// ```
    #[must_use]
    pub fn batch_invariant(mut self, invariant: bool) -> Self {
        self.router = self.router.batch_invariant(invariant);
        self
    }

    /// Its router.
    ///
    /// ```no_run
    /// # fn show(block: &double_routing::moe::MoeFeedForward) {
    /// println!("{} experts", block.router().config().paths);
    /// # }
    /// ```
    pub fn router(&self) -> &Router {
        &self.router
    }

    /// The most tokens that one forward can take on this device: every intermediate must fit a binding.
    ///
    /// ```no_run
    /// # fn show(block: &double_routing::moe::MoeFeedForward) {
    /// println!("{} tokens at a time", block.max_tokens());
    /// # }
    /// ```
    pub fn max_tokens(&self) -> usize {
        let config = self.router.config();
        let widest = self.router.features().max(self.experts.width()) * config.per_token;
        let of_shared = self.shared.as_ref().map_or(0, |(shared, _)| shared.width());
        let widest = widest.max(config.paths).max(of_shared);
        (self.router.gpu().unaligned_limit() / 4 / widest as u64) as usize
    }

    /// A forward for x `[…, D]`, f32, f16 or bf16. Weights of 16 bits go with an x of the same type or of f32.
    ///
    /// ```no_run
    /// # use double_routing::{Result, Tensor, moe::MoeFeedForward, wgpu};
    /// # fn record(block: &MoeFeedForward, x: &wgpu::Buffer, y: &wgpu::Buffer, encoder: &mut wgpu::CommandEncoder)
    /// # -> Result<()> {
    /// let forward = block.forward(Tensor::f32(x, &[8, 64, 7168])).output(Tensor::f32(y, &[8, 64, 7168])).plan()?;
    /// forward.record(&mut encoder.begin_compute_pass(&Default::default()));
    /// # Ok(()) }
    /// ```
    pub fn forward<'a>(&'a self, x: Tensor<'a>) -> MoeForwardBuilder<'a> {
        MoeForwardBuilder { block: self, x, output: None, margin: false, capacity: None }
    }

    /// Runs one forward: uploads x (`[…, D]`), computes, reads y and the routing back.
    ///
    /// # Errors
    /// As [`MoeForwardBuilder::plan`]; [`Error::Shape`] where x has not so many values; [`Error::OutOfMemory`] and
    /// [`Error::DeviceLost`].
    ///
    /// ```no_run
    /// # async fn run(block: &double_routing::moe::MoeFeedForward, x: &[f32]) -> double_routing::Result<()> {
    /// let output = block.run(x, &[8, 64, 7168]).await?;
    /// # Ok(()) }
    /// ```
    pub async fn run(&self, x: &[f32], shape: &[usize]) -> Result<MoeOutput> {
        self.run_with(x, shape, Storage::default()).await
    }

    /// As [`MoeFeedForward::run`], with x and y stored otherwise on the device: x is rounded to its type and y widened, both exactly where
    /// they are of these types already.
    ///
    /// # Errors
    /// As [`MoeFeedForward::run`].
    ///
    /// ```no_run
    /// # async fn run(block: &double_routing::moe::MoeFeedForward, x: &[f32]) -> double_routing::Result<()> {
    /// use double_routing::{Element, Storage};
    /// let output = block.run_with(x, &[8, 64, 7168], Storage { x: Element::BF16, y: Element::BF16 }).await?;
    /// # Ok(()) }
    /// ```
    pub async fn run_with(&self, x: &[f32], shape: &[usize], storage: Storage) -> Result<MoeOutput> {
        let gpu = self.router.gpu();
        if elements(NAME, shape)? != x.len() as u64 {
            return Err(Error::shape(NAME, format!("x has {} values for {shape:?}", x.len())));
        }
        let scope = gpu.error_scope();
        let submitted = self.submit(x, shape, storage);
        scope.close().await?;
        let forward = submitted?;
        let y = gpu.read(&forward.y());
        let shared_logits = forward.shared_logits().map(|logits| gpu.read(&logits));
        let routing = forward.router.read(gpu).await?;
        let shared_logits = match shared_logits {
            Some(logits) => bytemuck::pod_collect_to_vec(&logits.await?),
            None => Vec::new(),
        };
        Ok(MoeOutput { y: Values::from_bytes(&y.await?, storage.y).to_f32(), routing, shared_logits })
    }

    fn submit(&self, x: &[f32], shape: &[usize], storage: Storage) -> Result<MoeForward> {
        let gpu = self.router.gpu();
        let x = Owned::rounded(gpu, x, shape, storage.x)?;
        let y = Owned::new(gpu, "y", storage.y, shape)?;
        let forward = self.forward(x.tensor()).output(y.tensor()).margin().plan()?;
        let mut encoder = gpu.device().create_command_encoder(&Default::default());
        forward.record(&mut encoder.begin_compute_pass(&Default::default()));
        gpu.queue().submit([encoder.finish()]);
        Ok(forward)
    }
}

/// What a block gives back to the CPU.
///
/// ```no_run
/// # async fn show(block: &double_routing::moe::MoeFeedForward, x: &[f32]) -> double_routing::Result<()> {
/// let output = block.run(x, &[512, 7168]).await?;
/// println!("{} values", output.y.len());
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct MoeOutput {
    /// The shape of x.
    pub y: Vec<f32>,
    /// Which experts each token had.
    pub routing: Routing,
    /// `[T]`: what the shared expert's weight is the sigmoid of. Empty where it has no gate.
    pub shared_logits: Vec<f32>,
}

impl MoeOutput {
    /// The first value that is infinite or NaN, of what comes first: what it is of, and which of its values. Those of the
    /// [routing](Routing::first_non_finite), then of the shared expert's logits, of which sigmoid may make a finite weight, then of y.
    /// Whatever else overflows on the way, in or between an expert's maps, makes y infinite or NaN, and so does a y beyond 65 504 that is
    /// stored as f16.
    ///
    /// ```no_run
    /// # async fn run(block: &double_routing::moe::MoeFeedForward, x: &[f32]) -> double_routing::Result<()> {
    /// let output = block.run(x, &[512, 7168]).await?;
    /// assert_eq!(output.first_non_finite(), None);
    /// # Ok(()) }
    /// ```
    pub fn first_non_finite(&self) -> Option<(&'static str, usize)> {
        let Self { y, routing, shared_logits } = self;
        routing.first_non_finite().or_else(|| non_finite(&[("shared_logits", shared_logits), ("y", y)]))
    }
}

/// What a block's forward reads and writes; made by [`MoeFeedForward::forward`].
///
/// ```no_run
/// # use double_routing::{Result, Tensor, moe::{MoeFeedForward, MoeForward}};
/// # fn plan(block: &MoeFeedForward, x: Tensor<'_>) -> Result<MoeForward> {
/// block.forward(x).plan()
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct MoeForwardBuilder<'a> {
    block: &'a MoeFeedForward,
    x: Tensor<'a>,
    output: Option<Tensor<'a>>,
    margin: bool,
    capacity: Option<u32>,
}

/// The tokens, `[tokens, features]`, and what they are packed as by the steps before.
struct Input<'x> {
    x: Tensor<'x>,
    tokens: usize,
    packed: Option<Packed>,
}

impl<'a> MoeForwardBuilder<'a> {
    /// Writes y to a tensor of the caller's, f32, f16 or bf16 of x's shape, instead of an f32 buffer of the forward's own. Each element is
    /// rounded once from its f32 sum; what is beyond f16's largest number, 65 504, becomes infinite. One of 16 bits starts at a multiple
    /// of 4 bytes.
    ///
    /// ```no_run
    /// # use double_routing::{Tensor, moe::MoeForwardBuilder};
    /// # fn output<'a>(forward: MoeForwardBuilder<'a>, y: Tensor<'a>) -> MoeForwardBuilder<'a> {
    /// forward.output(y)
    /// # }
    /// ```
    #[must_use]
    pub fn output(mut self, y: Tensor<'a>) -> Self {
        self.output = Some(y);
        self
    }

    /// As [`RouterForwardBuilder::margin`](super::RouterForwardBuilder::margin).
    ///
    /// ```no_run
    /// # use double_routing::moe::MoeForwardBuilder;
    /// # fn with<'a>(forward: MoeForwardBuilder<'a>) -> MoeForwardBuilder<'a> {
    /// forward.margin()
    /// # }
    /// ```
    #[must_use]
    pub fn margin(mut self) -> Self {
        self.margin = true;
        self
    }

    /// An expert takes at most so many tokens, the first ones; what is dropped adds nothing to a token's result.
    ///
    /// ```no_run
    /// # use double_routing::moe::MoeForwardBuilder;
    /// # fn with<'a>(forward: MoeForwardBuilder<'a>) -> MoeForwardBuilder<'a> {
    /// forward.capacity(64)
    /// # }
    /// ```
    #[must_use]
    pub fn capacity(mut self, tokens: u32) -> Self {
        self.capacity = Some(tokens);
        self
    }

    /// Checks everything, makes the intermediate buffers and builds the steps.
    ///
    /// # Errors
    /// [`Error::Shape`], [`Error::Element`] or [`Error::Buffer`] for tensors that do not fit, [`Error::Limit`] where there are more
    /// tokens than [`MoeFeedForward::max_tokens`].
    ///
    /// ```no_run
    /// # use double_routing::{Result, moe::{MoeForward, MoeForwardBuilder}};
    /// # fn plan(forward: MoeForwardBuilder<'_>) -> Result<MoeForward> {
    /// forward.plan()
    /// # }
    /// ```
    pub fn plan(&self) -> Result<MoeForward> {
        let block = self.block;
        let router = &block.router;
        let gpu = router.gpu();
        let (features, config) = (router.features(), router.config());
        let shape = self.x.shape();
        let [leading @ .., x_features] = shape else {
            return Err(Error::shape(NAME, format!("x has no dimension, expected […, {features}]")));
        };
        if *x_features != features {
            let gate = [config.paths, features];
            return Err(Error::shape(NAME, format!("x is {shape:?}, gate.weight is {gate:?}")));
        }
        let tokens = elements(NAME, leading)? as usize;
        if tokens > block.max_tokens() {
            return Err(Error::Limit {
                operation: NAME,
                what: "the number of tokens".into(),
                needed: tokens as u64,
                allowed: block.max_tokens() as u64,
            });
        }
        let y = match &self.output {
            Some(y) => {
                if y.shape() != shape {
                    return Err(Error::shape(NAME, format!("y is {:?}, x is {shape:?}", y.shape())));
                }
                self.x.check_apart(NAME, "x", y)?;
                Owned::of(y)
            }
            None => Owned::new(gpu, "y", Element::F32, shape)?,
        };
        let x = self.x.clone().reshape(&[tokens, features]);
        let mut routed = router.forward(x.clone()).dispatch();
        if self.margin {
            routed = routed.margin();
        }
        if let Some(capacity) = self.capacity {
            routed = routed.capacity(capacity);
        }
        let routed = routed.plan()?;
        let mut plan = Plan::default();
        let y_rows = y.tensor().reshape(&[tokens, features]);
        let (Some(offsets), Some(order), Some(positions)) = (routed.offsets(), routed.order(), routed.positions())
        else {
            return Err(Error::shape(NAME, "the router has not dispatched"));
        };

        let slots = tokens * config.per_token;
        let rows = Owned::new(gpu, "experts' results", Element::F32, &[slots, features])?;
        let mut input = Input { x, tokens, packed: routed.x_packed.clone() };
        let gathered = Some((&order, config.per_token));
        let hidden = self.hidden(&mut plan, &block.experts, &mut input, &offsets, gathered)?;
        let down = self.product(hidden.tensor(), &block.experts.down, offsets.clone(), rows.tensor());
        plan.append(down.plan(gpu)?);

        let mut combine = Combine::new(rows.tensor(), positions, y_rows).gates(routed.gates());
        let (shared, shared_logits) = self.shared(&mut plan, &mut input)?.unzip();
        if let Some(shared) = &shared {
            combine = combine.plus(shared.tensor());
        }
        plan.append(combine.plan(gpu)?);
        for own in [&hidden, &rows].into_iter().chain(&shared) {
            plan.keep(own.buffer().clone());
        }
        Ok(MoeForward { router: routed, plan, shared_logits: shared_logits.flatten(), y })
    }

    fn product<'p>(&self, a: Tensor<'p>, b: &'p Constant, offsets: Tensor<'p>, c: Tensor<'p>) -> PathMatmul<'p> {
        let product = PathMatmul::new(a, b.tensor(), offsets, c).constant(b);
        product.batch_invariant(self.block.router.is_batch_invariant())
    }

    /// `silu(gate(x)) ⊙ up(x)`, row by row.
    fn hidden(
        &self,
        plan: &mut Plan,
        experts: &Experts,
        input: &mut Input<'_>,
        offsets: &Tensor<'_>,
        order: Option<(&Tensor<'_>, usize)>,
    ) -> Result<Owned> {
        let gpu = self.block.router.gpu();
        let rows = input.tokens * order.map_or(1, |(_, per_token)| per_token);
        let Experts { gate, up, .. } = experts;
        let width = experts.width();
        let gated = Owned::new(gpu, "gate(x)", Element::F32, &[rows, width])?;
        let hidden = Owned::new(gpu, "hidden", Element::F32, &[rows, width])?;
        let mut of_gate = self.product(input.x.clone(), gate, offsets.clone(), gated.tensor());
        let mut of_up = self.product(input.x.clone(), up, offsets.clone(), hidden.tensor()).swish(gated.tensor());
        if let Some((order, divisor)) = order {
            of_gate = of_gate.gathered(order.clone(), divisor);
            of_up = of_up.gathered(order.clone(), divisor);
        }
        plan.append(of_gate.plan_sharing(gpu, &mut input.packed)?);
        plan.append(of_up.plan_sharing(gpu, &mut input.packed)?);
        plan.keep(gated.buffer().clone());
        Ok(hidden)
    }

    /// What every token gets from the shared expert, and the logits of its gate: it is a single path that has all tokens.
    fn shared(&self, plan: &mut Plan, input: &mut Input<'_>) -> Result<Option<(Owned, Option<Owned>)>> {
        let Some((experts, gate)) = &self.block.shared else { return Ok(None) };
        let router = &self.block.router;
        let (gpu, features, invariant) = (router.gpu(), router.features(), router.is_batch_invariant());
        let tokens = input.tokens;
        let ends = [0, tokens as u32];
        let offsets = gpu.upload("all tokens", bytemuck::cast_slice(&ends))?;
        let hidden = self.hidden(plan, experts, input, &Tensor::u32(&offsets, &[2]), None)?;
        let y = Owned::new(gpu, "shared expert's result", Element::F32, &[tokens, features])?;
        let down = experts.down.tensor().reshape(&[features, experts.width()]);
        let logits = match gate {
            Some(gate) => {
                // One path that is always chosen: its gate is the sigmoid.
                let logits = Owned::new(gpu, "shared expert's logits", Element::F32, &[tokens, 1])?;
                let ids = Owned::new(gpu, "shared expert's ids", Element::U32, &[tokens, 1])?;
                let weights = Owned::new(gpu, "shared expert's weights", Element::F32, &[tokens, 1])?;
                let choice = PathChoice { score: Score::Sigmoid, ..PathChoice::default() };
                plan.append(Attend::new(input.x.clone(), gate.tensor(), logits.tensor()).plan(gpu)?);
                plan.append(RoutePaths::new(logits.tensor(), ids.tensor(), weights.tensor(), choice).plan(gpu)?);
                let route = Route::new(hidden.tensor(), down, weights.tensor(), y.tensor()).constant(&experts.down);
                plan.append(route.batch_invariant(invariant).plan(gpu)?);
                Some(logits)
            }
            None => {
                let product = Matmul::new(hidden.tensor(), down, y.tensor()).transposed().constant(&experts.down);
                plan.append(product.batch_invariant(invariant).plan(gpu)?);
                None
            }
        };
        Ok(Some((y, logits)))
    }
}

/// A block's forward that is ready to be recorded: the plan, and where its results lie.
///
/// ```no_run
/// # use double_routing::{moe::MoeForward, wgpu};
/// # fn record(forward: &MoeForward, encoder: &mut wgpu::CommandEncoder) {
/// forward.record(&mut encoder.begin_compute_pass(&Default::default()));
/// println!("y: {:?}", forward.y().shape());
/// # }
/// ```
#[derive(Debug)]
pub struct MoeForward {
    router: RouterForward,
    plan: Plan,
    shared_logits: Option<Owned>,
    y: Owned,
}

impl MoeForward {
    /// Records every step. Submits nothing, waits for nothing, allocates nothing.
    ///
    /// ```no_run
    /// # use double_routing::{moe::MoeForward, wgpu};
    /// # fn record(forward: &MoeForward, encoder: &mut wgpu::CommandEncoder) {
    /// forward.record(&mut encoder.begin_compute_pass(&Default::default()));
    /// # }
    /// ```
    pub fn record(&self, pass: &mut wgpu::ComputePass<'_>) {
        self.router.record(pass);
        self.plan.record(pass);
    }

    /// The router's part: ids, gates, counts and what else was asked for.
    ///
    /// ```no_run
    /// # fn show(forward: &double_routing::moe::MoeForward) {
    /// println!("{:?}", forward.router().ids().shape());
    /// # }
    /// ```
    pub fn router(&self) -> &RouterForward {
        &self.router
    }

    /// The steps behind the router's.
    ///
    /// ```no_run
    /// # fn show(forward: &double_routing::moe::MoeForward) {
    /// println!("{} dispatches", forward.router().plan().steps().len() + forward.plan().steps().len());
    /// # }
    /// ```
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// What the shared expert's weights are the sigmoid of, f32 `[T, 1]`, where it has a gate.
    ///
    /// ```no_run
    /// # fn show(forward: &double_routing::moe::MoeForward) {
    /// println!("{:?}", forward.shared_logits().map(|logits| logits.shape().to_vec()));
    /// # }
    /// ```
    pub fn shared_logits(&self) -> Option<Tensor<'_>> {
        self.shared_logits.as_ref().map(Owned::tensor)
    }

    /// The result, of x's shape; f32 where [`MoeForwardBuilder::output`] does not say otherwise.
    ///
    /// ```no_run
    /// # fn show(forward: &double_routing::moe::MoeForward) {
    /// println!("{:?}", forward.y().shape());
    /// # }
    /// ```
    pub fn y(&self) -> Tensor<'_> {
        self.y.tensor()
    }
}
