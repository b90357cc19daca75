from __future__ import annotations

from attendet.report.tables import class_table, markdown_table, plain_table

RECORD = {
    **dict.fromkeys(["ap", "ap50", "ap75", "ar_100"], 0.5),
    "per_class": {
        "cat": {
            "ap": 0.5,
            "ap50": 0.75,
            "ap75": None,
            "ar_100": 0.25,
            "voc_every_point": 0.7,
            "voc_11_point": 0.8,
            "gt": 3,
            "detections": 9,
        }
    },
    "voc": {"iou": 0.5, "every_point": 0.7, "eleven_point": None},
    "counts": {"gt": 3, "detections": 9},
}


def test_class_table_starts_with_all_classes_and_shows_a_dash_for_a_missing_value():
    header, rows = class_table(RECORD)

    assert header == [
        *("class", "objects", "detections", "AP", "AP50", "AP75", "AR100"),
        *("VOC AP50", "VOC AP50 11-pt"),
    ]
    assert rows[0] == ["all", "3", "9", "0.500", "0.500", "0.500", "0.500", "0.700", "-"]
    assert rows[1] == ["cat", "3", "9", "0.500", "0.750", "-", "0.250", "0.700", "0.800"]


def test_bars_in_a_name_do_not_break_markdown():
    text = markdown_table(["class", "AP"], [["a|b", "1"]])
    assert "| a\\|b  |  1 |" in text


def test_columns_are_aligned_and_lines_have_no_trailing_space():
    lines = plain_table(*class_table(RECORD)).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert all(line == line.rstrip() for line in lines)
