"""Search what `isogon embed` wrote, with DuckDB alone: the images most like one of them.

python examples/search.py embeddings.parquet cats/tabby.jpg
"""

import sys

import duckdb

NEAREST = """
    SELECT other.name, list_cosine_similarity(other.embedding, one.embedding) AS cosine,
           other.is_ood
    FROM read_parquet($file) AS other, read_parquet($file) AS one
    WHERE one.name = $name
    ORDER BY cosine DESC, other.name
    LIMIT 5
"""


def main(file: str, name: str) -> None:
    """Print the five nearest images, the image itself first."""
    found = duckdb.execute(NEAREST, {"file": file, "name": name}).fetchall()
    if not found:
        sys.exit(f"{file} has no image of the name {name!r}.")
    for other, cosine, is_ood in found:
        print(f"{cosine:.4f}  {other}{'  unfamiliar' if is_ood else ''}")


if __name__ == "__main__":
    main(*sys.argv[1:])
