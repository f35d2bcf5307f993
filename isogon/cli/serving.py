"""`isogon serve`: answers over HTTP."""

from pathlib import Path
from typing import Annotated

import typer


def serve(
    bundles: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[[NAME=]BUNDLE]...",
            help="Bundles' directories, or bentoml:NAME[:VERSION] of BentoML's store. The "
            "first answers where a request names no `model`. NAME= goes before the "
            "bundle's own name. Without any: ISOGON_BUNDLE.",
            show_default=False,
        ),
    ] = None,
    port: Annotated[int, typer.Option(help="TCP port.", min=1, max=65535)] = 3000,
    host: Annotated[
        str,
        typer.Option(
            help="Address; 0.0.0.0 accepts other machines, :: does so over IPv6 too."
        ),
    ] = "127.0.0.1",
    uds: Annotated[
        Path | None,
        typer.Option(
            help="Path of a unix socket to listen on instead; this user and its group may "
            "connect.",
            show_default=False,
        ),
    ] = None,
    processes: Annotated[
        int | None,
        typer.Option(
            help="Processes that answer, for small models on many cores. Without it: one.",
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
            help="Take a bundle up when it changes, without dropping a request. SIGHUP "
            "does so once.",
        ),
    ] = False,
) -> None:
    """Serve embeddings and OOD scores over HTTP (BentoML), until interrupted.

    Try `curl -F images=@photo.jpg localhost:3000/v1/embed`, and the page at `/`. SIGTERM
    and Ctrl-C finish the requests accepted; a start that fails ends with status 2, or 1
    for a check, and one line. Everything else is set by environment variables.

    - a small model on many cores: `isogon serve BUNDLE --processes 4`
    - behind nginx on this machine: `isogon serve BUNDLE --uds /run/isogon/http.sock`
    - for other machines, with keys: `isogon serve BUNDLE --host :: --keys keys.txt`
    - clients of Triton: `/v2/models/NAME/infer`; probes: `/livez` and `/readyz`

    What answers:

    - ISOGON_ARTIFACT: which of the bundles' files, such as onnx/model.int8.onnx; in
      OpenVINO, where it was let in for that: onnx/model.int8.onnx@openvino; or `fastest`:
      whichever is on this machine, measured at the start
    - ISOGON_ALPHA: the false-alarm rate of `is_ood`, instead of the bundle's
    - ISOGON_CORES and ISOGON_THREADS: CPU cores that each model keeps
      busy, and of them for one run
    - ISOGON_DEVICE: `cpu`, `cuda` or `cuda:1`, which fail where they are not to be had;
      `auto` is a GPU where there is one
    - ISOGON_CUDA_GRAPHS: `true` replays the runs of a TensorRT engine
    - ISOGON_WATCH: `true` is `--watch`
    - ISOGON_PROCESSES: `--processes`

    Who may ask:

    - ISOGON_API_KEYS: separated by commas; a request shows one as `Authorization: Bearer
      KEY` or `X-API-Key: KEY`
    - ISOGON_KEYS_FILE: `--keys`, a file of keys with names and rates
    - ISOGON_CORS_ORIGINS: separated by commas; sites whose pages may ask from a browser

    How much one request may bring:

    - ISOGON_MAX_IMAGES: images
    - ISOGON_MAX_BODY_BYTES: bytes of its body
    - ISOGON_UPLOAD_SECONDS: for its body to arrive
    - ISOGON_MAX_IMAGE_BYTES: bytes of one encoded image
    - ISOGON_MAX_IMAGE_PIXELS: width x height of one image

    What may wait, and how long:

    - ISOGON_QUEUE: images of all requests together that may wait for a model
    - ISOGON_MAX_HELD_BYTES: bytes of all requests' bodies together
    - ISOGON_MAX_DECODING_BYTES: bytes of memory for large images in decoding
    - ISOGON_DEADLINE: seconds from a request's body to its answer

    What is observed, besides what OpenTelemetry's own variables say of traces:

    - ISOGON_LOG_FORMAT and ISOGON_LOG_LEVEL: `json` or `text`; `debug` to `error`
    - ISOGON_DRIFT_WINDOW: images that the drift test looks back upon
    - ISOGON_DRIFT_RUN_LENGTH: familiar images until it alarms, on average
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
