"""A data set and a network, opened for one another: every command that reads images begins so.

The network has as many inputs as the images have channels, and an output for each of their classes.
"""

from __future__ import annotations

from dataclasses import replace

from dshrink.errors import NetworkError, WeightsMisfitError
from dshrink.network.models import Network, load
from dshrink.network.references import Known, ModelChoice, Reference, Source
from dshrink.progress import Notice, no_notice
from dshrink.train.feed import Feed
from dshrink.train.image_sets import (
    Images,
    Preprocessing,
    is_labelled,
    open_images,
    open_unlabelled,
    preprocessing_of,
)
from dshrink.train.settings import Training
from dshrink.train.unreadable import Unreadable, UnreadableImages

#: Images at once where nothing is trained.
VALIDATION_BATCH = 64


def open_both(data: str, choice: ModelChoice, notice: Notice = no_notice) -> tuple[Images, Network]:
    """Images, and the network with as many outputs as they have classes.

    Raises DataError and NetworkError.
    """
    images = open_images(data, choice.channels)
    network = load_for(images, choice, notice)
    # Weights and files may know of other channels than the usual ones.
    if (channels := network.spec.input_shape[0]) != choice.channels:
        images = open_images(data, channels)
    return images, network


def require_trainable(choice: ModelChoice, settings: Training | None = None) -> None:
    """Raise NetworkError for a network whose trained weights could not be given back.

    With ``settings`` also TrainError where they ask for a tracker that is not installed.
    """
    if choice.reference.source is Source.ONNX:
        raise NetworkError(
            f"{choice.name}: an ONNX file is not trained here, for its weights could not go back "
            "into it: train the network in PyTorch (FILE.py:FACTORY), and export it again"
        )
    if settings is not None and settings.log_with:
        from dshrink.train.trackers import require_trackers  # Accelerate takes a second to import

        require_trackers(settings.log_with)


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

    A folder without ``train/`` and ``val/`` has images without labels. Raises DataError, and
    NetworkError where its outputs are not the classes of the images.
    """
    channels = network.spec.input_shape[0]
    labelled = is_labelled(data)
    if labelled:
        images = open_images(data, channels)
        check_classes(images, network, weights)
    else:
        split, _ = open_unlabelled(data, channels)
        images = Images(data=data, train=split, validation=split, classes=())
    batch = min(VALIDATION_BATCH, len(images.train))
    feed = feed_of(images, network, Training(batch=batch, loaders=loaders), unreadable)
    return replace(feed, labelled=labelled)


def load_for(images: Images, choice: ModelChoice, notice: Notice = no_notice) -> Network:
    """The network with as many outputs as there are classes.

    Raises NetworkError, also where the weights are those of other classes.
    """
    classes = len(images.classes)
    if choice.reference.takes_classes and choice.weights != "pretrained":
        choice = choice.knowing(Known(whose=images.data, classes=classes))
    try:
        network = load(choice, notice)
    except WeightsMisfitError as error:
        raise NetworkError(f"{error}; {images.data} has {classes} classes") from error
    check_classes(images, network, choice.weights)
    return network


def check_classes(images: Images, network: Network, weights: str) -> None:
    """Raise NetworkError unless the network has as many outputs as there are classes."""
    classes, outputs = len(images.classes), network.spec.shapes[-1][0]
    if outputs != classes and not Reference.parse(network.name.partition(" ")[0]).takes_classes:
        raise NetworkError(
            f"{images.data} has {classes} classes, {network.name} has {outputs} outputs: make it "
            f"with {classes}, as by --model-arg KEY={classes}"
        )
    if outputs != classes:
        raise NetworkError(
            f"{images.data} has {classes} classes, the {weights} weights of {network.name} "
            f"have {outputs}: give the data that they were trained on, or --weights FILE "
            "trained on these"
        )
