"""Packages from the Hugging Face Hub; nothing is fetched unless a name begins with ``hub:``."""

from __future__ import annotations

import re
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from gazelit import __version__
from gazelit.deploy.packages import FILES, is_package
from gazelit.errors import InputError

#: Beginning of the name of a package on the Hub: ``hub:owner/name``, or ``hub:owner/name@revision``.
PREFIX = "hub:"
_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)


def repository_of(name: str) -> str:
    """Checks the name of a repository.

    Raises:
        InputError: It is not ``owner/name``.
    """
    if not _REPOSITORY.fullmatch(name):
        raise InputError(f"'{name}' names no repository of the Hugging Face Hub; write owner/name")
    return name


def fetch(name: str) -> Path:
    """Downloads a package, or takes it from the cache if it is there unchanged.

    Args:
        name: ``hub:owner/name``; with ``@revision`` a branch, tag or commit.

    Returns:
        Its folder in the cache of ``huggingface_hub``.

    Raises:
        InputError: There is no such package, it needs access that was not granted, or the Hub cannot be reached.
    """
    repository, _, revision = name.removeprefix(PREFIX).partition("@")
    repository_of(repository)
    try:
        folder = snapshot_download(
            repository,
            revision=revision or None,
            allow_patterns=list(FILES),
            library_name="gazelit",
            library_version=__version__,
        )
    except GatedRepoError as error:
        raise InputError(
            f"{name}: access has to be granted; ask for it on the model's page, then log in with `hf auth login`"
        ) from error
    except RevisionNotFoundError as error:
        raise InputError(f"{name}: has no revision '{revision}'") from error
    except RepositoryNotFoundError as error:
        raise InputError(
            f"{name}: no such model, or a private one; log in with `hf auth login` if it is yours"
        ) from error
    except Exception as error:
        # Errors of the transport differ between versions of huggingface_hub.
        raise InputError(
            f"{name}: cannot be downloaded ({type(error).__name__}); check the connection, or give the folder of a copy"
        ) from error
    if not is_package(folder):
        raise InputError(f"{name}: is no package of gazelit (config.json and model.safetensors are missing)")
    return Path(folder)
