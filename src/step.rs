//! Steps and plans: what is recorded into a compute pass.

use std::sync::Arc;

use crate::{
    Error, Gpu, Result,
    kernels::Kernel,
    shader::Variant,
    tensor::{Bind, Texels},
};

/// Workgroups in a row of a folded grid: the value that `GRID_WIDTH` in `shaders/lib/grid.wgsl` gets.
pub(crate) const GRID_WIDTH: u32 = 32768;

/// One bound dispatch: a pipeline, its bind group, its grid and a label.
///
/// Everything was checked and made when the step was built; recording it makes no buffer, compiles nothing and takes no
/// lock. Steps come from kernels, such as [`Matmul`](crate::kernels::Matmul), as part of a [`Plan`].
///
/// ```no_run
/// # fn labels(plan: &double_routing::Plan) {
/// for step in plan.steps() {
///     println!("{} on {:?} workgroups", step.label(), step.grid());
/// }
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Step {
    pipeline: Arc<Pipeline>,
    bind_group: wgpu::BindGroup,
    grid: [u32; 3],
    label: String,
}

/// A compiled kernel variant and the layout its bind groups follow.
#[derive(Debug)]
pub(crate) struct Pipeline {
    pub compute: wgpu::ComputePipeline,
    pub layout: wgpu::BindGroupLayout,
}

impl Step {
    /// Binds `kernel` in one variant to its operands, given by the names of its slots, on `workgroups` workgroups.
    pub(crate) fn new(
        gpu: &Gpu,
        kernel: &'static Kernel,
        variant: Variant,
        label: String,
        params: &[u8],
        operands: &[(&str, &(impl Bind + ?Sized))],
        workgroups: u64,
    ) -> Result<Self> {
        let grid = fold(kernel.name(), workgroups, gpu.limits().max_compute_workgroups_per_dimension)?;
        let pipeline = gpu.pipeline(kernel, &variant)?;
        let params = gpu.uniform(params)?;
        let mut entries = vec![wgpu::BindGroupEntry { binding: 0, resource: params.as_entire_binding() }];
        for slot in kernel.slots(&variant)? {
            let (_, bound) = operands
                .iter()
                .find(|(name, _)| *name == slot.name)
                .ok_or_else(|| Error::Gpu(format!("{}: nothing is bound to {}", kernel.name(), slot.name)))?;
            entries.push(wgpu::BindGroupEntry { binding: slot.binding, resource: bound.resource() });
        }
        let bind_group = gpu.device().create_bind_group(&wgpu::BindGroupDescriptor {
            label: Some(&label),
            layout: &pipeline.layout,
            entries: &entries,
        });
        Ok(Self { pipeline, bind_group, grid, label })
    }

    /// Records the dispatch.
    ///
    /// ```no_run
    /// # fn record(step: &double_routing::Step, encoder: &mut double_routing::wgpu::CommandEncoder) {
    /// step.record(&mut encoder.begin_compute_pass(&Default::default()));
    /// # }
    /// ```
    pub fn record(&self, pass: &mut wgpu::ComputePass<'_>) {
        pass.set_pipeline(&self.pipeline.compute);
        pass.set_bind_group(0, &self.bind_group, &[]);
        pass.dispatch_workgroups(self.grid[0], self.grid[1], self.grid[2]);
    }

    /// What the step does, for logs and profilers.
    ///
    /// ```no_run
    /// # fn label(step: &double_routing::Step) -> &str {
    /// step.label()
    /// # }
    /// ```
    pub fn label(&self) -> &str {
        &self.label
    }

    /// Workgroups in x, y and z.
    ///
    /// ```no_run
    /// # fn workgroups(step: &double_routing::Step) -> u32 {
    /// step.grid().iter().product()
    /// # }
    /// ```
    pub fn grid(&self) -> [u32; 3] {
        self.grid
    }
}

/// Steps to be recorded in order, and the scratch memory they share: made once for a shape, recorded any number of times.
///
/// ```no_run
/// # fn record(plan: &double_routing::Plan, encoder: &mut double_routing::wgpu::CommandEncoder) {
/// let mut pass = encoder.begin_compute_pass(&Default::default());
/// plan.record(&mut pass);
/// # }
/// ```
#[derive(Debug, Clone, Default)]
pub struct Plan {
    steps: Vec<Step>,
    scratch: Vec<wgpu::Buffer>,
    texels: Vec<Texels>,
}

impl Plan {
    pub(crate) fn push(&mut self, step: Step) {
        self.steps.push(step);
    }

    pub(crate) fn keep(&mut self, scratch: wgpu::Buffer) {
        self.scratch.push(scratch);
    }

    pub(crate) fn keep_texels(&mut self, texels: Texels) {
        self.texels.push(texels);
    }

    /// Puts another plan's steps behind this one's.
    ///
    /// ```
    /// let mut plan = double_routing::Plan::default();
    /// plan.append(double_routing::Plan::default());
    /// assert!(plan.steps().is_empty());
    /// ```
    pub fn append(&mut self, other: Self) {
        self.steps.extend(other.steps);
        self.scratch.extend(other.scratch);
        self.texels.extend(other.texels);
    }

    /// Records every step. Submits nothing, waits for nothing, allocates nothing.
    ///
    /// ```no_run
    /// # fn record(plan: &double_routing::Plan, encoder: &mut double_routing::wgpu::CommandEncoder) {
    /// plan.record(&mut encoder.begin_compute_pass(&Default::default()));
    /// # }
    /// ```
    pub fn record(&self, pass: &mut wgpu::ComputePass<'_>) {
        for step in &self.steps {
            step.record(pass);
        }
    }

    /// The steps, in order: to record them one by one, say with timestamps between.
    ///
    /// ```
    /// assert_eq!(double_routing::Plan::default().steps().len(), 0);
    /// ```
    pub fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// Bytes of the buffers and textures the plan made for itself.
    ///
    /// ```
    /// assert_eq!(double_routing::Plan::default().scratch_bytes(), 0);
    /// ```
    pub fn scratch_bytes(&self) -> u64 {
        self.scratch.iter().map(wgpu::Buffer::size).chain(self.texels.iter().map(Texels::bytes)).sum()
    }
}

/// A grid of at least `workgroups` workgroups whose sides are within `limit`.
fn fold(operation: &'static str, workgroups: u64, limit: u32) -> Result<[u32; 3]> {
    let width = u64::from(GRID_WIDTH);
    let (x, y) = (workgroups.min(width), workgroups.div_ceil(width));
    let refused = || Error::Limit {
        operation,
        what: "the number of workgroups".into(),
        needed: workgroups,
        allowed: u64::from(limit) * width.min(u64::from(limit)),
    };
    if x > u64::from(limit) || y > u64::from(limit) {
        return Err(refused());
    }
    Ok([u32::try_from(x).map_err(|_| refused())?, u32::try_from(y).map_err(|_| refused())?, 1])
}
