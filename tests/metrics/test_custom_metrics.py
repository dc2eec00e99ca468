"""Metrics from outside the package, and the catalogue of gazelit's metrics."""

import pytest
import torch
from torchmetrics import Metric, MetricCollection
from torchmetrics.classification import MulticlassAccuracy

from gazelit.errors import InputError
from gazelit.metrics import CaseMetric, ComparedMetric, DiagnosisMetrics, EmbeddingMetrics
from gazelit.metrics.catalogue import CLASS_METRICS, METRICS, entry
from gazelit.metrics.custom import check_metrics, computed, described, metric_name, update_metrics
from gazelit.metrics.map_values import NAMES, names_at_test
from tests.ranks import on_ranks


class MeanGap(CaseMetric):
    higher_is_better = False

    def per_case(self, outputs, batch):
        return outputs["age"] - batch["label"]


class Range(Metric):
    """A metric with several values and a list state of the values that it has seen."""

    name = "span"

    def __init__(self):
        super().__init__()
        self.add_state("seen", [], dist_reduce_fx="cat")

    def update(self, outputs, batch):
        self.seen.append(outputs["age"])

    def compute(self):
        seen = torch.cat(self.seen)
        return {"low": seen.min(), "high": seen.max()}


def batch_of(label):
    return {"label": torch.tensor(label), "index": torch.arange(len(label))}


def test_a_case_metric_is_the_mean_of_what_is_defined_and_gives_each_case():
    metric = MeanGap()
    cases = update_metrics([metric], {"age": torch.tensor([3.0, 5.0])}, batch_of([1.0, float("nan")]))
    assert cases["mean_gap"].isnan().tolist() == [False, True]
    update_metrics([metric], {"age": torch.tensor([4.0])}, batch_of([8.0]))
    assert computed(metric) == {"mean_gap": torch.tensor(-1.0, dtype=torch.float64)}
    metric.reset()
    update_metrics([metric], {"age": torch.zeros(0)}, {"label": torch.zeros(0), "index": torch.arange(0)})
    assert computed(metric)["mean_gap"].isnan()
    with pytest.raises(InputError, match=r"mean_gap: per_case gave \(1,\) values for 2 images"):
        update_metrics([metric], {"age": torch.tensor([1.0])}, {"label": torch.zeros(1), "index": torch.arange(2)})


class SquareGap(MeanGap):
    def per_case(self, outputs, batch):
        return super().per_case(outputs, batch).square()


def gaps(rank, world, folder):
    together = MetricCollection({"mean": MeanGap(), "square": SquareGap()})
    # The gaps of a first batch of 0 and 1 are their own squares.
    for age in ([0.0, 1.0], [4.0 + rank, 3.0]):
        together.update({"age": torch.tensor(age)}, batch_of([0.0, 0.0]))
    torch.save(together.compute(), folder / f"{rank}.pt")


def test_a_collection_keeps_metrics_by_image_apart_on_each_of_several_processes(tmp_path):
    on_ranks(gaps, 2, tmp_path)
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert found["mean"].item() == (0 + 1 + 4 + 3 + 0 + 1 + 5 + 3) / 8
        assert found["square"].item() == (0 + 1 + 16 + 9 + 0 + 1 + 25 + 9) / 8


def test_a_metric_with_several_values_names_them_after_its_own():
    metric = Range()
    assert update_metrics([metric], {"age": torch.tensor([3.0, 5.0])}, batch_of([0.0, 0.0])) == {}
    assert {name: float(value) for name, value in computed(metric).items()} == {"span_low": 3, "span_high": 5}


def test_a_metric_of_torchmetrics_compares_a_prediction_with_a_truth():
    metric = ComparedMetric(MulticlassAccuracy(3, average="micro"), "probabilities", "label", name="share_right")
    outputs = {"probabilities": torch.eye(3)}
    update_metrics([metric], outputs, batch_of([0, 1, 1]))
    assert computed(metric)["share_right"].item() == pytest.approx(2 / 3)
    assert described([metric]) == {"share_right": {"label": "share right", "higher_is_better": True}}
    metric.reset()
    update_metrics([metric], outputs, batch_of([0, 1, 2]))
    assert computed(metric)["share_right"].item() == 1
    with pytest.raises(InputError, match="share_right: no prediction 'density'; there are probabilities"):
        ComparedMetric(MulticlassAccuracy(3), "density", "label", "share_right").update(outputs, batch_of([0, 1, 1]))


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["a", "a"], "'a' is the name of another metric"),
        (["cc"], "'cc' is the name of another metric"),
        (["auroc_mine"], "'auroc_mine' is the name"),
        (["my/metric"], "is no name for logs"),
    ],
)
def test_names_must_be_unique(names, message):
    metrics = [MeanGap() for _ in names]
    for metric, name in zip(metrics, names, strict=True):
        metric.name = name
    with pytest.raises(InputError, match=message):
        check_metrics(metrics)
    assert metric_name(MeanGap()) == "mean_gap"


def test_the_catalogue_has_every_logged_metric():
    diagnosis, several = DiagnosisMetrics(["a", "b"]), DiagnosisMetrics(["a", "b"], exclusive=False)
    diagnosis.update(torch.tensor([[0.7, 0.3], [0.4, 0.6]]), torch.tensor([0, 1]))
    several.update(torch.tensor([[0.7, 0.3], [0.4, 0.6]]), torch.tensor([[0.0, 1.0], [1.0, 0.0]]))
    embedding = EmbeddingMetrics(["a", "b"])
    embedding.update(torch.rand(4, 3), torch.tensor([0, 1, 0, 1]))
    logged = {**diagnosis.compute(), **several.compute(), **embedding.compute()}
    for name in (*logged, *names_at_test(())):
        known = entry(name, ["a", "b"])
        assert known is not None, name
        assert known.name == name
    assert entry("selection") is None
    assert set(NAMES) < set(names_at_test(()))
    assert entry("sensitivity_b", ["a", "b"]).label == "sensitivity at a specificity of 0.9 to b"
    assert METRICS["kld"].direction == "lower is better"
    assert not set(METRICS) & set(CLASS_METRICS)
