"""Optional parts of the package: import them late, and say in one line which extra is missing."""

from __future__ import annotations

import importlib
from types import ModuleType

from attendet.errors import MissingExtraError

__all__ = ["require"]


def require(module: str, *, extra: str, purpose: str) -> ModuleType:
    """Return the imported module, or say which extra brings it.

    Args:
        module: dotted name, such as ``"torch"``.
        extra: name of the extra of this package that installs it, such as ``"train"``.
        purpose: what needs it, as the subject of a sentence ("training").

    Returns:
        The module.

    Raises:
        MissingExtraError: if the module's top-level package is not installed.

    Example:
        >>> require("json", extra="train", purpose="this example").__name__
        'json'
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] != module.split(".")[0]:
            raise
        raise MissingExtraError(
            f"{purpose} needs {module.split('.')[0]!r}, which is not installed. "
            f"Install it with: pip install 'attendet[{extra}]'"
        ) from None
