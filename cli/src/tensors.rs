//! A safetensors file that is written piece by piece, so that it may be larger than memory.

use std::io::{Seek, SeekFrom, Write};

use anyhow::{Context, ensure};
use double_routing_common::numbers::product;
use safetensors::{
    Dtype,
    tensor::{Metadata, TensorInfo},
};

use crate::save::Destination;

/// A file whose tensors are known, and grow.
#[derive(Debug)]
pub struct Tensors {
    destination: Destination,
    growing: Vec<Growing>,
}

/// A tensor, and the bytes of the file that it does not have yet.
#[derive(Debug)]
struct Growing {
    name: &'static str,
    next: u64,
    end: u64,
}

impl Tensors {
    /// Begins a file with these tensors.
    pub fn new(mut destination: Destination, tensors: Vec<(&'static str, Dtype, Vec<usize>)>) -> anyhow::Result<Self> {
        let mut tensors = tensors;
        // Wide ones first, so that each starts at a multiple of its element's size.
        tensors.sort_by(|(name, dtype, _), (other, other_dtype, _)| other_dtype.cmp(dtype).then(name.cmp(other)));
        let (mut growing, mut infos, mut offset) = (Vec::new(), Vec::new(), 0usize);
        for (name, dtype, shape) in tensors {
            let end = product(&shape).and_then(|count| count.checked_mul(dtype.bitsize() / 8));
            let end = end.and_then(|bytes| offset.checked_add(bytes));
            let end = end.with_context(|| format!("{name} would be {shape:?}, more than can be counted"))?;
            growing.push(Growing { name, next: offset as u64, end: end as u64 });
            infos.push((name.to_owned(), TensorInfo { dtype, shape, data_offsets: (offset, end) }));
            offset = end;
        }
        let mut header = serde_json::to_vec(&Metadata::new(None, infos)?)?;
        header.resize(header.len().next_multiple_of(8), b' ');
        let file = destination.file();
        file.write_all(&(header.len() as u64).to_le_bytes()).and_then(|()| file.write_all(&header)).context(FAILED)?;
        let start = 8 + header.len() as u64;
        for tensor in &mut growing {
            (tensor.next, tensor.end) = (tensor.next + start, tensor.end + start);
        }
        Ok(Self { destination, growing })
    }

    /// Writes what comes next of a tensor.
    pub fn extend(&mut self, name: &str, bytes: &[u8]) -> anyhow::Result<()> {
        let tensor = self.growing.iter_mut().find(|tensor| tensor.name == name);
        let tensor = tensor.with_context(|| format!("the output has no {name}"))?;
        let next = tensor.next + bytes.len() as u64;
        ensure!(next <= tensor.end, "{name} is {} bytes longer than it was to be", next - tensor.end);
        let file = self.destination.file();
        file.seek(SeekFrom::Start(tensor.next)).and_then(|_| file.write_all(bytes)).context(FAILED)?;
        tensor.next = next;
        Ok(())
    }

    /// Puts the file in its place, once every tensor is whole.
    pub fn commit(self) -> anyhow::Result<()> {
        for Growing { name, next, end } in &self.growing {
            ensure!(next == end, "{name} lacks {} bytes", end - next);
        }
        self.destination.commit()
    }
}

const FAILED: &str = "cannot write the output";
