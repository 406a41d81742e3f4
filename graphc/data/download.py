"""Fetching a file once, its content checked before it is put in place. The only module that uses pooch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from graphc.errors import DataError


def default_folder(name: str) -> Path:
    """Where the files of data set `name` lie unless told otherwise: in the user's cache (XDG_CACHE_HOME)."""
    import platformdirs  # 15 ms: only when used

    return platformdirs.user_cache_path("graphc") / "data" / name


def fetch(url: str, target: Path, check: Callable[[Path], Any]) -> None:
    """Download `url` to `target`, unless that is there, showing a progress bar.

    check: called with the downloaded file before it becomes `target`; raises DataError if it is wrong.
    Raises DataError if pooch isn't installed, without network, if the server refuses, and from `check`.
    """
    if target.exists():
        return
    try:
        import pooch  # the one place; an extra
    except ImportError as error:
        raise DataError("downloading needs pooch and tqdm: pip install 'graphc[data]'") from error
    get = pooch.HTTPDownloader(progressbar=True, timeout=60)

    def checked(source: str, output_file: str, owner: Any) -> None:
        get(source, output_file, owner)
        check(Path(output_file))

    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        # pooch moves the file into place only after `checked` has returned; known_hash is of the compressed file,
        # which mirrors compress differently
        pooch.retrieve(url, known_hash=None, fname=target.name, path=target.parent, downloader=checked)
    except (OSError, ValueError) as error:  # every error of requests is an OSError
        raise DataError(f"can't download {url}: {error}. Is there a network? Or put the file at {target}.") from error
