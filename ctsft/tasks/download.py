"""Files of public data sets, fetched once from a pinned address and checked."""

from __future__ import annotations

import hashlib
import http.client
import os
import urllib.request
from pathlib import Path

from ctsft.errors import UserError
from ctsft.storage import write_atomic

TIMEOUT = 60  # seconds without a byte


def fetch(url: str, sha256: str | None) -> Path:
    """The file behind `url`, from the cache or the network; content of another sha256 is refused and removed.

    None: the address names a commit, but no hash was published; the study records the one it got.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "ctsft"
    path = cache / hashlib.sha256(url.encode()).hexdigest()[:12] / url.rsplit("/", 1)[1]
    if not path.is_file():
        try:
            with urllib.request.urlopen(url, timeout=TIMEOUT) as response:
                content = response.read()
        except (OSError, http.client.HTTPException) as error:
            raise UserError(
                f"cannot download {url}: {error}. Give a folder that holds the data with --data-dir (or "
                "CTSFT_DATA_DIR), and a local model with --model."
            ) from error
        write_atomic(path, content)
    actual = hashlib.sha256(path.read_bytes()).hexdigest()
    if sha256 is not None and actual != sha256:
        path.unlink()
        raise UserError(f"{url} has sha256 {actual}, not the published {sha256}. It was removed; try again.")
    return path
