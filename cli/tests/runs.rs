//! What the commands do when all is well, and that `--check` can fail.

// A test that cannot go on fails.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use common::{
    Files, INPUT, Named, OUTPUT, double_routing, double_routing_with, f32_tensor, random, read_output,
    safetensors_bytes, weights, weights_with_paths, x,
};
use double_routing::bytemuck;
use half::{bf16, f16};
use safetensors::{Dtype, SafeTensors};

#[test]
fn forward_agrees_with_the_reference() {
    for shape in [&[5, INPUT][..], &[3, 40, INPUT], &[2, 3, 4, INPUT], &[0, 3, INPUT], &[2, 0, INPUT]] {
        let files = Files::new(&weights(), &[x(shape)]);
        for options in
            [&["--adapter", "cpu"][..], &[], &["--plan", "folded"], &["--plan", "as-written"], &["--batch-invariant"]]
        {
            let ran = files.forward(&[&["--check", "--json"], options].concat()).passed();
            let report = ran.json();
            assert_eq!(report["check"]["passed"], true, "{report}");
            let output = read_output(&files.path("output.safetensors"));
            assert_eq!(output["y"].0, [&shape[..shape.len() - 1], &[OUTPUT]].concat());
            assert_eq!(output["w"].0, [&shape[..shape.len() - 1], &[1]].concat());
            assert_eq!(output.len(), 2);
        }
        assert_eq!(files.names(), ["input.safetensors", "output.safetensors", "weights.safetensors"]);
    }
}

#[test]
fn forward_selects_tokens_and_chooses_paths() {
    let lengths = ("lengths".into(), Dtype::U32, vec![3], bytemuck::cast_slice(&[40u32, 3, 0]).to_vec());
    let files = Files::new(&weights_with_paths(6), &[x(&[3, 40, INPUT]), lengths]);
    for adapter in [&["--adapter", "cpu"][..], &[]] {
        let options = ["--check", "--json", "--select", "0.25", "--paths-per-token", "2", "--path-groups", "2/3:sum"];
        let report = files.forward(&[&options, adapter].concat()).passed().json();
        assert_eq!(report["selected"], 13, "{report}");
        let counts: Vec<u64> =
            report["paths"].as_array().unwrap().iter().map(|count| count.as_u64().unwrap()).collect();
        assert_eq!((counts.len(), counts.iter().sum::<u64>()), (6, 26), "{report}");
        let output = read_output(&files.path("output.safetensors"));
        assert_eq!((&output["indices"].0, &output["ids"].0), (&vec![3, 10], &vec![3, 10, 2]));
        assert_eq!(output["gates"].0, [3, 10, 2]);
        // What is not selected is 0.
        let selected = &output["indices"].1[..10];
        for (token, y) in output["y"].1.chunks_exact(OUTPUT).take(40).enumerate() {
            assert_eq!(y.iter().any(|&y| y != 0.0), selected.contains(&(token as f32)), "token {token}");
        }
        assert!(output["indices"].1[20..].iter().all(|&index| index == u32::MAX as f32));
    }
    // In batches, and of the same weights every token.
    let whole = read_output(&files.path("output.safetensors"));
    let options = ["--select", "0.25", "--paths-per-token", "2", "--path-groups", "2/3:sum", "--batch", "1"];
    files.forward(&options).passed();
    assert_eq!(read_output(&files.path("output.safetensors"))["ids"], whole["ids"]);
    files.forward(&["--check", "--paths-per-token", "3", "--path-score", "sigmoid"]).passed();
    assert_eq!(read_output(&files.path("output.safetensors"))["ids"].0, [3, 40, 3]);
    // Where every token is masked there is no signal to measure errors by.
    let nothing = ("lengths".into(), Dtype::U32, vec![2], bytemuck::cast_slice(&[0u32, 0]).to_vec());
    let files = Files::new(&weights_with_paths(6), &[x(&[2, 5, INPUT]), nothing]);
    files.forward(&["--check", "--paths-per-token", "2"]).passed();
    let output = read_output(&files.path("output.safetensors"));
    assert!(output["w"].1.iter().all(|&w| w == 0.0) && output["y"].1.iter().all(|y| y.is_finite()));
}

#[test]
fn forward_says_what_it_did() {
    let files = Files::new(&weights(), &[x(&[3, 40, INPUT])]);
    let ran = files.forward(&["--check"]).passed();
    for words in
        ["in=12 A=8 R=5 O=7", "x        [3, 40, 12]", "y [3, 40, 7], w [3, 40, 1]", "as written", "taken", "passed"]
    {
        assert!(ran.stdout.contains(words), "'{words}' is missing in\n{}", ran.stdout);
    }
    assert!(!ran.stdout.contains('\u{1b}'), "colours where nobody can see them");
    assert_eq!(ran.stderr, "");
}

#[test]
fn a_failed_check_is_status_1_and_still_writes() {
    let mut values = random(99, 2 * 3 * INPUT);
    values[4] = f32::INFINITY;
    let files = Files::new(&weights(), &[f32_tensor("x", &[2, 3, INPUT], &values)]);
    let ran = files.forward(&["--check", "--allow-non-finite"]);
    assert_eq!(ran.code, Some(1), "{ran:#?}");
    assert!(ran.stdout.contains("FAILED") && ran.stdout.contains("written all the same"), "{ran:#?}");
    // The other sequence is none the worse.
    let output = read_output(&files.path("output.safetensors"));
    assert!(output["y"].1[3 * OUTPUT..].iter().all(|y| y.is_finite()));
    let ran = files.forward(&["--check", "--allow-non-finite", "--json"]);
    assert_eq!((ran.code, &ran.json()["check"]["passed"]), (Some(1), &false.into()));
}

#[test]
fn batches_change_nothing() {
    let lengths = [5u32, 0, 9, 1, 3];
    let lengths: Named =
        ("lengths".into(), Dtype::U32, vec![5], lengths.iter().flat_map(|length| length.to_le_bytes()).collect());
    for input in [vec![x(&[5, 9, INPUT]), lengths], vec![x(&[5, 9, INPUT])], vec![x(&[7, INPUT])]] {
        let files = Files::new(&weights(), &input);
        let bytes = |options: &[&str]| {
            files.forward(&[&["--batch-invariant"], options].concat()).passed();
            std::fs::read(files.path("output.safetensors")).expect("the output")
        };
        let whole = bytes(&[]);
        for batch in ["1", "2", "3", "100"] {
            assert_eq!(bytes(&["--batch", batch]), whole, "--batch {batch}");
        }
    }
}

#[test]
fn lengths_mask_what_is_behind_them() {
    let lengths: Named =
        ("lengths".into(), Dtype::I64, vec![3], [4i64, 0, 2].iter().flat_map(|length| length.to_le_bytes()).collect());
    let files = Files::new(&weights(), &[x(&[3, 4, INPUT]), lengths]);
    for adapter in [&["--adapter", "cpu"][..], &[]] {
        files.forward(&[&["--check"], adapter].concat()).passed();
        let (_, w) = &read_output(&files.path("output.safetensors"))["w"];
        let counting: Vec<usize> = w.chunks(4).map(|w| w.iter().filter(|&&w| w > 0.0).count()).collect();
        assert_eq!(counting, [4, 0, 2]);
        assert_eq!(w[4..8], [0.0; 4]);
    }
}

#[test]
fn x_may_come_in_other_types_and_formats() {
    // Values that every type holds exactly.
    let shape = [2, 3, INPUT];
    let values: Vec<f32> = random(99, shape.iter().product()).into_iter().map(|x| f16::from_f32(x).to_f32()).collect();
    let files = Files::new(&weights(), &[f32_tensor("x", &shape, &values)]);
    let output = |input: &str| {
        files.forward_to("output.safetensors", input, &["--adapter", "cpu"]).passed();
        std::fs::read(files.path("output.safetensors")).expect("the output")
    };
    let expected = output("input.safetensors");

    let halves = values.iter().flat_map(|&x| f16::from_f32(x).to_le_bytes()).collect();
    files.write("half.safetensors", &safetensors_bytes(&[("x".into(), Dtype::F16, shape.to_vec(), halves)]));
    assert_eq!(output("half.safetensors"), expected);

    let array = ndarray::Array::from_shape_vec(shape, values).expect("values fill the shape");
    let column_major =
        ndarray::Array::from_shape_vec(ndarray::ShapeBuilder::f(shape), array.t().iter().copied().collect())
            .expect("values fill the shape");
    assert_eq!(column_major, array);
    ndarray_npy::write_npy(files.path("rows.npy"), &array).expect("a file");
    ndarray_npy::write_npy(files.path("columns.npy"), &column_major).expect("a file");
    ndarray_npy::write_npy(files.path("double.npy"), &array.mapv(f64::from)).expect("a file");
    assert_ne!(std::fs::read(files.path("rows.npy")).ok(), std::fs::read(files.path("columns.npy")).ok());
    for name in ["rows.npy", "columns.npy", "double.npy"] {
        assert_eq!(output(name), expected, "{name}");
    }
}

#[test]
fn x_and_y_may_be_of_16_bits() {
    let shape = [3, 40, INPUT];
    let values = random(98, shape.iter().product());
    let halves = values.iter().flat_map(|&x| f16::from_f32(x).to_le_bytes()).collect();
    let files = Files::new(&weights(), &[("x".into(), Dtype::F16, shape.to_vec(), halves)]);
    let y = |adapter: &[&str], name: &str| {
        let options = [adapter, &["--check", "--json", "--select", "7", "--output-type", name]].concat();
        let report = files.forward(&options).passed().json();
        assert_eq!(report["check"]["passed"], true, "{report}");
        assert_eq!((&report["types"]["x"], &report["types"]["y"]), (&"f16".into(), &name.into()));
        let bytes = std::fs::read(files.path("output.safetensors")).expect("the output");
        let file = SafeTensors::deserialize(&bytes).expect("safetensors");
        let y = file.tensor("y").expect("y");
        (y.dtype(), y.data().to_vec())
    };
    for adapter in [&["--adapter", "cpu"][..], &[]] {
        let (dtype, wide) = y(adapter, "f32");
        assert_eq!(dtype, Dtype::F32);
        let wide: Vec<f32> = bytemuck::pod_collect_to_vec(&wide);
        let rounded = wide.iter().flat_map(|&y| f16::from_f32(y).to_le_bytes()).collect();
        assert_eq!(y(adapter, "f16"), (Dtype::F16, rounded));
        let rounded = wide.iter().flat_map(|&y| bf16::from_f32(y).to_le_bytes()).collect();
        assert_eq!(y(adapter, "bf16"), (Dtype::BF16, rounded));
    }
}

#[test]
fn weights_may_stand_behind_a_prefix() {
    let prefixed: Vec<Named> =
        weights().into_iter().map(|(name, a, b, c)| (format!("model.router.{name}"), a, b, c)).collect();
    let files = Files::new(&prefixed, &[x(&[2, 3, INPUT])]);
    files.forward(&["--prefix", "model.router.", "--check"]).passed();
}

#[test]
fn adapters_are_listed() {
    let adapters = double_routing(&["adapters", "--json"]).passed().json();
    let adapters = adapters["adapters"].as_array().expect("a list");
    assert!(!adapters.is_empty(), "these tests need an adapter; scripts/adapter.sh installs a software one");
    for (index, adapter) in adapters.iter().enumerate() {
        assert_eq!(adapter["index"], index);
        assert_eq!(adapter["default"], index == 0);
        assert!(adapter["limits"]["max_buffer_size"].as_u64() > Some(0));
        assert!(adapter["features"]["subgroup"].is_boolean());
    }
    let text = double_routing(&["adapters"]).passed().stdout;
    assert!(text.contains(adapters[0]["name"].as_str().expect("text")), "{text}");

    // By number and by a part of the name, in any case.
    let name = adapters[0]["name"].as_str().expect("text").to_uppercase();
    for adapter in ["0", &name] {
        let report = double_routing(&["check", "--case", "attend 1x1 f32 reals bias", "--adapter", adapter, "--json"]);
        assert_eq!(report.passed().json()["adapter"]["name"], adapters[0]["name"]);
    }
}

#[test]
fn check_runs_on_the_least_of_devices_and_as_another_class() {
    let names = ["matmul 9x33x5", "softmax 9x301x1"];
    for options in [&["--baseline"][..], &["--class", "discrete"], &["--baseline", "--class", "integrated", "--quick"]]
    {
        let cases = ["check", "--case", names[0], "--case", names[1], "--json"];
        let report = double_routing(&[&cases, options].concat()).passed().json();
        let ran = report["cases"].as_array().unwrap();
        for name in names {
            assert!(ran.iter().any(|case| case["name"].as_str().unwrap().starts_with(name)), "{options:?}: {report}");
        }
        assert!(ran.iter().all(|case| names.iter().any(|name| case["name"].as_str().unwrap().starts_with(name))));
    }
    // Cases that take long are left out, by name too.
    let heavy = double_routing::check::cases().into_iter().find(double_routing::check::Case::heavy).unwrap();
    double_routing(&["check", "--quick", "--case", heavy.name()]).refused(&[heavy.name()]);
}

#[test]
fn check_runs_a_case_by_its_name_or_a_part_of_it() {
    let name = "routing 37x24 7,5,3 as-written";
    let ran = double_routing(&["check", "--case", name]).passed();
    assert!(ran.stdout.contains(name) && ran.stdout.contains("pass"), "{}", ran.stdout);

    let report = double_routing(&["check", "--case", "routing 37x24", "--json"]).passed().json();
    let cases = report["cases"].as_array().expect("a list");
    assert_eq!((cases.len(), &report["passed"], &report["failed"]), (5, &5.into(), &0.into()));
    assert!(cases.iter().all(|case| case["kernel"] == "routing" && case["signal"].is_f64() && case["fault"].is_null()));
}

#[test]
fn the_demo_answers_as_pytorch_did() {
    let recorded: serde_json::Value = serde_json::from_str(include_str!("../data/held_out.json")).expect("JSON");
    for adapter in [&["--adapter", "cpu"][..], &[]] {
        let report = double_routing(&[&["demo", "--json"], adapter].concat()).passed().json();
        assert_eq!(report["correct"], recorded["correct"]);
        assert_eq!(report["accuracy"], recorded["accuracy"]);
        assert_eq!(report["same_as_torch"], recorded["total"]);
        assert_eq!(report["check"]["passed"], true);
        for language in report["languages"].as_array().expect("a list") {
            let label = language["label"].as_str().expect("text");
            assert_eq!(language["correct"], recorded["per_language"][label]["correct"], "{label}");
        }
    }
}

#[test]
fn the_demo_prints_and_draws() {
    let folder = tempfile::tempdir().expect("a folder");
    let picture = folder.path().join("picture.png");
    let ran = double_routing(&["demo", "--picture", picture.to_str().expect("text")]).passed();
    assert!(ran.stdout.contains("PyTorch") && ran.stdout.contains("most on"), "{}", ran.stdout);
    let decoder = png::Decoder::new(std::io::BufReader::new(std::fs::File::open(picture).expect("the picture")));
    let mut reader = decoder.read_info().expect("a picture");
    let mut pixels = vec![0; reader.output_buffer_size().expect("a size")];
    reader.next_frame(&mut pixels).expect("pixels");
    let coloured = pixels.chunks(3).filter(|pixel| pixel[0] != pixel[2]).count();
    assert!(coloured > pixels.len() / 3 / 50, "{coloured} coloured pixels");
}

#[test]
fn the_demo_tells_the_language_of_a_text() {
    for (text, label) in [
        ("Пароль пользователя будет изменён", "ru"),
        ("Das Kennwort wird nicht geändert", "de"),
        ("パスワードを変更しません", "ja"),
    ] {
        let report = double_routing(&["demo", "--text", text, "--json"]).passed().json();
        assert_eq!(report["guesses"][0]["label"], label, "{text}");
        let w: f64 = report["w"].as_array().expect("a list").iter().filter_map(serde_json::Value::as_f64).sum();
        assert!((w - 1.0).abs() < 1e-5, "the weights of a sentence add up to {w}");
    }
    let ran = double_routing(&["demo", "--text", "Das Kennwort wird nicht geändert"]).passed();
    assert!(ran.stdout.contains("Deutsch") && ran.stdout.contains("Das Kennwort"), "{}", ran.stdout);
}

#[test]
fn bench_measures_and_draws() {
    let folder = tempfile::tempdir().expect("a folder");
    let picture = folder.path().join("roofline.svg");
    let arguments = ["bench", "--quick", "--work", "matmul 127x129x131", "--json", "--picture"];
    let report = double_routing(&[&arguments[..], &[picture.to_str().expect("text")]].concat()).passed().json();
    let positive = |value: &serde_json::Value| {
        let number = value.as_f64().expect("a number");
        assert!(number > 0.0 && number.is_finite(), "{number}: {report}");
        number
    };
    assert!(["timestamps", "wall"].contains(&report["clock"].as_str().expect("text")), "{report}");
    let ceilings = report["ceilings"].as_array().expect("a list");
    assert_eq!(ceilings.len(), 3, "{report}");
    for ceiling in ceilings {
        positive(&ceiling["per_second"]);
    }

    let works = report["works"].as_array().expect("a list");
    assert_eq!((works.len(), &works[0]["name"]), (1, &"matmul 127x129x131 bt".into()), "{report}");
    let work = &works[0];
    let (flops, bytes) = (2 * 127 * 129 * 131, 4 * (127 * 131 + 129 * 131 + 127 * 129));
    assert_eq!(work["flops"], flops);
    assert_eq!(work["bytes_read"].as_u64().expect("bytes") + work["bytes_written"].as_u64().expect("bytes"), bytes);
    let seconds = positive(&work["seconds"]);
    assert!((positive(&work["flops_per_second"]) * seconds / f64::from(flops) - 1.0).abs() < 1e-9, "{report}");
    assert!((positive(&work["bytes_per_second"]) * seconds / bytes as f64 - 1.0).abs() < 1e-9, "{report}");
    for sample in work["samples"].as_array().expect("a list") {
        positive(sample);
    }
    positive(&work["share"]);
    positive(&work["ceiling"]["per_second"]);

    let svg = std::fs::read_to_string(picture).expect("the picture");
    assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"), "{svg}");
    for words in ["arithmetic", "127x129x131 bt", "FLOP/s"] {
        assert!(svg.contains(words), "'{words}' is missing in {svg}");
    }
    assert_eq!(std::fs::read_dir(folder.path()).expect("a folder").count(), 1, "more than the picture is left");
}

#[test]
fn growth_measures_and_draws() {
    let folder = tempfile::tempdir().expect("a folder");
    let picture = folder.path().join("growth.svg");
    let arguments = ["growth", "--quick", "--json", "--picture", picture.to_str().expect("text")];
    let report = double_routing(&arguments).passed().json();
    let curves = report["curves"].as_array().expect("a list");
    let axes: Vec<_> = curves.iter().map(|curve| curve["axis"].as_str().expect("text")).collect();
    assert_eq!(axes, ["S", "B", "in", "O"]);
    for curve in curves {
        let points = curve["points"].as_array().expect("a list");
        let of = |name: &str| points.iter().map(|point| point[name].as_f64().expect("a number")).collect::<Vec<_>>();
        let (sizes, seconds) = (of("size"), of("seconds"));
        assert!(sizes.is_sorted() && sizes[sizes.len() - 1] >= 1000.0 * sizes[0], "{curve}");
        assert!(seconds.iter().all(|&seconds| seconds > 0.0 && seconds.is_finite()), "{curve}");
        // A thousand times the work takes longer, on whatever adapter.
        assert!(seconds[seconds.len() - 1] > seconds[0], "{curve}");
        assert!(curve["exponent"].as_f64().is_some_and(f64::is_finite), "{curve}");
        assert!(curve["fitted_from"].as_f64().is_some_and(|from| sizes.contains(&from)), "{curve}");
    }
    let svg = std::fs::read_to_string(picture).expect("the picture");
    assert_eq!(svg.matches("time ∝").count(), 4, "{svg}");
}

/// Hides the drivers from the loaders of Vulkan and OpenGL.
#[cfg(target_os = "linux")]
#[test]
fn without_an_adapter_the_reference_does_the_work() {
    let hidden =
        ["VK_DRIVER_FILES", "VK_ICD_FILENAMES", "__EGL_VENDOR_LIBRARY_FILENAMES"].map(|name| (name, "/dev/null"));
    let run = |arguments: &[&str]| double_routing_with(arguments, &hidden);

    let ran = run(&["adapters"]).passed();
    assert!(ran.stdout.lines().count() == 1 && ran.stdout.contains("mesa-vulkan-drivers"), "{ran:#?}");
    let ran = run(&["demo", "--json"]).passed();
    assert_eq!(ran.json()["adapter"]["name"], "CPU reference");
    assert!(ran.stderr.lines().count() == 1 && ran.stderr.contains("mesa-vulkan-drivers"), "{ran:#?}");

    // What was asked for and is not there is an error.
    run(&["check"]).refused(&["no adapter", "mesa-vulkan-drivers"]);
    run(&["demo", "--backend", "vulkan"]).refused(&["no adapter on vulkan"]);
}

#[test]
fn tune_writes_what_tuning_reads() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("tuning.txt");
    let path = file.to_str().expect("text");
    let report = double_routing(&["tune", "--quick", "--json", "--output", path]).passed().json();
    let sizes = report["sizes"].as_array().expect("a list");
    assert_eq!(sizes.len(), 6, "{report}");
    for size in sizes {
        let tiles = size["tiles"].as_array().expect("a list");
        let rates: Vec<f64> = tiles.iter().map(|tile| tile[1].as_f64().expect("a number")).collect();
        assert!(rates.len() > 1 && rates.is_sorted_by(|a, b| a >= b) && rates[rates.len() - 1] > 0.0, "{size}");
    }
    let text = std::fs::read_to_string(&file).expect("the tuning");
    assert!(text.starts_with("# double-routing"), "{text}");
    assert_eq!(text.lines().filter(|line| !line.starts_with('#')).collect::<Vec<_>>().len(), 6, "{text}");
    double_routing(&["check", "--case", "matmul 65x63x31", "--tuning", path]).passed();
}
