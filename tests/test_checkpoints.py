"""Laws of `Checkpoints`: a state comes back as it was, or the one before does, and it says so."""

import base64
import inspect
import json
import os
import shutil
import subprocess
import sys
import textwrap
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import tinygrad_rnn as tg

plain = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5)
arrays = st.builds(
    lambda shape, kind, wrap: wrap(
        np.arange(np.prod(shape, dtype=int)).reshape(shape).astype(kind)
    ),
    st.lists(st.integers(0, 3), max_size=3).map(tuple),
    st.sampled_from(["f4", "f8", "i8", "u1", "?"]),
    st.sampled_from([np.asarray, tg.tensor]),
)
keys = st.text("ab.'", max_size=3)
states = st.recursive(
    plain | arrays,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(keys, inner, max_size=3)
    ),
    max_leaves=12,
)


def assert_same(a, b):
    """That two nested states are equal, down to types, dtypes and bits."""
    assert type(a) is type(b)
    if isinstance(a, tg.Tensor):
        assert not b.requires_grad
        a, b = a.array, b.array
    if isinstance(a, np.ndarray):
        assert a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    elif isinstance(a, dict):
        assert list(a) == list(b)
        for key in a:
            assert_same(a[key], b[key])
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b)
        for one, other in zip(a, b, strict=True):
            assert_same(one, other)
    else:
        assert a == b


def files(folder):
    """What is in a folder but locks: {name: bytes}."""
    paths = [path for path in folder.iterdir() if path.suffix != ".lock"]
    return {path.name: path.read_bytes() for path in paths}


@given(states)
@example({"a": {"b": np.zeros(1)}, "a.b": np.ones(1), "a.b'": np.ones(2)})
def test_a_state_comes_back_as_it_was(tmp_path_factory, state):
    folder = tmp_path_factory.mktemp("states")
    tg.Checkpoints(folder).save(state)
    assert_same(state, tg.Checkpoints(folder).latest())


def test_states_of_generators_come_back(tmp_path):
    for kind in (np.random.PCG64, np.random.MT19937, np.random.Philox, np.random.SFC64):
        one, other = kind(1), kind(2)
        checkpoints = tg.Checkpoints(tmp_path, kind.__name__)
        checkpoints.save(one.state)
        other.state = checkpoints.latest()
        assert other.random_raw(5).tolist() == one.random_raw(5).tolist()


LONG = tg.checkpoints._LONG  # from which on a list of numbers is an array in the file


@given(
    st.lists(st.integers(-(2**64), 2**64), min_size=1, max_size=3)
    | st.lists(st.floats(allow_nan=False), min_size=1, max_size=3)
    | st.lists(plain, min_size=1, max_size=3),
    st.integers(LONG - 1, LONG + 1),
)
@example([2**63 - 1, -(2**63)], LONG)
@example([2**63], LONG)
@example([-(2**63) - 1], LONG)
@example([1, True], LONG)
@example([1, 1.0], LONG)
@example([-0.0, 0.0], LONG)
def test_a_long_list_comes_back_as_it_was(tmp_path_factory, few, length):
    folder, numbers = tmp_path_factory.mktemp("lists"), (few * length)[:length]
    state = {"a": {"b\n": numbers, "c": 1}, "a.b\n": [np.zeros(1)], "d": [numbers, (numbers,)]}
    tg.Checkpoints(folder).save(state)
    found = tg.Checkpoints(folder).latest()
    assert_same(state, found)
    for a, b in zip(numbers, found["a"]["b\n"], strict=True):
        assert repr(a) == repr(b)  # of zeros also the sign


def test_the_losses_of_a_long_run_and_more_than_a_megabyte_come_back(tmp_path):
    state = {"losses": [0.1] * 300_000, "steps": [*range(300_000)], "w": np.ones(2**18, "f4")}
    tg.Checkpoints(tmp_path).save(state)
    assert_same(state, tg.Checkpoints(tmp_path).latest())


@settings(max_examples=20)
@given(
    st.lists(st.none() | st.sampled_from([float("nan"), 0.0, 1.0, 2.0]), min_size=1, max_size=9),
    st.integers(1, 4),
    st.sets(st.integers(0, 8)),
)
def test_the_last_few_are_kept_and_the_first_of_the_best(tmp_path_factory, scores, keep, restarts):
    folder = tmp_path_factory.mktemp("kept")
    checkpoints = tg.Checkpoints(folder, keep=keep)
    for i, score in enumerate(scores):
        if i in restarts:  # a run that goes on keeps what it would have kept
            checkpoints = tg.Checkpoints(folder, keep=keep)
            checkpoints.latest()
        checkpoints.save(i, score)
        seen = [x for x in scores[: i + 1] if x is not None and x == x]
        best = scores.index(max(seen)) if seen else None
        expected = {*range(i + 1)[-keep:], *([] if best is None else [best])}
        assert set(files(folder)) == {f"checkpoint-{number + 1:06}.npz" for number in expected}
        for reader in (checkpoints, tg.Checkpoints(folder)):
            assert reader.latest() == i and reader.best() == best


def test_the_best_outlives_the_last(tmp_path):
    run = tg.Checkpoints(tmp_path, keep=1)
    for number, score in enumerate([1.0, 3.0, 2.0, 0.0], 1):
        run.save(number, score)
    assert sorted(files(tmp_path)) == ["checkpoint-000002.npz", "checkpoint-000004.npz"]


def test_the_program_in_the_docstring_ends_with_the_same_bits(tmp_path, monkeypatch):
    doc = inspect.cleandoc(tg.Checkpoints.__doc__)
    program = textwrap.dedent(doc[doc.index("    tg.manual_seed") : doc.index("Dropout draws")])

    def end_of(folder, lives=()):
        """The weights at the end of a program that dies at so many saves, again and again."""
        (tmp_path / folder).mkdir()
        monkeypatch.chdir(tmp_path / folder)
        for saves in (*lives, None):
            left = [saves]

            class Dying(tg.Checkpoints):
                def save(self, *arguments, left=left, **keywords):
                    if left[0] == 0:
                        raise SystemExit
                    left[0] = left[0] and left[0] - 1
                    super().save(*arguments, **keywords)

            names = {"np": np, "tg": type("tg", (), {**vars(tg), "Checkpoints": Dying})}
            try:
                exec(program, names)
            except SystemExit:
                assert saves is not None
        return names["model"].state_dict()

    whole = end_of("whole")
    assert_same(whole, end_of("parts", (0, 1, 7, 0, 9)))
    assert len(files(tmp_path / "parts" / "run")) in (3, 4)


GOLDEN = """
UEsDBBQAAAAAAAAAIQB0syWMKAEAACgBAAANAAAAbWV0YWRhdGEuanNvbnsiZm9ybWF0X3ZlcnNpb24iOiAxLCAiYXJyYXlz
IjogWyJzdGF0ZS5oLjAiLCAic3RhdGUudyJdLCAibWV0YWRhdGEiOiB7ImNoZWNrcG9pbnQiOiB7InZlcnNpb24iOiAxLCAi
bGFiZWwiOiAiY2hlY2twb2ludCIsICJudW1iZXIiOiAxLCAiYmVzdCI6IFsxLCAwLjI1XSwgImxheW91dCI6IHsiZGljdCI6
IHsiaCI6IHsidHVwbGUiOiBbeyJ0ZW5zb3IiOiAic3RhdGUuaC4wIn0sIHsidmFsdWUiOiBudWxsfV19LCAibG9zc2VzIjog
eyJ2YWx1ZSI6IFsxLjUsIDJdfSwgInciOiB7ImFycmF5IjogInN0YXRlLncifX19fX19UEsDBC0AAAAAAAAAIQBiXaMU////
//////8NABQAc3RhdGUuaC4wLm5weQEAEACIAAAAAAAAAIgAAAAAAAAAk05VTVBZAQB2AHsnZGVzY3InOiAnPGY0JywgJ2Zv
cnRyYW5fb3JkZXInOiBGYWxzZSwgJ3NoYXBlJzogKDIsKSwgfSAgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAg
ICAgICAgICAgICAgICAgICAgICAgICAgIAoAAAA/AAAAwFBLAwQtAAAAAAAAACEAI7jwbP//////////CwAUAHN0YXRlLncu
bnB5AQAQAIgAAAAAAAAAiAAAAAAAAACTTlVNUFkBAHYAeydkZXNjcic6ICc8aTgnLCAnZm9ydHJhbl9vcmRlcic6IEZhbHNl
LCAnc2hhcGUnOiAoKSwgfSAgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAg
ICAgICAgCgcAAAAAAAAAUEsBAhQDFAAAAAAAAAAhAHSzJYwoAQAAKAEAAA0AAAAAAAAAAAAAAIABAAAAAG1ldGFkYXRhLmpz
b25QSwECLQMtAAAAAAAAACEAYl2jFIgAAACIAAAADQAAAAAAAAAAAAAAgAFTAQAAc3RhdGUuaC4wLm5weVBLAQItAy0AAAAA
AAAAIQAjuPBsiAAAAIgAAAALAAAAAAAAAAAAAACAARoCAABzdGF0ZS53Lm5weVBLBQYAAAAAAwADAK8AAADfAgAAAAA=
"""


def test_a_file_of_the_first_version_is_still_read(tmp_path):
    (tmp_path / "checkpoint-000001.npz").write_bytes(base64.b64decode(GOLDEN))
    checkpoints, h = tg.Checkpoints(tmp_path), tg.tensor([0.5, -2.0])
    state = {"h": (h, None), "losses": [1.5, 2], "w": np.array(7)}
    assert_same(checkpoints.latest(), state)
    assert_same(checkpoints.best(), state)


# ---- damage ----


def three(folder, label="checkpoint"):
    """Checkpoints that have saved 0, 1 and 2, each with an array."""
    checkpoints = tg.Checkpoints(folder, label)
    for i in range(3):
        checkpoints.save({"i": i, "x": np.full(50, i)})
    return checkpoints


def damaged(path):
    path.write_bytes(path.read_bytes()[:-30])


def test_a_damaged_file_is_named_and_the_one_before_it_taken(tmp_path):
    three(tmp_path)
    damaged(tmp_path / "checkpoint-000003.npz")
    checkpoints = tg.Checkpoints(tmp_path)
    with pytest.warns(UserWarning) as told:
        assert checkpoints.latest()["i"] == 1
    (message,) = [str(one.message) for one in told]
    assert told[0].filename == __file__  # who called latest
    assert "checkpoint-000003.npz: it cannot be read" in message and "\n" not in message
    assert message.endswith("going on from " + str(tmp_path / "checkpoint-000002.npz"))
    checkpoints.save({"i": 7})  # under a number that no file had
    assert set(files(tmp_path)) == {f"checkpoint-00000{i}.npz" for i in (1, 2, 4)}
    assert tg.Checkpoints(tmp_path).latest() == {"i": 7}


def test_if_all_are_damaged_it_says_so_of_each_and_touches_none(tmp_path):
    three(tmp_path)
    for path in tmp_path.iterdir():
        damaged(path)
    before = files(tmp_path)
    with pytest.raises(tg.CheckpointError, match="no file is whole") as refused:
        tg.Checkpoints(tmp_path).latest()
    assert all(str(tmp_path / name) in str(refused.value) for name in before)
    assert files(tmp_path) == before


@pytest.mark.parametrize(
    ("source", "target", "reason"),
    [
        ("other-000003", "checkpoint-000003", "it was written as other-3"),
        ("checkpoint-000002", "checkpoint-000003", "it was written as checkpoint-2"),
        ("model", "checkpoint-000003", "no state of Checkpoints"),
        ("newer", "checkpoint-000003", "no state of Checkpoints of version 1"),
        ("odd", "checkpoint-000003", "its layout is not as it says"),
        ("folder", "checkpoint-000003", ""),
    ],
)
def test_a_file_in_the_place_of_another_is_not_taken(tmp_path, source, target, reason):
    three(tmp_path), three(tmp_path, "other")
    tg.save(tmp_path / "model.npz", {"x": np.zeros(3)})
    tg.save(tmp_path / "newer.npz", {}, {"checkpoint": {"version": 2}})
    note = {"version": 1, "label": "checkpoint", "number": 3, "best": None}
    note["layout"] = {"tuple": [{"array": "nowhere"}]}
    tg.save(tmp_path / "odd.npz", {}, {"checkpoint": note})
    (tmp_path / "folder.npz").mkdir()
    (tmp_path / f"{target}.npz").unlink()
    (shutil.copytree if source == "folder" else shutil.copy)(
        tmp_path / f"{source}.npz", tmp_path / f"{target}.npz"
    )
    with pytest.warns(UserWarning, match=reason):
        assert tg.Checkpoints(tmp_path).latest()["i"] == 1


def test_best_says_what_is_wrong_with_its_file(tmp_path):
    checkpoints = tg.Checkpoints(tmp_path, keep=1)
    assert checkpoints.best() is None
    checkpoints.save({"i": 0}, score=1.0)
    checkpoints.save({"i": 1}, score=0.0)
    assert checkpoints.best() == tg.Checkpoints(tmp_path).best() == {"i": 0}
    damaged(tmp_path / "checkpoint-000001.npz")
    with pytest.raises(tg.CheckpointError, match="000001"):
        tg.Checkpoints(tmp_path).best()
    (tmp_path / "checkpoint-000001.npz").unlink()
    with pytest.raises(FileNotFoundError):
        tg.Checkpoints(tmp_path).best()


BESTS = {
    "one number": "[1]",
    "none": "[]",
    "three": "[1, 1.0, 1]",
    "no list": "5",
    "a text": '"12"',
    "false": "false",
    "no number": "[Infinity, 1.0]",
    "beyond all floats": f"[{10**30}, {10**400}]",
    "no float": "[1, 1]",
    "a boolean": "[true, 1.0]",
    "a file before all": "[-3, 1.0]",
    "number zero": "[0, 1.0]",
    "a later file": "[2, 1.0]",
}


@pytest.mark.parametrize("best", BESTS.values(), ids=BESTS)
def test_what_cannot_be_the_best_is_a_damaged_file(tmp_path, best):
    note = {"version": 1, "label": "checkpoint", "number": 1, "best": json.loads(best)}
    tg.save(tmp_path / "checkpoint-000001.npz", {}, {"checkpoint": note | {"layout": {"value": 5}}})
    for read in (tg.Checkpoints(tmp_path).latest, tg.Checkpoints(tmp_path).best):
        with pytest.raises(tg.CheckpointError, match="its layout is not as it says"):
            read()


# ---- files ----


@pytest.mark.parametrize("name", ["unlink", "listdir"])
def test_a_file_that_cannot_be_removed_does_not_stop_a_run(tmp_path, name, monkeypatch):
    checkpoints, real, saved = tg.Checkpoints(tmp_path, keep=1), getattr(os, name), []

    def refused(path):
        if saved and str(path).startswith(str(tmp_path)):
            raise PermissionError(1, "not permitted", path)
        return real(path)

    def save(*arguments, real=tg.checkpoints.save):
        real(*arguments)
        saved.append(1)

    checkpoints.save(0)
    (tmp_path / "checkpoint-000000.npz").mkdir()  # the first in the list stays for good
    with monkeypatch.context() as patched:
        patched.setattr(tg.checkpoints, "save", save)
        patched.setattr(os, name, refused)
        checkpoints.save(1)
    assert tg.Checkpoints(tmp_path).latest() == 1 and (tmp_path / "checkpoint-000001.npz").exists()
    checkpoints.save(2)
    left = sorted(path.name for path in tmp_path.glob("*.npz"))
    assert left == ["checkpoint-000000.npz", "checkpoint-000003.npz"]


def refused(checkpoints, before):
    """That nothing is saved, with a hint, and nothing touched."""
    folder = Path(checkpoints.folder)
    for _ in range(2):
        with pytest.raises(tg.CheckpointError, match="of a run before") as told:
            checkpoints.save("mine", score=9.0)
        assert str(folder) in str(told.value) and "hint: latest() goes on" in str(told.value)
        assert files(folder) == before


def test_a_run_before_is_gone_on_from_or_kept(tmp_path):
    """Who forgets `latest` loses nothing."""
    run = tg.Checkpoints(tmp_path, keep=1)
    run.save("the best", score=1.0), run.save("the last", score=0.0)
    before = files(tmp_path)
    checkpoints = tg.Checkpoints(tmp_path, keep=1)
    refused(checkpoints, before)
    assert checkpoints.best() == "the best"
    refused(checkpoints, before)  # a look at the best is not to go on from the last
    tg.Checkpoints(tmp_path, "another").save("mine")
    assert checkpoints.latest() == "the last"
    checkpoints.save("mine", score=0.5)
    assert checkpoints.best() == "the best" and checkpoints.latest() == "mine"


def test_a_run_before_of_which_no_file_is_whole_is_kept(tmp_path):
    three(tmp_path)
    for path in tmp_path.iterdir():
        damaged(path)
    before, checkpoints = files(tmp_path), tg.Checkpoints(tmp_path)
    with pytest.raises(tg.CheckpointError, match="no file is whole"):
        checkpoints.latest()
    refused(checkpoints, before)


def test_a_first_save_that_is_interrupted_once_its_file_is_there_is_no_run_before(
    tmp_path, monkeypatch
):
    def save(*arguments, real=tg.checkpoints.save):
        real(*arguments)
        raise KeyboardInterrupt

    checkpoints = tg.Checkpoints(tmp_path)
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(tg.checkpoints, "save", save)
        checkpoints.save(0)
    checkpoints.save(1)
    assert tg.Checkpoints(tmp_path).latest() == 1


WRITER = """
import sys
import tinygrad_rnn as tg
checkpoints = tg.Checkpoints(sys.argv[1])
checkpoints.latest(), checkpoints.save("theirs", score=1.0)
print("saved", flush=True)
input()
"""


def test_of_two_programs_the_second_is_refused(tmp_path):
    """Until the first is no more, however it ended; it may look at the best."""
    program = [sys.executable, "-c", WRITER, str(tmp_path)]
    checkpoints = tg.Checkpoints(tmp_path)
    with subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as first:
        try:
            assert first.stdout.readline() == b"saved\n"
            before = files(tmp_path)
            with pytest.raises(tg.SettingError, match="another program is writing"):
                checkpoints.latest()
            with pytest.raises(tg.SettingError, match="another program is writing"):
                checkpoints.save("mine", score=2.0)
            assert checkpoints.best() == "theirs" and files(tmp_path) == before
            tg.Checkpoints(tmp_path, "another").save("mine")
        finally:
            first.kill()
    assert checkpoints.latest() == "theirs"
    second = tg.Checkpoints(tmp_path)  # in one program they are its own affair
    assert second.latest() == "theirs"
    del second
    quick = {"input": b"\n", "capture_output": True}
    assert b"another program" in subprocess.run(program, **quick).stderr
    del checkpoints
    assert subprocess.run(program, **quick).returncode == 0


def test_labels_do_not_touch_each_other_nor_other_files(tmp_path):
    (tmp_path / "a-1.npz").write_text("of the user")
    names = ["a", "a-000001", ".*"[1:], "b c+(d)"]
    for name in names:
        three(tmp_path, name)
    (tmp_path / ".a-000009.npz.saving-x").write_text("what a kill left")
    (tmp_path / ".b-000009.npz.saving-x").write_text("of another label")
    with warnings.catch_warnings(action="error"):
        for name in names:
            assert tg.Checkpoints(tmp_path, name).latest()["i"] == 2
    checkpoints = tg.Checkpoints(tmp_path, "a", keep=1)
    checkpoints.latest(), checkpoints.save(None)
    left = {f"{name}-00000{i}.npz" for name in names[1:] for i in (1, 2, 3)}
    left |= {"a-1.npz", "a-000004.npz", ".b-000009.npz.saving-x"}
    assert set(files(tmp_path)) == left


@pytest.mark.parametrize("label", ["", "a/b", "a\\b", ".a", "..", "a\nb", "a\0", 3, None])
def test_a_label_is_the_name_of_a_file(tmp_path, label):
    with pytest.raises(tg.SettingError, match="label"):
        tg.Checkpoints(tmp_path, label)
    with pytest.raises(tg.SettingError, match="keep"):
        tg.Checkpoints(tmp_path, keep=0)


@pytest.mark.parametrize(
    ("state", "told"),
    [
        ({"a": {"rng": np.random.default_rng(0)}}, "state.a.rng is Generator"),
        ({"a": [1, {2: 3}]}, "state.a.1 is dict"),
        ({"a": {1, 2}}, "state.a is set"),
        ({"a": [np.array("x")]}, "state.a.0 is <U1"),
        ({"a": 1j}, "state.a is complex"),
        ({"a": {"b": np.ones(3, complex)}}, r"state\.a\.b is complex128 (.*\n)+.*x\.real"),
        ({"a": np.ones(3, np.longdouble)}, r"state\.a is \w+ (.*\n)+.*astype"),
        ({"a": 1, "b": ["x"] * 10**6, "c": [2] * 9}, r"bytes of JSON, most of it in state\.b\n"),
        ({"a": [1], "b": [np.float32(1)] * 10_001}, r"10,001 arrays, .* state\.b\n(.*\n)+.*item"),
        (["x" * 5_000_000], "most of it in state\n"),
        ({"a": 10**5000}, "most of it in state\n"),
    ],
)
def test_what_cannot_be_saved_is_named(tmp_path, state, told):
    with pytest.raises(tg.DtypeError, match=told) as refused:
        tg.Checkpoints(tmp_path).save(state)
    first, *_, last = refused.value.args[0].splitlines()
    assert first.startswith("Checkpoints.save: ") and last.startswith("  hint: ")
    assert not files(tmp_path)


@pytest.mark.parametrize("score", ["x", "1.0", np.ones(3), np.ones(1), 1j, [1.0], 10**400])
def test_a_score_is_a_number(tmp_path, score):
    checkpoints = tg.Checkpoints(tmp_path)
    with pytest.raises(tg.DtypeError, match=r"score is (.*\n)+  hint: "):
        checkpoints.save(0, score)
    assert not files(tmp_path)
    checkpoints.save(1, np.float32(2)), checkpoints.save(2, 1)
    assert checkpoints.best() == 1


@pytest.mark.parametrize("folder", [None, 3, b"run", ["run"]])
def test_a_folder_is_named(folder):
    with pytest.raises(tg.DtypeError, match=r"folder is (.*\n)+  hint: "):
        tg.Checkpoints(folder)
    with pytest.raises(FileNotFoundError):
        tg.Checkpoints("")  # not the current folder


def test_a_folder_stays_where_it_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    checkpoints = tg.Checkpoints("run", keep=1)
    checkpoints.save(0)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    checkpoints.save(1)
    assert checkpoints.latest() == 1 and list(files(tmp_path / "run")) == ["checkpoint-000002.npz"]
    assert not files(tmp_path / "elsewhere")


def test_a_state_may_not_hold_itself(tmp_path):
    state = []
    state.append(state)
    with pytest.raises(tg.DtypeError, match="hold itself"):
        tg.Checkpoints(tmp_path).save(state)


def test_a_state_may_be_fifty_deep(tmp_path):
    state = {"x": np.zeros(1)}
    for i in range(49):
        state = ({"a": state}, [state], (state,))[i % 3]
    tg.Checkpoints(tmp_path).save(state)
    assert_same(state, tg.Checkpoints(tmp_path).latest())
