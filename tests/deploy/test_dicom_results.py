"""DICOM results lie where the map is, read back equal, are valid, and name their patient and the model."""

import io
import shutil
import subprocess
import warnings
from datetime import datetime

import highdicom as hd
import numpy as np
import pytest
from pydicom import dcmread
from pydicom.sr.codedict import codes
from pydicom.uid import generate_uid

from gazelit.data.images.dicom import read_radiograph
from gazelit.deploy.dicom.results import WRITERS
from gazelit.deploy.objects import DicomOptions, objects_of
from gazelit.deploy.preparing import Preparation
from gazelit.errors import InputError
from tests.deploy.sources import PATIENT, SHA, chest, model, save

MADE = datetime(2026, 11, 26, 12, 0, 0)
#: Rows and columns of the film, and the bright square's top, bottom, left, right in the working image of 128 × 96.
PLANTED = {
    "portrait": ((1280, 960), (30, 56, 20, 42)),
    "landscape": ((700, 1000), (40, 61, 58, 80)),
    "odd": ((1277, 953), (31, 55, 19, 43)),
    "tall and odd": ((901, 333), (57, 85, 40, 55)),
    "small": ((97, 61), (26, 59, 25, 52)),
}


def on_film(shape, square):
    """Edges of a square of the working image in pixels of the film, computed independently of the letterbox's code."""
    scale = min(128 / shape[0], 96 / shape[1])
    edges = []
    for edge, side, whole in zip(square, np.repeat(shape, 2), (128, 128, 96, 96), strict=True):
        inner = round(side * scale)
        edges.append(round((edge - (whole - inner) // 2) * side / inner))
    return edges


def results(path, kinds=tuple(WRITERS), used=None, **options):
    used = used or model()
    prepared = Preparation(used.size, keeps_source=True)(read_radiograph(path))
    (reading,) = used.read([prepared])
    made = objects_of(used, reading, DicomOptions(tuple(kinds), **{"made": MADE, **options}))
    return reading, {kind: dcmread(io.BytesIO(content)) for kind, content in made.items()}


def contents(report, value_type):
    """All content items of a kind, depth first."""
    for item in report.get("ContentSequence", []):
        if item.ValueType == value_type:
            yield item
        yield from contents(item, value_type)


@pytest.mark.parametrize("inverted", [False, True])
@pytest.mark.parametrize("case", PLANTED)
def test_a_planted_square_lies_within_a_pixel_in_every_result(case, inverted, tmp_path):
    shape, square = PLANTED[case][0], on_film(*PLANTED[case])
    _, made = results(save(tmp_path / "film.dcm", chest(shape, square, inverted=inverted)))
    (scoord,) = contents(made["sr"], "SCOORD")
    line = np.reshape(scoord.GraphicData, (-1, 2))
    assert scoord.GraphicType == "POLYLINE"
    assert np.array_equal(line[0], line[-1])
    # Edges, in coordinates in which the first pixel reaches from 0 to 1.
    found = [line[:, 1].min(), line[:, 1].max(), line[:, 0].min(), line[:, 0].max()]
    assert np.abs(np.subtract(found, square)).max() <= 1
    mask = made["seg"].pixel_array.reshape(shape)
    assert edges(mask > 0, square) <= 1
    picture = made["sc"].pixel_array
    assert picture.shape[0] > shape[0]
    assert picture.shape[1] == shape[1]
    coloured = np.ptp(picture[: shape[0]].astype(int), axis=2) > 60
    assert edges(coloured, square) <= 1
    heights = made["fractional"].pixel_array.reshape(shape)
    assert heights.max() == 255
    assert edges(heights > 127, square) <= 1
    graphic = made["gsps"].GraphicAnnotationSequence[0].GraphicObjectSequence[0]
    assert np.allclose(np.reshape(graphic.GraphicData, (-1, 2)), line, atol=1e-3)


def edges(mask, square):
    """Greatest distance of the bounding box of a mask from the square, in pixels."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    found = [rows[0], rows[-1] + 1, columns[0], columns[-1] + 1]
    return np.abs(np.subtract(found, square)).max()


def test_results_read_back_equal(tmp_path):
    path = save(tmp_path / "film.dcm", chest((640, 480), (100, 300, 100, 200), ViewPosition="LL"))
    reading, made = results(path)
    assert [warning.split(":")[0] for warning in reading.warnings] == ["lateral"]
    source = dcmread(path)
    for result in made.values():
        for name in (*PATIENT, "StudyInstanceUID", "StudyDate", "AccessionNumber", "StudyID", "StudyDescription"):
            assert result[name].value == source[name].value, name
        assert result.Manufacturer == "gazelit"
        assert result.DeviceSerialNumber == SHA
        assert "not for clinical use" in result.SeriesDescription
        assert result.SeriesInstanceUID != source.SeriesInstanceUID
        assert "AcquisitionDate" not in result
    report = hd.sr.Comprehensive3DSR.from_dataset(made["sr"])
    groups = report.content.get_image_measurement_groups()
    assert [group.finding_type for group in groups] == [
        codes.SCT.CongestiveHeartFailure, groups[1].finding_type,
    ]  # fmt: skip
    assert groups[1].finding_type.scheme_designator == "99GAZELIT"
    assert groups[1].finding_type.meaning == "other finding"
    probabilities = [group.get_measurements(name=codes.DCM.Probability)[0].value for group in groups]
    assert probabilities == pytest.approx(list(reading.probabilities.values()), abs=1e-6)
    (planar,) = report.content.get_planar_roi_measurement_groups(finding_type=codes.DCM.Saliency)
    assert planar.roi.graphic_type == hd.sr.GraphicTypeValues.POLYLINE
    words = [item.TextValue for item in contents(made["sr"], "TEXT")]
    assert any(word.startswith("warning: lateral") for word in words)
    assert any("SYNTHETIC" in word for word in words)
    assert any(SHA in word for word in words)
    # The results name no body part and no procedure that the film does not name.
    assert not [item for item in made["sr"].ContentSequence if item.ConceptNameCodeSequence[0].CodeValue == "121058"]
    film = made["gsps"].ReferencedSeriesSequence[0].ReferencedImageSequence[0]
    assert film.ReferencedSOPInstanceUID == source.SOPInstanceUID
    # highdicom's own reader accepts the segmentation.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        reread = hd.seg.Segmentation.from_dataset(made["seg"])
    masks = reread.get_pixels_by_source_instance([source.SOPInstanceUID], ignore_spatial_locations=True)
    assert np.array_equal(masks[0, ..., 0], made["seg"].pixel_array.reshape(640, 480))


def test_the_same_film_and_checkpoint_give_the_same_bytes_and_others_other_uids(tmp_path):
    path = save(tmp_path / "film.dcm", chest((320, 240), (50, 150, 50, 100)))
    again = [results(path)[1] for _ in range(2)]
    files = [
        {kind: save(tmp_path / f"{n}{kind}", made[kind]).read_bytes() for kind in made} for n, made in enumerate(again)
    ]
    assert files[0] == files[1]
    of_another_model = results(path, used=model(sha256="cd" * 32))[1]
    for kind, result in again[0].items():
        assert result.SOPInstanceUID != of_another_model[kind].SOPInstanceUID
        assert result.SOPInstanceUID == result.file_meta.MediaStorageSOPInstanceUID
    uids = [result.SOPInstanceUID for result in again[0].values()]
    assert len({*uids, *(result.SeriesInstanceUID for result in again[0].values())}) == 2 * len(uids)


def errors_of(path):
    checked = subprocess.run(["dciodvfy", str(path)], capture_output=True, text=True)
    return {line for line in (checked.stdout + checked.stderr).splitlines() if line.startswith("Error")}


def test_results_have_no_fault_that_their_film_does_not_have(tmp_path, real_data):
    if shutil.which("dciodvfy") is None:
        pytest.skip("dciodvfy is not installed (Debian: dicom3tools)")
    films = [*sorted(real_data.glob("*.dcm")), save(tmp_path / "film.dcm", chest((320, 240), (50, 150, 50, 100)))]
    for path in films:
        _, made = results(path)
        for kind, result in made.items():
            assert errors_of(save(tmp_path / f"{kind}.dcm", result)) <= errors_of(path), (path.name, kind)


def test_a_hip_is_never_called_a_chest_and_no_name_is_printed(real_data, capfd, recwarn):
    reading, made = results(real_data / "RG2_JPLL.dcm")
    assert [warning.split(":")[0] for warning in reading.warnings] == ["not a chest"]
    words = [item.TextValue for item in contents(made["sr"], "TEXT")]
    assert any(word.startswith("warning: not a chest") for word in words)
    printed = "".join(capfd.readouterr()) + "".join(str(warning.message) for warning in recwarn)
    assert "CompressedSamples" not in printed


def test_a_film_without_a_study_uid_has_no_result(tmp_path):
    dataset = chest((320, 240), (50, 150, 50, 100))
    del dataset.StudyInstanceUID
    with pytest.raises(InputError, match="header lacks StudyInstanceUID"):
        results(save(tmp_path / "film.dcm", dataset))
    # Attributes that may be empty are empty.
    dataset.StudyInstanceUID = generate_uid()
    for name in ("PatientName", "PatientID", "AccessionNumber", "StudyDate", "PatientOrientation"):
        del dataset[name]
    made = results(save(tmp_path / "bare.dcm", dataset))[1]
    assert {str(result.PatientID) for result in made.values()} == {""}


def test_deidentified_results_hold_nothing_of_the_patient(tmp_path):
    planted = {
        "OtherPatientIDs": "PLANTED-1", "PatientAddress": "PLANTED-2", "InstitutionName": "PLANTED-3",
        "OperatorsName": "PLANTED-4", "StudyDescription": "PLANTED-5", "PatientComments": "PLANTED-6",
        "AccessionNumber": "PLANTED-7", "RequestingPhysician": "PLANTED-8", "StationName": "PLANTED-9",
        "PatientID": "PLANTED-10",
    }  # fmt: skip
    dataset = chest((320, 240), (50, 150, 50, 100), **planted)
    path = save(tmp_path / "film.dcm", dataset)
    key = bytes(range(32))
    _, made = results(path, key=key)
    for kind, result in made.items():
        content = save(tmp_path / f"{kind}.dcm", result).read_bytes()
        secrets = [*planted.values(), "ller", "19400305", "20240102", f"{MADE:%Y%m%d}", dataset.SOPInstanceUID,
                   dataset.StudyInstanceUID, dataset.SeriesInstanceUID]  # fmt: skip
        assert [secret for secret in secrets if secret.encode() in content] == [], kind
        assert result.PatientIdentityRemoved == "YES"
        assert result.DeidentificationMethodCodeSequence[0].CodeValue == "113100"
    # Results of a film stay in a single study, and only the key links them to the film.
    assert len({result.StudyInstanceUID for result in made.values()}) == 1
    assert results(path, key=key)[1]["sr"].StudyInstanceUID == made["sr"].StudyInstanceUID
    assert results(path, key=bytes(32))[1]["sr"].StudyInstanceUID != made["sr"].StudyInstanceUID
    marked = save(tmp_path / "marked.dcm", chest((320, 240), (50, 150, 50, 100), BurnedInAnnotation="YES"))
    with pytest.raises(InputError, match="annotations that may identify"):
        results(marked, key=key)


def test_simulated_films_are_valid(tmp_path, cohort):
    if shutil.which("dciodvfy") is None:
        pytest.skip("dciodvfy is not installed (Debian: dicom3tools)")
    films = sorted((cohort / "mimic-cxr").rglob("*.dcm"))
    assert {dcmread(path, stop_before_pixels=True).Modality for path in films} == {"CR", "DX"}
    assert {path.name: errors_of(path) for path in films if errors_of(path)} == {}
