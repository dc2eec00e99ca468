"""`gazelit encoders`: the list of encoders."""

from __future__ import annotations

import os
from dataclasses import dataclass

import segmentation_models_pytorch as smp
import timm
import torch
from huggingface_hub import try_to_load_from_cache
from rich.console import Console
from rich.table import Table
from torchvision.models import DenseNet201_Weights

from gazelit.errors import InputError
from gazelit.models.presets import PRESETS
from gazelit.models.registry import EncoderSpec, build_encoder, list_encoders

#: Up to so many encoders are built and described; if there are more, only names are listed.
DESCRIBED = 40


@dataclass(frozen=True)
class EncoderCard:
    """An encoder, described.

    Attributes:
        name: As in configurations.
        parameters: Number of parameters; None if the encoder gives no pyramid of maps.
        channels: Channels of each map, finest first.
        strides: Stride of each map.
        weights: ImageNet weights: ``at hand``, ``to be fetched`` or ``none``.
    """

    name: str
    parameters: int | None
    channels: list[int]
    strides: list[int]
    weights: str


def encoders(pattern: str = "") -> None:
    """Lists encoders: gazelit's own, segmentation-models-pytorch's, and timm's as ``tu-…``.

    Args:
        pattern: Only names that contain this.

    Raises:
        InputError: No name contains it.
    """
    names = list_encoders(pattern)
    if not names:
        raise InputError(f"no encoder's name contains '{pattern}'; `gazelit encoders` lists all")
    console = Console(highlight=False)
    if len(names) > DESCRIBED:
        console.print("\n".join(names), soft_wrap=True)
        console.print(f"{len(names)} encoders; a filter that leaves at most {DESCRIBED} shows what they are")
        return
    table = Table()
    for title, justify in (("encoder", "left"), ("parameters", "right"), ("channels / strides", "left")):
        table.add_column(title, justify=justify, overflow="fold")  # type: ignore[arg-type]
    table.add_column("weights", overflow="fold")
    for name in names:
        card = describe(name)
        maps = ", ".join(map(str, card.channels)) + " / " + ", ".join(map(str, card.strides))
        size = "" if card.parameters is None else f"{card.parameters:,}"
        table.add_row(card.name, size, maps if card.channels else "gives no pyramid of maps", card.weights)
    console.print(table)


def describe(name: str) -> EncoderCard:
    """Builds an encoder without memory for its weights, and counts."""
    try:
        try:
            with torch.device("meta"):
                encoder = build_encoder(EncoderSpec(name))
        except (NotImplementedError, RuntimeError):
            # Some models compute with their tensors while they are built.
            encoder = build_encoder(EncoderSpec(name))
    except InputError:
        return EncoderCard(name, None, [], [], _weights(name))
    count = sum(parameter.numel() for parameter in encoder.parameters())
    return EncoderCard(name, count, list(encoder.out_channels), list(encoder.strides), _weights(name))


def _weights(name: str) -> str:
    """Whether ImageNet weights exist and are in the cache; for a preset, where its file can be got."""
    if name in PRESETS:
        return f"{PRESETS[name].where} ({PRESETS[name].licence})"
    if name == "paper-densenet201":
        url = DenseNet201_Weights.IMAGENET1K_V1.url
        is_cached = os.path.isfile(os.path.join(torch.hub.get_dir(), "checkpoints", os.path.basename(url)))
        return "at hand" if is_cached else "to be fetched"
    if name.startswith("tu-"):
        configuration = timm.get_pretrained_cfg(name.removeprefix("tu-"), allow_unregistered=True)
        if configuration is None or not configuration.has_weights:
            return "none"
        repository, revision = configuration.hf_hub_id, None
    elif name in smp.encoders.encoders:
        settings = smp.encoders.encoders[name]["pretrained_settings"].get("imagenet")
        if settings is None:
            return "none"
        repository, revision = settings["repo_id"], settings["revision"]
    else:
        return "none"
    if repository is None:
        return "to be fetched"
    return "at hand" if _cached(repository.split("@")[0], revision) else "to be fetched"


def _cached(repository: str, revision: str | None) -> bool:
    return isinstance(try_to_load_from_cache(repository, "model.safetensors", revision=revision), str)
