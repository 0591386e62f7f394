"""A network, traced and lowered: the one way in which networks come in."""

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
from dshrink.network.lowering import LoweredNetwork, lower
from dshrink.network.onnx_files.reader import read_onnx
from dshrink.network.onnx_files.source import open_onnx
from dshrink.network.references import NAMED_WEIGHTS, Known, ModelChoice, Source
from dshrink.network.sources import check_options, create, folders_of
from dshrink.network.tracing import trace
from dshrink.network.user_code import importing_from, user_code_error
from dshrink.network.weights.metadata import known_of_weights
from dshrink.network.weights.state_dicts import load_state, load_weights
from dshrink.progress import Notice, no_notice
from latency_tables.opspec import OpSpec, OpSpecError


@dataclass(frozen=True, kw_only=True)
class Network:
    """A network with its graph. ``module`` holds the weights, ``lowered`` the structure."""

    name: str
    module: fx.GraphModule
    lowered: LoweredNetwork

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
    name: str,
    *,
    resolution: int | tuple[int, int] | None = None,
    weights: str | Path = "initial",
    seed: int = 0,
    classes: int | None = None,
    in_channels: int | None = None,
    model_args: Sequence[str] = (),
    ema: bool = False,
) -> Network:
    """``load`` of the network called ``name``, at 224x224 with 3 input channels unless said."""
    choice = ModelChoice(
        model=name,
        model_args=tuple(model_args),
        resolution=(resolution, resolution) if isinstance(resolution, int) else resolution,
        in_channels=in_channels,
        classes=classes,
        weights=str(weights),
        weights_ema=ema,
        seed=seed,
    )
    return load(choice)


def load(choice: ModelChoice, notice: Notice = no_notice) -> Network:
    """Make the network and trace it at its resolution.

    ``weights``: "initial" leaves the initialisation of the library, or what the factory gives,
    "pretrained" downloads, "random" also draws batch-norm statistics (so that a merge is not
    trivially exact), and a path is a state dict (``state_dicts``), of which ``notice`` says what
    was taken. What a file of ours says of its network is used where nothing was asked. Raises
    NetworkError with one line that says what to do, UserCodeError for a network of one's own.
    """
    check_options(choice)
    if choice.reference.source is Source.ONNX:
        return _of_onnx_file(choice)
    if choice.weights not in NAMED_WEIGHTS:
        choice = choice.knowing(known_of_weights(Path(choice.weights), choice))
    with importing_from(folders_of(choice)):
        torch.manual_seed(choice.seed)
        module = create(choice)
        # Half and double modules compute what they compute in float32, with which all is compared.
        module = module.float().eval()
        shape = (choice.channels, *choice.size)
        if choice.reference.source is Source.FACTORY:
            _try(module, choice, shape)
        if choice.weights == "random":
            randomise(module, shape, seed=choice.seed)
        elif choice.weights not in NAMED_WEIGHTS:
            load_weights(module, choice, notice)
        return _traced(module, choice, shape)


def _of_onnx_file(choice: ModelChoice) -> Network:
    """The network of an ONNX file, for the image that the file says where it says one."""
    source = open_onnx(Path(choice.reference.place).expanduser())
    known = Known(whose=choice.name, resolution=source.size, in_channels=source.channels)
    module = read_onnx(source, choice.knowing(known).size)
    return Network(name=choice.name, module=module, lowered=lower(module))


def _try(module: nn.Module, choice: ModelChoice, shape: tuple[int, int, int]) -> None:
    """Run a network of one's own once: its mistakes are clearer there than when it is traced."""
    image = torch.zeros(1, *shape)
    what = f"{choice.name}: on an image of 1x{'x'.join(map(str, shape))} its forward raises"
    try:
        with torch.no_grad():  # what the module keeps of this run must be good for training
            module(image)
    except NetworkError:
        raise
    except (Exception, SystemExit) as error:
        wants = re.search(r"to have (\d+) channels, but got (\d+) channels", str(error))
        of_shapes = isinstance(error, RuntimeError | ValueError | AssertionError)
        hint = "; is it for another --resolution or --in-channels?" if of_shapes else ""
        if wants and int(wants[2]) == choice.channels:
            hint = f"; give --in-channels {wants[1]}"
        raise user_code_error(error, what, hint) from error


def _traced(module: nn.Module, choice: ModelChoice, shape: tuple[int, int, int]) -> Network:
    name = choice.name
    what = f"{name}: torch.fx cannot trace it at {choice.size.height}x{choice.size.width}"
    advice = "; control flow may depend on sizes, not on the batch size or on values of the image"
    try:
        traced = trace(module, shape)
        return Network(name=name, module=traced, lowered=lower(traced))
    except (NetworkError, OpSpecError) as error:
        raise NetworkError(f"{name}: {error}") from error
    except Exception as error:  # torch.fx raises whatever the forward pass raises
        if choice.reference.source is Source.FACTORY:
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
    return replace(network, module=module)


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
        module(torch.randn(4, *input_shape, generator=generator))
        module.eval()
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
