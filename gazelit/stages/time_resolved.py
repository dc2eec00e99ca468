"""Maps of the parts of a reading: where readers look first, and where later."""

from __future__ import annotations

import itertools
from typing import Any, ClassVar

import torch
from torch import Tensor

from gazelit.data.gaze.heatmap import fixation_counts, fixation_density
from gazelit.density import log_density
from gazelit.losses.objective import Objective
from gazelit.losses.time_slices import TimeSlicesLoss
from gazelit.metrics.functional import cc, ig
from gazelit.models.time_unet import TimeResolvedUNet
from gazelit.stages.base import Batch, Outputs, Stage


class TimeResolvedSaliency(Stage):
    """Learns a map for each part of a reading, and a map of the whole reading.

    The test scores each part's map, and the map of the whole reading, against the gaze of that part. With
    ``data.gaze.control: order`` the same network is trained on readings in random order: a gain that remains is not due
    to time.

    Args:
        network: A :class:`gazelit.models.time_unet.TimeResolvedUNet`.
        slices_loss: The objective; :class:`gazelit.losses.TimeSlicesLoss` unless given.
        options: See :class:`Stage`.
    """

    name: ClassVar[str] = "time_resolved"
    measures: ClassVar[tuple[str, ...]] = ("saliency",)
    injected: ClassVar[tuple[str, ...]] = (*Stage.injected, "slices_loss")
    needs_events: ClassVar[bool] = True
    network: TimeResolvedUNet

    def __init__(self, network: TimeResolvedUNet, slices_loss: TimeSlicesLoss | None = None, **options: Any) -> None:
        super().__init__(network, **options)
        self.slices_loss = slices_loss if slices_loss is not None else TimeSlicesLoss()

    def _step(self, batch: Batch) -> tuple[Tensor, Outputs, dict[str, Tensor]]:
        outputs = self(batch["image"])
        batch = {**batch, **slices_of(batch, self.network.edges)}
        parts = self.slices_loss.parts(outputs, batch)
        loss = self.slices_loss(outputs, batch)
        return loss, outputs, {f"{name}_loss": value.detach() for name, value in parts.items()}

    def _objectives(self) -> dict[str, Objective]:
        return {"saliency": self.slices_loss}

    def _weights(self, batch: Batch, loss: Tensor, parts: dict[str, Tensor]) -> dict[str, Tensor]:
        return dict.fromkeys(("loss", *parts), self.slices_loss.counted(batch).float())

    def _update_metrics(self, split: str, batch: Batch, outputs: Outputs) -> Outputs:
        per_case = super()._update_metrics(split, batch, outputs)
        if split != "test":
            return per_case
        data = self._gaze_data
        bias = data.centre_bias(batch["index"].cpu()).density.to(self.device)
        mask = batch["valid_mask"][:, 0]
        blind = log_density(outputs["saliency_logits"]).exp()[:, 0]
        targets = slices_of(batch, self.network.edges)
        of_parts: Outputs = {}
        for number, begin in enumerate((0.0, *self.network.edges)):
            logits = outputs["slice_logits"][:, number, None]
            predicted = log_density(logits).exp()[:, 0]
            counts = fixation_counts(targets["slice_points"][:, number], (mask.shape[-2], mask.shape[-1]))
            seen = targets["slice_shares"][:, number] > 0
            name = f"from_{begin:g}s"
            values = {
                f"{name}_cc": cc(predicted, targets["slice_maps"][:, number], mask),
                f"{name}_ig": ig(predicted, counts, bias, mask),
                f"{name}_ig_of_whole": ig(blind, counts, bias, mask),
            }
            of_parts |= {key: torch.where(seen, value, torch.nan) for key, value in values.items()}
        self._metrics("mean", split).update_each(of_parts)
        return per_case | of_parts


def slices_of(batch: Batch, edges: tuple[float, ...]) -> dict[str, Tensor]:
    """The gaze in each part of the readings of a batch's films.

    A fixation that spans an edge counts in each part by its share of the duration. Events without a duration count in
    the part where they begin.

    Args:
        batch: ``image``, ``points``, ``sigma`` and ``events`` of the same points.
        edges: Seconds at which the K parts meet.

    Returns:
        ``slice_points`` (B, K, N, 3) x, y and weight; ``slice_maps`` (B, K, H, W), their densities; ``slice_shares``
        (B, K) of the weight.
    """
    points, events = batch["points"], batch["events"]
    start, duration = events[..., 2], events[..., 3]
    bounds = (0.0, *edges, torch.inf)
    weights = []
    for low, high in itertools.pairwise(bounds):
        overlap = ((start + duration).clamp(max=high) - start.clamp(min=low)).clamp(min=0)
        begins = ((start >= low) & (start < high)).float()
        weights.append(torch.where(duration > 0, overlap / duration.clamp(min=1e-9), begins))
    share = torch.stack(weights, dim=1)
    # Events before the beginning of the reading's clock belong to its first part.
    share[:, 0] = torch.where(start + duration <= 0, 1.0, share[:, 0])
    weight = share * points[:, None, :, 2]
    parts = torch.cat([points[:, None, :, :2].expand(-1, len(weights), -1, -1), weight[..., None]], dim=-1)
    height, width = batch["image"].shape[-2:]
    maps = fixation_density(parts, (height, width), batch["sigma"][:, None].expand(-1, len(weights), -1, -1))
    total = weight.sum(-1)
    return {
        "slice_points": parts,
        "slice_maps": maps,
        "slice_shares": total / total.sum(1, keepdim=True).clamp(min=1e-12),
    }
