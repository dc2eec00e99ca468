"""The training stages, as LightningModules."""

from gazelit.stages.base import Stage
from gazelit.stages.contrastive import ContrastivePretraining
from gazelit.stages.joint import JointFinetuning
from gazelit.stages.saliency import SaliencyWarmup
from gazelit.stages.scanpath import Scanpath
from gazelit.stages.supervised import SupervisedFinetuning

__all__ = ["ContrastivePretraining", "JointFinetuning", "SaliencyWarmup", "Scanpath", "Stage", "SupervisedFinetuning"]
