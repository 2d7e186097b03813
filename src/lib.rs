//! placeholder
pub mod check;
mod device;
mod error;
pub mod kernels;
mod readback;
pub mod reference;
mod routing;
mod shader;
mod step;
mod tensor;

pub use bytemuck;
pub use device::{AdapterChoice, AdapterClass, ErrorScope, Gpu};
pub use error::{Error, Result};
pub use routing::{
    Cost, Dimensions, DoubleRouting, Forward, ForwardBuilder, Linear, Order, Output, PlanKind, Session, Settings,
    Values, Weights,
};
pub use shader::Variant;
pub use step::{Plan, Step};
pub use tensor::{Element, Tensor};
pub use wgpu;
