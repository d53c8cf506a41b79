"""Laws of checkpoint files: what goes in comes out, damage is noticed, nothing is lost."""

import base64
import os
import resource
import stat
import struct
import sys
import tempfile
import tracemalloc
import zipfile
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinygrad_rnn as tg
from tests.forged import header, npy, safetensors_file, zipped
from tinygrad_rnn import nn

DTYPES = ["?", *"bhiqBHIQ", *"efd", ">f4", ">i8"]
SUFFIXES = [".npz", ".safetensors"]
every_suffix = pytest.mark.parametrize("suffix", SUFFIXES)
names = st.text(max_size=8).filter(str.isprintable) | st.sampled_from(
    ["metadata.json", "file", "allow_pickle", "../up", "/root", "a.npy", "a\\b", "x" * 300]
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


@st.composite
def arrays(draw):
    """Arrays of any dtype that a file may have, any layout, 0-d and empty ones too."""
    shape = tuple(draw(st.lists(st.integers(0, 3), max_size=3)))
    x = np.random.default_rng(draw(st.integers(0, 2**32 - 1))).normal(size=shape) * 50
    x = np.asarray(abs(x)).astype(draw(st.sampled_from(DTYPES)))
    layout = draw(st.sampled_from(["C", "F", "reversed", "every second"]))
    if layout == "F":
        return np.asfortranarray(x).reshape(shape)
    if layout == "reversed" and shape:
        return x[::-1]
    if layout == "every second" and shape:
        return np.repeat(x, 2, axis=0)[::2]
    return x


states = st.dictionaries(names, arrays(), max_size=4)


def assert_same(state, other):
    assert state.keys() == other.keys()
    for name, x in state.items():
        np.testing.assert_array_equal(other[name], x)
        assert other[name].dtype == x.dtype.newbyteorder("=") and other[name].dtype.isnative


def example():
    rng = np.random.default_rng(0)
    return {"w": rng.normal(size=(3, 2)), "b": np.arange(3, dtype=np.int8), "0": np.array(True)}


# ---- what goes in comes out --------------------------------------------------------------------


@every_suffix
@given(state=states, metadata=st.dictionaries(st.text(), json_values, max_size=3))
def test_what_is_saved_is_loaded(tmp_path_factory, suffix, state, metadata):
    path = tmp_path_factory.mktemp("round") / f"model{suffix}"
    tg.save(path, state, metadata)
    loaded = tg.load(str(path))
    assert_same(state, loaded)
    assert loaded.metadata == metadata
    for x in loaded.values():
        x[...] = 0  # the arrays are ours to write to
    assert_same(state, tg.load(path))


@every_suffix
def test_a_model_moves_through_a_file(tmp_path, suffix):
    model, other = (nn.LSTMCell(3, 4, rng=np.random.default_rng(i)) for i in range(2))
    path = tmp_path / f"model{suffix}"
    tg.save(path, dict(model.named_parameters()), {"sizes": [3, 4]})  # Tensors will do
    other.load_state_dict(tg.load(path))
    assert_same(model.state_dict(), other.state_dict())
    assert tg.load(path).metadata == {"sizes": [3, 4]}
    tg.save(path, model.state_dict())
    assert tg.load(path).metadata == {}


@every_suffix
def test_a_name_alone_is_a_file_in_this_folder(tmp_path, suffix, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tg.save(f"model{suffix}", example())
    assert_same(example(), tg.load(tmp_path / f"model{suffix}"))


@given(state=st.dictionaries(st.text("abc.", min_size=1), arrays(), min_size=1, max_size=4))
def test_npz_is_numpys(tmp_path_factory, state):
    folder = tmp_path_factory.mktemp("numpy")
    tg.save(folder / "ours.npz", state)
    with np.load(folder / "ours.npz", allow_pickle=False) as loaded:
        assert_same(
            state,
            {name: np.array(loaded[name], x.dtype.newbyteorder("=")) for name, x in state.items()},
        )
    np.savez(folder / "theirs.npz", **state)
    loaded = tg.load(folder / "theirs.npz")
    assert_same(state, loaded)
    assert loaded.metadata == {}


@given(state=st.dictionaries(names, arrays(), max_size=4))
def test_safetensors_is_that_of_its_library(tmp_path_factory, state):
    library = pytest.importorskip("safetensors.numpy")
    state = {name: np.array(x, x.dtype.newbyteorder("="), order="C") for name, x in state.items()}
    folder = tmp_path_factory.mktemp("library")
    tg.save(folder / "ours.safetensors", state)
    assert_same(state, library.load_file(folder / "ours.safetensors"))
    library.save_file(state, folder / "theirs.safetensors", {"format": "pt"})
    loaded = tg.load(folder / "theirs.safetensors")
    assert_same(state, loaded)
    assert loaded.metadata == {"format": "pt"}


@every_suffix
def test_equal_states_give_equal_files(tmp_path, suffix):
    one, other = tmp_path / f"one{suffix}", tmp_path / f"other{suffix}"
    tg.save(one, example(), {"a": 1})
    tg.save(other, example(), {"a": 1})
    assert one.read_bytes() == other.read_bytes()
    tg.save(other, example(), {"a": 2})
    assert one.read_bytes() != other.read_bytes()


GOLDEN = """
UEsDBBQAAAAAAAAAIQDoxK7CUQAAAFEAAAANAAAAbWV0YWRhdGEuanNvbnsiZm9ybWF0X3ZlcnNpb24iOiAxLCAiYXJy
YXlzIjogWyJ3IiwgInN0ZXBzIl0sICJtZXRhZGF0YSI6IHsiY2hhcnMiOiAiYVx1MDBlOSJ9fVBLAwQtAAAAAAAAACEA
SdFNGf//////////BQAUAHcubnB5AQAQAIgAAAAAAAAAiAAAAAAAAACTTlVNUFkBAHYAeydkZXNjcic6ICc8ZjQnLCAn
Zm9ydHJhbl9vcmRlcic6IEZhbHNlLCAnc2hhcGUnOiAoMSwgMiksIH0gICAgICAgICAgICAgICAgICAgICAgICAgICAg
ICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgCgAAAD8AAADAUEsDBC0AAAAAAAAAIQAjuPBs//////////8JABQA
c3RlcHMubnB5AQAQAIgAAAAAAAAAiAAAAAAAAACTTlVNUFkBAHYAeydkZXNjcic6ICc8aTgnLCAnZm9ydHJhbl9vcmRl
cic6IEZhbHNlLCAnc2hhcGUnOiAoKSwgfSAgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAg
ICAgICAgICAgICAgICAgICAgCgcAAAAAAAAAUEsBAhQDFAAAAAAAAAAhAOjErsJRAAAAUQAAAA0AAAAAAAAAAAAAAIAB
AAAAAG1ldGFkYXRhLmpzb25QSwECLQMtAAAAAAAAACEASdFNGYgAAACIAAAABQAAAAAAAAAAAAAAgAF8AAAAdy5ucHlQ
SwECLQMtAAAAAAAAACEAI7jwbIgAAACIAAAACQAAAAAAAAAAAAAAgAE7AQAAc3RlcHMubnB5UEsFBgAAAAADAAMApQAA
AP4BAAAAAA==
"""


def test_a_file_of_the_first_version_is_still_read(tmp_path):
    (tmp_path / "old.npz").write_bytes(base64.b64decode(GOLDEN))
    loaded = tg.load(tmp_path / "old.npz")
    assert_same({"w": np.array([[0.5, -2.0]], np.float32), "steps": np.array(7)}, loaded)
    assert loaded.metadata == {"chars": "aé"}


# ---- damage is noticed -------------------------------------------------------------------------


def assert_refused(path, content, reason=None):
    path.write_bytes(content)
    with pytest.raises(tg.CheckpointError, match=reason) as caught:
        tg.load(path)
    assert str(path) in str(caught.value)


@every_suffix
def test_every_truncation_is_noticed(tmp_path, suffix):
    path = tmp_path / f"model{suffix}"
    tg.save(path, example(), {"a": 1})
    whole = path.read_bytes()
    for length in range(len(whole)):
        assert_refused(path, whole[:length])


@every_suffix
def test_a_flipped_bit_in_any_byte_is_noticed_or_does_no_harm(tmp_path, suffix):
    path = tmp_path / f"model{suffix}"
    tg.save(path, example(), {"a": 1})
    whole, right = path.read_bytes(), tg.load(path)
    harmless = 0
    for i, byte in enumerate(whole):
        path.write_bytes(whole[:i] + bytes([byte ^ 1 << i % 8]) + whole[i + 1 :])
        try:
            loaded = tg.load(path)
        except tg.CheckpointError as error:
            assert str(path) in str(error)
        else:
            harmless += 1
            assert_same(right, loaded)
            assert loaded.metadata == right.metadata
    assert harmless < 0.5 * len(whole)  # dates, versions and attributes of a zip's entries


@given(st.data())
def test_spliced_files_are_noticed(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("spliced") / "model.npz"
    tg.save(path, example(), {"a": 1})
    whole, right = path.read_bytes(), tg.load(path)
    start, end = sorted(data.draw(st.tuples(*[st.integers(0, len(whole))] * 2)))
    path.write_bytes(whole[:start] + data.draw(st.binary(max_size=30)) + whole[end:])
    try:
        loaded = tg.load(path)
    except tg.CheckpointError:
        return
    assert_same(right, loaded)


@given(st.binary(max_size=200), st.sampled_from(SUFFIXES))
def test_files_that_are_something_else_are_refused(tmp_path_factory, content, suffix):
    path = tmp_path_factory.mktemp("foreign") / f"model{suffix}"
    for start in (b"", b"PK\x03\x04", b"PK\x05\x06", b"\x93NUMPY\x01\x00", struct.pack("<Q", 8)):
        assert_refused(path, start + content, reason="cannot be read as|is no JSON")


class Trap:
    """What runs code when it is unpickled."""

    def __reduce__(self):
        return pytest.fail, ("a pickle was loaded",)


ok = npy(np.zeros(3))
FOREIGN = {
    "pickle": ([("x.npy", npy(np.array([Trap()]), allow_pickle=True))], "no array of numbers"),
    "pickle alone": ([("x.pkl", b"cposix\nsystem\n.")], "is no array"),
    "strings": ([("x.npy", npy(np.array(["a"])))], "no array of numbers.*<U1"),
    "structured": ([("x.npy", npy(np.zeros(2, "f4,i4")))], "no array of numbers"),
    "complex": ([("x.npy", npy(np.zeros(2, complex)))], "no array of numbers.*<c16"),
    "long double": ([("x.npy", npy(np.zeros(2, "g")))], "no array of numbers.*<f16"),
    "nothing": ([], "0 members"),
    "twice": ([("x.npy", ok), ("x.npy", ok)], "is there twice"),
    "unprintable": ([("x\x1b[2J.npy", ok)], "is no array"),
    "other zip": ([("word/document.xml", b"<xml/>")], "is no array"),
    "too large": ([("x.npy", header("<f8", (2**40,)))], "0 bytes for float64"),
    "overflow": ([("x.npy", header("<f8", (2**62, 4)))], "bytes for float64"),
    "negative": ([("x.npy", header("<f8", (-1, -1)) + bytes(8))], "no array of numbers"),
    "empty but vast": ([("x.npy", header("<f8", (0, 2**62, 2**62)))], "cannot be read"),
    "too small": ([("x.npy", header("<f8", (1,)) + bytes(16))], "16 bytes for float64"),
    "version 3": ([("x.npy", b"\x93NUMPY\x03\x00" + ok[8:])], r"no \.npy of version 1\.0"),
    "no header": ([("x.npy", b"\x93NUMPY\x01\x00\xff\xff")], "no array of numbers"),
    "code in header": ([("x.npy", header("<f8", 3).replace(b"3", b"f"))], "no array of numbers"),
    "no JSON": ([("metadata.json", b"{"), ("x.npy", ok)], "no JSON"),
    "deep JSON": ([("metadata.json", b"[" * 10**5)], "no JSON"),
    "other JSON": ([("metadata.json", b"[1]")], "format_version is None"),
    "later version": ([("metadata.json", b'{"format_version": 2, "metadata": {}}')], "is 2, exp"),
    "hidden": (
        [("metadata.json", b'{"format_version": 1, "arrays": ["x", "y"], "metadata": {}}')]
        + [("x.npy", ok)],
        "it lists",
    ),
    "no list": ([("metadata.json", b'{"format_version": 1, "metadata": {}}')], "it lists None"),
    "no metadata": (
        [("metadata.json", b'{"format_version": 1, "metadata": 3}')],
        "is int 3, no dict",
    ),
}


@pytest.mark.parametrize("case", FOREIGN)
def test_archives_of_other_things_are_refused(tmp_path, case):
    members, reason = FOREIGN[case]
    assert_refused(tmp_path / "x.npz", zipped(members), reason)


@pytest.mark.parametrize(
    "claims",
    [{"header_offset": 10**4}, {"flag_bits": 1}, {"CRC": 0}, {"extra": b"\1\0\xff\xff"}],
    ids=lambda claims: next(iter(claims)),
)
def test_a_directory_that_is_wrong_is_noticed(tmp_path, claims):
    reason = "claim more than|cannot be read"
    assert_refused(tmp_path / "x.npz", zipped([("x.npy", ok)], **claims), reason)


def test_a_small_file_cannot_take_much_memory(tmp_path):
    """Neither by a ratio of compression, nor by what its directory or an array's header claims."""
    bomb = npy(np.zeros(10**7))
    files = {
        "is compressed": zipped([("x.npy", bomb)], zipfile.ZIP_DEFLATED),
        "two sizes": zipped([("x.npy", ok)], file_size=2**31),
        "bytes for": zipped([("x.npy", header("<f8", (10**7,)))]),
    }
    for reason, content in files.items():
        tracemalloc.start()
        assert_refused(tmp_path / "x.npz", content, reason)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 10**6


@pytest.mark.parametrize("dtype", ["BF16", "F8_E4M3", "C64"])
def test_dtypes_that_numpy_or_a_model_has_not_are_refused(tmp_path, dtype):
    pytest.importorskip("safetensors")
    size = {"BF16": 4, "F8_E4M3": 2, "C64": 16}[dtype]
    entry = {"dtype": dtype, "shape": [2], "data_offsets": [0, size]}
    content = safetensors_file({"x": entry}, size)
    assert_refused(tmp_path / "x.safetensors", content, f"has dtype {dtype}")


def test_a_missing_file_is_not_found(tmp_path):
    for suffix in SUFFIXES:
        with pytest.raises(FileNotFoundError, match="nowhere"):
            tg.load(tmp_path / f"nowhere{suffix}")


@pytest.mark.parametrize("name", ["model", "model.pt", "model.npy", "npz", ".npz.bak"])
def test_other_suffixes_are_refused(tmp_path, name):
    for call in (lambda path: tg.save(path, {}), tg.load):
        with pytest.raises(tg.CheckpointError, match=r"expected: \.npz or \.safetensors"):
            call(tmp_path / name)


def test_without_the_library_the_error_names_the_extra(tmp_path, monkeypatch):
    (tmp_path / "x.safetensors").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "safetensors", None)
    monkeypatch.setitem(sys.modules, "safetensors.numpy", None)
    for call in (lambda path: tg.save(path, {}), tg.load):
        with pytest.raises(tg.CheckpointError, match=r"tinygrad_rnn\[io\]"):
            call(tmp_path / "x.safetensors")
    assert os.listdir(tmp_path) == ["x.safetensors"]


# ---- nothing is lost ---------------------------------------------------------------------------


def failing(module, name, error):
    """A context in which a function of a module raises."""

    def fail(*args, **keywords):
        raise error

    @contextmanager
    def context():
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(module, name, fail)
            yield

    return context


@contextmanager
def full_disk():
    """Files of this process cannot grow beyond 500 bytes."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


FAILURES = {
    "full disk": (full_disk, OSError),
    "read-only folder": (failing(tempfile, "mkstemp", PermissionError()), PermissionError),
    "no sync": (failing(os, "fsync", OSError()), OSError),
    "no rename": (failing(os, "replace", OSError()), OSError),
    "interrupt": (failing(os, "replace", KeyboardInterrupt()), KeyboardInterrupt),
}


@every_suffix
@pytest.mark.parametrize("failure", FAILURES)
def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path, suffix, failure):
    context, error = FAILURES[failure]
    path = tmp_path / f"model{suffix}"
    larger = {"w": np.zeros(1000)}
    with context(), pytest.raises(error):
        tg.save(path, larger)
    assert os.listdir(tmp_path) == []
    tg.save(path, example())
    with context(), pytest.raises(error) as caught:
        tg.save(path, larger)
    assert error is KeyboardInterrupt or caught.value.filename == str(path)
    assert os.listdir(tmp_path) == [path.name]
    assert_same(example(), tg.load(path))
    tg.save(path, larger)
    assert_same(larger, tg.load(path))


@every_suffix
def test_the_file_is_on_the_disk_before_its_name_is(tmp_path, suffix, monkeypatch):
    events = []

    def sync(descriptor, real=os.fsync):
        kind = "folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file"
        size = os.fstat(descriptor).st_size
        events.append(f"sync {kind}" if kind == "folder" or size else "sync nothing")
        real(descriptor)

    def replace(source, target, real=os.replace):
        assert os.path.samefile(Path(source).parent, Path(target).parent)  # so it is one step
        events.append("replace")
        real(source, target)

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(os, "replace", replace)
    monkeypatch.chdir(tmp_path)
    for path in (tmp_path / f"model{suffix}", f"model{suffix}"):
        tg.save(path, example())
        assert events == ["sync file", "replace", "sync folder"]
        events.clear()


def test_a_folder_that_cannot_be_synced_does_no_harm(tmp_path, monkeypatch):
    def sync(descriptor, real=os.fsync):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError("not here")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", sync)
    tg.save(tmp_path / "model.npz", example())
    assert_same(example(), tg.load(tmp_path / "model.npz"))


@every_suffix
def test_only_the_owner_may_read(tmp_path, suffix):
    tg.save(tmp_path / f"model{suffix}", example())
    assert stat.S_IMODE((tmp_path / f"model{suffix}").stat().st_mode) == 0o600


@every_suffix
@pytest.mark.parametrize(
    ("state", "metadata", "reason"),
    [
        ({"a": "text"}, None, r"a is <U4 \(\)"),
        ({"a": np.array([None])}, None, "a is object"),
        ({"a": np.zeros(2, complex)}, None, r"a is complex128 \(2,\)"),
        ({"a": np.zeros(2, "F")}, None, r"a is complex64 \(2,\)"),
        ({"a": np.zeros(2, "g")}, None, "a is float128"),
        ({"a": np.zeros(2, "M8[s]")}, None, "a is datetime64"),
        ({3: np.zeros(2)}, None, "3 cannot be a name"),
        ({"a\0b": np.zeros(2)}, None, "cannot be a name"),
        ({"\ud800": np.zeros(2)}, None, "cannot be a name"),
        ({"__metadata__": np.zeros(2)}, None, "cannot be a name"),
        ({}, {"a": np.zeros(2)}, "metadata cannot be written as JSON"),
        ({}, {"a": {1, 2}}, "metadata cannot be written as JSON"),
    ],
)
def test_what_cannot_be_saved_is_refused_before_anything_is_written(
    tmp_path, suffix, state, metadata, reason
):
    with pytest.raises(tg.DtypeError, match=reason):
        tg.save(tmp_path / f"model{suffix}", example() | state, metadata)
    assert os.listdir(tmp_path) == []
