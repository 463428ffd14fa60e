import numpy as np
import pytest
from test_certification_store import drop_damaged

from rsray.certification.counts.store import CountStore, Selected
from rsray.certification.counts.tables import counts_table
from rsray.errors import UserError
from rsray.storage import Place


@pytest.fixture
def store(tmp_path):
    store = CountStore(Place.of(tmp_path), "mine")
    blocks = [(block, 100) for block in range(50)]
    counts = np.random.default_rng(0).multinomial(100, [0.7, 0.2, 0.1], size=50)
    store.append(counts_table(3, 1, "estimation", blocks, counts))
    return store


def test_a_flipped_bit_is_found_or_changes_nothing(store, tmp_path):
    part = tmp_path / "counts" / store.names()[0]
    whole = part.read_bytes()
    truth = next(store.parts()).to_pylist()
    found = 0
    for position in range(0, len(whole), 7):
        broken = bytearray(whole)
        broken[position] ^= 4
        part.write_bytes(bytes(broken))
        try:
            dropped = drop_damaged(store, Selected(np.array([3]), np.array([1])))
        except UserError as problem:
            assert "counts of another run" in str(problem), "the flip is in the name of the run"
            found += 1
            continue
        found += bool(dropped)
        if not dropped:
            assert next(store.parts()).to_pylist() == truth
    assert found > len(whole) / 7 / 3
