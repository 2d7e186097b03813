//! The device that kernels run on: one the host app owns, or one opened headless.

use std::{
    collections::HashMap,
    future::Future,
    sync::{Arc, Mutex, OnceLock, PoisonError},
};

use crate::{
    Error, Result,
    kernels::{Access, Kernel, Tile, Tuning},
    shader::Variant,
    step::Pipeline,
};

/// A device and queue with the crate's compiled pipelines. Cheap to clone; clones share the pipelines.
///
/// The core of the crate only builds and records with it. Submitting, waiting and error handlers stay with whoever owns
/// the device; only [`Gpu::open`], which makes a device of its own, installs handlers on it.
///
/// ```no_run
/// # fn wrap(device: double_routing::wgpu::Device, queue: double_routing::wgpu::Queue) {
/// let gpu = double_routing::Gpu::from_device(device, queue);
/// println!("{}", gpu.info().name);
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Gpu(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    device: wgpu::Device,
    queue: wgpu::Queue,
    info: wgpu::AdapterInfo,
    class: AdapterClass,
    limits: wgpu::Limits,
    /// Stands in for operands without elements, since an empty range cannot be bound.
    absent: wgpu::Buffer,
    pipelines: Mutex<HashMap<(&'static str, Variant), Arc<Pipeline>>>,
    tuning: Option<Arc<Tuning>>,
    /// The sides of the fragments that the device multiplies, of f16 with sums of f32.
    matrix_units: Option<u32>,
    lost: Arc<OnceLock<String>>,
}

/// The kinds of adapter that want different kernel configurations.
///
/// ```no_run
/// # fn show(gpu: &double_routing::Gpu) {
/// if gpu.class() == double_routing::AdapterClass::Software {
///     println!("{} runs on the CPU", gpu.info().name);
/// }
/// # }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum AdapterClass {
    /// The shaders run on the CPU: barriers are expensive, caches are large.
    Software,
    /// A GPU that shares its memory with the CPU, or one of a kind that is not known.
    Integrated,
    /// A GPU with memory of its own: many processors to be filled.
    Discrete,
}

impl AdapterClass {
    /// Every class.
    ///
    /// ```
    /// assert!(double_routing::AdapterClass::ALL.contains(&double_routing::AdapterClass::Software));
    /// ```
    pub const ALL: [Self; 3] = [Self::Software, Self::Integrated, Self::Discrete];
}

/// Which adapter to open. The default takes the best one there is: discrete before integrated before software, and
/// Vulkan, Metal and DX12 before GL.
///
/// ```
/// use double_routing::{AdapterChoice, wgpu};
/// let choice = AdapterChoice::default().named("nvidia").backends(wgpu::Backends::VULKAN);
/// # let _ = choice;
/// ```
#[derive(Debug, Clone)]
pub struct AdapterChoice {
    name: Option<String>,
    index: Option<usize>,
    backends: wgpu::Backends,
    kind: Option<wgpu::DeviceType>,
    baseline: bool,
    experimental: bool,
}

impl Default for AdapterChoice {
    fn default() -> Self {
        Self {
            name: None,
            index: None,
            backends: wgpu::Backends::all(),
            kind: None,
            baseline: false,
            experimental: false,
        }
    }
}

impl AdapterChoice {
    /// Any part of the adapter's name, case ignored.
    ///
    /// ```
    /// # use double_routing::AdapterChoice;
    /// let choice = AdapterChoice::default().named("llvmpipe");
    /// # let _ = choice;
    /// ```
    #[must_use]
    pub fn named(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// The place in the list of [`Gpu::adapters`] on all backends.
    ///
    /// ```
    /// # use double_routing::AdapterChoice;
    /// let choice = AdapterChoice::default().index(1);
    /// # let _ = choice;
    /// ```
    #[must_use]
    pub fn index(mut self, index: usize) -> Self {
        self.index = Some(index);
        self
    }

    /// Only adapters of these backends.
    ///
    /// ```
    /// # use double_routing::{AdapterChoice, wgpu};
    /// let choice = AdapterChoice::default().backends(wgpu::Backends::GL);
    /// # let _ = choice;
    /// ```
    #[must_use]
    pub fn backends(mut self, backends: wgpu::Backends) -> Self {
        self.backends = backends;
        self
    }

    /// Only adapters of this kind.
    ///
    /// ```
    /// # use double_routing::{AdapterChoice, wgpu};
    /// let choice = AdapterChoice::default().kind(wgpu::DeviceType::Cpu);
    /// # let _ = choice;
    /// ```
    #[must_use]
    pub fn kind(mut self, kind: wgpu::DeviceType) -> Self {
        self.kind = Some(kind);
        self
    }

    /// Asks the adapter for no more than every WebGPU device has: the default limits, and no optional feature. Slower; to see
    /// what others will.
    ///
    /// ```
    /// # use double_routing::AdapterChoice;
    /// let choice = AdapterChoice::default().baseline();
    /// # let _ = choice;
    /// ```
    #[must_use]
    pub fn baseline(mut self) -> Self {
        self.baseline = true;
        self
    }

    /// Asks the adapter also for what wgpu calls experimental, where it has it: cooperative matrices, the way to a GPU's matrix
    /// units. They multiply factors of f16 with sums of f32, and may round those toward zero. Not with [`AdapterChoice::baseline`].
    ///
    /// ```
    /// # use double_routing::AdapterChoice;
    /// let choice = AdapterChoice::default().experimental();
    /// # let _ = choice;
    /// ```
    #[must_use]
    pub fn experimental(mut self) -> Self {
        self.experimental = true;
        self
    }

    fn fits(&self, index: usize, info: &wgpu::AdapterInfo) -> bool {
        self.index.is_none_or(|wanted| wanted == index)
            && self.name.as_ref().is_none_or(|name| info.name.to_lowercase().contains(&name.to_lowercase()))
            && self.backends.contains(wgpu::Backends::from(info.backend))
            && self.kind.is_none_or(|kind| kind == info.device_type)
    }
}

impl std::fmt::Display for AdapterChoice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut words = Vec::new();
        if let Some(index) = self.index {
            words.push(format!("number {index}"));
        }
        if let Some(name) = &self.name {
            words.push(format!("named '{name}'"));
        }
        if let Some(kind) = self.kind {
            words.push(format!("of kind {kind:?}"));
        }
        if self.backends != wgpu::Backends::all() {
            let names: Vec<_> = self.backends.iter_names().map(|(name, _)| name.to_lowercase()).collect();
            words.push(format!("on {}", names.join(" or ")));
        }
        f.write_str(&if words.is_empty() { "of any kind".into() } else { words.join(" ") })
    }
}

impl Gpu {
    /// The limits that every kernel gets by with: WebGPU's defaults contain them. An app with needs of its own asks for the
    /// better of both.
    ///
    /// ```
    /// use double_routing::{Gpu, wgpu};
    /// assert!(Gpu::required_limits().check_limits(&wgpu::Limits::default()));
    /// let own = wgpu::Limits { max_texture_dimension_2d: 8192, ..wgpu::Limits::downlevel_defaults() };
    /// assert_eq!(Gpu::required_limits().or_better_values_from(&own).max_texture_dimension_2d, 8192);
    /// ```
    pub fn required_limits() -> wgpu::Limits {
        wgpu::Limits {
            max_storage_buffers_per_shader_stage: 8,
            max_compute_workgroup_storage_size: 16 << 10,
            max_compute_invocations_per_workgroup: 256,
            max_compute_workgroup_size_x: 256,
            max_compute_workgroup_size_y: 256,
            max_storage_buffer_binding_size: 128 << 20,
            ..wgpu::Limits::downlevel_defaults()
        }
    }

    /// The features without which nothing runs: none.
    ///
    /// ```
    /// assert!(double_routing::Gpu::required_features().is_empty());
    /// ```
    pub fn required_features() -> wgpu::Features {
        wgpu::Features::empty()
    }

    /// The checks that are compiled into the crate's shaders: bounds checks and all others, but for the guard against endless
    /// loops. Every loop of the shaders counts up to a bound in steps of at least one, and the host bounds the counts (u32,
    /// well below wrapping).
    ///
    /// ```
    /// let checks = double_routing::Gpu::shader_checks();
    /// assert!(checks.bounds_checks && !checks.force_loop_bounding);
    /// ```
    pub fn shader_checks() -> wgpu::ShaderRuntimeChecks {
        wgpu::ShaderRuntimeChecks { force_loop_bounding: false, ..wgpu::ShaderRuntimeChecks::checked() }
    }

    /// How the crate's shaders are compiled: workgroup memory is left as it is, since every element is written before it is
    /// read.
    ///
    /// ```
    /// assert!(!double_routing::Gpu::compilation_options().zero_initialize_workgroup_memory);
    /// ```
    pub fn compilation_options() -> wgpu::PipelineCompilationOptions<'static> {
        wgpu::PipelineCompilationOptions { zero_initialize_workgroup_memory: false, ..Default::default() }
    }

    /// The limits worth asking this adapter for: larger buffers and bindings, finer offsets, and the workgroup memory that the fastest
    /// [tiles](crate::kernels::Tile::workgroup_bytes) of large products take.
    ///
    /// ```no_run
    /// # fn limits(adapter: &double_routing::wgpu::Adapter) -> double_routing::wgpu::Limits {
    /// double_routing::Gpu::useful_limits(adapter)
    /// # }
    /// ```
    pub fn useful_limits(adapter: &wgpu::Adapter) -> wgpu::Limits {
        let limits = adapter.limits();
        wgpu::Limits {
            max_buffer_size: limits.max_buffer_size,
            max_storage_buffer_binding_size: limits.max_storage_buffer_binding_size,
            min_storage_buffer_offset_alignment: limits.min_storage_buffer_offset_alignment,
            max_texture_dimension_2d: limits.max_texture_dimension_2d,
            max_compute_workgroup_storage_size: limits.max_compute_workgroup_storage_size,
            ..Self::required_limits().or_worse_values_from(&limits)
        }
    }

    /// The optional features this adapter has that the crate makes use of: subgroups, on software adapters words of 64 bits,
    /// both for speed alone, and timestamps, for benchmarks.
    ///
    /// ```no_run
    /// # fn features(adapter: &double_routing::wgpu::Adapter) -> double_routing::wgpu::Features {
    /// double_routing::Gpu::useful_features(adapter)
    /// # }
    /// ```
    pub fn useful_features(adapter: &wgpu::Adapter) -> wgpu::Features {
        let mut useful = wgpu::Features::TIMESTAMP_QUERY | wgpu::Features::SUBGROUP;
        if adapter.get_info().device_type == wgpu::DeviceType::Cpu {
            useful |= wgpu::Features::SHADER_INT64;
        }
        adapter.features() & useful
    }

    /// The experimental features with which kernels can use the adapter's matrix units, if it has some that they can use: on Vulkan only,
    /// since naga does not translate these shaders for Metal.
    ///
    /// ```no_run
    /// # fn features(adapter: &double_routing::wgpu::Adapter) -> double_routing::wgpu::Features {
    /// use double_routing::Gpu;
    /// Gpu::useful_features(adapter) | Gpu::experimental_features(adapter)
    /// # }
    /// ```
    pub fn experimental_features(adapter: &wgpu::Adapter) -> wgpu::Features {
        let there = adapter.features().contains(MATRIX_FEATURES);
        let usable = there && fragment(&adapter.get_info(), &adapter.cooperative_matrix_properties()).is_some();
        if usable { MATRIX_FEATURES } else { wgpu::Features::empty() }
    }

    /// Wraps a device that the host app owns. Nothing is installed on it.
    ///
    /// ```no_run
    /// # fn wrap(device: double_routing::wgpu::Device, queue: double_routing::wgpu::Queue) {
    /// let gpu = double_routing::Gpu::from_device(device, queue);
    /// # let _ = gpu;
    /// # }
    /// ```
    pub fn from_device(device: wgpu::Device, queue: wgpu::Queue) -> Self {
        let absent = device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("double-routing: no elements"),
            size: 16,
            usage: wgpu::BufferUsages::STORAGE,
            mapped_at_creation: false,
        });
        let info = device.adapter_info();
        Self(Arc::new(Inner {
            class: match info.device_type {
                wgpu::DeviceType::Cpu => AdapterClass::Software,
                wgpu::DeviceType::DiscreteGpu => AdapterClass::Discrete,
                _ => AdapterClass::Integrated,
            },
            info,
            limits: device.limits(),
            absent,
            pipelines: Mutex::default(),
            tuning: None,
            matrix_units: None,
            lost: Arc::default(),
            device,
            queue,
        }))
    }

    /// Every adapter of these backends, best first: the order that [`AdapterChoice::index`] counts in.
    ///
    /// ```no_run
    /// # async fn list() {
    /// for adapter in double_routing::Gpu::adapters(double_routing::wgpu::Backends::all()).await {
    ///     println!("{}", adapter.get_info().name);
    /// }
    /// # }
    /// ```
    pub async fn adapters(backends: wgpu::Backends) -> Vec<wgpu::Adapter> {
        let instance = wgpu::Instance::new(wgpu::InstanceDescriptor {
            backends,
            ..wgpu::InstanceDescriptor::new_without_display_handle_from_env()
        });
        let mut adapters = instance.enumerate_adapters(backends).await;
        adapters.sort_by_key(|adapter| preference(&adapter.get_info()));
        adapters
    }

    /// Opens a device of its own on the chosen adapter. Errors that nobody asked about are logged.
    ///
    /// # Errors
    /// [`Error::NoAdapter`] where none fits, naming those there are; [`Error::Device`] where the adapter refuses.
    ///
    /// ```no_run
    /// # async fn open() -> double_routing::Result<()> {
    /// let gpu = double_routing::Gpu::open(&double_routing::AdapterChoice::default()).await?;
    /// println!("{} ({:?})", gpu.info().name, gpu.info().backend);
    /// # Ok(()) }
    /// ```
    pub async fn open(choice: &AdapterChoice) -> Result<Self> {
        // An index counts all adapters; otherwise a backend that is not wanted need not be woken.
        let backends = if choice.index.is_some() { wgpu::Backends::all() } else { choice.backends };
        let adapters = Self::adapters(backends).await;
        let adapter = adapters.iter().enumerate().find(|(index, adapter)| choice.fits(*index, &adapter.get_info()));
        let Some((_, adapter)) = adapter else {
            let there: Vec<_> = adapters
                .iter()
                .enumerate()
                .map(|(index, adapter)| (index, adapter.get_info()))
                .map(|(index, info)| format!("{index}: {} ({})", info.name, info.backend))
                .collect();
            return Err(Error::NoAdapter(match there.as_slice() {
                [] => format!("{choice} was found"),
                there => format!("{choice}; there: {}", there.join(", ")),
            }));
        };
        if choice.baseline {
            return Self::open_adapter(adapter, Self::required_features(), wgpu::Limits::default()).await;
        }
        let mut features = Self::useful_features(adapter);
        if choice.experimental {
            features |= Self::experimental_features(adapter);
        }
        Self::open_adapter(adapter, features, Self::useful_limits(adapter)).await
    }

    /// Opens a device of its own on this adapter, with these features and limits. Of experimental ones it may have
    /// [`Gpu::experimental_features`].
    ///
    /// # Errors
    /// [`Error::Device`] where the adapter refuses them.
    ///
    /// ```no_run
    /// # async fn open(adapter: &double_routing::wgpu::Adapter) -> double_routing::Result<double_routing::Gpu> {
    /// use double_routing::Gpu;
    /// // No more than WebGPU promises everywhere.
    /// Gpu::open_adapter(adapter, Gpu::required_features(), double_routing::wgpu::Limits::default()).await
    /// # }
    /// ```
    pub async fn open_adapter(adapter: &wgpu::Adapter, features: wgpu::Features, limits: wgpu::Limits) -> Result<Self> {
        let experimental = features & wgpu::Features::all_experimental_mask();
        let usable = Self::experimental_features(adapter).contains(MATRIX_FEATURES);
        let experimental_features = if usable && experimental == wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX {
            // SAFETY: the caller has asked for cooperative matrices by name. The crate's kernels use them in uniform control flow, on
            // workgroup memory alone and within its bounds, which are constants. What barriers order there is as gfx-rs/wgpu#8805 has it.
            unsafe { wgpu::ExperimentalFeatures::enabled() }
        } else {
            wgpu::ExperimentalFeatures::disabled()
        };
        let (device, queue) = adapter
            .request_device(&wgpu::DeviceDescriptor {
                label: Some("double-routing"),
                required_features: features,
                required_limits: limits,
                experimental_features,
                ..Default::default()
            })
            .await
            .map_err(|error| Error::Device(format!("{}: {error}", adapter.get_info().name)))?;
        let gpu = Self::from_device(device, queue).with_matrix_units(&adapter.cooperative_matrix_properties());
        gpu.check_limits()?;
        let lost = gpu.0.lost.clone();
        gpu.device().set_device_lost_callback(move |reason, message| {
            if reason != wgpu::DeviceLostReason::Destroyed {
                log::error!("device lost: {message}");
            }
            // Only the first loss is the cause; a second report has nothing to add.
            let _ = lost.set(message);
        });
        gpu.device().on_uncaptured_error(Arc::new(|error| log::error!("{error}")));
        log::info!("opened {} ({}, {})", gpu.info().name, gpu.info().backend, gpu.info().driver_info);
        Ok(gpu)
    }

    /// The device.
    ///
    /// ```no_run
    /// # fn encoder(gpu: &double_routing::Gpu) -> double_routing::wgpu::CommandEncoder {
    /// gpu.device().create_command_encoder(&Default::default())
    /// # }
    /// ```
    pub fn device(&self) -> &wgpu::Device {
        &self.0.device
    }

    /// The queue.
    ///
    /// ```no_run
    /// # fn submit(gpu: &double_routing::Gpu, encoder: double_routing::wgpu::CommandEncoder) {
    /// gpu.queue().submit([encoder.finish()]);
    /// # }
    /// ```
    pub fn queue(&self) -> &wgpu::Queue {
        &self.0.queue
    }

    /// What the adapter says about itself.
    ///
    /// ```no_run
    /// # fn name(gpu: &double_routing::Gpu) -> &str {
    /// &gpu.info().name
    /// # }
    /// ```
    pub fn info(&self) -> &wgpu::AdapterInfo {
        &self.0.info
    }

    /// The class that kernel configurations are chosen for.
    ///
    /// ```no_run
    /// # fn class(gpu: &double_routing::Gpu) -> double_routing::AdapterClass {
    /// gpu.class()
    /// # }
    /// ```
    pub fn class(&self) -> AdapterClass {
        self.0.class
    }

    /// The same device with the configurations of another class: to check or measure those.
    ///
    /// ```no_run
    /// # fn other(gpu: &double_routing::Gpu) -> double_routing::Gpu {
    /// gpu.with_class(double_routing::AdapterClass::Discrete)
    /// # }
    /// ```
    #[must_use]
    pub fn with_class(&self, class: AdapterClass) -> Self {
        self.configured(class, None, self.matrix_units())
    }

    /// The same device with the tiles of a tuning, where that has one for a product that the device and the product can take. Those whose
    /// weights are packed once (a layer's, on lavapipe) keep the crate's own, and so do products of a B that is not transposed in place of
    /// `lanes`: `tune` measures neither.
    ///
    /// ```no_run
    /// # fn tuned(gpu: &double_routing::Gpu) -> Result<double_routing::Gpu, Box<dyn std::error::Error>> {
    /// let tuning = std::fs::read_to_string("tuning.txt")?.parse()?;
    /// Ok(gpu.with_tuning(tuning))
    /// # }
    /// ```
    #[must_use]
    pub fn with_tuning(&self, tuning: Tuning) -> Self {
        self.configured(self.class(), Some(Arc::new(tuning)), self.matrix_units())
    }

    /// The same device with its adapter's [cooperative matrices](wgpu::Adapter::cooperative_matrix_properties), which a device does not
    /// tell. Those opened here have them already; without [`Gpu::experimental_features`] there are none.
    ///
    /// ```no_run
    /// # fn with_units(adapter: &double_routing::wgpu::Adapter, gpu: double_routing::Gpu) -> double_routing::Gpu {
    /// gpu.with_matrix_units(&adapter.cooperative_matrix_properties())
    /// # }
    /// ```
    #[must_use]
    pub fn with_matrix_units(&self, properties: &[wgpu::CooperativeMatrixProperties]) -> Self {
        let there = self.device().features().contains(MATRIX_FEATURES);
        let matrix_units = fragment(self.info(), properties).filter(|_| there);
        self.configured(self.class(), self.0.tuning.clone(), matrix_units)
    }

    /// The sides of the fragments of f16 that kernels can have the device multiply with sums of f32, if it has such matrix units.
    ///
    /// ```no_run
    /// # fn has_units(gpu: &double_routing::Gpu) -> bool {
    /// gpu.matrix_units().is_some()
    /// # }
    /// ```
    pub fn matrix_units(&self) -> Option<u32> {
        self.0.matrix_units
    }

    fn configured(&self, class: AdapterClass, tuning: Option<Arc<Tuning>>, matrix_units: Option<u32>) -> Self {
        Self(Arc::new(Inner {
            device: self.device().clone(),
            queue: self.queue().clone(),
            info: self.info().clone(),
            class,
            limits: self.limits().clone(),
            absent: self.absent().clone(),
            pipelines: Mutex::default(),
            tuning,
            matrix_units,
            lost: self.0.lost.clone(),
        }))
    }

    /// The tuning that tiles are chosen by, where it was given one.
    ///
    /// ```no_run
    /// # fn tuned(gpu: &double_routing::Gpu) -> bool {
    /// gpu.tuning().is_some()
    /// # }
    /// ```
    pub fn tuning(&self) -> Option<&Tuning> {
        self.0.tuning.as_deref()
    }

    /// Why the device was lost, where it was opened by [`Gpu::open`] and has been.
    ///
    /// ```no_run
    /// # fn alive(gpu: &double_routing::Gpu) -> bool {
    /// gpu.lost().is_none()
    /// # }
    /// ```
    pub fn lost(&self) -> Option<&str> {
        self.0.lost.get().map(String::as_str)
    }

    /// A buffer for `elements` elements that kernels read and write and that can be copied from and to. At least 16 bytes.
    ///
    /// # Errors
    /// [`Error::Limit`] beyond the device's largest buffer. Where memory runs out, wgpu reports it to the error scope or
    /// handler in force; see [`Gpu::error_scope`].
    ///
    /// ```no_run
    /// # fn buffer(gpu: &double_routing::Gpu) -> double_routing::Result<double_routing::wgpu::Buffer> {
    /// gpu.buffer("activations", double_routing::Element::F32, 4096)
    /// # }
    /// ```
    pub fn buffer(&self, label: &str, element: crate::Element, elements: u64) -> Result<wgpu::Buffer> {
        let bytes = elements.saturating_mul(element.bytes() as u64);
        let size = bytes.checked_next_multiple_of(16).unwrap_or(u64::MAX).max(16);
        if size > self.limits().max_buffer_size {
            return Err(Error::Limit {
                operation: "buffer",
                what: format!("{label} in bytes"),
                needed: size,
                allowed: self.limits().max_buffer_size,
            });
        }
        Ok(self.device().create_buffer(&wgpu::BufferDescriptor {
            label: Some(label),
            size,
            usage: wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        }))
    }

    /// A buffer that holds `bytes`, zero-padded to a multiple of 16, written with the next submission of the queue. Of more than 64 MiB all
    /// but the last of them are submitted piece by piece, so that no second copy of the whole waits for that.
    ///
    /// # Errors
    /// As [`Gpu::buffer`].
    ///
    /// ```no_run
    /// # fn buffer(gpu: &double_routing::Gpu) -> double_routing::Result<double_routing::wgpu::Buffer> {
    /// gpu.upload("lengths", double_routing::bytemuck::cast_slice(&[9u32, 5, 1, 0]))
    /// # }
    /// ```
    pub fn upload(&self, label: &str, bytes: &[u8]) -> Result<wgpu::Buffer> {
        let buffer = self.buffer(label, crate::Element::F32, bytes.len().div_ceil(4) as u64)?;
        let mut pieces = bytes.chunks(STAGED).enumerate().peekable();
        while let Some((at, piece)) = pieces.next() {
            self.write_at(&buffer, (at * STAGED) as u64, piece);
            if pieces.peek().is_some() {
                self.queue().submit([]);
            }
        }
        Ok(buffer)
    }

    /// Writes `bytes` to the start of a buffer with the next submission of the queue.
    ///
    /// ```no_run
    /// # fn write(gpu: &double_routing::Gpu, buffer: &double_routing::wgpu::Buffer) {
    /// gpu.write(buffer, double_routing::bytemuck::cast_slice(&[1.0f32, 2.0]));
    /// # }
    /// ```
    pub fn write(&self, buffer: &wgpu::Buffer, bytes: &[u8]) {
        self.write_at(buffer, 0, bytes);
    }

    fn write_at(&self, buffer: &wgpu::Buffer, offset: u64, bytes: &[u8]) {
        let whole = bytes.len() - bytes.len() % 4;
        if whole > 0 {
            self.queue().write_buffer(buffer, offset, &bytes[..whole]);
        }
        if whole < bytes.len() {
            let mut last = [0; 4];
            last[..bytes.len() - whole].copy_from_slice(&bytes[whole..]);
            self.queue().write_buffer(buffer, offset + whole as u64, &last);
        }
    }

    /// Opens error scopes on the device, so that what the graphics API reports from here on (out of memory above all) comes
    /// back from [`ErrorScope::close`] instead of going to the device's handler.
    ///
    /// ```no_run
    /// # async fn big(gpu: &double_routing::Gpu) -> double_routing::Result<double_routing::wgpu::Buffer> {
    /// let scope = gpu.error_scope();
    /// let buffer = gpu.buffer("large", double_routing::Element::F32, 1 << 28);
    /// scope.close().await?;
    /// buffer
    /// # }
    /// ```
    pub fn error_scope(&self) -> ErrorScope {
        let memory = self.device().push_error_scope(wgpu::ErrorFilter::OutOfMemory);
        let internal = self.device().push_error_scope(wgpu::ErrorFilter::Internal);
        let validation = self.device().push_error_scope(wgpu::ErrorFilter::Validation);
        ErrorScope { validation, internal, memory }
    }

    pub(crate) fn limits(&self) -> &wgpu::Limits {
        &self.0.limits
    }

    /// The largest range that one binding can serve, in bytes; shaders count in u32.
    pub(crate) fn binding_limit(&self) -> u64 {
        let limits = self.limits();
        limits.max_storage_buffer_binding_size.min(limits.max_buffer_size).min(u64::from(u32::MAX)) / 4 * 4
    }

    /// The bytes that fit a binding wherever they start: an unaligned start makes it longer by less than the alignment.
    pub(crate) fn unaligned_limit(&self) -> u64 {
        self.binding_limit().saturating_sub(u64::from(self.limits().min_storage_buffer_offset_alignment))
    }

    /// Whether shaders may read and write in words of 64 bits. It pays where a load or a store is done lane by lane.
    pub(crate) fn wide_words(&self) -> bool {
        self.class() == AdapterClass::Software && self.device().features().contains(wgpu::Features::SHADER_INT64)
    }

    /// Whether shaders may use subgroups, none of which is smaller than four invocations.
    pub(crate) fn has_subgroups(&self) -> bool {
        // Browsers want `enable subgroups;`, which naga does not know yet.
        let known = self.info().backend != wgpu::Backend::BrowserWebGpu && self.info().subgroup_min_size >= 4;
        known && self.device().features().contains(wgpu::Features::SUBGROUP)
    }

    /// The lanes of a subgroup, where the device has subgroups and all are of one size.
    pub(crate) fn subgroup_lanes(&self) -> Option<u32> {
        lanes_of_all(self.info()).filter(|_| self.has_subgroups())
    }

    /// The texels that fit a texture of their width, and what else a binding may hold: a tensor that is cut where it exceeds a
    /// binding is cut alike where it is packed.
    pub(crate) fn texels_limit(&self) -> u64 {
        let width = u64::from(crate::tensor::TEXELS_WIDTH);
        let height = u64::from(self.limits().max_texture_dimension_2d);
        (width * height).min(self.binding_limit() / crate::tensor::Texels::BYTES)
    }

    /// Whether the device's limits let factors be packed into textures; `Tile::suits` says where that pays.
    pub(crate) fn packs(&self) -> bool {
        let limits = self.limits();
        limits.max_texture_dimension_2d >= crate::tensor::TEXELS_WIDTH
            && limits.max_storage_textures_per_shader_stage >= 2
    }

    pub(crate) fn absent(&self) -> &wgpu::Buffer {
        &self.0.absent
    }

    /// A uniform buffer that holds a kernel's parameters. Filled where it is made, so that no submission is needed.
    pub(crate) fn uniform(&self, bytes: &[u8]) -> Result<wgpu::Buffer> {
        let buffer = self.device().create_buffer(&wgpu::BufferDescriptor {
            label: Some("parameters"),
            size: bytes.len() as u64,
            usage: wgpu::BufferUsages::UNIFORM,
            mapped_at_creation: true,
        });
        match buffer.slice(..).get_mapped_range_mut() {
            Ok(mut mapped) => mapped.slice(..).copy_from_slice(bytes),
            Err(error) => return Err(Error::OutOfMemory(format!("a kernel's parameters: {error}"))),
        }
        buffer.unmap();
        Ok(buffer)
    }

    /// The compiled pipeline of a kernel variant, made at its first use.
    pub(crate) fn pipeline(&self, kernel: &'static Kernel, variant: &Variant) -> Result<Arc<Pipeline>> {
        let key = (kernel.name(), variant.clone());
        let mut pipelines = self.0.pipelines.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(pipeline) = pipelines.get(&key) {
            return Ok(pipeline.clone());
        }
        self.check_limits()?;
        let pipeline = Arc::new(self.compile(kernel, variant)?);
        pipelines.insert(key, pipeline.clone());
        Ok(pipeline)
    }

    /// Refuses a device that was requested with less than [`Gpu::required_limits`].
    fn check_limits(&self) -> Result<()> {
        let (there, required) = (self.limits(), Self::required_limits());
        let limits = [
            (
                "storage buffers of a stage",
                there.max_storage_buffers_per_shader_stage,
                required.max_storage_buffers_per_shader_stage,
            ),
            (
                "bytes of workgroup memory",
                there.max_compute_workgroup_storage_size,
                required.max_compute_workgroup_storage_size,
            ),
            (
                "invocations of a workgroup",
                there.max_compute_invocations_per_workgroup,
                required.max_compute_invocations_per_workgroup,
            ),
            ("workgroup size in x", there.max_compute_workgroup_size_x, required.max_compute_workgroup_size_x),
            (
                "workgroups of a dispatch",
                there.max_compute_workgroups_per_dimension,
                required.max_compute_workgroups_per_dimension,
            ),
        ];
        match limits.into_iter().find(|(_, there, required)| there < required) {
            Some((what, there, required)) => Err(Error::Limit {
                operation: "device",
                what: what.into(),
                needed: required.into(),
                allowed: there.into(),
            }),
            None => Ok(()),
        }
    }

    fn compile(&self, kernel: &'static Kernel, variant: &Variant) -> Result<Pipeline> {
        log::debug!("compiling {} {variant}", kernel.name());
        let entry = |binding, ty| wgpu::BindGroupLayoutEntry {
            binding,
            visibility: wgpu::ShaderStages::COMPUTE,
            ty,
            count: None,
        };
        let buffer = |ty| wgpu::BindingType::Buffer { ty, has_dynamic_offset: false, min_binding_size: None };
        let texels = |access| wgpu::BindingType::StorageTexture {
            access,
            format: wgpu::TextureFormat::Rgba32Float,
            view_dimension: wgpu::TextureViewDimension::D2,
        };
        let mut entries = vec![entry(0, buffer(wgpu::BufferBindingType::Uniform))];
        for slot in kernel.slots(variant)? {
            let storage = |read_only| buffer(wgpu::BufferBindingType::Storage { read_only });
            let ty = match slot.access {
                Access::Read => storage(true),
                Access::Write => storage(false),
                Access::ReadTexels => texels(wgpu::StorageTextureAccess::ReadOnly),
                Access::WriteTexels => texels(wgpu::StorageTextureAccess::WriteOnly),
            };
            entries.push(entry(slot.binding, ty));
        }
        let layout = self.device().create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor {
            label: Some(kernel.name()),
            entries: &entries,
        });
        let wgsl = kernel.wgsl(variant)?;
        let description =
            wgpu::ShaderModuleDescriptor { label: Some(kernel.name()), source: wgpu::ShaderSource::Wgsl(wgsl.into()) };
        // SAFETY: bounds checks stay on, and every loop ends, as `shader_checks` says.
        let module = unsafe { self.device().create_shader_module_trusted(description, Self::shader_checks()) };
        let compute = self.device().create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: Some(kernel.name()),
            layout: Some(&self.device().create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
                label: Some(kernel.name()),
                bind_group_layouts: &[Some(&layout)],
                ..Default::default()
            })),
            module: &module,
            entry_point: Some("main"),
            compilation_options: Self::compilation_options(),
            cache: None,
        });
        Ok(Pipeline { compute, layout })
    }
}

/// Error scopes of a device, from [`Gpu::error_scope`] to [`ErrorScope::close`], on one thread.
///
/// ```no_run
/// # async fn check(gpu: &double_routing::Gpu) -> double_routing::Result<()> {
/// let scope = gpu.error_scope();
/// // Build plans, submit work …
/// scope.close().await
/// # }
/// ```
#[derive(Debug)]
#[must_use = "errors are lost unless the scope is closed"]
pub struct ErrorScope {
    // Scopes are a stack, and fields are dropped in this order: the last opened is the first closed.
    validation: wgpu::ErrorScopeGuard,
    internal: wgpu::ErrorScopeGuard,
    memory: wgpu::ErrorScopeGuard,
}

impl ErrorScope {
    /// Ends the scope at once; the future gives what was reported in it.
    ///
    /// # Errors
    /// The first error the graphics API reported; out of memory before any other, since others follow from it.
    ///
    /// ```no_run
    /// # async fn check(scope: double_routing::ErrorScope) -> double_routing::Result<()> {
    /// scope.close().await
    /// # }
    /// ```
    pub fn close(self) -> impl Future<Output = Result<()>> + use<> {
        let (validation, internal, memory) = (self.validation.pop(), self.internal.pop(), self.memory.pop());
        async move {
            match [memory.await, internal.await, validation.await].into_iter().flatten().next() {
                Some(error) => Err(error.into()),
                None => Ok(()),
            }
        }
    }
}

/// Bytes that are uploaded with one submission.
const STAGED: usize = 64 << 20;

/// What a device needs for its matrix units to be used.
const MATRIX_FEATURES: wgpu::Features =
    wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX.union(wgpu::Features::SHADER_F16).union(wgpu::Features::SUBGROUP);

/// The lanes of a subgroup, where all are of one size.
fn lanes_of_all(info: &wgpu::AdapterInfo) -> Option<u32> {
    (info.subgroup_min_size == info.subgroup_max_size).then_some(info.subgroup_min_size)
}

/// The side of the largest square fragments of f16 whose products the adapter adds in f32, and that a tile has for its subgroups.
fn fragment(info: &wgpu::AdapterInfo, properties: &[wgpu::CooperativeMatrixProperties]) -> Option<u32> {
    use wgpu::CooperativeScalarType::{F16, F32};
    let lanes = lanes_of_all(info).filter(|_| info.backend == wgpu::Backend::Vulkan)?;
    let square = |it: &&wgpu::CooperativeMatrixProperties| it.m_size == it.n_size && it.n_size == it.k_size;
    let mixed = |it: &&wgpu::CooperativeMatrixProperties| it.ab_type == F16 && it.cr_type == F32;
    let sides = properties.iter().filter(square).filter(mixed).map(|it| it.m_size);
    sides.filter(|side| Tile::all().any(|tile| tile.cooperates(*side, lanes))).max()
}

/// Smaller is better.
fn preference(info: &wgpu::AdapterInfo) -> (u8, u8) {
    let kind = match info.device_type {
        wgpu::DeviceType::DiscreteGpu => 0,
        wgpu::DeviceType::IntegratedGpu => 1,
        wgpu::DeviceType::VirtualGpu => 2,
        wgpu::DeviceType::Other => 3,
        wgpu::DeviceType::Cpu => 4,
    };
    let backend = match info.backend {
        wgpu::Backend::Gl => 1,
        _ => 0,
    };
    (kind, backend)
}
