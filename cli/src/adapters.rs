//! `adapters`: what wgpu finds on this machine.

use std::io::Write;

use double_routing::{Gpu, wgpu};
use serde::Serialize;

use crate::{
    Verdict,
    gpu::{Description, WHERE_TO_GET_ONE},
    report::{self, BOLD, DIM, GOOD, Out, bytes},
};

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct Listed {
    index: usize,
    default: bool,
    #[serde(flatten)]
    description: Description,
    features: Features,
    limits: Limits,
}

/// The optional features that can make kernels faster.
#[derive(Debug, Serialize)]
struct Features {
    shader_f16: bool,
    subgroup: bool,
    timestamp_query: bool,
    cooperative_matrix: bool,
}

/// The limits that decide how large a tensor or a workgroup may be.
#[derive(Debug, Serialize)]
struct Limits {
    max_buffer_size: u64,
    max_storage_buffer_binding_size: u64,
    max_compute_workgroup_storage_size: u32,
    max_compute_invocations_per_workgroup: u32,
    min_storage_buffer_offset_alignment: u32,
}

impl Features {
    fn named(&self) -> impl Iterator<Item = &'static str> {
        [
            (self.shader_f16, "f16"),
            (self.subgroup, "subgroups"),
            (self.timestamp_query, "timestamps"),
            (self.cooperative_matrix, "cooperative matrices"),
        ]
        .into_iter()
        .filter_map(|(has, name)| has.then_some(name))
    }
}

impl From<wgpu::Features> for Features {
    fn from(features: wgpu::Features) -> Self {
        Self {
            shader_f16: features.contains(wgpu::Features::SHADER_F16),
            subgroup: features.contains(wgpu::Features::SUBGROUP),
            timestamp_query: features.contains(wgpu::Features::TIMESTAMP_QUERY),
            cooperative_matrix: features.contains(wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX),
        }
    }
}

impl From<wgpu::Limits> for Limits {
    fn from(limits: wgpu::Limits) -> Self {
        Self {
            max_buffer_size: limits.max_buffer_size,
            max_storage_buffer_binding_size: limits.max_storage_buffer_binding_size,
            max_compute_workgroup_storage_size: limits.max_compute_workgroup_storage_size,
            max_compute_invocations_per_workgroup: limits.max_compute_invocations_per_workgroup,
            min_storage_buffer_offset_alignment: limits.min_storage_buffer_offset_alignment,
        }
    }
}

pub fn run(arguments: &Arguments, out: &mut Out) -> anyhow::Result<Verdict> {
    let adapters = pollster::block_on(Gpu::adapters(wgpu::Backends::all()));
    let listed: Vec<Listed> = adapters
        .iter()
        .enumerate()
        .map(|(index, adapter)| Listed {
            index,
            // The list is best first, and the best is what is taken.
            default: index == 0,
            description: (&adapter.get_info()).into(),
            features: adapter.features().into(),
            limits: adapter.limits().into(),
        })
        .collect();
    if arguments.json {
        report::json(out, &serde_json::json!({ "adapters": listed }))?;
    } else if listed.is_empty() {
        writeln!(out, "no adapter; {WHERE_TO_GET_ONE}")?;
    } else {
        listed.iter().try_for_each(|adapter| print(out, adapter))?;
        writeln!(out, "{GOOD}*{GOOD:#} is taken by default; --adapter takes another by number or by part of its name")?;
    }
    Ok(Verdict::Passed)
}

fn print(out: &mut Out, adapter: &Listed) -> std::io::Result<()> {
    let Listed { index, default, description, features, limits } = adapter;
    let mark = if *default { '*' } else { ' ' };
    let Description { name, backend, kind, driver } = description;
    writeln!(out, "{GOOD}{mark}{GOOD:#} {index}  {BOLD}{name}{BOLD:#}  {backend}, {kind}")?;
    let row = |out: &mut Out, name: &str, text: &str| writeln!(out, "       {DIM}{name:<9}{DIM:#} {text}");
    row(out, "driver", if driver.is_empty() { "not named" } else { driver })?;
    let features: Vec<_> = features.named().collect();
    row(out, "features", &if features.is_empty() { "none that matter".into() } else { features.join(", ") })?;
    row(
        out,
        "limits",
        &format!(
            "buffers of {}, bindings of {} at multiples of {}",
            bytes(limits.max_buffer_size),
            bytes(limits.max_storage_buffer_binding_size),
            bytes(limits.min_storage_buffer_offset_alignment.into())
        ),
    )?;
    row(
        out,
        "",
        &format!(
            "workgroups of {} invocations that share {}",
            limits.max_compute_invocations_per_workgroup,
            bytes(limits.max_compute_workgroup_storage_size.into())
        ),
    )
}
