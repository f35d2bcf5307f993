"""The CUDA device, if there is one, found through the driver alone, without a package."""

import ctypes
import sys
from dataclasses import dataclass

_LIBRARY = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
_MAJOR, _MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR


@dataclass(frozen=True, kw_only=True, slots=True)
class CudaDevice:
    """A CUDA device that this process may use (CUDA_VISIBLE_DEVICES counts)."""

    name: str  # "NVIDIA H200"
    architecture: str  # "sm90"


def cuda_device(number: int = 0) -> CudaDevice | None:
    """Return a CUDA device, or None where there is no driver or no such device.

    It prints nothing and makes no context, so it may be asked anywhere.
    """
    try:
        driver = ctypes.CDLL(_LIBRARY)
    except OSError:
        return None
    name = ctypes.create_string_buffer(256)
    handle, major, minor = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    calls = (
        (driver.cuInit, 0),
        (driver.cuDeviceGet, ctypes.byref(handle), number),  # fails where there is none
        (driver.cuDeviceGetName, name, len(name), handle),
        (driver.cuDeviceGetAttribute, ctypes.byref(major), _MAJOR, handle),
        (driver.cuDeviceGetAttribute, ctypes.byref(minor), _MINOR, handle),
    )
    if any(call(*arguments) != 0 for call, *arguments in calls):
        return None
    return CudaDevice(
        name=name.value.decode(), architecture=f"sm{major.value}{minor.value}"
    )
