"""Serving the app: where it listens, who may enter, how much they may upload."""

import ipaddress
import os
import sys
import time
import warnings
from numbers import Real

from .._messages import callers_level
from ._jobs import in_event_loop

AUTH_VARIABLE = "SEMI_NMF_CONCEPTS_APP_AUTH"
_MAX_SESSIONS = 16  # visitors whose answers are kept; of more, those longest away are forgotten
_MAX_WAITING = 20  # jobs in the queue
# Whatever a page of Gradio holds, browsers send and fetch nothing elsewhere.
_POLICY = (
    "default-src 'self' data: blob: 'unsafe-inline' 'unsafe-eval'; "
    "object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'self'"
)


def launch(
    model="bundled",
    *,
    concepts=None,
    host="127.0.0.1",
    port=None,
    auth=None,
    max_upload=20,
    share=False,
    block=True,
    **options,
):
    """Serve the app until it is interrupted.

    Parameters
    ----------
    model, concepts, **options
        As :func:`build_app` takes them.
    host : str, default="127.0.0.1"
        Address to listen on. The default is reached from this computer alone; with any other, all
        who reach the computer can use the app: then set `auth`, or it warns.
    port : int, default=None
        None: the first free one from 7860 on.
    auth : str or tuple of (str, str), default=None
        "user:password" that visitors have to give. None: what the environment variable
        SEMI_NMF_CONCEPTS_APP_AUTH holds, if it is set, so that the password need not stand in a
        command; otherwise nothing is asked. The connection is not encrypted.
    max_upload : float, default=20
        Megabytes of a file that is uploaded, at most.
    share : bool, default=False
        Only False: images and answers never go through somebody's public tunnel.
    block : bool, default=True
        Whether to return only when the server ends. False: it runs in threads of the process, and
        the caller ends it with ``close()``.

    Returns
    -------
    gradio.Blocks
        Its ``local_url`` is where it listens.

    Raises
    ------
    ImportError
        Without Gradio (extra ``app``).
    ValueError
        If an argument is not one of the above.
    OSError
        If the port, or every port from 7860 to 7959, is taken.

    Examples
    --------
    >>> from semi_nmf_concepts.app import launch
    >>> launch("bundled", port=7860)  # doctest: +SKIP
    """
    if share:
        raise ValueError("share must be False: the app is never opened through a public tunnel.")
    if isinstance(max_upload, bool) or not isinstance(max_upload, Real) or not max_upload > 0:
        raise ValueError(f"max_upload must be a number of megabytes above 0, got {max_upload!r}.")
    if port is not None and not 0 < port < 65536:
        raise ValueError(f"port must be from 1 to 65535 or None, got {port!r}.")
    auth = _credentials(auth)
    if auth is None and not _is_loopback(host):
        warnings.warn(
            f"The app listens on {host} and asks for no password: whoever reaches this computer "
            "can use it. Set auth (--auth-file).",
            UserWarning,
            stacklevel=callers_level(),
        )
    from semi_nmf_concepts.lmm import load_model

    from ._layout import app_style, build_app

    handle = load_model(model)
    app = build_app(handle, concepts=concepts, **options)
    _ = handle.loaded  # now, and not for the first visitor; and if it cannot be read, this says so
    limit = round(max_upload * 1_000_000)
    try:
        _start(app, host, port, auth=auth, max_file_size=limit, **app_style())
    except OSError as error:
        wanted = "every port from 7860 to 7959" if port is None else f"port {port}"
        raise OSError(
            f"The app cannot listen on {host}: {wanted} is taken, or the address is not one of "
            "this computer. Choose others (--host, --port)."
        ) from error
    if block:
        _serve(app)
    return app


@in_event_loop
def _start(app, host, port, **options):
    """Serve in threads: without a tunnel, reports, monitoring and whatever else goes further."""
    from starlette.middleware import Middleware

    app.queue(max_size=_MAX_WAITING, default_concurrency_limit=1, api_open=False)
    app.launch(
        server_name=host,
        server_port=port,
        state_session_capacity=_MAX_SESSIONS,
        prevent_thread_lock=True,
        share=False,
        quiet=True,
        ssr_mode=False,
        pwa=False,
        mcp_server=False,
        enable_monitoring=False,
        run_history=False,
        show_error=False,
        footer_links=[],
        app_kwargs={"middleware": [Middleware(_StaysHere)]},
        **options,
    )


def _serve(app):
    """Wait until the user interrupts, which is how a server ends."""
    print(f"The app is at {app.local_url} (Ctrl-C ends it).", file=sys.stderr, flush=True)
    try:
        while app.is_running:
            time.sleep(0.2)
    except KeyboardInterrupt:
        pass
    finally:
        app.close(verbose=False)


class _StaysHere:
    """ASGI middleware that sends a content security policy with every page."""

    def __init__(self, app):
        self.app = app

    async def __call__(self, scope, receive, send):
        async def with_policy(message):
            if message["type"] == "http.response.start":
                header = (b"content-security-policy", _POLICY.encode())
                message = message | {"headers": [*message.get("headers", []), header]}
            await send(message)

        await self.app(scope, receive, with_policy if scope["type"] == "http" else send)


def _credentials(auth):
    """(user, password) or None."""
    source = "auth"
    if auth is None:
        auth = os.environ.get(AUTH_VARIABLE)
        source = f"the environment variable {AUTH_VARIABLE}"
        if not auth:
            return None
    if isinstance(auth, str):
        auth = tuple(auth.strip().partition(":")[::2])
    valid = isinstance(auth, tuple) and len(auth) == 2
    if not (valid and all(isinstance(part, str) and part for part in auth)):
        # What came is not repeated: it may hold a password.
        raise ValueError(f"{source} must be 'user:password', both of them not empty.")
    return auth


def _is_loopback(host):
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
