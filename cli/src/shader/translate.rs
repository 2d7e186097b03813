//! A variant in the language of a backend, by naga with the options that wgpu 30 gives it there for the crate's shaders.

use std::collections::BTreeMap;

use anyhow::{Context, anyhow, bail, ensure};
use clap::ValueEnum;
use double_routing::{
    Gpu, Variant,
    kernels::{Access, Kernel, Tile},
};
use naga::{
    AddressSpace, Handle, Module, ResourceBinding, ShaderStage, StorageAccess, Type, TypeInner,
    back::{glsl, hlsl, msl, pipeline_constants::process_overrides, spv},
    proc::{BoundsCheckPolicies, BoundsCheckPolicy, Layouter},
    valid::{Capabilities, ModuleInfo, ShaderStages, SubgroupOperationSet, ValidationFlags, Validator},
};
use serde::Serialize;

/// The name of every kernel's entry point in WGSL.
const ENTRY_POINT: &str = "main";

/// A language to translate to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Target {
    /// WebGPU's
    Wgsl,
    /// Vulkan's
    Spirv,
    /// Metal's
    Msl,
    /// DX12's
    Hlsl,
    /// OpenGL's
    Glsl,
}

impl Target {
    #[cfg(test)]
    pub const ALL: &[Self] = &[Self::Wgsl, Self::Spirv, Self::Msl, Self::Hlsl, Self::Glsl];

    /// The name of the target, and the usual ending of a file's name.
    pub const fn names(self) -> (&'static str, &'static str) {
        match self {
            Self::Wgsl => ("wgsl", "wgsl"),
            Self::Spirv => ("spirv", "spv"),
            Self::Msl => ("msl", "metal"),
            Self::Hlsl => ("hlsl", "hlsl"),
            Self::Glsl => ("glsl", "glsl"),
        }
    }

    /// Why it has nothing for a variant with these needs, where that is so.
    pub const fn lacks(self, features: Features) -> Option<&'static str> {
        match self {
            Self::Wgsl if features.matrices => Some("cooperative matrices, which are naga's addition to WGSL"),
            Self::Msl if features.matrices => {
                Some("cooperative matrices, which naga loads for Metal element by element only")
            }
            Self::Hlsl | Self::Glsl if features.matrices => Some("cooperative matrices, which wgpu has not there"),
            Self::Hlsl if features.workgroup_bytes > 32 << 10 => {
                Some("more than 32 KiB of workgroup memory, which Direct3D 12 does not have")
            }
            Self::Wgsl if features.int64 => Some("64-bit integers, which are naga's addition to WGSL"),
            Self::Wgsl if matches!(features.unseen, Unseen::Barriers) => {
                Some("barriers in loops that WGSL cannot see to be uniform, which naga lets pass")
            }
            Self::Glsl if features.int64 => Some("64-bit integers, which wgpu has in no GLSL"),
            _ => None,
        }
    }

    /// The versions of the language that wgpu asks for, the default first: the lowest that has all that the shaders use. What is
    /// written for it, later ones take too.
    pub const fn versions(self) -> &'static [&'static str] {
        match self {
            Self::Wgsl => &["1"],
            Self::Spirv => &["1.3", "1.5", "1.6"],
            // macOS 11, iOS 14 and later.
            Self::Msl => &["2.3", "2.4", "3.0", "3.1", "3.2", "4.0"],
            Self::Hlsl => &["6.0", "6.1", "6.2", "6.3", "6.4", "6.5", "6.6", "6.7", "6.8"],
            Self::Glsl => &["310es", "320es", "430", "440", "450"],
        }
    }
}

/// A target in one of its versions.
#[derive(Debug, Clone, Copy)]
pub struct Language {
    pub target: Target,
    pub version: &'static str,
    /// The device reads zeros beyond a buffer's end and writes nothing there, so that SPIR-V needs no checks of its own.
    pub robust_buffers: bool,
}

impl Language {
    pub fn new(target: Target, version: Option<&str>, robust_buffers: bool) -> anyhow::Result<Self> {
        let (name, _) = target.names();
        let versions = target.versions();
        let version = match version {
            None => versions[0],
            Some(wanted) => *versions
                .iter()
                .find(|version| **version == wanted)
                .with_context(|| format!("--language is {wanted}, and for {name} one of {}", versions.join(", ")))?,
        };
        ensure!(!robust_buffers || target == Target::Spirv, "--robust-buffers is for spirv, not for {name}");
        Ok(Self { target, version, robust_buffers })
    }

    /// The version as a pair of numbers, where it is one.
    fn pair(self) -> anyhow::Result<(u8, u8)> {
        let (major, minor) = self.version.split_once('.').context("a version without a dot")?;
        Ok((major.parse()?, minor.parse()?))
    }
}

/// What a shader needs of a device beyond what every device has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Features {
    pub subgroups: bool,
    pub int64: bool,
    /// Cooperative matrices, and f16 as a type of values.
    pub matrices: bool,
    /// Of workgroup memory, for a tile.
    pub workgroup_bytes: u32,
    unseen: Unseen,
}

/// What stands in loops that all invocations run alike, as they follow from the results of reductions or from the workgroup,
/// where WGSL's analysis takes whatever came near a lane's number to differ from lane to lane. Of the backends only a browser's
/// asks for the analysis.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unseen {
    Nothing,
    /// A directive turns the analysis off.
    SubgroupFunctions,
    /// Nothing turns it off.
    Barriers,
}

impl Features {
    /// What a variant's names say that it needs.
    pub fn of(variant: &Variant) -> Self {
        let text = variant.to_string();
        let has = |part| text.contains(part);
        let unseen = if has("STAGE=select") && has("LANES_BY=subgroups") {
            Unseen::Barriers
        } else if has("RAGGED_LOOPS=true") || (has("STAGE=select") && has("LANES_BY=subgroup")) {
            Unseen::SubgroupFunctions
        } else {
            Unseen::Nothing
        };
        let matrices = has("=cooperative");
        let tile = Tile::all().find(|tile| tile.is_of(variant));
        Self {
            subgroups: matrices || has("=subgroup"),
            int64: has("=wide_"),
            matrices,
            workgroup_bytes: tile.map_or(0, Tile::workgroup_bytes),
            unseen,
        }
    }

    pub fn names(self) -> Vec<&'static str> {
        [(self.subgroups, "subgroups"), (self.int64, "64-bit integers"), (self.matrices, "cooperative matrices")]
            .into_iter()
            .filter_map(|(needs, name)| needs.then_some(name))
            .collect()
    }
}

/// A variant as naga sees it.
#[derive(Debug)]
pub struct Shader {
    pub wgsl: String,
    pub module: Module,
    info: ModuleInfo,
    pub features: Features,
}

impl Shader {
    pub fn new(kernel: &Kernel, variant: &Variant) -> anyhow::Result<Self> {
        let wgsl = kernel.wgsl(variant)?;
        let features = Features::of(variant);
        let module = naga::front::wgsl::parse_str(&wgsl).map_err(|error| anyhow!(error.emit_to_string(&wgsl)))?;
        let mut capabilities = Capabilities::empty();
        capabilities.set(Capabilities::SUBGROUP, features.subgroups);
        capabilities.set(Capabilities::SHADER_INT64, features.int64);
        capabilities.set(Capabilities::COOPERATIVE_MATRIX | Capabilities::SHADER_FLOAT16, features.matrices);
        let info = Validator::new(ValidationFlags::all(), capabilities)
            .subgroup_stages(ShaderStages::COMPUTE)
            .subgroup_operations(SubgroupOperationSet::all())
            .validate(&module)
            .map_err(|error| anyhow!(error.emit_to_string(&wgsl)))?;
        // As wgpu does for every pipeline: without overrides this changes nothing.
        let (module, info) =
            process_overrides(&module, &info, Some((ShaderStage::Compute, ENTRY_POINT)), &Default::default())?;
        let (module, info) = (module.into_owned(), info.into_owned());
        ensure!(module.entry_points.len() == 1, "{} has {} entry points", kernel.name(), module.entry_points.len());
        Ok(Self { wgsl, module, info, features })
    }

    pub fn workgroup_size(&self) -> [u32; 3] {
        self.module.entry_points[0].workgroup_size
    }

    /// Bytes of memory that a workgroup shares.
    pub fn workgroup_memory(&self) -> anyhow::Result<u32> {
        Ok(self.workgroup_variables()?.sum())
    }

    /// The bytes of each variable in a workgroup's memory.
    fn workgroup_variables(&self) -> anyhow::Result<impl Iterator<Item = u32>> {
        let mut layouter = Layouter::default();
        layouter.update(self.module.to_ctx())?;
        let used = |handle: Handle<naga::GlobalVariable>| !self.info.get_entry_point(0)[handle].is_empty();
        Ok(self
            .module
            .global_variables
            .iter()
            .filter(move |&(handle, variable)| variable.space == AddressSpace::WorkGroup && used(handle))
            .map(move |(_, variable)| layouter[variable.ty].size))
    }

    /// What it binds, in the order of the numbers.
    pub fn resources(&self) -> Vec<Resource> {
        let mut resources: Vec<_> = self
            .module
            .global_variables
            .iter()
            .filter_map(|(handle, variable)| {
                let access = match variable.space {
                    AddressSpace::Storage { access } if access.contains(StorageAccess::STORE) => Some(Access::Write),
                    AddressSpace::Storage { .. } => Some(Access::Read),
                    AddressSpace::Handle => Some(texels_access(&self.module.types[variable.ty].inner)?),
                    _ => None,
                };
                Some(Resource {
                    handle,
                    binding: variable.binding?,
                    name: variable.name.clone().unwrap_or_default(),
                    ty: variable.ty,
                    access,
                })
            })
            .collect();
        resources.sort_by_key(|resource| resource.binding);
        resources
    }

    pub fn translate(&self, language: Language) -> anyhow::Result<Translation> {
        if let Some(reason) = language.target.lacks(self.features) {
            bail!("it has {reason}");
        }
        let resources = self.resources();
        match language.target {
            Target::Wgsl => Ok(self.wgsl(&resources)),
            Target::Spirv => self.spirv(language, &resources),
            Target::Msl => self.msl(language, &resources),
            Target::Hlsl => self.hlsl(language, &resources),
            Target::Glsl => self.glsl(language, &resources),
        }
    }

    fn wgsl(&self, resources: &[Resource]) -> Translation {
        // The standard asks for it; naga does without, and does not know it yet.
        let enabled = if self.features.subgroups { "enable subgroups;\n" } else { "" };
        let unseen = self.features.unseen == Unseen::SubgroupFunctions;
        let analysed = if unseen { "diagnostic(off, subgroup_uniformity);\n" } else { "" };
        Translation {
            code: format!("{enabled}{analysed}{}", self.wgsl).into_bytes(),
            entry_point: ENTRY_POINT.into(),
            places: resources
                .iter()
                .map(|Resource { binding, .. }| Place::Group { group: binding.group, binding: binding.binding })
                .collect(),
            metal: None,
            compiler_options: Vec::new(),
        }
    }

    /// As wgpu-hal's `vulkan/device.rs` and `vulkan/adapter.rs`.
    fn spirv(&self, language: Language, resources: &[Resource]) -> anyhow::Result<Translation> {
        let checks = Gpu::shader_checks();
        let (vulkan, zeroed_by_device) = match language.version {
            "1.3" => ("1.1", false),
            "1.5" => ("1.2", false),
            _ => ("1.3", true),
        };
        let mut capabilities = vec![
            spv::Capability::Shader,
            spv::Capability::Matrix,
            spv::Capability::Sampled1D,
            spv::Capability::Image1D,
            spv::Capability::ImageQuery,
            spv::Capability::DerivativeControl,
            spv::Capability::StorageImageExtendedFormats,
        ];
        if self.features.subgroups {
            capabilities.extend([
                spv::Capability::GroupNonUniform,
                spv::Capability::GroupNonUniformVote,
                spv::Capability::GroupNonUniformArithmetic,
                spv::Capability::GroupNonUniformBallot,
                spv::Capability::GroupNonUniformShuffle,
                spv::Capability::GroupNonUniformShuffleRelative,
                spv::Capability::GroupNonUniformQuad,
            ]);
        }
        if self.features.int64 {
            capabilities.push(spv::Capability::Int64);
        }
        if self.features.matrices {
            capabilities.extend([
                spv::Capability::CooperativeMatrixKHR,
                spv::Capability::VulkanMemoryModel,
                spv::Capability::Float16,
                spv::Capability::StorageBuffer16BitAccess,
                spv::Capability::UniformAndStorageBuffer16BitAccess,
            ]);
        }
        let numbered: Vec<_> = (0..).zip(resources).map(|(number, resource)| (resource.binding, number)).collect();
        let options = spv::Options {
            lang_version: language.pair()?,
            flags: spv::WriterFlags::LABEL_VARYINGS | spv::WriterFlags::FORCE_POINT_SIZE,
            fake_missing_bindings: false,
            binding_map: numbered
                .iter()
                .map(|&(resource, binding)| {
                    let set = resource.group;
                    (resource, spv::BindingInfo { descriptor_set: set, binding, binding_array_size: None })
                })
                .collect(),
            capabilities: Some(capabilities.into_iter().collect()),
            bounds_check_policies: BoundsCheckPolicies {
                index: restrict_if(checks.bounds_checks),
                buffer: restrict_if(checks.bounds_checks && !language.robust_buffers),
                image_load: restrict_if(checks.bounds_checks),
                binding_array: BoundsCheckPolicy::Unchecked,
            },
            zero_initialize_workgroup_memory: match (zeroes_workgroup_memory(), zeroed_by_device) {
                (false, _) => spv::ZeroInitializeWorkgroupMemoryMode::None,
                (true, true) => spv::ZeroInitializeWorkgroupMemoryMode::Native,
                (true, false) => spv::ZeroInitializeWorkgroupMemoryMode::Polyfill,
            },
            force_loop_bounding: checks.force_loop_bounding,
            use_storage_input_output_16: false,
            debug_info: None,
            emit_int_div_checks: checks.int_div_checks,
            ..Default::default()
        };
        let pipeline = spv::PipelineOptions { entry_point: ENTRY_POINT.into(), shader_stage: ShaderStage::Compute };
        let words = spv::write_vec(&self.module, &self.info, &options, Some(&pipeline))?;
        let mut compiler_options = vec![format!("Vulkan {vulkan}")];
        if language.robust_buffers {
            compiler_options.push("robustBufferAccess2".into());
        }
        Ok(Translation {
            code: words.iter().flat_map(|word| word.to_le_bytes()).collect(),
            entry_point: ENTRY_POINT.into(),
            places: numbered.iter().map(|&(resource, binding)| Place::Set { set: resource.group, binding }).collect(),
            metal: None,
            compiler_options,
        })
    }

    /// As wgpu-hal's `metal/device.rs`.
    fn msl(&self, language: Language, resources: &[Resource]) -> anyhow::Result<Translation> {
        let checks = Gpu::shader_checks();
        let (mut buffers, mut textures) = (0, 0);
        let mut places = Vec::new();
        let mut targets = BTreeMap::new();
        for resource in resources {
            let mutable = matches!(resource.access, Some(Access::Write | Access::WriteTexels));
            let (target, place) = if resource.is_texture() {
                let target = msl::BindTarget { texture: Some(textures), mutable, ..Default::default() };
                textures += 1;
                (target, Place::Texture { texture: (textures - 1).into() })
            } else {
                let target = msl::BindTarget { buffer: Some(buffers), mutable, ..Default::default() };
                buffers += 1;
                (target, Place::Buffer { buffer: (buffers - 1).into() })
            };
            targets.insert(resource.binding, target);
            places.push(place);
        }
        // Behind the buffers comes one with the sizes of those that have an array without a length.
        let sizes_buffer = buffers;
        let resources_of_entry =
            msl::EntryPointResources { resources: targets, immediates_buffer: None, sizes_buffer: Some(sizes_buffer) };
        let options = msl::Options {
            lang_version: language.pair()?,
            per_entry_point_map: BTreeMap::from([(ENTRY_POINT.to_owned(), resources_of_entry)]),
            inline_samplers: Vec::new(),
            spirv_cross_compatibility: false,
            fake_missing_bindings: false,
            bounds_check_policies: BoundsCheckPolicies {
                index: restrict_if(checks.bounds_checks),
                buffer: restrict_if(checks.bounds_checks),
                image_load: restrict_if(checks.bounds_checks),
                binding_array: BoundsCheckPolicy::Unchecked,
            },
            zero_initialize_workgroup_memory: zeroes_workgroup_memory(),
            force_loop_bounding: checks.force_loop_bounding,
            emit_int_div_checks: checks.int_div_checks,
            ..Default::default()
        };
        let pipeline = msl::PipelineOptions {
            entry_point: Some((ShaderStage::Compute, ENTRY_POINT.into())),
            vertex_pulling_transform: true,
            ..Default::default()
        };
        let (text, info) = msl::write_string(&self.module, &self.info, &options, &pipeline)?;
        let (major, minor) = language.pair()?;
        // In the order of their declarations.
        let mut sized: Vec<_> = resources.iter().filter(|resource| resource.is_unsized(&self.module)).collect();
        sized.sort_by_key(|resource| resource.handle);
        Ok(Translation {
            code: text.into_bytes(),
            entry_point: only_name(info.entry_point_names)?,
            places,
            metal: Some(Metal {
                buffer_sizes: (!sized.is_empty()).then(|| BufferSizes {
                    buffer: sizes_buffer.into(),
                    of: sized.iter().map(|resource| resource.name.clone()).collect(),
                }),
                threadgroup_memory_lengths: self
                    .workgroup_variables()?
                    .map(|bytes| bytes.next_multiple_of(16))
                    .collect(),
            }),
            compiler_options: vec![
                format!("languageVersion = MTLLanguageVersion{major}_{minor}"),
                "preserveInvariance = YES".into(),
            ],
        })
    }

    /// As wgpu-hal's `dx12/device.rs` and `dx12/shader_compilation.rs`.
    fn hlsl(&self, language: Language, resources: &[Resource]) -> anyhow::Result<Translation> {
        let checks = Gpu::shader_checks();
        let (mut cbv, mut srv, mut uav) = (0, 0, 0);
        let mut binding_map = hlsl::BindingMap::new();
        let mut places = Vec::new();
        for resource in resources {
            let (letter, counter) = match resource.access {
                None => ('b', &mut cbv),
                Some(Access::Read) => ('t', &mut srv),
                Some(Access::Write | Access::ReadTexels | Access::WriteTexels) => ('u', &mut uav),
            };
            let target = hlsl::BindTarget { space: 0, register: *counter, ..Default::default() };
            places.push(Place::Register { register: format!("{letter}{counter}"), space: target.space });
            binding_map.insert(resource.binding, target);
            *counter += 1;
        }
        let (major, minor) = language.pair()?;
        let shader_model = match minor {
            0 => hlsl::ShaderModel::V6_0,
            1 => hlsl::ShaderModel::V6_1,
            2 => hlsl::ShaderModel::V6_2,
            3 => hlsl::ShaderModel::V6_3,
            4 => hlsl::ShaderModel::V6_4,
            5 => hlsl::ShaderModel::V6_5,
            6 => hlsl::ShaderModel::V6_6,
            7 => hlsl::ShaderModel::V6_7,
            _ => hlsl::ShaderModel::V6_8,
        };
        let options = hlsl::Options {
            shader_model,
            binding_map,
            fake_missing_bindings: false,
            // Where the number of workgroups would come from, behind the other constants.
            special_constants_binding: Some(hlsl::BindTarget { space: 0, register: cbv, ..Default::default() }),
            zero_initialize_workgroup_memory: zeroes_workgroup_memory(),
            restrict_indexing: checks.bounds_checks,
            force_loop_bounding: checks.force_loop_bounding,
            ..Default::default()
        };
        let pipeline = hlsl::PipelineOptions { entry_point: Some((ShaderStage::Compute, ENTRY_POINT.into())) };
        let mut text = String::new();
        let info = hlsl::Writer::new(&mut text, &options, &pipeline).write(&self.module, &self.info, None)?;
        let entry_point = only_name(info.entry_point_names)?;
        let profile = format!("cs_{major}_{minor}");
        let compiler_options = ["-E", &entry_point, "-T", &profile, "-HV", "2018", "-Ges"].map(str::to_owned).to_vec();
        Ok(Translation { code: text.into_bytes(), entry_point, places, metal: None, compiler_options })
    }

    /// As wgpu-hal's `gles/device.rs`. Checks are left to the driver there.
    fn glsl(&self, language: Language, resources: &[Resource]) -> anyhow::Result<Translation> {
        let (mut uniforms, mut storages, mut images) = (0, 0, 0);
        let mut binding_map = glsl::BindingMap::new();
        for resource in resources {
            let counter = match resource.access {
                None => &mut uniforms,
                Some(Access::Read | Access::Write) => &mut storages,
                Some(Access::ReadTexels | Access::WriteTexels) => &mut images,
            };
            binding_map.insert(resource.binding, *counter);
            *counter += 1;
        }
        let version = match language.version.strip_suffix("es") {
            Some(embedded) => glsl::Version::Embedded { version: embedded.parse()?, is_webgl: false },
            None => glsl::Version::Desktop(language.version.parse()?),
        };
        let options = glsl::Options {
            version,
            writer_flags: glsl::WriterFlags::ADJUST_COORDINATE_SPACE | glsl::WriterFlags::FORCE_POINT_SIZE,
            binding_map,
            zero_initialize_workgroup_memory: zeroes_workgroup_memory(),
        };
        let pipeline = glsl::PipelineOptions {
            shader_stage: ShaderStage::Compute,
            entry_point: ENTRY_POINT.into(),
            multiview: None,
        };
        let mut text = String::new();
        let info = glsl::Writer::new(
            &mut text,
            &self.module,
            &self.info,
            &options,
            &pipeline,
            BoundsCheckPolicies::default(),
        )?
        .write()?;
        let places = resources
            .iter()
            .map(|resource| {
                let binding = options.binding_map.get(&resource.binding).copied()?;
                if !resource.is_texture() {
                    return Some(Place::Block { block: info.uniforms.get(&resource.handle)?.clone(), binding });
                }
                let mut images = info.texture_mapping.iter();
                let (image, _) = images.find(|(_, mapping)| mapping.texture == resource.handle)?;
                Some(Place::Image { image: image.clone(), binding })
            })
            .collect::<Option<_>>()
            .context("a buffer has no block, or a texture no image")?;
        Ok(Translation {
            code: text.into_bytes(),
            // GLSL's entry points are all called so.
            entry_point: "main".into(),
            places,
            metal: None,
            compiler_options: Vec::new(),
        })
    }
}

fn zeroes_workgroup_memory() -> bool {
    Gpu::compilation_options().zero_initialize_workgroup_memory
}

/// Restricted, an index beyond the end is taken for the last.
const fn restrict_if(checked: bool) -> BoundsCheckPolicy {
    if checked { BoundsCheckPolicy::Restrict } else { BoundsCheckPolicy::Unchecked }
}

/// How a texture is used, if it is a storage texture.
fn texels_access(ty: &TypeInner) -> Option<Access> {
    match ty {
        TypeInner::Image { class: naga::ImageClass::Storage { access, .. }, .. } => {
            Some(if access.contains(StorageAccess::STORE) { Access::WriteTexels } else { Access::ReadTexels })
        }
        _ => None,
    }
}

/// The one entry point's name in the translation: `main` is reserved in some languages.
fn only_name<E: std::error::Error + Send + Sync + 'static>(names: Vec<Result<String, E>>) -> anyhow::Result<String> {
    names.into_iter().next().context("no entry point")?.map_err(Into::into)
}

/// A buffer or a texture that a shader binds.
#[derive(Debug)]
pub struct Resource {
    handle: Handle<naga::GlobalVariable>,
    pub binding: ResourceBinding,
    pub name: String,
    pub ty: Handle<Type>,
    /// None for the uniform with the parameters.
    pub access: Option<Access>,
}

impl Resource {
    pub fn is_texture(&self) -> bool {
        matches!(self.access, Some(Access::ReadTexels | Access::WriteTexels))
    }

    fn is_unsized(&self, module: &Module) -> bool {
        matches!(module.types[self.ty].inner, TypeInner::Array { size: naga::ArraySize::Dynamic, .. })
    }
}

/// A shader in a language.
#[derive(Debug)]
pub struct Translation {
    pub code: Vec<u8>,
    pub entry_point: String,
    /// Where each of [`Shader::resources`] is bound.
    pub places: Vec<Place>,
    pub metal: Option<Metal>,
    /// What wgpu asks of the device, or gives the compiler.
    pub compiler_options: Vec<String>,
}

/// Where a buffer or a texture is bound.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Place {
    /// WebGPU's numbers.
    Group { group: u32, binding: u32 },
    /// Vulkan's descriptor.
    Set { set: u32, binding: u32 },
    /// The index in Metal's table of buffers.
    Buffer { buffer: u32 },
    /// DX12's register.
    Register { register: String, space: u8 },
    /// OpenGL's block; uniform and storage blocks are numbered apart.
    Block { block: String, binding: u8 },
    /// The index in Metal's table of textures.
    Texture { texture: u32 },
    /// OpenGL's image, with a numbering of its own.
    Image { image: String, binding: u8 },
}

/// What else must be set before a dispatch on Metal.
#[derive(Debug, Serialize)]
pub struct Metal {
    #[serde(skip_serializing_if = "Option::is_none")]
    buffer_sizes: Option<BufferSizes>,
    /// The length of threadgroup memory at each index.
    threadgroup_memory_lengths: Vec<u32>,
}

/// A buffer of u32: the bytes of each of these buffers.
#[derive(Debug, Serialize)]
pub struct BufferSizes {
    buffer: u32,
    of: Vec<String>,
}
