//! The tensors of one or several safetensors files. No file is trusted.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    fmt,
    ops::{Bound, Range},
};

use safetensors::{
    Dtype, SafeTensorError, SafeTensors,
    tensor::{Metadata, TensorInfo},
};
use serde_json::{Map, Value};

use crate::{Element, Error, Result, Values};

/// The tensors of one or several safetensors files, by name. Opening reads their headers alone, so that mapped files cost what is used
/// of them, however large they are.
///
/// A tensor of a type that is not known stands in nobody's way until it is asked for. The same name in several files is read where all of
/// them have the same there, and refused otherwise.
///
/// ```no_run
/// use double_routing::{Checkpoint, moe::MoeWeights};
/// let shards = ["model-00001.safetensors", "model-00002.safetensors"];
/// let files: Vec<_> = shards.iter().map(std::fs::read).collect::<Result<_, _>>().expect("files");
/// let named: Vec<(&str, &[u8])> = shards.into_iter().zip(files.iter().map(Vec::as_slice)).collect();
/// let checkpoint = Checkpoint::open(&named)?;
/// let weights = MoeWeights::from_checkpoint(&checkpoint, "model.layers.3.mlp.")?;
/// # Ok::<(), double_routing::Error>(())
/// ```
pub struct Checkpoint<'a> {
    files: Vec<File<'a>>,
    /// Where each tensor is: in one file, or in several.
    tensors: BTreeMap<String, Vec<Place>>,
    on_read: Option<OnRead<'a>>,
}

type OnRead<'a> = Box<dyn Fn(usize, Range<usize>) + 'a>;

struct File<'a> {
    name: String,
    bytes: &'a [u8],
}

/// A tensor in a file, as its header has it.
struct Place {
    file: usize,
    kind: Kind,
    shape: Vec<usize>,
    /// Of the whole file.
    bytes: Range<usize>,
}

/// The type of a tensor.
#[derive(Debug, PartialEq)]
enum Kind {
    Known(Dtype),
    /// What the header calls it.
    Unknown(String),
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Known(dtype) => write!(f, "{dtype:?}"),
            Self::Unknown(name) => f.write_str(name),
        }
    }
}

impl fmt::Debug for Checkpoint<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.tensors.keys()).finish()
    }
}

/// Bytes that are copied at a time, after which a mapped file's can be given back.
const AT_ONCE: usize = 16 << 20;

/// Names that an error lists.
const LISTED: usize = 8;

/// Tensors beside weights that change nothing here: scales of activations and caches that are kept in fewer bits elsewhere.
const HARMLESS: [&str; 4] = ["input_scale", "input_global_scale", "k_scale", "v_scale"];
/// What rotary embeddings can be computed from.
const FREQUENCIES: &str = "rotary_emb.inv_freq";

impl<'a> Checkpoint<'a> {
    /// Opens files: what to call each in errors, and its bytes.
    ///
    /// # Errors
    /// [`Error::Weights`] where one is not safetensors, naming it where there are several.
    ///
    /// ```
    /// use double_routing::Checkpoint;
    /// let error = Checkpoint::open(&[("a.safetensors", b"{}")]).unwrap_err();
    /// assert!(error.to_string().starts_with("weights: not safetensors: "));
    /// ```
    pub fn open(files: &[(&str, &'a [u8])]) -> Result<Self> {
        let mut checkpoint = Self { files: Vec::new(), tensors: BTreeMap::new(), on_read: None };
        for &(name, bytes) in files {
            let places = places(bytes, checkpoint.files.len()).map_err(|error| {
                let of_file = if files.len() > 1 { format!("{name}: ") } else { String::new() };
                Error::Weights(format!("{of_file}not safetensors: {error}"))
            })?;
            for (name, place) in places {
                checkpoint.tensors.entry(name).or_default().push(place);
            }
            checkpoint.files.push(File { name: name.into(), bytes });
        }
        Ok(checkpoint)
    }

    /// Leaves tensors out, as if they were in no file: by name, or all whose names begin so where one ends with a point. What lies below a
    /// layer's prefix and is not read is refused otherwise, for it may change the result.
    ///
    /// ```no_run
    /// # fn read(bytes: &[u8]) -> double_routing::Result<()> {
    /// use double_routing::{Checkpoint, Weights};
    /// // A layer that lies beside its tokens' table, which is read elsewhere.
    /// let checkpoint = Checkpoint::open(&[("model", bytes)])?.without(&["tokens.weight"]);
    /// let weights = Weights::from_checkpoint(&checkpoint, "")?;
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn without<S: AsRef<str>>(mut self, names: &[S]) -> Self {
        let left_out = |name: &str| {
            names.iter().map(AsRef::as_ref).any(|out| name == out || (out.ends_with('.') && name.starts_with(out)))
        };
        self.tensors.retain(|name, _| !left_out(name));
        self
    }

    /// Calls this with the number of a file and a range of its bytes whenever these have been copied or compared and are not used any more.
    /// A mapped file's pages can be given back then.
    ///
    /// ```
    /// # fn read(bytes: &[u8]) -> double_routing::Result<()> {
    /// let checkpoint = double_routing::Checkpoint::open(&[("model", bytes)])?;
    /// let checkpoint = checkpoint.on_read(|file, bytes| println!("{} bytes of file {file}", bytes.len()));
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn on_read(mut self, call: impl Fn(usize, Range<usize>) + 'a) -> Self {
        self.on_read = Some(Box::new(call));
        self
    }

    /// The names of all tensors, sorted.
    ///
    /// ```
    /// # fn show(checkpoint: &double_routing::Checkpoint<'_>) {
    /// println!("{} tensors", checkpoint.names().count());
    /// # }
    /// ```
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// Whether there is a tensor of this name.
    ///
    /// ```
    /// let checkpoint = double_routing::Checkpoint::open(&[])?;
    /// assert!(!checkpoint.contains("gate.weight"));
    /// # Ok::<(), double_routing::Error>(())
    /// ```
    pub fn contains(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// The names that begin with this, sorted.
    ///
    /// ```
    /// # fn show(checkpoint: &double_routing::Checkpoint<'_>) {
    /// println!("{:?}", checkpoint.below("model.layers.3.").next());
    /// # }
    /// ```
    pub fn below<'s>(&'s self, prefix: &'s str) -> impl Iterator<Item = &'s str> {
        let from =
            self.tensors.range::<str, _>((Bound::Included(prefix), Bound::Unbounded)).map(|(name, _)| name.as_str());
        from.take_while(move |name| name.starts_with(prefix))
    }

    /// The shape of a tensor.
    ///
    /// # Errors
    /// [`Error::Weights`] where there is none of this name, which lists names like it; and where files differ about it.
    ///
    /// ```
    /// let error = double_routing::Checkpoint::open(&[])?.shape("gate.weight").unwrap_err();
    /// assert_eq!(error.to_string(), "weights: no tensor gate.weight; the file holds none");
    /// # Ok::<(), double_routing::Error>(())
    /// ```
    pub fn shape(&self, name: &str) -> Result<&[usize]> {
        Ok(&self.place(name)?.shape)
    }

    /// The values of a tensor of type F32, F16 or BF16, or of F64, each rounded once to f32.
    ///
    /// # Errors
    /// As [`Checkpoint::shape`]; [`Error::Element`] for another type.
    ///
    /// ```no_run
    /// # fn read(checkpoint: &double_routing::Checkpoint<'_>) -> double_routing::Result<()> {
    /// let tokens = checkpoint.values("tokens.weight")?.to_f32();
    /// # Ok(()) }
    /// ```
    pub fn values(&self, name: &str) -> Result<Values> {
        let place = self.place(name)?;
        // Of a file's size at most, or twice that: none is larger than its bytes.
        let mut values = Values::with_capacity(self.element(name)?, place.shape.iter().product());
        self.append(name, &mut values)?;
        Ok(values)
    }

    /// How the values of a tensor will be stored.
    pub(crate) fn element(&self, name: &str) -> Result<Element> {
        let kind = &self.place(name)?.kind;
        let element = match kind {
            Kind::Known(dtype) => Values::element_of(*dtype),
            Kind::Unknown(_) => None,
        };
        element.ok_or_else(|| Values::refused(name, kind))
    }

    /// Puts the values of a tensor behind those of others, which are of its element.
    pub(crate) fn append(&self, name: &str, values: &mut Values) -> Result<()> {
        let place = self.place(name)?;
        let Kind::Known(dtype) = place.kind else { return Err(Values::refused(name, &place.kind)) };
        self.check_copies(name)?;
        for bytes in parts(&place.bytes) {
            if !values.extend(dtype, self.bytes(place, &bytes)) {
                return Err(Error::Weights(format!("{name} is {dtype:?}, others beside it are {}", values.element())));
            }
            self.done_with(place, &bytes);
        }
        Ok(())
    }

    /// Refuses what lies below a prefix and may change the result, but is not read. `rest` says of a name, without the prefix, whether it is
    /// read or does not matter.
    pub(crate) fn refuse_unread(&self, prefix: &str, known: impl Fn(&str) -> bool) -> Result<()> {
        let (mut beside, mut unread) = (BTreeSet::new(), Vec::new());
        for name in self.below(prefix) {
            if known(&name[prefix.len()..]) {
                beside.insert(module(name));
            } else if !self.harmless(name)? {
                unread.push(name);
            }
        }
        // First what belongs to a map that is read, then what lies highest.
        unread.sort_by_key(|name| (!beside.contains(module(name)), name.split('.').count(), natural(name)));
        match unread.as_slice() {
            [] => Ok(()),
            [one] => Err(Error::Unread(format!("{one} may change the result, and is not read"))),
            several => {
                Err(Error::Unread(format!("{} may change the result, and are not read", listed(several, LISTED / 2))))
            }
        }
    }

    /// Whether a tensor is known not to matter.
    fn harmless(&self, name: &str) -> Result<bool> {
        let last = name.rsplit('.').next().unwrap_or(name);
        if let Some(weight) = name.strip_suffix("_shape").filter(|_| last == "weight_shape")
            && self.contains(weight)
        {
            let (said, shape) = (self.integers(name)?, self.shape(weight)?);
            let same = said.as_ref().is_some_and(|said| said.iter().eq(shape));
            let said = || said.as_ref().map_or_else(|| "no numbers".into(), |said| format!("{said:?}"));
            return if same {
                Ok(true)
            } else {
                Err(Error::Weights(format!("{weight} is {shape:?}, but {name} says {}", said())))
            };
        }
        let frequencies = name.strip_suffix(FREQUENCIES).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
        Ok(HARMLESS.contains(&last) || frequencies)
    }

    /// A few whole numbers.
    fn integers(&self, name: &str) -> Result<Option<Vec<usize>>> {
        let place = self.place(name)?;
        let bytes = self.bytes(place, &place.bytes);
        let wide: Vec<i64> = match place.kind {
            _ if bytes.len() > 64 => return Ok(None),
            Kind::Known(Dtype::I64) => bytemuck::pod_collect_to_vec(bytes),
            Kind::Known(Dtype::I32) => {
                bytemuck::pod_collect_to_vec::<u8, i32>(bytes).into_iter().map(i64::from).collect()
            }
            _ => return Ok(None),
        };
        Ok(wide.into_iter().map(|number| usize::try_from(number).ok()).collect())
    }

    fn place(&self, name: &str) -> Result<&Place> {
        let Some([first, others @ ..]) = self.tensors.get(name).map(Vec::as_slice) else {
            let files = if self.files.len() > 1 { "files hold" } else { "file holds" };
            let names = names_like(name, self.names());
            let names = if names.is_empty() { "none" } else { &names };
            return Err(Error::Weights(format!("no tensor {name}; the {files} {names}")));
        };
        let differs = |other: &&Place| (&other.kind, &other.shape) != (&first.kind, &first.shape);
        match others.iter().find(differs) {
            Some(other) => {
                let said =
                    |place: &Place| format!("{} {:?} in {}", place.kind, place.shape, self.files[place.file].name);
                Err(Error::Weights(format!("{name} is {}, {}", said(first), said(other))))
            }
            None => Ok(first),
        }
    }

    /// Whether all files that have a tensor have the same.
    fn check_copies(&self, name: &str) -> Result<()> {
        let first = self.place(name)?;
        for other in self.tensors.get(name).into_iter().flatten().skip(1) {
            for (one, copy) in parts(&first.bytes).zip(parts(&other.bytes)) {
                if self.bytes(first, &one) != self.bytes(other, &copy) {
                    let [one, other] = [first, other].map(|place| &self.files[place.file].name);
                    return Err(Error::Weights(format!("{name} is not the same in {one} and {other}")));
                }
                self.done_with(first, &one);
                self.done_with(other, &copy);
            }
        }
        Ok(())
    }

    fn bytes(&self, place: &Place, range: &Range<usize>) -> &'a [u8] {
        &self.files[place.file].bytes[range.clone()]
    }

    fn done_with(&self, place: &Place, range: &Range<usize>) {
        if let Some(call) = &self.on_read {
            call(place.file, range.clone());
        }
    }
}

/// A range, some of it at a time.
fn parts(range: &Range<usize>) -> impl Iterator<Item = Range<usize>> + use<> {
    let end = range.end;
    range.clone().step_by(AT_ONCE).map(move |start| start..end.min(start + AT_ONCE))
}

/// What a file's header says of its tensors.
fn places(bytes: &[u8], file: usize) -> std::result::Result<Vec<(String, Place)>, SafeTensorError> {
    let (header, metadata, mut unknown) = match SafeTensors::read_metadata(bytes) {
        Ok((header, metadata)) => (header, metadata, BTreeMap::new()),
        Err(SafeTensorError::InvalidHeaderDeserialization(error)) => with_unknown_types(bytes, error)?,
        Err(error) => return Err(error),
    };
    let place = |(name, info): (String, &TensorInfo)| {
        let first = size_of::<u64>() + header;
        let (start, end) = info.data_offsets;
        let (kind, shape) = unknown.remove(&name).unwrap_or_else(|| (Kind::Known(info.dtype), info.shape.clone()));
        (name, Place { file, kind, shape, bytes: first + start..first + end })
    };
    Ok(metadata.tensors().into_iter().map(place).collect())
}

/// Tensors whose types are not known, by name: the type and the shape.
type Unknown = BTreeMap<String, (Kind, Vec<usize>)>;
/// What safetensors make of a tensor's entry in a header.
type Entry = (String, TensorInfo);

/// Reads a header that has types in it which are not known, with bytes in their place. Whether tensors lie where a file's may is checked as for
/// all. Gives the error of before back where that is not what was wrong.
fn with_unknown_types(
    bytes: &[u8],
    error: serde_json::Error,
) -> std::result::Result<(usize, Metadata, Unknown), SafeTensorError> {
    let header = || -> Option<(usize, Vec<Entry>, Unknown)> {
        let (length, rest) = bytes.split_first_chunk()?;
        let length = usize::try_from(u64::from_le_bytes(*length)).ok()?;
        let entries: Map<String, Value> = serde_json::from_slice(rest.get(..length)?).ok()?;
        let (mut tensors, mut unknown) = (Vec::new(), Unknown::new());
        for (name, entry) in entries.into_iter().filter(|(name, _)| name != "__metadata__") {
            let info = match serde_json::from_value::<TensorInfo>(entry.clone()) {
                Ok(info) => info,
                Err(_) => {
                    let kind = Kind::Unknown(entry.get("dtype")?.as_str()?.to_owned());
                    let shape: Vec<usize> = serde_json::from_value(entry.get("shape")?.clone()).ok()?;
                    let data_offsets: (usize, usize) =
                        serde_json::from_value(entry.get("data_offsets")?.clone()).ok()?;
                    unknown.insert(name.clone(), (kind, shape));
                    TensorInfo {
                        dtype: Dtype::U8,
                        shape: vec![data_offsets.1.checked_sub(data_offsets.0)?],
                        data_offsets,
                    }
                }
            };
            tensors.push((name, info));
        }
        tensors.sort_by_key(|(_, info)| info.data_offsets);
        (!unknown.is_empty()).then_some((length, tensors, unknown))
    };
    let Some((length, tensors, unknown)) = header() else {
        return Err(SafeTensorError::InvalidHeaderDeserialization(error));
    };
    let metadata = Metadata::new(None, tensors)?;
    match metadata.data_len().checked_add(size_of::<u64>() + length) {
        Some(end) if end == bytes.len() => Ok((length, metadata, unknown)),
        _ => Err(SafeTensorError::MetadataIncompleteBuffer),
    }
}

/// What a prefix stands for: itself, or with a point behind it, and of these what lies at one of `below` in it, wherever `name` is first.
pub(crate) fn resolved(checkpoint: &Checkpoint<'_>, prefix: &str, below: &[&str], name: &str) -> String {
    let dotted = (!prefix.is_empty() && !prefix.ends_with('.')).then(|| format!("{prefix}."));
    let starts = [Some(prefix.to_owned()), dotted].into_iter().flatten();
    let mut candidates = starts.flat_map(|start| below.iter().map(move |below| format!("{start}{below}")));
    candidates.find(|prefix| checkpoint.contains(&format!("{prefix}{name}"))).unwrap_or_else(|| prefix.into())
}

/// Names to tell someone who asked for one that is not there: the first of them end as it does, are of the same module, or begin as it does.
/// Long lists are cut short, and say how many there are.
///
/// ```
/// use double_routing::names_like;
/// let names = ["lm_head.weight", "model.norm.weight", "module.routing1.bias", "module.routing1.weight"];
/// assert!(names_like("routing1.weight", names).starts_with("module.routing1.weight, module.routing1.bias, "));
/// ```
pub fn names_like<'n>(asked: &str, names: impl IntoIterator<Item = &'n str>) -> String {
    let end = asked.rsplitn(3, '.').take(2).map(str::len).sum::<usize>() + usize::from(asked.contains('.'));
    let end = &asked[asked.len() - end..];
    let of_module = end.split('.').next().unwrap_or(end);
    let ends = |name: &str| name.strip_suffix(end).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
    let in_common = |name: &str| name.split('.').zip(asked.split('.')).take_while(|(a, b)| a == b).count();
    let likeness = |name: &str| Reverse((ends(name), name.split('.').any(|part| part == of_module), in_common(name)));
    let mut names: Vec<&str> = names.into_iter().collect();
    names.sort_by_cached_key(|name| (likeness(name), natural(name)));
    listed(&names, LISTED)
}

/// The first of some names, and how many there are where these are not all.
fn listed(names: &[&str], most: usize) -> String {
    let shown = names[..names.len().min(most)].join(", ");
    if names.len() > most { format!("{shown}, … ({} in all)", names.len()) } else { shown }
}

/// What a name is sorted by so that layer 3 comes before layer 12.
fn natural(name: &str) -> Vec<(u64, String)> {
    let part = |part: &str| part.parse().map_or_else(|_| (u64::MAX, part.to_owned()), |number| (number, String::new()));
    name.split('.').map(part).collect()
}

/// What a tensor belongs to.
fn module(name: &str) -> &str {
    name.rsplit_once('.').map_or("", |(module, _)| module)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

    use std::cell::RefCell;

    use super::{AT_ONCE, Checkpoint, names_like, parts};
    use crate::Values;

    fn file(header: &str, data: &[u8]) -> Vec<u8> {
        [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), data].concat()
    }

    fn entry(name: &str, dtype: &str, shape: &[usize], range: [usize; 2]) -> String {
        format!(r#""{name}":{{"dtype":"{dtype}","shape":{shape:?},"data_offsets":{range:?}}}"#)
    }

    #[test]
    fn doubles_are_rounded_once() {
        // Behind the middle of 1 and the next f32 by less than an f32 has; and beyond all of them.
        let values = [1.0 + 2f64.powi(-24) + 2f64.powi(-50), 0.1, -1e300];
        let data: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        let bytes = file(&format!("{{{}}}", entry("a", "F64", &[3], [0, 24])), &data);
        let checkpoint = Checkpoint::open(&[("a", &bytes)]).unwrap();
        let expected = Values::from(vec![1.0 + f32::EPSILON, 0.1, f32::NEG_INFINITY]);
        assert_eq!(checkpoint.values("a").unwrap(), expected);
        let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        assert_eq!(Values::from_safetensors("a", &file.tensor("a").unwrap()).unwrap(), expected);
    }

    #[test]
    fn headers_alone_are_read_and_bytes_are_given_back() {
        let header = format!("{{{},{}}}", entry("a", "F32", &[2], [0, 8]), entry("b", "F16", &[2], [8, 12]));
        let bytes = file(&header, &[0; 12]);
        let first = 8 + header.len();
        let read = RefCell::new(Vec::new());
        let both: [(&str, &[u8]); 2] = [("one", &bytes), ("other", &bytes)];
        let checkpoint = Checkpoint::open(&both).unwrap().on_read(|file, range| read.borrow_mut().push((file, range)));
        assert_eq!(checkpoint.shape("a").unwrap(), [2]);
        assert!(read.borrow().is_empty());
        checkpoint.values("b").unwrap();
        // Compared, then copied.
        let b = first + 8..first + 12;
        assert_eq!(*read.borrow(), [(0, b.clone()), (1, b.clone()), (0, b)]);
        let all: Vec<_> = parts(&(5..5 + 2 * AT_ONCE + 1)).collect();
        assert_eq!(all, [5..5 + AT_ONCE, 5 + AT_ONCE..5 + 2 * AT_ONCE, 5 + 2 * AT_ONCE..6 + 2 * AT_ONCE]);
    }

    #[test]
    fn of_several_files_the_one_that_is_wrong_is_named() {
        let good = file("{}", &[]);
        let error = Checkpoint::open(&[("good", &good), ("bad", b"none")]).unwrap_err();
        assert!(error.to_string().starts_with("weights: bad: not safetensors: "), "{error}");
        // Types that are not known are no reason to trust offsets.
        for (range, data) in [([0, 5], 4), ([1, 4], 4), ([4, 0], 4), ([0, usize::MAX], 4)] {
            let bytes = file(&format!("{{{}}}", entry("a", "F7", &[4], range)), &vec![0; data]);
            assert!(Checkpoint::open(&[("a", &bytes)]).is_err(), "{range:?}");
        }
        let overlapping = format!("{{{},{}}}", entry("a", "F7", &[4], [0, 4]), entry("b", "U8", &[4], [2, 6]));
        assert!(Checkpoint::open(&[("a", &file(&overlapping, &[0; 6]))]).is_err());
        let known =
            file(&format!("{{{},{}}}", entry("a", "F7", &[4], [0, 3]), entry("b", "U8", &[2], [3, 5])), &[7; 5]);
        let checkpoint = Checkpoint::open(&[("a", &known)]).unwrap();
        assert_eq!(checkpoint.shape("a").unwrap(), [4]);
        assert_eq!(
            checkpoint.values("a").unwrap_err().to_string(),
            "safetensors: a is F7, expected F64, F32, F16 or BF16"
        );
    }

    #[test]
    fn names_are_sorted_by_what_they_have_in_common() {
        let names = [
            "a.b",
            "model.layers.12.mlp.gate.weight",
            "model.layers.3.mlp.gate.weight",
            "model.layers.3.mlp.gate.bias",
        ];
        let expected =
            "model.layers.3.mlp.gate.weight, model.layers.12.mlp.gate.weight, model.layers.3.mlp.gate.bias, a.b";
        assert_eq!(names_like("model.layers.4.mlp.gate.weight", names), expected);
        assert_eq!(names_like("x", ["b", "X", "a", "data.x"]), "data.x, X, a, b");
        assert_eq!(names_like("", []), "");
        let many: Vec<String> = (0..20).map(|n| format!("t{n}")).collect();
        assert!(names_like("é.ü", many.iter().map(String::as_str)).ends_with(", … (20 in all)"));
    }
}
