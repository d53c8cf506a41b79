"""What the package promises as a package: what it needs, what it holds, in which order it is read.

Most of it is read off the sources with `ast`; what could hide from that is run in fresh processes.
"""

import ast
import configparser
import importlib
import inspect
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import tinygrad_rnn as tg

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "tinygrad_rnn"
TYPED = PACKAGE / "py.typed"

LARGE = {  # files of more than 400 lines, and why they are not cut up
    "README.md": "the lecture's table and questions, and the reading order of every file",
    "tinygrad_rnn/decode.py": "three ways to search, and what a step function may return",
    "tinygrad_rnn/deferred.py": "one subject: how calls wait, are put in batches and are run",
    "tinygrad_rnn/engine.py": "what a call is, how it is recorded, and the decorators for it",
    "tinygrad_rnn/linear.py": "one subject: linear operations, each beside its adjoint",
    "tinygrad_rnn/optim.py": "five optimisers, each with its formula and its settings",
    "tinygrad_rnn/registry.py": "one row for each operation, and the table of choices beside them",
    "tinygrad_rnn/saving.py": "two formats, and all that a file of a stranger is asked first",
    "tinygrad_rnn/sequences.py": "three operations, each beside the loop that defines it",
    "tinygrad_rnn/structure.py": "one class: how a forest is made, and in which order it is run",
    "tinygrad_rnn/tensor.py": "the methods of one class, most of them one line",
    "tinygrad_rnn/gradcheck/check.py": "one check, and the messages of all the ways to fail it",
    "demos/_kit.py": "the one file of plumbing that all demos share",
    "tests/ERRORS.md": "the catalogue of messages, to be looked up in, not read",
    "tests/cuda/host/runtime.cpp": "the calls of CUDA that CuPy makes, each a few lines",
    "tests/crowd.py": "one subject: what threads do beside each other",
    "tests/cuda/test_optim.py": "one subject: steps, guard and clipping, on both devices",
    "tests/cuda/planted.py": "one mistake after the other, each with who must catch it",
    "tests/cuda/simulator/table.txt": "written by a program: the names of CuPy",
    "tests/reliability.py": "one section of the page after the other",
    "tests/soak.py": "one subject: what must not grow",
    "tests/test_checkpoints.py": "one subject: states go in and come out, whole or not at all",
    "tests/test_deferred.py": "one law after the other, of calls that wait",
    "tests/test_sequences.py": "one subject: a layer in one operation, and when it is not",
    "tests/test_training.py": "one subject: all the ways in which a run can be stopped",
    "tests/test_trees.py": "one subject: the cells of trees, and what they are equal to",
    "tests/test_saving.py": "one subject: all the ways in which a file can be wrong",
    "tests/test_nn.py": "one subject: modules, layers and cells",
    "tests/test_profile.py": "one subject: what a profile counts, and that it changes nothing",
    "tests/test_optim.py": "one subject: the optimisers' formulas, and what they refuse",
    "tests/test_programs.py": "one generator of random programs, its oracle, and their laws",
}


def module_name(path):
    """The name under which a file of the package is imported."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


SOURCES = {
    module_name(path): ast.parse(path.read_text(encoding="utf-8"))
    for path in sorted(PACKAGE.rglob("*.py"))
}


def python(*arguments, cwd=ROOT):
    """What a fresh Python, for which every warning is an error, wrote to stdout and stderr."""
    command = [sys.executable, "-W", "error", *arguments]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


# ---- importing it -------------------------------------------------------------------------------

REFUSE = """
import importlib.abc, sys
import numpy

class Refuse(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] not in {*sys.stdlib_module_names, "numpy", "tinygrad_rnn"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Refuse())
"""


def test_it_needs_numpy_alone():
    modules = [name for name in SOURCES if name != "tinygrad_rnn.testing"]
    python("-c", REFUSE + "".join(f"import {name}\n" for name in modules))


def test_its_strategies_need_hypothesis_and_say_so():
    attempt = "try: import tinygrad_rnn.testing\nexcept ImportError as error: print(error.name)"
    assert python("-c", REFUSE + attempt)[0].split() == ["hypothesis"]


def test_it_takes_nothing_else_even_where_it_could():
    report = (
        "import sys, numpy.random; before = set(sys.modules); import tinygrad_rnn;"
        "print(*{name.partition('.')[0] for name in set(sys.modules) - before})"
    )
    taken = set(python("-c", report)[0].split())
    assert taken - set(sys.stdlib_module_names) - {"numpy"} == {"tinygrad_rnn"}


def test_importing_it_prints_nothing_starts_nothing_and_sets_nothing():
    state = "(threading.active_count(), np.geterr(), warnings.filters[:], dict(os.environ))"
    program = (
        f"import os, threading, warnings, numpy as np; before = {state}; import tinygrad_rnn;"
        f"assert {state} == before"
    )
    assert python("-c", program) == ("", "")


# ---- what it holds ------------------------------------------------------------------------------


def needs(name):
    """The modules of the package that the module `name` imports, also inside functions."""
    is_package = any(other.startswith(name + ".") for other in SOURCES)
    found = []
    for node in ast.walk(SOURCES[name]):
        if isinstance(node, ast.ImportFrom) and node.level:
            up = node.level - is_package
            base = ".".join(name.split(".")[:-up] if up else name.split("."))
            source = f"{base}.{node.module}" if node.module else base
            inner = [f"{source}.{alias.name}" for alias in node.names]
            found += [one if one in SOURCES else source for one in inner]
    return list(dict.fromkeys(found))


def import_order():
    """The package's modules in the order in which their imports end, in a fresh process."""
    report = "import sys, tinygrad_rnn; print(*sys.modules)"
    return [name for name in python("-c", report)[0].split() if name in SOURCES]


def test_each_module_needs_only_those_that_are_read_before_it():
    order = import_order()
    for name in order:
        later = [other for other in needs(name) if other not in order[: order.index(name)]]
        assert not later, f"{name} needs {later}, which are read later"


def test_init_lists_the_files_in_the_order_of_import():
    listed = needs("tinygrad_rnn")
    assert listed == [name for name in import_order() if name in listed]
    top = {name for name in import_order() if name.count(".") == 1}
    assert set(listed) == top


def absolute_imports(tree):
    """The full names that a source imports."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.module


def test_imports_within_the_package_are_relative():
    for name, tree in SOURCES.items():  # so that `needs` sees all of them
        assert not [one for one in absolute_imports(tree) if one.startswith("tinygrad_rnn")], name


# ---- what it says -------------------------------------------------------------------------------


def says_what_it_is(thing):
    """Whether a docstring of its own begins with a sentence on the first line."""
    doc = vars(thing).get("__doc__") if inspect.isclass(thing) else thing.__doc__
    return bool(doc) and inspect.cleandoc(doc).splitlines()[0].endswith(".")


@pytest.mark.parametrize("name", [name for name in SOURCES if not name.endswith("__main__")])
def test_every_public_name_has_a_docstring(name):
    module = importlib.import_module(name)
    assert says_what_it_is(module)
    public = [getattr(module, one) for one in getattr(module, "__all__", ())]
    assert [one for one in public if callable(one) and not says_what_it_is(one)] == []


def test_every_method_of_a_tensor_has_a_docstring_or_is_named_after_something_that_has():
    for name, method in vars(tg.Tensor).items():
        mirrored = getattr(tg, name, None) or getattr(np.ndarray, name, None)
        if not name.startswith("_") and not says_what_it_is(method):
            assert mirrored is not None and mirrored.__doc__, name


# ---- how it is built ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def config():
    """What setup.cfg says."""
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg", encoding="utf-8")
    return parser


def test_the_base_install_is_numpy_alone(config):
    required = config["options"]["install_requires"].split()
    assert [re.split(r"\W", one)[0] for one in required] == ["numpy"]


def test_the_extras_that_the_makefile_installs_exist(config):
    extras = set(config["options.extras_require"])
    assert {"cuda12", "cuda13", "demos", "test", "bench"} <= extras
    assert set(re.findall(r"\.venv/(\w+)\.done", (ROOT / "Makefile").read_text())) <= extras


def test_every_folder_of_the_package_is_found(config):
    assert config["options.packages.find"]["include"].split() == ["tinygrad_rnn*"]
    assert {path.parent for path in PACKAGE.rglob("*.py")} == {
        path.parent for path in PACKAGE.rglob("__init__.py")
    }


def test_what_is_installed_is_the_package_and_nothing_else(tmp_path):
    pytest.importorskip("setuptools")
    for name in ["setup.cfg", "pyproject.toml", "README.md", "LICENSE"]:
        shutil.copy(ROOT / name, tmp_path)
    for folder in ["tinygrad_rnn", "tests", "demos", "benchmarks"]:
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pyc*"))
    setup = "from setuptools import setup; setup()"
    command = [sys.executable, "-c", setup, "-q", "build_py", "--build-lib", "built"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    built = {path.relative_to(tmp_path / "built") for path in (tmp_path / "built").rglob("*.*")}
    assert built == {path.relative_to(ROOT) for path in [*PACKAGE.rglob("*.py"), TYPED]}


# ---- the repository -----------------------------------------------------------------------------


def files_of_the_repository():
    """The texts of all files that are, or could be, committed, by path."""
    listing = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    done = subprocess.run(listing, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip("not a git checkout")
    texts = {}
    for name in done.stdout.splitlines():
        if (ROOT / name).is_file():
            texts[name] = (ROOT / name).read_text(encoding="utf-8", errors="replace")
    return texts


def test_no_file_names_a_place_on_somebodys_machine():
    place = re.compile(r"(?<![\w.])/(work|tmp|root|home|Users)/\w")
    found = [name for name, text in files_of_the_repository().items() if place.search(text)]
    assert not found


def test_no_file_is_long_without_a_reason():
    lengths = {name: text.count("\n") for name, text in files_of_the_repository().items()}
    measured = "benchmarks/results/", "benchmarks/RESULTS.md"  # by a program, as long as they come
    long = {name for name, n in lengths.items() if n > 400 and not name.startswith(measured)}
    assert long <= set(LARGE)
    assert set(LARGE) <= set(lengths)


def test_every_test_file_has_tests_and_every_test_is_in_one():
    for path in (ROOT / "tests").rglob("*.py"):
        nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        names = [node.name for node in nodes if isinstance(node, ast.FunctionDef)]
        has_tests = any(name.startswith("test_") for name in names)
        assert has_tests == path.name.startswith("test_"), path.name
