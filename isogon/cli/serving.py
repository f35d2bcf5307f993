"""`isogon serve`: serve bundles over HTTP."""

from pathlib import Path
from typing import Annotated

import typer


def serve(
    bundles: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[[NAME=]BUNDLE]...",
            help="Bundles' directories, or bentoml:NAME[:VERSION] in BentoML's store. The "
            "first answers requests that name no `model`. NAME= replaces the bundle's own "
            "name. Without any: ISOGON_BUNDLE.",
            show_default=False,
        ),
    ] = None,
    port: Annotated[int, typer.Option(help="TCP port.", min=1, max=65535)] = 3000,
    host: Annotated[
        str,
        typer.Option(help="Address; 0.0.0.0 accepts other machines, :: also over IPv6."),
    ] = "127.0.0.1",
    uds: Annotated[
        Path | None,
        typer.Option(
            help="Path of a unix socket to listen on instead of a port; this user and its "
            "group may connect.",
            show_default=False,
        ),
    ] = None,
    processes: Annotated[
        int | None,
        typer.Option(
            help="Number of server processes, for small models on many cores. Without it: "
            "one.",
            min=1,
            show_default=False,
        ),
    ] = None,
    keys: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="API keys: `NAME KEY [RATE]` on each line. Read again when it changes.",
            show_default=False,
        ),
    ] = None,
    watch: Annotated[
        bool,
        typer.Option(
            "--watch",
            help="Reload a bundle when it changes, without dropping a request. SIGHUP "
            "reloads once.",
        ),
    ] = False,
) -> None:
    """Serve embeddings and OOD scores over HTTP (BentoML), until interrupted.

    Try `curl -F images=@photo.jpg localhost:3000/v1/embed`, and the page at `/`. SIGTERM
    and Ctrl-C finish the accepted requests first. A start that fails prints one line and
    ends with exit status 2, or 1 if a check failed. Environment variables set the rest.

    - a small model on many cores: `isogon serve BUNDLE --processes 4`
    - behind nginx on this machine: `isogon serve BUNDLE --uds /run/isogon/http.sock`
    - for other machines, with keys: `isogon serve BUNDLE --host :: --keys keys.txt`
    - clients of Triton: `/v2/models/NAME/infer`; probes: `/livez` and `/readyz`

    The model:

    - ISOGON_ARTIFACT: the bundle's file that runs, such as onnx/model.int8.onnx; in
      OpenVINO, if it was exported for that: onnx/model.int8.onnx@openvino; or `fastest`:
      the fastest on this machine, measured at the start
    - ISOGON_ALPHA: the false-alarm rate of `is_ood`, instead of the bundle's
    - ISOGON_CORES and ISOGON_THREADS: CPU cores that each model keeps
      busy, and how many of them one run uses
    - ISOGON_DEVICE: `cpu`, `cuda` or `cuda:1`, an error if not available; `auto` is a GPU
      if there is one
    - ISOGON_CUDA_GRAPHS: `true` replays the runs of a TensorRT engine as CUDA graphs
    - ISOGON_WATCH: `true` is `--watch`
    - ISOGON_PROCESSES: `--processes`

    Who may send requests:

    - ISOGON_API_KEYS: separated by commas; a request carries one as `Authorization: Bearer
      KEY` or `X-API-Key: KEY`
    - ISOGON_KEYS_FILE: `--keys`, a file of keys with names and rates
    - ISOGON_CORS_ORIGINS: separated by commas; origins whose pages may send requests
      from a browser

    Limits of one request:

    - ISOGON_MAX_IMAGES: images
    - ISOGON_MAX_BODY_BYTES: bytes of its body
    - ISOGON_UPLOAD_SECONDS: seconds for its body to arrive
    - ISOGON_MAX_IMAGE_BYTES: bytes of one encoded image
    - ISOGON_MAX_IMAGE_PIXELS: width x height of one image

    Limits of all requests together, and a deadline:

    - ISOGON_QUEUE: images that may wait for a model
    - ISOGON_MAX_HELD_BYTES: bytes of the requests' bodies in memory
    - ISOGON_MAX_DECODING_BYTES: bytes of memory for decoding large images
    - ISOGON_DEADLINE: seconds from a request's body to its answer

    Logs and drift; OpenTelemetry's own variables configure traces:

    - ISOGON_LOG_FORMAT and ISOGON_LOG_LEVEL: `json` or `text`; `debug` to `error`
    - ISOGON_DRIFT_WINDOW: how many recent images the drift test uses
    - ISOGON_DRIFT_RUN_LENGTH: familiar images until a false alarm, on average
    """
    from isogon import api

    api.serve(
        *(bundles or ()),
        host=host,
        port=port,
        uds=uds,
        processes=processes,
        keys=keys,
        watch=watch,
    )
