"""What every network is: named components with specifications, rebuilt from primitives."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule

from gazelit.errors import InputError
from gazelit.models.registry import EncoderSpec, load_pretrained


class Network(nn.Module):
    """A network whose direct children are its components, the units that stages hand to each other.

    Building one never fetches weights; :meth:`load_pretrained` does.

    Attributes:
        specs: By component, its specification in primitives. Components are interchangeable if these are equal, apart
            from ``weights``.
        arguments: The constructor's arguments, in primitives.
    """

    specs: dict[str, dict[str, Any]]
    arguments: dict[str, Any]

    @property
    def config(self) -> dict[str, Any]:
        """``class_path`` and ``init_args`` from which :func:`rebuild` makes the network."""
        # Sharding puts a class of torch's own in front.
        cls = next(one for one in type(self).__mro__ if not issubclass(one, FSDPModule))
        return {
            "class_path": f"{cls.__module__}.{cls.__qualname__}",
            "init_args": self.arguments,
        }

    @property
    def classes(self) -> int | None:
        """Number of classes that the logits tell apart; None without a classifier."""
        return self.arguments.get("classes")

    def load_pretrained(self, component: str) -> None:
        """Loads the pretrained weights that a component's specification names, if it names any.

        Raises:
            InputError: They cannot be fetched or do not fit.
        """
        specification = self.specs[component]
        if specification.get("weights") is not None:
            fields = {key: specification[key] for key in ("name", "weights", "options")}
            load_pretrained(self.get_submodule(component), EncoderSpec(**fields))

    def check_input(self, x: Tensor, stride: int) -> None:
        """Checks that an image batch fits the network.

        Raises:
            InputError: Height or width is no multiple of ``stride``.
        """
        if x.shape[-2] % stride or x.shape[-1] % stride:
            raise InputError(f"image size {tuple(x.shape[-2:])}: height and width must be multiples of {stride}")


def rebuild(config: Mapping[str, Any]) -> Network:
    """Builds a network from :attr:`Network.config`, with random weights.

    Raises:
        InputError: Its class cannot be imported.
    """
    module, _, name = config["class_path"].rpartition(".")
    try:
        cls = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise InputError(
            f"the network class {config['class_path']} cannot be imported; install what defines it"
        ) from error
    return cls(**config["init_args"])
