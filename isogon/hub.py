"""Bundles on Hugging Face's hub: push and pull.

A repository contains the bundle's files and its model card, README.md. Only the files in
the manifest are pulled, and they become a bundle only if every hash is right.
"""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from isogon.bundle import MANIFEST, Bundle, require_absent
from isogon.bundle.card import model_card
from isogon.bundle.manifest import manifest_from_bytes
from isogon.errors import UsageError
from isogon.stage_imports import needing

_CARD = "README.md"


def push(
    bundle: str | Path | Bundle,
    repository: str,
    *,
    private: bool = True,
    message: str | None = None,
) -> str:
    """Upload a bundle and its model card to Hugging Face's hub, in one commit.

    The repository is created if it does not exist. The token is huggingface_hub's:
    `hf auth login`, or HF_TOKEN.

    Args:
        bundle: every hash is checked first.
        repository: "user/name" or "organisation/name".
        private: whether a new repository is private.
        message: of the commit; None: one with the bundle's name.

    Returns:
        The commit's address.

    Raises:
        BundleError: the bundle is damaged.
        UsageError: the hub does not answer, or refuses; the extra `hub` is missing.

    Example:
        >>> isogon.push("photos.isogon", "me/photos", message="The first student")
    """
    with needing("hub"):
        from huggingface_hub import CommitOperationAdd, HfApi

    opened = Bundle.open(bundle.path if isinstance(bundle, Bundle) else bundle)
    files = [MANIFEST, *opened.manifest.files]
    operations = [
        CommitOperationAdd(path_in_repo=name, path_or_fileobj=opened.path / name)
        for name in files
    ]
    card = model_card(opened).encode()
    operations.append(CommitOperationAdd(path_in_repo=_CARD, path_or_fileobj=card))
    api = HfApi(library_name="isogon")
    with _hub_errors(repository, "push to"):
        api.create_repo(repository, private=private, exist_ok=True)
        done = api.create_commit(
            repository,
            operations=operations,
            commit_message=message or f"Bundle {opened.manifest.name}",
        )
    return str(done.commit_url)


def pull(
    repository: str, *, output: str | Path | None = None, revision: str = "main"
) -> Bundle:
    """Download a bundle from Hugging Face's hub; it appears complete, or not at all.

    Args:
        repository: "user/name" or "organisation/name".
        output: the bundle to make; None: `NAME.isogon` in the current folder.
        revision: a branch, a tag or a commit.

    Raises:
        UsageError: `output` exists; the hub does not answer, or has no such bundle; the
            extra `hub` is missing.
        BundleError: the download is not an intact bundle.

    Example:
        >>> bundle = isogon.pull("me/photos")
    """
    with needing("hub"):
        from huggingface_hub import HfApi

    name = repository.rpartition("/")[2].removesuffix(".isogon")
    output = Path(output or f"{name}.isogon")
    require_absent(output)
    output.parent.mkdir(parents=True, exist_ok=True)
    api = HfApi(library_name="isogon")
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=f".{output.name}.") as place:
        folder = Path(place) / output.name
        with _hub_errors(repository, "pull from"):
            commit = str(api.model_info(repository, revision=revision).sha)
            first = api.hf_hub_download(
                repository, MANIFEST, revision=commit, local_dir=folder
            )
            content = Path(first).read_bytes()
            for name in manifest_from_bytes(content, where=repository).files:
                api.hf_hub_download(repository, name, revision=commit, local_dir=folder)
        shutil.rmtree(folder / ".cache", ignore_errors=True)  # files of the hub's client
        Bundle.open(folder)  # checks every hash
        folder.rename(output)
    return Bundle.open(output)


@contextmanager
def _hub_errors(repository: str, doing: str) -> Iterator[None]:
    """Turn errors of the hub's client into one sentence.

    Raises:
        UsageError: the hub does not answer, or refuses.
    """
    from huggingface_hub import constants

    # HTTPError is that of its HTTP client.
    from huggingface_hub.errors import (  # type: ignore[attr-defined]
        HfHubHTTPError,
        HFValidationError,
        HTTPError,
    )

    try:
        yield
    except HFValidationError as error:
        raise UsageError(
            f"Expected a repository as user/name, got {repository!r}."
        ) from error
    except HfHubHTTPError as error:
        reason = str(error).splitlines()[0]
        raise UsageError(
            f"The hub at {constants.ENDPOINT} refused the {doing} {repository}: "
            f"{reason}. Check the name, and your token with `hf auth whoami`."
        ) from error
    except (HTTPError, OSError) as error:
        raise UsageError(
            f"The hub at {constants.ENDPOINT} does not answer: {error}. HF_ENDPOINT names "
            f"the hub."
        ) from error
