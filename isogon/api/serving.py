"""`load`, `embed` and `serve`: use a model in Python, in bulk, or over HTTP."""

from pathlib import Path
from typing import TYPE_CHECKING

from isogon.api.arguments import Place, path_of, require_counts, shown, source_of
from isogon.bundle import ONNX, Bundle
from isogon.errors import UsageError
from isogon.images.collection import LOCAL_LIMITS
from isogon.images.decoding import ImageLimits
from isogon.model import Model
from isogon.progress import Progress
from isogon.runtimes.device import usable_cores
from isogon.stage_imports import load_stage, needing

if TYPE_CHECKING:
    from isogon.bulk import Executor, Summary


def load(
    path: Place | Bundle,
    *,
    artifact: str | None = None,
    runtime: str | None = None,
    threads: int | None = None,
    limits: ImageLimits = LOCAL_LIMITS,
) -> Model:
    """Open a bundle, or an exported ONNX file alone, to embed images. No torch.

    A bundle's artifact must have a parity report and reproduce the golden images. A file
    alone has neither: it is used with the preprocessing and calibration in its metadata,
    unchecked.

    Args:
        path: a bundle, or an ONNX file that `isogon export` made.
        artifact: which artifact of a bundle, such as "onnx/model.int8.onnx", or
            "onnx/model.int8.onnx@openvino" if it was exported for OpenVINO; "fastest":
            the fastest on this machine, measured now; None: "onnx/model.onnx".
        runtime: of a file alone: "onnxruntime", in which its calibration was measured, or
            "openvino".
        threads: of one run; None: the runtime's default.
        limits: the largest image that is decoded.

    Raises:
        UsageError: there is nothing at `path`, an argument is for the other kind, or
            `threads` is below 1.
        BundleError: the bundle is damaged, nothing vouches for its artifact, or the file
            does not load, has other inputs and outputs, or lacks the metadata.
        CheckFailedError: the bundle's golden images do not come out as they should.

    Example:
        >>> model = isogon.load("photos.isogon")
        >>> answers = model.embed(["a.jpg", Image.open("b.jpg"), array])
        >>> answers.embeddings.shape, answers.is_ood
    """
    return Model.open(
        path_of(path), artifact=artifact, runtime=runtime, threads=threads, limits=limits
    )


def embed(
    bundle: Place | Bundle,
    images: Place,
    output: Place,
    *,
    artifact: str = ONNX,
    batch: int | None = None,
    workers: int | None = None,
    executor: "Executor | None" = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> "Summary":
    """Embed a folder, tar or list of images into one Parquet file; see `isogon embed`.

    Args:
        bundle: an exported bundle.
        images: what to embed.
        output: the Parquet file to make.
        artifact: which of the bundle's artifacts to run.
        batch: images per run of the model; None: chosen by the device.
        workers: processes, each with a model on one core; None: one per core. Not with
            `executor`, which has its own number.
        executor: where the work is done; None: in `workers` processes of this machine.
        overwrite: replace an existing `output`.
        progress: where to show progress.

    Raises:
        UsageError: there are no such images, or `output` exists.
        BundleError: the bundle is damaged, or nothing vouches for its artifact.

    Example:
        >>> summary = isogon.embed("photos.isogon", "photos/", "photos.parquet")
        >>> summary.embedded, summary.unreadable
    """
    require_counts(batch=batch, workers=workers)
    source = source_of(images)
    if executor is not None and workers is not None:
        raise UsageError(
            "Expected workers or executor, got both. Give the number to the executor."
        )
    with needing("bulk"):
        from isogon.bulk import Executor, ProcessExecutor, embed as run

    if not isinstance(executor, Executor | None):
        raise UsageError(
            f"Expected an executor of `isogon.bulk`, such as `ProcessExecutor(workers=4)`, "
            f"got {executor!r}."
        )
    return run(
        path_of(bundle),
        source,
        Path(output),
        shown(progress),
        executor=executor or ProcessExecutor(workers=workers or usable_cores()),
        artifact=artifact,
        batch=batch,
        overwrite=overwrite,
    )


def serve(
    *bundles: Place | Bundle,
    host: str = "127.0.0.1",
    port: int = 3000,
    uds: Place | None = None,
    processes: int | None = None,
    keys: Place | None = None,
    watch: bool = False,
) -> None:
    """Serve embeddings and scores over HTTP, until interrupted.

    Args:
        bundles: directories, or `NAME=DIRECTORY`; the first is the default; without any,
            those of ISOGON_BUNDLE.
        host: the address to listen on.
        port: the TCP port.
        uds: the path of a unix socket, instead of host and port.
        processes: number of server processes; None: ISOGON_PROCESSES, or one.
        keys: a file of API keys, reloaded when it changes.
        watch: reload a bundle when it changes, without dropping a request.

    Raises:
        IsogonError: a setting or a bundle is invalid, or the golden check fails.

    Example:
        >>> isogon.serve("photos.isogon", port=3000)  # until Ctrl-C
    """
    if not (isinstance(port, int) and 1 <= port <= 65_535):
        raise UsageError(f"Expected port from 1 to 65535, got {port!r}.")
    require_counts(processes=processes)
    load_stage("serving", extra="serving")
    from serving import serve as run

    given = {"processes": processes, "keys_file": keys, "watch": watch or None}
    run(
        [each if isinstance(each, str) else str(path_of(each)) for each in bundles],
        host=host,
        port=port,
        uds=None if uds is None else Path(uds),
        given={name: value for name, value in given.items() if value is not None},
    )
