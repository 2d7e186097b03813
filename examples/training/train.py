"""Trains the demo's model: which language is a sentence in, from character trigrams through one double routing layer.

    python train.py --corpus corpus --out ../../cli/data

`corpus` is what collect.py wrote. Writes languages.safetensors (the token table and the layer), held_out.tsv (label,
PyTorch's prediction, sentence) and held_out.json (the scores), and prints how the model does. Needs torch and
safetensors; takes less than a minute on one core.

A sentence is its characters c_0 ... c_{S-1}, as they are. Token t stands for the trigram c_{t-1} c_t c_{t+1} (U+0002
before the first character, U+0003 after the last): the 32-bit FNV-1a hash of its UTF-8 bytes, modulo the number of
buckets, is its row of the token table. The layer's y, summed over the tokens, are the scores of the languages.
"""

import argparse
import json
import math
import random
from collections import Counter
from pathlib import Path

import torch
from safetensors.torch import load_file, save
from torch import nn
from torch.nn import functional as F

NAMES = {
    "en": "English", "de": "Deutsch", "fr": "Français", "it": "Italiano", "pl": "Polski", "sv": "Svenska",
    "tr": "Türkçe", "ru": "Русский", "uk": "Українська", "ja": "日本語", "zh_CN": "简体中文",
}
LABELS = list(NAMES)
BUCKETS, INPUTS, ATTENTION, ROUTING = 12288, 8, 16, 12
SEED, STEPS, BATCH, RATE, DECAY, SMOOTHING = 2025, 6000, 66, 1e-2, 0.3, 0.1
SHORTEST_WINDOW, TOKEN_DROP = 16, 0.2


class DoubleRouting(nn.Module):
    def __init__(self, inputs, attention, routing, outputs):
        super().__init__()
        self.embedding = nn.Linear(inputs, attention)
        self.attention = nn.Linear(attention, 1)
        self.routing1 = nn.Linear(attention, routing)
        self.routing2 = nn.Linear(routing, outputs)

    def forward(self, x, padding=None):
        h = self.embedding(x)
        logits = self.attention(h)
        if padding is not None:
            logits = logits.masked_fill(padding[..., None], -torch.inf)
        w = torch.softmax(logits, dim=1)
        return self.routing2(self.routing1(h * w)), w


class Languages(nn.Module):
    def __init__(self):
        super().__init__()
        self.tokens = nn.Embedding(BUCKETS, INPUTS)
        self.layer = DoubleRouting(INPUTS, ATTENTION, ROUTING, len(LABELS))
        nn.init.normal_(self.tokens.weight, std=0.01)
        for bias in self.shared():
            nn.init.zeros_(bias)

    def shared(self):
        """The biases that every token adds to the scores: they only count characters."""
        return [self.layer.routing1.bias, self.layer.routing2.bias]

    def forward(self, ids, padding=None):
        y, w = self.layer(self.tokens(ids), padding)
        if padding is not None:
            y = y.masked_fill(padding[..., None], 0.0)
        return y.sum(dim=1), w[..., 0]

    def tensors(self):
        """What is shipped: the token table and the layer, by their state_dict names."""
        return {"tokens.weight": self.tokens.weight.data, **self.layer.state_dict()}

    def load(self, tensors):
        layer = {name: tensor for name, tensor in tensors.items() if name != "tokens.weight"}
        self.tokens.load_state_dict({"weight": tensors["tokens.weight"]})
        self.layer.load_state_dict(layer)


def fnv1a(data):
    hashed = 0x811C9DC5
    for byte in data:
        hashed = ((hashed ^ byte) * 0x01000193) & 0xFFFFFFFF
    return hashed


def tokenize(sentence):
    padded = "\u0002" + sentence + "\u0003"
    return [fnv1a(padded[t : t + 3].encode()) % BUCKETS for t in range(len(sentence))]


def read(path):
    """(label index, sentence) of each line."""
    rows = (line.split("\t") for line in path.read_text(encoding="utf-8").rstrip("\n").split("\n"))
    return [(LABELS.index(label), sentence) for label, sentence in rows]


def batches(rows):
    """Endless batches with equally many sentences of every language, each cut to a random window of its tokens."""
    by_label = [[tokenize(sentence) for label, sentence in rows if label == index] for index in range(len(LABELS))]
    while True:
        ids, labels = [], []
        for label, sentences in enumerate(by_label):
            for tokens in random.choices(sentences, k=BATCH // len(LABELS)):
                length = random.randint(min(SHORTEST_WINDOW, len(tokens)), len(tokens))
                start = random.randint(0, len(tokens) - length)
                kept = [t for t in tokens[start : start + length] if random.random() >= TOKEN_DROP]
                ids.append(torch.tensor(kept or tokens[:1]))
                labels.append(label)
        lengths = torch.tensor([len(tokens) for tokens in ids])
        padding = torch.arange(lengths.max())[None, :] >= lengths[:, None]
        yield nn.utils.rnn.pad_sequence(ids, batch_first=True), padding, torch.tensor(labels)


def train(rows):
    torch.manual_seed(SEED)
    random.seed(SEED)
    model = Languages()
    shared = model.shared()
    layer = [p for p in model.layer.parameters() if all(p is not s for s in shared)]
    groups = [
        {"params": model.tokens.parameters(), "weight_decay": DECAY},  # a trigram rarely or never seen says little
        {"params": layer},
        {"params": shared, "lr": RATE / 100},
    ]
    optimizer = torch.optim.AdamW(groups, lr=RATE, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    mean = 0.0
    for step, (ids, padding, labels) in zip(range(1, STEPS + 1), batches(rows)):
        scores, _ = model(ids, padding)
        loss = F.cross_entropy(scores, labels, label_smoothing=SMOOTHING)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        mean += loss.item()
        if step % 1000 == 0:
            print(f"step {step}: loss {mean / 1000:.4f}")
            mean = 0.0
    return model


@torch.no_grad()
def classify(model, sentence):
    """Scores of the languages and the weight of each character, one sentence at a time, without padding."""
    scores, w = model(torch.tensor([tokenize(sentence)]))
    return scores[0], w[0]


def evaluate(model, rows):
    """The report for held_out.json and the lines of held_out.tsv."""
    lines, margins, entropies = [], [], []
    correct, confused = Counter(), Counter()
    for label, sentence in rows:
        scores, w = classify(model, sentence)
        first, second = scores.topk(2).values.tolist()
        predicted = scores.argmax().item()
        correct[label] += predicted == label
        if predicted != label:
            confused[LABELS[label], LABELS[predicted]] += 1
        lines.append(f"{LABELS[label]}\t{LABELS[predicted]}\t{sentence}\n")
        margins.append(first - second)
        entropies.append(-(w * w.clamp_min(1e-30).log()).sum().item() / math.log(len(w)))
    totals = Counter(label for label, _ in rows)
    report = {
        "accuracy": correct.total() / len(rows),
        "correct": correct.total(),
        "total": len(rows),
        "majority_baseline": max(totals.values()) / len(rows),
        "smallest_margin": min(margins),
        "torch": torch.__version__,
        "per_language": {LABELS[i]: {"correct": correct[i], "total": totals[i]} for i in range(len(LABELS))},
    }
    print(f"held out: {correct.total()} of {len(rows)} right, {report['accuracy']:.2%}")
    print(f"majority baseline {report['majority_baseline']:.2%}, smallest margin {min(margins):.4g}")
    print("per language:", {label: f"{r['correct']}/{r['total']}" for label, r in report["per_language"].items()})
    print("confused (label, predicted):", dict(confused.most_common()))
    print(f"entropy of w: {sum(entropies) / len(entropies):.3f} of uniform on average, least {min(entropies):.3f}")
    return report, lines


def show(model, rows, count=5):
    """What carries weight: each character of some sentences with its w as a ratio to uniform."""
    examples = [next(row for row in rows if LABELS[row[0]] == label and len(row[1]) <= 60) for label in LABELS]
    for label, sentence in examples[:: len(LABELS) // count][:count]:
        scores, w = classify(model, sentence)
        print(f"\n{LABELS[label]} as {LABELS[scores.argmax()]}: {sentence}")
        print(" ".join(f"{c if c != ' ' else '_'}{ratio:.1f}" for c, ratio in zip(sentence, (w * len(w)).tolist())))


def sorted_header(data):
    """The same safetensors file with its header in a fixed order, so that the same training gives the same bytes."""
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.dumps(json.loads(data[8:end]), sort_keys=True, ensure_ascii=False).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + data[end:]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", required=True, type=Path)
    parser.add_argument("--out", required=True, type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)

    model = train(read(args.corpus / "train.tsv"))
    metadata = {
        "labels": ",".join(LABELS),
        "names": ",".join(NAMES.values()),
        "tokens": "fnv1a-trigram",
        "torch": torch.__version__,
        "seed": str(SEED),
    }
    args.out.mkdir(parents=True, exist_ok=True)
    weights = args.out / "languages.safetensors"
    weights.write_bytes(sorted_header(save(model.tensors(), metadata)))

    shipped = Languages()
    shipped.load(load_file(weights))
    rows = read(args.corpus / "held_out.tsv")
    report, lines = evaluate(shipped, rows)
    (args.out / "held_out.tsv").write_text("".join(lines), encoding="utf-8")
    (args.out / "held_out.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    show(shipped, rows)


if __name__ == "__main__":
    main()
