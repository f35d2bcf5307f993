"""`/v1/embeddings`, as OpenAI's own client sees it."""

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest


@pytest.fixture(scope="module")
def client(url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        yield client


def data_url(image: bytes, kind: str = "image/jpeg") -> str:
    return f"data:{kind};base64,{base64.b64encode(image).decode()}"


@pytest.fixture(scope="module")
def images(photographs: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted(photographs.glob("*.jpg"))[:3]]


def test_openais_client_gets_what_embed_answers(
    client: openai.OpenAI, url: str, images: list[bytes]
) -> None:
    files = [("images", image) for image in images]
    expected = httpx.post(f"{url}/v1/embed", files=files).json()
    urls = [data_url(image) for image in images]
    nothing = dict.fromkeys(("encoding_format", "dimensions", "user"))  # as LiteLLM asks
    for options in (
        {},
        {"encoding_format": "float"},
        {"dimensions": 32, "user": "me, myself: [I]" * 5000},
        {"extra_body": nothing},
    ):
        answer = client.embeddings.create(input=urls, model="digits", **options)
        assert (answer.object, answer.model) == ("list", "digits")
        assert answer.usage.prompt_tokens == answer.usage.total_tokens == 3
        assert [item.index for item in answer.data] == [0, 1, 2]
        for item, result in zip(answer.data, expected["results"], strict=True):
            assert item.object == "embedding"
            assert np.allclose(item.embedding, result["embedding"], atol=1e-6)
            assert item.ood == pytest.approx(result["ood"], abs=1e-5)


def test_base64_on_the_wire_is_float32(url: str, images: list[bytes]) -> None:
    body = {"input": data_url(images[0]), "encoding_format": "base64"}
    packed = httpx.post(f"{url}/v1/embeddings", json=body).json()["data"][0]["embedding"]
    numbers = httpx.post(f"{url}/v1/embeddings", json={"input": body["input"]}).json()
    array = np.frombuffer(base64.b64decode(packed), "<f4")
    plain = np.array(numbers["data"][0]["embedding"], np.float32)
    assert np.array_equal(array, plain)


def test_no_name_and_an_empty_one_are_the_defaults(url: str, images: list[bytes]) -> None:
    asked = {"input": data_url(images[0])}
    answers = [
        httpx.post(f"{url}/v1/embeddings", json=asked | named).json()["model"]
        for named in ({}, {"model": None}, {"model": ""}, {"model": "digits"})
    ]
    assert answers == ["digits"] * 4


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (
            {"input": "https://example.org/cat.jpg"},
            "is a https URL.*the service fetches nothing",
        ),
        ({"input": "http://127.0.0.1:1/x"}, "is a http URL.*data:image/jpeg;base64,"),
        ({"input": "file:///etc/passwd"}, "is a file URL"),
        ({"input": ["a photo of a cat"]}, "is text, and this model embeds images"),
        ({"input": "data:image/png,%89PNG"}, "not in base64"),
        ({"input": "data:image/png;base64"}, "has no comma"),
        ({"input": "data:image/png;base64,aG!="}, "character 3 of 4 is '!'"),
        ({"input": ""}, r"input\[0\] is empty"),
        ({"input": []}, "input: it should not be empty"),
        ({"input": [1, 2]}, "not the token ids of a text"),
        ({"input": list(range(5000))}, "not the token ids of a text"),
        ({"input": [[1, 2], [3]]}, "not the token ids of a text"),
        ({"input": [{"image": "x"}]}, r"input\[0\]: it should be a string, got an object"),
        ({"input": "data:,", "user": ["a, b"] * 5000}, "user: it should be a string"),
        ({}, "input: the field is missing"),
        ({"input": "data:,", "dimensions": 256}, "have 32 numbers"),
        ({"input": "data:,", "encoding_format": "hex"}, "'float' or 'base64'"),
        ({"input": "data:,", "temperature": 1}, "temperature: there is no such field"),
    ],
    ids=str,
)
def test_what_is_not_an_image_is_422_and_says_what_to_send(
    client: openai.OpenAI, body: dict[str, Any], says: str
) -> None:
    with pytest.raises(openai.UnprocessableEntityError, match=says):
        client.post("/embeddings", body=body, cast_to=object)


def test_other_refusals_raise_openais_exceptions_with_our_words(
    client: openai.OpenAI, images: list[bytes]
) -> None:
    good = data_url(images[0])

    def create(**asked: Any) -> None:
        client.embeddings.create(**{"model": "digits", "input": good} | asked)

    with pytest.raises(openai.NotFoundError, match=r"'text-embedding-3-small'.*digits"):
        create(model="text-embedding-3-small")
    with pytest.raises(openai.BadRequestError, match=r"input\[1\] .*starts with"):
        create(input=[good, data_url(b"nope")])
    with pytest.raises(openai.APIStatusError, match=r"input\[1\] has .* bytes") as refused:
        create(input=[good, data_url(bytes(20 * 2**20 + 1))])
    assert refused.value.status_code == 413
    with pytest.raises(openai.APIStatusError, match="64 images") as refused:
        create(input=[good] * 65)
    assert refused.value.status_code == 413
    with pytest.raises(openai.APIStatusError, match="declared as text/plain") as refused:
        create(input=data_url(b"hello", "text/plain"))
    assert refused.value.status_code == 415


def test_the_problem_keeps_its_form_beside_openais_error(url: str) -> None:
    answer = httpx.post(f"{url}/v1/embeddings", content=b"x")
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert (answer.status_code, problem["status"]) == (415, 415)
    assert problem["error"]["message"] == problem["detail"]
    assert "error" not in httpx.post(f"{url}/v1/embed", content=b"x").json()
