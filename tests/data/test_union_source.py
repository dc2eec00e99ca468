"""Several datasets in a store: images and patients that they share are recognised as the same."""

import re
from pathlib import Path

import pytest

from gazelit.data.options import SplitOptions
from gazelit.data.sources import EGDCXR, MIMICCXR, REFLACX, Union
from gazelit.data.splits.by_patient import make_split
from gazelit.data.store.prepare import prepare
from gazelit.data.store.store import Store
from gazelit.errors import InputError


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """EGD-CXR and REFLACX of the same seed, which share patients and a film."""
    from gazelit.synthetic.cohort import write_cohort

    root = tmp_path_factory.mktemp("union")
    write_cohort(root / "e", cases=16, seed=5, max_side=128, workers=1)
    write_cohort(root / "r", cases=16, format="reflacx", seed=5, max_side=128, workers=1)
    return (
        EGDCXR(root / "e" / "egd-cxr", root / "e" / "mimic-cxr"),
        REFLACX(root / "r" / "reflacx", root / "r" / "mimic-cxr"),
    )


def test_a_shared_image_is_one_image_with_the_readings_of_both(sources, tmp_path):
    store = prepare(Union(sources), tmp_path / "s", size=(64, 64), workers=1)
    assert store.cases["image_id"].is_unique
    assert len(store.cases) == 16
    assert set(store.cases["source"]) == {"egd-cxr+reflacx"}
    assert store.about["source"] == "egd-cxr+reflacx"
    readings = store.gaze("fixation").groupby("row", observed=True)["reading_id"].nunique()
    assert readings.min() >= 2
    assert readings.max() == 6


def test_the_configuration_in_the_documentation(sources, tmp_path, run_gazelit):
    text = (Path(__file__).resolve().parents[2] / "docs" / "data.md").read_text()
    config = re.search(r"```yaml\n(.*?)```", text, re.S).group(1)
    for source, folder in zip(sources, ("egd-cxr", "reflacx"), strict=True):
        here = f"{{root: {source.root}, images: {source.images}}}"
        config = config.replace(f"{{root: path/to/{folder}, images: path/to/mimic-cxr}}", here)
    assert "path/to" not in config
    (tmp_path / "union.yaml").write_text(config)
    run_gazelit("prepare", "--config=union.yaml", "--out=both", "--size=[64, 64]", "--workers=1")
    assert Store.open(tmp_path / "both").about["source"] == "egd-cxr+reflacx"


def test_equal_names_of_labels_are_kept_apart(sources):
    recording = Union(sources).read()
    assert {"egd-cxr:Normal", "reflacx:Normal", "CHF", "Consolidation"} <= set(recording.label_columns)
    assert "Normal" not in recording.images


def test_patients_of_both_are_in_one_split(sources):
    images = Union(sources).read().images
    split = make_split(images, images[[]], SplitOptions(val_fraction=0.2, test_fraction=0.3))
    assert (split.groupby(images["patient_id"]).nunique() == 1).all()


def test_wrong_unions(sources, mimic):
    with pytest.raises(InputError, match="at least two"):
        Union(sources[:1])
    with pytest.raises(InputError, match="same name"):
        Union([sources[0], sources[0]])

    class Real(MIMICCXR):
        def read(self):
            recording = super().read()
            recording.synthetic = False
            return recording

    with pytest.raises(InputError, match="must not be mixed"):
        Union([sources[0], Real(mimic / "mimic-cxr-jpg")]).read()


def test_the_same_id_for_another_patient_is_an_error(sources):
    class Other(type(sources[1])):
        def read(self):
            recording = super().read()
            recording.images["patient_id"] = "9" + recording.images["patient_id"].str[1:]
            return recording

    with pytest.raises(InputError, match="16 images have another patient_id"):
        Union([sources[0], Other(sources[1].root, sources[1].images)]).read()
