"""Find a folder's images that look most like one: client.py URL FOLDER IMAGE.

The folder's embeddings are kept in FOLDER/embeddings.npz with the model's fingerprint,
and used as long as that model answers.
"""

import sys
from pathlib import Path

import numpy as np

from serving.client import FingerprintError, IsogonClient

SUFFIXES = {".avif", ".gif", ".heic", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}


def embedded(client: IsogonClient, folder: Path, index: Path) -> dict[str, np.ndarray]:
    """Embed the folder, in as many requests as it takes, and keep what came."""
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
    answer = client.embed(paths)
    columns = {
        "names": np.array([path.name for path in paths]),
        "embeddings": answer.embeddings,
        "is_ood": answer.is_ood,
        "fingerprint": np.array(answer.fingerprint),
    }
    np.savez(index, **columns)
    return columns


if __name__ == "__main__":
    url, folder, image = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    index = folder / "embeddings.npz"
    known = dict(np.load(index)) if index.exists() else {}
    fingerprint = str(known["fingerprint"]) if known else None
    try:
        with IsogonClient(url, fingerprint=fingerprint) as client:
            known = known or embedded(client, folder, index)
            query = client.embed([image])
    except FingerprintError as error:
        sys.exit(f"{error} Remove {index} to do so.")
    verdict = "unfamiliar" if query.is_ood[0] else "familiar"
    print(f"{image.name}: {verdict}, p = {query.p_values[0]:.3f}")
    cosines = known["embeddings"] @ query.embeddings[0]
    for place in np.argsort(-cosines)[:5]:
        print(f"  {cosines[place]:.3f}  {known['names'][place]}")
