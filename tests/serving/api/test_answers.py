"""Formats of answers: which one is chosen, and that none loses precision."""

import base64
import io
import json

import httpx
import numpy as np
import pytest

from isogon.model import Answers
from serving.api.answers import RequestAnswer, as_json, negotiated
from serving.api.problems import ProblemError

JSON, NPY = "application/json", "application/x-npy"


def answer(embeddings: np.ndarray) -> RequestAnswer:
    count = len(embeddings)
    return RequestAnswer(
        model="digits",
        fingerprint="0" * 64,
        answers=Answers(
            embeddings=embeddings,
            scores=np.linspace(0, 1e9, count, dtype=np.float32),
            p_values=np.linspace(0, 1, count),
            is_ood=np.arange(count) % 2 == 0,
        ),
        thumbnails=None,
    )


def test_numbers_in_json_read_back_as_the_same_float32_and_are_short() -> None:
    generator = np.random.default_rng(0)
    sizes = 10.0 ** generator.integers(-37, 38, 4000)
    odd = [0.0, -0.0, 1.0, -1.0, 1e-45, 3.4028235e38, 0.1, 9.9999994e-2]
    values = np.array([*(generator.normal(size=4000) * sizes), *odd]).astype(np.float32)
    body = as_json(answer(values[None]), {"n": answer(values[None]).embeddings_as("float")})
    back = np.array(json.loads(body.body)["n"][0], dtype=np.float32)
    assert np.array_equal(back, values)
    unit = generator.normal(size=(4, 500)).astype(np.float32) / 22
    text = as_json(answer(unit), {"n": answer(unit).embeddings_as("float")}).body
    assert len(text) < 15 * unit.size < len(json.dumps(unit.tolist()))


def test_a_score_that_is_no_number_is_null_and_not_broken_json() -> None:
    strange = RequestAnswer(
        model="digits",
        fingerprint="0" * 64,
        answers=Answers(
            embeddings=np.ones((2, 1), np.float32),
            scores=np.array([np.nan, np.inf], np.float32),
            p_values=np.array([0.1, 0.1]),
            is_ood=np.array([True, True]),
        ),
        thumbnails=None,
    )
    body = json.loads(as_json(strange, {"oods": strange.oods()}).body)
    assert [ood["score"] for ood in body["oods"]] == [None, None]


@pytest.mark.parametrize(
    ("accept", "chosen"),
    [
        (None, JSON),
        ("", JSON),
        ("*/*", JSON),
        ("application/*", JSON),
        (NPY, NPY),
        ("Application/X-NPY", NPY),
        (f"{NPY}, {JSON}", JSON),
        (f"{NPY}, {JSON};q=0.9", NPY),
        (f"{NPY};q=0.1, */*;q=0.2", JSON),
        (f"text/html, {NPY};q=0.5, */*;q=0.1", NPY),
        (f"{JSON};q=0, */*", NPY),
        ("text/html,application/xhtml+xml,*/*;q=0.8", JSON),
    ],
)
def test_the_client_chooses_the_format(accept: str | None, chosen: str) -> None:
    assert negotiated(accept, (JSON, NPY)) == chosen


@pytest.mark.parametrize("accept", ["text/html", f"{JSON};q=0", "*/*;q=0", ",;", "x;q=y"])
def test_a_406_names_the_formats_that_there_are(accept: str) -> None:
    with pytest.raises(ProblemError, match=f"{JSON} or {NPY}") as refusal:
        negotiated(accept, (JSON, NPY))
    assert refusal.value.status == 406


def test_a_numpy_answer_holds_what_the_json_answer_does(url: str, photo: bytes) -> None:
    files = [("images", photo), ("images", photo)]
    for path, columns in (("/v1/embed", 32), ("/v1/score", 3)):
        told = httpx.post(url + path, files=files).json()
        answer = httpx.post(url + path, files=files, headers={"accept": NPY})
        assert answer.headers["content-type"] == NPY
        assert answer.headers["x-isogon-fingerprint"] == told["model"]["fingerprint"]
        array = np.load(io.BytesIO(answer.content), allow_pickle=False)
        assert array.shape == (2, columns)
        if path == "/v1/embed":
            assert array.dtype == np.float32
            expected = [result["embedding"] for result in told["results"]]
        else:
            assert array.dtype == np.float64
            expected = [list(result["ood"].values()) for result in told["results"]]
        assert np.allclose(array, expected, atol=1e-6)


def test_an_unmet_accept_is_refused_before_the_work(url: str) -> None:
    refused = httpx.post(url + "/v1/embed", content=b"x", headers={"accept": "text/html"})
    assert refused.status_code == 406
    assert refused.headers["content-type"] == "application/problem+json"


def test_the_model_is_named_in_query_form_or_json(url: str, photo: bytes) -> None:
    text = base64.b64encode(photo).decode()
    for name, status in (("digits", 200), ("faces", 404)):
        for request in (
            {"params": {"model": name}, "files": {"images": photo}},
            {"data": {"model": name}, "files": {"images": photo}},
            {"json": {"model": name, "images": [text]}},
        ):
            answer = httpx.post(url + "/v1/score", **request)
            assert answer.status_code == status, answer.text
            if status == 404:
                assert "'faces'" in answer.json()["detail"]
                assert "digits" in answer.json()["detail"]
    both = {"params": {"model": "digits"}, "data": {"model": "faces"}}
    refused = httpx.post(url + "/v1/score", **both, files={"images": photo})
    assert refused.status_code == 422
    file = httpx.post(url + "/v1/score", files={"images": photo, "model": b"digits"})
    assert (file.status_code, "as text" in file.text) == (422, True)
