"""Files of public data sets, fetched once from a pinned address and checked."""

from __future__ import annotations

import hashlib
import http.client
import os
import urllib.error
import urllib.request
from pathlib import Path

from huggingface_hub import constants
from huggingface_hub.errors import HTTPError

from ctsft.errors import UserError
from ctsft.storage import write_atomic

TIMEOUT = 60  # seconds without a byte
HUB_ERRORS = (OSError, HTTPError)  # refusals of the hub are both; a lost connection is its client's HTTPError alone


def hub_answers() -> bool:
    """Whether the hub can be reached; else its files come from the local cache.

    Asked before the hub's own client is used: that waits without end for a hub that takes a connection and is silent.
    """
    if constants.HF_HUB_OFFLINE:
        return False
    try:
        with urllib.request.urlopen(constants.ENDPOINT, timeout=constants.HF_HUB_ETAG_TIMEOUT):
            return True
    except urllib.error.HTTPError:
        return True
    except ValueError as error:
        raise UserError(f"HF_ENDPOINT is '{constants.ENDPOINT}'; an address begins with https://.") from error
    except (OSError, http.client.HTTPException):
        return False


def decode(content: bytes, where: str) -> str:
    """The text of a file, which must be UTF-8."""
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UserError(f"{where}, line {line}: not UTF-8 ({error.reason}). Save the file as UTF-8.") from error


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
