"""gazelit: joint chest X-ray diagnosis and radiologist-gaze prediction in stages.

``__all__`` is the public API (``docs/python.md``). Importing the package does not import torch, so that
``gazelit --version`` answers at once: each name is imported when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gazelit.lazy import lazy_names

if TYPE_CHECKING:
    from gazelit.data.datamodule import GazeDataModule
    from gazelit.data.options import AugmentationOptions, GazeOptions, LoaderOptions, SplitOptions
    from gazelit.data.store.prepare import prepare
    from gazelit.deploy.inference import LoadedModel
    from gazelit.deploy.loading import load
    from gazelit.deploy.reading import Reading
    from gazelit.errors import InputError
    from gazelit.models.registry import EncoderSpec, register_encoder
    from gazelit.stages.base import Stage

__version__ = "0.1.0"

__all__ = [
    "AugmentationOptions",
    "EncoderSpec",
    "GazeDataModule",
    "GazeOptions",
    "InputError",
    "LoadedModel",
    "LoaderOptions",
    "Reading",
    "SplitOptions",
    "Stage",
    "__version__",
    "load",
    "prepare",
    "register_encoder",
]

_NAMES = {
    "gazelit.data.datamodule": ("GazeDataModule",),
    "gazelit.data.options": ("AugmentationOptions", "GazeOptions", "LoaderOptions", "SplitOptions"),
    "gazelit.data.store.prepare": ("prepare",),
    "gazelit.deploy.inference": ("LoadedModel",),
    "gazelit.deploy.loading": ("load",),
    "gazelit.deploy.reading": ("Reading",),
    "gazelit.errors": ("InputError",),
    "gazelit.models.registry": ("EncoderSpec", "register_encoder"),
    "gazelit.stages.base": ("Stage",),
}


__getattr__, __dir__ = lazy_names(__name__, _NAMES, globals())
