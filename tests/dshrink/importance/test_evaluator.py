"""One candidate's scores, against computations that share nothing with the evaluator's."""

import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch.optim.swa_utils import update_bn

from dshrink.errors import NetworkError
from dshrink.importance.evaluation import Evaluation
from dshrink.importance.evaluator import Evaluator
from dshrink.importance.settings import Candidate, ImportanceSettings, Level
from dshrink.merge.unmerged import unmerged_module
from dshrink.network.mask_changes import rewriting
from dshrink.network.models import load_network
from dshrink.train.unreadable import Unreadable

BASE = "1" * 9
MERGED = "01" + BASE[2:]


@pytest.fixture(scope="module")
def evaluator(settings: ImportanceSettings) -> Evaluator:
    return Evaluator(settings)


def test_the_original_is_evaluated_as_it_is(
    settings: ImportanceSettings, evaluator: Evaluator
) -> None:
    module = load_network("test_resnet", resolution=32, weights="random", classes=3).module
    images, labels = [], []
    # 32 pixels are 0.95 of 33, of which the centre starts at 0.5, rounded to even.
    for path, label in evaluator.images.validation.source.reader.samples:
        with Image.open(path) as file:
            whole = np.asarray(file.resize((33, 33), Image.Resampling.BILINEAR))
        images.append(whole[:32, :32].astype(np.float32) / 255)
        labels.append(label)
    batch = torch.tensor((np.stack(images) - 0.5) / 0.5).float().permute(0, 3, 1, 2)
    with torch.no_grad():
        outputs = torch.log_softmax(module(batch), dim=1)
    chosen = outputs[range(len(labels)), labels]
    right = (outputs.argmax(dim=1) == torch.tensor(labels)).float().mean().item()
    found = evaluator.evaluate(Candidate(BASE, tuned=False))
    assert found.val_accuracy == pytest.approx(100 * right)
    assert found.val_loss == pytest.approx(-chosen.mean().item(), rel=1e-4)


def test_recalibration_is_that_of_torch(evaluator: Evaluator) -> None:
    network = evaluator.network
    module = unmerged_module(network, rewriting(network, MERGED, segments="spans"))
    training = [evaluator._preprocessing.normalise(images) for images, _ in evaluator.training]
    update_bn(training, module)
    module.eval()
    with torch.no_grad():
        pairs = [
            (module(evaluator._preprocessing.normalise(images)), labels)
            for images, labels in evaluator.validation
        ]
    outputs, labels = (torch.cat(part) for part in zip(*pairs, strict=True))
    found = evaluator.evaluate(Candidate(MERGED))
    loss = torch.nn.functional.cross_entropy(outputs, labels).item()
    assert found.val_loss == pytest.approx(loss, rel=1e-4)
    right = (outputs.argmax(dim=1) == labels).float().mean().item()
    assert found.val_accuracy == pytest.approx(100 * right)


def test_a_score_depends_on_neither_order_nor_process(
    settings: ImportanceSettings, evaluator: Evaluator
) -> None:
    tuned = replace(settings, level=Level.parse("steps:3"))
    first, again = Evaluator(tuned), Evaluator(tuned)
    wanted = first.evaluate(Candidate(MERGED, 3)).scores
    again.evaluate(Candidate(BASE))
    torch.rand(5)
    assert again.evaluate(Candidate(MERGED, 3)).scores == wanted
    assert again.evaluate(Candidate(MERGED, 4)).scores != wanted
    assert again.evaluate(Candidate(MERGED)).scores != wanted


def test_judging_leaves_the_network_and_the_random_numbers_alone(evaluator: Evaluator) -> None:
    before = {name: value.clone() for name, value in evaluator.network.module.state_dict().items()}
    torch.manual_seed(1)
    wanted = torch.rand(1)
    torch.manual_seed(1)
    evaluator.evaluate(Candidate(MERGED, 3))
    assert torch.equal(torch.rand(1), wanted)
    after = evaluator.network.module.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())


@pytest.mark.parametrize("enabled", [True, False])
def test_judging_does_not_switch_the_gpus_convolutions_off(
    evaluator: Evaluator, enabled: bool
) -> None:
    with torch.backends.cudnn.flags(enabled=enabled), evaluator._seeded():
        assert torch.backends.cudnn.enabled is enabled
        assert torch.backends.cudnn.deterministic


def test_a_layer_drawn_anew_is_another_layer_with_its_norm(evaluator: Evaluator) -> None:
    module = evaluator._module(Candidate(BASE, 3))
    chain = evaluator.pieces.chain
    assert chain is not None
    before = evaluator.network.module.state_dict()
    parts = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    changed = {
        name for name, value in module.state_dict().items() if not torch.equal(value, before[name])
    }
    conv = chain.convolutions[2]
    norm = conv.replace("conv", "bn")
    assert changed == {
        f"{conv}.weight",
        *(f"{norm}.{part}" for part in parts),
    }


def test_tuning_learns_what_the_original_does_not_know(settings: ImportanceSettings) -> None:
    evaluator = Evaluator(
        replace(settings, level=Level.parse("epochs:4"), learning_rate=0.05, augment=False)
    )
    assert len(evaluator.training) == 8
    original = evaluator.evaluate(Candidate(BASE, tuned=False))
    tuned = evaluator.evaluate(Candidate(BASE))
    assert tuned.train_loss is not None and original.train_loss is not None
    assert tuned.train_loss < original.train_loss
    assert tuned.val_accuracy is not None and original.val_accuracy is not None
    assert tuned.val_accuracy > original.val_accuracy


def test_what_fails_for_one_candidate_is_a_reason(settings: ImportanceSettings) -> None:
    evaluator = Evaluator(replace(settings, level=Level.parse("steps:4"), learning_rate=1e6))
    diverged = evaluator.evaluate(Candidate(MERGED))
    assert "lower --lr" in diverged.reason
    assert diverged.scores == (None,) * 4
    # A span from inside a residual block to behind it.
    assert "which cannot be" in evaluator.evaluate(Candidate("101111111")).reason


def test_data_and_weights_must_go_together(settings: ImportanceSettings, tmp_path: Path) -> None:
    network = load_network("test_resnet", resolution=32, classes=5)
    save_file(network.module.state_dict(), tmp_path / "five.safetensors")
    with pytest.raises(NetworkError, match=r"do not fit.*has 3 classes"):
        choice = replace(settings.choice, weights=str(tmp_path / "five.safetensors"))
        Evaluator(replace(settings, choice=choice))


@pytest.fixture
def spoilt(settings: ImportanceSettings, tmp_path: Path) -> ImportanceSettings:
    """The same pictures, of which one to train on and one to validate on cannot be read."""
    tree = shutil.copytree(settings.data, tmp_path / "pictures")
    for name in ("train/class_1/2.png", "val/class_2/0.png"):
        (tree / name).write_bytes(b"no picture")
    return replace(settings, data=str(tree), level=Level.parse("epochs:1"), batch=6)


def test_an_unreadable_image_is_a_reason_unless_it_may_be_skipped(
    spoilt: ImportanceSettings,
) -> None:
    stopped = Evaluator(spoilt).evaluate(Candidate(BASE, tuned=False))
    assert re.search(r"train/class_1/2.png: not a readable .*--unreadable skip", stopped.reason)
    skipping = Evaluator(replace(spoilt, unreadable=Unreadable.SKIP))
    found = skipping.evaluate(Candidate(BASE, tuned=False))
    assert (found.reason, found.unreadable) == ("", 2)
    assert "2 images could not be read" in skipping.unreadable.line
    # The journal keeps how many there were.
    assert Evaluation.from_json(found.to_json(), where="f", fix="fix") == found
    # Of 12 validation images 11 count; 18 to train on fill 3 batches of 6 as ever.
    assert found.val_accuracy == pytest.approx(100 * round(found.val_accuracy * 11 / 100) / 11)
    assert [len(labels) for _, labels in skipping.training] == [6, 6, 6]
