"""Passes of a network over a batch, their mean, and their agreement."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gazelit.data.images.geometry import Letterbox
from gazelit.deploy.reading import Spread
from gazelit.errors import InputError
from gazelit.metrics.calibration import probabilities as probabilities_of

#: The outputs of a network that are read.
OUTPUTS = ("logits", "saliency_logits")
_DROPOUT = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)
#: Seed of the masks of dropout, so that the same film gives the same reading.
_SEED = 0


@dataclass(frozen=True)
class Pass:
    """The results of one pass for a batch, or for a film.

    Attributes:
        probabilities: (B, K) or (K,); None without a classifier.
        density: (B, H × W) or (H × W,), sums to 1; None without a saliency head.
    """

    probabilities: Tensor | None
    density: Tensor | None

    @classmethod
    def of(cls, outputs: Mapping[str, Tensor], temperature: Tensor, exclusive: bool) -> Pass:
        """Makes probabilities and densities of logits."""
        logits, saliency = outputs.get("logits"), outputs.get("saliency_logits")
        return cls(
            None if logits is None else probabilities_of(logits, temperature.cpu(), exclusive),
            None if saliency is None else saliency.flatten(1).softmax(1),
        )

    def row(self, number: int) -> Pass:
        """The results for one film of the batch."""
        return Pass(
            None if self.probabilities is None else self.probabilities[number],
            None if self.density is None else self.density[number],
        )


def run(network: nn.Module, images: Tensor, dropout_passes: int) -> Iterator[dict[str, Tensor]]:
    """Runs a network once, or several times with its dropout on (Gal and Ghahramani 2016).

    Args:
        network: In evaluation mode.
        images: (B, 1, H, W) on its device.
        dropout_passes: 0 for once without dropout.

    Yields:
        The outputs of each pass.

    Raises:
        InputError: The network has no dropout.
    """
    if not dropout_passes:
        with torch.inference_mode():
            yield network(images)
        return
    with torch.random.fork_rng(devices=[images.device] if images.is_cuda else []), _dropout_on(network):
        torch.manual_seed(_SEED)
        for _ in range(dropout_passes):
            with torch.inference_mode():
                yield network(images)


@contextmanager
def _dropout_on(network: nn.Module) -> Iterator[None]:
    layers = [layer for layer in network.modules() if isinstance(layer, _DROPOUT) and layer.p > 0]
    if not layers:
        raise InputError("mc_dropout: the network has no dropout; give several checkpoints instead")
    for layer in layers:
        layer.train()
    try:
        yield
    finally:
        for layer in layers:
            layer.eval()


def mean_of(passes: Sequence[Pass]) -> Pass:
    """The mean of several passes over one film; of one pass, that pass as it is."""
    if len(passes) == 1:
        return passes[0]
    probabilities = [each.probabilities for each in passes if each.probabilities is not None]
    densities = [each.density for each in passes if each.density is not None]
    return Pass(
        torch.stack(probabilities).mean(0) if probabilities else None,
        torch.stack(densities).mean(0) if densities else None,
    )


def spread_of(passes: Sequence[Pass], names: Sequence[str], exclusive: bool, box: Letterbox) -> Spread:
    """How far passes over one film agree.

    Args:
        passes: At least two.
        names: Of the classes.
        exclusive: Whether one class is true.
        box: How the film lies in the map; the padding does not count.
    """
    deviations: dict[str, float] = {}
    information = None
    found = [each.probabilities for each in passes if each.probabilities is not None]
    if found:
        each = torch.stack(found).double()
        deviations = {name: round(float(value), 6) for name, value in zip(names, each.std(0), strict=True)}
        information = round(float(_entropy(each.mean(0), exclusive) - _entropy(each, exclusive).mean(0)), 6)
    correlation = None
    maps = [each.density for each in passes if each.density is not None]
    if maps:
        inside = torch.from_numpy(box.valid_mask()).flatten()
        each = torch.stack(maps).double()[:, inside]
        both = [torch.corrcoef(torch.stack([density, each.mean(0)]))[0, 1] for density in each]
        correlation = round(float(torch.stack(both).mean()), 6)
    return Spread(len(passes), deviations, information, correlation)


def _entropy(probabilities: Tensor, exclusive: bool) -> Tensor:
    """Entropy in nats over the last axis: of one class, or the sum over independent labels."""
    entropy: Tensor = torch.special.entr(probabilities).sum(-1)
    if not exclusive:
        entropy = entropy + torch.special.entr(1 - probabilities).sum(-1)
    return entropy
