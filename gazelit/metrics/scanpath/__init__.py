"""Metrics of scanpaths: sequences of fixations as (n, 3) arrays of x, y (pixels) and duration (s).

Positions are in pixels from the image's upper left corner, so that an image of W × H pixels reaches from (0, 0) to
(W, H); a store's gaze, whose pixel centres are at integers, is half a pixel less. Every score carries its
:class:`Settings`, because its value depends on grid, time bin, gap and length rule.

Classes that need torchmetrics, which takes 300 MB, are imported when they are first used.
"""

from typing import TYPE_CHECKING

from gazelit.lazy import lazy_names
from gazelit.metrics.scanpath.conditional import (
    Conditional,
    conditional_auc,
    conditional_ig,
    conditional_nss,
    conditional_scores,
)
from gazelit.metrics.scanpath.distances import dtw, eyenalysis, frechet, hausdorff, stde, tde
from gazelit.metrics.scanpath.multimatch import MultiMatch, Simplification, multimatch
from gazelit.metrics.scanpath.paths import Paths, every_pair
from gazelit.metrics.scanpath.recurrence import CrossRecurrence, cross_recurrence
from gazelit.metrics.scanpath.regions import Clusters, LabelMap, load_clusters, save_clusters
from gazelit.metrics.scanpath.strings import scanmatch, sed, sequence_score
from gazelit.metrics.scanpath.values import Score, Scores, Settings

if TYPE_CHECKING:
    from gazelit.metrics.scanpath.metric import ConditionalMetric, ScanpathMetric

__all__ = [
    "Clusters",
    "Conditional",
    "ConditionalMetric",
    "CrossRecurrence",
    "LabelMap",
    "MultiMatch",
    "Paths",
    "ScanpathMetric",
    "Score",
    "Scores",
    "Settings",
    "Simplification",
    "conditional_auc",
    "conditional_ig",
    "conditional_nss",
    "conditional_scores",
    "cross_recurrence",
    "dtw",
    "every_pair",
    "eyenalysis",
    "frechet",
    "hausdorff",
    "load_clusters",
    "multimatch",
    "save_clusters",
    "scanmatch",
    "sed",
    "sequence_score",
    "stde",
    "tde",
]

_NAMES = {
    "gazelit.metrics.scanpath.metric": ("ConditionalMetric", "ScanpathMetric"),
}

__getattr__, __dir__ = lazy_names(__name__, _NAMES, globals())
