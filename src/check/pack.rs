//! Cases of packed factors.

use super::{
    Case,
    bench::{Data, Operand, Random, compare, judge_together},
};
use crate::{
    Element, Gpu, Plan, Result, Tensor, Values,
    check::Outcome,
    kernels::{Attend, Layout, PackSource, Packed, pack},
    reference,
    tensor::{TEXELS_WIDTH, Texels},
};

#[derive(Debug, Clone, Copy)]
struct Spec {
    batches: usize,
    rows: usize,
    depth: usize,
    transposed: bool,
    panel: usize,
    runs: usize,
    element: Element,
    shift: usize,
    /// By `attend`, on its way, where the adapter does that.
    attending: bool,
}

impl Spec {
    fn name(&self) -> String {
        let Self { batches, rows, depth, panel, runs, element, .. } = self;
        let mut name = format!("pack {batches}x{rows}x{depth} {element} panels={panel} runs={runs}");
        name += if self.transposed { " transposed" } else { "" };
        name += if self.attending { " attending" } else { "" };
        if self.shift > 0 {
            name += &format!(" shift={}", self.shift);
        }
        name
    }

    async fn run(self, gpu: &Gpu) -> Result<Outcome> {
        let Self { batches, rows, depth, transposed, panel, runs, element, shift, attending } = self;
        let count = batches * rows * depth;
        let mut random = Random::new((batches * 31 + rows * 7 + depth) as u64);
        let a = Data::Reals.values(&mut random, count, element);
        let expected = reference::pack(&a.to_f64(), [batches, rows, depth], transposed, [panel, runs]);
        let operand = Operand::input(gpu, &[batches, rows, depth], &a, shift)?;

        // Every texel holds something else first, one beyond them too.
        let texels = Texels::new(gpu, "packed", (expected.len() / 4 + 1) as u64)?;
        let whole = TEXELS_WIDTH as usize * texels.texture.height() as usize;
        let stale = Values::F32(vec![1e30; whole * 4]);
        let stale_sizes = [1, whole / 2, 8];
        let stale_operand = Operand::input(gpu, &stale_sizes, &stale, 0)?;
        let mut plan = Plan::default();
        push(gpu, &mut plan, &stale_operand.tensor(), stale_sizes, false, [4, 1], &texels)?;
        let v = Data::Reals.values(&mut random, depth, Element::F32);
        let v_operand = Operand::input(gpu, &[depth], &v, shift)?;
        let logits = || Operand::output(gpu, &[batches * rows], Element::F32, shift);
        let x = operand.tensor().reshape(&[batches * rows, depth]);
        let (on_the_way, alone) = (logits()?, logits()?);
        let of_alone = Attend::new(x.clone(), v_operand.tensor(), alone.tensor());
        let sizes = [batches, rows, depth];
        let mut outputs = Vec::new();
        if attending && of_alone.packs(gpu)? {
            let attend = Attend::new(x.clone(), v_operand.tensor(), on_the_way.tensor());
            let packed = Packed::whole(texels.clone(), layout(sizes, [panel, runs]));
            plan.append(attend.packing(packed).plan(gpu)?);
            plan.append(of_alone.plan(gpu)?);
            outputs.extend([("logits", &on_the_way), ("logits alone", &alone)]);
        } else {
            push(gpu, &mut plan, &operand.tensor(), sizes, transposed, [panel, runs], &texels)?;
        }
        let inputs = [("a", &operand), ("v", &v_operand)];
        let outcome = judge_together(gpu, &plan, &inputs, &outputs, |logits| {
            let same = logits.windows(2).all(|both| both[0] == both[1]);
            let fault = (!same).then(|| "packing changed the logits".into());
            Outcome { elements: outputs.len() * rows, worst: 0.0, signal: None, fault }
        })
        .await?;

        let read = gpu.buffer("texels", Element::F32, (whole * 4) as u64)?;
        let mut encoder = gpu.device().create_command_encoder(&Default::default());
        let layout = wgpu::TexelCopyBufferLayout {
            offset: 0,
            bytes_per_row: Some(TEXELS_WIDTH * Texels::BYTES as u32),
            rows_per_image: None,
        };
        let to = wgpu::TexelCopyBufferInfo { buffer: &read, layout };
        encoder.copy_texture_to_buffer(texels.texture.as_image_copy(), to, texels.texture.size());
        gpu.queue().submit([encoder.finish()]);
        let bytes = gpu.read(&Tensor::f32(&read, &[whole * 4])).await?;
        let result: Vec<f32> = bytemuck::pod_collect_to_vec(&bytes);
        let (packed, behind) = result.split_at(expected.len());
        let mut judged = compare(packed, &expected, &vec![0.0; expected.len()]);
        if behind.iter().any(|&value| value != 1e30) {
            judged.fault = Some("a texel behind the packed ones was overwritten".into());
        }
        Ok(Outcome { elements: outcome.elements + judged.elements, fault: outcome.fault.or(judged.fault), ..judged })
    }
}

fn layout([batches, rows, depth]: [usize; 3], [panel, runs]: [usize; 2]) -> Layout {
    Layout { batches: batches as u64, rows: rows as u64, depth: depth as u64, panel: panel as u64, runs: runs as u64 }
}

fn push(
    gpu: &Gpu,
    plan: &mut Plan,
    a: &Tensor<'_>,
    sizes: [usize; 3],
    transposed: bool,
    panels: [usize; 2],
    texels: &Texels,
) -> Result<()> {
    let [batches, rows, depth] = sizes;
    let layout = layout(sizes, panels);
    if layout.texels() == 0 {
        return Ok(());
    }
    let source = PackSource {
        bound: a.bind(gpu, "pack", "a", 0, (batches * rows * depth) as u64)?,
        element: a.element(),
        stride: if transposed { rows } else { depth } as u64,
        batch: (rows * depth) as u64,
        transposed,
    };
    plan.push(pack(gpu, "a", source, layout, texels)?);
    Ok(())
}

pub(super) fn cases() -> Vec<Case> {
    let plain = |[batches, rows, depth]: [usize; 3]| Spec {
        batches,
        rows,
        depth,
        transposed: false,
        panel: 8,
        runs: 1,
        element: Element::F32,
        shift: 0,
        attending: false,
    };
    let mut specs = Vec::new();
    for transposed in [false, true] {
        // Whole panels and quads, one off either, several batches, more than a row of the texture.
        for sizes in [[1, 1, 1], [1, 8, 4], [1, 9, 5], [1, 7, 3], [1, 32, 36], [2, 33, 15], [3, 64, 68], [1, 130, 257]]
        {
            specs.push(Spec { transposed, ..plain(sizes) });
            specs.push(Spec { transposed, panel: 32, runs: 4, ..plain(sizes) });
        }
        for element in [Element::F16, Element::BF16] {
            for (sizes, shift) in [([2, 12, 20], 0), ([1, 13, 21], 1), ([2, 36, 8], 3)] {
                specs.push(Spec { transposed, element, shift, panel: 16, runs: 4, ..plain(sizes) });
            }
        }
        for shift in [1, 2] {
            specs.push(Spec { transposed, shift, panel: 16, runs: 1, ..plain([2, 12, 20]) });
        }
        // Nothing to do.
        specs.extend([[1, 9, 0], [0, 9, 5], [1, 0, 5]].map(|sizes| Spec { transposed, ..plain(sizes) }));
    }
    for sizes in [[1, 1, 1], [1, 8, 4], [1, 9, 5], [1, 7, 3], [1, 32, 36], [1, 33, 15], [1, 70, 131], [1, 130, 257]] {
        specs.extend([8, 16].map(|panel| Spec { attending: true, panel, ..plain(sizes) }));
    }
    for element in [Element::F16, Element::BF16] {
        for (sizes, shift) in [([1, 12, 20], 0), ([1, 13, 21], 1), ([1, 36, 8], 3)] {
            specs.push(Spec { attending: true, element, shift, ..plain(sizes) });
        }
    }
    specs
        .into_iter()
        .map(|spec| Case {
            kernel: "pack",
            name: spec.name(),
            heavy: false,
            run: Box::new(move |gpu| Box::pin(spec.run(gpu))),
        })
        .collect()
}
