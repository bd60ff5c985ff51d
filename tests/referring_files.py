"""Entries of referring data in the layouts of their files."""

ANNS = [{"id": 16, "bbox": [10, 20, 30, 40]}, {"id": 17, "bbox": [0, 0, 5, 5]}]


def entry(ann_id: object = 16, **changes: object) -> dict[str, object]:
    return {
        "file_name": "COCO_train2014_000000581857_16.jpg",
        "image_id": 581857,
        "ann_id": ann_id,
        "sentences": [{"raw": "The Red one"}, {"raw": "left"}],
        "anns": ANNS,
        **changes,
    }
