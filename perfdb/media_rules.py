"""How many patches and tokens the encoders of each kind of model make of an image, a video or a sound.

A rule does what the model's preprocessor does to the size of what it is given: resize, cut into tiles or slices, sample
frames. It counts the embeddings that the language model gets, the marks around them in the text left out.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, ClassVar, Final, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = ["AnyResolution", "Clips", "MediaRule", "Medium", "PatchGrid", "Seen", "Segments", "Slices", "Tiles"]

#: What attention stays within: lengths in patches, and how many there are of each.
Segments = tuple[tuple[int, int], ...]

#: Mel frames of a second of sound, and the convolution that halves them: Whisper's feature extractor and encoder.
_FRAMES_PER_S: Final = 100


class Seen(NamedTuple):
    """What an encoder makes of one image, video or sound.

    Attributes
    ----------
    patches
        Rows the encoder computes on.
    tokens
        Embeddings the language model gets.
    sequences
        What full attention stays within: a whole image, a temporal patch of a video, a tile, a slice, a clip.
    windows
        What windowed attention stays within; empty where no layer has windows.
    """

    patches: int
    tokens: int
    sequences: Segments
    windows: Segments = ()


class Medium(NamedTuple):
    """An image (``frames`` is 1) or a video of so many sampled frames, pixels; or a sound, seconds."""

    kind: str
    width: int = 0
    height: int = 0
    frames: int = 1
    seconds: float = 0.0


class MediaRule(Protocol):
    """What a preprocessor does. ``kinds`` are those of ``image``, ``video`` and ``audio`` that it takes."""

    kinds: ClassVar[tuple[str, ...]]

    def seen(self, medium: Medium) -> Seen:
        """Return what the encoder makes of a medium of one of the ``kinds``."""
        ...

    def of_tokens(self, tokens: int) -> Seen:
        """Return a plausible medium that becomes at least ``tokens`` tokens, where no more than that is known."""
        ...


@dataclass(frozen=True, slots=True)
class PatchGrid:
    """Any resolution: each side is rounded to whole tokens, the area held between two limits (Qwen-VL, openPangu-VL).

    Attributes
    ----------
    patch
        Side of a patch, pixels.
    merge
        Patches a side that become one token.
    frames_per_patch
        Frames of a video that share their patches.
    min_pixels, max_pixels
        Limits of an image.
    video_min_pixels, video_max_pixels
        Limits of each frame, or of all frames together.
    whole_video
        The limits of a video are of all its frames together.
    max_frames
        Most frames of a video; more are thinned out.
    window
        Side of an attention window, pixels; 0 where all layers see the whole image.
    """

    kinds: ClassVar[tuple[str, ...]] = ("image", "video")

    patch: int
    merge: int
    frames_per_patch: int
    min_pixels: int
    max_pixels: int
    video_min_pixels: int
    video_max_pixels: int
    whole_video: bool = False
    max_frames: int = 768
    window: int = 0

    @property
    def side(self) -> int:
        """Pixels a side of one token."""
        return self.patch * self.merge

    def seen(self, medium: Medium) -> Seen:
        """Return what the encoder makes of an image or a video; full attention stays within a temporal patch."""
        if medium.kind == "image":
            return self._of_grid(*self._resized(medium, 1, self.min_pixels, self.max_pixels), 1)
        frames = min(medium.frames, self.max_frames)
        limits = self.video_min_pixels, self.video_max_pixels
        grid = self._resized(medium, frames if self.whole_video else 1, *limits)
        return self._of_grid(*grid, math.ceil(frames / self.frames_per_patch))

    def of_tokens(self, tokens: int) -> Seen:
        """Return an image of so many tokens; its windows are taken to be whole but for one."""
        patches = tokens * self.merge**2
        whole, rest = divmod(patches, (self.window // self.patch) ** 2) if self.window else (0, 0)
        windows = _counted(((self.window // self.patch) ** 2, whole), (rest, 1)) if self.window else ()
        return Seen(patches, tokens, ((patches, 1),), windows)

    def _resized(self, medium: Medium, frames: int, least: int, most: int) -> tuple[int, int]:
        """Return rows and columns of tokens; the sides are rounded half to even, as Python and PyTorch do."""
        sides = medium.height, medium.width
        rows, columns = (round(length / self.side) for length in sides)
        even = frames if frames == 1 else 2 * round(frames / 2)
        pixels = even * rows * columns * self.side**2
        if least <= pixels <= most:
            return rows, columns
        limit, whole = (most, math.floor) if pixels > most else (least, math.ceil)
        shrink = math.sqrt(frames * math.prod(sides) / limit)
        rows, columns = (max(whole(length / shrink / self.side), 1) for length in sides)
        return rows, columns

    def _of_grid(self, rows: int, columns: int, times: int) -> Seen:
        tokens, unit = rows * columns, self.merge**2
        windows = _counted(*((unit * size, times * count) for size, count in self._windows(rows, columns)))
        return Seen(unit * tokens * times, tokens * times, ((unit * tokens, times),), windows)

    def _windows(self, rows: int, columns: int) -> Iterator[tuple[int, int]]:
        """Yield the windows of one grid, in tokens: those at the right and lower edge may be cut."""
        if self.window:
            wide = self.window // self.side
            for (height, down), (width, across) in product(_cut(rows, wide), _cut(columns, wide)):
                yield height * width, down * across


@dataclass(frozen=True, slots=True)
class Tiles:
    """Square tiles, as many as the aspect ratio suggests, and a thumbnail if there are several (InternVL, LLaVA-1.5).

    Attributes
    ----------
    patches, tokens
        Of one tile.
    side
        Of a tile, pixels.
    most
        Most tiles, without the thumbnail; a frame of a video is one.
    """

    kinds: ClassVar[tuple[str, ...]] = ("image", "video")

    patches: int
    tokens: int
    side: int
    most: int = 1

    def seen(self, medium: Medium) -> Seen:
        """Return what the encoder makes of an image or a video."""
        return self._of(medium.frames if medium.kind == "video" else self._tiles(medium))

    def of_tokens(self, tokens: int) -> Seen:
        """Return as many tiles as hold so many tokens."""
        return self._of(math.ceil(tokens / self.tokens))._replace(tokens=tokens)

    def _tiles(self, medium: Medium) -> int:
        """Return the tiles of an image: of the nearest aspect ratio, and the more the larger it is."""
        ratio, area = medium.width / medium.height, medium.width * medium.height
        best, least = 1, math.inf
        grids = [grid for grid in product(range(1, self.most + 1), repeat=2) if math.prod(grid) <= self.most]
        for columns, rows in sorted(grids, key=math.prod):
            off = abs(ratio - columns / rows)
            if off < least or (off == least and 2 * area > self.side**2 * columns * rows):
                best, least = columns * rows, off
        return best + (best > 1)

    def _of(self, tiles: int) -> Seen:
        return Seen(tiles * self.patches, tiles * self.tokens, ((self.patches, tiles),))


@dataclass(frozen=True, slots=True)
class AnyResolution:
    """Tiles on one of a few canvases and the whole image as another; padding is cut off again (LLaVA-NeXT).

    Attributes
    ----------
    side
        Of a tile, pixels.
    patch
        Side of a patch, pixels; each becomes a token, and each row of them ends with one more.
    canvases
        (height, width) of each, pixels.
    """

    kinds: ClassVar[tuple[str, ...]] = ("image",)

    side: int
    patch: int
    canvases: tuple[tuple[int, int], ...]

    def seen(self, medium: Medium) -> Seen:
        """Return what the encoder makes of an image."""
        canvas = max(self.canvases, key=lambda size: self._fit(medium, size))
        tiles = math.prod(canvas) // self.side**2 + 1
        rows, columns = (length // self.patch for length in canvas)
        if medium.width * rows > medium.height * columns:
            rows -= (rows - medium.height * columns // medium.width) // 2 * 2
        else:
            columns -= (columns - medium.width * rows // medium.height) // 2 * 2
        of_tile = (self.side // self.patch) ** 2
        return Seen(tiles * of_tile, rows * (columns + 1) + of_tile, ((of_tile, tiles),))

    def of_tokens(self, tokens: int) -> Seen:
        """Return as many tiles as hold so many tokens."""
        of_tile = (self.side // self.patch) ** 2
        tiles = math.ceil(tokens / of_tile)
        return Seen(tiles * of_tile, tokens, ((of_tile, tiles),))

    @staticmethod
    def _fit(medium: Medium, canvas: tuple[int, int]) -> tuple[int, int]:
        """Return the pixels of the image that a canvas keeps, and those it wastes as a negative number."""
        height, width = canvas
        scale = min(width / medium.width, height / medium.height)
        kept = min(int(medium.width * scale) * int(medium.height * scale), medium.width * medium.height)
        return kept, kept - height * width


@dataclass(frozen=True, slots=True)
class Slices:
    """An overview and slices of about one size, each condensed to a fixed number of tokens (MiniCPM-V).

    Attributes
    ----------
    side
        Root of the area of a slice, pixels.
    patch
        Side of a patch, pixels.
    tokens
        Of each slice.
    most
        Most slices, without the overview; a frame of a video has none.
    """

    kinds: ClassVar[tuple[str, ...]] = ("image", "video")

    side: int
    patch: int
    tokens: int
    most: int

    def seen(self, medium: Medium) -> Seen:
        """Return what the encoder makes of an image or a video."""
        grid = self._grid(medium) if medium.kind == "image" else None
        overview = self._patches(medium.width, medium.height, grow=grid is None)
        if grid is None:
            return self._of((overview, medium.frames if medium.kind == "video" else 1))
        columns, rows = grid
        width, height = (self._whole(medium.width, columns) / columns, self._whole(medium.height, rows) / rows)
        return self._of((overview, 1), (self._patches(width, height, grow=True), columns * rows))

    def of_tokens(self, tokens: int) -> Seen:
        """Return as many square slices as hold so many tokens."""
        return self._of(((self.side // self.patch) ** 2, math.ceil(tokens / self.tokens)))._replace(tokens=tokens)

    def _grid(self, medium: Medium) -> tuple[int, int] | None:
        """Return columns and rows of slices: of the nearest aspect ratio among about as many as the area asks for."""
        ideal = min(math.ceil(medium.width * medium.height / self.side**2), self.most)
        if ideal <= 1:
            return None
        ratio = math.log(medium.width / medium.height)
        counts = [count for count in (ideal - 1, ideal, ideal + 1) if 1 < count <= self.most]
        grids = [(n, count // n) for count in counts for n in range(1, count + 1) if count % n == 0]
        return min(grids, key=lambda grid: abs(ratio - math.log(grid[0] / grid[1])))

    def _patches(self, width: float, height: float, *, grow: bool) -> int:
        """Return the patches of a part of an image, brought to the area of a slice."""
        if grow or width * height > self.side**2:
            ratio = width / height
            height = int(self.side / math.sqrt(ratio))
            width = int(height * ratio)
        return self._whole(width, self.patch) * self._whole(height, self.patch) // self.patch**2

    @staticmethod
    def _whole(length: float, unit: int) -> int:
        return max(round(length / unit), 1) * unit

    def _of(self, *slices: tuple[int, int]) -> Seen:
        patches = sum(size * count for size, count in slices)
        return Seen(patches, self.tokens * sum(count for _, count in slices), _counted(*slices))


@dataclass(frozen=True, slots=True)
class Clips:
    """Sound in clips, each padded to its full length and then pooled (Whisper's encoder, Qwen2-Audio).

    Attributes
    ----------
    seconds
        Length of a clip.
    pool
        Positions of the encoder that become one token; each is two mel frames, of 10 ms.
    most
        Most clips; what is longer is cut off.
    """

    kinds: ClassVar[tuple[str, ...]] = ("audio",)

    seconds: int
    pool: int
    most: int = 1

    def seen(self, medium: Medium) -> Seen:
        """Return what the encoder makes of a sound; silence that pads it becomes no token."""
        heard = min(medium.seconds, self.most * self.seconds)
        whole, rest = divmod(round(heard * _FRAMES_PER_S), self.seconds * _FRAMES_PER_S)
        tokens = whole * self._tokens(self.seconds * _FRAMES_PER_S) + self._tokens(rest)
        return self._of(max(whole + (rest > 0), 1), max(tokens, 1))

    def of_tokens(self, tokens: int) -> Seen:
        """Return as many clips as hold so many tokens."""
        return self._of(math.ceil(tokens / self._tokens(self.seconds * _FRAMES_PER_S)), tokens)

    def _tokens(self, frames: int) -> int:
        return (frames + 1) // 2 // self.pool

    def _of(self, clips: int, tokens: int) -> Seen:
        positions = self.seconds * _FRAMES_PER_S // 2
        return Seen(clips * positions, tokens, ((positions, clips),))


def _cut(length: int, piece: int) -> Iterator[tuple[int, int]]:
    """Yield the pieces of a length: their size and how many."""
    whole, rest = divmod(length, piece)
    if whole:
        yield piece, whole
    if rest:
        yield rest, 1


def _counted(*segments: tuple[int, int]) -> Segments:
    """Return segments, those of one length together, longest first."""
    return tuple(sorted(_total(segments).items(), reverse=True))


def _total(segments: Iterable[tuple[int, int]]) -> Counter[int]:
    found: Counter[int] = Counter()
    for size, count in segments:
        if size and count:
            found[size] += count
    return found
