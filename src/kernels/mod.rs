//! The kernels, each one file here and one of the same name in `shaders/`.
//!
//! A kernel's builder takes the caller's [`Tensor`]s, checks everything, and gives a
//! [`Plan`](crate::Plan): usually one dispatch, more where a tensor is larger than a binding may be or a sum is too deep
//! for one.

mod attend;
mod choice;
mod combine;
mod dispatch;
mod lanes;
mod matmul;
mod optional;
mod pack;
mod path_load;
mod path_matmul;
mod reduce;
mod route;
mod route_paths;
mod select;
mod softmax;
mod tile;
mod tuning;

pub use attend::{ATTEND, Attend};
pub use choice::{GroupLimit, GroupScore, PathChoice, Score};
pub use combine::{COMBINE, Combine};
pub use dispatch::{DISPATCH, Dispatch};
pub use matmul::{MATMUL, Matmul};
pub use pack::PACK;
pub(crate) use pack::{Constant, Layout, Source as PackSource, pack};
pub use path_load::{PATH_LOAD, PathLoad};
pub use path_matmul::{PATH_MATMUL, PathMatmul};
pub use reduce::{REDUCE, Reduce};
pub use route::{ROUTE, Route};
pub use route_paths::{ROUTE_PATHS, RoutePaths};
pub use select::{SELECT, Select};
pub use softmax::{SOFTMAX, Softmax};
pub(crate) use tile::Packed;
pub use tile::Tile;
pub use tuning::Tuning;

use crate::{
    Element, Error, Gpu, Result, Tensor,
    shader::{Variant, assemble},
    tensor::Bound,
};

/// The registered kernels. Everything that goes over all kernels (tests, tools) goes over this.
///
/// ```
/// for kernel in double_routing::kernels::ALL {
///     println!("{}: {} variants", kernel.name(), kernel.variants().len());
/// }
/// ```
pub const ALL: &[&Kernel] = &[
    &MATMUL,
    &PACK,
    &SOFTMAX,
    &ATTEND,
    &ROUTE,
    &REDUCE,
    &SELECT,
    &ROUTE_PATHS,
    &DISPATCH,
    &PATH_MATMUL,
    &COMBINE,
    &PATH_LOAD,
];

/// A kernel: its WGSL, what it binds, and the ways it can be specialised.
///
/// ```
/// use double_routing::kernels::MATMUL;
/// let variant = &MATMUL.variants()[0];
/// println!("// {variant}\n{}", MATMUL.wgsl(variant)?);
/// # Ok::<(), double_routing::Error>(())
/// ```
#[derive(Debug)]
pub struct Kernel {
    name: &'static str,
    source: &'static str,
    /// The fields of the parameter struct at binding 0, and the byte each starts at.
    params: fn() -> Vec<(String, usize)>,
    slots: &'static [Slot],
    variants: fn() -> Vec<Variant>,
}

/// How a shader uses a binding.
///
/// ```
/// use double_routing::kernels::Access;
/// assert_ne!(Access::Read, Access::Write);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// `var<storage, read>`.
    Read,
    /// `var<storage, read_write>`.
    Write,
    /// `texture_storage_2d<rgba32float, read>`.
    ReadTexels,
    /// `texture_storage_2d<rgba32float, write>`.
    WriteTexels,
}

/// One binding of a kernel, in group 0: a storage buffer or a storage texture.
///
/// ```
/// use double_routing::kernels::{Access, MATMUL};
/// let slots = MATMUL.slots(&MATMUL.variants()[0])?;
/// assert_eq!((slots[0].name, slots[0].binding, slots[0].access), ("a", 1, Access::Read));
/// # Ok::<(), double_routing::Error>(())
/// ```
#[derive(Debug, Clone, Copy)]
pub struct Slot {
    /// The binding's number.
    pub binding: u32,
    /// The variable's name in the shader.
    pub name: &'static str,
    /// Whether the shader writes to it.
    pub access: Access,
    /// The condition, in the words of the shader's `//#if`, under which the variant has it.
    when: Option<&'static str>,
}

impl Slot {
    const fn read(binding: u32, name: &'static str) -> Self {
        Self { binding, name, access: Access::Read, when: None }
    }

    const fn write(binding: u32, name: &'static str) -> Self {
        Self { binding, name, access: Access::Write, when: None }
    }

    const fn texels(binding: u32, name: &'static str, access: Access) -> Self {
        Self { binding, name, access, when: None }
    }

    const fn when(mut self, condition: &'static str) -> Self {
        self.when = Some(condition);
        self
    }
}

impl Kernel {
    /// The stem of its files.
    ///
    /// ```
    /// assert_eq!(double_routing::kernels::SOFTMAX.name(), "softmax");
    /// ```
    pub const fn name(&self) -> &'static str {
        self.name
    }

    /// Every variant that the host can ask for.
    ///
    /// ```
    /// assert!(!double_routing::kernels::ROUTE.variants().is_empty());
    /// ```
    pub fn variants(&self) -> Vec<Variant> {
        let mut variants = (self.variants)();
        // Adapter classes may share a configuration.
        let mut seen = std::collections::HashSet::new();
        variants.retain(|variant| seen.insert(variant.clone()));
        variants
    }

    /// The WGSL of one variant.
    ///
    /// # Errors
    /// Where the variant is of another kernel.
    ///
    /// ```
    /// use double_routing::kernels::ATTEND;
    /// assert!(ATTEND.wgsl(&ATTEND.variants()[0])?.contains("@compute"));
    /// # Ok::<(), double_routing::Error>(())
    /// ```
    pub fn wgsl(&self, variant: &Variant) -> Result<String> {
        assemble(self.source, variant)
    }

    /// The bindings of one variant but for its parameters. Binding 0 is the uniform with the parameters.
    ///
    /// # Errors
    /// Where the variant is of another kernel.
    ///
    /// ```
    /// use double_routing::kernels::ROUTE;
    /// assert!(ROUTE.slots(&ROUTE.variants()[0])?.iter().any(|slot| slot.name == "w"));
    /// # Ok::<(), double_routing::Error>(())
    /// ```
    pub fn slots(&self, variant: &Variant) -> Result<Vec<Slot>> {
        let mut slots = Vec::new();
        for slot in self.slots {
            if slot.when.map_or(Ok(true), |condition| variant.holds(condition))? {
                slots.push(*slot);
            }
        }
        Ok(slots)
    }

    /// The fields of the parameter struct, nested ones joined by a dot, and the byte each starts at.
    ///
    /// ```
    /// assert_eq!(double_routing::kernels::SOFTMAX.params()[0], ("outer".to_string(), 0));
    /// ```
    pub fn params(&self) -> Vec<(String, usize)> {
        (self.params)()
    }
}

/// Declares a kernel's parameter struct together with the list of its fields, which a test holds against the shader.
macro_rules! params {
    ($(#[$about:meta])* struct $name:ident $(embeds $embedded:ident: $embedded_type:ident)? {
        $($(#[$field_about:meta])* $field:ident,)*
    }) => {
        $(#[$about])*
        #[repr(C)]
        #[derive(Debug, Clone, Copy, Default, bytemuck::Pod, bytemuck::Zeroable)]
        pub(crate) struct $name {
            $(pub $embedded: $embedded_type,)?
            $($(#[$field_about])* pub $field: u32,)*
        }

        impl $name {
            pub(crate) fn fields() -> Vec<(String, usize)> {
                #[allow(unused_mut)] // Not every struct embeds another.
                let mut fields: Vec<(String, usize)> = Vec::new();
                $(
                    let start = std::mem::offset_of!($name, $embedded);
                    let inner = $embedded_type::fields().into_iter();
                    fields.extend(inner.map(|(name, at)| (format!("{}.{name}", stringify!($embedded)), start + at)));
                )?
                fields.extend([$((stringify!($field).to_string(), std::mem::offset_of!($name, $field)),)*]);
                fields
            }
        }
    };
}
use params;

/// A count as the u32 that shaders compute with.
fn shader_u32(operation: &'static str, what: &str, count: u64) -> Result<u32> {
    u32::try_from(count).map_err(|_| Error::Limit {
        operation,
        what: what.into(),
        needed: count,
        allowed: u64::from(u32::MAX),
    })
}

/// Whether groups of `size` elements of an operand are aligned: it starts at a multiple of so many and so does each of its rows.
fn in_groups(bound: &Bound<'_>, size: u64, strides: &[u64]) -> bool {
    u64::from(bound.first).is_multiple_of(size) && strides.iter().all(|stride| stride.is_multiple_of(size))
}

/// OPERAND_ACCESS of an operand of f32 that software adapters read or write eight elements at a time.
const OCTETS: &str = "wide_octets";

/// They begin at multiples of so many.
const OCTET_BYTES: u64 = 32;

fn in_octets(gpu: &Gpu, bound: &Bound<'_>, strides: &[u64]) -> bool {
    gpu.wide_words() && in_groups(bound, 8, strides)
}

fn in_quads(bound: &Bound<'_>, strides: &[u64]) -> bool {
    in_groups(bound, 4, strides)
}

impl Bound<'_> {
    /// How shaders read it: OPERAND_ACCESS of `shaders/lib/load.wgsl`. Its rows have these strides and lengths. Reading in words
    /// of 64 bits may make the binding 4 bytes longer, so that its last word is whole.
    fn load_access(&mut self, gpu: &Gpu, element: Element, strides: &[u64]) -> &'static str {
        match (in_quads(self, strides), gpu.wide_words()) {
            (true, true) => "wide_quads",
            (true, false) => "quads",
            (false, true) if element == Element::F32 && self.can_be_wide(gpu) => {
                self.size = self.size.next_multiple_of(8);
                "wide_pairs"
            }
            (false, _) => "elements",
        }
    }

    /// Whether there is room for its last word of 64 bits to be whole.
    fn can_be_wide(&self, gpu: &Gpu) -> bool {
        let whole = self.size.next_multiple_of(8);
        self.offset + whole <= self.buffer.size() && whole <= gpu.binding_limit()
    }
}

/// An operand of a product: where it is, its type, and the strides and lengths of its rows.
struct Factor<'a, 'b> {
    bound: &'a mut Bound<'b>,
    element: Element,
    strides: &'a [u64],
}

/// How a shader reads an operand: its type, and OPERAND_ACCESS of `shaders/lib/load.wgsl`.
type Read = (Element, &'static str);

/// How shaders read two operands that they multiply with each other, which halves the variants: in quads where both can be, else
/// neither.
fn factor_reads(gpu: &Gpu, [a, b]: [Factor<'_, '_>; 2]) -> [Read; 2] {
    let mut factors = [a, b];
    let quads = factors.iter().all(|factor| in_quads(factor.bound, factor.strides));
    let wide = |factor: &Factor<'_, '_>| factor.element != Element::F32 || factor.bound.can_be_wide(gpu);
    let alike = quads || factors.iter().all(wide);
    factors.each_mut().map(|factor| {
        // A stride of 1 keeps an operand that could be read in quads from it.
        let strides = if quads { factor.strides } else { &[1] };
        let access = if alike { factor.bound.load_access(gpu, factor.element, strides) } else { "elements" };
        (factor.element, access)
    })
}

/// What [`factor_reads`] can give.
fn factor_variants(wide: bool) -> Vec<[Read; 2]> {
    let mut variants = Vec::new();
    for types in factor_types() {
        let read = |access| types.map(|element| (element, access));
        variants.extend([read("quads"), read("elements")]);
        if wide {
            let unaligned = |element| if element == Element::F32 { "wide_pairs" } else { "elements" };
            variants.extend([read("wide_quads"), types.map(|element| (element, unaligned(element)))]);
        }
    }
    variants
}

/// The accesses that [`Bound::load_access`] can give.
fn load_accesses(element: Element, wide: bool) -> Vec<&'static str> {
    let mut accesses = vec!["quads", "elements"];
    if wide {
        accesses.push("wide_quads");
    }
    if wide && element == Element::F32 {
        accesses.push("wide_pairs");
    }
    accesses
}

/// How shaders write it: OPERAND_ACCESS of `shaders/lib/store.wgsl`. One of 16 bits has passed [`whole_words`].
fn store_access(bound: &Bound<'_>, element: Element, strides: &[u64]) -> &'static str {
    match element.bytes() {
        2 => "words",
        _ if in_quads(bound, strides) => "quads",
        _ => "elements",
    }
}

/// Those of f32, and of all types.
const F32_STORE_ACCESSES: &[&str] = &["quads", "elements"];
const STORE_ACCESSES: &[&str] = &["quads", "elements", "words"];

/// The element types that weights and activations may be stored in.
const FLOATS: &[Element] = &[Element::F32, Element::F16, Element::BF16];

/// Checks an output that may be of any float type. One of 16 bits is written in words of 32, and nobody else may own half of its
/// first.
fn check_output(operation: &'static str, name: &str, tensor: &Tensor<'_>) -> Result<()> {
    tensor.check_element(operation, name, FLOATS)?;
    tensor.check(operation, name)?;
    if !tensor.byte_offset().is_multiple_of(4) {
        let (element, start) = (tensor.element(), tensor.byte_offset());
        let needs = "an output of 16 bits starts at a multiple of 4 bytes";
        return Err(Error::buffer(operation, format!("{name} is {element} and starts at byte {start}; {needs}")));
    }
    Ok(())
}

/// Whether an output can be written as it is computed: each of its rows starts at a whole word.
fn whole_words(element: Element, rows: u64, columns: u64) -> bool {
    element.bytes() == 4 || columns.is_multiple_of(2) || rows < 2
}

/// Whether operands of these types can be multiplied with each other: a kernel for each pair would be many.
fn go_together(a: Element, b: Element) -> bool {
    a == b || a == Element::F32 || b == Element::F32
}

/// The pairs of float types that go together.
fn factor_types() -> impl Iterator<Item = [Element; 2]> {
    let pairs = FLOATS.iter().flat_map(|&a| FLOATS.iter().map(move |&b| [a, b]));
    pairs.filter(|&[a, b]| go_together(a, b))
}

/// Checks the types of two operands that are multiplied with each other.
fn check_factors(operation: &'static str, [a, b]: [(&str, &Tensor<'_>); 2]) -> Result<()> {
    for (name, tensor) in [a, b] {
        tensor.check_element(operation, name, FLOATS)?;
    }
    if go_together(a.1.element(), b.1.element()) {
        return Ok(());
    }
    let types = format!("{} is {}, {} is {}", a.0, a.1.element(), b.0, b.1.element());
    Err(Error::element(operation, format!("{types}: one must be f32, or both the same")))
}
