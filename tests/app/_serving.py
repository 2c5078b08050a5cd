"""What tests with a running server share."""

import socket

import pytest

# Warnings of Gradio about itself, in the threads of its server, where we cannot mend them.
GRADIO_NOISE = [
    pytest.mark.filterwarnings(text)
    for text in (
        # Its statistics of requests, with a newer pandas.
        "ignore:'future.no_silent_downcasting' is deprecated",
        "ignore:The copy keyword is deprecated",
        # A port that it tried.
        "ignore:unclosed <socket:ResourceWarning",
    )
]


def free_port():
    """A port that other processes of the tests do not try, too."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
