"""Word vectors: the demo, its parts against what NumPy says word by word, and its exercise."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from demos import _kit as kit
from demos import _planes as planes
from demos import word_vectors as demo
from tinygrad_rnn import backward

texts = st.lists(st.integers(0, 4), min_size=2, max_size=12).map(np.array)


def run(tmp_path, *flags):
    return demo.main(["--quick", "--quiet", "--no-plot", "--out", str(tmp_path), *flags])


def test_every_claim_is_seen(tmp_path, capsys):
    assert run(tmp_path) == 0
    out = capsys.readouterr().out
    assert out.count("seen: ") == 3 and "NOT SEEN" not in out
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    found = {line["way"]: line["twins_found"] for line in lines if "twins_found" in line}
    assert min(found[way] for way in ("LSA", "skip-gram", "CBOW")) >= 0.25
    assert max(found[way] for way in ("random vectors", "LSA, words shuffled")) < 0.05
    nats = [line["nats"] for line in lines if line.get("way") == "skip-gram" and "nats" in line]
    assert nats == sorted(nats, reverse=True) and nats[0] < 6 * np.log(2)  # untrained: u = 0
    assert (tmp_path / "picture.csv").read_text(encoding="utf-8").startswith("way,word,kind,x,y")


def test_a_text_of_words_in_random_order_has_no_twins_to_be_found(tmp_path, capsys):
    words = [f"w{i}" for i in np.random.default_rng(0).integers(0, 90, 9000)]
    (tmp_path / "noise.txt").write_text(" ".join(words))
    flags = ["--data", str(tmp_path / "noise.txt"), "--epochs", "1", "--window", "1"]
    assert run(tmp_path / "out", *flags) == 1
    out = capsys.readouterr().out
    assert "NOT SEEN: each of the three" in out and "no names" in out


@pytest.mark.parametrize(
    "text, complaint",
    [(b"a few words", "none has a twin"), (b" ", "is empty"), (b"\xff", "no UTF-8")],
)
def test_a_text_that_is_no_use_is_one_line(text, complaint, tmp_path, capsys):
    (tmp_path / "text").write_bytes(text)
    assert run(tmp_path, "--data", str(tmp_path / "text")) == 1
    err = capsys.readouterr().err
    assert err.startswith("error: ") and complaint in err and err.count("\n") == 1


@pytest.mark.nonfinite
def test_a_training_that_diverges_is_one_line(tmp_path, capsys):
    with np.errstate(all="ignore"):
        assert run(tmp_path, "--lr", "1e30") == 1
    assert capsys.readouterr().err.startswith("error: training diverged")


@pytest.mark.parametrize("flags", [["--window", "0"], ["--dim", "x"], ["--lr", "nan"]])
def test_wrong_arguments_are_refused(flags, tmp_path):
    with pytest.raises(SystemExit) as refused:
        run(tmp_path, *flags)
    assert refused.value.code == 2


# ---- the text ----


def test_twins_share_the_occurrences_of_a_word_and_leave_other_words_alone():
    words = [f"w{i}" for i in range(60) for _ in range(100 - i)]
    split, twinned = demo.with_twins(words, 3, 2, np.random.default_rng(0))
    assert twinned == ["w50", "w52", "w54"]
    assert [w.removesuffix(demo.TWIN) for w in split] == words
    assert {w for w in split if w.endswith(demo.TWIN)} == {w + demo.TWIN for w in twinned}
    assert set(twinned) < set(split)


@given(texts, st.integers(1, 3))
def test_company_is_who_stands_within_the_window(ids, window):
    near, counts = demo.company(ids, window)
    for t in range(len(ids)):
        expected = [*ids[max(0, t - window) : t], *ids[t + 1 : t + 1 + window]]
        assert near[t, counts[t]].tolist() == expected
    _, fewer = demo.company(ids, window, np.random.default_rng(0))
    assert not (fewer & ~counts).any()  # never farther
    assert (fewer[:, window - 1 : window + 1] == counts[:, window - 1 : window + 1]).all()


@given(texts, st.integers(1, 3))
def test_ppmi_counts_pairs(ids, window):
    places = range(len(ids))
    pairs = [(ids[s], ids[t]) for s in places for t in places if 0 < abs(s - t) <= window]
    M = demo.ppmi(ids, 5, window)
    for w in range(5):
        for c in range(5):
            both = sum(p == (w, c) for p in pairs) / len(pairs)
            p, q = (sum(pair[i] == x for pair in pairs) / len(pairs) for i, x in ((0, w), (1, c)))
            assert M[w, c] == pytest.approx(max(0, np.log(both / (p * q))) if both else 0)


# ---- word2vec ----


def test_cost_and_steps_are_those_of_the_formula():
    """By hand: dE/dscore = sigmoid(score) - label, times h for u, times u for h."""
    rng, model = np.random.default_rng(0), demo.Word2Vec(6, 3)
    v, u = rng.normal(size=(2, 6, 3))
    model.v.weight.array, model.u.weight.array = v.copy(), u.copy()
    w, o, drawn = np.array([0, 1]), np.array([2, 3]), np.array([[4, 2], [4, 4]])  # 2 again
    E = model.cost(model.skip_gram(w), o, drawn)
    E.sum().backward()
    du, dv, costs = np.zeros_like(u), np.zeros_like(v), []
    for i in range(2):
        cost, words = 0.0, [(o[i], 1), *((n, 0) for n in drawn[i] if n != o[i])]
        for n, label in words:
            p = 1 / (1 + np.exp(-u[n] @ v[w[i]]))
            cost -= np.log(p if label else 1 - p)
            du[n] += (p - label) * v[w[i]]
            dv[w[i]] += (p - label) * u[n]
        costs.append(cost)
    np.testing.assert_allclose(E.array, costs, rtol=1e-6)
    np.testing.assert_allclose(model.u.weight.grad.array, du, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(model.v.weight.grad.array, dv, rtol=1e-6, atol=1e-9)


@given(st.integers(0, 99))
def test_cbow_is_the_mean_of_the_company(seed):
    rng, model = np.random.default_rng(seed), demo.Word2Vec(6, 3)
    near, counts = rng.integers(0, 6, (4, 5)), rng.random((4, 5)) < 0.5
    counts[:, 0] = True
    h = model.cbow(near, counts).numpy()
    for i in range(4):
        mean = model.v.weight.numpy()[near[i, counts[i]]].mean(axis=0)
        np.testing.assert_allclose(h[i], mean, rtol=1e-5, atol=1e-8)


def test_the_gradients_of_both_tables_are_kept_as_rows():
    model = demo.Word2Vec(50, 3)
    w, o, drawn = np.array([0, 1]), np.array([2, 3]), np.array([[4, 2], [4, 4]])
    model.cost(model.skip_gram(w), o, drawn).sum().backward()
    for table, named in ((model.v, {0, 1}), (model.u, {2, 3, 4})):
        rows = backward.rows_of_grad(table.weight)
        assert rows is not None and set(rows.ids.tolist()) == named


# ---- the measures ----


def test_measures_on_vectors_that_are_known():
    v = np.array([[1.0, 0.0], [0.9, 0.1], [0.0, 5.0], [0.1, 4.0], [-1.1, -1.0]])
    order = demo.nearest(v)
    assert order[:, 0].tolist() == [1, 0, 3, 2, 2] and order.shape == (5, 4)
    assert demo.twins_found(order, np.array([[0, 1], [2, 3]])) == 1
    assert demo.twins_found(order, np.array([[0, 1], [2, 4]])) == 0.75  # 4's nearest is 2
    assert demo.kinds(["__add__", "valueerror", "a", "__"]).tolist() == [
        "special name",
        "exception",
        "",
        "",
    ]
    kind = np.array(["x", "x", "", "x", ""])  # with 4 others each, all of them are neighbours
    assert demo.same_kind(order, kind) == pytest.approx(0.5)


def test_a_plane_keeps_the_distances_of_what_lies_in_one():
    rng = np.random.default_rng(0)
    flat = rng.normal(size=(7, 2)) @ np.linalg.qr(rng.normal(size=(4, 2)))[0].T + rng.normal(size=4)
    distances = [np.linalg.norm(x[:, None] - x, axis=-1) for x in (flat, planes.plane(flat))]
    np.testing.assert_allclose(*distances, atol=1e-12)


def test_the_picture_is_drawn(tmp_path):
    pytest.importorskip("matplotlib")
    p = kit.parser("word_vectors", demo.__doc__)
    with kit.Run(p.parse_args(["--out", str(tmp_path), "--quiet"])) as run:
        kind, places = np.array(["", "exception"]), {"LSA": np.eye(2)}
        planes.draw(run, "picture", ["a", "b"], places, kind, np.array([[0, 1]]))
    assert (tmp_path / "picture.png").stat().st_size > 5000
    assert len((tmp_path / "picture.csv").read_text().splitlines()) == 3


# ---- the exercise ----


def reference(v, a, b, c):
    """d of a : b = c : d."""
    v = v / np.linalg.norm(v, axis=1, keepdims=True)
    cosines = v @ (v[b] - v[a] + v[c])  # the length of the question does not matter
    cosines[[a, b, c]] = -np.inf
    return cosines.argmax()


analogy = getattr(demo, "analogy", reference)  # the learner's, once it is there


@given(st.integers(0, 999), st.floats(0.1, 10))
def test_analogy_completes_a_parallelogram(seed, scale):
    """Rows 0, 1, 2, 3 are its corners on a sphere; the others are random, or 1 and 2 once more."""
    rng = np.random.default_rng(seed)
    e = np.linalg.qr(rng.normal(size=(8, 8)))[0]
    corners = [e[0] + e[2], e[1] + e[2], e[0] + e[3], e[1] + e[3]]
    others = [e[i] + e[j] for i in (4, 5) for j in (0, 6, 7)]
    lengths = rng.uniform(0.1, 5, (10, 1)) * scale
    v = np.array(corners + others) * lengths
    place = rng.permutation(10)
    shuffled = np.empty_like(v)
    shuffled[place] = v
    before = shuffled.copy()
    assert analogy(shuffled, *place[:3]) == place[3]
    np.testing.assert_array_equal(shuffled, before)


def test_analogy_never_answers_with_the_question():
    v = np.array([[1.0, 0.0], [0.9, 0.1], [0.8, 0.3], [-1.0, 0.2]])
    assert analogy(v, 0, 1, 2) == 3
