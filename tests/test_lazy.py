import sys
import types

import pytest

from semi_nmf_concepts._lazy import attach


def test_names_are_loaded_at_first_use(monkeypatch):
    package, home = types.ModuleType("package"), types.ModuleType("package._home")
    home.thing = object()
    monkeypatch.setitem(sys.modules, "package", package)
    monkeypatch.setitem(sys.modules, "package._home", home)
    package.__getattr__, package.__dir__, package.__all__ = attach(
        "package", {"thing": "_home", "other": "_absent"}
    )
    assert package.__all__ == ["thing", "other"]
    assert {"thing", "other", "__name__"} <= set(dir(package))
    assert "thing" not in vars(package)
    assert package.thing is home.thing
    assert vars(package)["thing"] is home.thing
    with pytest.raises(AttributeError, match="module 'package' has no attribute 'nothing'"):
        _ = package.nothing
