"""State dicts on disk: .npz (NumPy's own format) or .safetensors (an extra). Neither holds code, so loading is safe.

A flat dict of tensors is stored as just that, under its names, so other programs can read it. What a nested state,
such as an optimizer's, has beside its tensors is stored as JSON next to them.
"""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from graphc.errors import ArgumentError, DataError
from graphc.tensor import Tensor, wrap

Arrays = dict[str, npt.NDArray[Any]]
_STRUCTURE = "structure.json"


def save(state: Mapping[str, Any], path: str | Path) -> None:
    """Write a state dict to `path`, whose ending, .npz or .safetensors, says how.

    state: tensors or arrays by name; also nested dicts, lists and tuples of them, numbers, strings and None. The
    file appears whole or not at all. Raises ArgumentError for another ending or kind of value, DataError if it
    can't be written or the extra isn't installed.
    """
    target = Path(path)
    write, _ = _format(target)
    arrays: Arrays = {}
    tree = _describe(state, "", arrays)
    flat = all(isinstance(value, Tensor | np.ndarray) for value in state.values())
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        try:
            write(part, arrays, None if flat else json.dumps(tree))
            part.replace(target)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise DataError(f"can't write {target}: {error.strerror or error}") from error


def load(path: str | Path) -> dict[str, Any]:
    """What was saved to `path`, with new tensors. Files that other programs wrote give a flat dict.

    Raises ArgumentError for an ending other than .npz and .safetensors, DataError if the file is missing, truncated
    or damaged, or the extra isn't installed.
    """
    source = Path(path)
    _, read = _format(source)
    try:
        arrays, text = read(source)
        if text is None:
            return {name: wrap(array) for name, array in arrays.items()}
        state: dict[str, Any] = _rebuild(json.loads(text), arrays)
        return state
    except FileNotFoundError as error:
        raise DataError(f"{source} isn't there") from error
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise DataError(f"{source} is truncated, damaged or not of its ending's format: {error}") from error


# ------------------------------------------------------------------------------------------ structure


def _describe(value: Any, name: str, arrays: Arrays) -> dict[str, Any]:
    """A JSON description of a value, whose tensors go to `arrays` under their dotted names."""
    match value:
        case Tensor() | np.ndarray():
            while name in arrays:
                name += "'"  # {"a.b": x, "a": {"b": y}}
            array = value.detach().numpy() if isinstance(value, Tensor) else value
            arrays[name] = np.asarray(array, order="C")
            return {"tensor": name}
        case None | bool() | int() | float() | str():
            return {"value": value}
        case Mapping():
            wrong = [key for key in value if not isinstance(key, str | int)]
            if wrong:
                raise ArgumentError(f"can't save a dict with the key {wrong[0]!r}; keys must be strings or integers")
            return {"dict": [[key, _describe(item, _dotted(name, key), arrays)] for key, item in value.items()]}
        case list() | tuple():
            items = [_describe(item, _dotted(name, k), arrays) for k, item in enumerate(value)]
            return {"tuple" if isinstance(value, tuple) else "list": items}
        case _:
            raise ArgumentError(
                f"can't save {name!r}: a {type(value).__name__}; only tensors, numbers, texts, dicts, lists"
            )


def _rebuild(tree: dict[str, Any], arrays: Arrays) -> Any:
    ((kind, content),) = tree.items()
    match kind:
        case "tensor":
            return wrap(arrays[content])
        case "value":
            return content
        case "dict":
            return {key: _rebuild(item, arrays) for key, item in content}
        case "list":
            return [_rebuild(item, arrays) for item in content]
        case "tuple":
            return tuple(_rebuild(item, arrays) for item in content)
        case _:
            raise ValueError(f"unknown kind {kind!r} in its structure")


def _dotted(path: str, name: object) -> str:
    return f"{path}.{name}" if path else str(name)


# -------------------------------------------------------------------------------------------- formats

Writer = Callable[[Path, Arrays, str | None], None]
Reader = Callable[[Path], tuple[Arrays, str | None]]


def _format(path: Path) -> tuple[Writer, Reader]:
    match path.suffix:
        case ".npz":
            return _write_npz, _read_npz
        case ".safetensors":
            return _write_safetensors, _read_safetensors
        case other:
            raise ArgumentError(f"{path.name} ends in {other!r}; use .npz or .safetensors")


def _write_npz(path: Path, arrays: Arrays, structure: str | None) -> None:
    # as numpy.savez, which can't store an array called "file"
    with zipfile.ZipFile(path, "x") as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as stream:
                np.lib.format.write_array(stream, array, allow_pickle=False)
        if structure is not None:
            archive.writestr(_STRUCTURE, structure)


def _read_npz(path: Path) -> tuple[Arrays, str | None]:
    # our own stream: numpy leaves its file open if it is damaged
    with path.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
        arrays = {name: archive[name] for name in archive.files if name != _STRUCTURE}
        structure = archive[_STRUCTURE].decode() if _STRUCTURE in archive.files else None
    return arrays, structure


def _safetensors() -> Any:
    try:
        import safetensors.numpy  # the one place; an extra
    except ImportError as error:
        raise DataError("this format needs safetensors: pip install 'graphc[safetensors]'") from error
    return safetensors


def _write_safetensors(path: Path, arrays: Arrays, structure: str | None) -> None:
    library = _safetensors()
    metadata = None if structure is None else {_STRUCTURE: structure}
    try:
        library.numpy.save_file(arrays, path, metadata=metadata)
    except library.SafetensorError as error:
        raise OSError(str(error)) from error


def _read_safetensors(path: Path) -> tuple[Arrays, str | None]:
    library = _safetensors()
    try:
        with library.safe_open(path, framework="numpy") as archive:
            arrays = {name: archive.get_tensor(name) for name in archive.keys()}  # noqa: SIM118
            return arrays, (archive.metadata() or {}).get(_STRUCTURE)
    except library.SafetensorError as error:
        raise ValueError(str(error)) from error
