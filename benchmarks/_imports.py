"""The programs of `import_time.py`: each sample is a process of its own."""

import subprocess
import sys

from benchmarks._programs import Program

TIMED = """
import os, sys, time
begun = time.perf_counter()
import {module}
seconds = time.perf_counter() - begun
print(seconds, file=sys.stderr)
os._exit(0)
"""


class Import(Program):
    """The import of a module, which may be missing."""

    def __init__(self, module, what):
        self.module, self.what = module, what
        try:
            self.sample()
        except subprocess.CalledProcessError as error:
            raise ImportError(error.stderr.splitlines()[-1]) from None

    def libraries(self):
        return f"Python {sys.version.split()[0]}, {self.module}"

    def sample(self):
        command = [sys.executable, "-c", TIMED.format(module=self.module)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        return {"ms": 1e3 * float(done.stderr.splitlines()[-1])}
