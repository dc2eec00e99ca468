"""Guards in a file of their own: those of several checkpoints, or of passes with dropout."""

from __future__ import annotations

from pathlib import Path

from gazelit.deploy.guards import Guards
from gazelit.deploy.inference import LoadedModel
from gazelit.errors import InputError
from gazelit.files import read_json, write_json

#: Ends the name of such a file.
SUFFIX = ".json"
_MODEL, _PASSES, _GUARDS = "model_sha256", "dropout_passes", "guards"


def write_guards(guards: Guards, model: LoadedModel, path: Path) -> None:
    """Writes the guards of a model, with the model's identity.

    Args:
        guards: The fitted guards.
        model: The model whose probabilities they are for.
        path: The file.
    """
    content = {_MODEL: model.sha256, _PASSES: model.dropout_passes, _GUARDS: guards.to_primitives()}
    write_json(path, content)


def read_guards(path: Path, model: LoadedModel) -> Guards:
    """Reads a file of :func:`write_guards`.

    Args:
        path: The file.
        model: The model that is to be guarded.

    Raises:
        InputError: It is no such file, or holds the guards of another model.
    """
    content = read_json(path)
    if not isinstance(content, dict) or not {_MODEL, _PASSES, _GUARDS} <= content.keys():
        raise InputError(f"{path}: not what `gazelit guard` writes")
    if (content[_MODEL], content[_PASSES]) != (model.sha256, model.dropout_passes):
        raise InputError(
            f"{path}: holds the guards of another model; they go with the same checkpoints in the same order, and the "
            "same --mc_dropout"
        )
    return Guards.from_primitives(content[_GUARDS], str(path), model.class_names)
