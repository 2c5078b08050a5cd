"""Where the bundled model lies."""

from __future__ import annotations

from pathlib import Path

MODEL_FOLDER = Path(__file__).parent / "data" / "model"


def bundled_model_path() -> Path:
    """Folder of the bundled vision-language model.

    A LLaVA-format model of about three million parameters, trained from scratch on the bundled
    training scenes; it loads with ``AutoModelForImageTextToText`` and ``AutoProcessor``.

    Returns
    -------
    pathlib.Path

    Raises
    ------
    FileNotFoundError
        If the package was installed without its data.

    Examples
    --------
    >>> from semi_nmf_concepts.datasets import bundled_model_path
    >>> (bundled_model_path() / "config.json").is_file()
    True
    """
    if not (MODEL_FOLDER / "config.json").is_file():
        raise FileNotFoundError(
            f"The bundled model is missing from {MODEL_FOLDER}: install the package from a wheel "
            "or a full checkout."
        )
    return MODEL_FOLDER
