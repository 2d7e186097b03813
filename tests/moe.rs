//! Routers and mixture-of-experts blocks against the published models' own code: files and yardsticks from
//! `tests/goldens/moe/generate.py`.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test that cannot go on fails, and says why"
)]

mod common;

use common::{any_gpu, gpus, random, run_cases, storage, wait};
use double_routing::{
    Element, Gpu, Tensor, Values, bytemuck,
    kernels::{GroupLimit, GroupScore, PathChoice, RoutePaths, Score},
    moe::{ExpertWeights, MoeFeedForward, MoeWeights, Router, RouterConfig, RouterWeights, Routing, SharedWeights},
    reference::{gate_bound, path_load, path_load_bound},
};
use safetensors::SafeTensors;
use serde_json::Value;

/// Results may be this many times as far from the truth as the models' float32 code is; errors below the floor are too small
/// to compare, and gates below the least are underflow. Edge cases have no yardstick: there the derived bound counts.
const YARDSTICKS: f64 = 4.0;
const FLOOR: f64 = 1e-6;
const LEAST: f64 = 1e-37;

struct Golden {
    name: String,
    kind: String,
    tokens: usize,
    config: RouterConfig,
    entry: Value,
    bytes: Vec<u8>,
}

fn goldens(kind: &str) -> Vec<Golden> {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/moe");
    let list = std::fs::read_to_string(folder.join("goldens.json")).expect("the list of goldens");
    let list: Vec<Value> = serde_json::from_str(&list).expect("JSON");
    let all: Vec<_> = list
        .into_iter()
        .map(|entry| {
            let name = entry["name"].as_str().expect("a name").to_string();
            Golden {
                kind: entry["kind"].as_str().expect("a kind").into(),
                tokens: entry["tokens"].as_u64().expect("tokens") as usize,
                config: config(&entry["choice"]),
                bytes: std::fs::read(folder.join(format!("{name}.safetensors"))).expect("a golden"),
                name,
                entry,
            }
        })
        .filter(|golden| golden.kind == kind)
        .collect();
    assert!(all.len() >= 6, "{} goldens of {kind}", all.len());
    all
}

fn config(choice: &Value) -> RouterConfig {
    let number = |key: &str| choice[key].as_u64().expect(key) as u32;
    let (groups, kept) = (number("groups"), number("kept"));
    let score = match choice["group_score"].as_str() {
        Some("max") => GroupScore::Max,
        Some("sum_of_two") => GroupScore::SumOfTwo,
        other => panic!("group score {other:?}"),
    };
    RouterConfig {
        paths: number("paths") as usize,
        per_token: number("per_token") as usize,
        choice: PathChoice {
            score: match choice["score"].as_str() {
                Some("softmax") => Score::Softmax,
                Some("sigmoid") => Score::Sigmoid,
                Some("sqrt_softplus") => Score::SqrtSoftplus,
                Some("softmax_of_chosen") => Score::SoftmaxOfChosen,
                other => panic!("score {other:?}"),
            },
            groups: (groups > 1).then_some(GroupLimit { groups, kept, score }),
            renormalise: choice["renormalise"].as_bool().expect("renormalise"),
            scale: choice["scale"].as_f64().expect("scale") as f32,
        },
    }
}

impl Golden {
    fn file(&self) -> SafeTensors<'_> {
        SafeTensors::deserialize(&self.bytes).expect("safetensors")
    }

    fn floats(&self, name: &str) -> Vec<f32> {
        Values::from_safetensors(name, &self.file().tensor(name).expect(name)).expect(name).to_f32()
    }

    fn doubles(&self, name: &str) -> Vec<f64> {
        bytemuck::pod_collect_to_vec(self.file().tensor(name).expect(name).data())
    }

    fn ids(&self) -> Vec<u32> {
        bytemuck::pod_collect_to_vec(self.file().tensor("ids").expect("ids").data())
    }

    fn prefix(&self) -> &str {
        self.entry["prefix"].as_str().expect("a prefix")
    }

    fn allowed(&self, what: &str) -> f64 {
        let theirs = self.entry["transformers_error"][what].as_f64().unwrap_or(0.0);
        (YARDSTICKS * theirs).max(FLOOR)
    }

    /// Ids must be the golden's; gives the worst relative error of the gates.
    fn check_routing(&self, ids: &[u32], gates: &[f32]) -> f64 {
        assert_eq!(ids, self.ids(), "{}: ids", self.name);
        let expected = self.doubles("gates");
        assert_eq!(gates.len(), expected.len(), "{}", self.name);
        let error = |(&gate, &truth): (&f32, &f64)| {
            let error = (f64::from(gate) - truth).abs();
            if error <= LEAST { 0.0 } else { error / truth.abs() }
        };
        let worst = gates.iter().zip(&expected).map(error).fold(0.0, f64::max);
        assert!(worst <= self.allowed("gates"), "{}: gates are off by {worst:.2e}", self.name);
        worst
    }
}

#[test]
fn agrees_with_the_reference() {
    run_cases("moe");
}

#[test]
fn routers_choose_as_the_published_models_do() {
    for gpu in gpus() {
        println!("{:24} {:>8} {:>12} {:>12}", "router", "ids", "gates' error", "transformers");
        for golden in goldens("router") {
            let weights = RouterWeights::from_safetensors(&[&golden.bytes], golden.prefix()).expect("weights");
            let router = Router::new(&gpu, &weights, golden.config).expect("a router");
            let routing = wait(&gpu, router.run(&golden.floats("x"), golden.tokens)).expect("a routing");
            let error = golden.check_routing(&routing.ids, &routing.gates);
            let theirs = golden.entry["transformers_error"]["gates"].as_f64().unwrap_or(0.0);
            println!("{:24} {:>8} {error:12.1e} {theirs:12.1e}", golden.name, routing.ids.len());
            check_counts(&routing, &golden.config);
            for (margin, truth) in routing.margin.iter().zip(golden.doubles("margin")) {
                let close =
                    f64::from(*margin) == truth || (f64::from(*margin) - truth).abs() <= 1e-5 * truth.abs().max(1.0);
                assert!(close, "{}: margin {margin}, expected {truth}", golden.name);
            }
        }
    }
}

#[test]
fn blocks_compute_what_the_published_models_do() {
    for gpu in gpus() {
        println!("{:24} {:>12} {:>12}", "block", "y's error", "transformers");
        for golden in goldens("block") {
            let weights = MoeWeights::from_safetensors(&[&golden.bytes], golden.prefix()).expect("weights");
            let block = MoeFeedForward::new(&gpu, &weights, golden.config).expect("a block");
            let x = golden.floats("x");
            let output = wait(&gpu, block.run(&x, &[golden.tokens, x.len() / golden.tokens])).expect("a result");
            golden.check_routing(&output.routing.ids, &output.routing.gates);
            // By what the routing decides: the shared experts' part is right with every path wrong.
            let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|value| value * value).sum::<f64>().sqrt();
            let (y, routed) = (golden.doubles("y"), golden.doubles("routed"));
            let off = norm(&mut output.y.iter().zip(&y).map(|(&ours, truth)| f64::from(ours) - truth));
            let error = off / norm(&mut routed.iter().copied());
            let theirs = golden.entry["transformers_error"]["y"].as_f64().unwrap_or(0.0);
            println!("{:24} {error:12.1e} {theirs:12.1e}", golden.name);
            assert!(error <= golden.allowed("y"), "{}: y is off by {error:.2e}", golden.name);
        }
    }
}

#[test]
fn edges_are_decided_as_the_rules_say() {
    for gpu in gpus() {
        for golden in goldens("edge") {
            let (logits, tokens) = (golden.floats("logits"), golden.tokens);
            let RouterConfig { paths, per_token, choice } = golden.config;
            let upload = |values: &[f32]| gpu.upload("operand", bytemuck::cast_slice(values)).expect("a buffer");
            let of_logits = upload(&logits);
            let of_bias = golden.file().tensor("bias").is_ok().then(|| upload(&golden.floats("bias")));
            let [ids, gates] = [Element::U32, Element::F32]
                .map(|element| gpu.buffer("result", element, (tokens * per_token) as u64).expect("a buffer"));
            let (ids, gates) = (Tensor::u32(&ids, &[tokens, per_token]), Tensor::f32(&gates, &[tokens, per_token]));
            let logits = Tensor::f32(&of_logits, &[tokens, paths]);
            let mut kernel = RoutePaths::new(logits, ids.clone(), gates.clone(), choice);
            if let Some(bias) = &of_bias {
                kernel = kernel.correction_bias(Tensor::f32(bias, &[paths]));
            }
            submit(&gpu, &kernel.plan(&gpu).expect("a plan"));
            let ids: Vec<u32> = bytemuck::pod_collect_to_vec(&wait(&gpu, gpu.read(&ids)).expect("ids"));
            let gates: Vec<f32> = bytemuck::pod_collect_to_vec(&wait(&gpu, gpu.read(&gates)).expect("gates"));
            assert_eq!(ids, golden.ids(), "{}: ids", golden.name);
            let (logits, truth) = (golden.floats("logits"), golden.doubles("gates"));
            let rule = golden.config.choice.into();
            for token in 0..tokens {
                let row: Vec<f64> = logits[token * paths..][..paths].iter().map(|&logit| logit.into()).collect();
                let slots = token * per_token..(token + 1) * per_token;
                for (slot, bound) in slots.clone().zip(gate_bound(&row, &ids[slots], rule)) {
                    let (gate, truth) = (gates[slot], truth[slot]);
                    let error = (f64::from(gate) - truth).abs();
                    assert!(error <= bound, "{}: gate {gate}, expected {truth} ± {bound:.1e}", golden.name);
                }
            }
        }
    }
}

fn submit(gpu: &Gpu, plan: &double_routing::Plan) {
    let mut encoder = gpu.device().create_command_encoder(&Default::default());
    plan.record(&mut encoder.begin_compute_pass(&Default::default()));
    gpu.queue().submit([encoder.finish()]);
}

fn check_counts(routing: &Routing, config: &RouterConfig) {
    let mut counts = vec![0; config.paths];
    routing.ids.iter().filter(|&&id| id != u32::MAX).for_each(|&id| counts[id as usize] += 1);
    assert_eq!(routing.counts, counts);
}

/// The constructors are the published configurations.
#[test]
fn constructors_are_the_goldens_configurations() {
    let of = |name: &str| {
        let golden = goldens("router").into_iter().find(|golden| golden.name == name).expect(name);
        golden.config
    };
    assert_eq!(RouterConfig::deepseek_v2(), of("deepseek_v2_router"));
    assert_eq!(RouterConfig::deepseek_v3(), of("deepseek_v3_router"));
    assert_eq!(RouterConfig::mixtral(), of("mixtral_router"));
    assert_eq!(RouterConfig::qwen2_moe(), of("qwen2_moe_router"));
    assert_eq!(RouterConfig::qwen3_moe(), of("qwen3_moe_router"));
    assert_eq!(RouterConfig::olmoe(), of("olmoe_router"));
}

/// A block of 24 experts with everything: groups, a correction bias, a gated shared expert.
fn block(gpu: &Gpu, invariant: bool) -> MoeFeedForward {
    let (paths, width, features) = (24, 20, 36);
    let values = |seed, count| random(seed, count).into_iter().map(|value| value * 0.3).collect::<Vec<f32>>();
    let experts = |seed, paths: usize| {
        let count = paths * width * features;
        let [gate, up, down] = [seed, seed + 1, seed + 2].map(|seed| values(seed, count));
        ExpertWeights::new(gate, up, down, [paths, width, features]).expect("experts")
    };
    let weights = MoeWeights {
        router: RouterWeights::new(values(1, paths * features), [paths, features], Some(values(2, paths).into()))
            .expect("a router"),
        experts: experts(3, paths),
        shared: Some(SharedWeights { expert: experts(6, 1), gate: Some(values(9, features).into()) }),
    };
    let groups = GroupLimit { groups: 4, kept: 2, score: GroupScore::SumOfTwo };
    let choice = PathChoice { score: Score::Sigmoid, groups: Some(groups), renormalise: true, scale: 2.5 };
    let config = RouterConfig { paths, per_token: 5, choice };
    MoeFeedForward::new(gpu, &weights, config).expect("a block").batch_invariant(invariant)
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

/// Permuting tokens permutes results, bit for bit: nothing of a token depends on where it stands or on what stands beside it.
#[test]
fn permuted_tokens_give_permuted_results() {
    for gpu in gpus() {
        let block = block(&gpu, true);
        let (tokens, features, each) = (67, 36, 5);
        let x = random(11, tokens * features);
        let order: Vec<usize> = (0..tokens).map(|at| at * 29 % tokens).collect();
        let permuted: Vec<f32> = order.iter().flat_map(|&from| x[from * features..][..features].to_vec()).collect();
        let (first, second) = (
            wait(&gpu, block.run(&x, &[tokens, features])).expect("a result"),
            wait(&gpu, block.run(&permuted, &[tokens, features])).expect("a result"),
        );
        for (to, &from) in order.iter().enumerate() {
            assert_eq!(
                bits(&second.y[to * features..][..features]),
                bits(&first.y[from * features..][..features]),
                "token {from} at {to}"
            );
            assert_eq!(second.routing.ids[to * each..][..each], first.routing.ids[from * each..][..each]);
        }
        assert_eq!(second.routing.counts, first.routing.counts);
        // Alone, each has the same bits too.
        let alone = wait(&gpu, block.run(&x[..features], &[1, features])).expect("a result");
        assert_eq!(bits(&alone.y), bits(&first.y[..features]));
        // And again the same from run to run.
        let again = wait(&gpu, block.run(&x, &[tokens, features])).expect("a result");
        assert_eq!((bits(&again.y), again.routing), (bits(&first.y), first.routing));
    }
}

/// What is dropped adds nothing: with room for no token, y is what the shared expert gives.
#[test]
fn capacity_drops_the_last_tokens() {
    let gpu = any_gpu();
    let block = block(&gpu, true);
    let (tokens, features) = (40, 36);
    let x = gpu.upload("x", bytemuck::cast_slice(&random(12, tokens * features))).expect("a buffer");
    let run = |capacity: Option<u32>| {
        let mut forward = block.forward(Tensor::f32(&x, &[tokens, features]));
        if let Some(capacity) = capacity {
            forward = forward.capacity(capacity);
        }
        let forward = forward.plan().expect("a plan");
        let mut encoder = gpu.device().create_command_encoder(&Default::default());
        forward.record(&mut encoder.begin_compute_pass(&Default::default()));
        gpu.queue().submit([encoder.finish()]);
        let words = |tensor: Option<Tensor<'_>>| -> Vec<u32> {
            bytemuck::pod_collect_to_vec(&wait(&gpu, gpu.read(&tensor.expect("dispatched"))).expect("words"))
        };
        let y: Vec<f32> = bytemuck::pod_collect_to_vec(&wait(&gpu, gpu.read(&forward.y())).expect("y"));
        (y, words(forward.router().offsets()), words(forward.router().counts()))
    };
    let (free, roomy, limited, none) = (run(None), run(Some(tokens as u32)), run(Some(3)), run(Some(0)));
    assert_eq!(bits(&free.0), bits(&roomy.0));
    assert_eq!(free.2.iter().sum::<u32>(), (tokens * 5) as u32);
    assert_eq!(limited.2, free.2, "dropped tokens are counted too");
    let kept: u32 = free.2.iter().map(|count| (*count).min(3)).sum();
    assert_eq!((limited.1.last(), none.1.last()), (Some(&kept), Some(&0)));
    assert_ne!(bits(&limited.0), bits(&free.0));
    assert_ne!(bits(&none.0), bits(&limited.0));
}

/// Into tensors of the caller's, somewhere in a buffer, the same bits are written, and nothing beside them.
#[test]
fn routers_write_where_they_are_told_to() {
    for gpu in gpus() {
        let (tokens, features, paths, each) = (7, 36, 8, 2);
        let weights = RouterWeights::new(random(1, paths * features), [paths, features], None).expect("weights");
        let router = Router::new(&gpu, &weights, RouterConfig::mixtral()).expect("a router");
        let x = random(2, tokens * features);
        let own = wait(&gpu, router.run(&x, tokens)).expect("a routing");
        let x = gpu.upload("x", bytemuck::cast_slice(&x)).expect("a buffer");
        let untouched = vec![0xabcd_u32; 128];
        let [ids, gates] = [(); 2].map(|()| gpu.upload("result", bytemuck::cast_slice(&untouched)).expect("a buffer"));
        let (of_ids, of_gates) = (Tensor::u32(&ids, &[tokens, each]), Tensor::f32(&gates, &[tokens, each]));
        let forward = router.forward(Tensor::f32(&x, &[tokens, features]));
        let forward = forward.ids(of_ids.offset(12)).gates(of_gates.offset(100)).dispatch().plan().expect("a plan");
        submit(&gpu, forward.plan());
        assert_eq!((forward.ids().buffer(), forward.gates().buffer()), (&ids, &gates));
        for (buffer, first, expected) in [(&ids, 3, own.ids), (&gates, 25, bits(&own.gates))] {
            let whole = wait(&gpu, gpu.read(&Tensor::u32(buffer, &[untouched.len()]))).expect("words");
            let mut wanted = untouched.clone();
            wanted[first..first + tokens * each].copy_from_slice(&expected);
            assert_eq!(bytemuck::pod_collect_to_vec::<u8, u32>(&whole), wanted);
        }
        let counts = wait(&gpu, gpu.read(&forward.counts().expect("dispatched"))).expect("counts");
        assert_eq!(bytemuck::pod_collect_to_vec::<u8, u32>(&counts), own.counts);
    }
}

/// The statistics are those of the forward's own logits and of all tokens, dropped ones included.
#[test]
fn routers_tell_how_evenly_paths_are_loaded() {
    for gpu in gpus() {
        let (paths, features, tokens) = (24, 36, 67);
        let weights = RouterWeights::new(random(1, paths * features), [paths, features], None).expect("weights");
        let router = Router::new(&gpu, &weights, RouterConfig { paths, per_token: 3, ..RouterConfig::mixtral() });
        let router = router.expect("a router");
        for tokens in [tokens, 0] {
            let x = gpu.upload("x", bytemuck::cast_slice(&random(2, tokens * features))).expect("a buffer");
            let x = Tensor::f32(&x, &[tokens, features]);
            let forward = router.forward(x.clone()).capacity(2).statistics().plan().expect("a plan");
            submit(&gpu, forward.plan());
            let floats = |tensor: Tensor<'_>| -> Vec<f32> {
                bytemuck::pod_collect_to_vec(&wait(&gpu, gpu.read(&tensor)).expect("numbers"))
            };
            let counts = forward.counts().expect("dispatched");
            let counts: Vec<u32> = bytemuck::pod_collect_to_vec(&wait(&gpu, gpu.read(&counts)).expect("counts"));
            assert_eq!(counts.iter().sum::<u32>(), tokens as u32 * 3);
            let logits: Vec<f64> = floats(forward.logits()).into_iter().map(f64::from).collect();
            let (truth, bound) = (path_load(&logits, &counts, paths), path_load_bound(&logits, &counts, paths));
            let results =
                [floats(forward.mean_scores().expect("statistics")), floats(forward.load().expect("statistics"))];
            let of_summary = |loads: [f64; 4], means: Vec<f64>| means.into_iter().chain(loads);
            let expected = of_summary([truth.balance, truth.z, truth.entropy, truth.factor], truth.mean_scores);
            let bound = of_summary([bound.balance, bound.z, bound.entropy, bound.factor], bound.mean_scores);
            for ((result, truth), bound) in results.concat().into_iter().zip(expected).zip(bound) {
                let error = (f64::from(result) - truth).abs();
                assert!(error <= bound, "{result}, expected {truth} ± {bound:.1e}");
            }
            let without = router.forward(x).dispatch().plan().expect("a plan");
            assert!(without.mean_scores().is_none() && without.load().is_none());
        }
    }
}

#[test]
fn no_tokens_are_no_error() {
    for gpu in gpus() {
        let output = wait(&gpu, block(&gpu, false).run(&[], &[0, 36])).expect("a result");
        assert_eq!((output.y.len(), output.routing.ids.len()), (0, 0));
        assert_eq!(output.routing.counts, vec![0; 24]);
    }
}

#[test]
fn refuses_what_does_not_fit() {
    let gpu = any_gpu();
    let block = block(&gpu, false);
    let (x, y) = (storage(&gpu, 1 << 14), storage(&gpu, 1 << 14));
    let refusal = |shape: &[usize]| block.forward(Tensor::f32(&x, shape)).plan().expect_err("does not fit").to_string();
    assert_eq!(refusal(&[2, 35]), "mixture of experts: x is [2, 35], gate.weight is [24, 36]");
    let output = block.forward(Tensor::f32(&x, &[2, 36])).output(Tensor::f32(&y, &[3, 36])).plan();
    assert_eq!(output.expect_err("does not fit").to_string(), "mixture of experts: y is [3, 36], x is [2, 36]");
    let aliased = block.forward(Tensor::f32(&x, &[2, 36])).output(Tensor::f32(&x, &[2, 36]).offset(4096)).plan();
    assert!(aliased.expect_err("one buffer").to_string().contains("share a buffer"));
    let weights = RouterWeights::new(vec![0.0f32; 12], [4, 3], None).expect("weights");
    let router = Router::new(&gpu, &weights, RouterConfig::mixtral()).expect_err("another number of paths");
    assert_eq!(router.to_string(), "router: gate.weight is [4, 3], the configuration has 8 paths");
    let weights = RouterWeights::new(vec![0.0f32; 24], [8, 3], None).expect("weights");
    let router = Router::new(&gpu, &weights, RouterConfig::mixtral()).expect("a router");
    let forward = || router.forward(Tensor::f32(&x, &[5, 3]));
    let refusals = [
        (forward().ids(Tensor::u32(&y, &[5, 3])), "router: ids is [5, 3], expected [5, 2]"),
        (forward().gates(Tensor::f32(&y, &[4, 2])), "router: gates is [4, 2], expected [5, 2]"),
        (forward().gates(Tensor::u32(&y, &[5, 2])), "gates is u32, expected f32"),
        (forward().ids(Tensor::u32(&x, &[5, 2]).offset(4096)), "router: x and the output share a buffer"),
        (forward().ids(Tensor::u32(&y, &[5, 2])).gates(Tensor::f32(&y, &[5, 2]).offset(4096)), "ids and gates share"),
    ];
    for (forward, expected) in refusals {
        let refusal = forward.plan().expect_err("does not fit").to_string();
        assert!(refusal.contains(expected), "{refusal}");
    }
}
