//! Numbers as they lie in a file: of several types, in either byte order, the last index fastest or the first.

use std::{borrow::Cow, ops::Range};

use double_routing::{Element, bytemuck};
use half::{bf16, f16};
use safetensors::{Dtype, tensor::TensorView};

/// A type that x may be stored in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// IEEE binary16.
    F16,
    /// bfloat16.
    BF16,
    /// IEEE binary32.
    F32,
    /// IEEE binary64.
    F64,
}

impl Kind {
    /// Bytes of a number.
    pub fn size(self) -> usize {
        match self {
            Self::F16 | Self::BF16 => 2,
            Self::F32 => 4,
            Self::F64 => 8,
        }
    }

    /// How it is stored on a device.
    pub fn element(self) -> Element {
        match self {
            Self::F16 => Element::F16,
            Self::BF16 => Element::BF16,
            Self::F32 | Self::F64 => Element::F32,
        }
    }

    fn decode(self, bytes: &[u8], big_endian: bool) -> f64 {
        // The number's bytes, the least significant first.
        let mut word = [0; 8];
        word[..bytes.len()].copy_from_slice(bytes);
        if big_endian {
            word[..bytes.len()].reverse();
        }
        let word = u64::from_le_bytes(word);
        match self {
            Self::F16 => f16::from_bits(word as u16).into(),
            Self::BF16 => bf16::from_bits(word as u16).into(),
            Self::F32 => f32::from_bits(word as u32).into(),
            Self::F64 => f64::from_bits(word),
        }
    }
}

/// Which index changes from one number to the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Row-major, as C has it.
    LastFastest,
    /// As Fortran has it.
    FirstFastest,
}

/// An array in the bytes of a file.
#[derive(Debug, Clone)]
pub struct Numbers<'a> {
    /// As many as the shape and the type need.
    pub bytes: Cow<'a, [u8]>,
    /// What each is.
    pub kind: Kind,
    /// Whether a number's most significant byte comes first.
    pub big_endian: bool,
    /// Which of them come one after the other.
    pub order: Order,
    /// As many sizes as the array has axes.
    pub shape: Vec<usize>,
}

impl<'a> Numbers<'a> {
    /// A tensor of a safetensors file; nothing where its type is none that x may have.
    pub fn of(view: &TensorView<'a>) -> Option<Self> {
        let kind = match view.dtype() {
            Dtype::F16 => Kind::F16,
            Dtype::BF16 => Kind::BF16,
            Dtype::F32 => Kind::F32,
            Dtype::F64 => Kind::F64,
            _ => return None,
        };
        let shape = view.shape().to_vec();
        Some(Self { bytes: view.data().into(), kind, big_endian: false, order: Order::LastFastest, shape })
    }

    /// Numbers that are in no file.
    pub fn new(values: &[f32], shape: Vec<usize>) -> Self {
        let bytes = bytemuck::cast_slice(values).to_vec().into();
        Self { bytes, kind: Kind::F32, big_endian: cfg!(target_endian = "big"), order: Order::LastFastest, shape }
    }

    /// Those from one place to another, the last index fastest; f64 are rounded.
    pub fn values(&self, range: Range<usize>) -> Vec<f32> {
        match (self.order, self.kind, self.big_endian) {
            (Order::LastFastest, Kind::F32, false) => {
                let bytes = &self.bytes[4 * range.start..4 * range.end];
                bytes.as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect()
            }
            _ => range.map(|place| self.at(place) as f32).collect(),
        }
    }

    /// The number at a place, the last index fastest.
    pub fn at(&self, place: usize) -> f64 {
        let (at, size) = (self.in_file(place), self.kind.size());
        self.kind.decode(&self.bytes[at * size..][..size], self.big_endian)
    }

    /// Where in the file the number at a place is.
    fn in_file(&self, place: usize) -> usize {
        if self.order == Order::LastFastest {
            return place;
        }
        let (mut rest, mut stride, mut at) = (place, self.shape.iter().product::<usize>(), 0);
        for &size in self.shape.iter().rev() {
            stride /= size;
            at += rest % size * stride;
            rest /= size;
        }
        at
    }
}

/// The product of sizes, of which one may be 0 however large the others are; nothing where it is more than can be counted.
pub fn product(sizes: &[usize]) -> Option<usize> {
    if sizes.contains(&0) {
        return Some(0);
    }
    sizes.iter().try_fold(1usize, |product, &size| product.checked_mul(size))
}

#[cfg(test)]
mod tests {
    use super::{Kind, Numbers, Order};

    #[test]
    fn both_orders_are_the_same_numbers() {
        // 100·i + 10·j + k.
        let shape = vec![2, 3, 4];
        let value = |[i, j, k]: [usize; 3]| (100 * i + 10 * j + k) as f32;
        let rows: Vec<f32> = (0..24).map(|at| value([at / 12, at / 4 % 3, at % 4])).collect();
        let columns: Vec<f32> = (0..24).map(|at| value([at % 2, at / 2 % 3, at / 6])).collect();
        for (order, values) in [(Order::LastFastest, &rows), (Order::FirstFastest, &columns)] {
            let numbers = Numbers { order, ..Numbers::new(values, shape.clone()) };
            assert_eq!(numbers.values(0..24), rows);
            assert_eq!(numbers.values(5..17), rows[5..17]);
            assert_eq!((numbers.at(7), numbers.at(23)), (13.0, 123.0));
        }
    }

    #[test]
    fn every_type_in_both_byte_orders() {
        let encoded: [(Kind, &[u8]); 4] = [
            (Kind::F16, &0xc100u16.to_le_bytes()),
            (Kind::BF16, &0xc020u16.to_le_bytes()),
            (Kind::F32, &(-2.5f32).to_le_bytes()),
            (Kind::F64, &(-2.5f64).to_le_bytes()),
        ];
        for (kind, little) in encoded {
            let big: Vec<u8> = little.iter().rev().copied().collect();
            for (bytes, big_endian) in [(little, false), (&big[..], true)] {
                let numbers =
                    Numbers { bytes: bytes.into(), kind, big_endian, order: Order::LastFastest, shape: vec![1] };
                assert_eq!(numbers.values(0..1), [-2.5], "{kind:?}");
            }
        }
    }
}
