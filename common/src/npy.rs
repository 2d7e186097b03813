//! NumPy's .npy files: what their header says, and where their numbers lie. No file is trusted.
//!
//! <https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html>

use anyhow::{Context, bail, ensure};

use crate::numbers::{Kind, Numbers, Order, product};

/// What every such file begins with.
pub const MAGIC: &[u8] = b"\x93NUMPY";

/// The numbers of a file.
///
/// # Errors
/// Where the header is none, where the numbers are none that x can be of, and where there are more or fewer than it says.
pub fn read(bytes: &[u8]) -> anyhow::Result<Numbers<'_>> {
    let (header, data) = split(bytes)?;
    let Header { kind, big_endian, order, shape } = Header::parse(header)?;
    let expected = product(&shape).and_then(|count| count.checked_mul(kind.size()));
    let expected = expected.with_context(|| format!("x is {shape:?}, more than can be counted"))?;
    let held = data.len();
    ensure!(held == expected, "{shape:?} needs {expected} bytes, the file holds {held}{}", of_cut(held, expected));
    Ok(Numbers { bytes: data.into(), kind, big_endian, order, shape })
}

fn of_cut(held: usize, expected: usize) -> &'static str {
    if held < expected { ": it was cut short" } else { "" }
}

/// The text of the header, and what is behind it.
fn split(bytes: &[u8]) -> anyhow::Result<(&str, &[u8])> {
    let cut = "its header was cut short";
    let rest = bytes.strip_prefix(MAGIC).context("no .npy file")?;
    let (&[major, _], rest) = rest.split_first_chunk().context(cut)?;
    let (length, rest) = match major {
        1 => rest.split_first_chunk().map(|(&length, rest)| (u16::from_le_bytes(length).into(), rest)),
        2 | 3 => rest.split_first_chunk().map(|(&length, rest)| (u32::from_le_bytes(length), rest)),
        other => bail!("version {other} of the format, expected 1 to 3"),
    }
    .context(cut)?;
    let (header, data) = rest.split_at_checked(length as usize).context(cut)?;
    Ok((std::str::from_utf8(header).context("its header is no text")?, data))
}

#[derive(Debug, PartialEq)]
struct Header {
    kind: Kind,
    big_endian: bool,
    order: Order,
    shape: Vec<usize>,
}

impl Header {
    /// Reads a Python dictionary of the three keys that the format has.
    fn parse(text: &str) -> anyhow::Result<Self> {
        let (mut descr, mut order, mut shape) = (None, None, None);
        let mut rest = Rest(text);
        rest.expect('{')?;
        while !rest.take('}') {
            let key = rest.string()?;
            rest.expect(':')?;
            let twice = match key {
                "descr" => descr.replace(rest.descr()?).is_some(),
                "fortran_order" => order.replace(rest.order()?).is_some(),
                "shape" => shape.replace(rest.shape()?).is_some(),
                other => bail!("its header has the key '{other}'"),
            };
            ensure!(!twice, "its header has '{key}' twice");
            if !rest.take(',') {
                rest.expect('}')?;
                break;
            }
        }
        ensure!(rest.0.trim().is_empty(), "behind its header's dictionary there is more");
        let lacks = |key: &str| format!("its header lacks '{key}'");
        let (kind, big_endian) = descr.with_context(|| lacks("descr"))?;
        let order = order.with_context(|| lacks("fortran_order"))?;
        Ok(Self { kind, big_endian, order, shape: shape.with_context(|| lacks("shape"))? })
    }
}

/// What of a header is still to be read.
struct Rest<'a>(&'a str);

impl<'a> Rest<'a> {
    fn take(&mut self, token: char) -> bool {
        let rest = self.0.trim_start();
        let found = rest.strip_prefix(token);
        self.0 = found.unwrap_or(rest);
        found.is_some()
    }

    fn expect(&mut self, token: char) -> anyhow::Result<()> {
        ensure!(self.take(token), "its header is none: expected '{token}' {}", self.place());
        Ok(())
    }

    fn place(&self) -> String {
        let next: String = self.0.trim_start().chars().take(12).collect();
        if next.is_empty() { "at its end".into() } else { format!("before '{next}'") }
    }

    fn string(&mut self) -> anyhow::Result<&'a str> {
        let quote = ['\'', '"'].into_iter().find(|&quote| self.take(quote));
        let split = quote.and_then(|quote| self.0.split_once(quote));
        let (string, rest) = split.with_context(|| format!("its header is none: expected a text {}", self.place()))?;
        self.0 = rest;
        Ok(string)
    }

    fn word(&mut self) -> &'a str {
        let rest = self.0.trim_start();
        let end = rest.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(rest.len());
        let (word, rest) = rest.split_at(end);
        self.0 = rest;
        word
    }

    fn descr(&mut self) -> anyhow::Result<(Kind, bool)> {
        ensure!(!self.0.trim_start().starts_with('['), "it holds records, expected plain numbers");
        let descr = self.string()?;
        let kind = match descr.get(1..) {
            Some("f2") => Some(Kind::F16),
            Some("f4") => Some(Kind::F32),
            Some("f8") => Some(Kind::F64),
            _ => None,
        };
        match (kind, descr.as_bytes().first()) {
            (Some(kind), Some(b'<')) => Ok((kind, false)),
            (Some(kind), Some(b'>')) => Ok((kind, true)),
            _ => bail!("its numbers are {descr}, expected f2, f4 or f8 behind < or >"),
        }
    }

    fn order(&mut self) -> anyhow::Result<Order> {
        match self.word() {
            "False" => Ok(Order::LastFastest),
            "True" => Ok(Order::FirstFastest),
            other => bail!("its header's fortran_order is '{other}', expected True or False"),
        }
    }

    fn shape(&mut self) -> anyhow::Result<Vec<usize>> {
        self.expect('(')?;
        let mut shape = Vec::new();
        while !self.take(')') {
            let word = self.word();
            // Python 2 wrote an L behind large ones.
            let size = word.strip_suffix('L').unwrap_or(word).parse();
            shape.push(size.with_context(|| format!("its header's shape has '{word}'"))?);
            if !self.take(',') {
                self.expect(')')?;
                break;
            }
        }
        Ok(shape)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

    use super::{Header, Kind, Order, read};

    fn npy(header: &str, data: &[u8]) -> Vec<u8> {
        let length = (header.len() as u16).to_le_bytes();
        [b"\x93NUMPY\x01\x00", &length[..], header.as_bytes(), data].concat()
    }

    #[track_caller]
    fn refused(header: &str, expected: &str) {
        let error = format!("{:#}", read(&npy(header, &[0; 24])).unwrap_err());
        assert!(error.contains(expected), "{error}");
    }

    #[test]
    fn headers_as_numpy_writes_them() {
        let header = Header::parse("{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }   \n").unwrap();
        let expected = Header { kind: Kind::F32, big_endian: false, order: Order::LastFastest, shape: vec![2, 3] };
        assert_eq!(header, expected);
        // Of Python 2, and of other writers.
        let header = Header::parse("{\"shape\":(7L,),'fortran_order':True,'descr':'>f2'}").unwrap();
        let expected = Header { kind: Kind::F16, big_endian: true, order: Order::FirstFastest, shape: vec![7] };
        assert_eq!(header, expected);
        assert_eq!(Header::parse("{'descr': '<f8', 'fortran_order': False, 'shape': ()}").unwrap().shape.len(), 0);
    }

    #[test]
    fn all_versions_of_the_format() {
        let header = "{'descr': '<f8', 'fortran_order': False, 'shape': (3,)}";
        for major in [2, 3] {
            let length = (header.len() as u32).to_le_bytes();
            let start = [b'\x93', b'N', b'U', b'M', b'P', b'Y', major, 0];
            let bytes = [&start, &length[..], header.as_bytes(), &[0; 24]].concat();
            assert_eq!(read(&bytes).unwrap().shape, [3]);
        }
    }

    #[test]
    fn what_is_no_header_is_refused() {
        let with = |descr: &str, shape: &str| format!("{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}}}");
        refused(&with("'<i8'", "(3,)"), "its numbers are <i8");
        refused(&with("'|V2'", "(3,)"), "its numbers are |V2");
        refused(&with("''", "(3,)"), "its numbers are ,");
        refused(&with("'é4'", "(3,)"), "its numbers are é4");
        refused(&with("[('a', '<f4')]", "(3,)"), "it holds records");
        refused(&with("'<f4'", "(-3,)"), "shape has ''");
        refused(&with("'<f4'", "(3"), "expected ')' before '}'");
        refused(&with("'<f4'", "(99999999999999999999,)"), "shape has '99999999999999999999'");
        refused(&with("'<f4'", "(4294967296, 4294967296)"), "more than can be counted");
        refused(&with("'<f4'", "(7,)"), "[7] needs 28 bytes, the file holds 24: it was cut short");
        refused(&with("'<f4'", "(5,)"), "[5] needs 20 bytes, the file holds 24");
        refused("{'descr': '<f4', 'fortran_order': 0, 'shape': (6,)}", "fortran_order is '0'");
        refused("{'descr': '<f4', 'shape': (6,)}", "lacks 'fortran_order'");
        refused("{'shape': (6,), 'shape': (6,)}", "'shape' twice");
        refused("{'size': 3}", "the key 'size'");
        refused("{'descr': '<f4', 'fortran_order': False, 'shape': (6,)} and", "there is more");
        refused("", "expected '{' at its end");
        for bytes in
            [&b"\x93NUMPY"[..], b"\x93NUMPY\x01\x00", b"\x93NUMPY\x01\x00\xff\xff", b"\x93NUMPY\x02\x00\x01\x00"]
        {
            assert!(format!("{:#}", read(bytes).unwrap_err()).contains("cut short"));
        }
    }

    /// Each bracket once doubled the time that such a header took.
    #[test]
    fn nested_brackets_take_no_time() {
        let nested = "[".repeat(60_000);
        refused(&format!("{{'descr': {nested}"), "records");
        refused(&format!("{{'shape': {}", "(".repeat(60_000)), "shape has ''");
        refused(&nested, "expected '{'");
    }

    #[test]
    fn a_zero_among_huge_sizes_is_no_number() {
        let shape = "(9223372036854775807, 9223372036854775807, 0)";
        let header = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}}}");
        assert_eq!(read(&npy(&header, &[])).unwrap().bytes.len(), 0);
    }
}
