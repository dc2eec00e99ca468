"""``gazelit embed``: the features of a frozen encoder for every film of a store, computed once."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress
from torch import Tensor

from gazelit.data.dataset import check_downscale, unit_range, working_film
from gazelit.data.store.features import FeatureRequest, Kind, write_features
from gazelit.data.store.store import Store
from gazelit.deploy.checks import to_device
from gazelit.deploy.inference import load_model
from gazelit.errors import InputError
from gazelit.models.encoder import Encoder
from gazelit.models.registry import EncoderSpec, build_encoder, load_pretrained, weights_digest

logger = logging.getLogger("gazelit")


def embed(
    store: str,
    out: Path,
    encoder: EncoderSpec | None = None,
    ckpt: str | None = None,
    kind: Kind = "pooled",
    dtype: Literal["float32", "float16"] = "float32",
    downscale: int = 1,
    batch_size: int = 8,
    device: str = "cpu",
) -> None:
    """Writes an encoder's features of every film of a store, for stages to read instead of running it.

    Many arguments, because each is an option of the command.

    A training reads them with ``--model.features OUT`` and a frozen encoder: stage ``supervised`` the pooled ones,
    stage ``saliency`` the maps. Features of another store, encoder or other weights are refused. After an interruption
    the same command continues with the missing films. Nothing leaves the machine.

    Args:
        store: The prepared store.
        out: Folder to write.
        encoder: The encoder, with the file of its weights.
        ckpt: Instead, a checkpoint of gazelit whose ``encoder`` is taken.
        kind: ``pooled``, the embedding that a classifier sees; ``map``, the coarsest map, with which a decoder begins.
        dtype: ``float16`` takes half of the room.
        downscale: As ``data.downscale`` of the training.
        batch_size: Films that the encoder sees together.
        device: Where it runs, such as ``cuda``.

    Raises:
        InputError: Neither or both of ``encoder`` and ``ckpt`` are given, the encoder has no weights or gives no finite
            features, or the folder holds something else.
    """
    if (encoder is None) == (ckpt is None):
        raise InputError("embed: give --encoder, with the file of its weights, or --ckpt")
    if batch_size < 1:
        raise InputError(f"batch_size: must be at least 1, not {batch_size}")
    opened = Store.open(store)
    check_downscale(opened, downscale)
    module, specification = _from_checkpoint(ckpt) if ckpt is not None else _with_weights(encoder)
    target = to_device(module, device)
    request = FeatureRequest(
        kind, dtype, opened.about["fingerprint"], len(opened.cases), downscale, specification, weights_digest(module)
    )
    size = (opened.size[0] // downscale, opened.size[1] // downscale)
    shape = tuple(_features(module, torch.zeros(1, 1, *size, device=target), kind).shape[1:])

    def rows_from(start: int) -> Iterator[NDArray[np.floating]]:
        if start:
            logger.info("going on after %d of %d films", start, request.cases)
        with Progress(console=Console(stderr=True)) as progress:
            task = progress.add_task("embedding", total=request.cases, completed=start)
            for first in range(start, request.cases, batch_size):
                rows = range(first, min(first + batch_size, request.cases))
                films = [working_film(opened, row, size) for row in rows]
                batch = unit_range(torch.from_numpy(np.stack(films))[:, None]).to(target)
                features = _features(module, batch, kind).float().cpu().numpy().astype(dtype)
                if not np.isfinite(features).all():
                    hint = "; are they too large for float16?" if dtype == "float16" else ""
                    raise InputError(f"the features of row {first} or the next ones are not finite{hint}")
                progress.update(task, completed=rows.stop)
                yield features

    if write_features(out, request, shape, rows_from):
        logger.info("%s: %s features of %d films, %s each", out, kind, request.cases, " × ".join(map(str, shape)))
    else:
        logger.info("%s: is up to date", out)


@torch.inference_mode()
def _features(encoder: Encoder, images: Tensor, kind: Kind) -> Tensor:
    maps = encoder(images)
    return encoder.embed(maps) if kind == "pooled" else maps[-1]


def _with_weights(specification: EncoderSpec | None) -> tuple[Encoder, dict[str, object]]:
    assert specification is not None
    if specification.weights is None:
        raise InputError("encoder.weights: names none; features of random weights are of no use")
    encoder = build_encoder(specification).eval()
    load_pretrained(encoder, specification)
    return encoder, specification.interchangeable()


def _from_checkpoint(ckpt: str) -> tuple[Encoder, dict[str, object]]:
    model = load_model(ckpt)
    encoder = getattr(model.network, "encoder", None)
    if not isinstance(encoder, Encoder):
        raise InputError(f"{ckpt}: its network has no component encoder")
    return encoder, EncoderSpec.of(model.network.specs["encoder"]).interchangeable()
