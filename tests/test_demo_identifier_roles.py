"""Readers in one direction and in both: the demo, its data, its look-up tables, its exercise."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinygrad_rnn as tg
from demos import _kit as kit
from demos import _tagging
from demos import identifier_roles as demo

PACKAGE = Path(tg.__file__).parent  # Python that is always there

OFFICIAL = """# sent_id = 1
# text = I don't know
1\tI\ti\tPRON\tPRP\t_\t4\tnsubj\t_\t_
2-3\tdon't\t_\t_\t_\t_\t_\t_\t_\t_
2\tdo\tdo\tAUX\tVBP\t_\t4\taux\t_\t_
3\tn't\tnot\tPART\tRB\t_\t4\tadvmod\t_\t_
4\tknow\tknow\tVERB\tVB\t_\t0\troot\t_\t_
4.1\tanything\tanything\tPRON\t_\t_\t_\t_\t4:obj\t_

1\tYes\tyes\tINTJ\tUH\t_\t0\troot\t_\t_
"""


def run(tmp_path, *flags):
    return demo.main(["--quick", "--quiet", "--out", str(tmp_path), *map(str, flags)])


# ---- the demo ----


def test_a_quick_run_shows_the_gap_and_leaves_its_files(tmp_path, capsys):
    assert run(tmp_path) == 0
    assert "seen:" not in capsys.readouterr().out.lower()  # it is too short for claims
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    shares = next(line["accuracy"] for line in lines if "accuracy" in line)
    assert shares["both"] > shares["forward"]
    assert shares["table: 2 on both sides"] > shares["table: 3 left"] > shares["table: word"]
    for name in ("accuracy_by_position", "word_by_word"):
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert len((tmp_path / f"{name}.csv").read_text().splitlines()) >= 8


@pytest.mark.parametrize("gap, seen", [(0.09, True), (0.05, False), (-0.1, False)])
def test_the_claim_of_the_default_run_is_its_gap(gap, seen):
    shares, levels = {"both": 0.7 + gap, "forward": 0.7}, {"forward": 0.7}
    args = SimpleNamespace(quick=False, data=None)
    assert [*demo.report(shares, [0.5], levels, args).values()] == [seen]
    for key in ("quick", "data"):
        own = SimpleNamespace(**vars(args) | {key: True})
        assert demo.report(shares, [0.5], levels, own) == {}


def test_a_treebank_is_split_as_its_files_say(tmp_path):
    text = "".join(f"1\tw{i % 7}\t_\t{'AB'[i % 2]}" + "\t_" * 6 + "\n\n" for i in range(100))
    for part in ("train", "dev", "test"):
        (tmp_path / f"xx-ud-{part}.conllu").write_text(text)
    train, test = _tagging.split(_tagging.read_lines(tmp_path), ("train", "test"))
    assert {line.source for line in train} == {"xx-ud-train.conllu"} and len(train) == 100
    assert {line.source for line in test} == {"xx-ud-test.conllu"} and len(test) == 100


def test_sources_and_lines_are_either_to_train_on_or_to_test_on():
    several = _tagging.read_lines(PACKAGE)
    alone = _tagging.read_lines(PACKAGE / "engine.py")
    for lines, key in [(several, lambda x: x.source), (alone, lambda x: x.words)]:
        train, test = _tagging.split(lines, ("train", "test"))
        assert len(train) + len(test) == len(lines) and train and test
        assert not {key(line) for line in train} & {key(line) for line in test}


@pytest.mark.parametrize(
    "name, content",
    [
        ("absent.conllu", None),
        ("empty.conllu", b""),
        ("latin.conllu", b"1\t\xff\t_\tNOUN\t_\t_\t_\t_\t_\t_\n"),
        ("spaces.conllu", b"1 I i PRON PRP _ 4 nsubj _ _\n"),
        ("letters.conllu", b"one\tI\ti\tPRON\tPRP\t_\t4\tnsubj\t_\t_\n"),
        ("digits.conllu", b"9" * 9999 + b"\tI\ti\tPRON\tPRP\t_\t4\tnsubj\t_\t_\n"),
        ("untagged.conllu", b"1\tI\ti\t_\tPRP\t_\t4\tnsubj\t_\t_\n"),
        ("lonely.conllu", OFFICIAL.split("\n\n")[1].encode()),
        ("comment.py", b"# nothing\n"),
    ],
)
def test_data_that_cannot_be_used_gets_one_line(name, content, tmp_path, capsys):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    assert run(tmp_path / "out", "--data", tmp_path / name) == 1
    err = capsys.readouterr().err
    assert err.startswith("error: ") and err.count("\n") == 1


@pytest.mark.parametrize("flags", [["--hidden-size", "3"], ["--lines", "0"], ["--dropout", "1"]])
def test_wrong_arguments_are_refused(flags, tmp_path):
    with pytest.raises(SystemExit) as refused:
        run(tmp_path, *flags)
    assert refused.value.code == 2


# ---- the data ----


def test_conllu_skips_comments_ranges_and_empty_nodes():
    first, second = _tagging.conllu(OFFICIAL, "x")
    assert first.words == ("I", "do", "n't", "know")
    assert first.tags == ("PRON", "AUX", "PART", "VERB")
    assert (second.words, second.tags) == (("Yes",), ("INTJ",))


def test_conllu_names_the_line_that_is_wrong():
    with pytest.raises(kit.DataError, match=r"^x, line 12: 2 columns"):
        _tagging.conllu(OFFICIAL + "\n1\tb\n", "x")
    with pytest.raises(kit.DataError, match=r"^x, line 3: 'one' is no id"):
        _tagging.conllu(OFFICIAL.replace("1\tI", "one\tI"), "x")


SOURCE = """
def f(a, *b, c: d = 1, **e):  # a comment
    é, x.y = g(a)(u=v)[w], "s"
    del x.z, q
    return (x
        .m(n).o)
async def h(): print(f"{hidden}", lambda k: [i for i in j if i])
"""


def test_roles_are_those_of_the_syntax_tree(tmp_path):
    (tmp_path / "a.py").write_text(SOURCE, encoding="utf-8")
    lines = _tagging.read_lines(tmp_path / "a.py")
    found = [[f"{w}:{t}" for w, t in zip(x.words, x.tags, strict=True) if t] for x in lines]
    assert found == [
        "a:PARAM b:PARAM c:PARAM d:LOAD e:PARAM".split(),
        "é:STORE x:LOAD y:ATTR_STORE g:CALL a:LOAD u:KWARG v:LOAD w:LOAD".split(),
        "x:LOAD z:DEL q:DEL".split(),
        "x:LOAD m:ATTR_CALL n:LOAD o:ATTR".split(),
        "print:CALL k:PARAM i:LOAD i:STORE j:LOAD i:LOAD".split(),
    ]
    assert lines[1].words[-2:] == (",", '""')


# ---- the models and the tables ----


def ids(*lengths):
    return [tg.default_rng().integers(0, 9, n) for n in lengths]


@pytest.mark.parametrize("way, layers", demo.WAYS.values(), ids=demo.WAYS)
def test_what_a_reader_knows_of_a_line(way, layers):
    """Word s matters to tag t if s <= t, if s >= t, or always, and never in another line."""
    model = demo.Reader(9, 4, 6, way, layers, dropout=0.0)
    x = ids(3, 5, 1)
    before = model(x).array
    for s in range(5):
        other = [line.copy() for line in x]
        other[1][s] = (other[1][s] + 1) % 9
        changed = (model(other).array != before).any(axis=1)
        expected = {"forward": np.arange(5) >= s, "backward": np.arange(5) <= s}
        np.testing.assert_array_equal(changed[3:8], expected.get(way, np.ones(5, bool)))
        assert not changed[:3].any() and not changed[8:].any()


@pytest.mark.parametrize("way, layers", demo.WAYS.values(), ids=demo.WAYS)
def test_a_batch_of_unequal_lines_is_each_line_alone(way, layers):
    model = demo.Reader(9, 4, 6, way, layers, dropout=0.0)
    x = ids(4, 1, 7, 4)
    alone = np.concatenate([model([line]).array for line in x])
    np.testing.assert_allclose(model(x).array, alone, atol=1e-6)
    np.testing.assert_array_equal(demo.tags_of(model, x), alone.argmax(axis=1))


def test_when_all_has_arrived_word_by_word_is_as_good_as_at_once():
    model = demo.Reader(9, 4, 6, "both", 1, dropout=0.0)
    x = ids(3, 5, 1)
    y = [line % 5 - 1 for line in x]
    at_once = demo.accuracy(demo.tags_of(model, x), np.concatenate(y))
    assert demo.while_it_arrives(model, x, y, ahead=5) == pytest.approx(at_once)


def test_a_table_backs_off_to_fewer_words():
    x, y = [np.array([1, 2, 3]), np.array([4, 2])], [np.array([-1, 0, -1]), np.array([-1, 1])]
    again = [np.array([2])], [np.array([0])]  # so that 2 alone is more often 0
    train = x + again[0], y + again[1]
    assert demo.table_accuracy(train, (x, y), 1, 0) == 1.0
    assert demo.table_accuracy(train, (x, y), 0, 0) == 0.5
    assert demo.table_accuracy(train, ([np.array([9, 2])], [np.array([-1, 0])]), 1, 0) == 1.0
    assert demo.table_accuracy(train, ([np.array([9])], [np.array([0])]), 2, 2) == 1.0


# ---- the exercise ----


def reference(forward, backward):
    """[f^t, b^t] for every word, in the order of the line."""
    return np.concatenate([forward, backward[::-1]], axis=1)


concatenated = getattr(demo, "concatenated", reference)  # the learner's, once it is there


@given(st.integers(1, 6), st.integers(1, 4))
def test_concatenated_is_what_a_bidirectional_layer_gives(T, H):
    """Of the layer with the same weights in both directions."""
    both, one, other = (tg.nn.LSTM(3, H, bidirectional=i == 0) for i in range(3))
    for name, w in one.state_dict().items():
        getattr(both, name).array[...] = w
    for name, w in other.state_dict().items():
        getattr(both, f"{name}_reverse").array[...] = w
    x = np.random.default_rng(T).standard_normal((T, 3)).astype(np.float32)
    found = concatenated(one(x)[0].numpy(), other(x[::-1])[0].numpy())
    np.testing.assert_allclose(found, both(x)[0].numpy(), atol=1e-6)
