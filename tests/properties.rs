//! Random shapes and hostile bytes: whatever is asked for is either refused with an error or computed within its bound.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test that cannot go on fails, and says why"
)]

mod common;

use common::{any_gpu, random, storage, wait};
use double_routing::{
    Checkpoint, Gpu, Plan, Tensor, Weights, bytemuck,
    kernels::{Combine, Dispatch, Matmul, Route, Softmax},
    reference::{
        Axis, Combination, Product, combine, combine_bound, matmul, matmul_bound, route, route_bound, softmax,
        softmax_bound,
    },
};
use proptest::{prelude::*, test_runner::TestRunner};

fn runner(cases: u32) -> TestRunner {
    // Seeded by proptest's default: the same shapes every time.
    TestRunner::new_with_rng(
        ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() },
        proptest::test_runner::TestRng::deterministic_rng(proptest::test_runner::RngAlgorithm::ChaCha),
    )
}

fn compute(gpu: &Gpu, plan: &Plan, output: &Tensor<'_>) -> Vec<f32> {
    let mut encoder = gpu.device().create_command_encoder(&Default::default());
    plan.record(&mut encoder.begin_compute_pass(&Default::default()));
    gpu.queue().submit([encoder.finish()]);
    bytemuck::pod_collect_to_vec(&wait(gpu, gpu.read(output)).expect("a result"))
}

fn words(gpu: &Gpu, output: &Tensor<'_>) -> Vec<u32> {
    bytemuck::pod_collect_to_vec(&wait(gpu, gpu.read(output)).expect("a result"))
}

fn within(result: &[f32], expected: &[f64], bound: &[f64]) -> Result<(), TestCaseError> {
    prop_assert_eq!(result.len(), expected.len());
    for (at, &value) in result.iter().enumerate() {
        let error = (f64::from(value) - expected[at]).abs();
        prop_assert!(error <= bound[at], "element {} is {}, expected {} ± {}", at, value, expected[at], bound[at]);
    }
    Ok(())
}

fn exact(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&value| value.into()).collect()
}

#[test]
fn matmul_of_any_shape_and_offset() {
    let gpu = any_gpu();
    let shapes = (0usize..3, 0usize..40, 0usize..70, 0usize..50, any::<bool>(), any::<bool>(), 0u64..5, any::<u64>());
    let property = |(batches, rows, columns, depth, transposed, b_batched, shift, seed)| {
        let product = Product { batches, rows, columns, depth, transposed, b_batched };
        let (a, b) = (random(seed, batches * rows * depth), random(seed ^ 1, batches.max(1) * columns * depth));
        let offset = shift * 4;
        let place = |values: &[f32]| {
            let moved: Vec<f32> = std::iter::repeat_n(9e9, shift as usize).chain(values.iter().copied()).collect();
            gpu.upload("operand", bytemuck::cast_slice(&moved)).expect("a buffer")
        };
        let (a_buffer, b_buffer) = (place(&a), place(&b));
        let c_buffer = storage(&gpu, (batches * rows * columns) as u64 * 4 + 64);
        let matrix = if transposed { vec![columns, depth] } else { vec![depth, columns] };
        let b_shape = if b_batched { [vec![batches], matrix].concat() } else { matrix };
        let c = Tensor::f32(&c_buffer, &[batches, rows, columns]).offset(offset);
        let mut kernel = Matmul::new(
            Tensor::f32(&a_buffer, &[batches, rows, depth]).offset(offset),
            Tensor::f32(&b_buffer, &b_shape).offset(offset),
            c.clone(),
        );
        if transposed {
            kernel = kernel.transposed();
        }
        let result = compute(&gpu, &kernel.plan(&gpu).expect("the shapes fit"), &c);
        let (a, b) = (exact(&a), exact(&b));
        within(&result, &matmul(&a, &b, None, &product), &matmul_bound(&a, &b, None, &product))
    };
    runner(48).run(&shapes, property).expect("within the bound");
}

#[test]
fn softmax_of_any_shape_and_mask() {
    let gpu = any_gpu();
    let shapes = (0usize..6, 0usize..200, 1usize..9, any::<bool>(), 0.1f32..200.0, any::<u64>());
    let property = |(outer, length, inner, masked, scale, seed)| {
        let axis = Axis { outer, length, inner };
        let x: Vec<f32> = random(seed, outer * length * inner).iter().map(|x| x * scale).collect();
        let lengths: Vec<u32> =
            random(seed ^ 1, outer).iter().map(|x| (x.abs() * (length + 2) as f32) as u32).collect();
        let x_buffer = gpu.upload("x", bytemuck::cast_slice(&x)).expect("a buffer");
        let lengths_buffer = gpu.upload("lengths", bytemuck::cast_slice(&lengths)).expect("a buffer");
        let y_buffer = storage(&gpu, (x.len() as u64 * 4).max(16));
        let y = Tensor::f32(&y_buffer, &[outer, length, inner]);
        let mut kernel = Softmax::new(Tensor::f32(&x_buffer, &[outer, length, inner]), y.clone(), 1);
        if masked {
            kernel = kernel.lengths(Tensor::u32(&lengths_buffer, &[outer]));
        }
        let result = compute(&gpu, &kernel.plan(&gpu).expect("the shapes fit"), &y);
        let (x, lengths) = (exact(&x), masked.then_some(lengths.as_slice()));
        within(&result, &softmax(&x, axis, lengths), &softmax_bound(&x, axis, lengths))
    };
    runner(48).run(&shapes, property).expect("within the bound");
}

#[test]
fn route_of_any_shape() {
    let gpu = any_gpu();
    let shapes = (0usize..40, 0usize..70, 0usize..50, any::<u64>());
    let property = |(tokens, outputs, depth, seed)| {
        let (x, b, w) = (random(seed, tokens * depth), random(seed ^ 1, outputs * depth), random(seed ^ 2, tokens));
        let (inner, outer) = (random(seed ^ 3, outputs), random(seed ^ 4, outputs));
        let buffers = [&x, &b, &w, &inner, &outer]
            .map(|values| gpu.upload("operand", bytemuck::cast_slice(values)).expect("a buffer"));
        let y_buffer = storage(&gpu, ((tokens * outputs) as u64 * 4).max(16));
        let y = Tensor::f32(&y_buffer, &[tokens, outputs]);
        let kernel = Route::new(
            Tensor::f32(&buffers[0], &[tokens, depth]),
            Tensor::f32(&buffers[1], &[outputs, depth]),
            Tensor::f32(&buffers[2], &[tokens]),
            y.clone(),
        );
        let kernel = kernel.inner(Tensor::f32(&buffers[3], &[outputs])).outer(Tensor::f32(&buffers[4], &[outputs]));
        let result = compute(&gpu, &kernel.plan(&gpu).expect("the shapes fit"), &y);
        let [x, b, w, inner, outer] = [x, b, w, inner, outer].map(|values| exact(&values));
        within(&result, &route(&x, &b, &w, &inner, &outer, depth), &route_bound(&x, &b, &w, &inner, &outer, depth))
    };
    runner(48).run(&shapes, property).expect("within the bound");
}

/// Every kept slot is in the order once, on its path, stably; positions is its inverse, and the counts add up.
#[test]
fn dispatch_of_any_shape() {
    let gpu = any_gpu();
    let capacity = prop_oneof![Just(u32::MAX), 0u32..50];
    let shapes = (0usize..700, 1usize..9, 1u32..300, 0u32..3, capacity, any::<bool>(), any::<u64>());
    let property =
        |(tokens, each, paths, beyond, capacity, sequenced, seed): (usize, usize, u32, u32, u32, bool, _)| {
            let slots = tokens * each;
            let some = |seed, end: u32| {
                random(seed, slots)
                    .into_iter()
                    .map(move |x| ((x * 0.5 + 0.5) * end as f32) as u32)
                    .collect::<Vec<u32>>()
            };
            // Some slots have no path where `beyond` is not 0.
            let ids = some(seed, paths + beyond * paths / 4);
            let mut sequence: Vec<u32> = (0..slots as u32).collect();
            if sequenced {
                let keys = some(seed ^ 1, 1 << 20);
                sequence.sort_by_key(|&slot| keys[slot as usize]);
            }
            let [ids_buffer, sequence_buffer] =
                [&ids, &sequence].map(|words| gpu.upload("operand", bytemuck::cast_slice(words)).expect("a buffer"));
            let [offsets, order, positions, counts] =
                [paths as usize + 1, slots, slots, paths as usize].map(|words| storage(&gpu, words as u64 * 4 + 16));
            let [offsets, counts] =
                [(&offsets, paths + 1), (&counts, paths)].map(|(b, n)| Tensor::u32(b, &[n as usize]));
            let [order, positions] = [&order, &positions].map(|buffer| Tensor::u32(buffer, &[slots]));
            let ids_tensor = Tensor::u32(&ids_buffer, &[tokens, each]);
            let mut kernel = Dispatch::new(ids_tensor, offsets.clone(), order.clone(), positions.clone());
            kernel = kernel.counts(counts.clone()).capacity(capacity);
            if sequenced {
                kernel = kernel.sequence(Tensor::u32(&sequence_buffer, &[slots]));
            }
            compute(&gpu, &kernel.plan(&gpu).expect("the shapes fit"), &offsets);
            let [offsets, order, positions, counts] =
                [&offsets, &order, &positions, &counts].map(|tensor| words(&gpu, tensor));

            let on_a_path = ids.iter().filter(|&&id| id < paths).count();
            prop_assert_eq!(counts.iter().sum::<u32>() as usize, on_a_path);
            let mut turns = vec![0; slots];
            sequence.iter().enumerate().for_each(|(turn, &slot)| turns[slot as usize] = turn);
            let kept = offsets[paths as usize] as usize;
            for path in 0..paths as usize {
                let own = &order[offsets[path] as usize..offsets[path + 1] as usize];
                prop_assert_eq!(own.len() as u32, counts[path].min(capacity));
                prop_assert!(own.iter().all(|&slot| ids[slot as usize] as usize == path));
                prop_assert!(own.is_sorted_by_key(|&slot| turns[slot as usize]));
                // What is dropped comes after all that is kept.
                let last = own.last().map_or(0, |&slot| turns[slot as usize]);
                let of_path = (0..slots).filter(|&slot| ids[slot] as usize == path);
                prop_assert!(
                    of_path.into_iter().all(|slot| positions[slot] != u32::MAX || own.is_empty() || turns[slot] > last)
                );
            }
            for (place, &slot) in order[..kept].iter().enumerate() {
                prop_assert_eq!(positions[slot as usize] as usize, place);
            }
            prop_assert!(order[kept..].iter().all(|&slot| slot == u32::MAX));
            prop_assert_eq!(positions.iter().filter(|&&position| position != u32::MAX).count(), kept);
            Ok(())
        };
    runner(48).run(&shapes, property).expect("a permutation");
}

#[test]
fn combine_of_any_shape() {
    let gpu = any_gpu();
    let shapes = (0usize..3, 0usize..40, 0usize..40, 0usize..9, 1usize..140, any::<bool>(), any::<u64>());
    let property = |(batches, rows, results, slots, columns, gated, seed)| {
        let shape = Combination { batches, rows, results, slots, columns, targets: results };
        let (x, gates) = (random(seed, batches * rows * columns), random(seed ^ 1, batches * results * slots));
        // A quarter of the positions are no row.
        let positions: Vec<u32> =
            random(seed ^ 2, gates.len()).iter().map(|x| (x.abs() * (rows + rows / 3 + 1) as f32) as u32).collect();
        let upload = |bytes: &[u8]| gpu.upload("operand", bytes).expect("a buffer");
        let (x_buffer, gates_buffer) = (upload(bytemuck::cast_slice(&x)), upload(bytemuck::cast_slice(&gates)));
        let positions_buffer = upload(bytemuck::cast_slice(&positions));
        let y_buffer = storage(&gpu, ((batches * results * columns) as u64 * 4).max(16));
        let y = Tensor::f32(&y_buffer, &[batches, results, columns]);
        let of_slots = [batches, results, slots];
        let rows_tensor = Tensor::f32(&x_buffer, &[batches, rows, columns]);
        let mut kernel = Combine::new(rows_tensor, Tensor::u32(&positions_buffer, &of_slots), y.clone());
        if gated {
            kernel = kernel.gates(Tensor::f32(&gates_buffer, &of_slots));
        }
        let result = compute(&gpu, &kernel.plan(&gpu).expect("the shapes fit"), &y);
        let (x, gates) = (exact(&x), gated.then(|| exact(&gates)));
        let gates = gates.as_deref();
        let bound = combine_bound(&x, &positions, gates, None, None, &shape);
        within(&result, &combine(&x, &positions, gates, None, None, None, &shape), &bound)
    };
    runner(48).run(&shapes, property).expect("within the bound");
}

/// A safetensors file is not trusted: any bytes, and any single change to a good file, are read or refused, never a panic.
#[test]
fn hostile_safetensors_are_refused() {
    const BESIDE: [&str; 8] = ["x", "lengths", "h", "logits", "w", "routed", "y", "d"];
    let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/goldens/rank3.safetensors");
    let good = std::fs::read(golden).expect("a golden");
    let change = (0..good.len().min(2000), any::<u8>(), 0..good.len());
    let property = |(at, byte, length): (usize, u8, usize)| {
        let mut changed = good.clone();
        changed[at] = byte;
        // Whether a changed file still reads is not the point: that it neither panics nor reads out of bounds is.
        let layer = Checkpoint::open(&[("changed", &changed)]).map(|file| file.without(&BESIDE));
        let _ = layer.and_then(|layer| Weights::from_checkpoint(&layer, ""));
        prop_assert!(Weights::from_safetensors(&good[..length], "").is_err());
        Ok(())
    };
    runner(2000).run(&change, property).expect("no panic");
    let property = |bytes: Vec<u8>| {
        prop_assert!(Weights::from_safetensors(&bytes, "").is_err());
        Ok(())
    };
    runner(1000).run(&proptest::collection::vec(any::<u8>(), 0..64), property).expect("refused");
}
