"""Bad input: what a message must say, as a learner needs it, and that nothing is lost by it.

A good message names the operation, the argument, what was expected and what came, and what to do.
The texts may be polished; the words that these tables ask for must stay.
"""

import numpy as np
import pytest

import tinygrad_rnn as tg


def t(*shape, tracked=True):
    """A Tensor of this shape."""
    values = np.random.default_rng(0).standard_normal(shape)
    return tg.tensor(values, requires_grad=tracked)


IDS = tg.tensor([1, 2, 3])
FAMILY = {
    tg.ShapeError: ValueError,
    tg.DtypeError: TypeError,
    tg.IndexRangeError: IndexError,
    tg.NotTrackedError: RuntimeError,
    tg.DeviceError: RuntimeError,
    tg.GraphFreedError: RuntimeError,
    tg.GradcheckError: AssertionError,
    tg.CheckpointError: ValueError,
    tg.NonFiniteError: ArithmeticError,
}


@pytest.mark.parametrize("error, builtin", FAMILY.items(), ids=lambda e: e.__name__)
def test_every_error_is_one_that_python_users_already_catch(error, builtin):
    assert issubclass(error, builtin) and issubclass(error, tg.TinygradRNNError)


# ---- the table ----------------------------------------------------------------------------------

# what is done, the error, and words that the message must contain; the first begins it

MESSAGES = {
    # shapes that do not fit
    "add": (lambda: t(2, 3) + t(2, 4), tg.ShapeError, "add(a, b)", "a: float64 (2, 3)", "(2, 4)"),
    "array + tensor": (lambda: np.ones(5) + t(2), tg.ShapeError, "add(a, b)", "(5,)", "(2,)"),
    "matmul": (
        lambda: t(2, 3) @ t(4, 5),
        tg.ShapeError,
        "matmul(a, b)",
        *("a: float64 (2, 3)", "b: float64 (4, 5)", "hint"),
    ),
    "matmul of vectors": (lambda: t(2) @ t(3), tg.ShapeError, "matmul(a, b)", "(2,)", "(3,)"),
    "matmul of batches": (
        lambda: t(2, 3, 4) @ t(3, 4, 5),
        tg.ShapeError,
        *("matmul(a, b)", "(2, 3, 4)", "(3, 4, 5)"),
    ),
    "matmul with a number": (lambda: t(2, 2) @ 3.0, tg.ShapeError, "matmul(a, b)", "a * b"),
    "number in front": (lambda: 3.0 @ t(2, 2), tg.ShapeError, "matmul(a, b)", "a * b"),
    "where": (
        lambda: tg.where(np.ones((2, 3)) > 0, t(2, 2), 0.0),
        tg.ShapeError,
        *("where(condition, a, b)", "condition: bool (2, 3)", "a: float64 (2, 2)"),
    ),
    "reshape": (lambda: t(2, 3).reshape(4, 2), tg.ShapeError, "reshape(x", "(2, 3)", "(4, 2)"),
    "reshape by -1": (lambda: t(2, 3).reshape(4, -1), tg.ShapeError, "reshape(x", "(2, 3)", "-1"),
    "broadcast_to": (
        lambda: tg.broadcast_to(t(2, 3), (2, 4)),
        tg.ShapeError,
        *("broadcast_to(x, shape)", "(2, 3)", "(2, 4)"),
    ),
    "sum_to": (lambda: tg.sum_to(t(2, 3), (3, 2)), tg.ShapeError, "sum_to(", "(2, 3)", "(3, 2)"),
    "concatenate": (
        lambda: tg.concatenate([t(2, 3), t(2, 4)]),
        tg.ShapeError,
        *("concatenate(", "arrays[0]: float64 (2, 3)", "arrays[1]: float64 (2, 4)"),
    ),
    "stack": (
        lambda: tg.stack([t(2, 3), t(2, 4)]),
        tg.ShapeError,
        *("stack(", "arrays[0]: float64 (2, 3)", "arrays[1]: float64 (2, 4)"),
    ),
    "stack of nothing": (lambda: tg.stack([]), tg.ShapeError, "stack(", "at least one"),
    "split": (lambda: tg.split(t(5, 2), 2), tg.ShapeError, "split(x, 2)", "length 5", "indices"),
    "split in none": (lambda: tg.split(t(5, 2), 0), tg.ShapeError, "split(x, 0)"),
    "split in minus one": (lambda: tg.split(t(5, 2), -1), tg.ShapeError, "split(x, -1)"),
    "squeeze": (lambda: tg.squeeze(t(2, 3), 0), tg.ShapeError, "squeeze(x", "(2, 3)"),
    "permutation too short": (
        lambda: tg.transpose(t(2, 3), (0,)),
        tg.ShapeError,
        *("", "axes", "(2, 3)", "(0,)"),
    ),
    "permutation that repeats": (
        lambda: tg.transpose(t(2, 3), (0, 0)),
        tg.ShapeError,
        *("", "axes", "(2, 3)", "(0, 0)"),
    ),
    "max of nothing": (lambda: tg.max(t(0, 3), 0), tg.ShapeError, "max(x, axis", "(0, 3)"),
    "einsum": (
        lambda: tg.einsum("ij,jk->ik", t(2, 3), t(2, 3)),
        tg.ShapeError,
        *("einsum(", "ij,jk->ik", "(2, 3)"),
    ),
    "einsum with an operand missing": (
        lambda: tg.einsum("ij,jk->ik", t(2, 3)),
        tg.ShapeError,
        *("einsum('ij,jk->ik'", "1 operands", "expected: 2"),
    ),
    "einsum with too many letters": (
        lambda: tg.einsum("ijk->i", t(2, 3)),
        tg.ShapeError,
        *("einsum(", "ijk->i", "(2, 3)"),
    ),
    "einsum with an unknown letter": (
        lambda: tg.einsum("ij->z", t(2, 3)),
        tg.ShapeError,
        *("einsum(", "ij->z", "'z'"),
    ),
    "einsum of a diagonal": (
        lambda: tg.einsum("ii->i", t(2, 3)),
        tg.ShapeError,
        *("einsum(", "ii->i", "(2, 3)"),
    ),
    "tensordot": (
        lambda: tg.tensordot(t(2, 3), t(2, 3), 1),
        tg.ShapeError,
        *("tensordot(a, b, axes)", "(2, 3)"),
    ),
    "conv1d channels": (
        lambda: tg.conv1d(t(2, 3, 9), t(4, 5, 3)),
        tg.ShapeError,
        *("conv1d(x, weight)", "(2, 3, 9)", "(4, 5, 3)", "channels"),
    ),
    "conv1d without batch": (
        lambda: tg.conv1d(t(3, 9), t(4, 3, 3)),
        tg.ShapeError,
        *("conv1d(x, weight)", "(3, 9)", "batch"),
    ),
    "conv1d wider than the input": (
        lambda: tg.conv1d(t(2, 3, 2), t(4, 3, 5)),
        tg.ShapeError,
        *("conv1d(x, weight)", "2 time steps", "window of 5", "padding"),
    ),
    "conv1d bias": (
        lambda: tg.conv1d(t(2, 3, 9), t(4, 3, 3), t(7)),
        tg.ShapeError,
        *("conv1d(x, weight, bias)", "(7,)"),
    ),
    "conv1d that stands still": (
        lambda: tg.conv1d(t(2, 3, 9), t(4, 3, 3), stride=0),
        tg.ShapeError,
        *("conv1d(", "stride"),
    ),
    "mse": (lambda: tg.mse(t(3), t(3, 1)), tg.ShapeError, "mse(x, y)", "(3,)", "(3, 1)", "hint"),
    "cross_entropy": (
        lambda: tg.cross_entropy(t(2, 5), [0, 1, 2]),
        tg.ShapeError,
        *("cross_entropy(logits, targets)", "(3,)", "(2, 5)", "expected: targets (2,)"),
    ),
    "cross_entropy of one-hot rows": (
        lambda: tg.cross_entropy(t(2, 5), np.eye(5, dtype=int)[:2]),
        tg.ShapeError,
        *("cross_entropy(logits, targets)", "one-hot"),
    ),
    # indices and ids
    "index": (
        lambda: t(2, 3)[5],
        tg.IndexRangeError,
        "getitem(x, index)",
        "index: int 5",
        "(2, 3)",
    ),
    "too many indices": (lambda: t(2)[0, 0], tg.IndexRangeError, "getitem(x, index)", "(2,)"),
    "index array": (
        lambda: t(2, 3)[np.array([0, 2])],
        tg.IndexRangeError,
        *("getitem(x, index)", "index 2", "size 2"),
    ),
    "mask": (
        lambda: t(2, 3)[np.array([True, False, True])],
        tg.IndexRangeError,
        *("getitem(x, index)", "(2, 3)", "bool (3,)"),
    ),
    "float index": (
        lambda: t(2, 3)[1.0],
        tg.IndexRangeError,
        "getitem(x, index)",
        "float 1.0",
        "int",
    ),
    "name as an index": (lambda: t(2, 3)["a"], tg.IndexRangeError, "getitem(x, index)", "str 'a'"),
    "tracked index": (lambda: t(2, 3)[t(2)], tg.DtypeError, "index", "float64"),
    "embedding": (
        lambda: tg.embedding([[0, 1], [9, 1]], t(5, 3)),
        tg.IndexRangeError,
        *("embedding(ids, weight)", "id 9 at position (1, 0)", "0 <= id < 5", "1 of 4", "hint"),
    ),
    "negative id": (
        lambda: tg.embedding(np.array([-1]), t(5, 3)),
        tg.IndexRangeError,
        *("embedding(ids, weight)", "id -1 at position (0,)"),
    ),
    "float ids": (
        lambda: tg.embedding(np.array([1.0]), t(5, 3)),
        tg.DtypeError,
        *("embedding(ids, weight)", "ids is float64 (1,)", "integers", "astype(int)"),
    ),
    "embedding arguments exchanged": (
        lambda: tg.embedding(t(5, 3), np.array([1])),
        tg.DtypeError,
        *("embedding(ids, weight)", "ids is float64 (5, 3)"),
    ),
    "class out of range": (
        lambda: tg.cross_entropy(t(2, 5), [0, 5]),
        tg.IndexRangeError,
        *("cross_entropy(logits, targets)", "id 5 at position (1,)", "0 <= id < 5"),
    ),
    "class -1": (
        lambda: tg.cross_entropy(t(2, 5), [0, -1]),
        tg.IndexRangeError,
        *("cross_entropy(logits, targets)", "id -1"),
    ),
    "class -100, as PyTorch ignores": (
        lambda: tg.cross_entropy(t(2, 5), [0, -100]),
        tg.IndexRangeError,
        *("cross_entropy(logits, targets)", "id -100", "ignore_index"),
    ),
    "nll": (
        lambda: tg.nll(t(2, 5), [0, 7]),
        tg.IndexRangeError,
        *("nll(log_probs, targets)", "id 7"),
    ),
    "float classes": (
        lambda: tg.cross_entropy(t(2, 5), [0.0, 1.0]),
        tg.DtypeError,
        *("cross_entropy(logits, targets)", "targets is float64 (2,)", "integers"),
    ),
    # data
    "words": (lambda: tg.tensor("abc"), tg.DtypeError, "tensor(data)", "'abc'", "numbers", "ids"),
    "list of words": (lambda: tg.tensor(["a", "b"]), tg.DtypeError, "tensor(data)", "numbers"),
    "words as floats": (
        lambda: tg.tensor(["a", "b"], dtype=float),
        tg.DtypeError,
        *("tensor(data)", "numbers"),
    ),
    "None": (lambda: tg.tensor(None), tg.DtypeError, "tensor(data)", "None", "numbers"),
    "dictionary": (lambda: tg.tensor({"a": 1}), tg.DtypeError, "tensor(data)", "dict"),
    "array of objects": (lambda: tg.tensor(np.array([None])), tg.DtypeError, "tensor(data)"),
    "ragged rows": (
        lambda: tg.tensor([[1.0, 2.0], [3.0]]),
        tg.ShapeError,
        *("tensor(data)", "equal lengths"),
    ),
    "list of Tensors": (lambda: tg.tensor([t(2), t(2)]), tg.DtypeError, "tensor(data)", "stack"),
    "integers that want gradients": (
        lambda: tg.tensor([1, 2], requires_grad=True),
        tg.DtypeError,
        *("requires_grad", "int64", "float32"),
    ),
    "switched on for integers": (
        lambda: setattr(tg.tensor([1]), "requires_grad", True),
        tg.DtypeError,
        *("requires_grad", "int64"),
    ),
    "adding a word": (lambda: t(2) + "a", tg.DtypeError, "add(a, b)", "b: str 'a'", "numbers"),
    "adding None": (lambda: t(2) + None, tg.DtypeError, "add(a, b)", "b: NoneType None"),
    "integers to a negative power": (
        lambda: IDS**-1,
        tg.DtypeError,
        *("power(a, b)", "a: int64 (3,)", "float"),
    ),
    "tracked condition": (
        lambda: tg.where(t(2), 1.0, 2.0),
        tg.DtypeError,
        *("where: a tracked Tensor", "detach"),
    ),
    # backward
    "backward from a vector": (
        lambda: t(3).backward(),
        tg.ShapeError,
        *("backward", "(3,)", "gradient=", "sum()"),
    ),
    "grad from a vector": (
        lambda: tg.grad(t(3) * 2.0, [t(3)]),
        tg.ShapeError,
        *("grad", "(3,)", "grad_outputs=", "sum()"),
    ),
    "backward untracked": (
        lambda: t(3, tracked=False).sum().backward(),
        tg.NotTrackedError,
        *("backward", "not tracked", "requires_grad=True", "no_grad()", "detach()"),
    ),
    "grad by something untracked": (
        lambda: tg.grad(t(3).sum(), [t(3), t(2, tracked=False)]),
        tg.NotTrackedError,
        *("grad", "inputs[1]", "(2,)", "requires_grad=True"),
    ),
    "cotangent of the wrong shape": (
        lambda: t(3).backward(np.ones((1, 3))),
        tg.ShapeError,
        *("backward", "(1, 3)", "expected: (3,)"),
    ),
    "cotangent of words": (lambda: t(3).backward("abc"), tg.DtypeError, "backward", "'abc'"),
    "too few cotangents": (
        lambda: tg.grad([t(3) * 2.0, t(3) * 2.0], [t(3)], [np.ones(3)]),
        tg.ShapeError,
        *("grad", "grad_outputs", "1", "2"),
    ),
    "gradient set to an array": (
        lambda: setattr(t(2), "grad", np.ones(2)),
        tg.DtypeError,
        *("grad", "ndarray", "Tensor"),
    ),
    "gradient set in the wrong shape": (
        lambda: setattr(t(2), "grad", t(3)),
        tg.ShapeError,
        *("grad", "(3,)", "(2,)"),
    ),
    "hook that returns the wrong shape": (
        lambda: hooked(lambda g: t(3)),
        tg.ShapeError,
        *("register_hook", "(3,)", "(2,)"),
    ),
    "hook that returns an array": (
        lambda: hooked(lambda g: g.array),
        tg.DtypeError,
        *("register_hook", "ndarray", "Tensor"),
    ),
    "hook on a constant": (
        lambda: t(2, tracked=False).register_hook(print),
        tg.NotTrackedError,
        *("register_hook", "not tracked"),
    ),
    "retain_grad of a constant": (
        lambda: t(2, tracked=False).retain_grad(),
        tg.NotTrackedError,
        *("retain_grad", "not tracked"),
    ),
    # tensors as Python values
    "truth of many": (lambda: bool(t(2)), tg.ShapeError, "", "(2,)", "single number"),
    "float of many": (lambda: float(t(2)), tg.ShapeError, "", "(2,)", "single number"),
    "item of many": (lambda: t(2).item(), tg.ShapeError, "item()", "(2,)"),
    "length of a number": (lambda: len(t()), tg.DtypeError, "len(x)", "()"),
    "numpy on a Tensor": (lambda: np.asarray(t(2)), tg.DtypeError, "a Tensor", ".numpy()"),
    # devices and numbers
    "unknown device": (
        lambda: tg.tensor([1.0], device="gpu"),
        tg.DeviceError,
        *("unknown device 'gpu'", "'cpu'", "'cuda'"),
    ),
    "moving to an unknown device": (lambda: t(2).to("tpu"), tg.DeviceError, "unknown device 'tpu'"),
    "dropout rate": (lambda: tg.dropout(t(2), 1.0), ValueError, "dropout", "rate is 1.0", "rate < 1"),
}


def hooked(hook):
    x = t(2)
    x.register_hook(hook)
    tg.sum(x * 2.0).backward()


@pytest.mark.parametrize("name", MESSAGES)
def test_a_message_says_what_was_wrong_and_what_to_do(name):
    act, error, *words = MESSAGES[name]
    with pytest.raises(error) as caught:
        act()
    text = str(caught.value)
    assert text.startswith(words[0]), text
    missing = [word for word in words if word not in text]
    assert not missing, f"{missing} missing in\n{text}"


def test_no_message_shows_a_private_name_or_runs_on():
    # Learners do not know _matmul; and a message that prints an array's entries drowns its point.
    for act, error, *_ in MESSAGES.values():
        try:
            act()
        except error as caught:
            first, *rest = str(caught).split("\n")
            assert not first.startswith("_") and len(first) < 300
            assert all(line.startswith("  ") for line in rest)
        except Exception:  # the test above tells
            continue


def test_the_cause_is_kept():
    with pytest.raises(tg.ShapeError) as caught:
        t(2) + t(3)
    assert isinstance(caught.value.__cause__, ValueError)


def test_a_list_is_an_operand_like_any_other():
    x = tg.tensor([1.0, 2.0])
    assert (x + [1.0, 2.0]).array.tolist() == [2.0, 4.0]
    assert (x @ [1.0, 2.0]).item() == ([1.0, 2.0] @ x).item() == 5.0


def test_large_values_are_described_not_printed():
    with pytest.raises(tg.ShapeError) as caught:
        t(1000, 3) + np.ones((999, 3))
    assert len(str(caught.value)) < 400
    with pytest.raises(tg.DtypeError) as caught:
        tg.tensor(["word"] * 100_000)
    assert len(str(caught.value)) < 400


# ---- the cuda device ----------------------------------------------------------------------------


def test_a_missing_device_is_an_error_with_its_reason_and_no_fallback():
    try:
        import cupy

        if cupy.is_available():
            pytest.skip("there is a CUDA device")
    except ImportError:
        pass
    for ask in (lambda: tg.tensor([1.0], device="cuda"), lambda: t(2).to("cuda")):
        with pytest.raises(tg.DeviceError) as caught:
            ask()
        text = str(caught.value)
        assert text.startswith("device 'cuda' cannot be used: ")
        assert "tinygrad_rnn[cuda12]" in text and "cupy" in text


# ---- axes ---------------------------------------------------------------------------------------

AXES = {
    **{
        name: lambda x, axis, name=name: getattr(tg, name)(x, axis)
        for name in (
            *("sum", "mean", "var", "std", "norm", "prod", "max", "min", "logsumexp", "softmax"),
            *("log_softmax", "cumsum", "flip", "squeeze", "unstack"),
        )
    },
    "expand_dims": lambda x, axis: tg.expand_dims(x, axis + (1 if axis > 0 else -1)),
    "take": lambda x, axis: tg.take(x, [0], axis),
    "take_along_axis": lambda x, axis: tg.take_along_axis(x, np.zeros((1, 3), int), axis),
    "repeat": lambda x, axis: tg.repeat(x, 2, axis),
    "split": lambda x, axis: tg.split(x, 1, axis),
    "concatenate": lambda x, axis: tg.concatenate([x, x], axis),
    "stack": lambda x, axis: tg.stack([x, x], axis + (1 if axis > 0 else -1)),
    "swapaxes": lambda x, axis: tg.swapaxes(x, 0, axis),
    "moveaxis": lambda x, axis: tg.moveaxis(x, 0, axis),
    "tensordot": lambda x, axis: tg.tensordot(x, x.T, ([axis], [0])),
    "transpose": lambda x, axis: tg.transpose(x, (0, axis)),
}


@pytest.mark.parametrize("name", AXES)
def test_an_axis_that_is_not_there_is_refused(name):
    # An axis that is taken modulo ndim gives a plausible wrong answer.
    for axis in (-3, 2, 7):
        for x in (t(1, 3), np.ones((1, 3))):
            with pytest.raises(tg.ShapeError, match=r"axis|axes"):
                AXES[name](x, axis)


REDUCTIONS = ("sum", "mean", "var", "prod", "max", "logsumexp", "norm")


@pytest.mark.parametrize("name", REDUCTIONS)
def test_an_axis_given_twice_is_refused(name):
    with pytest.raises(tg.ShapeError):
        getattr(tg, name)(t(2, 3), (0, -2))


@pytest.mark.parametrize("name", ("flip", "take", "unstack", "split", "moveaxis"))
def test_a_number_has_no_axis(name):
    with pytest.raises(tg.ShapeError):
        AXES[name](t(), 0)


# ---- operations of one's own --------------------------------------------------------------------


def call(vjp, forward=lambda x: x * 1):
    """A backward pass through an operation made with this VJP."""

    def own(x):
        return forward(x)

    tg.sum(tg.op(x=vjp)(own)(t(2, 3))).backward()


OWN = {
    "a VJP that returns nothing": (lambda: call(lambda g: None), "own", "VJP", "None"),
    "a VJP that returns a number": (lambda: call(lambda g: 0.5), "own", "VJP", "float 0.5"),
    "a VJP of the wrong shape": (lambda: call(lambda g: g.T), "own", "(3, 2)", "(2, 3)"),
    "a VJP of too many entries": (lambda: call(lambda g: g[:, :2]), "own", "(2, 2)", "(2, 3)"),
    "a result that is no array": (
        lambda: call(lambda g: g, lambda x: float(x.sum())),
        *("own", "float"),
    ),
    "a VJP for an unknown argument": (
        lambda: tg.op(z=lambda g: g)(lambda x: x),
        *("'z'", "x"),
    ),
    "a VJP that reads an unknown name": (
        lambda: tg.op(x=lambda g, q: g)(lambda x: x),
        *("'q'", "x", "y"),
    ),
    "several results with one VJP per argument": (lambda: halves(), "halves", "joint"),
    "a joint VJP with too few cotangents": (lambda: joint(lambda g: (g,)), "both", "1", "2"),
    "a joint VJP with too many": (lambda: joint(lambda g: (g, g, g)), "both", "3", "2"),
}


def joint(vjp):
    @tg.op(vjp)
    def both(a, b):
        return a + b

    tg.sum(both(t(2, 3), t(2, 3))).backward()


def halves():
    @tg.op(x=lambda gs: gs[0])
    def halves(x):
        return x[:1], x[1:]

    halves(t(2, 3))


@pytest.mark.parametrize("name", OWN)
def test_mistakes_in_an_operation_of_ones_own_name_it(name):
    act, *words = OWN[name]
    with pytest.raises(tg.TinygradRNNError) as caught:
        act()
    missing = [word for word in words if word not in str(caught.value)]
    assert not missing, f"{missing} missing in\n{caught.value}"
