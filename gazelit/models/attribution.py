"""Class-activation and attribution maps of a classifier, through captum.

captum (half a second, 50 MB) is imported where it is used: every report imports this file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from gazelit.errors import InputError
from gazelit.models.network import Network

#: Steps along the path from a black image to the image (integrated gradients).
_STEPS = 32
#: Side of the square that is covered, as a share of the image's height; it moves by half of it (occlusion).
_COVER = 1 / 8


def attribute(network: Network, images: Tensor, classes: Tensor, method: str, blur: float = 0.0) -> Tensor:
    """Evidence for a class by pixel.

    Args:
        network: A network with ``logits``, in evaluation mode.
        images: (B, 1, H, W).
        classes: (B,) int64: which logit of each image is explained.
        method: ``gradcam``: Grad-CAM (Selvaraju et al. 2017) on the map that the classifier pools, enlarged;
            ``integrated_gradients`` (Sundararajan et al. 2017): its size, against a black image; ``occlusion`` (Zeiler
            and Fergus 2014): how much the logit falls when a square takes the image's mean.
        blur: σ in pixels of a Gaussian over maps made pixel by pixel (``integrated_gradients``), so that they have the
            grain of a fixation map; 0 for none.

    Returns:
        (B, H, W) float32, not negative; zero everywhere if there is no evidence for the class.

    Raises:
        InputError: The method is unknown, or the network's classifier has no such map.
    """
    if method not in METHODS:
        raise InputError(f"method: '{method}' is none of {', '.join(METHODS)}")
    if network.classes is None:
        raise InputError(f"method: {method} explains a diagnosis, and this network has no classifier")
    with torch.enable_grad():
        maps = METHODS[method](network, images, classes).detach()[:, 0].float()
    if blur > 0 and method == "integrated_gradients":
        from torchvision.transforms.functional import gaussian_blur

        maps = gaussian_blur(maps[:, None], kernel_size=2 * max(1, round(3 * blur)) + 1, sigma=blur)[:, 0]
    return maps


def _logits(network: Network) -> Callable[[Tensor], Tensor]:
    return lambda images: network(images)["logits"]


def _gradcam(network: Network, images: Tensor, classes: Tensor) -> Tensor:
    from captum.attr import LayerAttribution, LayerGradCam

    if network.arguments.get("classifier_features") == "decoder":
        raise InputError(
            "method: gradcam looks at the encoder's map, which this classifier does not see; occlusion can"
        )
    with _tapped(network) as layer:
        maps = LayerGradCam(_logits(network), layer).attribute(images, target=classes, relu_attributions=True)
    assert isinstance(maps, Tensor)
    return LayerAttribution.interpolate(maps, (images.shape[-2], images.shape[-1]), "bilinear")


def _integrated_gradients(network: Network, images: Tensor, classes: Tensor) -> Tensor:
    from captum.attr import IntegratedGradients

    method = IntegratedGradients(_logits(network))
    return method.attribute(images, target=classes, n_steps=_STEPS, internal_batch_size=len(images)).abs()


def _occlusion(network: Network, images: Tensor, classes: Tensor) -> Tensor:
    from captum.attr import Occlusion

    side = max(2, round(images.shape[-2] * _COVER))
    with torch.no_grad():
        maps = Occlusion(_logits(network)).attribute(
            images,
            target=classes,
            sliding_window_shapes=(1, side, side),
            strides=(1, side // 2, side // 2),
            baselines=images.mean(dim=(1, 2, 3), keepdim=True).expand_as(images),
        )
    return maps.clamp(min=0)


METHODS: dict[str, Callable[[Network, Tensor, Tensor], Tensor]] = {
    "gradcam": _gradcam,
    "integrated_gradients": _integrated_gradients,
    "occlusion": _occlusion,
}


@contextmanager
def _tapped(network: Network) -> Iterator[nn.Module]:
    """A module through which the encoder's embedding map passes in this context: captum needs a module."""
    encoder = network.get_submodule("encoder")
    tap, original = nn.Identity(), encoder.embedding_map
    encoder.embedding_map = lambda features: tap(original(features))  # type: ignore[operator, assignment]
    try:
        yield tap
    finally:
        del encoder.embedding_map
