"""Units, ratios, text and JSON of the tables."""

import json

import pytest

from neo_model.benchmark.measure import Timing
from neo_model.benchmark.table import Report, Row, Table

OURS, PEER = Timing((0.3, 0.1, 0.2), retakes=2, disturbed=1), Timing((0.4, 0.4, 0.8))


def test_a_timing_is_shown_in_the_unit_asked_for():
    assert Row("ours", OURS, "ms").figures == pytest.approx((200, 100, 300))
    assert Row("ours", OURS).figures == pytest.approx((0.2, 0.1, 0.3))


def test_a_rate_has_its_minimum_where_the_time_has_its_maximum():
    assert Row("ours", OURS, "images/s", items=6).figures == pytest.approx((30, 20, 60))


def test_a_share_is_shown_in_percent():
    assert Row("loop", Timing((0.02, 0.01, 0.03)), "%").figures == pytest.approx((2, 1, 3))


def test_a_number_stands_for_itself():
    assert Row("peak", 13.5, "GiB").figures == (13.5, 13.5, 13.5)


def test_ratios_compare_medians_in_the_same_unit():
    table = Table("t", [Row("ours", OURS, "ms"), Row("peer", PEER, "ms"), Row("floor", 3.0, "TFLOP")], "peer")
    assert table.ratios() == [pytest.approx(0.5), 1.0, None]


@pytest.mark.parametrize(("unit", "ours"), [("ms", 0.2 / 0.3), ("images/s", 0.3 / 0.2)])
def test_of_several_peers_the_fastest_counts(unit, ours, tmp_path):
    timings = {"ours": OURS, "plain": PEER, "tuned": Timing((0.3,)), "floor": Timing((0.1,))}
    table = Table("t", [Row(name, timing, unit) for name, timing in timings.items()], ["plain", "tuned"])
    assert table.ratios()[:3] == pytest.approx([ours, {"ms": 4 / 3, "images/s": 3 / 4}[unit], 1])
    assert "x best peer" in table.text().splitlines()[0]
    Report("demo", [table]).write_json(tmp_path / "r.json")
    assert json.loads((tmp_path / "r.json").read_text())["tables"][0]["ratio_to"] == "tuned"


def test_a_peer_that_is_not_in_the_table_is_refused():
    with pytest.raises(ValueError, match="no row 'nobody'"):
        Table("t", [Row("ours", OURS)], "nobody").ratios()


def test_the_text_has_every_row_aligned_and_counts_the_retakes():
    rows = [Row("ours", OURS, "ms", note="bf16"), Row("a long-named peer", PEER, "ms"), Row("ops", 8463, "")]
    report = Report("demo", [Table("steps", rows, "a long-named peer")], ["Random images."])
    lines = report.text().splitlines()
    assert "CPU: " in lines[0] and "torch: " in lines[0]
    heading, _, ours, peer, ops = lines[2:7]
    assert ours.split() == ["ours", "200.0", "100.0", "300.0", "ms", "0.500", "bf16"]
    assert peer.split()[-1] == "1.000" and "8,463" in ops
    assert ours.index("200.0") + 5 == peer.index("400.0") + 5 == heading.index("median") + 6
    assert lines[-2:] == ["Random images.", "6 samples, 2 retaken, 1 kept although other processes ran."]


@pytest.mark.parametrize(
    ("figure", "shown"), [(0.01234, "0.012"), (1.23456, "1.235"), (45.678, "45.68"), (999.96, "1000.0"), (8463, "8,463")]
)
def test_figures_have_four_digits(figure, shown):
    assert Table("t", [Row("r", figure, "x")]).text().splitlines()[-1].split()[1] == shown


def test_the_json_has_every_sample(tmp_path):
    table = Table("steps", [Row("ours", OURS, "ms"), Row("peer", PEER, "ms")], "peer")
    Report("demo", [table], ["a note"], {"rounds": 3, "json": None}).write_json(tmp_path / "r.json")
    read = json.loads((tmp_path / "r.json").read_text())
    assert (read["benchmark"], read["notes"], read["settings"]["rounds"]) == ("demo", ["a note"], 3)
    ours = read["tables"][0]["rows"][0]
    assert ours["samples"] == [0.3, 0.1, 0.2] and ours["ratio"] == pytest.approx(0.5)
    assert (ours["unit"], ours["retakes"], ours["disturbed"]) == ("ms", 2, 1)
    assert read["machine"]["torch"]
