"""Networks with as many outputs as a data set has classes."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from pictures import write_pictures
from safetensors.torch import save_file

from dshrink.errors import NetworkError
from dshrink.network.models import load_network
from dshrink.network.references import ModelChoice
from dshrink.train.image_sets import Images, open_images
from dshrink.train.opening import load_for

CHOICE = ModelChoice(model="test_resnet", resolution=(32, 32))


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Images:
    return open_images(write_pictures(tmp_path_factory.mktemp("data") / "pictures"))


def test_a_drawn_network_has_the_classes_of_the_data_and_the_seed(images: Images) -> None:
    found = load_for(images, replace(CHOICE, seed=4))
    wanted = load_network("test_resnet", resolution=32, seed=4, classes=3)
    assert found.spec.shapes[-1][0] == 3
    state = wanted.module.state_dict()
    assert all(torch.equal(value, state[n]) for n, value in found.module.state_dict().items())


def test_weights_must_be_those_of_as_many_classes(images: Images, tmp_path: Path) -> None:
    for classes in (3, 5):
        network = load_network("test_resnet", resolution=32, classes=classes)
        save_file(network.module.state_dict(), tmp_path / f"{classes}.safetensors")
    three = replace(CHOICE, weights=str(tmp_path / "3.safetensors"))
    assert load_for(images, three).resolution == (32, 32)
    with pytest.raises(NetworkError, match=r"do not fit.*pictures has 3 classes") as caught:
        load_for(images, replace(CHOICE, weights=str(tmp_path / "5.safetensors")))
    assert "\n" not in str(caught.value)
    # A file's name tells nothing.
    for name in ("none.safetensors", "these do not fit.safetensors"):
        with pytest.raises(NetworkError, match=rf"{name}: no such file[^;]*; --weights[^;]*$"):
            load_for(images, replace(CHOICE, weights=name))


def test_pretrained_weights_of_other_classes_are_refused(
    images: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    def offline(choice: ModelChoice, notice: object) -> object:
        assert choice.classes is None
        return load_network(choice.model, resolution=32)

    monkeypatch.setattr("dshrink.train.opening.load", offline)
    with pytest.raises(NetworkError, match=r"has 3 classes.*have 1000"):
        load_for(images, replace(CHOICE, weights="pretrained"))
