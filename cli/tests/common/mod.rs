//! What the tests of the command share: running it, and files for it to read.

// Each test binary compiles this module and uses a part of it; a test that cannot go on fails.
#![allow(dead_code, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    process::Command,
};

use double_routing::bytemuck;
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use tempfile::TempDir;

/// What the command printed and how it ended.
#[derive(Debug)]
pub struct Ran {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

/// Runs the command.
pub fn double_routing(arguments: &[&str]) -> Ran {
    double_routing_with(arguments, &[])
}

/// Runs the command with these variables in its environment.
pub fn double_routing_with(arguments: &[&str], variables: &[(&str, &str)]) -> Ran {
    let output = Command::new(env!("CARGO_BIN_EXE_double-routing"))
        .args(arguments)
        .env_remove("RUST_LOG")
        .envs(variables.iter().copied())
        .output()
        .expect("the command starts");
    Ran {
        code: output.status.code(),
        stdout: String::from_utf8(output.stdout).expect("text"),
        stderr: String::from_utf8(output.stderr).expect("text"),
    }
}

impl Ran {
    /// Asserts that all was well.
    #[track_caller]
    pub fn passed(self) -> Self {
        assert_eq!(self.code, Some(0), "{self:#?}");
        self
    }

    /// Asserts that the command refused with one line that has all of these words in it.
    #[track_caller]
    pub fn refused(&self, words: &[&str]) {
        assert_eq!(self.code, Some(2), "{self:#?}");
        assert_eq!(self.stdout, "", "{self:#?}");
        assert!(self.stderr.starts_with("error: ") && self.stderr.lines().count() == 1, "{self:#?}");
        for word in words {
            assert!(self.stderr.contains(word), "'{word}' is missing in {}", self.stderr);
        }
    }

    /// The one JSON object on standard output.
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:#?}"))
    }
}

/// A tensor of a file.
pub type Named = (String, Dtype, Vec<usize>, Vec<u8>);

/// An f32 tensor.
pub fn f32_tensor(name: &str, shape: &[usize], values: &[f32]) -> Named {
    (name.into(), Dtype::F32, shape.to_vec(), bytemuck::cast_slice(values).to_vec())
}

/// The bytes of a safetensors file.
pub fn safetensors_bytes(tensors: &[Named]) -> Vec<u8> {
    let views = tensors.iter().map(|(name, dtype, shape, bytes)| {
        (name.clone(), TensorView::new(*dtype, shape.clone(), bytes).expect("bytes fill the shape"))
    });
    safetensors::serialize(views, None).expect("a file")
}

/// Uniform values in −1 .. 1, the same for the same seed.
pub fn random(seed: u64, count: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u32 << 23) as f32 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

/// The sizes of the layer in [`weights`].
pub const INPUT: usize = 12;
pub const OUTPUT: usize = 7;

/// The eight tensors of a layer with in=12 A=8 R=5 O=7.
pub fn weights() -> Vec<Named> {
    let shapes: [(&str, &[usize]); 8] = [
        ("embedding.weight", &[8, INPUT]),
        ("embedding.bias", &[8]),
        ("attention.weight", &[1, 8]),
        ("attention.bias", &[1]),
        ("routing1.weight", &[5, 8]),
        ("routing1.bias", &[5]),
        ("routing2.weight", &[OUTPUT, 5]),
        ("routing2.bias", &[OUTPUT]),
    ];
    let tensor = |(seed, (name, shape)): (usize, (&str, &[usize]))| {
        let values: Vec<f32> =
            random(seed as u64 + 1, shape.iter().product()).iter().map(|value| 0.4 * value).collect();
        f32_tensor(name, shape, &values)
    };
    shapes.into_iter().enumerate().map(tensor).collect()
}

/// The weights of the same layer with this many paths.
pub fn weights_with_paths(paths: usize) -> Vec<Named> {
    let tensor = |seed, name, shape: &[usize]| f32_tensor(name, shape, &random(seed, shape.iter().product()));
    let mut weights = weights();
    weights.retain(|(name, ..)| !name.starts_with("routing2"));
    weights.extend([
        tensor(21, "path_gate.weight", &[paths, 5]),
        tensor(22, "path_gate.bias", &[paths]),
        tensor(23, "routing2.weight", &[paths, OUTPUT, 5]),
        tensor(24, "routing2.bias", &[paths, OUTPUT]),
    ]);
    weights
}

/// The weights with one tensor replaced.
pub fn weights_with(replacement: Named) -> Vec<Named> {
    let mut weights = weights();
    let place = weights.iter().position(|(name, ..)| *name == replacement.0).expect("a tensor of the layer");
    weights[place] = replacement;
    weights
}

/// x of this shape.
pub fn x(shape: &[usize]) -> Named {
    f32_tensor("x", shape, &random(99, shape.iter().product()))
}

/// A folder with weights, an input, and a place for the output.
pub struct Files {
    folder: TempDir,
}

impl Files {
    pub fn new(weights: &[Named], input: &[Named]) -> Self {
        let files = Self { folder: tempfile::tempdir().expect("a folder") };
        files.write("weights.safetensors", &safetensors_bytes(weights));
        files.write("input.safetensors", &safetensors_bytes(input));
        files
    }

    pub fn write(&self, name: &str, bytes: &[u8]) {
        std::fs::write(self.path(name), bytes).expect("a file");
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Runs `forward` on these files.
    pub fn forward(&self, options: &[&str]) -> Ran {
        self.forward_to("output.safetensors", "input.safetensors", options)
    }

    pub fn forward_to(&self, output: &str, input: &str, options: &[&str]) -> Ran {
        let path = |name: &str| self.path(name).to_str().expect("text").to_owned();
        let (weights, input, output) = (path("weights.safetensors"), path(input), path(output));
        let fixed = ["forward", "--weights", &weights, "--input", &input, "--output", &output];
        double_routing(&[&fixed, options].concat())
    }

    /// The files in the folder, to see that nothing is left behind.
    pub fn names(&self) -> Vec<String> {
        let mut names: Vec<_> = std::fs::read_dir(self.folder.path())
            .expect("a folder")
            .map(|entry| entry.expect("an entry").file_name().into_string().expect("text"))
            .collect();
        names.sort();
        names
    }
}

/// The tensors of an output file: shape and values.
pub fn read_output(path: &Path) -> HashMap<String, (Vec<usize>, Vec<f32>)> {
    let bytes = std::fs::read(path).expect("the output");
    let file = SafeTensors::deserialize(&bytes).expect("safetensors");
    file.iter()
        .map(|(name, view)| {
            let values = match view.dtype() {
                Dtype::F32 => bytemuck::pod_collect_to_vec(view.data()),
                // Indices are small, or u32::MAX.
                Dtype::U32 => {
                    bytemuck::pod_collect_to_vec::<u8, u32>(view.data()).into_iter().map(|word| word as f32).collect()
                }
                other => panic!("{name} is {other:?}"),
            };
            (name.to_owned(), (view.shape().to_vec(), values))
        })
        .collect()
}
