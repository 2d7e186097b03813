//! `shader`: a kernel for people without wgpu: one variant, in the language of their API, with its interface as JSON.

mod describe;
#[cfg(test)]
mod every;
#[cfg(test)]
mod metal;
mod select;
mod translate;

use std::{
    fs,
    io::{self, IsTerminal, Write},
    path::{Path, PathBuf},
    sync::atomic::{AtomicUsize, Ordering},
};

use anyhow::{Context, ensure};
use double_routing::kernels::{ALL, Kernel};

use self::{
    describe::Description,
    select::{Named, One, Selection, choices},
    translate::{Features, Language, Shader, Target},
};
use crate::{
    Verdict, interrupt,
    report::{self, BOLD, DIM, Out},
    save::{self, Destination},
};

pub const ABOUT: &str = "\
Without --target, lists the kernels, or a kernel's variants. A variant has a value for each of the kernel's names; what is
left open is taken as it fits most devices: no subgroups, no 64-bit integers, no additions, f32, operands in quads.

The JSON beside a shader says how to bind and dispatch it: entry point, workgroup size, every buffer's name, access,
element type and place in the target's numbering, the fields of the parameters, and what the device must have. Shaders are
translated by naga with the options that wgpu has for them: bounds checks, no guard against endless loops, workgroup memory
not zeroed. How the parameters follow from shapes is in the library's sources, in src/kernels.

  double-routing shader softmax STAGE=whole --target msl --output softmax.metal
  double-routing shader matmul --tile 'shared 16x16 8x2 16 2' B_TRANSPOSED=true --target spirv --output matmul.spv
  double-routing shader --all --target hlsl --output shaders/";

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Only this kernel
    kernel: Option<String>,
    #[command(flatten)]
    selection: Selection,
    /// The language to translate to
    #[arg(long, value_enum)]
    target: Option<Target>,
    /// The version of the language; by default, the lowest that has all that the shaders use
    #[arg(long, value_name = "VERSION", requires = "target")]
    language: Option<String>,
    /// Leave it to a Vulkan device with robustBufferAccess2 to check accesses to buffers, as wgpu does where there is one
    #[arg(long, requires = "target")]
    robust_buffers: bool,
    /// Where the shader goes, instead of standard output; with --all, the folder, which may not have anything in it
    #[arg(long, value_name = "FILE", requires = "target")]
    output: Option<PathBuf>,
    /// Where its interface goes, as JSON; by default beside the output
    #[arg(long, value_name = "FILE", requires = "target")]
    bindings: Option<PathBuf>,
    /// All variants that fit, of all kernels where none is named: into a folder, or without --target their names
    #[arg(long)]
    all: bool,
    /// With --all, each N-th variant of each kernel
    #[arg(long, value_name = "N", requires = "all", default_value = "1")]
    every: std::num::NonZeroUsize,
}

pub fn run(arguments: &Arguments, out: &mut Out) -> anyhow::Result<Verdict> {
    let kernels = match &arguments.kernel {
        Some(name) => vec![select::kernel(name)?],
        None => ALL.to_vec(),
    };
    let language = arguments
        .target
        .map(|target| Language::new(target, arguments.language.as_deref(), arguments.robust_buffers))
        .transpose()?;
    match (language, kernels.as_slice()) {
        (Some(language), _) if arguments.all => write_all(arguments, language, &kernels)?,
        (None, _) if arguments.all => {
            for (kernel, variant) in all(arguments, &kernels)?.iter().flatten() {
                writeln!(out, "{} {}", kernel.name(), variant.text)?;
            }
        }
        (Some(language), [kernel]) => write_one(arguments, language, kernel)?,
        (None, [kernel]) => list_variants(arguments, kernel, out)?,
        (Some(_), kernels) => {
            let names: Vec<_> = kernels.iter().map(|kernel| kernel.name()).collect();
            anyhow::bail!("--target is for one kernel, or with --all for every one; there are {}", names.join(", "));
        }
        (None, kernels) => list_kernels(kernels, out)?,
    }
    Ok(Verdict::Passed)
}

fn list_kernels(kernels: &[&Kernel], out: &mut Out) -> anyhow::Result<()> {
    let rows = kernels.iter().map(|kernel| [kernel.name().to_owned(), report::count(kernel.variants().len() as u64)]);
    report::print_table(out, &report::table(["kernel", "variants"], 1, rows))?;
    Ok(writeln!(out, "{DIM}double-routing shader KERNEL lists a kernel's variants{DIM:#}")?)
}

/// More than these, and only their names and values are listed.
const A_SCREENFUL: usize = 24;

fn list_variants(arguments: &Arguments, kernel: &Kernel, out: &mut Out) -> anyhow::Result<()> {
    let variants = arguments.selection.of(kernel)?;
    let rows = choices(&variants).into_iter().map(|(name, values)| [name, values.join("  ")]);
    report::print_table(out, &report::table(["name", "values"], 2, rows))?;
    let count = report::count(variants.len() as u64);
    let plural = if variants.len() == 1 { "variant" } else { "variants" };
    writeln!(out, "{BOLD}{} has {count} {plural} with these{BOLD:#}", kernel.name())?;
    if variants.len() > A_SCREENFUL {
        writeln!(out, "{DIM}NAME=VALUE, --tile and --variant narrow them down; --all lists every one{DIM:#}")?;
    } else {
        variants.iter().try_for_each(|variant| writeln!(out, "  {}", variant.text))?;
    }
    Ok(())
}

/// A shader, and its interface.
fn export(kernel: &'static Kernel, variant: &Named, language: Language) -> anyhow::Result<(Vec<u8>, Description)> {
    let about = || format!("{} {}", kernel.name(), variant.text);
    let shader = Shader::new(kernel, &variant.variant).with_context(about)?;
    let mut translation = shader.translate(language).with_context(about)?;
    let code = std::mem::take(&mut translation.code);
    let description = Description::new(kernel, variant, language, &shader, translation).with_context(about)?;
    Ok((code, description))
}

fn write_one(arguments: &Arguments, language: Language, kernel: &'static Kernel) -> anyhow::Result<()> {
    let One { chosen, fit } = arguments.selection.one(kernel)?;
    let output = arguments.output.as_ref().filter(|output| **output != Path::new("-"));
    let beside = output.map(|output| output.with_extension("json"));
    let bindings = arguments.bindings.as_ref().or(beside.as_ref());
    let written: Vec<_> = [("--output", output), ("--bindings", bindings)]
        .into_iter()
        .filter_map(|(option, path)| Some((option, &**path?)))
        .collect();
    save::apart(&[], &written)?;
    let to_screen = output.is_none() && io::stdout().is_terminal();
    ensure!(!(language.target == Target::Spirv && to_screen), "SPIR-V is no text; name an --output");

    let (code, description) = export(kernel, &chosen, language)?;
    let mut files = Vec::new();
    for (path, bytes) in [(output, code.clone()), (bindings, json_bytes(&description)?)] {
        if let Some(path) = path {
            let mut destination = Destination::new(path)?;
            destination.file().write_all(&bytes).with_context(|| format!("cannot write {}", path.display()))?;
            files.push(destination);
        }
    }
    files.into_iter().try_for_each(Destination::commit)?;
    if output.is_none() {
        // Not through the stream that takes colours out, which would take bytes out.
        io::stdout().write_all(&code)?;
        io::stdout().flush()?;
    }
    if fit > 1 {
        report::note(&format!("of {fit} variants that fit, this is {} {}", kernel.name(), chosen.text));
    }
    Ok(())
}

fn json_bytes(description: &Description) -> anyhow::Result<Vec<u8>> {
    let mut bytes = serde_json::to_vec_pretty(description)?;
    bytes.push(b'\n');
    Ok(bytes)
}

/// The variants that fit, kernel by kernel.
fn all(arguments: &Arguments, kernels: &[&'static Kernel]) -> anyhow::Result<Vec<Vec<(&'static Kernel, Named)>>> {
    let of = |kernel: &&'static Kernel| {
        let variants = arguments.selection.of(kernel)?;
        Ok(variants.into_iter().map(|variant| (*kernel, variant)).step_by(arguments.every.get()).collect())
    };
    kernels.iter().map(of).collect()
}

fn write_all(arguments: &Arguments, language: Language, kernels: &[&'static Kernel]) -> anyhow::Result<()> {
    let output = arguments.output.as_ref().context("--all with --target needs a folder as --output")?;
    ensure!(arguments.bindings.is_none(), "--bindings is for one variant; with --all they go beside the shaders");
    let is_empty = !output.exists() || fs::read_dir(output).is_ok_and(|mut entries| entries.next().is_none());
    ensure!(is_empty, "cannot write to {}: it is no empty folder", output.display());
    let around = output.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let written = || format!("cannot write to {}", output.display());
    // Whole or not there: renamed when all are in it.
    let make = || tempfile::Builder::new().prefix(".double-routing-").tempdir_in(around);
    let (folder, temporary) = interrupt::temporary(make).with_context(written)?;

    let mut work = Vec::new();
    let mut left_out = Vec::new();
    for variants in all(arguments, kernels)? {
        for (number, (kernel, variant)) in variants.into_iter().enumerate() {
            match language.target.lacks(Features::of(&variant.variant)) {
                Some(reason) => left_out.push(reason),
                None => work.push((kernel, number * arguments.every.get(), variant)),
            }
        }
    }
    let bar = report::progress("shaders", work.len(), true);
    let next = AtomicUsize::new(0);
    let (_, ending) = language.target.names();
    let write_some = || {
        while let Some((kernel, number, variant)) = work.get(next.fetch_add(1, Ordering::Relaxed)) {
            report::step(&bar, kernel.name());
            let (code, description) = export(kernel, variant, language)?;
            let file = |ending| folder.path().join(format!("{}-{number:05}.{ending}", kernel.name()));
            fs::write(file(ending), code).with_context(written)?;
            fs::write(file("json"), json_bytes(&description)?).with_context(written)?;
        }
        anyhow::Ok(())
    };
    std::thread::scope(|threads| {
        let both = [threads.spawn(write_some), threads.spawn(write_some)];
        both.into_iter().try_for_each(|thread| match thread.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        })
    })?;
    bar.finish_and_clear();
    if output.exists() {
        fs::remove_dir(output).with_context(written)?;
    }
    readable(folder.path()).and_then(|()| temporary.end(|| fs::rename(folder.path(), output))).with_context(written)?;
    left_out.sort_unstable();
    for reasons in left_out.chunk_by(|one, other| one == other) {
        report::note(&format!("left out: {} variants with {}", reasons.len(), reasons[0]));
    }
    Ok(())
}

/// Gives a folder that was temporary, and so the owner's alone, the usual rights.
fn readable(folder: &Path) -> io::Result<()> {
    #[cfg(unix)]
    fs::set_permissions(folder, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    let _ = folder;
    Ok(())
}
