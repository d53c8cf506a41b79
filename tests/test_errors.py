"""Errors: the family, variants of the mistakes on the page of errors, and axes.

The messages themselves, whole, are in `ERRORS.md`, and `test_golden_errors.py` compares them.
"""

import ast
import operator
from pathlib import Path

import numpy as np
import pytest

import tinygrad_rnn as tg
from tinygrad_rnn.tensor import ELSEWHERE


def t(*shape, tracked=True):
    """A Tensor of this shape."""
    values = np.random.default_rng(0).standard_normal(shape)
    return tg.tensor(values, requires_grad=tracked)


FAMILY = {
    tg.TinygradRNNError: Exception,
    tg.ShapeError: ValueError,
    tg.DtypeError: TypeError,
    tg.IndexRangeError: IndexError,
    tg.SettingError: ValueError,
    tg.NotTrackedError: RuntimeError,
    tg.DeviceError: RuntimeError,
    tg.DeferredError: RuntimeError,
    tg.DecodeError: ValueError,
    tg.GraphFreedError: RuntimeError,
    tg.ValueChangedError: RuntimeError,
    tg.GradcheckError: AssertionError,
    tg.NondifferentiableError: AssertionError,
    tg.CheckpointError: ValueError,
    tg.NonFiniteError: ArithmeticError,
}


def test_every_error_is_one_that_python_users_already_catch():
    assert set(FAMILY) == {getattr(tg, name) for name in tg.errors.__all__}
    for error, builtin in FAMILY.items():
        assert issubclass(error, builtin) and issubclass(error, tg.TinygradRNNError)


def errors_made():
    """The text of each call that makes an error of ours, anywhere in the package, by its place."""
    for path in sorted(Path(tg.__file__).parent.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") in tg.errors.__all__:
                words = [x.value for x in ast.walk(node) if isinstance(x, ast.Constant)]
                yield f"{path.name}:{node.lineno}", "".join(map(str, words))


def test_every_refusal_in_the_package_has_a_hint():
    # What is wrong with a file, "its ...", gets one from load; two texts are joined from lines.
    made = dict(errors_made())
    assert len(made) > 100
    without = {place: text for place, text in made.items() if "  hint: " not in text}
    assert all(text.startswith(("it ", "its ")) or not text.strip() for text in without.values())


# ---- more ways to the messages of the page ------------------------------------------------------

VARIANTS = {
    tg.ShapeError: [
        lambda: 3.0 @ t(2, 2),
        lambda: t(2, 3).reshape(4, 2),
        lambda: t(2, 3).reshape(-1, -1),
        lambda: tg.concatenate([t(2, 3), t(2)]),
        lambda: tg.concatenate([]),
        lambda: tg.split(t(5, 2), 0),
        lambda: tg.split(t(5, 2), -1),
        lambda: tg.transpose(t(2, 3), (0, 0)),
        lambda: tg.tensordot(t(2, 3), t(2, 3), 5),
        lambda: tg.binary_cross_entropy(t(4, 1), np.ones(4)),
        lambda: tg.cross_entropy(t(), 2),
        lambda: tg.take_along_axis(t(2, 3), np.array([0]), 1),
        lambda: tg.grad(t(3) * 2.0, [t(3)]),
        lambda: t(2) == t(3),
        lambda: float(t(2)),
        lambda: bool(t(2)),
        lambda: tg.pad(t(2, 3), -5),
    ],
    tg.DtypeError: [
        lambda: tg.tensor(["a", "b"], dtype=float),
        lambda: tg.tensor(np.array([None])),
        lambda: tg.tensor([1.0], dtype="flaot"),
        lambda: t(2).astype("flaot"),
        lambda: tg.einsum(t(2, 3), t(3, 2)),
        lambda: tg.dropout(t(2), "half"),
        lambda: tg.dropout(t(2), 0.5, rng=0),
        lambda: tg.manual_seed("seed"),
        lambda: t(2) < "a",
        lambda: tg.grad(3.0, [t(3)]),
        lambda: tg.fold(tg.tanh, 3),
        lambda: tg.deferred(3),
        lambda: tg.decode.greedy(3, None, [0], steps=1),
        lambda: tg.gradcheck(3, [np.ones(2)]),
        lambda: tg.Structure.dag([1, 2]),
        lambda: tg.Structure.trees(3),
        lambda: tg.optim.SGD(tg.nn.Linear(2, 3), lr=0.1),
        lambda: tg.optim.SGD([t(3)], lr=0.1).load_state_dict([1]),
        lambda: tg.nn.Linear(2.5, 3),
        lambda: hooked(lambda g: g.array),
        lambda: tg.cross_entropy([0, 3], t(2, 5)),
        lambda: tg.nll(np.eye(5, dtype=int)[:2], t(2, 5)),
        lambda: operator.iadd(t(2), 1.0),
        lambda: operator.imul(t(2), np.ones(2)),
        lambda: operator.itruediv(t(2), t(2)),
    ],
    tg.IndexRangeError: [
        lambda: t(2, 3)[np.array([0, 2])],
        lambda: tg.cross_entropy(t(2, 5), [0, -1]),
        lambda: tg.nll(t(2, 5), [0, 7]),
    ],
    tg.SettingError: [
        lambda: tg.nn.Dropout(1.5),
        lambda: tg.nn.LSTM(2, 3, dropout=1.0),
        lambda: tg.nn.LSTM(2, 3, num_layers=0),
        lambda: tg.binary_cross_entropy(np.float64(-0.1), 1.0),
        lambda: tg.binary_cross_entropy(t(2, tracked=False) * 0.0, [1.0, 2.0]),
        lambda: tg.gradcheck(tg.tanh, [np.ones(2)], order=0),
        lambda: tg.gradcheck(tg.tanh, [np.ones(2)], eps=0.0),
    ],
}


def hooked(hook):
    x = t(2)
    x.register_hook(hook)
    tg.sum(x * 2.0).backward()


@pytest.mark.parametrize(
    ("error", "act"), [(error, act) for error, acts in VARIANTS.items() for act in acts]
)
def test_variants_of_a_mistake_are_refused_with_a_hint(error, act):
    with pytest.raises(error, match=r"\n  hint: "):
        act()


def test_a_name_of_elsewhere_is_none_of_ours():
    x = t(2, 3)
    assert all(not hasattr(x, name) for name in ELSEWHERE)
    assert ELSEWHERE.keys().isdisjoint(dir(x))
    assert not hasattr(tg.Tensor, "unsqueeze")
    assert all(not hasattr(tg.nn, name) for name in tg.nn.ELSEWHERE)


@pytest.mark.parametrize("name", sorted((ELSEWHERE | tg.nn.ELSEWHERE).keys() - {"cuda"}))
def test_what_to_write_for_a_name_of_elsewhere_runs(name):
    x, y, values, logits = (tg.tensor(np.ones((2, 2)), requires_grad=True) for _ in range(4))
    axis, axes, shape, reps, ids = 0, (1, 0), (2, 2), (1, 2), np.zeros((2, 2), int)
    first, second, targets = x, y, [0, 1]
    names = {**locals(), "tg": tg, "np": np, "dtype": np.float64, "mask": ids > 0, "value": 0.0}
    exec((ELSEWHERE | tg.nn.ELSEWHERE)[name].partition(": ")[0], names)


@pytest.mark.parametrize("function", [np.shape, np.ndim, np.size])
def test_numpy_may_ask_for_the_shape(function):
    assert function(t(2, 3)) == function(np.ones((2, 3)))


@pytest.mark.parametrize(
    "function", [np.sum, np.mean, np.concatenate, np.dot, np.where, np.linalg.norm]
)
def test_a_function_of_numpy_takes_no_tensor_unseen(function):
    with pytest.raises(tg.DtypeError, match=r"numpy\.\w+: .*\n.*\n  hint: .*x\.numpy\(\)"):
        function(*[t(2)] * (2 if function is np.dot else 1))


def test_nan_is_no_number_out_of_its_range():
    assert np.isnan(tg.binary_cross_entropy([0.5, np.nan], [0.0, 1.0]))


SIZES = {  # of every layer, the arguments that are a size
    **dict.fromkeys(["RNN", "LSTM", "GRU"], "input_size hidden_size"),
    **dict.fromkeys(["RNNCell", "LSTMCell", "GRUCell"], "input_size hidden_size"),
    **dict.fromkeys(["LayerNormLSTMCell", "PeepholeLSTMCell"], "input_size hidden_size"),
    **dict.fromkeys(["RecursiveCell", "TreeLSTMCell"], "input_size hidden_size"),
    **dict.fromkeys(["JordanCell", "ElmanJordanCell"], "input_size hidden_size output_size"),
    "ChildSumTreeLSTMCell": "input_size hidden_size",
    "RNTNCell": "hidden_size",
    "AdditiveAttention": "query_size key_size hidden_size",
    "MultiplicativeAttention": "query_size key_size",
    "DotAttention": "size",
    "CRF": "tags",
    "Conv1d": "in_channels out_channels kernel_size",
    "Embedding": "num_embeddings embedding_dim",
    "LayerNorm": "size",
    "Linear": "in_features out_features",
}


def test_every_layer_with_a_size_is_asked():
    assert set(tg.nn.__all__) - set(SIZES) == {"Dropout", "Module", "Recurrent"}


@pytest.mark.parametrize("layer", SIZES)
def test_a_wrong_size_is_told_by_layer_and_argument(layer):
    names = SIZES[layer].split()
    for name in names:
        for wrong in (-4, 4.0, "4", None):
            sizes = dict.fromkeys(names, 3) | {name: wrong}
            with pytest.raises((tg.SettingError, tg.DtypeError), match=f"^{layer}: {name} is "):
                getattr(tg.nn, layer)(**sizes)


# ---- the family ---------------------------------------------------------------------------------


def test_the_cause_is_kept():
    with pytest.raises(tg.ShapeError) as caught:
        t(2) + t(3)
    assert isinstance(caught.value.__cause__, ValueError)


def test_a_list_is_an_operand_like_any_other():
    x = tg.tensor([1.0, 2.0])
    assert (x + [1.0, 2.0]).array.tolist() == [2.0, 4.0]
    assert (x @ [1.0, 2.0]).item() == ([1.0, 2.0] @ x).item() == 5.0


def test_what_is_no_parameter_may_be_added_up_in_a_name():
    x = t(2)
    for start in (t(2, tracked=False), x * 2.0):
        total, before = start, start.array.copy()
        total += x
        total -= 3.0
        total *= x
        total /= 2.0
        assert (total.array == ((before + x.array) - 3.0) * x.array / 2.0).all()
        assert (start.array == before).all()
        assert total.requires_grad


def test_large_values_are_described_not_printed():
    with pytest.raises(tg.ShapeError) as caught:
        t(1000, 3) + np.ones((999, 3))
    assert len(str(caught.value)) < 400
    with pytest.raises(tg.DtypeError) as caught:
        tg.tensor(["word"] * 100_000)
    assert len(str(caught.value)) < 400


def test_a_value_that_cannot_be_shown_is_described_by_its_class():
    class Shy:
        def __repr__(self):
            raise RuntimeError("no")

    with pytest.raises(tg.DtypeError, match="parameter 0 is Shy\n"):
        tg.optim.SGD([Shy()], lr=0.1)


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
