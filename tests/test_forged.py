"""Laws of checkpoint files from strangers: they are refused or loaded, and nothing else happens."""

import os
import struct
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinygrad_rnn as tg
from tests import forged
from tests.test_saving import arrays, assert_same, every_suffix, states

PLENTY = 10**6  # bytes that loading may take whatever the file


def refusal(path, content):
    """The message with which `load` refuses this content; AssertionError if it loads it."""
    path.write_bytes(content)
    with pytest.raises(tg.CheckpointError) as caught:
        tg.load(path)
    return caught.value.args[0]


# ---- forged files ------------------------------------------------------------------------------


def test_every_forged_file_is_refused_in_a_few_words_and_in_little_memory(tmp_path, monkeypatch):
    pytest.importorskip("safetensors")
    monkeypatch.chdir(tmp_path)  # where code that ran would leave its mark
    for what, suffix, content in forged.forged():
        tracemalloc.start()
        message = refusal(tmp_path / f"x{suffix}", content)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert message.startswith(f"load({str(tmp_path / f'x{suffix}')!r}): "), what
        assert len(message) < 600 and message.replace("\n", "").isprintable(), what
        assert peak < 12 * len(content) + PLENTY, what
    assert sorted(os.listdir(tmp_path)) == ["x.npz", "x.safetensors"]


def test_the_same_files_without_the_forgery_are_loaded(tmp_path):
    pytest.importorskip("safetensors")
    start = forged.npy_start(forged.ENTRY % "(1,)") + bytes(8)
    text = b'{"format_version": 1, "arrays": ["x"], "metadata": {}}'
    entries = {"x": forged.entry(), "y": forged.entry(offsets=(8, 16))}
    for suffix, content in [
        (".npz", forged.zipped([("x.npy", start)])),
        (".npz", forged.zipped([("metadata.json", text), ("x.npy", forged.GOOD)])),
        (".npz", forged.zipped([("x.npy", forged.header("|b1", "(2,)") + b"\0\1")])),
        (".safetensors", forged.safetensors_file(entries, 16)),
        (".safetensors", forged.safetensors_file({"__metadata__": {"a": "b"}})),
    ]:
        (tmp_path / f"x{suffix}").write_bytes(content)
        tg.load(tmp_path / f"x{suffix}")


LIMITED = """
import resource, sys
import safetensors.numpy
import tinygrad_rnn as tg
with open("/proc/self/statm") as file:
    now = int(file.read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (now + 2**27,) * 2)
resource.setrlimit(resource.RLIMIT_CPU, (60, 60))
for path in sys.argv[1:]:
    try:
        tg.load(path)
    except tg.CheckpointError as error:
        print("refused")
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="needs Linux")
def test_what_is_costly_to_parse_is_refused_in_bounded_memory(tmp_path):
    pytest.importorskip("safetensors")
    paths = []
    for i, (_, suffix, content) in enumerate(forged.gluttons(0.25)):
        paths.append(tmp_path / f"{i}{suffix}")
        paths[-1].write_bytes(content)
    command = [sys.executable, "-W", "error", "-c", LIMITED, *map(str, paths)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stderr == "" and done.stdout.split() == ["refused"] * len(paths)


@every_suffix
def test_a_directory_or_header_is_not_read_if_it_is_too_long(tmp_path, suffix):
    pytest.importorskip("safetensors")
    path, size = tmp_path / f"x{suffix}", 2**28
    with path.open("wb") as file:  # nearly all of it is a hole, which takes no room on the disk
        file.write(struct.pack("<Q", size) if suffix == ".safetensors" else b"")
        file.seek(size)
        file.write(struct.pack("<4s8xIIH", b"PK\5\6", size, 0, 0))
    tracemalloc.start()
    with pytest.raises(tg.CheckpointError, match="its directory or header has 268,435,456 bytes"):
        tg.load(path)
    assert tracemalloc.get_traced_memory()[1] < PLENTY
    tracemalloc.stop()


@every_suffix
@pytest.mark.parametrize("name", forged.NAMES)
def test_a_name_is_a_key_whatever_it_looks_like(tmp_path, suffix, name, monkeypatch):
    pytest.importorskip("safetensors")
    folder = tmp_path / "a" / "b"
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder)
    content = {
        ".npz": forged.zipped([(f"{name}.npy", forged.npy(np.zeros(2, "f4")))]),
        ".safetensors": forged.safetensors_file({name: forged.entry()}, 8),
    }[suffix]
    (folder / f"x{suffix}").write_bytes(content)
    assert_same(tg.load(f"x{suffix}"), {name: np.zeros(2, np.float32)})
    tg.save(f"y{suffix}", tg.load(f"x{suffix}"))
    assert_same(tg.load(f"y{suffix}"), {name: np.zeros(2, np.float32)})
    there = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")}
    assert there == {"a", "a/b", f"a/b/x{suffix}", f"a/b/y{suffix}"}


# ---- damaged files -----------------------------------------------------------------------------

EXTREMES = [0, 1, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**63, 2**64 - 1]


@st.composite
def damages(draw, size):
    """A function that damages `size` bytes somewhere."""
    start, other = (draw(st.integers(0, size)) for _ in range(2))
    length = draw(st.sampled_from([1, 2, 4, 8, 30, 200]))
    kind = draw(st.sampled_from(["set", "extreme", "delete", "insert", "copy", "swap"]))
    if kind == "delete":
        return lambda x: x[:start] + x[start + length :]
    if kind == "copy":
        return lambda x: x[:start] + x[other : other + length] + x[start:]
    if kind == "swap":
        a, b = sorted((start, other))
        return lambda x: x[:a] + x[b : b + length] + x[a + length : b] + x[a : a + length]
    if kind == "extreme":
        new = draw(st.sampled_from(EXTREMES)).to_bytes(8, "little")[: min(length, 8)]
    else:
        new = draw(st.binary(min_size=1, max_size=length))
    skipped = 0 if kind == "insert" else len(new)
    return lambda x: x[:start] + new + x[start + skipped :]


@given(st.data(), states)
def test_a_damaged_npz_is_the_same_or_refused(tmp_path_factory, data, state):
    path = tmp_path_factory.mktemp("damaged") / "x.npz"
    tg.save(path, state, {"a": [1, "b"]})
    content = whole = path.read_bytes()
    for _ in range(data.draw(st.integers(1, 3))):
        content = data.draw(damages(len(whole)))(content)
    path.write_bytes(content)
    tracemalloc.start()
    try:
        loaded = tg.load(path)
    except tg.CheckpointError:
        pass
    else:
        assert_same(state, loaded)
        assert loaded.metadata == {"a": [1, "b"]}
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < PLENTY
    assert os.listdir(path.parent) == ["x.npz"]


@given(st.data(), st.dictionaries(st.text("abc"), arrays(), max_size=4))
def test_a_damaged_safetensors_is_the_same_or_refused_unless_its_checksum_is_gone(
    tmp_path_factory, data, state
):
    pytest.importorskip("safetensors")
    path = tmp_path_factory.mktemp("damaged") / "x.safetensors"
    tg.save(path, state, {"a": [1, "b"]})
    content = whole = path.read_bytes()
    for _ in range(data.draw(st.integers(1, 3))):
        content = data.draw(damages(len(whole)))(content)
    path.write_bytes(content)
    try:
        loaded = tg.load(path)
    except tg.CheckpointError:
        return
    if loaded.metadata == {"a": [1, "b"]} and b'"{\\"format_version' not in content:
        assert_same(state, loaded)
    else:  # as if it were a stranger's, who writes none
        assert sum(x.nbytes for x in loaded.values()) <= len(content)
        assert all(x.dtype.kind in "fiub" for x in loaded.values())
        assert all(name.isprintable() for name in loaded)


# ---- what is no file, and what is too large ----------------------------------------------------


@every_suffix
def test_only_regular_files_are_read(tmp_path, suffix):
    pytest.importorskip("safetensors")
    path = tmp_path / f"x{suffix}"
    os.mkfifo(path)
    with pytest.raises(tg.CheckpointError, match="a device or a pipe, no regular file"):
        tg.load(path)  # and does not wait for somebody to write
    path.unlink()
    path.symlink_to("/dev/zero")
    with pytest.raises(tg.CheckpointError, match="a device or a pipe, no regular file"):
        tg.load(path)
    path.unlink()
    path.mkdir()
    with pytest.raises(IsADirectoryError):
        tg.load(path)
    path.rmdir()
    path.symlink_to(path.name)
    with pytest.raises(OSError, match="symbolic links"):
        tg.load(path)
    path.unlink()
    path.symlink_to("nowhere")
    with pytest.raises(FileNotFoundError):
        tg.load(path)


@every_suffix
def test_a_file_larger_than_the_cap_is_refused_unread(tmp_path, suffix):
    pytest.importorskip("safetensors")
    path = tmp_path / f"x{suffix}"
    tg.save(path, {"x": np.zeros(9)})
    size = path.stat().st_size
    assert_same({"x": np.zeros(9)}, tg.load(path, max_bytes=size))
    with pytest.raises(tg.CheckpointError, match=rf"(?s)got: {size} bytes\n.*max_bytes={size}\)"):
        tg.load(path, max_bytes=size - 1)
    os.truncate(path, 2**32 + 1)  # a hole, which takes no room on the disk
    with pytest.raises(tg.CheckpointError, match=r"at most max_bytes = 4,294,967,296"):
        tg.load(path)


@every_suffix
def test_the_largest_that_can_be_saved_can_be_loaded(tmp_path, suffix):
    pytest.importorskip("safetensors")
    path = tmp_path / f"x{suffix}"
    state = {f"{i:0>90}\u20ac": np.zeros(0) for i in range(10_000)}
    text = '"\\' * 10**5 + "a" * 2_700_000  # with what JSON escapes once, and safetensors again
    tg.save(path, state, {"a": text})
    loaded = tg.load(path)
    assert loaded.keys() == state.keys() and loaded.metadata == {"a": text}
    for more, other in [({"one more": np.zeros(0)}, {}), ({}, {"b": "a" * 10**6})]:
        with pytest.raises(tg.DtypeError, match="expected: at most"):
            tg.save(path, state | more, {"a": text} | other)
    assert tg.load(path).keys() == state.keys()


# ---- writing -----------------------------------------------------------------------------------


@every_suffix
def test_a_link_in_the_place_of_the_target_is_replaced_and_not_followed(tmp_path, suffix):
    pytest.importorskip("safetensors")
    victim, path = tmp_path / "victim", tmp_path / f"x{suffix}"
    victim.write_text("mine")
    path.symlink_to(victim)
    tg.save(path, {"x": np.zeros(2)})
    assert victim.read_text() == "mine" and not path.is_symlink()
    assert_same({"x": np.zeros(2)}, tg.load(path))
    assert sorted(os.listdir(tmp_path)) == ["victim", path.name]
