"""Networks and their parts, in plain PyTorch.

The libraries of encoders take seconds to import, and not all that reads a checkpoint builds a network: each name is
imported when it is first used.
"""

from typing import TYPE_CHECKING

from gazelit.lazy import lazy_names

if TYPE_CHECKING:
    from gazelit.models.classification_net import ClassificationNetwork
    from gazelit.models.contrastive_net import ContrastiveNetwork
    from gazelit.models.dual_unet import DualEncoderUNet
    from gazelit.models.finding_unet import FindingUNet
    from gazelit.models.network import Network, rebuild
    from gazelit.models.reader_unet import ReaderUNet
    from gazelit.models.registry import EncoderSpec, build_encoder, list_encoders, register_encoder
    from gazelit.models.scanpath_net import ScanpathNetwork
    from gazelit.models.time_unet import TimeResolvedUNet

__all__ = [
    "ClassificationNetwork",
    "ContrastiveNetwork",
    "DualEncoderUNet",
    "EncoderSpec",
    "FindingUNet",
    "Network",
    "ReaderUNet",
    "ScanpathNetwork",
    "TimeResolvedUNet",
    "build_encoder",
    "list_encoders",
    "rebuild",
    "register_encoder",
]

_DEFINED_IN = {
    "ClassificationNetwork": "gazelit.models.classification_net:ClassificationNetwork",
    "ContrastiveNetwork": "gazelit.models.contrastive_net:ContrastiveNetwork",
    "DualEncoderUNet": "gazelit.models.dual_unet:DualEncoderUNet",
    "EncoderSpec": "gazelit.models.registry:EncoderSpec",
    "FindingUNet": "gazelit.models.finding_unet:FindingUNet",
    "Network": "gazelit.models.network:Network",
    "ReaderUNet": "gazelit.models.reader_unet:ReaderUNet",
    "TimeResolvedUNet": "gazelit.models.time_unet:TimeResolvedUNet",
    "ScanpathNetwork": "gazelit.models.scanpath_net:ScanpathNetwork",
    "build_encoder": "gazelit.models.registry:build_encoder",
    "list_encoders": "gazelit.models.registry:list_encoders",
    "rebuild": "gazelit.models.network:rebuild",
    "register_encoder": "gazelit.models.registry:register_encoder",
}

__getattr__, __dir__ = lazy_names(__name__, _DEFINED_IN, globals())
