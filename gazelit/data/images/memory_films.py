"""Films that are in memory already, as arrays or pictures."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from gazelit.data.images.dicom import MAX_PIXELS, Radiograph
from gazelit.data.images.pictures import faults, refuse_too_many
from gazelit.errors import InputError

#: Bits that a radiograph's uint16 values may have.
_BITS = range(9, 17)


def radiograph_of_picture(picture: Image.Image, name: str, max_pixels: int = MAX_PIXELS) -> Radiograph:
    """A picture as a radiograph; the same as from its PNG or JPEG file.

    Args:
        picture: Of 8 or 16 bits, grey or in colour.
        name: Beginning of error messages.
        max_pixels: Refuse larger pictures.

    Raises:
        InputError: Its values have no known range, it is too large, or its file is damaged.
    """
    if 0 in picture.size:
        raise InputError(f"{name}: has no pixels")
    refuse_too_many(picture.height, picture.width, max_pixels, name)
    if picture.mode == "F" or (picture.mode == "I" and _beyond_16_bits(picture, name)):
        raise InputError(
            f"{name}: a picture of mode {picture.mode} does not say which value is white; give an array of floats in "
            "[0, 1], or of uint16 with bits"
        )
    with faults(name, "the picture cannot be read"):
        return Radiograph.of_picture(picture)


def _beyond_16_bits(picture: Image.Image, name: str) -> bool:
    with faults(name, "the picture cannot be read"):
        low, high = picture.getextrema()
    return low < 0 or high > 65535  # type: ignore[operator]


def radiograph_of_array(
    array: NDArray[Any], name: str, bits: int | None = None, max_pixels: int = MAX_PIXELS
) -> Radiograph:
    """An array as a radiograph; its largest values are bright, as dense tissue is.

    Args:
        array: (H, W), (H, W, 1), or (H, W, 3) of three equal channels: uint8; uint16 with ``bits``; or float in [0, 1].
        name: Begins the message of an error.
        bits: Of uint16: white is 2 ** bits − 1.
        max_pixels: Refuse larger ones.

    Raises:
        InputError: Shape, type or a value is none of these.
    """
    if array.ndim == 3 and array.shape[2] == 3:
        if not (np.array_equal(array[..., 0], array[..., 1]) and np.array_equal(array[..., 1], array[..., 2])):
            if array.dtype.kind == "f" and np.isnan(array).any():
                raise InputError(f"{name}: holds NaN; give finite values in [0, 1]")
            raise InputError(
                f"{name}: its three channels differ, and an array does not say in which order they are; make it grey, "
                "such as by PIL's Image.fromarray(array).convert('L')"
            )
        array = array[..., 0]
    elif array.ndim == 3 and array.shape[2] == 1:
        array = array[..., 0]
    if array.ndim != 2 or not array.size:
        raise InputError(
            f"{name}: an array of shape {array.shape} is no film; give (H, W) or (H, W, 3), and several films as a list"
        )
    refuse_too_many(array.shape[0], array.shape[1], max_pixels, name)
    if bits is not None and array.dtype != np.uint16:
        raise InputError(f"{name}: bits goes with uint16, not with {array.dtype}; leave it out")
    if array.dtype == np.uint8:
        return Radiograph(np.divide(array, np.float32(255), dtype=np.float32), "MONOCHROME2", 8, "")
    if array.dtype == np.uint16:
        return _of_uint16(array, name, bits)
    if array.dtype.kind == "f":
        return _of_floats(array, name)
    raise InputError(f"{name}: values of {array.dtype} have no known range; give uint8, uint16, or float in [0, 1]")


def _of_uint16(array: NDArray[np.uint16], name: str, bits: int | None) -> Radiograph:
    if bits is None:
        raise InputError(f"{name}: uint16 does not say which value is white; add bits=12, bits=16 or what they have")
    if bits not in _BITS:
        raise InputError(f"{name}: bits must be {_BITS[0]} to {_BITS[-1]} for uint16, not {bits}")
    largest = 2**bits - 1
    if array.max() > largest:
        raise InputError(f"{name}: holds {array.max()}, which is more than {bits} bits; give the bits that were stored")
    return Radiograph(np.divide(array, np.float32(largest), dtype=np.float32), "MONOCHROME2", bits, "")


def _of_floats(array: NDArray[np.floating[Any]], name: str) -> Radiograph:
    low, high = float(array.min()), float(array.max())
    if not np.isfinite([low, high]).all():
        raise InputError(f"{name}: holds NaN or infinite values; give finite ones in [0, 1]")
    if low < 0 or high > 1:
        raise InputError(f"{name}: floats of {low:g} to {high:g} are outside [0, 1]; scale them, white to 1")
    return Radiograph(array.astype(np.float32), "MONOCHROME2", 32, "")
