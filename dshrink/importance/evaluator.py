"""Evaluating networks one after another: the original rewritten as a candidate says, then tuned.

Every candidate is evaluated from the same seed on the same batches, so that its scores depend
neither on the order nor on the process, and differences between candidates are not luck.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import torch
from torch import fx

from dshrink.errors import DshrinkError
from dshrink.importance.evaluation import Evaluation, Platform
from dshrink.importance.settings import RECALIBRATE, REFIT, Candidate, ImportanceSettings
from dshrink.merge.unmerged import unmerged_module
from dshrink.network.mask_changes import rewriting
from dshrink.network.models import weights_digest
from dshrink.network.precision import exact_float32
from dshrink.network.torch_device import best_device
from dshrink.pieces.span_pieces import span_pieces
from dshrink.refit.images import CalibrationImages, calibration_images
from dshrink.refit.network_refit import refit_network
from dshrink.train.batches import Batches, ImageDataset, Indices, sampled, shuffled
from dshrink.train.finetune import PADDING
from dshrink.train.opening import open_both, preprocessing_for
from dshrink.train.settings import Augmentation
from dshrink.train.tuning import Score, evaluate, prepared, recalibrate, tune
from dshrink.train.unreadable import UnreadableImages
from dshrink.version import __version__
from latency_tables.pieces import NetworkPieces
from latency_tables.span_masks import SpanChain

#: How an image is augmented before a network is tuned on it: timm's random crops and flips alone.
CROPS_AND_FLIPS = Augmentation(auto_augment="", crop_scale=(0.08, 1.0), flip=0.5, color_jitter=0.0)


class Evaluator:
    """A network and its images, ready to evaluate candidates on a GPU where there is one.

    ``said`` is what to know of the weights; ``unreadable`` collects the images that could not be
    read, where that is no reason to stop. Raises DataError for images that cannot be used,
    NetworkError for weights that do not fit them.
    """

    def __init__(self, settings: ImportanceSettings) -> None:
        self.settings = settings
        self.said: list[str] = []
        self.device = best_device()
        self.images, self.network = open_both(settings.data, settings.choice, self.said.append)
        images = self.images
        preprocessing = self._preprocessing = preprocessing_for(self.network)
        self.unreadable = UnreadableImages(settings.unreadable)
        count, batch, seed = len(images.train), settings.batch, settings.seed
        transform = preprocessing.transform(CROPS_AND_FLIPS if settings.augment else None)
        self.training = self._batches(
            ImageDataset(images.train, transform, seed, replace=True),
            shuffled(count, batch, settings.level.batches(count, batch), seed),
        )
        self.validation = self._batches(
            ImageDataset(images.validation, preprocessing.transform(None), seed, replace=False),
            sampled(len(images.validation), batch, settings.images, seed),
        )

    def _batches(self, dataset: ImageDataset, indices: Indices) -> Batches:
        return Batches(
            dataset=dataset,
            indices=indices,
            workers=self.settings.loaders,
            unreadable=self.unreadable,
        )

    @cached_property
    def identity(self) -> dict[str, Any]:
        """What the scores depend on; journals and workers compare it."""
        return {
            **self.settings.identity,
            "weights": weights_digest(self.network.module),
            "data": self.images.digest,
        }

    @cached_property
    def platform(self) -> Platform:
        """What scores are computed with; a journal may hold those of several machines."""
        gpu = self.device.type == "cuda"
        name = torch.cuda.get_device_name(self.device) if gpu else self.device.type
        return Platform(device=name, torch=str(torch.__version__), dshrink=__version__)

    @cached_property
    def pieces(self) -> NetworkPieces:
        """The network cut into the spans that are asked for."""
        return span_pieces(self.network, mode=self.settings.span_mode)

    @property
    def chain(self) -> SpanChain:
        """The convolutions of the network that the spans are made of."""
        assert self.pieces.chain is not None
        return self.pieces.chain

    def evaluate(self, candidate: Candidate) -> Evaluation:
        """The scores of a candidate. What fails for it alone is a reason, not an error."""
        start = time.perf_counter()
        result: dict[str, Any]
        try:
            with self._seeded():
                train, validation = self._scores(candidate)
        except (DshrinkError, RuntimeError, MemoryError) as error:
            # RuntimeError: torch's word for a GPU that is out of memory, among others.
            reason = " ".join(str(error).split()) or type(error).__name__
            result = {"reason": reason[:500]}
        else:
            result = {
                **{"train_loss": train.loss, "train_accuracy": train.accuracy},
                **{"val_loss": validation.loss, "val_accuracy": validation.accuracy},
                "unreadable": len(self.unreadable.reasons),
            }
        seconds = round(time.perf_counter() - start, 3)
        return Evaluation(candidate=candidate, seconds=seconds, platform=self.platform, **result)

    def _scores(self, candidate: Candidate) -> tuple[Score, Score]:
        training = prepared(self.training, self._preprocessing, self.device)
        settings = self.settings
        refits = candidate.tuned and settings.level.kind == REFIT
        module = self._refitted(candidate) if refits else self._module(candidate).to(self.device)
        if refits or not candidate.tuned:
            seen = evaluate(module, training)
        elif settings.level.kind == RECALIBRATE:
            seen = recalibrate(module, training)
        else:
            seen = tune(
                module,
                training,
                len(self.training),
                learning_rate=settings.learning_rate,
                weight_decay=settings.weight_decay,
            )
        return seen, evaluate(module, prepared(self.validation, self._preprocessing, self.device))

    def _refitted(self, candidate: Candidate) -> fx.GraphModule:
        """The merged network: only what changes is fitted, so that a key pays for itself."""
        calibration = self._calibration
        return refit_network(
            self.network,
            rewriting(self.network, candidate.mask, segments="spans"),
            calibration.fit,
            calibration.held_out,
            padding=PADDING,
            merged_only=True,
        ).module

    @cached_property
    def _calibration(self) -> CalibrationImages:
        self.network.module.to(self.device)
        return calibration_images(
            self.images.train,
            self._preprocessing,
            count=self.settings.level.count,
            seed=self.settings.seed,
            device=self.device,
            loaders=self.settings.loaders,
            unreadable=self.unreadable,
        )

    def _module(self, candidate: Candidate) -> fx.GraphModule:
        changes = rewriting(self.network, candidate.mask, segments="spans")
        module = unmerged_module(self.network, changes)
        if candidate.reinitialised:
            conv = self.network.chain.body[candidate.reinitialised - 1]
            for name in self.network.lowered.modules[conv.op]:
                module.get_submodule(name).reset_parameters()  # type: ignore[operator]
        return module

    @contextmanager
    def _seeded(self) -> Iterator[None]:
        """The same random numbers for every candidate (a re-initialised layer, dropout)."""
        gpus = [torch.cuda.current_device()] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices=gpus), exact_float32(deterministic=True):
            torch.manual_seed(self.settings.seed)
            yield
