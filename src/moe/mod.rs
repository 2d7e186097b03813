//! Mixtures of experts: the routers of today's models, and the feed-forward blocks that they route through.
//!
//! A [`Router`] chooses paths (experts) for tokens; a [`MoeFeedForward`] also sends each token through those it was given and adds
//! up what comes back. Both record into the caller's pass, as [`DoubleRouting`](crate::DoubleRouting) does, and read nothing
//! back: how many tokens each path has is known to the device alone.
//!
//! ```
//! use double_routing::{AdapterChoice, Gpu, moe::{Router, RouterConfig, RouterWeights}};
//!
//! # fn main() -> double_routing::Result<()> { pollster::block_on(async {
//! let gpu = Gpu::open(&AdapterChoice::default()).await?;
//! // Mixtral's: 8 paths, 2 of them. From a file: RouterWeights::from_safetensors(&[&bytes], "model.layers.0.").
//! let gate: Vec<f32> = (0..8).flat_map(|path| [path as f32, -1.0]).collect();
//! let router = Router::new(&gpu, &RouterWeights::new(gate, [8, 2], None)?, RouterConfig::mixtral())?;
//! // One token of two features: path 7 scores most, then 6.
//! let routing = router.run(&[1.0, 0.5], 1).await?;
//! assert_eq!(routing.ids, [7, 6]);
//! assert!((routing.gates[0] + routing.gates[1] - 1.0).abs() < 1e-6);
//! # Ok(()) }) }
//! ```

mod config;
mod feed_forward;
mod router;
mod weights;

pub use config::RouterConfig;
pub use feed_forward::{MoeFeedForward, MoeForward, MoeForwardBuilder, MoeOutput};
pub use router::{Router, RouterForward, RouterForwardBuilder, Routing};
pub use weights::{ExpertWeights, MoeWeights, RouterWeights, SharedWeights};
