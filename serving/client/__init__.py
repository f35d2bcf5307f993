"""A typed client of the service, synchronous and asynchronous.

It needs httpx and numpy, but no server and no runtime:

    with IsogonClient("http://127.0.0.1:3000") as client:
        answer = client.embed([Path("photo.jpg")])
        print(answer.embeddings.shape, answer.is_ood, answer.fingerprint)
"""

from serving.client.answers import (
    ClientError as ClientError,
    Embeddings as Embeddings,
    FingerprintError as FingerprintError,
    ModelCard as ModelCard,
    RefusedError as RefusedError,
    Scores as Scores,
    UnreachableError as UnreachableError,
)
from serving.client.clients import (
    AsyncIsogonClient as AsyncIsogonClient,
    IsogonClient as IsogonClient,
)
from serving.client.conversation import Retries as Retries
from serving.client.images import Image as Image
