//! What is fuzzed. Each takes any bytes and panics where something is wrong. The same run over the committed corpora as tests.

// Each fuzzer takes one of them.
#![allow(dead_code)]

use std::sync::OnceLock;

use arbitrary::{Arbitrary, Unstructured};
use double_routing::{
    AdapterChoice, Checkpoint, DoubleRouting, Element, Gpu, Linear, PathSettings, PlanKind, Selection, Settings,
    Storage, Values, Weights,
    check::LayerTruth,
    kernels::{GroupLimit, GroupScore, PathChoice, Score, Tuning},
    moe::{MoeWeights, RouterConfig, RouterWeights},
};
use double_routing_common::{input::Input, model_config::ModelConfig, npy};
use half::{bf16, f16};
use safetensors::SafeTensors;

/// A file of weights, and one of inputs.
pub fn weights(data: &[u8]) {
    if let Ok(checkpoint) = Checkpoint::open(&[("file", data)]) {
        let gates = checkpoint.names().filter_map(|name| name.strip_suffix("gate.weight")).map(str::to_owned);
        let routers: Vec<String> = gates.collect();
        for prefix in Weights::prefixes(&checkpoint).into_iter().chain([String::new()]) {
            if let Ok(weights) = Weights::from_checkpoint(&checkpoint, &prefix) {
                assert!(weights.dimensions().output > 0);
            }
        }
        for prefix in routers {
            let router = RouterWeights::from_checkpoint(&checkpoint, &prefix);
            let block = MoeWeights::from_checkpoint(&checkpoint, &prefix);
            assert!(router.is_ok() || block.is_err(), "a block without a router");
        }
    }
    if let Ok(file) = SafeTensors::deserialize(data)
        && let Ok(input) = Input::of_sequences(&file)
    {
        take(&input);
    }
}

/// A .npy file.
pub fn npy(data: &[u8]) {
    if let Ok(numbers) = npy::read(data) {
        take(&Input::of_numbers(numbers));
    }
}

/// Takes a little of x, as a run would.
fn take(input: &Input<'_>) {
    let (shape, tokens) = (input.shape(), if input.shape().is_empty() { 0 } else { input.tokens() });
    let Some(&features) = shape.last() else { return };
    if shape.len() < 2 || input.check_router([1, features]).is_err() || tokens == 0 || features == 0 {
        return;
    }
    let last = input.rows(tokens - 1..tokens);
    assert_eq!(last.len(), features);
    let _ = input.first_non_finite(&last, (tokens - 1) * features);
    if input.x.bytes.len() < 1 << 16 {
        let part = input.part(0..input.sequences());
        assert_eq!(part.x.len(), tokens * features);
        assert!(part.lengths.is_none_or(|lengths| lengths.len() == input.sequences()));
    }
}

/// A config.json.
pub fn config(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(config) = ModelConfig::parse(text) else { return };
    if config.router.check().is_ok() {
        assert!(!config.rule().is_empty());
        let RouterConfig { paths, per_token, choice } = config.router;
        let kept = choice.groups.map_or(paths, |limit| paths / limit.groups as usize * limit.kept as usize);
        assert!(per_token <= kept, "{per_token} paths of {kept}");
    }
}

/// A tuning.
pub fn tuning(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(tuning) = text.parse::<Tuning>() else { return };
    let again = tuning.to_string();
    let parsed: Tuning = again.parse().expect("what is written can be read");
    assert_eq!(parsed.to_string(), again);
    let _ = tuning.tile(1, 1);
}

/// A layer, its input, and how it is to be evaluated.
#[derive(Debug, Arbitrary)]
struct Layer {
    dimensions: [u8; 4],
    paths: u8,
    per_token: u8,
    groups: [u8; 2],
    score: u8,
    flags: u8,
    shape: [u8; 3],
    rank: u8,
    select: u8,
    lengths: Option<[u8; 8]>,
    types: [u8; 3],
    numbers: Vec<i8>,
}

/// The adapter that is first in the list. In configurations for hardware, which software drivers take half a minute to compile, the tests run
/// every case.
fn gpu() -> &'static Gpu {
    static GPU: OnceLock<Gpu> = OnceLock::new();
    GPU.get_or_init(|| pollster::block_on(Gpu::open(&AdapterChoice::default())).expect("an adapter"))
}

/// Runs a layer on the adapter, and holds every element against its bound.
pub fn layer(data: &[u8]) {
    let mut bytes = Unstructured::new(data);
    let Ok(drawn) = Layer::arbitrary(&mut bytes) else { return };
    let size = |byte: u8, most: u8| usize::from(byte % most) + 1;
    let [input, a, r, o] = drawn.dimensions.map(|byte| size(byte, 40));
    let paths = if drawn.paths.is_multiple_of(2) { 1 } else { size(drawn.paths / 2, 12) };
    let flag = |bit: u8| drawn.flags >> bit & 1 == 1;
    let element = |byte: u8| [Element::F32, Element::F16, Element::BF16][usize::from(byte % 3)];

    // The drawn numbers again and again, with other signs.
    let mut turn = 0usize;
    let mut numbers = |count: usize, scale: f32| -> Vec<f32> {
        let all = &drawn.numbers;
        let mut next = || {
            turn += 1;
            let mixed = turn.wrapping_mul(0x9e37_79b9) >> 7;
            let number = if all.is_empty() { 1 } else { all[turn % all.len()] };
            f32::from(number.wrapping_add(mixed as i8)) * scale
        };
        (0..count).map(|_| next()).collect()
    };
    let stored = |values: Vec<f32>, element: Element| match element {
        Element::F16 => Values::F16(values.into_iter().map(f16::from_f32).collect()),
        Element::BF16 => Values::BF16(values.into_iter().map(bf16::from_f32).collect()),
        _ => Values::F32(values),
    };
    let of_weights = element(drawn.types[0]);
    let mut map = |out: usize, features: usize| {
        let weight = stored(numbers(out * features, 1.0 / 128.0), of_weights);
        Linear::new(weight, [out, features], numbers(out, 1.0 / 256.0))
    };
    let maps = (map(a, input), map(1, a), map(r, a), map(paths, r), map(paths * o, r));
    let weights = match paths {
        1 => Weights::new(maps.0, maps.1, maps.2, maps.4),
        _ => Weights::with_paths(maps.0, maps.1, maps.2, maps.3, maps.4),
    }
    .expect("shapes that fit each other");

    let shape: Vec<usize> = match drawn.rank % 3 {
        0 => vec![size(drawn.shape[0], 9), input],
        1 => vec![size(drawn.shape[0], 5), size(drawn.shape[1], 33), input],
        _ => vec![size(drawn.shape[0], 3), size(drawn.shape[1], 9), size(drawn.shape[2], 4), input],
    };
    let x = Values::rounded(&numbers(shape.iter().product(), 1.0 / 16.0), element(drawn.types[1])).to_f32();
    let positions = if shape.len() > 2 { shape[1] } else { 1 };
    let lengths: Option<Vec<u32>> =
        drawn.lengths.map(|bytes| (0..shape[0]).map(|at| u32::from(bytes[at % 8]) % (positions as u32 + 1)).collect());
    let scores = [Score::Softmax, Score::Sigmoid, Score::SqrtSoftplus, Score::SoftmaxOfChosen];
    let groups = flag(0).then(|| GroupLimit {
        groups: size(drawn.groups[0], 6) as u32,
        kept: size(drawn.groups[1], 6) as u32,
        score: if flag(1) { GroupScore::SumOfTwo } else { GroupScore::Max },
    });
    let choice = PathChoice {
        score: scores[usize::from(drawn.score % 4)],
        groups: groups.filter(|_| paths > 1),
        renormalise: flag(2),
        scale: if flag(3) { 2.5 } else { 1.0 },
    };
    let settings = Settings {
        plan: if flag(4) { PlanKind::AsWritten } else { PlanKind::Folded },
        batch_invariant: flag(5),
        selection: if shape.len() == 3 && flag(6) {
            Selection::TopK(usize::from(drawn.select) + 1)
        } else {
            Selection::All
        },
        paths: PathSettings { per_token: size(drawn.per_token, paths.min(8) as u8), choice },
    };
    let storage = Storage { x: element(drawn.types[1]), y: element(drawn.types[2]) };
    // x of 16 bits goes with weights of the same type or of f32.
    let of_two_types = storage.x != Element::F32 && of_weights != Element::F32 && storage.x != of_weights;
    let config = RouterConfig { paths, per_token: settings.paths.per_token, choice };
    let layer = match DoubleRouting::new(gpu(), &weights, settings) {
        Ok(layer) => layer,
        Err(error) => {
            assert!(paths > 1 && config.check().is_err(), "{error}: {drawn:?}");
            return;
        }
    };
    let run = async { layer.session_with(&shape, lengths.is_some(), storage).await?.run(&x, lengths.as_deref()).await };
    let output = match pollster::block_on(run) {
        Ok(output) => output,
        Err(error) => {
            assert!(of_two_types, "{error}: {drawn:?}");
            return;
        }
    };
    let mut truth = LayerTruth::new(&weights, settings).stored(storage.y);
    truth.extend(&x, &shape, lengths.as_deref(), &output).expect("an output that can be judged");
    let judgement = truth.judge();
    // So few numbers that plain loops may be right by chance: the bound counts, not four times their error.
    let by_signal = judgement.fault.as_ref().is_none_or(|fault| fault.starts_with("error by signal"));
    assert!(judgement.worst <= 1.0 && by_signal, "{judgement:?}: {drawn:?}");
}
