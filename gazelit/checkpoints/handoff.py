"""The hand-over of a checkpoint's components to another stage: exactly those that both have, loaded strictly."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from gazelit.checkpoints.stamps import STAMP_KEY, component_state, read_checkpoint
from gazelit.errors import InputError
from gazelit.files import sha256_file
from gazelit.models.adapters import merged_state, state_for, without_adapters
from gazelit.models.network import Network
from gazelit.models.weights import check_fit


@dataclass(frozen=True)
class HandOff:
    """The result of a hand-off.

    Attributes:
        source_stage: Stage that wrote the checkpoint.
        loaded: Components whose weights were taken over.
        new: Components of the receiving network that the checkpoint does not have; they keep their initial weights.
        left_behind: Components of the checkpoint that the receiving network does not have.
        merged: Those of ``loaded`` whose low-rank adapters became part of their weights, because the receiving network
            has none, or others.
        parent: What the receiving stage's stamp records about the checkpoint (path-free).
    """

    source_stage: str
    loaded: tuple[str, ...]
    new: tuple[str, ...]
    left_behind: tuple[str, ...]
    parent: dict[str, Any]
    merged: tuple[str, ...] = ()

    @property
    def untrained(self) -> dict[str, list[str]]:
        """Parameters of each loaded component that are random still, as the checkpoint's stamp says."""
        return {name: self.parent["untrained"].get(name, []) for name in self.loaded}

    def __str__(self) -> str:
        def names(components: tuple[str, ...]) -> str:
            return ", ".join(components) or "none"

        adapters = f"; adapters merged into the weights of {names(self.merged)}" if self.merged else ""
        return (
            f"hand-off from stage '{self.source_stage}' (checkpoint {self.parent['sha256'][:12]}): "
            f"loaded {names(self.loaded)}; new {names(self.new)}; left behind {names(self.left_behind)}{adapters}"
        )


def same_specification(first: Mapping[str, Any], second: Mapping[str, Any]) -> bool:
    """Whether two component specifications build interchangeable modules; the source of the weights does not count."""
    return _without_weights(first) == _without_weights(second)


def hand_over(path: str | os.PathLike[str], network: Network, stage: str, split_note: str | None = None) -> HandOff:
    """Loads into ``network`` exactly the components that it shares with the checkpoint, strictly.

    Low-rank adapters are loaded if both have the same ones. Otherwise the checkpoint's are merged into the weights, and
    the network's keep their initial values.

    Args:
        path: Checkpoint of another stage.
        network: The receiving network; untouched unless every shared component fits.
        stage: Name of the receiving stage, for messages.
        split_note: The note of :func:`check_split`; it is recorded for reports.

    Raises:
        InputError: Nothing is shared, a shared component is specified otherwise, or its tensors do not fit.
    """
    checkpoint = read_checkpoint(path)
    stamp = checkpoint[STAMP_KEY]
    stored: dict[str, Any] = stamp["components"]
    configured = network.specs
    shared = tuple(name for name in configured if name in stored)
    if not shared:
        raise InputError(
            f"{path}: stage '{stamp['stage']}' ({', '.join(stored)}) and stage '{stage}' ({', '.join(configured)}) "
            "share no component; give a checkpoint of a stage that trains one of them"
        )
    plain = {name: without_adapters(specification) for name, specification in configured.items()}
    check_components(path, {name: without_adapters(stored[name]) for name in shared}, plain)

    states = {name: component_state(checkpoint, name) for name in shared}
    unlike = [name for name in shared if stored[name].get("lora") != configured[name].get("lora")]
    for name in unlike:
        states[name] = _with_adapters_of(network, name, states[name], stored[name], str(path))
    for name in shared:
        check_fit(states[name], network.get_submodule(name).state_dict(), f"{path}: component '{name}'")
    for name in shared:
        network.get_submodule(name).load_state_dict(states[name], strict=True)
    return HandOff(
        source_stage=stamp["stage"],
        loaded=shared,
        new=tuple(name for name in configured if name not in stored),
        left_behind=tuple(name for name in stored if name not in configured),
        parent={**stamp, "sha256": sha256_file(path), "split_note": split_note},
        merged=tuple(name for name in unlike if "lora" in stored[name]),
    )


def _with_adapters_of(
    network: Network, name: str, state: Mapping[str, Tensor], stored: Mapping[str, Any], path: str
) -> dict[str, Tensor]:
    """A component's state with its own adapters merged, for a network that has others or none."""
    try:
        plain = merged_state(state, stored["lora"]) if "lora" in stored else dict(state)
    except (InputError, TypeError) as error:
        raise InputError(f"{path}: component '{name}': {error}") from error
    return state_for(network.get_submodule(name), plain)


def check_components(path: str | os.PathLike[str], stored: Mapping[str, Any], configured: Mapping[str, Any]) -> None:
    """Checks that each of the stored components is specified as in ``configured``.

    Raises:
        InputError: A component is missing or differs; the message names the fields.
    """
    for name, specification in stored.items():
        if name not in configured:
            raise InputError(f"{path}: has a component '{name}' that the configured network lacks")
        if not same_specification(specification, configured[name]):
            raise InputError(
                f"{path}: component '{name}' differs from the configured network in "
                f"{_differences(specification, configured[name])}; use the network section the checkpoint was trained "
                "with"
            )


def _without_weights(specification: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in specification.items() if key != "weights"}


def _differences(stored: Mapping[str, Any], configured: Mapping[str, Any]) -> str:
    keys = sorted(key for key in {*stored, *configured} - {"weights"} if stored.get(key) != configured.get(key))
    return "; ".join(
        f"{key} ({stored.get(key)!r} in the checkpoint, {configured.get(key)!r} configured)" for key in keys
    )
