"""Networks and their parts, in plain PyTorch."""

from gazelit.models.classification_net import ClassificationNetwork
from gazelit.models.contrastive_net import ContrastiveNetwork
from gazelit.models.dual_unet import DualEncoderUNet
from gazelit.models.network import Network, rebuild
from gazelit.models.registry import EncoderSpec, build_encoder, list_encoders, register_encoder

__all__ = [
    "ClassificationNetwork",
    "ContrastiveNetwork",
    "DualEncoderUNet",
    "EncoderSpec",
    "Network",
    "build_encoder",
    "list_encoders",
    "rebuild",
    "register_encoder",
]
