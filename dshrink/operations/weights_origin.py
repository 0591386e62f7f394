"""How the weights that are to be merged were trained, as far as they or their source say."""

from __future__ import annotations

import shlex

from dshrink.merge.activations import WeightsOrigin
from dshrink.network.references import ModelChoice, Source
from dshrink.network.weights.metadata import WeightsAbout
from dshrink.train.image_sets import is_labelled


def origin_of(
    choice: ModelChoice, trained: WeightsAbout | None, plan: str, data: str | None = None
) -> WeightsOrigin:
    """The origin of ``choice``'s weights; ``trained`` is what a file of ours says of itself.

    ``plan`` is what they are to be merged by and ``data`` the images, as they were given.
    """
    source, weights = choice.reference.source, choice.weights
    if source is Source.ONNX:
        return WeightsOrigin(
            trained="with",
            whose=f"the weights in {choice.name}",
            advice=(
                "an ONNX file is not trained here: refit or fine-tune the network in PyTorch "
                "(MODEL as FILE.py:FACTORY)",
            ),
        )
    if weights == "random" or (weights == "initial" and source is not Source.FACTORY):
        return WeightsOrigin(trained="never", whose=f"{weights} weights")
    if trained is not None and trained.padding:
        return WeightsOrigin(trained="without", whose=weights)
    whose = {"pretrained": "the pretrained weights", "initial": f"the weights of {choice.name}"}
    return WeightsOrigin(
        trained="with" if weights == "pretrained" or trained is not None else "unknown",
        whose=whose.get(weights, weights),
        advice=_advice(choice, plan, data),
    )


def _advice(choice: ModelChoice, plan: str, data: str | None) -> tuple[str, ...]:
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
    if choice.weights not in ("initial", "random"):  # a refit wants weights known to be trained
        refit = ["dshrink", "refit", *words, "--data", data or "DIR", "--out", "refit"]
        ways.insert(0, f"fit it to images without labels: {shlex.join(refit)}")
    return tuple(ways)
