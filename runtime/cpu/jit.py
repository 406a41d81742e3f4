"""LLVM IR text -> the bytes of a relocatable object. The only module that imports llvmlite, and only when asked.

Importing llvmlite takes about 100 ms, so nothing here runs where machine code comes from the cache.
The printers write explicit vectors: LLVM has nothing to vectorise, and a few scalar passes with code
generation at level 1 give the same run time as -O3 in a fraction of its compile time.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import queue
import re
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, Self

from graphc.errors import CompileError
from graphc.forking import whole
from graphc.frozen import dataclass
from graphc.runtime.cpu.bundle import bundle, objects
from graphc.runtime.cpu.target import NATIVE, Target, host

MOST_THREADS = 4  # that compile one program


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


class _Addresses:
    """Within this context LLVM leaves the addresses in loops as they are printed. The printer steps them from iteration
    to iteration (see Emitter.offset); LLVM's own pass for that finds nothing better, and takes long.

    This is an option of the whole process: who compiles something else meanwhile gets right code, without that pass.
    """

    OPTION = "-disable-lsr"  # known to the version of LLVM that pyproject.toml pins; an unknown one ends the process

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0

    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0:
                _binding().set_option("graphc", f"{self.OPTION}=true")
            self._inside += 1

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                _binding().set_option("graphc", f"{self.OPTION}=false")


# All below that calls LLVM stands in `whole`: llvmlite and LLVM have locks of their own.
_turn = threading.Lock()  # to use the machines that are shared
_as_printed = _Addresses()


@cache
def _binding() -> ModuleType:
    with whole:
        import llvmlite.binding as llvm

        llvm.initialize_all_targets()
        llvm.initialize_all_asmprinters()
    return llvm  # type: ignore[no-any-return]


def host_cpu() -> tuple[str, str]:
    """LLVM's name of this CPU and its features, "+avx2,-avx512f,...". The name alone may promise too much:
    a virtual machine can lack what the chip has."""
    llvm = _binding()
    with whole:
        return llvm.get_host_cpu_name(), llvm.get_host_cpu_features().flatten()


def _new_machine(target: Target, options: Options) -> Any:
    llvm = _binding()
    cpu, features = host_cpu() if target.cpu == NATIVE else (target.cpu, target.features)
    return llvm.Target.from_triple(target.triple).create_target_machine(
        cpu=cpu, features=features, opt=options.codegen, reloc="pic", codemodel="small", jit=True
    )


_machine = cache(_new_machine)


def _optimised(text: str, options: Options, machine: Any) -> Any:
    """The parsed, verified and optimised module, in a context of its own. Raises CompileError showing the line that
    LLVM refuses."""
    llvm = _binding()
    try:
        module = llvm.parse_assembly(text, llvm.create_context())
        module.triple = machine.triple
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
    with whole, _turn:
        return _compile(text, options, _machine(target, options))


def _compile(text: str, options: Options, machine: Any) -> bytes:
    """The object of a module. machine: of that target, used by one thread at a time."""
    module, emit = _optimised(text, options, machine), _emit_unlocked()
    if emit is None:
        with _as_printed:
            return bytes(machine.emit_object(module))
    ffi = _binding().ffi
    with ffi.OutputString() as error, _as_printed:
        buffer = emit(machine, module, 1, error)
        if not buffer:
            raise CompileError(f"LLVM can't emit the object: {error}")
    try:
        start, size = ffi.lib.LLVMPY_GetBufferStart(buffer), ffi.lib.LLVMPY_GetBufferSize(buffer)
        return ctypes.string_at(start, size)
    finally:
        ffi.lib.LLVMPY_DisposeMemoryBuffer(buffer)


@cache
def _emit_unlocked() -> Any:
    """llvmlite's function that generates machine code, without the lock that llvmlite takes around each of its calls;
    None where it isn't found. Here each module has a context and each thread a target machine of its own, so LLVM
    shares nothing between the calls; most of a compilation's time is spent in this one."""
    ffi = _binding().ffi
    try:
        locked = ffi.lib.LLVMPY_TargetMachineEmitToMemory
        found = ctypes.CDLL(ffi.lib._name).LLVMPY_TargetMachineEmitToMemory
        found.argtypes, found.restype = locked.argtypes, locked.restype
    except (AttributeError, OSError):
        return None
    return found


class Compilation:
    """A program's modules, compiled by threads of their own while the next ones are still being planned and printed:
    LLVM needs no interpreter lock. The result is a bundle (see bundle.py) of the modules' objects, in order.

    prepare: what else to do beside the planning. Use it as a context: leaving it ends the
    threads, also where planning failed.
    """

    def __init__(self, target: Target, options: Options, prepare: Callable[[], object] = lambda: None) -> None:
        self._target = target
        self._options = options
        self._prepare = prepare
        self._waiting: queue.SimpleQueue[tuple[int, str] | None] = queue.SimpleQueue()
        self._objects: dict[int, bytes] = {}
        self._added = 0
        self._errors: list[BaseException] = []
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if error is not None:
            self._errors.append(error)  # modules that still wait aren't compiled
        self._join()

    def warm_up(self) -> None:
        """Start importing LLVM now: planning takes a while, and so does this."""
        if not self._threads:
            _FAIR.enter()
            self._start(self._work)
            self._start(self._made_ready)

    def add(self, text: str) -> None:
        """The next module, LLVM IR. What it calls may be defined in any module before it."""
        self.warm_up()
        self._waiting.put((self._added, text))
        self._added += 1
        if 1 < self._added <= min(MOST_THREADS, os.cpu_count() or 1) and _emit_unlocked() is not None:
            self._start(self._work)

    def result(self) -> bytes:
        """All objects. Raises CompileError if LLVM can't parse or verify a module."""
        self._join()
        if self._errors:
            raise self._errors[0]
        return bundle([self._objects[number] for number in range(self._added)])

    def _start(self, work: Callable[[], None]) -> None:
        thread = threading.Thread(target=work, name="graphc-llvm", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _join(self) -> None:
        if self._threads:
            for _ in self._threads:
                self._waiting.put(None)
            for thread in self._threads:
                thread.join()
            self._threads.clear()
            _FAIR.leave()

    def _made_ready(self) -> None:
        try:
            self._prepare()
        except BaseException as error:  # handed to whoever asks for the result
            self._errors.append(error)

    def _work(self) -> None:
        try:
            with whole:
                machine = _new_machine(self._target, self._options)
            while (task := self._waiting.get()) is not None:
                if not self._errors:
                    number, text = task
                    with whole:
                        self._objects[number] = _compile(text, self._options, machine)
            with whole:
                del machine
        except BaseException as error:  # handed to whoever asks for the result
            self._errors.append(error)


class _Fair:
    """While modules are compiled beside Python code, threads change places often: LLVM's thread needs the interpreter
    lock for a moment between its calls, and by default would wait 5 ms for each."""

    INTERVAL = 2e-4  # seconds

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._usual = 0.0

    def enter(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._usual = sys.getswitchinterval()
                sys.setswitchinterval(min(self._usual, self.INTERVAL))
            self._inside += 1

    def leave(self) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                sys.setswitchinterval(self._usual)

    def renew(self) -> None:
        """In a forked child, which lacks the threads that were inside."""
        if self._inside:
            sys.setswitchinterval(self._usual)
        self.__init__()  # type: ignore[misc]


_FAIR = _Fair()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_FAIR.renew)


@contextmanager
def fair() -> Iterator[None]:
    """Within this context threads change places often."""
    _FAIR.enter()
    try:
        yield
    finally:
        _FAIR.leave()


def assembly(text: str, target: Target | None = None, options: Options | None = None) -> str:
    """The assembly listing of what compile_text makes, for people."""
    target, options = target or host(), options or Options()
    with whole, _turn:
        machine = _machine(target, options)
        module = _optimised(text, options, machine)
        with _as_printed:
            return str(machine.emit_assembly(module))


class LinkedCode:
    """An object, or a bundle of them, that LLVM's own loader placed in memory: the way for platforms other than Linux
    on x86-64."""

    loader = "llvmlite"

    def __init__(self, data: bytes, symbols: Mapping[str, int]) -> None:
        llvm = _binding()
        with whole:
            machine = _new_machine(host(), Options())
            self._jit = llvm.create_lljit_compiler(machine, use_jit_link=True, suppress_errors=True)
            linker = llvm.JITLibraryBuilder()
            for part in objects(data):
                linker.add_object_img(part)
            for name, address in symbols.items():
                linker.import_symbol(name, address)
            try:
                self._held = [linker.add_current_process().link(self._jit, "graphc")]
            except RuntimeError as error:
                raise CompileError(f"LLVM can't load the object: {error}") from None

    def address(self, name: str) -> int:
        """Where function `name` starts. Raises CompileError if there is none."""
        try:
            with whole:
                found = self._jit.lookup("graphc", name)
        except RuntimeError as error:
            raise CompileError(f"the object defines no function {name!r}: {error}") from None
        self._held.append(found)  # memory is given back when the last reference to it goes
        return int(found[name])

    def close(self) -> None:
        """Give the memory back; no function of the object may be running or be called again."""
        with whole:
            for held in self._held:
                held.close()
            self._jit.close()
