"""Checkpoints: named arrays, and what else a model needs, in one file that holds no code.

    save("model.npz", model.state_dict(), {"hidden_size": 192})
    state = load("model.npz")                   # a dict of NumPy arrays
    model = Model(**state.metadata)
    model.load_state_dict(state)

A ``.npz`` is what ``np.savez`` writes and ``np.load`` reads, with the metadata as one more member;
each member has a checksum.  A ``.safetensors`` (extra ``io``) is what PyTorch's users exchange; in
those written here the metadata begins with a checksum.  Nothing is ever pickled.  A file is written
under another name and takes its own in one step, so that whatever happens leaves the old file or
the new one, whole.
"""

from __future__ import annotations

import io
import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from math import prod
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from .backend import backend_of
from .errors import CheckpointError, DtypeError, described

if TYPE_CHECKING:
    import zipfile
# json, tempfile and zipfile are imported where they are used: they cost 12 ms, and most programs
# that import the package never touch a checkpoint.

__all__ = ["Checkpoint", "load", "save"]

_MOST_TOLD = 100  # lines of one message
_FORMAT_VERSION = 1
_METADATA_MEMBER = "metadata.json"  # in a .npz; the arrays' members end in .npy
_METADATA_KEY = "tinygrad_rnn"  # in the header of a .safetensors, whose values are strings
_RESERVED = "__metadata__"  # the name under which safetensors keeps that header

# What is parsed takes some twenty times its size in memory, so it is bounded.
_MOST_ARRAYS = 10_000
_MOST_METADATA = 2**22  # bytes of JSON
_MOST_INDEX = 2**24  # bytes of a zip's directory or of the header of a .safetensors


class Checkpoint(dict[str, np.ndarray]):
    """The arrays of a file by name; ``metadata`` is the dict that was saved with them."""

    def __init__(self, arrays: Mapping[str, np.ndarray], metadata: dict[str, Any]) -> None:
        super().__init__(arrays)
        self.metadata = metadata


def save(
    path: str | os.PathLike[str],
    state: Mapping[str, Any],
    metadata: Mapping[str, Any] | None = None,
) -> None:
    """Write ``state``, a dict from names to arrays or Tensors, to a ``.npz`` or ``.safetensors``.

    ``metadata`` is a dict of what JSON has: numbers, strings, lists, dicts, None.  Only the owner
    may read the file (mode 0600).  Raises CheckpointError for another suffix or a missing library,
    DtypeError for what cannot be saved, OSError if the disk refuses; an old file stays as it was.
    """
    write, _ = _format_of(path, "save")
    for argument, value in {"state": state, "metadata": metadata or {}}.items():
        if not isinstance(value, Mapping):
            raise DtypeError(
                f"save(path, state, metadata): {argument} is {described(value)}\n"
                "  expected: a dict\n  hint: save(path, model.state_dict(), {'note': text})"
            )
    if len(state) > _MOST_ARRAYS:
        raise DtypeError(
            f"save: {len(state):,} arrays\n  expected: at most {_MOST_ARRAYS:,}\n"
            "  hint: stack arrays of one shape"
        )
    arrays = {name: _storable(name, value) for name, value in state.items()}
    note = _note(arrays, dict(metadata or {}))
    try:
        with replacing(path) as file:
            write(file, arrays, note)
    except OSError as error:  # which names the temporary file, or none
        error.filename = os.fspath(path)
        del error.filename2
        raise


def load(path: str | os.PathLike[str], max_bytes: int = 2**32) -> Checkpoint:
    """The arrays and the metadata in a file of ``save``, ``np.savez``, or anyone's safetensors.

    They are NumPy arrays, on the host.  Raises CheckpointError for a file that is truncated,
    damaged, something else, or larger than ``max_bytes``, before memory is taken for what it claims
    to hold; FileNotFoundError if there is none.  As nothing in it may be compressed, the arrays
    take no more memory than the file.  Names in a file are keys of the dict, never paths.
    """
    _, read = _format_of(path, "load")
    with _WaryFile(path, opener=_open_without_waiting) as file:
        _check_file(file, os.fspath(path), max_bytes)
        try:
            return read(file)
        except CheckpointError as error:
            raise CheckpointError(
                f"load({os.fspath(path)!r}): {error.args[0]}\n"
                "  hint: the file is damaged, or was not written by save or np.savez"
            ) from error


def _format_of(path: str | os.PathLike[str], name: str) -> tuple[Callable[..., None], Any]:
    if not isinstance(path, (str, os.PathLike)):
        raise DtypeError(
            f"{name}: path is {described(path)}\n  expected: the name of a file\n"
            "  hint: save(path, state), load(path)"
        )
    suffix = os.path.splitext(path)[1]
    if suffix not in _FORMATS:
        raise CheckpointError(
            f"{name}({os.fspath(path)!r}): unknown suffix {suffix!r}\n"
            f"  expected: {' or '.join(_FORMATS)}\n"
            "  hint: files with pickles inside (.pt, .pkl) can run code, and are not read"
        )
    return _FORMATS[suffix]


# ---- what may be in a file ---------------------------------------------------------------------


def host_array(value: Any) -> np.ndarray:
    """``value``, a Tensor or an array on any device, as a NumPy array; no copy if it is one."""
    array = getattr(value, "array", value)
    return np.asarray(backend_of(array).to_host(array))


def _storable(name: object, value: Any) -> np.ndarray:
    """``value`` as an array that a file may hold, under a name that it may have."""
    if not isinstance(name, str) or not name.isprintable() or name == _RESERVED:
        raise DtypeError(
            f"save: {name!r:.60} cannot be a name\n  expected: a printable string\n"
            "  hint: {str(key): x for key, x in state.items()}"
        )
    array = host_array(value)
    if not is_plain(array.dtype):
        raise DtypeError(
            f"save: {name} is {described(array)}\n  expected: floats, integers or booleans\n"
            "  hint: strings and settings belong in metadata"
        )
    return array


def is_plain(dtype: np.dtype) -> bool:
    """Whether every machine has this dtype, and its values are nothing but numbers."""
    return dtype.kind in "fiub" and dtype.itemsize <= 8


def _note(names: Iterable[str], metadata: dict[str, Any]) -> str:
    """The JSON text that goes into the file: the metadata, and the names of all arrays."""
    import json

    note = {"format_version": _FORMAT_VERSION, "arrays": list(names), "metadata": metadata}
    try:
        text = json.dumps(note)
    except (TypeError, ValueError, RecursionError) as error:
        raise DtypeError(
            f"save: metadata cannot be written as JSON: {error}\n"
            "  expected: numbers, strings, lists, dicts, None\n"
            "  hint: arrays belong in state; float(x) turns a NumPy number into Python's"
        ) from error
    if len(text) > _MOST_METADATA:
        raise DtypeError(
            f"save: names and metadata are {len(text):,} bytes of JSON\n"
            f"  expected: at most {_MOST_METADATA:,}\n  hint: arrays belong in state"
        )
    return text


def _checkpoint(arrays: dict[str, np.ndarray], note: str | bytes) -> Checkpoint:
    """The arrays with the metadata in ``note``; CheckpointError unless it lists these arrays."""
    content = _parsed(note, "metadata", _MOST_METADATA)
    version, names, metadata = map(content.get, ("format_version", "arrays", "metadata"))
    if version != _FORMAT_VERSION:
        raise CheckpointError(f"its format_version is {version!r:.60}, expected {_FORMAT_VERSION}")
    if not isinstance(metadata, dict):
        raise CheckpointError(f"its metadata is {described(metadata)}, no dict")
    # A zip's directory has no checksum: a flipped bit there can hide arrays.
    if not isinstance(names, list) or set(map(str, names)) != arrays.keys():
        raise CheckpointError(f"its arrays are {[*arrays]!r:.60}, but it lists {names!r:.60}")
    return Checkpoint(arrays, metadata)


def _parsed(text: str | bytes, name: str, most: int) -> dict[str, Any]:
    """The JSON object in ``text``, each of whose keys is there once; an empty one if it is none."""
    import json

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(dict(pairs)) < len(pairs):
            raise ValueError("a key is there twice")
        return dict(pairs)

    if len(text) > most:
        raise CheckpointError(f"its {name} has {len(text):,} bytes, at most {most:,} are read")
    try:
        content = json.loads(text, object_pairs_hook=once)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"its {name} is no JSON: {error}") from error
    return content if isinstance(content, dict) else {}


def _check_booleans(arrays: Mapping[str, np.ndarray]) -> None:
    """Raise CheckpointError if a boolean is neither 0 nor 1, which NumPy takes for granted."""
    for name, array in arrays.items():
        if array.dtype == bool and array.view(np.uint8).max(initial=0) > 1:
            raise CheckpointError(f"its array {name!r:.60} has booleans that are neither 0 nor 1")


# ---- opening: a file of bounded size, and nothing that only looks like one ---------------------


class _WaryFile(io.FileIO):
    """A file of which no read takes more than ``_MOST_INDEX``.

    ``zipfile`` reads a directory at once, as long as it claims to be; arrays it reads in pieces.
    """

    def read(self, size: int | None = -1, /) -> Any:
        if size is not None and size > _MOST_INDEX:
            raise CheckpointError(
                f"its directory or header has {size:,} bytes, at most {_MOST_INDEX:,} are read"
            )
        return super().read(size)


def _open_without_waiting(path: str, flags: int) -> int:
    """An opener that does not wait until somebody writes to a pipe of this name."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _check_file(file: IO[bytes], path: str, max_bytes: int) -> None:
    status = os.fstat(file.fileno())
    if not stat.S_ISREG(status.st_mode):
        raise CheckpointError(
            f"load({path!r}): this is a device or a pipe, no regular file\n"
            "  hint: save what it gives as a file first"
        )
    if status.st_size > max_bytes:
        raise CheckpointError(
            f"load({path!r}): the file is too large\n"
            f"  expected: at most max_bytes = {max_bytes:,}\n"
            f"  got: {status.st_size:,} bytes\n"
            f"  hint: if you trust it, load(path, max_bytes={status.st_size})"
        )


# ---- writing: the old file or the new one, whole -----------------------------------------------


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """A new file to write to; it becomes ``path`` once the block has ended without an error."""
    import tempfile

    folder = os.path.dirname(path) or os.curdir
    # A process that is killed leaves it behind: its name says whose it was.
    prefix = f".{os.path.basename(path)[:200]}.saving-"
    descriptor, temporary = tempfile.mkstemp(dir=folder, prefix=prefix)
    try:
        with open(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:  # an interrupt too leaves no temporary file behind
        with suppress(OSError):  # the folder may be gone
            os.unlink(temporary)
        raise
    with suppress(OSError):  # the file is whole; some systems cannot sync the entry in its folder
        entries = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(entries)
        finally:
            os.close(entries)


# ---- .npz --------------------------------------------------------------------------------------


def _write_npz(file: IO[bytes], arrays: dict[str, np.ndarray], note: str) -> None:
    import zipfile

    with zipfile.ZipFile(file, "w") as archive:
        # A ZipInfo made here has a fixed date: equal states give equal files.
        archive.writestr(zipfile.ZipInfo(_METADATA_MEMBER), note)
        for name, array in arrays.items():
            info = zipfile.ZipInfo(f"{name}.npy")
            with archive.open(info, "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)


def _read_npz(file: IO[bytes]) -> Checkpoint:
    import zipfile

    try:
        with zipfile.ZipFile(file) as archive:
            members = archive.infolist()
            _check_members(members, os.fstat(file.fileno()).st_size)
            notes = [archive.read(x) for x in members if x.filename == _METADATA_MEMBER]
            arrays = {
                info.filename.removesuffix(".npy"): _read_array(archive, info)
                for info in members
                if info.filename != _METADATA_MEMBER
            }
    except CheckpointError:
        raise
    except (zipfile.BadZipFile, EOFError, OSError, RuntimeError, ValueError) as error:
        raise CheckpointError(f"it cannot be read as .npz: {error}") from error
    _check_booleans(arrays)
    return _checkpoint(arrays, notes[0]) if notes else Checkpoint(arrays, {})


def _check_members(members: list[zipfile.ZipInfo], size: int) -> None:
    """Raise CheckpointError unless these are arrays that lie one behind the other in the file."""
    import zipfile

    if not 0 < len(members) <= _MOST_ARRAYS + 1:  # save writes one at least
        raise CheckpointError(
            f"it has {len(members):,} members, expected 1 to {_MOST_ARRAYS + 1:,}"
        )
    names = set()
    for info in members:
        name = info.filename
        if name in names:
            raise CheckpointError(f"its member {name!r:.60} is there twice")
        names.add(name)
        if not (name.isprintable() and name.endswith(".npy")) and name != _METADATA_MEMBER:
            raise CheckpointError(f"its member {name!r:.60} is no array")
        # What is not compressed cannot unpack to more than is there.
        if info.compress_type != zipfile.ZIP_STORED:
            raise CheckpointError(f"its member {name!r:.60} is compressed")
        if info.file_size != info.compress_size:
            raise CheckpointError(f"its member {name!r:.60} has two sizes")
    end = 0
    for info in sorted(members, key=lambda info: info.header_offset):
        if info.header_offset < end:
            raise CheckpointError(f"its member {info.filename!r:.60} overlaps another")
        end = info.header_offset + _MEMBER_HEADER + info.file_size
    if end > size:
        raise CheckpointError(f"its members claim more than its {size:,} bytes")


def _read_array(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> np.ndarray:
    """The array in one member, read only after its header has been found to tell the truth."""
    with archive.open(info) as member:
        start = member.read(len(_NPY_START) + 2)
        header = member.read(int.from_bytes(start[-2:], "little"))
    if not start.startswith(_NPY_START):
        raise CheckpointError(f"its member {info.filename!r:.60} is no .npy of version 1.0")
    found = _NPY_HEADER.fullmatch(header)
    if not found:
        raise CheckpointError(
            f"its member {info.filename!r:.60} is no array of numbers: {header.strip()!r:.120}"
        )
    dtype = np.dtype(found["descr"].decode())
    shape = [int(size) for size in found["shape"].decode().split(",") if size.strip()]
    claimed, there = prod(shape) * dtype.itemsize, info.file_size - len(start) - len(header)
    if claimed != there:
        raise CheckpointError(
            f"its member {info.filename!r:.60} has {there:,} bytes for {dtype} {(*shape,)}"
        )
    with archive.open(info) as member:
        array = np.lib.format.read_array(member, allow_pickle=False)
    return array.astype(dtype.newbyteorder("="), copy=False)


_MEMBER_HEADER = 30  # bytes before a member, and then its name
_NPY_START = b"\x93NUMPY\x01\x00"
# NumPy reads a header as a Python literal; these have nothing in them but dtypes of is_plain and
# numbers from 0 up.
_NPY_HEADER = re.compile(
    rb"\{'descr': '(?P<descr>[<>|](?:f[248]|[iu][1248]|b1))', 'fortran_order': (?:True|False),"
    rb" 'shape': \((?P<shape>(?:N, ?)*N?)\),? ?\} *\n".replace(b"N", rb"(?:0|[1-9][0-9]*)")
)


# ---- .safetensors ------------------------------------------------------------------------------


def _safetensors() -> Any:
    """The library ``safetensors``; CheckpointError if it is not installed."""
    try:
        import safetensors.numpy
    except ImportError as error:
        raise CheckpointError(
            "files that end in .safetensors need the library safetensors\n"
            "  hint: pip install 'tinygrad_rnn[io]', or let the name end in .npz"
        ) from error
    return safetensors


def _write_safetensors(file: IO[bytes], arrays: dict[str, np.ndarray], note: str) -> None:
    library = _safetensors()
    in_c_order = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    # One entry, for the library writes several in any order.
    header = {_METADATA_KEY: _checksum(in_c_order, note) + note}
    file.write(library.numpy.save(in_c_order, header))


def _read_safetensors(file: IO[bytes]) -> Checkpoint:
    library = _safetensors()
    _check_header(file)
    try:
        with library.safe_open(file.name, framework="numpy") as tensors:
            names = tensors.keys()
            arrays = {name: tensors.get_tensor(name) for name in names}
            header = tensors.metadata() or {}
    except (library.SafetensorError, ValueError) as error:
        raise CheckpointError(f"it cannot be read as .safetensors: {error}") from error
    _check_booleans(arrays)
    note = header.get(_METADATA_KEY)
    if note is None:
        if any('"format_version"' in value for value in header.values()):
            raise CheckpointError("its metadata stands under a name that save does not give it")
        return Checkpoint(arrays, header)
    if not note.startswith("{"):  # as in the first files, which had no checksum
        note, checksum = note[8:], note[:8]
        if checksum != _checksum(arrays, note):
            raise CheckpointError(f"its checksum is {checksum!r:.60}, not that of what it holds")
    return _checkpoint(arrays, note)


def _checksum(arrays: Mapping[str, np.ndarray], note: str) -> str:
    """The CRC-32 of the metadata and of all arrays, their names, dtypes and shapes."""
    import zlib

    crc = zlib.crc32(note.encode())
    for name, array in sorted(arrays.items()):
        little = np.asarray(array, array.dtype.newbyteorder("<"), order="C")
        crc = zlib.crc32(f"{name!r} {little.dtype.str} {little.shape}".encode(), crc)
        crc = zlib.crc32(little.reshape(-1).view(np.uint8).data, crc)
    return f"{crc:08x}"


def _check_header(file: IO[bytes]) -> None:
    """Raise CheckpointError for names and dtypes that the library takes and ``load`` does not.

    Offsets, shapes and sizes are the library's to check.
    """
    start, size = file.read(8), os.fstat(file.fileno()).st_size
    length = int.from_bytes(start, "little")
    if not 0 < length <= size - 8:
        raise CheckpointError(
            f"it cannot be read as .safetensors: a header of {length:,} bytes in {size:,}"
        )
    entries = _parsed(file.read(length), "header", _MOST_INDEX)
    entries.pop(_RESERVED, None)
    if len(entries) > _MOST_ARRAYS:
        raise CheckpointError(f"it has {len(entries):,} arrays, at most {_MOST_ARRAYS:,} are read")
    for name, entry in entries.items():
        dtype = entry.get("dtype") if isinstance(entry, dict) else None
        if not name.isprintable():
            raise CheckpointError(f"its entry {name!r:.60} has no printable name")
        if str(dtype) not in _PLAIN_DTYPES:
            raise CheckpointError(f"its entry {name!r:.60} has dtype {dtype!s:.60}")


# Those of is_plain; bfloat16, say, is none of NumPy's.
_PLAIN_DTYPES = {"BOOL", *"U8 U16 U32 U64 I8 I16 I32 I64 F16 F32 F64".split()}
_FORMATS: dict[str, tuple[Callable[..., None], Callable[[IO[bytes]], Checkpoint]]] = {
    ".npz": (_write_npz, _read_npz),
    ".safetensors": (_write_safetensors, _read_safetensors),
}


# ---- does a state fit? -------------------------------------------------------------------------


def fitted(
    target: str,
    state: Mapping[str, Any],
    expected: Mapping[str, Any],
    problems: Sequence[str] = (),
) -> dict[str, np.ndarray]:
    """Copies of the arrays of ``state`` in the dtypes of ``expected``, whose names it must have.

    One CheckpointError lists all that is missing or unknown, or has another shape or kind of dtype,
    after ``problems`` that the caller has found.
    """
    arrays = {name: host_array(value) for name, value in state.items()}
    problems = [*problems]
    problems += [f"missing: {name}" for name in expected if name not in arrays]
    problems += [f"unknown: {legible(name)}" for name in arrays if name not in expected]
    found = {}
    for name, like in expected.items():
        if name not in arrays:
            continue
        x = arrays[name]
        if x.shape != like.shape or x.dtype.kind != like.dtype.kind:
            problems.append(f"{name}: expected {described(like)}, got {described(x)}")
            continue
        with np.errstate(over="ignore"):
            found[name] = np.array(x, like.dtype)
        if not np.array_equal(np.isfinite(found[name]), np.isfinite(x)) or (
            x.dtype.kind in "iu" and not np.array_equal(found[name], x)
        ):
            problems.append(f"{name}: its values are beyond the range of {like.dtype}")
    if problems:
        more = [f"and {len(problems) - _MOST_TOLD:,} more"] if len(problems) > _MOST_TOLD else []
        problems = problems[:_MOST_TOLD] + more
        hint = f"hint: make this {target} with the settings with which the other was made"
        what = f"the state does not fit this {target}; nothing was loaded"
        raise CheckpointError("\n  ".join([what, *problems, hint]))
    return found


def legible(name: object) -> str:
    """A name for a message, whatever it is and however long."""
    fit = isinstance(name, str) and name.isprintable() and len(name) <= 200
    return str(name) if fit else f"{name!r:.60}"
