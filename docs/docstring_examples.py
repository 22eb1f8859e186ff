"""Lets the site show the `Example:` of a docstring as code: the parser knows `Examples:` alone."""

import re
from typing import Any

from griffe import Extension, Object


class DocstringExamples(Extension):
    """Renames the section before docstrings are parsed."""

    def on_object(self, *, obj: Object, **kwargs: Any) -> None:
        """Rename the section of one function, class or module."""
        if obj.docstring is not None:
            obj.docstring.value = re.sub(r"^Example:$", "Examples:", obj.docstring.value, flags=re.MULTILINE)
