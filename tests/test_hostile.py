"""Hostile files: no reader of the demos breaks the law of `tests.monsters`."""

import argparse
import importlib
import os
import tempfile
import warnings
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from demos import _brackets, _labelled, _tagging, _trees, word_lm
from demos import _kit as kit
from tests import bestiary, monsters
from tests.readers import READERS, Reader, write

DEMOS = sorted(p.stem for p in Path(kit.__file__).parent.glob("[!_]*.py"))
BY_NAME = {reader.name: reader for reader in READERS}
every_reader = pytest.mark.parametrize("reader", READERS, ids=[r.name for r in READERS])


# ---- all readers are here ----


@pytest.fixture
def flags_of(monkeypatch):
    """The flags that a demo adds to its parser, by their long names."""

    class Parsed(Exception):
        pass

    def stop(self, *_):
        raise Parsed(self)

    def flags(name):
        with monkeypatch.context() as patch:
            patch.setattr(argparse.ArgumentParser, "parse_args", stop)
            with pytest.raises(Parsed) as parsed:
                importlib.import_module(f"demos.{name}").main([])
        return {action.option_strings[-1]: action for action in parsed.value.args[0]._actions}

    return flags


def test_every_demo_that_reads_a_users_data_is_in_the_table(flags_of):
    named = {word for reader in READERS for word in reader.demos.split()}
    taking = {name for name in DEMOS if "--data" in flags_of(name)}
    assert taking == {name for name in named if not name.startswith("--")} and len(taking) >= 13
    files = {flag for name in DEMOS for flag, a in flags_of(name).items() if a.type is Path}
    assert files - {"--data", "--out"} == {name for name in named if name.startswith("--")}


@pytest.mark.parametrize("name", DEMOS)
def test_every_flag_that_is_an_integer_says_how_large_it_may_be(name, flags_of):
    for action in flags_of(name).values():
        if not takes_integers(action):
            continue
        for wrong in ("1000000000000", "-1", "x", "9" * 5000, "1.5", "\ud800", ""):
            with pytest.raises(argparse.ArgumentTypeError, match=r"expected: an integer from [01]"):
                action.type(wrong)


def takes_integers(action):
    """Whether the flag is an integer: it then takes 1, which stays one."""
    try:
        return action.type not in (None, Path) and isinstance(action.type("1"), int)
    except argparse.ArgumentTypeError:
        return False


# ---- the law ----


def test_the_law_is_broken_by_all_that_breaks_it(tmp_path):
    """So that it means something that no reader does."""

    def refuse(message):
        raise kit.DataError(message)

    def forever(path):
        while True:
            pass

    def spoken(path):
        warnings.warn("odd", stacklevel=1)

    breaking = [
        lambda path: {}["x"],
        lambda path: path.read_bytes().decode("ascii"),
        lambda path: refuse("it is wrong; expected: another"),
        lambda path: refuse(f"{path} is wrong"),
        lambda path: refuse(f"{path}; expected: \x1b[2J"),
        lambda path: refuse(f"{path}; expected: {'x' * 10_000}"),
        spoken,
        forever,
        lambda path: "wrong",
    ]
    (tmp_path / "file.txt").write_bytes(b"\xff")
    for read in breaking:
        reader = Reader(
            "", "", read, lambda found: np.testing.assert_equal(found, None), {}, "file.txt"
        )
        with pytest.raises((Exception, monsters.Hang)):
            monsters.verdict(reader, tmp_path, 0.05)
    good = Reader("", "", lambda path: None, lambda found: None, {}, "file.txt")
    assert monsters.verdict(good, tmp_path) == "read"
    good = good._replace(read=lambda path: refuse(f"{path} is wrong; expected: another"))
    assert monsters.verdict(good, tmp_path) == "refused"


@every_reader
def test_valid_files_are_read(reader):
    assert monsters.tried(reader, reader.files) == "read"


@every_reader
def test_monsters_are_read_or_refused(reader):
    seen = {monsters.tried(reader, files) for _, files in bestiary.monsters(reader)}
    assert seen == {"read", "refused"} or reader.name == "metrics"  # of which all is optional


@every_reader
def test_what_is_no_file_is_refused_and_not_waited_for(reader, tmp_path):
    for what, place in bestiary.spoilt(reader, tmp_path):
        seen = monsters.not_read(reader, place)
        assert seen == "refused" or reader.given == "." or "not be read" in what


@every_reader
@settings(suppress_health_check=list(HealthCheck))  # of how slow a busy machine may be
@given(data=st.data())
def test_random_files_are_read_or_refused(reader, data):
    files = data.draw(bestiary.cases(reader))
    if reader.cost < 5 or data.draw(st.integers(0, 9)) == 0:
        assert monsters.tried(reader, files) in ("read", "refused")


DEEP = ["brackets to the right", "brackets to the left", "one bracket too few"]


@pytest.mark.parametrize("what", DEEP)
@pytest.mark.parametrize("name", ["trees in brackets", "labelled texts", "treebank"])
def test_a_hundred_thousand_brackets_are_not_too_deep(name, what):
    files = BY_NAME[name].files
    content = bestiary.GROWING[what](100_000)
    seen = monsters.tried(BY_NAME[name], {**files, next(iter(files)): content + b"\n(A x)(B y)"})
    assert seen == ("read" if name == "trees in brackets" and "few" not in what else "refused")


@pytest.mark.parametrize("what", ["one long word", "one long line of tabs", "empty lines"])
@pytest.mark.parametrize("name", ["text", "characters", "lines of words", "translations", "tags"])
def test_a_line_of_five_megabytes_is_read_or_refused(name, what):
    files = BY_NAME[name].files
    changed = {**files, next(iter(files)): bestiary.GROWING[what](5_000_000)}
    assert monsters.tried(BY_NAME[name], changed) in ("read", "refused")


@every_reader
def test_work_and_memory_grow_with_the_file_and_not_with_its_square(reader):
    if reader.name in monsters.BINARY or reader.files.keys() >= {"a.py"}:
        pytest.skip("counted in `python -m tests.monsters`, which takes longer")
    for what in monsters.SHAPES:
        make = monsters.lengthened(reader, what) if what else monsters.repeated(reader)
        assert max(monsters.growth(reader, make)) < 2.5, what


def test_growth_sees_a_square():
    def quadratic(path):
        lines = path.read_text().split("\n")
        return [a for a in lines for b in lines if a is b]

    def hoarding(path):
        text = path.read_text()
        return [text[i:] for i in range(0, len(text), 10)]

    for read, place in ((quadratic, 0), (hoarding, 1)):
        reader = Reader("", "", read, len, {"a": b"x\n" * 50}, "a")
        assert monsters.growth(reader, monsters.repeated(reader))[place] > 3


# ---- bugs that were found ----


def test_a_line_separator_of_unicode_ends_no_line_of_a_treebank(tmp_path):
    write({f"{part}.txt": "a\u2028b\x85c\n\nd".encode() for part in word_lm.PARTS}, tmp_path)
    words = word_lm.treebank(tmp_path, "test")
    assert words == ["a", "b", "c", word_lm.END, word_lm.END, "d", word_lm.END]


def test_letters_in_a_name_are_no_part(tmp_path):
    """constraints.txt holds "train", and latest.txt "test"."""
    lines = "".join(f"{'AB'[i % 2]}\tword {i}\n" for i in range(60)).encode()
    write({"constraints.txt": lines, "latest.txt": lines}, tmp_path)
    sets = _labelled.read_sets(tmp_path)
    assert sum(map(len, sets)) == 120 and len(sets.test) < 40
    for names, said in (
        ("train dev", "one of train and of test"),
        ("train-test dev", "says train"),
    ):
        with tempfile.TemporaryDirectory() as folder:
            write({f"{name}.txt": lines for name in names.split()}, folder)
            with pytest.raises(kit.DataError, match=said):
                _labelled.read_sets(Path(folder))


def test_a_label_that_only_the_test_has_is_told_before_the_training(tmp_path):
    texts = "".join(f"{'AB'[i % 2]}\tword {i}\n" for i in range(60)).encode()
    write({"train.tsv": texts, "dev.tsv": texts, "test.tsv": texts + b"C\tother\n"}, tmp_path)
    with pytest.raises(kit.DataError, match="no text to train on has the label 'C'"):
        _labelled.read_sets(tmp_path)


@pytest.mark.parametrize("end", ["\n", "\r", "\r\n"])
def test_a_program_has_the_same_roles_whatever_ends_its_lines(end, tmp_path):
    text = "x = f(y)\nif x:\n    z.w = é(ü=x)\n"
    (tmp_path / "a.py").write_bytes(text.replace("\n", end).encode())
    lines = _tagging.read_lines(tmp_path / "a.py")
    assert [[tag for tag in line.tags if tag] for line in lines] == [
        ["STORE", "CALL", "LOAD"],
        ["LOAD"],
        ["LOAD", "ATTR_STORE", "CALL", "KWARG", "LOAD"],
    ]


def test_places_are_looked_up_for_lines_that_are_kept(tmp_path, monkeypatch):
    """Each takes time that grows with the line, so that all of a long one would take its square."""
    asked = []
    place = _tagging.place
    monkeypatch.setattr(_tagging, "place", lambda token: asked.append(1) or place(token))
    (tmp_path / "a.py").write_text("x = [" + "é, " * 1000 + "]\n", encoding="utf-8")
    _tagging.program(tmp_path / "a.py", "a.py")
    assert 10 < len(asked) <= _tagging.LONGEST


def test_names_of_files_need_not_be_unicode(tmp_path):
    for i in range(12):
        try:
            path = tmp_path / f"a{i}\udcff.py"
            path.write_bytes(BY_NAME["identifiers"].files["a.py"] + f"\nq{i} = f({i})\n".encode())
        except OSError:
            pytest.skip("this system has no such names")
    for name in ("trees of programs", "tagged identifiers", "expressions"):
        assert monsters.verdict(BY_NAME[name], tmp_path) in ("read", "refused")
    assert len(_trees.read_trees(tmp_path)) > 12


def test_what_is_no_source_in_a_folder_of_programs_is_left_out(tmp_path, capsys):
    write(BY_NAME["expressions"].files, tmp_path)
    expected = _trees.read_trees(tmp_path)
    (tmp_path / "folder.py").mkdir()
    (tmp_path / "loop.py").symlink_to("loop.py")
    (tmp_path / "hex.py").write_bytes(b"# coding: hex\nx = y(1)\n")
    (tmp_path / "nul.py").write_bytes(b"x = \0")
    assert _trees.read_trees(tmp_path) == expected
    assert capsys.readouterr().err.count("skipped") == 2


def test_a_file_that_is_too_large_is_not_read(tmp_path):
    path = tmp_path / "large.txt"
    path.touch()
    os.truncate(path, kit.LARGEST + 1)  # with no room on the disk

    def refused():
        with pytest.raises(kit.DataError, match=r"1,073,741,825 bytes; expected: 1,073,741,824 at"):
            kit.read_text(path)

    assert monsters.memory(refused) < 1_000_000


def test_a_bomb_is_refused_before_it_is_unpacked(monkeypatch):
    monkeypatch.setattr(kit, "LARGEST", 2**24)
    files = {"pictures.npz": monsters.a_bomb(kit.LARGEST + 1)}
    assert len(files["pictures.npz"]) < kit.LARGEST / 500
    assert monsters.memory(partial(monsters.tried, BY_NAME["pictures"], files)) < kit.LARGEST / 20
    assert monsters.tried(BY_NAME["pictures"], files) == "refused"


def test_an_array_that_claims_more_than_it_holds_takes_no_memory():
    content = monsters.a_claim((10**6, 10**3, 10**3))
    reader, files = BY_NAME["pictures"], {"pictures.npz": content}
    assert monsters.memory(partial(monsters.tried, reader, files)) < 10_000_000
    assert monsters.tried(reader, files) == "refused"


def test_chains_of_brackets_do_not_take_the_square_of_their_length():
    line = "(S " * 5000 + "(N x) (N y)" + ")" * 5000
    with pytest.raises(kit.DataError, match=f"x, line 1: more than {_brackets.CHAIN} brackets"):
        _brackets.sentence(line, "x, line 1")


def test_lines_of_metrics_that_nobody_wrote_are_no_epochs(tmp_path):
    line = '{"label": "training", "epoch": 1, "loss": 1.0}\n'
    write({kit.METRICS: b"[" * 100_000 + b"\n" + line.encode()}, tmp_path)
    assert kit.Run.epochs(SimpleNamespace(out=tmp_path), "training") == []
