"""Flickr30k's own caption files, VQA v2 and the feature files of xl-vlms, in the layout that people
download, small, with tiny images. The Karpathy splits have a module of their own."""

import json

from tests._tiny_llava import tiny_images

# Image name -> captions, as Flickr30k has them: tokens apart, five an image, bars and marks inside.
FLICKR30K = {
    "1000092795.jpg": [
        "Two young guys with shaggy hair look at their hands .",
        "Two young , White males are outside near many bushes .",
        'Two men in green shirts are standing in a "yard" .',
        "A man in a blue shirt #2 standing in a garden .",
        "Two friends enjoy time spent together .",
    ],
    "10002456.jpg": [f"Several men number {k} operate a giant pulley system ." for k in range(5)],
    "2199200615.jpg": [
        *(f"A dog plays in the grass , view {k} ." for k in range(4)),
        "A dog runs across the grass .",
    ],
}


def write_flickr30k_token(folder, captions=FLICKR30K):
    """Write ``results_20130124.token`` and the images below ``flickr30k-images``."""
    lines = [
        f"{name}#{k}\t{text}\n" for name, texts in captions.items() for k, text in enumerate(texts)
    ]
    _save_images(folder / "flickr30k-images", captions)
    file = folder / "results_20130124.token"
    file.write_text("".join(lines), encoding="utf-8")
    return file


def write_flickr30k_csv(folder, captions=FLICKR30K):
    """Write ``results.csv``, with the one line of the original in which a bar is missing, and the
    images below ``flickr30k_images``."""
    lines = ["image_name| comment_number| comment\n"]
    lines += [
        f"{name}| {k}| {text}\n" for name, texts in captions.items() for k, text in enumerate(texts)
    ]
    text = "".join(lines).replace("2199200615.jpg| 4| A dog", "2199200615.jpg| 4   A dog")
    _save_images(folder / "flickr30k_images", captions)
    file = folder / "results.csv"
    file.write_text(text, encoding="utf-8")
    return file


# (question_id, image_id, question, the ten answers), the ids as there: image * 1000 + number.
VQAV2 = [
    (458752000, 458752, "What is this photo taken looking through?", ["net"] * 9 + ["fence"]),
    (458752001, 458752, "What position is this man playing?", ["pitcher"] * 4 + ["catcher"] * 6),
    (262146000, 262146, "What animal is on the couch?", ["dog", "dog ", "", "a dog", "dog"] * 2),
]


def write_vqav2(folder, rows=VQAV2, subtype="train2014", task="mscoco"):
    """Write questions and annotations of VQA v2, and the images below the folder's ``train2014``.

    Returns the two contents; the files are ``v2_OpenEnded_mscoco_train2014_questions.json`` and
    ``v2_mscoco_train2014_annotations.json``.
    """
    common = {
        "info": {"description": "This is v2.0 of the VQA dataset.", "version": "2.0", "year": 2017},
        "data_subtype": subtype,
        "license": {"name": "Creative Commons Attribution 4.0 International License"},
        "data_type": task,
    }
    questions = common | {
        "task_type": "Open-Ended",
        "questions": [
            {"image_id": image, "question": question, "question_id": number}
            for number, image, question, _ in rows
        ],
    }
    annotations = common | {
        "annotations": [
            {
                "question_type": "what is",
                "multiple_choice_answer": max(answers, key=answers.count),
                "answers": [
                    {"answer": answer, "answer_confidence": "yes", "answer_id": k}
                    for k, answer in enumerate(answers, start=1)
                ],
                "image_id": image,
                "answer_type": "other",
                "question_id": number,
            }
            # Not in the order of the questions.
            for number, image, _, answers in reversed(rows)
        ],
    }
    names = dict.fromkeys(f"COCO_{subtype}_{image:012d}.jpg" for _, image, _, _ in rows)
    _save_images(folder / subtype, names)
    write_json(folder / f"v2_OpenEnded_mscoco_{subtype}_questions.json", questions)
    write_json(folder / f"v2_mscoco_{subtype}_annotations.json", annotations)
    return questions, annotations


def write_json(file, content):
    """Write JSON, or a text as it is."""
    text = content if isinstance(content, str) else json.dumps(content)
    file.write_text(text, encoding="utf-8")
    return file


def _save_images(folder, names):
    folder.mkdir(parents=True, exist_ok=True)
    for name, image in zip(names, tiny_images(len(names)), strict=True):
        image.save(folder / name)


def xl_vlms_features(
    modules=("language_model.model.layers.30", "language_model.model.norm"), *, width=6
):
    """What the published code saves: the features of four samples, of which the second and the
    fourth have not the token of interest "dog"."""
    import torch

    captions = ["A dog on the grass. ", "A cat sleeps.", "Two small dogs run.", "A bus."]
    generator = torch.Generator().manual_seed(0)
    return {
        "hidden_states": [
            {module: torch.randn(1, 1, width, generator=generator).half() for module in modules}
            for _ in captions
        ],
        "image": [[f"/data/coco/train2014/COCO_train2014_{i:012d}.jpg"] for i in range(4)],
        "model_predictions": [[caption] for caption in captions],
        "token_of_interest_mask": [torch.tensor(["dog" in caption]) for caption in captions],
    }
