"""Tier 4: NVIDIA's own compiler, NVRTC, which needs neither a GPU nor a driver.

``python -m tests.cuda.host.nvrtc sm_80`` reads sources as JSON and writes which it refuses and why.
It is a process of its own, one for each architecture: there CuPy is as it came, all three can run
at once, and each has its own precompiled headers, which halve the time.
"""

import json
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from . import compiled

ARCHITECTURES = ("sm_75", "sm_80", "sm_90")
"""Turing, Ampere and Hopper."""


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


def _refused_for(architecture: str, sources) -> dict[str, str]:
    """The same for one architecture.  What it accepts is remembered, and not compiled again."""
    from cupy.cuda.compiler import CompileException, _NVRTCProgram
    from cupy_backends.cuda.libs import nvrtc

    release = ".".join(map(str, nvrtc.getVersion()))
    known = compiled.folder() / f"nvrtc-{release}-{architecture}"
    good = set(known.read_text().split()) if known.exists() else set()
    answers = {}
    with TemporaryDirectory() as headers, known.open("a") as accepted:
        more = (f"-arch={architecture}", "--device-as-default-execution-space")
        more += ("--pch", f"--pch-dir={headers}", "--pch-messages=false")
        for key, (source, options) in sources.items():
            if (mark := compiled.digest(source, *options)) in good:
                continue
            try:
                program = _NVRTCProgram(source, "kernel.cu", (), (), method="cubin")
                program.compile((*options, *more))
                print(mark, file=accepted, flush=True)
            except CompileException as error:
                answers[key] = str(error)
    return answers


if __name__ == "__main__":
    print(json.dumps(_refused_for(sys.argv[1], json.load(sys.stdin))))
