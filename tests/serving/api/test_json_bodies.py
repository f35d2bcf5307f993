"""Bodies that are not JSON, or not a list of images, get a helpful error."""

import base64
import gzip
import json
from typing import Any

import httpx
import pytest

JSON = {"content-type": "application/json"}
MARKED = b"\xef\xbb\xbf"


def refused(url: str, path: str, content: bytes, status: int) -> dict[str, Any]:
    answer = httpx.post(f"{url}{path}", content=content, headers=JSON)
    assert answer.status_code == status, answer.text
    problem: dict[str, Any] = answer.json()
    assert problem["status"] == status
    return problem


@pytest.mark.parametrize(
    "path", ["/v1/embed", "/v1/score", "/v1/neighbours", "/v1/embeddings"]
)
@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"\xff\xd8\xff\xe0" + b",:[{" * 5000, "declared as JSON but is a JPEG"),
        (gzip.compress(b"{}"), "compressed by gzip"),
        (b"\0" * 100, r"is none: it begins with b'\x00"),
        (b"images=%2F9j", "is none: it begins with b'images=%'"),
        (b"", "The body is empty"),
        (b"{", "malformed JSON"),
        (b'{"input": "a\nb"}', "malformed JSON: control character"),
        (b'{"a":' + b"[" * 10**6, "recursion limit"),
        (b'{"dimensions":' + b"9" * 9000 + b"}", "number out of range"),
    ],
    ids=range(9),
)
def test_what_is_not_json_is_400(url: str, path: str, content: bytes, says: str) -> None:
    problem = refused(url, path, content, 400)
    assert says in problem["detail"]
    assert "Expected {" in problem["detail"]


@pytest.mark.parametrize(
    ("document", "says", "index"),
    [
        (None, "The body: it should be an object, got null", None),
        ([1], "The body: it should be an object, got a list", None),
        ({}, "images: the field is missing", None),
        (
            {"image": ["a"]},
            "image: there is no such field; the fields are images, model",
            None,
        ),
        ({"images": []}, "images: it should not be empty", None),
        ({"images": "aGk="}, "images: it should be a list, got 'aGk='", None),
        (
            {"images": list(range(5000))},
            "images[0]: it should be a string, got a number",
            0,
        ),
        ({"images": ["aGk=", {"a": 1}]}, "images[1]: it should be a string, got an obj", 1),
        ({"images": ["aGk="], "user": "a, b" * 5000}, "user: there is no such field", None),
        (
            {"images": ["aGk="], "model": 5},
            "model: it should be a string, got a number",
            None,
        ),
    ],
    ids=range(10),
)
def test_a_document_that_does_not_fit_is_explained_with_its_place(
    url: str, document: object, says: str, index: int | None
) -> None:
    problem = refused(url, "/v1/embed", json.dumps(document).encode(), 422)
    assert says in problem["detail"]
    assert problem.get("index") == index


def test_only_far_too_many_images_are_far_too_many(url: str) -> None:
    many = json.dumps({"images": ["aGk="] * 5000}).encode()
    assert "64 images" in refused(url, "/v1/score", many, 413)["detail"]
    cut = json.dumps({"others": ["aGk="] * 5000, "images": ["aGk="]}).encode()
    assert "others: there is no such field" in refused(url, "/v1/score", cut, 422)["detail"]


@pytest.mark.parametrize("path", ["/v1/embed", "/v1/embeddings"])
def test_compressed_bodies_are_refused_by_the_name_of_their_coding(
    url: str, path: str, photo: bytes
) -> None:
    for coding in ("gzip", "br", "GZIP, identity"):
        answer = httpx.post(
            f"{url}{path}",
            content=gzip.compress(b"{}"),
            headers=JSON | {"content-encoding": coding},
        )
        assert answer.status_code == 415
        assert f"Content-Encoding is '{coding.lower()}'" in answer.json()["detail"]
    plain = {"content-type": "image/jpeg", "content-encoding": "identity"}
    assert httpx.post(f"{url}/v1/embed", content=photo, headers=plain).status_code == 200


def test_a_byte_order_mark_is_no_fault(url: str, photo: bytes) -> None:
    problem = refused(url, "/v1/embed", MARKED + b'{"images": []}', 422)
    assert "images: it should not be empty" in problem["detail"]


def test_an_unknown_field_that_is_null_is_as_if_absent(url: str, photo: bytes) -> None:
    image = base64.b64encode(photo).decode()
    document = {"images": [image], "model": None, "encoding_format": None, "extra": None}
    assert httpx.post(f"{url}/v1/score", json=document).status_code == 200
    document = {"input": f"data:;base64,{image}", "extra_body": None, "dimensions": None}
    assert httpx.post(f"{url}/v1/embeddings", json=document).status_code == 200
    problem = refused(url, "/v1/score", b'{"image": null}', 422)
    assert "images: the field is missing" in problem["detail"]
