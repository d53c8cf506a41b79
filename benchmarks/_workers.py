"""Programs in processes of their own, so that each library has its threads and settings to itself.

A program is a class whose instances answer `checks()` with figures in which all programs must
agree, `seconds(n)` with the time of round n, and `libraries()` with what it runs on.  Between the
answers its process sleeps, so that rounds can be interleaved as `_timing` does.
"""

import gc
import time
import traceback
from contextlib import ExitStack, contextmanager, suppress
from importlib import import_module
from itertools import count
from multiprocessing import get_context

import numpy as np

PAUSE = 0.25  # seconds before a round: OpenBLAS threads spin for 0.1 after their last product


class Worker:
    """A process that holds one program: its class by module and name, and what it is made with."""

    def __init__(self, module, name, *args, **settings):
        context = get_context("spawn")
        self.pipe, far_end = context.Pipe()
        self.process = context.Process(target=serve, args=(far_end,), daemon=True)
        self.process.start()
        far_end.close()
        self.pipe.send((module, name, args, settings))
        self.missing = self.pipe.recv()

    def ask(self, method, *args):
        """What the program's method returns; RuntimeError if it fails there."""
        self.pipe.send((method, args))
        answer = self.pipe.recv()
        if isinstance(answer, Exception):
            raise RuntimeError(f"{method} failed in the process of a program") from answer
        return answer

    def stop(self):
        """End the process."""
        self.pipe.close()
        self.process.join()


def serve(pipe):
    """Make the program that is asked for, and answer until the other end is closed."""
    module, name, args, settings = pipe.recv()
    try:
        program = getattr(import_module(module), name)(*args, **settings)
    except ImportError as error:
        return pipe.send(str(error))
    gc.collect()
    gc.freeze()  # so that the data, the same for all, are not looked through for garbage again
    pipe.send(None)
    with suppress(EOFError):
        while True:
            method, args = pipe.recv()
            try:
                answer = getattr(program, method)(*args)
            except Exception as error:
                traceback.print_exc()
                answer = error
            pipe.send(answer)


@contextmanager
def started(programs, *args):
    """The workers, by name, of the programs `{name: (module, class, settings)}` that are installed.

    They are all made with `args`, and ended with the block; lines say what runs on what.
    """
    with ExitStack() as stack:
        workers = {}
        for name, (module, kind, settings) in programs.items():
            worker = Worker(f"benchmarks.{module}", kind, *args, **settings)
            if worker.missing:
                print(f"{name} skipped: {worker.missing}; pip install '.[bench]' brings it")
                continue
            stack.callback(worker.stop)
            workers[name] = worker
            print(f"{name}: {worker.ask('libraries')}")
        yield workers


def check_equal(workers, tolerance=1e-3):
    """Raise AssertionError unless the checks of all programs agree; say in what they do."""
    (first, expected), *others = [(name, w.ask("checks")) for name, w in workers.items()]
    for name, found in others:
        for what, value in expected.items():
            assert abs(found[what] - value) <= tolerance * abs(value), (
                f"{what}: {name} has {found[what]}, {first} has {value}"
            )
    if others:
        print(f"all {len(workers)} agree to {tolerance} in {', '.join(expected)}")


def sampler(worker):
    """A function that times the rounds of a worker one after the other: seconds."""
    rounds = count()

    def sample():
        time.sleep(PAUSE)
        return worker.ask("seconds", next(rounds))

    return sample


class Training:
    """A program that learns from batches: what all of them have in common.

    A subclass has `loss(batch)`; `backward(loss)`, which replaces the gradients; `gradients()`,
    arrays by name; `update()`, a step of plain SGD; and `value(loss)`, a float.
    """

    def __init__(self, batches, a_round):
        self.batches, self.a_round = batches, a_round

    def checks(self):
        """The loss of the first batch, the norms of its gradients, and the loss after a step."""
        loss = self.loss(self.batches[0])
        found = {"the loss": self.value(loss)}
        self.backward(loss)
        for name, g in self.gradients().items():
            found[f"|d{name}|"] = float(np.linalg.norm(g))
        self.update()
        return found | {"the loss after a step": self.value(self.loss(self.batches[0]))}

    def seconds(self, n):
        """The time of round n: a step for each of its batches."""
        first = n * self.a_round
        batches = [self.batches[(first + i) % len(self.batches)] for i in range(self.a_round)]
        begun = time.perf_counter()
        for batch in batches:
            self.step(batch)
        return time.perf_counter() - begun

    def step(self, batch):
        """One step of training, and the graph let go."""
        self.backward(self.loss(batch))
        self.update()
