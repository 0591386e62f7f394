"""How the weights that are to be merged were trained, as far as they or their source say."""

from __future__ import annotations

import shlex

from dshrink.merge.activations import WeightsOrigin
from dshrink.network.models import OWN, Network
from dshrink.network.onnx_files.source import source_of
from dshrink.network.references import ModelChoice, Reference, Source
from dshrink.operations.opening import AnyNetwork, chosen
from dshrink.train.image_sets import is_labelled


def origin_of(
    network: Network, given: AnyNetwork, plan: str, data: str | None = None
) -> WeightsOrigin:
    """The origin of the weights of ``network``, which was ``given`` in any form.

    ``plan`` is what they are to be merged by and ``data`` the images, as they were given.
    """
    name, weights = network.name, network.weights
    if source_of(network.module):
        return WeightsOrigin(
            trained="with",
            whose=f"the weights in {name}",
            advice=(
                "an ONNX file is not trained here: refit or fine-tune the network in PyTorch "
                "(MODEL as FILE.py:FACTORY)",
            ),
        )
    if weights == "random" or (weights == "initial" and not _comes_with_weights(network)):
        return WeightsOrigin(trained="never", whose=f"{weights} weights")
    trained = network.trained
    if trained is not None and trained.padding:
        return WeightsOrigin(trained="without", whose=weights)
    whose = {"pretrained": "the pretrained weights"}
    whose |= dict.fromkeys(("initial", OWN), f"the weights of {name}")
    known = weights == "pretrained" or trained is not None
    return WeightsOrigin(
        trained="with" if known else "unknown",
        whose=whose.get(weights, weights),
        advice=_CALLS if isinstance(given, Network) else _commands(chosen(given), plan, data),
    )


def _comes_with_weights(network: Network) -> bool:
    """Whether initial weights are what a factory gives, which may be trained ones."""
    first = network.name.partition(" ")[0]  # arguments follow
    return network.weights == OWN or Reference.parse(first).source is Source.FACTORY


_CALLS = (
    "fit it to images without labels: dshrink.refit_by_plan(network, plan, data, folder)",
    "fine-tune it: dshrink.finetune_by_plan(network, plan, data, folder)",
)


def _commands(choice: ModelChoice, plan: str, data: str | None) -> tuple[str, ...]:
    """The commands that make the weights fit, to copy."""
    asked = {
        "--resolution": choice.resolution and str(choice.size),
        "--in-channels": choice.in_channels,
        "--classes": choice.classes,
    }
    words = [*choice.words, "--plan", plan]
    if choice.weights != "pretrained":
        words += ["--weights", choice.weights]
    if choice.weights_ema:
        words.append("--weights-ema")
    words += [word for name, value in asked.items() if value for word in (name, str(value))]
    labelled = data if data and is_labelled(data) else "DIR"
    tune = ["dshrink", "finetune", *words, "--data", labelled, "--out", "tuned"]
    ways = [f"fine-tune it: {shlex.join(tune)}"]
    if choice.weights != "initial":  # a refit wants weights that are known to be trained
        refit = ["dshrink", "refit", *words, "--data", data or "DIR", "--out", "refit"]
        ways.insert(0, f"fit it to images without labels: {shlex.join(refit)}")
    return tuple(ways)
