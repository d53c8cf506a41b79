"""The mutation gate: spoil every VJP, one at a time, and the sweep, and demand that a check fails.

A gradient check that cannot fail proves nothing, so here each rule of differentiation is made wrong
in each of several ways, and ``gradcheck`` has to raise GradcheckError.  A mutant that dies of an
exception of its own does not count as killed.  One that never changes a cotangent in any case drawn
is equivalent, and needs a reviewed reason below.
"""

import numpy as np
import pytest

import tinygrad_rnn as tg
from tinygrad_rnn import backend, backward, cotangents, engine, linear, products, sweep
from tinygrad_rnn.cotangents import Term
from tinygrad_rnn.engine import TensorCore
from tinygrad_rnn.errors import GradcheckError
from tinygrad_rnn.gradcheck import gradcheck
from tinygrad_rnn.registry import ROWS, RandomDraw, checkable

from .test_operations import primitives_of

CASES = 40  # drawn per row before a mutant counts as having survived

# ---- the ways to spoil a VJP: each maps a cotangent (or the call) to a wrong one
# ------------------


def transposed(g):
    """The right entries in the wrong order, in the right shape, so that no shape check helps."""
    return linear.reshape(linear.transpose(g), g.shape) if len(g.shape) > 1 else g


RESULT = {
    "scaled": lambda g: g * (1 + 1e-6),
    "sign": lambda g: -g,
    "zeroed": lambda g: g * 0.0,
    "transposed": transposed,
}


class Mutant:
    """A VJP gone wrong: ``touched`` tells whether it ever made a difference."""

    def __init__(self, vjp, kind, part=None):
        self.vjp, self.kind, self.part = vjp, kind, part
        self.touched = False

    def __call__(self, g, *values):
        right = self.vjp(g, *values)
        if self.kind == "g ignored":
            g = written_out(g)
            gs = g if isinstance(g, tuple) else (g,)
            ones = tuple(None if one is None else one * 0.0 + 1.0 for one in gs)
            wrong = self.vjp(ones if isinstance(g, tuple) else ones[0], *values)
        elif self.kind == "value detached":
            wrong = self.vjp(g, *[detached(value) for value in values])
            self.touched |= any(map(is_tracked, values))
            return wrong
        else:
            wrong = self.spoil(right)
        self.touched |= not same(right, wrong)
        return wrong

    def spoil(self, right):
        """The result with one cotangent spoiled; of a joint VJP's, the one at ``part``."""
        if not hasattr(right, "shape"):
            parts = list(right)
            flowing = [i for i, part in enumerate(parts) if part is not None]
            if flowing:
                i = flowing[self.part]
                parts[i] = RESULT[self.kind](written_out(parts[i]))
            return tuple(parts)
        if isinstance(right, cotangents.Outputs):
            return cotangents.Outputs(
                right.count, {i: RESULT[self.kind](g) for i, g in right.parts.items()}
            )
        return RESULT[self.kind](written_out(right))


def written_out(g):
    """A cotangent as an array or a Tensor."""
    return g.dense() if isinstance(g, Term) else g


def is_tracked(value):
    if isinstance(value, tuple):
        return any(map(is_tracked, value))
    return isinstance(value, TensorCore) and value.node is not None


def detached(value):
    if isinstance(value, tuple):
        return tuple(map(detached, value))
    return value.detach() if isinstance(value, TensorCore) else value


def plain(g):
    """A cotangent, or several, as a flat list of arrays."""
    if g is None:
        return []
    if isinstance(g, cotangents.Outputs):
        return plain(tuple(g.parts.values()))
    if isinstance(g, Term):
        return plain(g.dense())
    if isinstance(g, (tuple, list)):
        return [array for part in g for array in plain(part)]
    return [np.asarray(getattr(g, "array", g))]


def same(right, wrong):
    pairs = zip(plain(right), plain(wrong), strict=True)
    return all(a.shape == b.shape and np.array_equal(a, b) for a, b in pairs)


# ---- which mutants there are ---------------------------------------------------------------------

RULES = {
    f"{name}[{rule.vjp.__code__.co_name and operation.operation.parameters[position]}]": rule
    for name, operation in engine.OPERATIONS.items()
    for position, rule, _ in operation.operation.rules
}
RULES |= {
    f"{name}[*]": operation.operation.joint
    for name, operation in engine.OPERATIONS.items()
    if operation.operation.joint is not None
}
RULES["result of several"] = engine._OUTLET

UNTESTED = {"to_device": "moves an array to another device; tested with the device"}


def rows_using(name):
    """The rows whose cases record the operation, those with the fewest others first."""
    if name == "result of several":
        name = "unstack"
    using = [(len(found), row) for row in ROWS if name in (found := PRIMITIVES[row.name])]
    return [row for _, row in sorted(using, key=lambda pair: pair[0])]


PRIMITIVES = {row.name: primitives_of(row) for row in ROWS}


def verdict(key, rule, kind, part):
    """``killed``, ``survived`` or ``equivalent`` for one mutant."""
    mutant = Mutant(rule.vjp, kind, part)
    order = 2 if kind == "value detached" else 1
    right, rule.vjp = rule.vjp, mutant
    try:
        for row in rows_using(key.partition("[")[0])[:3]:
            for seed in range(CASES):
                arrays, keywords = row.case(RandomDraw(seed))
                if not 0 < sum(x.size for x in arrays) <= 45:  # 36 + 9, of scatter_add
                    continue
                try:
                    gradcheck(checkable(row, keywords), arrays, order=order, seed=seed)
                except GradcheckError:
                    if mutant.touched:
                        return "killed"
                    raise
    finally:
        rule.vjp = right
    return "survived" if mutant.touched else "equivalent"


def mutants_of(key, rule):
    """Every way to spoil a rule; of a joint VJP the first and the last cotangent separately."""
    parts = (0, -1) if rule.position is None else (None,)
    for kind in RESULT:
        for part in parts:
            yield kind, part
    yield "g ignored", None
    if any(place in carrying(key, rule) for place, shape_only in rule.reads if not shape_only):
        yield "value detached", None


def carrying(key, rule):
    """The places of what carries a derivative: y and the differentiable arguments."""
    if key == "result of several":
        return set()
    operation = engine.OPERATIONS[key.partition("[")[0]].operation
    rest = {rule.rest} if rule.rest is not None else set()
    return {position for position, _, _ in operation.rules} | rest | {rule.y_place}


EQUIVALENT = {
    ("sign[x]", kind): "its cotangent is 0, and 0 scaled, negated, zeroed, reordered is 0"
    for kind in (*RESULT, "g ignored")
} | {
    (key, "value detached"): "reads its arguments only to compare them: no second derivative passes"
    for key in (
        "relu[x]", "abs[x]", "max[x]", "maximum[a]", "maximum[b]", "minimum[a]", "minimum[b]"
    )
}  # fmt: skip
"""Mutants that are not wrong, each with the reason; anything else has to be killed."""

KEYS = [key for key in RULES if key.partition("[")[0] not in UNTESTED]
GATE = {}


@pytest.mark.parametrize("key", KEYS)
def test_every_spoiled_vjp_is_caught(key, record_property):
    rule = RULES[key]
    outcomes = {mutant: verdict(key, rule, *mutant) for mutant in mutants_of(key, rule)}
    GATE[key] = outcomes
    record_property("injected", len(outcomes))
    record_property("killed", list(outcomes.values()).count("killed"))
    alive = {kind for (kind, _), outcome in outcomes.items() if outcome != "killed"}
    excused = {kind for name, kind in EQUIVALENT if name == key}
    assert alive == excused, f"{key}: not caught: {alive - excused}; excused: {excused - alive}"


def test_the_gate_is_complete_and_prints_what_it_killed(capsys):
    if set(GATE) != set(KEYS):
        pytest.skip("the whole file has to run")
    killed = {key: list(outcomes.values()).count("killed") for key, outcomes in GATE.items()}
    with capsys.disabled():
        print(f"\n\n{'VJP':<28}{'killed':>8}{'mutants':>9}{'equivalent':>12}")
        for key, outcomes in GATE.items():
            print(f"{key:<28}{killed[key]:>8}{len(outcomes):>9}{len(outcomes) - killed[key]:>12}")
        total = sum(map(len, GATE.values()))
        print(f"{'all':<28}{sum(killed.values()):>8}{total:>9}{total - sum(killed.values()):>12}")
    assert all(killed[key] or key == "sign[x]" for key in KEYS)


# ---- the sweep gone wrong ------------------------------------------------------------------------


def normal(*shape):
    return np.random.default_rng(len(shape) + sum(shape)).standard_normal(shape)


def lopsided(x):
    """A long and a short path from the same node."""
    y = tg.tanh(x)
    return y * tg.exp(tg.sin(y)) + y


def recurrent(W, x):
    """One weight at every step, plain and transposed."""
    h = x[0] @ W
    for t in range(1, 4):
        h = tg.tanh(x[t] @ W.T + h @ W)
    return h


def tied(E, x):
    """A table of embeddings used for input rows, with repeats, and again as output weights."""
    h = tg.tanh(tg.embedding(np.array([0, 2, 0]), E) * x)
    return tg.cross_entropy(h @ E.T, np.array([1, 2, 2]))


def broadcast(a, b, c):
    return tg.tanh(a * b + c) * b


def unstacked(x):
    first, second, third = tg.unstack(x)
    return tg.stack([first * third, third * second * second])


PROGRAMS = {
    lopsided: [normal(3)],
    recurrent: [normal(3, 3), normal(4, 2, 3)],
    tied: [normal(3, 4), normal(3, 4)],
    broadcast: [normal(3, 1), normal(1, 4), normal()],
    unstacked: [normal(3, 2)],
}


def first_of_each(g, shape):
    """``sum_to`` that forgets to sum."""
    lead = len(g.shape) - len(shape)
    index = tuple(0 if i < lead else slice(0, shape[i - lead]) for i in range(len(g.shape)))
    return g[index]


def without_last(add_up):
    return staticmethod(lambda terms, total: add_up(terms[:-1] or terms, total))


def assigned(self, out, index, values, once=False):
    out[index] = out[index] + values  # repeated ids: the last one wins


def misplaced(self):
    """In reverse, where all have come: a VJP that is given none would fail, not be wrong."""
    parts = [self.parts.get(i) for i in range(self.count)]
    return tuple(parts if self.count > len(self.parts) else parts[::-1])


def pushed_oldest_first(queue, item):
    queue.append((-item[0], item[1]))
    queue.sort(key=lambda pair: pair[0])


def include_first(self, x):
    if not (isinstance(x, Term) and self.pending.get(type(x))):
        INCLUDE(self, x)
    return self


def without_one(needed, wanted):
    return needed - {min(needed - wanted, key=lambda node: node.birth, default=None)}


INCLUDE = cotangents.Sum.include
SWEEPS = {
    "overwrite instead of add": (sweep, "add", lambda x, y: y),
    "only the first is kept": (sweep, "add", lambda x, y: x),
    "oldest first": (sweep, "heappush", pushed_oldest_first),
    "edge sum dropped": (sweep, "sum_to", first_of_each),
    "structured terms lost": (cotangents.Sum, "include", include_first),
    "an outer product lost": (
        products.OuterProduct, "add_up", without_last(products.OuterProduct.add_up)
    ),
    "a slice lost": (linear.Placed, "add_up", without_last(linear.Placed.add_up)),
    "repeated ids overwrite": (backend.Backend, "scatter_add", assigned),
    "outer product not transposed": (products.OuterProduct, "T", property(lambda self: self)),
    "sum of terms not transposed": (cotangents.Sum, "T", property(lambda self: self)),
    "results in the wrong place": (cotangents.Outputs, "dense", misplaced),
    "values not recorded": (
        engine.Rule, "as_tensors", lambda rule, values, node, parent, kind: values
    ),
    "a node left out": (
        backward, "between", lambda roots, wanted: without_one(BETWEEN(roots, wanted), wanted)
    ),
}  # fmt: skip
BETWEEN = backward.between
SWEEP = sweep.sweep


def check_programs():
    for function, arrays in PROGRAMS.items():
        gradcheck(function, arrays, order=2)


def test_the_right_sweep_passes():
    check_programs()


@pytest.mark.parametrize("name", SWEEPS)
def test_every_spoiled_sweep_is_caught(name, monkeypatch):
    monkeypatch.setattr(*SWEEPS[name])
    if name == "oldest first":  # meets nodes twice: it shall die of wrong numbers, not of that
        monkeypatch.setattr(backward, "sweep", lambda *args, free: SWEEP(*args, free=False))
    with pytest.raises(GradcheckError):
        check_programs()
