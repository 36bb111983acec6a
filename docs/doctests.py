"""For the site: examples at the end of docstrings, which doctest runs, become a section of their own."""

from __future__ import annotations

from typing import Any

from griffe import Extension, Object


class DoctestExamples(Extension):
    """Puts the first `>>>` line of a docstring and all behind it under the heading that mkdocstrings knows."""

    def on_object(self, *, obj: Object, **_: Any) -> None:
        if obj.docstring is None or "\n>>> " not in f"\n{obj.docstring.value}":
            return
        before, _mark, examples = f"\n{obj.docstring.value}".partition("\n>>> ")
        indented = "\n".join(f"    {line}" if line else "" for line in f">>> {examples}".splitlines())
        obj.docstring.value = f"{before.strip()}\n\nExamples:\n{indented}\n"
