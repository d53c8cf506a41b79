"""What the threads of the soak test do: programs, each by itself or all at the same time.

A program trains a model of its own, with random numbers of its own, and returns every bit that it
found on the way: losses, scores, the texts of errors, final weights.  Alone or in a crowd, those
bits are the same.  It asserts itself, at every turn, whether calls are recorded.
"""

import asyncio
import contextlib
import itertools
import sys
import tempfile
import threading
from pathlib import Path

import numpy as np

import tinygrad_rnn as tg
from tinygrad_rnn import nn

D, H, B, T = 6, 24, 23, 5  # NumPy lets other threads run in loops over more than 500 numbers: B * H


class Net(nn.Module):
    """What is given by name."""

    def __init__(self, **parts):
        vars(self).update(parts)


def records():
    """Whether calls are recorded here and now."""
    return (tg.tensor(1.0, requires_grad=True) * 2.0).requires_grad


def normal(rng, *shape):
    return rng.standard_normal(shape).astype(np.float32)


def bits(x):
    """All of a nested result, such that results are equal if every bit is."""
    if isinstance(x, dict):
        return {key: bits(part) for key, part in x.items()}
    if isinstance(x, (list, tuple)):
        return [bits(part) for part in x]
    if isinstance(x, float):
        return x.hex()
    x = getattr(x, "array", x)
    return (x.dtype.str, x.shape, x.tobytes()) if isinstance(x, np.ndarray) else x


def trained(net, optimizer, loss_of, steps):
    """The losses of so many steps, the scores between them, and the weights after them."""
    found = []
    for _ in range(steps):
        loss = loss_of()
        optimizer.zero_grad()
        loss.backward()
        norm = tg.optim.clip_grad_norm_(net.named_parameters(), 1.0)
        optimizer.step()
        with tg.no_grad():
            score = loss_of()
            assert not score.requires_grad and not records()
        assert records()
        found += [loss.item(), norm, score.item()]
    return [*found, net.state_dict()]


# ---- the programs ------------------------------------------------------------------------------


def layers(rng, steps):
    """Two layers of an LSTM both ways over unequal lengths, with dropout; Adam."""
    net = Net(
        lstm=nn.LSTM(D, H, num_layers=2, dropout=0.3, bidirectional=True, rng=rng),
        out=nn.Linear(2 * H, 1, rng=rng),
    )
    x, lengths = normal(rng, T, B, D), rng.integers(1, T + 1, B)

    def loss():
        output, (h, _) = net.lstm(x, lengths=lengths)
        return (net.out(output) ** 2).mean() + (h * h).mean()

    return trained(net, tg.optim.Adam(net.parameters(), lr=0.01), loss, steps)


def tree(rng, leaves):
    """A binary tree, at random, over words."""
    if leaves == 1:
        return int(rng.integers(50))
    left = int(rng.integers(1, leaves))
    return tree(rng, left), tree(rng, leaves - left)


def folds(rng, steps):
    """A Tree-LSTM over a forest, and a table of words that SGD moves by rows."""
    net = Net(table=nn.Embedding(50, D, rng=rng), cell=nn.TreeLSTMCell(D, H, rng=rng))
    forest = tg.Structure.trees([tree(rng, 6) for _ in range(B)])
    words = np.array([item for item in forest.items if isinstance(item, int)])

    def loss():
        h, c = tg.fold(net.cell, forest, {0: net.table(words)})
        return (h[forest.roots] * c[forest.roots]).mean()

    return trained(net, tg.optim.SGD(net.parameters(), lr=0.1), loss, steps)


def recursion(rng, steps):
    """Plain recursion over trees with deferred cells, some of them run without recording."""
    table, cell = nn.Embedding(50, D, rng=rng), nn.RecursiveCell(D, H, rng=rng)
    net = Net(table=table, cell=cell)
    trees = [tree(rng, 5) for _ in range(B)]
    leaf = tg.deferred(lambda word: cell(table(word)))
    compose = tg.deferred(lambda left, right: cell(None, left, right))

    def embed(t):
        return leaf(t) if isinstance(t, int) else compose(*map(embed, t))

    def loss():
        roots = [embed(t) for t in trees]
        with tg.no_grad():
            quiet = tg.stack([embed(t) for t in trees[:3]])
            assert not quiet.requires_grad
        return (tg.stack(roots) ** 2).mean() + quiet.mean()

    return trained(net, tg.optim.Adagrad(net.parameters(), lr=0.1), loss, steps)


def segments(rng, steps):
    """Checkpoints over segments that drop, with a generator that is passed; RMSprop."""
    net = Net(cell=nn.GRUCell(D, H, rng=rng))
    x, h0 = normal(rng, T, B, D), normal(rng, B, H)

    def segment(h, rng):
        for x_t in x:
            h = tg.dropout(net.cell(x_t, h), 0.2, rng)
        return h

    def loss():
        h = h0
        for _ in range(3):
            h = tg.checkpoint(segment, h, rng)
        return (h * h).mean()

    return trained(net, tg.optim.RMSprop(net.parameters(), lr=0.01), loss, steps)


def truncated(rng, steps):
    """The lecture's truncated BPTT, and windows whose state is carried on; SGD with momentum."""
    net = Net(cell=nn.RNNCell(D, H, rng=rng), out=nn.Linear(H, D, rng=rng))
    xs = normal(rng, 4 * T, B, D)
    optimizer = tg.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
    found, h = [], None

    def error(h, y):
        return tg.mse(net.out(h), y)

    for _ in range(steps):
        optimizer.zero_grad()
        total, _ = tg.truncated_bptt(net.cell, error, xs[:-1], xs[1:], 3, h)
        found.append(total)
        for window in tg.windows(len(xs) - 1, T):
            h = tg.detach(h)
            loss = 0.0
            for x, y in zip(xs[:-1][window], xs[1:][window], strict=True):
                h = net.cell(x, h)
                loss = loss + error(h, y)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            found.append(loss.item())
        h = tg.detach(h)
    return [*found, h, net.state_dict()]


def saved(rng, steps):
    """Training that stops at every step: model and optimiser go through a file of their own."""
    net = Net(cell=nn.LSTMCell(D, H, rng=rng))
    optimizer, found = tg.optim.AdamW(net.parameters(), lr=0.01), []
    x = normal(rng, B, D)
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(steps):
            found += trained(net, optimizer, lambda net=net: (net.cell(x)[0] ** 2).mean(), 1)
            path = Path(folder, "training.npz")
            tg.save(path, net.state_dict() | optimizer.state_dict(), {"step": len(found)})
            state = tg.load(path)
            found.append(state.metadata["step"])
            net = Net(cell=nn.LSTMCell(D, H, rng=rng))
            optimizer = tg.optim.AdamW(net.parameters())
            net.load_state_dict({name: state.pop(name) for name in net.state_dict()})
            optimizer.load_state_dict(state)
    return found


def curved(rng, steps):
    """Gradients of gradients: a penalty on the slope at the input, and Hessians times vectors."""
    net = Net(cell=nn.LSTMCell(D, H, rng=rng))
    x = tg.tensor(normal(rng, B, D), requires_grad=True)

    def loss():
        y = (net.cell(x)[0] ** 2).mean()
        if not records():
            return y
        return y + (tg.grad(y, x, create_graph=True) ** 2).sum()

    found = trained(net, tg.optim.Adam(net.parameters(), lr=0.01), loss, steps)
    return [found, *tg.hvp(lambda x: tg.tanh(x).sum() ** 2, x.array, x.array)]


def watched(rng, steps):
    """Training in anomaly mode, in which NaN is an error; and without it, in which it is none."""
    x = tg.tensor(normal(rng, B, H) - 9.0, requires_grad=True)
    with tg.detect_anomaly(), np.errstate(invalid="ignore"):
        found = layers(rng, steps)
        for _ in range(steps):
            try:
                tg.log(x)
            except tg.NonFiniteError as error:
                found.append(str(error))
    with np.errstate(invalid="ignore"):
        y = tg.log(x)
    assert np.isnan(y.array).all() and len(found) == 4 * steps + 1
    return found


def failing(rng, steps):
    """Errors of every sort between the steps of training; each is caught, none leaves a trace."""
    net = Net(cell=nn.RecursiveCell(D, H, rng=rng))
    x = normal(rng, B, D)
    good = tg.deferred(net.cell)

    def bad(x, how):
        with tg.no_grad():
            if how == "raises":
                raise KeyError(how)
            return tg.matmul(x, x) if how == "misfits" else x[1:]

    def backward_that_raises():
        y = net.cell(x)
        y.register_hook(lambda g: {}["hook"])
        (y * y).mean().backward()

    def quietly():
        with tg.no_grad():
            return net.cell(x.T)

    attempts = [backward_that_raises, quietly]
    for how in ("raises", "misfits", "is short"):
        attempts.append(lambda how=how: tg.stack([tg.deferred(bad)(x[0], how), good(x[0])]))
    found = []
    for _ in range(steps):
        for attempt in attempts:
            try:
                attempt()
            except (KeyError, tg.TinygradRNNError) as error:
                found += [type(error).__name__, str(error)]
            assert records()
        optimizer = tg.optim.SGD(net.parameters(), lr=0.1)
        loss = lambda: (tg.stack([good(row) for row in x]) ** 2).mean()  # noqa: E731
        found += trained(net, optimizer, loss, 1)
    assert len(found) == steps * (2 * len(attempts) + 4)
    return found


def quiet(rng, steps):
    """``no_grad`` as a decorator: of functions, of generators that are sent to and closed."""
    W = tg.tensor(normal(rng, H, H), requires_grad=True)
    found, ends = [], []

    @tg.no_grad()
    def state(h):
        assert not records()
        return tg.tanh(h @ W)

    @tg.no_grad()
    def states(h):
        try:
            while True:
                h = state(h)
                sent = yield h
                h = h if sent is None else sent
        finally:
            ends.append(records())

    h = tg.tensor(normal(rng, B, H))
    for _ in range(steps):
        run = states(h)
        for _, y in zip(range(T), run, strict=False):
            assert records() and not y.requires_grad
            found.append(tg.grad(tg.tanh(y @ W).mean(), W))
        h = run.send(tg.tensor(found[-1].array[:B]))
        with contextlib.suppress(ValueError):
            run.throw(ValueError("enough"))
        with tg.no_grad():
            for y in itertools.islice(states(h), 3):
                assert not (y @ W).requires_grad
        assert records()
    assert ends == [False] * 2 * steps
    return found


def tasks(rng, steps):
    """Tasks of asyncio that take turns in the midst of ``no_grad``, of steps and of recursion."""
    seeds = rng.integers(2**32, size=6)
    return asyncio.run(tasks_at_once(seeds, steps))


async def tasks_at_once(seeds, steps):
    return await asyncio.gather(*[task(np.random.default_rng(seed), steps) for seed in seeds])


async def task(rng, steps):
    """A training run that lets others run wherever it can.

    But not between deferred calls and their run: all that waits in a thread runs as one graph.
    """
    cell = nn.RNNCell(D, H, rng=rng)
    optimizer = tg.optim.Adam(cell.parameters(), lr=0.01)
    again = tg.deferred(cell)
    x, found = normal(rng, B, D), []

    async def pause():
        for _ in range(rng.integers(3)):
            await asyncio.sleep(0)

    @tg.no_grad
    async def score():
        h = cell(x)
        for _ in range(T):
            await pause()
            h = tg.stack([again(*pair) for pair in zip(x, h, strict=True)])
        assert not records()
        return h.mean()

    for _ in range(steps):
        h = cell(x)
        await pause()
        h = tg.stack([again(*pair) for pair in zip(x, h, strict=True)])
        loss = (h * h).mean()
        with tg.no_grad():
            await pause()
            assert not records() and not cell(x).requires_grad
        optimizer.zero_grad()
        loss.backward()
        await pause()
        optimizer.step()
        assert records() and loss.requires_grad
        found += [loss.item(), (await score()).item()]
    return [found, cell.state_dict()]


def drawing(rng, steps):
    """Dropout from the default generator, also in a checkpoint: for one thread of a crowd alone."""
    tg.manual_seed(int(rng.integers(100)))
    net = Net(cell=nn.RNNCell(D, H), drop=nn.Dropout(0.3))
    x = normal(rng, B, D)

    def loss():
        h = tg.checkpoint(lambda: net.drop(net.cell(x)))
        return (net.drop(net.cell(x, h)) ** 2).mean()

    return trained(net, tg.optim.SGD(net.parameters(), lr=0.1), loss, steps)


PROGRAMS = [
    *(layers, folds, recursion, segments, truncated, saved),
    *(curved, watched, failing, quiet, tasks),
]


def crowd(size):
    """So many jobs, ``(program, seed)``: every program in turn, and one that draws by default."""
    turns = itertools.cycle(PROGRAMS)
    return [(drawing, 0), *[(next(turns), seed) for seed in range(1, size)]]


def done(job, steps):
    """The bits of a job, in this thread."""
    program, seed = job
    found = bits(program(np.random.default_rng(seed), steps))
    assert records()
    return found


# ---- at the same time --------------------------------------------------------------------------


def together(functions):
    """What the functions return, each called in a thread of its own, all at the same time.

    Threads take turns a thousand times as often as they would, so that races show.  The first
    error, if there is one, is raised when all threads have ended.
    """
    start, found = threading.Barrier(len(functions)), [None] * len(functions)

    def work(i):
        start.wait()
        try:
            found[i] = functions[i]()
        except BaseException as error:
            found[i] = error

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(functions))]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(interval / 1000)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    for one in found:
        if isinstance(one, BaseException):
            raise one
    return found


def differing(size, steps):
    """The names of the programs whose bits in a crowd are not those that they find alone."""
    jobs = crowd(size)
    at_once = together([lambda job=job: done(job, steps) for job in jobs])
    alone = [done(job, steps) for job in jobs]
    names = [program.__name__ for program, _ in jobs]
    return [name for name, a, b in zip(names, at_once, alone, strict=True) if a != b]


# ---- one model, many readers -------------------------------------------------------------------


class Shared(nn.Module):
    """A model with a forest of its own: a layer over time, a fold up the trees and one down."""

    def __init__(self):
        rng = np.random.default_rng(0)
        self.lstm, self.up = nn.LSTM(D, H, rng=rng), nn.RecursiveCell(D, H, rng=rng)
        self.down = nn.ChildSumTreeLSTMCell(H, H, rng=rng)
        self.forest = tg.Structure.trees([tree(rng, 5) for _ in range(B)])

    def forward(self, x, words):
        output, _ = self.lstm(x, lengths=[2, *[T] * (B - 1)])
        h = tg.fold(self.up, self.forest, {0: words})
        _, c = tg.fold(self.down, self.forest.reversed(), h)
        return (output * output).mean() + (c * c).mean()


def reading(model, seed, times):
    """What a thread finds that scores inputs of its own, and asks for gradients without ``.grad``.

    They are those of the inputs, and those of the weights, for ``tg.grad`` returns what it finds.
    """
    rng, found = np.random.default_rng(seed), []
    for _ in range(times):
        x, words = (
            tg.tensor(normal(rng, *shape), requires_grad=True) for shape in [(T, B, D), (5 * B, D)]
        )
        with tg.no_grad():
            found.append(model(x, words))
        found += tg.grad(model(x, words), [x, words, *model.parameters()])
    return bits(found)


def misread(size, times):
    """The seeds of the readers of one model that find something else together than alone."""
    model = Shared()
    before = bits(model.state_dict())
    at_once = together([lambda i=i: reading(model, i, times) for i in range(size)])
    assert bits(model.state_dict()) == before
    assert all(p.grad is None for p in model.parameters())
    alone = Shared()
    return [i for i, found in enumerate(at_once) if found != reading(alone, i, times)]
