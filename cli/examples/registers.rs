//! What a Vulkan driver's compiler makes of exported shaders: registers, spills, occupancy, by VK_KHR_pipeline_executable_properties.
//!
//!     double-routing shader matmul --all --target spirv --language 1.6 --robust-buffers --output target/shaders
//!     cargo run --package double-routing-cli --example registers -- target/shaders
//!
//! No GPU is needed where Mesa's RADV is: with `RADV_FORCE_FAMILY=navi21` it compiles for that chip and runs nothing.

// An example prints, and one that cannot go on says why.
#![allow(clippy::print_stdout)]

use std::{
    collections::BTreeMap,
    ffi::CStr,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, bail, ensure};
use ash::{khr, vk};
use serde_json::Value;

/// A shader, what its interface says, and what the driver says of it.
struct Row {
    kernel: String,
    names: BTreeMap<String, String>,
    statistics: Vec<(String, String)>,
}

fn main() -> anyhow::Result<()> {
    let folders: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    ensure!(!folders.is_empty(), "registers FOLDER...: folders that `double-routing shader --target spirv` wrote");
    let mut shaders = Vec::new();
    for folder in &folders {
        for entry in fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))? {
            shaders.push(entry?.path());
        }
    }
    shaders.retain(|path| path.extension().is_some_and(|extension| extension == "spv"));
    shaders.sort();
    // SAFETY: the driver is a Vulkan driver, and the shaders are valid SPIR-V for it, as spirv-val can tell.
    unsafe {
        let entry = ash::Entry::load().context("no Vulkan")?;
        let application = vk::ApplicationInfo::default().api_version(vk::API_VERSION_1_3);
        let instance =
            entry.create_instance(&vk::InstanceCreateInfo::default().application_info(&application), None)?;
        let compiler = Compiler::open(&instance)?;
        let rows = shaders.iter().map(|path| compiler.compile(path)).collect::<anyhow::Result<Vec<_>>>();
        compiler.device.destroy_device(None);
        instance.destroy_instance(None);
        println!("{}\n", compiler.about);
        print(&rows?);
    }
    Ok(())
}

/// A device that tells about its pipelines.
struct Compiler {
    device: ash::Device,
    executables: khr::pipeline_executable_properties::Device,
    about: String,
}

impl Compiler {
    unsafe fn open(instance: &ash::Instance) -> anyhow::Result<Self> {
        unsafe {
            for physical in instance.enumerate_physical_devices()? {
                let extensions = instance.enumerate_device_extension_properties(physical)?;
                let has = |wanted: &CStr| {
                    extensions.iter().any(|extension| extension.extension_name_as_c_str() == Ok(wanted))
                };
                if !has(khr::pipeline_executable_properties::NAME) {
                    continue;
                }
                let mut driver = vk::PhysicalDeviceDriverProperties::default();
                let mut properties = vk::PhysicalDeviceProperties2::default().push_next(&mut driver);
                instance.get_physical_device_properties2(physical, &mut properties);
                let name = properties.properties.device_name_as_c_str()?.to_string_lossy().into_owned();
                let driver = [driver.driver_name_as_c_str()?, driver.driver_info_as_c_str()?];
                let about = format!("{name}, {}", driver.map(CStr::to_string_lossy).join(" "));

                let mut executables = vk::PhysicalDevicePipelineExecutablePropertiesFeaturesKHR::default();
                let mut robustness = vk::PhysicalDeviceRobustness2FeaturesEXT::default();
                let mut features =
                    vk::PhysicalDeviceFeatures2::default().push_next(&mut executables).push_next(&mut robustness);
                instance.get_physical_device_features2(physical, &mut features);
                let shader_int64 = features.features.shader_int64;
                ensure!(robustness.robust_buffer_access2 == vk::TRUE, "{about}: no robustBufferAccess2");
                ensure!(executables.pipeline_executable_info == vk::TRUE, "{about}: nothing about pipelines");

                // What wgpu turns on for these shaders, and what tells about them.
                let mut executables =
                    vk::PhysicalDevicePipelineExecutablePropertiesFeaturesKHR::default().pipeline_executable_info(true);
                let mut robustness = vk::PhysicalDeviceRobustness2FeaturesEXT::default().robust_buffer_access2(true);
                let mut sizes = vk::PhysicalDeviceSubgroupSizeControlFeatures::default().subgroup_size_control(true);
                let mut features = vk::PhysicalDeviceFeatures2::default()
                    .features(vk::PhysicalDeviceFeatures {
                        robust_buffer_access: vk::TRUE,
                        shader_int64,
                        ..Default::default()
                    })
                    .push_next(&mut executables)
                    .push_next(&mut robustness)
                    .push_next(&mut sizes);
                let queues = [vk::DeviceQueueCreateInfo::default().queue_priorities(&[1.0])];
                let names = [khr::pipeline_executable_properties::NAME.as_ptr(), ash::ext::robustness2::NAME.as_ptr()];
                let device = vk::DeviceCreateInfo::default()
                    .queue_create_infos(&queues)
                    .enabled_extension_names(&names)
                    .push_next(&mut features);
                let device = instance.create_device(physical, &device, None)?;
                let executables = khr::pipeline_executable_properties::Device::new(instance, &device);
                return Ok(Self { device, executables, about });
            }
            bail!("no Vulkan driver here tells what its compiler makes of shaders")
        }
    }

    unsafe fn compile(&self, path: &Path) -> anyhow::Result<Row> {
        let about = || path.display().to_string();
        let interface: Value = serde_json::from_slice(&fs::read(path.with_extension("json"))?).with_context(about)?;
        let code = ash::util::read_spv(&mut fs::File::open(path)?).with_context(about)?;
        let number = |value: &Value| value["place"]["binding"].as_u64().and_then(|number| u32::try_from(number).ok());
        let parameters = [(vk::DescriptorType::UNIFORM_BUFFER, &interface["parameters"])];
        let storage = interface["bindings"].as_array().map_or(&[][..], Vec::as_slice);
        let storage = storage.iter().map(|buffer| (vk::DescriptorType::STORAGE_BUFFER, buffer));
        let bindings = parameters
            .into_iter()
            .chain(storage)
            .map(|(ty, buffer)| {
                Some(
                    vk::DescriptorSetLayoutBinding::default()
                        .binding(number(buffer)?)
                        .descriptor_type(ty)
                        .descriptor_count(1)
                        .stage_flags(vk::ShaderStageFlags::COMPUTE),
                )
            })
            .collect::<Option<Vec<_>>>()
            .with_context(about)?;
        let needs_subgroups = interface["features"].to_string().contains("subgroups");
        let flags = if needs_subgroups {
            vk::PipelineShaderStageCreateFlags::ALLOW_VARYING_SUBGROUP_SIZE
        } else {
            vk::PipelineShaderStageCreateFlags::empty()
        };
        // SAFETY: everything was made by this device, and is destroyed after its last use.
        let statistics = unsafe {
            let device = &self.device;
            let sets = [device.create_descriptor_set_layout(
                &vk::DescriptorSetLayoutCreateInfo::default().bindings(&bindings),
                None,
            )?];
            let layout =
                device.create_pipeline_layout(&vk::PipelineLayoutCreateInfo::default().set_layouts(&sets), None)?;
            let module = device.create_shader_module(&vk::ShaderModuleCreateInfo::default().code(&code), None)?;
            let stage = vk::PipelineShaderStageCreateInfo::default()
                .flags(flags)
                .stage(vk::ShaderStageFlags::COMPUTE)
                .module(module)
                .name(c"main");
            let create = vk::ComputePipelineCreateInfo::default()
                .flags(vk::PipelineCreateFlags::CAPTURE_STATISTICS_KHR)
                .stage(stage)
                .layout(layout);
            let pipelines = device
                .create_compute_pipelines(vk::PipelineCache::null(), &[create], None)
                .map_err(|(_, error)| error)
                .with_context(about)?;
            let executable = vk::PipelineExecutableInfoKHR::default().pipeline(pipelines[0]).executable_index(0);
            let statistics = self.executables.get_pipeline_executable_statistics(&executable)?;
            device.destroy_pipeline(pipelines[0], None);
            device.destroy_shader_module(module, None);
            device.destroy_pipeline_layout(layout, None);
            device.destroy_descriptor_set_layout(sets[0], None);
            statistics
        };
        let statistics = statistics
            .iter()
            .map(|statistic| {
                // SAFETY: the format says which of the values it is.
                let value = unsafe {
                    match statistic.format {
                        vk::PipelineExecutableStatisticFormatKHR::FLOAT64 => format!("{:.1}", statistic.value.f64),
                        vk::PipelineExecutableStatisticFormatKHR::INT64 => statistic.value.i64.to_string(),
                        _ => statistic.value.u64.to_string(),
                    }
                };
                Ok((statistic.name_as_c_str()?.to_string_lossy().into_owned(), value))
            })
            .collect::<anyhow::Result<_>>()?;
        let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let mut names: BTreeMap<_, _> = interface["names"]
            .as_object()
            .map(|names| names.iter().map(|(name, value)| (name.clone(), text(value))).collect())
            .unwrap_or_default();
        names.insert("workgroup memory".into(), interface["workgroup_memory_bytes"].to_string());
        Ok(Row { kernel: text(&interface["kernel"]), names, statistics })
    }
}

/// A Markdown table with the names in which the shaders differ.
fn print(rows: &[Row]) {
    let mut names: Vec<&String> = rows.iter().flat_map(|row| row.names.keys()).collect();
    names.sort();
    names.dedup();
    names.retain(|name| rows.iter().any(|row| row.names.get(*name) != rows[0].names.get(*name)));
    let Some(first) = rows.first() else { return println!("no shaders") };
    let telling = |name: &&str| !["hash", "Hash", "Pre-Sched"].iter().any(|word| name.contains(word));
    let of_driver = first.statistics.iter().map(|(name, _)| name.as_str()).filter(telling);
    let header: Vec<&str> =
        ["kernel"].into_iter().chain(names.iter().map(|name| name.as_str())).chain(of_driver).collect();
    println!("| {} |\n|{}", header.join(" | "), "---|".repeat(header.len()));
    for Row { kernel, names: values, statistics } in rows {
        let values = names.iter().map(|name| values.get(*name).map_or("", String::as_str));
        let statistics = statistics.iter().filter(|(name, _)| telling(&name.as_str())).map(|(_, value)| value.as_str());
        let cells: Vec<&str> = [kernel.as_str()].into_iter().chain(values).chain(statistics).collect();
        println!("| {} |", cells.join(" | "));
    }
}
