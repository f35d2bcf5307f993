"""`isogon serve`: answers over HTTP."""

from typing import TYPE_CHECKING, Annotated

import typer

from commands.options import BundlePath

if TYPE_CHECKING:
    pass


def serve(
    bundle: BundlePath,
    port: Annotated[int, typer.Option(help="TCP port.", min=1, max=65535)] = 3000,
    host: Annotated[
        str, typer.Option(help="Address; 0.0.0.0 accepts other machines.")
    ] = "127.0.0.1",
) -> None:
    """Serve embeddings and OOD scores over HTTP (BentoML), until interrupted.

    Try `curl -F images=@photo.jpg localhost:3000/v1/embed`. Limits are set by
    environment variables: ISOGON_ALPHA, ISOGON_MAX_IMAGES, ISOGON_MAX_IMAGE_BYTES,
    ISOGON_MAX_IMAGE_PIXELS, ISOGON_MAX_BODY_BYTES, ISOGON_THREADS.
    """
    from serving import serve as run

    run(bundle, host=host, port=port)
