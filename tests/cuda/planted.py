"""The mistakes: what is planted in which program, and what those say that must catch it.

There are the words of the simulator, of CuPy on host memory, and of NVRTC; ``mistakes`` says how a
mistake is found where no error is raised.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass

from . import programs
from .programs import (
    counting_words,
    decoding,
    embedding,
    floored,
    gelu,
    greedy,
    last_seen,
    long_sequence,
    norm,
    operation,
    recurrence,
    row_sums,
    running_best,
    saved,
    scattered,
    shifted,
    training,
    unknown_words,
    windows,
)

TIERS = ("simulator", "host", "nvrtc")
KERNELS = (row_sums, gelu, shifted, floored, scattered)


@dataclass(frozen=True)
class Mistake:
    """``wrong`` stands where the program has ``right``; what the tiers say that must catch it."""

    program: object
    right: str
    wrong: str
    simulator: str = ""
    host: str = ""
    nvrtc: str = ""

    @property
    def gpu(self) -> str:
        """What a device must say: what host memory does, but for costs and guards of memory."""
        counted = self.program in KERNELS or self.host.startswith("costs")
        return self.nvrtc or ("" if counted else self.host)

    def spoilt(self):
        """The program with the mistake."""
        source = inspect.getsource(self.program)
        assert source.count(self.right) == 1, f"{self.program.__name__}: {self.right}"
        names = dict(vars(programs))
        exec(compile(source.replace(self.right, self.wrong), "spoilt", "exec"), names)
        return names[self.program.__name__]


def both(program, right, wrong, said):
    """One that the simulator and CuPy find in the same words."""
    return Mistake(program, right, wrong, simulator=said, host=said)


def waits(program, right, wrong):
    """One that makes the host wait: an error of the simulator, and counted with CuPy."""
    return Mistake(
        program, right, wrong, simulator="Sync: .* makes the host wait", host="costs.*syncs"
    )


REFUSED = "Unsupported type"
DIFFERS = "other values than on NumPy"

MISTAKES = {
    # ---- calls that CuPy does not have ---------------------------------------------------------
    "a host array as a constant": both(
        operation, "np.exp(x - top)", 'np.exp((x - top) * np.ones(4, "f"))', REFUSED
    ),
    "a 0-d host array as a constant": both(
        operation, "np.exp(x - top)", 'np.exp((x - top) * np.array(1, "f"))', REFUSED
    ),
    "a list as an operand": Mistake(
        operation,
        "return e / total",
        "return np.where([True] * 4, e / total, 0.0)",
        "Unsupported type",
        "no attribute",
    ),
    "where= of a ufunc": both(
        operation,
        "return e / total",
        "return np.divide(e, total, out=e, where=total > 0)",
        "Wrong arguments",
    ),
    "order= of a ufunc": both(
        operation, "np.exp(x - top)", 'np.exp(x - top, order="C")', "Wrong arguments"
    ),
    "initial= of a reduction": both(
        operation,
        "np.max(x, axis=-1, keepdims=True)",
        "np.max(x, axis=-1, keepdims=True, initial=-np.inf)",
        "unexpected keyword",
    ),
    "where= of a reduction, in a VJP": both(
        operation,
        "np.sum(g * y, axis=-1, keepdims=True)",
        "np.sum(g * y, axis=-1, keepdims=True, where=y > 0)",
        "unexpected keyword",
    ),
    "a ufunc that CuPy lacks": both(
        operation,
        "np.sum(g * y, axis=-1, keepdims=True)",
        "np.vecdot(g, y)[..., None]",
        "TypeError",
    ),
    "a reduction that CuPy lacks": both(
        operation,
        "np.max(x, axis=-1, keepdims=True)",
        "np.maximum.reduce(x, axis=-1, keepdims=True)",
        "NotImplementedError",
    ),
    "np.ascontiguousarray on the device": both(
        operation, "np.exp(x - top)", "np.exp(np.ascontiguousarray(x - top))", "Implicit conversion"
    ),
    "np.asarray to be safe": both(
        operation, "np.max(x,", "np.max(np.asarray(x),", "Implicit conversion"
    ),
    "an array is locked": both(
        operation,
        "return e / total",
        "total.setflags(write=False); return e / total",
        "AttributeError",
    ),
    "a scatter-add by a tuple of arrays": both(
        embedding,
        "backend.scatter_add(gradient, ids, rows)",
        "np.add.at(gradient, (ids, slice(None)), rows)",
        "TypeError",
    ),
    "a scatter that CuPy lacks": both(
        embedding,
        "backend.scatter_add(gradient, ids, rows)",
        "np.subtract.at(gradient, ids, -rows)",
        "TypeError",
    ),
    "a scatter-add to small integers": both(
        counting_words,
        "counts = np.sum(ids[:, None] == backend.asarray(np.arange(6)), axis=0)",
        'counts = backend.zeros(6, "i2"); np.add.at(counts, ids, 1); counts = counts.astype(int)',
        "TypeError",
    ),
    "mode= of take": both(
        embedding,
        "rows = table[ids]",
        'rows = np.take(table, ids, axis=0, mode="clip")',
        "TypeError: .*mode",
    ),
    "stable= of argsort": both(
        decoding,
        "np.argsort(-scores, axis=-1)",
        "np.argsort(-scores, axis=-1, stable=True)",
        "TypeError: .*stable",
    ),
    "max= of clip": both(
        decoding, "np.clip(best, None, 1.0)", "np.clip(best, max=1.0)", "TypeError: "
    ),
    "as_strided of NumPy": both(
        windows,
        "pairs = np.stack([x[:-1], x[1:]], axis=1)",
        "pairs = np.lib.stride_tricks.as_strided(x, (4, 2, 4), (16, 16, 4))",
        "Implicit conversion",
    ),
    "a generator without choice": Mistake(
        recurrence,
        "h = backend.zeros((4,), x.dtype)",
        "xp = np if device == 'cpu' else backend.cupy\n"
        "    h = 0 * x[0] * int(xp.random.default_rng(0).choice(4))",
        "AttributeError: .*choice",
        "no attribute 'choice'|CUDARuntimeError",
    ),
    "errstate of CuPy": both(
        norm,
        "length = np.sqrt(total)",
        "xp = np if device == 'cpu' else backend_of(x).cupy\n"
        "    with xp.errstate(invalid='raise'): length = np.sqrt(total)",
        "AttributeError: .*errstate",
    ),
    # ---- 0-d arrays are not numbers ------------------------------------------------------------
    "a list is indexed by an array of the device": both(
        greedy,
        "best = backend_of(scores).to_host(np.argmax(scores, axis=-1))",
        "best = np.argmax(scores, axis=-1)",
        "TypeError: list indices",
    ),
    "a word is the key of a dict": both(
        greedy,
        "[WORDS[i] for i in best]",
        "[dict(enumerate(WORDS))[i] for i in np.argmax(scores, axis=-1)]",
        "TypeError: unhashable",
    ),
    "numbers are told by their type": both(
        norm,
        "length = np.sqrt(total)",
        "length = np.sqrt(total) if isinstance(total, np.floating) else None",
        DIFFERS + "|AssertionError|AttributeError",
    ),
    "an entry is a view": both(
        running_best, "before = scores[0] * 1.0", "before = scores[0]", DIFFERS
    ),
    "a list of numbers made an array": both(
        norm,
        "total = np.sum(x * x)",
        "total = np.sum(np.array([np.sum(row * row) for row in x]))",
        "Implicit conversion",
    ),
    "an array is saved as it is": Mistake(
        saved,
        "np.save(file, backend_of(x).to_host(x))",
        "np.save(file, x)",
        simulator="Sync",
    ),
    # ---- what CuPy does in silence ---------------------------------------------------------------
    "an index array of the host": Mistake(
        embedding, "rows = table[ids]", "rows = table[IDS]", "Hazard: .*copies it", "costs"
    ),
    "a list as an index": Mistake(
        embedding, "rows = table[ids]", "rows = table[[*IDS]]", "Hazard: .*copies it", "costs"
    ),
    "the last of equal ids wins": Mistake(
        last_seen,
        "memory[backend.asarray(words)] = states[backend.asarray(at)]",
        "memory[backend.asarray(IDS)] = states",
        "Hazard: duplicate indices",
    ),
    "unknown ids are met by an IndexError": Mistake(
        unknown_words,
        "rows = table[backend.asarray(known)]",
        "try: rows = table[backend.asarray(raw)]\n"
        "    except IndexError: rows = table[backend.asarray(known)]",
        "Hazard: .*out of bounds",
        DIFFERS,
    ),
    "a product in place": Mistake(
        recurrence,
        "h = np.tanh(x[t] + h @ W)",
        "h = h.copy(); h @= W; h = np.tanh(x[t] + h)",
        "Hazard: CuPy has no @=",
    ),
    "many states are stacked": both(
        long_sequence,
        "    for t in range(12):\n        states[t] = x\n",
        "    states = np.stack([x] * 12)\n",
        "costs.*to_device",
    ),
    # ---- waits that nobody sees ------------------------------------------------------------------
    "a mask as an index, read": waits(
        counting_words,
        "counts = np.sum(ids[:, None] == backend.asarray(np.arange(6)), axis=0)",
        "one = ids[:, None] == backend.asarray(np.arange(6)); counts = np.sum(one, axis=0)\n"
        "    counts[one[0]] += 0 * ids[ids > 1].sum()",
    ),
    "a mask as an index, written": waits(
        decoding,
        "clipped = np.clip(best, None, 1.0)",
        "clipped = best.copy(); clipped[best > 1.0] = 1.0",
    ),
    "if on values": waits(
        operation, "e = np.exp(x - top)", "e = np.exp(x - top) if top.max() < 1e4 else x"
    ),
    "assert on values": waits(
        operation, "return e / total", "assert np.isfinite(total).all(); return e / total"
    ),
    "while on values": waits(
        norm,
        "length = np.sqrt(total)",
        "length = np.sqrt(total)\n    while length > 1e9: length = length / 2",
    ),
    "float() in a VJP": waits(
        operation,
        "return y * (g - inner)",
        "return y * (g - inner) if float(np.sum(np.abs(g))) else 0 * y",
    ),
    "a number in a message": waits(
        norm, "length = np.sqrt(total)", 'f"squares {total}"; length = np.sqrt(total)'
    ),
    "math instead of numpy": waits(
        norm, "length = np.sqrt(total)", "import math; length = total * 0 + math.sqrt(total)"
    ),
    "Python's max": waits(
        decoding,
        "best = np.take_along_axis(scores, order, -1)",
        "best = np.take_along_axis(scores, order, -1); max(best[0])",
    ),
    "the end of a slice is on the device": waits(
        embedding, "rows = table[ids]", "rows = table[ids][: 5 + 0 * ids[0]]"
    ),
    "nonzero": waits(counting_words, "return [counts]", "np.flatnonzero(counts); return [counts]"),
    "bincount": waits(
        counting_words,
        "counts = np.sum(ids[:, None] == backend.asarray(np.arange(6)), axis=0)",
        "counts = np.bincount(ids, minlength=6)",
    ),
    "unique of ids on the device": waits(
        embedding, "rows = table[ids]", "np.unique(ids); rows = table[ids]"
    ),
    "argpartition for a few": waits(
        decoding,
        "order = np.argsort(-scores, axis=-1)[:, :3]",
        "order = np.argsort(-scores, axis=-1)[:, :3]; np.argpartition(scores, 2, axis=-1)",
    ),
    "sliding_window_view": waits(
        windows,
        "pairs = np.stack([x[:-1], x[1:]], axis=1)",
        "view = np.lib.stride_tricks.sliding_window_view(x, 2, axis=0)\n"
        "    pairs = np.swapaxes(view, 1, 2).copy()",
    ),
    # ---- steps that cost more than they must ---------------------------------------------------
    "item() of every loss": both(
        training,
        "losses.append(loss.detach())",
        "loss.item(); losses.append(loss.detach())",
        "costs.*syncs 4 more",
    ),
    "every loss is printed": both(
        training,
        "losses.append(loss.detach())",
        "str(loss); losses.append(loss.detach())",
        "costs.*syncs",
    ),
    "a loss that is not finite ends it": waits(
        training,
        "losses.append(loss.detach())",
        "losses.append(loss.detach()); assert np.isfinite(loss.array)",
    ),
    "a constant is copied in every step": both(
        training,
        "(tg.tensor(x, device=device)) + bias",
        "(tg.tensor(x, device=device)) + tg.tensor(BIAS, device=device)",
        "costs.*to_device 3 more|costs.*to_device 4 more",
    ),
    "a step that does something for nothing": both(
        training, "loss.backward()", "(loss * 1.0).backward()", "costs.*launches"
    ),
    "rows are added one by one": both(
        embedding,
        "backend.scatter_add(gradient, ids, rows)",
        "for k, i in enumerate(IDS): gradient[i] += rows[k]",
        "costs.*launches",
    ),
    "a batch stays on the host": both(
        training, "model(tg.tensor(x, device=device))", "model(x)", "DeviceError"
    ),
    "a mask of the host drops entries": both(
        operation, "return e / total", "return e / total * (np.arange(4) >= 0)", REFUSED
    ),
    # ---- kernels -------------------------------------------------------------------------------
    "no barrier before the halves meet": Mistake(
        row_sums, "__syncthreads();\n        for", "for", host=DIFFERS
    ),
    "no barrier between the halves": Mistake(
        row_sums, "__syncthreads();  // of this half", "", host=DIFFERS
    ),
    "too little shared memory": Mistake(
        row_sums, "shared=64 * 8", "shared=63 * 8", host="written past"
    ),
    "no shared memory asked for": Mistake(row_sums, ", shared=64 * 8", "", host="written past"),
    "strides are not looked at": Mistake(row_sums, "packed = x.copy()", "packed = x", host=DIFFERS),
    "too many threads in a block": Mistake(
        row_sums, "3, 64, (packed", "3, 2048, (packed", host="not 1 to 1024"
    ),
    "the sum starts from nothing": Mistake(
        row_sums, "double sum = 0;", "double sum = part[threadIdx.x];", host=DIFFERS
    ),
    "one thread writes for no row": Mistake(
        row_sums,
        "if (threadIdx.x == 0) y[blockIdx.x]",
        "if (blockIdx.x) y[blockIdx.x]",
        host=DIFFERS,
    ),
    "threads to spare write past the end": Mistake(
        gelu, "if (at >= size) return;", "", host="written outside"
    ),
    "a literal of float": Mistake(gelu, "0.044715 * a", "0.044715f * a", host=DIFFERS),
    "a function that nobody has": Mistake(
        gelu,
        "(1 + tanh(0.79",
        "(1 + hyperbolic_tangent(0.79",
        host="refuses|error",
        nvrtc="undefined",
    ),
    "blocks are forgotten": Mistake(
        gelu,
        "int at = blockIdx.x * blockDim.x + threadIdx.x;",
        "int at = threadIdx.x;",
        host=DIFFERS,
    ),
    "a kernel with a name of C++": Mistake(
        gelu, 'extern "C" __global__ void gelu', "__global__ void gelu", host="gelu"
    ),
    "a Python float for a float": Mistake(floored, "np.float32(2))", "2.0)", host=DIFFERS),
    "an array of another dtype": Mistake(
        floored, "x = backend.asarray(x)", 'x = backend.asarray(x.astype("d"))', host=DIFFERS
    ),
    "a result that is not written everywhere": Mistake(
        floored, "y[threadIdx.x] = -infinity;", "", host=DIFFERS
    ),
    "INFINITY": Mistake(
        floored,
        "y[threadIdx.x] = -infinity;",
        "y[threadIdx.x] = -INFINITY;",
        nvrtc='"INFINITY" is undefined',
    ),
    "a name of std": Mistake(
        floored,
        "__int_as_float(0x7f800000)",
        "std::numeric_limits<float>::infinity()",
        nvrtc="std",
    ),
    "an index of 32 bits": Mistake(scattered, "unsigned long long at", "unsigned at", host=DIFFERS),
    "threads read what others have written": Mistake(shifted, "__syncthreads();", "", host=DIFFERS),
    "threads wait where not all come": Mistake(
        shifted,
        "__syncthreads();",
        "if (threadIdx.x < 50) __syncthreads();",
        host="at a barrier",
    ),
}
