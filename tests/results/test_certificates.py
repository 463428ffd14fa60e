import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rsray.errors import UserError
from rsray.results.certificates import CERTIFICATES, read_certificates, write_certificates

CONTRACT = {
    "index": "int64", "label": "int32", "prediction": "int32", "radius": "double",
    "correct": "bool", "p_a_lower": "double", "p_b_upper": "double", "count_a": "int64",
    "n0": "int64", "n": "int64", "skipped": "bool",
}  # fmt: skip


def test_schema_is_the_contract():
    assert {field.name: str(field.type) for field in CERTIFICATES} == CONTRACT
    assert all(b"unit" in field.metadata for field in CERTIFICATES)


@pytest.mark.parametrize("prefix", ["", "file://"])
def test_round_trip_sorts_and_keeps_everything(tmp_path, make, prefix):
    result = make(seed=3)
    shuffle = np.random.default_rng(0).permutation(len(result))
    path = f"{prefix}{tmp_path}/deep/certificates.parquet"
    columns = {name: column[shuffle] for name, column in result.columns().items()}
    write_certificates(path, columns, result.metadata)
    again = read_certificates(path, name="again")
    assert again.name == "again" and again.metadata == result.metadata
    for name, column in result.columns().items():
        np.testing.assert_array_equal(getattr(again, name), column)
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["certificates.parquet"]
    raw = pq.read_table(tmp_path / "deep" / "certificates.parquet")
    assert json.loads(raw.schema.metadata[b"rsray"])["seed"] == 3
    assert raw.schema.equals(CERTIFICATES) and raw.schema.field("radius").metadata[b"unit"]


def test_another_filesystem(make):
    result = make()
    write_certificates("memory://bucket/cert/certificates.parquet", result.columns(), {})
    assert len(read_certificates("memory://bucket/cert/certificates.parquet")) == len(result)


def test_writing_refuses_bad_columns(tmp_path, make):
    columns = make().columns()
    with pytest.raises(ValueError, match="radius"):
        write_certificates(tmp_path / "c", {k: v for k, v in columns.items() if k != "radius"}, {})
    columns["index"] = np.zeros_like(columns["index"])
    with pytest.raises(ValueError, match="two certificates"):
        write_certificates(tmp_path / "c", columns, {})
    assert not list(tmp_path.iterdir())


def test_reading_refuses_what_is_no_certificates_file(tmp_path, make):
    path = tmp_path / "certificates.parquet"

    def refused(match):
        with pytest.raises(UserError, match=match) as caught:
            read_certificates(path)
        assert str(path) in str(caught.value) and "\n" not in str(caught.value)

    refused("does not exist")
    write_certificates(path, make().columns(), {})
    whole, table = path.read_bytes(), pq.read_table(path)
    for size in (0, 3, 200, len(whole) - 10):
        path.write_bytes(whole[:size])
        refused("not a complete Parquet file")
    path.write_text("hello, this is text")
    refused("not a complete Parquet file")
    pq.write_table(table.drop_columns(["radius", "n"]), path)
    refused("radius, n")
    pq.write_table(table.replace_schema_metadata(None), path)
    refused("metadata")
    pq.write_table(table.replace_schema_metadata({"rsray": "{"}), path)
    refused("is not valid JSON")
    pq.write_table(table.slice(0, 0), path)
    refused("no image")
    pq.write_table(pa.concat_tables([table, table]), path)
    refused("unique index")
    for column, value in (("radius", float("nan")), ("radius", -1.0), ("radius", None)):
        values = pa.array([value] * len(table), type=pa.float64())
        position = table.column_names.index(column)
        pq.write_table(table.set_column(position, column, values), path)
        refused("certificates file")
    wrong = pa.array(["x"] * len(table))
    pq.write_table(table.set_column(3, "radius", wrong), path)
    refused("certificates file")
    flipped = pa.array(~table["correct"].to_numpy())
    pq.write_table(table.set_column(4, "correct", flipped), path)
    refused("correct")


def test_n_falls_back_on_the_draws_used(make):
    assert make(n=None).parameter("n") == 1000
    assert make().parameter("n0") == 100
    assert make().parameter("nothing") is None


def test_a_failed_image_counts_nothing_in_every_figure(make, without):
    whole = make()
    image = int(whole.index[whole.correct][3])
    result = without(whole, image)
    assert len(result) == 39 and result.selected.tolist() == list(range(40))
    assert result.failed == {image: "OSError: damaged"} and result.failed_labels == {}
    kept = whole.correct & (whole.index != image)
    assert result.acr == pytest.approx(whole.radius[kept].sum() / 40, abs=1e-15)
    for at in (0.0, 0.3, 0.9):
        assert result.accuracy_at([at]) == (kept & (whole.radius >= at)).sum() / 40
    assert whole.failed == {} and whole.acr == pytest.approx((whole.radius * whole.correct).mean())


def test_what_no_certification_writes_is_not_written(tmp_path, make):
    for column, value, match in (
        ("p_a_lower", np.nan, "a bound is not a number"),
        ("p_b_upper", np.nan, "a bound is not a number"),
        ("radius", np.inf, "a radius is not in 0..10,000"),
        ("radius", 1e12, "a radius is not in 0..10,000"),
    ):
        columns = make().columns()
        columns[column] = columns[column].copy()
        columns[column][5] = value
        with pytest.raises(ValueError, match=match):
            write_certificates(tmp_path / "c.parquet", columns, {})
    with pytest.raises(ValueError, match="failed has a certificate"):
        write_certificates(tmp_path / "c.parquet", make().columns(), {"failed": {"3": "NaN"}})
    assert not list(tmp_path.iterdir())
