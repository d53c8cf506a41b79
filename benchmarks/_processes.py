"""Programs in processes of their own, so that each library has its threads and settings to itself.

Every process may use the same number of cores, to which it is pinned, and its libraries are told so
before they are imported.  Between the samples it sleeps, so that programs can take turns.
"""

import gc
import math
import os
import time
import traceback
from contextlib import ExitStack, contextmanager, suppress
from importlib import import_module
from multiprocessing import get_context
from pathlib import Path
from unittest.mock import patch

PAUSE = 0.25  # seconds before a sample: OpenBLAS threads spin for 0.1 after their last product
SETTINGS = "OMP_NUM_THREADS OPENBLAS_NUM_THREADS MKL_NUM_THREADS VECLIB_MAXIMUM_THREADS".split()


class Worker:
    """A process that holds one program."""

    def __init__(self, threads):
        context = get_context("spawn")
        self.pipe, far_end = context.Pipe()
        self.process = context.Process(target=serve, args=(far_end,), daemon=True)
        with limited(threads):
            self.process.start()
        far_end.close()

    def begin(self, module, kind, sizes):
        """Have a program made, in place of the one before, if any; `missing` waits for it."""
        self.pipe.send((module, kind, sizes))

    def missing(self):
        """Why there can be no such program here; None if it was made."""
        return self.answer()

    def ask(self, method, *args):
        """What the program's method returns."""
        self.pipe.send((method, args))
        return self.answer()

    def answer(self):
        """What comes next; RuntimeError for what has failed there."""
        answer = self.pipe.recv()
        if isinstance(answer, Exception):
            raise RuntimeError(f"a program failed in its process: {answer!r}") from answer
        return answer

    def sample(self):
        """A sample, after a pause."""
        time.sleep(PAUSE)
        return self.ask("sample")

    def stop(self):
        """End the process."""
        self.pipe.close()
        self.process.join()


@contextmanager
def limited(threads):
    """A context in which a process that is started may use so many cores, and knows it."""
    settings = dict.fromkeys(SETTINGS, str(threads)) | {"JAX_PLATFORMS": "cpu"}
    with patch.dict(os.environ, settings):
        if not hasattr(os, "sched_setaffinity"):
            yield
            return
        cores = os.sched_getaffinity(0)
        os.sched_setaffinity(0, sorted(cores)[:threads])
        try:
            yield
        finally:
            os.sched_setaffinity(0, cores)


def serve(pipe):
    """Make the programs that are asked for, and answer until the other end is closed."""
    program = None
    with suppress(EOFError):
        while True:
            message = pipe.recv()
            try:
                if len(message) == 3:
                    program = None  # two at a time might be too large
                    program, answer = made(*message)
                else:
                    method, args = message
                    answer = getattr(program, method)(*args)
            except Exception as error:
                traceback.print_exc()
                answer = error
            pipe.send(answer)


def made(module, kind, sizes):
    """A program and None, or None and the reason why there can be no such program here."""
    try:
        program = getattr(import_module(f"benchmarks.{module}"), kind)(**sizes)
    except ImportError as error:
        return None, f"{error}; make bench installs what it can"
    except NotImplementedError as error:
        return None, str(error)
    gc.collect()
    gc.freeze()  # so that the data, the same for all, are not looked through for garbage again
    return program, None


@contextmanager
def started(programs, threads):
    """Workers by name, and reasons by name for what is skipped: `programs` are `begin`'s arguments.

    The workers end with the block.
    """
    with ExitStack() as stack:
        workers, skipped = {}, {}
        for name, program in programs.items():
            workers[name] = Worker(threads)
            stack.callback(workers[name].stop)
            workers[name].begin(*program)
        for name in programs:
            reason = workers[name].missing()
            if reason:
                skipped[name] = reason
                del workers[name]
        yield workers, skipped


def peak(program, small, threads):
    """The MiB that a few steps of `program` take in a fresh process, after some of a `small` one.

    So what a library makes once, at the first call, does not count.
    """
    with started({"it": small}, threads) as (workers, _):
        for n in range(2):
            workers["it"].ask("step", n)
        workers["it"].begin(*program)
        assert workers["it"].missing() is None
        return workers["it"].ask("peak")


@contextmanager
def watched(workers):
    """A function that tells, after the block, which share of all cores other programs took in it.

    It is NaN where there is no /proc/stat.  If it is more than a few hundredths, programs with two
    threads, which wait for each other, were held up: measure again.
    """

    def taken():
        ours = time.process_time() + sum(worker.ask("cpu") for worker in workers.values())
        return busy() - ours, time.monotonic() * (os.cpu_count() or 1)

    found, begun = [], taken()
    yield lambda: found[0]
    others, whole = (after - before for after, before in zip(taken(), begun, strict=True))
    found.append(others / whole)


def busy():
    """The seconds that all cores together have been busy since the machine started."""
    path = Path("/proc/stat")
    if not path.exists():
        return math.nan
    user, nice, system_, _, _, irq, soft, *_ = map(int, path.read_text().split()[1:9])
    return (user + nice + system_ + irq + soft) / os.sysconf("SC_CLK_TCK")


def compared(found, tolerance):
    """The names of the checks in which all agree; AssertionError where some do not.

    `found` has the checks of each program by its name; some may lack some.
    """
    names = {}
    for name, checks in found.items():
        for what, value in checks.items():
            first, expected = names.setdefault(what, (name, value))
            assert math.isclose(value, expected, rel_tol=tolerance, abs_tol=1e-6), (
                f"{what}: {name} has {value}, {first} has {expected}"
            )
    return list(names)
