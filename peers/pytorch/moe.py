"""Times transformers' block of a mixture of experts, Qwen3-MoE's, on the CPU or on CUDA: router, experts, sum.

    python moe.py                              # the CPU, a JSON object a line
    python moe.py --device cuda --compile      # and compiled

256 paths, 8 a token, 512 wide, 128 within, f32, no shared expert. transformers has several ways to run the experts: `eager`
is its loop over them, `grouped_mm` is what its models use unless told otherwise, `batched_mm` copies the weights of every
slot and is for few tokens. Measured as in forward.py, which has to lie beside this file. Needs torch and transformers.
"""

import argparse
import copy
import json
import math
import statistics
import sys

import torch
import transformers
from forward import ALLOWED, MOST_CALLS, SAMPLE_SECONDS, norm_error, on_device, rows, uniform, wall, warm_up
from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeSparseMoeBlock

WORKS = {"moe 256/8 T=512": 512, "moe 256/8 T=1": 1}
WAYS = {"eager": math.inf, "grouped_mm": math.inf, "batched_mm": 16}  # The most tokens each is measured with.
PATHS, PER_TOKEN, WIDTH, HIDDEN = 256, 8, 512, 128


def block(way, device):
    config = transformers.Qwen3MoeConfig(
        hidden_size=WIDTH, moe_intermediate_size=HIDDEN, num_experts=PATHS, num_experts_per_tok=PER_TOKEN, norm_topk_prob=True
    )
    config._experts_implementation = way
    made = Qwen3MoeSparseMoeBlock(config).to(device).eval()
    torch.manual_seed(1)
    for weight in made.parameters():
        weight.copy_(uniform(*weight.shape, dtype=weight.dtype, device=device) * (3 / weight.shape[-1]) ** 0.5)
    return made


def error(made, x, y):
    """How far some rows of y are from float64's, with the paths and gates that the block has chosen in float32."""
    some = rows(x.shape[1])
    x, y = x[0, some], y[0, some]
    _, gates, ids = made.gate(x)
    experts = copy.deepcopy(made.experts).double()
    experts.config._experts_implementation = "eager"
    return norm_error(y, experts(x.double(), ids, gates.double()))


def measure(work, way, compiled, device, samples):
    made = block(way, device)
    x = uniform(1, WORKS[work], WIDTH, dtype=torch.float32, device=device)
    torch.compiler.reset()
    function = torch.compile(made) if compiled else made
    off = error(made, x, function(x))
    peer = f"transformers-{way}" + ("-compile" if compiled else "")
    if not off <= ALLOWED[torch.float32]:
        sys.exit(f"error: {work}: {peer} is off by {off:.1e}, allowed {ALLOWED[torch.float32]:.0e}")

    def call():
        return function(x)

    calls = max(1, min(MOST_CALLS, math.ceil(SAMPLE_SECONDS / warm_up(call, device))))
    times = [on_device(call, calls) if device == "cuda" else wall(call, calls, device) for _ in range(samples)]
    return {"work": work, "peer": peer, "peer_ms": 1e3 * statistics.median(times), "peer_error": off, "calls": calls}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--compile", action="store_true", help="compiled too")
    parser.add_argument("--work", metavar="PART", default="", help="only works with this in their name")
    parser.add_argument("--way", choices=WAYS, help="only this one")
    parser.add_argument("--samples", type=int, default=15)
    arguments = parser.parse_args()
    if arguments.samples < 1:
        parser.error(f"--samples is {arguments.samples}, needs 1 or more")
    if arguments.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: PyTorch finds no CUDA device")
    works = [name for name in WORKS if arguments.work in name]
    if not works:
        parser.error(f"--work '{arguments.work}' is in none of: {', '.join(WORKS)}")

    torch.backends.cuda.matmul.allow_tf32 = False
    torch.set_float32_matmul_precision("highest")
    hardware = torch.cuda.get_device_name() if arguments.device == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    versions = {"device": hardware, "torch": torch.__version__, "transformers": transformers.__version__}
    for work in works:
        for way, most in WAYS.items():
            if arguments.way not in (None, way) or WORKS[work] > most:
                continue
            for compiled in [False, True] if arguments.compile else [False]:
                with torch.inference_mode():
                    record = measure(work, way, compiled, arguments.device, arguments.samples)
                print(json.dumps(record | {"samples": arguments.samples} | versions), flush=True)


if __name__ == "__main__":
    main()
