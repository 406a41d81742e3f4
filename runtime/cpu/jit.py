"""LLVM IR text -> the bytes of a relocatable object. The only module that imports llvmlite, and only when asked.

Importing llvmlite takes about 100 ms, so nothing here runs where machine code comes from the cache.
The printers write explicit vectors: LLVM has nothing to vectorise, and a few scalar passes with code
generation at level 1 give the same run time as -O3 in a fraction of its compile time.
"""

from __future__ import annotations

import importlib.util
import os
import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from graphc.errors import CompileError
from graphc.runtime.cpu.target import NATIVE, Target, host


@dataclass(frozen=True, slots=True)
class Options:
    """How hard LLVM tries. codegen: level of instruction selection and register allocation, 1 to 3 (level 0 can't
    select masked vector operations). reloads: run global value numbering, which removes repeated loads; the printer
    repeats none, so this changed no instruction of 22 kernels and cost 10 to 25 % of their compile time."""

    codegen: int = 1
    reloads: bool = False

    @property
    def key(self) -> str:
        return f"codegen={self.codegen} reloads={self.reloads}"


@cache
def version() -> str:
    """The version of llvmlite, read without importing it. Raises CompileError if it isn't installed."""
    spec = importlib.util.find_spec("llvmlite")
    if spec is None or spec.origin is None:
        raise CompileError("llvmlite isn't installed; compiled functions need it. pip install llvmlite")
    try:
        text = Path(spec.origin).with_name("_version.py").read_text(encoding="utf-8")
    except OSError:
        text = ""
    found = re.search(r"version_version = '([^']+)'", text)
    if found:
        return found[1]
    import llvmlite

    return str(llvmlite.__version__)


class _Turn:
    """Whose turn it is to use LLVM: modules live in one context, and machines are shared."""

    def __init__(self) -> None:
        self.renew()

    def renew(self) -> None:
        self.lock = threading.Lock()


_llvm = _Turn()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_llvm.renew)  # the thread that had the lock isn't in the child


@cache
def _binding() -> ModuleType:
    import llvmlite.binding as llvm

    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    return llvm  # type: ignore[no-any-return]


def host_cpu() -> tuple[str, str]:
    """LLVM's name of this CPU and its features, "+avx2,-avx512f,...". The name alone may promise too much:
    a virtual machine can lack what the chip has."""
    llvm = _binding()
    return llvm.get_host_cpu_name(), llvm.get_host_cpu_features().flatten()


def _new_machine(target: Target, options: Options) -> Any:
    llvm = _binding()
    cpu, features = host_cpu() if target.cpu == NATIVE else (target.cpu, target.features)
    return llvm.Target.from_triple(target.triple).create_target_machine(
        cpu=cpu, features=features, opt=options.codegen, reloc="pic", codemodel="small", jit=True
    )


_machine = cache(_new_machine)


def _optimised(text: str, target: Target, options: Options) -> Any:
    """The parsed, verified and optimised module. Raises CompileError showing the line that LLVM refuses."""
    llvm = _binding()
    machine = _machine(target, options)
    try:
        module = llvm.parse_assembly(text)
        module.triple = target.triple
        module.data_layout = str(machine.target_data)
        module.verify()
    except RuntimeError as error:
        raise CompileError(f"LLVM refuses the module: {error}\n{_window(text, str(error))}") from None
    passes = llvm.create_new_module_pass_manager()
    passes.add_always_inliner_pass()
    passes.add_sroa_pass()
    passes.add_simplify_cfg_pass()
    passes.add_instruction_combine_pass()
    if options.reloads:
        passes.add_new_gvn_pass()
    passes.add_simplify_cfg_pass()
    passes.add_global_dead_code_eliminate_pass()
    passes.run(module, llvm.create_pass_builder(machine, llvm.create_pipeline_tuning_options(speed_level=1)))
    return module


def _window(text: str, message: str) -> str:
    """The lines around the one that LLVM's message names, or the start of the text."""
    lines = text.splitlines()
    found = re.search(r"<string>:(\d+)", message)
    at = int(found[1]) - 1 if found else 3
    shown = range(max(0, at - 3), min(len(lines), at + 4))
    return "\n".join(f"{'>' if found and i == at else ' '} {i + 1:5d} | {lines[i]}" for i in shown)


def compile_text(text: str, target: Target | None = None, options: Options | None = None) -> bytes:
    """The relocatable object of a module: position-independent, with no address of this process in it.

    Raises CompileError if LLVM can't parse or verify the text.
    """
    target, options = target or host(), options or Options()
    with _llvm.lock:
        return bytes(_machine(target, options).emit_object(_optimised(text, target, options)))


def assembly(text: str, target: Target | None = None, options: Options | None = None) -> str:
    """The assembly listing of what compile_text makes, for people."""
    target, options = target or host(), options or Options()
    with _llvm.lock:
        return str(_machine(target, options).emit_assembly(_optimised(text, target, options)))


class LinkedCode:
    """An object that LLVM's own loader placed in memory: the way for platforms other than Linux on x86-64."""

    loader = "llvmlite"

    def __init__(self, data: bytes, symbols: Mapping[str, int]) -> None:
        llvm = _binding()
        machine = _new_machine(host(), Options())
        self._jit = llvm.create_lljit_compiler(machine, use_jit_link=True, suppress_errors=True)
        linker = llvm.JITLibraryBuilder().add_object_img(data)
        for name, address in symbols.items():
            linker.import_symbol(name, address)
        try:
            self._held = [linker.add_current_process().link(self._jit, "graphc")]
        except RuntimeError as error:
            raise CompileError(f"LLVM can't load the object: {error}") from None

    def address(self, name: str) -> int:
        """Where function `name` starts. Raises CompileError if there is none."""
        try:
            found = self._jit.lookup("graphc", name)
        except RuntimeError as error:
            raise CompileError(f"the object defines no function {name!r}: {error}") from None
        self._held.append(found)  # memory is given back when the last reference to it goes
        return int(found[name])

    def close(self) -> None:
        """Give the memory back; no function of the object may be running or be called again."""
        for held in self._held:
            held.close()
        self._jit.close()
