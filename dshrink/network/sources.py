"""How a MODEL becomes an nn.Module: by a name of timm, torchvision or transformers, or by a file.

Nothing is downloaded unless pretrained weights are asked for: whoever looks at the structure of a
network needs no weights, and a board's network may have no way out. Networks of one's own are made
by their own code; what it wants to know (how many classes) are arguments of its own, and nothing
is guessed.
"""

from __future__ import annotations

import copy
import difflib
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from dshrink.errors import NetworkError, first_line
from dshrink.network.downloads import downloaded, quiet
from dshrink.network.references import (
    FORMS,
    USUAL_CHANNELS,
    ModelChoice,
    Reference,
    Source,
    expanded,
)
from dshrink.network.tracing import (
    declare_missing_operators,
    import_timm,
    import_torchvision_models,
)
from dshrink.network.user_code import users_errors

PRETRAINED = "pretrained"
#: The name in ``sys.modules`` of a user's file: its own may be that of an installed package.
_FILE_MODULE = "dshrink_model_file"


def create(choice: ModelChoice) -> nn.Module:
    """The network with its initial weights, or the published ones where those are asked for.

    A file of ONNX is read by ``models``. Where a factory is imported from is ``folders_of``.
    Raises NetworkError with one line that says what to do, UserCodeError for what the user's code
    raises.
    """
    module = _CREATE[choice.reference.source](choice)
    compiled: Any = getattr(module, "_orig_mod", module)  # what torch.compile wraps
    return compiled if isinstance(compiled, nn.Module) else module


def folders_of(choice: ModelChoice) -> tuple[Path, ...]:
    """Where a factory may import from: the folder of its file, and the current one."""
    at = choice.reference
    if at.source is not Source.FACTORY:
        return ()
    return (*((expanded(at.place).parent,) if at.is_file else ()), Path.cwd())


def check_options(choice: ModelChoice) -> None:
    """Raise NetworkError for what is asked of a network that its kind has no answer to."""
    name, at = choice.name, choice.reference
    if at.source is Source.MEMORY:
        raise NetworkError(
            f"{name}: was a module of a Python session, which has no name to load it by: give the "
            "module itself to dshrink.load_network there, or FILE.py:FACTORY"
        )
    if choice.weights == PRETRAINED and choice.classes is not None:
        raise NetworkError(
            f"{name}: pre-trained weights classify what they were trained on, not "
            f"{choice.classes} of your own; give the weights of such a network: "
            "--weights FILE.safetensors"
        )
    if at.source is Source.ONNX:
        if choice.classes is not None or choice.model_args:
            raise NetworkError(f"{name}: is as its file says: leave out --classes and --model-arg")
        if choice.weights not in (PRETRAINED, "initial"):
            raise NetworkError(f"{name}: an ONNX file has its own weights: leave --weights out")
    if at.source is Source.FACTORY:
        if choice.classes is not None:
            raise NetworkError(
                f"{name}: --classes says nothing to your own factory: give it as an argument of "
                f"the factory: --model-arg NAME={choice.classes}, by the name that it has there"
            )
        if choice.weights == PRETRAINED:
            raise NetworkError(
                f"{name}: nobody publishes weights of your own factory: give --weights FILE, or "
                "--weights initial for those that it comes with"
            )


# timm and torchvision


def _timm(choice: ModelChoice) -> nn.Module:
    timm = import_timm()
    short = choice.reference.place
    _check_known(choice.name, short.partition(".")[0], timm.list_models(), "timm")
    try:
        timm.models.get_pretrained_cfg(short)
    except RuntimeError as error:
        tag = short.partition(".")[2]
        raise NetworkError(
            f"{choice.name}: timm knows no weights {tag!r} of it: leave .{tag} out"
        ) from error
    options = {**_given(num_classes=choice.classes), **choice.arguments}
    if choice.channels != USUAL_CHANNELS:
        options["in_chans"] = choice.channels
    pretrained = choice.weights == PRETRAINED
    return _made(choice, lambda: timm.create_model(short, pretrained=pretrained, **options))


def _torchvision(choice: ModelChoice) -> nn.Module:
    models = import_torchvision_models()
    name = choice.reference.place
    _check_known(choice.name, name, models.list_models(), "torchvision.models")
    if choice.channels != USUAL_CHANNELS:
        raise NetworkError(
            f"{choice.name}: torchvision's networks read 3 channels, not {choice.channels}; take "
            "timm's of that kind, or change the first convolution in a FILE.py:FACTORY"
        )
    options = {**_given(num_classes=choice.classes), **choice.arguments}
    # Detectors and segmentation networks download weights of their backbones unless told not to.
    if "weights_backbone" in inspect.signature(models.get_model_builder(name)).parameters:
        options.setdefault("weights_backbone", None)
    weights = "DEFAULT" if choice.weights == PRETRAINED else None
    return _made(choice, lambda: models.get_model(name, weights=weights, **options))


def _check_known(name: str, short: str, known: Iterable[str], where: str) -> None:
    known = list(known)
    if short in known:
        return
    close = ", ".join(difflib.get_close_matches(short, known, n=3))
    lists = f"`{where}.list_models()` lists them; MODEL is {FORMS}"
    hint = f"did you mean {close}?" if close else lists
    raise NetworkError(f"{name}: no such network; {hint}")


def _given(**options: Any) -> dict[str, Any]:
    return {key: value for key, value in options.items() if value is not None}


def _made(choice: ModelChoice, make: Callable[[], nn.Module]) -> nn.Module:
    """What a library makes; its errors in one line."""
    if choice.weights == PRETRAINED:
        return downloaded(choice, make)
    try:
        with quiet():
            return make()
    except Exception as error:
        asked = [f"--model-arg {one}" for one in choice.model_args]
        if choice.channels != USUAL_CHANNELS:
            asked.append(f"--in-channels {choice.channels}")
        advice = f"; change {', '.join(asked)}" if asked else ""
        reason = first_line(error)[:160]
        raise NetworkError(f"{choice.name}: cannot be made ({reason}){advice}") from error


# transformers


def _hf(choice: ModelChoice) -> nn.Module:
    import_timm()  # and with it torchvision, which transformers imports as well
    try:
        transformers: Any = importlib.import_module("transformers")
    except ModuleNotFoundError as error:
        if error.name != "transformers":
            raise
        raise NetworkError(
            f"{choice.name}: needs transformers, which is not installed: pip install transformers"
        ) from None
    place = choice.reference.place
    if choice.reference.is_file:
        place = str(expanded(place))
    pretrained = choice.weights == PRETRAINED
    config = _hf_config(choice, transformers, place)
    if choice.classes is not None:
        config.num_labels = choice.classes
    if choice.channels != getattr(config, "num_channels", USUAL_CHANNELS):
        if choice.in_channels is None:
            raise NetworkError(
                f"{choice.name}: reads {config.num_channels} channels: give "
                f"--in-channels {config.num_channels}"
            )
        if not hasattr(config, "num_channels"):
            raise NetworkError(f"{choice.name}: its configuration sets no number of channels")
        config.num_channels = choice.channels
    classifier = transformers.AutoModelForImageClassification
    make = classifier.from_pretrained if pretrained else classifier.from_config
    options = {"config": config} if pretrained else {}
    return _logits_of(_made(choice, lambda: make(place if pretrained else config, **options)))


def _hf_config(choice: ModelChoice, transformers: Any, place: str) -> Any:
    pretrained = choice.weights == PRETRAINED

    def configured() -> Any:
        return transformers.AutoConfig.from_pretrained(
            place, local_files_only=not pretrained, **choice.arguments
        )

    if pretrained:
        return downloaded(choice, configured)
    try:
        with quiet():
            return configured()
    except Exception as error:
        raise NetworkError(
            f"{choice.name}: its config.json is not on this machine, and nothing is downloaded "
            f"unless by --weights pretrained: `hf download {place} config.json`, or give the "
            "folder that it lies in: hf:./FOLDER"
        ) from error


def _logits_of(model: nn.Module) -> nn.Module:
    """``model``, giving its logits alone; its weights keep their names."""

    def forward(self: Any, pixel_values: Any) -> Any:
        return kind.forward(self, pixel_values=pixel_values, return_dict=False)[0]

    kind: Any = type(model)
    model.__class__ = type(kind.__name__, (kind,), {"forward": forward, "__module__": __name__})
    return model


# one's own


def _factory(choice: ModelChoice) -> nn.Module:
    at, name = choice.reference, choice.name
    declare_missing_operators()  # it may import timm
    module = _file_module(at, name) if at.is_file else _named_module(at, name)
    found: Any = module
    for part in at.factory.split("."):
        if not hasattr(found, part):
            raise NetworkError(f"{name}: {at.place} has no {at.factory}; {_offered(module, part)}")
        found = getattr(found, part)
    arguments = choice.arguments
    if isinstance(found, nn.Module):
        if arguments:
            raise NetworkError(f"{name}: is a network already: leave out --model-arg")
        return copy.deepcopy(found)
    if not callable(found):
        raise NetworkError(
            f"{name}: is a {type(found).__name__}; give a function or class that makes a network"
        )
    _check_arguments(name, found, arguments)
    with users_errors(f"{name}: the factory raises"):
        made = found(**arguments)
    if not isinstance(made, nn.Module):
        raise NetworkError(
            f"{name}: gives a {type(made).__name__}, not a torch.nn.Module: return the network"
        )
    return made


def _file_module(at: Reference, name: str) -> ModuleType:
    path = expanded(at.place)
    if not path.is_file():
        near = difflib.get_close_matches(path.name, [p.name for p in path.parent.glob("*.py")], n=1)
        hint = f"did you mean {path.with_name(near[0])}?" if near else "give its path"
        raise NetworkError(f"{path}: no such file; {hint}")
    spec = importlib.util.spec_from_file_location(_FILE_MODULE, path.absolute())
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Dataclasses and pickles look their module up there.
    sys.modules[_FILE_MODULE] = module
    with users_errors(f"{name}: importing {path} fails"):
        spec.loader.exec_module(module)
    return module


def _named_module(at: Reference, name: str) -> ModuleType:
    with users_errors(f"{name}: importing {at.place} fails"):
        try:
            return importlib.import_module(at.place)
        except ModuleNotFoundError as error:
            # Its own absence, or that of a package it lies in, is no error of the user's code.
            if error.name is None or not f"{at.place}.".startswith(f"{error.name}."):
                raise
    close = difflib.get_close_matches(at.place, ["torchvision", "timm", "hf"], n=1)
    hint = f"did you mean {close[0]}:{at.factory}?" if close else f"a MODEL is {FORMS}"
    raise NetworkError(
        f"{name}: no module {at.place} in the current folder or among what is installed; {hint}"
    )


def _offered(module: ModuleType, wanted: str) -> str:
    """What a module offers instead: what is close, else what it makes networks with."""
    own = [
        name
        for name, value in vars(module).items()
        if not name.startswith("_")
        and (isinstance(value, nn.Module) or getattr(value, "__module__", "") == module.__name__)
    ]
    if close := difflib.get_close_matches(wanted, own, n=3):
        return f"did you mean {', '.join(close)}?"
    return f"it has {', '.join(own[:8])}" if own else "it defines nothing that makes a network"


def _check_arguments(name: str, factory: Any, arguments: Mapping[str, Any]) -> None:
    try:
        signature = inspect.signature(factory)
    except (TypeError, ValueError):
        return  # written in C: the call itself says what is wrong
    try:
        signature.bind(**arguments)
    except TypeError as error:
        raise NetworkError(
            f"{name}: {error}; its arguments are {signature}: give them as --model-arg KEY=VALUE"
        ) from None


_CREATE: Mapping[Source, Callable[[ModelChoice], nn.Module]] = {
    Source.TIMM: _timm,
    Source.TORCHVISION: _torchvision,
    Source.HF: _hf,
    Source.FACTORY: _factory,
}
