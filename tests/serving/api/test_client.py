"""The typed client with the live service, and its retries with a fake transport."""

import asyncio
import io
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from isogon.bundle import ONNX, Bundle, open_runner, vouched_artifact
from isogon.images import decode
from isogon.runtimes import Outputs, Runner
from serving.client import (
    AsyncIsogonClient,
    Embeddings,
    FingerprintError,
    IsogonClient,
    RefusedError,
    Retries,
    UnreachableError,
)
from serving.client.images import ServiceLimits, split_into_requests
from serving.process import free_port

QUICK = Retries(attempts=4, pause=0.001)
FINGERPRINT = "a" * 64
CARD = {
    "name": "fake",
    "fingerprint": FINGERPRINT,
    "width": 2,
    "limits": {
        "images": 3,
        "body_bytes": 10_000,
        "image_bytes": 10_000,
        "image_pixels": 10_000,
    },
}


@pytest.fixture(scope="module")
def client(url: str) -> Iterator[IsogonClient]:
    with IsogonClient(url) as client:
        yield client


@pytest.fixture(scope="module")
def paths(photographs: Path) -> list[Path]:
    return sorted(photographs.glob("*.jpg"))


@pytest.fixture(scope="module")
def expected(exported: Path) -> Callable[..., Outputs]:
    bundle = Bundle.open(exported)
    runner: Runner = open_runner(bundle, vouched_artifact(bundle))

    def run(*images: Image.Image) -> Outputs:
        preprocessing = bundle.manifest.preprocessing
        return runner.run(np.stack([preprocessing.pixels(image) for image in images]))

    return run


def same(found: Embeddings, expected: Outputs) -> bool:
    return np.allclose(found.embeddings, expected.embeddings, atol=1e-6) and np.allclose(
        found.scores, expected.ood_scores, atol=1e-5
    )


def test_embeddings_and_scores_come_as_arrays(
    client: IsogonClient,
    paths: list[Path],
    expected: Callable[..., Outputs],
    exported: Path,
) -> None:
    answer = client.embed(paths)
    assert answer.embeddings.dtype == np.float32
    assert answer.embeddings.shape == (12, 32)
    assert same(answer, expected(*(decode(path.read_bytes()) for path in paths)))
    calibration = vouched_artifact(Bundle.open(exported)).calibration
    assert np.allclose(answer.p_values, calibration.p_values(answer.scores))
    assert answer.is_ood.tolist() == (answer.p_values <= calibration.alpha).tolist()
    assert answer.fingerprint == Bundle.open(exported).manifest.files[ONNX].sha256
    scores = client.score(paths)
    assert np.allclose(scores.scores, answer.scores, atol=1e-5)
    assert scores.fingerprint == answer.fingerprint


def test_bytes_files_and_pictures_of_every_mode_are_taken(
    client: IsogonClient, paths: list[Path], expected: Callable[..., Outputs]
) -> None:
    picture = Image.open(paths[0]).convert("RGB")
    turned = picture.transpose(Image.Transpose.ROTATE_270)  # by hand, with its EXIF kept
    turned.getexif()[0x0112] = 6
    upright = io.BytesIO()
    picture.transpose(Image.Transpose.ROTATE_90).save(
        upright, "PNG", exif=turned.getexif().tobytes()
    )
    modes = [picture.convert(mode) for mode in ("L", "RGBA", "CMYK", "P", "1", "YCbCr")]
    opened = Image.open(upright)
    answer = client.embed(
        [paths[0].read_bytes(), paths[0], opened, picture, turned, *modes]
    )
    ours = [picture] * 4 + [turned, *(mode.convert("RGB") for mode in modes)]
    assert same(answer, expected(*ours))


@pytest.mark.parametrize(
    ("images", "kind", "told"),
    [
        (b"encoded", TypeError, "list of images, got one bytes"),
        (Path("a.jpg"), TypeError, "list of images, got one PosixPath"),
        (Image.new("RGB", (2, 2)), TypeError, "list of images, got one Image"),
        (["a.jpg"], TypeError, "pathlib.Path or an image of Pillow's, got str"),
        ([np.zeros((2, 2, 3))], TypeError, "got ndarray.*fromarray"),
    ],
    ids=["bytes", "a path", "a picture", "a name", "an array"],
)
def test_what_is_not_an_image_is_named(
    images: Any, kind: type[Exception], told: str
) -> None:
    transport, asked = wire(result())
    with (
        IsogonClient("http://fake", transport=transport) as client,
        pytest.raises(kind, match=told),
    ):
        client.embed(images)
    assert not asked


def test_deep_samples_are_judged_by_the_service(client: IsogonClient) -> None:
    levels = np.arange(256, dtype=np.uint16).reshape(16, 16) * 257
    deep = Image.fromarray(levels)
    swapped = deep.convert("I").convert("I;16B")
    found = client.embed([deep, swapped, Image.fromarray((levels >> 8).astype(np.uint8))])
    assert np.allclose(found.embeddings, found.embeddings[:1])
    with pytest.raises(RefusedError, match=r"integers of 32 bits.* `range") as refused:
        client.embed([deep, deep.convert("I")])
    assert (refused.value.status, refused.value.index) == (415, 1)


LIMITS = ServiceLimits(images=2, body_bytes=60_000, image_bytes=50_000, image_pixels=90_000)


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P", "CMYK", "I;16"])
@pytest.mark.parametrize("size", [(300, 300), (600, 400), (5000, 40)])
def test_a_large_picture_is_sent_within_the_limits(
    mode: str, size: tuple[int, int]
) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (*size[::-1], 3), np.uint8)
    image = Image.fromarray(noise)
    if mode == "I;16":
        image = Image.fromarray(noise[..., 0].astype(np.uint16) << 8)
    elif mode != "RGB":
        image = image.convert(mode)
    (batch,) = split_into_requests([image], LIMITS)
    sent = Image.open(io.BytesIO(batch.images[0]))
    assert len(batch.images[0]) <= LIMITS.image_bytes
    assert sent.width * sent.height <= LIMITS.image_pixels
    assert sent.width / sent.height == pytest.approx(size[0] / size[1], rel=0.2)
    assert abs(np.array(sent.convert("L"), float).mean() - 127) < 10 or mode == "I;16"


def test_a_picture_that_fits_is_sent_to_the_pixel() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (100, 120, 3), np.uint8)
    image = Image.fromarray(noise)
    image.info |= {"icc_profile": b"colours", "xmp": b'tiff:Orientation="6"'}
    (batch,) = split_into_requests([image], LIMITS)
    sent = Image.open(io.BytesIO(batch.images[0]))
    assert np.array_equal(sent, noise)
    assert sent.info["icc_profile"] == b"colours"
    assert not sent.getexif()


def test_transparency_is_sent_in_whatever_mode_it_comes() -> None:
    clear = Image.new("RGBA", (2, 2), (200, 0, 0, 0))
    for mode in ("RGBa", "PA"):
        (batch,) = split_into_requests([clear.convert(mode)], LIMITS)
        assert (
            Image.open(io.BytesIO(batch.images[0])).convert("RGBA").getpixel((0, 0))[3] == 0
        )


def test_more_images_than_a_request_may_hold_are_sent_in_several(
    client: IsogonClient, digits: Path
) -> None:
    files = sorted(digits.rglob("*.png"))[:150]
    answer = client.embed(files)
    assert answer.embeddings.shape == (150, 32)
    for number in (0, 63, 64, 149):
        alone = client.embed([files[number]])
        assert np.allclose(alone.embeddings[0], answer.embeddings[number], atol=1e-6)


def test_no_images_are_no_embeddings(client: IsogonClient) -> None:
    answer = client.embed([])
    assert answer.embeddings.shape == (0, 32)
    assert len(answer.fingerprint) == 64


def test_a_refusal_names_the_image_among_all_that_were_given(
    client: IsogonClient, digits: Path
) -> None:
    images = [path.read_bytes() for path in sorted(digits.rglob("*.png"))[:70]]
    images[66] = b"nope"
    with pytest.raises(RefusedError, match=r"400 Bad Request: images\[66\] .*starts") as it:
        client.embed(images)
    assert (it.value.status, it.value.index) == (400, 66)


def test_the_model_that_made_the_index_is_insisted_on(
    url: str, client: IsogonClient, paths: list[Path]
) -> None:
    known = client.model()
    assert (known.name, known.width, known.max_images) == ("digits", 32, 64)
    assert known.document["calibration"]["alpha"] == 0.05
    with IsogonClient(url, fingerprint=known.fingerprint, model="digits") as same_model:
        assert len(same_model.embed(paths[:1]).embeddings) == 1
    with (
        IsogonClient(url, fingerprint=FINGERPRINT) as other,
        pytest.raises(FingerprintError, match=r"aaaa.* cannot be compared"),
    ):
        other.embed(paths[:1])


def test_the_asynchronous_client_does_the_same(
    url: str, client: IsogonClient, paths: list[Path]
) -> None:
    async def ask() -> tuple[Any, ...]:
        async with AsyncIsogonClient(url) as waiting:
            both = await asyncio.gather(waiting.embed(paths), waiting.score(paths))
            return *both, await waiting.model()

    embeddings, scores, card = asyncio.run(ask())
    assert np.allclose(embeddings.embeddings, client.embed(paths).embeddings, atol=1e-6)
    assert np.allclose(scores.scores, embeddings.scores, atol=1e-5)
    assert card == client.model()


def result(fingerprint: str = FINGERPRINT, count: int = 1) -> httpx.Response:
    one = {
        "embedding": "AACAPwAAAAA=",
        "ood": {"score": 1.0, "p_value": 0.5, "is_ood": False},
    }
    model = {"name": "fake", "fingerprint": fingerprint}
    return httpx.Response(200, json={"model": model, "width": 2, "results": [one] * count})


def wire(*replies: httpx.Response | Exception) -> tuple[httpx.MockTransport, list[str]]:
    """A service that answers `/v1/model`, and images with one reply after the other."""
    rest = list(replies)
    asked: list[str] = []

    def handle(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/v1/model":
            return httpx.Response(200, json=CARD)
        asked.append(request.headers.get("authorization", ""))
        reply = rest.pop(0)
        if isinstance(reply, Exception):
            raise reply
        headers = reply.headers  # a response is read once: each time another
        return httpx.Response(reply.status_code, headers=headers, content=reply.content)

    return httpx.MockTransport(handle), asked


def busy(status: int = 429, **headers: str) -> httpx.Response:
    named = {name.replace("_", "-"): text for name, text in headers.items()}
    return httpx.Response(status, headers=named, text="later")


@pytest.mark.parametrize(
    "trouble",
    [
        busy(),
        busy(503),
        busy(429, retry_after="0"),
        busy(429, retry_after="soon"),
        busy(503, retry_after="Wed, 21 Oct 2015 07:28:00 GMT"),
        busy(503, retry_after="Wed, 21 Oct 2015 07:28:00 -0000"),
        httpx.ConnectError("refused"),
        httpx.RemoteProtocolError("Server disconnected"),
    ],
    ids=str,
)
@pytest.mark.parametrize("waiting", [False, True], ids=["sync", "async"])
def test_what_passes_is_tried_again(
    trouble: httpx.Response | Exception, waiting: bool
) -> None:
    transport, asked = wire(trouble, trouble, trouble, result())
    options: Any = {"transport": transport, "retries": QUICK, "api_key": "secret"}
    if waiting:

        async def ask() -> Embeddings:
            async with AsyncIsogonClient("http://fake", **options) as client:
                return await client.embed([b"x"])

        answer = asyncio.run(ask())
    else:
        with IsogonClient("http://fake", **options) as client:
            answer = client.embed([b"x"])
    assert answer.embeddings.tolist() == [[1.0, 0.0]]
    assert asked == ["Bearer secret"] * 4


def test_patience_ends() -> None:
    transport, asked = wire(*[busy()] * 9)
    with (
        IsogonClient("http://fake", transport=transport, retries=QUICK) as client,
        pytest.raises(RefusedError, match="429 Too Many Requests: later"),
    ):
        client.score([b"x"])
    assert len(asked) == 4


@pytest.mark.parametrize(
    "final",
    [
        busy(504),
        busy(500),
        busy(401),
        busy(429, retry_after="3600"),
        httpx.ReadTimeout("slow"),
    ],
    ids=str,
)
def test_what_does_not_pass_is_not_tried_again(final: httpx.Response | Exception) -> None:
    transport, asked = wire(final, result())
    kind = UnreachableError if isinstance(final, Exception) else RefusedError
    with (
        IsogonClient("http://fake", transport=transport, retries=QUICK) as client,
        pytest.raises(kind),
    ):
        client.embed([b"x"])
    assert len(asked) == 1


@pytest.mark.parametrize("as_date", [False, True])
def test_retry_after_is_waited_for_as_seconds_and_as_a_date(as_date: bool) -> None:
    started = datetime.now(UTC)
    date = format_datetime(started + timedelta(seconds=2), usegmt=True)  # whole seconds
    transport, _ = wire(busy(retry_after=date if as_date else "1"), result())
    with IsogonClient("http://fake", transport=transport, retries=QUICK) as client:
        client.embed([b"x"])
    assert 0.9 < (datetime.now(UTC) - started).total_seconds() < 4


def test_pauses_double_up_to_a_limit_and_differ() -> None:
    retries = Retries(attempts=9, pause=0.5, longest_pause=4)
    for attempt, longest in ((1, 0.5), (2, 1), (3, 2), (4, 4), (8, 4)):
        pauses = {retries.wait(busy(), attempt) for _ in range(50)}
        assert len(pauses) > 1
        assert all(longest / 2 <= pause <= longest for pause in pauses)


def test_a_model_that_changes_between_requests_of_one_call_is_an_error() -> None:
    transport, _ = wire(result(count=3), result("b" * 64))
    with (
        IsogonClient("http://fake", transport=transport, retries=QUICK) as client,
        pytest.raises(FingerprintError),
    ):
        client.embed([b"x"] * 4)


def test_requests_stay_below_the_limit_on_bytes() -> None:
    transport, asked = wire(result(), result(), result(count=2))
    with IsogonClient("http://fake", transport=transport, retries=QUICK) as client:
        client.embed([b"x" * 9000, b"x" * 9000, b"x" * 3000, b"x" * 3000])
    assert len(asked) == 3


@pytest.mark.parametrize(
    "reply",
    [
        result(count=0),
        result(count=2),
        httpx.Response(200, json={"results": [{}]}),
        httpx.DecodingError("no gzip"),
    ],
    ids=["too few", "too many", "of no model", "damaged"],
)
def test_an_answer_that_does_not_fit_the_request_is_an_error(
    reply: httpx.Response | Exception,
) -> None:
    transport, _ = wire(reply)
    with (
        IsogonClient("http://fake", transport=transport, retries=QUICK) as client,
        pytest.raises(UnreachableError),
    ):
        client.score([b"x"])


@pytest.mark.parametrize("body", [b"{}", b'{"title": "Fu', b"[]"])
def test_a_problem_without_words_is_still_a_refusal(body: bytes) -> None:
    kind = {"content-type": "application/problem+json"}
    transport, _ = wire(httpx.Response(422, headers=kind, content=body))
    with (
        IsogonClient("http://fake", transport=transport, retries=QUICK) as client,
        pytest.raises(RefusedError, match="422 Unprocessable"),
    ):
        client.score([b"x"])


@pytest.mark.parametrize("url", ["localhost:3000", "127.0.0.1:3000", "ftp://x", ""])
def test_what_is_not_a_url_is_refused_as_such(url: str) -> None:
    with pytest.raises(ValueError, match=r"URL, such as http://127\.0\.0\.1:3000, got"):
        IsogonClient(url)


def test_a_key_that_no_header_can_hold_is_refused() -> None:
    with pytest.raises(ValueError, match="Expected an API key of printable ASCII"):
        IsogonClient("http://fake", api_key="\u201csecret\u201d")


def test_something_else_at_the_address_is_named() -> None:
    page = httpx.MockTransport(lambda _: httpx.Response(200, text="<html>Hello"))
    with (
        IsogonClient("http://fake", transport=page) as client,
        pytest.raises(UnreachableError, match="not by an Isogon service: '<html>Hello'"),
    ):
        client.model()


def test_no_server_at_the_address_is_reported_after_the_last_attempt() -> None:
    with (
        IsogonClient(f"http://127.0.0.1:{free_port()}", retries=QUICK) as client,
        pytest.raises(UnreachableError, match=r"attempt 4\. Is the service running"),
    ):
        client.model()


def test_the_client_brings_no_server_and_no_runtime() -> None:
    heavy = {
        "bentoml",
        "fastapi",
        "starlette",
        "onnxruntime",
        "isogon.bundle",
        "torch",
        "PIL",
    }
    code = f"import sys, serving.client; print({heavy} & set(sys.modules))"
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == "set()"
