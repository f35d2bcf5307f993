"""`isogon serve`: answers over HTTP."""

from typing import Annotated

import typer


def serve(
    bundles: Annotated[
        list[str],
        typer.Argument(
            metavar="[NAME=]BUNDLE",
            help="Bundles' directories, or bentoml:NAME[:VERSION] of BentoML's store. The "
            "first answers where a request names no `model`. NAME= goes before the "
            "bundle's own name.",
        ),
    ],
    port: Annotated[int, typer.Option(help="TCP port.", min=1, max=65535)] = 3000,
    host: Annotated[
        str, typer.Option(help="Address; 0.0.0.0 accepts other machines.")
    ] = "127.0.0.1",
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

    Try `curl -F images=@photo.jpg localhost:3000/v1/embed`. SIGTERM and Ctrl-C finish the
    requests accepted. Everything else is set by environment variables.

    What answers:

    - ISOGON_ARTIFACT: which of the bundles' files, such as onnx/model.int8.onnx
    - ISOGON_ALPHA: the false-alarm rate of `is_ood`, instead of the bundle's
    - ISOGON_CORES and ISOGON_THREADS: CPU cores that each model keeps
      busy, and of them for one run
    - ISOGON_DEVICE: `cpu`, `cuda` or `cuda:1`, which fail where they are not to be had;
      `auto` is a GPU where there is one
    - ISOGON_CUDA_GRAPHS: `true` replays the runs of a TensorRT engine
    - ISOGON_WATCH: `true` is `--watch`

    Who may ask:

    - ISOGON_API_KEYS: separated by commas; a request shows one as `Authorization: Bearer
      KEY` or `X-API-Key: KEY`
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
    - ISOGON_DEADLINE: seconds from a request's body to its answer

    What is observed, besides what OpenTelemetry's own variables say of traces:

    - ISOGON_LOG_FORMAT and ISOGON_LOG_LEVEL: `json` or `text`; `debug` to `error`
    - ISOGON_DRIFT_WINDOW: images that the drift test looks back upon
    - ISOGON_DRIFT_RUN_LENGTH: familiar images until it alarms, on average
    """
    from serving import serve as run

    run(bundles, host=host, port=port, watch=watch)
