"""gazelit: joint chest X-ray diagnosis and radiologist-gaze prediction in stages.

``__all__`` is the public API (``docs/python.md``). Importing the package does not import torch, so that
``gazelit --version`` answers at once: each name is imported when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

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

_DEFINED_IN = {
    "AugmentationOptions": "gazelit.data.options:AugmentationOptions",
    "EncoderSpec": "gazelit.models.registry:EncoderSpec",
    "GazeDataModule": "gazelit.data.datamodule:GazeDataModule",
    "GazeOptions": "gazelit.data.options:GazeOptions",
    "InputError": "gazelit.errors:InputError",
    "LoadedModel": "gazelit.deploy.inference:LoadedModel",
    "LoaderOptions": "gazelit.data.options:LoaderOptions",
    "Reading": "gazelit.deploy.reading:Reading",
    "SplitOptions": "gazelit.data.options:SplitOptions",
    "Stage": "gazelit.stages.base:Stage",
    "load": "gazelit.deploy.loading:load",
    "prepare": "gazelit.data.store.prepare:prepare",
    "register_encoder": "gazelit.models.registry:register_encoder",
}


def __getattr__(name: str) -> Any:
    if name not in _DEFINED_IN:
        raise AttributeError(f"module 'gazelit' has no attribute '{name}'")
    module, _, attribute = _DEFINED_IN[name].partition(":")
    value = globals()[name] = getattr(importlib.import_module(module), attribute)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
