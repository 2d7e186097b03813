"""Times PyTorch on the works of the `peers` binary, on the CPU or on CUDA, eager and compiled.

    python forward.py                                  # the CPU, a table
    python forward.py --device cuda --json > torch.jsonl
    python forward.py --device cuda --join ours.jsonl  # beside what `peers --peer none --large --json` wrote

f32 is full f32: TF32 is off. Every result is held against float64 before it is timed; one too far off ends the
run with exit status 1. CUDA is timed by events around calls that are queued one behind the other, the CPU by the clock;
a time is the median of the samples, a sample several calls where they are short. Needs torch alone; compiling needs a C++
compiler (CPU) or Triton (CUDA) beside it.
"""

import argparse
import json
import math
import statistics
import sys
import time

import torch
from torch import nn

FORWARDS = {  # batch, tokens, in, and A = R = O
    "forward a": (8, 512, 768, 256),
    "forward b": (1, 128, 768, 64),
    "forward c": (4, 2048, 1024, 512),
    "forward large": (32, 4096, 4096, 1024),
}
MATMULS = {  # size, type, whether B is stored as nn.Linear stores it, [N, K]
    "matmul 1024": (1024, torch.float32, True),
    "matmul 1024 f16": (1024, torch.float16, True),
    "matmul 2048": (2048, torch.float32, True),
    "matmul 2048 ab": (2048, torch.float32, False),
    "matmul 4096": (4096, torch.float32, True),
    "matmul 4096 f16": (4096, torch.float16, True),
}
SOFTMAXES = {"softmax 4096x1024": (4096, 1024), "softmax 64x65536": (64, 65536)}
COPY, COPY_BYTES = "copy 1 GiB", 1 << 30
CUDA_ONLY = {"forward large", "matmul 4096", "matmul 4096 f16", COPY}
WORKS = [*FORWARDS, *MATMULS, *SOFTMAXES, COPY]

SAMPLE_SECONDS = 0.05  # A sample is as many calls as take this long.
MOST_CALLS = 200
SETTLED = 1.05  # Warming up ends where the best of three more calls is not this much better.
CHECKED_ROWS = 64
# A result may be this many times as far from float64 as float32 on the CPU is, rounded to the result's type; errors below the
# floor are too small to compare. By the signal for y, by the norm for the rest.
YARDSTICKS, FLOOR = 4, 1e-6


class DoubleRouting(nn.Module):
    def __init__(self, inputs, width):
        super().__init__()
        self.embedding = nn.Linear(inputs, width)
        self.attention = nn.Linear(width, 1)
        self.routing1 = nn.Linear(width, width)
        self.routing2 = nn.Linear(width, width)

    def forward(self, x):
        h = self.embedding(x)
        w = torch.softmax(self.attention(h), dim=1)
        return self.routing2(self.routing1(h * w))


def uniform(*shape, dtype, device):
    return torch.rand(*shape, device=device).mul_(2).sub_(1).to(dtype)


def errors(result, truth, plain, shared=0):
    """How far the result is from the truth, relative to the part of the truth that is not shared, and how far it may be."""
    error, yardstick = (((y.double() - truth).norm() / (truth - shared).norm()).item() for y in (result, plain))
    return error, max(YARDSTICKS * yardstick, FLOOR)


def rows(count):
    return torch.linspace(0, count - 1, min(count, CHECKED_ROWS)).round().long()


def forward(name, device):
    batch, tokens, inputs, width = FORWARDS[name]
    layer = DoubleRouting(inputs, width).to(device).eval()
    x = uniform(batch, tokens, inputs, dtype=torch.float32, device=device)

    def error(y):
        plain = DoubleRouting(inputs, width)
        plain.load_state_dict(layer.state_dict())
        last = x[-1:].cpu()
        of_plain = plain(last)
        exact = plain.double()
        # What every token shares: y is nearly that, and only the rest says anything.
        shared = exact.routing2(exact.routing1.bias)
        return errors(y[-1:].cpu(), exact(last.double()), of_plain, shared)

    return (lambda layer: lambda: layer(x)), layer, error


def matmul(name, device):
    size, dtype, transposed = MATMULS[name]
    a, b = (uniform(size, size, dtype=dtype, device=device) for _ in range(2))

    def multiply(a, b):
        return a @ (b.t() if transposed else b)

    def error(c):
        some = rows(size)
        a_rows, all_b = a.cpu()[some], b.cpu()
        plain = multiply(a_rows.float(), all_b.float()).to(dtype)
        return errors(c.cpu()[some], multiply(a_rows.double(), all_b.double()), plain)

    return (lambda multiply: lambda: multiply(a, b)), multiply, error


def softmax(name, device):
    x = uniform(*SOFTMAXES[name], dtype=torch.float32, device=device)

    def weigh(x):
        return torch.softmax(x, dim=1)

    def error(y):
        some = rows(len(x))
        rows_of_x = x.cpu()[some]
        return errors(y.cpu()[some], weigh(rows_of_x.double()), weigh(rows_of_x))

    return (lambda weigh: lambda: weigh(x)), weigh, error


def copy(_, device):
    source = uniform(COPY_BYTES // 4, dtype=torch.float32, device=device)
    target = torch.empty_like(source)

    def error(result):
        return (0.0 if torch.equal(result, source) else math.inf), 0.0

    return (lambda copy: lambda: copy(source)), target.copy_, error


def prepare(name, device):
    makers = [(FORWARDS, forward), (MATMULS, matmul), (SOFTMAXES, softmax), ({COPY}, copy)]
    return next(make for names, make in makers if name in names)(name, device)


def synchronize(device):
    if device == "cuda":
        torch.cuda.synchronize()


def wall(call, calls, device):
    """Seconds a call takes, from its start to the end of waiting."""
    synchronize(device)
    start = time.perf_counter()
    for _ in range(calls):
        call()
    synchronize(device)
    return (time.perf_counter() - start) / calls


def on_device(call, calls):
    """Seconds a call takes on the CUDA device."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(calls):
        call()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1e3 / calls


def warm_up(call, device):
    best = wall(call, 1, device)
    for _ in range(10):
        now = min(wall(call, 1, device) for _ in range(3))
        if now * SETTLED > best:
            break
        best = now
    return min(best, now)


def measure(name, peer, device, samples):
    bind, function, error = prepare(name, device)
    if peer == "torch-compile":
        torch.compiler.reset()
        function = torch.compile(function)
    call = bind(function)
    synchronize(device)
    start = time.perf_counter()
    result = call()
    synchronize(device)
    first = time.perf_counter() - start

    off, allowed = error(result)
    if not off <= allowed:
        sys.exit(f"error: {name}: {peer} is off by {off:.1e}, allowed {allowed:.1e}")

    calls = max(1, min(MOST_CALLS, math.ceil(SAMPLE_SECONDS / warm_up(call, device))))
    times = [on_device(call, calls) if device == "cuda" else wall(call, calls, device) for _ in range(samples)]
    record = {"work": name, "peer": peer, "peer_ms": 1e3 * statistics.median(times)}
    if device == "cuda":
        record["peer_wall_ms"] = 1e3 * statistics.median(wall(call, 1, device) for _ in range(samples))
    if name == COPY:
        record["gb_per_s"] = 2 * COPY_BYTES / 1e6 / record["peer_ms"]
    record |= {"peer_first_ms": 1e3 * first, "peer_error": off, "calls": calls, "samples": samples}
    return record


def ours(path):
    with open(path) as lines:
        records = [json.loads(line) for line in lines if line.strip()]
    return {record["work"]: record["ours_ms"] for record in records}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--peer", choices=["torch-eager", "torch-compile"], help="only this one")
    parser.add_argument("--work", metavar="PART", default="", help="only works with this in their name")
    parser.add_argument("--samples", type=int, default=15)
    parser.add_argument("--join", metavar="OURS.jsonl", help="JSON lines with work and ours_ms to set beside")
    parser.add_argument("--json", action="store_true", help="a JSON object a line")
    arguments = parser.parse_args()
    if arguments.samples < 1:
        parser.error(f"--samples is {arguments.samples}, needs 1 or more")
    if arguments.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: PyTorch finds no CUDA device")
    works = [name for name in WORKS if arguments.work in name and (arguments.device == "cuda" or name not in CUDA_ONLY)]
    if not works:
        parser.error(f"--work '{arguments.work}' is in none of: {', '.join(WORKS)}")
    try:
        joined = ours(arguments.join) if arguments.join else {}
    except (OSError, ValueError, KeyError, TypeError) as error:
        parser.error(f"--join {arguments.join}: {error!r}")

    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    torch.set_float32_matmul_precision("highest")
    torch.manual_seed(1)

    hardware = torch.cuda.get_device_name() if arguments.device == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    if not arguments.json:
        print(f"PyTorch {torch.__version__} on {hardware}")
        print(f"{'work':20} {'peer':14} {'ours ms':>10} {'peer ms':>10} {'ratio':>7} {'error':>8} {'first ms':>10}")
    for name in works:
        for peer in ["torch-eager", "torch-compile"]:
            if arguments.peer not in (None, peer) or (name == COPY and peer != "torch-eager"):
                continue
            with torch.inference_mode():
                record = measure(name, peer, arguments.device, arguments.samples)
            record |= {"device": hardware, "torch": torch.__version__}
            if name in joined:
                record |= {"ours_ms": joined[name], "ratio": record["peer_ms"] / joined[name]}
            if arguments.json:
                print(json.dumps(record), flush=True)
                continue
            own, ratio = (f"{record[key]:.3f}" if key in record else "" for key in ("ours_ms", "ratio"))
            print(
                f"{name:20} {peer:14} {own:>10} {record['peer_ms']:>10.3f} {ratio:>7} {record['peer_error']:>8.1e} "
                f"{record['peer_first_ms']:>10.1f}" + (f"  {record['gb_per_s']:.0f} GB/s" if name == COPY else ""),
                flush=True,
            )


if __name__ == "__main__":
    main()
