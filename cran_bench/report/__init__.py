"""The page of recorded results: one HTML file, or a folder to publish, which needs no network and no server."""

from .site import write_page

__all__ = ["write_page"]
