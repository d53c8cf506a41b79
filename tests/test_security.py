"""Nobody gets in: no source runs code from a file, trusts a stranger, or lets data choose a path.

What is read off the syntax trees is itself tested on sources that do these things.  Files from
strangers are in `test_forged`, servers that lie in `test_fetch`, texts in `test_monsters`.
"""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from demos import _kit as kit

ROOT = Path(__file__).resolve().parents[1]
SOURCES = {
    str(path.relative_to(ROOT)): ast.parse(path.read_text(encoding="utf-8"))
    for folder in ("tinygrad_rnn", "demos", "benchmarks", "tests")
    for path in sorted((ROOT / folder).rglob("*.py"))
}

# ---- what no source may do ----------------------------------------------------------------------

CODE_IN_FILES = set(
    "pickle cPickle _pickle dill cloudpickle joblib marshal shelve yaml ruamel code codeop runpy"
    " imp xmlrpc pandas tarfile".split()
)
NETWORK = set("socket socketserver ssl http urllib urllib3 requests httpx ftplib smtplib".split())
RUN_TEXT = {"eval", "exec", "compile", "__import__", "__builtins__", "builtins", "literal_eval"}
RUN_PROGRAMS = {"system", "popen", "getoutput", "getstatusoutput", "execvp", "execv", "spawnl"}
UNPACK = {"extract", "extractall", "unpack_archive"}
TRUST = {"_create_unverified_context", "_create_default_https_context", "CERT_NONE"}
CONSTRUCTORS = {"__reduce__", "__reduce_ex__", "__setstate__"}
READ_ARRAYS = {"load", "read_array", "open_memmap", "write_array"}  # of NumPy
MUST_BE_FALSE = {"allow_pickle", "shell"}
MUST_BE_TRUE = {"verify", "check_hostname", "weights_only"}
NAMES = RUN_TEXT | RUN_PROGRAMS | UNPACK | TRUST | {"import_module"}


def offences(tree):
    """What in a source could run code from a file or trust a stranger, a word for each."""
    for node in ast.walk(tree):
        match node:
            case ast.Import(names):
                roots = {alias.name.partition(".")[0] for alias in names}
                yield from roots & (CODE_IN_FILES | NETWORK | RUN_TEXT)
            case ast.ImportFrom(module, names):
                root, own = (module or "").partition(".")[0], {alias.name for alias in names}
                yield from {root, *own} & (CODE_IN_FILES | NETWORK | NAMES)
                yield from own & READ_ARRAYS if root == "numpy" else ()
            case ast.Name(name) if name in RUN_TEXT:
                yield name
            case ast.Attribute(ast.Name("tempfile"), "mktemp"):
                yield "mktemp"
            case ast.Attribute(_, name) if name in NAMES - {"eval", "compile", "import_module"}:
                yield name  # model.eval() and re.compile are something else
            case ast.FunctionDef(name) if name in CONSTRUCTORS:
                yield name
            case ast.keyword(name, value) if name in MUST_BE_FALSE | MUST_BE_TRUE:
                if getattr(value, "value", None) is not (name in MUST_BE_TRUE):
                    yield name
            case ast.Assign([ast.Attribute(_, name)], value) if name in MUST_BE_TRUE:
                if getattr(value, "value", None) is not True:
                    yield name
            case ast.Constant(str(text)) if "http://" in text.replace(NAMESPACES, ""):
                yield "http://"
            case ast.Call(ast.Attribute(_, "import_module"), [ast.Constant()]):
                pass
            case ast.Call(ast.Attribute(_, "import_module")):
                yield "import_module"
            case ast.Call(ast.Attribute(receiver, name), keywords=keywords) if name in READ_ARRAYS:
                of_numpy = ast.unparse(receiver).partition(".")[0] in ("np", "numpy")
                if of_numpy and "allow_pickle" not in {keyword.arg for keyword in keywords}:
                    yield name


NAMESPACES = "http://www.w3.org/"  # names that look like addresses
# Tests run the README's code, listen on this machine, and spoil the engine with its own source.
NOT_IN_TESTS = NETWORK | RUN_TEXT | CONSTRUCTORS | {"http://", "import_module"}
ALLOWED = {  # (file, word): why
    ("demos/__main__.py", "import_module"): "of the demos in its own table",
    ("benchmarks/__main__.py", "import_module"): "of the benchmarks in its own table",
    ("benchmarks/_processes.py", "import_module"): "of the programs in the tables of workloads",
    ("benchmarks/_gpu_systems.py", "import_module"): "of the programs in the tables of workloads",
    ("benchmarks/_suite.py", "import_module"): "of the workloads in its own table",
    ("benchmarks/watching.py", "import_module"): "of the copy of the package that it makes",
    ("demos/_fetch.py", "http"): "the one file that speaks to a network",
    ("demos/_fetch.py", "socket"): "the one file that speaks to a network",
    ("demos/_fetch.py", "ssl"): "the one file that speaks to a network",
    ("demos/_fetch.py", "urllib"): "takes addresses apart",
    ("tinygrad_rnn/backend.py", "import_module"): "of the kernels in its own table",
    ("tinygrad_rnn/tensor.py", "__reduce__"): "refuses what is no leaf; the rest is data",
    ("demos/word_vectors.py", "builtins"): "for the names in it",
    ("tests/cuda/test_devices.py", "pickle"): "reads what it has just written",
    ("tests/test_accidents.py", "pickle"): "shows what is refused",
    ("tests/test_golden_errors.py", "pickle"): "shows what is refused",
    ("tests/test_saving.py", "allow_pickle"): "makes the file that is refused",
    ("tests/forged.py", "allow_pickle"): "makes the file that is refused",
    ("tests/forged.py", "write_array"): "makes the file that is refused",
}


@pytest.mark.parametrize("name", SOURCES)
def test_no_source_runs_code_from_a_file_or_trusts_a_stranger(name):
    ignored = NOT_IN_TESTS if name.startswith("tests/") else set()
    found = {*offences(SOURCES[name])} - ignored
    assert {word for word in found if (name, word) not in ALLOWED} == set()


def test_all_that_is_allowed_is_there():
    assert [pair for pair in ALLOWED if pair[1] not in offences(SOURCES[pair[0]])] == []


OFFENDING = {
    "import pickle": "pickle",
    "import numpy, dill as d": "dill",
    "from pickle import loads": "pickle",
    "from pickle import *": "pickle",
    "def f():\n  import yaml": "yaml",
    "from ruamel.yaml import YAML": "ruamel",
    "def f(text): return eval(text)": "eval",
    "run = exec": "exec",
    "map(compile, texts)": "compile",
    "__import__(name)": "__import__",
    "__builtins__['eval']": "__builtins__",
    "np.load(path)": "load",
    "numpy.load(path, None)": "load",
    "np.lib.format.read_array(file)": "read_array",
    "from numpy import load": "load",
    "from numpy.lib.format import read_array as read": "read_array",
    "np.load(path, allow_pickle=True)": "allow_pickle",
    "np.load(path, allow_pickle=flag)": "allow_pickle",
    "np.load(path, allow_pickle=not False)": "allow_pickle",
    "np.load(path, **{'allow_pickle': True})": "load",
    "torch.load(path, weights_only=False)": "weights_only",
    "subprocess.run(line, shell=True)": "shell",
    "subprocess.run(line, shell=1)": "shell",
    "os.system(line)": "system",
    "from os import system": "system",
    "os.execvp(file, line)": "execvp",
    "os.spawnl(0, file)": "spawnl",
    "subprocess.getoutput(line)": "getoutput",
    "archive.extractall()": "extractall",
    "archive.extract(member, folder)": "extract",
    "each = archive.extract": "extract",
    "shutil.unpack_archive(path)": "unpack_archive",
    "import tarfile": "tarfile",
    "tempfile.mktemp()": "mktemp",
    "ast.literal_eval(text)": "literal_eval",
    "importlib.import_module(name)": "import_module",
    "import urllib.request": "urllib",
    "from urllib import request": "urllib",
    "import requests": "requests",
    "get(url, verify=False)": "verify",
    "get(url, verify=flag)": "verify",
    "context.check_hostname = False": "check_hostname",
    "context.verify_mode = ssl.CERT_NONE": "CERT_NONE",
    "ssl._create_unverified_context()": "_create_unverified_context",
    "from ssl import CERT_NONE": "CERT_NONE",
    "import builtins": "builtins",
    "os.path.os.system(line)": "system",
    "builtins.exec(text)": "exec",
    "url = 'http://example.org'": "http://",
    "url = f'http://{host}'": "http://",
    "class A:\n  def __reduce__(self): return eval, ('1',)": "__reduce__",
    "class A:\n  def __setstate__(self, state): self.x = state": "__setstate__",
}


@pytest.mark.parametrize("source", OFFENDING)
def test_what_is_forbidden_is_seen(source):
    assert OFFENDING[source] in {*offences(ast.parse(source))}


@pytest.mark.parametrize(
    "source",
    [
        "import re, json, zipfile, hashlib  # pickle, eval",
        "'''This is no pickle, and eval is not called.'''",
        "model.eval()",
        "re.compile('exec')",
        "np.load(path, allow_pickle=False)",
        "tg.load(path)",
        "json.load(file)",
        "subprocess.run([sys.executable], shell=False)",
        "subprocess.run([sys.executable])",
        "archive.open(member).read(9)",
        "context.check_hostname = True",
        "url = 'https://example.org'",
        "xmlns = 'http://www.w3.org/2000/svg'",
    ],
)
def test_what_only_sounds_like_it_is_not_seen(source):
    assert {*offences(ast.parse(source))} == set()


# ---- data choose no path ------------------------------------------------------------------------

WRITES = set(
    "write_text write_bytes touch mkdir makedirs rmdir unlink removedirs renames symlink symlink_to"
    " hardlink_to chmod rmtree copyfile copytree mkstemp mkdtemp NamedTemporaryFile"
    " TemporaryDirectory memmap tofile savetxt savez savez_compressed".split()
)
OF_MODULES = {"copy", "move", "rename", "remove", "replace", "truncate", "link", "open"}
TAKE_A_PATH = {"savefig", "save", "imsave"}  # as their first argument


def is_of_the_run(node):
    """Whether a path is made by `Run.path`, which lets none out of `args.out`."""
    call = isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
    return call and node.func.attr == "path" and ast.unparse(node.func.value) in ("run", "self")


def writes_elsewhere(tree):
    """What a source of a demo calls to write to a path that is not one of its run."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        text = ast.unparse(node.func)
        receiver, _, name = text.rpartition(".")
        if name == "open" and receiver != "archive":
            target, *mode = ([node.func.value] if receiver else []) + node.args
            mode += [keyword.value for keyword in node.keywords if keyword.arg == "mode"]
            reads = not mode or getattr(mode[0], "value", "w") in ("r", "rb", "rt")
            if not reads and not is_of_the_run(target):
                yield text
        elif name in TAKE_A_PATH:
            if not (node.args and is_of_the_run(node.args[0])):
                yield text
        elif name in WRITES or (name in OF_MODULES and receiver in ("os", "shutil")):
            yield text


ELSEWHERE = {  # (file, what it calls): why
    ("demos/_kit.py", "self.out.mkdir"): "--out itself",
    ("demos/_kit.py", "left.unlink"): "half a file of a run that was killed, in --out",
    ("demos/_kit.py", "path.unlink"): "checkpoints of a finished run, in --out",
    ("demos/_kit.py", "path.open"): "the metrics, at self.path(METRICS)",
    ("demos/_training.py", "self.save"): "the next",
    ("demos/_training.py", "self.checkpoints.save"): "in --out, under the name of the training",
    ("demos/_fetch.py", "path.parent.mkdir"): "--to itself",
}
DEMOS = [name for name in SOURCES if name.startswith("demos/")]


@pytest.mark.parametrize("name", DEMOS)
def test_demos_write_to_paths_of_their_run_alone(name):
    found = {call for call in writes_elsewhere(SOURCES[name]) if (name, call) not in ELSEWHERE}
    assert found == set()


@pytest.mark.parametrize(
    "source",
    [
        "open(name, 'w')",
        "open(name, mode='wb')",
        "open(folder / name, mode)",
        "path.open('a')",
        "(run.out / name).open('w')",
        "other.path(name).open('w')",
        "(run.out / name).write_text(text)",
        "Path(name).touch()",
        "figure.savefig(name)",
        "figure.savefig(run.out / name)",
        "tg.save(f'{name}.npz', state)",
        "picture.save()",
        "os.replace(a, b)",
        "os.remove(name)",
        "shutil.copy(a, b)",
        "tempfile.mkdtemp()",
        "x.tofile(name)",
    ],
)
def test_a_path_that_is_not_of_the_run_is_seen(source):
    assert [*writes_elsewhere(ast.parse(source))]


@pytest.mark.parametrize(
    "source",
    [
        "open(path)",
        "open(path, 'rb')",
        "path.open(encoding='utf-8')",
        "archive.open(member)",
        "run.path(f'{name}.csv').open('w')",
        "self.path(name).open('w', newline='')",
        "figure.savefig(run.path(name + '.png'), dpi=120)",
        "tg.save(run.path('model.npz'), state)",
        "text.replace('a', 'b')",
        "words.remove('a')",
    ],
)
def test_a_path_of_the_run_is_in_order(source):
    assert not [*writes_elsewhere(ast.parse(source))]


def run_in(folder):
    """A run of a demo that writes to `folder`, without its beginning and its end."""
    run = kit.Run.__new__(kit.Run)
    run.out, run.files = folder, []
    return run


pieces = st.sampled_from(["..", ".", "/", "a", "~", "\\", "\0", "C:", ""]) | st.text(max_size=3)


@given(st.lists(pieces, max_size=5).map("".join))
def test_a_path_of_the_run_is_directly_in_out_whatever_the_name(name):
    folder = Path("folder", "out")
    try:
        path = run_in(folder).path(name)
    except ValueError:
        return
    assert path.parent == folder and path.name == name and name not in ("", ".", "..")


@pytest.mark.parametrize("name", ["../x", "/x", "a/b", "a/../../x", "..", ".", "", "x/"])
def test_a_name_that_leads_elsewhere_is_refused(name):
    with pytest.raises(ValueError, match="no name of a file"):
        run_in(Path("out")).path(name)


# ---- what demos do write ------------------------------------------------------------------------

WATCHED = """
import os, sys
from pathlib import Path
out = os.path.realpath(sys.argv[1])
changes = {"os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.symlink", "os.link", "os.truncate",
           "os.chmod", "shutil.rmtree"}

def inside(path):
    if isinstance(path, int):
        return True
    path = os.path.realpath(os.fsdecode(path))
    return path.startswith(out) or out.startswith(path) or path == "/dev/null"

def watch(event, arguments):
    written = event in changes
    if event == "open":
        path, mode, flags = arguments
        written = flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
    if written and not inside(arguments[0]):
        print("ELSEWHERE", event, arguments, file=sys.stderr)
    if event in ("socket.connect", "subprocess.Popen", "os.system", "os.exec", "os.posix_spawn"):
        print("ELSEWHERE", event, arguments, file=sys.stderr)

sys.dont_write_bytecode = True
import importlib
sys.addaudithook(watch)
sys.exit(importlib.import_module(sys.argv[2]).main([*sys.argv[3:], "--out", sys.argv[1]]))
"""


def watched(tmp_path, demo, *flags):
    """What a demo that writes to tmp_path/a/out did elsewhere, and what it wrote to stderr."""
    out = tmp_path / "a" / "out"
    command = [sys.executable, "-c", WATCHED, str(out), f"demos.{demo}", *flags]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    elsewhere = [line for line in done.stderr.splitlines() if line.startswith("ELSEWHERE")]
    return elsewhere, done.stderr


EVIL = "../../evil"


def test_labels_and_words_that_look_like_paths_lead_nowhere(tmp_path):
    labels = [EVIL, "/evil", "~", "$HOME", "-rf", "C:\\evil", "evil\x07"]
    lines = [f"{labels[i % 7]}\t{EVIL} /etc/passwd w{i} {labels[i % 5]}" for i in range(200)]
    (tmp_path / "texts.tsv").write_text("\n".join(lines))
    flags = ["--quick", "--quiet", "--no-plot", "--data", str(tmp_path / "texts.tsv")]
    elsewhere, errors = watched(tmp_path, "sequence_classification", *flags)
    assert elsewhere == [] and "error" not in errors, errors
    assert {path.name for path in tmp_path.iterdir()} == {"texts.tsv", "a"}
    assert len(list((tmp_path / "a" / "out").iterdir())) > 1


def test_a_demo_that_would_write_elsewhere_is_noticed(tmp_path):
    program = WATCHED.replace("import importlib\n", "import importlib\nsys.argv[2] = 'evil'\n")
    (tmp_path / "evil.py").write_text("def main(argv): open('elsewhere', 'w').close()")
    command = [sys.executable, "-c", program, str(tmp_path / "out"), "evil"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "ELSEWHERE open" in done.stderr
