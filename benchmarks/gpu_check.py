r"""What this machine's GPU makes of a bundle's artifacts: right answers first, then speed.

    make gpu-check
    python benchmarks/gpu_check.py --bundle my-student.isogon
    python benchmarks/gpu_check.py --dry-run

It prints its figures and writes them to `benchmarks/results/gpu-check-<gpu>.md`. From one
bundle come the float32, float16 and int8 ONNX files, and each is run by ONNX Runtime's
CUDA provider and as an engine built here: by TensorRT where it is installed, by TensorRT
for RTX where it is installed and the GPU is one of its targets. Each is compared with
eager float32 torch on the CPU, at every batch size of the profile, and judged by the
tolerance of its precision; then its throughput is measured beside eager float32 torch on
the GPU (TF32 off), in rounds of one run.

The steps come by worth, and the page is written after each: a machine that is taken away
has left what it found until then. `--dry-run` takes every step up to the device, on a
machine without one: it writes the files, builds the engines that can be built anywhere,
and says which steps only lacked a GPU.

Every step is guarded: one that fails is reported with its reason, and the others go on.
Exit status: 0 everything passed; 1 a step failed, or no engine could be built; 2 there is
no CUDA device, so nothing was checked.

Without `--bundle` a small one is distilled on the spot, from handwritten digits and a
packaged teacher. A machine that has nothing but this working tree and a torch of its own
(a lent one) needs besides: timm, onnx, onnxscript, onnxruntime-gpu, cuda-bindings,
jaxtyping, pydantic, rich, filelock and safetensors, those that it lacks as
wheels (`pip install --no-deps --target DIR WHEELS`), and a bundle that was made
elsewhere (`isogon quickstart`), since distilling wants more:

    PYTHONPATH=DIR:. python3 benchmarks/gpu_check.py --bundle quickstart.isogon \
        --output "$OUT/gpu-check.md"

What cannot be carried there (onnxruntime-gpu and TensorRT are hundreds of megabytes) is a
failed step with its reason; torch's parity and speed on the GPU are measured all the same.
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
    from gpu_steps import checked  # torch, and all that only such a machine needs

    return FAILED if checked(device, options) else 0


if __name__ == "__main__":
    sys.exit(main())
