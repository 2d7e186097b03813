//! What a run holds of large files. They are sparse here: zeros that take no room on the disk.

// A test that cannot go on fails.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![cfg(target_os = "linux")]

mod common;

use std::{
    fs,
    os::unix::process::ExitStatusExt,
    process::{Command, ExitStatus, Stdio},
};

use common::{Files, f32_tensor, random, x};

const MB: u64 = 1 << 20;

/// Runs the command. Returns the most that it held in memory at a time, in bytes.
#[track_caller]
fn peak(arguments: &[&str]) -> u64 {
    let mut command = Command::new(env!("CARGO_BIN_EXE_double-routing"));
    #[allow(clippy::zombie_processes, reason = "it is waited for by another name")]
    let child = command.args(arguments).stdout(Stdio::null()).spawn().expect("the command starts");
    // SAFETY: all zeros are a usage, and both places are there to be written to.
    let (status, usage) = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        let mut status = 0;
        assert_eq!(libc::wait4(child.id() as i32, &mut status, 0, &mut usage), child.id() as i32);
        (ExitStatus::from_raw(status), usage)
    };
    assert!(status.success(), "{status}");
    usage.ru_maxrss as u64 * 1024
}

/// A file that begins so and ends with zeros.
fn sparse(files: &Files, name: &str, start: &[u8], zeros: u64) {
    files.write(name, start);
    let file = fs::OpenOptions::new().append(true).open(files.path(name)).unwrap();
    file.set_len(start.len() as u64 + zeros).unwrap();
}

#[test]
fn a_router_takes_its_gate_out_of_a_shard() {
    let files = Files::new(&[], &[x(&[64, common::INPUT])]);
    let rest = 4u64 << 30;
    let header = format!(
        r#"{{"gate.weight":{{"dtype":"F32","shape":[8,12],"data_offsets":[{rest},{}]}},
        "embed_tokens.weight":{{"dtype":"BF16","shape":[{},2048],"data_offsets":[0,{rest}]}}}}"#,
        rest + 4 * 8 * 12,
        rest / 4096
    );
    sparse(&files, "shard", &[&(header.len() as u64).to_le_bytes(), header.as_bytes()].concat(), rest + 4 * 8 * 12);
    files.write("config.json", br#"{"paths": 8, "paths_per_token": 2}"#);
    let path = |name: &str| files.path(name).to_str().unwrap().to_owned();
    let (config, shard, input, output) =
        (path("config.json"), path("shard"), path("input.safetensors"), path("output"));
    let ignored = ["--ignore", "embed_tokens.", "--adapter", "cpu"];
    let run = ["route", "--config", &config, "--weights", &shard, "--input", &input, "--output", &output];
    let held = peak(&[&run[..], &ignored].concat());
    assert!(held < 200 * MB, "{} MB", held / MB);
}

/// x of 1.5 GB, of which no more is held than a batch.
#[test]
fn x_may_be_larger_than_memory() {
    let (sequences, tokens, features) = (768, 512, 1024);
    let map = |name: &str, out: usize, of: usize| {
        [(format!("{name}.weight"), vec![out, of]), (format!("{name}.bias"), vec![out])]
            .map(|(name, shape)| f32_tensor(&name, &shape, &random(1, shape.iter().product())))
    };
    let maps = [map("embedding", 4, features), map("attention", 1, 4), map("routing1", 4, 4), map("routing2", 4, 4)];
    let files = Files::new(&maps.concat(), &[]);
    let header =
        format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({sequences}, {tokens}, {features}), }}\n");
    let start = [b"\x93NUMPY\x01\x00", &(header.len() as u16).to_le_bytes()[..], header.as_bytes()].concat();
    sparse(&files, "x.npy", &start, 4 * sequences * tokens * features as u64);
    let path = |name: &str| files.path(name).to_str().unwrap().to_owned();
    let (weights, input, output) = (path("weights.safetensors"), path("x.npy"), path("output"));
    let held = peak(&["forward", "--weights", &weights, "--input", &input, "--output", &output]);
    // The adapter is a software one where tests run: what the device holds counts too.
    assert!(held < 1024 * MB, "{} MB", held / MB);
    assert_eq!(common::read_output(&files.path("output"))["y"].0, [sequences as usize, tokens as usize, 4]);
}
