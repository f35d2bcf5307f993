"""KServe's protocol: the bytes that Triton's client sends, and its answers read back."""

import base64
import io
import json
import struct
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image


@pytest.fixture(scope="module")
def client(url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=f"{url}/v2", timeout=60) as client:
        yield client


def asked(inputs: dict[str, Any], *tail: bytes, **rest: Any) -> dict[str, Any]:
    """A request as `tritonclient.http` writes it."""
    head = json.dumps({"inputs": [inputs], **rest}).encode()
    headers = {"Inference-Header-Content-Length": str(len(head))} if tail else {}
    return {"content": head + b"".join(tail), "headers": headers}


def bytes_tensor(*images: bytes) -> tuple[dict[str, Any], bytes]:
    tail = b"".join(struct.pack("<I", len(image)) + image for image in images)
    size = {"binary_data_size": len(tail)}
    shape = [len(images)]
    return {"name": "images", "shape": shape, "datatype": "BYTES", "parameters": size}, tail


def read(answer: httpx.Response) -> dict[str, np.ndarray]:
    assert answer.status_code == 200, answer.text
    length = int(answer.headers.get("inference-header-content-length", len(answer.content)))
    document, tail = json.loads(answer.content[:length]), answer.content[length:]
    kinds = {"FP32": np.float32, "FP64": np.float64, "BOOL": np.bool_}
    found = {}
    for output in document["outputs"]:
        kind = kinds[output["datatype"]]
        if "data" in output:
            values = np.array(output["data"], kind)
        else:
            size = output["parameters"]["binary_data_size"]
            values, tail = np.frombuffer(tail[:size], kind), tail[size:]
        found[output["name"]] = values.reshape(output["shape"])
    assert not tail
    return found


def test_probes_and_metadata(client: httpx.Client, url: str) -> None:
    for path in ("/health/live", "/health/ready"):
        assert client.get(path).status_code == 200
    assert httpx.get(f"{url}/v2").json()["extensions"] == ["binary_tensor_data"]
    assert client.get("/models/digits/ready").json() == {"name": "digits", "ready": True}
    model = client.get("/models/digits").json()
    assert model["inputs"] == [{"name": "images", "datatype": "BYTES", "shape": [-1]}]
    assert [each["name"] for each in model["outputs"]] == [
        *("embedding", "ood_score", "p_value", "is_ood")
    ]
    missing = client.get("/models/nope/ready")
    assert missing.status_code == 404
    assert missing.json()["error"].startswith("There is no model 'nope' here.")


def test_encoded_images_binary_and_in_json_are_those_of_v1(
    client: httpx.Client, url: str, photo: bytes
) -> None:
    tensor, tail = bytes_tensor(photo, photo)
    binary = asked(tensor, tail, id="a", parameters={"binary_data_output": True})
    answer = client.post("/models/digits/infer", **binary)
    assert answer.headers["content-type"] == "application/octet-stream"
    found = read(answer)
    assert found["embedding"].shape == (2, 32)
    text = base64.b64encode(photo).decode()
    given = {"name": "images", "shape": [1], "datatype": "BYTES", "data": [text]}
    wanted = [{"name": "ood_score"}, {"name": "embedding", "parameters": {}}]
    plain = read(client.post("/models/digits/infer", **asked(given, outputs=wanted)))
    assert list(plain) == ["ood_score", "embedding"]
    ours = httpx.post(f"{url}/v1/embed", files={"images": photo}).json()["results"][0]
    for one in (found["embedding"][0], plain["embedding"][0], ours["embedding"]):
        np.testing.assert_allclose(one, found["embedding"][1], atol=1e-6)
    assert found["p_value"][0] == ours["ood"]["p_value"]
    assert found["is_ood"].dtype == np.bool_


def test_pixels_are_prepared_as_the_decoded_image_is(
    client: httpx.Client, photo: bytes
) -> None:
    with Image.open(io.BytesIO(photo)) as image:
        pixels = np.asarray(image.convert("RGB").resize((40, 30)))[np.newaxis]
    buffer = io.BytesIO()
    Image.fromarray(pixels[0]).save(buffer, "PNG")
    tensor, tail = bytes_tensor(buffer.getvalue())
    encoded = read(client.post("/models/digits/infer", **asked(tensor, tail)))
    shape = {"name": "images", "shape": list(pixels.shape), "datatype": "UINT8"}
    binary = shape | {"parameters": {"binary_data_size": pixels.nbytes}}
    for request in (
        asked(binary, pixels.tobytes()),
        asked(shape | {"data": pixels.reshape(-1).tolist()}),
        asked(shape | {"data": pixels.tolist()}),
    ):
        found = read(client.post("/models/digits/infer", **request))
        np.testing.assert_allclose(found["embedding"], encoded["embedding"], atol=1e-6)


def test_an_image_that_does_not_decode_is_named(client: httpx.Client) -> None:
    answer = client.post("/models/digits/infer", **asked(*bytes_tensor(b"nope")))
    assert answer.status_code == 400
    assert answer.json()["error"] == answer.json()["detail"]
    assert answer.json()["index"] == 0


PIXELS = {"name": "images", "datatype": "UINT8"}
TEXTS = {"name": "images", "datatype": "BYTES", "shape": [1]}


@pytest.mark.parametrize(
    ("given", "status", "told"),
    [
        (PIXELS | {"shape": [1, 2, 2, 4], "data": [0] * 16}, 422, "4 channels"),
        (PIXELS | {"shape": [2, 2, 3], "data": [0] * 12}, 422, "has the shape"),
        (PIXELS | {"shape": [1, 2, 2, 3], "data": [0] * 11}, 422, "12 values, but there"),
        (PIXELS | {"shape": [1, 1, 1, 3], "data": [0, 0, 256]}, 422, "from 0 to 255"),
        (PIXELS | {"shape": [1, 1, 1, 3], "data": [[0], [0, 1]]}, 422, "from 0 to 255"),
        (PIXELS | {"shape": [65, 1, 1, 3], "data": []}, 413, "64 images"),
        (TEXTS, 422, "either `data` or"),
        (TEXTS | {"data": ["AA==", "AA=="]}, 422, "expected 1 by the shape, got 2"),
        (TEXTS | {"data": [7]}, 422, "is not text"),
        (TEXTS | {"parameters": {"binary_data_size": 5}}, 422, "0 bytes follow"),
        (TEXTS | {"datatype": "FP32"}, 422, "datatype"),
        ({"name": "x", "datatype": "BYTES", "shape": [1], "data": ["AA=="]}, 422, "name"),
    ],
)
def test_what_is_wrong_is_reported(
    client: httpx.Client, given: dict[str, Any], status: int, told: str
) -> None:
    answer = client.post("/models/digits/infer", **asked(given))
    assert answer.status_code == status, answer.text
    assert told in answer.json()["error"]


def test_binary_tensors_that_are_cut_off_are_refused(
    client: httpx.Client, photo: bytes
) -> None:
    tensor, tail = bytes_tensor(photo)
    cut = tensor | {"parameters": {"binary_data_size": len(tail) - 1}}
    answer = client.post("/models/digits/infer", **asked(cut, tail[:-1]))
    assert answer.status_code == 422
    assert "cut off" in answer.json()["error"]
    for length in ("99999999", "x", "-1"):
        request = asked(tensor, tail)
        request["headers"]["Inference-Header-Content-Length"] = length
        answer = client.post("/models/digits/infer", **request)
        assert answer.status_code == 422
        assert "Inference-Header-Content-Length" in answer.json()["error"]
