"""The app in a real browser, on the bundled model."""

import gc
import io
import json
import re
from dataclasses import replace

import pytest
from PIL import Image

from semi_nmf_concepts.app import launch
from tests.app._serving import GRADIO_NOISE, free_port

pytestmark = [pytest.mark.slow, *GRADIO_NOISE]
# Of names, questions and words: none of it may come to life.
EVIL = '<img src=x onerror="console.error(1)"> & <b>bold</b> [x](javascript:alert(1)) ${1}'


@pytest.fixture(scope="module")
def server(report):
    """The app with concepts of "dog", one of which has a word that is HTML."""
    concepts = [replace(concept, words=[EVIL, *concept.words[1:]]) for concept in report.concepts]
    report = replace(report, concepts=concepts)
    app = launch(concepts=report, n_examples=4, block=False, port=free_port())
    yield app
    app.close(verbose=False)
    gc.collect()  # what Gradio leaves open, while its warnings are left out


@pytest.fixture
def app(server, page):
    """A fresh visitor."""
    page.goto(server.local_url)
    page.locator("#ask").wait_for()
    return Visitor(page)


class Visitor:
    """What people do with the app."""

    def __init__(self, page):
        from playwright.sync_api import expect

        self.page, self.expect = page, expect
        expect.set_options(timeout=20_000)

    def sees(self, where, text):
        """Wait until a part of the page holds a text (or a pattern)."""
        self.expect(self.page.locator(where).first).to_contain_text(text)

    def sees_picture(self, where):
        """Wait for a picture, and return its address."""
        picture = self.page.locator(f"{where} img").first
        self.expect(picture).to_be_visible()
        return picture.get_attribute("src")

    def sees_reason(self, text):
        """Wait for an error's message, and close it."""
        self.sees(".toast-body", text)
        self.page.locator(".toast-close").first.click()
        self.expect(self.page.locator(".toast-body")).to_have_count(0)

    def opens(self, tab):
        self.page.get_by_role("tab", name=tab, exact=True).click()

    def nothing_came_to_life(self):
        for forbidden in ("img[src=x]", "#talk b", ".lines b", "a[href^=javascript]"):
            assert self.page.locator(forbidden).count() == 0, forbidden

    def takes_example(self):
        self.page.locator("#examples button").first.click()
        self.sees_picture("#image")

    def asks(self, question=""):
        """Ask, and wait for the answer; return it."""
        self.page.locator("#question textarea, #question input").fill(question)
        answers = self.page.locator("#talk .bot")
        n_before = answers.count()
        self.page.locator("#ask").click()
        self.expect(answers).to_have_count(n_before + 1)
        self.expect(self.page.locator("#words label").nth(1)).to_be_attached()
        return answers.last.inner_text()


def test_an_answer_its_words_and_patches(app):
    page = app.page
    app.takes_example()
    answer = app.asks()
    assert len(answer.split()) > 4
    app.sees_picture("#strip")
    whole = app.sees_picture("#patches")
    app.sees("#masses", "while writing the answer")

    word = answer.split()[1]
    page.locator("#words label").nth(1).click()
    app.sees("#masses", f"while writing “{word}”")
    app.expect(page.locator("#patches img")).not_to_have_attribute("src", whole)
    page.locator("#strip button").nth(2).click()
    app.expect(page.locator("#head input")).to_have_value(re.compile(r"^\d$"))

    app.opens("Words")
    app.sees("#chips", "No patch is chosen")
    page.locator("#clickable img").click(position={"x": 60, "y": 60})
    app.expect(page.locator("#chips .chip")).to_have_count(len(answer.split()))
    page.locator("#no-patches").click()
    app.sees("#chips", "No patch is chosen")

    app.opens("Heads")
    image = app.sees_picture("#heads")
    page.locator("#heads-to").get_by_text("question to answer").click()
    app.expect(page.locator("#heads img")).not_to_have_attribute("src", image)


def test_the_model_is_shown_the_crop(app):
    page = app.page
    app.takes_example()
    page.get_by_role("button", name="Crop").click()
    box = page.locator("#image img").bounding_box()
    middle = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    for x, y in ((-56, -28), (56, 28)):  # opposite corners; the scene is shown in its own size
        page.mouse.click(middle[0] + x, middle[1] + y)
    source = app.sees_picture("#preview")
    with Image.open(io.BytesIO(page.request.get(source).body())) as preview:
        width, height = preview.size
    assert abs(width - 112) <= 4 and abs(height - 56) <= 4
    app.asks()
    asked = page.locator("#talk .user img").last
    app.expect(asked).to_be_visible()
    shape = asked.evaluate("i => [i.naturalWidth, i.naturalHeight]")
    assert shape == [192, round(192 * height / width)]


def test_views_that_run_the_model_again(app):
    page = app.page
    app.takes_example()
    answer = app.asks()
    page.locator("#words label").nth(1).click()
    app.opens("Relevancy")
    app.expect(page.locator("#relevancy-word input")).to_have_value(answer.split()[1])
    page.locator("#show-relevancy").click()
    app.sees("#shares", f"Relevancy for “{answer.split()[1]}”")
    app.sees("#shares", re.compile(r"\d+% in the image"))
    picture = app.sees_picture("#relevancy")
    page.locator("#through").get_by_text("both").click()
    app.expect(page.locator("#relevancy img")).not_to_have_attribute("src", picture)
    picture = app.sees_picture("#relevancy")
    opacity = page.locator("#opacity input[type=range]")
    opacity.focus()
    opacity.press("ArrowLeft")
    opacity.dispatch_event("pointerup")
    app.expect(page.locator("#relevancy img")).not_to_have_attribute("src", picture)

    app.opens("Causal")
    page.locator("#show-graph").click()
    app.sees_picture("#graph")
    app.sees("#explanation", "radius")
    app.sees("#explained-by", re.compile("patches and words explain|Try another head"))
    page.locator("#alpha input").fill("0.9")
    page.locator("#show-graph").click()
    app.sees("#explained-by", "within radius 3")
    radius = page.locator("#radius input[type=range]")
    radius.focus()
    radius.press("ArrowLeft")
    radius.dispatch_event("pointerup")
    app.sees("#explained-by", "within radius 2")
    page.locator("#alpha input").fill("1e-9")
    page.locator("#show-graph").click()
    app.sees("#explained-by", "Try another head")
    radius.focus()
    radius.press("ArrowLeft")
    radius.dispatch_event("pointerup")
    app.sees("#explained-by", "Try another head")
    page.locator("#alpha input").fill("2")
    page.locator("#show-graph").click()
    app.sees_reason("alpha")

    app.opens("Faithfulness")
    page.locator("#show-curves").click()
    app.sees_picture("#curves")
    app.sees("#areas", "deletion")


def test_concepts_and_the_answer_without_one(app):
    page = app.page
    app.opens("Concepts")
    page.locator("#show-concepts").click()
    app.sees_reason("There is no answer to look into yet")
    app.takes_example()
    answer = app.asks()
    page.locator("#show-concepts").click()
    app.sees_picture("#activations")
    app.sees("#explained", "of the state that wrote")
    app.sees("#concept-words .chip", EVIL)
    app.sees("#active-concepts", EVIL)
    app.nothing_came_to_life()
    app.sees_picture("#concept-map")
    page.locator("#ablate").click()
    app.sees("#ablation", f"Before: {answer}")
    app.sees("#ablation", "After: ")


def test_comparison_and_files(app, tmp_path):
    page = app.page
    app.takes_example()
    answer = app.asks()
    app.opens("Compare")
    page.locator("#compare").click()
    app.sees_reason("There is no image")
    page.locator("#take").click()
    app.sees_picture("#second-image")
    page.locator("#compare").click()
    app.sees("#comparison", answer)
    assert page.locator("#comparison").get_by_text(answer, exact=True).count() >= 2

    app.opens("Export")
    page.locator("#parts").get_by_text("concepts").click()
    page.locator("#write").click()
    app.sees("#files", "answer")
    with page.expect_download() as download:
        page.locator("#files a", has_text=re.compile("KB|B")).nth(1).click()
    download.value.save_as(tmp_path / "answer.json")
    assert answer in json.dumps(json.loads((tmp_path / "answer.json").read_text()))


def test_a_failing_request_says_why_and_the_next_one_works(app, tmp_path):
    page = app.page
    page.locator("#ask").click()
    app.sees_reason("There is no image: upload one, or choose an example.")
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    page.locator("#image input[type=file]").set_input_files(broken)
    app.sees(".toast-body", "broken.png")  # before anything is asked
    assert "/" not in page.locator(".toast-body").first.inner_text()
    page.reload()
    page.locator("#ask").wait_for()
    app.takes_example()
    assert app.asks("what is it?")


def test_html_in_names_questions_and_errors_stays_text(app, scenes, tmp_path):
    page = app.page
    path = tmp_path / f"{EVIL.replace('/', '')}.png"
    scenes.images[0].save(path)
    page.locator("#image input[type=file]").set_input_files(path)
    app.sees_picture("#image")
    app.asks(EVIL)
    app.sees("#talk .user", "x")
    assert EVIL in page.locator("#talk").inner_text()
    app.nothing_came_to_life()


def test_two_visitors_do_not_see_each_other(app, browser, server):
    app.takes_example()
    app.asks()
    context = browser.new_context()
    other = context.new_page()
    other.goto(server.local_url)
    other.locator("#ask").wait_for()
    assert other.locator("#talk .bot").count() == 0
    other.get_by_role("tab", name="Relevancy", exact=True).click()
    other.locator("#show-relevancy").click()
    app.expect(other.locator(".toast-body")).to_contain_text("There is no answer")
    context.close()


def test_the_login_page(page):
    def enter(password):  # a failure empties both fields
        page.get_by_label("username").fill("ada")
        page.get_by_label("password").fill(password)
        page.get_by_role("button", name="Login").click()

    app = launch(auth="ada:correct horse", n_examples=0, block=False, port=free_port())
    try:
        page.goto(app.local_url)
        enter("wrong")
        page.get_by_text("Incorrect credentials").wait_for()
        assert page.locator("#ask").count() == 0
        enter("correct horse")
        page.locator("#ask").wait_for()
    finally:
        page.goto("about:blank")  # it would complain about the end of the server
        app.close(verbose=False)
    # What the browser logs of the answers to strangers.
    assert all(re.search(r"status of 40[01]", text) for text in page.complaints), page.complaints
    page.complaints.clear()
