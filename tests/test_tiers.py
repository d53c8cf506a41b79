"""The CuPy suite in processes of its own: CuPy on host memory, and on a device where there is one.

``tests/cuda`` itself runs here on the simulator.  What this machine lacks is skipped, by name;
where ``TINYGRAD_RNN_REQUIRE`` has ``cupy`` (or ``gpu``) in it, that is a failure.
"""

import os
import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest

from .cuda import host
from .required import skip

ROOT = Path(__file__).parents[1]
WITH_BARRIERS = ["tests/cuda/test_kernels.py", "tests/cuda/test_host.py"]


def run_pytest(*arguments, **environment):
    """Run pytest in a process of its own; fail with all that it says of what has failed there."""
    command = [sys.executable, "-m", "pytest", *arguments, "-p", "no:cacheprovider", "--tb=short"]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    passed = re.search(r"\d+ passed", done.stdout)
    if done.returncode or not passed:
        told = [" ".join(command), done.stdout, f"exit status {done.returncode}"]
        pytest.fail("\n".join(told), pytrace=False)


@pytest.fixture
def host_memory():
    if reason := host.missing():
        skip("cupy", f"tier host: {reason}")


def test_on_host_memory(host_memory):
    run_pytest("tests/cuda", "--tier", "host")


def test_on_host_memory_from_the_last_thread_to_the_first(host_memory):
    run_pytest(*WITH_BARRIERS, "--tier", "host", TINYGRAD_RNN_THREADS="reversed")


@pytest.mark.gpu
def test_on_a_device():
    probe = "from tinygrad_rnn.backend import backend_for; backend_for('cuda')"
    done = subprocess.run([sys.executable, "-c", probe], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        (reason,) = re.findall(r"DeviceError: (.*)", done.stderr)
        skip("gpu", reason)
    run_pytest("tests/cuda", "--tier", "gpu")


# ---- what is missing is told in a line that says what to do --------------------------------------


def absent(name):
    raise PackageNotFoundError(name)


MISSING = {
    "CuPy is not installed": ("version", absent),
    "cupy-cuda13x 13.6.0 is not 14.2": ("version", lambda name: "13.6.0"),
    "no g++": ("shutil.which", lambda name: None),
    "no Python.h": ("sysconfig.get_path", lambda name: "/nowhere"),
}


@pytest.mark.parametrize("reason", MISSING)
def test_a_reason_says_what_to_install(monkeypatch, reason):
    monkeypatch.setattr(host, "version", lambda name: "14.2.0")
    monkeypatch.setattr(host.shutil, "which", lambda name: name)
    monkeypatch.setattr(host.sysconfig, "get_path", lambda name: Path(__file__).parent)
    name, stand_in = MISSING[reason]
    monkeypatch.setattr(f"{host.__name__}.{name}", stand_in)
    told = host.missing()
    assert reason in told and "install" in told and "\n" not in told
    with pytest.raises(RuntimeError, match=re.escape(f"tier host: {told}")):
        host.install()


def test_a_skip_is_a_failure_where_the_thing_is_required(monkeypatch):
    monkeypatch.setenv("TINYGRAD_RNN_REQUIRE", "gpu,cupy")
    for what in ("cupy", "gpu"):
        with pytest.raises(pytest.fail.Exception, match=f"{what} is required here: no g"):
            skip(what, "no g++")
    monkeypatch.setenv("TINYGRAD_RNN_REQUIRE", "gpu")
    with pytest.raises(pytest.skip.Exception, match="no g"):
        skip("cupy", "no g++")


def test_a_failure_in_the_other_process_is_shown_here(tmp_path):
    (tmp_path / "test_wrong.py").write_text("def test_wrong():\n    assert 1 == 2\n")
    with pytest.raises(pytest.fail.Exception) as caught:
        run_pytest(str(tmp_path))
    assert "assert 1 == 2" in str(caught.value) and "test_wrong" in str(caught.value)
    (tmp_path / "test_wrong.py").write_text("")
    with pytest.raises(pytest.fail.Exception, match="exit status 5"):
        run_pytest(str(tmp_path))
    (tmp_path / "test_wrong.py").write_text("import os\n\ndef test_wrong():\n    os.abort()\n")
    with pytest.raises(pytest.fail.Exception, match="exit status -6"):
        run_pytest(str(tmp_path))
