"""The one decoder of compressed films: imagecodecs (BSD-3-Clause) behind pydicom's decoder interface.

One package for every compressed transfer syntax: libjpeg-turbo for JPEG of 2 to 16 bits, lossy and lossless; CharLS for
JPEG-LS; OpenJPEG for JPEG 2000 and its high-throughput form; and run lengths. Other decoders that are installed (GDCM,
pylibjpeg) are never tried, so that a film has the same pixels on every machine.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import imagecodecs
import numpy as np
from pydicom import uid
from pydicom.pixels import get_decoder

if TYPE_CHECKING:
    from pydicom.pixels.decoders.base import DecodeRunner

#: Name of the decoder, for pydicom's ``decoding_plugin``.
PLUGIN = "gazelit"
_JPEG = (uid.JPEGBaseline8Bit, uid.JPEGExtended12Bit, uid.JPEGLossless, uid.JPEGLosslessSV1)
_JPEG_LS = (uid.JPEGLSLossless, uid.JPEGLSNearLossless)
_JPEG_2000 = (uid.JPEG2000Lossless, uid.JPEG2000, uid.HTJ2KLossless, uid.HTJ2KLosslessRPCL, uid.HTJ2K)
SYNTAXES = (*_JPEG, *_JPEG_LS, *_JPEG_2000, uid.RLELossless)
#: What pydicom names when a decoder is missing.
DECODER_DEPENDENCIES = dict.fromkeys(SYNTAXES, ("imagecodecs",))
_END_OF_IMAGE = b"\xff\xd9"
_J2K_START = b"\xff\x4f\xff\x51"
_JP2_SIGNATURE = b"\x00\x00\x00\x0cjP  "


def is_available(syntax: str) -> bool:
    """Whether a transfer syntax is decoded here; part of pydicom's plugin interface."""
    return syntax in SYNTAXES


def register() -> None:
    """Makes the decoder known to pydicom under the name ``PLUGIN``; more than once does no harm."""
    for syntax in SYNTAXES:
        decoder = get_decoder(syntax)
        if PLUGIN not in decoder.available_plugins:
            decoder.add_plugin(PLUGIN, (__name__, "decode_frame"))


def decode_frame(source: bytes, runner: DecodeRunner) -> bytearray | bytes:
    """Decodes one frame; pydicom's plugin interface.

    Args:
        source: The compressed frame.
        runner: The header's description of it; ``bits_allocated`` is set to the depth of the returned pixels.

    Returns:
        Pixels in little-endian order, row by row.

    Raises:
        ValueError: The codestream is not what the header announces, or is cut short.
    """
    syntax = runner.transfer_syntax
    if syntax == uid.RLELossless:
        return imagecodecs.dicomrle_decode(
            source, np.dtype(f"<u{runner.bits_allocated // 8}"), out=int(runner.frame_length(unit="bytes"))
        )
    # Checked before anything is decoded: the memory a decoder takes follows the codestream, not the DICOM header.
    announced = (runner.rows, runner.columns, runner.samples_per_pixel)
    found = _j2k_shape(source) if syntax in _JPEG_2000 else _jpeg_shape(source)
    if found != announced:
        raise ValueError(f"the codestream holds {found} rows, columns and samples, the header says {announced}")
    if syntax in _JPEG:
        pixels = imagecodecs.jpeg8_decode(source)
    elif syntax in _JPEG_LS:
        pixels = imagecodecs.jpegls_decode(source)
    else:
        # OpenJPEG for the high-throughput form too: imagecodecs loses the errors of its other decoder for it, OpenJPH.
        pixels = imagecodecs.jpeg2k_decode(source)
    runner.set_option("bits_allocated", 8 * pixels.dtype.itemsize)
    return pixels.astype(pixels.dtype.newbyteorder("<"), copy=False).tobytes()


def _jpeg_shape(source: bytes) -> tuple[int, int, int]:
    """Rows, columns and components of a JPEG or JPEG-LS stream (ITU-T T.81, annex B), which must have its end.

    libjpeg fills in what is missing at the end of a stream without an error.
    """
    position = 2
    shape = None
    while source[:2] == b"\xff\xd8" and position + 4 <= len(source) and source[position] == 0xFF:
        marker = source[position + 1]
        if marker == 0xFF:
            position += 1
            continue
        length = int.from_bytes(source[position + 2 : position + 4], "big")
        if marker in (0xC0, 0xC1, 0xC2, 0xC3, 0xF7):
            body = source[position + 5 : position + 10]
            shape = (int.from_bytes(body[:2], "big"), int.from_bytes(body[2:4], "big"), body[4] if len(body) > 4 else 0)
        elif marker == 0xDA:
            # Within a scan a byte of ones is followed by zero bits, so this can only be the end.
            if shape is not None and source.find(_END_OF_IMAGE, position) >= 0:
                return shape
            break
        position += 2 + length
    raise ValueError("the JPEG stream is damaged or cut short")


def _j2k_shape(source: bytes) -> tuple[int, int, int]:
    """Rows, columns and components of a JPEG 2000 stream (ITU-T T.800, A.5.1), alone or in the JP2 format."""
    start = source.find(_J2K_START) if source.startswith(_JP2_SIGNATURE) else 0
    size = source[start + 8 : start + 42]
    if start < 0 or source[start : start + 4] != _J2K_START or len(size) < 34:
        raise ValueError("the JPEG 2000 stream is damaged")
    if source.rfind(_END_OF_IMAGE) < start:
        raise ValueError("the JPEG 2000 stream is cut short")
    columns, rows, left, top = (int.from_bytes(size[at : at + 4], "big") for at in (0, 4, 8, 12))
    return rows - top, columns - left, int.from_bytes(size[32:34], "big")
