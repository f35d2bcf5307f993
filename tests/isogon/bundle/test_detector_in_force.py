"""What a bundle says about the detector in force."""

from pathlib import Path

import pytest

from isogon.bundle import FITTED, TRAINING_DETECTOR, Bundle, DetectorInForce
from isogon.cli.calibration import show_detector


def test_the_detector_of_training_is_shown_with_what_it_was_fitted_on(
    bundle: Bundle, digits: Path
) -> None:
    found = DetectorInForce.of(bundle)
    assert (found.fitted, found.bank) == ("training", 168)
    assert found.images is not None
    assert (bundle.path.parent / found.images).resolve() == digits.resolve()
    assert (found.spec.name, found.spec.alpha, found.calibration) == ("knn", 0.05, 36)
    assert found.reduced_bank is None


def test_without_the_record_the_sizes_come_from_the_statistics(bundle: Bundle) -> None:
    with bundle.stage("distill") as stage:
        stage.withdraw(f"{TRAINING_DETECTOR}/{FITTED}")
    found = DetectorInForce.of(Bundle.open(bundle.path))
    assert (found.images, found.bank, found.calibration) == (None, 168, 36)


def test_settings_and_a_reduced_bank_are_shown(
    bundle: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    found = DetectorInForce.of(bundle)
    spec = found.spec.model_copy(update={"k": 7})
    show_detector(found.model_copy(update={"spec": spec, "reduced_bank": 20}), None)
    shown = " ".join(capsys.readouterr().out.split())
    for told in ("knn, k = 7", "in training, on", "168, reduced to 20 vectors", "0.05"):
        assert told in shown
