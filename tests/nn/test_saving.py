"""State dicts on disk, in both formats."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from graphc.errors import ArgumentError, DataError
from graphc.nn import Linear, Sequential, load, save
from graphc.optim import AdamW
from graphc.tensor import Tensor

FORMATS = [".npz", ".safetensors"]


@pytest.fixture(params=FORMATS)
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    if request.param == ".safetensors":
        pytest.importorskip("safetensors")
    return tmp_path / f"state{request.param}"


def test_a_module_comes_back(path: Path) -> None:
    one, two = Sequential(Linear(3, 4), Linear(4, 2)), Sequential(Linear(3, 4), Linear(4, 2))
    save(one.state_dict(), path)
    two.load_state_dict(load(path))
    for a, b in zip(one.parameters(), two.parameters(), strict=True):
        np.testing.assert_array_equal(a.detach().numpy(), b.detach().numpy())
    assert os.listdir(path.parent) == [path.name]


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int32, np.int64, np.bool_])
def test_every_dtype_and_odd_shapes(path: Path, dtype: Any) -> None:
    state = {
        "scalar": Tensor(np.ones((), dtype)),
        "empty": Tensor(np.ones((0, 3), dtype)),
        "file": Tensor(np.ones((2, 3), dtype).T),
        "structure": np.ones(2, dtype),
    }
    save(state, path)
    back = load(path)
    assert list(back) == list(state) or path.suffix == ".safetensors"
    for name, value in state.items():
        np.testing.assert_array_equal(back[name].numpy(), np.asarray(value), strict=True)


def test_bits_survive(path: Path) -> None:
    odd = np.array([-0.0, np.nan, np.inf, -np.inf, 5e-324, 1 / 3])
    save({"x": odd}, path)
    assert load(path)["x"].numpy().tobytes() == odd.tobytes()


def test_an_optimizers_state_comes_back(path: Path) -> None:
    model = Linear(3, 2)
    optimizer = AdamW([{"params": [model.weight], "lr": 0.1}, {"params": [model.bias]}])
    model(Tensor(np.ones((1, 3), np.float32))).sum().backward()
    optimizer.step()
    save(optimizer.state_dict(), path)
    back = load(path)
    assert back["param_groups"] == optimizer.state_dict()["param_groups"]
    assert back["param_groups"][0]["betas"] == (0.9, 0.999)
    assert list(back["state"]) == [0, 1]
    other = AdamW([{"params": [model.weight]}, {"params": [model.bias]}])
    other.load_state_dict(back)
    np.testing.assert_array_equal(
        other.state[model.bias]["exp_avg"].numpy(), optimizer.state[model.bias]["exp_avg"].numpy()
    )
    assert other.state[model.bias]["step"].item() == 1


def test_nested_values_and_names_that_meet(path: Path) -> None:
    state = {"a.b": np.ones(1), "a": {"b": np.zeros(1), 3: [1, 2.5, None, True, "text", (float("inf"),)]}}
    save(state, path)
    back = load(path)
    assert back["a.b"].item() == 1
    assert back["a"]["b"].item() == 0
    assert back["a"][3] == [1, 2.5, None, True, "text", (float("inf"),)]


def test_numpy_reads_an_npz(tmp_path: Path) -> None:
    save({"w": Tensor(np.arange(3))}, tmp_path / "x.npz")
    with np.load(tmp_path / "x.npz") as archive:
        np.testing.assert_array_equal(archive["w"], [0, 1, 2])
    np.savez(tmp_path / "y.npz", v=np.ones(2))
    assert list(load(tmp_path / "y.npz")) == ["v"]


def test_others_read_safetensors(tmp_path: Path) -> None:
    numpy = pytest.importorskip("safetensors.numpy")
    save({"w": Tensor(np.arange(3))}, tmp_path / "x.safetensors")
    np.testing.assert_array_equal(numpy.load_file(tmp_path / "x.safetensors")["w"], [0, 1, 2])
    numpy.save_file({"v": np.ones(2)}, tmp_path / "y.safetensors")
    assert list(load(tmp_path / "y.safetensors")) == ["v"]


def test_damage_is_found(path: Path) -> None:
    save({"x": np.arange(1000.0)}, path)
    whole = path.read_bytes()
    for broken in (whole[:-100], whole[:20], b"", b"nonsense" * 10):
        path.write_bytes(broken)
        with pytest.raises(DataError, match="truncated, damaged"):
            load(path)
    path.unlink()
    with pytest.raises(DataError, match="isn't there"):
        load(path)


def test_a_pickle_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "evil.npz", x=np.array([{}], dtype=object))
    with pytest.raises(DataError, match="damaged"):
        load(tmp_path / "evil.npz")


def test_a_failed_save_leaves_the_old_file(path: Path) -> None:
    save({"x": np.ones(1)}, path)
    with pytest.raises(ArgumentError, match="can't save 'y'"):
        save({"x": np.zeros(1), "y": object()}, path)
    assert load(path)["x"].item() == 1
    with pytest.raises(DataError, match="can't write"):
        save({"x": np.ones(1)}, path.parent / "nowhere" / path.name)
    assert os.listdir(path.parent) == [path.name]


def test_other_endings_are_refused(tmp_path: Path) -> None:
    for call in (lambda p: save({}, p), load):
        with pytest.raises(ArgumentError, match=r"\.pt.*use \.npz or \.safetensors"):
            call(tmp_path / "model.pt")
