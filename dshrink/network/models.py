"""A network, traced and lowered: the one way in which networks come in.

By a ``ModelChoice``, which says in words what to make, or as a module that is there already. What
is kept is a copy in eval mode and float32: the module of the caller is not touched.
"""

from __future__ import annotations

import copy
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch
from torch import fx, nn

from dshrink.errors import NetworkError, first_line
from dshrink.network.blocks import Block, find_blocks
from dshrink.network.chain import Chain, make_chain
from dshrink.network.large_images import FEW_PIXELS, notice_large_images
from dshrink.network.lowering import LoweredNetwork, lower
from dshrink.network.onnx_files.reader import read_onnx
from dshrink.network.onnx_files.source import open_onnx
from dshrink.network.references import (
    IN_MEMORY,
    NAMED_WEIGHTS,
    USUAL_CHANNELS,
    USUAL_SIDE,
    Known,
    ModelChoice,
    Size,
    Source,
    expanded,
)
from dshrink.network.sources import check_options, create, folders_of
from dshrink.network.tracing import trace
from dshrink.network.user_code import importing_from, user_code_error
from dshrink.network.weights.metadata import WeightsAbout, about_weights, known_of_weights
from dshrink.network.weights.state_dicts import load_state, load_weights
from dshrink.progress import Notice, no_notice
from latency_tables.opspec import OpSpec, OpSpecError

#: ``Network.weights`` of a module that came with its own.
OWN = "own"


@dataclass(frozen=True, kw_only=True)
class Network:
    """A network with its graph. ``module`` holds the weights, ``lowered`` the structure.

    ``weights`` says where they are from: "initial", "pretrained", "random", a file, or "own" where
    a module came with them. ``trained`` is what such a file of ours says of itself, None otherwise.
    """

    name: str
    module: fx.GraphModule
    lowered: LoweredNetwork
    weights: str = "initial"
    trained: WeightsAbout | None = None

    @property
    def spec(self) -> OpSpec:
        return self.lowered.spec

    @cached_property
    def blocks(self) -> tuple[Block, ...]:
        """The building blocks in order (``find_blocks``)."""
        return find_blocks(self.spec, self.lowered.layers)

    @cached_property
    def chain(self) -> Chain:
        """The chain of convolutions along the trunk (``make_chain``)."""
        return make_chain(self.spec, self.lowered.layers, self.blocks)

    @property
    def resolution(self) -> tuple[int, int]:
        return self.spec.input_shape[1], self.spec.input_shape[2]


def load_network(
    model: str | Path | nn.Module,
    *,
    resolution: int | tuple[int, int] | None = None,
    weights: str | Path = "initial",
    seed: int = 0,
    classes: int | None = None,
    in_channels: int | None = None,
    model_args: Sequence[str] = (),
    weights_ema: bool = False,
    name: str | None = None,
) -> Network:
    """The network ``model``, traced for images of ``in_channels`` x height x width.

    ``model`` is what the commands take (a timm name, torchvision:NAME, hf:NAME, FILE.py:FACTORY,
    package.module:FACTORY, FILE.onnx) or an ``nn.Module``, of which a copy in eval mode and float32
    is kept. ``resolution`` is in pixels, (height, width) or one number for both. Where nothing is
    said both are ImageNet's (3 x 224 x 224), or an ONNX file's own. ``weights``: "initial",
    "pretrained" (downloads), "random" or a file, from which ``weights_ema`` takes the moving
    average; ``seed`` draws what is initial or random. ``model_args`` are texts KEY=VALUE for the
    factory.

    A module has its weights, and is called "in-memory:NAME" by tables and plans: ``name``, by
    default its class. What is done with it in this session works as with any other network; a
    command, which has only that name, cannot load it. Raises NetworkError, UserCodeError.
    """
    if isinstance(resolution, int):
        resolution = (resolution, resolution)
    if isinstance(model, nn.Module):
        asked = {"weights": weights != "initial", "classes": classes is not None}
        asked |= {"model_args": bool(model_args), "weights_ema": weights_ema}
        if refused := [option for option, is_asked in asked.items() if is_asked]:
            raise NetworkError(
                f"{type(model).__name__}: a module comes as it is: leave out {', '.join(refused)}"
            )
        return _of_module(
            model,
            type(model).__name__ if name is None else name,
            Size.of(*(resolution or (USUAL_SIDE, USUAL_SIDE))),
            USUAL_CHANNELS if in_channels is None else in_channels,
        )
    if name is not None:
        raise NetworkError(f"{model}: name is for a module: this network has a name")
    choice = ModelChoice(
        model=str(model),
        model_args=tuple(model_args),
        resolution=resolution,
        in_channels=in_channels,
        classes=classes,
        weights=str(weights),
        weights_ema=weights_ema,
        seed=seed,
    )
    return load(choice)


def load(choice: ModelChoice, notice: Notice = no_notice) -> Network:
    """Make the network and trace it at its resolution.

    ``weights``: "initial" leaves the initialisation of the library, or what the factory gives,
    "pretrained" downloads, "random" also draws batch-norm statistics (so that a merge is not
    trivially exact), and a path is a state dict (``state_dicts``). ``notice`` says what was taken
    of it, and how long large images will take. What a file of ours says of its network is used
    where nothing was asked. Raises NetworkError with one line that says what to do, UserCodeError
    for a network of one's own.
    """
    check_options(choice)
    if choice.reference.source is Source.ONNX:
        return _of_onnx_file(choice, notice)
    trained = None
    if choice.weights not in NAMED_WEIGHTS:
        trained = about_weights(Path(choice.weights))
        choice = choice.knowing(known_of_weights(Path(choice.weights), choice))
    with importing_from(folders_of(choice)):
        torch.manual_seed(choice.seed)
        module = create(choice)
        # Half and double modules compute what they compute in float32, with which all is compared.
        module = module.float().eval()
        shape = (choice.channels, *choice.size)
        notice_large_images(module, shape, notice)
        if choice.reference.source is Source.FACTORY:
            _try(module, choice.name, shape)
        if choice.weights == "random":
            randomise(module, shape, seed=choice.seed)
        elif choice.weights not in NAMED_WEIGHTS:
            load_weights(module, choice, notice)
        is_own = choice.reference.source is Source.FACTORY
        found = _traced(module, choice.name, shape, is_own=is_own)
    return replace(found, weights=choice.weights, trained=trained)


def _of_module(module: nn.Module, name: str, size: Size, channels: int) -> Network:
    """The network of a copy of ``module``."""
    module = getattr(module, "_orig_mod", module)  # what torch.compile wraps
    if channels < 1:
        raise NetworkError(f"{IN_MEMORY}{name}: in_channels counts from 1, got {channels}")
    if name.strip() != name or not name or "=" in name or any(map(str.isspace, name)):
        raise NetworkError(f"name {name!r}: give a word without spaces and =, such as MyNet")
    try:
        module = copy.deepcopy(module)
    except Exception as error:
        raise NetworkError(
            f"{IN_MEMORY}{name}: the module cannot be copied ({first_line(error)[:160]}): give one "
            "that copy.deepcopy takes"
        ) from error
    module = module.cpu().float().eval()
    shape, name = (channels, *size), f"{IN_MEMORY}{name}"
    _try(module, name, shape)
    return replace(_traced(module, name, shape, is_own=True), weights=OWN)


def _of_onnx_file(choice: ModelChoice, notice: Notice) -> Network:
    """The network of an ONNX file, for the image that the file says where it says one."""
    source = open_onnx(expanded(choice.reference.place))
    known = Known(whose=choice.name, resolution=source.size, in_channels=source.channels)
    choice = choice.knowing(known)
    notice_large_images(None, (source.channels, *choice.size), notice)
    module = read_onnx(source, choice.size)
    try:
        return Network(name=choice.name, module=module, lowered=lower(module), weights=OWN)
    except (NetworkError, OpSpecError) as error:
        raise NetworkError(f"{choice.name}: {error}") from error


def _try(module: nn.Module, name: str, shape: tuple[int, int, int]) -> None:
    """Run a network of one's own once: its mistakes are clearer there than when it is traced."""
    image = torch.zeros(1, *shape)
    what = f"{name}: on an image of 1x{'x'.join(map(str, shape))} its forward raises"
    try:
        with torch.no_grad():  # what the module keeps of this run must be good for training
            module(image)
    except NetworkError:
        raise
    except (Exception, SystemExit) as error:
        wants = re.search(r"to have (\d+) channels, but got (\d+) channels", str(error))
        of_shapes = isinstance(error, RuntimeError | ValueError | AssertionError)
        hint = "; is it for another --resolution or --in-channels?" if of_shapes else ""
        if wants and int(wants[2]) == shape[0]:
            hint = f"; give --in-channels {wants[1]}"
        raise user_code_error(error, what, hint) from error


def _traced(module: nn.Module, name: str, shape: tuple[int, int, int], *, is_own: bool) -> Network:
    """``is_own``: what fails in its code is the user's to see."""
    what = f"{name}: torch.fx cannot trace it at {shape[1]}x{shape[2]}"
    advice = "; control flow may depend on sizes, not on the batch size or on values of the image"
    try:
        traced = trace(module, shape)
        return Network(name=name, module=traced, lowered=lower(traced))
    except (NetworkError, OpSpecError) as error:
        raise NetworkError(f"{name}: {error}") from error
    except Exception as error:  # torch.fx raises whatever the forward pass raises
        if is_own:
            raise user_code_error(error, what, advice) from error
        reason = first_line(error)
        raise NetworkError(f"{what}: {reason[:200]}{advice}") from error


def weights_digest(module: nn.Module) -> str:
    """Of all parameters and buffers with their names."""
    return state_digest(module.state_dict())


def state_digest(state: Mapping[str, torch.Tensor]) -> str:
    """Of a state dict."""
    found = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        found.update(name.encode())
        found.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return found.hexdigest()[:16]


def with_state(network: Network, state: Mapping[str, torch.Tensor]) -> Network:
    """The network with these weights and norms, by the names of its own state dict.

    A trained unmerged copy (``merge.unmerged``) comes back this way, to be merged. Raises
    NetworkError where names or shapes do not fit.
    """
    module = copy.deepcopy(network.module)
    load_state(module, state, "a trained copy", network.name)
    return replace(network, module=module, weights=OWN)


def randomise(module: nn.Module, input_shape: tuple[int, int, int], *, seed: int = 0) -> None:
    """Draw scales and shifts, then take the norms' statistics from one random batch.

    Freshly initialised norms have mean 0 and variance 1, with which every padding mode is exact; a
    trained network's are not so kind. With statistics that belong to the weights, signals keep the
    size that they have in a trained network.
    """
    generator = torch.Generator().manual_seed(seed)
    norms = [layer for layer in module.modules() if isinstance(layer, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    with torch.no_grad():
        for norm in norms:
            if norm.affine:
                norm.weight.uniform_(0.5, 1.5, generator=generator)
                norm.bias.normal_(0.0, 0.3, generator=generator)
            norm.momentum = 1.0
        module.train()
        # Of large images one has enough pixels, and four would not fit into memory.
        images = 4 if input_shape[1] * input_shape[2] <= FEW_PIXELS else 1
        module(torch.randn(images, *input_shape, generator=generator))
        module.eval()
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
