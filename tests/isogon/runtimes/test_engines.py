"""Stamps: which engine runs on which machine, judged by its name alone."""

import pytest

from isogon.errors import EngineMismatchError
from isogon.runtimes import EngineStamp, Machine

FULL = {"trt": "11.4", "rtx": "1.7", "lean": "11.4"}


@pytest.mark.parametrize(
    ("engine", "gpus"),
    [
        ("sm90-trt11.4-fp32", {"sm90"}),
        ("sm86+sm89-rtx1.7-fp16", {"sm86", "sm89"}),
        ("sm80up-trt11.4-int8", {"sm80", "sm86", "sm89", "sm90", "sm120"}),
        ("sm90-trt10.13up-fp32", set()),  # its lean runtime is not the one installed
        ("sm90-trt11.4up-fp32", {"sm90"}),
        ("sm90-trt11.5up-fp32", set()),
        ("sm90-trt11.3-fp32", set()),
        ("sm90-rtx11.4-fp32", set()),
        ("sm86+sm89-rtx1.6-fp16", set()),
    ],
)
def test_an_engine_runs_on_the_gpus_and_versions_of_its_stamp(
    engine: str, gpus: set[str]
) -> None:
    stamp = EngineStamp.from_name(f"engines/{engine}.engine")
    for gpu in ("sm75", "sm80", "sm86", "sm89", "sm90", "sm120"):
        machine = Machine(gpu=gpu, versions=FULL)
        if gpu in gpus:
            stamp.require_match(machine)
        else:
            with pytest.raises(EngineMismatchError, match=engine.split("-")[1]):
                stamp.require_match(machine)
    with pytest.raises(EngineMismatchError, match="no NVIDIA GPU"):
        stamp.require_match(Machine(gpu=None, versions=FULL))


def test_an_engine_for_later_versions_needs_the_lean_runtime_that_fits() -> None:
    stamp = EngineStamp.from_name("sm90-trt10.13up-fp16.engine")
    later = {"trt": "11.4", "lean": "10.13"}
    stamp.require_match(Machine(gpu="sm90", versions=later))
    for lean, found in [({}, "none"), ({"lean": "10.12"}, r"10\.12")]:
        machine = Machine(gpu="sm90", versions={"trt": "11.4", **lean})
        with pytest.raises(EngineMismatchError, match=f"this machine has {found}.*lean=="):
            stamp.require_match(machine)
    earlier = Machine(gpu="sm90", versions={"trt": "10.12", "lean": "10.13"})
    with pytest.raises(EngineMismatchError, match=r"this machine has sm90.*10\.12"):
        stamp.require_match(earlier)


def test_a_stamp_that_is_made_is_the_stamp_that_is_read() -> None:
    parts = {"gpu": "sm86+sm89", "flavour": "rtx", "version": "1.7", "precision": "int8"}
    stamp = EngineStamp.of(**parts)
    assert stamp.name == "engines/sm86+sm89-rtx1.7-int8.engine"
    assert stamp == EngineStamp.from_name(stamp.name)
    assert {name: getattr(stamp, name) for name in parts} == parts


@pytest.mark.parametrize(
    "name",
    [
        "model.engine",
        "sm90-trt11.4.engine",
        "sm90-trt11.4-fp32.plan",
        "sm90-trt11.4-bf16.engine",
        "sm86+sm89up-rtx1.7-fp16.engine",
        "sm90-trt11-fp32.engine",
    ],
)
def test_a_name_that_is_no_stamp_is_refused(name: str) -> None:
    with pytest.raises(EngineMismatchError, match="has no stamp"):
        EngineStamp.from_name(name)


def test_the_machine_knows_what_is_installed_here() -> None:
    versions = Machine.here().versions
    assert set(versions) <= {"trt", "rtx", "lean"}
    assert all(version.count(".") == 1 for version in versions.values())
