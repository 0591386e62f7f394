"""A data set and a network, opened for one another: every command that reads images begins so.

The network has as many inputs as the images have channels, and an output for each of their classes.
"""

from __future__ import annotations

from pathlib import Path

from dshrink.errors import NetworkError, WeightsMisfitError
from dshrink.network.models import Network, load_network
from dshrink.train.feed import Feed
from dshrink.train.image_sets import Images, Preprocessing, open_images, preprocessing_of
from dshrink.train.settings import Training
from dshrink.train.unreadable import Unreadable, UnreadableImages

#: Colours; the images of a network that wants another number of channels are opened again.
CHANNELS = 3
#: Images at once where nothing is trained.
VALIDATION_BATCH = 64


def open_both(
    data: str,
    model: str,
    *,
    resolution: int | tuple[int, int] = 224,
    weights: str = "pretrained",
    seed: int = 0,
) -> tuple[Images, Network]:
    """Images, and the network with as many outputs as they have classes.

    ``weights`` and ``seed`` as in ``load_network``. Raises DataError and NetworkError.
    """
    images = open_images(data, CHANNELS)
    network = load_for(images, model, resolution=resolution, weights=weights, seed=seed)
    if (channels := network.spec.input_shape[0]) != CHANNELS:
        images = open_images(data, channels)
    return images, network


def feed_of(
    images: Images,
    network: Network,
    settings: Training,
    unreadable: Unreadable = Unreadable.SKIP,
) -> Feed:
    """The images as the network reads them. Raises TrainError where they make no batch."""
    return Feed(
        images=images,
        preprocessing=preprocessing_for(network),
        settings=settings,
        unreadable=UnreadableImages(unreadable),
    )


def preprocessing_for(network: Network) -> Preprocessing:
    """How images become the input of a network."""
    return preprocessing_of(network.name, network.resolution, network.spec.input_shape[0])


def open_to_validate(
    data: str,
    network: Network,
    *,
    weights: str,
    loaders: int = 0,
    unreadable: Unreadable = Unreadable.SKIP,
) -> Feed:
    """The images as a network reads them that is loaded already, from ``weights``; no training.

    Raises DataError, and NetworkError where its outputs are not the classes of the images.
    """
    images = open_images(data, network.spec.input_shape[0])
    check_classes(images, network, weights)
    batch = min(VALIDATION_BATCH, len(images.train))
    return feed_of(images, network, Training(batch=batch, loaders=loaders), unreadable)


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
            f"{images.data} has {classes} classes, the {weights} weights of {network.name} "
            f"have {outputs}: give the data that they were trained on, or --weights FILE "
            "trained on these"
        )
