"""The router of a mixture of experts in NumPy: from the logits of a token's paths to the paths chosen and their gates.

Obvious, and apart from everything else: `generate.py` holds it against the published models' own code, and takes the
expected results of the edge cases from it. All of it runs in the dtype asked for, float64 or float32.

    score: softmax | sigmoid | sqrt_softplus | softmax_of_chosen       c = score + bias
    a group of paths scores its largest c (max), or the sum of its two largest (sum_of_two); the best `kept` groups stay
    choice: the `per_token` largest c, of equals the lower index       gate: the score of a chosen path, without the bias
    renormalise: gate / (sum of the token's gates + 1e-20)             at the end: gate * scale

softmax_of_chosen chooses by the logits themselves, and its gates are the softmax over the chosen ones.
"""

from typing import NamedTuple

import numpy as np


class Choice(NamedTuple):
    paths: int
    per_token: int
    score: str = "softmax"
    groups: int = 1  # of neighbouring paths, all of one size
    kept: int = 1
    group_score: str = "max"
    renormalise: bool = False
    scale: float = 1.0


class Routing(NamedTuple):
    ids: np.ndarray  # [T, per_token], in descending order of c
    gates: np.ndarray  # [T, per_token]
    margin: np.ndarray  # [T], c of the last path chosen less the largest c refused in the groups kept, or inf
    group_margin: np.ndarray  # [T], the same of groups
    scores: np.ndarray  # [T, paths], without the bias
    choice_scores: np.ndarray  # [T, paths], c, and `excluded` where the group is not kept
    group_scores: np.ndarray  # [T, groups]


def scored(logits, score):
    if score == "softmax":
        weights = np.exp(logits - logits.max(axis=1, keepdims=True))
        return weights / weights.sum(axis=1, keepdims=True)
    falling = np.exp(-np.abs(logits))  # exp of what is at most 0 cannot overflow
    if score == "sigmoid":
        return np.where(logits >= 0, 1, falling) / (1 + falling)
    if score == "sqrt_softplus":
        return np.sqrt(np.maximum(logits, 0) + np.log1p(falling))
    assert score == "softmax_of_chosen", score
    return logits


def best(values, count):
    """The indices of the `count` largest of each row, of equals the lower index first; and the margin to the next."""
    order = np.argsort(-values, axis=1, kind="stable")
    ranked = np.take_along_axis(values, order, axis=1)
    more = count < values.shape[1]
    margin = ranked[:, count - 1] - ranked[:, count] if more else np.full(len(values), np.inf, values.dtype)
    return order[:, :count], margin


def group_scored(c, choice):
    members = -np.sort(-c.reshape(len(c), choice.groups, -1), axis=2)
    if choice.group_score == "max":
        return members[:, :, 0]
    assert choice.group_score == "sum_of_two", choice.group_score
    return members[:, :, :2].sum(axis=2)


def route(logits, choice, bias=None, dtype=np.float64, excluded=-np.inf):
    """Routes logits [T, paths], with the correction bias [paths] if any. `excluded` is what c becomes outside the groups
    kept: anything but -inf is a fault, here so that its effect can be shown."""
    assert logits.shape[1] == choice.paths and choice.paths % choice.groups == 0
    assert choice.per_token <= choice.kept * (choice.paths // choice.groups)
    scores = scored(logits.astype(dtype), choice.score)
    c = scores if bias is None else scores + bias.astype(dtype)

    group_scores = group_scored(c, choice)
    groups, group_margin = best(group_scores, choice.kept)
    kept = np.zeros(group_scores.shape, bool)
    np.put_along_axis(kept, groups, True, axis=1)
    c = np.where(np.repeat(kept, choice.paths // choice.groups, axis=1), c, dtype(excluded))

    ids, margin = best(c, choice.per_token)
    gates = np.take_along_axis(scores, ids, axis=1)
    if choice.score == "softmax_of_chosen":
        gates = scored(gates, "softmax")
    if choice.renormalise:
        gates = gates / (gates.sum(axis=1, keepdims=True) + dtype(1e-20))
    return Routing(ids, gates * dtype(choice.scale), margin, group_margin, scores, c, group_scores)
