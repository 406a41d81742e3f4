"""The devices that CUDA tests run on: the emulator in both directions, and the GPU where there is one.

Tests marked `gpu` run on a real one: `python -m pytest -m gpu`, or `python -m tests.cuda.on_gpu` for a report.
"""

from __future__ import annotations

from functools import cache

import pytest

from graphc.errors import CompileError, DeviceError
from graphc.runtime.cuda.device import CupyDevice, Device
from graphc.runtime.cuda.toolchain import nvrtc
from tests.cuda.emulator import EmulatedDevice, missing

DEVICES = ("forwards", "backwards")


@cache
def device_named(name: str) -> Device:
    """Skips the test, with the reason, where the device isn't there."""
    if name == "gpu":
        try:
            return CupyDevice()
        except DeviceError as error:
            pytest.skip(str(error))
    reason = missing()
    if reason:
        pytest.skip(reason)
    return EmulatedDevice(backwards=name == "backwards")


@cache
def _nvrtc_missing() -> str | None:
    try:
        nvrtc()
    except CompileError as error:
        return str(error)
    return None


needs_nvrtc = pytest.mark.skipif(_nvrtc_missing() is not None, reason=str(_nvrtc_missing()))
