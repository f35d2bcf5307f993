"""What an operator may set, each by an environment variable `ISOGON_<NAME>`."""

from pathlib import Path
from typing import Annotated

from pydantic import BeforeValidator, Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from bundle import ONNX, ImageLimits, UsageError
from serving.stored import bundle_path


class Settings(BaseSettings):
    """The bundle to serve and the limits under which it is served."""

    model_config = SettingsConfigDict(env_prefix="ISOGON_", frozen=True)

    bundle: Annotated[Path, BeforeValidator(bundle_path)] = Field(
        description="the bundle's directory, or bentoml:NAME[:VERSION]"
    )
    artifact: str = Field(
        default=ONNX, description="what answers: an artifact's name in the bundle"
    )
    alpha: float | None = Field(
        default=None, gt=0, lt=1, description="false-alarm rate; None: the bundle's"
    )
    threads: int | None = Field(
        default=None, ge=1, description="of the runtime per request; None: its choice"
    )
    max_images: int = Field(default=64, ge=1, description="images in one request")
    max_body_bytes: int = Field(
        default=96 * 2**20, ge=1, description="bytes of a request's body"
    )
    max_image_bytes: int = Field(
        default=ImageLimits().bytes, ge=1, description="bytes of one encoded image"
    )
    max_image_pixels: int = Field(
        default=ImageLimits().pixels, ge=1, description="width x height of one image"
    )

    @property
    def image_limits(self) -> ImageLimits:
        """The limits on one image, as the decoder takes them."""
        return ImageLimits(bytes=self.max_image_bytes, pixels=self.max_image_pixels)


def settings_from_environment(bundle: Path | None = None) -> Settings:
    """Return the settings; `bundle` goes before ISOGON_BUNDLE.

    Raises:
        UsageError: a variable is missing or has a value that does not do.
    """
    try:
        return Settings() if bundle is None else Settings(bundle=bundle)  # type: ignore[call-arg]
    except ValidationError as error:
        fault = error.errors()[0]
        name = "ISOGON_" + str(fault["loc"][0]).removeprefix("ISOGON_").upper()
        raise UsageError(
            f"The environment variable {name}: {fault['msg']}, got {fault['input']!r}. "
            f"Set or unset it; `isogon serve --help` lists them."
        ) from error
