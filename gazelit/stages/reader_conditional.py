"""Maps by reader: where each known reader looks, and where an unknown one does."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor

from gazelit.data.gaze.heatmap import fixation_counts, fixation_density
from gazelit.density import log_density
from gazelit.errors import InputError
from gazelit.losses.objective import Objective
from gazelit.losses.saliency import KLDivergenceLoss, SaliencyLoss
from gazelit.metrics.functional import ig
from gazelit.models.reader_unet import ReaderUNet
from gazelit.stages.base import Batch, Outputs, Stage
from gazelit.stages.readers import check_readers, numbers_of


class ReaderConditional(Stage):
    """Learns the map of each reading from the film and its reader.

    Every reading of a film is a separate target. It is scored with its reader's map if the network knows the reader,
    else with that of an unknown reader. A film's values are means over its readings. The test also scores the unknown
    reader's map of the same network (``ig_of_unknown``). ``reader_identified`` is the share of readings for which the
    reader's own map is the likeliest of all known readers' maps. ``data.gaze.leave_out`` leaves one reader out of the
    training and tests on that reader alone; ``gazelit adapt-reader`` learns a new reader from a few readings.

    Args:
        network: A :class:`gazelit.models.reader_unet.ReaderUNet`.
        saliency_loss: As in :class:`gazelit.stages.saliency.SaliencyWarmup`, of each reading.
        options: See :class:`Stage`.

    Raises:
        InputError: The objective trains side heads, which the network does not have.
    """

    name: ClassVar[str] = "reader_conditional"
    measures: ClassVar[tuple[str, ...]] = ("saliency",)
    injected: ClassVar[tuple[str, ...]] = (*Stage.injected, "saliency_loss")
    needs_events: ClassVar[bool] = True
    network: ReaderUNet

    def __init__(self, network: ReaderUNet, saliency_loss: SaliencyLoss | None = None, **options: Any) -> None:
        super().__init__(network, **options)
        self.saliency_loss = saliency_loss if saliency_loss is not None else KLDivergenceLoss()
        if self.saliency_loss.side_heads:
            raise InputError("saliency_loss: the network has no side heads; choose one without")

    def setup(self, stage: str) -> None:
        """Maps the data's readers to the network's.

        Raises:
            InputError: A training has no reading of the network's readers, or one of them is left out.
        """
        super().setup(stage)
        if stage == TrainerFn.FITTING:
            check_readers(self.network.readers, self._datamodule)
        self._readers = numbers_of(getattr(self._datamodule, "reader_names", ()), self.network.readers)

    def _step(self, batch: Batch) -> tuple[Tensor, Outputs, dict[str, Tensor]]:
        readings = readings_of(batch, self._readers)
        outputs = self(batch["image"], readings["film"], readings["reader"])
        return self.saliency_loss(outputs, readings), outputs, {}

    def _objectives(self) -> dict[str, Objective]:
        return {"saliency": self.saliency_loss}

    def _targets(self, batch: Batch) -> dict[str, Tensor]:
        return {"saliency": (batch["reading"].diff(dim=1, prepend=-torch.ones_like(batch["reading"][:, :1])) > 0).sum()}

    def _update_metrics(self, split: str, batch: Batch, outputs: Outputs) -> Outputs:
        readings = readings_of(batch, self._readers)
        of_reading = super()._update_metrics(split, readings, outputs)
        if split == "test":
            compared = self._compared(batch, readings, outputs)
            self._metrics("mean", split).update_each(compared)
            of_reading |= compared
        return {name: _mean_by_film(value, readings["film"], len(batch["image"])) for name, value in of_reading.items()}

    def _compared(self, batch: Batch, readings: Batch, outputs: Outputs) -> Outputs:
        """Scores the unknown reader's map on each reading, and whether its reader is identified; (S,) each."""
        data = self._gaze_data
        mask, film = readings["valid_mask"][:, 0], readings["film"]
        counts = fixation_counts(readings["points"], (mask.shape[-2], mask.shape[-1]))
        bias = data.centre_bias(readings["index"].cpu()).density.to(self.device)
        last = self.network.decoded(batch["image"])[1][-1]

        def gain(reader: Tensor) -> Tensor:
            logits = self.network.maps(last, film, reader)["saliency_logits"]
            return ig(log_density(logits).exp()[:, 0], counts, bias, mask)

        number = readings["reader"]
        gains = torch.stack([gain(torch.full_like(number, each)) for each in range(len(self.network.readers) + 1)])
        is_right = (gains[1:].argmax(0) + 1 == number).double()
        return {"ig_of_unknown": gains[0], "reader_identified": torch.where(number > 0, is_right, torch.nan)}


def readings_of(batch: Batch, readers: Tensor) -> Batch:
    """A batch whose rows are the S readings of its films, in the order of films.

    Args:
        batch: With events.
        readers: The network's number of each of the data's readers; the last entry is that of an unknown reader.

    Returns:
        ``film`` (S,), which of the batch's films a reading is of; ``reader`` (S,); and ``points``, ``sigma``,
        ``sigma_px``, ``heatmap``, ``has_gaze``, ``valid_mask``, ``index`` and ``image`` as a batch has them.
    """
    reading = batch["reading"]
    count = int(reading.max()) + 1 if reading.numel() else 0
    film, number = ((reading[:, None] == torch.arange(count, device=reading.device)[:, None]).any(2)).nonzero(
        as_tuple=True
    )
    own = reading[film] == number[:, None]
    points = batch["points"][film]
    points = torch.cat([points[..., :2], torch.where(own, points[..., 2], 0.0)[..., None]], dim=-1)
    first = own.int().argmax(1)
    reader = readers.to(reading.device)[batch["reader"][film, first]]
    height, width = batch["image"].shape[-2:]
    sigma = batch["sigma"][film]
    return {
        "film": film,
        "reader": reader,
        "points": points,
        "sigma": sigma,
        "sigma_px": batch["sigma_px"][film],
        "heatmap": fixation_density(points, (height, width), sigma)[:, None],
        "has_gaze": (points[..., 2] > 0).any(1),
        **{name: batch[name][film] for name in ("image", "valid_mask", "index")},
    }


def _mean_by_film(values: Tensor, film: Tensor, films: int) -> Tensor:
    """(films,) means of the values (S,) that are defined; NaN without any."""
    known = ~values.isnan() if values.is_floating_point() else torch.ones_like(values, dtype=torch.bool)
    total = torch.zeros(films, dtype=torch.float64, device=values.device)
    total.index_add_(0, film, torch.where(known, values.double(), 0.0))
    return total / torch.zeros_like(total).index_add_(0, film, known.double())
