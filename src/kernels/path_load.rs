//! How evenly a router loads its paths. Shader: `shaders/path_load.wgsl`.

use super::{
    Kernel, Slot,
    lanes::{By, Kind, Lanes},
    load_accesses, params, shader_u32,
};
use crate::{Element, Error, Gpu, Plan, Result, Step, Tensor, shader::Variant, tensor::Bound};

/// The kernel behind [`PathLoad`].
///
/// ```
/// assert_eq!(double_routing::kernels::PATH_LOAD.name(), "path_load");
/// ```
pub const PATH_LOAD: Kernel = Kernel {
    name: "path_load",
    source: include_str!("../../shaders/path_load.wgsl"),
    params: Params::fields,
    slots: &[
        Slot::read(1, "logits").when("STAGE == chunk"),
        Slot::write(2, "partials").when("STAGE == chunk"),
        Slot::read(2, "partials").when("STAGE == finish"),
        Slot::read(3, "counts").when("STAGE == finish"),
        Slot::write(4, "mean_scores").when("STAGE == finish"),
        Slot::write(5, "summary").when("STAGE == finish"),
    ],
    variants: || {
        let mut variants = vec![finish()];
        for (kind, lanes, blocks) in SHAPES {
            for block in *blocks {
                let wide = *kind == Kind::Software && lanes.by == By::Subgroup;
                variants
                    .extend(load_accesses(Element::F32, wide).into_iter().map(|access| chunk(*lanes, *block, access)));
            }
        }
        variants
    },
};

params! {
    struct Params {
        rows,
        tokens,
        paths,
        stride,
        chunk,
        first_chunk,
        chunks,
        logits_first,
        counts_first,
        mean_scores_first,
        summary_first,
        unused,
    }
}

/// The lanes that go through a chunk of tokens, and how many quads of paths each may hold. The first that suits the device and can hold
/// the paths is taken; the last of either kind suits any device and holds [`MOST_PATHS`]. Larger blocks take software drivers
/// seconds to compile.
const SHAPES: &[(Kind, Lanes, &[u32])] = &[
    (Kind::Software, Lanes::vector(8, 1), &[2, 8, 16, 32]),
    (Kind::Software, Lanes::vector(4, 1), &[2, 8, 16]),
    (Kind::Software, Lanes::vector(16, 1), &[2, 8]),
    (Kind::Software, Lanes::memory(8, 1), &[2, 8]),
    (Kind::Software, Lanes::memory(32, 1), &[8]),
    (Kind::Software, Lanes::memory(128, 1), &[4]),
    (Kind::Hardware, Lanes::subgroup(32), &[1, 2, 8]),
    (Kind::Hardware, Lanes::memory(32, 4), &[1, 2, 8]),
    (Kind::Hardware, Lanes::memory(128, 1), &[4]),
];

const MOST_PATHS: usize = 2048;

/// What adds up the chunks.
const FINISH: Lanes = Lanes::memory(256, 1);
/// `AHEAD` of the shader.
const AHEAD: u32 = 8;

/// There are as many chunks as this where no bound on their length says otherwise.
const CHUNKS: u64 = 1024;

/// Tokens of a chunk. Software Vulkan drivers stop an invocation after 65 535 iterations: 128 lanes take 17 a token.
const LEAST_CHUNK: u64 = 16;
const MOST_CHUNK: u64 = 1 << 11;

/// For the same reason: an invocation goes nine times through an eighth of them.
const MOST_CHUNKS: u64 = 1 << 15;

fn chunk(lanes: Lanes, block: u32, access: &'static str) -> Variant {
    lanes
        .define(Variant::default())
        .word("STAGE", "chunk")
        .number("BLOCK", block)
        .word("logits_TYPE", "f32")
        .word("logits_ACCESS", access)
}

fn finish() -> Variant {
    FINISH.define(Variant::default()).word("STAGE", "finish").number("AHEAD", AHEAD)
}

/// How evenly a router loads its paths: what losses and monitors of a mixture of experts are made of.
///
/// | tensor | shape | elements |
/// |---|---|---|
/// | `logits` | `[T, P]`, P from 1 to 2048 | f32 |
/// | `counts` | `[P]`: the tokens of each path, as [`Dispatch`](super::Dispatch) counts them | u32 |
/// | `mean_scores` | `[P]` | f32 |
/// | `summary` | `[4]` | f32 |
///
/// With y the softmax of a token's logits, lse the logarithm of the sum of their exponentials, and f the paths' shares
/// `counts / Σ counts` (0 where no path has a token):
///
/// - `mean_scores[p]`: the mean of y over the tokens;
/// - `summary[0]`, balance: `P · Σ f · mean_scores`, the auxiliary loss of the Switch Transformer (Fedus et al. 2021, §2.2) without its
///   coefficient: 1 where either is even. It counts a token's e paths as e, and divides by all of them;
/// - `summary[1]`, z: the mean of lse², the router z-loss of ST-MoE (Zoph et al. 2022, §3.1) without its coefficient;
/// - `summary[2]`, entropy: the mean of `−Σ y·ln y`, in nats: ln P where all scores are equal;
/// - `summary[3]`, load factor: `P · max f`, how many times its even share the busiest path has.
///
/// Without tokens all results are 0, whatever the counts. Logits whose squares are no f32 have no z. The bounds on the errors are
/// [`path_load_bound`](crate::reference::path_load_bound). The same device gives the same bits in every run.
///
/// ```
/// use double_routing::{AdapterChoice, Element, Gpu, Tensor, bytemuck, kernels::PathLoad};
///
/// # fn main() -> double_routing::Result<()> { pollster::block_on(async {
/// let gpu = Gpu::open(&AdapterChoice::default()).await?;
/// // Two tokens that are undecided between two paths, and were both given the second.
/// let logits = gpu.upload("logits", bytemuck::cast_slice(&[3.0f32, 3.0, -1.0, -1.0]))?;
/// let counts = gpu.upload("counts", bytemuck::cast_slice(&[0u32, 2]))?;
/// let (means, summary) = (gpu.buffer("means", Element::F32, 2)?, gpu.buffer("summary", Element::F32, 4)?);
/// let (means, summary) = (Tensor::f32(&means, &[2]), Tensor::f32(&summary, &[4]));
/// let (logits, counts) = (Tensor::f32(&logits, &[2, 2]), Tensor::u32(&counts, &[2]));
/// let plan = PathLoad::new(logits, counts, means.clone(), summary.clone()).plan(&gpu)?;
/// let mut encoder = gpu.device().create_command_encoder(&Default::default());
/// plan.record(&mut encoder.begin_compute_pass(&Default::default()));
/// gpu.queue().submit([encoder.finish()]);
/// let means: Vec<f32> = bytemuck::pod_collect_to_vec(&gpu.read(&means).await?);
/// let summary: Vec<f32> = bytemuck::pod_collect_to_vec(&gpu.read(&summary).await?);
/// assert!((means[0] - 0.5).abs() < 1e-6);
/// // The busiest path has twice its share.
/// assert!((summary[0] - 1.0).abs() < 1e-6 && (summary[2] - 2f32.ln()).abs() < 1e-6 && (summary[3] - 2.0).abs() < 1e-6);
/// # Ok(()) }) }
/// ```
#[derive(Debug, Clone)]
pub struct PathLoad<'a> {
    logits: Tensor<'a>,
    counts: Tensor<'a>,
    mean_scores: Tensor<'a>,
    summary: Tensor<'a>,
}

const NAME: &str = "path_load";

impl<'a> PathLoad<'a> {
    /// The load that these logits and counts are.
    ///
    /// ```no_run
    /// # use double_routing::{Tensor, kernels::PathLoad};
    /// # fn load<'a>(logits: Tensor<'a>, counts: Tensor<'a>, means: Tensor<'a>, summary: Tensor<'a>) -> PathLoad<'a> {
    /// PathLoad::new(logits, counts, means, summary)
    /// # }
    /// ```
    pub fn new(logits: Tensor<'a>, counts: Tensor<'a>, mean_scores: Tensor<'a>, summary: Tensor<'a>) -> Self {
        Self { logits, counts, mean_scores, summary }
    }

    /// Checks everything and builds the steps: one that goes through the tokens, more where the logits exceed a binding, and one that adds
    /// up what they left. Without tokens the last alone is there, and writes zeros.
    ///
    /// # Errors
    /// [`Error::Shape`], [`Error::Element`] or [`Error::Buffer`] for operands that do not fit; [`Error::Limit`] where a row exceeds a
    /// binding, or for more than 67 108 864 tokens.
    ///
    /// ```no_run
    /// # use double_routing::{Gpu, Plan, Result, kernels::PathLoad};
    /// # fn plan(gpu: &Gpu, load: PathLoad<'_>) -> Result<Plan> {
    /// load.plan(gpu)
    /// # }
    /// ```
    pub fn plan(&self, gpu: &Gpu) -> Result<Plan> {
        let [tokens, paths] = self.check()?;
        let limit = gpu.unaligned_limit();
        let most_rows = limit / (4 * paths);
        if most_rows == 0 {
            return Err(Error::Limit {
                operation: NAME,
                what: "a row in bytes".into(),
                needed: 4 * paths,
                allowed: limit,
            });
        }
        let wanted = tokens.div_ceil(CHUNKS).next_power_of_two().clamp(LEAST_CHUNK, MOST_CHUNK);
        let chunk = wanted.min(most_rows);
        let chunks = tokens.div_ceil(chunk);
        if chunks > MOST_CHUNKS {
            return Err(Error::Limit {
                operation: NAME,
                what: "the number of tokens".into(),
                needed: tokens,
                allowed: chunk * MOST_CHUNKS,
            });
        }
        let stride = paths.div_ceil(4) + 1;
        let scratch = gpu.buffer("path_load partials", Element::F32, chunks * stride * 4)?;
        let partials = Tensor::f32(&scratch, &[]).bind(gpu, NAME, "partials", 0, chunks * stride * 4)?;
        let params = Params {
            tokens: shader_u32(NAME, "tokens", tokens)?,
            paths: shader_u32(NAME, "paths", paths)?,
            stride: shader_u32(NAME, "quads", stride)?,
            chunk: shader_u32(NAME, "chunk", chunk)?,
            chunks: shader_u32(NAME, "chunks", chunks)?,
            ..Params::default()
        };
        let mut plan = Plan::default();
        let rows_each = most_rows / chunk * chunk;
        let mut first = 0;
        while first < tokens {
            let rows = rows_each.min(tokens - first);
            plan.push(self.chunks(gpu, params, &partials, first, rows)?);
            first += rows;
        }
        plan.push(self.finish(gpu, params, &partials)?);
        plan.keep(scratch);
        Ok(plan)
    }

    /// The step for the tokens `first .. first + rows`, which begin a chunk.
    fn chunks(&self, gpu: &Gpu, params: Params, partials: &Bound<'_>, first: u64, rows: u64) -> Result<Step> {
        let paths = u64::from(params.paths);
        let mut logits = self.logits.bind(gpu, NAME, "logits", first * paths, rows * paths)?;
        let kind = Kind::of(gpu);
        let fitting = SHAPES.iter().filter(|(of, lanes, _)| *of == kind && lanes.suits(gpu));
        let (lanes, block) = fitting
            .filter_map(|(_, lanes, blocks)| {
                let block = blocks.iter().find(|block| params.paths <= lanes.lanes * 4 * **block)?;
                Some((*lanes, *block))
            })
            .next()
            .ok_or_else(|| Error::shape(NAME, format!("nothing holds {paths} paths")))?;
        let access = match lanes.by {
            By::Subgroup => logits.load_access(gpu, Element::F32, &[paths]),
            _ if super::in_quads(&logits, &[paths]) => "quads",
            _ => "elements",
        };
        let params = Params {
            rows: shader_u32(NAME, "rows", rows)?,
            first_chunk: shader_u32(NAME, "chunks", first / u64::from(params.chunk))?,
            logits_first: logits.first,
            ..params
        };
        Step::new(
            gpu,
            &PATH_LOAD,
            chunk(lanes, block, access),
            format!("{NAME} chunk {rows}x{paths}"),
            bytemuck::bytes_of(&params),
            &[("logits", &logits), ("partials", partials)],
            rows.div_ceil(u64::from(params.chunk)).div_ceil(u64::from(lanes.rows)),
        )
    }

    fn finish(&self, gpu: &Gpu, params: Params, partials: &Bound<'_>) -> Result<Step> {
        let paths = u64::from(params.paths);
        let counts = self.counts.bind(gpu, NAME, "counts", 0, paths)?;
        let mean_scores = self.mean_scores.bind(gpu, NAME, "mean_scores", 0, paths)?;
        let summary = self.summary.bind(gpu, NAME, "summary", 0, 4)?;
        let params = Params {
            counts_first: counts.first,
            mean_scores_first: mean_scores.first,
            summary_first: summary.first,
            ..params
        };
        Step::new(
            gpu,
            &PATH_LOAD,
            finish(),
            format!("{NAME} finish {}x{paths}", params.tokens),
            bytemuck::bytes_of(&params),
            &[("partials", partials), ("counts", &counts), ("mean_scores", &mean_scores), ("summary", &summary)],
            1,
        )
    }

    /// The tokens and paths.
    fn check(&self) -> Result<[u64; 2]> {
        let logits = self.logits.shape();
        let &[tokens, paths] = logits else {
            return Err(Error::shape(NAME, format!("logits are {logits:?}, expected [T, P]")));
        };
        if paths == 0 || paths > MOST_PATHS {
            return Err(Error::shape(NAME, format!("{paths} paths, expected 1 to {MOST_PATHS}")));
        }
        let inputs = [("logits", &self.logits), ("counts", &self.counts)];
        let outputs = [("mean_scores", &self.mean_scores), ("summary", &self.summary)];
        for (name, tensor) in inputs.into_iter().chain(outputs) {
            let expected = match name {
                "logits" => logits,
                "summary" => &[4],
                _ => &logits[1..],
            };
            if tensor.shape() != expected {
                return Err(Error::shape(NAME, format!("{name} is {:?}, expected {expected:?}", tensor.shape())));
            }
            tensor.check_element(NAME, name, &[if name == "counts" { Element::U32 } else { Element::F32 }])?;
            tensor.check(NAME, name)?;
        }
        for (at, (name, output)) in outputs.iter().enumerate() {
            for (other, tensor) in inputs.iter().chain(&outputs[..at]) {
                if tensor.buffer() == output.buffer() {
                    return Err(Error::buffer(
                        NAME,
                        format!("{other} and {name} share a buffer; what a kernel writes needs a buffer of its own"),
                    ));
                }
            }
        }
        Ok([tokens as u64, paths as u64])
    }
}
