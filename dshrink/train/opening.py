"""A data set and a network, opened for one another: every command that reads images begins so.

The network says how many channels its images have, and the images how many classes it tells apart.
"""

from __future__ import annotations

from dshrink.network.models import Network
from dshrink.train.data import Images, open_images, preprocessing_of
from dshrink.train.feed import Feed
from dshrink.train.network import check_classes, load_for
from dshrink.train.settings import Training
from dshrink.train.unreadable import Unreadable, UnreadableImages

#: Colours; the images of a network that wants another number of channels are opened anew.
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
    preprocessing = preprocessing_of(network.name, network.resolution, network.spec.input_shape[0])
    missing = UnreadableImages(unreadable)
    return Feed(images=images, preprocessing=preprocessing, settings=settings, unreadable=missing)


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
