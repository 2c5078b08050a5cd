"""The cache with room gives what the default one gives."""

import pytest
import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from semi_nmf_concepts.lmm import load_model
from semi_nmf_concepts.lmm._kv_cache import RoomyLayer, roomy_cache
from tests._families import FAMILIES


def states(n, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, 3, n, 4, generator=generator)


@pytest.mark.parametrize("room", [0, 1, 3, 9])
def test_layers_hold_the_same(room):
    """Also when more comes than there is room for."""
    roomy, plain = RoomyLayer(room), DynamicLayer()
    for seed, n in enumerate((5, 1, 1, 2, 1)):
        given = states(n, seed), states(n, seed + 100)
        for mine, its in zip(roomy.update(*given), plain.update(*given), strict=True):
            torch.testing.assert_close(mine, its, rtol=0, atol=0)
        assert roomy.get_seq_length() == plain.get_seq_length()
        assert roomy.get_mask_sizes(1) == plain.get_mask_sizes(1)


def test_nothing_is_copied_while_there_is_room():
    layer = RoomyLayer(3)
    first, _ = layer.update(states(5), states(5))
    for _ in range(3):
        again, _ = layer.update(states(1), states(1))
        assert again.data_ptr() == first.data_ptr()
    more, _ = layer.update(states(1), states(1))
    assert more.data_ptr() != first.data_ptr()


def test_what_others_do_to_a_layer_is_respected():
    for change in (
        lambda layer: layer.crop(-2),
        lambda layer: layer.reorder_cache(torch.tensor([1, 0])),
        lambda layer: layer.batch_select_indices(torch.tensor([1])),
        lambda layer: layer.reset(),
    ):
        roomy, plain = RoomyLayer(9), DynamicLayer()
        for layer in (roomy, plain):
            layer.update(states(5), states(5, 1))
            change(layer)
        rows = 2 if roomy.get_seq_length() == 0 else len(roomy.keys)
        given = states(1, 2)[:rows], states(1, 3)[:rows]
        for mine, its in zip(roomy.update(*given), plain.update(*given), strict=True):
            torch.testing.assert_close(mine, its, rtol=0, atol=0)


def test_used_where_the_default_cache_is_a_plain_one(tmp_path, tiny_model):
    model = load_model(tiny_model).loaded.model
    cache = roomy_cache(model, 5)
    assert isinstance(cache, DynamicCache)
    assert len(cache.layers) == 4
    for name in ("gemma3", "blip2-t5"):  # windows; an encoder
        folder = FAMILIES[name].build(tmp_path / name)
        assert roomy_cache(load_model(folder).loaded.model, 5) is None
