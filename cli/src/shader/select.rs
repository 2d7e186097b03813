//! Which of a kernel's variants is meant.

use anyhow::{Context, bail, ensure};
use double_routing::{
    Variant,
    kernels::{ALL, Kernel, Tile},
};

use super::translate::Features;

/// Which variants are meant.
#[derive(Debug, clap::Args)]
pub struct Selection {
    /// Only variants in which these names have these values
    #[arg(value_name = "NAME=VALUE", requires = "kernel")]
    names: Vec<String>,
    /// Only the variant of this name, or those with this in their name
    #[arg(long, value_name = "TEXT", requires = "kernel")]
    variant: Option<String>,
    /// Only variants with this tile
    #[arg(long, value_name = "TILE", requires = "kernel")]
    tile: Option<String>,
}

/// A variant, and the names and values it consists of.
#[derive(Debug, Clone)]
pub struct Named {
    pub variant: Variant,
    /// All of it, as it is written.
    pub text: String,
    pub values: Vec<(String, String)>,
}

impl From<Variant> for Named {
    fn from(variant: Variant) -> Self {
        let text = variant.to_string();
        let pair = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
        let values = text.split(' ').filter_map(|word| word.split_once('=')).map(pair).collect();
        Self { variant, text, values }
    }
}

impl Named {
    pub fn value(&self, name: &str) -> Option<&str> {
        self.values.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// How far from what fits most devices and most callers: what it needs of the device, then the additions it has, the
    /// storage types that must be unpacked, and the operands that are read element by element.
    fn plainness(&self) -> [usize; 4] {
        let Features { subgroups, int64, matrices, .. } = Features::of(&self.variant);
        let count =
            |what: &dyn Fn(&str, &str) -> bool| self.values.iter().filter(|(name, value)| what(name, value)).count();
        [
            usize::from(subgroups) + usize::from(int64) + usize::from(matrices),
            count(&|_, value| value == "true"),
            count(&|name, value| name.ends_with("_TYPE") && value != "f32"),
            count(&|name, value| name.ends_with("_ACCESS") && value != "quads"),
        ]
    }

    /// The names and values that say what is computed, not how it is shared out.
    fn meaning(&self) -> Vec<&(String, String)> {
        const HOW: [&str; 3] = ["LANES_BY", "TILE_SOURCE", "TILE_MATRIX"];
        let word = |value: &str| value.parse::<u32>().is_err() && value.parse::<bool>().is_err();
        let storage = |name: &str| name.ends_with("_TYPE") || name.ends_with("_ACCESS");
        let means = |(name, value): &&(String, String)| word(value) && !storage(name) && !HOW.contains(&name.as_str());
        self.values.iter().filter(means).collect()
    }
}

/// The kernel of this name.
pub fn kernel(name: &str) -> anyhow::Result<&'static Kernel> {
    ALL.iter().copied().find(|kernel| kernel.name() == name).with_context(|| {
        let names: Vec<_> = ALL.iter().map(|kernel| kernel.name()).collect();
        format!("no kernel is called {name}; there are {}", names.join(", "))
    })
}

/// The names of a kernel's variants, and the values each of them takes, in the order of their first appearance.
pub fn choices(variants: &[Named]) -> Vec<(String, Vec<String>)> {
    let mut choices: Vec<(String, Vec<String>)> = Vec::new();
    for (name, value) in variants.iter().flat_map(|variant| &variant.values) {
        match choices.iter_mut().find(|(known, _)| known == name) {
            Some((_, values)) if values.contains(value) => {}
            Some((_, values)) => values.push(value.clone()),
            None => choices.push((name.clone(), vec![value.clone()])),
        }
    }
    for (_, values) in &mut choices {
        // Numbers by size, words by name.
        values.sort_by_cached_key(|value| (value.parse::<u32>().ok(), value.clone()));
    }
    choices
}

impl Selection {
    /// The variants of a kernel that are meant: one at least.
    pub fn of(&self, kernel: &Kernel) -> anyhow::Result<Vec<Named>> {
        let mut variants: Vec<Named> = kernel.variants().into_iter().map(Named::from).collect();
        if let Some(tile) = &self.tile {
            let wanted = tile_of(kernel, tile)?;
            variants = narrow(kernel, variants, &format!("--tile '{tile}'"), |variant| wanted.is_of(&variant.variant))?;
        }
        for word in &self.names {
            let (name, value) = word.split_once('=').with_context(|| format!("'{word}' is not NAME=VALUE"))?;
            let choices = choices(&variants);
            let Some((name, values)) = choices.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)) else {
                let names: Vec<_> = choices.iter().map(|(name, _)| name.as_str()).collect();
                bail!("{} has no name {name} here; its names are {}", kernel.name(), names.join(", "));
            };
            ensure!(
                values.iter().any(|known| known == value),
                "{}: {name} is {} here, not {value}",
                kernel.name(),
                alternatives(values)
            );
            variants.retain(|variant| variant.value(name) == Some(value));
        }
        if let Some(text) = &self.variant {
            let whole = variants.iter().position(|variant| variant.text == *text);
            variants = match whole {
                Some(whole) => vec![variants.swap_remove(whole)],
                None => {
                    narrow(kernel, variants, &format!("--variant '{text}'"), |variant| variant.text.contains(text))?
                }
            };
        }
        Ok(variants)
    }

    /// The one variant that is meant. What is left open is taken as it fits most devices and callers; where that leaves open
    /// what is computed, it is refused.
    pub fn one(&self, kernel: &Kernel) -> anyhow::Result<One> {
        let variants = self.of(kernel)?;
        let fit = variants.len();
        let plainest = variants.iter().map(Named::plainness).min().unwrap_or_default();
        let mut plain: Vec<Named> = variants.into_iter().filter(|variant| variant.plainness() == plainest).collect();
        for (name, values) in choices(&plain) {
            let open = plain.iter().any(|variant| variant.meaning().iter().any(|(known, _)| *known == name));
            if open && values.len() > 1 {
                let each: Vec<_> = values.iter().map(|value| format!("{name}={value}")).collect();
                bail!("{}: {fit} variants fit; choose {}", kernel.name(), alternatives(&each));
            }
        }
        ensure!(!plain.is_empty(), "{}: no variant fits", kernel.name());
        Ok(One { chosen: plain.swap_remove(0), fit })
    }
}

/// A variant, chosen from so many that fit.
#[derive(Debug)]
pub struct One {
    pub chosen: Named,
    pub fit: usize,
}

fn narrow(
    kernel: &Kernel,
    mut variants: Vec<Named>,
    by: &str,
    keep: impl Fn(&Named) -> bool,
) -> anyhow::Result<Vec<Named>> {
    let before: Vec<String> =
        choices(&variants).into_iter().filter(|(_, values)| values.len() > 1).map(|(name, _)| name).collect();
    variants.retain(|variant| keep(variant));
    ensure!(
        !variants.is_empty(),
        "{} has no variant for {by}; its variants differ in {}",
        kernel.name(),
        before.join(", ")
    );
    Ok(variants)
}

/// The tile of this name, for a kernel that has tiles.
fn tile_of(kernel: &Kernel, tile: &str) -> anyhow::Result<Tile> {
    let known: Vec<_> = Tile::all().map(|tile| format!("'{tile}'")).collect();
    let parsed =
        tile.parse().ok().with_context(|| format!("--tile '{tile}' is none of the tiles {}", known.join(", ")))?;
    let has_tiles = kernel.variants().first().is_some_and(|variant| variant.to_string().contains("TILE_SOURCE="));
    ensure!(has_tiles, "--tile is for kernels with a tile product, and {} has none", kernel.name());
    Ok(parsed)
}

/// `a`, `a or b`, `a, b or c`.
fn alternatives(values: &[String]) -> String {
    match values {
        [] => "nothing".into(),
        [one] => one.clone(),
        [first @ .., last] => format!("{} or {last}", first.join(", ")),
    }
}
