"""Radiographs from DICOM, PNG and JPEG files, as a reader would see them.

What is read here may be damaged or hostile. Every fault of a file ends in one :class:`InputError`, sizes are bounded
before memory is taken, and nothing of a file's content reaches a message. A decoder that crashes or hangs is still
possible: :mod:`gazelit.data.images.guard` reads films apart from the process that must live.
"""

from __future__ import annotations

import io
import os
import stat
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.filereader import read_dataset, read_partial, read_preamble
from pydicom.multival import MultiValue
from pydicom.pixels import apply_color_lut, apply_modality_lut, apply_voi_lut, pixel_array
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian

from gazelit.data.images import codecs
from gazelit.data.images.one_projection import photometric_of, refuse_other_images
from gazelit.data.images.pictures import PICTURE_FORMATS, faults, luminance, refuse_too_many
from gazelit.errors import InputError

#: A film of 43 × 43 cm at 0.1 mm has 18 million pixels; a header that claims far more is refused.
MAX_PIXELS = 64_000_000
#: Bytes that a file, or what it inflates to, may hold for every pixel of the limit, and besides.
BYTES_PER_PIXEL, OTHER_BYTES = 4, 64 * 2**20
#: Bytes of a file in which Rows and Columns are searched for; in most films the first number is enough.
_HEADER_BYTES = (64 * 2**10, 2**20)
_COLUMNS_TAG, _PIXELS_TAG = 0x00280011, 0x7FE00010
#: Greatest number of elements. A film has some hundred; a file that inflates to zeros has millions, each parsed in
#: Python.
_MOST_ELEMENTS = 20_000
#: Weights of Rec. 601, with which Pillow converts colour to grey.
_LUMINANCE = np.array([0.299, 0.587, 0.114], np.float32)

codecs.register()


@dataclass(frozen=True)
class Radiograph:
    """A decoded radiograph.

    Attributes:
        pixels: (H, W) float32 in [0, 1], dense tissue bright.
        photometric: The file's photometric interpretation.
        bits: Bits stored per pixel.
        view: View position (``PA``, ``AP``, …), empty if unknown.
        modality: Modality of the equipment (``CR``, ``DX``, …), empty if unknown.
        body_part: The examined body part as the header names it, empty if unknown.
        is_burned_in: Whether the header says that text is burnt into the pixels.
        is_colour: Whether the file was a picture in colour.
        header: The DICOM file without its pixels; None of a picture or an array.
    """

    pixels: NDArray[np.float32]
    photometric: str
    bits: int
    view: str
    modality: str = ""
    body_part: str = ""
    is_burned_in: bool = False
    is_colour: bool = False
    header: Dataset | None = field(default=None, repr=False, compare=False)

    @classmethod
    def of_picture(cls, picture: Image.Image) -> Radiograph:
        """A picture's luminance over the largest value of its depth."""
        pixels, bits, is_colour = luminance(picture)
        return cls(pixels, "MONOCHROME2", bits, "", is_colour=is_colour)


def read_radiograph(path: str | Path, max_pixels: int = MAX_PIXELS) -> Radiograph:
    """Reads a DICOM, PNG or JPEG file, in this process.

    Of a DICOM file the modality LUT is applied, then the VOI LUT or the first window (the display range that a reader
    sees; if the file has neither, the range of the pixels that are not padding). MONOCHROME1 is inverted. Values are
    scaled to [0, 1]. Padding becomes 0. PALETTE COLOR becomes the luminance of its palette. Of PNG and JPEG the
    luminance is taken, over the largest value of their depth.

    Args:
        path: The file.
        max_pixels: Refuse, before memory is taken, a file that claims more.

    Raises:
        InputError: The file is missing, is no image, is damaged, or claims an absurd size.
    """
    return radiograph_of(read_film(path, max_pixels), path, max_pixels)


def read_film(path: str | Path, max_pixels: int = MAX_PIXELS) -> bytes:
    """The bytes of a film's file.

    Raises:
        InputError: It is missing, empty, no regular file, or larger than a film of ``max_pixels`` can be.
    """
    size = _regular_size(path)
    check_length(size, path, max_pixels)
    return _head(path, size)


def check_length(size: int, path: str | Path, max_pixels: int = MAX_PIXELS) -> None:
    """Checks how many bytes a film's file has.

    Raises:
        InputError: More than a film of ``max_pixels`` can have.
    """
    if size > BYTES_PER_PIXEL * max_pixels + OTHER_BYTES:
        raise InputError(f"{path}: is larger ({size / 1e6:.0f} MB) than a film of {max_pixels} pixels can be")


def radiograph_of(content: bytes, path: str | Path, max_pixels: int = MAX_PIXELS) -> Radiograph:
    """Decodes the bytes of a file; see :func:`read_radiograph`.

    Args:
        content: The whole file.
        path: Its name, for messages.
        max_pixels: Refuse, before memory is taken, an image that claims more.

    Raises:
        InputError: See :func:`read_radiograph`.
    """
    if _begins_as_dicom(content):
        return _read_dicom(content, path, max_pixels)
    return _read_picture(content, path, max_pixels)


def image_size(path: str | Path) -> tuple[int, int]:
    """(H, W) of a DICOM, PNG or JPEG file, from its header alone.

    Raises:
        InputError: The file is missing or is no image.
    """
    if not is_dicom(path):
        with faults(path, "the picture cannot be read"), open(path, "rb") as file:
            picture = Image.open(file, formats=PICTURE_FORMATS)
            return picture.height, picture.width
    header = read_header(path)
    return _positive(header, "Rows", path), _positive(header, "Columns", path)


def read_header(path: str | Path) -> Dataset:
    """The elements of a DICOM film up to Columns; only this part of the file is read.

    Raises:
        InputError: The file is missing or is no DICOM image.
    """
    for length in _HEADER_BYTES:
        head = _head(path, length)
        with faults(path, "not a readable DICOM file"):
            try:
                dataset = _dataset(head, path, length, header_only=True)
                _positive(dataset, "Rows", path), _positive(dataset, "Columns", path)
            except Exception:
                # The part that was read may end within an element; if the whole file was read, the file is at fault.
                if length == _HEADER_BYTES[-1] or len(head) < length:
                    raise
            else:
                return dataset
    raise AssertionError("the last length returns or raises")


def is_dicom(path: str | Path) -> bool:
    """Whether a file begins as DICOM files do.

    Raises:
        InputError: It cannot be read, is empty, or is no regular file.
    """
    _regular_size(path)
    return _begins_as_dicom(_head(path, 132))


def _begins_as_dicom(content: bytes) -> bool:
    return content[128:132] == b"DICM"


def _regular_size(path: str | Path) -> int:
    """Size of a regular file; reading a pipe or a device could wait forever."""
    try:
        status = os.stat(path)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from error
    if not stat.S_ISREG(status.st_mode):
        kind = "a folder" if stat.S_ISDIR(status.st_mode) else "a pipe, a socket or a device"
        raise InputError(f"{path}: cannot be read (is {kind}, not a file)")
    if not status.st_size:
        raise InputError(f"{path}: is empty")
    return status.st_size


def _head(path: str | Path, length: int) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(length)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error


def _dataset(content: bytes, path: str | Path, limit: int, *, header_only: bool = False) -> Dataset:
    """Parses a file; a deflated one is inflated here, because pydicom inflates without a bound."""
    last, elements = _COLUMNS_TAG if header_only else _PIXELS_TAG, 0

    def enough(tag: int, vr: str | None, length: int) -> bool:
        nonlocal elements
        elements += 1
        if elements > _MOST_ELEMENTS:
            raise InputError(f"{path}: not a readable DICOM file (more than {_MOST_ELEMENTS} elements)")
        return tag > last

    file = io.BytesIO(content)
    read_preamble(file, force=False)
    meta = FileMetaDataset(read_dataset(file, False, True, stop_when=lambda tag, vr, length: tag >> 16 != 2))
    if meta.get("TransferSyntaxUID") != DeflatedExplicitVRLittleEndian:
        file.seek(0)
        return read_partial(file, stop_when=enough)
    if not header_only:
        header = _dataset(content, path, _HEADER_BYTES[-1], header_only=True)
        pixels = _positive(header, "Rows", path) * _positive(header, "Columns", path)
        limit = min(limit, BYTES_PER_PIXEL * pixels + OTHER_BYTES)
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    inflated = inflater.decompress(content[file.tell() :], limit + 1)
    if not header_only and len(inflated) > limit:
        raise InputError(f"{path}: inflates to more than {limit // 10**6} MB; no film of its size does")
    if not header_only and not inflater.eof:
        raise InputError(f"{path}: the deflated file is cut short")
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return FileDataset(
        file,
        read_dataset(io.BytesIO(inflated), False, True, stop_when=enough),
        file_meta=meta,
        is_implicit_VR=False,
    )


def _positive(dataset: Dataset, name: str, path: str | Path) -> int:
    value = int(dataset.get(name) or 0)
    if value < 1:
        raise InputError(f"{path}: a DICOM file without an image (Rows or Columns missing)")
    return value


def _read_dicom(content: bytes, path: str | Path, max_pixels: int) -> Radiograph:
    with faults(path, "not a readable DICOM file"):
        dataset = _dataset(content, path, BYTES_PER_PIXEL * max_pixels + OTHER_BYTES)
        rows, columns = _positive(dataset, "Rows", path), _positive(dataset, "Columns", path)
        if "PixelData" not in dataset:
            raise InputError(f"{path}: a DICOM file without an image (PixelData missing)")
        refuse_too_many(rows, columns, max_pixels, path)
        refuse_other_images(dataset, path)
        photometric = photometric_of(dataset)
        padding = _padding(dataset, path)
        bits = int(dataset.get("BitsStored") or 8)
        texts = ("ViewPosition", "Modality", "BodyPartExamined", "BurnedInAnnotation")
        view, modality, body_part, burned_in = (str(dataset.get(name) or "").strip() for name in texts)
        syntax = dataset.file_meta.TransferSyntaxUID
        if syntax.is_encapsulated and syntax not in codecs.SYNTAXES:
            raise InputError(f"{path}: its transfer syntax is none that is decoded here (see docs/data.md)")
    with faults(path, "pixels cannot be decoded"):
        stored = pixel_array(dataset, decoding_plugin=codecs.PLUGIN if syntax.is_encapsulated else "")
        if stored.shape != (rows, columns):
            raise InputError(f"{path}: holds pixels of another shape than its header says")
        del dataset.PixelData
    with faults(path, "its window or look-up tables cannot be applied"):
        pixels = _displayed(stored, dataset, photometric, padding)
    is_burned_in = burned_in.upper() == "YES"
    return Radiograph(pixels, photometric, bits, view, modality, body_part, is_burned_in, header=dataset)


def _padding(dataset: Dataset, path: str | Path) -> tuple[int, int] | None:
    """The range of stored values that are padding (PS3.3 C.7.5.1.1.2), if any."""
    value = dataset.get("PixelPaddingValue")
    if value is None:
        return None
    limit = dataset.get("PixelPaddingRangeLimit", value)
    if isinstance(value, MultiValue) or isinstance(limit, MultiValue):
        raise InputError(f"{path}: PixelPaddingValue or its range limit holds several values; it has one")
    return min(int(value), int(limit)), max(int(value), int(limit))


def _displayed(
    stored: NDArray[Any], dataset: Dataset, photometric: str, padding: tuple[int, int] | None
) -> NDArray[np.float32]:
    """Stored pixels as shown, in [0, 1], padding 0.

    The displayed value is a function of the stored value alone. So it is computed once for every value of 8 or 16 bits
    and looked up, which is ten times as fast as arithmetic on every pixel.
    """
    if stored.dtype.kind not in "ui" or stored.dtype.itemsize > 2:
        return _shown(stored, _present(stored, padding), dataset, photometric, padding)
    codes = np.ascontiguousarray(stored).view(f"u{stored.dtype.itemsize}")
    every = np.arange(2 ** (8 * stored.dtype.itemsize), dtype=codes.dtype).view(stored.dtype)
    if padding is not None or dataset.get("ModalityLUTSequence"):
        # In bands, because counting makes 64-bit integers of its input.
        found = np.zeros(len(every), bool)
        for top in range(0, len(codes), 256):
            found |= np.bincount(codes[top : top + 256].ravel(), minlength=len(every)) > 0
        present = _present(every[found], padding)
    else:
        # A rescale is linear, so that the extremes stay at the same pixels.
        present = np.array([stored.min(), stored.max()], stored.dtype)
    return cv2.LUT(codes, _shown(every, present, dataset, photometric, padding))  # type: ignore[return-value]


def _present(stored: NDArray[Any], padding: tuple[int, int] | None) -> NDArray[Any]:
    """Values that are not padding; all values, if there are no others."""
    if padding is None:
        return stored
    image = stored[(stored < padding[0]) | (stored > padding[1])]
    return image if image.size else stored


def _shown(
    stored: NDArray[Any],
    present: NDArray[Any],
    dataset: Dataset,
    photometric: str,
    padding: tuple[int, int] | None,
) -> NDArray[np.float32]:
    """The displayed values of stored ones, in [0, 1]; ``present`` gives the display range if the file has none."""
    if photometric == "PALETTE COLOR":
        colours = apply_color_lut(stored.reshape(1, -1), dataset)
        shown = (colours @ (_LUMINANCE / np.float32(np.iinfo(colours.dtype).max))).reshape(stored.shape).clip(0, 1)
    else:
        shown = _display_range(apply_modality_lut(stored, dataset), apply_modality_lut(present, dataset), dataset)
        # NaN and infinite values of rescales and windows parse as numbers.
        if not np.isfinite(shown).all():
            raise ValueError("a window or rescale that is not finite")
    if photometric == "MONOCHROME1":
        shown = np.subtract(1, shown, out=shown)
    if padding is not None:
        shown[(stored >= padding[0]) & (stored <= padding[1])] = 0
    return shown.astype(np.float32, copy=False)


def _display_range(values: NDArray[Any], present: NDArray[Any], dataset: Dataset) -> NDArray[np.float32]:
    """Applies the VOI LUT or first window, scaled to [0, 1]; without either, the range of ``present``."""
    if dataset.get("VOILUTSequence"):
        table = dataset.VOILUTSequence[0]
        shown = apply_voi_lut(values.astype(np.int64), dataset, index=0, prefer_lut=True)
        return (shown / np.float32(2 ** int(table.LUTDescriptor[2]) - 1)).astype(np.float32).clip(0, 1)
    values = values.astype(np.float32, copy=False)
    centres, widths = dataset.get("WindowCenter"), dataset.get("WindowWidth")
    if centres is not None and widths is not None:
        centre, width = _first(centres), _first(widths)
        function = str(dataset.get("VOILUTFunction") or "LINEAR")
        if function == "SIGMOID" and width > 0:
            return 1 / (1 + np.exp(-4 * (values - np.float32(centre)) / np.float32(width)))
        if function == "LINEAR" and width == 1:
            # PS3.3 C.11.2.1.2.1 leaves nothing between the lower and the upper end: a step.
            return (values > np.float32(centre - 0.5)).astype(np.float32)
        if function == "LINEAR" and width > 1:
            # PS3.3 C.11.2.1.2.1: the linear window is half a pixel off centre.
            centre, width = centre - 0.5, width - 1
        if width > 0:
            return ((values - np.float32(centre)) / np.float32(width) + np.float32(0.5)).clip(0, 1)
    low, high = float(present.min()), float(present.max())
    return ((values - np.float32(low)) / np.float32(max(high - low, 1e-6))).clip(0, 1)


def _first(value: object) -> float:
    return float(value[0]) if isinstance(value, MultiValue) else float(value)  # type: ignore[arg-type]


def _read_picture(content: bytes, path: str | Path, max_pixels: int) -> Radiograph:
    with faults(path, "the picture cannot be read"):
        # Pillow's other formats run further parsers, and even programs, that no film needs.
        picture = Image.open(io.BytesIO(content), formats=PICTURE_FORMATS)
        refuse_too_many(picture.height, picture.width, max_pixels, path)
        return Radiograph.of_picture(picture)


def mask_of(content: bytes, path: str | Path, max_pixels: int = MAX_PIXELS) -> NDArray[Any]:
    """The values of a mask's picture, undecorated: (H, W), or (H, W, C) of colour.

    Args:
        content: The whole PNG or JPEG file.
        path: Its name, for messages.
        max_pixels: Refuse, before memory is taken, a picture that claims more.

    Raises:
        InputError: It is no picture, is damaged, or claims an absurd size.
    """
    with faults(path, "a mask that cannot be read"):
        picture = Image.open(io.BytesIO(content), formats=PICTURE_FORMATS)
        refuse_too_many(picture.height, picture.width, max_pixels, path)
        return np.asarray(picture)
