"""The checker checked: it passes what is right, and fails, pointing at the place, what is wrong."""

import re

import numpy as np
import pytest

import tinygrad_rnn as tg
from tinygrad_rnn.gradcheck import __main__ as table
from tinygrad_rnn.registry import ROWS, checkable


def wrong_by(factor):
    """``sin`` with a VJP off by a factor; not known as analytic, so differences judge it."""

    @tg.op(x=lambda g, x: g * tg.cos(x) * factor)
    def sine(x):
        return np.sin(x)

    tg.engine.OPERATIONS.pop("sine")
    return sine


X = np.array([0.3, -1.2, 0.7])


def test_a_right_operation_of_the_user_passes_to_third_order():
    report = tg.gradcheck(wrong_by(1), [X], order=3)
    assert report.method == "central" and report.cases == 9 and report.worst < 1e-7


def test_a_steep_function_passes_and_a_wrong_one_does_not():
    steep = np.zeros(1)  # where derivatives of higher order move a difference
    tg.gradcheck(lambda x: tg.exp(50.0 * x), [steep])
    with pytest.raises(tg.GradcheckError):
        tg.gradcheck(lambda x: tg.exp(50.0 * wrong_by(1 + 1e-5)(x)), [steep], method="central")


def test_a_saturated_net_passes_to_third_order():
    """Derivatives of fifth order are 10^7 times those of the first here."""
    x = np.array([[0.6866, 0.86], [-1.2462, -0.8733], [-1.0342, -2.3642], [0.5742, 2.1236]])
    W = np.array([[2.4655, 2.9973], [-1.7085, -0.8257]])
    row = next(row for row in ROWS if row.name == "fold")
    tg.gradcheck(checkable(row, {"children": [[], [0, 0], [0], [0, 1]]}), [x, W], order=3)


@pytest.mark.parametrize("factor", [1 + 1e-6, 0.0, -1.0, 2.0])
def test_a_wrong_one_fails(factor):
    with pytest.raises(tg.GradcheckError):
        tg.gradcheck(wrong_by(factor), [X])


def test_a_zero_vjp_of_a_tiny_function_fails():
    """Where an absolute tolerance would have passed it."""

    @tg.op(x=lambda g: g * 0.0)
    def tiny(x):
        return 1e-7 * np.tanh(x)

    tg.engine.OPERATIONS.pop("tiny")
    with pytest.raises(tg.GradcheckError):
        tg.gradcheck(tiny, [X])


def test_one_wrong_entry_in_a_thousand_is_seen():
    mask = np.ones(1000)
    mask[617] = 1.5

    @tg.op(x=lambda g: g * mask)
    def almost(x):
        return x.copy()

    tg.engine.OPERATIONS.pop("almost")
    with pytest.raises(tg.GradcheckError, match="random direction"):
        tg.gradcheck(almost, [np.linspace(-1, 1, 1000)])
    mask[617] = 1.0
    tg.gradcheck(almost, [np.linspace(-1, 1, 1000)])


@pytest.mark.nonfinite
@pytest.mark.parametrize(
    "vjp",
    [lambda g: abs(g), lambda g: g / g, lambda g: g + 1.0, lambda g: g * g],
    ids=["|g|", "g ignored", "g + 1", "g^2"],
)
def test_what_is_not_linear_in_the_cotangent_fails(vjp):
    @tg.op(x=vjp)
    def identity(x):
        return x.copy()

    tg.engine.OPERATIONS.pop("identity")
    with np.errstate(invalid="ignore"), pytest.raises(tg.GradcheckError):
        tg.gradcheck(identity, [X])


def test_the_message_says_where_and_how_to_see_it_again():
    def product(x, y):
        return x * wrong_by(2)(y)

    with pytest.raises(tg.GradcheckError) as caught:
        tg.gradcheck(product, [np.array([1.0, 2.0]), np.array([0.5, 0.25])], seed=7)
    error, text = caught.value, str(caught.value)
    assert (error.input_name, error.entry, error.order, error.seed) == ("inputs[1]", (0,), 1, 7)
    assert error.engine == pytest.approx(2 * error.numeric)
    assert "product" in text and "inputs[1][0]" in text and repr(error.engine) in text
    code = text[text.index("To see it again:") :].splitlines()[1:]
    scope = {"product": product}
    with pytest.raises(tg.GradcheckError) as again:
        exec("\n".join(line.strip() for line in code), scope)  # the printed lines, as they stand
    assert again.value.args[0] == error.args[0].replace("method='auto'", "method='central'")


@pytest.mark.parametrize(
    ("func", "x"),
    [(tg.relu, 0.0), (tg.abs, 0.0), (lambda x: tg.maximum(x, 1.0), 1.0), (tg.abs, 1e-4)],
    ids=["relu", "abs", "maximum", "near"],
)
def test_kinks_are_told_as_kinks(func, x):
    with pytest.raises(tg.NondifferentiableError, match="kink"):
        tg.gradcheck(func, [np.array([x, 2.0])])


def test_the_complex_step_is_taken_only_where_it_is_exact():
    assert tg.gradcheck(tg.tanh, [X]).method == "complex and central"
    assert tg.gradcheck(tg.abs, [X]).method == "central"
    assert tg.gradcheck(lambda x: tg.tanh(tg.abs(x)), [X]).method == "central"
    with pytest.raises(tg.GradcheckError, match="real value"):
        tg.gradcheck(tg.abs, [X], method="complex")


def test_methods_that_disagree_are_told():
    """A function that takes the real part on the side: the complex step alone would be deceived."""
    with pytest.raises(tg.GradcheckError):
        tg.gradcheck(lambda x: x * x + tg.Tensor(x.array.real).tanh(), [X])


NOTHING = {
    "no inputs": (tg.tanh, []),
    "no entries": (tg.tanh, [np.zeros((0, 3))]),
    "detached": (lambda x: x.detach() * 2, [X]),
    "of something else": (lambda x: tg.tensor(1.0, requires_grad=True) * 2, [X]),
    "a plain array": (lambda x: x.numpy(), [X]),
    "integers": (tg.tanh, [np.array([1, 2])]),
    "too many inputs": (tg.tanh, [X, X]),
}


@pytest.mark.parametrize("name", NOTHING)
def test_a_check_of_nothing_is_an_error(name):
    with pytest.raises(tg.GradcheckError):
        tg.gradcheck(*NOTHING[name])


def test_random_and_impure_functions_are_told():
    rng = np.random.default_rng(0)
    with pytest.raises(tg.GradcheckError, match="random"):
        tg.gradcheck(lambda x: tg.dropout(x, 0.5, rng), [X])


def test_leaves_that_are_closed_over_are_swapped_and_put_back():
    W = tg.tensor(np.ones((2, 3)), dtype=np.float32, requires_grad=True)
    b = tg.tensor([0.5, -0.5], requires_grad=True)
    W.grad = tg.tensor(np.full((2, 3), 7.0))
    before = W.array, W.node, W.grad
    tg.gradgradcheck(lambda: tg.tanh(W @ X + b), [W, b])
    assert (W.array, W.node, W.grad) == before and W.dtype == np.float32 and b.grad is None

    def fails():
        raise KeyError("the user's own")

    with pytest.raises(KeyError):
        tg.gradcheck(fails, [W])
    assert (W.array, W.node, W.grad) == before


def test_leaves_that_are_closed_over_are_swapped_on_the_way_back_too():
    w = tg.tensor(X, requires_grad=True)
    tg.gradcheck(lambda: tg.checkpoint(lambda x: tg.tanh(x * w), X), [w], order=2)


def test_several_outputs_and_inputs_that_do_not_matter():
    def func(x, y):
        first, second = tg.unstack(tg.stack([x * x, tg.exp(x)]))
        return first, second, x + 0.0 * y

    report = tg.gradcheck(func, [X, X + 1], order=2)
    assert report.cases == 12


def test_zero_second_derivatives_are_checked_too():
    assert tg.gradgradcheck(lambda x: 3.0 * x, [X]).worst_by_order[1] == 0.0


def test_the_table_of_all_operations(capsys):
    assert table.main(["tanh", "abs", "--cases", "2", "--order", "3"]) == 0
    out = capsys.readouterr().out
    numbers = re.search(r"tanh +complex step +2 +\d+ +(\S+)", out)[1]
    assert re.search(r"2 of 2 operations passed: 4 cases, \d+ numbers compared", out)
    assert f"worst error, order 1, complex step: {numbers} (tanh)" in out
    assert re.search(r"worst error, order 1, differences: \S+ \(abs\)", out)


def test_the_table_tells_a_failure(capsys, monkeypatch):
    rule = tg.tanh.operation.rules[0][1]
    monkeypatch.setattr(rule, "vjp", lambda g, y: g * (1 - y))
    assert table.main(["tanh", "exp", "--cases", "1"]) == 1
    out = capsys.readouterr().out
    assert "FAILED" in out and "1 of 2 operations passed" in out


def test_an_unknown_operation_is_refused(capsys):
    with pytest.raises(SystemExit):
        table.main(["tahn"])
    assert "unknown operation tahn" in capsys.readouterr().err
