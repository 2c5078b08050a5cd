"""The result object: concepts, samples, activations and thumbnails of one explanation."""

import io
from dataclasses import asdict, dataclass, field

import numpy as np

from semi_nmf_concepts._files import write_atomically
from semi_nmf_concepts.lmm import TokenRepresentations, to_rgb

from ._decomposer_state import from_state, to_state
from ._images import check_count, explain_sample
from ._provenance import require_same_model
from ._records import Concept, LocalExplanation, Samples
from ._saving import dump_json, load_folder, save_folder

_ARRAYS = ("activations", "local_activations", "test_activations", "components", "dictionary")
_KINDS = ("train", "local")


@dataclass(eq=False, repr=False)
class ConceptReport:
    """Multimodal concepts of one token of interest, with all that is needed to show them.

    Made by :func:`explain_concepts`. It holds neither the model nor the images, only thumbnails of
    the images that are shown, so that a saved report can be opened and drawn on its own.

    Attributes
    ----------
    concepts : list of Concept
        One record per concept.
    samples : Samples
        The kept training samples (``indices``, ``captions``, ``references``, ``prefixes``,
        ``factors``); its rows are those of ``activations``.
    activations : ndarray of float32, shape (n_kept, K)
        Concept activations of the kept training samples.
    components : ndarray of float32, shape (K, d)
        Concept directions in the space of the representations.
    dictionary : ndarray of float32, shape (K, r)
        Atoms in the space where they were learned; equal to ``components`` without whitening.
    local_kind : {"test", "train"}
        Where the local samples come from: the test images when these were given.
    local_samples : Samples
        Samples that local explanations are kept for, a spread over the kept test samples.
    local_activations : ndarray of float32, shape (n_local, K)
        Their activations.
    test_samples, test_activations : Samples, ndarray of shape (n_test_kept, K), or None
        All kept test samples, when test images were given.
    provenance : dict
        Where the representations come from: model, revision, fingerprint, module, layer, token,
        prompt, versions.
    settings : dict
        How the report was made: ``decomposer`` (class name), ``decomposer_origin`` (where it was
        fitted: here, on known states, or "unknown" for one that came fitted without saying),
        ``params``, ``grounding`` (options of :func:`ground_text`), ``n_images``, ``n_local``,
        ``factor_columns``, ``min_positives`` and ``random_state`` (as asked for),
        ``ignored_factor_columns``, ``token``, ``layer``, ``prompt``, ``position``,
        ``n_components``, ``n_seen``, ``n_kept``, ``dropped`` (reason -> count), ``n_test_seen``,
        ``n_test_kept``, ``test_dropped``, ``reconstruction_score`` (on the kept training samples),
        ``test_reconstruction_score``, ``alpha`` (weight of the L1 term that was used),
        ``mean_n_active``, ``overlap``, ``factor_macro`` (macro-averaged AUROC), ``factor_protocol``
        (on which samples the AUROCs were chosen and measured), ``word_hit_share`` (of the values
        detected, with an AUROC above ``metrics.DETECTED``). Values that are not known are None.
    factor_table : list of dict or None
        For each factor value the concept that detects it: ``factor``, ``value``, ``concept``,
        ``auroc``, ``low``, ``high``, ``n_positive`` (in the part that the AUROC was measured on),
        ``words`` (of the concept), ``named_by`` (those of them that name the value) and
        ``word_hit`` (whether there are any; None when it is not known which words name the value).
        None when the factors are not known.
    left_out : list of dict
        Factor values without an AUROC: ``factor``, ``value``, ``reason`` and counts.
    thumbnails : dict
        ``(kind, i)`` -> bytes of a JPEG image of at most 160 pixels a side; see :meth:`image`.
    decomposer : estimator or None
        The fitted decomposer, for new samples (see :meth:`encode`). Those of this package are saved
        with the report; one of another package is not, and is None in a report that was loaded.
    """

    concepts: list[Concept]
    samples: Samples
    activations: np.ndarray
    components: np.ndarray
    dictionary: np.ndarray
    local_kind: str
    local_samples: Samples
    local_activations: np.ndarray
    test_samples: Samples | None = None
    test_activations: np.ndarray | None = None
    provenance: dict = field(default_factory=dict)
    settings: dict = field(default_factory=dict)
    factor_table: list[dict] | None = None
    left_out: list[dict] = field(default_factory=list)
    thumbnails: dict = field(default_factory=dict)
    decomposer: object | None = None

    @property
    def n_local(self):
        """Number of local samples."""
        return len(self.local_samples)

    def __len__(self):
        return len(self.concepts)

    def __repr__(self):
        token = self.settings.get("token")
        about = "" if token is None else f" of {token!r}"
        return f"<ConceptReport: {len(self)} concepts{about}, {len(self.samples)} samples>"

    def encode(self, Z):
        """Compute the concept activations of new representations.

        Parameters
        ----------
        Z : TokenRepresentations, or array-like of shape (n, d)
            States taken as those of the report were, see ``provenance``. Only
            ``TokenRepresentations`` say which model they come from; of an array the width is
            checked.

        Returns
        -------
        activations : ndarray of shape (n, K)
            ``decomposer.transform(Z)``, in the precision of Z.

        Raises
        ------
        ValueError
            If the states come from another model or have another width, or the report has no
            decomposer.
        """
        if self.decomposer is None:
            name = self.settings.get("decomposer")
            raise ValueError(
                f"The report has no decomposer to encode new samples with: {name} is not one of "
                "those that are saved with a report. Keep the fitted estimator yourself and call "
                "its transform."
            )
        if isinstance(Z, TokenRepresentations):
            require_same_model(
                Z.provenance,
                self.provenance.get("fingerprint"),
                what="The states",
                advice="Take them from the model that the report was made with.",
            )
            Z = Z.Z
        return np.asarray(self.decomposer.transform(Z))

    def local(self, i, r=5):
        """Explain local sample `i` by the `r` concepts that it activates most.

        Parameters
        ----------
        i : int
            Row among the local samples, 0 <= i < ``n_local``.
        r : int, default=5
            Number of concepts at most; concepts that are not active are not listed.

        Returns
        -------
        LocalExplanation
        """
        i = check_count("i", i, minimum=0)
        if i >= self.n_local:
            raise ValueError(f"i must be below the {self.n_local} local samples, got {i}.")
        samples = self.local_samples
        names = ("concept", "activation", "share")
        items = explain_sample(self.local_activations[i], r)
        return LocalExplanation(
            sample=i,
            image_index=int(samples.indices[i]),
            caption=samples.captions[i],
            references=samples.references[i],
            activations=self.local_activations[i],
            items=[dict(zip(names, item, strict=True)) for item in items],
            factors=None if samples.factors is None else samples.factors[i],
        )

    def image(self, kind, i):
        """Return a thumbnail as a PIL image.

        Parameters
        ----------
        kind : {"train", "local"}
            "train": `i` is a position in the training images, as in ``Concept.image_indices``.
            "local": `i` is a row among the local samples, as in :meth:`local`.
        i : int
        """
        from PIL import Image

        if kind not in _KINDS:
            raise ValueError(f"kind must be one of {_KINDS}, got {kind!r}.")
        if (kind, i) not in self.thumbnails:
            raise ValueError(
                f"The report keeps no {kind} image {i!r}: only the images that it shows are kept."
            )
        return Image.open(io.BytesIO(self.thumbnails[kind, i]), formats=["JPEG"]).convert("RGB")

    def plot(self, **kwargs):
        """Draw one row per concept, its images and words; return a matplotlib figure."""
        from semi_nmf_concepts.report import plot_concepts

        return plot_concepts(self, **kwargs)

    def plot_local(self, i, **kwargs):
        """Draw the local explanation of local sample `i`; return a matplotlib figure."""
        from semi_nmf_concepts.report import plot_local

        return plot_local(self, i, **kwargs)

    def to_html(self, path):
        """Write the report as one standalone HTML file (images inline, no network)."""
        from semi_nmf_concepts.report import write_html

        write_html(self, path)

    def to_dict(self):
        """Return the report without arrays' raw data and thumbnails, as nested dicts and lists."""
        return {
            "settings": self.settings,
            "provenance": self.provenance,
            "concepts": [
                {key: value for key, value in vars(concept).items() if key != "activation"}
                for concept in self.concepts
            ],
            "factor_table": self.factor_table,
            "left_out": self.left_out,
            "local_kind": self.local_kind,
            "samples": asdict(self.samples),
            "local_samples": asdict(self.local_samples),
            "test_samples": None if self.test_samples is None else asdict(self.test_samples),
        }

    def to_json(self, path):
        """Write concepts, activations, local explanations and settings as strict JSON (UTF-8).

        Numbers that are not finite become null. The directions and thumbnails are left to
        :meth:`save`.
        """
        document = self.to_dict()
        for entry, concept in zip(document["concepts"], self.concepts, strict=True):
            entry["activation"] = concept.activation
        document["local"] = [vars(self.local(i)) for i in range(self.n_local)]
        write_atomically(path, dump_json(document))

    def save(self, folder):
        """Write the report into `folder` (made if missing): report.json and report.safetensors.

        Each file is replaced in one step, other files of the folder are left alone, and nothing is
        pickled. An older report in the folder is overwritten. A decomposer of this package is
        stored by its parameters (a random_state that is no seed as None) and fitted attributes.
        """
        arrays = {name: getattr(self, name) for name in _ARRAYS if getattr(self, name) is not None}
        for (kind, i), jpeg in self.thumbnails.items():
            arrays[f"thumbnail.{kind}.{i}"] = np.frombuffer(jpeg, dtype=np.uint8)
        description, fitted = to_state(self.decomposer)
        save_folder(folder, self.to_dict() | {"decomposer": description}, arrays | fitted)

    @classmethod
    def load(cls, folder):
        """Read a report that :meth:`save` wrote.

        Raises FileNotFoundError where there is none and ValueError where the files are damaged.
        """
        document, arrays = load_folder(folder)
        try:
            return cls._from_saved(document, arrays)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{folder} holds a damaged ConceptReport: {error!r}.") from error

    @classmethod
    def _from_saved(cls, document, arrays):
        thumbnails = {}
        for name in [name for name in arrays if name.startswith("thumbnail.")]:
            _, kind, i = name.split(".")
            thumbnails[kind, int(i)] = arrays.pop(name).tobytes()
        columns = arrays["activations"].T
        state = document.get("decomposer")
        return cls(
            concepts=[
                Concept(**entry, activation=column)
                for entry, column in zip(document["concepts"], columns, strict=True)
            ],
            samples=_samples(document["samples"]),
            local_samples=_samples(document["local_samples"]),
            test_samples=_samples(document["test_samples"]),
            thumbnails=thumbnails,
            decomposer=None if state is None else from_state(state, arrays),
            test_activations=arrays.pop("test_activations", None),
            **{name: arrays[name] for name in _ARRAYS if name != "test_activations"},
            **{
                name: document[name]
                for name in ("local_kind", "provenance", "settings", "factor_table", "left_out")
            },
        )


def _samples(entry):
    """Rebuild ``Samples`` from its JSON form."""
    if entry is None:
        return None
    return Samples(**(entry | {"indices": np.asarray(entry["indices"], dtype=np.int64)}))


def thumbnail(image, index=0, size=160):
    """Return JPEG bytes of an image (path, PIL image or array), at most `size` pixels a side.

    `index` is what an error message calls an image that cannot be read.
    """
    picture = to_rgb(image, index)
    if max(picture.size) > size:
        picture = picture.copy()  # to_rgb may hand back the caller's own image
        picture.thumbnail((size, size))
    buffer = io.BytesIO()
    picture.save(buffer, format="JPEG", quality=88)
    return buffer.getvalue()
