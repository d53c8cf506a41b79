"""g++ in place of NVRTC: CUDA C++ becomes a shared library, kept in a folder by its hash.

``prelude.h`` makes CUDA C++ of C++.  It is precompiled together with the headers of CuPy that every
generated kernel includes, since reading them takes g++ longer than a kernel does.
"""

import ctypes
import hashlib
import os
import re
import subprocess
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

HERE = Path(__file__).parent
FOLDER = Path(__file__).parents[3] / "build" / "cupy_host"
FLAGS = "-std=c++17 -O1 -mf16c -w -fPIC -ffp-contract=off -U_FORTIFY_SOURCE".split()
LINKED = "-shared -nostdlib -Wl,-Bsymbolic".split()
"""Python has C's libraries, and a kernel may have the name of one of their functions."""
HEADERS = """
#include "prelude.h"
#include <cupy/complex.cuh>
#include <cupy/carray.cuh>
#include <cupy/atomics.cuh>
#include <cupy/math_constants.h>
"""
KERNEL = re.compile(
    r'extern\s+"C"\s+__global__\s+(?:__launch_bounds__\([^)]*\)\s*)?void\s+'
    r"(?:__launch_bounds__\([^)]*\)\s*)?(\w+)"
)
DYNAMIC = re.compile(r"extern\s+__shared__\s+((?:\w+\s+)*?\w+)\s+(\w+)\s*\[\s*\]")

SOURCES: dict[str, tuple[str, tuple[str, ...]]] = {}
"""What g++ has accepted of CuPy in this process, by hash: the source and NVRTC's options."""

_libraries: list[ctypes.CDLL] = []


def built(folder: Path, name: str, command: list[str], text: str) -> Path:
    """The file ``folder / name`` that ``command`` makes of ``text``, unless it is there already.

    It appears whole: several processes may want it at once.
    """
    path = folder / name
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=folder) as scratch:
            source, result = Path(scratch, path.stem), Path(scratch, "result")
            source.write_text(text)
            made = subprocess.run(
                [*command, str(source), "-o", str(result)], capture_output=True, text=True
            )
            if made.returncode:
                raise RuntimeError(f"g++ refuses this:\n{made.stderr}\nThe source:\n{text}")
            os.replace(result, path)
    return path


@cache
def folder() -> Path:
    """Where this compiler's results for this CuPy and these headers are kept."""
    parts = [
        *FLAGS,
        *LINKED,
        HEADERS,
        subprocess.check_output(["g++", "-dumpfullversion"], text=True),
    ]
    headers = [*HERE.glob("*.h"), *HERE.glob("include/**/*.*h"), *cupys().glob("*.*h")]
    parts += [path.read_text() for path in sorted(headers)]
    return FOLDER / digest(*parts)


def digest(*parts: str) -> str:
    """A name for what is made of these texts."""
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:24]


def cupys() -> Path:
    """The folder of CuPy's own headers."""
    return Path(find_spec("cupy").origin).parent / "_core" / "include" / "cupy"


@cache
def command() -> list[str]:
    """g++ with its flags, and the headers, which it finds precompiled."""
    paths = [folder(), HERE / "include", HERE, cupys().parent]
    gxx = ["g++", *FLAGS, *(f"-I{path}" for path in paths)]
    built(folder(), "headers.h.gch", [*gxx, "-x", "c++-header"], HEADERS)
    return [*gxx, "-include", "headers.h"]


def in_cpp(source: str) -> str:
    """``source`` with what the preprocessor cannot change, and an entry for each kernel."""
    text = DYNAMIC.sub(r"\1* \2 = (\1*)dynamic_shared", source)
    for name in KERNEL.findall(text):
        text += f"\nENTRIES({name})"
    barriers = int("__sync" in source)
    return text + f'\nextern "C" {{ int has_barriers = {barriers}; }}\nNEW_BLOCK\n'


def compile(source, options, arch, filename, name_expressions=None, *others, **more):
    """In place of ``cupy.cuda.compiler._compile_using_nvrtc_no_warning``: the path of a library."""
    if name_expressions:
        raise NotImplementedError(f"a template as a kernel: {name_expressions}")
    macros = [option for option in options if option.startswith("-D")]
    text = in_cpp(source)
    key = digest(*macros, text)
    path = built(folder(), f"{key}.so", [*command(), *macros, *LINKED, "-x", "c++"], text)
    SOURCES[key] = source, tuple(options)
    return str(path).encode(), None


def load_module(path: bytes) -> int:
    """The number of the library, from 1, which stands for a CUmodule."""
    _libraries.append(ctypes.CDLL(path.decode()))
    return len(_libraries)


def load_function(module: int, name: str) -> tuple[int, int, int, bool]:
    """The addresses of what ``Kernel`` in runtime.cpp is made of; whether threads wait."""
    library = _libraries[module - 1]
    functions = [library[f"thread_of_{name}"], library[f"addresses_of_{name}"], library.new_block]
    addresses = [ctypes.cast(function, ctypes.c_void_p).value for function in functions]
    return *addresses, bool(ctypes.c_int.in_dll(library, "has_barriers").value)
