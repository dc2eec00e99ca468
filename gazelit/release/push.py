"""``gazelit push``: uploads a package to the Hugging Face Hub."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Literal

from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError

from gazelit import __version__
from gazelit.deploy.hub import repository_of
from gazelit.deploy.packages import FILES, is_package, load_package
from gazelit.errors import InputError

logger = logging.getLogger("gazelit")

Gate = Literal["manual", "auto", "none"]


def push(folder: str, repo: str, gated: Gate = "manual", public: bool = False, agreement_allows: bool = False) -> None:
    """Uploads a package to the Hugging Face Hub. Nothing else of gazelit uploads anything.

    Before a file is sent, the repository is made private and its gate is set. Only the files of a package are sent. The
    login is that of ``hf auth login`` or ``HF_TOKEN``.

    Args:
        folder: A folder that ``gazelit package`` made.
        repo: ``owner/name`` on the Hub; made if it does not exist.
        gated: Who may download it once it is public: ``manual``, users whom its owner admits; ``auto``, users who leave
            a name; ``none``, everybody.
        public: Whether others see the repository.
        agreement_allows: You have made sure that the agreement of the training data allows you to share weights. Needed
            unless the data are synthetic.

    Raises:
        InputError: The folder is not a complete package, sharing was not confirmed, or the Hub refuses or cannot be
            reached.
    """
    source = Path(folder)
    repository_of(repo)
    if not is_package(source):
        raise InputError(f"{source}: no package; make one with `gazelit package CKPT --out {source}`")
    model = load_package(source)
    if not model.is_of_simulated_films and not agreement_allows:
        raise InputError(
            f"{source}: its weights were trained on {model.stamp['data'].get('source', 'data it does not name')}, and "
            "fall under that data's agreement; read it, and add --agreement_allows if it lets you share them"
        )
    api = HfApi(library_name="gazelit", library_version=__version__)
    try:
        api.create_repo(repo, private=True, exist_ok=True)
        api.update_repo_settings(repo, gated=False if gated == "none" else gated, private=True)
        done = api.upload_folder(
            repo_id=repo,
            folder_path=source,
            allow_patterns=list(FILES),
            commit_message=f"Package made by gazelit {__version__}",
        )
        api.update_repo_settings(repo, private=not public)
    except LocalTokenNotFoundError as error:
        raise InputError("push: not logged in; run `hf auth login`, or set HF_TOKEN") from error
    except HfHubHTTPError as error:
        status = getattr(error.response, "status_code", "no answer")
        raise InputError(
            f"{repo}: the Hub refused ({status}); check that you are logged in with a token that may write there"
        ) from error
    except Exception as error:
        # The transport raises other errors in each version of huggingface_hub.
        raise InputError(
            f"{repo}: the Hub cannot be reached ({type(error).__name__}); nothing else was done"
        ) from error
    reach = "public" if public else "private"
    logger.info("%s: uploaded (%s, gated: %s), revision %s", repo, reach, gated, done.oid)
