//! A router: which paths each token gets, and what they weigh.

use super::{RouterConfig, RouterWeights};
use crate::{
    Element, Error, Gpu, Plan, Result, Tensor,
    kernels::{Constant, Dispatch, Matmul, Packed, PathLoad, RoutePaths},
    routing::non_finite,
    tensor::{Owned, elements},
};

/// A router whose weights are on a device: `logits = x·gateᵀ`, then the choice that its configuration says.
///
/// ```no_run
/// # use double_routing::{Gpu, Result, moe::{Router, RouterConfig, RouterWeights}};
/// # fn router(gpu: &Gpu, bytes: &[u8]) -> Result<Router> {
/// let weights = RouterWeights::from_safetensors(&[bytes], "model.layers.3.mlp.")?;
/// Router::new(gpu, &weights, RouterConfig::deepseek_v3())
/// # }
/// ```
#[derive(Debug)]
pub struct Router {
    gpu: Gpu,
    config: RouterConfig,
    features: usize,
    gate: Constant,
    correction_bias: Option<Owned>,
    batch_invariant: bool,
}

const NAME: &str = "router";

impl Router {
    /// Writes the weights to the device with the queue's next submission.
    ///
    /// # Errors
    /// [`Error::Shape`] where the weights are for another number of paths than the configuration, or its numbers do not fit;
    /// [`Error::Limit`] where they exceed a buffer.
    ///
    /// ```no_run
    /// # use double_routing::{Gpu, Result, moe::{Router, RouterConfig, RouterWeights}};
    /// # fn router(gpu: &Gpu, weights: &RouterWeights) -> Result<Router> {
    /// Router::new(gpu, weights, RouterConfig::mixtral())
    /// # }
    /// ```
    pub fn new(gpu: &Gpu, weights: &RouterWeights, config: RouterConfig) -> Result<Self> {
        config.check()?;
        let [paths, features] = weights.shape;
        if paths != config.paths {
            let shape = weights.shape;
            return Err(Error::shape(
                NAME,
                format!("gate.weight is {shape:?}, the configuration has {} paths", config.paths),
            ));
        }
        let bias = match &weights.correction_bias {
            // The choice is made in f32.
            Some(bias) => Some(Owned::upload(gpu, "correction bias", &bias.to_f32().into(), &[paths])?),
            None => None,
        };
        let gate = Constant::upload(gpu, "router gate", &weights.gate, &weights.shape)?;
        Ok(Self { gpu: gpu.clone(), config, features, gate, correction_bias: bias, batch_invariant: false })
    }

    /// Chooses the tile of the logits' product whatever the number of tokens, so that a token's logits do not depend on it.
    ///
    /// ```no_run
    /// # fn invariant(router: double_routing::moe::Router) -> double_routing::moe::Router {
    /// router.batch_invariant(true)
    /// # }
    /// ```
    #[must_use]
    pub fn batch_invariant(mut self, invariant: bool) -> Self {
        self.batch_invariant = invariant;
        self
    }

    pub(super) fn is_batch_invariant(&self) -> bool {
        self.batch_invariant
    }

    /// What it chooses and how.
    ///
    /// ```no_run
    /// # fn show(router: &double_routing::moe::Router) {
    /// println!("{} of {}", router.config().per_token, router.config().paths);
    /// # }
    /// ```
    pub fn config(&self) -> &RouterConfig {
        &self.config
    }

    /// D: the features of a token.
    ///
    /// ```no_run
    /// # fn show(router: &double_routing::moe::Router) {
    /// println!("{} features", router.features());
    /// # }
    /// ```
    pub fn features(&self) -> usize {
        self.features
    }

    /// The device that the weights are on.
    ///
    /// ```no_run
    /// # fn show(router: &double_routing::moe::Router) {
    /// println!("{}", router.gpu().info().name);
    /// # }
    /// ```
    pub fn gpu(&self) -> &Gpu {
        &self.gpu
    }

    /// A forward for x, f32 `[T, D]`.
    ///
    /// ```no_run
    /// # use double_routing::{Result, Tensor, moe::Router, wgpu};
    /// # fn record(router: &Router, x: &wgpu::Buffer, encoder: &mut wgpu::CommandEncoder) -> Result<()> {
    /// let forward = router.forward(Tensor::f32(x, &[512, 7168])).dispatch().plan()?;
    /// forward.record(&mut encoder.begin_compute_pass(&Default::default()));
    /// // Your own kernels go on from here: the slots of each path, one path after the other.
    /// let (order, offsets) = (forward.order(), forward.offsets());
    /// # Ok(()) }
    /// ```
    pub fn forward<'a>(&'a self, x: Tensor<'a>) -> RouterForwardBuilder<'a> {
        RouterForwardBuilder {
            router: self,
            x,
            ids: None,
            gates: None,
            margin: false,
            dispatch: false,
            capacity: None,
            statistics: false,
        }
    }

    /// Routes tokens once: uploads x (`[tokens, D]`), computes, reads everything back.
    ///
    /// # Errors
    /// As [`RouterForwardBuilder::plan`]; [`Error::Shape`] where x has not so many values; [`Error::OutOfMemory`] and
    /// [`Error::DeviceLost`].
    ///
    /// ```no_run
    /// # async fn route(router: &double_routing::moe::Router, x: &[f32]) -> double_routing::Result<()> {
    /// let routing = router.run(x, 512).await?;
    /// println!("the first token's best path is {}", routing.ids[0]);
    /// # Ok(()) }
    /// ```
    pub async fn run(&self, x: &[f32], tokens: usize) -> Result<Routing> {
        self.run_with(x, tokens, Element::F32).await
    }

    /// As [`Router::run`], with x stored otherwise on the device: rounded to this type, exactly where it is of it already.
    ///
    /// # Errors
    /// As [`Router::run`].
    ///
    /// ```no_run
    /// # async fn route(router: &double_routing::moe::Router, x: &[f32]) -> double_routing::Result<()> {
    /// let routing = router.run_with(x, 512, double_routing::Element::BF16).await?;
    /// # Ok(()) }
    /// ```
    pub async fn run_with(&self, x: &[f32], tokens: usize, stored: Element) -> Result<Routing> {
        let gpu = &self.gpu;
        let shape = [tokens, self.features];
        if elements(NAME, &shape)? != x.len() as u64 {
            return Err(Error::shape(NAME, format!("x has {} values for {shape:?}", x.len())));
        }
        let scope = gpu.error_scope();
        let submitted = self.submit(x, &shape, stored);
        scope.close().await?;
        submitted?.read(gpu).await
    }

    fn submit(&self, x: &[f32], shape: &[usize], stored: Element) -> Result<RouterForward> {
        let gpu = &self.gpu;
        let x = Owned::rounded(gpu, x, shape, stored)?;
        let forward = self.forward(x.tensor()).margin().dispatch().plan()?;
        let mut encoder = gpu.device().create_command_encoder(&Default::default());
        forward.record(&mut encoder.begin_compute_pass(&Default::default()));
        gpu.queue().submit([encoder.finish()]);
        Ok(forward)
    }
}

/// What routing gives back to the CPU.
///
/// ```no_run
/// # async fn show(router: &double_routing::moe::Router, x: &[f32]) -> double_routing::Result<()> {
/// let routing = router.run(x, 512).await?;
/// let busiest = routing.counts.iter().max();
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Routing {
    /// `[T, e]`: each token's paths, the best first; `u32::MAX` where there are no more to choose from.
    pub ids: Vec<u32>,
    /// `[T, e]`: what they weigh.
    pub gates: Vec<f32>,
    /// `[P]`: tokens of each path.
    pub counts: Vec<u32>,
    /// `[T]`: by how much the last chosen path scored more than the first rejected; infinite where none was rejected.
    pub margin: Vec<f32>,
    /// `[T, P]`: what the paths are chosen by.
    pub logits: Vec<f32>,
}

impl Routing {
    /// The first value that is infinite or NaN, of what comes first: what it is of, and which of its values. A finite x can give one, near
    /// f32's end, 3.4e38: where a sum of products passes it, if only on its way, the logit is infinite or NaN, of which scores may make
    /// finite gates. So the logits are looked at too, and the rest means something only where this is `None`. An infinite margin is none
    /// of these; a NaN is: a logit or score and its correction bias have overflowed together.
    ///
    /// ```no_run
    /// # async fn route(router: &double_routing::moe::Router, x: &[f32]) -> double_routing::Result<()> {
    /// let routing = router.run(x, 512).await?;
    /// assert_eq!(routing.first_non_finite(), None);
    /// # Ok(()) }
    /// ```
    pub fn first_non_finite(&self) -> Option<(&'static str, usize)> {
        let Self { gates, margin, logits, .. } = self;
        let of_margin = || Some(("margin", margin.iter().position(|margin| margin.is_nan())?));
        non_finite(&[("logits", logits), ("gates", gates)]).or_else(of_margin)
    }
}

/// What a router's forward computes; made by [`Router::forward`].
///
/// ```no_run
/// # use double_routing::{Result, Tensor, moe::{Router, RouterForward}};
/// # fn plan(router: &Router, x: Tensor<'_>) -> Result<RouterForward> {
/// router.forward(x).margin().plan()
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct RouterForwardBuilder<'a> {
    router: &'a Router,
    x: Tensor<'a>,
    ids: Option<Tensor<'a>>,
    gates: Option<Tensor<'a>>,
    margin: bool,
    dispatch: bool,
    capacity: Option<u32>,
    statistics: bool,
}

impl<'a> RouterForwardBuilder<'a> {
    /// Writes the chosen paths to a tensor of the caller's, u32 `[T, e]`, instead of a buffer of the forward's own.
    ///
    /// ```no_run
    /// # use double_routing::{Tensor, moe::RouterForwardBuilder};
    /// # fn with<'a>(forward: RouterForwardBuilder<'a>, ids: Tensor<'a>) -> RouterForwardBuilder<'a> {
    /// forward.ids(ids)
    /// # }
    /// ```
    #[must_use]
    pub fn ids(mut self, ids: Tensor<'a>) -> Self {
        self.ids = Some(ids);
        self
    }

    /// Writes what they weigh to a tensor of the caller's, f32 `[T, e]`, instead of a buffer of the forward's own.
    ///
    /// ```no_run
    /// # use double_routing::{Tensor, moe::RouterForwardBuilder};
    /// # fn with<'a>(forward: RouterForwardBuilder<'a>, gates: Tensor<'a>) -> RouterForwardBuilder<'a> {
    /// forward.gates(gates)
    /// # }
    /// ```
    #[must_use]
    pub fn gates(mut self, gates: Tensor<'a>) -> Self {
        self.gates = Some(gates);
        self
    }

    /// Also computes the margin of each token: [`RouterForward::margin`].
    ///
    /// ```no_run
    /// # use double_routing::moe::RouterForwardBuilder;
    /// # fn with<'a>(forward: RouterForwardBuilder<'a>) -> RouterForwardBuilder<'a> {
    /// forward.margin()
    /// # }
    /// ```
    #[must_use]
    pub fn margin(mut self) -> Self {
        self.margin = true;
        self
    }

    /// Also sorts the slots (token · e + choice) by path: [`RouterForward::offsets`], `order`, `positions`, `counts`.
    ///
    /// ```no_run
    /// # use double_routing::moe::RouterForwardBuilder;
    /// # fn with<'a>(forward: RouterForwardBuilder<'a>) -> RouterForwardBuilder<'a> {
    /// forward.dispatch()
    /// # }
    /// ```
    #[must_use]
    pub fn dispatch(mut self) -> Self {
        self.dispatch = true;
        self
    }

    /// As [`RouterForwardBuilder::dispatch`], with at most so many tokens a path: the first ones are kept, the others have the position
    /// `u32::MAX`.
    ///
    /// ```no_run
    /// # use double_routing::moe::RouterForwardBuilder;
    /// # fn with<'a>(forward: RouterForwardBuilder<'a>) -> RouterForwardBuilder<'a> {
    /// forward.capacity(64)
    /// # }
    /// ```
    #[must_use]
    pub fn capacity(mut self, tokens: u32) -> Self {
        self.dispatch = true;
        self.capacity = Some(tokens);
        self
    }

    /// As [`RouterForwardBuilder::dispatch`], and computes how evenly the paths are loaded: [`RouterForward::mean_scores`] and
    /// [`RouterForward::load`]. Both are of the softmax of the logits, whatever the router scores; dropped tokens count.
    ///
    /// ```no_run
    /// # use double_routing::moe::RouterForwardBuilder;
    /// # fn with<'a>(forward: RouterForwardBuilder<'a>) -> RouterForwardBuilder<'a> {
    /// forward.statistics()
    /// # }
    /// ```
    #[must_use]
    pub fn statistics(mut self) -> Self {
        self.dispatch = true;
        self.statistics = true;
        self
    }

    /// Checks everything, makes the buffers and builds the steps.
    ///
    /// # Errors
    /// [`Error::Shape`], [`Error::Element`] or [`Error::Buffer`] for tensors that do not fit, [`Error::Limit`] for what the device
    /// does not allow.
    ///
    /// ```no_run
    /// # use double_routing::{Result, moe::{RouterForward, RouterForwardBuilder}};
    /// # fn plan(forward: RouterForwardBuilder<'_>) -> Result<RouterForward> {
    /// forward.plan()
    /// # }
    /// ```
    pub fn plan(&self) -> Result<RouterForward> {
        let Router { gpu, config, features, gate, correction_bias, batch_invariant } = self.router;
        let &[tokens, x_features] = self.x.shape() else {
            return Err(Error::shape(NAME, format!("x is {:?}, expected [T, {features}]", self.x.shape())));
        };
        if x_features != *features {
            let [x, gate] = [self.x.shape(), &[config.paths, *features]];
            return Err(Error::shape(NAME, format!("x is {x:?}, gate.weight is {gate:?}")));
        }
        let (paths, per_token) = (config.paths, config.per_token);
        let slots = elements(NAME, &[tokens, per_token])? as usize;
        let new = |label, element, shape: &[usize]| Owned::new(gpu, label, element, shape);

        let mut plan = Plan::default();
        let logits = new("logits", Element::F32, &[tokens, paths])?;
        let product = Matmul::new(self.x.clone(), gate.tensor(), logits.tensor()).transposed().constant(gate);
        let mut x_packed = None;
        plan.append(product.batch_invariant(*batch_invariant).plan_sharing(gpu, &mut x_packed)?);

        let result = |name, element, wanted: &Option<Tensor<'_>>| match wanted {
            Some(tensor) if tensor.shape() != [tokens, per_token] => {
                let (found, expected) = (tensor.shape(), [tokens, per_token]);
                Err(Error::shape(NAME, format!("{name} is {found:?}, expected {expected:?}")))
            }
            Some(tensor) => {
                // x is read in an earlier dispatch, but a plan is recorded more than once.
                self.x.check_apart(NAME, "x", tensor)?;
                Ok(Owned::of(tensor))
            }
            None => new(name, element, &[tokens, per_token]),
        };
        let ids = result("ids", Element::U32, &self.ids)?;
        let gates = result("gates", Element::F32, &self.gates)?;
        let margin = if self.margin { Some(new("margin", Element::F32, &[tokens])?) } else { None };
        let mut choice = RoutePaths::new(logits.tensor(), ids.tensor(), gates.tensor(), config.choice);
        if let Some(bias) = correction_bias {
            choice = choice.correction_bias(bias.tensor());
        }
        if let Some(margin) = &margin {
            choice = choice.margin(margin.tensor());
        }
        plan.append(choice.plan(gpu)?);

        let dispatched = match self.dispatch {
            true => {
                let dispatched = Dispatched {
                    offsets: new("offsets", Element::U32, &[paths + 1])?,
                    order: new("order", Element::U32, &[slots])?,
                    positions: new("positions", Element::U32, &[tokens, per_token])?,
                    counts: new("counts", Element::U32, &[paths])?,
                };
                let Dispatched { offsets, order, positions, counts } = &dispatched;
                let mut dispatch = Dispatch::new(ids.tensor(), offsets.tensor(), order.tensor(), positions.tensor())
                    .counts(counts.tensor());
                if let Some(capacity) = self.capacity {
                    dispatch = dispatch.capacity(capacity);
                }
                plan.append(dispatch.plan(gpu)?);
                Some(dispatched)
            }
            false => None,
        };
        let statistics = match dispatched.as_ref().filter(|_| self.statistics) {
            Some(dispatched) => {
                let statistics = Statistics {
                    mean_scores: new("mean scores", Element::F32, &[paths])?,
                    load: new("load", Element::F32, &[4])?,
                };
                let counts = dispatched.counts.tensor();
                let [mean_scores, load] = [&statistics.mean_scores, &statistics.load].map(Owned::tensor);
                plan.append(PathLoad::new(logits.tensor(), counts, mean_scores, load).plan(gpu)?);
                Some(statistics)
            }
            None => None,
        };
        Ok(RouterForward { plan, x_packed, logits, ids, gates, margin, dispatched, statistics })
    }
}

/// A router's forward that is ready to be recorded: the plan, and where its results lie.
///
/// ```no_run
/// # use double_routing::{moe::RouterForward, wgpu};
/// # fn record(forward: &RouterForward, encoder: &mut wgpu::CommandEncoder) {
/// forward.record(&mut encoder.begin_compute_pass(&Default::default()));
/// println!("ids: {:?}", forward.ids().shape());
/// # }
/// ```
#[derive(Debug)]
pub struct RouterForward {
    plan: Plan,
    /// What x is packed as once the plan has run, if it is.
    pub(super) x_packed: Option<Packed>,
    logits: Owned,
    ids: Owned,
    gates: Owned,
    margin: Option<Owned>,
    dispatched: Option<Dispatched>,
    statistics: Option<Statistics>,
}

#[derive(Debug)]
struct Dispatched {
    offsets: Owned,
    order: Owned,
    positions: Owned,
    counts: Owned,
}

#[derive(Debug)]
struct Statistics {
    mean_scores: Owned,
    load: Owned,
}

impl RouterForward {
    /// Records every step. Submits nothing, waits for nothing, allocates nothing.
    ///
    /// ```no_run
    /// # use double_routing::{moe::RouterForward, wgpu};
    /// # fn record(forward: &RouterForward, encoder: &mut wgpu::CommandEncoder) {
    /// forward.record(&mut encoder.begin_compute_pass(&Default::default()));
    /// # }
    /// ```
    pub fn record(&self, pass: &mut wgpu::ComputePass<'_>) {
        self.plan.record(pass);
    }

    /// The steps.
    ///
    /// ```no_run
    /// # fn show(forward: &double_routing::moe::RouterForward) {
    /// println!("{} dispatches", forward.plan().steps().len());
    /// # }
    /// ```
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// The logits, f32 `[T, P]`.
    ///
    /// ```no_run
    /// # fn show(forward: &double_routing::moe::RouterForward) {
    /// println!("{:?}", forward.logits().shape());
    /// # }
    /// ```
    pub fn logits(&self) -> Tensor<'_> {
        self.logits.tensor()
    }

    /// The chosen paths, u32 `[T, e]`, the best first; `u32::MAX` where there are no more to choose from.
    ///
    /// ```no_run
    /// # fn show(forward: &double_routing::moe::RouterForward) {
    /// println!("{:?}", forward.ids().shape());
    /// # }
    /// ```
    pub fn ids(&self) -> Tensor<'_> {
        self.ids.tensor()
    }

    /// What the chosen paths weigh, f32 `[T, e]`.
    ///
    /// ```no_run
    /// # fn show(forward: &double_routing::moe::RouterForward) {
    /// println!("{:?}", forward.gates().shape());
    /// # }
    /// ```
    pub fn gates(&self) -> Tensor<'_> {
        self.gates.tensor()
    }

    /// By how much the last chosen path scored more than the first rejected, f32 `[T]`, where it was asked for.
    ///
    /// ```no_run
    /// # fn show(forward: &double_routing::moe::RouterForward) {
    /// assert!(forward.margin().is_some());
    /// # }
    /// ```
    pub fn margin(&self) -> Option<Tensor<'_>> {
        self.margin.as_ref().map(Owned::tensor)
    }

    /// Slots before each path's, u32 `[P + 1]`, where [`RouterForwardBuilder::dispatch`] was asked for.
    ///
    /// ```no_run
    /// # fn show(forward: &double_routing::moe::RouterForward) {
    /// assert!(forward.offsets().is_some());
    /// # }
    /// ```
    pub fn offsets(&self) -> Option<Tensor<'_>> {
        self.dispatched.as_ref().map(|dispatched| dispatched.offsets.tensor())
    }

    /// The slots, one path after the other, u32 `[T·e]`; `u32::MAX` behind the last.
    ///
    /// ```no_run
    /// # fn show(forward: &double_routing::moe::RouterForward) {
    /// assert!(forward.order().is_some());
    /// # }
    /// ```
    pub fn order(&self) -> Option<Tensor<'_>> {
        self.dispatched.as_ref().map(|dispatched| dispatched.order.tensor())
    }

    /// Where in the order each slot is, u32 `[T, e]`; `u32::MAX` where it was dropped.
    ///
    /// ```no_run
    /// # fn show(forward: &double_routing::moe::RouterForward) {
    /// assert!(forward.positions().is_some());
    /// # }
    /// ```
    pub fn positions(&self) -> Option<Tensor<'_>> {
        self.dispatched.as_ref().map(|dispatched| dispatched.positions.tensor())
    }

    /// Tokens of each path, dropped ones included, u32 `[P]`.
    ///
    /// ```no_run
    /// # fn show(forward: &double_routing::moe::RouterForward) {
    /// assert!(forward.counts().is_some());
    /// # }
    /// ```
    pub fn counts(&self) -> Option<Tensor<'_>> {
        self.dispatched.as_ref().map(|dispatched| dispatched.counts.tensor())
    }

    /// Each path's softmax score, meant over the tokens, f32 `[P]`, where [`RouterForwardBuilder::statistics`] was asked for.
    ///
    /// ```no_run
    /// # fn show(forward: &double_routing::moe::RouterForward) {
    /// assert!(forward.mean_scores().is_some());
    /// # }
    /// ```
    pub fn mean_scores(&self) -> Option<Tensor<'_>> {
        self.statistics.as_ref().map(|statistics| statistics.mean_scores.tensor())
    }

    /// Balance, z, entropy and load factor, f32 `[4]`: the `summary` of [`PathLoad`].
    ///
    /// ```no_run
    /// # fn show(forward: &double_routing::moe::RouterForward) {
    /// assert!(forward.load().is_some());
    /// # }
    /// ```
    pub fn load(&self) -> Option<Tensor<'_>> {
        self.statistics.as_ref().map(|statistics| statistics.load.tensor())
    }

    /// What was computed, once it is submitted; empty where it was not asked for.
    pub(super) async fn read(&self, gpu: &Gpu) -> Result<Routing> {
        let (ids, gates, logits) = (gpu.read(&self.ids()), gpu.read(&self.gates()), gpu.read(&self.logits()));
        let counts = self.counts().map(|counts| gpu.read(&counts));
        let margin = self.margin().map(|margin| gpu.read(&margin));
        Ok(Routing {
            ids: bytemuck::pod_collect_to_vec(&ids.await?),
            gates: bytemuck::pod_collect_to_vec(&gates.await?),
            counts: match counts {
                Some(counts) => bytemuck::pod_collect_to_vec(&counts.await?),
                None => Vec::new(),
            },
            margin: match margin {
                Some(margin) => bytemuck::pod_collect_to_vec(&margin.await?),
                None => Vec::new(),
            },
            logits: bytemuck::pod_collect_to_vec(&logits.await?),
        })
    }
}
