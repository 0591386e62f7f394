"""Published weights that cannot be downloaded: said in seconds, and those kept here still load.

The hub's client tries a host that it cannot reach six times, with pauses, for most of a minute, and
no setting of its own says otherwise. So the host is asked first, and where it does not answer, the
client is told to look at what it has kept.
"""

from __future__ import annotations

import importlib
import logging
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, TypeVar
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from dshrink.errors import NetworkError, first_line
from dshrink.network.references import ModelChoice, Source
from dshrink.network.tracing import import_torchvision_models

Made = TypeVar("Made")

#: So long a host may take to answer, its name to be looked up included.
PATIENCE_S = 5.0


def downloaded(choice: ModelChoice, make: Callable[[], Made]) -> Made:
    """What a library makes of a download, or of what it has kept of one.

    Raises NetworkError, one line that says what to do.
    """
    at_torchvision = choice.reference.source is Source.TORCHVISION
    url = torchvision_url(choice.reference.place) if at_torchvision else hub_url()
    # A folder of transformers' is here already.
    asking = nullcontext("") if choice.reference.is_file else short_of(url)
    with quiet(), asking as missing:
        try:
            return make()
        except Exception as error:  # each library has its own way to say it
            kept = "~/.cache/torch/hub" if at_torchvision else "~/.cache/huggingface"
            raise NetworkError(
                f"{choice.name}: pre-trained weights cannot be downloaded "
                f"({missing or first_line(error)[:160]}); download them elsewhere and give the "
                f"file, --weights FILE.safetensors, or copy {kept} of a machine that has them"
            ) from error


@contextmanager
def quiet() -> Iterator[None]:
    """Without the log: the hub's client logs every retry, of which one error comes."""
    logging.disable(logging.ERROR)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


def hub_url() -> str:
    """Where the hub's client downloads from: HF_ENDPOINT, else huggingface.co."""
    return str(_hub().ENDPOINT)


def torchvision_url(name: str) -> str:
    """Where torchvision downloads the weights of a network from."""
    weights = import_torchvision_models().get_model_weights(name)
    return str(next(iter(weights)).url)


def _hub() -> Any:
    return importlib.import_module("huggingface_hub.constants")


def unreachable(url: str, patience_s: float = PATIENCE_S) -> str:
    """Why no server answers at ``url``, through the proxy if there is one; empty where one does."""
    found: list[str] = []

    def ask() -> None:
        try:
            urlopen(Request(url, method="HEAD"), timeout=patience_s).close()
        except HTTPError:
            found.append("")  # it answered
        except URLError as error:
            # Clients have certificates of their own to trust.
            is_answer = isinstance(error.reason, ssl.SSLError)
            found.append("" if is_answer else str(error.reason))
        except (OSError, ValueError) as error:
            found.append(str(error))
        else:
            found.append("")

    # The look-up of a name has no time limit of its own.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(patience_s)
    return found[0] if found else f"no answer in {patience_s:g} s"


@contextmanager
def short_of(url: str) -> Iterator[str]:
    """Downloads from ``url`` that do not wait for what cannot be reached.

    Yields why it cannot, or an empty text; then the hub's client uses what it has kept.
    """
    hub = _hub()
    if hub.HF_HUB_OFFLINE and url == hub_url():
        yield "HF_HUB_OFFLINE is set"
        return
    reason = unreachable(url)
    if not reason:
        yield ""
        return
    before = hub.HF_HUB_OFFLINE, socket.getdefaulttimeout()
    hub.HF_HUB_OFFLINE = True
    socket.setdefaulttimeout(PATIENCE_S)
    try:
        yield f"{url.partition('://')[2]} cannot be reached: {reason}"
    finally:
        hub.HF_HUB_OFFLINE = before[0]
        socket.setdefaulttimeout(before[1])
