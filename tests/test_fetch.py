"""Laws of `python -m demos fetch`: the right file or none, whatever the server does."""

import os
import re
import socket
import ssl
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from demos import __main__ as demos
from demos import _fetch as fetch
from demos import _sources as sources
from tests import forged, liars
from tests.liars import OTHER, PLAIN, TEXT, ZIPPED, response, told

needs_openssl = pytest.mark.skipif(not liars.OPENSSL, reason="makes its certificates with openssl")


@pytest.fixture(scope="module")
def pem(tmp_path_factory):
    """A certificate for the host; None where none can be made, and then TLS is left out."""
    return liars.certificate(tmp_path_factory.mktemp("pem")) if liars.OPENSSL else None


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "some" / "folder"


# ---- what is fetched ----


def test_a_file_is_fetched_and_what_must_be_known_is_printed(folder, pem):
    asked = []
    code, out, err = told(lambda path: asked.append(path) or [response()], folder, pem)
    assert (code, err) == (0, "")
    assert asked == [f"/a/b/{liars.COMMIT}/folder/text.txt"]
    assert (folder / "text.txt").read_bytes() == TEXT
    assert os.listdir(folder) == ["text.txt"]
    for part in ("a licence", "a paper", f"{sources.HOST}/a/b", "1,700", f"--data {folder}"):
        assert part in out


@pytest.mark.parametrize(
    "sent",
    [
        [liars.unmeasured(TEXT)],
        [liars.CHUNKED, b"6A4\r\n", TEXT, b"\r\n0\r\n\r\n"],
        [response()[:500], response()[500:]],
        lambda path: [liars.moved("/x") if path != "/x" else response()],
        lambda path: [liars.moved(path + "x") if not path.endswith("xxx") else response()],
        [response(length="-5")],
    ],
    ids=["no length", "chunks", "in parts", "moved", "moved three times", "a length below 0"],
)
def test_ways_of_sending_that_are_right_are_taken(folder, pem, sent):
    assert told(sent, folder, pem)[0] == 0
    assert (folder / "text.txt").read_bytes() == TEXT


def test_a_member_of_an_archive_is_read_and_the_archive_is_asked_for_once(folder, pem):
    other = liars.pinned("other.txt", "texts.zip!b.txt", OTHER)
    both = ZIPPED._replace(files=(*ZIPPED.files, other))
    archive, asked = forged.zipped([("x/a.txt", TEXT), ("x/b.txt", OTHER), ("c", b"")]), []
    sent = lambda path: asked.append(path) or [response(archive)]  # noqa: E731
    assert told(sent, folder, pem, both)[0] == 0
    assert asked == [f"/a/b/{liars.COMMIT}/texts.zip"]
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {
        "text.txt": TEXT,
        "other.txt": OTHER,
    }


@pytest.mark.parametrize("name", liars.HARMLESS)
def test_names_in_an_archive_are_no_paths(folder, pem, tmp_path, name):
    assert told([response(liars.HARMLESS[name])], folder, pem, ZIPPED)[0] == 0
    there = {path for path in tmp_path.rglob("*") if path.is_file()}
    assert there == {folder / "text.txt"} and (folder / "text.txt").read_bytes() == TEXT


def test_what_is_there_is_not_fetched_again(folder, pem):
    folder.mkdir(parents=True)
    (folder / "text.txt").write_bytes(TEXT)
    code, out, _ = told([b"nothing should be asked"], folder, pem)
    assert code == 0 and "is there already" in out


@pytest.mark.parametrize("content", [b"", b"mine", OTHER])
def test_another_file_of_that_name_is_not_overwritten(folder, pem, content):
    folder.mkdir(parents=True)
    (folder / "text.txt").write_bytes(content)
    code, _, err = told([response()], folder, pem)
    assert code == 1 and "is another file" in err
    assert (folder / "text.txt").read_bytes() == content


def test_a_folder_that_cannot_be_written_to_is_one_line(tmp_path, pem):
    (tmp_path / "file").write_bytes(b"")
    code, _, err = told([response()], tmp_path / "file", pem)
    assert code == 1 and err.startswith("error: ") and err.count("\n") == 1


def test_a_failure_on_the_disk_leaves_nothing(folder, pem, monkeypatch):
    def fail(*_):
        raise OSError("no space left")

    monkeypatch.setattr(os, "fsync", fail)
    code, _, err = told([response()], folder, pem)
    assert (code, err) == (1, "error: no space left\n") and os.listdir(folder) == []


def test_quiet_prints_nothing(folder, capsys, monkeypatch):
    monkeypatch.setattr(fetch, "DATA", {"small": PLAIN})
    folder.mkdir(parents=True)
    (folder / "text.txt").write_bytes(TEXT)
    assert fetch.main(["small", "--quiet", "--to", str(folder)]) == 0
    assert capsys.readouterr() == ("", "")


# ---- lies ----


def test_no_lie_leaves_a_file_and_each_gets_its_line(folder, pem):
    for lie, sent, reason, what, limits in liars.cases():
        code, _, err = told(sent, folder, pem, what, limits)
        assert liars.survived(folder, code, err), (lie, code, err)
        assert re.search(reason, err) and len(err) < 400, (lie, err)


def test_no_more_redirects_are_followed_than_it_says(folder, pem):
    asked = []
    sent = lambda path: asked.append(path) or [liars.moved(path + "x")]  # noqa: E731
    assert told(sent, folder, pem)[0] == 1
    assert [path.removeprefix(asked[0]) for path in asked] == ["", "x", "xx", "xxx"]


def test_an_older_file_survives_the_lies_about_the_next(folder, pem):
    both = PLAIN._replace(files=(*PLAIN.files, liars.pinned("b.txt", "b.txt", OTHER)))
    code, _, err = told([response()], folder, pem, both)  # the second has the bytes of the first
    assert code == 1 and err.startswith("error: b.txt was not fetched: SHA-256")
    assert os.listdir(folder) == ["text.txt"] and (folder / "text.txt").read_bytes() == TEXT


@given(st.data())
def test_whatever_is_sent_it_is_the_right_file_or_none(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("any") / "to"
    pieces = st.sampled_from(
        [response(), TEXT, b"HTTP/1.1 200 OK\r\n", b"\r\n", b"Content-Length: 1700\r\n", OTHER]
    )
    content = b"".join(data.draw(st.lists(pieces | st.binary(max_size=9), max_size=6)))
    code, _, err = told([content], folder)  # without TLS, which has no part in it
    if code == 0:
        assert (folder / "text.txt").read_bytes() == TEXT
    else:
        assert liars.survived(folder, code, err)


# ---- TLS ----


@needs_openssl
@pytest.mark.parametrize("case", ["unknown issuer", "another name", "no TLS"])
def test_a_server_that_cannot_prove_its_name_is_not_believed(folder, pem, tmp_path, case):
    asked = []

    def sent(path):
        asked.append(path)
        return [response()]

    if case == "no TLS":
        code, _, err = told_without_tls(folder)
    elif case == "another name":
        other = liars.certificate(tmp_path, "evil.example")
        code, _, err = told(sent, folder, other)
    else:
        code, _, err = told(sent, folder, pem, trusted=False)
    assert liars.survived(folder, code, err) and not asked
    assert ("SSL" if case == "no TLS" else "CERTIFICATE_VERIFY_FAILED") in err


def told_without_tls(folder):
    """What comes of it if the host talks HTTP where TLS is expected."""
    connection = liars.http.client.HTTPSConnection
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(liars, "Unencrypted", connection)
        return told([response()], folder)


@needs_openssl
def test_the_contexts_that_are_made_check_certificate_and_name(folder, pem, monkeypatch):
    made = []

    def create(*arguments, real=ssl.create_default_context, **keywords):
        made.append(real(*arguments, **keywords))
        return made[-1]

    monkeypatch.setattr(ssl, "create_default_context", create)
    assert told([response()], folder, pem)[0] == 0
    assert [(x.verify_mode, x.check_hostname) for x in made] == [(ssl.CERT_REQUIRED, True)]


def test_an_alarm_that_comes_too_late_finds_a_closed_line_and_says_nothing():
    line = socket.socket()
    line.close()
    fetch.close_line(line)


def test_no_thread_is_left(folder, pem):
    before = threading.active_count()
    assert told([response()], folder, pem)[0] == 0
    alarms = [thread for thread in threading.enumerate() if isinstance(thread, threading.Timer)]
    assert not [alarm for alarm in alarms if not alarm.finished.is_set()]
    assert threading.active_count() <= before + 2  # what the server has not yet put away


# ---- the table ----


@pytest.mark.parametrize("name", sources.DATA)
def test_the_table_is_pinned_and_its_names_are_names(name):
    data = sources.DATA[name]
    assert re.fullmatch(r"[0-9a-f]{40}", data.commit)
    assert re.fullmatch(r"[\w.-]+/[\w.-]+", data.repository)
    names = [file.name for file in data.files]
    assert len(set(names)) == len(names) > 0
    for file in data.files:
        assert re.fullmatch(r"[0-9a-f]{64}", file.sha256) and 0 < file.size < 2**24
        assert re.fullmatch(r"[a-z]\w*([.-]\w+)*", file.name) and Path(file.name).name == file.name
        assert data.url(file).startswith(f"https://{sources.HOST}/{data.repository}/{data.commit}/")
        assert not data.most or file.size <= data.most <= 2**24
    assert data.licence and data.cite and not data.tried  # until somebody has


def test_the_list_says_what_there_is_on_what_terms_and_that_it_is_untried(capsys):
    assert demos.main(["fetch"]) == 0
    out = capsys.readouterr().out
    for name, data in sources.DATA.items():
        assert f"  {name} " in out and data.licence in out and data.repository in out
    assert out.count(", untried;") == len(sources.DATA) and "GUM" in out
    with pytest.raises(SystemExit) as caught:
        demos.main(["fetch", "--help"])
    assert caught.value.code == 0 and sources.DATA["sst"].licence in capsys.readouterr().out


def test_an_unknown_name_is_refused_with_the_names(capsys):
    with pytest.raises(SystemExit) as caught:
        demos.main(["fetch", "../sst"])
    assert caught.value.code == 2 and "sst" in capsys.readouterr().err


def test_conllu_is_reduced_to_words_tags_and_heads():
    official = """# sent_id = 1
# text = It don't -
1\tIt\tit\tPRON\tPRP\tCase=Nom\t2\tnsubj\t2:nsubj\t_
2-3\tdon't\t_\t_\t_\t_\t_\t_\t_\tSpaceAfter=No
2\tdo\tdo\tAUX\tVBP\tMood=Ind\t0\troot\t0:root\t_
2.1\tx\tx\tX\tX\t_\t_\t_\t2:dep\t_
3\tn't\tnot\tPART\tRB\t_\t2\tadvmod\t2:advmod\t_
4\t-\t-\tPUNCT\t.\t_\t2\tpunct\t2:punct\t_

"""
    reduced = """1\tIt\t_\tPRON\tPRP\t_\t2\tnsubj\t_\t_
2\tdo\t_\tAUX\tVBP\t_\t0\troot\t_\t_
3\tn't\t_\tPART\tRB\t_\t2\tadvmod\t_\t_
4\t-\t_\tPUNCT\t.\t_\t2\tpunct\t_\t_

"""
    assert sources.words_tags_heads(official.encode(), None).decode() == reduced
    assert sources.words_tags_heads(reduced.encode(), None).decode() == reduced


def test_the_beginning_of_an_answer_is_as_long_as_the_file(folder, pem):
    data = PLAIN._replace(make=sources.beginning, most=2 * len(TEXT))
    assert told([response(TEXT + b"more")], folder, pem, data)[0] == 0
    assert (folder / "text.txt").read_bytes() == TEXT


def test_ctrl_c_is_one_line_and_leaves_nothing(folder, monkeypatch, capsys):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(fetch, "download", interrupt)
    monkeypatch.setattr(fetch, "DATA", {"small": PLAIN})
    assert fetch.main(["small", "--quiet", "--to", str(folder)]) == 130
    assert capsys.readouterr() == ("", "stopped\n") and not folder.exists()


def test_it_needs_nothing_but_the_standard_library_and_the_package():
    for module in (fetch, sources, liars):
        imported = {line.split()[1] for line in Path(module.__file__).read_text().splitlines()
                    if line.startswith(("import ", "from "))}  # fmt: skip
        roots = {name.partition(".")[0] for name in imported}
        assert roots <= sys.stdlib_module_names | {"demos", "tests", "tinygrad_rnn"}
