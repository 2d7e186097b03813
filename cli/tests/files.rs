//! Where results go: files that are there, links, devices, and what a signal leaves behind.

// A test that cannot go on fails.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![cfg(unix)]

mod common;

use std::{
    fs,
    io::Read,
    os::unix::{
        ffi::OsStrExt,
        fs::{MetadataExt, PermissionsExt, symlink},
        process::ExitStatusExt,
    },
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use common::{Files, INPUT, double_routing, weights, x};
use safetensors::SafeTensors;

const CPU: [&str; 2] = ["--adapter", "cpu"];

fn files() -> Files {
    Files::new(&weights(), &[x(&[2, 3, INPUT])])
}

/// The command for `forward` on these files, without an output.
fn command(files: &Files, options: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_double-routing"));
    command.arg("forward").arg("--weights").arg(files.path("weights.safetensors"));
    command.arg("--input").arg(files.path("input.safetensors")).args(options);
    command
}

#[track_caller]
fn is_output(bytes: &[u8]) {
    let file = SafeTensors::deserialize(bytes).expect("safetensors");
    assert_eq!(file.tensor("y").expect("y").shape(), [2, 3, common::OUTPUT]);
}

#[test]
fn a_link_is_written_through() {
    let files = files();
    fs::create_dir(files.path("folder")).unwrap();
    files.write("folder/there", b"old");
    for (target, link) in [("folder/there", "to_there"), ("folder/new", "to_nothing"), ("to_there", "to_link")] {
        symlink(target, files.path(link)).unwrap();
        files.forward_to(link, "input.safetensors", &CPU).passed();
        assert!(files.path(link).symlink_metadata().unwrap().is_symlink(), "{link}");
        is_output(&fs::read(files.path(link)).unwrap());
    }
    is_output(&fs::read(files.path("folder/new")).unwrap());
    // Nothing else was made where the links lead.
    assert_eq!(fs::read_dir(files.path("folder")).unwrap().count(), 2);
    symlink("round", files.path("round")).unwrap();
    files.forward_to("round", "input.safetensors", &CPU).refused(&["cannot write", "round"]);
}

#[test]
fn a_file_keeps_its_rights_and_its_owner() {
    let files = files();
    files.write("output.safetensors", b"old");
    let path = files.path("output.safetensors");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    // Only root can give a file away.
    let given = std::os::unix::fs::chown(&path, Some(1234), Some(2345)).is_ok();
    let before = fs::metadata(&path).unwrap();
    files.forward(&CPU).passed();
    let after = fs::metadata(&path).unwrap();
    is_output(&fs::read(&path).unwrap());
    assert_eq!(after.permissions().mode(), before.permissions().mode());
    assert_eq!((after.uid(), after.gid()), (before.uid(), before.gid()));
    assert!(!given || after.uid() == 1234);
}

#[test]
fn a_file_of_several_names_is_refused() {
    let files = files();
    files.write("output.safetensors", b"precious");
    fs::hard_link(files.path("output.safetensors"), files.path("other")).unwrap();
    let before = files.names();
    files.forward(&CPU).refused(&["cannot write", "output.safetensors", "2 names (hard links)"]);
    assert_eq!(fs::read(files.path("other")).unwrap(), b"precious");
    assert_eq!(files.names(), before);
}

#[test]
fn what_is_read_is_not_written() {
    let files = files();
    let before = fs::read(files.path("input.safetensors")).unwrap();
    symlink("input.safetensors", files.path("link")).unwrap();
    for output in ["input.safetensors", "./input.safetensors", "link", "weights.safetensors"] {
        let read = if output.starts_with('w') { "--weights" } else { "--input" };
        files.forward_to(output, "input.safetensors", &CPU).refused(&["--output", output, "is the same file as", read]);
    }
    assert_eq!(fs::read(files.path("input.safetensors")).unwrap(), before);
    let path = |name: &str| files.path(name).to_str().unwrap().to_owned();
    files.write("config.json", br#"{"paths": 8, "paths_per_token": 2}"#);
    for (output, picture, words) in [
        ("config.json", "picture.png", ["--output", "--config"]),
        ("output", "input.safetensors", ["--picture", "--input"]),
        ("picture.svg", "../NAME/picture.svg", ["--picture", "--output"]),
    ] {
        let name = files.path("").file_name().unwrap().to_str().unwrap().to_owned();
        let picture = path(&picture.replace("NAME", &name));
        let (config, weights, input) = (path("config.json"), path("weights.safetensors"), path("input.safetensors"));
        let run = ["route", "--config", &config, "--weights", &weights, "--input", &input, "--output", &path(output)];
        double_routing(&[&run[..], &["--picture", &picture]].concat())
            .refused(&[&words[..], &["is the same file as"]].concat());
    }
    let shader = |output: &str, bindings: &str| {
        let softmax = ["shader", "softmax", "STAGE=whole", "--target", "wgsl"];
        double_routing(&[&softmax[..], &["--output", output, "--bindings", bindings]].concat())
    };
    shader(&path("a.json"), &path("a.json")).refused(&["--bindings", "is the same file as --output"]);
    files.write("tuning.txt", b"rows<=* columns<=* lanes 32x4 1x1");
    let tuning = path("tuning.txt");
    double_routing(&["tune", "--tuning", &tuning, "--output", &tuning]).refused(&["--output", "--tuning"]);
    double_routing(&["bench", "--tuning", &tuning, "--picture", &tuning]).refused(&["--picture", "--tuning"]);
}

#[test]
fn standard_output_is_a_place_for_results() {
    let files = files();
    for output in ["-", "/dev/stdout"] {
        // Into a pipe.
        let ran = command(&files, &CPU).args(["--output", output]).output().unwrap();
        assert!(ran.status.success(), "{ran:?}");
        is_output(&ran.stdout);
        assert!(String::from_utf8(ran.stderr).unwrap().contains("wrote"));
        // Into a file, which is the same file then as before.
        files.write("redirected", b"");
        let inode = fs::metadata(files.path("redirected")).unwrap().ino();
        let redirected = fs::File::create(files.path("redirected")).unwrap();
        let ran = command(&files, &CPU).args(["--output", output]).stdout(redirected).output().unwrap();
        assert!(ran.status.success(), "{ran:?}");
        is_output(&fs::read(files.path("redirected")).unwrap());
        assert_eq!(fs::metadata(files.path("redirected")).unwrap().ino(), inode);
        let ran = command(&files, &CPU).args(["--output", output, "--json"]).output().unwrap();
        assert_eq!((ran.status.code(), ran.stdout.len()), (Some(2), 0), "{ran:?}");
        assert!(String::from_utf8(ran.stderr).unwrap().contains("--json would both go to standard output"));
    }
    // One that is refused leaves it empty.
    files.write("input.safetensors", b"nothing");
    let ran = command(&files, &CPU).args(["--output", "-"]).output().unwrap();
    assert_eq!((ran.status.code(), ran.stdout.len()), (Some(2), 0), "{ran:?}");
    assert!(Path::new("/dev/stdout").symlink_metadata().unwrap().is_symlink());
}

#[test]
fn devices_and_pipes_are_written_to() {
    let files = files();
    let ran = command(&files, &CPU).args(["--output", "/dev/null"]).output().unwrap();
    assert!(ran.status.success(), "{ran:?}");
    assert!(!fs::metadata("/dev/null").unwrap().is_file());
    let fifo = files.path("fifo");
    assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    let mut child = command(&files, &CPU).arg("--output").arg(&fifo).stdout(Stdio::null()).spawn().unwrap();
    let mut bytes = Vec::new();
    fs::File::open(&fifo).unwrap().read_to_end(&mut bytes).unwrap();
    is_output(&bytes);
    assert!(child.wait().unwrap().success());
    assert!(!fs::metadata(&fifo).unwrap().is_file());
}

#[test]
fn a_path_that_is_no_text_is_reported() {
    let files = files();
    let output = files.path("").join(std::ffi::OsStr::from_bytes(b"out\xff.safetensors"));
    let ran = command(&files, &CPU).arg("--json").arg("--output").arg(&output).output().unwrap();
    assert!(ran.status.success(), "{ran:?}");
    let report: serde_json::Value = serde_json::from_slice(&ran.stdout).unwrap();
    assert!(report["output"].as_str().unwrap().ends_with("out\u{fffd}.safetensors"), "{report}");
    is_output(&fs::read(output).unwrap());
}

/// A run that has begun to write and waits, since its tuning is a pipe into which nobody writes.
fn waiting(files: &Files, before: &str) -> std::process::Child {
    let fifo = files.path("tuning");
    if !fifo.exists() {
        assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    }
    let mut shell = Command::new("sh");
    shell.arg("-c").arg(format!("{before} exec \"$@\"")).arg("sh");
    let own = command(files, &[]);
    shell.arg(own.get_program()).args(own.get_args());
    shell.arg("--tuning").arg(&fifo).arg("--output").arg(files.path("output.safetensors"));
    let child = shell.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let is_temporary = |name: &String| name.starts_with(".double-routing-");
    let start = Instant::now();
    while !files.names().iter().any(is_temporary) {
        assert!(start.elapsed() < Duration::from_secs(60), "it never began to write: {:?}", files.names());
        std::thread::sleep(Duration::from_millis(5));
    }
    child
}

fn send(signal: i32, child: &std::process::Child) {
    assert!(Command::new("kill").arg(format!("-{signal}")).arg(child.id().to_string()).status().unwrap().success());
}

#[test]
fn a_signal_leaves_nothing_behind() {
    for signal in [1, 2, 15] {
        let files = files();
        files.write("output.safetensors", b"precious");
        let mut child = waiting(&files, "");
        send(signal, &child);
        let status = child.wait().unwrap();
        assert_eq!((status.code(), status.signal()), (Some(128 + signal), None));
        assert_eq!(files.names(), ["input.safetensors", "output.safetensors", "tuning", "weights.safetensors"]);
        assert_eq!(fs::read(files.path("output.safetensors")).unwrap(), b"precious");
    }
}

#[test]
fn a_signal_that_is_ignored_stays_so() {
    let files = files();
    let mut child = waiting(&files, "trap '' HUP;");
    send(1, &child);
    std::thread::sleep(Duration::from_millis(200));
    assert!(child.try_wait().unwrap().is_none(), "it has ended");
    send(15, &child);
    assert_eq!(child.wait().unwrap().code(), Some(143));
}
