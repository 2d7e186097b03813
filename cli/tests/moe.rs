//! `route` and `moe` on the published models' goldens, and what they refuse.

// A test that cannot go on fails.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use common::{Named, Ran, double_routing, f32_tensor, random, safetensors_bytes};
use double_routing::bytemuck;
use half::{bf16, f16};
use safetensors::{Dtype, SafeTensors};
use serde_json::{Value, json};
use tempfile::TempDir;

const CPU: [&str; 2] = ["--adapter", "cpu"];

fn goldens() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/goldens/moe")
}

/// The tensors of a file by name: type, shape, bytes.
type Tensors = BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>;

fn read(path: &Path) -> Tensors {
    let bytes = std::fs::read(path).expect("a file");
    let file = SafeTensors::deserialize(&bytes).expect("safetensors");
    file.iter()
        .map(|(name, view)| (name.to_owned(), (view.dtype(), view.shape().to_vec(), view.data().to_vec())))
        .collect()
}

fn doubles(tensors: &Tensors, name: &str) -> Vec<f64> {
    let (dtype, _, bytes) = &tensors[name];
    match dtype {
        Dtype::F64 => bytemuck::pod_collect_to_vec(bytes),
        Dtype::F32 => bytemuck::pod_collect_to_vec::<u8, f32>(bytes).into_iter().map(f64::from).collect(),
        other => panic!("{name} is {other:?}"),
    }
}

fn words(tensors: &Tensors, name: &str) -> Vec<u32> {
    assert_eq!(tensors[name].0, Dtype::U32, "{name}");
    bytemuck::pod_collect_to_vec(&tensors[name].2)
}

/// A folder with a configuration, weights, an input, and a place for the output.
struct Files(TempDir);

impl Files {
    fn new(config: &Value, weights: &[Named], input: &[Named]) -> Self {
        let files = Self(tempfile::tempdir().expect("a folder"));
        files.write("config.json", config.to_string().as_bytes());
        files.write("weights.safetensors", &safetensors_bytes(weights));
        files.write("input.safetensors", &safetensors_bytes(input));
        files
    }

    /// A golden's configuration and weights, changed; its x.
    fn golden(name: &str, change: impl FnOnce(&mut Value, &mut Vec<Named>)) -> Self {
        let text = std::fs::read_to_string(goldens().join(format!("{name}.config.json"))).expect("a configuration");
        let mut config = serde_json::from_str(&text).expect("JSON");
        let tensors = read(&goldens().join(format!("{name}.safetensors")));
        let named = |(name, (dtype, shape, bytes)): (String, _)| (name, dtype, shape, bytes);
        let (mut weights, other): (Vec<Named>, Vec<Named>) =
            tensors.into_iter().map(named).partition(|(name, ..)| name.contains('.'));
        change(&mut config, &mut weights);
        let x: Vec<Named> = other.into_iter().filter(|(name, ..)| name == "x").collect();
        Self::new(&config, &weights, &x)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        std::fs::write(self.path(name), bytes).expect("a file");
    }

    fn run(&self, command: &str, options: &[&str]) -> Ran {
        self.run_on(command, &["weights.safetensors"], "input.safetensors", options)
    }

    fn run_on(&self, command: &str, weights: &[&str], input: &str, options: &[&str]) -> Ran {
        let text = |name: &str| self.path(name).to_str().expect("text").to_owned();
        let (config, input, output) = (text("config.json"), text(input), text("output.safetensors"));
        let weights: Vec<String> = weights.iter().map(|name| text(name)).collect();
        let mut arguments = vec![command, "--config", &config, "--input", &input, "--output", &output];
        weights.iter().for_each(|weights| arguments.extend(["--weights", weights]));
        arguments.extend(options);
        double_routing(&arguments)
    }

    fn output(&self) -> Tensors {
        read(&self.path("output.safetensors"))
    }

    fn names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.0.path()).expect("a folder");
        let mut names: Vec<_> =
            entries.map(|entry| entry.expect("an entry").file_name().into_string().expect("text")).collect();
        names.sort();
        names
    }

    /// Asserts that the command refuses and leaves nothing behind.
    #[track_caller]
    fn refused(&self, command: &str, options: &[&str], words: &[&str]) {
        let before = self.names();
        self.run(command, &[&CPU, options].concat()).refused(words);
        assert_eq!(self.names(), before, "an output, or a part of one, is left");
    }
}

/// Runs the goldens of a kind and holds what comes out against what the published code made of them.
fn meets_goldens(kind: &str, command: &str, options: &[&str]) {
    let text = std::fs::read_to_string(goldens().join("goldens.json")).expect("the list");
    let list: Vec<Value> = serde_json::from_str(&text).expect("JSON");
    let of_kind: Vec<&Value> = list.iter().filter(|golden| golden["kind"] == kind).collect();
    assert_eq!(of_kind.len(), 7, "one for each published router");
    for golden in of_kind {
        let name = golden["name"].as_str().expect("text");
        let path = |end: &str| goldens().join(format!("{name}.{end}")).to_str().expect("text").to_owned();
        let (config, file) = (path("config.json"), path("safetensors"));
        let inputs = Files::golden(name, |_, _| {});
        let of_inputs = |name: &str| inputs.path(name).to_str().expect("text").to_owned();
        let (input, output) = (of_inputs("input.safetensors"), of_inputs("output.safetensors"));
        let fixed = ["--config", &config, "--weights", &file, "--input", &input, "--json", "--check"];
        let arguments = [&[command, "--output", &output], &fixed[..], options].concat();
        let report = double_routing(&arguments).passed().json();
        assert_eq!(report["check"]["passed"], true, "{name}: {report}");
        assert_eq!(report["check"]["decided"], golden["tokens"], "{name}: the goldens' rows are all decided");

        let (expected, found) = (read(Path::new(&file)), read(Path::new(&output)));
        let ids = words(&found, "ids");
        assert_eq!(ids, words(&expected, "ids"), "{name}");
        let mut counts = vec![0; golden["choice"]["paths"].as_u64().expect("a number") as usize];
        ids.iter().for_each(|&id| counts[id as usize] += 1);
        assert_eq!(words(&found, "counts"), counts, "{name}");
        assert_eq!(report["counts"], json!(counts), "{name}");

        let allowed = |what: &str| (4.0 * golden["transformers_error"][what].as_f64().expect("a number")).max(1e-6);
        let (gates, right) = (doubles(&found, "gates"), doubles(&expected, "gates"));
        assert_eq!(gates.len(), right.len(), "{name}");
        let error = gates.iter().zip(&right).map(|(gate, right)| (gate / right - 1.0).abs()).fold(0.0, f64::max);
        assert!(error <= allowed("gates"), "{name}: gates are off by {error}");
        assert_eq!(found["margin"].1, [golden["tokens"].as_u64().expect("a number") as usize], "{name}");

        if kind == "block" {
            let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|value| value * value).sum::<f64>().sqrt();
            let (y, right, routed) = (doubles(&found, "y"), doubles(&expected, "y"), doubles(&expected, "routed"));
            assert_eq!((&found["y"].1, y.len()), (&expected["x"].1, right.len()), "{name}");
            let error = norm(&mut y.iter().zip(&right).map(|(y, right)| y - right));
            let error = error / norm(&mut routed.iter().copied());
            assert!(error <= allowed("y"), "{name}: y is off by {error}");
        } else {
            assert_eq!(found.keys().collect::<Vec<_>>(), ["counts", "gates", "ids", "margin"], "{name}");
        }
        if options == CPU {
            // In f64 a margin differs by what is left of its digits, then it is rounded.
            for (margin, right) in doubles(&found, "margin").iter().zip(doubles(&expected, "margin")) {
                let close = *margin == right || (margin - right).abs() <= 1e-12 + f64::from(f32::EPSILON) * right.abs();
                assert!(close, "{name}: the margin is {margin}, expected {right}");
            }
        }
    }
}

#[test]
fn routers_meet_their_goldens() {
    meets_goldens("router", "route", &[]);
}

#[test]
fn blocks_meet_their_goldens() {
    meets_goldens("block", "moe", &[]);
}

#[test]
fn the_reference_meets_the_goldens() {
    meets_goldens("router", "route", &CPU);
    meets_goldens("block", "moe", &CPU);
}

#[test]
fn a_block_routes_as_its_router_does() {
    let files = Files::golden("deepseek_v3_block", |_, _| {});
    files.run("route", &[]).passed();
    let alone = files.output();
    files.run("moe", &[]).passed();
    let whole = files.output();
    assert_eq!(whole.len(), alone.len() + 1);
    for (name, tensor) in alone {
        assert_eq!(whole[&name], tensor, "{name}");
    }
}

#[test]
fn both_say_what_they_did() {
    let files = Files::golden("deepseek_v3_block", |_, _| {});
    let ran = files.run("moe", &["--check"]).passed();
    for words in [
        "deepseek_v3: from 4 of 8 groups by their two largest; sigmoid, renormalised, times 2.5; correction bias",
        "model.layers.3.mlp.gate.weight [32, 32], experts of width 12, a shared one of width 12",
        "8 of 32",
        "y [32, 32], ids and gates [32, 8], counts [32], margin [32]",
        "passed against the CPU reference",
        "the reference's in 32 of 32 tokens, 0 wrong",
    ] {
        assert!(ran.stdout.contains(words), "'{words}' is missing in\n{}", ran.stdout);
    }
    assert!(!ran.stdout.contains('\u{1b}'), "colours where nobody can see them");
    assert_eq!(ran.stderr, "");

    let report = files.run("route", &[&CPU[..], &["--json"]].concat()).passed().json();
    let config = json!({
        "model_type": "deepseek_v3", "paths": 32, "paths_per_token": 8, "score": "sigmoid", "groups": 8,
        "groups_kept": 4, "group_score": "sum_of_two", "renormalise": true, "scale": 2.5,
    });
    assert_eq!(report["config"], config);
    assert_eq!((&report["tokens"], &report["load"]["mean"]), (&32.into(), &8.0.into()));
    assert_eq!(report["load"]["max"], json!(words(&files.output(), "counts").iter().max()));
    assert_eq!(report["margin"]["share_below_1e-6"], 0.0);
    assert!(report["margin"]["least"].as_f64().is_some_and(|least| least > 0.0));
    assert!(report["check"].is_null() && report["adapter"]["name"] == "CPU reference");
    assert!(report["seconds"].as_f64().is_some_and(|seconds| seconds > 0.0));

    let help = double_routing(&["moe", "--help"]).passed().stdout;
    assert!(help.contains("groups_kept") && help.contains("qwen3_moe") && help.contains("--prefix"), "{help}");
}

#[test]
fn batches_change_nothing() {
    let files = Files::golden("qwen2_moe_block", |_, _| {});
    for (command, batches) in [("route", &["7"][..]), ("moe", &["1", "7", "1000"])] {
        let output = |options: &[&str]| {
            files.run(command, &[&["--batch-invariant"], options].concat()).passed();
            files.output()
        };
        let whole = output(&[]);
        for batch in batches {
            assert_eq!(output(&["--batch", batch]), whole, "{command} --batch {batch}");
        }
    }
    let report = files.run("route", &["--batch", "7", "--json", "--check"]).passed().json();
    assert_eq!(report["batches"], 3);
}

#[test]
fn x_may_come_in_other_shapes_types_and_formats() {
    let files = Files::golden("deepseek_v2_lite_block", |_, _| {});
    let features = 28;
    let shape = [2, 3, features];
    // Values that every type holds exactly.
    let values: Vec<f32> = random(5, shape.iter().product())
        .into_iter()
        .map(|x| bf16::from_f32(f16::from_f32(x).to_f32()).to_f32())
        .collect();
    let output = |name: &str| {
        files.run_on("moe", &["weights.safetensors"], name, &CPU).passed();
        files.output()
    };
    files.write("cube.safetensors", &safetensors_bytes(&[f32_tensor("x", &shape, &values)]));
    let expected = output("cube.safetensors");
    assert_eq!((&expected["y"].1, &expected["ids"].1), (&shape.to_vec(), &vec![6, 6]));

    let halves = values.iter().flat_map(|&x| f16::from_f32(x).to_le_bytes()).collect();
    files.write("half.safetensors", &safetensors_bytes(&[("x".into(), Dtype::F16, shape.to_vec(), halves)]));
    let brains = values.iter().flat_map(|&x| bf16::from_f32(x).to_le_bytes()).collect();
    files.write("brain.safetensors", &safetensors_bytes(&[("x".into(), Dtype::BF16, shape.to_vec(), brains)]));
    let array = ndarray::Array::from_shape_vec(shape, values.clone()).expect("values fill the shape");
    ndarray_npy::write_npy(files.path("x.npy"), &array).expect("a file");
    for name in ["half.safetensors", "brain.safetensors", "x.npy"] {
        assert_eq!(output(name), expected, "{name}");
    }
    // The same tokens in one row, and none at all.
    files.write("rows.safetensors", &safetensors_bytes(&[f32_tensor("x", &[6, features], &values)]));
    let rows = output("rows.safetensors");
    assert_eq!((&rows["y"].1, &rows["y"].2, &rows["ids"]), (&vec![6, features], &expected["y"].2, &expected["ids"]));
    files.write("none.safetensors", &safetensors_bytes(&[f32_tensor("x", &[0, features], &[])]));
    for adapter in [&CPU[..], &[]] {
        files.run_on("moe", &["weights.safetensors"], "none.safetensors", &[adapter, &["--check"]].concat()).passed();
        let none = files.output();
        assert_eq!(
            (&none["ids"].1, &none["y"].1, words(&none, "counts")),
            (&vec![0, 6], &vec![0, features], vec![0; 16])
        );
    }
}

#[test]
fn x_and_y_may_be_of_16_bits() {
    let files = Files::golden("deepseek_v2_lite_block", |_, _| {});
    let shape = [2, 3, 28];
    let brains = random(5, 2 * 3 * 28).iter().flat_map(|&x| bf16::from_f32(x).to_le_bytes()).collect();
    files.write("brain.safetensors", &safetensors_bytes(&[("x".into(), Dtype::BF16, shape.to_vec(), brains)]));
    let y = |adapter: &[&str], name: &str| {
        let options = [adapter, &["--check", "--json", "--output-type", name]].concat();
        let report = files.run_on("moe", &["weights.safetensors"], "brain.safetensors", &options).passed().json();
        assert_eq!((&report["types"]["x"], &report["types"]["y"]), (&"bf16".into(), &name.into()));
        files.output()["y"].clone()
    };
    for adapter in [&CPU[..], &[]] {
        let wide: Vec<f32> = bytemuck::pod_collect_to_vec(&y(adapter, "f32").2);
        let rounded = wide.iter().flat_map(|&y| bf16::from_f32(y).to_le_bytes()).collect();
        assert_eq!(y(adapter, "bf16"), (Dtype::BF16, shape.to_vec(), rounded));
    }
    files.run_on("route", &["weights.safetensors"], "brain.safetensors", &["--check"]).passed();
}

#[test]
fn weights_may_be_spread_and_stand_behind_a_prefix() {
    let files = Files::golden("deepseek_v3_block", |_, _| {});
    files.run("moe", &CPU).passed();
    let expected = files.output();
    for prefix in ["model.layers.3.mlp.", "model.layers.3.", "model.layers.3"] {
        files.run("moe", &[&CPU[..], &["--prefix", prefix]].concat()).passed();
        assert_eq!(files.output(), expected, "{prefix}");
    }
    let mut all = Vec::new();
    Files::golden("deepseek_v3_block", |_, weights| all.clone_from(weights));
    let (first, second) = all.split_at(all.len() / 2);
    files.write("first.safetensors", &safetensors_bytes(first));
    files.write("second.safetensors", &safetensors_bytes(second));
    files.run_on("moe", &["first.safetensors", "second.safetensors"], "input.safetensors", &CPU).passed();
    assert_eq!(files.output(), expected);

    // Of several routers one is to be chosen, unless it is the only one with experts.
    let moved = |layer: &str| -> Vec<Named> {
        all.iter().map(|(name, a, b, c)| (name.replace("layers.3", layer), *a, b.clone(), c.clone())).collect()
    };
    files.write("other.safetensors", &safetensors_bytes(&moved("layers.12")));
    let both = ["weights.safetensors", "other.safetensors"];
    let words = ["several routers", "--prefix", "'model.layers.3.mlp.', 'model.layers.12.mlp.'"];
    files.run_on("moe", &both, "input.safetensors", &CPU).refused(&words);
    let chosen = [&CPU[..], &["--prefix", "model.layers.12."]].concat();
    files.run_on("moe", &both, "input.safetensors", &chosen).passed();
    assert_eq!(files.output(), expected);
    let lone: Vec<Named> = moved("layers.12").into_iter().filter(|(name, ..)| name.contains(".gate.")).collect();
    files.write("other.safetensors", &safetensors_bytes(&lone));
    files.run_on("moe", &both, "input.safetensors", &CPU).passed();
    assert_eq!(files.output(), expected);
}

#[test]
fn keys_of_our_own_say_the_same() {
    let files = Files::golden("deepseek_v2_router", |_, _| {});
    files.run("route", &CPU).passed();
    let expected = files.output();
    let own = json!({
        "paths": 160, "paths_per_token": 6, "score": "softmax", "groups": 8, "groups_kept": 3, "group_score": "max",
        "scale": 16.0,
    });
    files.write("config.json", own.to_string().as_bytes());
    files.run("route", &CPU).passed();
    assert_eq!(files.output(), expected);
}

#[test]
fn a_failed_check_is_status_1_and_still_writes() {
    let files = Files::golden("mixtral_block", |_, _| {});
    let mut values = random(3, 4 * 32);
    values[32 + 7] = f32::INFINITY;
    files.write("input.safetensors", &safetensors_bytes(&[f32_tensor("x", &[4, 32], &values)]));
    files.refused("moe", &[], &["x[1, 7]", "inf", "--allow-non-finite"]);
    let ran = files.run("moe", &["--check", "--allow-non-finite"]);
    assert_eq!(ran.code, Some(1), "{ran:#?}");
    assert!(ran.stdout.contains("FAILED") && ran.stdout.contains("written all the same"), "{ran:#?}");
    // The other tokens are none the worse.
    let y = doubles(&files.output(), "y");
    assert!(y.iter().enumerate().all(|(at, y)| at / 32 == 1 || y.is_finite()));
    let ran = files.run("moe", &["--check", "--allow-non-finite", "--json"]);
    assert_eq!((ran.code, &ran.json()["check"]["passed"]), (Some(1), &false.into()));
}

#[test]
fn routings_are_drawn() {
    let files = Files::golden("deepseek_v3_router", |_, _| {});
    let path = |name: &str| files.path(name).to_str().expect("text").to_owned();
    let draw = |name: &str| files.run("route", &[&CPU[..], &["--picture", &path(name)]].concat()).passed();
    assert!(draw("picture.png").stdout.contains("picture.png"));
    let file = std::io::BufReader::new(std::fs::File::open(path("picture.png")).expect("the picture"));
    let mut reader = png::Decoder::new(file).read_info().expect("a picture");
    let mut pixels = vec![0; reader.output_buffer_size().expect("a size")];
    reader.next_frame(&mut pixels).expect("pixels");
    // A cell for each slot, of at least 4 × 5 points of 2 × 2 pixels each.
    let warm = pixels.chunks(3).filter(|pixel| pixel[0] > pixel[2].saturating_add(40)).count();
    assert!(warm >= 96 * 8 * 4 * 5 * 4, "{warm} coloured pixels");

    draw("picture.svg");
    let svg = std::fs::read_to_string(path("picture.svg")).expect("the picture");
    assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"), "{svg}");
    for words in ["deepseek_v3: 96 tokens, each through 8 of 256 paths", "group 7", "mean 3.0", "gate"] {
        assert!(svg.contains(words), "'{words}' is missing in the picture");
    }
    let before = files.names();
    files.refused("route", &["--picture", &path("picture.jpg")], &["picture.jpg", ".svg or .png"]);
    files.refused("route", &["--picture", &path("missing/picture.png")], &["cannot write", "missing"]);
    assert_eq!(files.names(), before);
}

#[test]
fn configurations_that_do_not_fit() {
    let with = |key: &str, value: Value| Files::golden("deepseek_v3_router", |config, _| config[key] = value);
    with("model_type", "llama".into()).refused(
        "route",
        &[],
        &[
            "config.json",
            "'llama' is not known",
            "deepseek_v2, deepseek_v3, kimi_k2, mixtral, olmoe, qwen2_moe, qwen3_moe",
        ],
    );
    let lacking = Files::golden("deepseek_v2_router", |config, _| config["num_experts_per_tok"] = Value::Null);
    lacking.refused("route", &[], &["config.json", "deepseek_v2: there is no num_experts_per_tok"]);
    with("n_routed_experts", 64.into()).refused("route", &[], &["gate.weight is [256, 64]", "has 64 paths"]);
    with("hidden_size", 7168.into()).refused("route", &[], &["gate.weight is [256, 64]", "hidden_size is 7168"]);
    with("num_experts_per_tok", 257.into()).refused("route", &[], &["config.json", "257 paths a token, of 256"]);
    with("n_group", 7.into()).refused("route", &[], &["config.json", "256 paths in 7 groups"]);
    with("topk_group", 9.into()).refused("route", &[], &["config.json", "9 groups kept, of 8"]);
    let files = with("hidden_size", 64.into());
    files.write("config.json", b"{");
    files.refused("route", &[], &["config.json", "not JSON"]);
    std::fs::remove_file(files.path("config.json")).expect("was there");
    files.refused("route", &[], &["cannot read", "config.json"]);
    let gelu = Files::golden("mixtral_block", |config, _| config["hidden_act"] = "gelu".into());
    gelu.refused("moe", &[], &["hidden_act is 'gelu'", "'silu'"]);
}

#[test]
fn weights_that_do_not_fit() {
    let files = Files::golden("deepseek_v3_block", |_, _| {});
    let wrong = ["--prefix", "model.layers.7."];
    files.refused(
        "route",
        &wrong,
        &["weights.safetensors", "no tensor model.layers.7.gate.weight", "'model.layers.3.mlp.'"],
    );
    files.write("weights.safetensors", b"PK\x03\x04 a zip file");
    files.refused("moe", &[], &["weights.safetensors", "not safetensors"]);
    files.write("weights.safetensors", &safetensors_bytes(&[f32_tensor("lm_head.weight", &[2, 2], &[0.0; 4])]));
    files.refused("moe", &[], &["gate.weight", "lm_head.weight"]);

    let without =
        |name: &str, part: &str| Files::golden(name, |_, weights| weights.retain(|(name, ..)| !name.contains(part)));
    without("deepseek_v3_block", ".experts.5.up").refused(
        "moe",
        &[],
        &["no tensor model.layers.3.mlp.experts.5.up_proj.weight"],
    );
    without("deepseek_v3_block", ".experts.").refused("moe", &[], &["no tensor", "experts.0.gate_proj.weight"]);
    without("deepseek_v3_block", ".shared_experts.").refused(
        "moe",
        &[],
        &["deepseek_v3 has a shared expert", "model.layers.3.mlp.shared_experts.gate_proj.weight"],
    );
    let words = ["deepseek_v3 has a correction bias", "model.layers.3.mlp.gate.e_score_correction_bias"];
    without("deepseek_v3_router", "e_score").refused("route", &[], &words);
    let words = ["qwen2_moe has a gate for its shared expert", "shared_expert_gate.weight"];
    without("qwen2_moe_block", "shared_expert_gate").refused("moe", &[], &words);
    // A router needs none of it.
    without("deepseek_v3_block", ".experts.").run("route", &CPU).passed();

    let infinite = Files::golden("mixtral_block", |_, weights| {
        let w2 = weights.iter_mut().find(|(name, ..)| name.ends_with("experts.3.w2.weight")).expect("an expert");
        w2.3[4 * 45..][..4].copy_from_slice(&f32::INFINITY.to_le_bytes());
    });
    infinite.refused("moe", &[], &["experts.3.w2.weight[1, 1]", "inf", "--allow-non-finite"]);
    infinite.run("route", &CPU).passed();
}

#[test]
fn inputs_and_outputs_that_do_not_fit() {
    let files = Files::golden("mixtral_router", |_, _| {});
    let input = |tensors: &[Named]| files.write("input.safetensors", &safetensors_bytes(tensors));
    input(&[f32_tensor("x", &[3, 65], &random(1, 195))]);
    files.refused("route", &[], &["input.safetensors", "x is [3, 65]", "gate.weight is [8, 64]"]);
    input(&[f32_tensor("x", &[64], &random(1, 64))]);
    files.refused("route", &[], &["x is [64]", "[T, 64] or [B, S, 64]"]);
    input(&[f32_tensor("y", &[1, 64], &random(1, 64))]);
    files.refused("route", &[], &["no tensor x", "the file holds y"]);
    input(&[("x".into(), Dtype::I64, vec![1, 64], vec![0; 512])]);
    files.refused("route", &[], &["x is I64", "F32, F16, BF16 or F64"]);

    // What is there stays when a run fails.
    files.write("output.safetensors", b"precious");
    files.refused("route", &[], &["x is I64"]);
    assert_eq!(std::fs::read(files.path("output.safetensors")).expect("still there"), b"precious");
    input(&[f32_tensor("x", &[3, 64], &random(1, 192))]);
    std::fs::remove_file(files.path("output.safetensors")).expect("was there");
    std::fs::create_dir(files.path("output.safetensors")).expect("a folder");
    files.refused("route", &[], &["cannot write", "it is a folder"]);
}
