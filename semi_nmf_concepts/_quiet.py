"""Loading and running transformers models without their notices."""

import contextlib
import logging
import warnings


@contextlib.contextmanager
def quiet_transformers():
    """Import transformers and hide its notices and progress bars for the time of the block."""
    try:
        import transformers  # noqa: F401
        from transformers.utils import logging as hf_logging
    except Exception as error:
        if "torchvision" in str(error):
            raise ImportError(
                "transformers cannot be imported because the installed torchvision does not match "
                "the installed torch: install the matching build (see pytorch.org/get-started) or "
                "uninstall torchvision, which most models do not need."
            ) from error
        raise
    level, bars = hf_logging.get_verbosity(), hf_logging.is_progress_bar_enabled()
    hub = logging.getLogger("huggingface_hub")
    hub_level = hub.level
    hf_logging.set_verbosity_error()
    hf_logging.disable_progress_bar()
    hub.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"(transformers|huggingface_hub)\b")
            yield
    finally:
        hf_logging.set_verbosity(level)
        if bars:
            hf_logging.enable_progress_bar()
        hub.setLevel(hub_level)
