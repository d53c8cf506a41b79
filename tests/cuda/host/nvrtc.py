"""Tier 4: NVIDIA's own compiler, NVRTC, which needs neither a GPU nor a driver.

``python -m tests.cuda.host.nvrtc sm_80`` reads sources as JSON and writes which it refuses and why.
It is a process of its own, one for each architecture: there CuPy is as it came, all three can run
at once, and each has its own precompiled headers, which halve the time.
"""

import json
import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from tempfile import TemporaryDirectory

from . import compiled

ARCHITECTURES = ("sm_75", "sm_80", "sm_90")
"""Turing, Ampere and Hopper."""

_HEADER = re.compile(r"^[ \t]*#include.*$", re.MULTILINE)
_MACRO = re.compile(r"^[ \t]*#define[ \t]+(\w+)", re.MULTILINE)


def missing() -> str | None:
    """What this machine lacks for this tier; None if nothing."""
    probe = "from cupy_backends.cuda.libs import nvrtc; print(nvrtc.getVersion())"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True)
    if done.returncode:
        return f"NVRTC is not installed: pip install -e '.[cupy]' ({done.stderr.splitlines()[-1]})"
    return None


def refused(sources) -> dict[str, dict[str, str]]:
    """What NVRTC says of ``{key: (source, options)}`` that it refuses, by architecture and key."""
    text = json.dumps(sources)
    workers = {}
    for architecture in ARCHITECTURES:
        worker = subprocess.Popen(
            [sys.executable, "-m", __name__, architecture],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[3],
        )
        worker.stdin.write(text)
        worker.stdin.close()
        workers[architecture] = worker
    answers = {}
    for architecture, worker in workers.items():
        with worker:
            answers[architecture] = json.loads(worker.stdout.read() or '{"": "NVRTC has crashed"}')
    return answers


def refused_for(architecture: str, sources) -> dict[str, str]:
    """The same for one architecture.  What it accepts is remembered, and not compiled again."""
    from cupy_backends.cuda.libs import nvrtc

    judge = compiled.digest(architecture, *map(str, nvrtc.getVersion()), Path(__file__).read_text())
    remembered = compiled.folder() / f"nvrtc-{judge}"
    good = set(remembered.read_text().split()) if remembered.exists() else set()
    marks = {key: compiled.digest(text, *options) for key, (text, options) in sources.items()}
    new = {key: sources[key] for key, mark in marks.items() if mark not in good}
    answers = {}
    with TemporaryDirectory() as headers, remembered.open("a") as accepted:
        more = (f"-arch={architecture}", "--device-as-default-execution-space")
        more += ("--pch", f"--pch-dir={headers}", "--pch-messages=false")
        for keys in _batches(new):
            texts, options = [sources[key][0] for key in keys], (*sources[keys[0]][1], *more)
            wrong = {}
            if len(keys) == 1 or _error(_together(texts), options):
                told = [_error(text, options) for text in texts]
                wrong = {key: error for key, error in zip(keys, told, strict=True) if error}
            answers |= wrong
            print(*(marks[key] for key in keys if key not in wrong), file=accepted, flush=True)
    return answers


def _batches(sources, size: int = 20):
    """The keys in lists: those of CuPy's kernels with the same headers and options, 20 at a time.

    They are compiled together, for NVRTC takes longer to start than a kernel takes.  Our kernels
    have no headers, and are alone.
    """
    alike = defaultdict(list)
    for key, (text, options) in sources.items():
        headers = tuple(_HEADER.findall(text))
        alike[headers or key, tuple(options)].append(key)
    for keys in alike.values():
        yield from (keys[i : i + size] for i in range(0, len(keys), size))


def _together(texts) -> str:
    """One source: the headers, then each in a namespace, after which its macros are no more."""
    parts = _HEADER.findall(texts[0])
    for i, text in enumerate(texts):
        body = _HEADER.sub("", text).replace('extern "C"', "")
        parts += [f"namespace kernel_{i} {{", body, "}"]
        parts += [f"#undef {name}" for name in _MACRO.findall(body)]
    return "\n".join(parts)


def _error(source: str, options) -> str | None:
    """What NVRTC says if it refuses a source."""
    from cupy.cuda.compiler import CompileException, _NVRTCProgram

    try:
        _NVRTCProgram(source, "kernel.cu", (), (), method="cubin").compile(options)
    except CompileException as error:
        return str(error)
    return None


if __name__ == "__main__":
    print(json.dumps(refused_for(sys.argv[1], json.load(sys.stdin))))
