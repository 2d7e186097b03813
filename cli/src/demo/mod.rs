//! `demo`: tells languages apart with a trained layer, and shows which characters decide.

mod heat;
mod held_out;
mod picture;

use std::{io::Write, path::PathBuf};

use anyhow::ensure;
use clap::builder::NonEmptyStringValueParser;
use double_routing::{Element, Settings, check::Judgement};
use double_routing_common::languages::{Guess, Model, Reading};
use serde::Serialize;

use crate::{
    Verdict,
    canvas::columns,
    evaluate::Evaluator,
    gpu::{Selection, Target},
    input::Rows,
    judge::{self, Judge},
    report::{self, BAD, BOLD, DIM, GOOD, Out},
    save::Destination,
};
use held_out::HeldOut;

#[derive(Debug, clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    selection: Selection,
    /// Tell the language of this text instead of the held-out sentences
    #[arg(long, value_parser = NonEmptyStringValueParser::new())]
    text: Option<String>,
    /// Also write the characters' weights as a picture
    #[arg(long, value_name = "FILE.png")]
    picture: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

const LANGUAGES: &[u8] = include_bytes!("../../data/languages.safetensors");

/// Terminal columns that an example takes.
const EXAMPLE_COLUMNS: std::ops::RangeInclusive<usize> = 40..=76;

pub fn run(arguments: &Arguments, out: &mut Out) -> anyhow::Result<Verdict> {
    arguments.selection.apart_from(arguments.picture.as_deref())?;
    let picture = arguments.picture.as_deref().map(Destination::new).transpose()?;
    if let Some(picture) = &picture {
        out.make_way(picture, arguments.json)?;
    }
    let model = Model::from_safetensors(LANGUAGES)?;
    let target = arguments.selection.open()?;
    let evaluator = Evaluator::new(&target, &model.weights, Settings::default())?;
    let demo = Demo { arguments, model, target, evaluator };
    let (readings, verdict) = match &arguments.text {
        Some(text) => (vec![demo.tell(text, out)?], Verdict::Passed),
        None => demo.held_out(out)?,
    };
    if let (Some(destination), Some(path)) = (picture, &arguments.picture) {
        picture::write(destination, &demo.model, &readings)?;
        if !arguments.json {
            writeln!(out, "The picture is in {}.", path.display())?;
        }
    }
    Ok(verdict)
}

struct Demo<'a> {
    arguments: &'a Arguments,
    model: Model,
    target: Target,
    evaluator: Evaluator,
}

/// How a language's sentences were told.
#[derive(Debug, Serialize)]
struct Tally {
    label: String,
    name: String,
    correct: usize,
    correct_in_torch: usize,
    total: usize,
    /// The most frequent wrong answers' labels.
    taken_for: Vec<String>,
}

impl Demo<'_> {
    /// Tells the language of one text.
    fn tell(&self, text: &str, out: &mut Out) -> anyhow::Result<Reading> {
        let rows = Rows::of_input(self.model.input(&[text]));
        let (output, _) = self.evaluator.run_whole(&rows)?;
        let reading = self.model.readings(&[text], &rows.input, &output).remove(0);
        let guesses = self.model.guesses(&reading);
        if self.arguments.json {
            let value = serde_json::json!({
                "adapter": self.target.description(), "text": text, "guesses": guesses, "w": reading.w,
            });
            report::json(out, &value)?;
            return Ok(reading);
        }
        writeln!(out, "{BOLD}adapter{BOLD:#}  {}\n", self.target.description())?;
        for (place, Guess { label, name, probability }) in guesses.iter().take(3).enumerate() {
            let style = if place == 0 { GOOD } else { DIM };
            let bar = "█".repeat((probability * 30.0).round() as usize);
            let padding = " ".repeat(12usize.saturating_sub(name.chars().map(columns).sum()));
            writeln!(
                out,
                "  {style}{:>6.2} %  {label:<6}{name}{style:#}{padding}{DIM}{bar}{DIM:#}",
                100.0 * probability
            )?;
        }
        writeln!(out)?;
        heat::print(out, &reading)?;
        heat::print_legend(out)?;
        Ok(reading)
    }

    /// Tells the languages of the held-out sentences, and holds the answers against PyTorch's. Returns an example of each
    /// language.
    fn held_out(&self, out: &mut Out) -> anyhow::Result<(Vec<Reading>, Verdict)> {
        let held_out = HeldOut::embedded(&self.model)?;
        let sentences: Vec<&str> = held_out.sentences.iter().map(|sentence| sentence.text).collect();
        let rows = Rows::of_input(self.model.input(&sentences));
        if matches!(self.target, Target::Device(_)) {
            // Compiles the kernels, which is no part of the time below.
            self.evaluator.run_whole(&rows)?;
        }
        let (output, run) = self.evaluator.run_whole(&rows)?;
        let mut judge = Judge::new(&self.model.weights, Settings::default(), Element::F32);
        judge.extend(&rows.part(0..sentences.len())?, &output)?;
        let judgement = judge.judgement();
        let readings = self.model.readings(&sentences, &rows.input, &output);
        ensure!(readings.len() == held_out.sentences.len(), "{} readings", readings.len());

        let told = || readings.iter().zip(&held_out.sentences);
        let correct = told().filter(|(reading, sentence)| reading.best() == sentence.label).count();
        let same = told().filter(|(reading, sentence)| reading.best() == sentence.predicted_by_torch).count();
        let tallies = self.tallies(&held_out, &readings);
        let rate = readings.len() as f64 / run.elapsed.as_secs_f64();
        let examples = self.examples(&held_out, &readings);
        let passed = judgement.passed() && same == readings.len() && correct == held_out.recorded.correct;

        let summary =
            Summary { readings: readings.len(), correct, same, rate, judgement: &judgement, tallies: &tallies };
        if self.arguments.json {
            self.print_json(out, &held_out, &summary, &examples)?;
        } else {
            self.print(out, &held_out, &summary, &examples)?;
        }
        Ok((examples, passed.into()))
    }

    fn tallies(&self, held_out: &HeldOut, readings: &[Reading]) -> Vec<Tally> {
        let tally = |(label, (code, name)): (usize, (&String, &String))| {
            let told: Vec<_> =
                readings.iter().zip(&held_out.sentences).filter(|(_, sentence)| sentence.label == label).collect();
            let mut taken_for: Vec<_> =
                told.iter().map(|(reading, _)| reading.best()).filter(|&best| best != label).collect();
            taken_for.sort_unstable();
            taken_for.dedup();
            Tally {
                label: code.clone(),
                name: name.clone(),
                correct: told.iter().filter(|(reading, _)| reading.best() == label).count(),
                correct_in_torch: told.iter().filter(|(_, sentence)| sentence.predicted_by_torch == label).count(),
                total: told.len(),
                taken_for: taken_for.into_iter().map(|best| self.model.labels[best].clone()).collect(),
            }
        };
        self.model.labels.iter().zip(&self.model.names).enumerate().map(tally).collect()
    }

    /// For each language the sentence of a line's length that was told right and with the most confidence.
    fn examples(&self, held_out: &HeldOut, readings: &[Reading]) -> Vec<Reading> {
        (0..self.model.labels.len())
            .filter_map(|label| {
                readings
                    .iter()
                    .zip(&held_out.sentences)
                    .filter(|(reading, sentence)| sentence.label == label && reading.best() == label)
                    .map(|(reading, _)| reading)
                    .filter(|reading| {
                        EXAMPLE_COLUMNS.contains(&reading.characters.iter().map(|&character| columns(character)).sum())
                    })
                    .max_by(|a, b| a.confidence().total_cmp(&b.confidence()))
                    .cloned()
            })
            .collect()
    }

    fn print_json(
        &self,
        out: &mut Out,
        held_out: &HeldOut,
        summary: &Summary<'_>,
        examples: &[Reading],
    ) -> anyhow::Result<()> {
        let Summary { readings, correct, same, rate, judgement, tallies } = summary;
        let examples: Vec<_> = examples
            .iter()
            .map(|reading| {
                serde_json::json!({
                    "label": self.model.labels[reading.best()], "text": reading.text(), "w": reading.w,
                })
            })
            .collect();
        let value = serde_json::json!({
            "adapter": self.target.description(),
            "accuracy": *correct as f64 / *readings as f64,
            "correct": correct,
            "total": readings,
            "same_as_torch": same,
            "recorded": held_out.recorded,
            "languages": tallies,
            "sentences_per_second": rate,
            "check": judge::to_json(judgement),
            "examples": examples,
        });
        report::json(out, &value)
    }

    fn print(
        &self,
        out: &mut Out,
        held_out: &HeldOut,
        summary: &Summary<'_>,
        examples: &[Reading],
    ) -> anyhow::Result<()> {
        let Summary { readings, correct, same, rate, judgement, tallies } = summary;
        let recorded = &held_out.recorded;
        let percent = |part: usize| format!("{:.2} %", 100.0 * part as f64 / *readings as f64);
        writeln!(out, "{BOLD}Which language is a sentence in?{BOLD:#}")?;
        writeln!(
            out,
            "{DIM}One double routing layer, {}, over character trigrams, trained in PyTorch {}.{DIM:#}\n",
            self.model.weights.dimensions(),
            // Without the build's tag, as in 2.9.0+cpu.
            recorded.torch.split('+').next().unwrap_or_default()
        )?;
        writeln!(out, "  adapter    {BOLD}{}{BOLD:#}", self.target.description())?;
        writeln!(out, "  accuracy   {BOLD}{}{BOLD:#}: {correct} of {readings} held-out sentences", percent(*correct))?;
        let style = if same == readings { GOOD } else { BAD };
        writeln!(
            out,
            "  PyTorch    {}: {style}{same} of {readings} answers are the same{style:#}",
            percent(recorded.correct)
        )?;
        writeln!(out, "  constant   {:.2} %: always the same answer", 100.0 * recorded.majority_baseline)?;
        let style = if judgement.passed() { GOOD } else { BAD };
        writeln!(
            out,
            "  error      {style}{:.1e}{style:#} of the signal against the CPU reference in f64, allowed {:.1e}",
            judgement.error, judgement.allowed
        )?;
        if let Some(fault) = &judgement.fault {
            writeln!(out, "             {BAD}{fault}{BAD:#}")?;
        }
        writeln!(out, "  speed      {} sentences a second\n", report::count(*rate as u64))?;

        let rows = tallies.iter().map(|tally| {
            [
                tally.label.clone(),
                tally.name.clone(),
                format!("{} of {}", tally.correct, tally.total),
                tally.correct_in_torch.to_string(),
                tally.taken_for.join(", "),
            ]
        });
        let mut table = report::table(["", "language", "told right", "by PyTorch", "taken for"], 2, rows);
        if let Some(column) = table.column_mut(4) {
            column.set_cell_alignment(comfy_table::CellAlignment::Left);
        }
        report::print_table(out, &table)?;

        writeln!(out, "\n{BOLD}What carries the weight{BOLD:#}")?;
        heat::print_legend(out)?;
        for reading in examples {
            writeln!(out, "\n  {DIM}{}{DIM:#}", self.model.names[reading.best()])?;
            heat::print(out, reading)?;
        }
        writeln!(out, "\nTry it: --text \"a sentence of yours\"")?;
        Ok(())
    }
}

/// The numbers of a run over the held-out sentences.
struct Summary<'a> {
    readings: usize,
    correct: usize,
    same: usize,
    rate: f64,
    judgement: &'a Judgement,
    tallies: &'a [Tally],
}
