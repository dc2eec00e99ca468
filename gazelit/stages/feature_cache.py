"""The features of a frozen encoder: computed once for each film and kept in training, or read from a folder."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from types import MethodType
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import Tensor

from gazelit.data.store.features import FeatureRequest, Kind, open_features
from gazelit.errors import InputError
from gazelit.models.encoder import Encoder
from gazelit.models.registry import EncoderSpec, weights_digest

if TYPE_CHECKING:
    from gazelit.data.gaze_data import GazeData
    from gazelit.stages.base import Stage


class FeatureCache:
    """Keeps an encoder's coarsest map of every film in an unnamed file, which is gone when the process ends.

    The operating system keeps its pages in memory as far as there is room. A film takes 2.5 MB with the paper's encoder
    at 640 × 512 in float32, half of that in bfloat16.

    Args:
        cases: Number N of the store's rows.
        folder: Where the file is; the system's folder for temporary files unless given.
    """

    def __init__(self, cases: int, folder: Path | None = None) -> None:
        self._folder = folder
        self._known = torch.zeros(cases, dtype=torch.bool)
        self._maps: Tensor | None = None
        #: Rows of the batch that the encoder is about to see.
        self.rows: Tensor | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> FeatureCache:
        # A callback that averages weights copies the stage; the features of a frozen encoder stay the same.
        return self

    def attach(self, encoder: Encoder) -> None:
        """Has an encoder use this cache; its list of maps then has only the last one."""
        plain = encoder.forward

        def forward(encoder: Encoder, x: Tensor) -> list[Tensor | None]:
            if self.rows is None:
                return [*plain(x)]
            rows = self.rows.cpu()
            if not self._known[rows].all():
                self._keep(rows, plain(x)[-1])
            assert self._maps is not None
            return [None] * (len(encoder.strides) - 1) + [self._maps[rows].to(x.device)]

        encoder.forward = MethodType(forward, encoder)

    def _keep(self, rows: Tensor, features: Tensor) -> None:
        features = features.detach()
        if self._maps is None:
            shape = features.shape[1:]
            with tempfile.NamedTemporaryFile(dir=self._folder, prefix=".features-") as file:
                try:
                    self._maps = torch.from_file(
                        file.name, shared=True, size=len(self._known) * shape.numel(), dtype=features.dtype
                    ).view(-1, *shape)
                except RuntimeError as error:
                    raise InputError(f"cache_features: {self._folder or tempfile.gettempdir()} has no room") from error
        self._maps[rows] = features.to("cpu", self._maps.dtype)
        self._known[rows] = True


class StoredFeatures:
    """Features that ``gazelit embed`` wrote; they replace an encoder, which is then not run.

    Args:
        folder: The folder.
        kind: The kind of features that the stage needs: ``map`` or ``pooled``.
        stage: Whose component ``encoder`` is replaced, with its weights.
        data: The films.

    Raises:
        InputError: The features are of another store, encoder or kind, or of other weights; or they would change while
            the stage trains.
    """

    def __init__(self, folder: str, kind: Kind, stage: Stage, data: GazeData) -> None:
        check_unchanging(stage, data, "features")
        encoder = cast(Encoder, stage.network.get_submodule("encoder"))
        store = data.store
        request = FeatureRequest(
            kind,
            "float32",
            store.about["fingerprint"],
            len(store.cases),
            data.downscale,
            EncoderSpec.of(stage.network.specs["encoder"]).interchangeable(),
            weights_digest(encoder),
        )
        self._features = open_features(Path(folder), request)
        #: Rows of the batch that the encoder would see; None runs it.
        self.rows: Tensor | None = None
        self._attach(encoder, kind)

    def __deepcopy__(self, memo: dict[int, Any]) -> StoredFeatures:
        return self

    def _attach(self, encoder: Encoder, kind: Kind) -> None:
        plain_forward, plain_map, plain_pool = encoder.forward, encoder.embedding_map, encoder.pool

        def forward(encoder: Encoder, x: Tensor) -> list[Tensor | None]:
            if self.rows is None:
                return [*plain_forward(x)]
            return [None] * (len(encoder.strides) - 1) + [self._read(encoder) if kind == "map" else None]

        def embedding_map(encoder: Encoder, features: list[Tensor]) -> Tensor:
            if self.rows is None:
                return plain_map(features)
            return self._read(encoder)[:, :, None, None]

        def pool(encoder: Encoder, embedding_map: Tensor) -> Tensor:
            return plain_pool(embedding_map) if self.rows is None else embedding_map.flatten(1)

        encoder.forward = MethodType(forward, encoder)
        if kind == "pooled":
            methods: dict[str, Callable[..., Any]] = {"embedding_map": embedding_map, "pool": pool}
            vars(encoder).update({name: MethodType(method, encoder) for name, method in methods.items()})

    def _read(self, encoder: Encoder) -> Tensor:
        assert self.rows is not None
        rows = self._features[self.rows.cpu().numpy()]
        weight = next(encoder.parameters())
        return torch.from_numpy(np.asarray(rows, np.float32)).to(weight.device, weight.dtype)


def check_unchanging(stage: Stage, data: GazeData, option: str) -> None:
    """Checks that an encoder's features of a film are the same in every epoch.

    Raises:
        InputError: Its weights or the images change, or it is compiled although it is hardly run.
    """
    if "encoder" not in stage.frozen:
        raise InputError(f"{option}: the encoder is trained; set --model.frozen=[encoder]")
    if data.augmentation.enabled:
        raise InputError(f"{option}: images are augmented; set --data.augmentation.enabled=false")
    if "encoder" in stage.execution.compile:
        raise InputError(f"{option}: the encoder is hardly run; leave it out of execution.compile")
