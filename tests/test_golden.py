"""Equal to the authors' own code: the arrays of `$ISOGON_GOLDEN`, or `tests/golden`.

A file or a score whose method does not exist yet is skipped by name. The cosine baseline
has no golden array; `tests/distill/objectives/test_cosine.py` holds it to its formula.
"""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_less
from sklearn.metrics import roc_auc_score

from distill.objectives.cospress import CosPress
from distill.objectives.coss import Coss
from distill.objectives.kd import kd_loss
from distill.objectives.nd import Nd
from distill.objectives.vkd import vkd_loss
from isogon.networks import Features
from isogon.ood import DetectorSpec, LinearProbe, Msp

FOLDER = Path(os.environ.get("ISOGON_GOLDEN") or Path(__file__).parent / "golden")
FILES = sorted(FOLDER.glob("*.npz"))


def family(path: Path) -> str:
    return path.stem.split("_")[0]


def not_yet(name: str) -> None:
    pytest.skip(f"{name}: no check is written for these arrays")


def test_there_are_golden_arrays() -> None:
    assert {family(path) for path in FILES} >= {"cospress", "ood"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_objectives_equal_the_authors_values_and_gradients(path: Path) -> None:
    checks = {
        "cospress": cospress_equals,
        "vkd": vkd_equals,
        "coss": coss_equals,
        "nd": nd_equals,
        "kd": kd_equals,
    }
    if family(path) == "ood":
        return  # detectors, below
    if family(path) not in checks:
        not_yet(path.stem)
    with np.load(path) as arrays:
        checks[family(path)](dict(arrays))


def require_equal(
    found: dict[str, torch.Tensor | None], golden: dict[str, np.ndarray]
) -> None:
    for name, value in found.items():
        assert value is not None, name
        expected = golden[name]
        scale = np.abs(expected).max()
        ours = value.detach().numpy()
        assert_allclose(ours, expected, rtol=1e-9, atol=1e-9 * scale, err_msg=name)


def vkd_equals(golden: dict[str, np.ndarray]) -> None:
    student = torch.from_numpy(golden["student"]).requires_grad_()
    loss = vkd_loss(
        student, torch.from_numpy(golden["teacher"]), torch.from_numpy(golden["projection"])
    )
    loss.backward()
    require_equal({"loss": loss, "grad_student": student.grad}, golden)


def coss_equals(golden: dict[str, np.ndarray]) -> None:
    student = torch.from_numpy(golden["student"]).requires_grad_()
    teacher = torch.from_numpy(golden["teacher"])
    objective = Coss(
        teacher.shape[1],
        student.shape[1],
        weight_space=float(golden["weight_space"]),
        teacher_temperature=float(golden["teacher_temperature"]),
        student_temperature=float(golden["student_temperature"]),
    ).double()
    terms = objective(
        Features(tokens=student[:, None], grid=(0, 0)),
        Features(tokens=teacher[:, None], grid=(0, 0)),
    )
    loss = terms["cosine"] + terms["space"]
    loss.backward()
    require_equal({"loss": loss, "grad_student": student.grad}, golden)


def nd_equals(golden: dict[str, np.ndarray]) -> None:
    tensors = {name: torch.from_numpy(value) for name, value in golden.items()}
    student, teacher = tensors["student"].requires_grad_(), tensors["teacher"]
    objective = Nd(teacher.shape[1], student.shape[1], len(tensors["class_means"]))
    objective = objective.double()
    objective.load_state_dict({"class_means": tensors["class_means"]})
    terms = objective(
        Features(tokens=student[:, None], grid=(0, 0)),
        Features(tokens=teacher[:, None], grid=(0, 0)),
        tensors["labels"],
    )
    terms["nd"].backward()
    require_equal({"loss": terms["nd"], "grad_student": student.grad}, golden)


def kd_equals(golden: dict[str, np.ndarray]) -> None:
    student = torch.from_numpy(golden["student_logits"]).requires_grad_()
    teacher = torch.from_numpy(golden["teacher_logits"])
    loss = kd_loss(student, teacher, float(golden["temperature"]))
    loss.backward()
    require_equal({"loss": loss, "grad_student": student.grad}, golden)


def cospress_equals(golden: dict[str, np.ndarray]) -> None:
    tensors = {name: torch.from_numpy(value) for name, value in golden.items()}
    teacher, student = tensors["teacher_tokens"], tensors["student_tokens"].requires_grad_()
    objective = CosPress(
        teacher.shape[2], student.shape[2], tuple(golden["temperatures"].tolist())
    ).double()
    objective.load_state_dict(
        {
            "norm.weight": tensors["ln_weight"],
            "norm.bias": tensors["ln_bias"],
            "compress.weight": tensors["weight"],
            "compress.bias": tensors["bias"],
        }
    )
    cells = teacher.shape[1] - 1
    terms = objective(
        Features(tokens=student, grid=(1, cells)), Features(tokens=teacher, grid=(1, cells))
    )
    loss = sum(terms.values())
    loss.backward()
    found = {f"loss_{name}": value for name, value in terms.items()} | {
        "loss": loss,
        "grad_student": student.grad,
        "grad_weight": objective.compress.weight.grad,
        "grad_bias": objective.compress.bias.grad,
        "grad_ln_weight": objective.norm.weight.grad,
        "grad_ln_bias": objective.norm.bias.grad,
    }
    require_equal(found, golden)


def detector_scores() -> list[tuple[Path, str]]:
    found = []
    for path in FILES:
        if family(path) == "ood":
            with np.load(path) as arrays:
                found += [(path, n) for n in arrays.files if n.startswith("conf_")]
    return found


@pytest.mark.parametrize(
    ("path", "name"), detector_scores(), ids=lambda value: str(value)[-24:]
)
def test_detectors_equal_openood(path: Path, name: str) -> None:
    score = name.removeprefix("conf_")
    kind, _, k = score.partition("_k")
    kind = {"maxlogit": "max_logit"}.get(kind, kind)
    with np.load(path) as arrays:
        golden = dict(arrays)
    settings = {"knn": {"k": int(k or 1)}, "nnguide": {"k": 20}}
    settings["vim"] = {"dim": int(golden["vim_dim"])}
    probe = LinearProbe(
        weight=golden["classifier_weight"].astype(np.float64),
        bias=golden["classifier_bias"].astype(np.float64),
        classes=np.arange(len(golden["classifier_bias"])),
    )
    spec = DetectorSpec.model_validate({"name": kind} | settings.get(kind, {}))
    detector = spec.fit(
        golden["train_features"].astype(np.float64),
        golden["train_labels"].astype(np.int64),
        probe=probe,
    )
    familiar, unfamiliar = golden["id_features"], golden["ood_features"]
    asked = np.concatenate([familiar, unfamiliar]).astype(np.float64)
    ours, conf = detector.score(asked), golden[name]
    confident = Msp(probe=probe).score(asked) < -0.99
    bound = np.full(len(asked), 1e-5 * np.abs(conf).max())
    if kind == "gen":  # theirs rounds 1 - p to float32, whose tenth root is up to 0.19
        bound[confident] = 0.2
    assert_array_less(np.abs(ours + conf), bound)
    is_ood = np.repeat([0, 1], [len(familiar), len(unfamiliar)])
    auroc = golden[f"metrics_{score}"][0]
    assert roc_auc_score(is_ood, -conf) == pytest.approx(auroc, abs=1e-9)
    # Probabilities that float32 rounds to 1 are tied in theirs and not in ours.
    close = {"msp": 0.02, "gen": 0.002}.get(kind, 1e-4)
    assert roc_auc_score(is_ood, ours) == pytest.approx(auroc, abs=close)
