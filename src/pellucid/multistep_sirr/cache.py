"""Where other people's weights may already lie on this machine. Nothing is ever downloaded from here."""

import os
from collections.abc import Sequence
from pathlib import Path

import torch

from pellucid.errors import WeightsError


def cache_folders() -> list[Path]:
    """Return the folders that are looked into: ours (``PELLUCID_CACHE`` names another one), then torch.hub's."""
    home = os.environ.get("PELLUCID_CACHE")
    if not home:
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pellucid"
    return [Path(home), Path(torch.hub.get_dir()) / "checkpoints"]


def find_cached(patterns: Sequence[str]) -> Path | None:
    """Return the first file in the cache folders whose name matches one of the glob patterns, or None."""
    for folder in cache_folders():
        for pattern in patterns:
            for file in sorted(folder.glob(pattern)):
                if file.is_file():
                    return file
    return None


def require_weights(what: str, given: str | Path | None, patterns: Sequence[str]) -> Path:
    """Return the file a user named, or the one in the cache.

    Args:
        what: the network, for the message.
        given: the user's file; None to look into the cache folders.
        patterns: names the published file has, as glob patterns.

    Raises:
        WeightsError: there is no such file.
    """
    if given is not None:
        file = Path(given).expanduser()
        if file.is_file():
            return file
        raise WeightsError(f"weights of {what}: {file} is not a file")
    found = find_cached(patterns)
    if found is None:
        where = " or ".join(str(folder) for folder in cache_folders())
        raise WeightsError(
            f"no weights of {what}: looked for {', '.join(patterns)} in {where}",
            "put the published file there or name it; it is never downloaded",
        )
    return found
