"""Small checkpoints for tests of exports and packages, with weights and statistics that differ from initial ones."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from gazelit.models import ClassificationNetwork, DualEncoderUNet, EncoderSpec
from gazelit.models.finding_unet import FindingUNet
from gazelit.models.network import Network
from gazelit.models.reader_unet import ReaderUNet
from gazelit.models.scanpath_net import ScanpathNetwork
from gazelit.models.time_unet import TimeResolvedUNet
from tests.tiny import save_untrained

SIZE = (64, 32)
CLASSES = ["clear", "opaque", "odd"]
DATA = {"size": list(SIZE), "class_names": CLASSES, "exclusive": True, "synthetic": True, "source": "made-up"}
_ENCODER = EncoderSpec("densenet-small", options={"growth_rate": 4, "blocks": [1, 1, 1, 1], "stem": 4})
_SALIENCY_ENCODER = EncoderSpec("res-se", options={"widths": [2, 2, 4, 4, 4], "reduction": 2})


def dual(classes: int | None = 3, **options: Any) -> DualEncoderUNet:
    """A network with classifier and saliency head."""
    torch.manual_seed(3)
    return scattered(DualEncoderUNet(_ENCODER, _SALIENCY_ENCODER, [4, 4, 4, 4, 4], classes=classes, **options))


def classifier() -> ClassificationNetwork:
    """A network without a map."""
    torch.manual_seed(3)
    return scattered(ClassificationNetwork(_ENCODER, classes=3))


def _gaze(network: type[Network], *arguments: Any, **options: Any) -> Callable[[], Any]:
    def build() -> Any:
        torch.manual_seed(3)
        return scattered(network(*arguments, **options))

    return build


_PAIR = (_ENCODER, _SALIENCY_ENCODER)
#: Those of gaze by reader, time, finding and step, which give the map of a whole reading of an unknown reader.
GAZE_NETWORKS = {
    "scanpath": _gaze(ScanpathNetwork, _SALIENCY_ENCODER, map_stride=2, width=16, regions=6, readers=["a", "b"]),
    "time": _gaze(TimeResolvedUNet, *_PAIR, decoder_widths=[4] * 5),
    "reader": _gaze(ReaderUNet, *_PAIR, ["a", "b"], decoder_widths=[4] * 5),
    "finding": _gaze(FindingUNet, *_PAIR, ["mass", "node"], decoder_widths=[4] * 5),
}


def scattered(network: nn.Module) -> Any:
    """The network with statistics and weights as after a training, different from their initial values."""
    with torch.no_grad():
        for layer in network.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.running_mean.normal_(0, 0.2)
                layer.running_var.uniform_(0.5, 2)
                layer.weight.uniform_(0.5, 2)
                layer.bias.normal_(0, 0.2)
    return network.eval()


def checkpoint(path: Path, network: nn.Module | None = None, temperature: float = 1.7, **data: Any) -> str:
    """Writes a checkpoint, with changes of its data section."""
    network = dual() if network is None else network
    found = save_untrained(path, network, DATA | data)
    content = torch.load(found, weights_only=True)
    if network.classes:
        content["state_dict"]["temperature"] = torch.full((network.classes,), temperature)
    torch.save(content, path)
    return found
