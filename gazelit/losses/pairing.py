"""Which images of a batch belong together, for contrastive objectives."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from gazelit.errors import InputError
from gazelit.losses.gather import gather_rows

Batch = dict[str, Tensor]


class Pairing(nn.Module):
    """Determines which images of a batch belong together."""

    #: Whether only the views of an image belong together, so that a batch with one view has no positive pair.
    needs_views: ClassVar[bool] = False

    @abstractmethod
    def forward(self, batch: Batch, gather: bool) -> Tensor:
        """Compares the images of a batch.

        Args:
            batch: Batch of a stage.
            gather: Whether the images of all processes count, in the order of :func:`gazelit.losses.gather_rows`.

        Returns:
            (N,) integers, equal for images that belong together, or (N, N) bool, true for pairs that do.
        """


class SameClass(Pairing):
    """Images of one class belong together."""

    def forward(self, batch: Batch, gather: bool) -> Tensor:
        """The images' classes.

        Args:
            batch: With ``label`` (B,).
            gather: See :meth:`Pairing.forward`.

        Returns:
            (N,) int64.

        Raises:
            InputError: Labels are not exclusive.
        """
        if batch["label"].is_floating_point():
            raise InputError(
                "pairing: SameClass needs exclusive classes; for several labels or none use "
                "--model.loss=gazelit.losses.NTXentLoss or --model.pairing=gazelit.losses.GazeSimilarity"
            )
        return gather_rows(batch["label"]) if gather else batch["label"]


class SameImage(Pairing):
    """Only the views of one image belong together; labels are not used."""

    needs_views: ClassVar[bool] = True

    def forward(self, batch: Batch, gather: bool) -> Tensor:
        """The images' rows in the store; see :meth:`Pairing.forward`."""
        return gather_rows(batch["index"]) if gather else batch["index"]


class GazeSimilarity(Pairing):
    """Images that were read alike belong together, and so do the views of one image.

    After Zhao et al. 2024 (Mining gaze for contrastive learning toward computer-assisted diagnosis, McGIP), whose
    positives are images with similar gaze; here similar is a correlation of the coarse fixation densities. The
    alternative of comparing scanpaths is not built.

    Args:
        threshold: Correlation from which two images belong together.
        cells: Cells along each side of the coarse maps.

    Raises:
        InputError: The threshold is not between −1 and 1, or there are too few cells to correlate.
    """

    def __init__(self, threshold: float = 0.7, cells: int = 16) -> None:
        super().__init__()
        if not -1 < threshold <= 1:
            raise InputError(f"threshold: must be above -1 and at most 1, not {threshold}")
        if cells < 2:
            raise InputError(f"cells: must be at least 2, not {cells}")
        self.threshold = threshold
        self.cells = cells

    def forward(self, batch: Batch, gather: bool) -> Tensor:
        """Compares ``heatmap`` (B, 1, H, W); images without gaze belong only to themselves.

        Args:
            batch: With ``heatmap``, ``has_gaze`` and ``index``.
            gather: See :meth:`Pairing.forward`.

        Returns:
            (N, N) bool.
        """
        coarse = F.adaptive_avg_pool2d(batch["heatmap"].float(), self.cells).flatten(1)
        index, seen = batch["index"], batch["has_gaze"]
        if gather:
            coarse, index, seen = gather_rows(coarse), gather_rows(index), gather_rows(seen.int()).bool()
        centred = coarse - coarse.mean(dim=1, keepdim=True)
        # Densities of many pixels are small numbers: relative to their size, not to 1.
        normal = F.normalize(centred, dim=1, eps=1e-20)
        alike = (normal @ normal.T >= self.threshold) & seen[:, None] & seen[None, :]
        return alike | (index[:, None] == index[None, :])
