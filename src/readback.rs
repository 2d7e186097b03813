//! Reading results back, as a future that works natively and in the browser.

use std::{
    future::{Future, poll_fn},
    pin::pin,
    task::Poll,
};

use futures_intrusive::channel::shared::oneshot_channel;

use crate::{Error, Gpu, Result, Tensor};

impl Gpu {
    /// Copies a tensor's elements back to the CPU, as the bytes they are stored in.
    ///
    /// The copy is submitted at once, behind everything already submitted; awaiting the future waits for it. Under any
    /// executor the future asks the device for progress each time it is polled. A host that would rather sleep calls
    /// `device.poll(PollType::wait_indefinitely())` before it awaits. The buffer's usage must include `COPY_SRC`.
    ///
    /// # Errors
    /// [`Error::Buffer`] for a view that its buffer cannot serve, [`Error::DeviceLost`], [`Error::OutOfMemory`].
    ///
    /// ```no_run
    /// # async fn read(gpu: &double_routing::Gpu, y: double_routing::Tensor<'_>) -> double_routing::Result<Vec<f32>> {
    /// let bytes = gpu.read(&y).await?;
    /// Ok(double_routing::bytemuck::pod_collect_to_vec(&bytes))
    /// # }
    /// ```
    pub fn read(&self, tensor: &Tensor<'_>) -> impl Future<Output = Result<Vec<u8>>> + use<> {
        let copy = self.copy_back(tensor);
        let gpu = self.clone();
        async move {
            let Some(copy) = copy? else { return Ok(Vec::new()) };
            copy.errors.await?;
            let staging = copy.staging;
            let (sender, receiver) = oneshot_channel();
            staging.slice(..).map_async(wgpu::MapMode::Read, move |result| {
                // The receiver is gone only where nobody waits any more.
                let _ = sender.send(result);
            });
            let mut mapped = pin!(receiver.receive());
            let mapped = poll_fn(|context| {
                let progress = gpu.device().poll(wgpu::PollType::Poll);
                match mapped.as_mut().poll(context) {
                    Poll::Ready(mapped) => Poll::Ready(mapped),
                    Poll::Pending if progress.is_err() => Poll::Ready(None),
                    Poll::Pending => {
                        // In a browser the event loop drives the device, and mapping wakes the task.
                        if cfg!(not(target_arch = "wasm32")) {
                            context.waker().wake_by_ref();
                        }
                        Poll::Pending
                    }
                }
            })
            .await;
            if !matches!(mapped, Some(Ok(()))) {
                // That a buffer could not be read is no reason, but what comes of it.
                return Err(Error::DeviceLost(gpu.lost().unwrap_or_default().into()));
            }
            let bytes = staging.slice(..).get_mapped_range().map_err(|error| Error::Gpu(error.to_string()))?;
            Ok(bytes[copy.wanted].to_vec())
        }
    }

    /// Submits a copy of the tensor to a buffer that can be mapped; `None` where there is nothing to copy.
    fn copy_back(&self, tensor: &Tensor<'_>) -> Result<Option<Copy<impl Future<Output = Result<()>> + use<>>>> {
        tensor.check("read", "the tensor")?;
        let bytes = tensor.elements("read")? * tensor.element().bytes() as u64;
        if bytes == 0 {
            return Ok(None);
        }
        if !tensor.buffer().usage().contains(wgpu::BufferUsages::COPY_SRC) {
            return Err(Error::buffer("read", "the tensor's buffer lacks BufferUsages::COPY_SRC"));
        }
        let start = tensor.byte_offset() / 4 * 4;
        let size = (tensor.byte_offset() + bytes).next_multiple_of(4) - start;
        let skipped = (tensor.byte_offset() - start) as usize;
        let errors = self.error_scope();
        let staging = self.device().create_buffer(&wgpu::BufferDescriptor {
            label: Some("read-back"),
            size,
            usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        });
        let mut encoder = self.device().create_command_encoder(&Default::default());
        encoder.copy_buffer_to_buffer(tensor.buffer(), start, &staging, 0, size);
        self.queue().submit([encoder.finish()]);
        Ok(Some(Copy { staging, wanted: skipped..skipped + bytes as usize, errors: errors.close() }))
    }
}

/// A copy under way to a buffer that can be mapped.
struct Copy<Errors> {
    staging: wgpu::Buffer,
    /// The tensor's bytes in it.
    wanted: std::ops::Range<usize>,
    errors: Errors,
}
