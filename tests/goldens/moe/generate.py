"""Golden cases for mixtures of experts: the published models' own modules, evaluated in float64, and edge cases of routers.

    python tests/goldens/moe/generate.py

writes `<case>.safetensors` for every case and `goldens.json` beside this file, and the models' `<case>.config.json`.
Made with transformers 5.23.0, torch 2.15.0, numpy 2.4.6, safetensors 0.8.0; every file's metadata says so.

A `router` or `block` case is a module of transformers with random weights, and a config.json with the hub's spellings:
    <prefix>...   float32, the weights under the names of the hub's checkpoints; of a router, its own alone
    x             float32 [T, hidden]
    ids           uint32 [T, per_token], in descending order of the choice score
    gates         float64 [T, per_token], from the module in float64; gates32 is what it gives in float32
    y, routed     float64 [T, hidden], blocks only: the output, and the part of it that is not shared experts; y32 as above
An `edge` case is routed by `router.py` alone: `logits` float32 [T, paths], `bias` float32 [paths] if it has one, ids, gates.
All have `margin` and `group_margin`, float64 [T], as `router.py` says; the models' are router.py's too.

Every row is decided: no two scores between which it chooses differ by less than float32 resolves, unless they are equal
to the bit in any arithmetic. So ids are to be met exactly, in all rows. Rows that are not so are drawn again.

`transformers_error` in goldens.json is what the module itself loses in float32:
    gates: the largest relative error       y: |y32 - y| / |routed|, norms over all elements
With the same versions and the same CPU the files come out bit for bit the same; another CPU may change last bits.
"""

import copy
import importlib
import inspect
import json
import textwrap
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
import safetensors
import torch
import transformers
from router import Choice, route
from safetensors.numpy import save

HERE = Path(__file__).parent
VERSIONS = ", ".join(f"{m.__name__} {m.__version__}" for m in (transformers, torch, np, safetensors))

# Differences less than this, relative to the scores (and biases) they are of, leave a row undecided: an edge case's
# logits are given, a model's are products that float32 rounds first.
RESOLUTION = {"edge": 1e-5, "router": 1e-4, "block": 1e-4}
MOST_BYTES = 300_000

torch.set_num_threads(1)
torch.use_deterministic_algorithms(True)
torch.set_float32_matmul_precision("highest")

# What the published models' config.json say, but for the sizes, which each case sets.
COMMON = {"hidden_act": "silu", "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 4,
          "vocab_size": 32000, "tie_word_embeddings": False, "torch_dtype": "float32"}
HUB = {
    "deepseek_v2": {
        "architectures": ["DeepseekV2ForCausalLM"], "model_type": "deepseek_v2", **COMMON,
        "n_routed_experts": 160, "n_shared_experts": 2, "num_experts_per_tok": 6, "scoring_func": "softmax",
        "topk_method": "group_limited_greedy", "n_group": 8, "topk_group": 3, "norm_topk_prob": False,
        "routed_scaling_factor": 16.0, "first_k_dense_replace": 1, "moe_layer_freq": 1, "intermediate_size": 96,
        "aux_loss_alpha": 0.001, "seq_aux": True, "ep_size": 1,
    },
    "deepseek_v3": {
        "architectures": ["DeepseekV3ForCausalLM"], "model_type": "deepseek_v3", **COMMON,
        "n_routed_experts": 256, "n_shared_experts": 1, "num_experts_per_tok": 8, "scoring_func": "sigmoid",
        "topk_method": "noaux_tc", "n_group": 8, "topk_group": 4, "norm_topk_prob": True,
        "routed_scaling_factor": 2.5, "first_k_dense_replace": 3, "moe_layer_freq": 1, "intermediate_size": 96,
        "ep_size": 1, "num_nextn_predict_layers": 1,
    },
    "mixtral": {
        "architectures": ["MixtralForCausalLM"], "model_type": "mixtral", **COMMON,
        "num_local_experts": 8, "num_experts_per_tok": 2,
        "output_router_logits": False, "router_aux_loss_coef": 0.02, "sliding_window": None,
    },
    "qwen2_moe": {
        "architectures": ["Qwen2MoeForCausalLM"], "model_type": "qwen2_moe", **COMMON,
        "num_experts": 60, "num_experts_per_tok": 4, "norm_topk_prob": False, "decoder_sparse_step": 1,
        "intermediate_size": 96, "output_router_logits": False, "router_aux_loss_coef": 0.001,
    },
    "qwen3_moe": {
        "architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe", **COMMON,
        "num_experts": 128, "num_experts_per_tok": 8, "norm_topk_prob": True, "decoder_sparse_step": 1,
        "mlp_only_layers": [], "intermediate_size": 96, "output_router_logits": False, "router_aux_loss_coef": 0.001,
    },
    "olmoe": {
        "architectures": ["OlmoeForCausalLM"], "model_type": "olmoe", **COMMON,
        "num_experts": 64, "num_experts_per_tok": 8, "norm_topk_prob": False,
        "vocab_size": 50304, "clip_qkv": None, "output_router_logits": False, "router_aux_loss_coef": 0.01,
    },
}
LITE = {"n_routed_experts": 64, "topk_method": "greedy", "n_group": 1, "topk_group": 1, "routed_scaling_factor": 1.0}
BLOCKS = {"deepseek_v2": "DeepseekV2Moe", "deepseek_v3": "DeepseekV3MoE", "mixtral": "MixtralSparseMoeBlock",
          "qwen2_moe": "Qwen2MoeSparseMoeBlock", "qwen3_moe": "Qwen3MoeSparseMoeBlock", "olmoe": "OlmoeSparseMoeBlock"}
# The first layer that has experts.
PREFIXES = {"deepseek_v2": "model.layers.1.mlp.", "deepseek_v3": "model.layers.3.mlp.",
            "mixtral": "model.layers.0.block_sparse_moe."}


def choice_of(config):
    """How the published code of each model_type chooses, read off its config.json."""
    per_token = config["num_experts_per_tok"]
    match config["model_type"]:
        case "deepseek_v2":
            grouped = config["topk_method"] == "group_limited_greedy"
            groups = (config["n_group"], config["topk_group"]) if grouped else (1, 1)
            return Choice(config["n_routed_experts"], per_token, "softmax", *groups, scale=config["routed_scaling_factor"])
        case "deepseek_v3":
            return Choice(config["n_routed_experts"], per_token, "sigmoid", config["n_group"], config["topk_group"],
                          "sum_of_two", config["norm_topk_prob"], config["routed_scaling_factor"])
        case "mixtral":
            return Choice(config["num_local_experts"], per_token, "softmax_of_chosen")
        case "qwen2_moe" | "qwen3_moe" | "olmoe":
            return Choice(config["num_experts"], per_token, renormalise=config["norm_topk_prob"])


class Model(NamedTuple):
    kind: str  # router | block
    name: str
    description: str
    model_type: str
    tokens: int
    config: dict


MODELS = [
    Model("router", "deepseek_v2_router", "DeepSeek-V2: 160 paths, 6 of them, from 3 of 8 groups by their largest, times 16",
          "deepseek_v2", 96, {"hidden_size": 48, "moe_intermediate_size": 4}),
    Model("router", "deepseek_v2_lite_router", "DeepSeek-V2-Lite: 64 paths, 6 of them, no groups",
          "deepseek_v2", 96, {"hidden_size": 40, "moe_intermediate_size": 4, **LITE}),
    Model("router", "deepseek_v3_router", "DeepSeek-V3: 256 paths, 8 of them, from 4 of 8 groups by their two largest",
          "deepseek_v3", 96, {"hidden_size": 64, "moe_intermediate_size": 4}),
    Model("router", "mixtral_router", "Mixtral: 8 paths, 2 of them, softmax over the chosen",
          "mixtral", 128, {"hidden_size": 64, "intermediate_size": 4}),
    Model("router", "qwen2_moe_router", "Qwen1.5-MoE: 60 paths, 4 of them, gates that do not add up to 1",
          "qwen2_moe", 128,
          {"hidden_size": 48, "moe_intermediate_size": 4, "shared_expert_intermediate_size": 4}),
    Model("router", "qwen3_moe_router", "Qwen3-MoE: 128 paths, 8 of them, renormalised",
          "qwen3_moe", 96, {"hidden_size": 48, "moe_intermediate_size": 4}),
    Model("router", "olmoe_router", "OLMoE: 64 paths, 8 of them, gates that do not add up to 1",
          "olmoe", 128, {"hidden_size": 32, "intermediate_size": 4}),
    Model("block", "deepseek_v2_block", "DeepSeek-V2 of 24 paths, with two shared experts",
          "deepseek_v2", 24, {"hidden_size": 32, "moe_intermediate_size": 14, "n_routed_experts": 24}),
    Model("block", "deepseek_v2_lite_block", "DeepSeek-V2-Lite of 16 paths, with two shared experts",
          "deepseek_v2", 17, {"hidden_size": 28, "moe_intermediate_size": 12, **LITE, "n_routed_experts": 16}),
    Model("block", "deepseek_v3_block", "DeepSeek-V3 of 32 paths, with a shared expert",
          "deepseek_v3", 32, {"hidden_size": 32, "moe_intermediate_size": 12, "n_routed_experts": 32}),
    Model("block", "mixtral_block", "Mixtral, wider inside than outside",
          "mixtral", 32, {"hidden_size": 32, "intermediate_size": 44}),
    Model("block", "qwen2_moe_block", "Qwen1.5-MoE, with a shared expert of another width, behind a sigmoid",
          "qwen2_moe", 19,
          {"hidden_size": 24, "moe_intermediate_size": 9, "shared_expert_intermediate_size": 40}),
    Model("block", "qwen3_moe_block", "Qwen3-MoE of 24 paths",
          "qwen3_moe", 32, {"hidden_size": 32, "moe_intermediate_size": 16, "num_experts": 24}),
    Model("block", "olmoe_block", "OLMoE of 24 paths",
          "olmoe", 16, {"hidden_size": 36, "intermediate_size": 12, "num_experts": 24}),
]


def fill(block, rng):
    """Random weights: what comes out has a deviation of about 1; the logits of a softmax, which spreads them less, of 2."""
    weights = block.state_dict()
    biased = "gate.e_score_correction_bias" in weights
    for name, tensor in weights.items():
        if name == "gate.e_score_correction_bias":
            # Positive, so that every c is. Then it does not matter that some releases set c to 0 outside the groups kept
            # where it has to be -inf: 0 is never chosen. Where it would matter is an edge case's.
            values = rng.uniform(0.05, 0.65, tensor.shape)
        else:
            spread = 2 if name == "gate.weight" and not biased else 1
            values = spread * rng.standard_normal(tensor.shape) / tensor.shape[-1] ** 0.5
        tensor.copy_(torch.from_numpy(values))


def in_double(block):
    """The same block in float64. Routers cast to float32 whatever they are given, so theirs is made of the same source with
    float64 written instead."""
    block = copy.deepcopy(block).double()
    router = type(block.gate)
    source = textwrap.dedent(inspect.getsource(router))
    for narrow, wide in [("torch.float32", "torch.float64"), ("torch.float,", "torch.float64,"), (".float()", ".double()")]:
        source = source.replace(narrow, wide)
    names = dict(vars(inspect.getmodule(router)))
    exec(source, names)
    block.gate.__class__ = names[router.__name__]
    return block


def evaluate(block, x, order):
    """What a block gives, with the chosen of each token put in the order of `order`, which has to be of the same."""
    _, gates, ids = block.gate(x)
    result = {"y": block(x[None])[0], "routed": block.experts(x, ids, gates)}
    assert all(tensor.dtype == x.dtype for tensor in [gates, *result.values()])
    ids = ids.numpy()
    np.testing.assert_array_equal(np.sort(ids, axis=1), np.sort(order, axis=1))
    places = (ids[:, None, :] == order[:, :, None]).argmax(axis=2)
    return {"gates": np.take_along_axis(gates.numpy(), places, axis=1)} | {name: y.numpy() for name, y in result.items()}


def hub_tensors(block, model_type, kind):
    """The weights under the names of the hub's checkpoints, where experts are not yet stacked."""
    gate, up, down = (f"{name}_proj" for name in ("gate", "up", "down")) if model_type != "mixtral" else ("w1", "w3", "w2")
    tensors = {}
    for name, tensor in block.state_dict().items():
        if name == "experts.gate_up_proj":
            for half, matrices in zip((gate, up), tensor.chunk(2, dim=1)):
                tensors |= {f"experts.{path}.{half}.weight": matrix for path, matrix in enumerate(matrices)}
        elif name == "experts.down_proj":
            tensors |= {f"experts.{path}.{down}.weight": matrix for path, matrix in enumerate(tensor)}
        else:
            tensors[name] = tensor
    return {name: tensor.numpy() for name, tensor in tensors.items() if kind == "block" or name.startswith("gate.")}


class Edge(NamedTuple):
    name: str
    description: str
    choice: Choice
    logits: object  # (rng, T, paths) -> [T, paths]
    bias: object = None  # (rng, paths) -> [paths]
    tokens: int = 64
    shows: str = ""  # what the case is there to tell apart, and has to: ties | group ties | excluded


def normal(deviation):
    return lambda rng, *shape: deviation * rng.standard_normal(shape)


def uniform(low, high):
    return lambda rng, *shape: rng.uniform(low, high, shape)


def halves(rng, *shape):
    return np.round(3 * rng.standard_normal(shape)) / 2


def signs(rng, *shape):
    return rng.choice([-100.0, 100.0], shape, p=[0.9, 0.1])


def bf16(rng, *shape):
    """Rounded to the nearest bfloat16, to the even one of two."""
    bits = (3 * rng.standard_normal(shape)).astype(np.float32).view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000).view(np.float32)


def underflowing(rng, tokens, paths):
    """Sigmoids of 0 in float32: all of them in the even rows, all but three in the odd."""
    logits = rng.uniform(-300, -150, (tokens, paths))
    for row in range(1, tokens, 2):
        logits[row, rng.choice(paths, 3, replace=False)] = rng.standard_normal(3)
    return logits


def steps(rng, paths):
    return rng.permutation(paths) / (2 * paths)


V2, V3 = (choice_of(HUB[name]) for name in ("deepseek_v2", "deepseek_v3"))
EDGES = [
    Edge("edge_paths_384", "384 paths in one group, as Kimi-K2 has them",
         Choice(384, 8, "sigmoid", group_score="sum_of_two", renormalise=True, scale=2.827),
         normal(1.5), uniform(-0.1, 0.1)),
    Edge("edge_paths_1024", "1024 paths, 64 of them, from 16 of 64 groups",
         Choice(1024, 64, "sigmoid", 64, 16, "sum_of_two", True), normal(1.0), uniform(-0.2, 0.2), tokens=24),
    Edge("edge_paths_1", "one path", Choice(1, 1, "sigmoid"), normal(3.0), uniform(-0.5, 0.5)),
    Edge("edge_paths_7", "seven paths, three of them", Choice(7, 3, renormalise=True), normal(2.0)),
    Edge("edge_paths_7_all", "all of seven paths: no margin", Choice(7, 7, scale=0.5), normal(2.0)),
    Edge("edge_one_group", "one group, which is kept", Choice(64, 8, "sigmoid", 1, 1, "sum_of_two", True), normal(1.5),
         uniform(-0.2, 0.2)),
    Edge("edge_all_groups", "all of eight groups are kept", Choice(64, 8, "softmax", 8, 8), normal(2.0)),
    Edge("edge_ties_sum", "logits are multiples of a half: paths and groups tie exactly, sum of two",
         V3, halves, tokens=48, shows="ties, group ties"),
    Edge("edge_ties_max", "logits are multiples of a half: paths and groups tie exactly, max",
         V2, halves, shows="ties, group ties"),
    Edge("edge_bf16_logits", "logits rounded to bfloat16, which makes some tie", V3, bf16, tokens=48, shows="ties"),
    Edge("edge_all_negative", "all logits negative and chosen by: excluded groups have to be -inf, not 0",
         Choice(64, 6, "softmax_of_chosen", 8, 3), uniform(-8, -1), shows="excluded"),
    Edge("edge_uniform_bias", "a bias of -0.9 for every path: excluded groups have to be -inf, not 0",
         V3, normal(1.0), lambda _, paths: np.full(paths, -0.9), tokens=48, shows="excluded"),
    Edge("edge_sigmoid_underflow", "sigmoids too small for float32: the bias decides, and gates are 0 to float32, never NaN",
         Choice(64, 8, "sigmoid", renormalise=True, scale=2.5), underflowing, steps),
    Edge("edge_extremes_softmax", "logits from -100 to 100, softmax", Choice(64, 6), uniform(-100, 100)),
    Edge("edge_extremes_sigmoid", "logits of -100 and 100, sigmoid: 0 or 1, and exact ties",
         Choice(64, 8, "sigmoid", 8, 4, "sum_of_two", True), signs, shows="ties, group ties"),
    Edge("edge_extremes_sqrt_softplus", "logits from -100 to 100, sqrt_softplus",
         Choice(64, 6, "sqrt_softplus", renormalise=True), uniform(-100, 100)),
    Edge("edge_extremes_of_chosen", "logits from -100 to 100, softmax_of_chosen",
         Choice(64, 6, "softmax_of_chosen"), uniform(-100, 100)),
    Edge("edge_sqrt_softplus", "256 paths, 6 of them, sqrt_softplus, biased, as DeepSeek-V4 has them",
         Choice(256, 6, "sqrt_softplus", renormalise=True, scale=1.5), normal(2.0), uniform(-0.3, 0.3), tokens=48),
]


def decided(logits, choice, bias, resolution):
    """Rows in which no score that counts is nearly, but not exactly, another that is chosen."""
    routing = route(logits, choice, bias)
    offset = np.zeros(choice.paths) if bias is None else np.abs(bias)

    def near(values, chosen, size):
        values, chosen = values[:, None, :], np.take_along_axis(values, chosen, axis=1)[:, :, None]
        apart = np.abs(values - chosen)
        return ((apart > 0) & (apart < resolution * size[:, :, None])).any(axis=(1, 2))

    size = np.take_along_axis(np.abs(routing.scores) + offset, routing.ids, axis=1)
    last = np.argsort(-routing.group_scores, axis=1, kind="stable")[:, choice.kept - 1 : choice.kept]
    group_size = np.abs(np.take_along_axis(routing.group_scores, last, axis=1)) + 2 * offset.max()
    return ~near(routing.choice_scores, routing.ids, size) & ~near(routing.group_scores, last, group_size)


def draw(tokens, make, is_decided):
    """That many decided rows."""
    rows = []
    for _ in range(50):
        more = make(tokens)
        rows.extend(more[is_decided(more)])
        if len(rows) >= tokens:
            return np.stack(rows[:tokens])
    raise AssertionError(f"{len(rows)} rows are decided, {tokens} are needed")


def generate_model(case):
    rng = np.random.default_rng(zlib.crc32(case.name.encode()))
    config = HUB[case.model_type] | case.config
    choice = choice_of(config)
    modeling = importlib.import_module(f"transformers.models.{case.model_type}.modeling_{case.model_type}")
    settings = transformers.AutoConfig.for_model(**config)
    settings._experts_implementation = "eager"
    block = getattr(modeling, BLOCKS[case.model_type])(settings).eval()
    fill(block, rng)

    gate = block.gate.weight.numpy().astype(np.float64)
    bias = block.gate.e_score_correction_bias.numpy() if case.model_type == "deepseek_v3" else None
    x = draw(
        case.tokens,
        lambda rows: rng.standard_normal((rows, settings.hidden_size)).astype(np.float32),
        lambda x: decided(x @ gate.T, choice, bias, RESOLUTION[case.kind]),
    )
    routing = route(x @ gate.T, choice, bias)
    f32 = evaluate(block, torch.from_numpy(x), routing.ids)
    f64 = evaluate(in_double(block), torch.from_numpy(x).double(), routing.ids)
    np.testing.assert_allclose(f64["gates"], routing.gates, rtol=1e-13)
    masked_by_zero = route(x @ gate.T, choice, bias, excluded=0.0)
    np.testing.assert_array_equal(masked_by_zero.ids, routing.ids, "the mask's value is not to matter: see fill()")
    if bias is not None:
        assert (route(x @ gate.T, choice).ids != routing.ids).any(axis=1).mean() > 0.5, "the bias is to matter"

    prefix = PREFIXES.get(case.model_type, "model.layers.0.mlp.")
    tensors = {prefix + name: tensor for name, tensor in hub_tensors(block, case.model_type, case.kind).items()}
    tensors |= {"x": x, "gates": f64["gates"], "gates32": f32["gates"]}
    error = {"gates": np.abs(f32["gates"] / f64["gates"] - 1).max()}
    if case.kind == "block":
        tensors |= {"y": f64["y"], "y32": f32["y"], "routed": f64["routed"]}
        error["y"] = np.linalg.norm(f32["y"] - f64["y"]) / np.linalg.norm(f64["routed"])
        assert np.linalg.norm(f64["routed"]) > 0.2 * np.linalg.norm(f64["y"]), "what is shared would hide what is routed"

    (HERE / f"{case.name}.config.json").write_text(json.dumps(config, indent=2) + "\n")
    entry = {"hidden": settings.hidden_size, "model_type": case.model_type, "config": f"{case.name}.config.json",
             "prefix": prefix, "transformers": transformers.__version__, "transformers_error": error}
    return case.kind, choice, entry, routing, tensors


def generate_edge(case):
    rng = np.random.default_rng(zlib.crc32(case.name.encode()))
    choice = case.choice
    bias = None if case.bias is None else case.bias(rng, choice.paths).astype(np.float32)
    logits = draw(
        case.tokens,
        lambda rows: case.logits(rng, rows, choice.paths).astype(np.float32),
        lambda logits: decided(logits, choice, bias, RESOLUTION["edge"]),
    )
    routing = route(logits, choice, bias)
    np.testing.assert_array_equal(route(logits, choice, bias, np.float32).ids, routing.ids)

    first = np.sort(-routing.choice_scores, axis=1)[:, : choice.per_token + 1]
    shown = {
        "ties": (first[:, 1:] == first[:, :-1]).any(axis=1),
        "group ties": routing.group_margin == 0,
        "excluded": (route(logits, choice, bias, excluded=0.0).ids != routing.ids).any(axis=1),
    }
    for what in filter(None, case.shows.split(", ")):
        assert shown[what].mean() >= 0.2, f"{case.name}: {what} in {shown[what].mean():.0%} of the rows"

    tensors = {"logits": logits} | ({} if bias is None else {"bias": bias}) | {"gates": routing.gates}
    return "edge", choice, {"biased": bias is not None}, routing, tensors


def main():
    print(VERSIONS)
    print(f"{'case':<28} {'T':>4} {'paths':>5} {'ties':>5} {'group':>5} {'gates':>18} {'error y':>8} {'bytes':>7}")
    entries, total = [], 0
    for case in MODELS + EDGES:
        with torch.no_grad():
            kind, choice, entry, routing, tensors = (generate_edge if isinstance(case, Edge) else generate_model)(case)
        tensors |= {"ids": routing.ids.astype(np.uint32), "margin": routing.margin, "group_margin": routing.group_margin}
        assert all(np.isfinite(tensor).all() for name, tensor in tensors.items() if not name.endswith("margin"))
        path = HERE / f"{case.name}.safetensors"
        tensors = {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}
        path.write_bytes(save(tensors, {"versions": VERSIONS}))
        size = path.stat().st_size
        assert size < MOST_BYTES, f"{path.name} has {size} bytes"
        total += size
        about = {"name": case.name, "kind": kind, "description": case.description, "tokens": case.tokens}
        entries.append(about | {"choice": choice._asdict()} | entry)
        ties, group_ties = ((margin == 0).mean() for margin in (routing.margin, routing.group_margin))
        error = entry.get("transformers_error", {}).get("y", 0.0)
        print(f"{case.name:<28} {case.tokens:>4} {choice.paths:>5} {ties:>5.0%} {group_ties:>5.0%} "
              f"{f'{routing.gates.min():.1e} {routing.gates.max():.1e}':>18} {error:>8.1e} {size:>7}")
    text = ",\n".join("  " + json.dumps(entry) for entry in entries)
    (HERE / "goldens.json").write_text(f"[\n{text}\n]\n")
    print(f"{len(entries)} cases, {total} bytes")


if __name__ == "__main__":
    main()
