//! Tensors: views of buffers that somebody else owns.

use crate::{Error, Gpu, Result};

/// How an element is stored. Arithmetic is f32 whatever the storage.
///
/// ```
/// use double_routing::Element;
/// assert_eq!(Element::BF16.bytes(), 2);
/// assert_eq!(Element::F32.to_string(), "f32");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Element {
    /// IEEE binary32.
    F32,
    /// IEEE binary16, two to a 32-bit word, lower half first.
    F16,
    /// bfloat16, two to a 32-bit word, lower half first.
    BF16,
    /// Unsigned 32-bit integer (lengths and indices).
    U32,
}

impl Element {
    /// Size of an element in bytes.
    ///
    /// ```
    /// assert_eq!(double_routing::Element::F32.bytes(), 4);
    /// ```
    pub const fn bytes(self) -> usize {
        match self {
            Self::F32 | Self::U32 => 4,
            Self::F16 | Self::BF16 => 2,
        }
    }

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::BF16 => "bf16",
            Self::U32 => "u32",
        }
    }
}

impl std::fmt::Display for Element {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// How the activations of a layer are stored: what comes in and what goes out, f32 by default. What lies between, scores and
/// sums are f32 whatever they are.
///
/// A layer's y is nearly constant: it differs from token to token by a few percent or less, so that rounding it to 16 bits loses
/// much of what tells tokens apart. Check before choosing it.
///
/// ```
/// use double_routing::{Element, Storage};
/// let storage = Storage { x: Element::BF16, ..Storage::default() };
/// assert_eq!(storage.y, Element::F32);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Storage {
    /// f32, f16 or bf16.
    pub x: Element,
    /// f32, f16 or bf16.
    pub y: Element,
}

impl Default for Storage {
    fn default() -> Self {
        Self { x: Element::F32, y: Element::F32 }
    }
}

/// A row-major view of part of a buffer. The caller keeps the buffer; the view only says where the elements are.
///
/// ```no_run
/// # fn view(buffer: &double_routing::wgpu::Buffer) -> double_routing::Tensor<'_> {
/// // 64 rows of 33 elements, from byte 256 of the app's buffer on.
/// double_routing::Tensor::f32(buffer, &[64, 33]).offset(256)
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Tensor<'a> {
    buffer: &'a wgpu::Buffer,
    offset: u64,
    shape: Vec<usize>,
    element: Element,
}

/// Part of a tensor as a shader sees it: the range to bind, and where in it the part starts.
#[derive(Debug, Clone)]
pub(crate) struct Bound<'a> {
    pub buffer: &'a wgpu::Buffer,
    pub offset: u64,
    pub size: u64,
    /// Elements from the start of the binding to the part's first element.
    pub first: u32,
}

impl<'a> Bound<'a> {
    /// For an operand that is not there, or has no elements.
    pub fn absent(gpu: &'a Gpu) -> Self {
        Self { buffer: gpu.absent(), offset: 0, size: gpu.absent().size(), first: 0 }
    }
}

/// What a step can bind: part of a buffer, or a factor packed into a texture.
pub(crate) trait Bind {
    fn resource(&self) -> wgpu::BindingResource<'_>;
}

impl Bind for Bound<'_> {
    fn resource(&self) -> wgpu::BindingResource<'_> {
        wgpu::BindingResource::Buffer(wgpu::BufferBinding {
            buffer: self.buffer,
            offset: self.offset,
            size: wgpu::BufferSize::new(self.size),
        })
    }
}

/// Texels in a row of a texture: the value that `TEXELS_WIDTH` in `shaders/lib/texels.wgsl` gets.
pub(crate) const TEXELS_WIDTH: u32 = 2048;

/// A row of texels of four f32, cut into a texture's rows.
#[derive(Debug, Clone)]
pub(crate) struct Texels {
    pub texture: wgpu::Texture,
    view: wgpu::TextureView,
}

impl Texels {
    pub const BYTES: u64 = 16;

    /// `count` has been held against [`Gpu::texels_limit`].
    pub fn new(gpu: &Gpu, label: &str, count: u64) -> Result<Self> {
        let rows = count.div_ceil(u64::from(TEXELS_WIDTH)).max(1);
        let height = u32::try_from(rows).map_err(|_| Error::Limit {
            operation: "texture",
            what: format!("texels of {label}"),
            needed: count,
            allowed: gpu.texels_limit(),
        })?;
        let texture = gpu.device().create_texture(&wgpu::TextureDescriptor {
            label: Some(label),
            size: wgpu::Extent3d { width: TEXELS_WIDTH, height, depth_or_array_layers: 1 },
            mip_level_count: 1,
            sample_count: 1,
            dimension: wgpu::TextureDimension::D2,
            format: wgpu::TextureFormat::Rgba32Float,
            // Copied from by the check of the kernel that fills it.
            usage: wgpu::TextureUsages::STORAGE_BINDING | wgpu::TextureUsages::COPY_SRC,
            view_formats: &[],
        });
        let view = texture.create_view(&wgpu::TextureViewDescriptor::default());
        Ok(Self { texture, view })
    }

    pub fn bytes(&self) -> u64 {
        u64::from(self.texture.width()) * u64::from(self.texture.height()) * Self::BYTES
    }
}

impl Bind for Texels {
    fn resource(&self) -> wgpu::BindingResource<'_> {
        wgpu::BindingResource::TextureView(&self.view)
    }
}

impl<'a> Tensor<'a> {
    /// A view of `shape` elements from the start of `buffer`, whose usage must include `STORAGE`.
    ///
    /// ```no_run
    /// # fn view(buffer: &double_routing::wgpu::Buffer) -> double_routing::Tensor<'_> {
    /// double_routing::Tensor::new(buffer, double_routing::Element::BF16, &[256, 768])
    /// # }
    /// ```
    pub fn new(buffer: &'a wgpu::Buffer, element: Element, shape: &[usize]) -> Self {
        Self { buffer, offset: 0, shape: shape.to_vec(), element }
    }

    /// A view of f32 elements from the start of `buffer`.
    ///
    /// ```no_run
    /// # fn view(buffer: &double_routing::wgpu::Buffer) -> double_routing::Tensor<'_> {
    /// double_routing::Tensor::f32(buffer, &[4, 128])
    /// # }
    /// ```
    pub fn f32(buffer: &'a wgpu::Buffer, shape: &[usize]) -> Self {
        Self::new(buffer, Element::F32, shape)
    }

    /// A view of u32 elements from the start of `buffer`.
    ///
    /// ```no_run
    /// # fn view(buffer: &double_routing::wgpu::Buffer) -> double_routing::Tensor<'_> {
    /// double_routing::Tensor::u32(buffer, &[4])
    /// # }
    /// ```
    pub fn u32(buffer: &'a wgpu::Buffer, shape: &[usize]) -> Self {
        Self::new(buffer, Element::U32, shape)
    }

    /// The same view, starting at byte `offset` of the buffer: any multiple of the element's size. A multiple of 16
    /// bytes lets kernels load four elements at a time.
    ///
    /// ```no_run
    /// # fn view(buffer: &double_routing::wgpu::Buffer) -> double_routing::Tensor<'_> {
    /// double_routing::Tensor::f32(buffer, &[4, 128]).offset(1024)
    /// # }
    /// ```
    #[must_use]
    pub fn offset(mut self, offset: u64) -> Self {
        self.offset = offset;
        self
    }

    /// The same elements under another shape; the kernels check that the view still lies within its buffer.
    ///
    /// ```no_run
    /// # fn view(buffer: &double_routing::wgpu::Buffer) -> double_routing::Tensor<'_> {
    /// double_routing::Tensor::f32(buffer, &[4, 128]).reshape(&[512])
    /// # }
    /// ```
    #[must_use]
    pub fn reshape(mut self, shape: &[usize]) -> Self {
        self.shape = shape.to_vec();
        self
    }

    /// The shape, outermost dimension first.
    ///
    /// ```no_run
    /// # fn shape(tensor: double_routing::Tensor<'_>) {
    /// let rank = tensor.shape().len();
    /// # }
    /// ```
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// How elements are stored.
    ///
    /// ```no_run
    /// # fn element(tensor: double_routing::Tensor<'_>) {
    /// assert_eq!(tensor.element(), double_routing::Element::F32);
    /// # }
    /// ```
    pub fn element(&self) -> Element {
        self.element
    }

    /// The buffer that holds the elements.
    ///
    /// ```no_run
    /// # fn bytes(tensor: double_routing::Tensor<'_>) -> u64 {
    /// tensor.buffer().size()
    /// # }
    /// ```
    pub fn buffer(&self) -> &'a wgpu::Buffer {
        self.buffer
    }

    /// The byte of the buffer at which the view starts.
    ///
    /// ```no_run
    /// # fn start(tensor: double_routing::Tensor<'_>) {
    /// assert_eq!(tensor.clone().offset(64).byte_offset(), 64);
    /// # }
    /// ```
    pub fn byte_offset(&self) -> u64 {
        self.offset
    }

    /// Rows `first .. first + count` of one of two dimensions.
    pub(crate) fn rows(&self, first: usize, count: usize) -> Self {
        let width = self.shape.last().copied().unwrap_or(0);
        let before = (first * width * self.element.bytes()) as u64;
        self.clone().reshape(&[count, width]).offset(self.offset + before)
    }

    /// The number of elements, if it can be counted at all.
    pub(crate) fn elements(&self, operation: &'static str) -> Result<u64> {
        elements(operation, &self.shape)
    }

    /// Checks that the view lies within its buffer, is aligned, and may be bound as storage.
    pub(crate) fn check(&self, operation: &'static str, name: &str) -> Result<()> {
        let elements = self.elements(operation)?;
        let size = self.element.bytes() as u64;
        if !self.offset.is_multiple_of(size) {
            return Err(Error::buffer(
                operation,
                format!(
                    "{name} starts at byte {}, which is no multiple of the {size} bytes of {}",
                    self.offset, self.element
                ),
            ));
        }
        let end = elements
            .checked_mul(size)
            .and_then(|bytes| bytes.checked_add(self.offset))
            .and_then(|end| end.checked_next_multiple_of(4));
        if end.is_none_or(|end| end > self.buffer.size()) {
            return Err(Error::buffer(
                operation,
                format!(
                    "{name} {:?} {} from byte {} on ends beyond its buffer of {} bytes",
                    self.shape,
                    self.element,
                    self.offset,
                    self.buffer.size()
                ),
            ));
        }
        if !self.buffer.usage().contains(wgpu::BufferUsages::STORAGE) {
            return Err(Error::buffer(operation, format!("{name}'s buffer lacks BufferUsages::STORAGE")));
        }
        Ok(())
    }

    /// Checks the element type against those an operation takes.
    pub(crate) fn check_element(&self, operation: &'static str, name: &str, allowed: &[Element]) -> Result<()> {
        if allowed.contains(&self.element) {
            return Ok(());
        }
        let allowed = allowed.iter().map(|element| element.name()).collect::<Vec<_>>().join(" or ");
        Err(Error::element(operation, format!("{name} is {}, expected {allowed}", self.element)))
    }

    /// Checks that nothing this view's buffer is read for is also written by the same dispatch.
    pub(crate) fn check_apart(&self, operation: &'static str, name: &str, out: &Tensor<'_>) -> Result<()> {
        if self.buffer == out.buffer {
            return Err(Error::buffer(
                operation,
                format!(
                    "{name} and the output share a buffer; WebGPU binds a buffer either for reading or for writing"
                ),
            ));
        }
        Ok(())
    }

    /// The binding for elements `first .. first + count`. The view has passed [`Self::check`].
    pub(crate) fn bind(
        &self,
        gpu: &'a Gpu,
        operation: &'static str,
        name: &str,
        first: u64,
        count: u64,
    ) -> Result<Bound<'a>> {
        if count == 0 {
            return Ok(Bound::absent(gpu));
        }
        let size = self.element.bytes() as u64;
        let start = self.offset + first * size;
        let offset = start - start % u64::from(gpu.limits().min_storage_buffer_offset_alignment);
        let bound = (start + count * size).next_multiple_of(4) - offset;
        if bound > gpu.binding_limit() {
            return Err(Error::Limit {
                operation,
                what: format!("binding {name} in bytes"),
                needed: bound,
                allowed: gpu.binding_limit(),
            });
        }
        let first = u32::try_from((start - offset) / size)
            .map_err(|_| Error::buffer(operation, format!("{name}: offset alignment")))?;
        Ok(Bound { buffer: self.buffer, offset, size: bound, first })
    }
}

/// A tensor together with its buffer.
#[derive(Debug, Clone)]
pub(crate) struct Owned {
    buffer: wgpu::Buffer,
    offset: u64,
    shape: Vec<usize>,
    element: Element,
}

impl Owned {
    /// In a buffer of its own.
    pub fn new(gpu: &Gpu, label: &'static str, element: Element, shape: &[usize]) -> Result<Self> {
        let buffer = gpu.buffer(label, element, elements(label, shape)?)?;
        Ok(Self { buffer, offset: 0, shape: shape.to_vec(), element })
    }

    /// x, each value rounded to what it is stored as.
    pub fn rounded(gpu: &Gpu, x: &[f32], shape: &[usize], element: Element) -> Result<Self> {
        if element == Element::F32 {
            let buffer = gpu.upload("x", bytemuck::cast_slice(x))?;
            return Ok(Self { buffer, offset: 0, shape: shape.to_vec(), element });
        }
        Self::upload(gpu, "x", &crate::Values::rounded(x, element), shape)
    }

    /// A handle to what somebody else's view is of.
    pub fn of(tensor: &Tensor<'_>) -> Self {
        let Tensor { buffer, offset, shape, element } = tensor;
        Self { buffer: (*buffer).clone(), offset: *offset, shape: shape.clone(), element: *element }
    }

    /// Weights, written with the queue's next submission.
    pub fn upload(gpu: &Gpu, label: &str, values: &crate::Values, shape: &[usize]) -> Result<Self> {
        let buffer = gpu.upload(label, values.bytes())?;
        Ok(Self { buffer, offset: 0, shape: shape.to_vec(), element: values.element() })
    }

    pub fn tensor(&self) -> Tensor<'_> {
        Tensor::new(&self.buffer, self.element, &self.shape).offset(self.offset)
    }

    pub fn buffer(&self) -> &wgpu::Buffer {
        &self.buffer
    }

    pub fn shape(&self) -> &[usize] {
        &self.shape
    }
}

/// The product of a shape, refused where it cannot be counted.
pub(crate) fn elements(operation: &'static str, shape: &[usize]) -> Result<u64> {
    shape
        .iter()
        .try_fold(1u64, |product, &size| product.checked_mul(size as u64))
        .filter(|&product| product < 1 << 60)
        .ok_or_else(|| Error::shape(operation, format!("{shape:?} has more elements than can be counted")))
}
