"""Pictures in memory as radiographs, and the checks that all readers of films share."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, UnidentifiedImageError

from gazelit.errors import InputError

PICTURE_FORMATS = ("PNG", "JPEG")
#: Channels of a grey picture differ by less, whatever JPEG does to them (levels of 8 bits).
_GREY_WITHIN = 16


@contextmanager
def faults(path: str | Path, fault: str) -> Iterator[None]:
    """Turns any error of a parser or decoder into one :class:`InputError` about the file.

    Parsers may raise any error for damaged bytes (zlib.error, struct.error, RecursionError, MemoryError, …); the file
    is at fault. Their warnings and messages quote content, so neither is passed on.
    """
    chatter = logging.getLogger("pydicom")
    silenced, chatter.disabled = chatter.disabled, True
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            yield
    except InputError:
        raise
    except MemoryError as error:
        raise InputError(f"{path}: {fault} within the memory allowed") from error
    except UnidentifiedImageError as error:
        raise InputError(f"{path}: {fault} (neither DICOM nor PNG nor JPEG)") from error
    except Exception as error:
        raise InputError(f"{path}: {fault} ({error.__class__.__name__})") from error
    finally:
        chatter.disabled = silenced


def refuse_too_many(rows: int, columns: int, max_pixels: int, path: str | Path) -> None:
    """Refuses images with more pixels than a film may have.

    Raises:
        InputError: ``rows`` × ``columns`` is over ``max_pixels``.
    """
    if rows * columns > max_pixels:
        raise InputError(f"{path}: claims {rows} × {columns} pixels, over the limit of {max_pixels} (--max_pixels)")


def luminance(picture: Image.Image) -> tuple[NDArray[np.float32], int, bool]:
    """The luminance of a picture (Rec. 601), over the largest value of its depth.

    Args:
        picture: Of 8 or 16 bits, grey or in colour.

    Returns:
        (H, W) float32 in [0, 1], the bits of the depth, and whether it is in colour.
    """
    is_colour = False
    if picture.mode.startswith("I"):
        values, largest = np.asarray(picture), 65535
    else:
        is_colour = _in_colour(picture)
        values, largest = np.asarray(picture.convert("L")), 255
    pixels = np.divide(values, np.float32(largest), dtype=np.float32)
    return np.clip(pixels, 0, 1, out=pixels), 16 if largest > 255 else 8, is_colour


def _in_colour(picture: Image.Image) -> bool:
    if picture.mode in ("1", "L", "LA", "La"):
        return False
    red, green, blue = (picture if picture.mode == "RGB" else picture.convert("RGB")).split()
    differences = [ImageChops.difference(channel, green).getextrema() for channel in (red, blue)]
    return any(cast(int, most) > _GREY_WITHIN for _, most in differences)
