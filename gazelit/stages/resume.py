"""What a resumed training may change: options of the optimiser are those given now; a schedule continues as it was."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, ReduceLROnPlateau

from gazelit.errors import InputError

#: Entries of a scheduler's state that change while it runs; the others are its options.
_MOVING = frozenset(
    {
        *("last_epoch", "_step_count", "_last_lr", "_get_lr_called_within_step", "_is_initial", "last_lr"),
        *("best", "num_bad_epochs", "cooldown_counter", "mode_worse", "T_cur", "T_i", "milestone_counter"),
    }
)


def apply_options(
    checkpoint: Mapping[str, Any], optimizer: Optimizer, scheduler: LRScheduler | ReduceLROnPlateau | None
) -> None:
    """Writes the options given now into a checkpoint's optimiser state, before that state is restored.

    Restoring an optimiser's state also restores its old options. Weight decay, betas and the like are therefore taken
    from ``optimizer``. So is the learning rate, if there is no schedule, or one that is a function of the epoch
    (``LambdaLR``, ``WarmupCosine``). Other schedules compute each rate from the one before, and cannot start from
    another rate.

    Args:
        checkpoint: A Lightning checkpoint; its ``optimizer_states`` and ``lr_schedulers`` are changed.
        optimizer: Built from the options given now, not yet restored.
        scheduler: Likewise.

    Raises:
        InputError: An option differs that a resumed training cannot take.
    """
    states = checkpoint.get("optimizer_states") or []
    schedules = checkpoint.get("lr_schedulers") or []
    if not states:
        return
    if bool(schedules) != (scheduler is not None):
        raise _cannot("lr_scheduler", "one" if schedules else "none", "none" if schedules else "one")
    if scheduler is not None:
        _check_schedule(schedules[0], scheduler.state_dict())
    stored_groups = states[0]["param_groups"]
    if len(stored_groups) != len(optimizer.param_groups):
        raise _cannot("number of learning_rates", len(stored_groups), len(optimizer.param_groups))
    for position, (stored, group) in enumerate(zip(stored_groups, optimizer.param_groups, strict=True)):
        if optimizer.defaults.keys() - stored.keys() or len(stored["params"]) != len(group["params"]):
            raise _cannot("optimizer, or what it trains,", "another", type(optimizer).__name__)
        rate, stored_rate = (options.get("initial_lr", options["lr"]) for options in (group, stored))
        if isinstance(scheduler, LambdaLR):
            schedule = schedules[0]
            stored["initial_lr"] = schedule["base_lrs"][position] = rate
            stored["lr"] = schedule["_last_lr"][position] = rate * scheduler.lr_lambdas[position](
                schedule["last_epoch"]
            )
        elif float(rate) != float(stored_rate):
            if scheduler is not None:
                raise _cannot("learning rate", float(stored_rate), float(rate))
            stored["lr"] = rate
        cycled = {"betas", "momentum"} if "max_momentum" in stored else set()
        for option in optimizer.defaults.keys() - cycled - {"lr"}:
            stored[option] = group[option]


def _check_schedule(stored: Mapping[str, Any], current: Mapping[str, Any]) -> None:
    for option in sorted(current.keys() - _MOVING - {"base_lrs"}):
        before, now = stored.get(option), current[option]
        if option == "_schedulers":
            for stored_part, part in zip(before or [], now, strict=False):
                _check_schedule(stored_part, part)
        elif before != now:
            raise _cannot(f"lr_scheduler's {option.lstrip('_')}", before, now)


def _cannot(setting: str, before: Any, now: Any) -> InputError:
    return InputError(
        f"--ckpt_path: the {setting} was {before} and is {now} now, which a resumed training cannot change; keep it as "
        "it was, or begin a new training from these weights with --start_from"
    )
