"""Golden cases for the dense layer: PyTorch's own module, evaluated in float64.

    python tests/goldens/generate.py

writes `<case>.safetensors` for every case and `goldens.json` beside this file. It needs torch, numpy and
safetensors; the versions used are in the metadata of every file (torch's also in goldens.json).

Each file holds, in float32, the eight state_dict tensors and the input `x`; in int64, for masked cases,
`lengths` [B] (positions >= lengths[b] on axis 1 are masked); and in float64, from the same float32 weights and
input, `h`, `logits` (-inf where masked), `w`, `routed` (routing1(h * w)), `y` and `d` (routing2(routing1.bias)).

`pytorch_error` in goldens.json is what PyTorch's float32 CPU kernels themselves lose:
    y: |y32 - y64| / |y64 - d64|, norms over all elements: d is shared by every token, so it carries no signal
    w: largest relative error, over unmasked tokens whose weight is a normal float32 number
With the same versions and the same CPU the files come out bit for bit the same; another CPU may change last bits.
"""

import copy
import json
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
import safetensors
import torch
from safetensors.torch import save
from torch import nn

HERE = Path(__file__).parent
VERSIONS = f"torch {torch.__version__}, numpy {np.__version__}, safetensors {safetensors.__version__}"

torch.set_num_threads(1)
torch.use_deterministic_algorithms(True)
torch.set_float32_matmul_precision("highest")


class DoubleRouting(nn.Module):
    def __init__(self, inputs, A, R, O):
        super().__init__()
        self.embedding = nn.Linear(inputs, A)
        self.attention = nn.Linear(A, 1)
        self.routing1 = nn.Linear(A, R)
        self.routing2 = nn.Linear(R, O)

    def forward(self, x, lengths=None):
        h = self.embedding(x)
        logits = self.attention(h)
        if lengths is not None:
            logits = logits.masked_fill(padding(logits, lengths), -torch.inf)
        w = torch.softmax(logits, dim=1)
        if lengths is not None:
            w = w.masked_fill(padding(w, lengths), 0.0)  # softmax of a fully masked row is NaN: its weights are 0
        routed = self.routing1(h * w)
        return {"h": h, "logits": logits, "w": w, "routed": routed, "y": self.routing2(routed)}

    def shared(self):
        """d: what every token gets, whatever its content."""
        return self.routing2(self.routing1.bias)


def padding(logits, lengths):
    """True where the position on axis 1 is at or past its batch row's length."""
    position = torch.arange(logits.shape[1])
    outside = position[None, :] >= lengths[:, None]
    return outside.reshape(outside.shape + (1,) * (logits.dim() - 2)).expand_as(logits)


def saturate(module, x, span=80.0):
    """Doubles the leading token of each sequence and scales the attention until the logits reach -span and +span:
    that token takes all the weight, and the smallest weights are below the range of float32."""
    with torch.no_grad():
        for sequence, leading in enumerate(module(x)["logits"].argmax(dim=1).flatten()):
            x[sequence, leading] *= 2
        logits = module(x)["logits"]
        module.attention.weight *= 2 * span / (logits.max() - logits.min())
        module.attention.bias += span - module(x)["logits"].max()


class Case(NamedTuple):
    name: str
    description: str
    x_shape: list  # its last entry is `in`
    A: int
    R: int
    O: int
    x_scale: float = 1.0
    lengths: list | None = None
    prepare: object = None


CASES = [
    Case("rank2", "rank 2: axis 1 of the logits has size 1, so w == 1 and the module is affine", [37, 24], 10, 6, 5),
    Case("rank3", "rank 3, batch of sequences, A, R and O all different", [3, 17, 20], 12, 9, 7),
    Case("rank4", "rank 4: softmax over axis 1 of 4, strided", [2, 5, 3, 12], 8, 10, 6),
    Case("rank5", "rank 5: softmax over axis 1 of 5, strided", [2, 3, 2, 2, 7], 5, 6, 4),
    Case("one_token", "one sequence of one token: w == 1", [1, 1, 16], 6, 5, 3),
    Case("one_feature", "in = 1", [2, 6, 1], 5, 3, 4),
    Case("one_unit", "A = R = O = 1", [2, 5, 3], 1, 1, 1),
    Case("all_ones", "every dimension is 1", [1, 1, 1], 1, 1, 1),
    Case("odd_primes", "odd primes everywhere", [3, 19, 13], 7, 11, 5),
    Case("saturated", "logits from -80 to +80: one token takes all", [2, 24, 10], 6, 8, 5, prepare=saturate),
    Case("large_inputs", "x scaled by 1e3, everything still finite", [2, 12, 14], 9, 7, 6, x_scale=1e3),
    Case("tiny_inputs", "x scaled by 1e-4: the biases dominate", [2, 12, 14], 9, 7, 6, x_scale=1e-4),
    Case("tokens_5000", "one sequence of 5000 tokens", [1, 5000, 16], 5, 2, 4),
    Case("mask", "masked sequences, the last one fully: w = 0, y = routing2(routing1.bias)",
         [4, 9, 11], 8, 6, 5, lengths=[9, 5, 1, 0]),
    Case("mask_rank4", "mask on rank 4, one length per batch row", [2, 6, 3, 8], 5, 7, 4, lengths=[6, 4]),
    Case("empty_batch", "no sequences", [0, 4, 8], 6, 5, 3),
    Case("empty_sequence", "sequences of no tokens", [2, 0, 8], 6, 5, 3),
    Case("model_dims", "dimensions of a real model, A = R = O", [2, 32, 96], 64, 64, 64),
    Case("wide_in", "wide in, few out", [2, 15, 300], 8, 4, 3),
    Case("narrow_in", "narrow in, many out", [3, 11, 6], 5, 40, 90),
]


def errors(f32, f64, d, lengths):
    """PyTorch's float32 error, in y by the signal measure and in w per token."""
    if f64["y"].numel() == 0:
        return {"y": 0.0, "w": 0.0}
    y = (f32["y"].double() - f64["y"]).norm() / (f64["y"] - d).norm()
    counted = f64["w"] >= torch.finfo(torch.float32).tiny
    if lengths is not None:
        counted &= ~padding(f64["w"], lengths)
    w = ((f32["w"].double() - f64["w"]).abs() / f64["w"])[counted].max()
    return {"y": y.item(), "w": w.item()}


def generate(case):
    torch.manual_seed(zlib.crc32(case.name.encode()))
    module = DoubleRouting(case.x_shape[-1], case.A, case.R, case.O)
    x = torch.randn(case.x_shape) * case.x_scale
    lengths = None if case.lengths is None else torch.tensor(case.lengths)
    if case.prepare:
        case.prepare(module, x)

    double = copy.deepcopy(module).double()
    with torch.no_grad():
        f32 = module(x, lengths)
        f64 = double(x.double(), lengths)
        d = double.shared()
    assert torch.isfinite(f64["y"]).all() and torch.isfinite(f32["y"]).all()
    assert case.prepare is not saturate or (f64["w"].amax(dim=1) > 0.999).all()

    tensors = {**module.state_dict(), "x": x, **f64, "d": d}
    if lengths is not None:
        tensors["lengths"] = lengths
    tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
    path = HERE / f"{case.name}.safetensors"
    path.write_bytes(save(tensors, metadata={"versions": VERSIONS}))  # one entry: the order of several is not fixed

    entry = {
        "name": case.name,
        "description": case.description,
        "torch": torch.__version__,
        "x_shape": case.x_shape,
        "in": case.x_shape[-1],
        "attention": case.A,
        "routing": case.R,
        "out": case.O,
        "masked": lengths is not None,
        "pytorch_error": errors(f32, f64, d, lengths),
    }
    share = 0.0 if f64["y"].numel() == 0 else ((f64["y"] - d).norm() / f64["y"].norm()).item()
    return entry, share, path.stat().st_size


def main():
    print(VERSIONS)
    print(f"{'case':<15} {'x':<16} {'A':>3} {'R':>3} {'O':>3} {'signal/y':>9} {'error y':>9} {'error w':>9} {'bytes':>7}")
    entries, total = [], 0
    for case in CASES:
        entry, share, size = generate(case)
        entries.append(entry)
        total += size
        shape = "x".join(map(str, case.x_shape))
        y, w = entry["pytorch_error"].values()
        print(f"{case.name:<15} {shape:<16} {case.A:>3} {case.R:>3} {case.O:>3} {share:>9.1e} {y:>9.1e} {w:>9.1e} {size:>7}")
    text = ",\n".join("  " + json.dumps(entry) for entry in entries)
    (HERE / "goldens.json").write_text(f"[\n{text}\n]\n")
    print(f"{len(entries)} cases, {total} bytes")


if __name__ == "__main__":
    main()
