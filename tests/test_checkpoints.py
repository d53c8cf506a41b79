"""Laws of `Checkpoints`: a state comes back as it was, or the one before does, and it says so."""

import base64
import inspect
import shutil
import textwrap
import warnings

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
    """What is in a folder: {name: bytes}."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


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
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["checkpoint-000002.npz", "checkpoint-000004.npz"]


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


# ---- files ----


def test_a_run_before_is_kept_until_there_is_a_state_of_this_one(tmp_path):
    three(tmp_path)
    before = files(tmp_path)
    checkpoints = tg.Checkpoints(tmp_path)
    with pytest.raises(tg.DtypeError):
        checkpoints.save({"rng": np.random.default_rng()})
    assert files(tmp_path) == before
    checkpoints.save("mine")
    assert set(files(tmp_path)) == {"checkpoint-000004.npz"}


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
    tg.Checkpoints(tmp_path, "a").save(None)
    left = {f"{name}-00000{i}.npz" for name in names[1:] for i in (1, 2, 3)}
    left |= {"a-1.npz", "a-000004.npz", ".b-000009.npz.saving-x"}
    assert set(files(tmp_path)) == left


@pytest.mark.parametrize("label", ["", "a/b", "a\\b", ".a", "..", "a\nb", "a\0"])
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
    ],
)
def test_what_cannot_be_saved_is_named(tmp_path, state, told):
    with pytest.raises(tg.DtypeError, match=told):
        tg.Checkpoints(tmp_path).save(state)
    assert not files(tmp_path)


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
