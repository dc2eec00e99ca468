"""Decoding of films, against pixel arithmetic by hand and against real files."""

import hashlib
import os
import resource
import struct
import warnings
import zlib

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom import uid
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.pixels import pixel_array
from pydicom.sequence import Sequence

from gazelit.data.images import codecs
from gazelit.data.images.dicom import image_size, read_radiograph
from gazelit.errors import InputError
from tests.data.film_writers import RAMP, jpeg_lossless, jpeg_of_flat_blocks, write, write_compressed


def sample(name):
    """A file that ships with pydicom, encoded by other software."""
    return pydicom.data.get_testdata_file(name, download=False)


@pytest.fixture
def every_modality_is_read(monkeypatch):
    """Accepts every modality: files that other software encoded are CT, MR and so on, which are refused as films."""
    monkeypatch.setattr("gazelit.data.images.one_projection._NO_RADIOGRAPHS", ())


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


@pytest.mark.parametrize(
    "syntax",
    [
        uid.ImplicitVRLittleEndian,
        uid.ExplicitVRBigEndian,
        uid.DeflatedExplicitVRLittleEndian,
        # Encoded by pydicom, and by a writer made from the standard.
        uid.RLELossless,
        uid.JPEGLossless,
        uid.JPEGLosslessSV1,
        # Encoded by the library that decodes; files of other encoders follow below.
        uid.JPEGLSLossless,
        uid.JPEG2000Lossless,
        uid.HTJ2KLossless,
    ],
)
def test_lossless_transfer_syntaxes_decode_to_the_same_pixels(tmp_path, syntax):
    window = {"WindowCenter": 2000, "WindowWidth": 3000}
    expected = read_radiograph(write(tmp_path / "a.dcm", **window)).pixels
    writer = write_compressed if syntax.is_encapsulated else write
    path = writer(tmp_path / "b.dcm", RAMP, syntax=syntax, **window)
    assert np.array_equal(read_radiograph(path).pixels, expected)
    assert image_size(path) == RAMP.shape


@pytest.mark.parametrize("kind", ["RLE", "bigendian", "implicit", "jp2klossless", "jpeg_ls_lossless"])
def test_pydicoms_transcoded_files_decode_to_the_same_pixels(kind, every_modality_is_read):
    expected = read_radiograph(sample("MR_small.dcm")).pixels
    assert np.array_equal(read_radiograph(sample(f"MR_small_{kind}.dcm")).pixels, expected)


@pytest.mark.parametrize("bits", [8, 12, 16])
@pytest.mark.parametrize("predictor", range(1, 8))
def test_jpeg_lossless_of_every_predictor(tmp_path, bits, predictor):
    pixels = np.random.default_rng(predictor).integers(0, 2**bits, (17, 23)).astype(np.uint16 if bits > 8 else np.uint8)
    path = write(
        tmp_path / "a.dcm",
        pixels,
        syntax=uid.JPEGLossless,
        PixelData=encapsulate([jpeg_lossless(pixels, bits, predictor)]),
        BitsAllocated=16 if bits > 8 else 8,
        BitsStored=bits,
        HighBit=bits - 1,
    )
    assert np.array_equal(stored(path), pixels)


def stored(path):
    read_radiograph(path)
    return pixel_array(pydicom.dcmread(path), decoding_plugin=codecs.PLUGIN)


@pytest.mark.parametrize(("bits", "syntax"), [(8, uid.JPEGBaseline8Bit), (12, uid.JPEGExtended12Bit)])
def test_lossy_jpeg_of_8_and_12_bits(tmp_path, bits, syntax):
    blocks = np.random.default_rng(bits).integers(0, 2**bits, (3, 4))
    pixels = np.kron(blocks, np.ones((8, 8), int)).astype(np.uint16 if bits > 8 else np.uint8)
    path = write(
        tmp_path / "a.dcm",
        pixels,
        syntax=syntax,
        PixelData=encapsulate([jpeg_of_flat_blocks(blocks, bits)]),
        BitsAllocated=16 if bits > 8 else 8,
        BitsStored=bits,
        HighBit=bits - 1,
    )
    assert np.array_equal(stored(path), pixels)


def test_twelve_bit_jpeg_of_another_encoder(every_modality_is_read):
    """The values are those of pydicom's own tests; one file has a scan header that some decoders refuse."""
    for name in ("JPGExtended.dcm", "JPEG-lossy.dcm"):
        pixels = stored(sample(name))
        assert (pixels[420, 140], pixels[230, 120]) == (244, 95)


@pytest.mark.parametrize(
    ("bits", "column"),
    [
        ("08", [255, 125, 65, 30, 15, 5, 5, 0, 0]),
        ("16", [65535, 32765, 16385, 4095, 1025, 255, 65, 15, 5, 0]),
    ],
)
def test_near_lossless_jpeg_ls_of_another_encoder(bits, column, every_modality_is_read):
    """The first column of pydicom's test files, as CharLS and GDCM decode it."""
    assert stored(sample(f"JPEGLSNearLossless_{bits}.dcm"))[::5, 0].tolist() == column


@pytest.mark.parametrize(
    ("name", "digest"),
    [
        ("RG1_J2KI.dcm", "88aa9135b12d8582316d1db5c45b4c2c55dd1da74c3c52a80a7be49f145c7149"),
        ("RG2_JPLL.dcm", "9ed5d9818c250bb81ff9093a6c4d5c6032df281fce82b9a288de65c74348301e"),
        ("nih_chest_jpeg.dcm", "3127b33603fb6b39bf3a5365f7194d59b893d7cf86d82412e8cca1a4953681b4"),
    ],
)
def test_real_files_have_the_pixels_that_gdcm_decodes(real_data, name, digest):
    """SHA-256 of the stored pixels as 16-bit little-endian values, taken with GDCM 3.2.6."""
    assert hashlib.sha256(stored(real_data / name).astype("<u2").tobytes()).hexdigest() == digest


def test_finding_g2_no_other_decoder_is_used(monkeypatch, tmp_path):
    """GDCM aborts the process on malformed streams, so it is not used even where it is installed."""
    calls = []
    decoder = pydicom.pixels.get_decoder(uid.JPEG2000Lossless)
    monkeypatch.setitem(decoder._available, "gdcm", lambda *_: calls.append(1))
    path = write_compressed(tmp_path / "a.dcm", RAMP, uid.JPEG2000Lossless)
    content = bytearray(path.read_bytes())
    content[-200:-150] = bytes(50)
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"a\.dcm: pixels cannot be decoded"):
        read_radiograph(path)
    assert not calls


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 15, 16])
def test_odd_depths_are_scaled_by_their_own_range(tmp_path, bits):
    top = 2**bits - 1
    pixels = np.linspace(0, top, 1024).astype(np.uint16).reshape(32, 32)
    path = write(tmp_path / "a.dcm", pixels, BitsStored=bits, HighBit=bits - 1)
    assert np.allclose(read_radiograph(path).pixels, pixels / top, atol=1e-6)


def test_bits_above_the_stored_bits_are_ignored(tmp_path):
    # Old files keep overlays in these bits.
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
def test_files_that_are_not_radiographs_give_one_error_that_names_them(tmp_path, kind):
    with pytest.raises(InputError, match=r"broken\.dcm: "):
        read_radiograph(broken(tmp_path, kind))


@pytest.mark.parametrize("syntax", [*codecs.SYNTAXES])
@pytest.mark.parametrize("share", [0.3, 0.7, 0.95])
def test_a_codestream_cut_short_is_an_error(tmp_path, syntax, share):
    """JPEG decoders fill the rest with grey without an error."""
    noise = np.random.default_rng(0).integers(0, 4096, (48, 40)).astype(np.uint16)
    if syntax == uid.JPEGBaseline8Bit:
        noise = (noise >> 4).astype(np.uint8)
    path = write_compressed(tmp_path / "a.dcm", noise, syntax)
    dataset = pydicom.dcmread(path)
    stream = next(pydicom.encaps.generate_frames(dataset.PixelData, number_of_frames=1))
    dataset.PixelData = encapsulate([stream[: int(share * len(stream))]])
    dataset.save_as(path)
    with pytest.raises(InputError, match="pixels cannot be decoded"):
        read_radiograph(path)


def test_finding_d3_padding_is_left_out_of_the_display_range(tmp_path):
    pixels = np.linspace(3000, 3500, 1024).astype(np.uint16).reshape(32, 32)
    tissue = pixels.copy()
    pixels[:4] = 0
    shown = read_radiograph(write(tmp_path / "a.dcm", pixels, PixelPaddingValue=0)).pixels
    assert (shown[:4] == 0).all()
    low, high = tissue[4:].min(), tissue[4:].max()
    assert np.allclose(shown[4:], (tissue[4:] - float(low)) / (high - low), atol=1e-6)
    ranged = write(
        tmp_path / "b.dcm", pixels, PixelPaddingValue=0, PixelPaddingRangeLimit=100, RescaleSlope=-1, RescaleIntercept=0
    )
    assert np.allclose(read_radiograph(ranged).pixels[4:], 1 - shown[4:], atol=1e-6)
    nothing_else = read_radiograph(write(tmp_path / "c.dcm", np.full_like(pixels, 7), PixelPaddingValue=7))
    assert (nothing_else.pixels == 0).all()


def test_finding_d15_a_linear_window_of_width_1_is_a_step(tmp_path):
    path = write(tmp_path / "a.dcm", WindowCenter=2000, WindowWidth=1)
    # PS3.3 C.11.2.1.2.1: x <= c − 0.5 − (w − 1) / 2 gives the lower end, x > c − 0.5 + (w − 1) / 2 the upper.
    assert np.array_equal(read_radiograph(path).pixels, (RAMP > 1999.5).astype(np.float32))


def test_finding_d14_a_palette_is_shown_through_its_colours(tmp_path, every_modality_is_read):
    path = sample("examples_palette.dcm")
    colours = np.asarray(pydicom.pixels.apply_color_lut(stored(path), pydicom.dcmread(path)), float)
    expected = (colours @ [0.299, 0.587, 0.114]) / (255 if colours.max() < 256 else 65535)
    assert np.allclose(read_radiograph(path).pixels, expected, atol=1e-5)
    bare = write(tmp_path / "a.dcm", PhotometricInterpretation="PALETTE COLOR")
    with pytest.raises(InputError, match=r"a\.dcm: its window or look-up tables cannot be applied"):
        read_radiograph(bare)


def deflated(path, megabytes):
    """A deflated film that inflates to far more than it holds."""
    whole = write(path, syntax=uid.DeflatedExplicitVRLittleEndian).read_bytes()
    start = 132 + 12 + struct.unpack("<I", whole[140:144])[0]
    squeeze = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    # The film itself, then an element after its pixels, as long as all the zeros.
    content = zlib.decompress(whole[start:], -zlib.MAX_WBITS)
    content += b"\xe1\x7f\x10\x00OB\0\0" + struct.pack("<I", megabytes * 2**20)
    body = squeeze.compress(content) + b"".join(squeeze.compress(bytes(2**20)) for _ in range(megabytes))
    body += squeeze.flush()
    path.write_bytes(whole[:start] + body)
    return path


def malformed(tmp_path, kind):
    path = tmp_path / "film.dcm"
    if kind == "frames of no number":
        return sample("badVR.dcm")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if kind == "two padding values":
            return write(path, PixelPaddingValue=[0, 1])
        if kind == "window of no number":
            return write(path, WindowCenter="nan", WindowWidth="100")
        if kind == "rescale beyond any number":
            return write(path, RescaleSlope="1e39", RescaleIntercept="0")
        if kind == "unknown transfer syntax":
            path = write_compressed(path, RAMP, uid.RLELossless)
            content = path.read_bytes().replace(b"1.2.840.10008.1.2.5\0", b"1.2.840.10008.1.2.7\0")
        if kind == "deflated, cut":
            content = write(path, syntax=uid.DeflatedExplicitVRLittleEndian).read_bytes()[:-60]
        if kind == "deflated, damaged":
            content = bytearray(write(path, syntax=uid.DeflatedExplicitVRLittleEndian).read_bytes())
            content[-400:] = b"\xff" * 400
        if kind == "sequences within sequences":
            content = write(path).read_bytes()
            level = b"\x08\x00\x40\x11SQ\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff"
            at = content.index(b"\x28\x00\x02\x00")
            content = content[:at] + level * 30_000 + content[at:]
        if kind == "another size in the stream":
            dataset = pydicom.dcmread(write_compressed(path, RAMP, uid.JPEGLSLossless))
            dataset.Rows = 31
            dataset.save_as(path)
            return path
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    "kind",
    [
        "frames of no number",
        "two padding values",
        "window of no number",
        "rescale beyond any number",
        "unknown transfer syntax",
        "deflated, cut",
        "deflated, damaged",
        "sequences within sequences",
        "another size in the stream",
    ],
)
def test_finding_d4_and_g7_malformed_films_are_one_error(tmp_path, kind):
    path = malformed(tmp_path, kind)
    with pytest.raises(InputError) as caught:
        read_radiograph(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_finding_g8_a_bomb_is_refused_before_its_memory_is_taken(tmp_path):
    bomb = deflated(tmp_path / "a.dcm", 250)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(InputError, match=r"a\.dcm: inflates to more than 67 MB"):
        read_radiograph(bomb)
    assert image_size(bomb) == RAMP.shape
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000
    header = struct.pack(">IIBBBBB", 9999, 9999, 8, 0, 0, 0, 0)
    picture = tmp_path / "a.png"
    chunks = (
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in ((b"IHDR", header), (b"IDAT", zlib.compress(bytes(1000))))
    )
    picture.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))
    with pytest.raises(InputError, match=r"a\.png: claims 9999 × 9999 pixels, over the limit of 64000000"):
        read_radiograph(picture)
    long = tmp_path / "long.dcm"
    write(long)
    os.truncate(long, 400_000_000)
    with pytest.raises(InputError, match="is larger"):
        read_radiograph(long)


def test_finding_g8_a_file_that_is_not_regular_gives_one_line_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe.dcm")
    for path, message in ((tmp_path / "pipe.dcm", "is a pipe"), (tmp_path, "is a folder"), ("/dev/zero", "a device")):
        for read in (read_radiograph, image_size):
            with pytest.raises(InputError, match=message):
                read(path)


def test_messages_and_warnings_hold_no_cell_of_the_file(tmp_path, recwarn, caplog):
    path = write(tmp_path / "a.dcm", NumberOfFrames="12345678", PatientID="Doe^John")
    path.write_bytes(path.read_bytes().replace(b"12345678", b"Doe^John"))
    with pytest.raises(InputError) as caught:
        read_radiograph(path)
    assert "Doe" not in str(caught.value)
    assert not list(recwarn)
    assert "Doe" not in caplog.text
