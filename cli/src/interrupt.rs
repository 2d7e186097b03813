//! Ending on a signal without leaving temporary files behind.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

/// The files and folders to be removed. Whoever holds the lock keeps a signal from ending the process.
static FILES: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

fn files() -> MutexGuard<'static, Vec<PathBuf>> {
    FILES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A file or a folder that is removed where a signal ends the process.
#[derive(Debug)]
pub struct Temporary(PathBuf);

/// Makes a file or a folder that is removed where a signal ends the process.
pub fn temporary<T: AsRef<Path>>(make: impl FnOnce() -> io::Result<T>) -> io::Result<(T, Temporary)> {
    let mut files = files();
    let made = make()?;
    let path = std::path::absolute(made.as_ref())?;
    files.push(path.clone());
    Ok((made, Temporary(path)))
}

impl Temporary {
    /// Does what makes the file no temporary one any more.
    pub fn end<T>(self, end: impl FnOnce() -> T) -> T {
        let _uninterrupted = files();
        end()
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        files().retain(|path| *path != self.0);
    }
}

/// Has signals end the process with the status that shells give it for them, 128 and their number. One that is ignored, as by
/// `nohup`, stays so.
#[cfg(unix)]
pub fn watch() -> io::Result<()> {
    use signal_hook::{
        consts::{SIGHUP, SIGINT, SIGTERM},
        iterator::Signals,
        low_level::exit,
    };
    let ending: Vec<_> = [SIGHUP, SIGINT, SIGTERM].into_iter().filter(|&signal| !is_ignored(signal)).collect();
    let mut signals = Signals::new(ending)?;
    std::thread::Builder::new().name("signals".into()).spawn(move || {
        if let Some(signal) = signals.forever().next() {
            let files = files();
            files.iter().for_each(|path| remove(path));
            exit(128 + signal);
        }
    })?;
    Ok(())
}

/// Removes a file, or a folder that others may still be writing to.
#[cfg(unix)]
fn remove(path: &Path) {
    if path.is_dir() {
        let _ = (0..100).find(|_| std::fs::remove_dir_all(path).is_ok());
    } else {
        let _ = std::fs::remove_file(path);
    }
}

#[cfg(unix)]
fn is_ignored(signal: i32) -> bool {
    // SAFETY: a null pointer for the new action leaves it as it is, and all zeros are a valid old one to be overwritten.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        libc::sigaction(signal, std::ptr::null(), &mut action) == 0 && action.sa_sigaction == libc::SIG_IGN
    }
}
