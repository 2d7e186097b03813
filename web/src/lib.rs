//! x
use wasm_bindgen::prelude::*;
/// x
#[wasm_bindgen]
pub async fn open() -> Result<String, JsError> {
    let gpu = double_routing::Gpu::open(&Default::default()).await?;
    let c = double_routing::check::cases();
    for case in &c { case.run(&gpu).await?; }
    Ok(gpu.info().name.clone())
}
