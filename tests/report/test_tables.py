from __future__ import annotations

from attendet.report.tables import class_table, markdown_table, plain_table, summary_table


def record():
    row = {
        "ap": 0.5,
        "ap50": 0.75,
        "ap75": None,
        "ar_100": 0.25,
        "voc_every_point": 0.7,
        "voc_11_point": 0.8,
        "gts": 3,
        "detections": 9,
    }
    names = ["ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large"]
    names += ["ar_1", "ar_10", "ar_100", "ar_small", "ar_medium", "ar_large"]
    return {
        **dict.fromkeys(names, 0.5),
        "per_class": {"cat": row},
        "voc": {"iou": 0.5, "every_point": 0.7, "eleven_point": None},
        "counts": {"gts": 3, "detections": 9},
        "best_f1": {"confidence": 0.321, "f1": 0.9, "precision": 0.9, "recall": 0.9},
    }


def test_class_table_has_the_mean_first_and_a_dash_for_no_value():
    header, rows = class_table(record())
    assert header[-2:] == ["VOC AP50", "VOC AP50 11-pt"]
    assert rows[0] == ["all", "3", "9", "0.500", "0.500", "0.500", "0.500", "0.700", "-"]
    assert rows[1] == ["cat", "3", "9", "0.500", "0.750", "-", "0.250", "0.700", "0.800"]


def test_summary_names_the_best_confidence():
    _, rows = summary_table(record())
    assert ["... at confidence", "0.321"] in rows
    assert len(rows) == 14


def test_bars_in_a_name_do_not_break_markdown():
    text = markdown_table(["class", "AP"], [["a|b", "1"]])
    assert "| a\\|b  |  1 |" in text


def test_columns_are_aligned_and_lines_have_no_tail():
    lines = plain_table(*class_table(record())).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert all(line == line.rstrip() for line in lines)
