//! What a file holds is read, known not to matter, or refused by name; and files are called what they are.

// A test that cannot go on fails.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use common::{
    Files, INPUT, Named, Ran, double_routing, f32_tensor, random, read_output, safetensors_bytes, weights,
    weights_with_paths, x,
};
use safetensors::Dtype;
use serde_json::{Value, json};

const CPU: [&str; 2] = ["--adapter", "cpu"];

/// A block of 4 experts of width 3 on 6 features, with one that is shared.
const BLOCK: &str = "model.layers.3.mlp.";

fn random_tensor(name: &str, shape: &[usize]) -> Named {
    let seed = name.bytes().map(u64::from).sum();
    f32_tensor(name, shape, &random(seed, shape.iter().product()))
}

fn block() -> Vec<Named> {
    let mut tensors = vec![random_tensor("gate.weight", &[4, 6])];
    for expert in ["experts.0", "experts.1", "experts.2", "experts.3", "shared_experts"] {
        for (map, shape) in [("gate_proj", [3, 6]), ("up_proj", [3, 6]), ("down_proj", [6, 3])] {
            tensors.push(random_tensor(&format!("{expert}.{map}.weight"), &shape));
        }
    }
    tensors.into_iter().map(|(name, dtype, shape, bytes)| (format!("{BLOCK}{name}"), dtype, shape, bytes)).collect()
}

fn config() -> Value {
    json!({ "paths": 4, "paths_per_token": 2 })
}

/// The folder of a block, its configuration and its x.
fn files(config: &Value, weights: &[Named]) -> Files {
    let files = Files::new(weights, &[x(&[5, 6])]);
    files.write("config.json", config.to_string().as_bytes());
    files
}

fn run_on(files: &Files, command: &str, weights: &[&str], options: &[&str]) -> Ran {
    let path = |name: &str| files.path(name).to_str().expect("text").to_owned();
    let (config, input, output) = (path("config.json"), path("input.safetensors"), path("output.safetensors"));
    let weights: Vec<String> = weights.iter().map(|name| path(name)).collect();
    let mut arguments = vec![command, "--config", &config, "--input", &input, "--output", &output];
    weights.iter().for_each(|weights| arguments.extend(["--weights", weights]));
    arguments.extend(CPU);
    arguments.extend(options);
    double_routing(&arguments)
}

fn run(files: &Files, command: &str) -> Ran {
    run_on(files, command, &["weights.safetensors"], &[])
}

/// Runs a command on the block with more tensors below its prefix.
fn with(command: &str, more: &[Named]) -> Ran {
    let below = more.iter().cloned().map(|(name, a, b, c)| (format!("{BLOCK}{name}"), a, b, c));
    run(&files(&config(), &[block(), below.collect()].concat()), command)
}

#[test]
fn what_would_change_a_block_is_refused() {
    let of_both: [(&str, &[usize]); 11] = [
        ("gate.bias", &[4]),
        ("gate.expert_bias", &[4]),
        ("expert_bias", &[4]),
        ("router_bias", &[4]),
        ("e_score_correction_bias", &[4]),
        ("experts.e_score_correction_bias", &[4]),
        ("moe_statics.e_score_correction_bias", &[1, 4]),
        ("gate.lora_A.weight", &[2, 6]),
        ("gate.weight_scale_inv", &[1, 1]),
        ("norm.weight", &[6]),
        ("tid2eid", &[9]),
    ];
    for (name, shape) in of_both {
        for command in ["route", "moe"] {
            let words = ["weights.safetensors", &format!("{BLOCK}{name} may change the result, and is not read")];
            with(command, &[random_tensor(name, shape)]).refused(&words);
        }
    }
    let of_experts: [(&str, &[usize]); 8] = [
        ("experts.2.up_proj.bias", &[3]),
        ("experts.0.down_proj.lora_B.weight", &[6, 2]),
        ("experts.3.gate_proj.weight_scale_inv", &[1, 1]),
        ("experts.0.w1.weight", &[3, 6]),
        ("experts.gate_up_proj", &[4, 6, 6]),
        ("shared_experts.up_proj.bias", &[3]),
        ("shared_expert.up_proj.weight", &[3, 6]),
        ("experts.7.gate_proj.weight", &[3, 6]),
    ];
    for (name, shape) in of_experts {
        let more = [random_tensor(name, shape)];
        with("moe", &more).refused(&[&format!("{BLOCK}{name} may change the result, and is not read")]);
        // A router has nothing to do with its experts.
        with("route", &more).passed();
    }
}

/// The first that is named is the one that matters most, and not all are.
#[test]
fn much_that_is_not_read_is_counted() {
    let biases =
        (0..4).flat_map(|n| ["gate", "up"].map(|map| random_tensor(&format!("experts.{n}.{map}_proj.bias"), &[3])));
    let more: Vec<Named> =
        biases.chain([random_tensor("a.b.c.d.e.f", &[1]), random_tensor("gate.bias", &[4])]).collect();
    let first = format!("weights: {BLOCK}gate.bias, {BLOCK}experts.0.gate_proj.bias, ");
    with("moe", &more).refused(&[&first, "… (10 in all) may change the result, and are not read", "--ignore"]);
    // Whoever knows better says so.
    let files = files(&config(), &block());
    run(&files, "route").passed();
    let expected = read_output(&files.path("output.safetensors"));
    let bias = format!("{BLOCK}gate.bias");
    files.write("weights.safetensors", &safetensors_bytes(&[block(), vec![random_tensor(&bias, &[4])]].concat()));
    run_on(&files, "route", &["weights.safetensors"], &["--ignore", &bias]).passed();
    assert_eq!(read_output(&files.path("output.safetensors")), expected);
}

#[test]
fn what_is_known_not_to_matter_may_lie_there() {
    let files = files(&config(), &block());
    run(&files, "moe").passed();
    let expected = read_output(&files.path("output.safetensors"));
    let shape = |numbers: [i64; 2]| -> Named {
        let bytes = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
        (format!("{BLOCK}experts.1.up_proj.weight_shape"), Dtype::I64, vec![2], bytes)
    };
    let harmless = ["gate.input_scale", "experts.0.up_proj.input_global_scale", "k_scale", "experts.1.v_scale"];
    let harmless = harmless.into_iter().chain(["rotary_emb.inv_freq"]);
    let harmless: Vec<Named> = harmless.map(|name| random_tensor(&format!("{BLOCK}{name}"), &[1])).collect();
    files.write("weights.safetensors", &safetensors_bytes(&[block(), harmless, vec![shape([3, 6])]].concat()));
    for command in ["route", "moe"] {
        run(&files, command).passed();
    }
    assert_eq!(read_output(&files.path("output.safetensors")), expected);
    files.write("weights.safetensors", &safetensors_bytes(&[block(), vec![shape([6, 3])]].concat()));
    run(&files, "moe").refused(&["up_proj.weight is [3, 6]", "up_proj.weight_shape says [6, 3]"]);
}

#[test]
fn what_would_change_a_layer_is_refused() {
    let behind = |prefix: &str, tensors: Vec<Named>| -> Vec<Named> {
        tensors.into_iter().map(|(name, a, b, c)| (format!("{prefix}{name}"), a, b, c)).collect()
    };
    let others = ["embedding.lora_A.weight", "routing1.weight_scale_inv", "norm.weight", "scale", "path_gate.bias"];
    for name in others {
        for prefix in ["", "model.router."] {
            let layer = behind(prefix, [weights(), vec![random_tensor(name, &[2])]].concat());
            // What lies beside the layer does not matter.
            let beside = if prefix.is_empty() { vec![] } else { vec![random_tensor("lm_head.weight", &[2])] };
            let files = Files::new(&[layer, beside].concat(), &[x(&[2, 3, INPUT])]);
            let words = [&format!("weights: {prefix}{name} may change the result, and is not read"), "--ignore"];
            files.forward(&CPU).refused(&["weights.safetensors", words[0], words[1]]);
            let name = format!("{prefix}{name}");
            files.forward(&[&CPU[..], &["--ignore", &name]].concat()).passed();
        }
    }
    let files = Files::new(&weights(), &[x(&[2, 3, INPUT])]);
    files.forward(&CPU).passed();
    let expected = read_output(&files.path("output.safetensors"));
    let tokens = ["tokens.weight", "tokens.bias"].map(|name| random_tensor(name, &[3]));
    files.write("weights.safetensors", &safetensors_bytes(&[weights(), tokens.to_vec()].concat()));
    files.forward(&CPU).refused(&["tokens.bias, tokens.weight may change the result, and are not read"]);
    files.forward(&[&CPU[..], &["--ignore", "tokens."]].concat()).passed();
    assert_eq!(read_output(&files.path("output.safetensors")), expected);
}

#[test]
fn files_that_differ_about_a_tensor_are_refused() {
    let files = files(&config(), &block());
    run(&files, "moe").passed();
    let expected = read_output(&files.path("output.safetensors"));
    let both = |command: &str, other: &[Named]| {
        files.write("other.safetensors", &safetensors_bytes(other));
        run_on(&files, command, &["weights.safetensors", "other.safetensors"], &["--prefix", BLOCK])
    };
    let changed = |name: &str, change: fn(&mut Named)| -> Vec<Named> {
        let mut tensors = block();
        change(tensors.iter_mut().find(|(known, ..)| known.ends_with(name)).expect("a tensor"));
        tensors
    };
    both("moe", &block()).passed();
    assert_eq!(read_output(&files.path("output.safetensors")), expected);
    let last_bit = |tensor: &mut Named| *tensor.3.last_mut().expect("bytes") ^= 1;
    let words = |what: &'static str| [what, "weights.safetensors", "other.safetensors"];
    for command in ["route", "moe"] {
        both(command, &changed(".gate.weight", last_bit)).refused(&words("mlp.gate.weight is not the same in "));
    }
    let one = changed("experts.2.down_proj.weight", last_bit);
    both("moe", &one).refused(&words("experts.2.down_proj.weight is not the same in "));
    // What is not read is not compared.
    both("route", &one).passed();
    let turned = |tensor: &mut Named| tensor.2.reverse();
    both("moe", &changed("experts.0.up_proj.weight", turned)).refused(&words("up_proj.weight is F32 [3, 6] in "));
    let integers = |tensor: &mut Named| tensor.1 = Dtype::I32;
    both("moe", &changed("experts.0.up_proj.weight", integers)).refused(&words("up_proj.weight is F32 [3, 6] in "));
}

#[test]
fn routers_that_cannot_choose_as_many_as_they_say_are_refused() {
    let own = |more: Value| {
        let mut config = json!({ "paths": 8, "paths_per_token": 3, "groups": 4, "groups_kept": 1 });
        more.as_object().expect("keys").iter().for_each(|(key, value)| config[key] = value.clone());
        let gate = [f32_tensor("gate.weight", &[8, 6], &random(3, 48))];
        run_on(&files(&config, &gate), "route", &["weights.safetensors"], &["--check"])
    };
    own(json!({})).refused(&["config.json", "3 paths a token, of 2 in 1 group kept of 4"]);
    own(json!({ "paths_per_token": 2 })).passed();
    own(json!({ "groups_kept": 2 })).passed();
    let of_one = json!({ "groups": 8, "groups_kept": 4, "group_score": "sum_of_two" });
    own(of_one).refused(&["config.json", "8 groups of 1 path score by their 2 largest"]);
    own(json!({ "groups": 8, "groups_kept": 4 })).passed();

    let files = Files::new(&weights_with_paths(6), &[x(&[2, 3, INPUT])]);
    let forward = |groups: &str, per_token: &str| {
        files.forward(&[&CPU[..], &["--path-groups", groups, "--paths-per-token", per_token]].concat())
    };
    forward("1/3", "3").refused(&["3 paths a token, of 2 in 1 group kept of 3"]);
    forward("2/3", "3").passed();
    forward("3/6:sum", "2").refused(&["6 groups of 1 path score by their 2 largest"]);
    forward("3/6", "2").passed();
}

/// The same numbers in another type.
fn doubles((name, _, shape, bytes): Named) -> Named {
    let values: Vec<f32> = double_routing::bytemuck::pod_collect_to_vec(&bytes);
    let doubles = values.iter().flat_map(|&value| f64::from(value).to_le_bytes()).collect();
    (name, Dtype::F64, shape, doubles)
}

#[test]
fn weights_of_f64_are_rounded_to_f32() {
    let files = files(&config(), &block());
    run(&files, "moe").passed();
    let expected = read_output(&files.path("output.safetensors"));
    files.write("weights.safetensors", &safetensors_bytes(&block().into_iter().map(doubles).collect::<Vec<_>>()));
    run(&files, "moe").passed();
    assert_eq!(read_output(&files.path("output.safetensors")), expected);

    for layer in [weights(), weights_with_paths(3)] {
        let files = Files::new(&layer, &[x(&[2, 3, INPUT])]);
        files.forward(&CPU).passed();
        let expected = read_output(&files.path("output.safetensors"));
        files.write("weights.safetensors", &safetensors_bytes(&layer.into_iter().map(doubles).collect::<Vec<_>>()));
        files.forward(&CPU).passed();
        assert_eq!(read_output(&files.path("output.safetensors")), expected);
    }
    let mut beyond = weights();
    beyond[0] = doubles(beyond.remove(0));
    beyond[0].3[..8].copy_from_slice(&1e300f64.to_le_bytes());
    let files = Files::new(&beyond, &[x(&[2, 3, INPUT])]);
    files.forward(&CPU).refused(&["embedding.weight[0, 0]", "is inf", "--allow-non-finite"]);
}

#[test]
fn biases_may_be_missing() {
    for layer in [weights(), weights_with_paths(3)] {
        let zeroed: Vec<Named> = layer
            .iter()
            .cloned()
            .map(|(name, dtype, shape, bytes)| {
                let bytes = if name.ends_with(".bias") { vec![0; bytes.len()] } else { bytes };
                (name, dtype, shape, bytes)
            })
            .collect();
        let files = Files::new(&zeroed, &[x(&[2, 3, INPUT])]);
        let options = [&CPU[..], &["--check"]].concat();
        files.forward(&options).passed();
        let expected = read_output(&files.path("output.safetensors"));
        let without: Vec<Named> = layer.into_iter().filter(|(name, ..)| !name.ends_with(".bias")).collect();
        files.write("weights.safetensors", &safetensors_bytes(&without));
        files.forward(&options).passed();
        assert_eq!(read_output(&files.path("output.safetensors")), expected);
    }
    // One that is there must fit; and where there is nothing, there is no room for zeros.
    let wrong = common::weights_with(f32_tensor("routing1.bias", &[6], &random(1, 6)));
    Files::new(&wrong, &[x(&[2, 3, INPUT])]).forward(&CPU).refused(&["routing1.bias is [6]", "needs [5]"]);
    let mut empty: Vec<Named> = weights().into_iter().filter(|(name, ..)| name != "routing1.bias").collect();
    let at = empty.iter().position(|(name, ..)| name == "routing1.weight").expect("a map");
    empty[at] = f32_tensor("routing1.weight", &[1 << 40, 0], &[]);
    let refused = Files::new(&empty, &[x(&[2, 3, INPUT])]).forward(&CPU);
    refused.refused(&["routing1.weight is [1099511627776, 0]", "a dimension is 0"]);
    let mut paths = weights_with_paths(3);
    let at = paths.iter().position(|(name, ..)| name == "routing2.weight").expect("a map");
    paths[at] = f32_tensor("routing2.weight", &[4, 7, 5], &random(1, 140));
    let refused = Files::new(&paths, &[x(&[2, 3, INPUT])]).forward(&CPU);
    refused.refused(&["routing2.weight is [4, 7, 5]", "path_gate.weight [3, 5] needs [3, 7, 5]"]);
}

#[test]
fn a_layer_is_found_behind_its_prefix() {
    let behind = |prefix: &str| -> Vec<Named> {
        weights().into_iter().map(|(name, a, b, c)| (format!("{prefix}{name}"), a, b, c)).collect()
    };
    let files = Files::new(&weights(), &[x(&[2, 3, INPUT])]);
    let json = |options: &[&str]| files.forward(&[&CPU[..], &["--json"], options].concat()).passed().json();
    assert_eq!(json(&[])["prefix"], "");
    let expected = read_output(&files.path("output.safetensors"));
    for prefix in ["_orig_mod.", "module.", "model.", "_orig_mod.module.", "net.layers.3.router."] {
        // What is beside it is none of its business.
        let beside = random_tensor("lm_head.weight", &[3]);
        files.write("weights.safetensors", &safetensors_bytes(&[behind(prefix), vec![beside]].concat()));
        for options in [&[][..], &["--prefix", prefix], &["--prefix", prefix.trim_end_matches('.')]] {
            assert_eq!(json(options)["prefix"], prefix);
            assert_eq!(read_output(&files.path("output.safetensors")), expected, "{prefix}");
        }
    }
    files.write("weights.safetensors", &safetensors_bytes(&[behind("student."), behind("teacher.")].concat()));
    files.forward(&CPU).refused(&["several layers", "--prefix", "'student.', 'teacher.'"]);
    assert_eq!(json(&["--prefix", "student"])["prefix"], "student.");
    // What is missing is told by the name that it has here.
    let lacking: Vec<Named> =
        behind("module.").into_iter().filter(|(name, ..)| !name.ends_with("routing1.weight")).collect();
    files.write("weights.safetensors", &safetensors_bytes(&lacking));
    files.forward(&CPU).refused(&["no tensor module.routing1.weight; the file holds module.routing1.bias, "]);
    for command in ["route", "moe"] {
        for prefix in ["model.layers.3", "model.layers.3.mlp"] {
            let files = self::files(&config(), &block());
            let options = ["--prefix", prefix, "--json"];
            let report = run_on(&files, command, &["weights.safetensors"], &options).passed().json();
            assert_eq!(report["prefix"], BLOCK);
        }
    }
}

/// A file of these tensors, whose header calls the type of one something else.
fn with_type(tensors: &[Named], name: &str, other: &str) -> Vec<u8> {
    let bytes = safetensors_bytes(tensors);
    let length = u64::from_le_bytes(bytes[..8].try_into().expect("eight")) as usize;
    let mut header: Value = serde_json::from_slice(&bytes[8..8 + length]).expect("JSON");
    header[name]["dtype"] = other.into();
    let header = header.to_string();
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &bytes[8 + length..]].concat()
}

#[test]
fn a_type_that_is_not_known_is_in_nobodys_way() {
    let beside = [block(), vec![random_tensor("lm_head.weight", &[6, 4])]].concat();
    let files = files(&config(), &block());
    run(&files, "moe").passed();
    let expected = read_output(&files.path("output.safetensors"));
    let whole = with_type(&beside, "lm_head.weight", "F7_E3M3");
    files.write("weights.safetensors", &whole);
    run(&files, "moe").passed();
    assert_eq!(read_output(&files.path("output.safetensors")), expected);
    // Offsets are checked all the same.
    files.write("weights.safetensors", &whole[..whole.len() - 1]);
    run(&files, "moe").refused(&["weights.safetensors", "cut short"]);
    files.write("weights.safetensors", &[&whole[..], &[0]].concat());
    run(&files, "moe").refused(&["weights.safetensors", "not safetensors"]);
    // It is refused where it is needed.
    let needed = format!("{BLOCK}experts.2.up_proj.weight");
    files.write("weights.safetensors", &with_type(&beside, &needed, "F7_E3M3"));
    run(&files, "moe").refused(&[&needed, "is F7_E3M3", "expected F64, F32, F16 or BF16"]);
    run(&files, "route").passed();
}

#[test]
fn keys_that_change_a_model_are_refused() {
    let with = |command: &str, key: &str, value: Value| {
        let mut config = json!({ "model_type": "qwen3_moe", "num_experts": 4, "num_experts_per_tok": 2 });
        config[key] = value;
        run(&files(&config, &block()), command)
    };
    for (key, value, words) in [
        ("swiglu_limit", json!(10.0), "swiglu_limit is 10.0, expected null"),
        ("mlp_bias", json!(true), "mlp_bias is true, expected null or 0"),
        ("moe_latent_size", json!(3), "moe_latent_size is 3"),
        ("hidden_act", json!("gelu"), "hidden_act is 'gelu', expected 'silu'"),
    ] {
        with("moe", key, value.clone()).refused(&[words]);
        // Of the experts alone.
        with("route", key, value).passed();
    }
    for (key, value, words) in [
        ("zero_expert_num", json!(2), "qwen3_moe: zero_expert_num is 2, expected null or 0"),
        ("num_hash_layers", json!(3), "qwen3_moe: num_hash_layers is 3"),
        ("scoring_func", json!("sigmoid"), "qwen3_moe: scoring_func is 'sigmoid', expected 'softmax'"),
        ("routed_scaling_factor", json!(2.5), "qwen3_moe: routed_scaling_factor is 2.5, expected 1"),
        ("use_expert_bias", json!(true), "qwen3_moe: use_expert_bias is true, expected false"),
    ] {
        for command in ["route", "moe"] {
            with(command, key, value.clone()).refused(&["config.json", words]);
        }
    }
    for (key, value) in [("swiglu_limit", Value::Null), ("scoring_func", json!("softmax")), ("vocab_size", json!(9))] {
        with("moe", key, value).passed();
    }
}

#[test]
fn configurations_as_they_are_found_are_read() {
    let files = files(&config(), &block());
    run(&files, "moe").passed();
    let expected = read_output(&files.path("output.safetensors"));
    let text = r#"{"model_type": "some_vision_model", "time_step_limit": [0.0, Infinity], "note": "NaN, \"Infinity\"",
        "thinker_config": {"text_config": {"model_type": "qwen3_moe", "num_experts": 4, "num_experts_per_tok": 2}}}"#;
    files.write("config.json", ["\u{feff}", text].concat().as_bytes());
    run(&files, "moe").passed();
    assert_eq!(read_output(&files.path("output.safetensors")), expected);
    files.write("config.json", br#"{"paths": 4, "paths_per_token": 2, "scale": -Infinity}"#);
    run(&files, "moe").refused(&["config.json", "scale is -Infinity, expected a number"]);
}

#[test]
fn files_are_called_what_they_are() {
    let pointer: &[u8] = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab\nsize 5368709120\n";
    let torch = [&b"PK\x03\x04"[..], &[0; 26], b"archive/data.pkl", &[0; 99]].concat();
    let index: &[u8] = br#"{"weight_map": {"gate.weight": "model-00001-of-00002.safetensors"}}"#;
    let whole = safetensors_bytes(&block());
    let cases: [(&[u8], &[&str]); 8] = [
        (pointer, &["Git LFS pointer", "git lfs pull"]),
        (&torch, &["PyTorch", "safetensors.torch.save_file"]),
        (index, &["an index", "model-00001-of-00002.safetensors"]),
        (b"<!DOCTYPE html><html>", &["HTML"]),
        (b"GGUF\x03\0\0\0", &["GGUF"]),
        (b"\x1f\x8b\x08\0", &["gzip"]),
        (b"", &["an empty file"]),
        (&whole[..whole.len() - 9], &["cut short", "the file has"]),
    ];
    let blocks = files(&config(), &block());
    let layer = Files::new(&weights(), &[x(&[2, 3, INPUT])]);
    for (bytes, words) in cases {
        let words = [&["wrong.safetensors: not safetensors: it is "], words].concat();
        for files in [&blocks, &layer] {
            files.write("wrong.safetensors", bytes);
        }
        run_on(&blocks, "route", &["weights.safetensors", "wrong.safetensors"], &[]).refused(&words);
        std::fs::copy(layer.path("wrong.safetensors"), layer.path("weights.safetensors")).expect("a copy");
        let words: Vec<&str> = words.iter().map(|word| word.trim_start_matches("wrong.")).collect();
        layer.forward(&CPU).refused(&words);
    }
    for (bytes, words) in [
        (&whole[..], "a safetensors file"),
        (b"GGUF\x03\0\0\0", "GGUF"),
        (pointer, "git lfs pull"),
        (b"\xff\xfe{\0}\0", "UTF-16"),
    ] {
        blocks.write("config.json", bytes);
        run(&blocks, "route").refused(&["config.json: not a configuration: it is ", words]);
    }
}

#[test]
fn lists_of_names_show_those_that_matter_first() {
    let many = (0..40).map(|n| random_tensor(&format!("a.{n}.weight"), &[1]));
    let near = ["z.routing1.bias", "z.attention.weight"].map(|name| random_tensor(name, &[1]));
    let files = Files::new(&many.chain(near).collect::<Vec<_>>(), &[x(&[2, 3, INPUT])]);
    let words =
        "no tensor z.embedding.weight; the file holds z.attention.weight, z.routing1.bias, a.0.weight, a.1.weight, ";
    files.forward(&CPU).refused(&[words, "… (42 in all)"]);
}
