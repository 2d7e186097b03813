//! From a layer and its input to steps: what is multiplied, and for which tokens.

use super::{DoubleRouting, NAME, Paths, Selection, Uploaded};
use crate::{
    Element, Error, Plan, Result, Tensor,
    kernels::{Attend, Combine, Dispatch, Matmul, Packed, PathMatmul, Route, RoutePaths, Select, Softmax},
    moe::RouterConfig,
    tensor::{Owned, Texels},
};

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
    skip: Option<Tensor<'a>>,
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
    indices: Option<Owned>,
    chosen: Option<Chosen>,
    y: Owned,
}

/// What the second level decided.
#[derive(Debug)]
struct Chosen {
    logits: Owned,
    ids: Owned,
    gates: Owned,
    margin: Owned,
    counts: Owned,
}

impl<'a> ForwardBuilder<'a> {
    pub(super) fn new(layer: &'a DoubleRouting, x: Tensor<'a>) -> Self {
        Self { layer, x, output: None, lengths: None, skip: None }
    }

    /// Writes y to a tensor of the caller's, f32, f16 or bf16 `[…, O]`, instead of an f32 buffer of the forward's own. Each element is
    /// rounded once from its f32 sum; what is beyond f16's largest number, 65 504, becomes infinite. One of 16 bits starts at a multiple
    /// of 4 bytes. Mind that y is nearly constant: 16 bits lose much of what tells tokens apart.
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

    /// What y is for tokens that are not selected, f32, f16 or bf16 `[B, S, O]`, instead of 0: a residual, say. Where all tokens are selected it is
    /// not read.
    ///
    /// ```no_run
    /// # use double_routing::{ForwardBuilder, Tensor};
    /// # fn skipping<'a>(forward: ForwardBuilder<'a>, x: Tensor<'a>) -> ForwardBuilder<'a> {
    /// forward.skip(x)
    /// # }
    /// ```
    #[must_use]
    pub fn skip(mut self, skip: Tensor<'a>) -> Self {
        self.skip = Some(skip);
        self
    }

    /// Checks everything, makes the intermediate buffers and builds the steps. On software adapters whose products read
    /// [packed](crate::kernels::PACK) factors, the first plan of a layer also submits the packing of its weights.
    ///
    /// # Errors
    /// [`Error::Shape`], [`Error::Element`] or [`Error::Buffer`] for tensors that do not fit, [`Error::Limit`] where an
    /// intermediate exceeds the device's largest buffer. Where memory runs out, see [`Gpu::error_scope`](crate::Gpu::error_scope).
    ///
    /// ```no_run
    /// # use double_routing::{Forward, ForwardBuilder, Result};
    /// # fn plan(forward: ForwardBuilder<'_>) -> Result<Forward> {
    /// forward.plan()
    /// # }
    /// ```
    pub fn plan(&self) -> Result<Forward> {
        let layer = self.layer;
        let leading = self.check()?;
        let mut steps = Steps { layer, plan: Plan::default() };
        let mut between: Vec<Owned> = Vec::new();
        let selects_some = leading
            .get(1)
            .is_some_and(|&positions| layer.settings.selection.count(positions).is_some_and(|count| count < positions));
        let of_x = layer.attention_of_x.as_ref().filter(|_| selects_some);
        // What the logit is taken from is computed for every token.
        let attended = match layer.before.first() {
            Some(first) if layer.attends_first && of_x.is_none() => {
                let h = steps.scratch("activation", leading, first.shape()[0])?;
                steps.product(self.x.clone(), None, first, h.tensor())?;
                between.push(h);
                between[0].tensor()
            }
            _ => self.x.clone(),
        };
        let logits = steps.scratch("logits", leading, 1)?;
        let w = steps.scratch("w", leading, 1)?;
        let y = match &self.output {
            Some(y) => Owned::of(y),
            None => Owned::new(&layer.gpu, "y", Element::F32, &[leading, &[layer.dimensions.output]].concat())?,
        };
        let selected = self.selected(leading)?;
        // Where every token is selected they stay in their places, unless paths are chosen: these are told in the order of indices.
        let in_places = |selected: &Selected| !selected.some_left_out && layer.paths.is_none();
        let gathered = selected.as_ref().filter(|selected| !in_places(selected));
        let rows: Vec<usize> = gathered.map_or_else(|| leading.to_vec(), |selected| selected.indices.shape().to_vec());
        let narrowing = &layer.before[between.len()..];
        let narrow: Result<Vec<_>> =
            narrowing.iter().map(|map| steps.scratch("activation", &rows, map.shape()[0])).collect();
        let narrow = narrow?;
        // Straight to y, unless something comes behind.
        let last = layer.after.is_some() || layer.paths.is_some();
        let routed = match last {
            true => Some(steps.scratch("routed", &rows, layer.routed.shape()[0])?),
            false => None,
        };
        let compact = match gathered {
            Some(_) => Some(steps.scratch("selected tokens' y", &rows, layer.dimensions.output)?),
            None => None,
        };
        let y_of_rows = compact.as_ref().unwrap_or(&y);
        let to = routed.as_ref().unwrap_or(y_of_rows);

        let mut attend = steps.attend(of_x.unwrap_or(&layer.attention), attended.clone(), logits.tensor());
        let mut packed = None;
        if gathered.is_none() {
            // The first product reads again what attend reads.
            let layout = match (narrowing.first(), narrow.first()) {
                (Some(map), Some(result)) => {
                    steps.matmul(attended.clone(), map, result.tensor()).a_layout(&layer.gpu)?
                }
                _ => steps.routing(attended.clone(), w.tensor(), to.tensor()).a_layout(&layer.gpu)?,
            };
            if let Some(layout) = layout
                && attend.packs(&layer.gpu)?
            {
                let x = Packed::whole(Texels::new(&layer.gpu, "x packed", layout.texels())?, layout);
                attend = attend.packing(x.clone());
                packed = Some(x);
            }
        }
        steps.plan.append(attend.plan(&layer.gpu)?);
        let mut softmax = Softmax::new(logits.tensor(), w.tensor(), 1).batch_invariant(layer.settings.batch_invariant);
        if let Some(lengths) = &self.lengths {
            softmax = softmax.lengths(lengths.clone());
        }
        steps.plan.append(softmax.plan(&layer.gpu)?);
        if let Some(selected) = &selected {
            self.select(&mut steps, leading, &w, selected)?;
        }
        let start = match gathered {
            Some(selected) => Some(steps.gather(&attended, leading, selected)?),
            None => None,
        };
        let mut from = start.as_ref().map_or_else(|| attended.clone(), Owned::tensor);
        for (map, result) in narrowing.iter().zip(&narrow) {
            steps.product(from, packed.take(), map, result.tensor())?;
            from = result.tensor();
        }
        let weights = gathered.map_or_else(|| w.tensor(), |selected| selected.weights.tensor());
        steps.route(from, packed, weights, to.tensor())?;
        let mut chosen = None;
        if let Some(routed) = &routed {
            match (&layer.paths, &layer.after) {
                (Some(paths), _) => {
                    let indices = gathered.map(|selected| selected.indices.tensor());
                    chosen = Some(steps.second_level(paths, routed, indices, y_of_rows)?);
                }
                (None, Some(map)) => steps.product(routed.tensor(), None, map, y_of_rows.tensor())?,
                (None, None) => {}
            }
        }
        if let (Some(selected), Some(compact)) = (gathered, &compact) {
            steps.scatter(compact, selected, &y, self.skip.clone())?;
        }

        let mut plan = steps.plan;
        for own in between.iter().chain(&narrow).chain([&logits, &w]).chain(&routed).chain(&start).chain(&compact) {
            plan.keep(own.buffer().clone());
        }
        let h = between.into_iter().next();
        let indices = selected.map(|selected| selected.indices);
        // What was gathered is no longer the caller's tokens in their order.
        let routed = routed.filter(|_| layer.after.is_some());
        Ok(Forward { plan, h, logits, w, routed, indices, chosen, y })
    }

    /// The dimensions before x's last.
    fn check(&self) -> Result<&[usize]> {
        let layer = self.layer;
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
        if layer.settings.selection != Selection::All && leading.len() != 2 {
            return Err(Error::shape(NAME, format!("x is {shape:?}: selecting tokens needs sequences, [B, S, in]")));
        }
        let wanted = [leading, &[layer.dimensions.output]].concat();
        for (name, tensor) in [("y", &self.output), ("skip", &self.skip)] {
            if let Some(tensor) = tensor
                && tensor.shape() != wanted
            {
                return Err(Error::shape(
                    NAME,
                    format!("{name} is {:?}, x {shape:?} gives {wanted:?}", tensor.shape()),
                ));
            }
        }
        if let Some(y) = &self.output {
            // Some orders read x in an earlier dispatch than they write y in, but a plan is recorded more than once.
            self.x.check_apart(NAME, "x", y)?;
            if let Some(lengths) = &self.lengths {
                lengths.check_apart(NAME, "lengths", y)?;
            }
        }
        Ok(leading)
    }

    /// Where the first level's choice goes, if there is one.
    fn selected(&self, leading: &[usize]) -> Result<Option<Selected>> {
        let (&[sequences, positions], gpu) = (leading, &self.layer.gpu) else { return Ok(None) };
        let Some(count) = self.layer.settings.selection.count(positions) else { return Ok(None) };
        Ok(Some(Selected {
            indices: Owned::new(gpu, "indices", Element::U32, &[sequences, count])?,
            weights: Owned::new(gpu, "selected weights", Element::F32, &[sequences, count])?,
            some_left_out: count < positions || self.lengths.is_some(),
        }))
    }

    /// The first level.
    fn select(&self, steps: &mut Steps<'_>, leading: &[usize], w: &Owned, selected: &Selected) -> Result<()> {
        let Selected { indices, weights, .. } = selected;
        if indices.shape().contains(&0) {
            return Ok(());
        }
        let mut select = Select::new(w.tensor().reshape(leading), indices.tensor()).values(weights.tensor());
        if let Some(lengths) = &self.lengths {
            select = select.lengths(lengths.clone());
        }
        steps.plan.append(select.plan(&self.layer.gpu)?);
        Ok(())
    }
}

/// The selected tokens of each sequence.
struct Selected {
    /// `[B, k]`.
    indices: Owned,
    /// `[B, k]`.
    weights: Owned,
    /// Not simply every token.
    some_left_out: bool,
}

/// The steps of a forward, as they come.
struct Steps<'a> {
    layer: &'a DoubleRouting,
    plan: Plan,
}

impl Steps<'_> {
    fn scratch(&self, label: &'static str, rows: &[usize], width: usize) -> Result<Owned> {
        Owned::new(&self.layer.gpu, label, Element::F32, &[rows, &[width]].concat())
    }

    fn matmul<'b>(&'b self, from: Tensor<'b>, map: &'b Uploaded, to: Tensor<'b>) -> Matmul<'b> {
        let product = Matmul::new(from, map.weight(), to)
            .transposed()
            .constant(&map.weight)
            .batch_invariant(self.layer.settings.batch_invariant);
        match map.bias() {
            Some(bias) => product.bias(bias),
            None => product,
        }
    }

    fn routing<'b>(&'b self, from: Tensor<'b>, weights: Tensor<'b>, to: Tensor<'b>) -> Route<'b> {
        let DoubleRouting { routed, outer, settings, .. } = self.layer;
        let outer = outer.weight().reshape(&outer.shape()[..1]);
        let route = Route::new(from, routed.weight(), weights, to)
            .constant(&routed.weight)
            .outer(outer)
            .batch_invariant(settings.batch_invariant);
        match routed.bias() {
            Some(inner) => route.inner(inner),
            None => route,
        }
    }

    fn attend<'b>(&self, attention: &'b Uploaded, from: Tensor<'b>, logits: Tensor<'b>) -> Attend<'b> {
        let attend = Attend::new(from, attention.weight(), logits);
        match attention.bias() {
            Some(bias) => attend.bias(bias),
            None => attend,
        }
    }

    fn product(&mut self, from: Tensor<'_>, packed: Option<Packed>, map: &Uploaded, to: Tensor<'_>) -> Result<()> {
        let plan = self.matmul(from, map, to).packed(packed).plan(&self.layer.gpu)?;
        self.plan.append(plan);
        Ok(())
    }

    fn route(&mut self, from: Tensor<'_>, packed: Option<Packed>, weights: Tensor<'_>, to: Tensor<'_>) -> Result<()> {
        let plan = self.routing(from, weights, to).packed(packed).plan(&self.layer.gpu)?;
        self.plan.append(plan);
        Ok(())
    }

    /// The selected tokens' rows of what has a row for every token.
    fn gather(&mut self, from: &Tensor<'_>, leading: &[usize], selected: &Selected) -> Result<Owned> {
        let width = from.shape().last().copied().unwrap_or(0);
        let indices = selected.indices.tensor();
        let to = self.scratch("selected tokens", indices.shape(), width)?;
        let positions = indices.clone().reshape(&[indices.shape(), &[1]].concat());
        let rows = from.clone().reshape(&[leading, &[width]].concat());
        self.plan.append(Combine::new(rows, positions, to.tensor()).plan(&self.layer.gpu)?);
        Ok(to)
    }

    /// The selected tokens' rows to their places; the others are skipped.
    fn scatter(&mut self, from: &Owned, selected: &Selected, y: &Owned, skip: Option<Tensor<'_>>) -> Result<()> {
        let gpu = &self.layer.gpu;
        let targets = selected.indices.tensor();
        let &[sequences, count] = targets.shape() else { return Ok(()) };
        let each: Vec<u32> = (0..sequences).flat_map(|_| 0..count as u32).collect();
        let positions = gpu.upload("rows in order", bytemuck::cast_slice(&each))?;
        let positions = Tensor::u32(&positions, &[sequences, count, 1]);
        let mut combine = Combine::new(from.tensor(), positions, y.tensor()).targets(targets);
        if let Some(skip) = skip {
            combine = combine.skip(skip);
        }
        self.plan.append(combine.plan(gpu)?);
        Ok(())
    }

    /// Each row through the paths that it chooses.
    fn second_level(
        &mut self,
        paths: &Paths,
        routed: &Owned,
        selected: Option<Tensor<'_>>,
        y: &Owned,
    ) -> Result<Chosen> {
        let gpu = &self.layer.gpu;
        let RouterConfig { paths: count, per_token, choice } = paths.config;
        let (shape, output) = (routed.shape(), self.layer.dimensions.output);
        let rows: usize = shape[..shape.len() - 1].iter().product();
        let routed = routed.tensor().reshape(&[rows, shape[shape.len() - 1]]);
        let slots = rows * per_token;
        let new = |label, element, shape: &[usize]| Owned::new(gpu, label, element, shape);

        let chosen = Chosen {
            logits: new("path logits", Element::F32, &[rows, count])?,
            ids: new("paths", Element::U32, &[rows, per_token])?,
            gates: new("gates", Element::F32, &[rows, per_token])?,
            margin: new("margin", Element::F32, &[rows])?,
            counts: new("counts", Element::U32, &[count])?,
        };
        let (logits, ids, gates) = (chosen.logits.tensor(), chosen.ids.tensor(), chosen.gates.tensor());
        self.product(routed.clone(), None, &paths.gate, logits.clone())?;
        let mut choose = RoutePaths::new(logits, ids.clone(), gates.clone(), choice).margin(chosen.margin.tensor());
        if let Some(selected) = selected {
            choose = choose.selected(selected.reshape(&[rows]));
        }
        self.plan.append(choose.plan(gpu)?);

        let y = y.tensor().reshape(&[rows, output]);
        let each = self.rows_each(per_token * output, &routed)?;
        let of_each = each.min(rows) * per_token;
        let offsets = new("offsets", Element::U32, &[count + 1])?;
        let order = new("order", Element::U32, &[of_each])?;
        let positions = new("positions", Element::U32, &[of_each])?;
        let results = new("paths' results", Element::F32, &[of_each, output])?;
        if each < rows {
            // The rows go through their paths part by part, but count together.
            let [order, positions] = ["order", "positions"].map(|label| new(label, Element::U32, &[slots]));
            let (order, positions) = (order?, positions?);
            let dispatch = Dispatch::new(ids.clone(), offsets.tensor(), order.tensor(), positions.tensor());
            self.plan.append(dispatch.counts(chosen.counts.tensor()).plan(gpu)?);
            for own in [&order, &positions] {
                self.plan.keep(own.buffer().clone());
            }
        }
        for first in (0..rows.max(1)).step_by(each) {
            let part = each.min(rows - first);
            let slots = part * per_token;
            let (ids, gates) = (ids.rows(first, part), gates.rows(first, part));
            let order = order.tensor().reshape(&[slots]);
            let positions = positions.tensor().reshape(&[part, per_token]);
            let results = results.tensor().reshape(&[slots, output]);
            let mut dispatch = Dispatch::new(ids, offsets.tensor(), order.clone(), positions.clone());
            if part == rows {
                dispatch = dispatch.counts(chosen.counts.tensor());
            }
            self.plan.append(dispatch.plan(gpu)?);
            let product =
                PathMatmul::new(routed.rows(first, part), paths.weight.tensor(), offsets.tensor(), results.clone())
                    .gathered(order, per_token)
                    .bias(paths.bias.tensor())
                    .constant(&paths.weight)
                    .batch_invariant(self.layer.settings.batch_invariant);
            self.plan.append(product.plan(gpu)?);
            self.plan.append(Combine::new(results, positions, y.rows(first, part)).gates(gates).plan(gpu)?);
        }
        for own in [&offsets, &order, &positions, &results] {
            self.plan.keep(own.buffer().clone());
        }
        Ok(chosen)
    }

    /// How many rows go through their paths at a time: all, or as many as have all results within a binding.
    fn rows_each(&self, of_results: usize, routed: &Tensor<'_>) -> Result<usize> {
        let gpu = &self.layer.gpu;
        let rows = routed.shape()[0];
        let row = 4 * of_results.max(routed.shape()[1]) as u64;
        if row.saturating_mul(rows as u64) <= gpu.binding_limit() {
            return Ok(rows.max(1));
        }
        let fitting = (gpu.unaligned_limit() / row) as usize;
        // Parts begin where all rows began: at a quad, if they did, and at a whole word of y.
        let each = if fitting < 64 { fitting / 2 * 2 } else { fitting / 64 * 64 };
        if each == 0 {
            return Err(Error::Limit {
                operation: NAME,
                what: "the results of two rows in bytes".into(),
                needed: 2 * row,
                allowed: gpu.unaligned_limit(),
            });
        }
        Ok(each)
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

    /// The positions of each sequence's selected tokens, the heaviest first, u32 `[B, k]`, where tokens are selected; `u32::MAX` where
    /// a sequence has no more.
    ///
    /// ```no_run
    /// # async fn read(gpu: &double_routing::Gpu, forward: &double_routing::Forward) -> double_routing::Result<()> {
    /// if let Some(indices) = forward.indices() {
    ///     let indices: Vec<u32> = double_routing::bytemuck::pod_collect_to_vec(&gpu.read(&indices).await?);
    /// }
    /// # Ok(()) }
    /// ```
    pub fn indices(&self) -> Option<Tensor<'_>> {
        self.indices.as_ref().map(Owned::tensor)
    }

    /// What the paths of each routed token are chosen by, f32 `[rows, P]`, where there are several. A row that is no token may hold
    /// anything.
    ///
    /// ```no_run
    /// # fn shape(forward: &double_routing::Forward) -> Option<Vec<usize>> {
    /// forward.path_logits().map(|logits| logits.shape().to_vec())
    /// # }
    /// ```
    pub fn path_logits(&self) -> Option<Tensor<'_>> {
        self.chosen.as_ref().map(|chosen| chosen.logits.tensor())
    }

    /// The paths of each routed token, the best first, u32 `[rows, e]`, where there are several: a row for every selected token, in the order of
    /// [`Forward::indices`], or for every token.
    ///
    /// ```no_run
    /// # fn shape(forward: &double_routing::Forward) -> Option<Vec<usize>> {
    /// forward.ids().map(|ids| ids.shape().to_vec())
    /// # }
    /// ```
    pub fn ids(&self) -> Option<Tensor<'_>> {
        self.chosen.as_ref().map(|chosen| chosen.ids.tensor())
    }

    /// What these paths weigh, f32 `[rows, e]`.
    ///
    /// ```no_run
    /// # fn shape(forward: &double_routing::Forward) -> Option<Vec<usize>> {
    /// forward.gates().map(|gates| gates.shape().to_vec())
    /// # }
    /// ```
    pub fn gates(&self) -> Option<Tensor<'_>> {
        self.chosen.as_ref().map(|chosen| chosen.gates.tensor())
    }

    /// By how much the last chosen path scored more than the first rejected, f32 `[rows]`.
    ///
    /// ```no_run
    /// # fn shape(forward: &double_routing::Forward) -> Option<Vec<usize>> {
    /// forward.margin().map(|margin| margin.shape().to_vec())
    /// # }
    /// ```
    pub fn margin(&self) -> Option<Tensor<'_>> {
        self.chosen.as_ref().map(|chosen| chosen.margin.tensor())
    }

    /// Tokens of each path, u32 `[P]`.
    ///
    /// ```no_run
    /// # fn shape(forward: &double_routing::Forward) -> Option<Vec<usize>> {
    /// forward.counts().map(|counts| counts.shape().to_vec())
    /// # }
    /// ```
    pub fn counts(&self) -> Option<Tensor<'_>> {
        self.chosen.as_ref().map(|chosen| chosen.counts.tensor())
    }
}
