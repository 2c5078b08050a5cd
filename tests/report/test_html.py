"""The page as text: complete, escaped, self-contained, well-formed, deterministic."""

import base64
import hashlib
import re
from dataclasses import replace
from html import unescape
from html.parser import HTMLParser

import numpy as np
import pytest

from semi_nmf_concepts.report import render_html, write_html
from tests._example_report import example_report

_VOID = {"meta", "link", "input", "img", "br", "hr"}


class Page(HTMLParser):
    """Collects elements, attributes and texts of a page, and whether its tags are balanced."""

    def __init__(self, html):
        super().__init__(convert_charrefs=True)
        self.elements, self.text, self.raw, self._open = [], [], {}, []
        self.feed(html)
        self.close()
        assert not self._open, f"never closed: {self._open}"

    def handle_starttag(self, tag, attrs):
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), f"repeated attribute in <{tag} {attrs}>"
        self.elements.append((tag, dict(attrs)))
        if tag not in _VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self._open and self._open[-1] == tag, f"</{tag}> closes {self._open[-3:]}"
        self._open.pop()

    def handle_data(self, data):
        inside = self._open[-1] if self._open else ""
        if inside in ("style", "script"):
            self.raw[inside] = self.raw.get(inside, "") + data
        else:
            self.text.append(data)

    def all(self, tag, **wanted):
        return [
            attrs
            for name, attrs in self.elements
            if name == tag and all(attrs.get(key) == value for key, value in wanted.items())
        ]

    def values(self, attribute):
        return [attrs[attribute] for _, attrs in self.elements if attribute in attrs]

    @property
    def content(self):
        return " ".join(" ".join(self.text).split())


def one_line(text):
    return " ".join(text.split())


@pytest.fixture(scope="module")
def report():
    return example_report()


@pytest.fixture(scope="module")
def html(report):
    return render_html(report)


@pytest.fixture(scope="module")
def page(html):
    return Page(html)


def test_every_concept_is_there_with_its_words_images_and_captions(report, page):
    cards = [attrs for tag, attrs in page.elements if tag == "article" and "data-index" in attrs]
    assert [int(card["data-index"]) for card in cards] == list(range(20))
    captions = dict(zip(report.samples.indices, report.samples.captions, strict=True))
    labels = page.values("aria-label")
    for concept, card in zip(report.concepts, cards, strict=True):
        assert float(card["data-share"]) == pytest.approx(concept.share, abs=1e-6)
        for word in concept.words:
            assert one_line(word) in page.content
            assert one_line(word).lower() in card["data-text"]
        for index in concept.image_indices:
            if captions[index].isascii():
                assert any(label.startswith(one_line(captions[index])) for label in labels)


def test_every_local_sample_is_there(report, page):
    for i in range(report.n_local):
        (_,) = page.all("article", id=f"sample-{i}")
        if report.local_samples.captions[i].isascii():
            assert one_line(report.local_samples.captions[i]) in page.content
    assert "Known factors" in page.content


def test_numbers_that_a_reader_looks_for(report, page):
    for text in ("200", "kept of 237 seen", "0.73", "0.70 on test images", "0.21", "0.78"):
        assert text in page.content
    assert "some/<model> & co" in page.content
    assert "model.language_model.layers.3" in page.content
    assert "2.13.0" in page.content  # a version
    assert "SemiNMFConcepts" in page.content
    assert "fewer than 15 positives" in page.content
    assert "kept of 237 seen; dropped: 30 not generated, 7 not in reference" in page.content
    for text in ("fitted on the kept training images", "min_positives", "n_local", "n_images"):
        assert text in page.content
    assert "1 more concept: " in page.content or " more concepts: " in page.content


def test_factor_table_lists_every_value(report, page):
    for entry in report.factor_table:
        assert entry["value"] in page.content
        assert f"{entry['auroc']:.2f}" in page.content


def test_strings_of_the_report_make_no_markup(html, page):
    assert len(page.all("script")) == 1
    assert not page.all("img") and not page.all("i", onerror="alert(1)")
    assert not [name for _, attrs in page.elements for name in attrs if name.startswith("on")]
    assert "alert('x')" in page.content  # shown, not run
    assert "<script>alert" not in html
    assert "49" not in [one_line(text) for text in page.text]  # "{{ 7 * 7 }}" is not evaluated
    assert "{{ 7 * 7 }}" in page.content


def test_text_direction_cannot_be_overridden(html):
    assert not re.search("[\u202a-\u202e\u2066-\u2069\x00-\x08]", html)


def test_nothing_points_outside(html, page):
    for attribute in ("src", "href", "srcset", "action", "data", "poster", "xlink:href"):
        for value in page.values(attribute):
            assert value.startswith(("#", "data:image/"))
    assert "url(" not in page.raw["style"] and "@import" not in page.raw["style"]
    assert not re.search(r"fetch\(|XMLHttpRequest|import\(|innerHTML|eval\(", page.raw["script"])
    assert not re.search(r"https?://", re.sub(r"base64,[\w+/=]+", "", html))


def test_policy_admits_exactly_the_inlined_style_and_script(page):
    (policy,) = [attrs["content"] for attrs in page.all("meta") if "http-equiv" in attrs]
    for kind in ("style", "script"):
        digest = base64.b64encode(hashlib.sha256(page.raw[kind].encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none'; img-src data:;")
    assert "unsafe" not in policy
    # Inline style attributes would be refused by the policy.
    assert not page.values("style")


def test_references_inside_the_page_resolve(page):
    ids = page.values("id")
    assert len(ids) == len(set(ids))
    targets = [value for value in page.values("href") if value.startswith("#")]
    for name in ("aria-labelledby", "aria-controls", "for"):
        targets += ["#" + value for value in page.values(name)]
    assert {target[1:] for target in targets} <= set(ids)


def test_controls_and_pictures_have_names(page):
    assert page.all("html", lang="en")
    for attrs in page.all("button"):
        assert attrs.get("aria-label") or attrs["id"] == "clear"
    for tag, attrs in page.elements:
        if attrs.get("role") in ("img", "region"):
            assert attrs["aria-label"], (tag, attrs)
    heads = [int(tag[1]) for tag, _ in page.elements if re.fullmatch("h[1-6]", tag)]
    assert heads.count(1) == 1
    assert all(b - a <= 1 for a, b in zip(heads, heads[1:], strict=False))


def test_each_picture_is_stored_once(report, html):
    shown = {("train", i) for concept in report.concepts for i in concept.image_indices}
    shown |= {("local", i) for i in range(report.n_local)}
    assert html.count("data:image/jpeg;base64,") == len(shown)
    assert len(html) < 3_000_000


def test_same_report_gives_the_same_page(html):
    assert render_html(example_report()) == html


@pytest.mark.parametrize(
    "changes",
    [
        {"factor_table": None, "left_out": []},
        {"factor_table": []},
        {"settings": {}, "provenance": {}},
        {"thumbnails": {}},
    ],
    ids=["no factors", "no factor measured", "nothing recorded", "no pictures"],
)
def test_parts_that_are_missing(report, changes):
    page = Page(render_html(replace(report, **changes)))
    assert len([1 for tag, attrs in page.elements if "data-index" in attrs]) == 20
    assert "None" not in page.content and "nan" not in page.content.split()
    if changes.get("factor_table", 1) is None:
        assert not page.all("section", id="factors")
        assert not page.all("a", href="#factors")


def test_a_report_without_factors():
    page = Page(render_html(example_report(n_concepts=4, with_factors=False)))
    assert "Known factors" not in page.content
    assert "AUROC" not in page.content
    assert not page.all("option", value="auroc")


def test_no_local_samples(report):
    empty = replace(
        report,
        local_samples=report.local_samples.take([]),
        local_activations=report.local_activations[:0],
    )
    page = Page(render_html(empty))
    assert not page.all("section", id="samples") and not page.all("a", href="#samples")


def test_samples_without_captions_factors_or_active_concepts(report):
    local = report.local_samples
    bare = replace(
        report,
        local_samples=replace(
            local,
            captions=[None] * len(local),
            references=[[]] * len(local),
            factors=None,
        ),
        local_activations=np.zeros_like(report.local_activations),
    )
    page = Page(render_html(bare))
    assert "no caption" in page.content
    assert "No concept is active on this image." in page.content
    assert not page.all("details")


def test_a_dead_concept_says_so(page):
    assert "Not active on any of the 200 images." in page.content
    assert "No token that it promotes passed the word filter." in page.content


def test_signed_activations(report):
    """PCA has activations of both signs; the histogram then shows all of them."""
    values = np.linspace(-3, 2, len(report.samples), dtype=np.float32)
    concepts = [replace(report.concepts[0], activation=values), *report.concepts[1:]]
    settings = report.settings | {"decomposer": "PCAConcepts"}
    html = render_html(replace(report, concepts=concepts, settings=settings))
    assert f"Histogram of {len(values)} activations, from −3 to 2" in html
    assert "signed scores" in html and "<math" not in html


@pytest.mark.parametrize(
    ("decomposer", "text"),
    [("KMeansConcepts", "K-means"), ("SimpleConcepts", "one image"), ("NMF", "NMF")],
)
def test_other_decomposers_are_named(report, decomposer, text):
    html = render_html(replace(report, settings=report.settings | {"decomposer": decomposer}))
    assert text in html and "<math" not in html


@pytest.mark.parametrize(
    ("model", "shown"),
    [
        ("bundled", "the bundled model"),
        ("maker/model-7b", "maker/model-7b"),
        ("/home/someone/private/my-model", "my-model"),
        ("C:\\models\\my-model", "my-model"),
    ],
)
def test_a_model_is_named_without_its_folder(report, model, shown):
    html = render_html(replace(report, provenance={"model": model}))
    assert f'<strong class="name">{shown}</strong>' in html


def test_other_positions_and_layers_are_described(report):
    settings = report.settings | {"token": None, "position": "last", "layer": 2}
    content = Page(render_html(replace(report, settings=settings))).content
    assert "the output of decoder block 2 at the last position of the prompt" in content
    assert "behind the word" not in content


def test_strings_that_are_not_unicode_text(report, tmp_path):
    """A lone surrogate, as in a file name that is not UTF-8, must not stop the page."""
    odd = replace(report, provenance=report.provenance | {"model": "bad\udcff\x00name"})
    write_html(odd, tmp_path / "page.html")
    assert "bad\ufffd\ufffdname" in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_script_and_quotes_in_every_field(report):
    """Poison all strings of the report; no element or attribute may appear that was not there."""
    poison = "</script></style><img src=x onerror=alert(1)>'\"`${1}<!--"

    def poisoned(value):
        if isinstance(value, str):
            return value + poison
        if isinstance(value, dict):
            return {poisoned(k) if k not in keys else k: poisoned(v) for k, v in value.items()}
        return [poisoned(item) for item in value] if isinstance(value, list) else value

    keys = {*report.settings, *report.provenance, *report.factor_table[0], *report.left_out[0]}
    samples = {
        name: replace(
            getattr(report, name),
            captions=poisoned(getattr(report, name).captions),
            references=poisoned(getattr(report, name).references),
            factors=poisoned(getattr(report, name).factors),
        )
        for name in ("samples", "local_samples")
    }
    bad = replace(
        report,
        **samples,
        concepts=[
            replace(c, words=poisoned(c.words), factors=poisoned(c.factors))
            for c in report.concepts
        ],
        settings=poisoned(report.settings),
        provenance=poisoned(report.provenance),
        factor_table=poisoned(report.factor_table),
        left_out=poisoned(report.left_out),
    )
    html = render_html(bad)
    page = Page(html)
    assert not page.all("img") and len(page.all("script")) == 1 == len(page.all("style"))
    assert not [name for _, attrs in page.elements for name in attrs if name.startswith("on")]
    assert poison in unescape(html)


def test_write(report, html, tmp_path):
    path = tmp_path / "new" / "page.html"
    write_html(report, path)
    assert path.read_bytes().decode() == html
    assert [p.name for p in path.parent.iterdir()] == ["page.html"]
    report.to_html(str(path))
    assert path.read_bytes().decode() == html


def test_a_failure_keeps_the_old_page_and_leaves_no_rest(report, tmp_path, monkeypatch):
    path = tmp_path / "page.html"
    path.write_text("old")

    def full(*args):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("os.replace", full)
        with pytest.raises(OSError, match=r"No space left") as error:
            write_html(report, path)
    assert str(path) in str(error.value)
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["page.html"]
    with pytest.raises(TypeError):
        write_html(replace(report, concepts=None), path)
    assert path.read_text() == "old"


def test_a_folder_that_cannot_be_written_is_named(report, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(OSError, match="cannot write") as error:
        write_html(report, tmp_path / "file" / "page.html")
    assert "page.html" in str(error.value)
    with pytest.raises(OSError, match="cannot write"):
        write_html(report, tmp_path)
