//! What the command and the page have in common. Neither is a library, and each builds what the other cannot: the command reads
//! paths and prints to terminals, the page is compiled for browsers. What both must do alike is here once.

pub mod heat;
pub mod input;
pub mod judge;
pub mod languages;
pub mod model_config;
pub mod npy;
pub mod numbers;
