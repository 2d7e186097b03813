//! What the README promises about versions is what the manifest says.

#![allow(clippy::panic, reason = "a test that cannot go on fails, and says why")]

#[test]
fn the_readme_states_the_manifests_versions() {
    let readme = include_str!("../README.md");
    let manifest = include_str!("../Cargo.toml");
    let value = |key: &str| {
        let line = manifest.lines().find_map(|line| line.strip_prefix(key)?.trim_start().strip_prefix("= \""));
        line.and_then(|rest| rest.split('"').next()).unwrap_or_default().to_string()
    };
    let (rust, wgpu) = (value("rust-version"), value("wgpu"));
    assert!(
        !rust.is_empty() && readme.contains(&format!("Rust {rust} or newer, wgpu {wgpu};")),
        "Rust {rust}, wgpu {wgpu}"
    );
}

#[test]
fn the_readme_counts_what_there_is() {
    let readme = include_str!("../README.md");
    let cases = double_routing::check::cases().len();
    assert!(readme.contains(&format!("{cases} of {cases}")), "{cases} cases");
    let variants: usize = double_routing::kernels::ALL.iter().map(|kernel| kernel.variants().len()).sum();
    let spaced = format!("{} {:03}", variants / 1000, variants % 1000);
    assert!(readme.contains(&format!("All {spaced} shader variants")), "{spaced} variants");
    let mutants = include_str!("mutants.rs").matches("fault: \"").count();
    assert!(readme.contains(&format!("{mutants} mutants")), "{mutants} mutants");
    let goldens = include_str!("goldens/goldens.json").matches("\"name\"").count();
    assert!(readme.contains(&format!("{goldens} goldens from PyTorch")), "{goldens} goldens");
}

#[test]
fn no_dependency_needs_a_newer_rust_than_the_manifest_promises() {
    let metadata = std::process::Command::new(env!("CARGO"))
        .args(["metadata", "--format-version=1", "--locked", "--manifest-path"])
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"))
        .output()
        .unwrap_or_else(|error| panic!("cargo metadata: {error}"));
    let metadata: serde_json::Value =
        serde_json::from_slice(&metadata.stdout).unwrap_or_else(|error| panic!("{error}"));
    let packages = metadata["packages"].as_array().map(Vec::as_slice).unwrap_or_default();
    let version = |text: &str| -> Vec<u32> { text.split('.').filter_map(|part| part.parse().ok()).collect() };
    let promised = version(env!("CARGO_PKG_RUST_VERSION"));
    let newer: Vec<_> = packages
        .iter()
        .filter(|package| {
            package["rust_version"].as_str().is_some_and(|needed| version(needed) > [&promised[..], &[0]].concat())
        })
        .map(|package| format!("{} {} needs Rust {}", package["name"], package["version"], package["rust_version"]))
        .collect();
    assert!(packages.len() > 50 && newer.is_empty(), "{} packages, {newer:#?}", packages.len());
}
