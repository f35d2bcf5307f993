"""The student: a backbone, an embedding layer if needed, unit-norm output."""

import copy

import safetensors.torch
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from isogon.bundle import Bundle, StudentCard
from isogon.errors import UsageError
from isogon.images import Preprocessing
from isogon.networks.architecture import architecture_of
from isogon.networks.backbone import Backbone, timm_model
from isogon.networks.features import FeatureExtractor, Features
from isogon.networks.imported import (
    ImportedNetwork,
    code_of,
    error_line,
    module_from_path,
    require_code,
    require_code_of_path,
)

WEIGHTS = "model.safetensors"

_SMALLEST_NORM = 1e-12  # as in `F.normalize`


class Student(nn.Module):
    """The network that is trained, stored in `model.safetensors` and exported.

    Features pooled from a convolutional map are usually non-negative, so they cover only a
    small part of all directions. Therefore a backbone with a map gets a linear embedding
    layer, applied to the pooled vector and the cells; this is our extension. A backbone
    with tokens ends in a LayerNorm and gets a layer only for another width. A user's own
    network gets one for another width, or if its embeddings have no negative values.
    """

    def __init__(self, backbone: FeatureExtractor, embedding: nn.Linear | None) -> None:
        super().__init__()
        self.backbone = backbone
        self.embedding = embedding
        self.width: int = backbone.width if embedding is None else embedding.out_features

    @classmethod
    def new(
        cls,
        model: nn.Module,
        preprocessing: Preprocessing,
        *,
        width: int | None,
        fitted: bool = False,
    ) -> "Student":
        """Build a student to be trained.

        Args:
            model: a timm model without classifier.
            preprocessing: of its pixels.
            width: the embedding dimension; None: the backbone's own, or 192 if its
                features are a map.
            fitted: add an embedding layer in any case, to be fitted.
        """
        backbone = Backbone(model, preprocessing)
        if width is None and backbone.pools_from_map:
            width = 192
        return cls.on(backbone, width=width, fitted=fitted)

    @classmethod
    def on(
        cls, backbone: FeatureExtractor, *, width: int | None, fitted: bool = False
    ) -> "Student":
        """Build a student to be trained on a backbone; width None keeps the backbone's."""
        width = width or backbone.width
        needs_layer = fitted or backbone.one_sided or width != backbone.width
        embedding = nn.Linear(backbone.width, width) if needs_layer else None
        return cls(backbone, embedding)

    def forward(self, pixels: UInt8[Tensor, "b h w 3"]) -> Features:
        """Return the tokens in the embedding's space, not normalised."""
        features: Features = self.backbone(pixels)
        if self.embedding is None:
            return features
        return Features(tokens=self.embedding(features.tokens), grid=features.grid)

    def embed(self, pixels: UInt8[Tensor, "b h w 3"]) -> Float[Tensor, "b d"]:
        """Return unit-norm embeddings: the direction of the class token."""
        features = self.backbone(pixels).pooled
        if self.embedding is not None:
            features = self.embedding(features)
        return unit(features)

    def followed_by(self, layer: nn.Linear) -> "Student":
        """Return a student whose embeddings are this one's, mapped by `layer`.

        The map is merged into the embedding layer, so it has no cost.
        """
        layer = copy.deepcopy(layer).to(self.backbone.mean.device)
        weight, bias = layer.weight, layer.bias
        if self.embedding is not None:
            bias = layer(self.embedding.bias)
            weight = weight @ self.embedding.weight
        folded = nn.Linear(weight.shape[1], weight.shape[0], device=weight.device)
        with torch.no_grad():
            folded.weight.copy_(weight)
            folded.bias.zero_() if bias is None else folded.bias.copy_(bias)
        return Student(self.backbone, folded)


def unit(vectors: Float[Tensor, "b d"]) -> Float[Tensor, "b d"]:
    """Return the vectors divided by their norms, as `F.normalize` does.

    In ONNX this is a sum and a broadcast division. `F.normalize` and `vector_norm` become
    Expand and ReduceL2 there, which ONNX Runtime's `quant_pre_process` and other tools that
    infer shapes do not support.
    """
    norms = (vectors * vectors).sum(dim=1, keepdim=True).sqrt()
    return vectors / norms.clamp_min(_SMALLEST_NORM)


def own_network(name: str, preprocessing: Preprocessing) -> ImportedNetwork:
    """Return a user's own network as a student's backbone, in float32.

    Raises:
        UsageError: it cannot be loaded, or is not suitable; see `module_from_path`.
    """
    network, _ = module_from_path(name, "student")
    return ImportedNetwork(network.float(), preprocessing)


def preprocessing_of(architecture: str, size: int, crop: float) -> Preprocessing:
    """Return the preprocessing of a timm model at `size` x `size` pixels.

    Raises:
        UsageError: timm has no such model.
    """
    config = architecture_of(architecture).config
    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    std = mean
    if config is not None:
        mean, std = config.mean, config.std
    document = {"height": size, "width": size, "crop": crop, "mean": mean, "std": std}
    return Preprocessing.model_validate(document)


def student_from_bundle(bundle: Bundle) -> Student:
    """Return the bundle's student with its weights, in evaluation mode.

    A user's own network is imported and made again.

    Raises:
        UsageError: its module is missing, or its code has changed.
    """
    card: StudentCard = bundle.manifest.student
    backbone = _backbone_of(card, bundle.manifest.preprocessing)
    layer = nn.Linear(backbone.width, card.width) if card.embedding_layer else None
    student = Student(backbone, layer)
    try:
        student.load_state_dict(safetensors.torch.load_file(bundle.file(WEIGHTS)))
    except RuntimeError as error:
        if not card.imported:
            raise
        raise UsageError(
            f"{card.architecture} returns another network than the one that was trained, "
            f"although its code is the same: {error_line(error)} Make it independent of "
            f"settings outside its code, or restore these settings."
        ) from error
    return student.eval().requires_grad_(False)


def _backbone_of(card: StudentCard, preprocessing: Preprocessing) -> FeatureExtractor:
    """Return the network that a card describes, without the bundle's weights."""
    size = (preprocessing.height, preprocessing.width)
    if not card.imported:
        model = timm_model(card.architecture, size=size, arguments=card.arguments)
        return Backbone(model, preprocessing)
    require_code_of_path(card.architecture, card.code)
    own = own_network(card.architecture, preprocessing)
    require_code(card.architecture, code_of(card.architecture, own.network), card.code)
    return own
