"""Everything over real HTTP, against the real BentoML service."""

import base64
import io
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from isogon.bundle import ONNX, Bundle, vouched_artifact
from isogon.images import decode
from isogon.runtimes import OnnxRunner
from serving import running_service


@pytest.fixture(scope="module")
def service(
    exported: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[httpx.Client]:
    """The real service on a free port, and a client that keeps its connections."""
    log = tmp_path_factory.mktemp("service") / "service.log"
    with (
        running_service(exported, log) as url,
        httpx.Client(base_url=url, timeout=60) as client,
    ):
        yield client


@pytest.fixture(scope="module")
def photo(photographs: Path) -> bytes:
    return (photographs / "chelsea.jpg").read_bytes()


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def multipart(*images: bytes, kind: str = "image/jpeg") -> dict[str, Any]:
    return {"files": [("images", (f"{i}", image, kind)) for i, image in enumerate(images)]}


def problem(response: httpx.Response, status: int) -> dict[str, Any]:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    document: dict[str, Any] = response.json()
    assert document["status"] == status
    assert document["title"]
    return document


@pytest.mark.parametrize("query", ["encoding=float", "model=digits"])
def test_a_query_that_says_what_is_so_anyway_changes_nothing(
    service: httpx.Client, photo: bytes, query: str
) -> None:
    without = service.post("/v1/embed", **multipart(photo))
    with_query = service.post(f"/v1/embed?{query}", **multipart(photo))
    assert with_query.status_code == without.status_code == 200
    assert with_query.json() == without.json()


@pytest.mark.parametrize(
    ("route", "parameters"),
    [("embed", "encoding, model"), ("score", "model"), ("neighbours", "k, model")],
)
def test_a_mistyped_query_is_not_taken_for_none(
    service: httpx.Client, photo: bytes, route: str, parameters: str
) -> None:
    refused = service.post(f"/v1/{route}?modle=digits", **multipart(photo))
    told = f"The query has 'modle'; this route's parameters are: {parameters}."
    assert problem(refused, 422)["detail"] == told


def test_a_parameter_given_twice_is_not_half_forgotten(
    service: httpx.Client, photo: bytes
) -> None:
    refused = service.post("/v1/embed?model=x&model=digits", **multipart(photo))
    assert problem(refused, 422)["detail"] == "The query has model twice. Give one value."


def test_names_that_are_not_ascii_are_filenames_too(
    service: httpx.Client, photo: bytes
) -> None:
    form = b'--x\r\nContent-Disposition: form-data; name="images"; '
    form += b"filename*=UTF-8''k%C3%A4tzchen.jpg\r\n\r\n" + photo + b"\r\n--x--\r\n"
    headers = {"content-type": "multipart/form-data; boundary=x"}
    assert service.post("/v1/embed", content=form, headers=headers).status_code == 200


def test_the_answer_has_the_documented_shape(
    service: httpx.Client, exported: Path, photo: bytes
) -> None:
    answer = service.post("/v1/embed", **multipart(photo, photo)).json()
    assert set(answer) == {"model", "width", "results"}
    fingerprint = Bundle.open(exported).manifest.files[ONNX].sha256
    assert answer["model"] == {"name": "digits", "fingerprint": fingerprint}
    assert answer["width"] == 32
    first, second = answer["results"]
    assert first == second
    assert set(first) == {"embedding", "ood"}
    assert set(first["ood"]) == {"score", "p_value", "is_ood"}
    assert np.linalg.norm(first["embedding"]) == pytest.approx(1, abs=1e-5)


def test_the_three_ways_to_send_and_both_encodings_agree(
    service: httpx.Client, exported: Path, photo: bytes
) -> None:
    bundle = Bundle.open(exported)
    pixels = bundle.manifest.preprocessing.pixels(decode(photo))[None]
    expected = OnnxRunner(bundle.file(ONNX)).run(pixels)
    text = base64.b64encode(photo).decode()
    for request in (
        multipart(photo),
        {"content": photo, "headers": {"content-type": "image/jpeg"}},
        {"json": {"images": [text]}},
    ):
        floats = service.post("/v1/embed", **request).json()["results"][0]
        packed = service.post("/v1/embed?encoding=base64", **request).json()["results"][0]
        decoded = np.frombuffer(base64.b64decode(packed["embedding"]), "<f4")
        assert np.allclose(floats["embedding"], expected.embeddings[0], atol=1e-6)
        assert np.array_equal(decoded, np.array(floats["embedding"], dtype=np.float32))
        assert floats["ood"]["score"] == pytest.approx(
            float(expected.ood_scores[0]), abs=1e-6
        )


def test_score_is_embed_without_embeddings(service: httpx.Client, photo: bytes) -> None:
    embed = service.post("/v1/embed", **multipart(photo)).json()
    score = service.post("/v1/score", **multipart(photo)).json()
    assert score == {
        "model": embed["model"],
        "results": [{"ood": embed["results"][0]["ood"]}],
    }


def test_familiar_images_are_familiar_and_photographs_are_not(
    service: httpx.Client, digits: Path, photographs: Path, exported: Path
) -> None:
    familiar = [path.read_bytes() for path in sorted(digits.rglob("*.png"))[::6]]
    unfamiliar = [path.read_bytes() for path in photographs.glob("*.jpg")]
    calibration = vouched_artifact(Bundle.open(exported)).calibration

    def flagged(images: list[bytes]) -> float:
        results = service.post("/v1/score", **multipart(*images)).json()["results"]
        for result in results:
            ood = result["ood"]
            assert ood["is_ood"] == (ood["p_value"] <= calibration.alpha)
        return float(np.mean([result["ood"]["is_ood"] for result in results]))

    assert flagged(familiar) < 0.2
    assert flagged(unfamiliar) > 0.8


def test_every_kind_of_good_image_is_answered(service: httpx.Client) -> None:
    rgb = Image.fromarray(
        np.random.default_rng(0).integers(0, 255, (50, 40, 3), dtype=np.uint8)
    )
    sixteen = Image.fromarray(np.arange(2500, dtype=np.uint16).reshape(50, 50) * 26)
    exif = Image.Exif()
    exif[0x0112] = 6
    for image in (
        encoded(rgb),
        encoded(rgb.convert("RGBA")),
        encoded(rgb.convert("LA")),
        encoded(rgb.convert("L"), "JPEG"),
        encoded(rgb.convert("CMYK"), "JPEG"),
        encoded(rgb.convert("P")),
        encoded(rgb.convert("1")),
        encoded(sixteen),
        encoded(rgb, "JPEG", exif=exif),
        encoded(rgb, "JPEG", progressive=True),
        *(encoded(rgb, kind) for kind in ("WEBP", "AVIF", "TIFF", "GIF", "BMP", "PPM")),
        encoded(Image.new("RGB", (1, 1))),
        encoded(Image.new("RGB", (3000, 2))),
    ):
        response = service.post("/v1/embed", **multipart(image, kind=""))
        assert response.status_code == 200, response.text


def test_exif_orientation_is_applied(service: httpx.Client, photo: bytes) -> None:
    upright = decode(photo)
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = upright.transpose(Image.Transpose.ROTATE_90)
    results = service.post(
        "/v1/embed", **multipart(encoded(upright), encoded(turned, exif=exif))
    ).json()["results"]
    assert results[0] == results[1]


@pytest.mark.parametrize(
    ("image", "status", "says"),
    [
        (b"", 400, "is empty"),
        (b"nope", 400, "starts with b'nope'"),
        (b"\xff\x0a" + b"\0" * 20, 415, "is a JPEG XL"),
        (b"GIF89a" + b"\0" * 20, 400, "begins as GIF"),
        (encoded(Image.new("L", (14_000, 14_000))), 413, "14000 x 14000"),
        (b"\xff\xd8\xff" + b"\0" * (21 * 2**20), 413, "bytes"),
    ],
    ids=["empty", "nonsense", "jxl", "gif", "14000 squared", "21 MiB"],
)
def test_a_bad_image_is_named_by_its_index(
    service: httpx.Client, photo: bytes, image: bytes, status: int, says: str
) -> None:
    for path in ("/v1/embed", "/v1/score"):
        found = problem(service.post(path, **multipart(photo, image, photo)), status)
        assert found["index"] == 1
        assert found["detail"].startswith("images[1] ")
        assert says in found["detail"]
    raw = service.post("/v1/embed", content=image, headers={"content-type": "image/jpeg"})
    assert problem(raw, status)["index"] == 0
    json = service.post("/v1/embed", json={"images": [base64.b64encode(image).decode()]})
    assert problem(json, status)["index"] == 0


def test_a_truncated_image_is_refused(service: httpx.Client, photo: bytes) -> None:
    found = problem(service.post("/v1/embed", **multipart(photo[: len(photo) // 2])), 400)
    assert "truncated" in found["detail"]


def test_types_that_are_not_accepted_are_415(service: httpx.Client, photo: bytes) -> None:
    text = {"content": b"hello", "headers": {"content-type": "text/plain"}}
    assert "multipart" in problem(service.post("/v1/embed", **text), 415)["detail"]
    nothing = service.post("/v1/embed", content=b"x")
    assert "There is no content type" in problem(nothing, 415)["detail"]
    part = service.post("/v1/embed", **multipart(photo, b"%PDF", kind="application/pdf"))
    assert problem(part, 415)["index"] == 0
    kind = {"Content-Transfer-Encoding": "base64"}
    files = [("images", ("0", base64.b64encode(photo), "image/jpeg", kind))]
    part = service.post("/v1/embed", files=files)
    assert "Content-Transfer-Encoding 'base64'" in problem(part, 415)["detail"]


@pytest.mark.parametrize(
    ("request_", "says"),
    [
        ({"json": {}}, "images: the field is missing"),
        ({"json": {"other" * 999: 1, "images": ["aGk="]}}, "there is no such field"),
        ({"json": {"images": ["!!!"]}}, "images[0] is not base64"),
        ({"files": {"image": b"x"}}, "got 'image'"),
        ({"files": {"model": b"digits"}}, "no parts named `images`"),
        ({"data": {"images": "x"}, "files": {"images": b"x"}}, "images[0] has no filename"),
        ({"files": {"images": (None, b"\xff" * 2**21)}}, "images[0] has no filename"),
        ({"files": [("images", b"x"), ("images", (None, b"x"))]}, "images[1] has no filen"),
        ({"files": [("images", b"x"), *[("model", (None, "x"))] * 2]}, "2 parts `model`"),
    ],
    # Short: pytest puts the name of a test into the environment, which is bounded.
    ids=lambda value: str(value)[:80],
)
def test_bad_fields_are_422(
    service: httpx.Client, request_: dict[str, Any], says: str
) -> None:
    assert says in problem(service.post("/v1/embed", **request_), 422)["detail"]


def test_an_unknown_encoding_is_422(service: httpx.Client, photo: bytes) -> None:
    response = service.post("/v1/embed?encoding=hex", **multipart(photo))
    assert "'float' or 'base64'" in problem(response, 422)["detail"]


def test_malformed_multipart_is_400(service: httpx.Client) -> None:
    for kind in ("multipart/form-data", "multipart/form-data; boundary=x"):
        response = service.post(
            "/v1/embed", content=b"garbage", headers={"content-type": kind}
        )
        assert "multipart" in problem(response, 400)["detail"]


def test_a_multipart_body_that_is_cut_off_loses_no_image_silently(
    service: httpx.Client, photo: bytes
) -> None:
    request = service.build_request("POST", "/v1/embed", **multipart(photo, photo))
    body = request.read()
    cut = body[: body.rindex(b"--")][:-40]
    headers = {"content-type": request.headers["content-type"]}
    answer = service.post("/v1/embed", content=cut, headers=headers)
    assert "last boundary" in problem(answer, 400)["detail"]


def test_odd_headers_cost_no_answer(service: httpx.Client, photo: bytes) -> None:
    body = b'--x\r\nContent-Disposition: form-data; name="images"; filename="a"\r\n\r\n'
    body += photo + b"\r\n--x--\r\n"
    kind = "multipart/form-data; boundary=x; charset=undefined"
    problem(service.post("/v1/embed", content=body, headers={"content-type": kind}), 400)
    headers = {b"content-type": b'image/jpeg; name="\xe9.jpg"'}
    answer = service.post("/v1/embed", content=photo, headers=headers)
    assert len(answer.json()["results"]) == 1


def test_a_bomb_of_json_is_refused_at_once(service: httpx.Client) -> None:
    bombs = (b'{"images":[' + b"1," * 5_000_000 + b"1]}", b'{"a":' + b"[" * 10**6 + b"}")
    for bomb in bombs:
        began = time.monotonic()
        headers = {"content-type": "application/json"}
        answer = service.post("/v1/embed", content=bomb, headers=headers)
        assert answer.status_code in {400, 422}
        assert time.monotonic() - began < 5


def test_too_many_images_are_413(service: httpx.Client, photo: bytes) -> None:
    assert (
        "64 images"
        in problem(service.post("/v1/embed", **multipart(*[b"x"] * 65)), 413)["detail"]
    )
    text = [base64.b64encode(b"x").decode()] * 65
    problem(service.post("/v1/embed", json={"images": text}), 413)


def test_a_body_over_the_limit_is_refused_announced_or_not(service: httpx.Client) -> None:
    chunk = b"\0" * 2**20

    def chunks() -> Any:
        for _ in range(100):
            yield chunk

    headers = {"content-type": "image/jpeg"}
    for content in (chunk * 100, chunks()):
        try:
            response = httpx.post(
                service.base_url.join("/v1/embed"), content=content, headers=headers
            )
        except (httpx.WriteError, httpx.ReadError):
            continue  # closed while we were still sending: refused all the same
        problem(response, 413)
    assert service.get("/readyz").status_code == 200


def test_no_bad_image_costs_another_request_anything(
    service: httpx.Client, photo: bytes
) -> None:
    bad = [b"", b"nope", photo[:2000], b"GIF89a", encoded(Image.new("1", (9000, 9000)))]
    expected = service.post("/v1/embed", **multipart(photo)).json()["results"]

    def one(number: int) -> tuple[bool, httpx.Response]:
        good = number % 2 == 0
        image = photo if good else bad[number // 2 % len(bad)]
        return good, service.post("/v1/embed", **multipart(image))

    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(one, range(200)))
    for good, response in answers:
        if good:
            assert response.status_code == 200
            ours, theirs = response.json()["results"][0], expected[0]
            assert np.allclose(ours["embedding"], theirs["embedding"], atol=1e-6)
        else:
            assert response.status_code in {400, 413, 415}


def test_unknown_paths_and_methods_are_4xx(service: httpx.Client) -> None:
    assert "The paths are /v1/embed, " in problem(service.get("/nowhere"), 404)["detail"]
    for near in ("/v1/embed/", "/V1/embed", "/embed"):  # no redirect, which loses bodies
        found = problem(service.post(near, content=b"x"), 404)
        assert found["detail"] == f"There is nothing at {near}. Did you mean /v1/embed?"
    refused = service.get("/v1/embed")
    assert problem(refused, 405)["detail"] == "/v1/embed takes POST, not GET."
    assert refused.headers["allow"] == "POST"


def test_the_model_is_described(service: httpx.Client, exported: Path) -> None:
    bundle = Bundle.open(exported)
    answer = service.get("/v1/model").json()
    assert answer["fingerprint"] == bundle.manifest.files[ONNX].sha256
    assert answer["parity"]["min_cosine"] > 0.99999
    assert answer["calibration"]["alpha"] == 0.05
    assert answer["preprocessing"]["height"] == 32


def test_health_metrics_and_the_page(service: httpx.Client) -> None:
    assert service.get("/livez").status_code == 200
    assert service.get("/readyz").status_code == 200
    assert "isogon_http_requests_total{" in service.get("/metrics").text
    page = service.get("/")
    assert page.headers["content-type"].startswith("text/html")
    assert "-F images=@photo.jpg" in page.text
    assert "http" not in page.text.replace(str(service.base_url), "")  # asks no other host


def test_no_torch_is_in_the_process(service: httpx.Client) -> None:
    port = service.base_url.port
    mapped = []
    for maps in Path("/proc").glob("[0-9]*/maps"):
        try:
            command = (maps.parent / "cmdline").read_bytes()
            if f"{port}".encode() in command and b"isogon" in command:
                mapped.append(maps.read_text())
        except OSError:  # it ended, or is not ours
            continue
    assert any("onnxruntime" in text for text in mapped) or os.name != "posix"
    assert not any("libtorch" in text for text in mapped)


def test_importing_the_service_imports_no_torch() -> None:
    code = "import sys, serving.bento.service as _; print({'torch', 'timm'} & set(sys.modules))"
    found = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env=os.environ | {"BENTOML_DO_NOT_TRACK": "True"},
        check=True,
    )
    assert found.stdout.strip() == "set()"
