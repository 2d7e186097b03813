//! The paths of each token and what they weigh. Shader: `shaders/route_paths.wgsl`.

use super::{
    GroupScore, Kernel, PathChoice, Score, Slot, in_quads,
    lanes::{By, Kind, Lanes},
    params, shader_u32,
};
use crate::{
    Element, Error, Gpu, Plan, Result, Step, Tensor,
    shader::Variant,
    tensor::{Bound, elements},
};

/// The kernel behind [`RoutePaths`].
///
/// ```
/// assert_eq!(double_routing::kernels::ROUTE_PATHS.name(), "route_paths");
/// ```
pub const ROUTE_PATHS: Kernel = Kernel {
    name: "route_paths",
    source: include_str!("../../shaders/route_paths.wgsl"),
    params: Params::fields,
    slots: &[
        Slot::read(1, "logits"),
        Slot::read(2, "bias").when("BIASED"),
        Slot::read(3, "selected"),
        Slot::write(4, "ids"),
        Slot::write(5, "gates"),
        Slot::write(6, "margin"),
    ],
    variants: || {
        let mut variants = Vec::new();
        for shape in SHAPES {
            for block in shape.blocks {
                for access in shape.accesses() {
                    if shape.usual {
                        for (score, biased) in USUAL {
                            variants.extend(
                                [false, true]
                                    .map(|grouped| variant(shape, *block, Some((*score, grouped)), *biased, access)),
                            );
                        }
                    } else {
                        variants.extend([false, true].map(|biased| variant(shape, *block, None, biased, access)));
                    }
                }
            }
        }
        variants
    },
};

params! {
    struct Params {
        rows,
        paths,
        chosen,
        score,
        groups,
        kept,
        size,
        sum_of_two,
        group_lanes,
        lane_groups,
        lane_paths,
        renormalise,
        scale,
        with_margin,
        with_selected,
        logits_first,
        bias_first,
        selected_first,
        ids_first,
        gates_first,
        margin_first,
        unused_0,
        unused_1,
        unused_2,
    }
}

/// How a row is shared out.
#[derive(Debug)]
struct Shape {
    kind: Kind,
    lanes: Lanes,
    /// Quads of paths that a lane may hold: as many as it needs, rounded up to one of these.
    blocks: &'static [u32],
    /// Made for one of the [`USUAL`] scores: CPUs go through all sides of a branch.
    usual: bool,
}

impl Shape {
    const fn new(kind: Kind, lanes: Lanes, blocks: &'static [u32]) -> Self {
        Self { kind, lanes, blocks, usual: false }
    }

    const fn usual(lanes: Lanes, blocks: &'static [u32]) -> Self {
        Self { kind: Kind::Software, lanes, blocks, usual: true }
    }

    fn accesses(&self) -> &'static [&'static str] {
        match (self.usual, self.kind == Kind::Software && self.lanes.by == By::Subgroup) {
            (true, _) => &["wide_quads"],
            (false, true) => &["quads", "elements", "wide_quads"],
            (false, false) => &["quads", "elements"],
        }
    }
}

/// The first that suits the device and can hold the paths is taken. The last of either kind suit any device and hold
/// [`MOST_PATHS`] in any groups. Larger blocks take software drivers seconds to compile.
const SHAPES: &[Shape] = &[
    Shape::usual(Lanes::vector(8, 1), &[2, 8, 16, 32]),
    Shape::usual(Lanes::vector(16, 1), &[2, 8, 16]),
    Shape::new(Kind::Software, Lanes::vector(8, 1), &[2, 8, 16]),
    Shape::new(Kind::Software, Lanes::vector(4, 1), &[2, 8, 16]),
    Shape::new(Kind::Software, Lanes::vector(16, 1), &[2, 8]),
    Shape::new(Kind::Software, Lanes::memory(8, 1), &[2, 8]),
    Shape::new(Kind::Software, Lanes::memory(32, 1), &[8]),
    Shape::new(Kind::Software, Lanes::memory(128, 1), &[8]),
    Shape::new(Kind::Hardware, Lanes::subgroup(32), &[1, 2, 8]),
    Shape::new(Kind::Hardware, Lanes::memory(32, 4), &[1, 2, 8]),
    Shape::new(Kind::Hardware, Lanes::memory(128, 1), &[8]),
];

const MOST_PATHS: usize = 2048;
/// `MOST_GROUPS` of the shader.
const MOST_GROUPS: u32 = 64;
const MOST_CHOSEN: usize = 64;

/// The scores that routers use, with or without a bias.
const USUAL: &[(Score, bool)] =
    &[(Score::Softmax, false), (Score::Sigmoid, true), (Score::SqrtSoftplus, true), (Score::SoftmaxOfChosen, false)];

/// `SCORE` of the shader where it is the parameter's.
const SCORE_BY_PARAMETER: u32 = 4;

fn score_number(score: Score) -> u32 {
    match score {
        Score::Softmax => 0,
        Score::Sigmoid => 1,
        Score::SqrtSoftplus => 2,
        Score::SoftmaxOfChosen => 3,
    }
}

/// `usual`: the score that it is made for, and whether not all groups are kept.
fn variant(shape: &Shape, block: u32, usual: Option<(Score, bool)>, biased: bool, access: &'static str) -> Variant {
    let (score, groups) = match usual {
        None => (SCORE_BY_PARAMETER, "memory"),
        Some((score, grouped)) => (score_number(score), if grouped { "lanes" } else { "none" }),
    };
    let variant = shape
        .lanes
        .define(Variant::default())
        .number("BLOCK", block)
        .number("SCORE", score)
        .word("GROUPS", groups)
        .flag("BIASED", biased)
        .word("logits_TYPE", "f32")
        .word("logits_ACCESS", access);
    if biased { variant.word("bias_TYPE", "f32").word("bias_ACCESS", access) } else { variant }
}

/// Where the lanes of a row hold which of its paths.
#[derive(Debug, Clone, Copy)]
struct Share {
    /// Lanes that share a group, or groups that share a lane: one of them is 1.
    group_lanes: u32,
    lane_groups: u32,
    lane_paths: u32,
}

impl Share {
    fn new(lanes: u32, groups: u32, size: u32) -> Self {
        if groups > lanes {
            let lane_groups = groups.div_ceil(lanes);
            return Self { group_lanes: 1, lane_groups, lane_paths: lane_groups * size };
        }
        let group_lanes = lanes / groups;
        let even = size.div_ceil(group_lanes);
        // Quads stay aligned where groups are.
        let lane_paths = if size.is_multiple_of(4) { even.next_multiple_of(4) } else { even };
        Self { group_lanes, lane_groups: 1, lane_paths }
    }
}

/// The paths of each token: of its scores over P paths the e best, in order, and what each of them weighs.
///
/// | tensor | shape | elements |
/// |---|---|---|
/// | `logits` | `[…, P]`, P from 1 to 2048 | f32 |
/// | `ids` | `[…, e]`, e from 1 to 64: the chosen paths, best first | u32 |
/// | `gates` | as `ids` | f32 |
/// | `correction_bias` | `[P]` | f32 |
/// | `margin` | logits' leading dimensions: c of the last chosen path less that of the best rejected | f32 |
/// | `selected` | logits' leading dimensions: a row whose word is `u32::MAX` is left out | u32 |
///
/// What is chosen and what it weighs is said by [`PathChoice`]. Of equal `c` the path, or group, with the lower index comes first.
/// Paths outside the kept groups are never chosen; where fewer than e are left, the remaining ids are `u32::MAX` with gate 0.
/// The margin is +∞ where nothing is left to reject. Rows left out get ids `u32::MAX`, gates 0, and margin 0.
/// With [`Score::SoftmaxOfChosen`] the gates add up to 1 as they are, and `renormalise` changes nothing.
///
/// Equal logits have equal scores. The bound on a score's error is [`score_bound`](crate::reference::score_bound), that on a gate's
/// [`gate_bound`](crate::reference::gate_bound).
///
/// ```
/// use double_routing::{AdapterChoice, Element, Gpu, Tensor, bytemuck, kernels::{PathChoice, RoutePaths, Score}};
///
/// # fn main() -> double_routing::Result<()> { pollster::block_on(async {
/// let gpu = Gpu::open(&AdapterChoice::default()).await?;
/// let logits = gpu.upload("logits", bytemuck::cast_slice(&[0.0f32, 5.0, -1.0, 5.0]))?;
/// let (ids, gates) = (gpu.buffer("ids", Element::U32, 2)?, gpu.buffer("gates", Element::F32, 2)?);
/// // One token, two of four paths.
/// let (ids, gates) = (Tensor::u32(&ids, &[1, 2]), Tensor::f32(&gates, &[1, 2]));
/// let choice = PathChoice { score: Score::SoftmaxOfChosen, ..PathChoice::default() };
/// let plan = RoutePaths::new(Tensor::f32(&logits, &[1, 4]), ids.clone(), gates.clone(), choice).plan(&gpu)?;
/// let mut encoder = gpu.device().create_command_encoder(&Default::default());
/// plan.record(&mut encoder.begin_compute_pass(&Default::default()));
/// gpu.queue().submit([encoder.finish()]);
/// assert_eq!(bytemuck::pod_collect_to_vec::<u8, u32>(&gpu.read(&ids).await?), [1, 3]);
/// assert_eq!(bytemuck::pod_collect_to_vec::<u8, f32>(&gpu.read(&gates).await?), [0.5, 0.5]);
/// # Ok(()) }) }
/// ```
#[derive(Debug, Clone)]
pub struct RoutePaths<'a> {
    logits: Tensor<'a>,
    ids: Tensor<'a>,
    gates: Tensor<'a>,
    choice: PathChoice,
    correction_bias: Option<Tensor<'a>>,
    margin: Option<Tensor<'a>>,
    selected: Option<Tensor<'a>>,
}

const NAME: &str = "route_paths";

/// What there is to choose from, and how much is chosen.
#[derive(Debug, Clone, Copy)]
struct Sizes {
    rows: u64,
    paths: u32,
    chosen: u32,
    groups: u32,
    kept: u32,
}

impl<'a> RoutePaths<'a> {
    /// The paths that `choice` takes for each row of `logits`.
    ///
    /// ```no_run
    /// # use double_routing::{Tensor, kernels::{PathChoice, RoutePaths}};
    /// # fn route<'a>(logits: Tensor<'a>, ids: Tensor<'a>, gates: Tensor<'a>) -> RoutePaths<'a> {
    /// RoutePaths::new(logits, ids, gates, PathChoice::default())
    /// # }
    /// ```
    pub fn new(logits: Tensor<'a>, ids: Tensor<'a>, gates: Tensor<'a>, choice: PathChoice) -> Self {
        Self { logits, ids, gates, choice, correction_bias: None, margin: None, selected: None }
    }

    /// What is added to the score of each path when paths are chosen, and only then.
    ///
    /// ```no_run
    /// # use double_routing::{Tensor, kernels::RoutePaths};
    /// # fn corrected<'a>(route: RoutePaths<'a>, bias: Tensor<'a>) -> RoutePaths<'a> {
    /// route.correction_bias(bias)
    /// # }
    /// ```
    #[must_use]
    pub fn correction_bias(mut self, bias: Tensor<'a>) -> Self {
        self.correction_bias = Some(bias);
        self
    }

    /// Where the margin of each row goes.
    ///
    /// ```no_run
    /// # use double_routing::{Tensor, kernels::RoutePaths};
    /// # fn with_margin<'a>(route: RoutePaths<'a>, margin: Tensor<'a>) -> RoutePaths<'a> {
    /// route.margin(margin)
    /// # }
    /// ```
    #[must_use]
    pub fn margin(mut self, margin: Tensor<'a>) -> Self {
        self.margin = Some(margin);
        self
    }

    /// The rows that count: those whose word is not `u32::MAX`.
    ///
    /// ```no_run
    /// # use double_routing::{Tensor, kernels::RoutePaths};
    /// # fn of_selected<'a>(route: RoutePaths<'a>, selected: Tensor<'a>) -> RoutePaths<'a> {
    /// route.selected(selected)
    /// # }
    /// ```
    #[must_use]
    pub fn selected(mut self, selected: Tensor<'a>) -> Self {
        self.selected = Some(selected);
        self
    }

    /// Checks everything and builds the step, or several where the rows exceed a binding.
    ///
    /// # Errors
    /// [`Error::Shape`], [`Error::Element`] or [`Error::Buffer`] for operands that do not fit, or a choice that does not fit them;
    /// [`Error::Limit`] where a row exceeds a binding.
    ///
    /// ```no_run
    /// # use double_routing::{Gpu, Plan, Result, kernels::RoutePaths};
    /// # fn plan(gpu: &Gpu, route: RoutePaths<'_>) -> Result<Plan> {
    /// route.plan(gpu)
    /// # }
    /// ```
    pub fn plan(&self, gpu: &Gpu) -> Result<Plan> {
        let sizes = self.check()?;
        let mut plan = Plan::default();
        if sizes.rows == 0 {
            return Ok(plan);
        }
        // A place that takes no margin still has to be bound.
        let nowhere = gpu.buffer("no margin", Element::F32, 1)?;
        let row_bytes = 4 * u64::from(sizes.paths.max(sizes.chosen));
        let limit = gpu.unaligned_limit();
        if row_bytes > limit {
            return Err(Error::Limit {
                operation: NAME,
                what: "a row in bytes".into(),
                needed: row_bytes,
                allowed: limit,
            });
        }
        let rows_each = limit / row_bytes;
        let mut first = 0;
        while first < sizes.rows {
            let rows = rows_each.min(sizes.rows - first);
            let step = self.step(gpu, sizes, &nowhere, first, rows)?;
            plan.push(step);
            first += rows;
        }
        plan.keep(nowhere);
        Ok(plan)
    }

    /// The step for the rows `first .. first + rows`.
    fn step(&self, gpu: &Gpu, sizes: Sizes, nowhere: &wgpu::Buffer, first: u64, rows: u64) -> Result<Step> {
        let Sizes { paths, chosen, groups, kept, .. } = sizes;
        let size = paths / groups;
        let absent = Bound { buffer: gpu.absent(), offset: 0, size: gpu.absent().size(), first: 0 };
        let no_margin = Bound { buffer: nowhere, offset: 0, size: nowhere.size(), first: 0 };
        let [paths_u64, chosen_u64] = [paths, chosen].map(u64::from);
        let logits = self.logits.bind(gpu, NAME, "logits", first * paths_u64, rows * paths_u64)?;
        let ids = self.ids.bind(gpu, NAME, "ids", first * chosen_u64, rows * chosen_u64)?;
        let gates = self.gates.bind(gpu, NAME, "gates", first * chosen_u64, rows * chosen_u64)?;
        let bias = self.correction_bias.as_ref().map(|bias| bias.bind(gpu, NAME, "bias", 0, paths_u64)).transpose()?;
        let selected = self.selected.as_ref().map(|selected| selected.bind(gpu, NAME, "selected", first, rows));
        let selected = selected.transpose()?.unwrap_or(absent);
        let margin = self.margin.as_ref().map(|margin| margin.bind(gpu, NAME, "margin", first, rows));
        let margin = margin.transpose()?.unwrap_or(no_margin);

        let (score, grouped) = (self.choice.score, groups > 1);
        let usual = USUAL.contains(&(score, bias.is_some()));
        let kind = Kind::of(gpu);
        // The shape, with which paths each lane has, the quads it holds, and how they are read.
        let fitting = SHAPES.iter().filter(|shape| shape.kind == kind && shape.lanes.suits(gpu)).find_map(|shape| {
            let share = Share::new(shape.lanes.lanes, groups, size);
            let block = *shape.blocks.iter().find(|block| share.lane_paths <= **block * 4)?;
            let strides = [paths, size, share.lane_paths].map(u64::from);
            let quads = in_quads(&logits, &strides) && bias.as_ref().is_none_or(|bias| in_quads(bias, &strides));
            let access = match quads {
                true if gpu.wide_words() && shape.lanes.by == By::Subgroup => "wide_quads",
                true => "quads",
                false => "elements",
            };
            let serves = !shape.usual || (usual && share.lane_groups == 1 && access == "wide_quads");
            serves.then_some((shape, share, block, access))
        });
        let (shape, share, block, access) =
            fitting.ok_or_else(|| Error::shape(NAME, format!("nothing holds {groups} groups of {size} paths")))?;
        let sum_of_two = self.choice.groups.is_some_and(|limit| limit.score == GroupScore::SumOfTwo);
        let params = Params {
            rows: shader_u32(NAME, "rows", rows)?,
            paths,
            chosen,
            score: score_number(score),
            groups,
            kept,
            size,
            sum_of_two: u32::from(sum_of_two),
            group_lanes: share.group_lanes,
            lane_groups: share.lane_groups,
            lane_paths: share.lane_paths,
            renormalise: u32::from(self.choice.renormalise),
            scale: self.choice.scale.to_bits(),
            with_margin: u32::from(self.margin.is_some()),
            with_selected: u32::from(self.selected.is_some()),
            logits_first: logits.first,
            bias_first: bias.as_ref().map_or(0, |bias| bias.first),
            selected_first: selected.first,
            ids_first: ids.first,
            gates_first: gates.first,
            margin_first: margin.first,
            ..Params::default()
        };
        let mut operands = vec![("logits", &logits), ("ids", &ids), ("gates", &gates)];
        operands.extend([("selected", &selected), ("margin", &margin)]);
        operands.extend(bias.as_ref().map(|bias| ("bias", bias)));
        Step::new(
            gpu,
            &ROUTE_PATHS,
            variant(shape, block, shape.usual.then_some((score, grouped)), bias.is_some(), access),
            format!("{NAME} {rows}x{paths} {chosen}"),
            bytemuck::bytes_of(&params),
            &operands,
            rows.div_ceil(u64::from(shape.lanes.rows)),
        )
    }

    fn check(&self) -> Result<Sizes> {
        let (logits, ids, gates) = (self.logits.shape(), self.ids.shape(), self.gates.shape());
        let ([leading @ .., paths], [of_ids @ .., chosen]) = (logits, ids) else {
            return Err(Error::shape(NAME, format!("logits {logits:?} and ids {ids:?} need a dimension each")));
        };
        if leading != of_ids {
            return Err(Error::shape(NAME, format!("rows differ: logits are {logits:?}, ids are {ids:?}")));
        }
        if ids != gates {
            return Err(Error::shape(NAME, format!("shapes differ: ids are {ids:?}, gates are {gates:?}")));
        }
        for (what, count, most) in [("paths", *paths, MOST_PATHS), ("paths of a row to choose", *chosen, MOST_CHOSEN)] {
            if count == 0 || count > most {
                return Err(Error::shape(NAME, format!("{count} {what}, expected 1 to {most}")));
            }
        }
        let (groups, kept) = self.choice.groups.map_or((1, 1), |limit| (limit.groups, limit.kept));
        let paths = shader_u32(NAME, "paths", *paths as u64)?;
        if groups == 0 || groups > MOST_GROUPS {
            return Err(Error::shape(NAME, format!("{groups} groups, expected 1 to {MOST_GROUPS}")));
        }
        if !paths.is_multiple_of(groups) {
            return Err(Error::shape(NAME, format!("{paths} paths do not divide into {groups} groups")));
        }
        if kept == 0 || kept > groups {
            return Err(Error::shape(NAME, format!("{kept} of {groups} groups cannot be kept")));
        }
        // Where all groups are kept there might as well be one.
        let (groups, kept) = if kept == groups { (1, 1) } else { (groups, kept) };
        let rows = elements(NAME, leading)?;
        let outputs = [("ids", Some(&self.ids)), ("gates", Some(&self.gates)), ("margin", self.margin.as_ref())];
        let bias = self.correction_bias.as_ref();
        let inputs = [("logits", Some(&self.logits)), ("correction_bias", bias), ("selected", self.selected.as_ref())];
        for (name, tensor) in inputs.into_iter().chain(outputs) {
            let Some(tensor) = tensor else { continue };
            let element = if name == "ids" || name == "selected" { Element::U32 } else { Element::F32 };
            tensor.check_element(NAME, name, &[element])?;
            let expected = match name {
                "correction_bias" => &logits[logits.len() - 1..],
                "margin" | "selected" => leading,
                _ => tensor.shape(),
            };
            if tensor.shape() != expected {
                return Err(Error::shape(NAME, format!("{name} is {:?}, expected {expected:?}", tensor.shape())));
            }
            tensor.check(NAME, name)?;
        }
        for (at, (name, output)) in outputs.iter().enumerate() {
            let Some(output) = output else { continue };
            for (input_name, input) in inputs {
                if let Some(input) = input {
                    input.check_apart(NAME, input_name, output)?;
                }
            }
            for (other_name, other) in &outputs[..at] {
                if other.is_some_and(|other| other.buffer() == output.buffer()) {
                    return Err(Error::buffer(
                        NAME,
                        format!("{other_name} and {name} share a buffer; outputs need one each"),
                    ));
                }
            }
        }
        Ok(Sizes { rows, paths, chosen: shader_u32(NAME, "chosen paths", *chosen as u64)?, groups, kept })
    }
}
