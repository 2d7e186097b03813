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
        scope.close().await?;
        Ok(Output {
            y: Values::from_bytes(&y.await?, forward.y().element()).to_f32(),
            w: bytemuck::pod_collect_to_vec(&w.await?),
            indices: collect(indices).await?,
            ids: collect(ids).await?,
            gates: collect(gates).await?,
        })
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
