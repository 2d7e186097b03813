//! How the invocations that share a row exchange values. The shader side is `shaders/lib/lanes.wgsl`.

use crate::{AdapterClass, Gpu, shader::Variant};

/// The invocations of a workgroup: `lanes` (a power of two) share each of `rows` rows.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Lanes {
    pub lanes: u32,
    pub rows: u32,
    pub by: By,
    /// The lanes of a subgroup where it is a vector of a CPU, else 0: CPUs reduce faster by handing values round.
    pub vector: u32,
}

/// What values are exchanged by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum By {
    /// Workgroup memory.
    Memory,
    /// Subgroups, of any size where they are no vectors, then workgroup memory; one row a workgroup.
    Subgroups,
    /// The one subgroup that has the row.
    Subgroup,
}

impl Lanes {
    pub const fn memory(lanes: u32, rows: u32) -> Self {
        Self { lanes, rows, by: By::Memory, vector: 0 }
    }

    pub const fn subgroups(lanes: u32) -> Self {
        Self { lanes, rows: 1, by: By::Subgroups, vector: 0 }
    }

    pub const fn subgroup(lanes: u32) -> Self {
        Self { lanes, rows: 1, by: By::Subgroup, vector: 0 }
    }

    /// A CPU's vector of `lanes` for each of `rows` rows.
    pub const fn vector(lanes: u32, rows: u32) -> Self {
        Self { lanes, rows, by: By::Subgroup, vector: lanes }
    }

    /// `vectors` of them for one row.
    pub const fn vectors(lanes: u32, vectors: u32) -> Self {
        Self { lanes: lanes * vectors, rows: 1, by: By::Subgroups, vector: lanes }
    }

    pub fn define(self, variant: Variant) -> Variant {
        let by = match self.by {
            By::Memory => "memory",
            By::Subgroups => "subgroups",
            By::Subgroup => "subgroup",
        };
        variant
            .word("LANES_BY", by)
            .number("LANES", self.lanes)
            .number("ROWS", self.rows)
            .number("VECTOR", self.vector)
            .number("VECTORS", self.lanes.checked_div(self.vector).unwrap_or(0))
    }

    /// Whether the device's subgroups allow it.
    pub fn suits(self, gpu: &Gpu) -> bool {
        match self.by {
            By::Memory => true,
            By::Subgroups if self.vector == 0 => gpu.has_subgroups(),
            By::Subgroups => gpu.subgroup_lanes() == Some(self.vector),
            By::Subgroup => gpu.subgroup_lanes() == Some(self.lanes),
        }
    }
}

/// The first row of a table that is for the device's kind and subgroups and for so long an axis; its last row for either kind
/// must fit everything.
pub(crate) fn choose<T: Copy>(gpu: &Gpu, table: &[(Kind, u64, Lanes, T)], length: u64) -> (Lanes, T) {
    let kind = Kind::of(gpu);
    let fits = |(of, most, lanes, _): &&(Kind, u64, Lanes, T)| *of == kind && length <= *most && lanes.suits(gpu);
    let (_, _, lanes, other) = table.iter().find(fits).unwrap_or(&table[table.len() - 1]);
    (*lanes, *other)
}

/// All that tables of lanes tell apart: whether shaders run on a CPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Software,
    Hardware,
}

impl Kind {
    pub fn of(gpu: &Gpu) -> Self {
        if gpu.class() == AdapterClass::Software { Self::Software } else { Self::Hardware }
    }
}
