"""How a stage is evaluated: losses as means over images, metrics by output, one fixed criterion of selection."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, cast

import lightning as L
import torch
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn
from torchmetrics import Metric

from gazelit.data.gaze.heatmap import fixation_counts
from gazelit.data.gaze_data import GazeData
from gazelit.density import log_density
from gazelit.errors import InputError
from gazelit.losses.auxiliary import AuxiliaryLoss, add_auxiliary
from gazelit.losses.objective import Objective
from gazelit.metrics import DiagnosisMetrics, EmbeddingMetrics, ImageMeans, SaliencyMetrics, saliency_values
from gazelit.metrics.calibration import probabilities
from gazelit.metrics.catalogue import WITH_GAZE
from gazelit.metrics.custom import computed, update_metrics
from gazelit.metrics.functional import Convention
from gazelit.metrics.map_values import names_at_test, values_at_test
from gazelit.models.encoder import Encoder
from gazelit.models.network import Network
from gazelit.stages.nonfinite import NonFiniteError

Batch = dict[str, Tensor]
Outputs = dict[str, Tensor]


class EvaluatedModule(L.LightningModule):
    """A module whose outputs are measured by their kind: diagnoses, saliency maps, embeddings."""

    #: Name in checkpoints, logs and run folders.
    name: ClassVar[str]
    #: Kinds of outputs that are measured: ``diagnosis``, ``saliency``, ``embedding``.
    measures: ClassVar[tuple[str, ...]] = ()

    network: Network
    #: Objectives in addition to those of the tasks, computed only in training.
    auxiliary: nn.ModuleList
    conventions: tuple[Convention, ...]
    #: Metrics from outside the package, in addition to those of ``measures``.
    custom_metrics: tuple[Metric, ...]
    #: Whether a classifier that pools by gaze is evaluated a second time, given the reader's.
    gaze_at_test: bool = False
    temperature: Tensor

    @abstractmethod
    def _step(self, batch: Batch) -> tuple[Tensor, Outputs, dict[str, Tensor]]:
        """Runs the network and its objective on a batch.

        Returns:
            The loss to minimise, the network's outputs, and further scalars to log.
        """

    def _with_auxiliary(self, loss: Tensor, outputs: Outputs, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss plus, in training, the auxiliary objectives; and their values by ``<name>_loss``."""
        if not self.training or not self.auxiliary:
            return loss, {}
        added, values = add_auxiliary(cast(Sequence[AuxiliaryLoss], self.auxiliary), outputs, batch)
        return loss + added, values

    @property
    def _datamodule(self) -> L.LightningDataModule | None:
        return getattr(self._trainer, "datamodule", None)

    @property
    def _gaze_data(self) -> GazeData:
        """The trainer's data, which must be gazelit's."""
        return cast(GazeData, self._datamodule)

    def _make_metrics(self) -> None:
        """Makes the metrics of every split.

        Raises:
            InputError: The data have another number of classes than the network.
        """
        provenance = getattr(self._datamodule, "provenance", {})
        self._exclusive = bool(provenance.get("exclusive", True))
        self.train_means = ImageMeans()
        self.mean_metrics = _per_split(ImageMeans)
        if "diagnosis" in self.measures:
            classes = int(self.network.classes or 0)
            names = provenance.get("class_names") or [str(number) for number in range(classes)]
            if len(names) != classes:
                raise InputError(
                    f"labels: the data have {len(names)}, but the network has {classes} classes; set "
                    f"--model.network.classes={len(names)}, or name other --data.labels"
                )
            self.diagnosis_metrics = _per_split(lambda: DiagnosisMetrics(names, self._exclusive))
            if self.gaze_at_test:
                self.with_gaze_metrics = _per_split(lambda: DiagnosisMetrics(names, self._exclusive))
        if "embedding" in self.measures:
            known = list(provenance.get("class_names") or [])
            self.embedding_metrics = _per_split(lambda: EmbeddingMetrics(known, self._exclusive))
        if "saliency" in self.measures:
            at_test = SaliencyMetrics(names_at_test(self.conventions))
            self.saliency_metrics = nn.ModuleDict({"val": SaliencyMetrics(), "test": at_test})
        # Not registered as submodules: their state must not get into checkpoints.
        self._custom = {split: [copy.deepcopy(metric) for metric in self.custom_metrics] for split in ("val", "test")}

    def _weights(self, batch: Batch, loss: Tensor, parts: dict[str, Tensor]) -> dict[str, Tensor]:
        """How many images of a batch have the target of the loss and of each part, which are means over these."""
        images = torch.tensor(float(len(batch["image"])), device=loss.device)
        weights = dict.fromkeys(("loss", *parts), images)
        targets = self._targets(batch)
        for task, weight in targets.items():
            # A stage of one task has no loss but its own.
            name = f"{task}_loss" if f"{task}_loss" in parts else "loss"
            weights[name] = weight.to(loss.device, torch.float32)
        for objective in cast(Sequence[AuxiliaryLoss], self.auxiliary):
            if f"{objective.name}_loss" in parts:
                weights[f"{objective.name}_loss"] = objective.counted(batch).float()
        return weights

    def _objectives(self) -> dict[str, Objective]:
        """The objective of each task, by the task's name. The loss of a stage without tasks is not among them."""
        return {}

    def _targets(self, batch: Batch) -> dict[str, Tensor]:
        """By task, the weight of a batch in a mean."""
        return {task: objective.counted(batch) for task, objective in self._objectives().items()}

    def _with_selection(self, means: dict[str, Tensor]) -> dict[str, Tensor]:
        """Adds the criterion by which checkpoints are selected: the plain sum of the tasks' losses.

        It is the same quantity in every epoch, however the tasks are weighted. A task is left out if no image has its
        target; if all are left out, there is no criterion.
        """
        names = [f"{task}_loss" for task in self.measures if f"{task}_loss" in means] if len(self.measures) > 1 else []
        names = names or [name for name in ("loss",) if name in means]
        return {**means, **({"selection": torch.stack([means[name] for name in names]).sum()} if names else {})}

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Updates ``val/loss``, the parts of the objective and the metrics."""
        self._evaluate(batch, "val")

    def test_step(self, batch: Batch, batch_idx: int) -> Outputs:
        """Updates the same under ``test/`` and returns per-case values for the prediction table."""
        return self._evaluate(batch, "test")

    def predict_step(self, batch: Batch, batch_idx: int) -> Outputs:
        """Returns per-case predictions."""
        if not len(batch["image"]):
            return {}
        predictions = {"index": batch["index"], **self._predictions(self(batch["image"]))}
        return predictions | (self._predictions_with_gaze(batch) if self.gaze_at_test else {})

    def _evaluate(self, batch: Batch, split: str) -> Outputs:
        if not len(batch["image"]):
            # A process without a case must still take part in what all processes compute together,
            # with tensors of as many dimensions as the others'.
            if "diagnosis" in self.measures:
                empty = torch.zeros(0, int(self.network.classes or 0), device=self.device)
                for kind in ("diagnosis", *[WITH_GAZE] * self.gaze_at_test):
                    self._metrics(kind, split).update(empty, batch["label"])
            if "embedding" in self.measures:
                encoder = cast(Encoder, self.network.get_submodule("encoder"))
                empty = torch.zeros(0, encoder.embedding_channels, device=self.device)
                self._metrics("embedding", split).update(empty, batch["label"])
            if self.custom_metrics:
                image = torch.zeros(1, *batch["image"].shape[1:], device=self.device)
                outputs = {name: values[:0] for name, values in self(image).items()}
                update_metrics(self._custom_metrics(split), self._measured(outputs), batch)
            return {}
        loss, outputs, parts = self._step(batch)
        self._metrics("mean", split).update({"loss": loss, **parts}, self._weights(batch, loss, parts))
        per_case = self._update_metrics(split, batch, outputs)
        if self.gaze_at_test:
            given = self._predictions_with_gaze(batch)
            self._metrics(WITH_GAZE, split).update(given[f"{WITH_GAZE}_probabilities"], batch["label"])
            share = batch["has_gaze"].float().mean()
            self._metrics("mean", split).update({f"{WITH_GAZE}/gaze_given": share}, len(batch["image"]))
            per_case |= given
        return {"index": batch["index"], **self._predictions(outputs), **per_case}

    def _predictions(self, outputs: Outputs) -> Outputs:
        """Per-case predictions for the table: ``logits`` as the network gives them, and ``probabilities``, (B, K)."""
        if "diagnosis" not in self.measures:
            return {}
        logits = outputs["logits"].float()
        return {"logits": logits, "probabilities": probabilities(logits, self.temperature, self._exclusive)}

    def _predictions_with_gaze(self, batch: Batch) -> Outputs:
        """The same for a classifier that is given the reader's gaze; films without gaze keep the predicted gaze.

        ``with_gaze_logits`` and ``with_gaze_probabilities`` (B, K), and whether each film had gaze.
        """
        given = self._predictions(self(batch["image"], batch["heatmap"]))
        return {f"{WITH_GAZE}_{name}": values for name, values in given.items()} | {"gaze_given": batch["has_gaze"]}

    def _update_metrics(self, split: str, batch: Batch, outputs: Outputs) -> Outputs:
        """Updates a split's metrics and returns its per-case values, each (B,)."""
        per_case: Outputs = {}
        measured = self._measured(outputs)
        if "diagnosis" in self.measures:
            self._metrics("diagnosis", split).update(measured["probabilities"], batch["label"])
            per_case["label" if self._exclusive else "labels"] = batch["label"]
        if "embedding" in self.measures:
            self._metrics("embedding", split).update(outputs.get("features", outputs["embedding"]), batch["label"])
        if "saliency" in self.measures:
            maps = (
                measured["density"][:, 0],
                batch["heatmap"][:, 0],
                fixation_counts(batch["points"], (batch["image"].shape[-2], batch["image"].shape[-1])),
                batch["valid_mask"][:, 0],
            )
            if split == "test":
                bias = self._gaze_data.centre_bias(batch["index"].cpu())
                values = values_at_test(*maps, bias, self.conventions)
            else:
                values = saliency_values(*maps)
            self._metrics("saliency", split).update(values)
            # The meaning of a map metric depends on σ; so σ is logged with them.
            seen = batch["has_gaze"]
            sigma = torch.where(seen, batch["sigma_px"], 0.0).sum() / seen.sum().clamp(min=1)
            self._metrics("mean", split).update({"sigma_px": sigma}, seen.sum())
            # How far the map stands out from a uniform one at any point: what the map alone says about the presence of
            # a finding.
            peak = maps[0].amax(dim=(1, 2)) * batch["valid_mask"][:, 0].sum(dim=(1, 2))
            per_case |= values | {"gaze_points": (batch["points"][..., 2] > 0).sum(1), "map_peak": peak}
        return per_case | update_metrics(self._custom_metrics(split), measured, batch)

    def _measured(self, outputs: Outputs) -> Outputs:
        """The network's outputs, with ``probabilities`` (B, K) and ``density`` (B, 1, H, W) if it predicts them."""
        measured = {**outputs, **self._predictions(outputs)}
        if "saliency" in self.measures:
            # A softmax is never zero, but in float32 it can be, and the KLD would then be infinite.
            density = log_density(outputs["saliency_logits"]).exp()
            measured["density"] = density.clamp(min=torch.finfo(torch.float32).tiny)
        return measured

    def _custom_metrics(self, split: str) -> list[Metric]:
        return [metric.to(self.device) for metric in self._custom[split]]

    def _metrics(self, kind: str, split: str) -> Any:
        return getattr(self, f"{kind}_metrics")[split]

    def _log_metrics(self, split: str) -> None:
        for kind in ("mean", *self.measures, *[WITH_GAZE] * self.gaze_at_test):
            metrics = self._metrics(kind, split)
            values = metrics.compute()
            if kind == WITH_GAZE:
                values = {f"{WITH_GAZE}/{name}": value for name, value in values.items()}
            if kind == "mean":
                values = self._with_selection(values)
                self._check_selection(split, values)
            for name, value in values.items():
                self._log_once(f"{split}/{name}", value, prog_bar=(split, name) == ("val", "selection"))
            metrics.reset()
        for metric in self._custom_metrics(split):
            for name, value in computed(metric).items():
                self._log_once(f"{split}/{name}", value)
            metric.reset()

    def _log_once(self, name: str, value: Tensor, prog_bar: bool = False) -> None:
        """Logs an epoch's value that all processes hold, so that its mean over them is the value."""
        # Lightning multiplies by the batch's size and divides by it again; this rounds.
        self.log(
            name, value.float().to(self.device), on_step=False, on_epoch=True, prog_bar=prog_bar, sync_dist=True,
            batch_size=1,
        )  # fmt: skip

    def _check_selection(self, split: str, means: dict[str, Tensor]) -> None:
        if self.trainer.state.fn != TrainerFn.FITTING or ("selection" in means and means["selection"].isfinite()):
            return
        at = f"stage '{self.name}', epoch {self.current_epoch}: {split}/selection"
        if "selection" in means:
            values = ", ".join(f"{name} {float(value)}" for name, value in means.items() if name.endswith("loss"))
            raise NonFiniteError(
                f"{at} is {float(means['selection'])} ({values}), so that no checkpoint can be selected by it; lower "
                "the learning rate, or look at the images of the validation split"
            )
        raise InputError(f"{at} is undefined: no image of the validation split has a target; choose another split")

    def on_validation_epoch_end(self) -> None:
        """Logs the validation metrics."""
        self._log_metrics("val")

    def on_test_epoch_end(self) -> None:
        """Logs the test metrics."""
        self._log_metrics("test")


def _per_split(make: Callable[[], nn.Module]) -> nn.ModuleDict:
    return nn.ModuleDict({split: make() for split in ("val", "test")})
