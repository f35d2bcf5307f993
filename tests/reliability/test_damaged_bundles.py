"""Bundles that somebody has tampered with: ISOGON_DAMAGED says how many, 10,000 in full."""

import hashlib
import json
import os
import random
import shutil
import struct
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from isogon.bundle import MANIFEST, Bundle
from isogon.errors import IsogonError
from serving.served_model import ServedModel
from serving.settings import Settings

COUNT = int(os.environ.get("ISOGON_DAMAGED", "150"))
Damage = Callable[[Path, list[str], random.Random], str]


def flipped(bundle: Path, names: list[str], chance: random.Random) -> str:
    name = chance.choice(names)
    content = bytearray((bundle / name).read_bytes())
    content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    (bundle / name).write_bytes(content)
    return name


def cut(bundle: Path, names: list[str], chance: random.Random) -> str:
    name = chance.choice(names)
    content = (bundle / name).read_bytes()
    (bundle / name).write_bytes(content[: chance.randrange(len(content))])
    return name


def longer(bundle: Path, names: list[str], chance: random.Random) -> str:
    name = chance.choice(names)
    content = (bundle / name).read_bytes()
    (bundle / name).write_bytes(content + chance.randbytes(chance.randint(1, 1000)))
    return name


def swapped(bundle: Path, names: list[str], chance: random.Random) -> str:
    one, other = chance.sample([name for name in names if name != MANIFEST], 2)
    (bundle / one).rename(bundle / "between")
    (bundle / other).rename(bundle / one)
    (bundle / "between").rename(bundle / other)
    return min(one, other, key=names.index)  # the first is named


def missing(bundle: Path, names: list[str], chance: random.Random) -> str:
    name = chance.choice(names)
    (bundle / name).unlink()
    return name


def linked(bundle: Path, names: list[str], chance: random.Random) -> str:
    name = chance.choice(names)
    (bundle / name).unlink()
    places = ["/dev/zero", "/dev/stdin", "/proc/self/environ", "..", name, "/etc/passwd"]
    (bundle / name).symlink_to(chance.choice(places))
    return name


def piped(bundle: Path, names: list[str], chance: random.Random) -> str:
    name = chance.choice([name for name in names if name != MANIFEST])
    (bundle / name).unlink()
    os.mkfifo(bundle / name)  # who opens it waits for ever
    return name


def foldered(bundle: Path, names: list[str], chance: random.Random) -> str:
    name = chance.choice(names)
    (bundle / name).unlink()
    (bundle / name).mkdir()
    return name


def huge_header(bundle: Path, names: list[str], chance: random.Random) -> str:
    name = chance.choice([name for name in names if name.endswith(".safetensors")])
    content = (bundle / name).read_bytes()
    length = chance.choice([2**63, 2**40, len(content), 100_000_001])
    (bundle / name).write_bytes(struct.pack("<Q", length) + content[8:])
    return name


def foreign_path(bundle: Path, names: list[str], chance: random.Random) -> str:
    document = json.loads((bundle / MANIFEST).read_bytes())
    name = chance.choice(
        ["../x.json", "/etc/passwd", "a.pkl", "x/../../y.json", "a\0.json", ".x.json", ""]
    )
    document["files"][name] = document["files"].pop(chance.choice([*document["files"]]))
    sealed(bundle, document)
    return name


def odd_manifest(bundle: Path, names: list[str], chance: random.Random) -> str:
    document = json.loads((bundle / MANIFEST).read_bytes())
    place: Any = document
    while isinstance(place, dict) and place:
        key = chance.choice([*place])
        if not isinstance(place[key], dict) or chance.random() < 0.3:
            values = [
                None,
                -1,
                1e308,
                "x" * 10**5,
                [],
                {},
                {"a": {}},
                [[[]]],
                "../..",
                True,
            ]
            place[key] = chance.choice([value for value in values if value != place[key]])
            break
        place = place[key]
    (bundle / MANIFEST).write_text(json.dumps(document))  # its checksum is another's now
    return MANIFEST


def deep_manifest(bundle: Path, names: list[str], chance: random.Random) -> str:
    depth = chance.randint(1, 200_000)
    (bundle / MANIFEST).write_text(chance.choice(["[", '{"a":']) * depth)
    return MANIFEST


DAMAGES: tuple[Damage, ...] = (
    flipped, cut, longer, swapped, missing, linked, piped, foldered, huge_header,
    foreign_path, odd_manifest, deep_manifest,
)  # fmt: skip


def sealed(bundle: Path, document: dict[str, Any]) -> None:
    """Write a manifest whose own checksum holds, as an attacker can."""

    def canonical() -> bytes:
        text = json.dumps(document, indent=2, sort_keys=True, ensure_ascii=False)
        return f"{text}\n".encode()

    document.pop("checksum")
    document["checksum"] = hashlib.sha256(canonical()).hexdigest()
    (bundle / MANIFEST).write_bytes(canonical())


@pytest.mark.timeout(3600)
def test_every_damaged_bundle_is_refused_by_name_and_nothing_of_it_is_loaded(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [MANIFEST, *Bundle.open(exported).manifest.files]
    names = [name for name in names if (exported / name).stat().st_size]
    monkeypatch.setattr("sys.stdin", None)
    seen: Counter[str] = Counter()
    for number in range(COUNT):
        chance = random.Random(number)
        damage = DAMAGES[number % len(DAMAGES)]
        path = tmp_path / "damaged.isogon"
        shutil.copytree(exported, path, copy_function=shutil.copyfile)
        name = damage(path, names, chance)
        with pytest.raises(IsogonError) as refused:
            Bundle.open(path)
        assert name in str(refused.value) or MANIFEST in str(refused.value), (
            number, damage.__name__, name, str(refused.value),
        )  # fmt: skip
        assert len(str(refused.value)) < 2000, (number, damage.__name__)
        seen[damage.__name__] += 1
        shutil.rmtree(path)
    print(dict(seen))


def test_no_pickle_is_read_when_a_bundle_is_opened_and_served(exported: Path) -> None:
    found: list[str] = []
    watching = True

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        if watching and event.startswith("pickle."):
            found.append(f"{event}{arguments}")

    sys.addaudithook(hook)  # for good: Python knows no way to take it back
    try:
        model = ServedModel.load(exported, Settings(bundle=exported))
        for name in Bundle.open(exported).manifest.files:
            if name.endswith(".safetensors"):
                model.bundle.arrays(name)
    finally:
        watching = False
    assert found == []
