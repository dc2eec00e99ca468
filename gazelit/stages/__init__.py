"""The training stages, as LightningModules."""

from gazelit.stages.base import Stage
from gazelit.stages.contrastive import ContrastivePretraining
from gazelit.stages.finding_conditional import FindingConditional
from gazelit.stages.joint import JointFinetuning
from gazelit.stages.reader_conditional import ReaderConditional
from gazelit.stages.saliency import SaliencyWarmup
from gazelit.stages.scanpath import Scanpath
from gazelit.stages.supervised import SupervisedFinetuning
from gazelit.stages.time_resolved import TimeResolvedSaliency

__all__ = [
    "ContrastivePretraining",
    "FindingConditional",
    "JointFinetuning",
    "ReaderConditional",
    "SaliencyWarmup",
    "Scanpath",
    "Stage",
    "SupervisedFinetuning",
    "TimeResolvedSaliency",
]
