"""Files of public data sets, fetched once from a pinned address and checked."""

from __future__ import annotations

import hashlib
import os
import urllib.error
import urllib.request
from pathlib import Path

from ctsft.errors import UserError
from ctsft.storage import write_atomic


def fetch(url: str, sha256: str | None) -> Path:
    """The file behind `url`, from the cache or the network; content of another sha256 is refused and removed.

    None: the address names a commit, but no hash was published; the study records the one it got.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "ctsft"
    path = cache / hashlib.sha256(url.encode()).hexdigest()[:12] / url.rsplit("/", 1)[1]
    if not path.is_file():
        try:
            with urllib.request.urlopen(url, timeout=60) as response:
                write_atomic(path, response.read())
        except (urllib.error.URLError, TimeoutError) as error:
            raise UserError(
                f"cannot download {url}: {error}. Give a folder that holds the data with --data-dir (or "
                "CTSFT_DATA_DIR), and a local model with --model."
            ) from error
    actual = hashlib.sha256(path.read_bytes()).hexdigest()
    if sha256 is not None and actual != sha256:
        path.unlink()
        raise UserError(f"{url} has sha256 {actual}, not the published {sha256}. It was removed; try again.")
    return path
