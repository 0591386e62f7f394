"""The network that an operation is given, in any of its forms.

A network in hand stays what it is, its weights included. It is never loaded again by its name, so
what a plan or table says of its network can only be compared with it.
"""

from __future__ import annotations

from collections.abc import Mapping

from dshrink.errors import NetworkError
from dshrink.network.models import Network, load
from dshrink.network.references import Known, ModelChoice
from dshrink.operations.known import known_size
from dshrink.progress import Notice, no_notice

#: A network in hand, all that decides one, or a name as the commands take it.
AnyNetwork = Network | ModelChoice | str


def opened(network: AnyNetwork, *known: Known | None, notice: Notice = no_notice) -> Network:
    """The network; a name is loaded for what ``known`` say of it.

    Raises NetworkError where a network in hand is for other images than they are.
    """
    if not isinstance(network, Network):
        return load(chosen(network).knowing(*known), notice)
    for one in known:
        if one is not None:
            _require(network, one)
    return network


def chosen(network: ModelChoice | str) -> ModelChoice:
    """A name as a choice. Raises NetworkError for what is neither."""
    if isinstance(network, ModelChoice):
        return network
    if isinstance(network, str):
        return ModelChoice(model=network)
    raise NetworkError(
        f"{type(network).__name__} is no network: give a name, or what dshrink.load_network makes "
        "of a module"
    )


def size_of_weights(network: AnyNetwork) -> Known | None:
    """The image size that a choice's weights were trained for, where they are a file of ours."""
    return None if isinstance(network, Network) else known_size(chosen(network).weights)


def name_of(network: AnyNetwork) -> str:
    """What tables and plans call it."""
    return network.name if isinstance(network, Network) else chosen(network).name


def _require(network: Network, known: Known) -> None:
    channels, height, width = network.spec.input_shape
    found: Mapping[str, object] = {"resolution": (height, width), "in_channels": channels}
    for field, is_now in found.items():
        wanted = getattr(known, field)
        if wanted is not None and wanted != is_now:
            raise NetworkError(
                f"{network.name} was loaded with {field}={is_now}, {known.whose} is for {wanted}: "
                f"load it again with {field}={wanted}"
            )
