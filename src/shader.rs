//! From a kernel's WGSL file to the WGSL of one variant.
//!
//! The files in `shaders/` are WGSL that an editor can open. Lines that start with `//#` are the only addition:
//!
//! - `//#import lib/grid` puts a file of `shaders/lib/` in its place; `//#import lib/load a` does so with `a` for OPERAND;
//! - `//#if NAME`, `//#if !NAME`, `//#if NAME == value`, `//#if NAME != value`, joined by `||`, then `//#else`, `//#endif`; a
//!   value is a word or a number;
//! - `//#for I in NAME` repeats the lines up to `//#endfor` with the word I standing for 0u, 1u, … below the number NAME: an
//!   array that is indexed by constants only can live in registers.
//!
//! A number is chosen by replacing the value of its declaration, `const NAME: u32 = 8u;`.

use std::fmt::Write as _;

use crate::{Error, Result};

const LIBRARY: &[(&str, &str)] = &[
    ("lib/grid", include_str!("../shaders/lib/grid.wgsl")),
    ("lib/half", include_str!("../shaders/lib/half.wgsl")),
    ("lib/group", include_str!("../shaders/lib/group.wgsl")),
    ("lib/lanes", include_str!("../shaders/lib/lanes.wgsl")),
    ("lib/load", include_str!("../shaders/lib/load.wgsl")),
    ("lib/octets", include_str!("../shaders/lib/octets.wgsl")),
    ("lib/optional", include_str!("../shaders/lib/optional.wgsl")),
    ("lib/store", include_str!("../shaders/lib/store.wgsl")),
    ("lib/subgroup", include_str!("../shaders/lib/subgroup.wgsl")),
    ("lib/texels", include_str!("../shaders/lib/texels.wgsl")),
    ("lib/tile", include_str!("../shaders/lib/tile.wgsl")),
    ("lib/words", include_str!("../shaders/lib/words.wgsl")),
];

/// What a name in a shader stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Value {
    Flag(bool),
    Number(u32),
    Word(&'static str),
}

/// One way to specialise a kernel: a value for each of its names.
///
/// ```
/// let kernel = &double_routing::kernels::SOFTMAX;
/// let variant = &kernel.variants()[0];
/// assert!(kernel.wgsl(variant)?.contains("fn main("));
/// println!("{variant}");
/// # Ok::<(), double_routing::Error>(())
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Variant(Vec<(&'static str, Value)>);

impl Variant {
    pub(crate) fn flag(mut self, name: &'static str, value: bool) -> Self {
        self.0.push((name, Value::Flag(value)));
        self
    }

    pub(crate) fn number(mut self, name: &'static str, value: u32) -> Self {
        self.0.push((name, Value::Number(value)));
        self
    }

    pub(crate) fn word(mut self, name: &'static str, value: &'static str) -> Self {
        self.0.push((name, Value::Word(value)));
        self
    }

    fn get(&self, name: &str) -> Option<Value> {
        self.0.iter().find(|(known, _)| *known == name).map(|&(_, value)| value)
    }

    pub(crate) fn get_number(&self, name: &str) -> Option<u32> {
        match self.get(name) {
            Some(Value::Number(number)) => Some(number),
            _ => None,
        }
    }

    /// Whether every name of the other has the same value here.
    pub(crate) fn contains(&self, other: &Self) -> bool {
        other.0.iter().all(|(name, value)| self.get(name) == Some(*value))
    }

    /// Whether a condition of the `//#if` language holds.
    pub(crate) fn holds(&self, condition: &str) -> Result<bool> {
        for term in condition.split("||") {
            let term = term.trim();
            let (name, holds) = if let Some((name, value)) = term.split_once("==") {
                (name.trim(), self.value_is(name.trim(), value.trim()))
            } else if let Some((name, value)) = term.split_once("!=") {
                (name.trim(), self.value_is(name.trim(), value.trim()).map(|is| !is))
            } else if let Some(name) = term.strip_prefix('!') {
                (name, self.flag_is(name).map(|is| !is))
            } else {
                (term, self.flag_is(term))
            };
            if holds.ok_or_else(|| Error::Gpu(format!("shader: nothing says what {name} is in {self}")))? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn flag_is(&self, name: &str) -> Option<bool> {
        match self.get(name)? {
            Value::Flag(flag) => Some(flag),
            _ => None,
        }
    }

    fn value_is(&self, name: &str, value: &str) -> Option<bool> {
        match self.get(name)? {
            Value::Word(known) => Some(known == value),
            Value::Number(known) => value.parse().ok().map(|number: u32| known == number),
            Value::Flag(_) => None,
        }
    }
}

impl std::fmt::Display for Variant {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (index, (name, value)) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str(" ")?;
            }
            match value {
                Value::Flag(flag) => write!(f, "{name}={flag}")?,
                Value::Number(number) => write!(f, "{name}={number}")?,
                Value::Word(word) => write!(f, "{name}={word}")?,
            }
        }
        Ok(())
    }
}

/// The WGSL of `source` under `variant`.
pub(crate) fn assemble(source: &str, variant: &Variant) -> Result<String> {
    let mut wgsl = String::with_capacity(source.len() * 3);
    append(&mut wgsl, source, variant)?;
    Ok(wgsl)
}

fn append(wgsl: &mut String, source: &str, variant: &Variant) -> Result<()> {
    // For each open #if: whether its lines, and those around it, are kept.
    let mut kept = vec![true];
    let unbalanced = || Error::Gpu("shader: #else, #endif or #endfor without its beginning".into());
    let mut lines = source.lines();
    while let Some(line) = lines.next() {
        let keep = *kept.last().ok_or_else(unbalanced)?;
        if let Some(condition) = line.strip_prefix("//#if ") {
            kept.push(keep && variant.holds(condition)?);
        } else if line == "//#else" {
            let own = kept.pop().ok_or_else(unbalanced)?;
            let around = *kept.last().ok_or_else(unbalanced)?;
            kept.push(around && !own);
        } else if line == "//#endif" {
            kept.pop().ok_or_else(unbalanced)?;
        } else if let Some(counter) = line.strip_prefix("//#for ") {
            let body = repeated_lines(&mut lines)?;
            if keep {
                let (word, count) = counter.split_once(" in ").ok_or_else(unbalanced)?;
                let count = variant
                    .get_number(count)
                    .ok_or_else(|| Error::Gpu(format!("shader: nothing says what {count} is in {variant}")))?;
                for value in 0..count {
                    append(wgsl, &replace_word(&body, word, &format!("{value}u")), variant)?;
                }
            }
        } else if let Some(import) = line.strip_prefix("//#import ") {
            if keep {
                let (file, operand) = import.split_once(' ').unwrap_or((import, ""));
                let text = LIBRARY
                    .iter()
                    .find(|(name, _)| *name == file)
                    .map(|(_, text)| text.replace("OPERAND", operand))
                    .ok_or_else(|| Error::Gpu(format!("shader: no file {file}")))?;
                append(wgsl, &text, variant)?;
            }
        } else if line == "//#endfor" {
            return Err(unbalanced());
        } else if keep {
            match number_declared(line).and_then(|name| Some((name, number(variant, name)?))) {
                Some((name, number)) => writeln!(wgsl, "const {name}: u32 = {number}u;"),
                None => writeln!(wgsl, "{line}"),
            }
            .map_err(|_| Error::Gpu("shader: formatting".into()))?;
        }
    }
    if kept.len() == 1 { Ok(()) } else { Err(Error::Gpu("shader: #if without #endif".into())) }
}

/// The lines up to the `//#endfor` that belongs to a `//#for` already read.
fn repeated_lines<'a>(lines: &mut impl Iterator<Item = &'a str>) -> Result<String> {
    let mut body = String::new();
    let mut open = 1;
    for line in lines {
        if line.starts_with("//#for ") {
            open += 1;
        } else if line == "//#endfor" {
            open -= 1;
            if open == 0 {
                return Ok(body);
            }
        }
        body.push_str(line);
        body.push('\n');
    }
    Err(Error::Gpu("shader: #for without #endfor".into()))
}

/// `text` with every whole word `word` replaced.
fn replace_word(text: &str, word: &str, replacement: &str) -> String {
    let mut replaced = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(word) {
        let (before, behind) = (&rest[..at], &rest[at + word.len()..]);
        let inside = |character: char| character.is_alphanumeric() || character == '_';
        let whole = !before.ends_with(inside) && !behind.starts_with(inside);
        replaced.push_str(before);
        replaced.push_str(if whole { replacement } else { word });
        rest = behind;
    }
    replaced.push_str(rest);
    replaced
}

/// The value that the host gives a number: the variant's, or one that all kernels share.
fn number(variant: &Variant, name: &str) -> Option<u32> {
    match name {
        "GRID_WIDTH" => Some(crate::step::GRID_WIDTH),
        "TEXELS_WIDTH" => Some(crate::tensor::TEXELS_WIDTH),
        _ => variant.get_number(name),
    }
}

fn number_declared(line: &str) -> Option<&str> {
    line.strip_prefix("const ")?.split_once(": u32 = ").map(|(name, _)| name)
}
