"""Forged checkpoint files: what an enemy, or a failing disk, could hand to `load`.

`forged()` makes them one by one; `load` must refuse each with CheckpointError.  `NAMES` are names
that look like paths, and are keys.
"""

import io
import json
import struct
import warnings
import zipfile

import numpy as np

NAMES = ["../../evil", "/evil", "C:\\evil", "a/../../evil", "~/evil", "-rf", "$HOME", "evil.npy/."]


# ---- parts of files ----


def npy(x, **keywords):
    """The bytes of a .npy file."""
    file = io.BytesIO()
    np.lib.format.write_array(file, x, **keywords)
    return file.getvalue()


def npy_start(text, version=1):
    """The start of a .npy whose header is this text, whatever it says."""
    text = text.encode("latin-1") + b"\n"
    length = struct.pack("<H" if version == 1 else "<I", len(text))
    return b"\x93NUMPY" + bytes([version, 0]) + length + text


def header(descr, shape, order=False):
    """The start of a .npy that claims this dtype and shape."""
    return npy_start(f"{{'descr': {descr!r}, 'fortran_order': {order}, 'shape': {shape}, }}")


def zipped(members, kind=zipfile.ZIP_STORED, **claims):
    """A zip file with these members; its directory makes these claims about the first of them."""
    file = io.BytesIO()
    with warnings.catch_warnings(action="ignore"), zipfile.ZipFile(file, "w", kind) as archive:
        for name, content in members:
            archive.writestr(zipfile.ZipInfo(name), content, kind)
        for name, value in claims.items():
            setattr(archive.infolist()[0], name, value)
    return file.getvalue()


def safetensors_file(entries, size=0, data=b""):
    """A .safetensors file with this header, a dict or a text, and so many zeros behind it."""
    text = entries if isinstance(entries, str) else json.dumps(entries)
    return struct.pack("<Q", len(text.encode())) + text.encode() + (data or bytes(size))


def entry(dtype="F32", shape=(2,), offsets=(0, 8)):
    """What the header of a .safetensors says of one array."""
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


def quoting():
    """A zip of two good arrays, one of which lies within the other: each byte counts twice."""
    inner = zipped([("inner.npy", npy(np.arange(64.0)))])
    record = inner[: inner.index(b"PK\x01\x02")]  # its header and its content
    outer = npy(np.frombuffer(record, np.uint8))
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("outer.npy", outer)
        archive.writestr("inner.npy", npy(np.arange(64.0)))
        archive.infolist()[1].header_offset = file.getvalue().index(record)
    return file.getvalue()


def with_directory_of(size):
    """A zip that claims a directory of so many bytes."""
    content = bytearray(zipped([("x.npy", npy(np.zeros(3)))]))
    content[-10:-6] = struct.pack("<I", size)
    return bytes(content)


# ---- the files ----

GOOD = npy(np.zeros((3, 2)))
ENTRY = "{'descr': '<f8', 'fortran_order': False, 'shape': %s, }"
EVIL = "__import__('os').system('touch evil')"

HEADERS = {  # of a .npy of eight bytes
    "code for a shape": ENTRY % f"({EVIL},)",
    "code for a dtype": ENTRY.replace("'<f8'", EVIL) % "(1,)",
    "code for all": EVIL,
    "a power": ENTRY % "(10**9**9,)",
    "a sum": ENTRY % "(0+1,)",
    "signs": ENTRY % f"({'-' * 9000}1,)",
    "brackets": "(" * 9000,
    "lists": ENTRY % ("[" * 90 + "]" * 90),
    "a list": "[]",
    "a dict for a key": ENTRY.replace("'descr'", "{}") % "(1,)",
    "keys of two types": ENTRY.replace("'descr'", "3") % "(1,)",
    "a key twice": ENTRY.replace("{", "{'descr': '|O', ") % "(1,)",
    "no key": "{}",
    "a float": ENTRY % "(1.0,)",
    "a truth": ENTRY % "(True,)",
    "a hexadecimal": ENTRY % "(0x1,)",
    "an underscore": ENTRY % "(0_1,)",
    "leading zeros": ENTRY % "(001,)",
    "a long of Python 2": ENTRY % "(1L,)",
    "no tuple": ENTRY % "(1)",
    "more behind it": ENTRY % "(1,)" + "\n# {EVIL}",
    "a dimension below 0": ENTRY % "(-1,)",
    "two below 0": ENTRY % "(-1, -1)",
    "2**64": ENTRY % f"({2**64},)",
    "2**64 + 1": ENTRY % f"({2**64 + 1},)",
    "wraps around to 1": ENTRY % f"({2**32 + 1}, {2**32 - 1}, {2**32 + 1}, 1)",
    "5,000 digits": ENTRY % f"({'9' * 5000},)",
    "65 dimensions": ENTRY % f"({'1, ' * 65})",
    "empty but vast": ENTRY % f"(0, {2**62}, {2**62})",
    "objects": ENTRY.replace("<f8", "|O") % "(1,)",
    "strings": ENTRY.replace("<f8", "<U2") % "(1,)",
    "nothing wide": ENTRY.replace("<f8", "|V0") % "(9999999999,)",
    "strings of no width": ENTRY.replace("<f8", "<U0") % "(9999999999,)",
    "times": ENTRY.replace("<f8", "<M8[s]") % "(1,)",
    "complex": ENTRY.replace("<f8", "<c8") % "(1,)",
    "fields": ENTRY.replace("'<f8'", "[('a', '<f4'), ('b', '<f4')]") % "(1,)",
    "a dtype with an array in it": ENTRY.replace("<f8", "(9,9,9)f8") % "(1,)",
    "a dtype that is none": ENTRY.replace("<f8", "<f1") % "(8,)",
    "a terminal's escape": ENTRY.replace("<f8", "\x1b[2J") % "(1,)",
}

TEXTS = {  # of metadata.json
    "no JSON": b"{",
    "nothing": b"",
    "100,000 lists": b"[" * 100_000,
    "100,000 dicts": b'{"a":' * 100_000,
    "a key twice": b'{"format_version": 1, "format_version": 1, "arrays": ["x"], "metadata": {}}',
    "a key twice inside": b'{"format_version": 1, "arrays": ["x"], "metadata": {"a": 1, "a": 2}}',
    "5,000 digits": b'{"format_version": ' + b"9" * 5000 + b"}",
    "no UTF-8": b'{"\xff": 1}',
    "NUL": b"\0" * 9,
    "a list": b"[1]",
    "a dict as version": b'{"format_version": {}, "arrays": [], "metadata": {}}',
    "arrays that are no list": b'{"format_version": 1, "arrays": {"x": 1}, "metadata": {}}',
    "arrays that are not there": b'{"format_version": 1, "arrays": ["x", "y"], "metadata": {}}',
    "an array it hides": b'{"format_version": 1, "arrays": [], "metadata": {}}',
    "5 MB": b'{"format_version": 1, "arrays": ["x"], "metadata": {}}' + b" " * 5_000_000,
}

ENTRIES = {  # headers of a .safetensors, and how many bytes are behind
    "overlapping": ({"x": entry(), "y": entry(offsets=(4, 12))}, 12),
    "the same bytes twice": ({"x": entry(), "y": entry()}, 8),
    "a hole": ({"x": entry(), "y": entry(offsets=(12, 20))}, 20),
    "out of range": ({"x": entry(offsets=(8, 16))}, 8),
    "far out of range": ({"x": entry(offsets=(2**63, 2**63 + 8))}, 8),
    "beyond 64 bits": ({"x": entry(offsets=(2**64, 2**64 + 8))}, 8),
    "backwards": ({"x": entry(offsets=(8, 0))}, 8),
    "below 0": ({"x": entry(offsets=(-8, 0))}, 8),
    "fractions": ({"x": entry(offsets=(0.0, 8.0))}, 8),
    "bytes to spare": ({"x": entry()}, 9),
    "bytes missing": ({"x": entry()}, 7),
    "another size": ({"x": entry(shape=(3,))}, 8),
    "a dimension below 0": ({"x": entry(shape=(-2,))}, 8),
    "two below 0": ({"x": entry(shape=(-1, -2))}, 8),
    "wraps around to 2": ({"x": entry(shape=(2**32 + 1, 2**32 - 1, 2**32 + 1, 2))}, 8),
    "empty but vast": ({"x": entry(shape=(0, 2**62, 4), offsets=(0, 0))}, 0),
    "71 dimensions": ({"x": entry(shape=(1,) * 70 + (2,))}, 8),
    "no shape": ({"x": {"dtype": "F32", "data_offsets": [0, 8]}}, 8),
    "no offsets": ({"x": {"dtype": "F32", "shape": [2]}}, 8),
    "three offsets": ({"x": entry(offsets=(0, 8, 8))}, 8),
    "a list for an entry": ({"x": [1]}, 0),
    "bfloat16": ({"x": entry("BF16", offsets=(0, 4))}, 4),
    "half a byte each": ({"x": entry("F4", offsets=(0, 1))}, 1),
    "an unknown dtype": ({"x": entry("O")}, 8),
    "a list for a dtype": ({"x": entry([])}, 8),
    "a dict for a dtype": ({"x": entry({})}, 8),
    "no dtype": ({"x": entry(None)}, 8),
    "a terminal's escape": ({"\x1b[2J": entry()}, 8),
    "NUL in a name": ({"a\0b": entry()}, 8),
    "half a character": ({"\ud800": entry()}, 8),
    "writing that runs back": ({"\u202exe.": entry()}, 8),
    "metadata that is no text": ({"__metadata__": {"a": 1}, "x": entry()}, 8),
    "metadata that is a list": ({"__metadata__": ["a"], "x": entry()}, 8),
    "our metadata, no JSON": ({"__metadata__": {"tinygrad_rnn": "{"}, "x": entry()}, 8),
    "our metadata, deep": ({"__metadata__": {"tinygrad_rnn": "[" * 100_000}, "x": entry()}, 8),
    "our metadata, 5 MB": ({"__metadata__": {"tinygrad_rnn": " " * 5_000_000}, "x": entry()}, 8),
    "a name twice": ('{"x": %s, "x": %s}' % ((json.dumps(entry()),) * 2), 8),
    "metadata twice": ('{"__metadata__": {"a": "b"}, "__metadata__": {"a": "c"}}', 0),
    "a key of metadata twice": ('{"__metadata__": {"a": "b", "a": "c"}}', 0),
    "NaN": (json.dumps({"x": entry(shape=(float("nan"),))}), 8),
    "infinity": (json.dumps({"x": entry(shape=(float("inf"),))}), 8),
    "100,000 lists": ("[" * 100_000, 0),
    "100,000 dicts": ('{"a":' * 100_000, 0),
    "100,000 lists in an entry": ('{"x": {"more": ' + "[" * 100_000, 0),
    "no JSON": ("{", 0),
    "a list": ("[]", 8),
    "a text": ('"x"', 8),
    "nothing": ("", 0),
    "10,001 arrays": ({f"x{i}": entry(shape=(0,), offsets=(0, 0)) for i in range(10_001)}, 0),
    "17 MB": ("{}" + " " * 17_000_000, 0),
}


def forged():
    """(what it is, suffix, content) of each file."""
    for what, text in HEADERS.items():
        yield f".npy header: {what}", ".npz", zipped([("x.npy", npy_start(text) + bytes(8))])
    for version in (2, 3):
        start = npy_start(ENTRY % "(1,)" + " " * 10**7, version)
        yield f".npy header: 10 MB, version {version}", ".npz", zipped([("x.npy", start)])
    yield ".npy header: all of 65,535 bytes", ".npz", zipped([("x.npy", npy_start(" " * 65_534))])
    yield ".npy header: beyond its end", ".npz", zipped([("x.npy", GOOD[:8] + b"\xff\xff{}")])
    yield ".npy: too long", ".npz", zipped([("x.npy", GOOD + b"\0")])
    yield ".npy: too short", ".npz", zipped([("x.npy", GOOD[:-1])])
    yield ".npy: empty", ".npz", zipped([("x.npy", b"")])
    yield ".npy: 8 TB", ".npz", zipped([("x.npy", header("<f8", "(1000000000000,)"))])
    yield "booleans of 2", ".npz", zipped([("x.npy", header("|b1", "(2,)") + b"\x01\x02")])
    yield "a pickle", ".npz", zipped([("x.npy", npy(np.array([None]), allow_pickle=True))])
    yield "a pickle alone", ".npz", zipped([("x.pkl", b"cos\nsystem\n(S'touch evil'\ntR.")])
    for what, text in TEXTS.items():
        yield f"metadata: {what}", ".npz", zipped([("metadata.json", text), ("x.npy", GOOD)])
    zeros = npy(np.zeros(10**6))
    for name in ("DEFLATED", "BZIP2", "LZMA"):
        bomb = zipped([("x.npy", zeros)], getattr(zipfile, f"ZIP_{name}"))
        yield f"zip bomb: {name}", ".npz", bomb
    yield "zip: compressed metadata", ".npz", zipped([("metadata.json", b" " * 10**6)], 8)
    yield "zip: one member within another", ".npz", quoting()
    yield "zip: nothing in it", ".npz", zipped([])
    yield "zip: a name twice", ".npz", zipped([("x.npy", GOOD), ("x.npy", GOOD)])
    yield "zip: other things", ".npz", zipped([("word/document.xml", b"<xml/>")])
    yield "zip: a folder", ".npz", zipped([("x.npy/", b"")])
    yield "zip: 10,002 members", ".npz", zipped([(f"{i}.npy", GOOD) for i in range(10_002)])
    for name in ("x\x1b[2J.npy", "\u202exe.npy", "a\nb.npy", "\u200b.npy"):
        yield f"zip: a member named {name!r}", ".npz", zipped([(name, GOOD)])
    for claim, values in {
        "file_size": (0, 1, 2**31, 2**40, 2**63),
        "compress_size": (0, 1, 2**31, 2**40, 2**63),
        "header_offset": (1, 100, 2**31, 2**40, 2**63),
        "compress_type": (1, 8, 12, 14, 93, 99),
        "flag_bits": (1, 0x20, 0x40),
        "CRC": (0, 1),
        "extra": (b"\1\0\xff\xff", b"\xff" * 9),
        "filename": ("y.npy", "../x.npy"),
    }.items():
        for value in values:
            lie = zipped([("x.npy", GOOD)], **{claim: value})
            yield f"zip: a directory where {claim} is {value}", ".npz", lie
    for size in (0, 1, 46, 2**24 + 1, 2**31, 2**32 - 1):
        yield f"zip: a directory of {size:,} bytes", ".npz", with_directory_of(size)
    for what, (entries, size) in ENTRIES.items():
        yield f"safetensors: {what}", ".safetensors", safetensors_file(entries, size)
    for length in (0, 10**6, 2**31, 2**63, 2**64 - 1):
        lie = struct.pack("<Q", length) + b'{"x": 1}'
        yield f"safetensors: a header of {length:,} bytes", ".safetensors", lie
    two = safetensors_file({"x": entry("BOOL", (2,), (0, 2))}, data=b"\x01\x02")
    yield "safetensors: booleans of 2", ".safetensors", two
    for suffix in (".npz", ".safetensors"):
        for content in (
            b"",
            b"\0" * 100,
            b"PK\5\6",
            b"\x93NUMPY\x01\x00",
            b"\x80\x04.",
            b"{}" * 50,
        ):
            yield f"{suffix}: {content[:10]!r}", suffix, content


def gluttons(scale=1.0):
    """(what it is, suffix, content) of files that are costly to parse, as large as is parsed."""
    many = b"PK\1\2" + bytes(24) + struct.pack("<H", 1) + bytes(16) + b"x"  # members named x
    directory = many * int(scale * 2**24 // len(many))
    ends = [struct.pack("<4s8xIIH", b"PK\5\6", size, 0, 0) for size in (len(directory), 2**25)]
    yield "zip: a directory of 16 MB", ".npz", directory + ends[0]
    yield "zip: a directory of 32 MB", ".npz", bytes(2**25) + ends[1]
    for what, piece in {"lists": "[],", "dicts": "{},", "numbers": "1.5,"}.items():
        text = f"[{piece * int(scale * 2**22 / len(piece) - 1)}1]"
        yield f"metadata: 4 MB of {what}", ".npz", zipped([("metadata.json", text.encode())])
        text = json.dumps({"x": entry() | {"more": "?"}}).replace('"?"', text)
        yield f"safetensors: 4 MB of {what}", ".safetensors", safetensors_file(text)
    names = ", ".join(f'"{i}": 0' for i in range(int(scale * 10**6)))
    yield "safetensors: a million entries", ".safetensors", safetensors_file(f"{{{names}}}")
    zeros = npy(np.zeros(int(scale * 10**7)))
    yield "zip bomb: 80 MB", ".npz", zipped([("x.npy", zeros)], zipfile.ZIP_DEFLATED)
