//! `forward`: a layer on a file of inputs.

use std::{io::Write, num::NonZeroUsize, path::PathBuf};

use anyhow::{Context, bail};
use double_routing::{
    Dimensions, Element, Order, Output, PathSettings, PlanKind, Settings, Values, Weights, bytemuck,
    check::Judgement,
    kernels::{GroupLimit, GroupScore, PathChoice, Score},
    moe::RouterConfig,
};
use double_routing_common::input::Input;
use safetensors::{Dtype, tensor::TensorView};
use serde::Serialize;

use crate::{
    Verdict,
    evaluate::{Evaluator, Run},
    gpu::{Selection, Target},
    input::{self, OutputType},
    judge::{self, judge},
    report::{self, BOLD, Out},
    save::Destination,
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
    /// Safetensors file with a tensor `x` [B, S, in] or [N, in] of F32, F16 or BF16, which stays so on the device, and `lengths` [B] where sequences are padded; or .npy
    #[arg(long, value_name = "FILE")]
    input: PathBuf,
    /// Safetensors file to write: `y`, the routing weights `w`, and what was decided: `indices`, `ids`, `gates`
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
    /// Let NaN and infinities in x and in the weights pass
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
    let (weights, prefix) =
        read_layer(&arguments.weights, arguments.prefix.as_deref(), &arguments.ignore, allow_non_finite)?;
    let dimensions = weights.dimensions();
    let settings = arguments.settings(&weights)?;
    let mut input = input::read_input(&arguments.input, dimensions, allow_non_finite)?;
    input.storage.y = arguments.output_type.into();
    let destination = Destination::new(&arguments.output)?;
    let target = arguments.selection.open()?;
    let evaluator = Evaluator::new(&target, &weights, settings)?;
    let run = evaluator.run(&input, arguments.batch.map(NonZeroUsize::get))?;
    write(&input, &run.output, dimensions, settings.paths.per_token, destination)?;
    let judgement = match arguments.check {
        true => Some(judge(&weights, settings, &input, &run.output)?),
        false => None,
    };

    let report = Report {
        arguments,
        target,
        prefix,
        dimensions,
        paths: weights.paths(),
        order: evaluator.order(),
        input,
        run,
        judgement,
    };
    if arguments.json {
        report.print_json(out)?
    } else {
        report.print(out)?
    }
    Ok(report.judgement.is_none_or(|judgement| judgement.passed()).into())
}

fn write(
    input: &Input,
    output: &Output,
    dimensions: Dimensions,
    per_token: usize,
    mut destination: Destination,
) -> anyhow::Result<()> {
    let view = |values, width| TensorView::new(Dtype::F32, input.shape_with(width), bytemuck::cast_slice(values));
    let y = Values::rounded(&output.y, input.storage.y);
    let of_y = TensorView::new(input::dtype(y.element()), input.shape_with(dimensions.output), y.bytes())?;
    let mut tensors = vec![("y", of_y), ("w", view(&output.w, 1)?)];
    // A row for every selected token, or for every token.
    let mut rows = input.shape[..input.shape.len() - 1].to_vec();
    if input.shape.len() == 3 && !output.indices.is_empty() {
        rows[1] = output.indices.len() / input.sequences();
        let indices = bytemuck::cast_slice(&output.indices);
        tensors.push(("indices", TensorView::new(Dtype::U32, rows.clone(), indices)?));
    }
    if !output.ids.is_empty() {
        rows.push(per_token);
        tensors.push(("ids", TensorView::new(Dtype::U32, rows.clone(), bytemuck::cast_slice(&output.ids))?));
        tensors.push(("gates", TensorView::new(Dtype::F32, rows, bytemuck::cast_slice(&output.gates))?));
    }
    let bytes = safetensors::serialize(tensors, None)?;
    destination.file().write_all(&bytes).context("cannot write the output")?;
    destination.commit()
}

/// What a report says of a type, where it is not f32.
pub fn typed(element: Element) -> String {
    if element == Element::F32 { String::new() } else { format!(" {element}") }
}

struct Report<'a> {
    arguments: &'a Arguments,
    target: Target,
    prefix: String,
    dimensions: Dimensions,
    paths: usize,
    order: Order,
    input: Input,
    run: Run,
    judgement: Option<Judgement>,
}

impl Report<'_> {
    /// What every order costs, in the library's order of them, where every token takes the same maps.
    fn costs(&self) -> Vec<Costed> {
        if self.arguments.select.is_some() || self.paths > 1 {
            return Vec::new();
        }
        let tokens = self.input.tokens() as u64;
        let costed = |order: Order| {
            let cost = order.cost(self.dimensions, tokens);
            Costed { order: order.to_string(), taken: order == self.order, flops: cost.flops, bytes: cost.bytes }
        };
        [Order::AsWritten].into_iter().chain(Order::FOLDED).map(costed).collect()
    }

    /// Tokens that were routed, where not all are.
    fn selected(&self) -> Option<usize> {
        self.arguments.select?;
        Some(self.run.output.indices.iter().filter(|&&index| index != u32::MAX).count())
    }

    /// Tokens of each path, where there are several.
    fn counts(&self) -> Option<Vec<usize>> {
        if self.run.output.ids.is_empty() {
            return None;
        }
        let mut counts = vec![0; self.paths];
        for &id in &self.run.output.ids {
            if let Some(count) = counts.get_mut(id as usize) {
                *count += 1;
            }
        }
        Some(counts)
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
                "x": self.input.shape,
                "y": self.input.shape_with(output),
                "types": { "x": self.input.storage.x.to_string(), "y": self.input.storage.y.to_string() },
                "w": self.input.shape_with(1),
                "selected": self.selected(),
                "paths": self.counts(),
                "batches": self.run.batches,
                "seconds": self.run.elapsed.as_secs_f64(),
                "output": self.arguments.output,
                "check": self.judgement.as_ref().map(judge::to_json),
            }),
        )
    }

    fn print(&self, out: &mut Out) -> anyhow::Result<()> {
        writeln!(out, "{BOLD}adapter{BOLD:#}  {}", self.target.description())?;
        let behind = if self.prefix.is_empty() { String::new() } else { format!(", behind '{}'", self.prefix) };
        writeln!(out, "{BOLD}layer{BOLD:#}    {}{behind}", self.dimensions)?;
        let masked = if self.input.lengths.is_some() { " with lengths" } else { "" };
        writeln!(out, "{BOLD}x{BOLD:#}        {:?}{}{masked}", self.input.shape, typed(self.input.storage.x))?;
        let rows = self.costs().into_iter().map(|cost| {
            let mark = if cost.taken { "taken" } else { "" };
            [cost.order, report::operations(cost.flops), report::bytes(cost.bytes), mark.into()]
        });
        writeln!(out, "{BOLD}order{BOLD:#}    {}", self.order)?;
        let table = report::table(["order of maps", "work", "memory traffic", ""], 1, rows);
        if table.row_count() > 0 {
            report::print_table(out, &table)?;
        }
        if let Some(selected) = self.selected() {
            let tokens = self.input.sequences() * self.input.tokens_each();
            writeln!(out, "{BOLD}selected{BOLD:#} {selected} of {tokens} tokens")?;
        }
        if let Some(counts) = self.counts() {
            let (busiest, idle) =
                (counts.iter().max().unwrap_or(&0), counts.iter().filter(|&&count| count == 0).count());
            writeln!(out, "{BOLD}paths{BOLD:#}    {}, the busiest has {busiest} tokens, {idle} have none", self.paths)?;
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
