"""Writes the API reference, made from the docstrings, into a folder (default: build/reference).

    uv run .ci/reference.py [FOLDER]

It ends with status 1 where pdoc warns of a docstring or of a name.
"""

import re
import sys
import warnings
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules, walk_packages
from types import ModuleType

import pdoc

import rsray


def show_all(module: ModuleType) -> None:
    """Load what the module loads on first use, and show the modules of a package on its page."""
    for value in vars(module).values():
        # pdoc looks for the types of a named tuple's fields in the module of its constructor.
        if hasattr(value, "_fields") and value.__module__ == module.__name__:
            value.__new__.__module__ = module.__name__
    lend_types_of_inherited_fields(module)
    public = getattr(module, "__all__", None)
    if public is None:
        return
    for name in public:
        setattr(module, name, getattr(module, name))
    inside = [found.name for found in iter_modules(getattr(module, "__path__", []))]
    module.__all__ = [
        *public,
        *(name for name in inside if name not in {*public} and name[0] != "_"),
    ]


def lend_types_of_inherited_fields(module: ModuleType) -> None:
    """Give a module the names in the annotations of its classes' bases, from the bases' modules.

    pdoc looks for the types of inherited fields in the module of the class that inherits.
    """
    own = [each for each in vars(module).values() if isinstance(each, type)]
    for base in {
        base for each in own if each.__module__ == module.__name__ for base in each.__mro__
    }:
        origin = vars(sys.modules[base.__module__])
        for annotation in vars(base).get("__annotations__", {}).values():
            for name in re.findall(r"\w+", str(annotation)):
                if name in origin and not hasattr(module, name):
                    setattr(module, name, origin[name])


def main() -> None:
    """Render every public module of the package."""
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "build/reference")
    found = [module.name for module in walk_packages(rsray.__path__, "rsray.")]
    for name in ("rsray", *(name for name in found if "._" not in name)):
        show_all(import_module(name))
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always", UserWarning)
        pdoc.pdoc("rsray", output_directory=folder)
    print(f"{folder / 'index.html'}: {len(list(folder.rglob('*.html')))} pages")
    if told:
        sys.exit("\n".join(str(warning.message) for warning in told))


if __name__ == "__main__":
    main()
