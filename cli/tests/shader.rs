//! `shader`: what it lists, what it exports, and what it refuses.

// A test that cannot go on fails.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::{fs, path::Path};

use common::{Ran, double_routing};
use double_routing::kernels::{ALL, Access, MATMUL, REDUCE, ROUTE_PATHS, SOFTMAX, Tile};
use serde_json::Value;

fn shader(arguments: &[&str]) -> Ran {
    double_routing(&[&["shader"], arguments].concat())
}

fn read_json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).expect("a file")).expect("JSON")
}

#[test]
fn lists_kernels_and_variants() {
    let listed = shader(&[]).passed();
    for kernel in ALL {
        let line = listed.stdout.lines().find(|line| line.split_whitespace().next() == Some(kernel.name()));
        let count: String = line.expect("each kernel").chars().filter(char::is_ascii_digit).collect();
        assert_eq!(count, kernel.variants().len().to_string(), "{}", kernel.name());
    }

    let listed = shader(&["softmax"]).passed();
    for part in ["STAGE", "apply  partial  whole", "x_ACCESS", "NAME=VALUE"] {
        assert!(listed.stdout.contains(part), "{part}: {listed:#?}");
    }
    // Few enough are listed whole; the same, in any order and case of names.
    let narrow = ["softmax", "stage=whole", "LANES_BY=memory", "x_ACCESS=quads", "y_ACCESS=quads", "LANES=32"];
    let listed = shader(&narrow).passed().stdout;
    let fit: Vec<String> = SOFTMAX.variants().iter().map(ToString::to_string).collect();
    let words = ["STAGE=whole", "LANES_BY=memory", "x_ACCESS=quads", "y_ACCESS=quads", "LANES=32"];
    let fit: Vec<&String> =
        fit.iter().filter(|text| words.iter().all(|word| text.split(' ').any(|part| part == *word))).collect();
    assert!(!fit.is_empty() && fit.len() < SOFTMAX.variants().len());
    assert_eq!(listed.lines().filter(|line| line.contains("STAGE=whole")).count(), fit.len(), "{listed}");

    let every = shader(&["reduce", "--all"]).passed().stdout;
    let known: Vec<_> = REDUCE.variants().iter().map(|variant| format!("reduce {variant}")).collect();
    assert_eq!(every.lines().collect::<Vec<_>>(), known);
}

#[test]
fn exports_in_every_language() {
    let folder = tempfile::tempdir().expect("a folder");
    let beginnings: [(&str, &[u8]); 5] = [
        ("wgsl", b"//"),
        ("spirv", &[0x03, 0x02, 0x23, 0x07, 0x00, 0x03, 0x01, 0x00]),
        ("msl", b"// language: metal2.3"),
        ("hlsl", b"struct NagaConstants"),
        ("glsl", b"#version 310 es"),
    ];
    for (target, beginning) in beginnings {
        let path = folder.path().join(target);
        let ran = shader(&["softmax", "STAGE=whole", "--target", target, "--output", path.to_str().expect("text")]);
        let taken = ran.passed().stderr;
        let code = fs::read(&path).expect("the shader");
        if target == "wgsl" {
            assert!(String::from_utf8(code.clone()).expect("text").contains("@compute"));
        } else {
            assert!(code.starts_with(beginning), "{target}: {:?}", code.get(..30));
        }

        let json = read_json(&path.with_extension("json"));
        let name = json["variant"].as_str().expect("a name").to_owned();
        assert!(taken.starts_with("note: of ") && taken.contains(&name), "{target}: {taken}");
        assert_eq!((&json["kernel"], &json["target"]), (&"softmax".into(), &target.into()));
        assert_eq!(json["names"]["STAGE"], "whole");
        assert_eq!(json["features"], serde_json::json!([]), "what fits most devices is taken");

        // To standard output goes the same, and with the whole name there is nothing to tell.
        let whole = ["softmax", "--variant", &name, "--target", target];
        if target != "spirv" {
            let ran = shader(&whole).passed();
            assert_eq!((ran.stdout.as_bytes(), ran.stderr.as_str()), (code.as_slice(), ""), "{target}");
        }

        let variant = SOFTMAX.variants().into_iter().find(|variant| variant.to_string() == name).expect("a variant");
        let bindings = json["bindings"].as_array().expect("a list");
        let slots = SOFTMAX.slots(&variant).expect("slots");
        assert_eq!(bindings.len(), slots.len());
        for (binding, slot) in bindings.iter().zip(&slots) {
            let access = if slot.access == Access::Read { "read" } else { "read_write" };
            assert_eq!(
                (&binding["binding"], &binding["name"], &binding["access"]),
                (&slot.binding.into(), &slot.name.into(), &access.into()),
            );
        }
        let fields: Vec<_> = SOFTMAX
            .params()
            .into_iter()
            .map(|(name, offset)| serde_json::json!({ "name": name, "type": "u32", "offset": offset }))
            .collect();
        assert_eq!(json["parameters"]["fields"], Value::Array(fields));
    }
}

#[test]
fn says_where_each_language_binds() {
    let folder = tempfile::tempdir().expect("a folder");
    let exported = |target: &str, more: &[&str]| {
        let path = folder.path().join(target);
        let tile = ["matmul", "--tile", "shared 16x16 8x2 16 1", "B_TRANSPOSED=true", "b_TYPE=bf16"];
        let to = ["--target", target, "--output", path.to_str().expect("text")];
        shader(&[&tile, &to[..], more].concat()).passed();
        (fs::read(&path).expect("the shader"), read_json(&path.with_extension("json")))
    };
    let place = |json: &Value, name: &str| {
        let bindings = json["bindings"].as_array().expect("a list");
        bindings.iter().find(|binding| binding["name"] == name).expect("bound")["place"].clone()
    };

    let (_, json) = exported("msl", &[]);
    assert_eq!(json["entry_point"], "main_");
    assert_eq!(json["workgroup_size"], serde_json::json!([256, 1, 1]));
    assert_eq!(json["workgroup_memory_bytes"], 17408);
    assert_eq!(json["workgroups_in_x"], 32768);
    assert_eq!(json["parameters"]["place"], serde_json::json!({ "buffer": 0 }));
    assert_eq!(place(&json, "a"), serde_json::json!({ "buffer": 1 }));
    let sum: u64 =
        json["threadgroup_memory_lengths"].as_array().expect("a list").iter().filter_map(Value::as_u64).sum();
    assert_eq!(sum, 17408);
    let behind = json["bindings"].as_array().expect("a list").len() + 1;
    assert_eq!(json["buffer_sizes"]["buffer"], behind);

    let (code, json) = exported("hlsl", &["--language", "6.7"]);
    assert_eq!(json["compiler_options"], serde_json::json!(["-E", "main", "-T", "cs_6_7", "-HV", "2018", "-Ges"]));
    assert_eq!(json["parameters"]["place"], serde_json::json!({ "register": "b0", "space": 0 }));
    assert_eq!(place(&json, "a"), serde_json::json!({ "register": "t0", "space": 0 }));
    assert_eq!(place(&json, "c"), serde_json::json!({ "register": "u0", "space": 0 }));
    assert!(String::from_utf8(code).expect("text").contains("RWByteAddressBuffer c : register(u0);"));

    let (_, json) = exported("glsl", &[]);
    assert_eq!(place(&json, "c")["binding"], 3, "storage buffers are numbered apart from uniforms: a, b, bias, c");

    let (checked, json) = exported("spirv", &["--language", "1.6"]);
    assert_eq!(json["compiler_options"], serde_json::json!(["Vulkan 1.3"]));
    let b = json["bindings"].as_array().expect("a list").iter().find(|binding| binding["name"] == "b").expect("bound");
    assert_eq!((&b["element"], &b["word"]), (&"bf16".into(), &"vec2<u32>".into()));
    let (robust, json) = exported("spirv", &["--language", "1.6", "--robust-buffers"]);
    assert_eq!(json["compiler_options"], serde_json::json!(["Vulkan 1.3", "robustBufferAccess2"]));
    assert!(robust.len() < checked.len(), "{} of {} bytes", robust.len(), checked.len());

    // Subgroups: the standard wants them enabled, and says how many lanes.
    let path = folder.path().join("lanes");
    let lanes = ["softmax", "STAGE=whole", "LANES_BY=subgroup", "LANES=8", "x_ACCESS=quads", "--target", "wgsl"];
    shader(&[&lanes, &["--output", path.to_str().expect("text")][..]].concat()).passed();
    assert!(fs::read_to_string(&path).expect("the shader").starts_with("enable subgroups;"));
    let json = read_json(&path.with_extension("json"));
    assert_eq!((&json["features"], &json["subgroup_lanes"]), (&serde_json::json!(["subgroups"]), &8.into()));
}

#[test]
fn exports_all() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("all");
    let to = ["--target", "hlsl", "--output", path.to_str().expect("text")];
    let ran = shader(&[&["--all", "--every", "499"], &to[..]].concat()).passed();
    assert_eq!((ran.stdout.as_str(), ran.stderr.as_str()), ("", ""));
    let mut names: Vec<_> =
        fs::read_dir(&path).expect("a folder").map(|entry| entry.expect("an entry").file_name()).collect();
    names.sort();
    let shaders: Vec<_> = names.iter().filter(|name| Path::new(name).extension() == Some("hlsl".as_ref())).collect();
    assert_eq!(names.len(), 2 * shaders.len(), "each has its interface beside it");
    for kernel in ALL {
        let of = |name: &&&std::ffi::OsString| name.to_string_lossy().starts_with(&format!("{}-0", kernel.name()));
        let count = shaders.iter().filter(of).count();
        assert_eq!(count, kernel.variants().len().div_ceil(499), "{}", kernel.name());
    }
    let first = read_json(&path.join("softmax-00000.json"));
    assert_eq!(first["variant"], SOFTMAX.variants()[0].to_string());

    shader(&[&["--all"], &to[..]].concat()).refused(&["all: it is no empty folder"]);

    // What the language has not is left out, and told.
    let path = folder.path().join("some");
    let to = ["--target", "glsl", "--output", path.to_str().expect("text")];
    let ran = shader(&[&["route_paths", "--all"], &to[..]].concat()).passed();
    let wide = ROUTE_PATHS.variants().iter().filter(|variant| variant.to_string().contains("=wide_")).count();
    let note = format!("note: left out: {wide} variants with 64-bit integers, which wgpu has in no GLSL\n");
    assert_eq!(ran.stderr, note);
    let files = fs::read_dir(&path).expect("a folder").count();
    assert_eq!(files, 2 * (ROUTE_PATHS.variants().len() - wide));
}

#[test]
fn refusals() {
    let folder = tempfile::tempdir().expect("a folder");
    let output = folder.path().join("shader");
    let output = output.to_str().expect("text");
    let refused = |arguments: &[&str], line: &str| {
        let ran = shader(arguments);
        ran.refused(&[]);
        assert_eq!(ran.stderr.trim_end(), format!("error: {line}"), "{arguments:?}");
        assert_eq!(fs::read_dir(folder.path()).expect("a folder").count(), 0, "something is left");
    };
    let names: Vec<_> = ALL.iter().map(|kernel| kernel.name()).collect();
    let names = names.join(", ");
    refused(&["nope"], &format!("no kernel is called nope; there are {names}"));
    refused(
        &["--target", "msl", "--output", output],
        &format!("--target is for one kernel, or with --all for every one; there are {names}"),
    );
    refused(&["softmax", "STAGE"], "'STAGE' is not NAME=VALUE");
    refused(&["softmax", "STAGE=late"], "softmax: STAGE is apply, partial or whole here, not late");
    refused(&["softmax", "STAGE=whole", "stage=apply"], "softmax: STAGE is whole here, not apply");
    let fit = SOFTMAX.variants().len();
    refused(
        &["softmax", "--target", "hlsl", "--output", output],
        &format!("softmax: {fit} variants fit; choose STAGE=apply, STAGE=partial or STAGE=whole"),
    );
    refused(
        &["softmax", "--tile", "lanes 32x4 1x1"],
        "--tile is for kernels with a tile product, and softmax has none",
    );
    refused(
        &["softmax", "STAGE=whole", "--target", "msl", "--language", "1.2", "--output", output],
        "--language is 1.2, and for msl one of 2.3, 2.4, 3.0, 3.1, 3.2, 4.0",
    );
    refused(
        &["softmax", "STAGE=whole", "--target", "msl", "--robust-buffers", "--output", output],
        "--robust-buffers is for spirv, not for msl",
    );
    refused(&["--all", "--target", "msl"], "--all with --target needs a folder as --output");
    refused(
        &["softmax", "STAGE=whole", "--target", "msl", "--output", "shader.json"],
        "--bindings shader.json is the same file as --output shader.json",
    );
    let wide = MATMUL.variants().into_iter().map(|variant| variant.to_string()).find(|name| name.contains("wide_"));
    let wide = wide.expect("a variant in words of 64 bits");
    refused(
        &["matmul", "--variant", &wide, "--target", "glsl", "--output", output],
        &format!("matmul {wide}: it has 64-bit integers, which wgpu has in no GLSL"),
    );
    let tile: Tile = "shared 16x16 8x2 16 2".parse().expect("a tile");
    let large = MATMUL.variants().into_iter().find(|variant| tile.is_of(variant)).expect("of that tile").to_string();
    refused(
        &["matmul", "--variant", &large, "--target", "hlsl", "--output", output],
        &format!("matmul {large}: it has more than 32 KiB of workgroup memory, which Direct3D 12 does not have"),
    );

    shader(&["softmax", "NOPE=1"]).refused(&["softmax has no name NOPE here", "STAGE", "LANES_BY"]);
    shader(&["matmul", "--tile", "square"])
        .refused(&["--tile 'square' is none of the tiles", "'shared 16x16 8x2 16 2'"]);
    shader(&["matmul", "--variant", "TILE_X=7 "]).refused(&["matmul has no variant for --variant 'TILE_X=7 '"]);
    let nowhere = folder.path().join("no").join("where");
    let nowhere = nowhere.to_str().expect("text");
    shader(&["softmax", "STAGE=whole", "--target", "msl", "--output", nowhere]).refused(&["cannot write", nowhere]);
    shader(&["--all", "--every", "4000", "--target", "msl", "--output", nowhere]).refused(&["cannot write", nowhere]);
}

#[test]
fn help_explains() {
    let help = shader(&["--help"]).passed().stdout;
    for part in ["--target", "--tile", "--variant", "--bindings", "--robust-buffers", "--every", "naga", "--language"] {
        assert!(help.contains(part), "{part}");
    }
}
