"""Decoding, against pixel arithmetic written out by hand and against real files."""

import resource

import gdcm
import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian, generate_uid

from gazelit.data.dicom import image_size, read_radiograph
from gazelit.errors import InputError

RAMP = np.arange(0, 4096, 4, dtype=np.uint16).reshape(32, 32)


def write(path, pixels=RAMP, **attributes):
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


def transcode(source, target, syntax):
    """Re-encodes a file with GDCM, as an archive would."""
    reader = gdcm.ImageReader()
    reader.SetFileName(str(source))
    assert reader.Read()
    change = gdcm.ImageChangeTransferSyntax()
    change.SetTransferSyntax(gdcm.TransferSyntax(getattr(gdcm.TransferSyntax, syntax)))
    change.SetInput(reader.GetImage())
    assert change.Change(), syntax
    writer = gdcm.ImageWriter()
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    writer.SetFileName(str(target))
    assert writer.Write()
    return target


@pytest.mark.parametrize(
    "syntax",
    [
        "ImplicitVRLittleEndian",
        "ExplicitVRBigEndian",
        "DeflatedExplicitVRLittleEndian",
        "RLELossless",
        "JPEGLosslessProcess14",
        "JPEGLosslessProcess14_1",
        "JPEGLSLossless",
        "JPEG2000Lossless",
    ],
)
def test_lossless_transfer_syntaxes_decode_to_the_same_pixels(tmp_path, syntax):
    source = write(tmp_path / "a.dcm", WindowCenter=2000, WindowWidth=3000)
    radiograph = read_radiograph(transcode(source, tmp_path / "b.dcm", syntax))
    assert np.array_equal(radiograph.pixels, read_radiograph(source).pixels)


def test_jpeg_baseline_decodes_closely(tmp_path):
    pixels = np.repeat(np.repeat(np.arange(0, 256, 8, dtype=np.uint8)[None], 32, 0), 2, 0)
    source = write(tmp_path / "a.dcm", pixels, BitsAllocated=8, BitsStored=8, HighBit=7)
    radiograph = read_radiograph(transcode(source, tmp_path / "b.dcm", "JPEGBaselineProcess1"))
    assert radiograph.bits == 8
    assert np.abs(radiograph.pixels - read_radiograph(source).pixels).max() < 0.03


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 15, 16])
def test_odd_depths_are_scaled_by_their_own_range(tmp_path, bits):
    top = 2**bits - 1
    pixels = np.linspace(0, top, 1024).astype(np.uint16).reshape(32, 32)
    path = write(tmp_path / "a.dcm", pixels, BitsStored=bits, HighBit=bits - 1)
    assert np.allclose(read_radiograph(path).pixels, pixels / top, atol=1e-6)


def test_bits_above_the_stored_ones_are_no_pixels(tmp_path):
    # Old files keep overlays there.
    plain = read_radiograph(write(tmp_path / "a.dcm")).pixels
    assert np.array_equal(read_radiograph(write(tmp_path / "b.dcm", RAMP | 0x8000)).pixels, plain)


def test_signed_pixels(tmp_path):
    signed = RAMP.astype(np.int16) - 2048
    path = write(tmp_path / "a.dcm", signed, PixelRepresentation=1, WindowCenter=0, WindowWidth=1000)
    assert np.allclose(read_radiograph(path).pixels, window(signed.astype(float), 0, 1000), atol=1e-5)


def test_an_exact_linear_window(tmp_path):
    path = write(tmp_path / "a.dcm", WindowCenter=2000, WindowWidth=1000, VOILUTFunction="LINEAR_EXACT")
    assert np.allclose(read_radiograph(path).pixels, np.clip((RAMP - 2000.0) / 1000 + 0.5, 0, 1), atol=1e-5)


def test_an_absurd_size_is_refused_before_memory_is_taken(tmp_path):
    path = write(tmp_path / "a.dcm", Rows=60000, Columns=60000)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(InputError, match="over the limit"):
        read_radiograph(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000


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
