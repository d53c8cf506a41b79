"""Tier 3: CuPy itself on host memory, for machines without a GPU.

CuPy's compiled modules call CUDA through tables of C functions, and its kernels are CUDA C++ that
it has NVRTC compile.  ``install`` replaces both before the first ``import cupy``:

    runtime.cpp    the functions of the CUDA runtime and driver, on malloc and memmove
    compiled.py    g++ in place of NVRTC, with prelude.h, which is enough of CUDA C++
    libraries.py   cuBLAS and Thrust, on NumPy

All else is CuPy's: which calls it accepts, dtypes, casting, shapes, views, ``out=``, what is
launched, copied and waited for.  Nothing here shows races between real threads, streams, how
NVIDIA's libraries round, limits of memory, or speed.

Memory that nothing has been written to is NaN.  A kernel that writes past an array is an error, as
is a block of more than 1024 threads.  ``TINYGRAD_RNN_THREADS=reversed`` runs the last thread of a
block first: a kernel that lacks a barrier is wrong under one of the orders.
"""

import os
import shutil
import sys
import sysconfig
from contextlib import contextmanager
from importlib.machinery import ExtensionFileLoader
from importlib.metadata import PackageNotFoundError, version
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

from ..tiers import Costs
from . import compiled, libraries

CUPY = "14.2"
"""The release whose C functions ``runtime.cpp`` doubles."""

_runtime = None
"""The module of ``runtime.cpp``, once it is installed."""

_REVERSED = os.environ.get("TINYGRAD_RNN_THREADS") == "reversed"


def missing() -> str | None:
    """What this machine lacks for this tier, and what to do about it; None if nothing."""
    found = {}
    for wheel in ("cupy-cuda13x", "cupy-cuda12x"):
        try:
            found[wheel] = version(wheel)
        except PackageNotFoundError:
            continue
    if not found:
        return "CuPy is not installed: pip install -e '.[cupy]'"
    for wheel, release in found.items():
        if not release.startswith(f"{CUPY}."):
            return f"{wheel} {release} is not {CUPY}: pip install -e '.[cupy]'"
    if not shutil.which("g++"):
        return "there is no g++: install it (Debian: apt install g++)"
    if not Path(sysconfig.get_path("include"), "Python.h").exists():
        return "there is no Python.h: install Python's headers (Debian: apt install python3-dev)"
    return None


def install() -> None:
    """Make ``import cupy`` give CuPy on host memory, in this process and for good."""
    global _runtime
    if reason := missing():
        raise RuntimeError(f"tier host: {reason}")
    if "cupy" in sys.modules:
        if _runtime:
            return
        raise RuntimeError("tier host: cupy is imported already; start a process of its own")
    os.environ["CUPY_CACHE_IN_MEMORY"] = "1"  # nothing of ours gets among kernels for a device
    os.environ["CUPY_ACCELERATORS"] = ""  # CUB is compiled into CuPy, so it needs a device
    _runtime = _built_runtime()
    from cupy_backends.cuda.api import driver, runtime

    try:
        _runtime.install(
            runtime.__pyx_capi__,
            driver.__pyx_capi__,
            compiled.load_module,
            compiled.load_function,
        )
    except KeyError as error:
        raise RuntimeError(
            f"tier host: this CuPy has no C function {error}; needs {CUPY}"
        ) from None
    _runtime.set_order(_REVERSED)
    runtime.getDeviceCount = lambda: 1
    runtime.getDevice = lambda: 0
    runtime.setDevice = lambda device: None
    runtime.driverGetVersion = lambda: 12090
    _replace_in_cupy()


def _built_runtime():
    """The module of ``runtime.cpp``, whose symbols kernels find."""
    text = (compiled.HERE / "runtime.cpp").read_text()
    include = sysconfig.get_path("include")
    command = ["g++", "-std=c++17", "-O1", "-Wall", "-U_FORTIFY_SOURCE", f"-I{include}"]
    path = compiled.built(
        compiled.folder(),
        f"runtime-{compiled.digest(text + sys.version)}.so",
        [*command, "-shared", "-fPIC", "-x", "c++"],
        text,
    )
    loader = ExtensionFileLoader("runtime", str(path))
    flags = sys.getdlopenflags()
    sys.setdlopenflags(flags | os.RTLD_GLOBAL)
    try:
        module = module_from_spec(spec_from_file_location("runtime", path, loader=loader))
        loader.exec_module(module)
    finally:
        sys.setdlopenflags(flags)
    return module


def _replace_in_cupy() -> None:
    """Python's side: the compiler, the pool, which would hide fresh memory, and the libraries."""
    from cupy.cuda import compiler

    compiler._compile_using_nvrtc_no_warning = compiled.compile
    compiler._preprocess = lambda *args: ""
    compiler._get_nvrtc_version = lambda: (12, 9)

    import cupy
    import cupy_backends.cuda.libs as libs

    cupy.cuda.set_allocator(None)
    sys.modules["cupy_backends.cuda.libs.cublas"] = libs.cublas = libraries.cublas
    for name, sort in libraries.SORTS.items():
        setattr(cupy.cuda.thrust, name, sort)


def costs() -> Costs:
    """What has been launched, multiplied, copied and waited for since ``install``."""
    syncs, to_device, to_host, launches = _runtime.counted()
    sorts = sum(libraries.calls[name] for name in libraries.SORTS)
    return Costs(
        launches=sum(launches.values()) + sorts,
        products=libraries.calls.total() - sorts,
        syncs=syncs,
        to_device=to_device,
        to_host=to_host,
    )


def launched() -> dict[str, int]:
    """How often each kernel has been launched since ``install``, by its name."""
    return _runtime.counted()[3]


def summary() -> str:
    """What this run was made of, in a line."""
    if not _runtime:
        return "tier host: CuPy was not called for"
    order = "last to first" if _REVERSED else "first to last"
    return (
        f"tier host: CuPy {CUPY} on host memory; {costs().launches} launches of"
        f" {len(compiled.SOURCES)} kernels that g++ has compiled, threads from {order}"
    )


@contextmanager
def threads(reverse: bool):
    """The threads of a block from the last to the first, or from the first."""
    _runtime.set_order(reverse)
    try:
        yield
    finally:
        _runtime.set_order(_REVERSED)
