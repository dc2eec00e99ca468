"""Stage 2: saliency warm-up of the gaze branch, with the diagnosis encoder frozen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, cast

from torch import Tensor

from gazelit.errors import InputError
from gazelit.losses.objective import Objective
from gazelit.losses.saliency import KLDivergenceLoss, SaliencyLoss, check_side_heads
from gazelit.models.encoder import Encoder
from gazelit.models.network import Network
from gazelit.stages.base import Batch, Outputs, Stage
from gazelit.stages.feature_cache import FeatureCache, StoredFeatures, check_unchanging


class SaliencyWarmup(Stage):
    """Learns the radiologist's gaze on top of the pretrained encoder, which is frozen.

    Stage 2 of Qiu, Rivaz and Xiao 2025. With nothing frozen it trains a saliency model alone.

    Args:
        network: Gives ``{"saliency_logits": (B, 1, H, W)}``.
        saliency_loss: A :class:`gazelit.losses.SaliencyLoss`; KL divergence unless given.
        frozen: Components that stay as they are, BatchNorm statistics included.
        cache_features: Whether the frozen encoder's features are computed once for each film, and kept on disk for
            later epochs. Images must not be augmented.
        features: Folder of ``gazelit embed --kind map`` to read them from instead.
        options: See :class:`Stage`.

    Raises:
        InputError: The network has side heads that the objective does not train, or the other way round; or features
            would be kept although they change or the network has a classifier.
    """

    name: ClassVar[str] = "saliency"
    measures: ClassVar[tuple[str, ...]] = ("saliency",)
    trains: ClassVar[str] = "saliency_logits"
    injected: ClassVar[tuple[str, ...]] = (*Stage.injected, "saliency_loss")

    def __init__(
        self,
        network: Network,
        saliency_loss: SaliencyLoss | None = None,
        frozen: Sequence[str] = ("encoder",),
        cache_features: bool = False,
        features: str | None = None,
        **options: Any,
    ) -> None:
        super().__init__(network, frozen=frozen, **options)
        self.saliency_loss = saliency_loss if saliency_loss is not None else KLDivergenceLoss()
        check_side_heads(self.saliency_loss, network.side_head_count)
        self.cache_features = cache_features
        self.features = features
        self._cache: FeatureCache | StoredFeatures | None = None
        if cache_features and features is not None:
            raise InputError("cache_features: features are read from a folder already; leave one of the two out")
        option = "cache_features" if cache_features else "features" if features is not None else None
        if option and not ({"encoder"} <= set(self.frozen) and "saliency_encoder" in network.specs):
            raise InputError(f"{option}: needs a frozen encoder beside a saliency encoder")
        if option and network.classes is not None:
            raise InputError(
                f"{option}: a classifier would see maps that are not kept; set --model.network.classes=null"
            )

    def on_fit_start(self) -> None:
        """Makes the cache, once the frozen weights are final.

        Raises:
            InputError: Images are augmented, so that features of an epoch are not those of the next, or features of a
                folder are others.
        """
        super().on_fit_start()
        if self.features is not None:
            self._cache = StoredFeatures(self.features, "map", self, self._gaze_data)
        elif self.cache_features:
            check_unchanging(self, self._gaze_data, "cache_features")
            self._cache = FeatureCache(len(self._gaze_data.store.cases))
            self._cache.attach(cast(Encoder, self.network.get_submodule("encoder")))

    def on_fit_end(self) -> None:
        """Computes features again from now on, because weights may change."""
        if self._cache is not None:
            self._cache.rows, self._cache = None, None

    def _step(self, batch: Batch) -> tuple[Tensor, Outputs, dict[str, Tensor]]:
        if self._cache is not None:
            self._cache.rows = batch["index"]
        outputs = self(batch["image"])
        return self.saliency_loss(outputs, batch), outputs, {}

    def _objectives(self) -> dict[str, Objective]:
        return {"saliency": self.saliency_loss}
