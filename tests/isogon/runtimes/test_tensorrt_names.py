"""Every TensorRT and CUDA name that the code uses exists in NVIDIA's own modules.

`tensorrt_rtx` has builder, parser and runtime; `tensorrt_lean_bindings` is the runtime of
TensorRT 11, without builder. Only attributes are looked at: without a CUDA device, a
Runtime that was made ends the process.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
import tensorrt_lean_bindings
import tensorrt_rtx
from cuda.bindings import runtime as cuda_runtime

ROOT = Path(__file__).parents[3]
FILES = [
    ROOT / "isogon/runtimes/tensorrt.py",
    ROOT / "isogon/runtimes/cuda.py",
    *sorted((ROOT / "export/tensorrt").glob("*.py")),
]

SPECIALISATION = "DynamicShapesKernelSpecializationStrategy"
# What an expression is: a class of TensorRT's, "" for the module itself, "str".
OBJECTS = {
    "tensorrt": "",
    "self._tensorrt": "",
    "tensorrt_module('tensorrt-rtx')": "",
    "tensorrt_module('tensorrt-rtx').ComputeCapability": "ComputeCapability",
    "tensorrt.__version__": "str",
    "tensorrt.ILogger": "ILogger",
    "tensorrt.IProgressMonitor": "IProgressMonitor",
    "tensorrt.BuilderFlag": "BuilderFlag",
    "tensorrt.MemoryPoolType": "MemoryPoolType",
    "tensorrt.HardwareCompatibilityLevel": "HardwareCompatibilityLevel",
    "self._tensorrt.CudaGraphStrategy": "CudaGraphStrategy",
    f"self._tensorrt.{SPECIALISATION}": SPECIALISATION,
    "builder": "Builder",
    "network": "INetworkDefinition",
    "network.get_input(0)": "ITensor",
    "parser": "OnnxParser",
    "error": "ParserError",
    "error.desc()": "str",
    "error.code()": "ErrorCode",
    "shapes": "IOptimizationProfile",
    "cache": "ITimingCache",
    "config": "IBuilderConfig",
    "runtime": "Runtime",
    "runtimes[0]": "Runtime",
    "engine": "ICudaEngine",
    "self._engine": "ICudaEngine",
    "engine.get_tensor_dtype(name)": "DataType",
    "context": "IExecutionContext",
    "cuda": "cuda",
    "self._cuda": "cuda",
    "self._cuda.cudaMemcpyKind": "cuda.cudaMemcpyKind",
    "self._cuda.cudaStreamCaptureMode": "cuda.cudaStreamCaptureMode",
    "status": "cuda.cudaError_t",
}
# The same variable, something else in that file.
ELSEWHERE = {("isogon/runtimes/tensorrt.py", "config"): "IRuntimeConfig"}
# Variables that hold nothing of NVIDIA's; beside `self` and what a file imports.
# Asked for by getattr, or compared as text.
MORE = {
    ("NetworkDefinitionCreationFlag", "STRONGLY_TYPED"),
    ("DataType", "UINT8"),
    ("DataType", "FLOAT"),
    ("ComputeCapability", "SM80"),
}
# Only TensorRT for RTX has these, and only it is asked for them.
RTX_ONLY = {
    ("", "ComputeCapability"),
    ("", "CudaGraphStrategy"),
    ("", SPECIALISATION),
    ("CudaGraphStrategy", "WHOLE_GRAPH_CAPTURE"),
    (SPECIALISATION, "EAGER"),
    ("IRuntimeConfig", "dynamic_shapes_kernel_specialization_strategy"),
    ("ComputeCapability", "SM80"),
    ("ComputeCapability", "__members__"),
    ("IBuilderConfig", "num_compute_capabilities"),
    ("IBuilderConfig", "set_compute_capability"),
    ("IRuntimeConfig", "cuda_graph_strategy"),
}
# What belongs to the builder, and is not in the lean bindings. For TensorRT 10 and 11 see
# https://docs.nvidia.com/deeplearning/tensorrt/latest/_static/python-api/infer/Core/Builder.html
# (BuilderConfig.html, and ../Graph/Network.html, ../Parsers/Onnx/pyOnnx.html, likewise).
BUILDER = set(
    "Builder IBuilderConfig INetworkDefinition ITensor OnnxParser ParserError ErrorCode "
    "NetworkDefinitionCreationFlag".split()
)


def roots(node: ast.expr) -> Iterator[ast.expr]:
    """An expression and everything to the left in it: a.b().c, a.b(), a.b, a."""
    yield node
    while isinstance(node, ast.Attribute | ast.Call | ast.Subscript):
        node = node.func if isinstance(node, ast.Call) else node.value
        yield node


def ours_in(tree: ast.Module) -> set[str]:
    """What a file imports, assigns or takes; OBJECTS has those that are NVIDIA's."""
    found = {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            found |= {(name.asname or name.name).split(".")[0] for name in node.names}
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
    return found


def owner(node: ast.expr, where: str, ours: set[str]) -> str | None:
    """What of NVIDIA's an expression is; None for anything else."""
    text = ast.unparse(node)
    if (where, text) in ELSEWHERE or text in OBJECTS:
        return ELSEWHERE.get((where, text), OBJECTS.get(text))
    *_, root = lefts = list(roots(node))
    foreign = any(ast.unparse(left) in OBJECTS for left in lefts)
    known = isinstance(root, ast.Name) and root.id in ours
    assert not foreign and (known or not isinstance(root, ast.Name)), (
        f"{where}:{node.lineno}: is {text!r} NVIDIA's or ours? Add it to OBJECTS if it is theirs."
    )
    return None


def names() -> set[tuple[str, str]]:
    """Every (class, attribute) of NVIDIA's that the code uses or overrides."""
    found = set()
    for path in FILES:
        where = str(path.relative_to(ROOT))
        tree = ast.parse(path.read_text())
        ours = ours_in(tree)
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute):
                of = owner(node.value, where, ours)
                if of is not None:
                    found.add((of, node.attr))
            elif isinstance(node, ast.ClassDef):
                parents = [OBJECTS.get(ast.unparse(base)) for base in node.bases]
                methods = [m.name for m in node.body if isinstance(m, ast.FunctionDef)]
                public = {m for m in methods if not m.startswith("_") and m != "drain"}
                found |= {(base, m) for base in parents if base for m in public}
    return {name for name in found if name[0] != "str"} | MORE


def has(module: object, of: str, attribute: str) -> bool:
    return hasattr(getattr(module, of) if of else module, attribute)


@pytest.fixture(scope="module")
def used() -> set[tuple[str, str]]:
    return names()


def test_every_tensorrt_name_exists_in_tensorrt_for_rtx(used: set[tuple[str, str]]) -> None:
    tensorrt = {name for name in used if not name[0].startswith("cuda")}
    assert len(tensorrt) > 60
    assert not {name for name in tensorrt if not has(tensorrt_rtx, *name)}


def test_every_runtime_name_exists_in_tensorrt_11(used: set[tuple[str, str]]) -> None:
    runtime = {
        (of, attribute)
        for of, attribute in used - RTX_ONLY
        if not of.startswith("cuda") and not BUILDER & {of, attribute}
    }
    assert {"Runtime", "ICudaEngine", "IExecutionContext"} <= {of for of, _ in runtime}
    lean = tensorrt_lean_bindings
    assert not {name for name in runtime if not has(lean, *name)}
    assert not {name for name in BUILDER if hasattr(lean, name)}  # or check them too


def test_what_only_rtx_has_is_no_longer_than_it_must_be(
    used: set[tuple[str, str]],
) -> None:
    assert used >= RTX_ONLY
    lean = tensorrt_lean_bindings
    absent = {
        (of, attribute)
        for of, attribute in RTX_ONLY
        if of in BUILDER or not hasattr(lean, of) or not has(lean, of, attribute)
    }
    assert absent == RTX_ONLY


def test_every_cuda_name_exists_in_cuda_bindings(used: set[tuple[str, str]]) -> None:
    cuda = {name for name in used if name[0].startswith("cuda")}
    assert len(cuda) > 15
    for of, attribute in cuda:
        held = getattr(cuda_runtime, of.partition(".")[2]) if "." in of else cuda_runtime
        value = next(iter(held)) if of == "cuda.cudaError_t" else held
        assert hasattr(value, attribute), f"{of}.{attribute}"


def test_removed_and_weakly_typed_names_are_not_used(used: set[tuple[str, str]]) -> None:
    flags = {attribute for of, attribute in used if of == "BuilderFlag"}
    assert flags == {"TF32", "VERSION_COMPATIBLE", "EXCLUDE_LEAN_RUNTIME"}
