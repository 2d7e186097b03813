//! What a caller must know to run an exported shader, as JSON.

use anyhow::{Context, bail};
use double_routing::kernels::{Access, Kernel};
use naga::{Handle, Literal, Module, Scalar, ScalarKind, Type, TypeInner};
use serde::Serialize;

use super::{
    select::Named,
    translate::{Features, Language, Metal, Place, Resource, Shader, Translation},
};

/// A shader's interface.
#[derive(Debug, Serialize)]
pub struct Description {
    kernel: &'static str,
    variant: String,
    /// The variant's names and their values.
    names: serde_json::Map<String, serde_json::Value>,
    target: &'static str,
    language: &'static str,
    entry_point: String,
    workgroup_size: [u32; 3],
    workgroup_memory_bytes: u32,
    /// A dispatch of more workgroups has this many in x, and rows of them in y. None where one workgroup does it all.
    #[serde(skip_serializing_if = "Option::is_none")]
    workgroups_in_x: Option<u32>,
    /// What it needs of the device.
    features: Vec<&'static str>,
    /// Every subgroup must have this many lanes.
    #[serde(skip_serializing_if = "Option::is_none")]
    subgroup_lanes: Option<u32>,
    /// What wgpu asks of the device, or gives the compiler.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    compiler_options: Vec<String>,
    parameters: Parameters,
    bindings: Vec<Binding>,
    #[serde(flatten)]
    metal: Option<Metal>,
}

/// The uniform buffer.
#[derive(Debug, Serialize)]
struct Parameters {
    binding: u32,
    name: String,
    place: Place,
    bytes: u32,
    fields: Vec<Field>,
}

#[derive(Debug, Serialize)]
struct Field {
    name: String,
    #[serde(rename = "type")]
    ty: &'static str,
    offset: usize,
}

/// A storage buffer, or a storage texture of two dimensions.
#[derive(Debug, Serialize)]
struct Binding {
    binding: u32,
    name: String,
    access: &'static str,
    place: Place,
    /// What a tensor's element is stored as.
    element: String,
    /// What the shader reads or writes at a time, a texture's format where it is one, and its bytes.
    word: String,
    word_bytes: u32,
}

impl Description {
    pub fn new(
        kernel: &'static Kernel,
        variant: &Named,
        language: Language,
        shader: &Shader,
        translation: Translation,
    ) -> anyhow::Result<Self> {
        let module = &shader.module;
        let mut parameters = None;
        let mut bindings = Vec::new();
        for (resource, place) in shader.resources().into_iter().zip(translation.places) {
            match resource.access {
                None => parameters = Some(Parameters::new(kernel, module, resource, place)?),
                Some(access) => bindings.push(Binding::new(variant, module, resource, access, place)?),
            }
        }
        let (target, _) = language.target.names();
        let Features { subgroups, .. } = shader.features;
        Ok(Self {
            kernel: kernel.name(),
            variant: variant.text.clone(),
            names: variant.values.iter().map(|(name, value)| (name.clone(), json_value(value))).collect(),
            target,
            language: language.version,
            entry_point: translation.entry_point,
            workgroup_size: shader.workgroup_size(),
            workgroup_memory_bytes: shader.workgroup_memory()?,
            workgroups_in_x: constant(module, "GRID_WIDTH"),
            features: shader.features.names(),
            subgroup_lanes: if subgroups { subgroup_lanes(variant) } else { None },
            compiler_options: translation.compiler_options,
            parameters: parameters.context("the shader has no parameters")?,
            bindings,
            metal: translation.metal,
        })
    }
}

impl Parameters {
    fn new(kernel: &Kernel, module: &Module, buffer: Resource, place: Place) -> anyhow::Result<Self> {
        let TypeInner::Struct { span, .. } = module.types[buffer.ty].inner else {
            bail!("the parameters are no struct");
        };
        let field = |(name, offset)| Field { name, ty: "u32", offset };
        Ok(Self {
            binding: buffer.binding.binding,
            name: buffer.name,
            place,
            bytes: span,
            fields: kernel.params().into_iter().map(field).collect(),
        })
    }
}

impl Binding {
    fn new(variant: &Named, module: &Module, resource: Resource, access: Access, place: Place) -> anyhow::Result<Self> {
        let (word, scalar, word_bytes) = match module.types[resource.ty].inner {
            TypeInner::Array { base, stride, .. } => {
                let (word, scalar) =
                    word(module, base).with_context(|| format!("{} is of a type without a name", resource.name))?;
                (word, scalar, stride)
            }
            TypeInner::Image {
                class: naga::ImageClass::Storage { format: naga::StorageFormat::Rgba32Float, .. },
                ..
            } => ("rgba32float".into(), "f32", 16),
            _ => bail!("{} is neither an array nor a texture that is known", resource.name),
        };
        let element = variant.value(&format!("{}_TYPE", resource.name)).unwrap_or(scalar).to_owned();
        Ok(Self {
            binding: resource.binding.binding,
            access: access_name(access),
            place,
            element,
            word,
            word_bytes,
            name: resource.name,
        })
    }
}

/// As WGSL says it.
pub fn access_name(access: Access) -> &'static str {
    match access {
        Access::Read | Access::ReadTexels => "read",
        Access::Write => "read_write",
        Access::WriteTexels => "write",
    }
}

/// The lanes that a variant takes every subgroup to have, if its work is laid out by them.
fn subgroup_lanes(variant: &Named) -> Option<u32> {
    let lanes = match (variant.value("LANES_BY"), variant.value("TILE_SOURCE")) {
        (Some("subgroup"), _) => variant.value("LANES"),
        (_, Some("subgroup")) => variant.value("TILE_X"),
        _ => None,
    };
    lanes?.parse().ok()
}

fn json_value(value: &str) -> serde_json::Value {
    match (value.parse::<u32>(), value.parse::<bool>()) {
        (Ok(number), _) => number.into(),
        (_, Ok(flag)) => flag.into(),
        _ => value.into(),
    }
}

fn constant(module: &Module, name: &str) -> Option<u32> {
    let (_, constant) = module.constants.iter().find(|(_, constant)| constant.name.as_deref() == Some(name))?;
    match module.global_expressions[constant.init] {
        naga::Expression::Literal(Literal::U32(value)) => Some(value),
        _ => None,
    }
}

/// A type as WGSL writes it, and its scalar.
fn word(module: &Module, ty: Handle<Type>) -> Option<(String, &'static str)> {
    Some(match module.types[ty].inner {
        TypeInner::Scalar(scalar) => (scalar_name(scalar)?.into(), scalar_name(scalar)?),
        TypeInner::Atomic(scalar) => (format!("atomic<{}>", scalar_name(scalar)?), scalar_name(scalar)?),
        TypeInner::Vector { size, scalar } => {
            let name = scalar_name(scalar)?;
            (format!("vec{}<{name}>", size as u8), name)
        }
        _ => return None,
    })
}

fn scalar_name(scalar: Scalar) -> Option<&'static str> {
    Some(match (scalar.kind, scalar.width) {
        (ScalarKind::Float, 4) => "f32",
        (ScalarKind::Float, 2) => "f16",
        (ScalarKind::Uint, 4) => "u32",
        (ScalarKind::Uint, 8) => "u64",
        (ScalarKind::Sint, 4) => "i32",
        _ => return None,
    })
}
