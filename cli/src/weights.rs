//! Reading a layer's weights, and opening the files of any. No file is trusted.

use std::path::Path;

use anyhow::{Context, bail};
use double_routing::{Checkpoint, Error, Weights};
use double_routing_common::input::first_non_finite_weight;

use crate::{
    input::refusal,
    kind::{self, Kind},
    source::Source,
};

/// Prefixes that an error lists.
const LISTED: usize = 6;

/// The tensors of safetensors files. What of a mapped file has been copied does not count as memory any more.
pub fn checkpoint(sources: &[Source]) -> anyhow::Result<Checkpoint<'_>> {
    let names: Vec<String> = sources.iter().map(|source| source.path().display().to_string()).collect();
    let files: Vec<(&str, &[u8])> =
        names.iter().map(String::as_str).zip(sources.iter().map(|source| &**source)).collect();
    match Checkpoint::open(&files) {
        Ok(checkpoint) => Ok(checkpoint.on_read(|file, bytes| sources[file].release(bytes))),
        Err(error) => {
            let wrong = files.iter().find_map(|&file| Some((file, Checkpoint::open(&[file]).err()?)));
            let Some(((name, bytes), error)) = wrong else { return Err(error.into()) };
            match kind::of(bytes) {
                // What is wrong with it is known to who reads them.
                None | Some(Kind::Safetensors) => Err(error).with_context(|| name.to_owned()),
                Some(kind) => bail!("{name}: not safetensors: it is {kind}"),
            }
        }
    }
}

/// An error, and what lets pass what it refuses.
pub fn with_way_out(error: Error) -> anyhow::Error {
    match error {
        Error::Unread(_) => anyhow::anyhow!("{error}; --ignore NAME leaves a tensor out"),
        error => error.into(),
    }
}

/// Several prefixes, in quotes: one may be empty.
pub fn listed(prefixes: &[String]) -> String {
    let shown = prefixes.iter().take(LISTED).map(|prefix| format!("'{prefix}'")).collect::<Vec<_>>().join(", ");
    if prefixes.len() > LISTED { format!("{shown}, … ({} in all)", prefixes.len()) } else { shown }
}

/// The weights of a layer and what stands before their names: what the caller says, or what the only layer in the file has. Tensors that are
/// ignored are as if not there.
pub fn read_layer(
    path: &Path,
    prefix: Option<&str>,
    ignored: &[String],
    allow_non_finite: bool,
) -> anyhow::Result<(Weights, String)> {
    let sources = [Source::open(path)?];
    let checkpoint = checkpoint(&sources)?.without(ignored);
    let read = || {
        let prefix = prefix_of(&checkpoint, prefix)?;
        let weights = Weights::from_checkpoint(&checkpoint, &prefix).map_err(with_way_out)?;
        match first_non_finite_weight(&weights, &sources[0], &prefix)?.filter(|_| !allow_non_finite) {
            Some(found) => Err(refusal(&found)),
            None => Ok((weights, prefix)),
        }
    };
    read().with_context(|| path.display().to_string())
}

fn prefix_of(checkpoint: &Checkpoint<'_>, given: Option<&str>) -> anyhow::Result<String> {
    let mut layers = Weights::prefixes(checkpoint);
    let Some(given) = given else {
        return match layers.len() {
            0 => Ok(String::new()),
            1 => Ok(layers.remove(0)),
            _ => bail!("there are several layers; choose by --prefix: {}", listed(&layers)),
        };
    };
    // The last point may be left out.
    let dotted = format!("{given}.");
    Ok(if layers.contains(&dotted) && !layers.iter().any(|layer| layer == given) { dotted } else { given.to_owned() })
}
