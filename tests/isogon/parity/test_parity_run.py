import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from isogon.bundle import Bundle
from isogon.errors import BundleError, UsageError
from isogon.ood import Calibration
from isogon.parity import SIGNS, TOLERANCES, Claim, ParityReport, ParityRun, Tolerance
from isogon.runtimes import Outputs

GENERATOR = np.random.default_rng(0)


def outputs(images: int = 40) -> Outputs:
    embeddings = GENERATOR.normal(size=(images, 8)).astype(np.float32)
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    return Outputs(
        embeddings=embeddings, ood_scores=GENERATOR.random(images).astype(np.float32)
    )


def moved(said: Outputs, by: float) -> Outputs:
    """The same answers, the first coordinate of the last embedding off by so much."""
    embeddings = said.embeddings.copy()
    embeddings[-1, 0] += by
    return replace(said, embeddings=embeddings)


def scored(said: Outputs, by: float) -> Outputs:
    """The same answers, the last score off by so much."""
    scores = said.ood_scores.copy()
    scores[-1] += by
    return replace(said, ood_scores=scores)


EXPECTED = outputs()
CLAIM = Claim(
    artifact="onnx/model.onnx",
    sha256="0" * 64,
    precision="fp32",
    reference="torch <cpu>",
    function="1" * 64,
)
HONEST = ParityRun(
    claim=CLAIM,
    candidate="onnxruntime",
    familiar=30,
    alpha=0.1,
    expected=EXPECTED,
    answers={1: EXPECTED, 2: EXPECTED, 7: EXPECTED},
    again=EXPECTED,
    repeated=Outputs(
        embeddings=EXPECTED.embeddings[[0] * 7], ood_scores=EXPECTED.ood_scores[[0] * 7]
    ),
)


def test_equal_answers_are_vouched_for() -> None:
    report = HONEST.judge()
    assert report
    assert report.failures == ()
    assert (report.artifact, report.sha256) == (CLAIM.artifact, CLAIM.sha256)
    assert (report.reference, report.candidate) == ("torch <cpu>", "onnxruntime")
    assert (report.precision, report.batch_sizes) == ("fp32", (1, 2, 7))
    assert report.figures.images == 3 * 40
    assert report.tolerance == TOLERANCES["fp32"]
    assert report.calibration == Calibration.from_scores(EXPECTED.ood_scores[:30], 0.1)
    assert [check.name for check in report.checks] == list(SIGNS)


def test_the_worst_batch_size_decides() -> None:
    wrong = replace(HONEST, answers={**HONEST.answers, 2: moved(EXPECTED, 0.5)})
    report = wrong.judge()
    assert not report
    assert report.figures.max_abs_error == pytest.approx(0.5)
    assert "min_cosine" in "\n".join(report.failures)


def test_what_breaks_a_bound_is_shown_apart_from_it() -> None:
    tolerance = Tolerance(min_cosine=1.0, max_abs_error=1e-7)
    check = tolerance.check("min_cosine", 0.9999999999)
    assert str(check) == "min_cosine 0.9999999999 is below 1"
    assert tolerance.check("min_cosine", 1.0).shown == "1"
    error = tolerance.check("max_abs_error", 1.00000000004e-7)
    assert str(error) == "max_abs_error 1.00000000004e-07 exceeds 1e-07"


def test_a_run_is_judged_again_under_other_bounds() -> None:
    run = replace(HONEST, answers={size: moved(EXPECTED, 1e-3) for size in (1, 2, 7)})
    run = replace(run, again=run.answers[7])
    assert "max_abs_error" in "\n".join(run.judge().failures)
    lenient = Tolerance(max_abs_error=1e-2, max_norm_error=1e-2, min_cosine=0.999)
    assert run.judge(lenient)
    assert run.judge(lenient).tolerance == lenient
    half = replace(run, claim=CLAIM.model_copy(update={"precision": "fp16"}))
    assert half.judge().tolerance == TOLERANCES["fp16"]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda run: {"again": moved(run.again, 2e-5)}, "determinism 2e-05"),
        (lambda run: {"repeated": moved(run.repeated, 2e-5)}, "batch_invariance 2e-05"),
        (
            lambda run: {"answers": {**run.answers, 2: moved(run.answers[2], 2e-5)}},
            "batch_invariance 2e-05",
        ),
        (lambda run: {"again": moved(run.again, np.nan)}, "determinism nan"),
        (lambda run: {"repeated": moved(run.repeated, np.nan)}, "batch_invariance nan"),
        (lambda run: {"again": scored(run.again, np.nan)}, "max_score_error nan"),
        (lambda run: {"again": scored(run.again, 0.1)}, "max_score_error 0.1"),
        (lambda run: {"repeated": scored(run.repeated, np.nan)}, "max_score_error nan"),
        (lambda run: {"repeated": scored(run.repeated, 0.1)}, "max_score_error 0.1"),
    ],
)
def test_an_artifact_that_differs_from_itself_fails_though_near_the_reference(
    change: Callable[[ParityRun], dict[str, object]], named: str
) -> None:
    report = replace(HONEST, **change(HONEST)).judge()  # type: ignore[arg-type]
    (failure,) = report.failures
    assert failure.startswith(named[:-6])
    assert not report


def test_scores_that_are_not_finite_allow_no_calibration() -> None:
    scores = EXPECTED.ood_scores.copy()
    scores[3] = np.nan
    broken = replace(EXPECTED, ood_scores=scores)
    run = replace(HONEST, answers=dict.fromkeys((1, 2, 7), broken))
    report = run.judge()
    assert report.calibration is None
    assert "decision_agreement nan" in "\n".join(report.failures)
    assert "allow no calibration" in "\n".join(report.failures)


def test_a_run_that_compared_nothing_is_false() -> None:
    nothing = Outputs(
        embeddings=np.zeros((0, 8), np.float32), ood_scores=np.zeros(0, np.float32)
    )
    empty = replace(
        HONEST, familiar=0, expected=nothing, answers={1: nothing}, again=nothing
    )
    # Nothing calibrates either.
    with pytest.raises(UsageError, match=r"needs at least .* held-out"):
        empty.judge()
    report = HONEST.judge()
    unseen = report.model_copy(
        update={"figures": report.figures.model_copy(update={"images": 0})}
    )
    assert not unseen
    assert "no images were compared" in unseen.failures


def test_a_saved_run_comes_back_whole_and_is_judged_alike(tmp_path: Path) -> None:
    run = replace(HONEST, answers={**HONEST.answers, 2: moved(EXPECTED, 0.01)})
    run.save(tmp_path / "run.safetensors")
    (tmp_path / "any").touch()
    modes = {path.stat().st_mode for path in tmp_path.iterdir()}
    assert len(modes) == 1  # read by whoever serves the bundle, not by its owner alone
    again = ParityRun.load(tmp_path / "run.safetensors")
    assert again.claim == run.claim
    assert (again.candidate, again.familiar, again.alpha) == ("onnxruntime", 30, 0.1)
    assert list(again.answers) == [1, 2, 7]
    for ours, theirs in (
        (run.expected, again.expected),
        (run.again, again.again),
        (run.repeated, again.repeated),
        *((run.answers[size], again.answers[size]) for size in run.answers),
    ):
        assert np.array_equal(ours.embeddings, theirs.embeddings)
        assert np.array_equal(ours.ood_scores, theirs.ood_scores)
    assert again.judge() == run.judge()


def arrays_of(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    with safetensors.safe_open(path, framework="numpy") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata()


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda arrays, metadata: metadata.clear(), "isogon.parity"),
        (
            lambda arrays, metadata: metadata.update({"isogon.parity": "{}"}),
            "Field required",
        ),
        (lambda arrays, metadata: arrays.pop("again.ood_scores"), "again should have"),
        (
            lambda arrays, metadata: [
                arrays.pop(name) for name in list(arrays) if name.startswith("expected")
            ],
            "it has no expected",
        ),
        (
            lambda arrays, metadata: [
                arrays.pop(name) for name in list(arrays) if name.startswith("batch")
            ],
            "it has no batch.<size>",
        ),
        (
            lambda arrays, metadata: arrays.update(
                {"batch.2.embeddings": arrays["batch.2.embeddings"].astype(np.float16)}
            ),
            "batch.2 should be float32",
        ),
        (
            lambda arrays, metadata: arrays.update(
                {"batch.2.embeddings": arrays["batch.2.embeddings"][:, :5].copy()}
            ),
            r"\[5, 8\] wide",
        ),
        (
            lambda arrays, metadata: arrays.update(
                {name: arrays[name][:9] for name in arrays if name.startswith("batch.7")}
            ),
            "the same 40 images",
        ),
        (
            lambda arrays, metadata: arrays.update(
                {name: arrays[name][:3] for name in arrays if name.startswith("repeated")}
            ),
            "'repeated': 3",
        ),
    ],
)
def test_a_file_that_is_no_whole_run_is_refused_with_the_reason(
    tmp_path: Path, damage: Callable[[dict, dict], object], reason: str
) -> None:
    path = tmp_path / "run.safetensors"
    HONEST.save(path)
    arrays, metadata = arrays_of(path)
    damage(arrays, metadata)
    safetensors.numpy.save_file(arrays, path, metadata=metadata)
    with pytest.raises(BundleError, match=f"saved parity run at .*{reason}"):
        ParityRun.load(path)


def test_a_missing_file_and_other_bytes_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "run.safetensors"
    with pytest.raises(BundleError, match="Expected a saved parity run"):
        ParityRun.load(path)
    header = b'{"a":{"dtype":"BF16","shape":[1],"data_offsets":[0,2]}}'
    half = len(header).to_bytes(8, "little") + header + b"\0\0"  # which NumPy has not
    for content in (b"", b"nope", b"{}" * 400, half):
        path.write_bytes(content)
        with pytest.raises(BundleError, match="Export the bundle again"):
            ParityRun.load(path)


def test_every_precision_bounds_every_figure_and_float32_the_tightest() -> None:
    for precision, tolerance in TOLERANCES.items():
        for name, sign in SIGNS.items():
            tightest = getattr(TOLERANCES["fp32"], name)
            bound = getattr(tolerance, name)
            assert bound >= tightest if sign == "<=" else bound <= tightest, precision
    assert TOLERANCES["fp32"].min_cosine >= 0.99999
    assert TOLERANCES["fp16"].min_cosine >= 0.9999
    assert TOLERANCES["int8"].min_cosine >= 0.99
    assert TOLERANCES["int8"].neighbour_agreement >= 0.9


def test_a_report_of_an_earlier_version_is_refused_with_the_command(
    bundle: Bundle,
) -> None:
    name = "parity/model.onnx.json"
    earlier = bundle.record(name, ParityReport).model_dump()
    for added in ("precision", "stability"):
        earlier.pop(added)
    with bundle.stage("export") as stage:
        stage.write(name, json.dumps(earlier))
    with pytest.raises(BundleError, match=r"`precision`.*run `isogon export .* again"):
        bundle.record(name, ParityReport)
