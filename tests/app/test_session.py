"""What a visitor's session keeps, and how failures are said."""

import gc
import threading
from types import SimpleNamespace

import pytest

from semi_nmf_concepts.app import _jobs
from semi_nmf_concepts.app._session import MAX_ANSWERS, MAX_RESULTS, Session


def answer(text="a dog"):
    return SimpleNamespace(answer=text)


def test_few_answers_are_kept_with_what_belongs_to_them():
    session = Session()
    for i in range(MAX_ANSWERS + 2):
        assert session.add(answer(f"answer {i} " + "long " * 30)) == i + 1
        session.patches[i + 1] = [3]
        session.once(i + 1, "relevancy", lambda i=i: i)
    assert [number for _, number in session.choices()] == [6, 5, 4, 3]
    assert all(len(label) < 70 for label, _ in session.choices())
    assert set(session.patches) == {3, 4, 5, 6}
    assert {number for number, _ in session.results} == {3, 4, 5, 6}
    with pytest.raises(ValueError, match="no longer kept"):
        session.trace(1)
    with pytest.raises(ValueError, match="ask something first"):
        Session().trace(None)


def test_results_are_computed_once_and_bounded():
    session, counts = Session(), []
    number = session.add(answer())
    for i in (0, 0, *range(MAX_RESULTS + 1), 0):
        session.once(number, i, lambda i=i: counts.append(i) or str(i))
    assert counts == [*range(MAX_RESULTS + 1), 0]
    assert len(session.results) == MAX_RESULTS


def test_files_of_a_session_go_with_it():
    session = Session()
    folder = session.folder
    (folder / "answer.html").write_text("page")
    assert session.folder == folder
    del session
    gc.collect()
    assert not folder.exists()


def test_reasons_are_text_and_faults_do_not_leak(gradio, capsys):
    def fails(error):
        def handler():
            raise error

        with pytest.raises(gradio.Error) as caught:
            _jobs.reported(handler)()
        return caught.value.message

    assert fails(ValueError("no\nimage <b>")) == "no image &lt;b&gt;"
    assert fails(OSError(28, "No space left", "/srv/a b/c/x.png")).endswith(
        "No space left: &#x27;x.png&#x27;"
    )
    assert fails(ValueError("in /srv/models/x (C:\\a\\b.png), 1/2 of a/b / c")) == (
        "in x (b.png), 1/2 of a/b / c"
    )
    assert "not enough memory" in fails(RuntimeError("CUDA out of memory. Tried ..."))
    assert "Traceback" not in capsys.readouterr().err
    assert "KeyError" in fails(KeyError("secret")) and "secret" not in fails(KeyError("secret"))
    assert "Traceback" in capsys.readouterr().err


def test_jobs_run_one_at_a_time():
    running, most, gate = [], [], threading.Barrier(3)

    @_jobs.alone
    def job():
        running.append(1)
        most.append(len(running))
        threading.Event().wait(0.05)
        running.pop()

    def visitor():
        gate.wait()
        job()

    threads = [threading.Thread(target=visitor) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1, 1, 1]
