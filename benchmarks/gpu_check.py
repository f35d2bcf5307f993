r"""Check a bundle's artifacts on this machine's GPU: parity first, then speed.

    make gpu-check
    python benchmarks/gpu_check.py --bundle my-student.isogon
    python benchmarks/gpu_check.py --dry-run

It prints its figures and writes them to `benchmarks/results/gpu-check-<gpu>.md`. The
bundle's float32, float16 and int8 ONNX files run in ONNX Runtime's CUDA provider and as
engines built here: by TensorRT if it is installed, by TensorRT for RTX if it is installed
and supports the GPU. Each is compared with eager float32 torch on the CPU, at every batch
size of the profile, and judged by the tolerance of its precision; then its throughput is
measured against eager float32 torch on the GPU (TF32 off), in interleaved rounds.

The most important steps come first, and the page is written after each, so that a lost
machine leaves its results so far. `--dry-run` takes every step up to the device, on a
machine without one: it writes the files, builds the engines that need no GPU, and lists
the steps that only lacked a GPU.

A step that fails is reported with its reason, and the others continue. Exit status: 0
everything passed; 1 a step failed, or no engine could be built; 2 there is no CUDA device,
so nothing was checked.

Without `--bundle` a small one is distilled first, from handwritten digits and a packaged
teacher. A machine with only this working tree and torch (a lent one) also needs timm, onnx,
onnxscript, onnxruntime-gpu, cuda-bindings, jaxtyping, pydantic, rich, filelock and
safetensors, as wheels (`pip install --no-deps --target DIR WHEELS`), and a bundle made
elsewhere (`isogon quickstart`), because distilling needs more packages:

    PYTHONPATH=DIR:. python3 benchmarks/gpu_check.py --bundle quickstart.isogon \
        --output "$OUT/gpu-check.md"

Packages too large to copy (onnxruntime-gpu and TensorRT are hundreds of megabytes) give a
failed step with its reason; torch's parity and speed on the GPU are still measured.
"""

import argparse
import sys
from pathlib import Path

from isogon.runtimes.cuda import cuda_device

FAILED, NO_DEVICE = 1, 2


def main() -> int:
    """Check the GPU and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bundle", type=Path, help="default: a small one, made now")
    parser.add_argument("--output", type=Path, help="where the figures go")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=0.3, help="of a round, at least")
    parser.add_argument("--dry-run", action="store_true", help="up to the device")
    options = parser.parse_args()
    device = None if options.dry_run else cuda_device()
    if device is None and not options.dry_run:
        print(
            "gpu-check needs a CUDA device, and this process sees none (the driver's "
            "library is missing, or CUDA_VISIBLE_DEVICES hides it). Nothing was checked.",
            file=sys.stderr,
        )
        return NO_DEVICE
    from gpu_steps import checked  # imports torch, only needed with a GPU

    return FAILED if checked(device, options) else 0


if __name__ == "__main__":
    sys.exit(main())
