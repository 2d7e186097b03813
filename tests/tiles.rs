//! Every tile, whatever product the table has it for: a tuning may choose any.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test that cannot go on fails, and says why"
)]

mod common;

use common::{gpus, on_each, random, storage, wait};
use double_routing::{
    AdapterClass, Element, Gpu, Tensor, bytemuck,
    check::Case,
    kernels::{Matmul, Tile, Tuning},
};

/// Beyond the edges of the largest tile; odd rows, and such as are quads and octets; B as it is and transposed, a sum in parts, batches,
/// paths, and narrow types of each operand; then those for tiles that multiply f16 alone.
const CASES: [&str; 18] = [
    "matmul 9x33x5 f32 integers",
    "matmul 9x33x5 f32 integers bt",
    "matmul 65x63x31 f32 reals bt bias",
    "matmul 130x68x132 f32 integers",
    "matmul 130x68x132 f32 integers bt",
    "matmul 133x70x136 f32 integers bt bias",
    "matmul 5x12x8 f32 integers batches=3 bt bias",
    "path_matmul 4 of 130x128x64 f32 reals gathered=1",
    "path_matmul 3 of 33x64x16 f32 integers bias",
    "matmul 17x64x5000 f32 integers bt bias",
    "matmul 17x36x24 bf16 reals bt bias a=bf16",
    "matmul 17x36x24 f32 reals bt bias shift=2",
    "matmul 17x36x24 f32 reals bt bias c=f16",
    "matmul 130x260x70 f16 reals bt bias a=f16",
    "matmul 130x260x70 f16 reals bias a=f16",
    "matmul 129x131x33 f16 integers bt bias a=f16",
    "matmul 129x131x33 f16 integers bias a=f16",
    "matmul 9x32x40 f16 reals bt bias a=f16 c=f16",
];

#[test]
fn every_tile_agrees_with_the_reference() {
    let mut cases = double_routing::check::cases();
    cases.retain(|case| CASES.contains(&case.name()));
    assert_eq!(cases.len(), CASES.len());
    let wanted = std::env::var("CASE").unwrap_or_default();
    cases.retain(|case| case.name().contains(&wanted));
    let cases = &cases;
    let seen = on_each(|number, gpu| {
        let classes = [AdapterClass::Software, AdapterClass::Discrete];
        // A tile of another class, or on the second adapter, has every second or third case, the next tile others: software takes
        // long to compile them. A case that is named is run with each.
        let more = |one_of_more: bool| usize::from(wanted.is_empty() && one_of_more);
        let step = |class| 1 + more(class != gpu.class()) + more(number > 0);
        let judged = |class| judge_tiles(&gpu.with_class(class), cases, step(class));
        classes.into_iter().flat_map(judged).collect::<Vec<_>>()
    });
    let seen = seen.concat();
    let unseen: Vec<_> = Tile::all().map(|tile| tile.to_string()).filter(|tile| !seen.contains(tile)).collect();
    // Those for subgroups of a size, for matrix units, or for more workgroup memory than any of these adapters has.
    let rare = |name: &String| {
        let large = name.parse::<Tile>().expect("a tile").workgroup_bytes() > 32 << 10;
        large || ["subgroup", "packed", "cooperative"].iter().any(|source| name.starts_with(source))
    };
    assert!(unseen.iter().all(rare), "{unseen:?}");
}

/// Whatever tile few rows take.
#[test]
fn batch_invariant_products_of_few_rows_have_the_bits_of_many() {
    let (n, k) = (150, 136);
    let (a, b) = (random(1, 300 * k), random(2, n * k));
    for (gpu, class) in gpus().iter().flat_map(|gpu| AdapterClass::ALL.map(|class| (gpu, class))) {
        let gpu = gpu.with_class(class);
        let product = |m: usize, shift: usize| -> Vec<f32> {
            let shifted = [&vec![0.0; shift], &a[..m * k]].concat();
            let [a, b] =
                [&shifted, &b].map(|values| gpu.upload("operand", bytemuck::cast_slice(values)).expect("a buffer"));
            let c = storage(&gpu, 4 * (m * n) as u64);
            let c = Tensor::f32(&c, &[m, n]);
            let a = Tensor::f32(&a, &[m, k]).offset(4 * shift as u64);
            let product = Matmul::new(a, Tensor::f32(&b, &[n, k]), c.clone()).transposed();
            let plan = product.batch_invariant(true).plan(&gpu).expect("a plan");
            let mut encoder = gpu.device().create_command_encoder(&Default::default());
            plan.record(&mut encoder.begin_compute_pass(&Default::default()));
            gpu.queue().submit([encoder.finish()]);
            bytemuck::pod_collect_to_vec(&wait(&gpu, gpu.read(&c)).expect("a result"))
        };
        let many = product(300, 0);
        for m in [1, 3, 16, 40] {
            assert!(product(m, 0) == many[..m * n], "{m} rows as {class:?} on {}", gpu.info().backend);
        }
        // Nor does it matter how a tile for software reads A. (Compilers of hardware may contract what they see differently.)
        if class == AdapterClass::Software {
            assert!(product(300, 1) == many, "300 rows that start in the middle on {}", gpu.info().backend);
        }
    }
}

/// The tiles that suit the device, with each of which the cases are run, or of each so many one.
fn judge_tiles(untuned: &Gpu, cases: &[Case], step: usize) -> Vec<String> {
    let mut suitable = Vec::new();
    for tile in Tile::all() {
        let gpu = untuned.with_tuning(only(tile));
        let there = workgroups(&gpu, [130, 300]);
        if !tile.suits(untuned) {
            assert_eq!(there, workgroups(untuned, [130, 300]), "{tile} as {:?}", untuned.class());
            continue;
        }
        suitable.push(tile.to_string());
        assert_eq!(there, 130u32.div_ceil(tile.rows()) * 300u32.div_ceil(tile.columns()), "{tile}");
        let half_only = !tile.multiplies(Element::F32, Element::F32);
        let suited = cases.iter().filter(|case| case.name().contains(" f16 ") == half_only);
        for case in suited.skip(suitable.len() % step).step_by(step) {
            let outcome = wait(&gpu, case.run(&gpu)).expect("an outcome");
            assert!(outcome.passed(), "{} by {tile} on {}: {outcome:?}", case.name(), gpu.info().backend);
        }
    }
    suitable
}

fn only(tile: Tile) -> Tuning {
    let mut tuning = Tuning::default();
    tuning.push(u64::MAX, u64::MAX, tile);
    tuning
}

/// The workgroups of a product of so many rows and columns, of a type that every tile multiplies.
fn workgroups(gpu: &Gpu, [rows, columns]: [usize; 2]) -> u32 {
    let [a, b, c] = [rows * 8, columns * 8, rows * columns].map(|count| storage(gpu, 4 * count as u64));
    let half = |buffer, rows| Tensor::new(buffer, Element::F16, &[rows, 8]);
    let (a, b) = (half(&a, rows), half(&b, columns));
    let product = Matmul::new(a, b, Tensor::f32(&c, &[rows, columns])).transposed();
    product.plan(gpu).expect("a plan").steps().last().expect("a step").grid().iter().product()
}
