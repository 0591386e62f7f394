"""Training in processes of its own: ``killed PICTURES OUT``, or ``shared PICTURES BROKEN OUT``."""

from __future__ import annotations

import errno
import json
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

import torch

from dshrink.cli.main import app
from dshrink.network.mask_changes import rewriting
from dshrink.network.models import Network, load_network
from dshrink.train.errors import CheckpointError
from dshrink.train.feed import Feed
from dshrink.train.finetune import FineTuned, finetune
from dshrink.train.image_sets import open_images, preprocessing_of
from dshrink.train.settings import Augmentation, Training

MODEL, MASK = "test_resnet", "1010"
SETTINGS = Training(
    epochs=2,
    batch=8,
    learning_rate=0.02,
    checkpoint_steps=1,
    augmentation=Augmentation(auto_augment=""),
)
#: The second epoch is without activations from its first step.
PROGRESSIVE = replace(SETTINGS, fade_epochs=1, block_distillation=0.5)


def feed_of(pictures: Path, settings: Training = SETTINGS) -> Feed:
    return Feed(
        images=open_images(pictures),
        preprocessing=preprocessing_of(MODEL, (32, 32)),
        settings=settings,
    )


def the_network() -> Network:
    return load_network(MODEL, resolution=32, classes=3)


def tuned(feed: Feed, out: Path, **more: object) -> FineTuned:
    network = the_network()
    return finetune(network, rewriting(network, MASK), feed, out, **more)


def killed(pictures: Path, out: Path) -> None:
    """Ends as the machine ends a process, in the middle of the second epoch."""

    def kill(done: int, total: int, label: str) -> None:
        if done == 5:
            os.kill(os.getpid(), signal.SIGKILL)

    tuned(feed_of(pictures), out, progress=kill)


def shared(pictures: Path, broken: Path, out: Path) -> None:
    """What two processes do together; OUT/RANK.json takes what each of them found.

    Standard output takes what the command prints.
    """
    options = ["--epochs", "2", "--batch", "8", "--lr", "0.02", "--resolution", "32", "--json"]
    words = ["finetune", MODEL, "--plan", f"mask:{MASK}", "--weights", "initial", *options]
    app([*words, "--data", str(pictures), "--out", str(out / "plain")], standalone_mode=False)
    rank = int(os.environ["RANK"])
    tuned(feed_of(pictures, PROGRESSIVE), out / "progressive")
    tuned(feed_of(pictures, replace(SETTINGS, ema=0.6)), out / "average")
    feed, notices = feed_of(broken, replace(SETTINGS, epochs=1)), []
    tuned(feed, out / "broken", notice=notices.append)
    reasons = list(feed.unreadable.reasons)
    try:
        tuned(feed, out / ("broken" if rank == 0 else "elsewhere"))
        error = ""
    except CheckpointError as refusal:
        error = str(refusal)
    full = full_disk(feed_of(pictures), out / "full", rank)
    found = {"notices": notices, "unreadable": reasons, "error": error, "full": full}
    (out / f"{rank}.json").write_text(json.dumps(found))


def full_disk(feed: Feed, out: Path, rank: int) -> str:
    """What a run says whose first process, which writes, has no room for a checkpoint."""
    really = os.fsync

    def full(descriptor: int) -> None:
        if rank == 0 and "/.checkpoint.json." in str(
            Path(f"/proc/self/fd/{descriptor}").readlink()
        ):
            raise OSError(errno.ENOSPC, "No space left on device")
        really(descriptor)

    os.fsync = full
    try:
        tuned(feed, out)
    except OSError as error:
        return str(error)
    finally:
        os.fsync = really
    return ""


if __name__ == "__main__":
    torch.set_num_threads(1)
    {"killed": killed, "shared": shared}[sys.argv[1]](*map(Path, sys.argv[2:]))
