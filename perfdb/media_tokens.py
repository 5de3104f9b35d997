"""What a model's encoder makes of an image, a video or a sound: patches to compute on, and tokens for the model."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

from hardware.errors import ScenarioError, suggest
from perfdb.media_rules import AnyResolution, Clips, MediaRule, Medium, PatchGrid, Seen, Segments, Slices, Tiles

if TYPE_CHECKING:
    from collections.abc import Mapping

    from perfdb.encoder import EncoderSpec

__all__ = ["MEDIA_RULES", "MediaRule", "Seen", "Segments", "seen", "seen_of_tokens"]

#: Every rule by name; which model follows which, and with what numbers, :mod:`perfdb.read_encoder` says.
MEDIA_RULES: Mapping[str, type[MediaRule]] = MappingProxyType(
    {
        "patch_grid": PatchGrid,
        "tiles": Tiles,
        "any_resolution": AnyResolution,
        "slices": Slices,
        "clips": Clips,
    }
)


def seen(  # noqa: PLR0913 - what a trace says of a medium
    encoder: EncoderSpec, kind: str, *, width: int = 0, height: int = 0, frames: int = 1, seconds: float = 0.0
) -> Seen:
    """Return what an encoder makes of a medium.

    Parameters
    ----------
    encoder
        Whose.
    kind
        ``image``, ``video`` or ``audio``.
    width, height
        Of an image or of the frames of a video, pixels.
    frames
        Sampled frames of a video.
    seconds
        Length of a sound.

    Raises
    ------
    ScenarioError
        If the encoder does not take that kind, or a size that the kind has is not positive.
    """
    if kind not in encoder.kinds:
        raise ScenarioError(f"{encoder.name} has no encoder for {kind!r}; {suggest(kind, encoder.kinds)}")
    sizes = {"seconds": seconds} if kind == "audio" else {"width": width, "height": height, "frames": frames}
    for name, size in sizes.items():
        if size <= 0:
            raise ScenarioError(f"{kind}: {name} is {size}, expected more than 0")
    return encoder.rule.seen(Medium(kind, width, height, frames, seconds))


def seen_of_tokens(encoder: EncoderSpec, tokens: int) -> Seen:
    """Return what an encoder makes of something that becomes ``tokens`` tokens, for traces that say no more.

    Raises
    ------
    ScenarioError
        If there are no tokens.
    """
    if tokens <= 0:
        raise ScenarioError(f"image tokens are {tokens}, expected more than 0")
    return encoder.rule.of_tokens(tokens)
