"""A typed client of the service, synchronous and asynchronous.

It needs httpx and numpy, and no server and no runtime:

    with IsogonClient("http://127.0.0.1:3000") as client:
        answer = client.embed([Path("photo.jpg")])
        print(answer.embeddings.shape, answer.is_ood, answer.fingerprint)
"""

from serving.client.answers import (
    Embeddings as Embeddings,
    ModelCard as ModelCard,
    Scores as Scores,
)
from serving.client.clients import (
    AsyncIsogonClient as AsyncIsogonClient,
    IsogonClient as IsogonClient,
)
from serving.client.errors import (
    ClientError as ClientError,
    FingerprintError as FingerprintError,
    RefusedError as RefusedError,
    UnreachableError as UnreachableError,
)
from serving.client.images import Image as Image
from serving.client.retries import Retries as Retries
