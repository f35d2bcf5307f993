import pytest

from isogon.errors import UsageError
from isogon.networks import require_size


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("tf_efficientnet_lite0", 65),
        ("test_resnet", 32),
        ("vit_small_patch14_dinov2", 126),
        ("vit_tiny_patch16_224", 64),
        ("convnext_atto", 96),
    ],
)
def test_a_size_that_a_model_takes_is_taken(name: str, size: int) -> None:
    require_size(name, size, where="`size` in [data]")


@pytest.mark.parametrize(
    ("name", "size", "says"),
    [
        (
            "vit_small_patch14_dinov2",
            128,
            "14 pixels would leave out the last 2.*126 and 140",
        ),
        ("vit_tiny_patch16_224", 100, "16 pixels would leave out the last 4.*96 and 112"),
        ("vit_tiny_patch16_224", 8, "nearest that work: 16"),
        ("convnext_atto", 98, "96 and 100"),
        ("test_vit", 40, "divisible by patch size.*32 and 48"),
        ("vit_gigantic_patch99", 64, "timm .* has no model named"),
    ],
)
def test_a_size_that_would_be_cut_is_refused_with_the_nearest_that_work(
    name: str, size: int, says: str
) -> None:
    with pytest.raises(UsageError, match=says):
        require_size(name, size, where="`size` in [teacher]")
