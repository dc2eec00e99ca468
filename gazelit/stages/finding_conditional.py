"""Maps by finding: where the reader looked while naming a finding."""

from __future__ import annotations

import re
from typing import Any, ClassVar

import torch
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor

from gazelit.data.gaze.heatmap import fixation_density
from gazelit.data.labels import spelt_alike
from gazelit.density import log_density
from gazelit.errors import InputError
from gazelit.losses.objective import Objective
from gazelit.losses.time_slices import TimeSlicesLoss
from gazelit.metrics.localisation import localisation_values
from gazelit.models.finding_unet import FindingUNet
from gazelit.stages.base import Batch, Outputs, Stage

#: How a finding's map is compared with its regions.
_SCORES = ("mass", "pointing", "auc")


class FindingConditional(Stage):
    """Learns a map for each finding from the gaze while the reader named it, and a map of the whole reading.

    ``data.gaze.phrases`` gives the words of each finding. ``data.gaze.phrase_lag`` gives how long before these words
    readers look at it (``gazelit phrases`` has the curve). The test scores each finding's map, and the map of the whole
    reading, against the regions of that name. With ``data.gaze.control: phrases`` the same network is trained on words
    that were moved to other times of their readings.

    Args:
        network: A :class:`gazelit.models.finding_unet.FindingUNet`.
        options: See :class:`Stage`.
    """

    name: ClassVar[str] = "finding_conditional"
    measures: ClassVar[tuple[str, ...]] = ("saliency",)
    needs_events: ClassVar[bool] = True
    network: FindingUNet

    def __init__(self, network: FindingUNet, **options: Any) -> None:
        super().__init__(network, **options)
        self.maps_loss = TimeSlicesLoss(consistency=0.0)

    def setup(self, stage: str) -> None:
        """Checks that the data have the network's findings.

        Raises:
            InputError: ``data.gaze.phrases`` names other findings than the network has, two findings share their
                columns of the test, or nobody looked anywhere while a finding was named in the training films.
        """
        super().setup(stage)
        named: dict[str, str] = {}
        for name in self.network.findings:
            alike = named.setdefault(_column(name), name)
            if alike != name:
                raise InputError(
                    f"data.gaze.phrases: {alike!r} and {name!r} differ in case or punctuation alone and would share "
                    f"the column {_column(name)}_mass; rename one"
                )
        configured = tuple((getattr(getattr(self._datamodule, "gaze", None), "phrases", None) or {}).keys())
        if configured != self.network.findings:
            raise InputError(
                f"data.gaze.phrases: names {', '.join(configured) or 'no finding'}, but the network has maps of "
                f"{', '.join(self.network.findings)}; name the same in the same order"
            )
        if stage == TrainerFn.FITTING:
            shares = self._gaze_data.cohort.events("train").phrase_shares
            for name, share in zip(configured, shares.T, strict=True):
                if not share.any():
                    raise InputError(
                        f"data.gaze.phrases.{name}: matches nothing that was said over a training film; give the words "
                        "of the store's phrases"
                    )

    def _step(self, batch: Batch) -> tuple[Tensor, Outputs, dict[str, Tensor]]:
        outputs = self(batch["image"])
        named = {**outputs, "slice_logits": outputs["finding_logits"]}
        with_targets = {**batch, **said_maps(batch)}
        parts = self.maps_loss.parts(named, with_targets)
        loss = self.maps_loss(named, with_targets)
        logged = {"findings_loss": parts["slices"], "whole_loss": parts["whole"]}
        return loss, outputs, {name: value.detach() for name, value in logged.items()}

    def _objectives(self) -> dict[str, Objective]:
        return {"saliency": self.maps_loss}

    def _weights(self, batch: Batch, loss: Tensor, parts: dict[str, Tensor]) -> dict[str, Tensor]:
        return dict.fromkeys(("loss", *parts), self.maps_loss.counted(batch).float())

    def _update_metrics(self, split: str, batch: Batch, outputs: Outputs) -> Outputs:
        per_case = super()._update_metrics(split, batch, outputs)
        if split != "test":
            return per_case
        found = self._localised(batch, outputs)
        self._metrics("mean", split).update_each(found)
        return per_case | found

    def _localised(self, batch: Batch, outputs: Outputs) -> Outputs:
        """Scores each finding's map and that of the whole against its regions, (B,) each; NaN without regions."""
        data = self._gaze_data
        mask = batch["valid_mask"][:, 0]
        regions = [
            {spelt_alike(name): region for name, region in data.regions(row).items()} for row in batch["index"].tolist()
        ]
        whole = log_density(outputs["saliency_logits"]).exp()[:, 0]
        found: Outputs = {}
        for number, name in enumerate(self.network.findings):
            nowhere = torch.zeros_like(mask[0])
            region = torch.stack([marked.get(spelt_alike(name), nowhere.cpu()) for marked in regions]).to(mask.device)
            own = log_density(outputs["finding_logits"][:, number, None]).exp()[:, 0]
            for maps, suffix in ((own, ""), (whole, "_of_whole")):
                values = localisation_values(maps, region, mask)
                found |= {f"{_column(name)}_{score}{suffix}": values[score] for score in _SCORES}
            # The values of mass and pointing by chance.
            found[f"{_column(name)}_area"] = torch.where(values["mass"].isnan(), torch.nan, values["area"])
        return found


def said_maps(batch: Batch) -> dict[str, Tensor]:
    """The gaze while each finding was named.

    Args:
        batch: ``image``, ``points``, ``sigma``, and ``said`` (B, N, F), the share of each point's duration.

    Returns:
        ``slice_maps`` (B, F, H, W), densities, all zero where there is no gaze; ``slice_shares`` (B, F) of the weight.
    """
    points, shares = batch["points"], batch["said"].transpose(1, 2)
    weight = shares * points[:, None, :, 2]
    xy = points[:, None, :, :2].expand(-1, weight.shape[1], -1, -1)
    sigma = batch["sigma"][:, None].expand(-1, weight.shape[1], -1, -1)
    height, width = batch["image"].shape[-2:]
    maps = fixation_density(torch.cat([xy, weight[..., None]], dim=-1), (height, width), sigma)
    return {"slice_maps": maps, "slice_shares": weight.sum(-1) / points[..., 2].sum(1, keepdim=True).clamp(min=1e-12)}


def _column(name: str) -> str:
    return "said_" + re.sub(r"\W+", "_", name.lower()).strip("_")
