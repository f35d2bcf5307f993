"""Photographs to upload: files, and whole HTTP requests that contain them."""

import io
import tarfile
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path

from PIL import Image

LARGE = (20 * 1000, 500 * 1000)  # bytes of the photographs
SMALL = (64, 128)  # pixels of the shorter side of the small ones
MOST = 64  # images of each kind
_BOUNDARY = "a-boundary-that-no-photograph-has"
_SUFFIXES = (".jpg", ".jpeg")


@dataclass(frozen=True, kw_only=True, slots=True)
class Uploads:
    """One kind of photographs, in its own folder."""

    name: str
    folder: Path

    @property
    def images(self) -> Path:
        """Where the files are."""
        return self.folder / "images"

    def encoded(self) -> list[bytes]:
        """Return the files' bytes, in order."""
        return [path.read_bytes() for path in sorted(self.images.iterdir())]

    def kibibytes(self) -> list[float]:
        """Return the files' sizes."""
        return [len(data) / 1024 for data in self.encoded()]

    def requests(self, path: str, images: int, *, plain: bool = False) -> Path:
        """Return a folder of requests to `path`, each with `images` images.

        Args:
            path: of the URL.
            images: per request.
            plain: the body is the image itself; otherwise multipart/form-data.
        """
        kind = "plain" if plain else "multipart"
        folder = self.folder / f"{path.strip('/').replace('/', '-')}-{kind}-{images}"
        if folder.is_dir():
            return folder
        folder.mkdir()
        data = self.encoded()
        turn = cycle(data)
        for number in range(max(4, len(data) // images)):
            chosen = list(islice(turn, images))
            request = _plain(path, chosen[0]) if plain else _multipart(path, chosen)
            (folder / f"{number:03}.http").write_bytes(request)
        return folder


def write_uploads(source: Path, folder: Path) -> tuple[Uploads, Uploads]:
    """Write photographs of 20 to 500 KB, and small copies; return both kinds.

    Args:
        source: a tar archive or a folder with JPEG files.
        folder: an empty one.

    Raises:
        ValueError: there is no photograph of such a size.
    """
    jpegs = [data for data in _jpegs(source) if LARGE[0] <= len(data) <= LARGE[1]][:MOST]
    if not jpegs:
        raise ValueError(f"{source} holds no JPEG file of {LARGE[0]:,} to {LARGE[1]:,} B.")
    kinds = {
        "photographs": jpegs,
        "small photographs": [_small(data, i) for i, data in enumerate(jpegs)],
    }
    found = []
    for name, files in kinds.items():
        uploads = Uploads(name=name, folder=folder / name.replace(" ", "-"))
        uploads.images.mkdir(parents=True)
        for number, data in enumerate(files):
            (uploads.images / f"{number:03}.jpg").write_bytes(data)
        found.append(uploads)
    return found[0], found[1]


def _jpegs(source: Path) -> list[bytes]:
    if source.is_dir():
        paths = sorted(p for p in source.rglob("*") if p.suffix.lower() in _SUFFIXES)
        return [path.read_bytes() for path in paths]
    with tarfile.open(source) as archive:
        names = [name for name in archive.getnames() if name.lower().endswith(_SUFFIXES)]
        files = [archive.extractfile(name) for name in sorted(names)]
        return [file.read() for file in files if file is not None]


def _small(data: bytes, number: int) -> bytes:
    image = Image.open(io.BytesIO(data)).convert("RGB")
    side = SMALL[0] + number % (SMALL[1] - SMALL[0] + 1)
    scale = side / min(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def _plain(path: str, image: bytes) -> bytes:
    return _request(path, "image/jpeg", image)


def _multipart(path: str, images: list[bytes]) -> bytes:
    parts = [
        f"--{_BOUNDARY}\r\n"
        f'Content-Disposition: form-data; name="images"; filename="{number}.jpg"\r\n'
        f"Content-Type: image/jpeg\r\n\r\n".encode()
        + image
        + b"\r\n"
        for number, image in enumerate(images)
    ]
    body = b"".join(parts) + f"--{_BOUNDARY}--\r\n".encode()
    return _request(path, f"multipart/form-data; boundary={_BOUNDARY}", body)


def _request(path: str, kind: str, body: bytes) -> bytes:
    head = (
        f"POST {path} HTTP/1.1\r\nHost: localhost\r\nAccept: application/json\r\n"
        f"Content-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body
