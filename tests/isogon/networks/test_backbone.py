import numpy as np
import pytest
import torch

from isogon.errors import UsageError
from isogon.networks import Backbone, Features, Student, preprocessing_of, timm_model

PIXELS = torch.from_numpy(
    np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
)


def backbone(name: str, size: int = 64) -> Backbone:
    model = timm_model(name, size=(size, size))
    return Backbone(model, preprocessing_of(name, size, 1.0)).eval()


@pytest.mark.parametrize(
    ("name", "grid", "width"),
    [
        ("test_vit", (4, 4), 64),  # class token
        ("test_vit2", (4, 4), 64),  # a register, no class token
        ("test_vit3", (4, 4), 96),  # pooled by attention
        ("vit_small_patch14_reg4_dinov2", (4, 4), 384),  # class token and registers
        ("eva02_tiny_patch14_224", (4, 4), 192),  # its norm comes after pooling
        ("test_resnet", (2, 2), 96),
        ("test_convnext", (2, 2), 64),  # its norm comes after pooling
        ("test_mambaout", (2, 2), 64),
        ("swin_tiny_patch4_window7_224", (2, 2), 768),  # a map with channels last
        ("mobilenetv4_conv_small_035", (2, 2), 336),  # a hidden layer before the classifier
        ("mobilenetv3_small_050", (2, 2), 288),
    ],
)
def test_tokens_are_the_class_token_then_the_grid(
    name: str, grid: tuple[int, int], width: int
) -> None:
    size = 56 if "patch14" in name else 64
    model = backbone(name, size)
    features = model(PIXELS[:, :size, :size].contiguous())
    assert features.grid == grid
    assert features.tokens.shape == (2, 1 + grid[0] * grid[1], width)
    assert model.width == width
    model.train()(PIXELS[:, :size, :size].contiguous()).tokens.sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_the_class_token_is_the_models_own() -> None:
    model = backbone("test_vit")
    images = (PIXELS.permute(0, 3, 1, 2) / 255 - model.mean) / model.std
    expected = model.model(images)  # without classifier: the pooled class token
    assert torch.allclose(model(PIXELS).pooled, expected, atol=1e-5)


def test_a_convolutional_networks_class_token_is_the_mean_of_its_cells() -> None:
    features = backbone("test_resnet")(PIXELS)
    assert torch.allclose(features.pooled, features.tokens[:, 1:].mean(dim=1), atol=1e-5)


def test_normalisation_is_inside() -> None:
    model = backbone("test_resnet")
    images = PIXELS.permute(0, 3, 1, 2) / 255
    by_hand = model.model.forward_features((images - 0.5) / 0.5).mean(dim=(2, 3))
    assert torch.allclose(model(PIXELS).pooled, by_hand, atol=1e-5)


def student(name: str, width: int | None) -> Student:
    model = timm_model(name, size=(64, 64))
    return Student.new(model, preprocessing_of(name, 64, 1.0), width=width).eval()


@pytest.mark.parametrize(
    ("name", "width", "expected", "has_layer"),
    [
        ("test_vit", None, 64, False),
        ("test_vit", 64, 64, False),
        ("test_vit", 32, 32, True),
        ("test_resnet", None, 192, True),
        ("test_resnet", 96, 96, True),  # non-negative features need one at any width
    ],
)
def test_a_student_gets_an_embedding_layer_where_it_needs_one(
    name: str, width: int | None, expected: int, has_layer: bool
) -> None:
    model = student(name, width)
    assert (model.width, model.embedding is not None) == (expected, has_layer)
    assert model(PIXELS).tokens.shape[2] == expected


def test_embeddings_are_the_direction_of_the_class_token() -> None:
    model = student("test_resnet", 48)
    embeddings = model.embed(PIXELS)
    assert torch.allclose(embeddings.norm(dim=1), torch.ones(2))
    pooled = model(PIXELS).pooled
    assert torch.allclose(embeddings, pooled / pooled.norm(dim=1, keepdim=True), atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("grid", [(2, 2), (7, 5)])
def test_cells_in_half_precision_are_resampled_as_in_float32(
    dtype: torch.dtype, grid: tuple[int, int]
) -> None:
    tokens = torch.randn(2, 17, 8).to(dtype)
    expected = Features(tokens=tokens.float(), grid=(4, 4)).on_grid(grid)
    for autocast in (True, False):
        with torch.autocast("cpu", dtype=dtype, enabled=autocast):
            found = Features(tokens=tokens, grid=(4, 4)).on_grid(grid)
        assert (found.grid, found.tokens.dtype) == (grid, dtype)
        assert torch.equal(found.tokens, expected.tokens.to(dtype))


def test_an_unknown_name_is_answered_with_similar_ones() -> None:
    with pytest.raises(UsageError, match=r"Similar: .*resnet18"):
        timm_model("resnet_18", size=(64, 64))


def test_a_size_the_model_does_not_take_is_refused_at_once() -> None:
    with pytest.raises(UsageError, match="does not take images of 70 x 70"):
        timm_model("test_vit", size=(70, 70))


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("crossvit_tiny_240", 240),  # a list of tokens
        ("pit_ti_224", 64),  # its class token alone
        ("hiera_tiny_224", 64),
    ],
)
def test_a_family_without_a_grid_is_refused_when_it_is_made(name: str, size: int) -> None:
    model = timm_model(name, size=(size, size))
    with pytest.raises(UsageError, match="grid is unknown"):
        Backbone(model, preprocessing_of(name, size, 1.0))


@pytest.mark.parametrize(
    ("name", "stride", "class_token"),
    [
        ("efficientformer_l1", 32, False),
        ("gmlp_ti16_224", 16, False),
        ("mixer_s32_224", 32, False),
        ("mvitv2_tiny", 32, False),
        ("tnt_s_legacy_patch16_224", 16, True),
        ("twins_pcpvt_small", 32, False),
        ("volo_d1_224", 16, True),
        ("xcit_nano_12_p16_224", 16, True),
    ],
)
def test_tokens_without_a_named_grid_lie_row_by_row(
    name: str, stride: int, class_token: bool
) -> None:
    torch.manual_seed(0)
    model = backbone(name, 224)
    noise = np.random.default_rng(0).integers(0, 256, (1, 224, 224, 3), dtype=np.uint8)
    pixels = torch.from_numpy(noise).repeat(2, 1, 1, 1)
    side = -(-224 // stride)
    row, column = side // 4, side - 1 - side // 4  # above the diagonal, off the edge
    top, left = row * stride, column * stride
    pixels[1, top : top + stride, left : left + stride] = 0
    with torch.no_grad():
        features = model(pixels)
        whole = model.model.forward_features(model.normalised(pixels))
    changed = (features.cells[1] - features.cells[0]).norm(dim=1)
    assert features.grid == (side, side)
    peak = divmod(int(changed.argmax()), side)
    assert max(abs(peak[0] - row), abs(peak[1] - column)) <= (stride > 16)  # they overlap
    assert not model.pools_from_map
    pooled = whole[:, 0] if class_token else whole.mean(dim=1)
    assert torch.allclose(features.pooled, pooled, atol=1e-5)
