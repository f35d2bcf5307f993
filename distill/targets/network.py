"""A teacher that is a network: its features are computed as the recipe asks."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from distill.images.loading import plain_crops, views_in_order
from distill.images.views import Views
from distill.recipe import Recipe, TeacherSection
from distill.targets.finite import require_finite_features
from distill.targets.store import (
    FeatureStore,
    RowSource,
    StoreParts,
    StoreRecord,
    filled_store,
    rows_done,
)
from distill.targets.store_key import crop_parts, network_parts, view_parts
from distill.targets.targets import OnlineTargets, StoredTargets, Targets
from distill.targets.teacher import Embedder, Teacher, Uncomputed
from isogon.bundle import TeacherCard
from isogon.images import Images, Preprocessing
from isogon.images.collection import Indices
from isogon.networks import FeatureExtractor, Features
from isogon.progress import Progress

TrainPrecision = Literal["32-true", "bf16-mixed", "16-mixed"]
_Kind = Literal["embedding", "tokens", "plain"]
KnownCrops = Callable[[int, int], Float[np.ndarray, " d"] | None]
_TOGETHER = 64  # rows that are written at once


@dataclass(frozen=True, kw_only=True, slots=True)
class _Pixels:
    """The input of the network: `views` views of each of the images."""

    indices: Indices
    views: int
    parts: StoreParts
    batches: Callable[[int], Iterator[UInt8[Tensor, "b h w 3"]]]  # from a view's number on
    # The features of a view, by image and number, if it is a plain crop whose features are
    # known. `batches` leaves such views out. None: there are none.
    known: KnownCrops | None = None


class NetworkTeacher(Teacher):
    """A frozen network, and the images it teaches on."""

    network: FeatureExtractor

    def __init__(
        self,
        network: FeatureExtractor,
        card: TeacherCard,
        images: Images,
        preprocessing: Preprocessing,
        section: TeacherSection,
        recipe: Recipe,
        *,
        source: Path | None = None,
    ) -> None:
        """Freeze the network.

        Args:
            network: put into evaluation mode.
            card: what a bundle says about it.
            images: the images that indices refer to.
            preprocessing: of the plain crops; views have its size, too.
            section: its table [teacher].
            recipe: its [data] and [train] also say how features are computed.
            source: the file of the user's own network.
        """
        self.network = network.eval().requires_grad_(False)
        self.card = card
        self._images = images
        self.preprocessing = preprocessing
        self._section = section
        self._recipe = recipe
        self._source = source
        # The images whose plain crops were asked for last, and their features.
        self._pooled: tuple[Indices, Float[np.ndarray, "n d"]] | None = None

    def targets(
        self, indices: Indices, device: torch.device, progress: Progress
    ) -> Targets:
        """Return the network itself, or stored features of `views` views of each image.

        They are computed in the precision of [train], as in training. Those of plain crops
        are taken from the last call of `pooled`.
        """
        kind = self._section.features
        if kind == "online":
            return OnlineTargets(
                self.network,
                self.preprocessing.height,
                name=self.card.architecture,
                images=self._images.names,
            )
        precision = self._recipe.train.precision
        store = self._store(kind, self._views(indices), precision, device, progress)
        return StoredTargets(store, indices)

    def sample(self, indices: Indices, device: torch.device) -> Iterator[Features]:
        """Run the network on the plain crops."""
        self.network.to(device)
        pooled = self._section.features == "embedding"
        first = 0
        for pixels in self._plain(indices).batches(0):
            features = self._features(pixels, device, "32-true")
            batch = indices[first : first + len(pixels)]
            first += len(pixels)
            require_finite_features(
                features.tokens,
                self.card.architecture,
                [self._images.names[index] for index in batch],
            )
            yield features.without_cells() if pooled else features

    def pooled(
        self, indices: Indices, device: torch.device, progress: Progress
    ) -> Float[np.ndarray, "n d"]:
        """Return the network's features of the plain crops, computed in float32."""
        store = self._store("plain", self._plain(indices), "32-true", device, progress)
        pooled: Float[np.ndarray, "n d"] = store.values[:, 0, 0]
        self._pooled = indices, pooled
        return pooled

    def uncomputed(
        self,
        indices: Indices,
        device: torch.device,
        *,
        plain: bool = False,
        crops: Indices | None = None,
    ) -> Uncomputed:
        """Return how much the stores on disk still lack."""
        kind = self._section.features
        if plain:
            record, _ = self._record("plain", self._plain(indices), "32-true", device)
        elif kind == "online":
            return Uncomputed(views=0, size=0)
        else:
            precision = self._recipe.train.precision
            record, _ = self._record(kind, self._views(indices), precision, device)
        folder = Path(self._section.cache) / record.folder
        done = rows_done(folder, record)
        views = rows = record.rows - done
        if crops is not None and self._takes_crops:
            is_crop, count = self._random_views().is_crop, record.shape[1]
            there = set(crops.tolist())
            for row in range(done, record.rows):
                index = int(indices[row // count])
                views -= index in there and is_crop(index, row % count)
        return Uncomputed(views=views, size=rows * record.row_bytes)

    @property
    def embed(self) -> Embedder:
        """Run the network on the pixels of its crop, on their device."""

        def embed(pixels: UInt8[Tensor, "b h w 3"]) -> Float[Tensor, "b d"]:
            features: Features = self.network.to(pixels.device)(pixels)
            return features.pooled

        return Embedder(crops=(self.preprocessing,), run=embed)

    @property
    def _takes_crops(self) -> bool:
        """Whether features of views may be those of plain crops: alike in all but order.

        The closed-form start has these computed before training.
        """
        return (
            self._section.features == "embedding"
            and self._recipe.student.in_closed_form
            and self._recipe.train.precision == "32-true"
        )

    def _random_views(self) -> Views:
        data, seed = self._recipe.data, self._recipe.train.seed
        return Views(self._images, data, seed, sizes=[self.preprocessing.height])

    def _views(self, indices: Indices) -> _Pixels:
        data, seed = self._recipe.data, self._recipe.train.seed
        count = self._section.views_of(len(indices))
        workers = self._recipe.train.workers
        size = self.preprocessing.height
        views = self._random_views()
        known = self._known_crops(views)
        return _Pixels(
            indices=indices,
            views=count,
            parts=view_parts(
                self._images, indices, data, size=size, seed=seed, views=count
            ),
            batches=lambda start: views_in_order(
                views,
                indices,
                count,
                start=start,
                workers=workers,
                left_out=known and (lambda *view: known(*view) is not None),
            ),
            known=known,
        )

    def _known_crops(self, views: Views) -> KnownCrops | None:
        """Return what gives the features of views that `pooled` has had; None: nothing."""
        if self._pooled is None or not self._takes_crops:
            return None
        indices, pooled = self._pooled
        row_of = {int(index): row for row, index in enumerate(indices)}

        def known(index: int, number: int) -> Float[np.ndarray, " d"] | None:
            if index not in row_of or not views.is_crop(index, number):
                return None
            features: Float[np.ndarray, " d"] = pooled[row_of[index]]
            return features

        return known

    def _plain(self, indices: Indices) -> _Pixels:
        return _Pixels(
            indices=indices,
            views=1,
            parts=crop_parts(self._images, indices, self.preprocessing),
            batches=lambda start: iter(
                plain_crops(
                    self._images,
                    indices[start:],
                    self.preprocessing,
                    workers=self._recipe.train.workers,
                )
            ),
        )

    def _store(
        self,
        kind: _Kind,
        pixels: _Pixels,
        precision: TrainPrecision,
        device: torch.device,
        progress: Progress,
    ) -> FeatureStore:
        record, features = self._record(kind, pixels, precision, device)
        store = filled_store(
            Path(self._section.cache),
            record,
            RowSource(
                batches=lambda start: _rows(pixels, features, start),
                image=lambda row: self._images.names[pixels.indices[row // pixels.views]],
            ),
            progress,
        )
        self.network.cpu()  # training needs the device's memory
        return store

    def _record(
        self,
        kind: _Kind,
        pixels: _Pixels,
        precision: TrainPrecision,
        device: torch.device,
    ) -> tuple[StoreRecord, Callable[[UInt8[Tensor, "b h w 3"]], Features]]:
        """Return the record of the store of these views, and what computes its features."""
        network = network_parts(
            self.network, self.card.architecture, self._source, precision
        )

        def features(batch: UInt8[Tensor, "b h w 3"]) -> Features:
            found = self._features(batch, device, precision)
            return found if kind == "tokens" else found.without_cells()

        self.network.to(device)
        size = (self.preprocessing.height, self.preprocessing.width)
        tried = features(torch.zeros(1, *size, 3, dtype=torch.uint8))
        _, tokens, width = tried.tokens.shape
        record = StoreRecord(
            parts={"kind": kind} | pixels.parts | network,
            shape=(len(pixels.indices), pixels.views, tokens, width),
            grid=tried.grid,
            teacher=self.card,
        )
        return record, features

    @torch.no_grad()
    def _features(
        self,
        pixels: UInt8[Tensor, "b h w 3"],
        device: torch.device,
        precision: TrainPrecision,
    ) -> Features:
        mixed = precision != "32-true"
        dtype = torch.float16 if precision == "16-mixed" else torch.bfloat16
        with torch.autocast(device.type, dtype=dtype, enabled=mixed):
            features: Features = self.network(pixels.to(device, non_blocking=True))
        return features


def _rows(
    pixels: _Pixels, features: Callable[[UInt8[Tensor, "b h w 3"]], Features], start: int
) -> Iterator[Float[Tensor, "b n d"]]:
    """Yield the tokens of every view from one on, in order, whether known or computed."""
    computed = (features(batch).tokens for batch in pixels.batches(start))
    if pixels.known is None:
        yield from computed
        return
    one_by_one = chain.from_iterable(computed)
    end = len(pixels.indices) * pixels.views
    for first in range(start, end, _TOGETHER):
        rows = []
        for row in range(first, min(first + _TOGETHER, end)):
            image, number = divmod(row, pixels.views)
            known = pixels.known(int(pixels.indices[image]), number)
            if known is None:
                rows.append(next(one_by_one).cpu())
            else:
                rows.append(torch.from_numpy(np.asarray(known, np.float32)[None]))
        yield torch.stack(rows)
