"""`/v2/models/…`: KServe's open inference protocol over HTTP, as Triton's clients use it.

https://kserve.github.io/website/docs/concepts/architecture/data-plane/v2-protocol, with
Triton's extension for binary tensors. The one input, `images`, holds encoded images
(BYTES [b]) or pixels (UINT8 [b, h, w, 3], RGB), which are preprocessed like decoded images.
The outputs `embedding` and `ood_score` are named as in the ONNX graph.
"""

import struct
from collections.abc import Iterable, Sequence
from typing import Annotated, Any, Literal

import numpy as np
import orjson
from fastapi import APIRouter, Path, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from serving.api.answers import RequestAnswer, answered
from serving.api.bodies import body_of
from serving.api.json_bodies import beside, from_base64, parsed
from serving.api.problems import bad_field, require_size, too_many
from serving.api.routes import FINGERPRINT, OF_ANY, OF_IMAGES, KnownQueryRoute
from serving.api.uploads import Upload
from serving.models import Models
from serving.served_model import ServedModel
from serving.settings import Settings

FOLDER = "/v2/models/"
_INPUT = "images"
_HEADER_LENGTH = "inference-header-content-length"
_EXPECTED = (
    '{"inputs": [{"name": "images", "datatype": "BYTES", "shape": [1], "data": [base64]}]}'
)
_MOST_NUMBERS = 4_000_000  # in JSON: the pixels of about 25 images of 224 x 224
_LENGTH = struct.Struct("<I")
_DATATYPES = {"embedding": "FP32", "ood_score": "FP32", "p_value": "FP64", "is_ood": "BOOL"}
_Parameters = dict[str, bool | int | float | str]

Name = Annotated[str, Path(description="of a model, as `/v1/models` lists it")]

router = APIRouter(tags=["KServe"], route_class=KnownQueryRoute)


class Tensor(BaseModel):
    """A tensor's name, type and shape."""

    name: str
    datatype: str
    shape: list[int] = Field(description="-1: any size")


class ServerMetadata(BaseModel):
    """The server."""

    name: str
    version: str
    extensions: list[str]


class ModelMetadata(BaseModel):
    """A model's inputs and outputs."""

    name: str
    versions: list[str] = Field(description="SHA-256 of the artifact that runs")
    platform: str = Field(description="what runs it")
    inputs: list[Tensor]
    outputs: list[Tensor]


class ModelReady(BaseModel):
    """Whether a model answers."""

    name: str
    ready: bool


class InferInput(BaseModel):
    """The images: in `data`, or after the JSON if `binary_data_size` is set."""

    model_config = ConfigDict(extra="forbid", strict=True)

    name: Literal["images"]
    datatype: Literal["BYTES", "UINT8"]
    shape: list[int] = Field(min_length=1, max_length=4)
    parameters: _Parameters = {}
    data: list[Any] | None = Field(
        default=None,
        description="BYTES: base64 of encoded images; UINT8: RGB pixels, nested or flat",
    )


class WantedOutput(BaseModel):
    """An output to return."""

    model_config = ConfigDict(extra="forbid", strict=True)

    name: Literal["embedding", "ood_score", "p_value", "is_ood"]
    parameters: _Parameters = {}


class InferRequest(BaseModel):
    """A request for inference."""

    model_config = ConfigDict(extra="forbid", strict=True)

    id: str | None = Field(default=None, max_length=1000)
    parameters: _Parameters = {}
    inputs: list[InferInput] = Field(min_length=1, max_length=1)
    outputs: list[WantedOutput] = Field(
        default=[], max_length=4, description="none: all of them"
    )


class OutputTensor(Tensor):
    """An output with its values, unless they come after the JSON."""

    parameters: _Parameters | None = None
    data: list[Any] | None = None


class InferResponse(BaseModel):
    """The outputs, a row for each image."""

    model_name: str
    model_version: str
    id: str | None = None
    outputs: list[OutputTensor]


@router.get("/v2", responses=OF_ANY, summary="Describe the server")
async def server() -> ServerMetadata:
    """Return the server's name and its extensions of the protocol."""
    return ServerMetadata(name="isogon", version="2", extensions=["binary_tensor_data"])


@router.get(FOLDER + "{name}", responses=OF_ANY, summary="Describe a model's tensors")
async def metadata(name: Name, request: Request) -> ModelMetadata:
    """Return a model's inputs and outputs.

    The input may also be UINT8 [b, h, w, 3]: RGB pixels of images of one size.
    """
    models: Models = request.app.state.models
    async with models.use(name) as pipeline:
        model = pipeline.model
    return ModelMetadata(
        name=model.name,
        versions=[model.artifact.fingerprint],
        platform=model.runner.name,
        inputs=[Tensor(name=_INPUT, datatype="BYTES", shape=[-1])],
        outputs=_tensors(model),
    )


@router.get(
    FOLDER + "{name}/ready", responses=OF_ANY, summary="Ask whether a model answers"
)
async def model_ready(name: Name, request: Request) -> ModelReady:
    """Say that a model is loaded and proven; 404 if no model has this name."""
    models: Models = request.app.state.models
    async with models.use(name) as pipeline:
        return ModelReady(name=pipeline.model.name, ready=True)


@router.post(
    FOLDER + "{name}/infer",
    summary="Embed and score images as KServe's protocol does",
    response_model=InferResponse,
    responses={**OF_IMAGES, 200: {"headers": FINGERPRINT}},
    openapi_extra={
        "requestBody": {
            "required": True,
            "description": "JSON; or JSON and a binary tensor after it, with the length "
            "of the JSON in the header `Inference-Header-Content-Length`.",
            "content": {"application/json": {"schema": InferRequest.model_json_schema()}},
        }
    },
)
async def infer(name: Name, request: Request) -> Response:
    """Return the embedding and the OOD score of each image.

    `p_value` and `is_ood` are not outputs of the model: they are computed from its score.
    Outputs come as JSON, or binary if `binary_data` asks for it.
    """
    models: Models = request.app.state.models
    settings = models.settings
    length = _header_length(request)
    async with models.use(name):
        pass  # 404 before the body is read
    body = await body_of(request, settings)
    asked, images = await beside(len(body), lambda: _read(body, length, settings))
    answer = await answered(request, Upload(images=images, model=name))
    return _written(answer, asked)


def complete(problem: dict[str, Any]) -> None:
    """Give a problem the `error` that KServe's clients show."""
    problem["error"] = problem["detail"]


def _tensors(model: ServedModel) -> list[Tensor]:
    widths = {"embedding": [model.manifest.width]}
    return [
        Tensor(name=name, datatype=kind, shape=[-1, *widths.get(name, [])])
        for name, kind in _DATATYPES.items()
    ]


def _header_length(request: Request) -> int | None:
    """Return the bytes of JSON before binary tensors; None if all of it is JSON."""
    text = request.headers.get(_HEADER_LENGTH)
    if text is None:
        return None
    if not (text.isascii() and text.isdecimal() and len(text) < 12):
        raise bad_field(
            f"Inference-Header-Content-Length is {text[:40]!r}; expected the number "
            f"of bytes of JSON before the tensors."
        )
    return int(text)


def _read(
    body: bytes, length: int | None, settings: Settings
) -> tuple[InferRequest, list[bytes]]:
    """Return the request and the encoded images.

    Raises:
        ProblemError: 400, 413, 415 or 422, as for the other routes.
    """
    if length is not None and length > len(body):
        raise bad_field(
            f"Inference-Header-Content-Length is {length:,}, and the body has "
            f"{len(body):,} bytes. Send all of it."
        )
    asked = parsed(body[:length], InferRequest, settings, _EXPECTED, most=_MOST_NUMBERS)
    (given,) = asked.inputs
    binary = None if length is None else memoryview(body)[length:]
    count = _count(given, settings)
    if given.datatype == "BYTES":
        images = _encoded(given, binary, count, settings)
    else:
        images = [_as_ppm(pixels) for pixels in _pixels(given, binary)]
    for index, image in enumerate(images):
        require_size(len(image), index, settings)
    return asked, images


def _count(given: InferInput, settings: Settings) -> int:
    """Return how many images a tensor's shape says there are, at least 1."""
    axes = len(given.shape)
    good = axes in (1, 2) if given.datatype == "BYTES" else axes == 4
    if not good or min(given.shape) < 1 or max(given.shape) > 2**31:
        raise bad_field(
            f"images has the shape {given.shape} as {given.datatype}; expected [images] "
            f"for BYTES, or [images, height, width, 3] for UINT8."
        )
    count = given.shape[0]
    if axes == 2:  # Triton's clients batch [images, 1]
        count *= given.shape[1]
    if axes == 4 and given.shape[3] != 3:
        raise bad_field(f"images has {given.shape[3]} channels; expected 3: RGB.")
    if count > settings.max_images:
        raise too_many(settings)
    return count


def _tensor_bytes(given: InferInput, binary: memoryview | None) -> memoryview | None:
    """Return a tensor's binary values; None if they are in `data`.

    Raises:
        ProblemError: 422, the values are in neither place, in both, or cut off.
    """
    size = given.parameters.get("binary_data_size")
    if (size is None) == (given.data is None):
        raise bad_field("images: send either `data` or the parameter `binary_data_size`.")
    if size is None:
        return None
    if isinstance(size, bool) or not isinstance(size, int):
        raise bad_field("images: `binary_data_size` should be a number of bytes.")
    found = len(binary) if binary is not None else 0
    if binary is None or size != found:
        raise bad_field(
            f"images: `binary_data_size` is {size:,}, and {found:,} bytes follow the JSON, "
            f"whose length is in the header Inference-Header-Content-Length."
        )
    return binary


def _encoded(
    given: InferInput, binary: memoryview | None, count: int, settings: Settings
) -> list[bytes]:
    values = _tensor_bytes(given, binary)
    if values is None:
        texts = _flat(given.data or [])
        found = [_from_text(text, i, settings) for i, text in enumerate(texts)]
    else:
        found = list(_elements(values))
    if len(found) != count:
        raise bad_field(f"images: expected {count} by the shape, got {len(found)}.")
    return found


def _flat(texts: Sequence[Any]) -> list[Any]:
    """Return the texts of a nested list [[…], […]] as one list."""
    return [one for text in texts for one in (text if isinstance(text, list) else [text])]


def _from_text(text: object, index: int, settings: Settings) -> bytes:
    if not isinstance(text, str):
        raise bad_field(f"images[{index}] is not text; expected base64.", index)
    return from_base64(text, index, settings)


def _elements(values: memoryview) -> Iterable[bytes]:
    """Yield the elements of a binary BYTES tensor; 4 bytes of length precede each."""
    at = 0
    while at < len(values):
        begin = at + _LENGTH.size
        end = begin
        if begin <= len(values):
            end += _LENGTH.unpack_from(values, at)[0]
        if begin > len(values) or end > len(values):
            raise bad_field(
                "images: the last element of the binary tensor is cut off. Each has its "
                "length before it, in 4 bytes, little-endian."
            )
        yield bytes(values[begin:end])
        at = end


def _pixels(given: InferInput, binary: memoryview | None) -> np.ndarray:
    values = _tensor_bytes(given, binary)
    count = int(np.prod(given.shape, dtype=np.int64))
    if values is not None:
        found = np.frombuffer(values, np.uint8)
    else:
        try:
            numbers = np.array(given.data)
        except ValueError:  # of lists that differ in length
            numbers = np.empty(0)
        if numbers.dtype.kind not in "iu" or not (
            numbers.size and 0 <= numbers.min() <= numbers.max() <= 255
        ):
            raise bad_field("images: expected integers from 0 to 255 as UINT8.")
        found = numbers.astype(np.uint8).reshape(-1)
    if found.size != count:
        raise bad_field(
            f"images: the shape {given.shape} has {count:,} values, but there are "
            f"{found.size:,}."
        )
    return found.reshape(given.shape)


def _as_ppm(pixels: np.ndarray) -> bytes:
    """Return pixels [h, w, 3] as a PPM file, which decodes to the same pixels."""
    height, width, _ = pixels.shape
    return b"P6 %d %d 255\n" % (width, height) + pixels.tobytes()


def _written(answer: RequestAnswer, asked: InferRequest) -> Response:
    """Return the outputs asked for, binary ones after the JSON."""
    values = {
        "embedding": answer.answers.embeddings,
        "ood_score": answer.answers.scores,
        "p_value": answer.answers.p_values,
        "is_ood": answer.answers.is_ood,
    }
    by_default = asked.parameters.get("binary_data_output", False) is True
    wanted: dict[str, _Parameters] = {each.name: each.parameters for each in asked.outputs}
    tensors, tail = [], b""
    for name in wanted or values:
        found = values[name]
        tensor: dict[str, Any] = {
            "name": name,
            "datatype": _DATATYPES[name],
            "shape": list(found.shape),
        }
        if wanted.get(name, {}).get("binary_data", by_default) is True:
            content = np.ascontiguousarray(found).tobytes()
            tensor["parameters"] = {"binary_data_size": len(content)}
            tail += content
        else:
            tensor["data"] = np.ascontiguousarray(found).reshape(-1)
        tensors.append(tensor)
    document = {
        "model_name": answer.model,
        "model_version": answer.fingerprint,
        "outputs": tensors,
    }
    if asked.id is not None:
        document["id"] = asked.id
    head = orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)
    headers = {"x-isogon-fingerprint": answer.fingerprint}
    if tail:
        headers[_HEADER_LENGTH] = str(len(head))
    kind = "application/octet-stream" if tail else "application/json"
    return Response(head + tail, media_type=kind, headers=headers)
