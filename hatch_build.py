"""Turns README.md into the long description of the package: links and pictures that work outside of the repository."""

import re
from pathlib import Path

from hatchling.metadata.plugin.interface import MetadataHookInterface

_LINK = re.compile(r"(!?)\[([^\]]*)\]\((?!https?://|#|mailto:)([^)\s]+)\)")


def absolute_links(text: str, repository: str | None, revision: str) -> str:
    """Return Markdown whose relative links are absolute.

    Args:
        text: The README.
        repository: The repository's address, `project.urls.Repository` of pyproject.toml; without one, a link becomes
            its text and its path, and a picture is left out, since a dead link is worse than none.
        revision: The tag or branch that the links name.

    Returns:
        The same text with other links.
    """

    def replace(match: re.Match[str]) -> str:
        picture, label, path = match.groups()
        if repository is not None:
            return f"{picture}[{label}]({repository.rstrip('/')}/{'raw' if picture else 'blob'}/{revision}/{path})"
        if picture:
            return ""
        return f"`{path}`" if label == path else f"{label} (`{path}`)"

    return _LINK.sub(replace, text)


class ReadmeHook(MetadataHookInterface):
    """Sets the field `readme`, which pyproject.toml calls dynamic."""

    def update(self, metadata: dict) -> None:
        """Add the long description to the metadata."""
        text = (Path(self.root) / "README.md").read_text(encoding="utf-8")
        repository = metadata.get("urls", {}).get("Repository")
        text = absolute_links(text, repository, f"v{metadata['version']}")
        metadata["readme"] = {"content-type": "text/markdown", "text": text}
