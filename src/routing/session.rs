//! Convenience above the core: values in, values out. This is the one place of the layer that submits.

use super::{DoubleRouting, Forward};
use crate::{
    Element, Error, Result, Storage, Tensor, Values,
    tensor::{Owned, elements},
};

/// What a forward gives back to the CPU.
///
/// ```no_run
/// # async fn show(layer: &double_routing::DoubleRouting, x: &[f32]) -> double_routing::Result<()> {
/// let output = layer.run(x, &[8, 512, 768], None).await?;
/// println!("first weight {}", output.w[0]);
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Output {
    /// `[…, O]`.
    pub y: Vec<f32>,
    /// The routing weights, `[…, 1]`.
    pub w: Vec<f32>,
    /// The selected positions of each sequence, `[B, k]`, the heaviest first; `u32::MAX` where there are no more. Empty where no
    /// token is left out.
    pub indices: Vec<u32>,
    /// The paths of each routed token, `[rows, e]`, and what they weigh. Empty where there is one path.
    pub ids: Vec<u32>,
    /// `[rows, e]`.
    pub gates: Vec<f32>,
    /// What the weights are the softmax of, `[…, 1]`; 0 for positions that do not count.
    pub logits: Vec<f32>,
    /// What the paths are chosen by, `[rows, P]`; 0 for rows that are no token. Empty where there is one path.
    pub path_logits: Vec<f32>,
}

impl Output {
    /// The first value that is infinite or NaN, of what comes first: what it is of, and which of its values. A finite input can give one: x, or
    /// sums near f32's end, 3.4e38, overflow in the logits or in y, and so does a y beyond 65 504 that is stored as f16. Softmax may make
    /// finite weights, and choose paths, of logits that have overflowed; so these are looked at too, and the rest means something only
    /// where this is `None`.
    ///
    /// ```
    /// use double_routing::Output;
    /// let output = Output { y: vec![1.0, f32::INFINITY], w: vec![1.0], ..Output::default() };
    /// assert_eq!(output.first_non_finite(), Some(("y", 1)));
    /// ```
    pub fn first_non_finite(&self) -> Option<(&'static str, usize)> {
        let Self { y, w, gates, logits, path_logits, .. } = self;
        non_finite(&[("logits", logits), ("w", w), ("path_logits", path_logits), ("gates", gates), ("y", y)])
    }
}

/// The first of these values that is no finite number.
pub(crate) fn non_finite(values: &[(&'static str, &[f32])]) -> Option<(&'static str, usize)> {
    let position = |values: &[f32]| values.iter().position(|value| !value.is_finite());
    values.iter().find_map(|&(name, values)| Some((name, position(values)?)))
}

/// A forward of one shape with buffers of its own, to be run any number of times.
///
/// ```no_run
/// # async fn stream(layer: &double_routing::DoubleRouting, batches: Vec<Vec<f32>>) -> double_routing::Result<()> {
/// let session = layer.session(&[8, 512, 768], false).await?;
/// for x in batches {
///     let output = session.run(&x, None).await?;
/// }
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct Session<'a> {
    layer: &'a DoubleRouting,
    x: Owned,
    x_elements: usize,
    lengths: Option<(wgpu::Buffer, usize)>,
    forward: Forward,
}

impl DoubleRouting {
    /// Runs one forward: uploads x (`[…, in]`, row-major), computes, reads y and w back. `lengths`, one for each index of
    /// axis 0, says how many positions of axis 1 count.
    ///
    /// # Errors
    /// As [`ForwardBuilder::plan`](super::ForwardBuilder::plan); [`Error::OutOfMemory`] and [`Error::DeviceLost`].
    ///
    /// ```no_run
    /// # async fn run(layer: &double_routing::DoubleRouting, x: &[f32]) -> double_routing::Result<()> {
    /// let output = layer.run(x, &[4, 9, 768], Some(&[9, 5, 1, 0])).await?;
    /// # Ok(()) }
    /// ```
    pub async fn run(&self, x: &[f32], shape: &[usize], lengths: Option<&[u32]>) -> Result<Output> {
        self.session(shape, lengths.is_some()).await?.run(x, lengths).await
    }

    /// Makes the buffers and the plan for forwards of x of one shape, with or without lengths.
    ///
    /// # Errors
    /// As [`DoubleRouting::run`].
    ///
    /// ```no_run
    /// # async fn make(layer: &double_routing::DoubleRouting) -> double_routing::Result<()> {
    /// let session = layer.session(&[8, 512, 768], false).await?;
    /// # Ok(()) }
    /// ```
    pub async fn session(&self, shape: &[usize], masked: bool) -> Result<Session<'_>> {
        self.session_with(shape, masked, Storage::default()).await
    }

    /// As [`DoubleRouting::session`], with x and y stored otherwise on the device. [`Session::run`] rounds x to its type and widens y,
    /// both exactly where they are of these types already.
    ///
    /// # Errors
    /// As [`DoubleRouting::run`].
    ///
    /// ```no_run
    /// # async fn make(layer: &double_routing::DoubleRouting) -> double_routing::Result<()> {
    /// use double_routing::{Element, Storage};
    /// let session = layer.session_with(&[8, 512, 768], false, Storage { x: Element::BF16, ..Storage::default() }).await?;
    /// # Ok(()) }
    /// ```
    pub async fn session_with(&self, shape: &[usize], masked: bool, storage: Storage) -> Result<Session<'_>> {
        let scope = self.gpu().error_scope();
        let session = self.build_session(shape, masked, storage);
        scope.close().await?;
        session
    }

    fn build_session(&self, shape: &[usize], masked: bool, storage: Storage) -> Result<Session<'_>> {
        let gpu = self.gpu();
        let x_elements = elements("double routing", shape)?;
        let x = Owned::new(gpu, "x", storage.x, shape)?;
        let leading = shape.split_last().map_or(shape, |(_, leading)| leading);
        let y = Owned::new(gpu, "y", storage.y, &[leading, &[self.dimensions().output]].concat())?;
        let sequences = shape.first().copied().unwrap_or(0);
        let lengths = match masked {
            true => Some((gpu.buffer("lengths", Element::U32, sequences as u64)?, sequences)),
            false => None,
        };
        let mut builder = self.forward(x.tensor()).output(y.tensor());
        if let Some((buffer, count)) = &lengths {
            builder = builder.lengths(Tensor::u32(buffer, &[*count]));
        }
        let forward = builder.plan()?;
        Ok(Session { layer: self, x, x_elements: x_elements as usize, lengths, forward })
    }
}

impl Session<'_> {
    /// Uploads x and the lengths, computes, and reads y and w back.
    ///
    /// # Errors
    /// [`Error::Shape`] where x or the lengths are not as many as the session was made for; [`Error::OutOfMemory`] and
    /// [`Error::DeviceLost`].
    ///
    /// ```no_run
    /// # async fn run(session: &double_routing::Session<'_>, x: &[f32]) -> double_routing::Result<()> {
    /// let output = session.run(x, None).await?;
    /// # Ok(()) }
    /// ```
    pub async fn run(&self, x: &[f32], lengths: Option<&[u32]>) -> Result<Output> {
        let gpu = self.layer.gpu();
        if x.len() != self.x_elements {
            return Err(Error::shape(
                "double routing",
                format!("x has {} values, expected {}", x.len(), self.x_elements),
            ));
        }
        let wanted = self.lengths.as_ref().map(|(_, count)| *count);
        if lengths.map(<[u32]>::len) != wanted {
            let given = lengths.map(<[u32]>::len);
            return Err(Error::shape(
                "double routing",
                format!("lengths: {given:?} given, the session is for {wanted:?}"),
            ));
        }
        let scope = gpu.error_scope();
        match self.x.tensor().element() {
            Element::F32 => gpu.write(self.x.buffer(), bytemuck::cast_slice(x)),
            element => gpu.write(self.x.buffer(), Values::rounded(x, element).bytes()),
        }
        if let (Some((buffer, _)), Some(lengths)) = (&self.lengths, lengths) {
            gpu.write(buffer, bytemuck::cast_slice(lengths));
        }
        let mut encoder = gpu.device().create_command_encoder(&Default::default());
        self.forward.record(&mut encoder.begin_compute_pass(&Default::default()));
        gpu.queue().submit([encoder.finish()]);
        let forward = &self.forward;
        let read = |tensor: Option<Tensor<'_>>| tensor.map(|tensor| gpu.read(&tensor));
        let (y, w) = (gpu.read(&forward.y()), gpu.read(&forward.w()));
        let (indices, ids, gates) = (read(forward.indices()), read(forward.ids()), read(forward.gates()));
        let (logits, path_logits) = (gpu.read(&forward.logits()), read(forward.path_logits()));
        scope.close().await?;
        let mut output = Output {
            y: Values::from_bytes(&y.await?, forward.y().element()).to_f32(),
            w: bytemuck::pod_collect_to_vec(&w.await?),
            indices: collect(indices).await?,
            ids: collect(ids).await?,
            gates: collect(gates).await?,
            logits: bytemuck::pod_collect_to_vec(&logits.await?),
            path_logits: collect(path_logits).await?,
        };
        self.forget_what_does_not_count(&mut output, lengths);
        Ok(output)
    }

    /// Makes the logits of masked positions and of rows that are no token 0: they are of whatever x has there.
    fn forget_what_does_not_count(&self, output: &mut Output, lengths: Option<&[u32]>) {
        let logits = self.forward.logits();
        if let (Some(lengths), &[_, positions, ref inner @ ..]) = (lengths, logits.shape()) {
            let inner: usize = inner.iter().product();
            for (logits, &length) in output.logits.chunks_mut((positions * inner).max(1)).zip(lengths) {
                logits.iter_mut().skip(length as usize * inner).for_each(|logit| *logit = 0.0);
            }
        }
        if let Some(paths) = &self.layer.paths {
            let rows = output.path_logits.chunks_mut(paths.config.paths);
            for (logits, ids) in rows.zip(output.ids.chunks(paths.config.per_token)) {
                if ids[0] == u32::MAX {
                    logits.fill(0.0);
                }
            }
        }
    }

    /// The forward that runs.
    ///
    /// ```no_run
    /// # fn show(session: &double_routing::Session<'_>) {
    /// println!("{} dispatches", session.forward().plan().steps().len());
    /// # }
    /// ```
    pub fn forward(&self) -> &Forward {
        &self.forward
    }
}

/// What was read, if anything was.
async fn collect<T: bytemuck::AnyBitPattern>(read: Option<impl Future<Output = Result<Vec<u8>>>>) -> Result<Vec<T>> {
    match read {
        Some(bytes) => Ok(bytes.await?.chunks_exact(size_of::<T>()).map(bytemuck::pod_read_unaligned).collect()),
        None => Ok(Vec::new()),
    }
}
