"""Scales, colours and overlays of maps over images."""

import numpy as np
import pytest
from PIL import Image

from semi_nmf_concepts.report import overlay, scaled
from semi_nmf_concepts.report._answer_drawing import COLOURS, colour_table, patch_picture
from semi_nmf_concepts.report._answer_layout import NODE, arrange, lay_out, points_of


@pytest.fixture
def grey():
    return Image.new("RGB", (40, 20), (128, 128, 128))


@pytest.mark.parametrize("scale", ["linear", "sqrt", "log"])
def test_scales_rise_from_0_to_1_and_keep_the_order(scale):
    values = np.sort(np.random.default_rng(0).gamma(0.5, 1.0, 50))
    shares = scaled(values, scale)
    assert (np.diff(shares) > 0).all() and shares[0] >= 0 and shares[-1] == 1
    assert scaled([0.0, 1.0], scale).tolist() == [0, 1]


def test_small_values_are_lifted():
    one = {scale: scaled([0.01, 1.0], scale)[0] for scale in ("linear", "sqrt", "log")}
    assert one["linear"] == 0.01 and one["sqrt"] == pytest.approx(0.1)
    assert one["log"] == pytest.approx(np.log(1.99) / np.log(100))


def test_a_shared_maximum_makes_maps_comparable():
    assert scaled([1.0, 2.0], maximum=4).tolist() == [0.25, 0.5]
    assert scaled([8.0], maximum=4).tolist() == [1.0]
    assert scaled([1.0], maximum=0).tolist() == [0.0]


def test_negative_and_unknown_values_are_drawn_as_nothing():
    assert scaled([-1.0, np.nan, np.inf, 2.0]).tolist() == [0, 0, 0, 1]
    assert scaled([]).shape == (0,) and scaled([0.0, 0.0]).tolist() == [0, 0]


@pytest.mark.parametrize("colours", COLOURS)
def test_without_opacity_the_image_is_as_it_was(grey, colours):
    drawn = overlay(grey, np.random.default_rng(0).random((5, 7)), opacity=0.0, colours=colours)
    assert drawn.size == grey.size and drawn.tobytes() == grey.tobytes()


@pytest.mark.parametrize("colours", COLOURS)
def test_the_map_mixes_its_colour_into_the_image(grey, colours):
    density = np.array([[0.0, 1.0]])
    drawn = np.asarray(overlay(grey, density, opacity=0.5, colours=colours), dtype=float)
    for column, level in ((5, 0), (35, 255)):
        *colour, alpha = colour_table(colours)[level]
        expected = 0.5 * alpha * np.array(colour) + (1 - 0.5 * alpha) * 128
        np.testing.assert_allclose(drawn[10, column], expected, atol=0.51)
    assert (drawn[:, :20] == drawn[0, 0]).all() and (drawn[:, 20:] == drawn[0, -1]).all()


def test_images_of_other_modes():
    for mode in ("L", "RGBA", "P", "1"):
        assert overlay(Image.new(mode, (8, 8)), np.eye(4)).mode == "RGB"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"opacity": 1.5}, r"opacity must be in \[0, 1\], got 1.5"),
        ({"scale": "cubic"}, "scale must be one of 'linear', 'sqrt', 'log', got 'cubic'"),
        ({"colours": "jet"}, "colours must be one of 'heat', .* got 'jet'"),
        ({"maximum": -1.0}, "maximum must be a number of at least 0"),
        ({"maximum": float("nan")}, "maximum must be a number of at least 0"),
        ({"density": np.zeros(3)}, r"density must have the shape \(height, width\), got \(3,\)"),
        ({"density": np.zeros((0, 3))}, "density must have the shape"),
    ],
)
def test_wrong_options(grey, options, message):
    with pytest.raises(ValueError, match=message):
        overlay(grey, **({"density": np.eye(2)} | options))


def test_a_patch_is_cut_out_in_its_shape():
    image = Image.new("RGB", (100, 50), "white")
    image.paste((255, 0, 0), (50, 0, 100, 25))
    cut = patch_picture(image, np.array([0.5, 0.0, 1.0, 0.5]), 64)
    assert cut.size == (64, 32) and (np.asarray(cut) == (255, 0, 0)).all()
    assert patch_picture(image, np.full(4, np.nan)) is None


@pytest.mark.parametrize("rings", [[0], [1, 0], [1] * 30 + [2] * 3 + [None, 0], [3, 1, 1, 0]])
def test_nodes_stand_apart_and_farther_rings_farther_out(rings):
    places = np.array(arrange(rings))
    assert not places[rings.index(0)].any()
    distances = np.linalg.norm(places, axis=1)
    known = [(ring, distance) for ring, distance in zip(rings, distances, strict=True) if ring]
    for ring, distance in known:
        assert all(distance < other + 1e-5 for one, other in known if one >= ring)
    apart = np.linalg.norm(places[:, None] - places[None], axis=-1)
    assert apart[~np.eye(len(rings), dtype=bool)].min(initial=np.inf) > 0.99


def closest(curve, centre, half):
    """Below 1 where a curve enters a node."""
    return (np.abs(curve - centre) / half).max(axis=1).min()


def test_two_neighbours_of_the_target_do_not_stand_opposite_each_other():
    places, controls = lay_out([1, 1, 0], [(0, 1), (0, 2), (1, 2)])
    for (i, j), control in zip([(0, 1), (0, 2), (1, 2)], controls, strict=True):
        np.testing.assert_allclose(control, np.add(places[i], places[j]) / 2, atol=1e-3)
    assert closest(points_of(places[0], controls[0], places[1]), (0, 0), NODE) > 1


@pytest.mark.parametrize("seed", range(20))
def test_no_edge_touches_a_third_node(seed):
    rng = np.random.default_rng(seed)
    n = int(rng.integers(3, 14))
    rings = [0] + [int(r) if r else None for r in rng.integers(0, 4, n - 1)]
    density = rng.uniform(0.1, 0.9)
    edges = [(i, j) for i in range(n) for j in range(i) if rng.random() < density]
    halves = np.where(rng.random((n, 1)) < 0.3, [[0.6, 0.2]], [[NODE, 0.42]])
    places, controls = lay_out(rings, edges, halves, stretch=rng.choice([1.0, 1.25]))
    assert places[0] == (0, 0) and len(controls) == len(edges)
    for (i, j), control in zip(edges, controls, strict=True):
        curve = points_of(places[i], control, places[j], 401)
        np.testing.assert_allclose(curve[[0, -1]], [places[i], places[j]])
        for k in set(range(n)) - {i, j}:
            assert closest(curve, places[k], halves[k]) >= 1
    for i in range(n):
        for j in range(i):  # nor do nodes touch each other
            assert (np.abs(np.subtract(places[i], places[j])) > halves[i] + halves[j]).any()


def test_an_edge_is_straight_where_it_can_be():
    rings = [0, 1, 1, 1, 1]
    edges = [(0, 1), (1, 2), (1, 3)]
    places, controls = lay_out(rings, edges)
    middles = [np.add(places[i], places[j]) / 2 for i, j in edges]
    bent = [not np.allclose(c, m, atol=1e-3) for c, m in zip(controls, middles, strict=True)]
    assert bent == [False, False, True]
    assert lay_out([0], []) == ([(0.0, 0.0)], [])
