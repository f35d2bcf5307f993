"""Write the image's requirements.txt and pinned.txt.

They are made from pyproject.toml and constraints.txt.
`python requirements.py onnxruntime` replaces `onnxruntime-gpu` by ONNX Runtime's wheel for
CPUs, which has the same version numbers and is much smaller.
"""

import re
import sys
import tomllib
from pathlib import Path

_GPU = re.compile(r"^onnxruntime-gpu\b")


def main(onnxruntime: str) -> None:
    """Write both files to the current folder."""
    project = tomllib.loads(Path("pyproject.toml").read_text())["project"]
    wanted = project["dependencies"] + project["optional-dependencies"]["serving"]
    name = onnxruntime.partition("[")[0]
    pinned = Path("constraints.txt").read_text().splitlines()
    _write("requirements.txt", [_GPU.sub(onnxruntime, line) for line in wanted])
    _write("pinned.txt", [_GPU.sub(name, line) for line in pinned])


def _write(name: str, lines: list[str]) -> None:
    Path(name).write_text("".join(f"{line}\n" for line in lines))


if __name__ == "__main__":
    main(sys.argv[1])
