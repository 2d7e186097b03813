//! Files that are whole or not there: written under another name in the same folder, then renamed. What cannot be replaced, a pipe or
//! a device, is written to when all is known.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Seek, Write},
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use tempfile::NamedTempFile;

use crate::interrupt::{self, Temporary};

/// A file that takes its place only when it is complete; until then, whatever is there stays.
#[derive(Debug)]
pub struct Destination {
    name: String,
    to: To,
}

#[derive(Debug)]
enum To {
    /// A file of this path, which is no link.
    Path(PathBuf, NamedTempFile, Temporary),
    Opened(Sink, File),
}

/// What is written to as it is.
#[derive(Debug)]
enum Sink {
    StandardOutput,
    /// A pipe or a device.
    Other(File),
}

impl Destination {
    /// Finds out early whether the file can be written at all. `-` is standard output.
    pub fn new(path: &Path) -> anyhow::Result<Self> {
        let name = path.display().to_string();
        let to = Self::to(path).with_context(|| format!("cannot write {name}"))?;
        Ok(Self { name, to })
    }

    fn to(path: &Path) -> anyhow::Result<To> {
        let sink = match Place::of(path)? {
            Place::File(path) => return replacement(path),
            Place::StandardOutput => Sink::StandardOutput,
            Place::Other(path) => Sink::Other(OpenOptions::new().write(true).open(path)?),
        };
        Ok(To::Opened(sink, tempfile::tempfile()?))
    }

    /// Whether it goes where reports go.
    pub fn is_standard_output(&self) -> bool {
        matches!(self.to, To::Opened(Sink::StandardOutput, _))
    }

    /// The file to write to.
    pub fn file(&mut self) -> &mut File {
        match &mut self.to {
            To::Path(_, file, _) => file.as_file_mut(),
            To::Opened(_, file) => file,
        }
    }

    /// Puts the file in its place.
    pub fn commit(self) -> anyhow::Result<()> {
        let Self { name, to } = self;
        let done = match to {
            To::Path(path, file, temporary) => temporary.end(|| file.persist(&path).map(drop).map_err(io::Error::from)),
            To::Opened(Sink::StandardOutput, file) => copy(file, &mut io::stdout().lock()),
            To::Opened(Sink::Other(mut sink), file) => copy(file, &mut sink),
        };
        done.with_context(|| format!("cannot write {name}"))
    }
}

fn copy(mut file: File, sink: &mut dyn Write) -> io::Result<()> {
    file.rewind()?;
    io::copy(&mut file, sink)?;
    sink.flush()
}

/// A file that will be what is now at this path, with the same owner and rights.
fn replacement(path: PathBuf) -> anyhow::Result<To> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut builder = tempfile::Builder::new();
    builder.prefix(".double-routing-");
    // The usual rights of a new file instead of the owner's alone; the umask applies.
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    let (file, temporary) = interrupt::temporary(|| builder.tempfile_in(folder))?;
    if path.exists() {
        // A rename asks for no right to write to what it replaces.
        let there = OpenOptions::new().write(true).open(&path)?.metadata()?;
        #[cfg(unix)]
        keep(&there, file.as_file())?;
        #[cfg(not(unix))]
        file.as_file().set_permissions(there.permissions())?;
    }
    Ok(To::Path(path, file, temporary))
}

/// Gives a new file the owner and the rights of the one that it replaces.
#[cfg(unix)]
fn keep(there: &fs::Metadata, file: &File) -> anyhow::Result<()> {
    use std::os::unix::fs::{MetadataExt, fchown};
    let links = there.nlink();
    if links > 1 {
        bail!("it has {links} names (hard links), of which the others would keep what it is now");
    }
    let own = file.metadata()?;
    if (own.uid(), own.gid()) != (there.uid(), there.gid()) {
        let owner = || format!("it is of user {} and group {}, which cannot be kept", there.uid(), there.gid());
        fchown(file, Some(there.uid()), Some(there.gid())).with_context(owner)?;
    }
    file.set_permissions(there.permissions())?;
    Ok(())
}

/// Where a path leads.
#[derive(Debug, PartialEq, Eq)]
enum Place {
    /// A file that is there or can be; no link.
    File(PathBuf),
    StandardOutput,
    Other(PathBuf),
}

/// Links to links beyond which a path leads nowhere, as Linux has it.
const LINKS: usize = 40;

impl Place {
    fn of(path: &Path) -> anyhow::Result<Self> {
        if path == Path::new("-") {
            return Ok(Self::StandardOutput);
        }
        match fs::metadata(path) {
            Ok(there) if there.is_dir() => bail!("it is a folder"),
            Ok(there) if is_standard_output(&there) => Ok(Self::StandardOutput),
            Ok(there) if there.is_file() => Ok(Self::File(fs::canonicalize(path)?)),
            Ok(_) => Ok(Self::Other(path.into())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Self::new_file(path),
            Err(error) => Err(error.into()),
        }
    }

    /// What is to come at the end of a path where nothing is, links that lead to nothing included.
    fn new_file(path: &Path) -> anyhow::Result<Self> {
        let mut path = path.to_owned();
        for _ in 0..LINKS {
            let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
            let folder = fs::canonicalize(folder)?;
            let Ok(target) = fs::read_link(&path) else {
                let name = path.file_name().context("it names no file")?;
                return Ok(Self::File(folder.join(name)));
            };
            path = folder.join(target);
        }
        bail!("its links lead nowhere")
    }
}

#[cfg(unix)]
fn is_standard_output(there: &fs::Metadata) -> bool {
    use std::os::{
        fd::AsFd,
        unix::fs::{FileTypeExt, MetadataExt},
    };
    let own = io::stdout().as_fd().try_clone_to_owned().and_then(|fd| File::from(fd).metadata());
    // Nothing gets into each other's way in one such as /dev/null.
    let is_device =
        |about: &fs::Metadata| about.file_type().is_char_device() && !io::IsTerminal::is_terminal(&io::stdout());
    own.is_ok_and(|own| (own.dev(), own.ino()) == (there.dev(), there.ino()) && !is_device(&own))
}

#[cfg(not(unix))]
fn is_standard_output(_: &fs::Metadata) -> bool {
    false
}

/// Refuses files to be written that are files to be read, or each other. Both are with the options that name them.
pub fn apart(read: &[(&str, &Path)], written: &[(&str, &Path)]) -> anyhow::Result<()> {
    // Where each leads; what leads nowhere is refused when it is opened.
    let file = |path: &Path| match Place::of(path) {
        Ok(Place::File(path)) => Some(Ok(path)),
        Ok(Place::StandardOutput) => Some(Err(())),
        Ok(Place::Other(_)) | Err(_) => None,
    };
    for (at, (option, path)) in written.iter().enumerate() {
        let Some(own) = file(path) else { continue };
        let is_same = |(_, other): &&(&str, &Path)| {
            file(other).is_some_and(|other| match (&other, &own) {
                (Ok(other), Ok(own)) => same(other, own),
                (Err(()), Err(())) => true,
                _ => false,
            })
        };
        // Reading from `-` is reading a file of that name.
        let clash = read.iter().filter(|_| own.is_ok()).chain(&written[..at]).find(is_same);
        if let Some((other, other_path)) = clash {
            bail!("{option} {} is the same file as {other} {}", path.display(), other_path.display());
        }
    }
    Ok(())
}

/// Whether two paths are one file.
fn same(a: &Path, b: &Path) -> bool {
    #[cfg(unix)]
    if let (Ok(a), Ok(b)) = (fs::metadata(a), fs::metadata(b)) {
        use std::os::unix::fs::MetadataExt;
        return (a.dev(), a.ino()) == (b.dev(), b.ino());
    }
    a == b
}
