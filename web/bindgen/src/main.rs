//! Writes the JavaScript through which the page calls its program: `bindgen PROGRAM.wasm FOLDER`.

use std::path::PathBuf;

use anyhow::Context;
use wasm_bindgen_cli_support::Bindgen;

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args_os().skip(1).map(PathBuf::from);
    let mut next = || arguments.next().context("usage: bindgen PROGRAM.wasm FOLDER");
    let (program, folder) = (next()?, next()?);
    Bindgen::new()
        .input_path(program)
        .web(true)?
        .typescript(false)
        .omit_default_module_path(false)
        .remove_name_section(true)
        .generate(folder)
}
