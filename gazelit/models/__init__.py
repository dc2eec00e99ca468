"""Networks and their parts, in plain PyTorch.

The libraries of encoders take seconds to import, and code that reads a checkpoint may build no network. So each name is
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

_NAMES = {
    "gazelit.models.classification_net": ("ClassificationNetwork",),
    "gazelit.models.contrastive_net": ("ContrastiveNetwork",),
    "gazelit.models.dual_unet": ("DualEncoderUNet",),
    "gazelit.models.finding_unet": ("FindingUNet",),
    "gazelit.models.network": ("Network", "rebuild"),
    "gazelit.models.reader_unet": ("ReaderUNet",),
    "gazelit.models.registry": ("EncoderSpec", "build_encoder", "list_encoders", "register_encoder"),
    "gazelit.models.scanpath_net": ("ScanpathNetwork",),
    "gazelit.models.time_unet": ("TimeResolvedUNet",),
}

__getattr__, __dir__ = lazy_names(__name__, _NAMES, globals())
