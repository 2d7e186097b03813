//! What the commands print: errors and notes, tables, numbers, progress.

use std::io::{self, Stderr, StdoutLock, Write};

use anstream::{AutoStream, ColorChoice};
use anstyle::{AnsiColor, Style};
use anyhow::ensure;
use comfy_table::{CellAlignment, LineStyle, Table, TableStyle};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;

use crate::save::Destination;

/// Where reports go. Colours are dropped where nobody can see them.
pub enum Out {
    Output(AutoStream<StdoutLock<'static>>),
    /// Not locked: others have notes to make there.
    Error(AutoStream<Stderr>),
}

impl Out {
    /// Standard output.
    pub fn new() -> Self {
        Self::Output(anstream::stdout().lock())
    }

    /// Leaves standard output to results where they go there.
    pub fn make_way(&mut self, for_results: &Destination, json: bool) -> anyhow::Result<()> {
        if for_results.is_standard_output() {
            ensure!(!json, "the results and --json would both go to standard output");
            *self = Self::Error(anstream::stderr());
        }
        Ok(())
    }

    /// Whether colours are seen.
    pub fn is_coloured(&self) -> bool {
        let choice = match self {
            Self::Output(stream) => stream.current_choice(),
            Self::Error(stream) => stream.current_choice(),
        };
        choice != ColorChoice::Never
    }
}

impl Write for Out {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Output(stream) => stream.write(bytes),
            Self::Error(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Output(stream) => stream.flush(),
            Self::Error(stream) => stream.flush(),
        }
    }
}

pub const BOLD: Style = Style::new().bold();
pub const DIM: Style = Style::new().dimmed();
pub const GOOD: Style = AnsiColor::Green.on_default().bold();
pub const BAD: Style = AnsiColor::Red.on_default().bold();
const NOTE: Style = AnsiColor::Cyan.on_default().bold();

/// An error and its causes, as one line on standard error.
pub fn error(error: &anyhow::Error) {
    line("error", BAD, &format!("{error:#}"));
}

/// Something worth knowing that is no result, as one line on standard error.
pub fn note(text: &str) {
    line("note", NOTE, text);
}

fn line(word: &str, style: Style, text: &str) {
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    // Where even standard error is closed, there is nobody left to tell.
    let _ = writeln!(anstream::stderr(), "{style}{word}:{style:#} {text}");
}

/// Prints a value as JSON.
pub fn json(out: &mut Out, value: &impl Serialize) -> anyhow::Result<()> {
    Ok(writeln!(out, "{}", serde_json::to_string_pretty(value)?)?)
}

/// One rule, below the header.
const RULED: TableStyle = TableStyle::new().header_separator(LineStyle::none().fill('─').junction('─'));

/// A table whose columns from `first_number` on are aligned to the right.
pub fn table<const COLUMNS: usize>(
    header: [&str; COLUMNS],
    first_number: usize,
    rows: impl IntoIterator<Item = [String; COLUMNS]>,
) -> Table {
    let mut table = Table::new();
    table.load_style(RULED).set_header(header).add_rows(rows);
    for column in table.column_iter_mut().skip(first_number) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

/// Prints a table, indented.
pub fn print_table(out: &mut Out, table: &Table) -> io::Result<()> {
    table.lines().try_for_each(|line| writeln!(out, "  {}", line.trim_end()))
}

/// A progress bar on standard error, where it is worth showing and that is a terminal.
pub fn progress(what: &'static str, steps: usize, worth_showing: bool) -> ProgressBar {
    let target = if worth_showing { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
    let bar = ProgressBar::with_draw_target(Some(steps as u64), target).with_prefix(what);
    match ProgressStyle::with_template("  {bar:32.cyan/dim} {pos} of {len} {prefix}  {wide_msg:.dim}") {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

/// Shows what a progress bar has come to.
pub fn step(bar: &ProgressBar, name: &str) {
    bar.set_message(name.to_owned());
    bar.inc(1);
}

/// A count with its thousands apart.
pub fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut apart = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            apart.push('\u{202f}');
        }
        apart.push(digit);
    }
    apart
}

/// A size in bytes, in the largest binary unit of which there is at least one.
pub fn bytes(size: u64) -> String {
    scaled(size, 1024.0, &["bytes", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"])
}

/// A number of operations, in the largest unit of which there is at least one.
pub fn operations(number: u64) -> String {
    scaled(number, 1000.0, &["FLOP", "kFLOP", "MFLOP", "GFLOP", "TFLOP", "PFLOP", "EFLOP"])
}

/// A duration, with three digits that count.
pub fn seconds(seconds: f64) -> String {
    engineering(seconds) + "s"
}

/// A number with three digits that count and the prefix of its unit, as in `48.7 G`.
pub fn engineering(number: f64) -> String {
    const PREFIXES: [(f64, &str); 8] =
        [(1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, ""), (1e-3, "m"), (1e-6, "µ"), (1e-9, "n")];
    // 999.5 is 1000 when it is rounded, and the larger unit's 1.00.
    let fits = |(unit, _): &&(f64, &str)| number.abs() >= 0.9995 * unit;
    let (unit, prefix) = PREFIXES.iter().find(fits).unwrap_or(&(1.0, ""));
    let value = number / unit;
    let digits = if value.abs() >= 99.95 { 0 } else { 1 + usize::from(value.abs() < 9.995) };
    format!("{value:.digits$} {prefix}")
}

fn scaled(number: u64, step: f64, units: &[&str]) -> String {
    let (mut value, mut unit) = (number as f64, 0);
    while value >= step && unit + 1 < units.len() {
        value /= step;
        unit += 1;
    }
    // Three digits that count; whole numbers as they are.
    let digits = if value.fract() == 0.0 || value >= 100.0 { 0 } else { 1 + usize::from(value < 10.0) };
    format!("{value:.digits$} {}", units[unit])
}

#[cfg(test)]
mod tests {
    use super::{bytes, count, engineering, operations, seconds};

    #[test]
    fn numbers_are_readable() {
        assert_eq!(count(0), "0");
        assert_eq!(count(1_234_567), "1\u{202f}234\u{202f}567");
        assert_eq!(bytes(512), "512 bytes");
        assert_eq!(bytes(128 << 20), "128 MiB");
        assert_eq!(operations(1_234_567), "1.23 MFLOP");
        assert_eq!(operations(u64::MAX), "18.4 EFLOP");
        assert_eq!(engineering(48.71e9), "48.7 G");
        assert_eq!(engineering(999.6e6), "1.00 G");
        assert_eq!(engineering(9.996), "10.0 ");
        assert_eq!(engineering(0.0), "0.00 ");
        assert_eq!(seconds(0.000_123_4), "123 µs");
        assert_eq!(seconds(2.5), "2.50 s");
    }
}
