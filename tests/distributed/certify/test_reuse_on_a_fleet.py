"""certify --reuse, from the command's function to the certificates."""

import json

import pyarrow.parquet as pq
import pytest

from rsray import api
from rsray.errors import UserError

RUN = {"actors": 2, "progress": False, "address": "local"}


@pytest.fixture(scope="module")
def earlier(ray_session, digits_run, tmp_path_factory):
    return api.certify(
        digits_run, n=6000, skip=90, block_size=300, precision="bf16", sampling="skip",
        out=tmp_path_factory.mktemp("earlier"), **RUN,
    )  # fmt: skip


@pytest.mark.slow
def test_counts_of_another_precision_are_reused(earlier, digits_run, tmp_path):
    out = tmp_path / "new"
    new = api.certify(digits_run, precision="fp32", reuse=earlier.path, out=out, **RUN)
    assert new.summary["bound"] == "reused-counts" and new.summary["n"] == 600
    assert new.summary["sampling"] == "skip" and new.summary["sigma"] == earlier.summary["sigma"]
    spent = new.summary["reused"]
    assert spent["draws_of_fresh"] == earlier.summary["draws"] > 3 * spent["draws_of_both"]
    own = api.certify(
        digits_run, precision="fp32", n=600, skip=90, block_size=300, sampling="skip",
        out=tmp_path / "own", **RUN,
    )  # fmt: skip
    mine, alone = (pq.read_table(f"{each.path}/certificates.parquet") for each in (new, own))
    assert mine["count_a"].equals(alone["count_a"])  # the same draws
    again = api.certify(digits_run, precision="fp32", reuse=earlier.path, out=out, **RUN)
    assert again.summary["acr"] == new.summary["acr"]
    assert json.loads((out / "summary.json").read_text())["reuse"] == str(earlier.path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"sigma": 0.5}, "sigma is 0.5 now but was 0.25"),
        ({"seed": 3}, "seed is 3 now but was 0"),
        ({"skip": 45}, "skip is 45 now but was 90"),
        ({"noise": "float"}, "noise is 'float' now but was 'grid'"),
        ({"reuse_model": "nowhere"}, "nowhere does not exist"),
    ],
)
def test_other_draws_and_networks_are_refused(earlier, digits_run, tmp_path, given, words):
    with pytest.raises(UserError, match=words):
        api.certify(digits_run, reuse=earlier.path, out=tmp_path / "x", **given, **RUN)
