"""Parameters of a network that are random still: no weight file fills them, and no stage's loss has reached them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from gazelit.errors import InputError
from gazelit.models.encoder import Encoder
from gazelit.models.network import Network


def left_untrained(
    network: Network, frozen: Collection[str], reached: Collection[str], handed_over: Mapping[str, Sequence[str]]
) -> dict[str, list[str]]:
    """The parameters that are random after a stage, in components that are otherwise trained.

    An example is the pyramid over a plain transformer: no file has it, and a contrastive loss does not depend on it.

    Args:
        network: The stage's network.
        frozen: Its components that are not trained.
        reached: Names of the parameters that the stage's loss depends on (:func:`gazelit.models.execution.reached`).
        handed_over: By component that a checkpoint fills, the parameters that were random there.

    Returns:
        By component, names within it. Components that are random as a whole are not listed.

    Raises:
        InputError: The loss depends on random parameters of a frozen component whose other parameters are trained.
    """
    left: dict[str, list[str]] = {}
    for name, specification in network.specs.items():
        component = network.get_submodule(name)
        every = dict(component.named_parameters())
        random = list(every)
        if name in handed_over:
            random = [key for key in handed_over[name] if key in every]
        elif isinstance(component, Encoder) and specification.get("weights") is not None:
            filled = {id(parameter) for parameter in component.weight_target().parameters()}
            random = [key for key, parameter in every.items() if id(parameter) not in filled]
        used = [key for key in random if f"{name}.{key}" in reached]
        if name in frozen and used and len(random) < len(every):
            raise InputError(
                f"frozen: layers of {name} would stay random ({used[0]} and {len(used) - 1} more): no weight file has "
                "them and no stage has trained them; give the network a saliency_encoder, or set --model.frozen=[]"
            )
        if name not in frozen:
            random = [key for key in random if key not in used]
        if 0 < len(random) < len(every):
            left[name] = random
    return left
