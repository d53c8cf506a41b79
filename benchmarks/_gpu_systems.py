"""Where the programs of the other benchmarks are made and run, for `gpu`: three systems.

A system knows how to make a program where it belongs, how to wait for a device, what of it lies
there at most, and how many kernels it starts.
"""

import gc
import json
from contextlib import nullcontext
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

import tinygrad_rnn as tg
from tinygrad_rnn.backend import backend_for

MiB = 2**20


class System:
    """What all of them share; on a processor there is nothing to wait for."""

    device = "cpu"

    def made(self, module, kind, sizes):
        """The program of that name, where this system keeps its arrays."""
        with self.making():
            program = getattr(import_module(f"benchmarks.{module}"), kind)(**sizes)
        program.wait = self.wait
        for name, x in program.parameters.items():
            assert str(x.device).startswith(self.device), f"{name} is on {x.device}"
        gc.collect()
        return program

    def making(self):
        """The context in which what a program keeps is made."""
        return self.running()

    def running(self):
        """The context in which a program runs."""
        return nullcontext()

    def wait(self):
        """Return when the device has done all that was asked for."""

    def arrays(self, program):
        """The gradients and the parameters of a program, NumPy arrays by name."""
        found = {f"d {name}": g for name, g in getattr(program, "gradients", dict)().items()}
        return found | {name: self.to_host(x) for name, x in program.parameters.items()}

    def launches(self, program):
        """The kernels of a step, and its copies from and to the host; RuntimeError if unknown.

        PyTorch's profiler hears from the driver (CUPTI) of every kernel in this process, also of
        those that it did not start itself.
        """
        try:
            from torch.profiler import ProfilerActivity, profile, supported_activities
        except ImportError:
            raise RuntimeError("PyTorch, whose profiler counts kernels, is not installed") from None
        if ProfilerActivity.CUDA not in supported_activities():
            raise RuntimeError("this PyTorch has no profiler of CUDA")
        with self.running(), TemporaryDirectory() as folder:
            program.step(0)
            self.wait()
            with profile(activities=[ProfilerActivity.CUDA]) as seen:
                program.step(1)
                self.wait()
            path = Path(folder, "trace.json")
            seen.export_chrome_trace(str(path))
            events = json.loads(path.read_text(encoding="utf-8"))["traceEvents"]
        kernels = sum(event.get("cat") == "kernel" for event in events)
        names = [event.get("name", "") for event in events]
        copies = sum("HtoD" in name or "DtoH" in name for name in names)
        if not kernels:
            raise RuntimeError("PyTorch's profiler saw no kernels")
        return {"kernels": kernels / program.units, "copies": copies / program.units}


class Ours(System):
    """tinygrad_rnn on a processor, or on a GPU."""

    def __init__(self, device):
        self.device, self.backend = device, backend_for(device)

    def running(self):
        return tg.use_device(self.device)

    def wait(self):
        if self.device == "cuda":
            self.backend.cupy.cuda.Device().synchronize()

    def to_host(self, x):
        """A parameter as a NumPy array."""
        return x.numpy()

    def peak(self, program):
        """The MiB of the device that a step takes at most, beyond what is held before it."""
        with self.running(), self.allocations() as held:
            program.step(0)
        return held.most / MiB

    def allocations(self):
        """A context that counts the bytes of the device that are taken in it, and given back."""

        class Held(self.backend.cupy.cuda.MemoryHook):
            name, now, most = "Held", 0, 0

            def malloc_postprocess(self, *, mem_size, **_):
                self.now += mem_size
                self.most = max(self.most, self.now)

            def free_postprocess(self, *, mem_size, **_):
                self.now -= mem_size

        return Held()


class Torch(System):
    """PyTorch on a GPU; neither library may round products to TF32."""

    def __init__(self, device):
        import torch

        self.torch, self.device = torch, device
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
        if device == "cuda":
            torch.zeros(1, device=device)  # RuntimeError if this build has no CUDA

    def making(self):
        return self.torch.device(self.device)

    def wait(self):
        if self.device == "cuda":
            self.torch.cuda.synchronize()

    def to_host(self, x):
        """A parameter as a NumPy array."""
        return x.detach().cpu().numpy()

    def peak(self, program):
        """The MiB of the device that a step takes at most, beyond what is held before it."""
        self.torch.cuda.reset_peak_memory_stats()
        before = self.torch.cuda.memory_allocated()
        program.step(0)
        self.wait()
        return (self.torch.cuda.max_memory_allocated() - before) / MiB


def unequal(found, expected, tolerance):
    """The first array in which two programs differ, as text; None if there is none.

    They are equal to within `tolerance` of the largest entry.  A weight may lie transposed.
    """
    for name, right in expected.items():
        x = found.get(name, right)
        x = x if x.shape == right.shape else x.T
        off = np.abs(x - right).max(initial=0) / np.abs(right).max(initial=1e-30)
        if not off <= tolerance:  # NaN is not
            return f"{name} differs by {off:.1e} of its largest entry"
    return None
