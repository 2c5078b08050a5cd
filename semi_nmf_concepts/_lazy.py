"""Public names of a package that are loaded at first use."""

import importlib
import sys


def attach(package_name, homes):
    """Make the lazy part of a package's ``__init__``.

    Parameters
    ----------
    package_name : str
        The ``__name__`` of the package.
    homes : dict of str to str
        Public name -> the module inside the package that defines it.

    Returns
    -------
    getattr_ : callable
        The package's ``__getattr__`` (PEP 562): imports the home of a public name when that name
        is first asked for, and leaves the value in the package.
    dir_ : callable
        The package's ``__dir__``: lists the public names before they are loaded, too.
    all_ : list of str
        The package's ``__all__``, in the order of `homes`.

    Examples
    --------
    In ``package/__init__.py``::

        __getattr__, __dir__, __all__ = attach(__name__, {"PublicName": "_private_module"})
    """
    names = list(homes)

    def getattr_(name):
        if name not in homes:
            raise AttributeError(f"module {package_name!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(f"{package_name}.{homes[name]}"), name)
        vars(sys.modules[package_name])[name] = value  # the next access does not come here
        return value

    def dir_():
        return sorted({*vars(sys.modules[package_name]), *names})

    return getattr_, dir_, names
