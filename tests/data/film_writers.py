"""Writers of DICOM films for tests, by transfer syntax.

The JPEG writers follow the text of the standard (ITU-T T.81) for images whose decoded pixels are known exactly. They
share no code with any decoder.
"""

import io

import imagecodecs
import numpy as np
from PIL import Image
from pydicom import uid
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.pixels import get_encoder
from pydicom.uid import DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian, generate_uid

RAMP = np.arange(0, 4096, 4, dtype=np.uint16).reshape(32, 32)


def film(pixels=RAMP, syntax=ExplicitVRLittleEndian, **attributes):
    """A film of 12 bits; compressed if ``PixelData`` is among the attributes, which is then already encapsulated."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = DigitalXRayImageStorageForPresentation
    meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=["gazelit"])
    meta.TransferSyntaxUID = syntax
    kind = (syntax.is_implicit_VR, syntax.is_little_endian)
    dataset = FileDataset("film", {}, b"\0" * 128, meta, *kind)
    dataset.SOPClassUID, dataset.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 12, 11, 0
    order = ">" if syntax == uid.ExplicitVRBigEndian else "<"
    dataset.PixelData = pixels.astype(pixels.dtype.newbyteorder(order)).tobytes()
    dataset["PixelData"].VR = "OW" if pixels.dtype.itemsize > 1 else "OB"
    for name, value in attributes.items():
        setattr(dataset, name, value)
    if syntax.is_encapsulated:
        dataset["PixelData"].is_undefined_length = True
        dataset["PixelData"].VR = "OB"
    return dataset


def write(path, pixels=RAMP, **attributes):
    film(pixels, **attributes).save_as(path, enforce_file_format=True)
    return path


def write_compressed(path, pixels, syntax, **attributes):
    """The same film in a compressed transfer syntax."""
    return write(path, pixels, syntax=syntax, PixelData=encapsulate([encoded(pixels, syntax)]), **attributes)


def encoded(pixels, syntax):
    """A codestream of (H, W) unsigned pixels of 8 or 12 bits."""
    bits = 8 if pixels.dtype == np.uint8 else 12
    if syntax == uid.JPEGBaseline8Bit:
        stream = io.BytesIO()
        Image.fromarray(pixels).save(stream, "JPEG", quality=95)
        return stream.getvalue()
    if syntax == uid.JPEGExtended12Bit:
        return imagecodecs.jpeg8_encode(pixels, level=98, bitspersample=bits)
    if syntax in (uid.JPEGLossless, uid.JPEGLosslessSV1):
        return jpeg_lossless(pixels, bits, predictor=1 if syntax == uid.JPEGLosslessSV1 else 6)
    if syntax in (uid.JPEGLSLossless, uid.JPEGLSNearLossless):
        return imagecodecs.jpegls_encode(pixels, level=0 if syntax == uid.JPEGLSLossless else 2)
    if syntax in (uid.JPEG2000Lossless, uid.JPEG2000):
        level = 0 if syntax == uid.JPEG2000Lossless else 60
        return imagecodecs.jpeg2k_encode(pixels, level=level, reversible=not level, codecformat=0, bitspersample=bits)
    if syntax == uid.RLELossless:
        options = {"rows": pixels.shape[0], "columns": pixels.shape[1], "samples_per_pixel": 1, "number_of_frames": 1}
        depth = {"bits_allocated": 8 * pixels.dtype.itemsize, "bits_stored": bits, "pixel_representation": 0}
        options |= depth | {"photometric_interpretation": "MONOCHROME2"}
        return get_encoder(syntax).encode(pixels.tobytes(), encoding_plugin="pydicom", **options)
    return imagecodecs.htj2k_encode(pixels, reversible=True)


def jpeg_lossless(pixels, bits, predictor=1):
    """A JPEG lossless stream (process 14) of one component, every category coded in five bits."""
    values = pixels.astype(int)
    height, width = values.shape
    codes = "".join(
        _lossless_code(values[y, x] - _prediction(values, y, x, predictor, bits)) for y, x in np.ndindex(height, width)
    )
    # Counts of codes by length: 17 of five bits, for the categories 0 to 16.
    table = bytes([0, 0, 0, 0, 0, 17, *[0] * 11, *range(17)])
    frame = bytes([bits]) + height.to_bytes(2, "big") + width.to_bytes(2, "big") + bytes([1, 1, 0x11, 0])
    return _jpeg([(0xC3, frame), (0xC4, table)], bytes([1, 1, 0, predictor, 0, 0]), codes)


def _prediction(values, y, x, predictor, bits):
    """T.81 H.1.2.1: the first row is predicted from the left, the first column from above."""
    if y == 0:
        return int(values[0, x - 1]) if x else 2 ** (bits - 1)
    above = int(values[y - 1, x])
    if x == 0:
        return above
    left, corner = int(values[y, x - 1]), int(values[y - 1, x - 1])
    return {
        1: left,
        2: above,
        3: corner,
        4: left + above - corner,
        5: left + ((above - corner) >> 1),
        6: above + ((left - corner) >> 1),
        7: (left + above) >> 1,
    }[predictor]


def _lossless_code(difference):
    # T.81 H.1.2.2: differences are modulo 2 ** 16, and the difference of category 16 has no further bits.
    difference = (int(difference) + 32767) % 65536 - 32767
    category = abs(difference).bit_length()
    return f"{category:05b}" + ("" if category == 16 else _magnitude(difference, category))


def _magnitude(value, category):
    """T.81 F.1.2.1.1: the low bits of a value, or of the value minus 1 if it is negative."""
    return f"{value if value > 0 else value + 2**category - 1:0{category}b}" if category else ""


def jpeg_of_flat_blocks(blocks, bits):
    """A JPEG stream (baseline for 8 bits, else extended) whose blocks of 8 × 8 each have one value, exactly.

    With a quantiser of 8 a block's mean is its level shifted by half of the range, without any rounding.
    """
    last, codes = 0, ""
    for value in blocks.ravel().tolist():
        level = value - 2 ** (bits - 1)
        difference, last = level - last, level
        category = abs(difference).bit_length()
        # The only AC code is the end of the block, one zero bit.
        codes += f"{category:04b}" + _magnitude(difference, category) + "0"
    height, width = (8 * side for side in blocks.shape)
    frame = bytes([bits]) + height.to_bytes(2, "big") + width.to_bytes(2, "big") + bytes([1, 1, 0x11, 0])
    dc = bytes([0, 0, 0, 0, 15, *[0] * 12, *range(15)])
    ac = bytes([0x10, 1, *[0] * 15, 0])
    segments = [(0xDB, bytes([0, 8, *[1] * 63])), (0xC0 if bits == 8 else 0xC1, frame), (0xC4, dc), (0xC4, ac)]
    return _jpeg(segments, bytes([1, 1, 0, 0, 63, 0]), codes)


def _jpeg(segments, scan, codes):
    codes += "1" * (-len(codes) % 8)
    entropy = int(codes, 2).to_bytes(len(codes) // 8, "big").replace(b"\xff", b"\xff\x00")
    head = b"".join(b"\xff" + bytes([marker]) + (len(body) + 2).to_bytes(2, "big") + body for marker, body in segments)
    return b"\xff\xd8" + head + b"\xff\xda" + (len(scan) + 2).to_bytes(2, "big") + scan + entropy + b"\xff\xd9"
