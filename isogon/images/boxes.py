"""The boxes of HEIC and AVIF (ISO base media files): where the file should end."""


def is_complete(data: bytes) -> bool:
    """Return whether a file reaches the end of its boxes.

    libheif decodes a photograph of tiles whose last ones are missing without an error.
    """
    place = 0
    while place + 8 <= len(data):
        size = int.from_bytes(data[place : place + 4])
        if size == 1:  # the size follows, in 64 bits
            size = int.from_bytes(data[place + 8 : place + 16])
        if size < 8:
            return True  # 0: to the end, wherever that is; others are for the decoder
        place += size
    return place <= len(data)
