//! Every variant that the host can ask for, seen by naga: valid, within WebGPU's default limits, and bound as the host binds it.
//! The command's own tests translate each of them for every backend.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test that cannot go on fails, and says why"
)]

use double_routing::{
    Variant,
    kernels::{ALL, Access, Kernel, Slot, Tile},
    wgpu,
};
use naga::{
    AddressSpace, ImageClass, ImageDimension, Module, ShaderStage, StorageAccess, StorageFormat, TypeInner,
    proc::Layouter,
    valid::{Capabilities, ValidationFlags, Validator},
};

#[test]
fn every_variant_is_valid_and_bound_as_the_host_binds_it() {
    for kernel in ALL {
        let variants = kernel.variants();
        println!("{}: {} variants", kernel.name(), variants.len());
        let half = variants.len().div_ceil(2);
        std::thread::scope(|threads| {
            for part in variants.chunks(half) {
                threads.spawn(|| part.iter().for_each(|variant| examine(kernel, variant)));
            }
        });
        for (at, variant) in variants.iter().enumerate() {
            assert!(!variants[..at].contains(variant), "{}: {variant} is listed twice", kernel.name());
        }
    }
}

fn examine(kernel: &Kernel, variant: &Variant) {
    let about = format!("{} {variant}", kernel.name());
    let wgsl = kernel.wgsl(variant).unwrap_or_else(|error| panic!("{about}: {error}"));
    let module = naga::front::wgsl::parse_str(&wgsl).unwrap_or_else(|e| panic!("{about}: {}", e.emit_to_string(&wgsl)));
    // Only a variant that names subgroups, words of 64 bits or matrix units may use them; nothing else goes beyond what every device
    // has.
    let mut capabilities = Capabilities::empty();
    let matrices = variant.to_string().contains("=cooperative");
    capabilities.set(Capabilities::COOPERATIVE_MATRIX | Capabilities::SHADER_FLOAT16, matrices);
    capabilities.set(Capabilities::SUBGROUP, matrices || variant.to_string().contains("=subgroup"));
    capabilities.set(Capabilities::SHADER_INT64, variant.to_string().contains("=wide_"));
    Validator::new(ValidationFlags::all(), capabilities)
        .subgroup_stages(naga::valid::ShaderStages::COMPUTE)
        .subgroup_operations(naga::valid::SubgroupOperationSet::all())
        .validate(&module)
        .unwrap_or_else(|error| panic!("{about}: {}", error.emit_to_string(&wgsl)));
    bindings(&about, kernel, variant, &module);
    parameters(&about, kernel, &module);
    limits(&about, variant, &module);
}

fn bindings(about: &str, kernel: &Kernel, variant: &Variant, module: &Module) {
    let mut declared: Vec<(u32, String, AddressSpace)> = module
        .global_variables
        .iter()
        .filter_map(|(_, variable)| {
            let binding = variable.binding.as_ref()?;
            assert_eq!(binding.group, 0, "{about}");
            Some((binding.binding, variable.name.clone().unwrap_or_default(), variable.space))
        })
        .collect();
    declared.sort_by_key(|(binding, ..)| *binding);
    let mut expected = vec![(0, "params".to_string(), AddressSpace::Uniform)];
    for slot in kernel.slots(variant).unwrap_or_else(|error| panic!("{about}: {error}")) {
        let access = match slot.access {
            Access::Read => StorageAccess::LOAD,
            Access::Write => StorageAccess::LOAD | StorageAccess::STORE,
            Access::ReadTexels | Access::WriteTexels => {
                texels(about, &slot, module);
                expected.push((slot.binding, slot.name.to_string(), AddressSpace::Handle));
                continue;
            }
        };
        expected.push((slot.binding, slot.name.to_string(), AddressSpace::Storage { access }));
    }
    assert_eq!(declared, expected, "{about}");
}

/// The texture is of the format that the host makes, and used as the slot says.
fn texels(about: &str, slot: &Slot, module: &Module) {
    let (_, variable) = module
        .global_variables
        .iter()
        .find(|(_, variable)| variable.name.as_deref() == Some(slot.name))
        .unwrap_or_else(|| panic!("{about}: no {}", slot.name));
    let access = if slot.access == Access::ReadTexels { StorageAccess::LOAD } else { StorageAccess::STORE };
    let expected = TypeInner::Image {
        dim: ImageDimension::D2,
        arrayed: false,
        class: ImageClass::Storage { format: StorageFormat::Rgba32Float, access },
    };
    assert_eq!(module.types[variable.ty].inner, expected, "{about}");
}

fn parameters(about: &str, kernel: &Kernel, module: &Module) {
    let (_, params) = module
        .global_variables
        .iter()
        .find(|(_, variable)| variable.space == AddressSpace::Uniform)
        .unwrap_or_else(|| panic!("{about}: no parameters"));
    let mut fields = Vec::new();
    flatten(module, params.ty, "", 0, &mut fields);
    assert_eq!(fields, kernel.params(), "{about}");
}

fn flatten(
    module: &Module,
    ty: naga::Handle<naga::Type>,
    prefix: &str,
    start: usize,
    fields: &mut Vec<(String, usize)>,
) {
    match &module.types[ty].inner {
        TypeInner::Struct { members, .. } => {
            for member in members {
                let name = member.name.clone().unwrap_or_default();
                let name = if prefix.is_empty() { name } else { format!("{prefix}.{name}") };
                flatten(module, member.ty, &name, start + member.offset as usize, fields);
            }
        }
        TypeInner::Scalar(naga::Scalar { kind: naga::ScalarKind::Uint, width: 4 }) => {
            fields.push((prefix.into(), start))
        }
        other => panic!("{prefix} is {other:?}, expected u32"),
    }
}

fn limits(about: &str, variant: &Variant, module: &Module) {
    let limits = wgpu::Limits::default();
    let entry = &module.entry_points[0];
    assert_eq!(
        (module.entry_points.len(), entry.name.as_str(), entry.stage),
        (1, "main", ShaderStage::Compute),
        "{about}"
    );
    let [x, y, z] = entry.workgroup_size;
    assert!(x * y * z <= limits.max_compute_invocations_per_workgroup, "{about}: {x} x {y} x {z} invocations");
    assert!(x <= limits.max_compute_workgroup_size_x && y <= limits.max_compute_workgroup_size_y && z == 1, "{about}");
    let mut layouter = Layouter::default();
    layouter.update(module.to_ctx()).unwrap_or_else(|error| panic!("{about}: {error}"));
    let shared: u32 = module
        .global_variables
        .iter()
        .filter(|(_, variable)| variable.space == AddressSpace::WorkGroup)
        .map(|(_, variable)| layouter[variable.ty].size)
        .sum();
    // A tile that takes more than every device has says so, and is for those that have it.
    let of_tile = Tile::all().find(|tile| tile.is_of(variant)).map_or(0, Tile::workgroup_bytes);
    let most = limits.max_compute_workgroup_storage_size.max(of_tile);
    assert!(shared <= most, "{about}: {shared} bytes of workgroup memory");
    let storage =
        module.global_variables.iter().filter(|(_, v)| matches!(v.space, AddressSpace::Storage { .. })).count();
    assert!(storage as u32 <= double_routing::Gpu::required_limits().max_storage_buffers_per_shader_stage, "{about}");
}
