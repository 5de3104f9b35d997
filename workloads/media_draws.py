"""Images, videos and sounds drawn for synthetic requests."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Final, Self, TypeAlias

import numpy as np
from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from hardware.strict import Strict
from workloads.lengths import LengthDistribution
from workloads.media import KINDS, Media
from workloads.streams import stream

if TYPE_CHECKING:
    from workloads.columns import IntColumn

__all__ = ["ImageSize", "MediaDraws", "draw_media", "pixels"]

_SIZE: Final = re.compile(r"([1-9]\d{0,4})x([1-9]\d{0,4})", re.ASCII)


def _size(value: str) -> str:
    if _SIZE.fullmatch(value) is None:
        raise ValueError(f"found {value!r}, expected width x height in pixels, such as '1280x720'")
    return value


ImageSize: TypeAlias = Annotated[str, AfterValidator(_size)]
"""Width and height, pixels, as ``1280x720``."""

_Sizes: TypeAlias = Annotated[
    tuple[ImageSize, ...], BeforeValidator(lambda value: (value,) if isinstance(value, str) else value)
]


def pixels(size: str) -> tuple[int, int]:
    """Return the width and height that an :data:`ImageSize` says."""
    width, height = size.split("x")
    return int(width), int(height)


class MediaDraws(Strict):
    """What requests carry besides text; nothing, unless ``images`` is set.

    Attributes
    ----------
    images
        Images per request that has any (videos with ``video_frames``, sounds with ``sound_seconds``).
    image_size
        Their size, or several of which each image has one at random. What the model's encoder makes of it comes on
        top of ``prompt_tokens``.
    image_size_sigma
        Sides are multiplied by a lognormal factor of mean 1 with this sigma, the same for both.
    image_tokens
        Tokens of each image, where no size is given; they come on top of ``prompt_tokens`` too.
    image_pool
        Distinct images there are, all equally popular; by default every image is another one.
    text_only_share
        Share of the requests without any.
    video_frames
        Each is a video of so many sampled frames of ``image_size``.
    sound_seconds
        Each is a sound of that length.
    """

    images: LengthDistribution | None = None
    image_size: _Sizes | None = Field(default=None, min_length=1)
    image_size_sigma: float = Field(default=0.0, ge=0, le=3, strict=True)
    image_tokens: LengthDistribution | None = None
    image_pool: int | None = Field(default=None, gt=0, strict=True)
    text_only_share: float = Field(default=0.0, ge=0, le=1, strict=True)
    video_frames: int | None = Field(default=None, gt=0, le=100_000, strict=True)
    sound_seconds: float | None = Field(default=None, gt=0, le=86_400, strict=True)

    @model_validator(mode="after")
    def _something_to_encode(self) -> Self:
        sizes = {"image_size": self.image_size, "image_tokens": self.image_tokens, "sound_seconds": self.sound_seconds}
        found = [name for name, value in sizes.items() if value is not None]
        if self.images is None:
            names = (*found, "image_pool", "video_frames", "text_only_share", "image_size_sigma")
            alone = next((name for name in names if name in self.model_fields_set), None)
            if alone is not None:
                raise ValueError(f"{alone} has no meaning without images, such as {{ kind = 'fixed', value = 1 }}")
        elif len(found) != 1:
            what = " and ".join(found) or "none"
            raise ValueError(f"found {what}, expected one of image_size, image_tokens and sound_seconds beside images")
        elif self.image_size is None and (self.video_frames is not None or self.image_size_sigma):
            raise ValueError("video_frames and image_size_sigma need image_size")
        return self


def draw_media(spec: MediaDraws, requests: int, seed: int) -> Media | None:
    """Return the items of some requests, each property from a random stream of its own; None where none has any."""
    if spec.images is None:
        return None
    counts = spec.images.sample(stream(seed, "images"), requests)
    counts[stream(seed, "text_only").random(requests) < spec.text_only_share] = 0
    total = int(counts.sum())
    content = np.arange(total)
    if spec.image_pool is not None:
        content = stream(seed, "image_pool").integers(spec.image_pool, size=total)
    # Properties are of contents, not of their appearances: an image that comes again is the same one.
    distinct = int(content.max(initial=-1)) + 1
    width, height = _sizes(spec, distinct, seed)
    unknown = np.zeros(distinct, np.int64)
    tokens = unknown if spec.image_tokens is None else spec.image_tokens.sample(stream(seed, "image_tokens"), distinct)
    kind = "image" if spec.video_frames is None else "video"
    kind = kind if spec.sound_seconds is None else "audio"
    return Media(
        offsets=np.concatenate(([0], np.cumsum(counts))),
        kind=np.full(total, KINDS.index(kind)),
        width=width[content],
        height=height[content],
        frames=np.full(total, spec.video_frames or 0),
        duration_ms=np.full(total, round((spec.sound_seconds or 0.0) * 1000)),
        tokens=tokens[content],
        content=content,
    )


def _sizes(spec: MediaDraws, count: int, seed: int) -> tuple[IntColumn, IntColumn]:
    """Return the widths and heights of distinct images."""
    if spec.image_size is None:
        return np.zeros(count, np.int64), np.zeros(count, np.int64)
    sides = np.array([pixels(size) for size in spec.image_size])
    rng = stream(seed, "image_size")
    chosen = sides[rng.integers(len(sides), size=count)]
    sigma = spec.image_size_sigma
    factor = np.exp(rng.normal(-sigma * sigma / 2, sigma, count)) if sigma else np.ones(count)
    scaled = np.maximum(np.rint(chosen * factor[:, None]), 1).astype(np.int64)
    return scaled[:, 0], scaled[:, 1]
