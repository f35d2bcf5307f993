"""What the file holds, and who can read it."""

import csv
import json
import tarfile
from pathlib import Path

import duckdb
import lancedb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.progress import Progress

from isogon.bulk import ProcessExecutor, Summary, embed
from isogon.bundle import ONNX, Bundle, vouched_artifact
from isogon.images import ImageFolder, decode
from isogon.runtimes import OnnxRunner

UNREADABLE = {
    "photographs/cut.jpg": "truncated",
    "photographs/empty.png": "is empty",
}


def test_the_rows_are_what_onnx_runtime_answers_in_the_sources_order(
    embedded: Summary, exported: Path, mixed: Path
) -> None:
    table = pq.read_table(embedded.output)
    bundle = Bundle.open(exported)
    runner = OnnxRunner(bundle.file(ONNX), threads=1)
    names = [n for n in ImageFolder.list(mixed).names if n not in UNREADABLE]
    assert table["name"].to_pylist() == names
    assert len(names) == 240 + 12
    pixels = [
        bundle.manifest.preprocessing.pixels(decode((mixed / name).read_bytes()))
        for name in names
    ]
    direct = runner.run_all(np.stack(pixels), 32)
    width = bundle.manifest.width
    found = table["embedding"].combine_chunks().flatten().to_numpy().reshape(-1, width)
    assert np.abs(found - direct.embeddings).max() < 1e-6
    assert np.allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    scores = table["ood_score"].to_numpy()
    assert np.allclose(scores, direct.ood_scores, rtol=1e-5, atol=1e-6)
    calibration = vouched_artifact(bundle).calibration
    assert np.array_equal(table["p_value"].to_numpy(), calibration.p_values(scores))
    flags = table["is_ood"].to_numpy(zero_copy_only=False)
    assert np.array_equal(flags, calibration.is_ood(scores))
    assert 0 < flags.sum() < len(flags)
    assert table["label"].to_pylist() == [name.split("/")[0] for name in names]


def test_the_columns_have_plain_types_and_the_file_says_who_made_it(
    embedded: Summary, exported: Path
) -> None:
    bundle = Bundle.open(exported)
    artifact = vouched_artifact(bundle)
    file = pq.ParquetFile(embedded.output)
    assert {field.name: field.type for field in file.schema_arrow} == {
        "name": pa.string(),
        "label": pa.string(),
        "embedding": pa.list_(pa.float32(), 32),
        "ood_score": pa.float32(),
        "p_value": pa.float64(),
        "is_ood": pa.bool_(),
    }
    assert file.metadata.row_group(0).column(0).compression == "ZSTD"
    said = {k.decode(): v.decode() for k, v in file.schema_arrow.metadata.items()}
    preprocessing = json.loads(said.pop("isogon.preprocessing"))
    assert preprocessing == bundle.manifest.preprocessing.model_dump(mode="json")
    assert said.pop("isogon.version")
    assert said == {
        "isogon.bundle": "digits",
        "isogon.artifact": ONNX,
        "isogon.fingerprint": artifact.fingerprint,
        "isogon.width": "32",
        "isogon.alpha": str(artifact.calibration.alpha),
    }


def test_unreadable_images_are_counted_named_and_listed(embedded: Summary) -> None:
    summary = embedded
    assert (summary.images, summary.embedded, summary.unreadable) == (254, 252, 2)
    assert summary.unreadable_list == embedded.output.with_name(
        "out.parquet.unreadable.csv"
    )
    with summary.unreadable_list.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == list(UNREADABLE)
    for row in rows:
        assert UNREADABLE[row["name"]] in row["reason"]


def test_nothing_else_is_left_behind(embedded: Summary) -> None:
    left = {path.name for path in embedded.output.parent.iterdir()}
    assert left == {"out.parquet", "out.parquet.unreadable.csv"}


def test_it_opens_in_pandas(embedded: Summary) -> None:
    frame = pd.read_parquet(embedded.output).set_index("name")
    vectors = np.stack(frame["embedding"].to_list())
    assert vectors.shape == (252, 32)
    assert vectors.dtype == np.float32
    nearest = frame.index[(vectors @ frame.loc["0/000.png", "embedding"]).argmax()]
    assert nearest == "0/000.png"


@pytest.mark.parametrize(
    "similarity",
    [
        "list_cosine_similarity(embedding, one)",
        "array_cosine_similarity(embedding::FLOAT[32], one::FLOAT[32])",
    ],
)
def test_it_opens_in_duckdb_and_an_image_is_nearest_to_itself(
    embedded: Summary, similarity: str
) -> None:
    rows = duckdb.execute(
        f"""WITH query AS (
                SELECT embedding AS one FROM read_parquet($file) WHERE name = $name
            )
            SELECT name, {similarity} AS cosine FROM read_parquet($file), query
            ORDER BY cosine DESC LIMIT 3""",
        {"file": str(embedded.output), "name": "photographs/chelsea.jpg"},
    ).fetchall()
    assert rows[0] == ("photographs/chelsea.jpg", pytest.approx(1, abs=1e-6))
    assert rows[1][1] < 0.999999


def test_it_opens_in_lancedb_and_an_image_is_nearest_to_itself(
    embedded: Summary, tmp_path: Path
) -> None:
    file = pq.ParquetFile(embedded.output)
    reader = pa.RecordBatchReader.from_batches(file.schema_arrow, file.iter_batches())
    table = lancedb.connect(tmp_path / "lance").create_table("images", reader)
    assert table.count_rows() == 252
    query = file.read().filter(pa.compute.field("name") == "3/003.png")
    found = (
        table.search(query["embedding"][0].values.to_numpy()).metric("cosine").limit(2)
    ).to_list()
    assert found[0]["name"] == "3/003.png"
    assert found[0]["_distance"] == pytest.approx(0, abs=1e-6)
    familiar = table.search(found[0]["embedding"]).where("NOT is_ood").limit(5).to_list()
    assert not any(row["is_ood"] for row in familiar)


def test_lists_and_tars_give_the_same_rows_as_the_folder(
    embedded: Summary, exported: Path, mixed: Path, tmp_path: Path, progress: Progress
) -> None:
    names = ImageFolder.list(mixed).names
    with tarfile.open(tmp_path / "images.tar", "w") as tar:
        for name in names:
            tar.add(mixed / name, arcname=name)
    listed = tmp_path / "list.txt"
    missing = "nowhere/a.png"
    listed.write_text("\n".join([missing, *(str(mixed / n) for n in names)]))
    expected = pq.read_table(embedded.output)
    executor = ProcessExecutor(workers=2)

    summary = embed(
        exported,
        str(tmp_path / "images.tar"),
        tmp_path / "tar.parquet",
        progress,
        executor=executor,
    )
    assert (tmp_path / "tar.parquet").read_bytes() == embedded.output.read_bytes()
    assert summary.unreadable == 2

    summary = embed(
        exported, str(listed), tmp_path / "list.parquet", progress, executor=executor
    )
    found = pq.read_table(tmp_path / "list.parquet")
    assert "label" not in found.column_names
    assert found["name"].to_pylist() == [
        str(mixed / name) for name in expected["name"].to_pylist()
    ]
    # The missing image has shifted the batches, which may cost the last bits.
    assert np.allclose(found["ood_score"], expected["ood_score"], rtol=1e-5, atol=1e-6)
    assert summary.unreadable == 3
    assert missing in (tmp_path / "list.parquet.unreadable.csv").read_text()


def test_names_that_are_no_unicode_and_images_that_all_fail_make_a_file_too(
    exported: Path, tmp_path: Path, progress: Progress
) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    (folder / "caf\udce9.png").write_bytes(b"no image")
    output = tmp_path / "out.parquet"
    summary = embed(
        exported, str(folder), output, progress, executor=ProcessExecutor(workers=2)
    )
    assert summary.unreadable_share == 1
    assert pq.read_table(output).num_rows == 0
    assert "caf\\xe9.png" in (tmp_path / "out.parquet.unreadable.csv").read_text(
        encoding="utf-8"
    )
