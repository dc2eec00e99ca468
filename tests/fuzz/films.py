"""Mutated films through the reader: ``python -m tests.fuzz.films --count 3000 --seed 0 [--corpus FOLDER]``.

Films are made by the tests' own writers in every transfer syntax, besides PNG and JPEG pictures and whatever
``--corpus`` holds. Mutations: bytes flipped, files cut short, elements of the image pixel module replaced, lengths
changed, blocks repeated or removed, and bombs (files that claim or inflate to far more than they hold).
"""

from __future__ import annotations

import contextlib
import io
import random
import struct
import sys
import warnings
import zlib
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image
from pydicom import uid
from pydicom.encaps import encapsulate

from gazelit.data.images.dicom import image_size, radiograph_of, read_film
from gazelit.errors import InputError
from tests.data.film_writers import encoded, film
from tests.fuzz.driver import Input, main

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
#: What an element of a film may be replaced by.
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
MUTATIONS = ("flip bytes", "flip header", "cut", "tag", "length", "splice")
BOMBS = 0.05


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


WHOLE = len(SYNTAXES) + 2


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


def make(index: int, seed: int, folder: Path, corpus: Path | None) -> Input:
    """Writes mutated film number ``index``."""
    # What is written here breaks rules on purpose.
    warnings.simplefilter("ignore")
    chance = random.Random(f"{seed}-{index}")
    real = sorted(corpus.rglob("*.dcm")) + sorted(corpus.rglob("*.png")) if corpus else []
    if real and chance.random() < 0.2:
        source = chance.choice(real)
        kind, content = f"corpus: {source.suffix[1:]}", source.read_bytes()
        mutation = chance.choice(("flip bytes", "flip header", "cut", "length", "splice"))
    else:
        number = chance.randrange(WHOLE)
        kind, content = _whole(number)
        # Bombs take seconds, the others milliseconds.
        mutation = "bomb" if chance.random() < BOMBS else chance.choice(MUTATIONS)
        if mutation == "tag" and number < len(SYNTAXES):
            content = _with_odd_values(number, chance)
        elif mutation == "bomb":
            kind, content = _bomb(chance)
    content = _mutated(content, mutation, chance)
    path = folder / f"film-{index}.dcm"
    path.write_bytes(content)
    return Input(path, f"{kind}: {mutation}" if "corpus" in kind or mutation == "bomb" else kind)


def _mutated(content: bytes, mutation: str, chance: random.Random) -> bytes:
    changed = bytearray(content)
    if mutation in ("flip bytes", "flip header"):
        end = len(changed) if mutation == "flip bytes" else min(len(changed), 2000)
        for _ in range(chance.choice((1, 2, 8, 64))):
            changed[chance.randrange(end)] = chance.choice((0, 0xFF, 0x7F, chance.randrange(256)))
    elif mutation == "cut":
        del changed[chance.randrange(1, len(changed)) :]
    elif mutation == "length":
        # Any four bytes may be a length.
        at = chance.randrange(132, max(133, min(len(changed), 2500) - 4))
        changed[at : at + 4] = struct.pack("<I", chance.choice((0, 1, 0x7FFFFFFF, 0xFFFFFFFF, 0xFFFFFFFE, 2**16)))
    elif mutation == "splice":
        at, size = chance.randrange(len(changed)), chance.randrange(1, 2000)
        changed[at:at] = changed[at : at + size] * chance.choice((1, 3)) if chance.random() < 0.5 else b""
        del changed[at + size // 2 : at + size]
    return bytes(changed)


def _with_odd_values(number: int, chance: random.Random) -> bytes:
    shades = (np.add.outer(np.arange(48) * 37, np.arange(40) * 53) % 4096).astype(np.uint16)
    names = chance.sample(sorted(ODD_VALUES), chance.choice((1, 1, 2, 4)))
    content = None
    while content is None:
        try:
            content = _saved(shades, SYNTAXES[number], **{name: chance.choice(ODD_VALUES[name]) for name in names})
        except (ValueError, OverflowError, TypeError, AttributeError):
            # What pydicom does not write is no film.
            names = chance.sample(sorted(ODD_VALUES), 1)
    return content


@cache
def _deflated_zeros(megabytes: int) -> bytes:
    squeeze = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    return b"".join(squeeze.compress(bytes(2**20)) for _ in range(megabytes)) + squeeze.flush()


@cache
def _largest(syntax: uid.UID) -> bytes:
    return encoded(np.zeros((7900, 8000), np.uint8), syntax)


def _bomb(chance: random.Random) -> tuple[str, bytes]:
    """A small file that claims to be large."""
    small = np.zeros((32, 32), np.uint16)
    which = chance.randrange(7)
    if which == 0:
        head = _saved(small, uid.ExplicitVRLittleEndian).replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.1.99", 1)
        # The name grew by two bytes; so do the lengths before it.
        at = head.index(b"1.2.840.10008.1.2.1.99")
        head = head[: at - 2] + struct.pack("<H", 22) + head[at : at + 22]
        return "deflate", head + _deflated_zeros(chance.choice((100, 400, 1500)))
    if which == 1:
        rows, columns = chance.choice(((60000, 60000), (8000, 7990), (65535, 900)))
        return "claimed size", _saved(small, uid.ExplicitVRLittleEndian, Rows=rows, Columns=columns)
    if which == 2:
        side = chance.choice((7900, 9999, 30000))
        head = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
        rows = zlib.compress(bytes(min(side * (side + 1), 2**27)), 9)
        parts = ((b"IHDR", head), (b"IDAT", rows), (b"IEND", b""))
        chunks = (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
            for name, data in parts
        )
        return "PNG", b"\x89PNG\r\n\x1a\n" + b"".join(chunks)
    if which == 3:
        syntax = chance.choice((uid.JPEGLSLossless, uid.JPEGExtended12Bit, uid.JPEGLosslessSV1, uid.JPEG2000Lossless))
        stream = bytearray(encoded(small, syntax))
        at = stream.index(b"\x00\x20\x00\x20") if syntax != uid.JPEG2000Lossless else 8
        stream[at : at + 4] = b"\x7f\xff\x7f\xff"
        data = {"PixelData": encapsulate([bytes(stream)])}
        rows = chance.choice(({}, {"Rows": 32767, "Columns": 32767}, {"Rows": 32767, "Columns": 1900}))
        return "codestream", _saved(small, syntax, **data, **rows)
    if which == 4:
        # Every run of two bytes stands for 128.
        runs = b"\x81\x00" * 200_000
        segments = struct.pack("<16I", 2, 64, 64 + len(runs), *[0] * 13) + runs * 2
        shape = chance.choice(({}, {"Rows": 5000, "Columns": 5000}))
        return "run lengths", _saved(small, uid.RLELossless, PixelData=encapsulate([segments]), **shape)
    if which == 5:
        # Sequences within sequences, of undefined length.
        level = b"\x08\x00\x40\x11SQ\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff"
        content = _saved(small, uid.ExplicitVRLittleEndian)
        at = content.index(b"\x10\x00\x20\x00")
        return "nested sequences", content[:at] + level * chance.choice((100, 3000, 100_000)) + content[at:]
    syntax = chance.choice((uid.JPEGLSLossless, uid.JPEG2000Lossless, uid.HTJ2KLossless))
    stream = _largest(syntax)
    attributes = {"BitsAllocated": 8, "BitsStored": 8, "HighBit": 7, "Rows": 7900, "Columns": 8000}
    return "largest allowed", _saved(small, syntax, PixelData=encapsulate([stream]), **attributes)


def read(path: Path) -> None:
    """Reads a film as ``prepare`` does: its size for the tables, then its pixels, within the worker's bounds."""
    # The pixels are tried even so: a source's own table may know the size.
    with contextlib.suppress(InputError):
        image_size(path)
    pixels = radiograph_of(read_film(path), path).pixels
    assert pixels.dtype == np.float32
    assert pixels.ndim == 2
    assert 0 <= pixels.min() <= pixels.max() <= 1


if __name__ == "__main__":
    sys.exit(main(make, read, __doc__.splitlines()[0]))
