//! Files as bytes. A regular file is mapped, so that only what is used of it is read, whatever its size.

use std::{
    fs::File,
    io::Read,
    ops::{Deref, Range},
    path::{Path, PathBuf},
};

use anyhow::{Context, ensure};
use memmap2::Mmap;

/// The bytes of a file.
#[derive(Debug)]
pub struct Source {
    path: PathBuf,
    bytes: Bytes,
}

#[derive(Debug)]
enum Bytes {
    Mapped(Mmap),
    /// Of a pipe, say.
    Read(Vec<u8>),
}

impl Source {
    /// Opens a file.
    pub fn open(path: &Path) -> anyhow::Result<Self> {
        let bytes = Self::bytes_of(path).with_context(|| format!("cannot read {}", path.display()))?;
        Ok(Self { path: path.into(), bytes })
    }

    fn bytes_of(path: &Path) -> anyhow::Result<Bytes> {
        let mut file = File::open(path)?;
        let about = file.metadata()?;
        ensure!(!about.is_dir(), "it is a folder");
        // Files of the system that are made when they are read say that they are empty.
        if about.is_file() && about.len() > 0 {
            // SAFETY: the bytes are only read, and trusted no more than those of any file: whoever changes the file meanwhile changes
            // what is computed. One that is cut short ends the process.
            return Ok(Bytes::Mapped(unsafe { Mmap::map(&file)? }));
        }
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(Bytes::Read(bytes))
    }

    /// Where it was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Gives the memory back that some of the bytes take; they are read from the file again when they are used again.
    pub fn release(&self, range: Range<usize>) {
        #[cfg(unix)]
        if let Bytes::Mapped(map) = &self.bytes {
            // SAFETY: nothing is ever written to this mapping, so pages that are dropped are those of the file.
            let released =
                unsafe { map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, range.start, range.len()) };
            if let Err(error) = released {
                log::debug!("{}: {error}", self.path.display());
            }
        }
        #[cfg(not(unix))]
        let _ = range;
    }
}

impl Deref for Source {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.bytes {
            Bytes::Mapped(map) => map,
            Bytes::Read(bytes) => bytes,
        }
    }
}
