//! Files that are whole or not there: written under another name in the same folder, then renamed.

use std::{
    fs::File,
    path::{Path, PathBuf},
};

use anyhow::{Context, ensure};
use tempfile::NamedTempFile;

/// A file that takes its place only when it is complete; until then, whatever is there stays.
#[derive(Debug)]
pub struct Destination {
    path: PathBuf,
    file: NamedTempFile,
}

impl Destination {
    /// Finds out early whether the file can be written at all.
    pub fn new(path: &Path) -> anyhow::Result<Self> {
        // A rename would put a regular file in the place of a folder or a device.
        ensure!(path.is_file() || !path.exists(), "cannot write {}: it is no regular file", path.display());
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let mut builder = tempfile::Builder::new();
        builder.prefix(".double-routing-");
        // The usual rights of a new file instead of the owner's alone; the umask applies.
        #[cfg(unix)]
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
        let file = builder.tempfile_in(folder).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(Self { path: path.into(), file })
    }

    /// The file to write to.
    pub fn file(&mut self) -> &mut File {
        self.file.as_file_mut()
    }

    /// Puts the file in its place.
    pub fn commit(self) -> anyhow::Result<()> {
        let Self { path, file } = self;
        file.persist(&path).map(drop).with_context(|| format!("cannot write {}", path.display()))
    }
}
