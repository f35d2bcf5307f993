"""What an operator may set, each by an environment variable `ISOGON_<NAME>`."""

from pathlib import Path

from pydantic import Field, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from bundle import ONNX, ImageLimits, UsageError

LONGEST_DEADLINE = 540.0  # seconds; below the traffic timeout of `serving.service`


class Settings(BaseSettings):
    """The bundle to serve and the limits under which it is served."""

    model_config = SettingsConfigDict(env_prefix="ISOGON_", frozen=True)

    bundle: Path = Field(description="the bundle's directory")
    artifact: str = Field(
        default=ONNX, description="what answers: an artifact's name in the bundle"
    )
    alpha: float | None = Field(
        default=None, gt=0, lt=1, description="false-alarm rate; None: the bundle's"
    )
    cores: int | None = Field(
        default=None, ge=1, description="CPU cores to keep busy; None: those it may use"
    )
    deadline: float = Field(
        default=30.0, gt=0, le=LONGEST_DEADLINE, description="seconds for a request"
    )
    threads: int = Field(
        default=1, ge=1, description="of one run on the CPU; more: one image is faster"
    )
    max_images: int = Field(default=64, ge=1, description="images in one request")
    queue: int = Field(default=512, ge=1, description="images that may wait for a run")
    max_body_bytes: int = Field(
        default=96 * 2**20, ge=1, description="bytes of a request's body"
    )
    max_image_bytes: int = Field(
        default=ImageLimits().bytes, ge=1, description="bytes of one encoded image"
    )
    max_image_pixels: int = Field(
        default=ImageLimits().pixels, ge=1, description="width x height of one image"
    )

    @field_validator("queue")
    @classmethod
    def _holds_a_request(cls, queue: int, info: ValidationInfo) -> int:
        if queue < info.data.get("max_images", 0):
            raise ValueError(
                f"it should hold the {info.data['max_images']} images of a request, "
                f"which is ISOGON_MAX_IMAGES"
            )
        return queue

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
