//! The one error type of the crate.

/// What can go wrong, each as one line that names the operation and both values that disagree.
///
/// ```
/// use double_routing::Error;
/// let error = Error::shape("matmul", "inner dimensions differ: a is [64, 33], b is [128, 32]");
/// assert_eq!(error.to_string(), "matmul: inner dimensions differ: a is [64, 33], b is [128, 32]");
/// ```
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Shapes that do not fit each other or the operation.
    #[error("{operation}: {reason}")]
    Shape {
        /// The kernel or layer that refused.
        operation: &'static str,
        /// Which shapes, and what they are.
        reason: String,
    },
    /// An element type that the operation does not take.
    #[error("{operation}: {reason}")]
    Element {
        /// The kernel or layer that refused.
        operation: &'static str,
        /// Which tensor, and its element type.
        reason: String,
    },
    /// A view that its buffer cannot serve: bounds, alignment, usage or aliasing.
    #[error("{operation}: {reason}")]
    Buffer {
        /// The kernel or layer that refused.
        operation: &'static str,
        /// Which tensor, and what is wrong with it.
        reason: String,
    },
    /// More than the device allows.
    #[error("{operation}: {what} needs {needed}, the device allows {allowed}")]
    Limit {
        /// The kernel or layer that refused.
        operation: &'static str,
        /// What is limited, with its unit.
        what: String,
        /// What the operation needs.
        needed: u64,
        /// What the device allows.
        allowed: u64,
    },
    /// Weights that cannot be read or do not fit each other.
    #[error("weights: {0}")]
    Weights(String),
    /// Tensors among weights that may change the result, and that nothing reads.
    #[error("weights: {0}")]
    Unread(String),
    /// A tuning that cannot be read.
    #[error("tuning: {0}")]
    Tuning(String),
    /// No adapter fits what was asked for.
    #[error("no adapter {0}")]
    NoAdapter(String),
    /// The adapter refused to give a device.
    #[error("device: {0}")]
    Device(String),
    /// The device was lost; everything made from it is gone. Why, where the driver says so.
    #[error("device lost{}", why(.0))]
    DeviceLost(String),
    /// The device has no memory left for what was asked.
    #[error("out of device memory: {0}")]
    OutOfMemory(String),
    /// The graphics API reported an error that this crate's checks should have prevented; please report it.
    #[error("graphics API: {0}")]
    Gpu(String),
}

impl Error {
    /// An [`Error::Shape`].
    ///
    /// ```
    /// assert!(double_routing::Error::shape("softmax", "x is []").to_string().starts_with("softmax: "));
    /// ```
    pub fn shape(operation: &'static str, reason: impl Into<String>) -> Self {
        Self::Shape { operation, reason: reason.into() }
    }

    pub(crate) fn element(operation: &'static str, reason: impl Into<String>) -> Self {
        Self::Element { operation, reason: reason.into() }
    }

    pub(crate) fn buffer(operation: &'static str, reason: impl Into<String>) -> Self {
        Self::Buffer { operation, reason: reason.into() }
    }
}

/// A reason behind what it is the reason of; nothing where it only says the same again.
fn why(reason: &str) -> String {
    let reason = reason.trim().trim_end_matches('.');
    let again = ["", "lost", "device lost", "device is lost", "the device was lost"];
    if again.contains(&reason.to_ascii_lowercase().as_str()) { String::new() } else { format!(": {reason}") }
}

impl From<wgpu::Error> for Error {
    fn from(error: wgpu::Error) -> Self {
        match error {
            wgpu::Error::OutOfMemory { source } => Self::OutOfMemory(source.to_string()),
            wgpu::Error::Validation { description, .. } | wgpu::Error::Internal { description, .. } => {
                Self::Gpu(description.split_whitespace().collect::<Vec<_>>().join(" "))
            }
        }
    }
}

/// A result with this crate's [`Error`].
///
/// ```
/// fn rows(shape: &[usize]) -> double_routing::Result<usize> {
///     shape.first().copied().ok_or_else(|| double_routing::Error::shape("rows", format!("x is {shape:?}")))
/// }
/// assert!(rows(&[]).is_err());
/// ```
pub type Result<T> = std::result::Result<T, Error>;

#[cfg(test)]
mod tests {
    use super::Error;

    #[test]
    fn a_lost_device_says_why_or_nothing_more() {
        let said = |reason: &str| Error::DeviceLost(reason.into()).to_string();
        assert_eq!(said("the driver was reset"), "device lost: the driver was reset");
        for reason in ["", " ", "Device lost", "Device is lost.", "lost"] {
            assert_eq!(said(reason), "device lost");
        }
    }
}
