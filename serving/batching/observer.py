"""Who hears of what happens to images on their way."""


class Observer:
    """Hears of every step and does nothing; a subclass counts what it cares for.

    The methods are called from several threads at once and in the way of requests:
    they must be safe, quick, and raise nothing.
    """

    def depth(self, images: int) -> None:
        """Hear how many images are now admitted and do not yet run."""

    def queued(self, seconds: float) -> None:
        """Hear how long an image waited, from its admission to its decoding."""

    def decoded(self, seconds: float) -> None:
        """Hear how long an image took to decode, or to be found undecodable."""

    def batched(self, seconds: float) -> None:
        """Hear how long a decoded image waited for its run."""

    def ran(self, images: int, seconds: float) -> None:
        """Hear how long the runtime took for a batch of so many images."""
