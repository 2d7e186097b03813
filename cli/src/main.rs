//! The `double-routing` command: runs, checks and demonstrates double routing on any adapter.

mod adapters;
mod bench;
mod canvas;
mod chart;
mod check;
mod demo;
mod evaluate;
mod forward;
mod gpu;
mod growth;
mod input;
mod interrupt;
mod judge;
mod kind;
mod measure;
mod moe;
mod report;
mod save;
mod shader;
mod source;
mod tensors;
mod tune;
mod weights;

use std::{env, io, process::ExitCode};

use clap::{ArgAction, Parser, Subcommand, error::ErrorKind};

/// Two-level routing on any adapter, checked against a CPU reference.
///
/// Exit status: 0 when all is well, 1 when a result is not within its bound, 2 when something could not be done.
#[derive(Debug, Parser)]
#[command(name = "double-routing", version)]
struct Arguments {
    /// Log what the graphics API and the library do; twice for more. RUST_LOG has precedence
    #[arg(short, long, global = true, action = ArgAction::Count)]
    verbose: u8,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List the adapters there are, and which one is taken by default
    Adapters(adapters::Arguments),
    /// Run a layer on a file of inputs
    Forward(forward::Arguments),
    /// Run the router of a mixture of experts on a file of tokens
    #[command(after_long_help = moe::ABOUT_CONFIG, after_help = moe::ABOUT_CONFIG)]
    Route(moe::Arguments),
    /// Run a block of a mixture of experts, its router and its experts, on a file of tokens
    #[command(after_long_help = moe::ABOUT_CONFIG, after_help = moe::ABOUT_CONFIG)]
    Moe(moe::Arguments),
    /// Check every kernel on this machine's adapter against the CPU reference
    Check(check::Arguments),
    /// Measure the kernels on this machine's adapter, and what the adapter could do
    Bench(bench::Arguments),
    /// Measure how the time of a forward grows with each of its sizes
    Growth(growth::Arguments),
    /// Measure which tiles multiply matrices fastest on this machine's adapter, and write them down for --tuning
    Tune(tune::Arguments),
    /// Export a kernel for those without wgpu, in the language of their API, with its interface as JSON
    #[command(after_long_help = shader::ABOUT, after_help = shader::ABOUT)]
    Shader(shader::Arguments),
    /// Tell languages apart with a trained layer, and show which characters decide
    Demo(demo::Arguments),
}

/// What a command that ran to its end found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Passed,
    Failed,
}

impl From<bool> for Verdict {
    fn from(passed: bool) -> Self {
        if passed { Self::Passed } else { Self::Failed }
    }
}

/// Help and the version go where they are expected; what cannot be meant is one line, as all that is refused.
fn not_run(error: &clap::Error) -> ExitCode {
    use ErrorKind::{DisplayHelp, DisplayHelpOnMissingArgumentOrSubcommand, DisplayVersion};
    if matches!(error.kind(), DisplayHelp | DisplayVersion | DisplayHelpOnMissingArgumentOrSubcommand) {
        error.exit();
    }
    let text = error.to_string();
    let of_usage = |part: &&str| part.starts_with("Usage:") || part.starts_with("For more information");
    let parts: Vec<_> = text.split("\n\n").filter(|part| !of_usage(part)).collect();
    report::error(&anyhow::anyhow!("{}; see --help", parts.join("; ").trim_start_matches("error: ").trim_end()));
    ExitCode::from(2)
}

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => return not_run(&error),
    };
    start_logging(arguments.verbose);
    quieten_wayland();
    #[cfg(unix)]
    if let Err(error) = interrupt::watch() {
        log::warn!("signals leave temporary files behind: {error}");
    }
    let mut out = report::Out::new();
    let result = match &arguments.command {
        Command::Adapters(arguments) => adapters::run(arguments, &mut out),
        Command::Forward(arguments) => forward::run(arguments, &mut out),
        Command::Route(arguments) => moe::run(moe::Part::Router, arguments, &mut out),
        Command::Moe(arguments) => moe::run(moe::Part::Block, arguments, &mut out),
        Command::Check(arguments) => check::run(arguments, &mut out),
        Command::Bench(arguments) => bench::run(arguments, &mut out),
        Command::Growth(arguments) => growth::run(arguments, &mut out),
        Command::Tune(arguments) => tune::run(arguments, &mut out),
        Command::Shader(arguments) => shader::run(arguments, &mut out),
        Command::Demo(arguments) => demo::run(arguments, &mut out),
    };
    match result {
        Ok(Verdict::Passed) => ExitCode::SUCCESS,
        Ok(Verdict::Failed) => ExitCode::from(1),
        // Whoever reads has had enough, as in `double-routing demo | head`.
        Err(error) if is_closed_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            report::error(&error);
            ExitCode::from(2)
        }
    }
}

/// Silent by default: whatever matters comes back as an error.
fn start_logging(verbose: u8) {
    let level = match verbose {
        0 => "off",
        1 => "info",
        _ => "debug",
    };
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or(level)).init();
}

/// Mesa's OpenGL looks for a Wayland display even where nothing is to be shown, and Wayland's library complains on standard
/// error where it is not told where to look.
fn quieten_wayland() {
    const FOLDER: &str = "XDG_RUNTIME_DIR";
    if cfg!(target_os = "linux") && env::var_os(FOLDER).is_none() {
        // SAFETY: this is the start of the program; no other thread reads the environment yet.
        unsafe { env::set_var(FOLDER, env::temp_dir()) };
    }
}

fn is_closed_pipe(error: &anyhow::Error) -> bool {
    error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<io::Error>())
        .any(|cause| cause.kind() == io::ErrorKind::BrokenPipe)
}
