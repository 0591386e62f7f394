"""A network that tells the classes of a data set apart."""

from __future__ import annotations

from pathlib import Path

from dshrink.errors import NetworkError, WeightsMisfitError
from dshrink.network.models import Network, load_network
from dshrink.train.data import Images


def load_for(
    images: Images,
    model: str,
    *,
    resolution: int | tuple[int, int] = 224,
    weights: str = "initial",
    seed: int = 0,
) -> Network:
    """The network with as many outputs as there are classes; ``weights`` as in ``load_network``.

    Raises NetworkError, also where the weights are those of other classes.
    """
    classes = len(images.classes)
    drawn = weights in ("initial", "random")
    known = drawn or weights == "pretrained"
    try:
        network = load_network(
            model,
            resolution=resolution,
            weights=weights if known else Path(weights),
            seed=seed,
            classes=None if weights == "pretrained" else classes,
        )
    except WeightsMisfitError as error:
        raise NetworkError(f"{error}; {images.data} has {classes} classes") from error
    check_classes(images, network, weights)
    return network


def check_classes(images: Images, network: Network, weights: str) -> None:
    """Raise NetworkError unless the network has as many outputs as there are classes."""
    classes, outputs = len(images.classes), network.spec.shapes[-1][0]
    if outputs != classes:
        raise NetworkError(
            f"{images.data} has {classes} classes, the {weights} weights of {network.name} tell "
            f"{outputs} apart: give the data that they were trained on, or --weights FILE trained "
            "on these"
        )
