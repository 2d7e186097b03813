#![doc = include_str!("../README.md")]
//!
//! # The crate, from the outside in
//!
//! | you want to | start at |
//! |---|---|
//! | run the layer on values you have on the CPU | [`Gpu::open`], [`Weights`], [`DoubleRouting::run`] |
//! | record the layer into your own compute pass | [`Gpu::from_device`], [`DoubleRouting::forward`], [`Forward::record`] |
//! | route tokens through a mixture of experts | [`moe::Router`], [`moe::MoeFeedForward`] |
//! | use one kernel on your own buffers | [`kernels`], [`Tensor`], [`Plan::record`] |
//! | know what the right result is, and how far off f32 may be | [`mod@reference`] |
//! | find out whether an adapter computes it | [`check`] |
//!
//! Data goes [`Weights`] → [`Plan`] → [`Step`], [`Step`], … → compute pass. A step is one bound dispatch; a plan is steps and
//! the scratch buffers they share, made once for a shape and recorded any number of times. Only [`DoubleRouting::run`],
//! [`Session`] and [`Gpu::read`] submit anything, and nothing blocks.

pub mod check;
mod checkpoint;
mod device;
mod error;
pub mod kernels;
pub mod moe;
mod readback;
pub mod reference;
mod routing;
mod shader;
mod step;
mod tensor;

pub use bytemuck;
pub use checkpoint::{Checkpoint, names_like};
pub use device::{AdapterChoice, AdapterClass, ErrorScope, Gpu};
pub use error::{Error, Result};
pub use routing::{
    Cost, Dimensions, DoubleRouting, Forward, ForwardBuilder, Linear, Order, Output, PathSettings, PlanKind, Selection,
    Session, Settings, Values, Weights,
};
pub use shader::Variant;
pub use step::{Plan, Step};
pub use tensor::{Element, Storage, Tensor};
pub use wgpu;
