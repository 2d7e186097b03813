//! What the README promises about versions is what the manifest says.

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
