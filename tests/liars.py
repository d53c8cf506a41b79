"""Servers that lie, over real TLS, and what `python -m demos fetch` makes of them.

`python -m tests.liars` tells all lies, loads all forged checkpoint files and prints the figures.
"""

import contextlib
import hashlib
import http.client
import io
import itertools
import os
import shutil
import socket
import socketserver
import ssl
import struct
import subprocess
import tempfile
import threading
import time
import zipfile
import zlib
from pathlib import Path
from unittest import mock

import tinygrad_rnn as tg
from demos import _fetch as fetch
from demos import _sources as sources
from tests import forged

TEXT = b"one line of text\n" * 100
OTHER = TEXT.replace(b"o", b"0")
OPENSSL = shutil.which("openssl")
COMMIT = "0123456789abcdef"


def pinned(name, path, content=TEXT):
    """A file of the table, with the checksum of `content`."""
    return sources.File(hashlib.sha256(content).hexdigest(), len(content), name, path)


def data(*files, **settings):
    """An entry of the table."""
    return sources.Data("what", "a demo", "a licence", "a paper", "a/b", COMMIT, files, **settings)


PLAIN = data(pinned("text.txt", "folder/text.txt"))
ZIPPED = data(pinned("text.txt", "texts.zip!a.txt"), make=sources.member, most=10**6)


# ---- lies: what is sent for a question; each yields bytes ----


def response(content=TEXT, status="200 OK", length=None, **headers):
    """A whole answer; its length is what it is, unless another is told."""
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(content) if length is None else length}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return ("\r\n".join([*lines, "Connection: close"]) + "\r\n\r\n").encode("latin-1") + content


def unmeasured(content=b"", **headers):
    """The start of an answer that ends with the connection."""
    return response(content, **headers).replace(b"Content-Length", b"X-Length")


CHUNKED = unmeasured(Transfer_Encoding="chunked")
ENDLESS = (b"x" * 65536 for _ in itertools.count())


def slowly(content):
    """A byte, and then nothing for a while."""
    for byte in content:
        yield bytes([byte])
        time.sleep(0.05)


def silence(seconds=3.0):
    """Nothing for a while."""
    time.sleep(seconds)
    yield b""


def moved(to, status="302 Found", content=b""):
    """An answer that sends elsewhere."""
    return response(content, status, Location=to)


def answers():
    """{lie: (what is sent, what the error says)}; a function of the path where that matters."""
    here, n = f"https://{sources.HOST}", len(TEXT)
    encoded = zlib.compress(TEXT, wbits=31)
    lies = {
        "a byte is missing": ([response(TEXT[:-1], length=n)], f"{n - 1:,} of {n:,} bytes"),
        "all bytes are missing": ([response(b"", length=n)], f"0 of {n:,} bytes"),
        "an empty file": ([response(b"")], "bytes, expected 1,700"),
        "a shorter file": ([response(TEXT[:-1])], "bytes, expected 1,700"),
        "it sends more than it says": ([response(TEXT, length=n - 1)], "bytes, expected 1,700"),
        "a longer file": ([response(TEXT + b"x")], "server says 1,701 bytes"),
        "a longer file, of no length": ([unmeasured(TEXT + b"x")], "more than 1,700 bytes"),
        "a length of 10 GB": ([response(TEXT, length=10**10)], "server says 10,000,000,000"),
        "endless, of no length": (itertools.chain([unmeasured()], ENDLESS), "more than"),
        "endless chunks": (
            itertools.chain([CHUNKED], itertools.repeat(b"5\r\nhello\r\n")),
            "more than 1,700 bytes",
        ),
        "a chunk of 4 GB": (itertools.chain([CHUNKED + b"ffffffff\r\n"], ENDLESS), "more than"),
        "a chunk below 0": ([CHUNKED + b"-5\r\nhello\r\n0\r\n\r\n"], "no answer|bytes, expected"),
        "a chunk of no size": ([CHUNKED + b"five\r\nhello\r\n0\r\n\r\n"], "no answer"),
        "chunks cut short": ([CHUNKED + b"400\r\nhello"], "no answer"),
        "other bytes": ([response(OTHER)], "SHA-256"),
        "an error page": ([response(b"<html>".ljust(n))], "SHA-256"),
        "gzip that was not asked for": ([response(encoded, Content_Encoding="gzip")], "'gzip'"),
        "a bomb of gzip": (
            [response(zlib.compress(bytes(10**7), wbits=31)[:n], Content_Encoding="gzip")],
            "'gzip'",
        ),
        "an encoding that escapes": ([response(TEXT, Content_Encoding="\x1b[2J")], "sent it as"),
        "it hangs up": ([b""], "no answer"),
        "it hangs up within the status": ([b"HTTP/1.1 2"], "no answer"),
        "it hangs up within the headers": (
            [b"HTTP/1.1 200 OK\r\nContent-Le"],
            "bytes, expected 1,700",
        ),
        "no HTTP": ([b"220 mail.example ESMTP\r\n" * 9], "no answer"),
        "noise": ([bytes(range(256)) * 9], "no answer"),
        "a status that escapes": ([b"\x1b]0;evil\x07\x1b[2J\r\n\r\n"], "no answer"),
        "a status of no number": ([b"HTTP/1.1 abc OK\r\n\r\n"], "no answer"),
        "a header of 1 MB": ([response(TEXT, X="x" * 10**6)], "no answer"),
        "1,000 headers": ([response(TEXT, **{f"X{i}": i for i in range(1000)})], "no answer"),
        "endless headers": (
            itertools.chain([b"HTTP/1.1 200 OK\r\n"], itertools.repeat(b"X: y\r\n")),
            "no answer",
        ),
        "in a loop": (lambda path: [moved(path)], "redirected more than 3 times"),
        "ever further": (lambda path: [moved(path + "x")], "redirected more than 3 times"),
        "nowhere": ([response(b"", "302 Found")], "redirected more than 3 times"),
        "elsewhere, with an endless body": (
            itertools.chain([moved("https://evil.example/")], ENDLESS),
            "sent to",
        ),
    }
    for status in ("204 No Content", "206 Partial Content", "304 Not Modified", "401 Unauthorized"):
        lies[status] = ([response(b"", status)], f"answered {status[:3]}")
    for status in ("403 Forbidden", "404 Not Found", "429 Too Many Requests", "500 Oh", "503 Oh"):
        lies[status] = ([response(TEXT, status)], f"answered {status[:3]}")
    for to in (
        f"http://{sources.HOST}/folder/text.txt",
        "http://localhost/",
        "file:///etc/passwd",
        "ftp://evil.example/",
        "data:text/plain,evil",
        "javascript:evil()",
        "//evil.example/text.txt",
        "https://evil.example/text.txt",
        f"https://{sources.HOST}.evil.example/",
        f"https://evil.example/{sources.HOST}",
        f"https://{sources.HOST}@evil.example/",
        f"https://user:secret@{sources.HOST}/",
        f"{here}:444/",
        "https://127.0.0.1/",
    ):
        lies[f"moved to {to!r}"] = ([moved(to)], "sent to")
    lies["moved to no host"] = ([moved("https:///")], "redirected")
    lies["moved to half an address"] = ([moved("https://[/")], "no answer")
    lies["moved to what escapes"] = ([moved("https://\x1b[2J/")], "no answer|sent to")
    lies["moved to a path with a blank"] = (lambda path: [moved("/a b\tc")], "no answer")
    lies["moved to a path that is no ASCII"] = (lambda path: [moved("/\xe9")], "no answer")
    return lies


def slow_answers():
    """{lie: (what is sent, what the error says)} of those that only take too long."""
    return {
        "go on, endlessly": (itertools.repeat(b"HTTP/1.1 100 Continue\r\n\r\n"), "within"),
        "a byte now and then": (lambda path: slowly(response()), "within"),
        "a byte of the body now and then": (
            lambda path: itertools.chain([response(b"", length=len(TEXT))], slowly(TEXT)),
            "within",
        ),
        "silence": (lambda path: silence(), "no answer"),
        "silence within the status": (
            lambda path: itertools.chain([b"HTTP/1.1 200 "], silence()),
            "no answer",
        ),
        "silence within the body": (
            lambda path: itertools.chain([response(TEXT[:9], length=len(TEXT))], silence()),
            "no answer",
        ),
    }


def archives():
    """{lie: (archive, what the error says)}."""
    good = forged.zipped([("x/a.txt", TEXT)])
    deflated = zipfile.ZIP_DEFLATED
    bomb = forged.zipped([("a.txt", bytes(10**8))], deflated)
    lying = bytearray(bomb)  # both of its headers claim the right size, and it unpacks to more
    for place in (22, bomb.index(b"PK\1\2") + 24):
        lying[place : place + 4] = struct.pack("<I", len(TEXT))
    encrypted = bytearray(good)
    encrypted[6] |= 1
    encrypted[good.index(b"PK\1\2") + 8] |= 1
    return {
        "no archive": (TEXT, "cannot be read"),
        "half an archive": (good[: len(good) // 2], "cannot be read"),
        "an empty archive": (forged.zipped([]), "has 0 files a.txt"),
        "another member": (forged.zipped([("b.txt", TEXT)]), "has 0 files a.txt"),
        "a folder": (forged.zipped([("a.txt/b.txt", TEXT)]), "has 0 files a.txt"),
        "two members": (forged.zipped([("x/a.txt", TEXT), ("y/a.txt", TEXT)]), "has 2 files a.txt"),
        "a member twice": (forged.zipped([("a.txt", TEXT)] * 2), "has 2 files a.txt"),
        "a member of other bytes": (forged.zipped([("a.txt", OTHER)]), "SHA-256"),
        "a shorter member": (forged.zipped([("a.txt", TEXT[:-1])]), "bytes, expected 1,700"),
        "a longer member": (forged.zipped([("a.txt", TEXT + b"x")]), "bytes, expected 1,700"),
        "a zip bomb": (bomb, "bytes, expected 1,700"),
        "a zip bomb that lies": (bytes(lying), "cannot be read|bytes, expected|SHA-256"),
        "a wrong checksum": (good.replace(TEXT, OTHER), "cannot be read"),
        "an encrypted member": (bytes(encrypted), "cannot be read"),
        "an unknown method": (forged.zipped([("a.txt", TEXT)], compress_type=99), "cannot be read"),
        "a member beyond the end": (
            forged.zipped([("a.txt", TEXT)], header_offset=10**6),
            "cannot be read",
        ),
        "more than allowed": (forged.zipped([("a.txt", TEXT), ("b", bytes(10**6))]), "says"),
    }


HARMLESS = {  # names in an archive that matter to nobody, for no name in it is used
    name: forged.zipped([(name, TEXT)])
    for name in ("../../a.txt", "/a.txt", "x/../../a.txt", "./a.txt", "~/a.txt", "\x1b[2J/a.txt")
}


# ---- the server ----


@contextlib.contextmanager
def serving(sent, certificate=None):
    """A server that answers each question with what `sent` yields; its port.

    With a `certificate`, a file that holds the key too, it speaks TLS.
    """

    class Handler(socketserver.BaseRequestHandler):
        def handle(self):
            with contextlib.suppress(OSError, IndexError):  # the other hung up
                line = self.request
                line.settimeout(10)
                if certificate:
                    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
                    context.load_cert_chain(certificate)
                    line = context.wrap_socket(line, server_side=True)
                with contextlib.closing(line):
                    path = line.recv(65536).split(b" ")[1].decode("latin-1")
                    for piece in sent(path) if callable(sent) else sent:
                        line.sendall(piece)

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True
        block_on_close = False

    with Server(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()


def certificate(folder, host=sources.HOST):
    """A file with a throw-away certificate for `host` and its key."""
    path = Path(folder, f"{host}.pem")
    order = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={host}"]
    names = ["-addext", f"subjectAltName=DNS:{host}", "-keyout", path, "-out", f"{path}.own"]
    subprocess.run([OPENSSL, *order, *names], check=True, capture_output=True)
    path.write_bytes(path.read_bytes() + Path(f"{path}.own").read_bytes())
    return str(path)


class Unencrypted(http.client.HTTPConnection):
    """What stands for a connection over TLS where there is no `openssl` to make a certificate."""

    def __init__(self, host, timeout, context):
        super().__init__(host, timeout=timeout)


@contextlib.contextmanager
def instead_of_the_host(sent, pem=None, trusted=True):
    """All connections go to a server that sends this; its certificate `pem` is trusted, or not."""

    def connect(address, *args, real=socket.create_connection, **keywords):
        return real(("127.0.0.1", port), *args, **keywords)

    with contextlib.ExitStack() as stack:
        port = stack.enter_context(serving(sent, pem))
        stack.enter_context(mock.patch.object(socket, "create_connection", connect))
        if pem is None:
            stack.enter_context(mock.patch.object(http.client, "HTTPSConnection", Unencrypted))
        elif trusted:
            stack.enter_context(mock.patch.dict(os.environ, {"SSL_CERT_FILE": pem}))
        yield


def told(sent, folder, pem=None, what=PLAIN, limits=(20.0, 10.0), trusted=True):
    """(exit code, output, error output) of `fetch small --to folder` if the host sends this."""
    limits = dict(zip(("SECONDS", "SILENCE"), limits, strict=True))
    out, err = io.StringIO(), io.StringIO()
    with (
        mock.patch.multiple(fetch, DATA={"small": what}, **limits),
        instead_of_the_host(sent, pem, trusted),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        code = fetch.main(["small", "--to", str(folder)])
    return code, out.getvalue(), err.getvalue()


def cases():
    """(lie, what is sent, what the error says, entry of the table, limits) of all lies."""
    for lie, (sent, reason) in answers().items():
        yield lie, sent, reason, PLAIN, (20.0, 10.0)
    for lie, (sent, reason) in slow_answers().items():
        yield lie, sent, reason, PLAIN, (0.6, 0.3)
    for lie, (archive, reason) in archives().items():
        yield f"archive: {lie}", [response(archive)], reason, ZIPPED, (20.0, 10.0)


def survived(folder, code, err):
    """Whether a lie did no harm: one line of error, exit code 1, and nothing was written."""
    one_line = err.startswith("error: ") and err.endswith("\n") and err[:-1].isprintable()
    return code == 1 and one_line and not any(folder.rglob("*"))


def refused(path, content):
    """Whether `load` refuses a file of this content, as it should."""
    path.write_bytes(content)
    try:
        tg.load(path)
    except tg.CheckpointError:
        return True
    return False


def figures(full):
    """How many lies were told and forged files loaded, and how many of them did no harm."""
    with tempfile.TemporaryDirectory() as made:
        folder, pem = Path(made, "to"), certificate(made) if OPENSSL else None
        lies = []
        for _, sent, _, what, limits in cases():
            code, _, err = told(sent, folder, pem, what, limits)
            lies.append(survived(folder, code, err))
            shutil.rmtree(folder, ignore_errors=True)
        costly = forged.gluttons(1.0 if full else 0.1)
        files = [
            refused(Path(made, f"x{suffix}"), content)
            for _, suffix, content in itertools.chain(forged.forged(), costly)
        ]
    return {
        "lies of a server told": len(lies),
        "lies of a server survived": sum(lies),
        "forged checkpoint files loaded": len(files),
        "forged checkpoint files refused": sum(files),
    }


if __name__ == "__main__":
    for phrase, figure in figures(full=True).items():
        print(f"{phrase}: {figure}")
