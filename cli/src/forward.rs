//! `forward`: a layer on a file of inputs.

use std::{io::Write, num::NonZeroUsize, path::PathBuf};

use anyhow::Context;
use double_routing::{Dimensions, Order, Output, PlanKind, Settings, bytemuck, check::Judgement};
use safetensors::{Dtype, tensor::TensorView};
use serde::Serialize;

use crate::{
    Verdict,
    evaluate::{Evaluator, Run},
    gpu::{Selection, Target},
    input::{self, Input},
    judge::{self, judge},
    report::{self, BOLD, Out},
    save::Destination,
};

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Safetensors file with embedding, attention, routing1 and routing2, each .weight and .bias, as PyTorch saves them
    #[arg(long, value_name = "FILE")]
    weights: PathBuf,
    /// What stands before these names in the file, such as `model.router.`
    #[arg(long, default_value = "", hide_default_value = true)]
    prefix: String,
    /// Safetensors file with a tensor `x` [B, S, in] or [N, in], and `lengths` [B] where sequences are padded; or .npy
    #[arg(long, value_name = "FILE")]
    input: PathBuf,
    /// Safetensors file to write: `y`, and the routing weights `w`
    #[arg(long, value_name = "FILE")]
    output: PathBuf,
    /// Multiply the maps as the layer is written, or folded into fewer when the weights are loaded
    #[arg(long, value_enum, default_value_t = Plan::Folded)]
    plan: Plan,
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
    let weights = input::read_weights(&arguments.weights, &arguments.prefix, allow_non_finite)?;
    let dimensions = weights.dimensions();
    let input = input::read_input(&arguments.input, dimensions, allow_non_finite)?;
    let destination = Destination::new(&arguments.output)?;
    let target = arguments.selection.open()?;
    let settings =
        Settings { plan: arguments.plan.into(), batch_invariant: arguments.batch_invariant, ..Settings::default() };
    let evaluator = Evaluator::new(&target, &weights, settings)?;
    let run = evaluator.run(&input, arguments.batch.map(NonZeroUsize::get))?;
    write(&input, &run.output, dimensions, destination)?;
    let judgement = arguments.check.then(|| judge(&weights, &input, &run.output));

    let report = Report { arguments, target, dimensions, order: evaluator.order(), input, run, judgement };
    if arguments.json {
        report.print_json(out)?
    } else {
        report.print(out)?
    }
    Ok(report.judgement.is_none_or(|judgement| judgement.passed()).into())
}

fn write(input: &Input, output: &Output, dimensions: Dimensions, mut destination: Destination) -> anyhow::Result<()> {
    let view = |values, width| TensorView::new(Dtype::F32, input.shape_with(width), bytemuck::cast_slice(values));
    let tensors = [("y", view(&output.y, dimensions.output)?), ("w", view(&output.w, 1)?)];
    let bytes = safetensors::serialize(tensors, None)?;
    destination.file().write_all(&bytes).context("cannot write the output")?;
    destination.commit()
}

struct Report<'a> {
    arguments: &'a Arguments,
    target: Target,
    dimensions: Dimensions,
    order: Order,
    input: Input,
    run: Run,
    judgement: Option<Judgement>,
}

impl Report<'_> {
    /// What every order costs, in the library's order of them.
    fn costs(&self) -> Vec<Costed> {
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
                "dimensions": { "input": input, "attention": attention, "routing": routing, "output": output },
                "order": self.order.to_string(),
                "orders": self.costs(),
                "x": self.input.shape,
                "y": self.input.shape_with(output),
                "w": self.input.shape_with(1),
                "batches": self.run.batches,
                "seconds": self.run.elapsed.as_secs_f64(),
                "output": self.arguments.output,
                "check": self.judgement.as_ref().map(judge::to_json),
            }),
        )
    }

    fn print(&self, out: &mut Out) -> anyhow::Result<()> {
        writeln!(out, "{BOLD}adapter{BOLD:#}  {}", self.target.description())?;
        writeln!(out, "{BOLD}layer{BOLD:#}    {}", self.dimensions)?;
        let masked = if self.input.lengths.is_some() { " with lengths" } else { "" };
        writeln!(out, "{BOLD}x{BOLD:#}        {:?}{masked}", self.input.shape)?;
        let rows = self.costs().into_iter().map(|cost| {
            let mark = if cost.taken { "taken" } else { "" };
            [cost.order, report::operations(cost.flops), report::bytes(cost.bytes), mark.into()]
        });
        writeln!(out, "{BOLD}order{BOLD:#}    {}", self.order)?;
        report::print_table(out, &report::table(["order of maps", "work", "memory traffic", ""], 1, rows))?;
        let (y, w) = (self.input.shape_with(self.dimensions.output), self.input.shape_with(1));
        writeln!(out, "{BOLD}wrote{BOLD:#}    {}: y {y:?}, w {w:?}", self.arguments.output.display())?;
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
