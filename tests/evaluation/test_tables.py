import math

from neo_model.evaluation import SUMMARY_KEYS, class_table, metrics_json, summary_table


def metrics() -> dict:
    values = {key: 0.1 + position / 100 for position, key in enumerate(SUMMARY_KEYS)}
    per_class = {
        "person": {"AP": 0.51234, "AP50": 0.8, "images": 12, "boxes": 1234},
        "a long class name": {"AP": math.nan, "AP50": math.nan, "images": 0, "boxes": 0},
    }
    return values | {"APl": math.nan, "per_class": per_class}


def test_summary_holds_the_twelve_figures_in_order():
    lines = summary_table(metrics()).splitlines()[2:]
    assert [line.split()[0] for line in lines] == list(SUMMARY_KEYS)
    assert [line.split()[1] for line in lines][:3] == ["0.100", "0.110", "0.120"]
    assert lines[5].split()[1] == "-"
    assert lines[8].endswith("average recall, 100 detections an image and class")  # of 300 that a model gives


def test_class_table_is_aligned_and_marks_undefined_classes():
    header, rule, person, other = class_table(metrics()).splitlines()
    assert person.split() == ["person", "12", "1234", "0.512", "0.800"]
    assert other.split()[-4:] == ["0", "0", "-", "-"]
    assert len({len(line) for line in (header, rule, person, other)}) == 1


def test_tables_read_what_the_json_file_holds():
    assert summary_table(metrics_json(metrics())) == summary_table(metrics())
    assert class_table(metrics_json(metrics())) == class_table(metrics())
