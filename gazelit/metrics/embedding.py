"""How well embeddings separate the classes, measured by nearest neighbours and by a linear probe."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.functional.classification import binary_auroc
from torchmetrics.utilities import dim_zero_cat

#: Number of neighbours that vote.
NEIGHBOURS = 20
#: Penalty of the probe, as a share of the features' mean variance.
PENALTY = 0.1
#: Number of images whose neighbours are searched at a time.
_ROWS = 1024


class EmbeddingMetrics(Metric):
    """How well each image's classes are predicted from the embeddings of the others; nothing without classes.

    Each image is predicted from all other images of the split, so that no further data are needed. Unknown labels (NaN)
    of a multi-label problem do not count, nor does a class that no image or every image has.

    Args:
        class_names: Names of the K classes; may be empty.
        exclusive: Whether labels are class indices (B,), or 0, 1 and NaN for each class (B, K).
    """

    full_state_update = False
    features: list[Tensor]
    labels: list[Tensor]

    def __init__(self, class_names: list[str], exclusive: bool = True, **options: Any) -> None:
        super().__init__(**options)
        self.classes = len(class_names)
        self.exclusive = exclusive
        self.add_state("features", [], dist_reduce_fx="cat")
        self.add_state("labels", [], dist_reduce_fx="cat")

    def update(self, features: Tensor, labels: Tensor) -> None:
        """Adds a batch.

        Args:
            features: (B, C).
            labels: (B,) class indices, or (B, K).
        """
        if self.classes:
            self.features.append(features.detach().float())
            self.labels.append(labels.detach())

    def compute(self) -> dict[str, Tensor]:
        """``knn_auroc_macro`` (:func:`neighbour_share`) and ``probe_auroc_macro`` (:func:`ridge_probe`)."""
        if not self.classes:
            return {}
        features, labels = dim_zero_cat(self.features), dim_zero_cat(self.labels)
        truth = torch.nn.functional.one_hot(labels, self.classes).float() if self.exclusive else labels.float()
        values: dict[str, list[Tensor]] = {"knn": [], "probe": []}
        for position in range(self.classes):
            known = ~truth[:, position].isnan()
            own, positive = features[known], truth[known, position]
            if 0 < int(positive.sum()) < len(positive):
                for name, score in (("knn", neighbour_share(own, positive)), ("probe", ridge_probe(own, positive))):
                    values[name].append(binary_auroc(score, positive.long()))
        nothing = features.new_tensor(torch.nan)
        return {
            f"{name}_auroc_macro": torch.stack(found).mean() if found else nothing for name, found in values.items()
        }


def neighbour_share(features: Tensor, positive: Tensor, neighbours: int = NEIGHBOURS) -> Tensor:
    """Share of each image's nearest neighbours, by cosine, that are positive; an image is not its own neighbour.

    Args:
        features: (N, C).
        positive: (N,) 0 or 1.
        neighbours: Number of neighbours; all others if there are fewer.

    Returns:
        (N,) in [0, 1].
    """
    unit = torch.nn.functional.normalize(features.float(), dim=1)
    count = max(1, min(neighbours, len(unit) - 1))
    shares = []
    for start in range(0, len(unit), _ROWS):
        similarity = unit[start : start + _ROWS] @ unit.T
        similarity.diagonal(start).fill_(-torch.inf)
        shares.append(positive[similarity.topk(count, dim=1).indices].float().mean(1))
    return torch.cat(shares)


def ridge_probe(features: Tensor, positive: Tensor, penalty: float = PENALTY) -> Tensor:
    """The prediction of each image by a ridge regression that is fitted to all the others, in closed form.

    With ŷ = H y the prediction of i without i is y_i − (y_i − ŷ_i) / (1 − H_ii) (Allen 1974, PRESS). Features are
    first scaled to unit variance over all images; the intercept is not penalised.

    Args:
        features: (N, C).
        positive: (N,) 0 or 1.
        penalty: λ / N on the scaled features.

    Returns:
        (N,) float64.
    """
    x = features.double()
    x = x - x.mean(0)
    x = x / x.square().mean(0).sqrt().clamp(min=1e-8)
    y = positive.double()
    gram = x.T @ x + penalty * len(x) * torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
    projected = torch.linalg.solve(gram, x.T)
    leverage = (x * projected.T).sum(1) + 1 / len(x)
    fitted = y.mean() + x @ (projected @ (y - y.mean()))
    return y - (y - fitted) / (1 - leverage)
