"""Films of every transfer syntax, PNG and JPEG pictures, made by the tests' own writers.

Mutations: bytes flipped, files cut short, elements of the image pixel module replaced, lengths changed, blocks repeated
or removed. Bombs (files that claim or inflate to far more than they hold) are a kind of their own: they take seconds.
"""

from __future__ import annotations

import contextlib
import io
import random
import struct
import warnings
import zlib
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path

import numpy as np
from PIL import Image
from pydicom import uid
from pydicom.encaps import encapsulate

from gazelit.data.images.dicom import image_size, radiograph_of, read_film
from gazelit.errors import InputError
from tests.data.film_writers import encoded, film
from tests.fuzz.targets import Kind, Mutation, Target, UnfitError, remove

SYNTAXES = (
    uid.ImplicitVRLittleEndian,
    uid.ExplicitVRLittleEndian,
    uid.ExplicitVRBigEndian,
    uid.DeflatedExplicitVRLittleEndian,
    uid.RLELossless,
    uid.JPEGBaseline8Bit,
    uid.JPEGExtended12Bit,
    uid.JPEGLossless,
    uid.JPEGLosslessSV1,
    uid.JPEGLSLossless,
    uid.JPEGLSNearLossless,
    uid.JPEG2000Lossless,
    uid.JPEG2000,
    uid.HTJ2KLossless,
)
#: Values that may replace an element of a film.
ODD_VALUES = {
    "Rows": (0, 1, 7, 65535),
    "Columns": (0, 1, 7, 65535),
    "BitsAllocated": (0, 1, 8, 12, 32, 64),
    "BitsStored": (0, 1, 13, 16, 255),
    "HighBit": (0, 15, 255),
    "PixelRepresentation": (1, 2, 255),
    "SamplesPerPixel": (0, 2, 3, 65535),
    "PhotometricInterpretation": ("", "RGB", "PALETTE COLOR", "YBR_FULL_422", "MONOCHROME3"),
    "NumberOfFrames": ("0", "-1", "2", "999999999"),
    "WindowCenter": ("1e400", "nan", "-1e38", ["1", "2", "3"]),
    "WindowWidth": ("0", "1", "-5", "1e-30", "inf"),
    "RescaleSlope": ("0", "1e38", "-1", "nan"),
    "RescaleIntercept": ("1e38", "-inf", ""),
    "VOILUTFunction": ("SIGMOID", "LINEAR_EXACT", "NONE"),
    "PlanarConfiguration": (1, 9),
}


@cache
def _whole(number: int) -> tuple[str, bytes]:
    """A whole film: its kind and bytes."""
    shades = (np.add.outer(np.arange(48) * 37, np.arange(40) * 53) % 4096).astype(np.uint16)
    if number < len(SYNTAXES):
        syntax = SYNTAXES[number]
        return syntax.name.split(" (")[0], _saved(shades, syntax)
    stream = io.BytesIO()
    if number == len(SYNTAXES):
        Image.fromarray((shades * 16).astype(np.uint16)).save(stream, "PNG")
        return "PNG", stream.getvalue()
    Image.fromarray((shades >> 4).astype(np.uint8)).save(stream, "JPEG")
    return "JPEG picture", stream.getvalue()


def _saved(pixels: np.ndarray, syntax: uid.UID, **attributes: object) -> bytes:
    if syntax == uid.JPEGBaseline8Bit:
        pixels = (pixels >> 4).astype(np.uint8)
        attributes = {"BitsAllocated": 8, "BitsStored": 8, "HighBit": 7} | attributes
    if syntax.is_encapsulated:
        attributes = {"PixelData": encapsulate([encoded(pixels, syntax)])} | attributes
    dataset = film(pixels, syntax=syntax, WindowCenter="2000", WindowWidth="3000", PatientID="x" * 16)
    for name, value in attributes.items():
        setattr(dataset, name, value)
    stream = io.BytesIO()
    dataset.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def targets(folder: Path) -> list[Target]:
    """A whole film of each transfer syntax, and a picture of each format."""
    # These films break rules of DICOM on purpose.
    warnings.simplefilter("ignore")
    found = []
    for number in range(len(SYNTAXES) + 2):
        name, content = _whole(number)
        odd = (partial(_with_odd_values, number),) * 2 if number < len(SYNTAXES) else ()
        put = partial(_put, folder / "film.dcm")
        found.append(Target(name, content, put, (*MUTATIONS, *odd), folder / "film.dcm"))
    return found


def bombs(folder: Path) -> list[Target]:
    """Small films that claim or inflate to be large, of each kind."""
    warnings.simplefilter("ignore")
    put = partial(_put, folder / "film.dcm")
    return [Target(f"bomb: {name}", b"", put, (partial(_of_chance, bomb),)) for name, bomb in BOMBS.items()]


def _put(path: Path, content: bytes) -> Path:
    remove(path)
    path.write_bytes(content)
    return path


def _of_chance(bomb: Callable[[random.Random], bytes], _: bytes, chance: random.Random) -> bytes:
    return bomb(chance)


def flip_bytes(content: bytes, chance: random.Random, end: int | None = None) -> bytes:
    """Some bytes replaced, with values at the limits of header fields more often than by chance."""
    changed = bytearray(content)
    for _ in range(chance.choice((1, 2, 8, 64))):
        at = chance.randrange(min(len(changed), end or len(changed)))
        changed[at] = chance.choice((0, 0xFF, 0x7F, chance.randrange(256)))
    return bytes(changed)


def flip_header(content: bytes, chance: random.Random) -> bytes:
    """Some bytes of the beginning replaced."""
    return flip_bytes(content, chance, 2000)


def cut(content: bytes, chance: random.Random) -> bytes:
    """Only the beginning."""
    return content[: chance.randrange(1, len(content))]


def change_length(content: bytes, chance: random.Random) -> bytes:
    """Four bytes, which may be a length, replaced."""
    at = chance.randrange(132, max(133, min(len(content), 2500) - 4))
    length = chance.choice((0, 1, 0x7FFFFFFF, 0xFFFFFFFF, 0xFFFFFFFE, 2**16))
    return content[:at] + struct.pack("<I", length) + content[at + 4 :]


def splice(content: bytes, chance: random.Random) -> bytes:
    """A block repeated, or left out."""
    changed = bytearray(content)
    at, size = chance.randrange(len(changed)), chance.randrange(1, 2000)
    changed[at:at] = changed[at : at + size] * chance.choice((1, 3)) if chance.random() < 0.5 else b""
    del changed[at + size // 2 : at + size]
    return bytes(changed)


MUTATIONS: tuple[Mutation, ...] = (flip_bytes, flip_header, cut, change_length, splice)


def _with_odd_values(number: int, _: bytes, chance: random.Random) -> bytes:
    shades = (np.add.outer(np.arange(48) * 37, np.arange(40) * 53) % 4096).astype(np.uint16)
    names = chance.sample(sorted(ODD_VALUES), chance.choice((1, 1, 2, 4)))
    try:
        return _saved(shades, SYNTAXES[number], **{name: chance.choice(ODD_VALUES[name]) for name in names})
    except (ValueError, OverflowError, TypeError, AttributeError) as error:
        raise UnfitError("what pydicom does not write is no film") from error


@cache
def _deflated_zeros(megabytes: int) -> bytes:
    squeeze = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    return b"".join(squeeze.compress(bytes(2**20)) for _ in range(megabytes)) + squeeze.flush()


@cache
def _largest(syntax: uid.UID) -> bytes:
    return encoded(np.zeros((7900, 8000), np.uint8), syntax)


_SMALL = np.zeros((32, 32), np.uint16)


def _deflate(chance: random.Random) -> bytes:
    head = _saved(_SMALL, uid.ExplicitVRLittleEndian).replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.1.99", 1)
    # The name grew by two bytes; so do the lengths before it.
    at = head.index(b"1.2.840.10008.1.2.1.99")
    head = head[: at - 2] + struct.pack("<H", 22) + head[at : at + 22]
    return head + _deflated_zeros(chance.choice((100, 400, 1500)))


def _claimed_size(chance: random.Random) -> bytes:
    rows, columns = chance.choice(((60000, 60000), (8000, 7990), (65535, 900)))
    return _saved(_SMALL, uid.ExplicitVRLittleEndian, Rows=rows, Columns=columns)


def _png(chance: random.Random) -> bytes:
    """Rows of zeros, black and white or in colours of 16 bits."""
    return _png_of(chance.choice((7900, 9999, 30000)), chance.choice((0, 2, 6)), chance.choice((8, 16)))


@cache
def _png_of(side: int, colours: int, bits: int) -> bytes:
    head = struct.pack(">IIBBBBB", side, side, bits, colours, 0, 0, 0)
    squeeze = zlib.compressobj(9)
    length = min(side * (1 + side * {0: 1, 2: 3, 6: 4}[colours] * bits // 8), 2**29)
    rows = b"".join(squeeze.compress(bytes(2**20)) for _ in range(length >> 20)) + squeeze.flush()
    parts = ((b"IHDR", head), (b"IDAT", rows), (b"IEND", b""))
    chunks = (
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in parts
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


@cache
def _png_of_texts() -> bytes:
    """A picture with compressed texts and profiles that inflate to far more."""
    text = b"a\0\0" + zlib.compress(bytes(2**27), 9)
    parts = [(b"IHDR", struct.pack(">IIBBBBB", 4, 4, 8, 0, 0, 0, 0)), *[(b"zTXt", text)] * 8, (b"iCCP", text)]
    parts += [(b"IDAT", zlib.compress(bytes(20))), (b"IEND", b"")]
    chunks = (
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in parts
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def _codestream(chance: random.Random) -> bytes:
    syntax = chance.choice((uid.JPEGLSLossless, uid.JPEGExtended12Bit, uid.JPEGLosslessSV1, uid.JPEG2000Lossless))
    stream = bytearray(encoded(_SMALL, syntax))
    at = stream.index(b"\x00\x20\x00\x20") if syntax != uid.JPEG2000Lossless else 8
    stream[at : at + 4] = b"\x7f\xff\x7f\xff"
    data = {"PixelData": encapsulate([bytes(stream)])}
    rows = chance.choice(({}, {"Rows": 32767, "Columns": 32767}, {"Rows": 32767, "Columns": 1900}))
    return _saved(_SMALL, syntax, **data, **rows)


def _run_lengths(chance: random.Random) -> bytes:
    # Every run of two bytes stands for 128.
    runs = b"\x81\x00" * 200_000
    segments = struct.pack("<16I", 2, 64, 64 + len(runs), *[0] * 13) + runs * 2
    shape = chance.choice(({}, {"Rows": 5000, "Columns": 5000}))
    return _saved(_SMALL, uid.RLELossless, PixelData=encapsulate([segments]), **shape)


def _nested_sequences(chance: random.Random) -> bytes:
    """Sequences within sequences, of undefined length."""
    level = b"\x08\x00\x40\x11SQ\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff"
    content = _saved(_SMALL, uid.ExplicitVRLittleEndian)
    at = content.index(b"\x10\x00\x20\x00")
    return content[:at] + level * chance.choice((100, 3000, 100_000)) + content[at:]


def _largest_allowed(chance: random.Random) -> bytes:
    syntax = chance.choice((uid.JPEGLSLossless, uid.JPEG2000Lossless, uid.HTJ2KLossless))
    attributes = {"BitsAllocated": 8, "BitsStored": 8, "HighBit": 7, "Rows": 7900, "Columns": 8000}
    return _saved(_SMALL, syntax, PixelData=encapsulate([_largest(syntax)]), **attributes)


BOMBS: dict[str, Callable[[random.Random], bytes]] = {
    "deflate": _deflate,
    "claimed size": _claimed_size,
    "PNG": _png,
    "PNG, texts": lambda _: _png_of_texts(),
    "codestream": _codestream,
    "run lengths": _run_lengths,
    "nested sequences": _nested_sequences,
    "largest allowed": _largest_allowed,
}


def read(path: Path) -> None:
    """Reads a film as ``prepare`` does: its size for the tables, then its pixels, within the worker's bounds."""
    # The pixels are read even so, because a source's own table may give the size.
    with contextlib.suppress(InputError):
        image_size(path)
    pixels = radiograph_of(read_film(path), path).pixels
    assert pixels.dtype == np.float32
    assert pixels.ndim == 2
    assert 0 <= pixels.min() <= pixels.max() <= 1


KINDS = {"films": Kind(targets, read), "bombs": Kind(bombs, read)}
