"""The base of every network: named components with specifications, rebuilt from primitives."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from gazelit import trust
from gazelit.errors import InputError, first_line
from gazelit.models.registry import EncoderSpec, load_pretrained


class Network(nn.Module):
    """A network whose direct children are its components, which stages hand over to each other.

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
        """``class_path`` and ``init_args`` from which :func:`rebuild` makes the network.

        gazelit's own networks are named by the package that exports them, so that checkpoints stay valid when a module
        moves.
        """
        # Sharding adds a class of torch's own in front. If its module (45 MB) was not imported, nothing is sharded.
        fsdp = sys.modules.get("torch.distributed.fsdp")
        sharded = () if fsdp is None else (fsdp.FSDPModule,)
        cls = next(base for base in type(self).__mro__ if not issubclass(base, sharded))
        package = __name__.rpartition(".")[0]
        exported = getattr(sys.modules[package], cls.__qualname__, None) is cls
        return {
            "class_path": f"{package if exported else cls.__module__}.{cls.__qualname__}",
            "init_args": self.arguments,
        }

    @property
    def classes(self) -> int | None:
        """Number of classes of the logits; None without a classifier."""
        return self.arguments.get("classes")

    @property
    def pools_by_gaze(self) -> bool:
        """Whether the classifier pools by gaze; ``forward`` then takes the reader's gaze as ``attention``."""
        return "gaze" in self.arguments.get("classifier_pooling", ())

    @property
    def side_head_count(self) -> int:
        """Number of further saliency heads at coarser strides, whose logits an objective has to train."""
        return int(self.arguments.get("side_heads", 0))

    def load_pretrained(self, component: str) -> None:
        """Loads the pretrained weights that a component's specification names, if it names any.

        Raises:
            InputError: They cannot be fetched or do not fit.
        """
        specification = self.specs[component]
        if specification.get("weights") is not None:
            fields = {key: specification[key] for key in ("name", "weights", "options", "lora") if key in specification}
            load_pretrained(self.get_submodule(component), EncoderSpec(**fields))

    def check_input(self, x: Tensor, stride: int) -> None:
        """Checks that an image batch fits the network.

        Raises:
            InputError: Height or width is no multiple of ``stride``.
        """
        if x.shape[-2] % stride or x.shape[-1] % stride:
            raise InputError(f"image size {tuple(x.shape[-2:])}: height and width must be multiples of {stride}")


def apart(features: Tensor) -> Tensor:
    """The same values as a separate tensor, whose gradient comes only from what uses this tensor.

    The decoder may use the map that the classifier pools; the evidence for a class is the gradient through the
    classifier alone.
    """
    return features.view_as(features)


def rebuild(config: Mapping[str, Any], origin: str = "network") -> Network:
    """Builds a network from :attr:`Network.config`, with random weights.

    The configuration may come from a stranger's checkpoint: only gazelit's own classes and those of trusted modules
    (:mod:`gazelit.trust`) are imported, and only networks are built.

    Args:
        config: ``class_path`` and ``init_args``.
        origin: The file that the configuration comes from; error messages begin with it.

    Raises:
        InputError: It names something else, cannot be imported, or its arguments do not fit.
    """
    path, arguments = config.get("class_path"), config.get("init_args")
    if not isinstance(path, str) or not isinstance(arguments, Mapping):
        raise InputError(f"{origin}: names no network (class_path and init_args)")
    trust.check_names({"class_path": path, "init_args": arguments}, origin)
    cls = trust.load_class(path, Network, origin)
    try:
        return cls(**arguments)
    except InputError as error:
        raise InputError(f"{origin}: {error}") from error
    except (
        TypeError, ValueError, AttributeError, KeyError, IndexError, RuntimeError, MemoryError, OverflowError,
    ) as error:  # fmt: skip
        # The arguments come from the file, so that an error of the constructor is the file's fault.
        reason = f"{type(error).__name__}: {first_line(error)}"
        raise InputError(f"{origin}: the arguments of {path} do not fit ({reason})") from error
