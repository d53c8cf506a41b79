"""Hostile objects: structures that are none, and states that do not fit, are refused whole."""

import re
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinygrad_rnn as tg

# ---- structures ----

DEEP_TREE: tuple = ()
for _ in range(100_000):
    DEEP_TREE = (DEEP_TREE, "x")
LOOP: list = ["x"]
LOOP.append([LOOP])
N = 100_000


def test_structures_may_be_deep_wide_and_shared():
    tree = tg.Structure.trees([DEEP_TREE])
    assert len(tree) == 2 * N + 1 and tree.heights.max() == N
    up, down = ([[i + d] if 0 <= i + d < N else [] for i in range(N)] for d in (1, -1))
    for children in (up, down):
        assert tg.Structure.dag(children).heights.max() == N - 1
    assert tg.Structure.dag([[], [0] * 1000]).shares
    assert len(tg.Structure.chains([N]).schedule) == N
    pair = ("a", "b")
    assert len(tg.Structure.trees([(pair, pair)])) == 7


HOSTILE = {
    "a tree in itself": lambda: tg.Structure.trees([LOOP]),
    "children that are a number": lambda: tg.Structure.trees([1], children=lambda tree: 5),
    "a word that is a part of itself": lambda: tg.Structure.trees(["ab"], children=list),
    "no trees": lambda: tg.Structure.trees(None),
    "kinds that are lists": lambda: tg.Structure.trees([(1, 2)], kind=lambda t: []).schedule,
    "kinds that are a number": lambda: tg.Structure.dag([[], [0]], kinds=3),
    "too few kinds": lambda: tg.Structure.dag([[], [0]], kinds=["a"]),
    "a long cycle": lambda: tg.Structure.dag([[(i + 1) % N] for i in range(N)]),
    "its own child": lambda: tg.Structure.dag([[0]]),
    "a child that is not there": lambda: tg.Structure.dag([[1]]),
    "a child below zero": lambda: tg.Structure.dag([[-1]]),
    "half a child": lambda: tg.Structure.dag([[0.5], []]),
    "a word for a child": lambda: tg.Structure.dag(["a"]),
    "a list for a child": lambda: tg.Structure.dag([[[1]], []]),
    "a child beyond integers": lambda: tg.Structure.dag([[2**70], []]),
    "a child that would wrap round": lambda: tg.Structure.dag([np.array([2**63 + 5], np.uint64)]),
    "no steps": lambda: tg.Structure.chains([3, 0]),
    "steps below zero": lambda: tg.Structure.chains([-1]),
    "too many steps": lambda: tg.Structure.chains([10**15]),
    "steps whose sum wraps round": lambda: tg.Structure.chains([2**62, 2**62]),
    "steps that wrap round": lambda: tg.Structure.chains(np.array([2**63 + 5], np.uint64)),
    "words for steps": lambda: tg.Structure.chains("abc"),
    "truths for steps": lambda: tg.Structure.chains([True]),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_what_is_no_structure_is_refused(what):
    with warnings.catch_warnings(), pytest.raises(tg.TinygradRNNError) as refused:
        warnings.simplefilter("error")
        HOSTILE[what]()
    message = str(refused.value)
    assert "hint: " in message and len(message) < 1500
    assert "wrap" not in what or not re.search(r"-[0-9]{9}", message)  # it has not wrapped


numbers = st.integers(-3, 6) | st.floats() | st.none() | st.booleans() | st.text(max_size=2)


@given(st.lists(st.lists(numbers, max_size=3) | numbers, max_size=5))
def test_anything_is_a_graph_or_refused(children):
    try:
        found = tg.Structure.dag(children)
    except tg.TinygradRNNError:
        return
    for node, own in enumerate(children):
        assert all(found.heights[child] < found.heights[node] for child in own)


# ---- states ----

STATE = tg.nn.Linear(2, 3).state_dict()
STATES = {
    "no dict": [1],
    "a number for a name": {**STATE, 1: 2.0},
    "nothing": {},
    "one more": {**STATE, "x": 1.0},
    "a name that is long": {**STATE, "x" * 10**6: 1.0},
    "a path that is long": {**STATE, "a." * N: 1.0},
    "many names": {**STATE, **{f"x{i}": 1.0 for i in range(N)}},
    "a name for a terminal": {**STATE, "\x1b[2J\ud800": 1.0},
    "a word": {**STATE, "bias": "abc"},
    "None": {**STATE, "bias": None},
    "lists of unequal lengths": {**STATE, "bias": [[1.0], [1.0, 2.0]]},
    "objects": {**STATE, "bias": np.array([{}, 1, 2], object)},
    "complex numbers": {**STATE, "bias": np.ones(3, complex)},
    "integers": {**STATE, "bias": np.ones(3, int)},
    "beyond float32": {**STATE, "bias": np.full(3, 1e300)},
    "dates": {**STATE, "bias": np.zeros(3, "M8[s]")},
    "fields": {**STATE, "bias": np.zeros(3, [("a", "f4")])},
    "a number": {**STATE, "bias": np.float32(1)},
    "a model": {**STATE, "bias": tg.nn.Linear(2, 3)},
}


@pytest.mark.parametrize("what", STATES)
def test_what_is_no_state_changes_nothing(what):
    net = tg.nn.Linear(2, 3)
    before = net.state_dict()
    with warnings.catch_warnings(), pytest.raises(tg.TinygradRNNError) as refused:
        warnings.simplefilter("error")
        net.load_state_dict(STATES[what])
    message = str(refused.value)
    assert len(message) < 10_000 and all(line.isprintable() for line in message.split("\n"))
    assert all(np.array_equal(x, before[name]) for name, x in net.state_dict().items())


def test_integers_that_would_wrap_round_are_not_loaded():
    net = tg.nn.Module()
    net.count = tg.tensor(np.array([1], np.int8))
    with pytest.raises(tg.CheckpointError, match="count: its values are beyond the range of int8"):
        net.load_state_dict({"count": np.array([300])})
    net.load_state_dict({"count": np.array([-5])})
    assert net.count.item() == -5
