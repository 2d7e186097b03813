//! A router in an app's own encoder: which experts each token gets, sorted by expert, without anything read back between.
//!
//!     cargo run --example moe_router
//!
//! The app owns the device and the activations. It plans DeepSeek-V3's routing once (256 paths, 8 of them, from 4 of 8 groups) and
//! records it between its own passes; the slots of each path lie in buffers that its expert kernels can go on from.

#![allow(clippy::print_stdout, reason = "an example shows what it does")]

use double_routing::{
    AdapterChoice, Element, Gpu, Result, Tensor, bytemuck,
    kernels::PathMatmul,
    moe::{Router, RouterConfig, RouterWeights},
    wgpu,
};

const TOKENS: usize = 512;
const FEATURES: usize = 64;
const WIDTH: usize = 32;

fn main() -> Result<()> {
    pollster::block_on(async {
        // An app passes its own: Gpu::from_device(device, queue).
        let gpu = Gpu::open(&AdapterChoice::default()).await?;
        let config = RouterConfig::deepseek_v3();
        let (paths, each) = (config.paths, config.per_token);

        // From a checkpoint: RouterWeights::from_safetensors(&[&bytes], "model.layers.3.mlp.").
        let gate = noise(1, paths * FEATURES);
        let router = Router::new(&gpu, &RouterWeights::new(gate, [paths, FEATURES], None)?, config)?;
        let x = gpu.upload("activations", bytemuck::cast_slice(&noise(2, TOKENS * FEATURES)))?;
        let x = Tensor::f32(&x, &[TOKENS, FEATURES]);
        let routing = router.forward(x.clone()).dispatch().plan()?;

        // A kernel of one's own goes on from the offsets and the order; here it is the crate's, the first map of every expert.
        let experts = gpu.upload("experts", bytemuck::cast_slice(&noise(3, paths * WIDTH * FEATURES)))?;
        let hidden = gpu.buffer("hidden", Element::F32, (TOKENS * each * WIDTH) as u64)?;
        let (Some(offsets), Some(order), Some(counts)) = (routing.offsets(), routing.order(), routing.counts()) else {
            return Ok(());
        };
        let first_map = PathMatmul::new(
            x,
            Tensor::f32(&experts, &[paths, WIDTH, FEATURES]),
            offsets,
            Tensor::f32(&hidden, &[TOKENS * each, WIDTH]),
        )
        .gathered(order, each)
        .plan(&gpu)?;

        // One encoder, one pass, one submission.
        let mut encoder = gpu.device().create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
        routing.record(&mut pass);
        first_map.record(&mut pass);
        drop(pass);
        gpu.queue().submit([encoder.finish()]);

        let ids: Vec<u32> = bytemuck::pod_collect_to_vec(&gpu.read(&routing.ids()).await?);
        let gates: Vec<f32> = bytemuck::pod_collect_to_vec(&gpu.read(&routing.gates()).await?);
        let counts: Vec<u32> = bytemuck::pod_collect_to_vec(&gpu.read(&counts).await?);
        println!("on {}, {} dispatches", gpu.info().name, routing.plan().steps().len() + first_map.steps().len());
        for token in 0..3 {
            let slots = token * each..(token + 1) * each;
            let chosen: Vec<_> =
                ids[slots.clone()].iter().zip(&gates[slots]).map(|(id, gate)| format!("{id} ({gate:.2})")).collect();
            println!("token {token}: {}", chosen.join(", "));
        }
        let busiest = counts.iter().enumerate().max_by_key(|(_, count)| **count);
        if let Some((path, count)) = busiest {
            println!("path {path} is the busiest, with {count} of {TOKENS} tokens");
        }
        assert_eq!(counts.iter().sum::<u32>() as usize, TOKENS * each);
        Ok(())
    })
}

/// Noise in −1 .. 1, the same every time.
fn noise(seed: u64, count: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u32 << 23) as f32 - 1.0
    };
    (0..count).map(|_| next()).collect()
}
