"""Module: a function with parameters. PyTorch's conventions, kept in one truth: the instance's own attributes.

An attribute that is a Parameter is a parameter, one that is a Module is a child; nothing is registered twice,
so `copy.deepcopy`, `pickle` and plain assignment work as for any object, and `super().__init__()` is optional.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import chain
from typing import Any, Self, TypeVar

from graphc.errors import DTypeError, StateError
from graphc.nn.parameter import Parameter, clear_grad, convert_
from graphc.records import no_grad
from graphc.tensor import Tensor, as_tensor
from graphc.types import dtype_of

StateDict = dict[str, Tensor]
T = TypeVar("T", bound=Tensor)


class Module:
    """Base class of layers and models. Subclasses assign parameters and modules as attributes and define forward().

    training: True in training mode, False in evaluation mode (dropout reads it); see train() and eval().
    """

    training: bool = True

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError(f"{type(self).__name__} must define forward()")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """What forward() returns."""
        return self.forward(*args, **kwargs)

    # ------------------------------------------------------------------------------------- what it holds

    def named_children(self) -> Iterator[tuple[str, Module]]:
        """(name, module) for each module directly inside, once by identity."""
        seen: set[int] = set()
        for name, value in vars(self).items():
            if isinstance(value, Module) and id(value) not in seen:
                seen.add(id(value))
                yield name, value

    def children(self) -> Iterator[Module]:
        """The modules directly inside, once by identity."""
        return (module for _, module in self.named_children())

    def named_modules(self, prefix: str = "") -> Iterator[tuple[str, Module]]:
        """(dotted name, module) for this module and all inside it, depth first, once by identity."""
        seen: set[int] = set()
        for name, module in self._paths(prefix):
            if id(module) not in seen:
                seen.add(id(module))
                yield name, module

    def modules(self) -> Iterator[Module]:
        """This module and all inside it, once by identity."""
        return (module for _, module in self.named_modules())

    def named_parameters(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Parameter]]:
        """(dotted name, parameter). A shared one comes once, under its first name, unless remove_duplicate=False."""
        return self._named(Module._own_parameters, prefix, recurse, remove_duplicate)

    def parameters(self, recurse: bool = True) -> Iterator[Parameter]:
        """The parameters, each once by identity."""
        return (parameter for _, parameter in self.named_parameters(recurse=recurse))

    def named_buffers(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Tensor]]:
        """(dotted name, buffer), as named_parameters()."""
        return self._named(Module._own_buffers, prefix, recurse, remove_duplicate)

    def buffers(self, recurse: bool = True) -> Iterator[Tensor]:
        """The buffers, each once by identity."""
        return (buffer for _, buffer in self.named_buffers(recurse=recurse))

    def register_buffer(self, name: str, value: Tensor | None, persistent: bool = True) -> None:
        """Hold a tensor that isn't trained but belongs to the state (a mask, a running mean).

        It is an attribute like any other from then on. persistent=False leaves it out of state_dict().
        """
        setattr(self, name, value)
        vars(self).setdefault("_buffers", {})[name] = persistent

    def register_parameter(self, name: str, value: Parameter | None) -> None:
        """The same as `self.name = value`, for names that are computed."""
        setattr(self, name, value)

    def add_module(self, name: str, module: Module) -> None:
        """The same as `self.name = module`, for names that are computed. Raises KeyError for a method's name."""
        if not name or "." in name or hasattr(type(self), name):
            raise KeyError(
                f"a module can't be called {name!r}: it must be free of dots and not a name of {type(self).__name__}"
            )
        setattr(self, name, module)

    def get_submodule(self, path: str) -> Module:
        """The module of a dotted name, "" for this one. Raises AttributeError naming the part that isn't there."""
        module: Module = self
        for name in path.split(".") if path else ():
            found = vars(module).get(name)
            if not isinstance(found, Module):
                have = ", ".join(n for n, _ in module.named_children()) or "none"
                raise AttributeError(f"{type(module).__name__} has no module {name!r} (of {path!r}); it has: {have}")
            module = found
        return module

    def _own_parameters(self) -> Iterator[tuple[str, Parameter]]:
        return ((name, value) for name, value in vars(self).items() if isinstance(value, Parameter))

    def _own_buffers(self, persistent_only: bool = False) -> Iterator[tuple[str, Tensor]]:
        for name, persistent in vars(self).get("_buffers", {}).items():
            value = vars(self).get(name)
            if isinstance(value, Tensor) and (persistent or not persistent_only):
                yield name, value

    def _own_state(self) -> Iterator[tuple[str, Tensor]]:
        return chain(self._own_parameters(), self._own_buffers(persistent_only=True))

    def _paths(self, prefix: str = "") -> Iterator[tuple[str, Module]]:
        """(dotted name, module) for every path that leads to a module, so a shared one comes several times.

        Raises StateError for a module that contains itself: its paths have no end.
        """
        stack: list[tuple[str, Module, tuple[int, ...]]] = [(prefix, self, ())]
        while stack:
            path, module, above = stack.pop()
            if id(module) in above:
                raise StateError(
                    f"module {path!r} ({type(module).__name__}) contains itself; hold it in a tuple or list"
                )
            yield path, module
            inside = [(name, value) for name, value in vars(module).items() if isinstance(value, Module)]
            stack += [(_dotted(path, name), value, (*above, id(module))) for name, value in reversed(inside)]

    def _named(
        self, own: Callable[[Module], Iterator[tuple[str, T]]], prefix: str, recurse: bool, remove_duplicate: bool
    ) -> Iterator[tuple[str, T]]:
        seen: set[int] = set()
        for path, module in self._paths(prefix) if recurse else [(prefix, self)]:
            for name, value in own(module):
                if remove_duplicate:
                    if id(value) in seen:
                        continue
                    seen.add(id(value))
                yield _dotted(path, name), value

    # ------------------------------------------------------------------------------------------- its state

    def state_dict(self, prefix: str = "") -> StateDict:
        """Dotted name -> tensor for each parameter and persistent buffer, sharing their memory, without tape.

        A shared parameter stands under each of its names, as in PyTorch.
        """
        return {
            _dotted(path, name): value.detach()
            for path, module in self._paths(prefix)
            for name, value in module._own_state()
        }

    def load_state_dict(self, state: Mapping[str, Any], strict: bool = True) -> None:
        """Copy tensors or arrays into the parameters and persistent buffers of the same names, in place.

        strict: names missing in `state`, or unknown to the module, are errors. Shapes and dtypes must be equal.
        Raises StateError listing every difference; then nothing was copied.
        """
        own = {_dotted(path, name): value for path, module in self._paths() for name, value in module._own_state()}
        wrong = []
        if strict:
            wrong += [f"missing: {name}" for name in own if name not in state]
            wrong += [f"unknown: {name}" for name in state if name not in own]
        new = {name: as_tensor(state[name]) for name in own if name in state}
        for name, value in new.items():
            here = own[name]
            if value.shape != here.shape:
                wrong.append(f"{name}: shape {value.shape} in the state, {here.shape} in the module")
            elif value.dtype != here.dtype:
                wrong.append(
                    f"{name}: {value.dtype.name} in the state, {here.dtype.name} in the module; "
                    f"convert one: module.to(dtype) or value.astype(dtype)"
                )
        if wrong:
            raise StateError(f"the state doesn't fit {type(self).__name__}:\n  " + "\n  ".join(wrong))
        with no_grad():
            for name, value in new.items():
                own[name].copy_(value)

    # ---------------------------------------------------------------------------------- what is done to all

    def apply(self, function: Callable[[Module], Any]) -> Self:
        """Call `function` on each module inside and then on this one (to initialise, say). Returns self."""
        for module in self.children():
            module.apply(function)
        function(self)
        return self

    def train(self, mode: bool = True) -> Self:
        """Set training mode on this module and all inside it. Returns self."""
        for module in self.modules():
            module.training = mode
        return self

    def eval(self) -> Self:
        """train(False)."""
        return self.train(False)

    def to(self, target: Any) -> Self:
        """Move parameters, gradients and buffers to a device, or convert the floating ones to a dtype. Returns self.

        target: "cpu", "cuda" or a floating dtype. The parameters stay the same objects; make optimizers afterwards.
        Raises DeviceError where there is no such device, DTypeError for an integer or boolean dtype.
        """
        tensors = list(chain(self.parameters(), self.buffers()))
        if target not in ("cpu", "cuda"):
            dtype = dtype_of(target)
            if dtype.kind != "f":
                raise DTypeError(f"to: a module's parameters are float32 or float64, not {dtype.name}.")
            tensors = [x for x in tensors if x.dtype.kind == "f" and x.dtype is not dtype]
        else:
            tensors = [x for x in tensors if x.device != target]
        for x in tensors:
            convert_(x, target)
        return self

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        """Set whether the tape records the parameters. Returns self."""
        for parameter in self.parameters():
            parameter.requires_grad_(requires_grad)
        return self

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drop every parameter's gradient, or fill it with zeros."""
        for parameter in self.parameters():
            clear_grad(parameter, set_to_none)

    # ------------------------------------------------------------------------------------------ how it reads

    def extra_repr(self) -> str:
        """The settings, as they stand in the module's repr."""
        return ""

    def _described(self) -> Iterator[tuple[str, str]]:
        """(name, repr) of each module directly inside."""
        return ((name, repr(value)) for name, value in vars(self).items() if isinstance(value, Module))

    def __repr__(self) -> str:
        inside = [f"({name}): {_indented(text)}" for name, text in self._described()]
        settings = self.extra_repr()
        if not inside:
            return f"{type(self).__name__}({settings})"
        return f"{type(self).__name__}(" + "".join(f"\n  {line}" for line in [settings, *inside] if line) + "\n)"


def _dotted(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _indented(text: str) -> str:
    return text.replace("\n", "\n  ")
