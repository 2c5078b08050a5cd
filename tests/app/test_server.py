"""Who may reach the app, and what it sends where."""

import gc
import socket
import sys
import urllib.error
import urllib.request
import warnings

import pytest

from semi_nmf_concepts.app import _server, build_app, launch
from tests.app._serving import GRADIO_NOISE, free_port

pytestmark = GRADIO_NOISE
SECRET = "correct horse"


@pytest.fixture
def served():
    """Start servers that end with the test."""
    apps = []

    def serve(**options):
        apps.append(launch(n_examples=0, block=False, port=free_port(), **options))
        return apps[-1]

    yield serve
    for app in apps:
        app.close(verbose=False)


def upload(app, n_bytes):
    """Send a file of so many bytes."""
    head = b'--edge\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n'
    body = head + bytes(n_bytes) + b"\r\n--edge--\r\n"
    kind = {"Content-Type": "multipart/form-data; boundary=edge"}
    return get(urllib.request.Request(app.local_url + "gradio_api/upload", body, kind))


def get(request):
    """Status and headers of the answer to an address or a request."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=20) as answer:
            return answer.status, answer.headers
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers


def reaches(host, port):
    with socket.socket() as probe:
        probe.settimeout(5)
        return probe.connect_ex((host, port)) == 0


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have one loopback address")
def test_only_the_loopback_address_is_listened_to(served):
    app = served()
    assert app.local_url.startswith("http://127.0.0.1:")
    assert app.share_url is None
    assert reaches("127.0.0.1", app.server_port)
    # Of the same computer, but another address: a server on all addresses would answer.
    assert not reaches("127.0.0.2", app.server_port)


def test_pages_may_not_send_anything_elsewhere(served):
    app = served()
    assert app.analytics_enabled is False
    status, headers = get(app.local_url)
    policy = headers["content-security-policy"]
    assert status == 200 and "default-src 'self'" in policy and "http" not in policy


def test_files_of_the_computer_are_not_given_out(served):
    app = served()
    for path in ("/etc/hostname", "constraints.txt", "pyproject.toml"):
        assert get(f"{app.local_url}gradio_api/file={path}")[0] == 403


def test_uploads_are_limited(served):
    app = served(max_upload=0.01)
    assert upload(app, 9_000)[0] == 200
    assert upload(app, 11_000)[0] == 413


@pytest.mark.parametrize("source", ["argument", "variable"])
def test_nothing_without_the_password(served, monkeypatch, source):
    if source == "variable":
        monkeypatch.setenv(_server.AUTH_VARIABLE, f"ada:{SECRET}")
    app = served(auth=f"ada:{SECRET}" if source == "argument" else None)
    for path in ("config", "gradio_api/info", "gradio_api/file=constraints.txt"):
        assert get(app.local_url + path)[0] == 401
    assert get(app.local_url + "theme.css")[0] == 200  # what the login page needs


def test_a_warning_where_everybody_could_enter(monkeypatch):
    monkeypatch.setattr(_server, "_start", lambda *args, **options: None)
    with pytest.warns(UserWarning, match=r"listens on 0\.0\.0\.0 and asks for no password"):
        launch(host="0.0.0.0", block=False, n_examples=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        launch(host="0.0.0.0", auth=("ada", SECRET), block=False, n_examples=0)
        launch(host="::1", block=False, n_examples=0)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"share": True}, "share must be False"),
        ({"auth": SECRET}, "auth must be 'user:password'"),
        ({"auth": f":{SECRET}"}, "auth must be 'user:password'"),
        ({"auth": ("ada",)}, "auth must be 'user:password'"),
        ({"max_upload": 0}, "max_upload must be a number of megabytes"),
        ({"max_upload": True}, "max_upload must be a number of megabytes"),
        ({"port": 70000}, "port must be from 1 to 65535"),
        ({"max_new_tokens": 0}, "max_new_tokens must be an integer from 1 to 512"),
        ({"n_examples": -1}, "n_examples must be an integer from 0"),
    ],
)
def test_wrong_arguments(options, message):
    with pytest.raises(ValueError, match=message) as caught:
        launch(block=False, **options)
    assert SECRET not in str(caught.value)


def test_a_port_that_is_taken():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match=f"port {port} is taken"):
            launch(port=port, block=False, n_examples=0)
    gc.collect()  # what Gradio leaves open, while its warnings are left out


def test_concepts_that_are_none(tmp_path):
    with pytest.raises(FileNotFoundError, match=tmp_path.name):
        build_app(concepts=tmp_path)


def test_without_gradio_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(ImportError, match=r"semi_nmf_concepts\[app\]"):
        build_app()


def test_ctrl_c_ends_the_server(served, monkeypatch, capsys):
    app = served()

    def interrupt(seconds):
        raise KeyboardInterrupt

    monkeypatch.setattr(_server.time, "sleep", interrupt)
    _server._serve(app)
    monkeypatch.undo()
    assert app.local_url in capsys.readouterr().err
    assert not app.is_running and not reaches("127.0.0.1", app.server_port)
