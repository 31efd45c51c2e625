"""A second version of a picture, for screens and columns in which the text of the first would be too small to read."""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextvars import ContextVar
from typing import ParamSpec

from PIL import Image

_KEY = "narrow"  # in `Image.info`: a picture stays a picture, in notebooks too
_PART = "part"
_narrow: ContextVar[bool] = ContextVar(_KEY, default=False)
_Arguments = ParamSpec("_Arguments")


def versions(draw: Callable[_Arguments, Image.Image]) -> Callable[_Arguments, Image.Image]:
    """A function that draws also draws a narrow version, which its picture carries along; see `version`."""

    @functools.wraps(draw)
    def both(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> Image.Image:
        picture = draw(*args, **kwargs)
        before = _narrow.set(True)
        try:
            other = draw(*args, **kwargs)
        finally:
            _narrow.reset(before)
        if other.width < picture.width:
            picture.info[_KEY] = other
        return picture

    return both


def asked() -> bool:
    """Whether it is the narrow version that is drawn now."""
    return _narrow.get()


def version(picture: Image.Image, *, whole: bool = False) -> Image.Image | None:
    """The narrow version of a picture, if it has one.

    Args:
        picture: what a function with `versions` has drawn.
        whole: only if all is on it that is on the picture.
    """
    found = picture.info.get(_KEY)
    return found if isinstance(found, Image.Image) and not (whole and found.info.get(_PART)) else None


def part(picture: Image.Image) -> Image.Image:
    """Marks a narrow version on which something is left out."""
    picture.info[_PART] = True
    return picture
