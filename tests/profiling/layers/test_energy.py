"""Estimates of energy and the tables that they are made from."""

import json

import pytest

from spiketicket.errors import InputError
from spiketicket.profiling.layers.energy import CMOS_45NM, EnergyTable, load_energy_table

TABLE = {"name": "mine", "source": "a data sheet", "mac_pj": 2, "ac_pj": 0.5}


def test_the_table_of_45_nm():
    # 10 MACs of 4.6 pJ and 100 ACs of 0.9 pJ; bytes are free in a table that says nothing of them.
    assert CMOS_45NM.estimate(10, 100, 1000) == pytest.approx(46 + 90)


def test_a_table_by_file(tmp_path):
    path = tmp_path / "table.json"
    path.write_text(json.dumps(TABLE | {"byte_pj": 20}))
    table = load_energy_table(path)
    assert table == EnergyTable("mine", "a data sheet", 2, 0.5, 20)
    assert table.estimate(3, 4, 5) == 3 * 2 + 4 * 0.5 + 5 * 20
    path.write_text(json.dumps(TABLE))
    assert load_energy_table(path).byte_pj is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is damaged, or no energy table: expected JSON"),
        ("[1]", "expected a JSON object, got list"),
        (json.dumps({"name": "x"}), "expected the fields name, source, mac_pj, ac_pj and perhaps byte_pj, got name"),
        (json.dumps(TABLE | {"more": 1}), "more"),
        (json.dumps(TABLE | {"mac_pj": -1}), "mac_pj must be picojoules from 0, got -1"),
        (json.dumps(TABLE | {"ac_pj": True}), "ac_pj must be picojoules from 0, got True"),
        (json.dumps(TABLE | {"ac_pj": float("inf")}), "got inf"),
        (json.dumps(TABLE | {"ac_pj": float("nan")}), "got nan"),
        (json.dumps(TABLE | {"byte_pj": "1"}), "byte_pj must be picojoules from 0, got '1'"),
        (json.dumps(TABLE | {"source": " "}), "source must be a text"),
    ],
)
def test_a_bad_table_is_refused(tmp_path, text, message):
    path = tmp_path / "table.json"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        load_energy_table(path)


def test_no_file(tmp_path):
    with pytest.raises(InputError, match="cannot read energy table .*none.json"):
        load_energy_table(tmp_path / "none.json")
