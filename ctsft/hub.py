"""Whether the hub can be asked, and how it refuses."""

from __future__ import annotations

import http.client
import urllib.error
import urllib.request

from huggingface_hub import constants
from huggingface_hub.errors import HTTPError

from ctsft.errors import UserError

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
