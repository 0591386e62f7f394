"""A timm or torchvision network by name, traced and lowered: the one way networks come in."""

from __future__ import annotations

import copy
import difflib
import hashlib
import logging
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import fx, nn

from dshrink.errors import NetworkError, WeightsMisfitError
from dshrink.network.blocks import Block, find_blocks
from dshrink.network.chain import Chain, make_chain
from dshrink.network.lowering import LoweredNetwork, lower
from dshrink.network.onnx_network import read_onnx
from dshrink.network.onnx_source import is_onnx_name, open_onnx
from dshrink.network.tracing import import_timm, import_torchvision_models, trace
from dshrink.network.weights_metadata import about_weights
from latency_tables.opspec import OpSpec

#: What ``load_network`` takes as weights besides files.
NAMED_WEIGHTS = ("pretrained", "initial", "random")


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
    resolution: int | tuple[int, int] = 224,
    weights: str | Path = "initial",
    seed: int = 0,
    classes: int | None = None,
) -> Network:
    """Make ``name`` (timm's, or ``torchvision:NAME``) and trace it at ``resolution``.

    ``weights``: "initial" leaves the library's initialisation, "pretrained" downloads,
    "random" also draws batch-norm statistics (so that a merge is not trivially exact), and a path
    is a state dict with the library's names (.safetensors, or .pth read without running code).
    ``classes`` is how many outputs it has; if not given, what the file of weights says, else the
    library's own number (pre-trained weights have no other). Raises NetworkError with one line that
    says what to do.
    """
    if is_onnx_name(name):
        return _load_file(Path(name), resolution, weights)
    if weights == "pretrained" and classes is not None:
        raise NetworkError(
            f"{name}: pre-trained weights classify what they were trained on, not "
            f"{classes} of your own; give the weights of such a network: --weights FILE.safetensors"
        )
    if weights not in NAMED_WEIGHTS:
        classes = _classes(Path(weights), name, classes)
    torch.manual_seed(seed)
    module = _create(name, pretrained=weights == "pretrained", classes=classes)
    size = resolution if isinstance(resolution, tuple) else (resolution, resolution)
    shape = (_input_channels(module), *size)
    if weights == "random":
        randomise(module, shape, seed=seed)
    elif weights not in ("initial", "pretrained"):
        _load(module, _read_state(Path(weights)), str(weights), name)
    try:
        traced = trace(module, shape)
        lowered = lower(traced)
    except Exception as error:  # torch.fx raises whatever the forward pass raises
        reason = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
        raise NetworkError(
            f"{name}: torch.fx cannot trace it at {size[0]}x{size[1]}: {reason[:200]}; "
            "try another --resolution or a network without data-dependent control flow"
        ) from error
    return Network(name=name, module=traced, lowered=lowered)


def _load_file(path: Path, resolution: int | tuple[int, int], weights: str | Path) -> Network:
    """The network of an ONNX file, with its own weights; 224 stands for no resolution asked for."""
    if weights not in ("initial", "pretrained"):
        raise NetworkError(f"{path}: an ONNX file has its own weights: leave --weights out")
    size = resolution if isinstance(resolution, tuple) else (resolution, resolution)
    source = open_onnx(path)
    module = read_onnx(source, None if source.size and size == (224, 224) else size)
    return Network(name=path.name, module=module, lowered=lower(module))


def _classes(path: Path, name: str, classes: int | None) -> int | None:
    """As many as asked for, else as a file of ours says; another network's is refused."""
    about = about_weights(path)
    if about is None:
        return classes
    if about.model.partition(".")[0] != name.partition(".")[0]:
        raise NetworkError(f"{path}: its weights are of {about.model}, the network is {name}")
    return classes if classes is not None else about.classes


def weights_digest(module: nn.Module) -> str:
    """Of all parameters and buffers with their names."""
    found = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        found.update(name.encode())
        found.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return found.hexdigest()[:16]


def with_state(network: Network, state: Mapping[str, torch.Tensor]) -> Network:
    """The network with these weights and norms, by the names of its own state dict.

    A trained unmerged copy (``merge.unmerged``) comes back this way, to be merged. Raises
    NetworkError where names or shapes do not fit.
    """
    module = copy.deepcopy(network.module)
    _load(module, state, "a trained copy", network.name)
    return replace(network, module=module)


def _create(name: str, *, pretrained: bool, classes: int | None = None) -> nn.Module:
    library, _, short = name.rpartition(":")
    if library not in ("", "timm", "torchvision"):
        raise NetworkError(
            f"{name}: unknown library {library!r}; use a timm name or torchvision:NAME"
        )
    timm = import_timm()
    torchvision = import_torchvision_models() if library == "torchvision" else None
    known = torchvision.list_models() if torchvision else timm.list_models()
    if short.split(".")[0] not in known:
        close = ", ".join(difflib.get_close_matches(short, known, n=3))
        lists = "torchvision.models" if torchvision else "timm"
        hint = f"did you mean {close}?" if close else f"`{lists}.list_models()` lists them"
        raise NetworkError(f"{name}: no such network; {hint}")
    try:
        with ExitStack() as after:
            # The hub's client logs every retry; what comes of them is one error, which we report.
            logging.disable(logging.ERROR)
            after.callback(logging.disable, logging.NOTSET)
            outputs = {} if classes is None else {"num_classes": classes}
            model: nn.Module
            if torchvision:
                weights = "DEFAULT" if pretrained else None
                model = torchvision.get_model(short, weights=weights, **outputs)
            else:
                model = timm.create_model(short, pretrained=pretrained, **outputs)
            return model
    except Exception as error:
        if not pretrained:
            raise
        reason = (str(error).strip().splitlines() or [repr(error)])[0]
        raise NetworkError(
            f"{name}: pre-trained weights cannot be downloaded ({reason[:120]}); download them "
            "elsewhere and give the file: --weights FILE.safetensors"
        ) from error


def _input_channels(module: nn.Module) -> int:
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            return layer.in_channels
    raise NetworkError(
        f"{type(module).__name__}: no convolution in it, nothing to profile or merge"
    )


def _load(module: nn.Module, state: Mapping[str, torch.Tensor], source: str, name: str) -> None:
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        detail = " ".join(str(error).split())
        raise WeightsMisfitError(
            f"{source}: its weights do not fit {name} ({detail[:160]}); give a state dict of {name}"
        ) from error


def _read_state(path: Path) -> Any:
    """A state dict; pickled files are read without running code (``weights_only``)."""
    if not path.is_file():
        raise NetworkError(
            f"{path}: no such file; --weights takes pretrained, initial, random or a file"
        )
    try:
        load = import_timm().models.load_state_dict
        return load(str(path), use_ema=False, weights_only=True)
    except Exception as error:
        raise NetworkError(
            f"{path}: not a readable state dict ({type(error).__name__}); "
            "save one with safetensors.torch.save_file(model.state_dict(), FILE)"
        ) from error


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
