"""Whole models next to PyTorch's with the same weights: the LeNet and a GPT block, trained some steps in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import graphc as gc
import graphc.nn
import graphc.nn.functional
import graphc.optim

torch = pytest.importorskip("torch")


def lenet(nn: Any) -> Any:
    return nn.Sequential(
        nn.Conv2d(1, 20, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(20, 50, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(800, 500), nn.ReLU(), nn.Linear(500, 10), nn.LogSoftmax(dim=1),
    )  # fmt: skip


def block(nn: Any, F: Any) -> Any:
    """One layer of a GPT: embeddings, causal attention of 2 heads, a perceptron, logits of 11 characters."""

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.token, self.place = nn.Embedding(11, 8), nn.Embedding(6, 8)
            self.norms = nn.ModuleList([nn.LayerNorm(8), nn.LayerNorm(8)])
            self.qkv, self.out = nn.Linear(8, 24, bias=False), nn.Linear(8, 8)
            self.mlp = nn.Sequential(nn.Linear(8, 32), nn.GELU(), nn.Linear(32, 8))
            self.head = nn.Linear(8, 11)

        def forward(self, tokens: Any, places: Any) -> Any:
            x = self.token(tokens) + self.place(places)
            n, t = tokens.shape
            parts = self.qkv(self.norms[0](x)).reshape(n, t, 3, 2, 4)
            q, k, v = (parts[:, :, i].swapaxes(1, 2) for i in range(3))
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True).swapaxes(1, 2).reshape(n, t, 8)
            x = x + self.out(y)
            x = x + self.mlp(self.norms[1](x))
            return self.head(x).reshape(n * t, 11)

    return Block()


def same_weights(ours: Any, theirs: Any) -> None:
    theirs.double()
    ours.to("float64").load_state_dict({name: value.numpy() for name, value in theirs.state_dict().items()})


def assert_same(ours: Any, theirs: Any, tolerance: float) -> None:
    state = theirs.state_dict()
    assert list(ours.state_dict()) == list(state)
    for name, value in ours.state_dict().items():
        np.testing.assert_allclose(value.numpy(), state[name].numpy(), rtol=tolerance, atol=tolerance, err_msg=name)


@pytest.mark.parametrize("compiled", [False, True], ids=["tape", "compiled"])
def test_the_lenet_trains_as_pytorchs(compiled: bool) -> None:
    torch.manual_seed(0)
    ours, theirs = lenet(gc.nn), lenet(torch.nn)
    same_weights(ours, theirs)
    mine = gc.optim.SGD(ours.parameters(), lr=0.05, momentum=0.9)
    other = torch.optim.SGD(theirs.parameters(), lr=0.05, momentum=0.9)

    def step(x: Any, y: Any) -> Any:
        mine.zero_grad()
        loss = gc.nn.functional.nll_loss(ours(x), y)
        loss.backward()
        mine.step()
        return loss

    run = gc.compile(step) if compiled else step
    rng = np.random.default_rng(0)
    for _ in range(4):
        x, y = rng.standard_normal((8, 1, 28, 28)), rng.integers(0, 10, 8)
        loss = run(gc.tensor(x), gc.tensor(y))
        other.zero_grad()
        expected = torch.nn.functional.nll_loss(theirs(torch.tensor(x)), torch.tensor(y))
        expected.backward()
        other.step()
        assert loss.item() == pytest.approx(expected.item(), rel=1e-11)
    assert_same(ours, theirs, 1e-11)


@pytest.mark.parametrize("compiled", [False, True], ids=["tape", "compiled"])
def test_a_gpt_trains_as_pytorchs(compiled: bool) -> None:
    torch.manual_seed(1)
    ours, theirs = block(gc.nn, gc.nn.functional), block(torch.nn, torch.nn.functional)
    same_weights(ours, theirs)
    mine = gc.optim.AdamW(ours.parameters(), lr=0.01)
    other = torch.optim.AdamW(theirs.parameters(), lr=0.01)

    def step(tokens: Any, places: Any, target: Any) -> Any:
        mine.zero_grad()
        loss = gc.nn.functional.cross_entropy(ours(tokens, places), target)
        loss.backward()
        mine.step()
        return loss

    run = gc.compile(step) if compiled else step
    rng = np.random.default_rng(0)
    places = np.arange(6)
    for _ in range(6):
        tokens, target = rng.integers(0, 11, (3, 6)), rng.integers(0, 11, 18)
        loss = run(gc.tensor(tokens), gc.tensor(places), gc.tensor(target))
        other.zero_grad()
        logits = theirs(torch.tensor(tokens), torch.tensor(places))
        expected = torch.nn.functional.cross_entropy(logits, torch.tensor(target))
        expected.backward()
        other.step()
        assert loss.item() == pytest.approx(expected.item(), rel=1e-9)
    # Adam divides by the root of tiny squares, which magnifies rounding
    assert_same(ours, theirs, 1e-8)
