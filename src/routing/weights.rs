//! The layer's weights: from safetensors or from the caller's values.

use half::{bf16, f16};
use std::collections::BTreeMap;

use safetensors::{Dtype, tensor::TensorView};

use crate::{
    Checkpoint, Element, Error, Result, checkpoint,
    reference::{Layer, Paths},
};

/// Numbers in one of the types that weights may be stored in.
///
/// ```
/// use double_routing::{Element, Values};
/// let values = Values::from(vec![1.0f32, 2.0]);
/// assert_eq!((values.element(), values.len()), (Element::F32, 2));
/// ```
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Values {
    /// IEEE binary32.
    F32(Vec<f32>),
    /// IEEE binary16.
    F16(Vec<f16>),
    /// bfloat16.
    BF16(Vec<bf16>),
}

impl From<Vec<f32>> for Values {
    fn from(values: Vec<f32>) -> Self {
        Self::F32(values)
    }
}

impl From<Vec<f16>> for Values {
    fn from(values: Vec<f16>) -> Self {
        Self::F16(values)
    }
}

impl From<Vec<bf16>> for Values {
    fn from(values: Vec<bf16>) -> Self {
        Self::BF16(values)
    }
}

impl Values {
    /// Reads a safetensors tensor of type F32, F16 or BF16, or of F64, each value of which is rounded once to f32: what is too large for
    /// it becomes infinite.
    ///
    /// # Errors
    /// [`Error::Element`] for any other type, naming the tensor.
    ///
    /// ```no_run
    /// # fn read(file: &safetensors::SafeTensors<'_>) -> Result<(), Box<dyn std::error::Error>> {
    /// let x = double_routing::Values::from_safetensors("x", &file.tensor("x")?)?.to_f32();
    /// # Ok(()) }
    /// ```
    pub fn from_safetensors(name: &str, view: &TensorView<'_>) -> Result<Self> {
        let data = view.data();
        match view.dtype() {
            Dtype::F32 => Ok(Self::F32(bytemuck::pod_collect_to_vec(data))),
            Dtype::F16 => Ok(Self::F16(bytemuck::pod_collect_to_vec(data))),
            Dtype::BF16 => Ok(Self::BF16(bytemuck::pod_collect_to_vec(data))),
            Dtype::F64 => Ok(Self::F32(singles(data).collect())),
            other => Err(Self::refused(name, &format_args!("{other:?}"))),
        }
    }

    /// How values of a type are stored, where they can be read.
    pub(crate) fn element_of(dtype: Dtype) -> Option<Element> {
        match dtype {
            Dtype::F32 | Dtype::F64 => Some(Element::F32),
            Dtype::F16 => Some(Element::F16),
            Dtype::BF16 => Some(Element::BF16),
            _ => None,
        }
    }

    /// The refusal of a tensor of another type.
    pub(crate) fn refused(name: &str, dtype: &dyn std::fmt::Display) -> Error {
        Error::element("safetensors", format!("{name} is {dtype}, expected F64, F32, F16 or BF16"))
    }

    /// No values yet, with room for so many.
    pub(crate) fn with_capacity(element: Element, count: usize) -> Self {
        match element {
            Element::F16 => Self::F16(Vec::with_capacity(count)),
            Element::BF16 => Self::BF16(Vec::with_capacity(count)),
            Element::F32 | Element::U32 => Self::F32(Vec::with_capacity(count)),
        }
    }

    /// Puts stored values behind these; says whether they are of a type that is kept so.
    pub(crate) fn extend(&mut self, dtype: Dtype, bytes: &[u8]) -> bool {
        fn copied<T: bytemuck::Pod>(values: &mut Vec<T>, bytes: &[u8]) {
            let start = values.len();
            values.resize(start + bytes.len() / size_of::<T>(), T::zeroed());
            bytemuck::cast_slice_mut(&mut values[start..]).copy_from_slice(bytes);
        }
        match (self, dtype) {
            (Self::F32(values), Dtype::F32) => copied(values, bytes),
            (Self::F32(values), Dtype::F64) => values.extend(singles(bytes)),
            (Self::F16(values), Dtype::F16) => copied(values, bytes),
            (Self::BF16(values), Dtype::BF16) => copied(values, bytes),
            _ => return false,
        }
        true
    }

    /// Rounds each value once to a float type, to nearest, ties to even; what is too large for it becomes infinite. For
    /// [`Element::U32`] they stay f32.
    ///
    /// ```
    /// use double_routing::{Element, Values};
    /// // The next bf16 behind 1 is 1.0078125.
    /// assert_eq!(Values::rounded(&[1.005], Element::BF16).to_f32(), [1.0078125]);
    /// ```
    pub fn rounded(values: &[f32], element: Element) -> Self {
        match element {
            Element::F16 => Self::F16(values.iter().map(|&value| f16::from_f32(value)).collect()),
            Element::BF16 => Self::BF16(values.iter().map(|&value| bf16::from_f32(value)).collect()),
            Element::F32 | Element::U32 => Self::F32(values.to_vec()),
        }
    }

    /// What [`Gpu::read`](crate::Gpu::read) gives of a tensor of floats.
    pub(crate) fn from_bytes(bytes: &[u8], element: Element) -> Self {
        match element {
            Element::F16 => Self::F16(bytemuck::pod_collect_to_vec(bytes)),
            Element::BF16 => Self::BF16(bytemuck::pod_collect_to_vec(bytes)),
            Element::F32 | Element::U32 => Self::F32(bytemuck::pod_collect_to_vec(bytes)),
        }
    }

    /// The values of all parts, one after the other; `None` where they are not of one type, or there is no part.
    ///
    /// ```
    /// use double_routing::Values;
    /// let both = Values::concat(vec![Values::from(vec![1.0f32]), Values::from(vec![2.0f32])]);
    /// assert_eq!(both, Some(Values::from(vec![1.0f32, 2.0])));
    /// ```
    pub fn concat(parts: Vec<Self>) -> Option<Self> {
        let mut parts = parts.into_iter();
        let mut all = parts.next()?;
        for part in parts {
            match (&mut all, part) {
                (Self::F32(all), Self::F32(part)) => all.extend(part),
                (Self::F16(all), Self::F16(part)) => all.extend(part),
                (Self::BF16(all), Self::BF16(part)) => all.extend(part),
                _ => return None,
            }
        }
        Some(all)
    }

    /// How the numbers are stored.
    ///
    /// ```
    /// # use double_routing::{Element, Values};
    /// assert_eq!(Values::from(vec![0.0f32]).element(), Element::F32);
    /// ```
    pub fn element(&self) -> Element {
        match self {
            Self::F32(_) => Element::F32,
            Self::F16(_) => Element::F16,
            Self::BF16(_) => Element::BF16,
        }
    }

    /// The number of values.
    ///
    /// ```
    /// assert_eq!(double_routing::Values::from(vec![1.0f32, 2.0]).len(), 2);
    /// ```
    pub fn len(&self) -> usize {
        match self {
            Self::F32(values) => values.len(),
            Self::F16(values) => values.len(),
            Self::BF16(values) => values.len(),
        }
    }

    /// Whether there are none.
    ///
    /// ```
    /// assert!(double_routing::Values::from(Vec::<f32>::new()).is_empty());
    /// ```
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The values in f64; exact.
    ///
    /// ```
    /// assert_eq!(double_routing::Values::from(vec![0.5f32]).to_f64(), [0.5]);
    /// ```
    pub fn to_f64(&self) -> Vec<f64> {
        match self {
            Self::F32(values) => values.iter().map(|&value| value.into()).collect(),
            Self::F16(values) => values.iter().map(|&value| value.into()).collect(),
            Self::BF16(values) => values.iter().map(|&value| value.into()).collect(),
        }
    }

    /// The values in f32; exact.
    ///
    /// ```
    /// assert_eq!(double_routing::Values::from(vec![half::f16::ONE]).to_f32(), [1.0]);
    /// ```
    pub fn to_f32(&self) -> Vec<f32> {
        match self {
            Self::F32(values) => values.clone(),
            Self::F16(values) => values.iter().map(|&value| value.into()).collect(),
            Self::BF16(values) => values.iter().map(|&value| value.into()).collect(),
        }
    }

    /// The position of the first NaN or infinity.
    ///
    /// ```
    /// assert_eq!(double_routing::Values::from(vec![0.0, f32::NAN]).first_non_finite(), Some(1));
    /// ```
    pub fn first_non_finite(&self) -> Option<usize> {
        match self {
            Self::F32(values) => values.iter().position(|value| !value.is_finite()),
            Self::F16(values) => values.iter().position(|value| !value.is_finite()),
            Self::BF16(values) => values.iter().position(|value| !value.is_finite()),
        }
    }

    /// The bytes that a buffer of [`Values::element`] holds.
    ///
    /// ```
    /// assert_eq!(double_routing::Values::from(vec![1.0f32]).bytes(), 1.0f32.to_le_bytes());
    /// ```
    pub fn bytes(&self) -> &[u8] {
        match self {
            Self::F32(values) => bytemuck::cast_slice(values),
            Self::F16(values) => bytemuck::cast_slice(values),
            Self::BF16(values) => bytemuck::cast_slice(values),
        }
    }
}

/// f64 values, each rounded once.
fn singles(bytes: &[u8]) -> impl Iterator<Item = f32> {
    bytes.as_chunks().0.iter().map(|&bytes| f64::from_le_bytes(bytes) as f32)
}

/// One linear map, `x·weightᵀ + bias`, as PyTorch's `nn.Linear` stores it.
///
/// ```
/// use double_routing::Linear;
/// let linear = Linear::new(vec![1.0f32; 6], [2, 3], vec![0.0f32; 2]);
/// assert_eq!(linear.shape, [2, 3]);
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Linear {
    /// `[out, in]`, row-major.
    pub weight: Values,
    /// `[out, in]`.
    pub shape: [usize; 2],
    /// `[out]`.
    pub bias: Values,
}

impl Linear {
    /// A map of `shape` `[out, in]`. [`Weights::new`] checks that the values fill it.
    ///
    /// ```
    /// let linear = double_routing::Linear::new(vec![1.0f32; 6], [2, 3], vec![0.0f32; 2]);
    /// # let _ = linear;
    /// ```
    pub fn new(weight: impl Into<Values>, shape: [usize; 2], bias: impl Into<Values>) -> Self {
        Self { weight: weight.into(), shape, bias: bias.into() }
    }

    /// Whether the values fill the shape.
    fn check(&self, name: &str) -> Result<()> {
        let [out, features] = self.shape;
        if Some(self.weight.len()) != out.checked_mul(features) {
            let (values, shape) = (self.weight.len(), self.shape);
            return Err(Error::Weights(format!("{name}.weight has {values} values for {shape:?}")));
        }
        if self.bias.len() != out {
            let (bias, shape) = (self.bias.len(), self.shape);
            return Err(Error::Weights(format!("{name}.bias is [{bias}], {name}.weight {shape:?} needs [{out}]")));
        }
        if out == 0 || features == 0 {
            return Err(Error::Weights(format!("{name}.weight is {:?}: a dimension is 0", self.shape)));
        }
        Ok(())
    }
}

/// The dimensions of a layer, read from its weights.
///
/// ```
/// use double_routing::Dimensions;
/// let dimensions = Dimensions { input: 768, attention: 64, routing: 32, output: 256 };
/// println!("{dimensions}");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dimensions {
    /// Features of a token.
    pub input: usize,
    /// A: the dimension of the embedding.
    pub attention: usize,
    /// R: the dimension between the two routings.
    pub routing: usize,
    /// O: features of a result.
    pub output: usize,
}

impl std::fmt::Display for Dimensions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "in={} A={} R={} O={}", self.input, self.attention, self.routing, self.output)
    }
}

/// The tensors of a double-routing layer, checked against each other: eight, or with several paths those of the path gate too.
///
/// ```
/// use double_routing::{Linear, Weights};
/// let weights = Weights::new(
///     Linear::new(vec![0.1f32; 4 * 3], [4, 3], vec![0.0f32; 4]),
///     Linear::new(vec![0.1f32; 4], [1, 4], vec![0.0f32; 1]),
///     Linear::new(vec![0.1f32; 2 * 4], [2, 4], vec![0.0f32; 2]),
///     Linear::new(vec![0.1f32; 5 * 2], [5, 2], vec![0.0f32; 5]),
/// )?;
/// assert_eq!(weights.dimensions().output, 5);
/// # Ok::<(), double_routing::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Weights {
    pub(crate) embedding: Linear,
    pub(crate) attention: Linear,
    pub(crate) routing1: Linear,
    /// One path's map, or those of all paths, one below the other: `[P·O, R]`.
    pub(crate) routing2: Linear,
    /// `[P, R]`, where there are several paths.
    pub(crate) path_gate: Option<Linear>,
}

impl Weights {
    /// Weights from four maps: embedding `[A, in]`, attention `[1, A]`, routing1 `[R, A]`, routing2 `[O, R]`.
    ///
    /// # Errors
    /// [`Error::Weights`], naming both tensors and both shapes, where they do not fit each other.
    ///
    /// ```
    /// use double_routing::{Linear, Weights};
    /// let linear = |out, features| Linear::new(vec![0.0f32; out * features], [out, features], vec![0.0f32; out]);
    /// let error = Weights::new(linear(4, 3), linear(1, 5), linear(2, 4), linear(5, 2)).unwrap_err();
    /// assert_eq!(error.to_string(), "weights: attention.weight is [1, 5], embedding.weight [4, 3] needs it to be [1, 4]");
    /// ```
    pub fn new(embedding: Linear, attention: Linear, routing1: Linear, routing2: Linear) -> Result<Self> {
        let maps =
            [("embedding", &embedding), ("attention", &attention), ("routing1", &routing1), ("routing2", &routing2)];
        for (name, map) in maps {
            map.check(name)?;
        }
        let [a, _] = embedding.shape;
        let [r, routing1_in] = routing1.shape;
        if attention.shape != [1, a] {
            return Err(disagree("attention.weight", attention.shape, "embedding.weight", embedding.shape, [1, a]));
        }
        if routing1_in != a {
            return Err(disagree("routing1.weight", routing1.shape, "embedding.weight", embedding.shape, [r, a]));
        }
        let [o, routing2_in] = routing2.shape;
        if routing2_in != r {
            return Err(disagree("routing2.weight", routing2.shape, "routing1.weight", routing1.shape, [o, r]));
        }
        Ok(Self { embedding, attention, routing1, routing2, path_gate: None })
    }

    /// The same maps up to routing1, and several paths behind it: the path gate `[P, R]`, and routing2 as `[P·O, R]`, the maps of the paths
    /// one below the other.
    ///
    /// # Errors
    /// As [`Weights::new`], and where routing2's rows are no multiple of P.
    ///
    /// ```
    /// use double_routing::{Linear, Weights};
    /// let linear = |out, features| Linear::new(vec![0.1f32; out * features], [out, features], vec![0.0f32; out]);
    /// // 6 paths from 2 features to 5.
    /// let weights = Weights::with_paths(linear(4, 3), linear(1, 4), linear(2, 4), linear(6, 2), linear(6 * 5, 2))?;
    /// assert_eq!((weights.paths(), weights.dimensions().output), (6, 5));
    /// # Ok::<(), double_routing::Error>(())
    /// ```
    pub fn with_paths(
        embedding: Linear,
        attention: Linear,
        routing1: Linear,
        path_gate: Linear,
        routing2: Linear,
    ) -> Result<Self> {
        path_gate.check("path_gate")?;
        let dense = Self::new(embedding, attention, routing1, routing2)?;
        let [paths, gate_in] = path_gate.shape;
        let [r, _] = dense.routing1.shape;
        if gate_in != r {
            return Err(disagree(
                "path_gate.weight",
                path_gate.shape,
                "routing1.weight",
                dense.routing1.shape,
                [paths, r],
            ));
        }
        let [rows, _] = dense.routing2.shape;
        if !rows.is_multiple_of(paths) {
            return Err(Error::Weights(format!("routing2.weight has {rows} rows for {paths} paths")));
        }
        Ok(Self { path_gate: Some(path_gate), ..dense })
    }

    /// What the paths of the second level are chosen by, `[P, R]`; without it there is one path that every token takes.
    ///
    /// ```no_run
    /// # fn show(weights: &double_routing::Weights) {
    /// println!("{:?}", weights.path_gate().map(|gate| gate.shape));
    /// # }
    /// ```
    pub fn path_gate(&self) -> Option<&Linear> {
        self.path_gate.as_ref()
    }

    /// P: the paths of the second level.
    ///
    /// ```no_run
    /// # fn show(weights: &double_routing::Weights) {
    /// println!("{} paths", weights.paths());
    /// # }
    /// ```
    pub fn paths(&self) -> usize {
        self.path_gate.as_ref().map_or(1, |gate| gate.shape[0])
    }

    /// Weights from the bytes of a safetensors file: [`Weights::from_checkpoint`] of this one.
    ///
    /// # Errors
    /// As [`Weights::from_checkpoint`]; [`Error::Weights`] for a file that is malformed.
    ///
    /// ```no_run
    /// let bytes = std::fs::read("model.safetensors").expect("a file");
    /// let weights = double_routing::Weights::from_safetensors(&bytes, "")?;
    /// println!("{}", weights.dimensions());
    /// # Ok::<(), double_routing::Error>(())
    /// ```
    pub fn from_safetensors(bytes: &[u8], prefix: &str) -> Result<Self> {
        Self::from_checkpoint(&Checkpoint::open(&[("the file", bytes)])?, prefix)
    }

    /// Weights under PyTorch's `state_dict` names behind `prefix` (`""`, or `"model.router."` for `model.router.embedding.weight` and so
    /// on, where the last point can be left out), as [`Checkpoint::values`] reads them. A bias that is not there is 0. With
    /// `path_gate.weight` `[P, R]` and its bias there are P paths: `routing2.weight` is `[P, O, R]` then, `routing2.bias` `[P, O]`.
    ///
    /// The files are not trusted: whatever is wrong with them is an error. So is any other tensor behind the prefix, for it may change what
    /// the layer computes, but `input_scale`, `input_global_scale`, `k_scale`, `v_scale`, `rotary_emb.inv_freq`, and a `weight_shape` that is
    /// right; [`Checkpoint::without`] leaves it out.
    ///
    /// # Errors
    /// [`Error::Weights`] where a tensor is missing, or shapes do not fit each other; [`Error::Unread`] for a tensor that would not be read;
    /// [`Error::Element`] for a type that cannot be.
    ///
    /// ```no_run
    /// # fn read(bytes: &[u8]) -> double_routing::Result<()> {
    /// use double_routing::{Checkpoint, Weights};
    /// let checkpoint = Checkpoint::open(&[("model.safetensors", bytes)])?;
    /// let weights = Weights::from_checkpoint(&checkpoint, "module.")?;
    /// # Ok(()) }
    /// ```
    pub fn from_checkpoint(checkpoint: &Checkpoint<'_>, prefix: &str) -> Result<Self> {
        let prefix = &checkpoint::resolved(checkpoint, prefix, &[""], "embedding.weight");
        let full = |name: &str| format!("{prefix}{name}");
        for map in MAPS {
            checkpoint.shape(&full(&format!("{map}.weight")))?;
        }
        let with_paths = checkpoint.contains(&full("path_gate.weight"));
        checkpoint.refuse_unread(prefix, |name| {
            let map = name.strip_suffix(".weight").or_else(|| name.strip_suffix(".bias"));
            map.is_some_and(|map| MAPS.contains(&map) || (with_paths && map == "path_gate"))
        })?;
        let linear = |name: &str| -> Result<Linear> {
            let weight = full(&format!("{name}.weight"));
            let &[out, features] = checkpoint.shape(&weight)? else {
                let shape = checkpoint.shape(&weight)?;
                return Err(Error::Weights(format!("{weight} is {shape:?}, expected two dimensions")));
            };
            let bias = bias(checkpoint, &full(&format!("{name}.bias")), (&weight, &[out, features]), &[out])?;
            Ok(Linear { weight: checkpoint.values(&weight)?, shape: [out, features], bias })
        };
        let (embedding, attention, routing1) = (linear("embedding")?, linear("attention")?, linear("routing1")?);
        if !with_paths {
            return Self::new(embedding, attention, routing1, linear("routing2")?);
        }
        let path_gate = linear("path_gate")?;
        let [paths, _] = path_gate.shape;
        let (weight, gate) = (full("routing2.weight"), path_gate.shape);
        let shape = checkpoint.shape(&weight)?;
        let &[of_weight, out, features] = shape else {
            let wanted = format!("path_gate.weight {gate:?} needs [{paths}, O, R]");
            return Err(Error::Weights(format!("{weight} is {shape:?}, {wanted}")));
        };
        if of_weight != paths {
            let wanted = format!("path_gate.weight {gate:?} needs [{paths}, {out}, {features}]");
            return Err(Error::Weights(format!("{weight} is {shape:?}, {wanted}")));
        }
        let rows = paths
            .checked_mul(out)
            .ok_or_else(|| Error::Weights(format!("{weight} is {shape:?}, more than can be counted")))?;
        let bias = bias(checkpoint, &full("routing2.bias"), (&weight, shape), &[paths, out])?;
        let routing2 = Linear { weight: checkpoint.values(&weight)?, shape: [rows, features], bias };
        Self::with_paths(embedding, attention, routing1, path_gate, routing2)
    }

    /// What stands before the names of each layer that there is, all four weights of which are there. Where none is whole, of the one of
    /// which most is there.
    ///
    /// ```no_run
    /// # fn read(checkpoint: &double_routing::Checkpoint<'_>) {
    /// // `module.` where a model was saved as `DistributedDataParallel` has it.
    /// println!("{:?}", double_routing::Weights::prefixes(checkpoint));
    /// # }
    /// ```
    pub fn prefixes(checkpoint: &Checkpoint<'_>) -> Vec<String> {
        let mut found: BTreeMap<&str, usize> = BTreeMap::new();
        for name in checkpoint.names() {
            let of_map = |map: &&str| name.strip_suffix(".weight")?.strip_suffix(*map);
            let prefix = MAPS.iter().find_map(of_map).filter(|prefix| prefix.is_empty() || prefix.ends_with('.'));
            if let Some(prefix) = prefix {
                *found.entry(prefix).or_default() += 1;
            }
        }
        let most = found.values().copied().max().unwrap_or(0);
        let mut prefixes: Vec<String> =
            found.into_iter().filter(|&(_, count)| count == most).map(|(prefix, _)| prefix.to_owned()).collect();
        if most < MAPS.len() {
            prefixes.truncate(1);
        }
        prefixes
    }

    /// The layer's dimensions.
    ///
    /// ```no_run
    /// # fn show(weights: &double_routing::Weights) {
    /// println!("{}", weights.dimensions());
    /// # }
    /// ```
    pub fn dimensions(&self) -> Dimensions {
        let [attention, input] = self.embedding.shape;
        let [rows, routing] = self.routing2.shape;
        Dimensions { input, attention, routing, output: rows / self.paths() }
    }

    /// The first NaN or infinity: the tensor's name and its position.
    ///
    /// ```no_run
    /// # fn check(weights: &double_routing::Weights) {
    /// assert_eq!(weights.first_non_finite(), None);
    /// # }
    /// ```
    pub fn first_non_finite(&self) -> Option<(&'static str, usize)> {
        [
            ("embedding.weight", &self.embedding.weight),
            ("embedding.bias", &self.embedding.bias),
            ("attention.weight", &self.attention.weight),
            ("attention.bias", &self.attention.bias),
            ("routing1.weight", &self.routing1.weight),
            ("routing1.bias", &self.routing1.bias),
            ("routing2.weight", &self.routing2.weight),
            ("routing2.bias", &self.routing2.bias),
        ]
        .into_iter()
        .chain(
            self.path_gate.iter().flat_map(|gate| [("path_gate.weight", &gate.weight), ("path_gate.bias", &gate.bias)]),
        )
        .find_map(|(name, values)| values.first_non_finite().map(|at| (name, at)))
    }

    /// The paths of the second level for the CPU reference, where there are several; exact.
    ///
    /// ```no_run
    /// # fn check(weights: &double_routing::Weights) {
    /// assert!(weights.paths_to_reference().is_some());
    /// # }
    /// ```
    pub fn paths_to_reference(&self) -> Option<Paths<f64>> {
        let gate = self.path_gate.as_ref()?;
        Some(Paths {
            count: self.paths(),
            gate_weight: gate.weight.to_f64(),
            gate_bias: gate.bias.to_f64(),
            weight: self.routing2.weight.to_f64(),
            bias: self.routing2.bias.to_f64(),
        })
    }

    /// The same weights for the CPU reference; exact. Where there are several paths it ends before them, with `output` 0.
    ///
    /// ```no_run
    /// # fn check(weights: &double_routing::Weights, x: &[f64]) {
    /// let truth = weights.to_reference().forward(x, &[8, 512, 768], None);
    /// # }
    /// ```
    pub fn to_reference(&self) -> Layer<f64> {
        let Dimensions { input, attention, routing, output } = self.dimensions();
        let one = |values: &Values| if self.path_gate.is_none() { values.to_f64() } else { Vec::new() };
        let output = if self.path_gate.is_none() { output } else { 0 };
        Layer {
            input,
            attention,
            routing,
            output,
            embedding_weight: self.embedding.weight.to_f64(),
            embedding_bias: self.embedding.bias.to_f64(),
            attention_weight: self.attention.weight.to_f64(),
            attention_bias: self.attention.bias.to_f64(),
            routing1_weight: self.routing1.weight.to_f64(),
            routing1_bias: self.routing1.bias.to_f64(),
            routing2_weight: one(&self.routing2.weight),
            routing2_bias: one(&self.routing2.bias),
        }
    }
}

fn disagree(name: &str, shape: [usize; 2], other: &str, other_shape: [usize; 2], needed: [usize; 2]) -> Error {
    Error::Weights(format!("{name} is {shape:?}, {other} {other_shape:?} needs it to be {needed:?}"))
}

/// The layer's maps that always are.
const MAPS: [&str; 4] = ["embedding", "attention", "routing1", "routing2"];

/// A map's bias of this shape; zeros where there is none.
fn bias(checkpoint: &Checkpoint<'_>, name: &str, weight: (&str, &[usize]), wanted: &[usize]) -> Result<Values> {
    let (weight, of_weight) = weight;
    if checkpoint.contains(name) {
        let shape = checkpoint.shape(name)?;
        if shape != wanted {
            return Err(Error::Weights(format!("{name} is {shape:?}, {weight} {of_weight:?} needs {wanted:?}")));
        }
        return checkpoint.values(name);
    }
    // An empty file may claim any number of rows of none.
    if of_weight.contains(&0) {
        return Err(Error::Weights(format!("{weight} is {of_weight:?}: a dimension is 0")));
    }
    Ok(Values::rounded(&vec![0.0; wanted.iter().product()], checkpoint.element(weight)?))
}
