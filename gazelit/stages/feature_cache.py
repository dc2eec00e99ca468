"""The features of a frozen encoder, computed once a film: what every later epoch would compute again."""

from __future__ import annotations

import tempfile
from pathlib import Path
from types import MethodType
from typing import Any

import torch
from torch import Tensor

from gazelit.errors import InputError
from gazelit.models.encoder import Encoder


class FeatureCache:
    """Keeps an encoder's coarsest map of every film in a file without a name, which ends with the process.

    Its pages are read and dropped by the operating system as memory allows: 2.5 MB a film of the paper's encoder at 640
    × 512 in float32, half of that in bfloat16.

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
        # Averages of weights copy their stage; a frozen encoder's features are the same.
        return self

    def attach(self, encoder: Encoder) -> None:
        """Has an encoder look here first; of the list that it gives only the last map is then there."""
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
