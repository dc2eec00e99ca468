"""Agreement of maps with gaze and regions, measured on small stores with networks of known maps."""

import numpy as np
import pytest
import torch

from gazelit.data.datamodule import GazeDataModule
from gazelit.data.dataset import collate
from gazelit.data.options import LoaderOptions, SplitOptions
from gazelit.data.sources import REFLACX
from gazelit.data.store.prepare import prepare
from gazelit.deploy.inference import LoadedModel
from gazelit.errors import InputError
from gazelit.evaluation.agreement import measure
from gazelit.evaluation.findings import CENTRE, PREDICTED, READER, finding_sizes, localisation, spelt_alike
from gazelit.evaluation.yardsticks import score_maps
from gazelit.metrics.localisation import localisation_values
from gazelit.models.attribution import attribute
from gazelit.models.classification_net import ClassificationNetwork
from gazelit.models.dual_unet import DualEncoderUNet
from tests.models.test_attribution import ENCODER, SALIENCY_ENCODER


def loaded(datamodule, classes):
    torch.manual_seed(0)
    network = DualEncoderUNet(ENCODER, SALIENCY_ENCODER, [8, 8, 8, 4, 4], classes=classes).eval()
    return LoadedModel(network, {"data": datamodule.provenance}, "0" * 64, torch.ones(classes or 0))


@pytest.fixture(scope="module")
def datamodule(store):
    return GazeDataModule(str(store), loader=LoaderOptions(num_workers=0, batch_size=4))


@pytest.fixture(scope="module")
def read_twice(reflacx, tmp_path_factory):
    out = tmp_path_factory.mktemp("agreement") / "store"
    prepare(REFLACX(reflacx / "reflacx", reflacx / "mimic-cxr"), out, size=(64, 64), workers=1)
    return str(out)


def test_every_map_is_scored_on_every_case_and_the_centre_bias_as_a_yardstick_is(datamodule):
    tables = measure(loaded(datamodule, 3), datamodule, ["gradcam", "integrated_gradients"])
    cases = len(datamodule.rows("test"))
    assert tables.gaze.groupby("map").size().to_dict() == dict.fromkeys(
        ["gradcam", "integrated_gradients", PREDICTED, CENTRE], cases
    )
    expected = score_maps(datamodule, lambda batch, bias: {"centre": bias.density})["centre"]
    centre = tables.gaze[tables.gaze["map"] == CENTRE]
    for metric in ("cc", "nss", "auc_judd", "sauc"):
        assert centre[metric].mean() == pytest.approx(expected[metric], abs=1e-6)
    # The first cases are shown, numbered as they come.
    assert [table.title for table in tables.shown] == [f"case {number + 1}" for number in range(min(6, cases))]


def test_a_map_of_the_gaze_itself_agrees_with_it_and_a_diagnosis_is_right_or_wrong(datamodule):
    model = loaded(datamodule, 3)
    tables = measure(model, datamodule, ["gradcam"])
    batch = datamodule.render(next(iter(datamodule.loader("test"))))
    with torch.inference_mode():
        right = model.network(batch["image"])["logits"].argmax(1) == batch["label"]
    first = tables.gaze[tables.gaze["map"] == "gradcam"].head(len(right))
    assert first["index"].tolist() == batch["index"].tolist()
    assert first["right"].tolist() == right.float().tolist()
    reader = tables.regions[tables.regions["map"] == READER]
    row = reader.iloc[0]
    place = batch["index"].tolist().index(row["index"])
    values = localisation_values(
        batch["heatmap"][place], datamodule.regions(int(row["index"]))[row["region"]][None], batch["valid_mask"][place]
    )
    for name in ("pointing", "mass", "iou", "auc", "area"):
        assert row[name] == pytest.approx(values[name].item())


def test_a_region_with_the_name_of_a_class_is_compared_with_the_map_of_that_class(read_twice):
    names = ["Consolidation", "Pleural abnormality", "Support devices"]
    loader, split = LoaderOptions(num_workers=0, batch_size=3), SplitOptions(method="official", allow_empty=True)
    datamodule = GazeDataModule(read_twice, labels=names, exclusive=False, loader=loader, split=split)
    model = loaded(datamodule, 3)
    split = next(name for name in ("test", "val", "train") if _has_region(datamodule, name, names))
    tables = measure(model, datamodule, ["gradcam"], split)
    rows = tables.regions[tables.regions["region"].isin(names) & (tables.regions["map"] == "gradcam")]
    assert len(rows)
    assert tables.gaze["right"].isna().all()
    dataset = datamodule.dataset(split)
    for _, row in rows.iterrows():
        position = int(np.flatnonzero(dataset.rows == row["index"])[0])
        image = datamodule.render(collate([dataset[0, position]]))["image"]
        expected = attribute(model.network, image, torch.tensor([names.index(row["region"])]), "gradcam")
        inside = datamodule.regions(row["index"])[row["region"]]
        values = localisation_values(expected, inside[None], datamodule.valid_mask(row["index"])[None])
        assert row["mass"] == pytest.approx(values["mass"].item(), abs=1e-5)


def test_finding_f5_maps_are_compared_with_marked_findings_and_not_with_anatomy(read_twice, datamodule):
    names = ["Consolidation", "Pleural abnormality", "Support devices"]
    marked = GazeDataModule(
        read_twice,
        labels=names,
        exclusive=False,
        loader=LoaderOptions(num_workers=0),
        split=SplitOptions(method="external"),
    )
    labels = {spelt_alike(name) for name in marked.store.about["label_columns"]}
    table = localisation(loaded(marked, 3), marked)
    expected = [row for row in marked.rows("test") if labels & {spelt_alike(name) for name in marked.regions(int(row))}]
    assert table.loc[table["map"] == PREDICTED, "index"].tolist() == expected
    row = expected[0]
    inside = torch.stack([mask for name, mask in marked.regions(row).items() if spelt_alike(name) in labels]).any(0)
    dataset = marked.dataset("test")
    batch = marked.render(collate([dataset[0, int(np.flatnonzero(dataset.rows == row)[0])]]))
    values = localisation_values(batch["heatmap"][:, 0], inside[None], batch["valid_mask"][:, 0])
    reader = table[(table["map"] == READER) & (table["index"] == row)].iloc[0]
    for metric in ("pointing", "mass", "iou", "auc", "area"):
        assert reader[metric] == pytest.approx(values[metric].item())
    sizes = finding_sizes(marked.store, names)
    assert sizes.notna().sum() == len(expected)
    # Areas are summed over findings and averaged over readers, so the sum is about the largest area or more.
    areas = table[table["map"] == CENTRE].set_index("index")["area"]
    once = [row for row in expected if len(marked.readings(int(row))) == 1]
    assert len(once) > 1
    for row in once:
        assert 0.5 * areas[row] < sizes[row] < 3 * areas[row]
    # EGD-CXR's boxes are anatomy.
    assert localisation(loaded(datamodule, 3), datamodule).empty
    assert finding_sizes(datamodule.store, datamodule.class_names).isna().all()


def _has_region(datamodule, split, names):
    return any(set(names) & set(datamodule.regions(int(row))) for row in datamodule.rows(split))


def test_a_model_without_a_map_has_nothing_to_score(datamodule):
    network = ClassificationNetwork(ENCODER, 3).eval()
    model = LoadedModel(network, {"data": datamodule.provenance}, "0" * 64, torch.ones(3))
    with pytest.raises(InputError, match="no map to score"):
        measure(model, datamodule, [])
    assert set(measure(model, datamodule, ["gradcam"]).gaze["map"]) == {"gradcam", CENTRE}
