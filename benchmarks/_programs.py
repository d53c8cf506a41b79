"""What is measured: a program, made with the sizes of a case, that can do the same step repeatedly.

Every library has its programs in a module of its own, under the same names and of the same sizes,
parameters and data, so that `checks()` must give the same figures everywhere.
"""

import ctypes
import gc
import time
from contextlib import suppress
from pathlib import Path

import numpy as np

SAMPLE = 0.15  # seconds that a sample takes at least, unless one step takes longer
STEPS_OF_PEAK = 3  # training steps whose peak of memory is looked up


class Program:
    """Something to be timed: a subclass has `step(n)`, the n-th unit of its work."""

    done, count = 0, None  # steps so far, and steps in a sample
    units = 1  # of which a step has several, and a figure is for one

    def libraries(self):
        """What it runs on, as text."""
        raise NotImplementedError

    def checks(self):
        """Figures by name in which all programs of a case must agree."""
        return {}

    def step(self, n):
        """The work that is timed."""
        raise NotImplementedError

    def sample(self):
        """The milliseconds of a unit, by the quantity's name."""
        if self.count is None:
            self.seconds(2)  # caches and allocators are warm from here on
            self.count = max(1, round(SAMPLE / self.seconds(1)))
        return {"ms": 1e3 * self.seconds(self.count) / (self.count * self.units)}

    def seconds(self, count):
        """The time that the next `count` steps take."""
        self.wait()
        begun = time.perf_counter()
        for n in range(self.done, self.done + count):
            self.step(n)
        self.wait()
        self.done += count
        return time.perf_counter() - begun

    def wait(self):
        """Return when all is done that was asked for: a processor has nothing left to do."""

    def cpu(self):
        """The seconds of the processor that this process has taken so far, in all its threads."""
        return time.process_time()

    def peak(self):
        """How many MiB the process holds at most in a few steps, beyond what it held before them.

        That is what the kernel counts, pages and not arrays: what an allocator keeps counts too.
        """
        gc.collect()
        with suppress(AttributeError):  # what lies free, and would hide what a step takes, goes
            ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here on
        before = held("VmRSS")
        for n in range(STEPS_OF_PEAK):
            self.step(n)
        return held("VmHWM") - before


def held(name):
    """A line of Linux's account of this process's memory, in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (line,) = [line for line in lines if line.startswith(f"{name}:")]
    return int(line.split()[1]) / 1024


class Training(Program):
    """A program that learns from batches.

    A subclass has `parameters`, arrays by name; `loss(batch)`; `backward(loss)`, which replaces
    their gradients; `gradients()`, arrays by name; `update()`; and `value(loss)`, a float.
    """

    batches = (None,)

    def checks(self):
        """The loss of the first batch, the norms of its gradients, and the loss after a step."""
        loss = self.loss(self.batches[0])
        found = {"the loss": self.value(loss)}
        self.backward(loss)
        for name, g in self.gradients().items():
            found[f"|d {name}|"] = float(np.linalg.norm(g))
        self.update()
        return found | {"the loss after a step": self.value(self.loss(self.batches[0]))}

    @property
    def units(self):
        """How many batches there are."""
        return len(self.batches)

    def step(self, n):
        """A step of training for every batch, each graph let go, so that all do the same work."""
        for batch in self.batches:
            self.backward(self.loss(batch))
            self.update()

    def update(self):
        """Nothing is learned, unless a subclass has a rule."""
