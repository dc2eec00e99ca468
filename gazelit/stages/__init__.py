"""The training stages, as LightningModules."""

from gazelit.stages.base import Stage
from gazelit.stages.contrastive import ContrastivePretraining
from gazelit.stages.joint import JointFinetuning
from gazelit.stages.saliency import SaliencyWarmup

__all__ = ["ContrastivePretraining", "JointFinetuning", "SaliencyWarmup", "Stage"]
