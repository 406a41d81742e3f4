"""A small GPT that learns Shakespeare's sonnets letter by letter. The training step is one compiled call."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
from tqdm import tqdm

import graphc as gc
from graphc import nn
from graphc.nn import functional as F


class Block(nn.Module):
    """Attention and a two-layer perceptron, each added to its normalised input. (batch, time, width) -> same."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: gc.Tensor) -> gc.Tensor:
        batch, time_, width = x.shape
        heads = self.qkv(self.norm1(x)).reshape(batch, time_, 3, self.heads, width // self.heads)
        q, k, v = (heads[:, :, i].permute_dims(0, 2, 1, 3) for i in range(3))
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(attended.permute_dims(0, 2, 1, 3).reshape(batch, time_, width))
        return x + self.mlp(self.norm2(x))


class GPT(nn.Module):
    """Letters (batch, time) int64 -> logits (batch, time, vocabulary)."""

    def __init__(self, vocabulary: int, context: int, width: int = 128, heads: int = 4, layers: int = 2) -> None:
        super().__init__()
        self.letters, self.places = nn.Embedding(vocabulary, width), nn.Embedding(context, width)
        self.blocks = nn.Sequential(*[Block(width, heads) for _ in range(layers)])
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, vocabulary)

    def forward(self, x: gc.Tensor) -> gc.Tensor:
        places = self.places(gc.arange(x.shape[1]))
        return self.head(self.norm(self.blocks(self.letters(x) + places)))


def main() -> None:
    parser = argparse.ArgumentParser(description="Train a character-level GPT.")
    parser.add_argument("--text", type=Path, default=Path(__file__).parent / "data" / "sonnets.txt")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--context", type=int, default=64)
    parser.add_argument("--batch", type=int, default=16)
    options = parser.parse_args()

    text = options.text.read_text(encoding="utf-8")
    letters = sorted(set(text))
    codes = np.array([letters.index(c) for c in text])
    gc.manual_seed(0)
    model = GPT(len(letters), options.context)
    optimizer = gc.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.01)

    @gc.compile
    def step(x: gc.Tensor, y: gc.Tensor) -> gc.Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x).reshape(-1, len(letters)), y.reshape(-1))
        loss.backward()
        optimizer.step()
        return loss

    generator = np.random.default_rng(0)
    window = np.arange(options.context)
    times, loss = [], 0.0
    bar = tqdm(range(options.steps), desc="training")
    for _ in bar:
        start = generator.integers(0, len(codes) - options.context - 1, options.batch)[:, None] + window
        began = time.perf_counter()
        loss = float(step(gc.asarray(codes[start]), gc.asarray(codes[start + 1])))
        times.append(time.perf_counter() - began)
        bar.set_postfix(loss=f"{loss:.3f}")
    parameters = sum(p.size for p in model.parameters())
    print(
        f"{parameters:,} parameters; loss {loss:.3f}; "
        f"first call {times[0]:.2f} s, then {1e3 * np.median(times[1:]):.1f} ms a step"
    )

    @gc.compile
    def next_logits(x: gc.Tensor) -> gc.Tensor:
        with gc.no_grad():
            return model(x)[0]

    # greedy sampling with some heat; the context is padded on the right, and causality makes the padding harmless
    written = [letters.index(c) for c in "Shall I"]
    for _ in range(200):
        recent = written[-options.context :]
        padded = np.zeros((1, options.context), np.int64)
        padded[0, : len(recent)] = recent
        logits = next_logits(gc.asarray(padded)).numpy()[len(recent) - 1].astype(np.float64)
        chances = np.exp((logits - logits.max()) / 0.7)
        written.append(int(generator.choice(len(letters), p=chances / chances.sum())))
    print("".join(letters[c] for c in written))


if __name__ == "__main__":
    main()
