"""`isogon serve`: answers over HTTP."""

from typing import Annotated

import typer

from commands.options import BundlePath


def serve(
    bundle: BundlePath,
    port: Annotated[int, typer.Option(help="TCP port.", min=1, max=65535)] = 3000,
    host: Annotated[
        str, typer.Option(help="Address; 0.0.0.0 accepts other machines.")
    ] = "127.0.0.1",
) -> None:
    """Serve embeddings and OOD scores over HTTP (BentoML), until interrupted.

    Try `curl -F images=@photo.jpg localhost:3000/v1/embed`. Environment variables
    set what answers (ISOGON_ARTIFACT, such as onnx/model.int8.onnx) and the limits:
    ISOGON_ALPHA, ISOGON_MAX_IMAGES, ISOGON_MAX_IMAGE_BYTES, ISOGON_MAX_IMAGE_PIXELS,
    ISOGON_MAX_BODY_BYTES, ISOGON_QUEUE (images that may wait), ISOGON_DEADLINE
    (seconds for a request). ISOGON_CORES and ISOGON_THREADS divide the CPU: cores to
    keep busy, and of them for one run.
    """
    from serving import serve as run

    run(bundle, host=host, port=port)
