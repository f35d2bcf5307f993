"""Compare ONNX with eager torch, module by module: finds errors of the exporter itself."""

from collections.abc import Callable, Mapping
from contextlib import ExitStack

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from export.divergence.compare import (
    BOUNDS,
    TensorDifference,
    batches,
    fused_error,
    records,
)
from export.divergence.node_errors import Divergence
from export.divergence.tensors import exposing, groups, open_session, run
from export.graph import DeployedGraph
from export.onnx.reading import scopes_of
from isogon.errors import CheckFailedError
from isogon.progress import Progress, Silent
from isogon.runtimes import Pixels

Hook = Callable[[nn.Module, object, object], None]


def module_divergence(
    graph: DeployedGraph,
    model: onnx.ModelProto,
    pixels: Pixels,
    *,
    bound: float = BOUNDS["fp32"],
    progress: Progress | None = None,
) -> Divergence:
    """Compare the outputs of torch's modules with the float32 graph exported from them.

    A module is compared with the last node that the exporter made inside it, if the
    shapes agree. If several modules end in one node, the innermost is taken. The nodes
    of the result are these last nodes and the outputs.

    Raises:
        CheckFailedError: no node names the module that it comes from.
    """
    progress = progress or Silent()
    modules = _modules_by_tensor(graph, model)
    outputs = [value.name for value in model.graph.output]
    differences: dict[str, TensorDifference] = {}
    names = list(dict.fromkeys([*modules, *outputs]))
    task = progress.add_task("Comparing modules with torch", total=len(names))
    for group in groups(model, names, len(pixels)):
        session = open_session(exposing(model, group), fused=False)
        for batch in batches(pixels):
            theirs = run(session, group, batch)
            ours = _torch_tensors(graph, outputs, {n: modules.get(n) for n in group}, batch)
            for name in group:
                if name in ours and ours[name].shape == theirs[name].shape:
                    differences.setdefault(name, TensorDifference()).add(
                        ours[name], theirs[name]
                    )
        progress.advance(task, len(group))
    nodes = tuple(records(model, differences))
    if len(nodes) <= len(outputs):
        raise CheckFailedError(
            "No node of the ONNX graph says from which torch module it comes, so only "
            "its outputs could be compared. Export it with `isogon export`."
        )
    return Divergence(
        reference="eager torch",
        candidate="fp32",
        bound=bound,
        images=len(pixels),
        nodes=nodes,
        unmatched=len(model.graph.node) - len(nodes),
        output_error=max(differences[name].error for name in outputs),
        fused_error=fused_error(model, model, pixels),
    )


def _modules_by_tensor(graph: DeployedGraph, model: onnx.ModelProto) -> dict[str, str]:
    """Return module paths, by the first output of the last node inside the module."""
    paths = {path for path, _ in graph.named_modules() if path}
    last = {
        path: node.output[0]
        for node in model.graph.node
        for path in scopes_of(node)
        if path in paths
    }
    return {last[path]: path for path in sorted(last, key=len)}


def _torch_tensors(
    graph: DeployedGraph,
    outputs: list[str],
    wanted: Mapping[str, str | None],
    pixels: Pixels,
) -> dict[str, np.ndarray]:
    """Return the outputs of modules and of the graph, by the ONNX tensor's name."""
    seen: dict[str, np.ndarray] = {}

    def keep(name: str) -> Hook:
        def hook(module: nn.Module, inputs: object, output: object) -> None:
            if isinstance(output, Tensor):  # copied: later operations may be in place
                seen[name] = output.detach().numpy().copy()

        return hook

    with ExitStack() as hooks, torch.inference_mode():
        for name, path in wanted.items():
            if path is not None:
                handle = graph.get_submodule(path).register_forward_hook(keep(name))
                hooks.callback(handle.remove)
        results = graph.eval()(torch.from_numpy(pixels))
    ends = dict(zip(outputs, results, strict=True))
    return seen | {name: ends[name].numpy() for name in outputs if name in wanted}
