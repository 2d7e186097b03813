//! `forward`: a layer on a file of inputs.

use std::{
    io::Write,
    num::NonZeroUsize,
    path::{Path, PathBuf},
};

use anyhow::{bail, ensure};
use double_routing::{
    Dimensions, Element, Order, Output, PathSettings, PlanKind, Settings, Storage, Values, Weights, bytemuck,
    check::Judgement,
    kernels::{GroupLimit, GroupScore, PathChoice, Score},
    moe::RouterConfig,
};
use double_routing_common::input::{Input, Part};
use safetensors::Dtype;
use serde::Serialize;

use crate::{
    Verdict,
    evaluate::{Evaluator, Run},
    gpu::{Selection, Target},
    input::{self, OutputType, Rows},
    judge::{self, Judge},
    report::{self, BOLD, Out},
    save::{self, Destination},
    source::Source,
    tensors::Tensors,
    weights::read_layer,
};

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Safetensors file with embedding, attention, routing1 and routing2, each .weight and perhaps .bias, as PyTorch saves them; with
    /// path_gate there are several paths, and routing2 is [P, O, R]
    #[arg(long, value_name = "FILE")]
    weights: PathBuf,
    /// What stands before these names in the file, such as `model.router.`; needed where there are several layers
    #[arg(long)]
    prefix: Option<String>,
    /// A tensor behind the prefix that has nothing to do with the layer, or what the names of several begin with: `tokens.`
    #[arg(long, value_name = "NAME")]
    ignore: Vec<String>,
    /// Safetensors file with a tensor `x` [B, S, in] or [N, in] of F32, F16 or BF16, which stays so on the device, or F64, and where sequences are padded `lengths` [B] or a
    /// `mask` [B, S]; or .npy
    #[arg(long, value_name = "FILE")]
    input: PathBuf,
    /// Safetensors file to write, `-` for standard output: `y`, the routing weights `w`, and what was decided: `indices`, `ids`, `gates`
    #[arg(long, value_name = "FILE")]
    output: PathBuf,
    /// What y is stored in. Tokens' y differ by a few percent or less: 16 bits lose much of that
    #[arg(long, value_enum, default_value_t = OutputType::F32)]
    output_type: OutputType,
    /// Multiply the maps as the layer is written, or folded into fewer when the weights are loaded
    #[arg(long, value_enum, default_value_t = Plan::Folded)]
    plan: Plan,
    /// Route only the tokens of each sequence that weigh most: so many (`64`), or this share (`0.125`); the others' y is 0
    #[arg(long, value_name = "K|FRACTION", value_parser = selection)]
    select: Option<double_routing::Selection>,
    /// Paths that each token takes, where the weights have several
    #[arg(long, value_name = "E", default_value = "1")]
    paths_per_token: NonZeroUsize,
    /// Choose paths from the best groups only: `4/8` keeps 4 of 8 by their largest score, `4/8:sum` by the sum of their two largest
    #[arg(long, value_name = "KEPT/GROUPS[:sum]", value_parser = groups)]
    path_groups: Option<GroupLimit>,
    /// What a path scores for its logit
    #[arg(long, value_enum, default_value_t = PathScore::Softmax)]
    path_score: PathScore,
    #[command(flatten)]
    selection: Selection,
    /// Let no result depend on what else is in its batch
    #[arg(long)]
    batch_invariant: bool,
    /// Sequences (places on axis 0) at a time, instead of as many as fit
    #[arg(long, value_name = "N")]
    batch: Option<NonZeroUsize>,
    /// Compare with the CPU reference; exit with 1 where the error is not within its bound
    #[arg(long)]
    check: bool,
    /// Let NaN and infinities in x, in the weights and in the results pass
    #[arg(long)]
    allow_non_finite: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Plan {
    AsWritten,
    Folded,
}

impl From<Plan> for PlanKind {
    fn from(plan: Plan) -> Self {
        match plan {
            Plan::AsWritten => Self::AsWritten,
            Plan::Folded => Self::Folded,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum PathScore {
    Softmax,
    Sigmoid,
    SqrtSoftplus,
    SoftmaxOfChosen,
}

impl From<PathScore> for Score {
    fn from(score: PathScore) -> Self {
        match score {
            PathScore::Softmax => Self::Softmax,
            PathScore::Sigmoid => Self::Sigmoid,
            PathScore::SqrtSoftplus => Self::SqrtSoftplus,
            PathScore::SoftmaxOfChosen => Self::SoftmaxOfChosen,
        }
    }
}

/// A whole number is one of tokens, one with a point a share of them.
fn selection(text: &str) -> Result<double_routing::Selection, String> {
    if let Ok(count) = text.parse::<usize>() {
        return match count {
            0 => Err("0 tokens; 1 or more can be selected".into()),
            _ => Ok(double_routing::Selection::TopK(count)),
        };
    }
    match text.parse::<f32>() {
        Ok(share) if share > 0.0 && share <= 1.0 => Ok(double_routing::Selection::Fraction(share)),
        _ => Err("neither a number of tokens, such as 64, nor a share of them within 0 and 1, such as 0.125".into()),
    }
}

fn groups(text: &str) -> Result<GroupLimit, String> {
    let (numbers, score) = match text.strip_suffix(":sum") {
        Some(numbers) => (numbers, GroupScore::SumOfTwo),
        None => (text, GroupScore::Max),
    };
    let parsed = numbers.split_once('/').and_then(|(kept, groups)| Some((kept.parse().ok()?, groups.parse().ok()?)));
    match parsed {
        Some((kept, groups)) if 0 < kept && kept <= groups => Ok(GroupLimit { groups, kept, score }),
        _ => Err("expected KEPT/GROUPS, such as 4/8 or 4/8:sum".into()),
    }
}

impl Arguments {
    /// The files that are read, with the options that name them.
    fn read(&self) -> Vec<(&str, &Path)> {
        let own = [("--weights", &*self.weights), ("--input", &*self.input)];
        own.into_iter().chain(self.selection.read()).collect()
    }

    fn settings(&self, weights: &Weights) -> anyhow::Result<Settings> {
        let per_token = self.paths_per_token.get();
        let paths = weights.paths();
        if paths == 1 && per_token > 1 {
            bail!("--paths-per-token is {per_token}, {} has 1 path", self.weights.display());
        }
        if paths == 1 && self.path_groups.is_some() {
            bail!("--path-groups: {} has 1 path", self.weights.display());
        }
        let choice = PathChoice { score: self.path_score.into(), groups: self.path_groups, ..PathChoice::default() };
        RouterConfig { paths, per_token, choice }.check()?;
        Ok(Settings {
            plan: self.plan.into(),
            batch_invariant: self.batch_invariant,
            selection: self.select.unwrap_or_default(),
            paths: PathSettings { per_token, choice },
        })
    }
}

/// What an order of multiplication costs for this input.
#[derive(Debug, Serialize)]
struct Costed {
    order: String,
    taken: bool,
    flops: u64,
    bytes: u64,
}

pub fn run(arguments: &Arguments, out: &mut Out) -> anyhow::Result<Verdict> {
    let Arguments { allow_non_finite, .. } = *arguments;
    save::apart(&arguments.read(), &[("--output", &arguments.output)])?;
    let (weights, prefix) =
        read_layer(&arguments.weights, arguments.prefix.as_deref(), &arguments.ignore, allow_non_finite)?;
    let settings = arguments.settings(&weights)?;
    let source = Source::open(&arguments.input)?;
    let mut rows = Rows::of_layer(&source, weights.dimensions(), allow_non_finite)?;
    rows.input.storage.y = arguments.output_type.into();
    let shape = rows.input.shape();
    ensure!(
        arguments.select.is_none() || shape.len() == 3,
        "--select: x is {shape:?}, and only [B, S, in] has tokens to select from"
    );
    let destination = Destination::new(&arguments.output)?;
    out.make_way(&destination, arguments.json)?;
    let target = arguments.selection.open()?;
    let evaluator = Evaluator::new(&target, &weights, settings)?;
    let mut results = Results::new(arguments, &weights, settings, &rows, destination)?;
    let batch = arguments.batch.map(NonZeroUsize::get);
    let run = evaluator.run(&rows, batch, |part, output| results.take(part, output))?;
    let Results { tensors, selected, counts, judge, .. } = results;
    tensors.commit()?;

    let report = Report {
        arguments,
        target,
        prefix,
        dimensions: weights.dimensions(),
        order: evaluator.order(),
        input: &rows.input,
        selected: arguments.select.map(|_| selected),
        counts: weights.path_gate().map(|_| counts),
        run,
        judgement: judge.map(|judge| judge.judgement()),
    };
    if arguments.json {
        report.print_json(out)?;
    } else {
        report.print(out)?;
    }
    Ok(report.judgement.is_none_or(|judgement| judgement.passed()).into())
}

/// What comes of the batches.
struct Results<'a> {
    tensors: Tensors,
    storage: Storage,
    /// What is before the last dimension of a tensor with a row for each token, and of one with a row for each that is routed.
    of_tokens: Vec<usize>,
    of_rows: Vec<usize>,
    /// Sequences that have come.
    done: usize,
    allow_non_finite: bool,
    /// Tokens that were routed.
    selected: usize,
    /// Tokens of each path.
    counts: Vec<usize>,
    judge: Option<Judge<'a>>,
}

impl<'a> Results<'a> {
    fn new(
        arguments: &Arguments,
        weights: &'a Weights,
        settings: Settings,
        rows: &Rows<'_>,
        destination: Destination,
    ) -> anyhow::Result<Self> {
        let input = &rows.input;
        let storage = input.storage;
        let mut tensors = vec![
            ("y", input::dtype(storage.y), input.shape_with(weights.dimensions().output)),
            ("w", Dtype::F32, input.shape_with(1)),
        ];
        // A row for every selected token, or for every token.
        let mut of_rows = input.shape()[..input.shape().len() - 1].to_vec();
        if let [_, positions] = of_rows.as_mut_slice()
            && let Some(count) = settings.selection.count(*positions)
        {
            *positions = count;
            tensors.push(("indices", Dtype::U32, of_rows.clone()));
        }
        if weights.path_gate().is_some() {
            let of_slots = [&of_rows[..], &[settings.paths.per_token]].concat();
            tensors.extend([("ids", Dtype::U32, of_slots.clone()), ("gates", Dtype::F32, of_slots)]);
        }
        Ok(Self {
            tensors: Tensors::new(destination, tensors)?,
            storage,
            of_tokens: input.shape()[..input.shape().len() - 1].to_vec(),
            of_rows,
            done: 0,
            allow_non_finite: arguments.allow_non_finite,
            selected: 0,
            counts: vec![0; weights.paths()],
            judge: arguments.check.then(|| Judge::new(weights, settings, storage.y)),
        })
    }

    fn take(&mut self, part: &Part<'_>, output: Output) -> anyhow::Result<()> {
        if !self.allow_non_finite {
            self.finite(&output, part.sequences())?;
        }
        self.done += part.sequences();
        if let Some(judge) = &mut self.judge {
            judge.extend(part, &output)?;
        }
        let Output { y, w, indices, ids, gates, .. } = output;
        self.tensors.extend("y", Values::rounded(&y, self.storage.y).bytes())?;
        self.tensors.extend("w", bytemuck::cast_slice(&w))?;
        if !indices.is_empty() {
            self.tensors.extend("indices", bytemuck::cast_slice(&indices))?;
            self.selected += indices.iter().filter(|&&index| index != u32::MAX).count();
        }
        if !ids.is_empty() {
            self.tensors.extend("ids", bytemuck::cast_slice(&ids))?;
            self.tensors.extend("gates", bytemuck::cast_slice(&gates))?;
        }
        for id in ids {
            if let Some(count) = self.counts.get_mut(id as usize) {
                *count += 1;
            }
        }
        Ok(())
    }
}

/// What a report says of a type, where it is not f32.
pub fn typed(element: Element) -> String {
    if element == Element::F32 { String::new() } else { format!(" {element}") }
}

impl Results<'_> {
    /// Refuses what some sequences' results have that is not finite.
    fn finite(&self, output: &Output, sequences: usize) -> anyhow::Result<()> {
        let Some((name, at)) = output.first_non_finite() else { return Ok(()) };
        let Output { y, w, gates, logits, path_logits, .. } = output;
        let (leading, values) = match name {
            "y" => (&self.of_tokens, y),
            "w" => (&self.of_tokens, w),
            "logits" => (&self.of_tokens, logits),
            "gates" => (&self.of_rows, gates),
            _ => (&self.of_rows, path_logits),
        };
        // As many for each row as there are values for the rows of these sequences.
        let each = values.len() / sequences;
        let rows: usize = leading[1..].iter().product();
        let shape = [&leading[..], &[each / rows.max(1)]].concat();
        Err(input::overflow(name, &shape, self.done * each + at, values[at], self.storage.y))
    }
}

struct Report<'a> {
    arguments: &'a Arguments,
    target: Target,
    prefix: String,
    dimensions: Dimensions,
    order: Order,
    input: &'a Input<'a>,
    /// Tokens that were routed, where not all are.
    selected: Option<usize>,
    /// Tokens of each path, where there are several.
    counts: Option<Vec<usize>>,
    run: Run,
    judgement: Option<Judgement>,
}

impl Report<'_> {
    /// What every order costs, in the library's order of them, where every token takes the same maps.
    fn costs(&self) -> Vec<Costed> {
        if self.selected.is_some() || self.counts.is_some() {
            return Vec::new();
        }
        let tokens = self.input.tokens() as u64;
        let costed = |order: Order| {
            let cost = order.cost(self.dimensions, tokens);
            Costed { order: order.to_string(), taken: order == self.order, flops: cost.flops, bytes: cost.bytes }
        };
        [Order::AsWritten].into_iter().chain(Order::FOLDED).map(costed).collect()
    }

    fn print_json(&self, out: &mut Out) -> anyhow::Result<()> {
        let Dimensions { input, attention, routing, output } = self.dimensions;
        report::json(
            out,
            &serde_json::json!({
                "adapter": self.target.description(),
                "prefix": self.prefix,
                "dimensions": { "input": input, "attention": attention, "routing": routing, "output": output },
                "order": self.order.to_string(),
                "orders": self.costs(),
                "x": self.input.shape(),
                "y": self.input.shape_with(output),
                "types": { "x": self.input.storage.x.to_string(), "y": self.input.storage.y.to_string() },
                "w": self.input.shape_with(1),
                "selected": self.selected,
                "paths": self.counts,
                "batches": self.run.batches,
                "seconds": self.run.elapsed.as_secs_f64(),
                "output": self.arguments.output.display().to_string(),
                "check": self.judgement.as_ref().map(judge::to_json),
            }),
        )
    }

    fn print(&self, out: &mut Out) -> anyhow::Result<()> {
        writeln!(out, "{BOLD}adapter{BOLD:#}  {}", self.target.description())?;
        let behind = if self.prefix.is_empty() { String::new() } else { format!(", behind '{}'", self.prefix) };
        writeln!(out, "{BOLD}layer{BOLD:#}    {}{behind}", self.dimensions)?;
        let masked = if self.input.lengths.is_some() { " with lengths" } else { "" };
        writeln!(out, "{BOLD}x{BOLD:#}        {:?}{}{masked}", self.input.shape(), typed(self.input.storage.x))?;
        let rows = self.costs().into_iter().map(|cost| {
            let mark = if cost.taken { "taken" } else { "" };
            [cost.order, report::operations(cost.flops), report::bytes(cost.bytes), mark.into()]
        });
        writeln!(out, "{BOLD}order{BOLD:#}    {}", self.order)?;
        let table = report::table(["order of maps", "work", "memory traffic", ""], 1, rows);
        if table.row_count() > 0 {
            report::print_table(out, &table)?;
        }
        if let Some(selected) = self.selected {
            let tokens = self.input.tokens();
            writeln!(out, "{BOLD}selected{BOLD:#} {selected} of {tokens} tokens")?;
        }
        if let Some(counts) = &self.counts {
            let (busiest, idle) =
                (counts.iter().max().unwrap_or(&0), counts.iter().filter(|&&count| count == 0).count());
            let paths = counts.len();
            writeln!(out, "{BOLD}paths{BOLD:#}    {paths}, the busiest has {busiest} tokens, {idle} have none")?;
        }
        let (y, w) = (self.input.shape_with(self.dimensions.output), self.input.shape_with(1));
        let (name, of_y) = (self.arguments.output.display(), typed(self.input.storage.y));
        writeln!(out, "{BOLD}wrote{BOLD:#}    {name}: y {y:?}{of_y}, w {w:?}")?;
        let plural = if self.run.batches == 1 { "batch" } else { "batches" };
        writeln!(out, "{BOLD}time{BOLD:#}     {:.3?} in {} {plural}", self.run.elapsed, self.run.batches)?;
        if let Some(judgement) = &self.judgement {
            judge::print(judgement, out)?;
            if !judgement.passed() {
                writeln!(out, "The output was written all the same.")?;
            }
        }
        Ok(())
    }
}
