"""Networks and their parts, in plain PyTorch."""

from gazelit.models.contrastive_net import ContrastiveNetwork
from gazelit.models.dual_unet import DualEncoderUNet
from gazelit.models.network import Network, rebuild
from gazelit.models.registry import EncoderSpec, build_encoder, list_encoders, register_encoder

__all__ = [
    "ContrastiveNetwork",
    "DualEncoderUNet",
    "EncoderSpec",
    "Network",
    "build_encoder",
    "list_encoders",
    "rebuild",
    "register_encoder",
]
