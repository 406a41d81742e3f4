"""The peers, and graphc in its two modes, behind one face: arrays, a compiled function, a gradient, NumPy results."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import numpy as np


class Names:
    """A module under NumPy's names: what it lacks or calls otherwise is given by keyword."""

    def __init__(self, module: ModuleType, **more: Any) -> None:
        self._module = module
        self.__dict__.update(more)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)


class Library:
    """name: in tables. needs: the module that must be installed. xp: its functions under NumPy's names."""

    name: str
    needs: str
    xp: Any

    def __init__(self, threads: int) -> None:
        raise NotImplementedError

    def array(self, a: np.ndarray) -> Any:
        """The library's array of those numbers."""
        raise NotImplementedError

    def function(self, f: Callable[..., Any]) -> Callable[..., Any]:
        """f, run as fast as the library knows how; calling it returns when the result is there."""
        raise NotImplementedError

    def value_and_grad(self, f: Callable[..., Any], wrt: tuple[int, ...]) -> Callable[..., Any] | None:
        """(value, *gradients) of a scalar f; None where the library does not differentiate."""
        raise NotImplementedError

    def numpy(self, result: Any) -> list[np.ndarray]:
        """The results as a flat list of NumPy arrays."""
        if result is None:
            return []
        if isinstance(result, dict):
            return [a for key in sorted(result) for a in self.numpy(result[key])]
        if isinstance(result, (list, tuple)):
            return [a for part in result for a in self.numpy(part)]
        return [result.detach().numpy() if hasattr(result, "detach") else np.asarray(result)]


class Graphc(Library):
    name, needs = "graphc", "graphc"

    def __init__(self, threads: int) -> None:
        import graphc

        graphc.set_num_threads(threads)
        self.module = self.xp = graphc

    def array(self, a: np.ndarray) -> Any:
        return self.module.asarray(a.copy())

    def function(self, f: Callable[..., Any]) -> Callable[..., Any]:
        return self.module.compile(f)

    def value_and_grad(self, f: Callable[..., Any], wrt: tuple[int, ...]) -> Callable[..., Any]:
        return self.function(self.module.value_and_grad(f, wrt))


class GraphcEager(Graphc):
    """The tape; for the lines that compare eager with eager."""

    name = "graphc eager"

    def function(self, f: Callable[..., Any]) -> Callable[..., Any]:
        return f

    def value_and_grad(self, f: Callable[..., Any], wrt: tuple[int, ...]) -> Callable[..., Any]:
        return _backward(f, wrt)


def _backward(f: Callable[..., Any], wrt: tuple[int, ...]) -> Callable[..., Any]:
    """Value and gradients by `requires_grad` and `backward()`, as users of PyTorch and of graphc's tape write it."""

    def run(*arrays: Any) -> Any:
        for i in wrt:
            arrays[i].requires_grad = True
            arrays[i].grad = None
        value = f(*arrays)
        value.backward()
        return (value, *(arrays[i].grad for i in wrt))

    return run


class NumPy(Library):
    name, needs = "numpy", "numpy"

    def __init__(self, threads: int) -> None:
        more = {}
        if importlib.util.find_spec("scipy"):
            from scipy import special

            more = {"erf": special.erf}
        self.xp = Names(np, **more)

    def array(self, a: np.ndarray) -> Any:
        return a.copy()

    def function(self, f: Callable[..., Any]) -> Callable[..., Any]:
        return f

    def value_and_grad(self, f: Callable[..., Any], wrt: tuple[int, ...]) -> None:
        return None


class Torch(Library):
    name, needs = "torch", "torch"

    def __init__(self, threads: int) -> None:
        import torch

        torch.set_num_threads(threads)
        self.module = torch
        self.xp = Names(
            torch, astype=lambda x, dtype: x.to(dtype), expand_dims=torch.unsqueeze, max=torch.amax, min=torch.amin
        )

    def array(self, a: np.ndarray) -> Any:
        return self.module.from_numpy(a.copy())

    def function(self, f: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arrays: Any) -> Any:
            with self.module.no_grad():
                return f(*arrays)

        return run

    def value_and_grad(self, f: Callable[..., Any], wrt: tuple[int, ...]) -> Callable[..., Any]:
        return _backward(f, wrt)


class TorchCompile(Torch):
    name = "torch.compile"

    def compile(self, f: Callable[..., Any]) -> Callable[..., Any]:
        """torch.compile for fixed shapes, from a clean slate (its own limit on recompilations counts per process)."""
        self.module._dynamo.reset()
        return self.module.compile(f, dynamic=False)

    def function(self, f: Callable[..., Any]) -> Callable[..., Any]:
        return super().function(self.compile(f))

    def value_and_grad(self, f: Callable[..., Any], wrt: tuple[int, ...]) -> Callable[..., Any]:
        return _backward(self.compile(f), wrt)


class TorchChannelsLast(Library):
    """PyTorch with its images in channels_last order. Runs only what a work writes for it: `own[...]`."""

    name, needs = "torch channels_last", "torch"

    def __init__(self, threads: int) -> None:
        import torch

        torch.set_num_threads(threads)
        self.module = torch

    def array(self, a: np.ndarray) -> Any:
        made = self.module.from_numpy(a.copy())
        return made.to(memory_format=self.module.channels_last) if a.ndim == 4 else made


class Jax(Library):
    name, needs = "jax", "jax"

    def __init__(self, threads: int) -> None:
        import jax

        jax.config.update("jax_enable_x64", True)
        self.module = jax
        self.xp = Names(jax.numpy, erf=jax.scipy.special.erf)

    def array(self, a: np.ndarray) -> Any:
        return self.module.numpy.array(a)

    def function(self, f: Callable[..., Any]) -> Callable[..., Any]:
        compiled, wait = self.module.jit(f), self.module.block_until_ready
        return lambda *arrays: wait(compiled(*arrays))

    def value_and_grad(self, f: Callable[..., Any], wrt: tuple[int, ...]) -> Callable[..., Any]:
        return self.function(self.module.value_and_grad(f, wrt))


class JaxNHWC(Library):
    """JAX with its images in NHWC and its kernels in HWIO order. Runs only what a work writes for it: `own[...]`."""

    name, needs = "jax NHWC", "jax"

    def __init__(self, threads: int) -> None:
        import jax

        jax.config.update("jax_enable_x64", True)
        self.module = jax

    def array(self, a: np.ndarray) -> Any:
        return self.module.numpy.array(a)


class PyTensor(Library):
    name, needs = "pytensor", "pytensor"

    def __init__(self, threads: int) -> None:
        import pytensor
        from pytensor import tensor

        self.module, self.xp = pytensor, tensor

    def array(self, a: np.ndarray) -> Any:
        if a.dtype.kind == "f":  # else Python's numbers are taken for the other float type
            self.module.config.floatX = a.dtype.name
        return a.copy()

    def function(self, f: Callable[..., Any]) -> Callable[..., Any]:
        made: list[Any] = []

        def run(*arrays: Any) -> Any:
            if not made:
                inputs = [self.xp.TensorType(a.dtype, a.shape)() for a in arrays]
                outputs = f(*inputs)
                made.append(self.module.function(inputs, list(outputs) if isinstance(outputs, tuple) else outputs))
            return made[0](*arrays)

        return run

    def value_and_grad(self, f: Callable[..., Any], wrt: tuple[int, ...]) -> Callable[..., Any]:
        def both(*inputs: Any) -> Any:
            value = f(*inputs)
            return (value, *self.module.grad(value, [inputs[i] for i in wrt]))

        return self.function(both)


class Numba(Library):
    """Runs only what a work writes for it by hand: `own["numba"]`."""

    name, needs = "numba", "numba"

    def __init__(self, threads: int) -> None:
        import numba

        numba.set_num_threads(threads)
        self.module = numba

    def array(self, a: np.ndarray) -> Any:
        return a.copy()


LIBRARIES: Sequence[type[Library]] = (
    Graphc, GraphcEager, NumPy, Torch, TorchChannelsLast, TorchCompile, Jax, JaxNHWC, PyTensor, Numba,
)  # fmt: skip


def installed(threads: int, names: Sequence[str] = ()) -> dict[str, Library]:
    """The libraries at hand, in the order above; of those names, if any are given."""
    return {
        kind.name: kind(threads)
        for kind in LIBRARIES
        if (not names or kind.name in names) and importlib.util.find_spec(kind.needs)
    }
