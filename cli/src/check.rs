//! `check`: every kernel and the layer on this machine's adapter, against the CPU reference.

use std::io::Write;

use anyhow::bail;
use double_routing::{
    Gpu,
    check::{Case, cases},
};
use serde::Serialize;

use crate::{
    Verdict,
    gpu::{Description, Selection, wait},
    report::{self, BAD, BOLD, GOOD, Out},
};

#[derive(Debug, clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    selection: Selection,
    /// Only the case of this name, or those whose names contain it; may be given several times
    #[arg(long, value_name = "NAME")]
    case: Vec<String>,
    /// Leave out the cases that take a slow adapter a second or more: tensors beyond a binding, grids beyond a dispatch
    #[arg(long)]
    quick: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// A case and what came of it.
#[derive(Debug, Serialize)]
struct Row {
    name: String,
    kernel: &'static str,
    elements: usize,
    /// Infinite where an exact result is not met, which JSON has as null.
    worst: f64,
    signal: Option<f64>,
    passed: bool,
    fault: Option<String>,
}

impl Row {
    fn run(gpu: &Gpu, case: &Case) -> Self {
        let (name, kernel) = (case.name().to_owned(), case.kernel());
        match wait(gpu, case.run(gpu)) {
            Ok(outcome) => Self {
                name,
                kernel,
                passed: outcome.passed(),
                elements: outcome.elements,
                worst: outcome.worst,
                signal: outcome.signal,
                fault: outcome.fault,
            },
            // A case is also failed where it could not be run.
            Err(error) => Self {
                name,
                kernel,
                passed: false,
                elements: 0,
                worst: f64::INFINITY,
                signal: None,
                fault: Some(error.to_string()),
            },
        }
    }
}

pub fn run(arguments: &Arguments, out: &mut Out) -> anyhow::Result<Verdict> {
    let cases = chosen(&arguments.case, arguments.quick)?;
    let gpu = arguments.selection.open_adapter("the CPU reference is what adapters are checked against")?;
    let bar = report::progress("cases", cases.len(), cases.len() > 1);
    let mut rows = Vec::with_capacity(cases.len());
    for case in &cases {
        bar.set_message(case.name().to_owned());
        rows.push(Row::run(&gpu, case));
        bar.inc(1);
    }
    bar.finish_and_clear();

    let failed = rows.iter().filter(|row| !row.passed).count();
    let adapter = Description::from(gpu.info());
    if arguments.json {
        let passed = rows.len() - failed;
        report::json(
            out,
            &serde_json::json!({ "adapter": adapter, "cases": rows, "passed": passed, "failed": failed }),
        )?;
    } else {
        writeln!(out, "{BOLD}adapter{BOLD:#}  {adapter}\n")?;
        let table = if !arguments.case.is_empty() { by_case(&rows) } else { by_kernel(&rows) };
        report::print_table(out, &table)?;
        print_failures(out, &rows, &arguments.selection)?;
        let elements: usize = rows.iter().map(|row| row.elements).sum();
        let (style, verdict) =
            if failed == 0 { (GOOD, "all passed".into()) } else { (BAD, format!("{failed} FAILED")) };
        let (count, elements) = (rows.len(), report::count(elements as u64));
        writeln!(
            out,
            "\n{style}{verdict}{style:#}: {count} cases, {elements} elements compared with the CPU reference"
        )?;
    }
    Ok((failed == 0).into())
}

/// For each name the case of exactly this name, else those whose names contain it.
fn chosen(names: &[String], quick: bool) -> anyhow::Result<Vec<Case>> {
    let mut cases = cases();
    cases.retain(|case| !(quick && case.heavy()));
    if names.is_empty() {
        return Ok(cases);
    }
    let mut wanted = vec![false; cases.len()];
    for name in names {
        let exact = cases.iter().any(|case| case.name() == name);
        let fits = |case: &Case| if exact { case.name() == name } else { case.name().contains(name) };
        if !cases.iter().any(fits) {
            bail!("no case is named '{name}' or has it in its name");
        }
        cases.iter().zip(&mut wanted).for_each(|(case, wanted)| *wanted |= fits(case));
    }
    let mut wanted = wanted.into_iter();
    cases.retain(|_| wanted.next().unwrap_or(false));
    Ok(cases)
}

fn by_kernel(rows: &[Row]) -> comfy_table::Table {
    let rows = rows.chunk_by(|a, b| a.kernel == b.kernel).filter_map(|rows| {
        let worst = rows.iter().max_by(|a, b| a.worst.total_cmp(&b.worst))?;
        let passed = rows.iter().filter(|row| row.passed).count();
        let signal = rows.iter().filter_map(|row| row.signal).max_by(f64::total_cmp);
        Some([
            worst.kernel.to_owned(),
            format!("{passed} of {}", rows.len()),
            format!("{:.3}", worst.worst),
            worst.name.clone(),
            shown(signal),
        ])
    });
    let mut table = report::table(["kernel", "passed", "share of bound", "… in the case", "error by signal"], 1, rows);
    if let Some(names) = table.column_mut(3) {
        names.set_cell_alignment(comfy_table::CellAlignment::Left);
    }
    table
}

/// An error by the signal measure; the kernels have none.
fn shown(signal: Option<f64>) -> String {
    signal.map_or_else(String::new, |signal| format!("{signal:.1e}"))
}

fn by_case(rows: &[Row]) -> comfy_table::Table {
    let rows = rows.iter().map(|row| {
        let verdict = if row.passed { "pass" } else { "FAIL" };
        let elements = report::count(row.elements as u64);
        [row.name.clone(), elements, format!("{:.3}", row.worst), shown(row.signal), verdict.into()]
    });
    report::table(["case", "elements", "share of bound", "error by signal", ""], 1, rows)
}

fn print_failures(out: &mut Out, rows: &[Row], selection: &Selection) -> anyhow::Result<()> {
    for row in rows.iter().filter(|row| !row.passed) {
        let fault = row.fault.as_deref().unwrap_or("an error beyond its bound");
        writeln!(out, "  {BAD}{}{BAD:#}: {fault}", row.name)?;
        writeln!(out, "    double-routing check{} --case '{}'", selection.options(), row.name)?;
    }
    Ok(())
}
