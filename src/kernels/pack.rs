//! A factor of a product laid out in a texture. Shader: `shaders/pack.wgsl`.

use std::sync::OnceLock;

use super::{Access, Kernel, Packed, Slot, load_accesses, params};
use crate::{
    Element, Gpu, Result, Step, Tensor, Values,
    shader::Variant,
    tensor::{Bind, Bound, Owned, Texels},
};

/// The kernel that lays a factor of a product out in a texture, panel by panel, for the tiles of software adapters that read it
/// so: part of the plans of [`Matmul`](super::Matmul), [`Route`](super::Route) and [`PathMatmul`](super::PathMatmul) there.
///
/// ```
/// assert_eq!(double_routing::kernels::PACK.name(), "pack");
/// ```
pub const PACK: Kernel = Kernel {
    name: "pack",
    source: include_str!("../../shaders/pack.wgsl"),
    params: Params::fields,
    slots: &[Slot::read(1, "a"), Slot::texels(2, "packed", Access::WriteTexels)],
    variants,
};

params! {
    struct Params {
        batches,
        rows,
        depth,
        first,
        stride,
        batch,
        log_panel,
        log_runs,
    }
}

/// Invocations of a workgroup; rows and quads of one, which writes a texel for each of each.
const LANES: u32 = 64;
const BLOCK: u32 = 4;
const QUADS: u32 = 2;

/// How a factor is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Layout {
    pub batches: u64,
    pub rows: u64,
    pub depth: u64,
    /// Rows of a panel, and into how many runs they are dealt: powers of two.
    pub panel: u64,
    pub runs: u64,
}

impl Layout {
    /// Of k: an even number.
    pub fn quads(self) -> u64 {
        self.depth.div_ceil(4 * u64::from(QUADS)) * u64::from(QUADS)
    }

    /// Texels of a panel.
    pub fn of_panel(self) -> u64 {
        self.quads() * self.panel
    }

    /// Texels of a batch.
    pub fn of_batch(self) -> u64 {
        self.rows.div_ceil(self.panel) * self.of_panel()
    }

    pub fn texels(self) -> u64 {
        self.batches * self.of_batch()
    }
}

/// A factor as it is stored: the elements from a row, or where `transposed` from a k, and from a batch to the next.
#[derive(Debug)]
pub(crate) struct Source<'a> {
    pub bound: Bound<'a>,
    pub element: Element,
    pub stride: u64,
    pub batch: u64,
    pub transposed: bool,
}

/// Packs a factor into a texture that is large enough.
pub(crate) fn pack(gpu: &Gpu, name: &str, mut source: Source<'_>, layout: Layout, packed: &Texels) -> Result<Step> {
    let of_row = if source.transposed { layout.rows } else { layout.depth };
    let access = source.bound.load_access(gpu, source.element, &[source.stride, source.batch, of_row]);
    let number = |what: &str, count| super::shader_u32("pack", what, count);
    let params = Params {
        batches: number("batches", layout.batches)?,
        rows: number("rows", layout.rows)?,
        depth: number("depth", layout.depth)?,
        first: source.bound.first,
        stride: number("the stride", source.stride)?,
        batch: number("the batch stride", source.batch)?,
        log_panel: layout.panel.ilog2(),
        log_runs: layout.runs.ilog2(),
    };
    let operands: [(&str, &dyn Bind); 2] = [("a", &source.bound), ("packed", packed)];
    Step::new(
        gpu,
        &PACK,
        variant(source.transposed, source.element, access),
        format!("pack {name} {}x{}", layout.batches * layout.rows, layout.depth),
        bytemuck::bytes_of(&params),
        &operands,
        layout.texels().div_ceil(u64::from(LANES * BLOCK * QUADS)),
    )
}

/// Weights, `[columns, depth]` or `[batches, columns, depth]`: an operand that never changes, so that for products that read packed
/// factors it is packed once.
#[derive(Debug)]
pub(crate) struct Constant {
    owned: Owned,
    packed: OnceLock<Packed>,
}

impl Constant {
    /// Written with the queue's next submission.
    pub fn upload(gpu: &Gpu, label: &str, values: &Values, shape: &[usize]) -> Result<Self> {
        Ok(Self { owned: Owned::upload(gpu, label, values, shape)?, packed: OnceLock::new() })
    }

    pub fn tensor(&self) -> Tensor<'_> {
        self.owned.tensor()
    }

    pub fn shape(&self) -> &[usize] {
        self.owned.shape()
    }

    /// Its packed form. Whoever asks first submits the packing.
    pub fn packed(&self, gpu: &Gpu, layout: Layout) -> Result<Option<Packed>> {
        let packed = match self.packed.get() {
            Some(packed) => packed,
            None => {
                let packed = self.pack(gpu, layout)?;
                self.packed.get_or_init(|| packed)
            }
        };
        Ok(Some(packed.clone()).filter(|packed| packed.layout() == layout))
    }

    fn pack(&self, gpu: &Gpu, layout: Layout) -> Result<Packed> {
        let Layout { batches, rows, depth, .. } = layout;
        let tensor = self.tensor();
        let packed = Packed::whole(Texels::new(gpu, "weights packed", layout.texels())?, layout);
        let source = Source {
            bound: tensor.bind(gpu, "pack", "weights", 0, batches * rows * depth)?,
            element: tensor.element(),
            stride: depth,
            batch: rows * depth,
            transposed: false,
        };
        let step = pack(gpu, "weights", source, layout, packed.texels())?;
        let mut encoder = gpu.device().create_command_encoder(&wgpu::CommandEncoderDescriptor { label: Some("pack") });
        step.record(&mut encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default()));
        gpu.queue().submit([encoder.finish()]);
        Ok(packed)
    }
}

fn variant(transposed: bool, element: Element, access: &'static str) -> Variant {
    Variant::default()
        .flag("TRANSPOSED", transposed)
        .number("LANES", LANES)
        .number("BLOCK", BLOCK)
        .number("QUADS", QUADS)
        .word("a_TYPE", element.name())
        .word("a_ACCESS", access)
}

fn variants() -> Vec<Variant> {
    let mut variants = Vec::new();
    for transposed in [false, true] {
        for &element in super::FLOATS {
            for access in load_accesses(element, true) {
                variants.push(variant(transposed, element, access));
            }
        }
    }
    variants
}
