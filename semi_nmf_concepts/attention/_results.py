"""Results that are plain records: saved as one NPZ file (arrays, a JSON text), never pickled."""

import dataclasses
import importlib
import io
import json
import math

import numpy as np

from semi_nmf_concepts._files import write_atomically

# The only types that a file can bring to life: name -> module.
_TYPES = {
    "AnswerExplanation": "attention",
    "AnswerTrace": "attention",
    "AnswerWord": "attention",
    "CausalGraph": "attention",
    "ConceptAblation": "attention",
    "ConceptActivationMap": "attention",
    "FaithfulnessCurves": "attention",
    "HeadMasses": "attention",
    "ImageMap": "attention",
    "PAG": "attention",
    "Relevancy": "attention",
    "WordScores": "attention",
    "Block": "lmm",
    "ModelHandle": "lmm",
    "PatchGrid": "lmm",
}
FORMAT_VERSION = 1


class Result:
    """Base of the dataclasses of this room: saving, loading, drawing.

    ``plotter`` is the name of the function of :mod:`semi_nmf_concepts.report` that draws one.
    """

    plotter = None

    def plot(self, **options):
        """Draw the result; returns a matplotlib Figure (extra ``plots``)."""
        from semi_nmf_concepts import report

        return getattr(report, self.plotter)(self, **options)

    def save(self, path):
        """Write everything into one file: NumPy's NPZ with the arrays and a JSON text.

        The file is replaced in one step; nothing in it is pickled.
        """
        arrays = _Arrays()
        document = {"format_version": FORMAT_VERSION, "result": _encode(self, arrays)}
        text = json.dumps(document, ensure_ascii=True, allow_nan=False)
        arrays["document"] = np.frombuffer(text.encode(), dtype=np.uint8)
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **arrays)
        write_atomically(path, buffer.getvalue())

    @classmethod
    def load(cls, path):
        """Read what :meth:`save` wrote.

        Raises FileNotFoundError where there is no such file and ValueError where it is damaged or
        holds another kind of result.
        """
        try:
            # Opened here, because NumPy leaves a damaged file open.
            with open(path, "rb") as file, np.load(file, allow_pickle=False) as stored:
                arrays = {name: stored[name] for name in stored.files}
            document = json.loads(arrays.pop("document").tobytes())
            result = _decode(document["result"], arrays)
        except FileNotFoundError:
            raise
        except Exception as error:  # zip, NumPy, JSON and Pillow raise what they like
            raise ValueError(f"{path} holds no whole {cls.__name__}: {error}") from error
        if not isinstance(result, cls):
            raise ValueError(f"{path} holds a {type(result).__name__}, not a {cls.__name__}.")
        return result

    def to_dict(self):
        """The record as nested dicts and lists of plain numbers and texts, images left out."""
        return _plain(self)


class _Arrays(dict):
    """Name -> array, and images as PNG bytes, each once however many maps show it."""

    def __init__(self):
        super().__init__()
        self._images = {}  # id -> (image, name); the image, so that its id stays its own

    def image(self, image):
        """Store an image; returns its name."""
        if id(image) not in self._images:
            buffer = io.BytesIO()
            image.save(buffer, format="PNG")
            content = np.frombuffer(buffer.getvalue(), dtype=np.uint8)
            self._images[id(image)] = image, _stored(content, self)
        return self._images[id(image)][1]


def _fields(value):
    return [f.name for f in dataclasses.fields(value) if not f.name.startswith("_")]


def _encode(value, arrays):
    """`value` as JSON; arrays go to `arrays` and leave their name."""
    from PIL import Image
    from scipy import sparse

    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {"float": str(value)}
    if isinstance(value, np.ndarray):
        return {"array": _stored(value, arrays)}
    if isinstance(value, Image.Image):
        return {"image": arrays.image(value)}
    if sparse.issparse(value):
        matrix = sparse.csr_array(value)
        parts = [_stored(part, arrays) for part in (matrix.data, matrix.indices, matrix.indptr)]
        return {"csr": parts, "shape": list(matrix.shape)}
    if dataclasses.is_dataclass(value) and type(value).__name__ in _TYPES:
        content = {name: _encode(getattr(value, name), arrays) for name in _fields(value)}
        return {"type": type(value).__name__, "fields": content}
    if isinstance(value, dict):
        return {"dict": [[_encode(k, arrays), _encode(v, arrays)] for k, v in value.items()]}
    if isinstance(value, (tuple, frozenset)):
        return {type(value).__name__: [_encode(item, arrays) for item in value]}
    if isinstance(value, list):
        return [_encode(item, arrays) for item in value]
    raise TypeError(f"a {type(value).__name__} cannot be saved.")


def _stored(array, arrays):
    if array.dtype.hasobject:
        raise TypeError("an array of objects cannot be saved.")
    name = f"array_{len(arrays)}"
    arrays[name] = array
    return name


def _decode(value, arrays):
    """The inverse of `_encode`."""
    if isinstance(value, list):
        return [_decode(item, arrays) for item in value]
    if not isinstance(value, dict):
        return value
    if "array" in value:
        return arrays[value["array"]]
    if "float" in value:
        return float(value["float"])
    if "image" in value:
        from PIL import Image

        content = io.BytesIO(arrays[value["image"]].tobytes())
        return Image.open(content, formats=["PNG"]).convert("RGB")
    if "csr" in value:
        from scipy import sparse

        parts = tuple(arrays[name] for name in value["csr"])
        return sparse.csr_array(parts, shape=tuple(value["shape"]))
    if "dict" in value:
        return {_decode(k, arrays): _decode(v, arrays) for k, v in value["dict"]}
    for kind in (tuple, frozenset):
        if kind.__name__ in value:
            return kind(_decode(item, arrays) for item in value[kind.__name__])
    home = importlib.import_module(f"semi_nmf_concepts.{_TYPES[value['type']]}")
    content = {name: _decode(item, arrays) for name, item in value["fields"].items()}
    # A file gives no trust: whoever needs the model's own code says so to `load_model`.
    content |= {"trust_remote_code": False} if value["type"] == "ModelHandle" else {}
    return getattr(home, value["type"])(**content)


def _plain(value):
    """Nested dicts and lists of plain values; numbers that are not finite become None."""
    from PIL import Image
    from scipy import sparse

    if isinstance(value, (np.generic, np.ndarray)):
        value = value.tolist()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, (list, tuple, frozenset)):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {_key(key): _plain(item) for key, item in value.items()}
    if isinstance(value, Image.Image):
        return {"width": value.width, "height": value.height}
    if sparse.issparse(value):
        return None
    if dataclasses.is_dataclass(value):
        return {name: _plain(getattr(value, name)) for name in _fields(value)}
    return value


def _key(key):
    """A key of a dict as JSON's text."""
    if isinstance(key, (tuple, frozenset)):
        return ", ".join(map(str, sorted(key) if isinstance(key, frozenset) else key))
    return str(key)
