"""The exported file in other runtimes: their own packages, as their own tools install them.

Slow, because npm fetches the packages first. Skipped where a tool is missing.
"""

import functools
import json
import os
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import sync_playwright

from isogon.bundle import GOLDEN, Bundle
from isogon.model import Model
from isogon.runtimes import OnnxRunner, Outputs, Pixels

EXAMPLES = Path(__file__).parents[1] / "examples"
NODE, NPM, CHROMIUM = (shutil.which(name) for name in ("node", "npm", "chromium"))
COMPILER = shutil.which("g++")
PACKAGES = ("onnxruntime-node", "onnxruntime-web", "sharp")

pytestmark = pytest.mark.slow

# Pixels in, answers out, as a page that has the file beside it would do it.
PAGE = """<!doctype html><title>waiting</title><script type="module">
import * as ort from "./node_modules/onnxruntime-web/dist/ort.wasm.min.mjs";
ort.env.wasm.numThreads = 1;
const pixels = new Uint8Array(await (await fetch("pixels.bin")).arrayBuffer());
const shape = await (await fetch("shape.json")).json();
const session = await ort.InferenceSession.create("model.onnx");
const found = await session.run({ images: new ort.Tensor("uint8", pixels, shape) });
window.answer = { embedding: [...found.embedding.data], score: [...found.ood_score.data] };
document.title = "done";
</script>"""


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *arguments: object) -> None:
        pass


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the packages, from npm."""
    if not (NODE and NPM):
        pytest.skip("no `node` and `npm` on the PATH")
    folder = tmp_path_factory.mktemp("npm")
    asked = [str(NPM), "install", "--ignore-scripts", "--no-audit", "--no-fund", *PACKAGES]
    done = subprocess.run(asked, cwd=folder, capture_output=True, text=True, timeout=240)
    if done.returncode:
        pytest.skip(f"npm cannot fetch the packages here: {done.stderr[-200:]}")
    return folder


@pytest.fixture(scope="module")
def pixels(exported: Path) -> Pixels:
    found: Pixels = Bundle.open(exported).arrays(GOLDEN)["pixels"]
    return found


@pytest.fixture(scope="module")
def expected(standalone_file: Path, pixels: Pixels) -> Outputs:
    return OnnxRunner(standalone_file, threads=1).run(pixels)


def test_onnxruntime_node_answers_alike_and_reads_the_metadata(
    packages: Path,
    standalone_file: Path,
    pixels: Pixels,
    expected: Outputs,
    photographs: Path,
) -> None:
    images = []
    for number, one in enumerate(pixels):
        images.append(packages / f"{number}.png")
        Image.fromarray(one).save(images[-1])
    photograph = photographs / "astronaut.jpg"
    shutil.copy(EXAMPLES / "edge.mjs", packages)
    asked = [NODE, "edge.mjs", standalone_file, *images, photograph]
    done = subprocess.run(
        list(map(str, asked)), cwd=packages, capture_output=True, text=True, check=True
    )
    *exact, resized = map(json.loads, done.stdout.splitlines())
    found = np.array([answer["embedding"] for answer in exact])
    assert np.abs(found - expected.embeddings).max() < 1e-5
    model = Model.open(standalone_file)
    for image, answer in zip(images, exact, strict=True):
        assert answer["p"] == pytest.approx(model.answer(image).p_value)
    ours = model.answer(photograph)
    assert float(np.dot(ours.embedding, resized["embedding"])) > 0.99


@pytest.mark.skipif(CHROMIUM is None, reason="no `chromium` on the PATH")
def test_onnxruntime_web_answers_alike_in_a_browser(
    packages: Path, standalone_file: Path, pixels: Pixels, expected: Outputs
) -> None:
    (packages / "page.html").write_text(PAGE)
    (packages / "pixels.bin").write_bytes(np.ascontiguousarray(pixels).tobytes())
    (packages / "shape.json").write_text(json.dumps(list(pixels.shape)))
    shutil.copy(standalone_file, packages / "model.onnx")
    with served(packages) as address, sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"]
        )
        page = browser.new_page()
        page.goto(f"{address}/page.html")
        page.wait_for_function("document.title === 'done'", timeout=120_000)
        answer = page.evaluate("window.answer")
        browser.close()
    found = np.reshape(answer["embedding"], expected.embeddings.shape)
    assert np.abs(found - expected.embeddings).max() < 1e-5
    assert np.abs(np.array(answer["score"]) - expected.ood_scores).max() < 1e-5


def test_openvino_answers_alike_in_cpp(
    standalone_file: Path, pixels: Pixels, tmp_path: Path
) -> None:
    openvino = pytest.importorskip("openvino", reason="the extra `openvino`")
    if COMPILER is None or not Path("/usr/include/jpeglib.h").exists():
        pytest.skip("no `g++`, or no libjpeg-dev")
    source = EXAMPLES / "edge.cpp"
    assert len(source.read_text().splitlines()) < 100
    package = Path(openvino.__file__).parent
    (library,) = (package / "libs").glob("libopenvino.so.*")
    program = tmp_path / "edge"
    asked = [COMPILER, "-std=c++17", "-Wall", "-Werror", source, "-o", program]
    asked += [f"-I{package / 'include'}", library, "-ljpeg"]
    subprocess.run(list(map(str, asked)), check=True)
    images = [tmp_path / f"{number}.jpg" for number in range(len(pixels))]
    for path, one in zip(images, pixels, strict=True):
        Image.fromarray(one).save(path, quality=100)
    decoded = np.stack([np.asarray(Image.open(path)) for path in images])
    answers = OnnxRunner(standalone_file, threads=1).run(decoded).embeddings
    done = subprocess.run(
        [program, standalone_file, *images],
        env=os.environ | {"LD_LIBRARY_PATH": str(package / "libs")},
        capture_output=True,
        text=True,
        check=True,
    )
    model = Model.open(standalone_file)
    for path, line, answer in zip(images, done.stdout.splitlines(), answers, strict=True):
        numbers = re.findall(r"\[(.*)\]", line)[0].split(",")
        assert list(map(float, numbers)) == pytest.approx(answer[:4].tolist(), abs=1e-5)
        ours = model.answer(path)
        verdict = "unfamiliar" if ours.is_ood else "familiar"
        assert line.startswith(f"{path}  p = {ours.p_value:.4f}  {verdict}  [")


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """Serve a folder on a free port of this machine."""
    handler = functools.partial(Quiet, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
