"""The interface of objectives over predictions."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping

from torch import Tensor, nn

Tensors = Mapping[str, Tensor]


class Objective(nn.Module):
    """A loss of a network's outputs for a batch."""

    @abstractmethod
    def forward(self, outputs: Tensors, batch: Tensors) -> Tensor:
        """Computes the loss in float32.

        Args:
            outputs: Outputs of the network, such as ``logits`` (B, K), ``saliency_logits`` (B, 1, H, W) and
                ``embedding_map`` (B, C, h, w), the encoder's map that the classifier pools.
            batch: ``image`` and ``heatmap`` (B, 1, H, W), ``label`` (B,) or (B, K), ``has_gaze`` (B,) and so on.

        Returns:
            Scalar: a mean over the items that :meth:`counted` counts; zero with a zero gradient if there are none.
        """

    @abstractmethod
    def counted(self, batch: Tensors) -> Tensor:
        """Divisor of a batch's loss, a scalar: the number of its images that have the target, or the sum of weights.

        With it the mean over several batches is that of all their images.
        """
