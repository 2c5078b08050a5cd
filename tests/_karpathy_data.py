"""COCO and Flickr30k in the layout that people download, small, with tiny images."""

import json

from tests._tiny_llava import tiny_images


def write_coco(folder, *, n_train=6, n_restval=2, n_val=1, n_test=4, caption="a blue dog"):
    """Write ``dataset_coco.json``, ``train2014`` and ``val2014``; restval, val and test images lie
    in ``val2014``, as in the original. Returns the entries of the file."""
    counts = {"train": n_train, "restval": n_restval, "val": n_val, "test": n_test}
    splits = [split for split, count in counts.items() for _ in range(count)]
    # As in the file, the splits are mixed.
    order = sorted(range(len(splits)), key=lambda i: (i * 7) % (len(splits) + 1))
    entries = []
    for number, i in enumerate(order):
        below = "train2014" if splits[i] == "train" else "val2014"
        cocoid = 391895 + number
        entries.append(
            {
                "filepath": below,
                "sentids": [5 * number + k for k in range(5)],
                "filename": f"COCO_{below}_{cocoid:012d}.jpg",
                "imgid": number,
                "split": splits[i],
                "sentences": _sentences(number, caption),
                "cocoid": cocoid,
            }
        )
    _write(folder, "coco", entries, [entry["filepath"] for entry in entries])
    return entries


def write_flickr30k(folder, *, n_train=6, n_val=1, n_test=4, images="flickr30k-images"):
    """Write ``dataset_flickr30k.json``, which names no folders, and the images in one folder."""
    splits = ["train"] * n_train + ["val"] * n_val + ["test"] * n_test
    entries = [
        {
            "sentids": [5 * number + k for k in range(5)],
            "imgid": number,
            "sentences": _sentences(number, "a blue dog"),
            "split": split,
            "filename": f"{1000092795 + number}.jpg",
        }
        for number, split in enumerate(splits)
    ]
    _write(folder, "flickr30k", entries, [images] * len(entries))
    return entries


def _sentences(number, caption):
    return [
        {
            "tokens": [*caption.split(), "number", str(k)],
            "raw": f"{caption.capitalize()} number {k} \n" if k else f"{caption.capitalize()}.",
            "imgid": number,
            "sentid": 5 * number + k,
        }
        for k in range(5)
    ]


def _write(folder, name, entries, places):
    folder.mkdir(parents=True, exist_ok=True)
    for entry, place, image in zip(entries, places, tiny_images(len(entries)), strict=True):
        (folder / place).mkdir(parents=True, exist_ok=True)
        image.save(folder / place / entry["filename"])
    content = {"images": entries, "dataset": name}
    (folder / f"dataset_{name}.json").write_text(json.dumps(content), encoding="utf-8")
