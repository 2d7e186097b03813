//! What a file is that is not what was asked for, and what to do about it.

use std::fmt;

use anyhow::bail;

/// Where in a file names are searched for; archives list theirs at the beginning and at the end.
const SEARCHED: usize = 64 << 10;
/// JSON that is looked into.
const LOOKED_INTO: usize = 64 << 20;
/// Shards that are named.
const NAMED: usize = 4;

/// What torch.save wrote before it wrote zip files begins with this number, pickled.
const LEGACY: &[u8] = b"\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19";

const OF_TORCH: &str = "a PyTorch file; save its state_dict as safetensors: \
    safetensors.torch.save_file(torch.load('FILE', weights_only=True), 'FILE.safetensors')";
const OF_NUMPY: &str = "a NumPy archive (.npz); save its arrays as safetensors: \
    safetensors.numpy.save_file(dict(numpy.load('FILE.npz')), 'FILE.safetensors')";

/// What files begin with, and what they are.
const BEGINNINGS: [(&[u8], &str); 13] = [
    (b"version https://git-lfs.github.com/spec/", "a Git LFS pointer; run `git lfs pull` to get the file itself"),
    (b"\x93NUMPY", "a NumPy array (.npy)"),
    (b"GGUF", "a GGUF file; take the safetensors files that the model was made from"),
    (b"\x89HDF\r\n", "an HDF5 file; save its tensors as safetensors"),
    (b"PK", "a zip archive; unpack it"),
    (b"\x1f\x8b", "compressed by gzip; unpack it"),
    (b"\x28\xb5\x2f\xfd", "compressed by zstd; unpack it"),
    (b"\xfd7zXZ\0", "compressed by xz; unpack it"),
    (b"BZh", "compressed by bzip2; unpack it"),
    (b"\x89PNG", "a picture (PNG)"),
    (b"%PDF", "a PDF"),
    (b"\xff\xfe", "text in UTF-16; save it in UTF-8"),
    (b"\xfe\xff", "text in UTF-16; save it in UTF-8"),
];

/// What a file is, as it stands behind "it is ".
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    Safetensors,
    /// Safetensors with this many bytes, of which there are fewer.
    CutShort {
        whole: u64,
        there: u64,
    },
    /// An index of the files that are meant.
    Index(Vec<String>),
    Json,
    Other(&'static str),
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Safetensors => f.write_str("a safetensors file"),
            Self::CutShort { whole, there } => {
                write!(f, "safetensors cut short: its header speaks of {whole} bytes, the file has {there}")
            }
            Self::Index(files) => {
                let more = if files.len() > NAMED { format!(", … ({} in all)", files.len()) } else { String::new() };
                let named = files[..files.len().min(NAMED)].join(", ");
                write!(f, "an index; the tensors are in {named}{more}")
            }
            Self::Json => f.write_str("a JSON file"),
            Self::Other(what) => f.write_str(what),
        }
    }
}

/// What a file is, where that can be told. Little of it is read, however large it is.
pub fn of(bytes: &[u8]) -> Option<Kind> {
    if bytes.is_empty() {
        return Some(Kind::Other("an empty file"));
    }
    if let Some(kind) = safetensors(bytes) {
        return Some(kind);
    }
    if bytes.starts_with(b"PK\x03\x04") {
        if holds(bytes, b"data.pkl") {
            return Some(Kind::Other(OF_TORCH));
        }
        if holds(bytes, b".npy") {
            return Some(Kind::Other(OF_NUMPY));
        }
    }
    // The protocol of a pickle, 2 or later.
    if let [0x80, 2..=5, rest @ ..] = bytes {
        let other = Kind::Other("a Python pickle; save its tensors as safetensors");
        return Some(if rest.starts_with(LEGACY) { Kind::Other(OF_TORCH) } else { other });
    }
    let beginning = BEGINNINGS.iter().find(|(beginning, _)| bytes.starts_with(beginning));
    if let Some((_, what)) = beginning {
        return Some(Kind::Other(what));
    }
    if bytes.get(257..262) == Some(b"ustar") {
        return Some(Kind::Other("a tar archive; unpack it"));
    }
    text(bytes)
}

/// The text of a file that is to be JSON.
pub fn json(bytes: &[u8]) -> anyhow::Result<&str> {
    match (of(bytes), std::str::from_utf8(bytes)) {
        (None | Some(Kind::Json), Ok(text)) => Ok(text),
        (Some(kind), _) => bail!("not a configuration: it is {kind}"),
        (None, Err(error)) => bail!("not a configuration: it is no text in UTF-8 ({error})"),
    }
}

fn safetensors(bytes: &[u8]) -> Option<Kind> {
    let (length, rest) = bytes.split_first_chunk()?;
    let header = u64::from_le_bytes(*length);
    if rest.first() != Some(&b'{') || header > 100_000_000 {
        return None;
    }
    let first = header.checked_add(8)?;
    let there = bytes.len() as u64;
    let Some(text) = usize::try_from(header).ok().and_then(|header| rest.get(..header)) else {
        return Some(Kind::CutShort { whole: first, there });
    };
    let entries: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(text).ok()?;
    let end = |entry: &serde_json::Value| entry.get("data_offsets")?.get(1)?.as_u64();
    let whole = first.checked_add(entries.values().filter_map(end).max().unwrap_or(0))?;
    Some(if whole > there { Kind::CutShort { whole, there } } else { Kind::Safetensors })
}

/// Whether a name is where archives have theirs.
fn holds(bytes: &[u8], name: &[u8]) -> bool {
    let searched = bytes.len().min(SEARCHED);
    let ends = [&bytes[..searched], &bytes[bytes.len() - searched..]];
    ends.iter().any(|end| end.windows(name.len()).any(|window| window == name))
}

fn text(bytes: &[u8]) -> Option<Kind> {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes).trim_ascii_start();
    let start = String::from_utf8_lossy(&bytes[..bytes.len().min(64)]).to_ascii_lowercase();
    if start.starts_with("<!doctype html") || start.starts_with("<html") {
        return Some(Kind::Other(
            "a web page (HTML), as a download that was refused leaves it; download the file itself",
        ));
    }
    if start.starts_with("<?xml") {
        return Some(Kind::Other("an XML file, as a download that was refused leaves it; download the file itself"));
    }
    if !start.starts_with(['{', '[']) || bytes.len() > LOOKED_INTO {
        return None;
    }
    let json: serde_json::Value = serde_json::from_slice(bytes).ok()?;
    let Some(map) = json.get("weight_map").and_then(serde_json::Value::as_object) else { return Some(Kind::Json) };
    let files: std::collections::BTreeSet<&str> = map.values().filter_map(serde_json::Value::as_str).collect();
    Some(Kind::Index(files.into_iter().map(str::to_owned).collect()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

    use super::of;

    #[track_caller]
    fn is(bytes: &[u8], words: &[&str]) {
        let said = of(bytes).unwrap().to_string();
        for word in words {
            assert!(said.contains(word), "'{word}' is missing in {said}");
        }
        assert_eq!(said.lines().count(), 1, "{said}");
    }

    #[test]
    fn files_are_named_with_what_to_do() {
        is(b"", &["an empty file"]);
        let pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n";
        is(pointer, &["Git LFS", "git lfs pull"]);
        let zip = |name: &[u8]| [b"PK\x03\x04\x00\x00\x08\x08".as_slice(), &[0; 22], name, &[1; 100_000]].concat();
        is(&zip(b"archive/data.pkl"), &["PyTorch", "safetensors.torch.save_file"]);
        // The central directory names what lies behind much else.
        let last = [&zip(b"archive/data/0")[..], b"PK\x01\x02archive/data.pkl", &[0; 22]].concat();
        is(&last, &["PyTorch"]);
        is(&zip(b"x.npy"), &[".npz", "numpy.load"]);
        is(&zip(b"readme"), &["zip", "unpack"]);
        is(b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.\x80\x02M\xe9\x03.", &["PyTorch"]);
        is(b"\x80\x04\x95\x00", &["pickle"]);
        is(b"\x93NUMPY\x01\x00", &[".npy"]);
        is(b"GGUF\x03\x00\x00\x00", &["GGUF"]);
        is(b"\x1f\x8b\x08", &["gzip"]);
        is(b"\r\n<!DOCTYPE HTML><html>", &["HTML", "download"]);
        is(b"<?xml version=\"1.0\"?><Error>", &["XML"]);
        is(b"\xff\xfe{\0", &["UTF-16"]);
        assert_eq!(of(b"neither"), None);
        assert_eq!(of(b"{ not JSON"), None);
    }

    #[test]
    fn an_index_gives_the_files_it_names() {
        let index =
            br#"{"metadata": {}, "weight_map": {"b": "2.safetensors", "a": "1.safetensors", "c": "1.safetensors"}}"#;
        is(index, &["an index", "in 1.safetensors, 2.safetensors"]);
        let map: Vec<String> = (10..40).map(|n| format!("\"t{n}\": \"model-{n}.safetensors\"")).collect();
        is(format!("{{\"weight_map\": {{{}}}}}", map.join(",")).as_bytes(), &["model-13.safetensors, … (30 in all)"]);
        is(b"\xef\xbb\xbf {\"model_type\": \"mixtral\"}", &["a JSON file"]);
        is(b"[1]", &["a JSON file"]);
    }

    #[test]
    fn safetensors_that_are_cut_short_say_by_how_much() {
        let header = r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#;
        let whole = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &[0; 8]].concat();
        is(&whole, &["a safetensors file"]);
        let lacking = &whole[..whole.len() - 3];
        is(lacking, &["cut short", &format!("{} bytes", whole.len()), &format!("has {}", whole.len() - 3)]);
        is(&whole[..20], &["cut short", "the file has 20"]);
    }
}
