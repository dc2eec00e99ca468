"""Decoding, against pixel arithmetic written out by hand and against real files."""

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    DigitalXRayImageStorageForPresentation,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    RLELossless,
    generate_uid,
)

from gazelit.data.dicom import image_size, read_radiograph
from gazelit.errors import InputError

RAMP = np.arange(0, 4096, 4, dtype=np.uint16).reshape(32, 32)


def write(path, pixels=RAMP, compress=None, **attributes):
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = DigitalXRayImageStorageForPresentation
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.SOPClassUID, dataset.SOPInstanceUID = (
        meta.MediaStorageSOPClassUID,
        meta.MediaStorageSOPInstanceUID,
    )
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 12, 11, 0
    dataset.PixelData = pixels.tobytes()
    dataset["PixelData"].VR = "OW"
    for name, value in attributes.items():
        setattr(dataset, name, value)
    if compress:
        dataset.compress(compress, generate_instance_uid=False)
    dataset.save_as(path, enforce_file_format=True)
    return path


def window(values, centre, width):
    """The linear window of DICOM PS3.3 C.11.2.1.2.1, written out."""
    return np.clip((values - (centre - 0.5)) / (width - 1) + 0.5, 0, 1)


def test_without_a_window_the_pixels_own_range_is_shown(tmp_path):
    radiograph = read_radiograph(write(tmp_path / "a.dcm"))
    assert radiograph.pixels.dtype == np.float32
    assert np.allclose(radiograph.pixels, RAMP / 4092, atol=1e-6)
    assert (radiograph.bits, radiograph.photometric) == (12, "MONOCHROME2")


def test_the_first_of_several_windows_is_applied_after_the_rescale(tmp_path):
    path = write(
        tmp_path / "a.dcm",
        RescaleSlope=0.5,
        RescaleIntercept=100,
        WindowCenter=[1000, 500],
        WindowWidth=[800, 50],
    )
    assert np.allclose(read_radiograph(path).pixels, window(RAMP * 0.5 + 100, 1000, 800), atol=1e-5)


def test_monochrome1_is_inverted_after_the_window(tmp_path):
    path = write(tmp_path / "a.dcm", PhotometricInterpretation="MONOCHROME1", WindowCenter=2000, WindowWidth=1000)
    assert np.allclose(read_radiograph(path).pixels, 1 - window(RAMP.astype(float), 2000, 1000), atol=1e-5)


def test_pydicoms_monochrome1_files_with_a_rescale(tmp_path):
    path = pydicom.data.get_testdata_file("dicomdirtests/77654033/CR1/6154")
    dataset = pydicom.dcmread(path)
    values = dataset.pixel_array * float(dataset.RescaleSlope) + float(dataset.RescaleIntercept)
    expected = 1 - window(values, float(dataset.WindowCenter), float(dataset.WindowWidth))
    assert dataset.PhotometricInterpretation == "MONOCHROME1"
    assert np.allclose(read_radiograph(path).pixels, expected, atol=1e-5)


def test_a_sigmoid_window(tmp_path):
    path = write(tmp_path / "a.dcm", WindowCenter=2000, WindowWidth=1000, VOILUTFunction="SIGMOID")
    expected = 1 / (1 + np.exp(-4 * (RAMP.astype(float) - 2000) / 1000))
    assert np.allclose(read_radiograph(path).pixels, expected, atol=1e-5)


def test_a_voi_lut_goes_before_a_window(tmp_path):
    table = Dataset()
    table.LUTDescriptor = [4096, 0, 16]
    table.LUTData = (np.arange(4096, dtype=np.uint16)[::-1] * 16).tobytes()
    path = write(tmp_path / "a.dcm", VOILUTSequence=Sequence([table]), WindowCenter=10, WindowWidth=10)
    assert np.allclose(read_radiograph(path).pixels, (4095 - RAMP.astype(float)) * 16 / 65535, atol=1e-5)


def test_padding_becomes_black(tmp_path):
    pixels = RAMP.copy()
    pixels[:4] = 4095
    path = write(
        tmp_path / "a.dcm",
        pixels,
        PhotometricInterpretation="MONOCHROME1",
        PixelPaddingValue=4095,
        WindowCenter=2000,
        WindowWidth=4000,
    )
    shown = read_radiograph(path).pixels
    assert (shown[:4] == 0).all()
    assert shown[4:].max() > 0.4


@pytest.mark.parametrize("syntax", [RLELossless, JPEG2000Lossless])
def test_compressed_files_decode_to_the_same_pixels(tmp_path, syntax):
    plain = read_radiograph(write(tmp_path / "a.dcm")).pixels
    assert np.array_equal(read_radiograph(write(tmp_path / "b.dcm", compress=syntax)).pixels, plain)


@pytest.mark.parametrize(("mode", "top"), [("L", 255), ("I;16", 65535)])
def test_pictures_keep_their_depth(tmp_path, mode, top):
    values = np.linspace(0, top, 64).astype(np.uint16 if top > 255 else np.uint8).reshape(8, 8)
    Image.fromarray(values).save(tmp_path / "a.png")
    assert np.allclose(read_radiograph(tmp_path / "a.png").pixels, values / top, atol=1e-6)
    assert image_size(tmp_path / "a.png") == (8, 8)


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("RG1_J2KI.dcm", (1955, 1841)),
        ("RG2_JPLL.dcm", (2140, 1760)),
        ("nih_chest_jpeg.dcm", (1024, 1024)),
        ("nih_00000001_000.png", (512, 512)),
    ],
)
def test_real_files_decode(real_data, name, size):
    radiograph = read_radiograph(real_data / name)
    assert radiograph.pixels.shape == size == image_size(real_data / name)
    assert radiograph.pixels.min() >= 0
    assert radiograph.pixels.max() <= 1
    assert radiograph.pixels.std() > 0.1


def test_in_the_real_monochrome1_chest_the_lungs_are_darker_than_the_mediastinum(real_data):
    pixels = read_radiograph(real_data / "RG1_J2KI.dcm").pixels
    height, width = pixels.shape
    rows = slice(int(0.35 * height), int(0.55 * height))
    right, middle, left = (
        np.median(pixels[rows, int(a * width) : int(b * width)]) for a, b in ((0.2, 0.35), (0.47, 0.56), (0.68, 0.8))
    )
    assert max(right, left) < middle - 0.15


def broken(tmp_path, kind):
    path = tmp_path / "broken.dcm"
    if kind == "empty":
        path.write_bytes(b"")
    elif kind == "noise":
        path.write_bytes(bytes(range(256)) * 4)
    elif kind == "truncated":
        path.write_bytes(write(path).read_bytes()[:-900])
    elif kind == "header only":
        path.write_bytes(write(path).read_bytes()[:140])
    elif kind == "absurd size":
        write(path, Rows=60000, Columns=60000)
    elif kind == "no pixels":
        dataset = pydicom.dcmread(write(path))
        del dataset.PixelData
        dataset.save_as(path)
    elif kind == "several frames":
        write(path, NumberOfFrames=4)
    elif kind == "colour":
        write(path, SamplesPerPixel=3)
    elif kind == "png cut":
        Image.fromarray(RAMP.astype(np.uint8)).save(tmp_path / "whole.png")
        path.write_bytes((tmp_path / "whole.png").read_bytes()[:60])
    elif kind == "folder":
        path.mkdir()
    return path


@pytest.mark.parametrize(
    "kind",
    [
        "missing",
        "empty",
        "noise",
        "truncated",
        "header only",
        "absurd size",
        "no pixels",
        "several frames",
        "colour",
        "png cut",
        "folder",
    ],
)
def test_files_that_are_no_radiograph_are_one_error_that_names_them(tmp_path, kind):
    with pytest.raises(InputError, match=r"broken\.dcm: "):
        read_radiograph(broken(tmp_path, kind))


def test_the_malformed_jpeg_in_the_wild_is_an_error(tmp_path):
    path = pydicom.data.get_testdata_file("JPEG-lossy.dcm")
    if path is None:
        pytest.skip("this pydicom ships no JPEG-lossy.dcm")
    with pytest.raises(InputError, match=r"JPEG-lossy\.dcm"):
        read_radiograph(path)
