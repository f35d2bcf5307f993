"""The table [data] of a recipe."""

from typing import Annotated, Literal

from pydantic import (
    Field,
    field_validator,
    model_validator,
)

from distill.recipe.sections import Section, formerly
from isogon.images import ClassChoice, SampleRange, Shares
from isogon.images.copies import COPY_DISTANCE

# What timm.data.create_transform takes as auto_augment.
_POLICIES = ("rand", "augmix", "3a", "original", "v0")


class DataSection(Section):
    """The familiar (in-distribution) images: how they are divided and augmented."""

    images: str = Field(
        description="a folder, with or without class folders; a .tar, or several such "
        "as `shard-{0000..0009}.tar`, WebDataset's too; a .csv, .tsv, .json or .parquet "
        "list with `path` and maybe `label`; a .txt list of paths; Parquet with the images "
        "in `image`; or `hfds/NAME:SPLIT` of Hugging Face"
    )
    label: str | None = Field(
        default=None,
        description="the column of a list, of Parquet or a dataset, or the key of "
        "WebDataset's .json files, that holds the class; by default one of a usual name",
    )
    classes: int | None = Field(
        default=None,
        description="the level of folders whose names are the classes: 1 is the outermost "
        "below `images`, -1 the folder an image is in, 0 means no classes; by default the "
        "innermost that divides the images",
    )
    test: str | None = Field(
        default=None,
        description="other images of the same classes, to calibrate and test on; then "
        "all of `images` is for training",
    )
    calibration_of_test: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="share of `test` that calibrates the OOD score, at most "
        "calibration_limit; by default a half, or the ratio of calibration_share and "
        "test_share",
    )
    copy_distance: float = Field(
        default=COPY_DISTANCE,
        ge=0,
        le=1,
        description="largest distance between small grey versions of two images that are "
        "copies; copies never have two roles; 0: only equal images are copies",
    )
    unreadable_limit: float = Field(
        default=0.1,
        ge=0,
        lt=1,
        description="largest share of a source's images that may be left out because "
        "they cannot be read",
    )
    range: SampleRange | None = Field(
        default=None,
        description="black and white of images of more than 8 bits per sample, such as "
        "[0, 4095]; by default from each file's tags, and for 16 bits 0 to 65535",
    )
    size: int = Field(default=224, ge=8, description="pixels, height and width")
    crop: float = Field(
        default=1.0, gt=0, le=1, description="share of the shorter side kept"
    )
    test_share: float = Field(
        default=0.15, gt=0, lt=0.5, description="of the images, held out to test on"
    )
    calibration_share: float = Field(
        default=0.15,
        gt=0,
        lt=0.5,
        description="of the images, held out to calibrate the OOD score on",
    )
    calibration_limit: int = Field(
        default=500, ge=1, description="most held-out images kept in the bundle"
    )
    bank_limit: int = Field(
        default=20_000, ge=1, description="most training images kept as references"
    )
    validation_limit: int = Field(
        default=512,
        ge=0,
        description="most training images set aside to choose the best weights on, at "
        "most a tenth; 0 keeps the last weights",
    )
    thumbnails: int = Field(
        default=1000,
        ge=0,
        le=5000,
        description="most references kept as small pictures, which the service's page "
        "shows as neighbours; 0 for none",
    )
    scale: tuple[float, float] = Field(
        default=(0.08, 1.0), description="area of the random crop"
    )
    plain: Annotated[float, Field(ge=0, le=1)] | Literal["by-size"] = Field(
        default=0.0,
        description="share of views that are cropped as in the service, from the centred "
        "square, instead of randomly; by-size: all views if there are 10,000 images or "
        "more, else half",
    )
    flip: float = Field(default=0.5, ge=0, le=1, description="share of mirrored views")
    augment: str | None = Field(
        default=None, description="a timm policy such as rand-m9-mstd0.5-inc1"
    )
    color_jitter: float = Field(
        default=0,
        ge=0,
        le=1,
        validation_alias=formerly("color_jitter", "colour_jitter"),
        description="strength; not together with augment",
    )
    color_jitter_share: float = Field(
        default=1,
        ge=0,
        le=1,
        validation_alias=formerly("color_jitter_share", "colour_jitter_share"),
        description="of the views",
    )
    gray: float = Field(
        default=0,
        ge=0,
        le=1,
        validation_alias=formerly("gray", "grey"),
        description="share of gray views",
    )
    blur: float = Field(default=0, ge=0, le=1, description="share of blurred views")
    erase: float = Field(
        default=0, ge=0, le=1, description="share of views with a rectangle of noise"
    )
    synthetic: Annotated[float, Field(ge=0, le=1)] | Literal["by-size"] = Field(
        default=0.0,
        description="synthetic images for each training image, 500 at most: the student "
        "imitates the teacher on them too, so that it finds unfamiliar images as the "
        "teacher does; by-size: 0.25 if there are fewer than 10,000 training images, else "
        "none",
    )
    pseudo_classes: int = Field(
        default=0,
        ge=0,
        description="clusters of the teacher's features to use as classes, for "
        "objectives that need them; 0 for the images' own classes",
    )
    repeats: int = Field(
        default=1, ge=1, description="views of an image per batch (repeated augmentation)"
    )

    @field_validator("scale")
    @classmethod
    def _ordered(cls, scale: tuple[float, float]) -> tuple[float, float]:
        if not 0 < scale[0] <= scale[1] <= 1:
            raise ValueError("expected 0 < smallest <= largest <= 1")
        return scale

    @field_validator("augment")
    @classmethod
    def _known_policy(cls, augment: str | None) -> str | None:
        if augment is not None and not augment.startswith(_POLICIES):
            raise ValueError(f"expected a policy that starts with one of {_POLICIES}")
        return augment

    @model_validator(mode="after")
    def _one_kind_of_colour(self) -> "DataSection":
        if self.augment is not None and self.color_jitter:
            raise ValueError("expected either augment or color_jitter, got both")
        return self

    @model_validator(mode="after")
    def _one_origin_of_classes(self) -> "DataSection":
        if self.label is not None and self.classes is not None:
            raise ValueError("expected either label or classes, got both")
        return self

    @model_validator(mode="after")
    def _divides_a_test(self) -> "DataSection":
        if self.calibration_of_test is not None and self.test is None:
            raise ValueError("expected `test` with calibration_of_test, which divides it")
        return self

    @property
    def class_choice(self) -> ClassChoice:
        """Where the classes of the familiar images come from."""
        return ClassChoice(column=self.label, level=self.classes)

    @property
    def shares(self) -> Shares:
        """The shares of the familiar images that are held out, or of `test`."""
        apart = self.calibration_of_test if self.test is not None else None
        return Shares(
            calibration=self.calibration_share if apart is None else apart,
            calibration_limit=self.calibration_limit,
            test=self.test_share if apart is None else 1 - apart,
        )
