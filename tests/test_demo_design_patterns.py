"""The five patterns: their tasks, their nets, their circuits, and the exercise."""

import json
from xml.etree import ElementTree

import numpy as np
import pytest

import tinygrad_rnn as tg
from demos import design_patterns as demo
from tinygrad_rnn import nn


def example(name, B=4):
    """A small net of the pattern, and the first inputs and answers of its task."""
    kind, task, D, K = demo.PATTERNS[name]
    x, y = task(np.random.default_rng(0), B)
    return kind(D, 5, K), x[:B], y[:B]


class ManyFromOne(nn.Module):
    """The exercise: h^t = tanh(U [x; y^{t-1}] + W h^{t-1} + b), h^0 = 0."""

    def __init__(self, D, H, K):
        self.embed, self.cell, self.V = nn.Embedding(K, H), nn.RNNCell(D + H, H), nn.Linear(H, K)

    def forward(self, x, y):
        h, outputs = None, []
        for before in [np.full(len(y), demo.END), *y.T[:-1]]:
            h = self.cell(tg.concatenate([x, self.embed(before)], axis=-1), h)
            outputs.append(self.V(h))
        return outputs


# ---- the tasks -----------------------------------------------------------------------------------


def test_every_answer_is_that_of_its_task():
    rng = np.random.default_rng(1)
    for x, y in zip(*demo.quadrants(rng, 50), strict=True):
        assert y[0] == ((x > 0).sum() != 1)
    for x, y in zip(*demo.inventory(rng, 0), strict=True):
        named = [i for i in y if i != demo.END]
        assert named == sorted(set(named)) and {i - 1 for i in named} == set(np.flatnonzero(x))
    x, y = demo.order(rng, 0)
    assert (np.sort(x, axis=1)[:, -2:] == [1, 2]).all() and x.sum() == 3 * len(x)
    for row, first in zip(x, y, strict=True):
        assert first[0] == (row.tolist().index(1) < row.tolist().index(2))
    for x, y in zip(*demo.backwards(rng, 0), strict=True):
        word = "".join(map(str, x)).replace("0", "")[::-1]
        assert "".join(map(str, y)) == word.ljust(6, "0")
    for x, y in zip(*demo.records(rng, 50), strict=True):
        assert y.tolist() == [int(all(a > b for b in x[:t])) for t, a in enumerate(x)]


# ---- the nets ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", demo.PATTERNS)
def test_a_net_gives_logits_for_each_output(name):
    net, x, y = example(name)
    K = demo.PATTERNS[name][3]
    assert [logits.shape for logits in net(x, y)] == [(4, K)] * y.shape[1]


@pytest.mark.parametrize("name", demo.PATTERNS)
def test_no_net_sees_an_output_before_it_gives_it(name):
    net, x, y = example(name)
    for t in range(y.shape[1]):
        other = y.copy()
        other[:, t:] = (other[:, t:] + 1) % demo.PATTERNS[name][3]
        np.testing.assert_array_equal(net(x, y)[t].array, net(x, other)[t].array)


def test_answers_are_the_choices_of_a_greedy_search():
    net, x, y = example("one to many")

    def step(tokens, h):
        h = net.decoder.cell(net.decoder.embed(tokens), h)
        return tg.log_softmax(net.decoder.V(h)), h

    h = tg.tanh(net.U(x))
    found = tg.decode.greedy(step, h, np.full(4, demo.END), steps=y.shape[1])
    ours = demo.answers(net, x, y.shape[1])
    assert [list(one.tokens) for one in found] == ours.tolist()


@pytest.mark.parametrize("name", demo.PATTERNS)
def test_circuits_have_as_many_loops_as_the_pattern_for_any_length(name):
    net, x, y = example(name, B=1)
    expected = dict(zip(demo.PATTERNS, demo.LOOPS, strict=True))[name]
    circuit, unfolded = demo.drawings(net, x, y)
    assert demo.loops(circuit) == expected
    assert len(circuit.boxes) < len(unfolded.boxes) or not expected
    whole = tg.draw(net(x, y), collapsed=True)
    assert demo.loops(whole) == expected


def test_a_net_that_may_not_remember_cannot_tell_the_order():
    """The loop is what does it: without W, the last state knows the last symbol alone."""
    net, x, y = example("many to one", B=132)
    net.encoder.cell.weight_hh.array[:] = 0
    outputs = net(x, y)[0].array
    for last in range(3):
        assert np.ptp(outputs[x[:, -1] == last], axis=0).max() == 0


# ---- the run -------------------------------------------------------------------------------------


def test_a_quick_run_leaves_drawings_curves_and_metrics(tmp_path, capsys):
    assert demo.main(["--quick", "--quiet", "--out", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in demo.PATTERNS) and "NOT SEEN" not in out
    svgs = sorted(tmp_path.glob("*.svg"))
    assert len(svgs) == 10
    for path in svgs:
        assert ElementTree.parse(path).getroot().tag.endswith("svg")
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["loops"] for line in lines if "loops" in line] == demo.LOOPS
    assert len((tmp_path / "loss.csv").read_text().splitlines()) == 31
    assert (tmp_path / "loss.png").exists()


def test_a_claim_that_fails_is_an_exit_code(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(demo, "LOOPS", [0, 1, 1, 1, 1])
    assert demo.main(["--quick", "--quiet", "--no-plot", "--out", str(tmp_path)]) == 1
    assert "NOT SEEN" in capsys.readouterr().out


@pytest.mark.parametrize("flags", [["--steps", "0"], ["--lr", "nan"], ["--seed", "-1"]])
def test_wrong_flags_are_refused(flags, tmp_path):
    with pytest.raises(SystemExit) as stop:
        demo.main([*flags, "--out", str(tmp_path)])
    assert stop.value.code == 2


# ---- the exercise --------------------------------------------------------------------------------


def reaches(net, x, y):
    """Whether x reaches the last output although the state after the first step is cut off."""
    x = tg.tensor(x, requires_grad=True)
    steps = []
    cell = net.cell if hasattr(net, "cell") else net.decoder.cell
    plain = cell.forward

    def cut(u, h=None):
        steps.append(h)
        return plain(u, h.detach() if h is not None else None)

    cell.forward = cut
    try:
        last = tg.sum(net(x, y)[-1])
    finally:
        del cell.forward
    x.grad = None
    last.backward()
    return len(steps) == y.shape[1] and x.grad is not None and bool(np.any(x.grad.numpy()))


def test_the_exercise_reads_its_input_at_every_step():
    _, x, y = example("one to many")
    net = ManyFromOne(8, 5, 9)
    assert [logits.shape for logits in net(x, y)] == [(4, 9)] * 9
    assert demo.loops(tg.draw(net(x, y), collapsed=True)) == 1
    assert reaches(net, x, y)
    assert not reaches(demo.OneToMany(8, 5, 9), x, y)  # there x comes by the first state alone
