"""Images and captions of Flickr30k, in the layouts of its own caption files."""

import re

from sklearn.utils import Bunch

from ._reading import existing_file, existing_folder, find_images, read_lines, understanding

HEADER = ["image_name", "comment_number", "comment"]
# "1000092795.jpg#0<tab>Two young guys ..."
_TOKEN_LINE = re.compile(r"(?P<image>\S.*?)#(?P<number>\d+)(?:\s+(?P<caption>.*))?")
# "1000092795.jpg| 0| Two young guys ...". In the copy that people download, the second bar of one
# line is missing: "2199200615.jpg| 4   A dog runs across the grass ."
_TABLE_LINE = re.compile(
    r"(?P<image>[^|\s][^|]*?)\s*\|\s*(?P<number>\d+)(?:\s*\|\s*|\s+|$)(?P<caption>.*)"
)


def load_flickr30k(captions_file, images):
    """List the images of Flickr30k with their reference captions.

    Only names are read here: the images themselves are opened when a model needs them. All 31,783
    images are listed: these files know no splits. For the usual ones, download Karpathy's
    ``dataset_flickr30k.json`` and use :func:`load_karpathy`.

    Parameters
    ----------
    captions_file : str or path-like
        One of the layouts in which the captions are handed out, told apart by the first line:

        ``results_20130124.token`` (or ``results.token``)
            ``1000092795.jpg#0``, a tab and the caption in each line.
        ``results.csv``
            ``image_name| comment_number| comment`` in the first line, and
            ``1000092795.jpg| 0| Two young guys ...`` in each of the others. The one line of the
            original in which a bar is missing is understood.
    images : str or path-like
        Folder of the images.

    Returns
    -------
    Bunch
        ``images``: list of `pathlib.Path`, in the order of the file. ``captions``: list of lists
        of str in the same order, five an image, in the order of their numbers; blank ones are left
        out.

    Raises
    ------
    FileNotFoundError, NotADirectoryError
        Where the file, the folder or some of the images are not there.
    ValueError
        Where the file has another layout, or a caption number occurs twice for an image.

    References
    ----------
    Young et al., "From image descriptions to visual denotations: New similarity metrics for
    semantic inference over event descriptions", TACL 2014.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from semi_nmf_concepts.datasets import load_flickr30k
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     Path(folder, "1.jpg").touch()
    ...     _ = Path(folder, "results.token").write_text("1.jpg#0\\tA dog .\\n1.jpg#1\\tIt runs .")
    ...     data = load_flickr30k(Path(folder, "results.token"), folder)
    >>> [path.name for path in data.images], data.captions
    (['1.jpg'], [['A dog .', 'It runs .']])
    """
    file = existing_file(captions_file, "captions_file")
    folder = existing_folder(images, "images")
    with understanding(file, "captions_file"):
        captions = _captions(read_lines(file))
    return Bunch(
        images=find_images(folder, [("", name) for name in captions], file.name),
        captions=[
            [caption for _, caption in sorted(numbered.items()) if caption]
            for numbered in captions.values()
        ],
    )


def _captions(lines):
    """Image name -> caption number -> caption."""
    if not lines:
        raise ValueError("it is empty")
    _, first = lines[0]
    if [part.strip() for part in first.split("|")] == HEADER:
        pattern, lines = _TABLE_LINE, lines[1:]
    else:
        pattern = _TOKEN_LINE
    captions = {}
    for place, line in lines:
        match = pattern.fullmatch(line.strip())
        if match is None:
            raise ValueError(
                f"line {place} is {line[:60]!r}, neither 'image.jpg#0<tab>caption' nor, below a "
                f"first line '{'| '.join(HEADER)}', 'image.jpg| 0| caption' (load_karpathy reads "
                "dataset_flickr30k.json)"
            )
        number, numbered = int(match["number"]), captions.setdefault(match["image"], {})
        if number in numbered:
            raise ValueError(f"line {place} has caption {number} of {match['image']} again")
        numbered[number] = (match["caption"] or "").strip()
    if not captions:
        raise ValueError("it has no captions")
    return captions
