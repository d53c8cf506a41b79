"""Pictures with captions: letters of a font and their Unicode names, or the user's own.

    a glyph of DejaVu Serif    ->    LATIN SMALL LETTER O WITH HORN AND GRAVE

matplotlib brings the fonts, Python the names, and the same recipe draws the same pictures each
time: all Latin, Greek and Cyrillic letters, SIDE x SIDE grey pixels, one size, one baseline.
"""

import collections
import hashlib
import io
import math
import struct
import sys
import tokenize
import unicodedata
import zipfile
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np

from demos import _kit as kit

SIDE, BASELINE, POINTS = 24, 18, 15  # of a picture in pixels; of the font in pixels to the em
SCRIPTS = {"LATIN", "GREEK", "CYRILLIC"}
LEAST = 3  # names that a word must occur in, so that it can be learned from others
PARTS = ("train", "dev", "test")
DEV, TEST = 10, 10  # per cent of the captions
SMALLEST = 8  # side of a picture of your own
MEMBERS = ("images", "captions", "parts")  # of an .npz; the last may be missing
BROKEN = (zipfile.BadZipFile, zlib.error, struct.error, tokenize.TokenError)
DAMAGED = (ValueError, TypeError, EOFError, OSError, RuntimeError, *BROKEN)  # of an .npz
HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


class Captioned(NamedTuple):
    """Pictures (N, height, width, channels) from 0 to 1, a caption each, and the part of each."""

    images: np.ndarray
    captions: list[tuple[str, ...]]
    parts: np.ndarray

    def of(self, part):
        """The pictures and the captions of one of PARTS."""
        chosen = np.flatnonzero(self.parts == part)
        return self.images[chosen], [self.captions[i] for i in chosen]


def read_captioned(path, most):
    """The pictures of `path`: an .npz, or the letters of a folder of fonts, at most `most` of them.

    Without a path the fonts are the twelve common faces of DejaVu.
    """
    if path is not None and path.is_file():
        return read_npz(path)
    fonts = dejavu() if path is None else font_files(path)
    return letters(fonts[:most])


# ---- letters ----


def dejavu():
    """The paths of DejaVu Sans, Sans Mono and Serif, four faces each, plain ones first."""
    try:
        import matplotlib
    except ImportError:
        raise kit.DataError(
            "the letters are drawn with the fonts of matplotlib\n"
            "  fix: pip install 'tinygrad_rnn[demos]', or give pictures of your own by --data"
        ) from None
    folder = Path(matplotlib.get_data_path(), "fonts", "ttf")
    faces = [path for path in folder.glob("DejaVu*.ttf") if "Display" not in path.name]
    return sorted(faces, key=lambda path: ("-" in path.name, path.name))


def font_files(folder):
    """The paths of the fonts in a folder, in the order of their names."""
    fonts = sorted(p for p in folder.glob("*") if p.suffix.lower() in (".ttf", ".otf"))
    if not fonts:
        raise kit.DataError(
            f"{folder} is neither a file nor a folder with fonts\n"
            "  expected: an .npz file, or a folder with .ttf or .otf files; fix: name one by --data"
        )
    return fonts


def letters(fonts):
    """Captioned pictures of the letters whose name has only words of LEAST or more names."""
    images, captions = [], []
    for font in fonts:
        pictures, names = drawn(font)
        images.append(pictures)
        captions += names
    count = collections.Counter(word for name in set(captions) for word in set(name))
    kept = [i for i, name in enumerate(captions) if min(count[word] for word in name) >= LEAST]
    captions = [captions[i] for i in kept]
    return checked(np.concatenate(images)[kept], captions, split(captions), fonts[0].parent)


def drawn(font):
    """Pictures of all letters of a font file, and their names."""
    from matplotlib.ft2font import FT2Font
    from PIL import Image, ImageDraw, ImageFont

    raw = kit.read_bytes(font)
    try:
        codes = sorted(code for code in FT2Font(io.BytesIO(raw)).get_charmap() if is_letter(code))
        basic = ImageFont.Layout.BASIC
        face = ImageFont.truetype(io.BytesIO(raw), POINTS, layout_engine=basic)
        images = np.empty((len(codes), SIDE, SIDE, 1), np.float32)
        for image, code in zip(images, codes, strict=True):
            canvas = Image.new("L", (SIDE, SIDE))
            place = (SIDE // 2, BASELINE)  # "ms": middle of the glyph, on the baseline
            ImageDraw.Draw(canvas).text(place, chr(code), fill=255, font=face, anchor="ms")
            image[..., 0] = np.asarray(canvas) / 255
    except (OSError, RuntimeError, ValueError) as error:
        raise kit.DataError(
            f"{font} is not a font: {error}\n  expected: TrueType or OpenType; fix: leave it out"
        ) from None
    return images, [tuple(unicodedata.name(chr(code)).split()) for code in codes]


def is_letter(code):
    """Whether it is that of a letter of SCRIPTS, as its name and its category say."""
    character = chr(code) if code <= sys.maxunicode else ""
    script = unicodedata.name(character, "").split(" ")[0] if character else ""
    return script in SCRIPTS and unicodedata.category(character).startswith("L")


def split(captions):
    """The part of each caption, one of PARTS: by its hash, so that equals are together."""
    digests = [hashlib.sha256(" ".join(caption).encode()).digest() for caption in captions]
    share = np.array([int.from_bytes(digest[:8]) % 100 for digest in digests])
    return np.where(share < TEST, "test", np.where(share < TEST + DEV, "dev", "train"))


def checked(images, captions, parts, source):
    """What was read from `source`, all parts of which have pictures."""
    for part in PARTS:
        if not (parts == part).any():
            raise kit.DataError(
                f"{source}: none of {len(captions)} pictures in the part {part}\n"
                f"  expected: some in each of {', '.join(PARTS)}; fix: give more captions"
            )
    return Captioned(images, captions, parts)


# ---- the user's own ----


def read_npz(path):
    """The pictures of an .npz with `images`, `captions` and, if you like, `parts`.

    `images`: uint8 (N, height, width) or (N, height, width, channels); `captions`: strings (N,),
    words separated by spaces; `parts`: strings (N,), of PARTS each.
    """
    raw = kit.read_bytes(path)
    try:
        with zipfile.ZipFile(io.BytesIO(raw)) as archive:
            arrays = {name: member(archive, name + ".npy") for name in MEMBERS}
    except DAMAGED as error:
        raise kit.DataError(
            f"{path} cannot be read as .npz: {kit.shown(str(error), 100)}\n"
            "  expected: what np.savez or np.savez_compressed writes; fix: write it again"
        ) from None
    images = expect(arrays, "images", "u", (3, 4), path)
    try:
        texts = expect(arrays, "captions", "U", (1,), path).tolist()
        "".join(texts).encode()
    except ValueError as error:  # an array may hold half a character
        raise kit.DataError(
            f"{path}: captions are no text: {error}\n  expected: Unicode; fix: write it again"
        ) from None
    captions = [tuple(text.split()) for text in texts]
    named = arrays["parts"] is not None
    parts = expect(arrays, "parts", "U", (1,), path) if named else split(captions)
    sizes = {len(images), len(captions), len(parts)}
    small = min(images.shape[1:3]) < SMALLEST or not images.size
    if len(sizes) > 1 or images.dtype != np.uint8 or small:
        raise kit.DataError(
            f"{path}: images {images.dtype} {images.shape}, {len(captions)} captions\n"
            f"  expected: uint8, sides of {SMALLEST} or more, and one caption (and part) for each\n"
            "  fix: images.astype(np.uint8), and as many captions"
        )
    for i, caption in enumerate(captions):
        if not caption or parts[i] not in PARTS:
            raise kit.DataError(
                f"{path}, picture {i}: caption {kit.shown(' '.join(caption))}, part"
                f" {kit.shown(str(parts[i]))}\n"
                f"  expected: a word or more, and one of {', '.join(PARTS)}; fix: leave it out"
            )
    pixels = images.reshape(*images.shape[:3], -1).astype(np.float32) / 255
    return checked(pixels, captions, parts, path)


def member(archive, name):
    """The array in a member of an archive, None if it is not there.

    ValueError, before memory is taken for it, if it is too large or not as large as it says.
    """
    if name not in archive.namelist():
        return None
    size, packing = archive.getinfo(name).file_size, archive.getinfo(name).compress_type
    if packing not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(f"{name} is packed in a way that NumPy does not use")
    if size > kit.LARGEST:
        raise ValueError(f"{name} unpacks to {size:,} bytes, more than {kit.LARGEST:,}")
    with archive.open(name) as file:
        version = np.lib.format.read_magic(file)
        if version not in HEADERS:
            raise ValueError(f"{name} has .npy version {version}")
        shape, _, dtype = HEADERS[version](file)
        there = size - file.tell()
    if dtype.hasobject:
        raise ValueError(f"{name} holds Python objects, which need pickle, and that can run code")
    if min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize != there:
        raise ValueError(f"{name} has {there:,} bytes for {dtype} {shape}")
    with archive.open(name) as file:
        return np.lib.format.read_array(file, allow_pickle=False)


def expect(arrays, name, kind, ndims, path):
    """The array of that name, if it is there and of that kind and number of axes."""
    found = arrays.get(name)
    if not isinstance(found, np.ndarray) or found.dtype.kind != kind or found.ndim not in ndims:
        told = f"{found.dtype} {found.shape}" if isinstance(found, np.ndarray) else "no array"
        wanted = {"u": "uint8 (N, height, width[, channels])", "U": "strings (N,)"}[kind]
        raise kit.DataError(f"{path}: {name} is {told}\n  expected: {wanted}; fix: write it so")
    return found


# ---- a picture of pictures ----


def gallery(run, name, images, texts, columns=3):
    """Draw in NAME.png each of the pictures with its lines of text beside it."""
    rows = -(-len(images) // columns)
    figure = run.figure(name, (6.0 * columns, 0.9 * rows), layout=None)
    if figure is None:
        return
    for i, (image, lines) in enumerate(zip(images, texts, strict=True)):
        left, bottom = i % columns / columns, 1 - (i // columns + 1) / rows
        axes = figure.add_axes((left, bottom + 0.1 / rows, 0.15 / columns, 0.8 / rows))
        axes.set_axis_off()
        axes.imshow(image if image.shape[-1] == 3 else image[..., 0], cmap="gray", vmin=0, vmax=1)
        place = left + 0.16 / columns, bottom + 0.5 / rows
        figure.text(*place, "\n".join(lines), fontsize=8, va="center", parse_math=False)
    figure.savefig(run.path(name + ".png"), dpi=120)
