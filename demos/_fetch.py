"""Download benchmark data for --data: `python -m demos fetch NAME`.

The size and the SHA-256 of each file stand in `_sources` and are checked on the very bytes that are
written, so neither the server nor anybody on the way is trusted.  They can refuse, be slow, or send
something else; then there is one line of error and no file.  Names of files and addresses stand in
`_sources` too: none comes from a server or an archive.
"""

import argparse
import contextlib
import hashlib
import http.client
import ssl
import sys
import threading
import time
from pathlib import Path
from socket import SHUT_RDWR, socket
from urllib.parse import urljoin, urlsplit

from demos._sources import DATA, HOST, LEFT_OUT
from tinygrad_rnn.saving import replacing

REDIRECTS = 3
SECONDS = 300.0  # for one file, however slowly it comes
SILENCE = 20.0  # seconds without a byte
MOVED = (301, 302, 303, 307, 308)


class FetchError(Exception):
    """Data that cannot be fetched; the message says why."""


# ---- the network ----


def download(url, most):
    """The content at an https address of HOST, at most so many bytes; FetchError if it has none."""
    deadline = time.monotonic() + SECONDS
    try:
        for _ in range(1 + REDIRECTS):
            content, url = answer(url, most, deadline)
            if content is not None:
                return content
    except (OSError, http.client.HTTPException, ValueError) as error:
        if time.monotonic() >= deadline:
            raise FetchError(f"no answer within {SECONDS:.0f} seconds") from error
        raise FetchError(f"{HOST} gives no answer: {error!s:.200}") from error
    raise FetchError(f"redirected more than {REDIRECTS} times")


def answer(url, most, deadline):
    """(content, None), or (None, the address where it is said to be), of one question."""
    parts = urlsplit(url)
    if (parts.scheme, parts.netloc) != ("https", HOST):
        raise FetchError(f"sent to {url!r:.100}; expected an address at https://{HOST}")
    secure = ssl.create_default_context()  # checks the certificate and the name in it
    connection = http.client.HTTPSConnection(HOST, timeout=SILENCE, context=secure)
    try:
        connection.connect()
        # A byte now and then is no silence, in headers neither; what ends it is a closed line.
        alarm = threading.Timer(deadline - time.monotonic(), close_line, [connection.sock])
        alarm.start()
        try:
            path = parts._replace(scheme="", netloc="", fragment="").geturl()
            connection.request("GET", path, headers={"Accept-Encoding": "identity"})
            response = connection.getresponse()
            if response.status in MOVED:
                return None, urljoin(url, response.getheader("Location", ""))
            return body(response, most, deadline), None
        finally:
            alarm.cancel()
    finally:
        connection.close()


def close_line(line):
    """End whatever waits for this socket."""
    with contextlib.suppress(OSError):  # it may be closed by now
        socket.shutdown(line, SHUT_RDWR)


def body(response, most, deadline):
    """The content of an answer, as long as it said and no longer than `most`."""
    if response.status != 200:
        raise FetchError(f"the server answered {response.status}")
    encoding = response.getheader("Content-Encoding", "identity")
    if encoding != "identity":
        raise FetchError(f"the server sent it as {encoding!r:.40}, which was not asked for")
    said = response.length  # None if it is sent in chunks
    if said is not None and said > most:
        raise FetchError(f"the server says {said:,} bytes, expected at most {most:,}")
    content = bytearray()
    while piece := response.read1(65536):
        content += piece
        if len(content) > most:
            raise FetchError(f"more than {most:,} bytes came")
    if time.monotonic() >= deadline:
        raise FetchError(f"{len(content):,} bytes came within {SECONDS:.0f} seconds")
    if said is not None and len(content) != said:
        raise FetchError(f"{len(content):,} of {said:,} bytes came")
    return bytes(content)


# ---- the files ----


def fetch(data, folder, say):
    """Write the files of `data` that `folder` has not yet; FetchError, OSError if one cannot be."""
    missing = [file for file in data.files if not is_there(folder / file.name, file)]
    answers = {}  # by address, for an archive may have several files
    for file in data.files:
        path, url = folder / file.name, data.url(file)
        if file not in missing:
            say(f"{path} is there already")
            continue
        say(f"{path}: {file.size:,} bytes, from {url}")
        try:
            answers[url] = answers.get(url) or download(url, data.most or file.size)
            write(path, data.make(answers[url], file), file)
        except (FetchError, ValueError) as error:
            raise FetchError(f"{file.name} was not fetched: {error}") from error


def is_there(path, file):
    """Whether `path` is this file; FetchError if it is another one, which may be the user's."""
    if not path.exists():
        return False
    if (
        path.is_file()
        and path.stat().st_size == file.size
        and digest(path.read_bytes()) == file.sha256
    ):
        return True
    raise FetchError(
        f"{path} is there, and is another file; move it away, or choose a folder by --to"
    )


def write(path, content, file):
    """Write the file if this is its content, in one step; FetchError if it is not."""
    if len(content) != file.size:
        raise FetchError(f"{len(content):,} bytes, expected {file.size:,}")
    if digest(content) != file.sha256:
        raise FetchError(f"SHA-256 {digest(content)}, expected {file.sha256}")
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as opened:
        opened.write(content)


def digest(content):
    """The SHA-256 in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


# ---- the command ----


def listing():
    """All that can be fetched, with its size and its terms."""
    lines = []
    for name, data in DATA.items():
        tried = "tried" if data.tried else "untried"
        lines += [
            f"  {name:<13}{data.size / 1e6:4.1f} MB  {data.what}",
            f"  {'':<22}licence: {data.licence}",
            f"  {'':<22}github.com/{data.repository}, {tried}; for {data.demos}",
        ]
    return "\n".join([*lines, "untried: nobody has yet run this download", "left out: " + LEFT_OUT])


def main(argv=None):
    p = argparse.ArgumentParser(
        "python -m demos fetch",
        description=f"{__doc__.splitlines()[0]}\n\n{listing()}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("name", nargs="?", choices=DATA, metavar="NAME", help="of the data, see above")
    p.add_argument(
        "--to", type=Path, metavar="FOLDER", help="folder to write to (default: data/NAME)"
    )
    p.add_argument("--quiet", action="store_true", help="print errors only")
    args = p.parse_args(argv)
    if args.name is None:
        print(listing())
        return 0
    data, folder = DATA[args.name], args.to or Path("data", args.name)
    say = (lambda text: None) if args.quiet else (lambda text: print(text, flush=True))
    say(f"{data.what}\nlicence: {data.licence}\ncite: {data.cite}")
    try:
        fetch(data, folder, say)
    except (FetchError, OSError) as error:
        text = "".join(c if c.isprintable() else "?" for c in str(error))  # parts are a server's
        print(f"error: {text}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    say(f"done: --data {folder}")
    return 0
