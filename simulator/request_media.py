"""What the requests of a run carry besides text, as the model's encoder sees it."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

from perfdb.media_tokens import seen, seen_of_tokens

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from perfdb.encoder import EncoderSpec
    from perfdb.media_rules import Seen
    from workloads.media import Content, Media

__all__ = ["Encodable", "RequestMedia", "media_seen"]


class Encodable(NamedTuple):
    """An image, a video or a sound of one request.

    Attributes
    ----------
    content
        Names the input: equal ones have equal features.
    seen
        What the encoder makes of it.
    start
        Tokens of the prompt before it.
    tokens
        Tokens of the prompt that it takes.
    size_bytes
        Bytes of its features.
    """

    content: int
    seen: Seen
    start: int
    tokens: int
    size_bytes: int

    @property
    def end(self) -> int:
        """Tokens of the prompt up to its last one."""
        return self.start + self.tokens


class RequestMedia:
    """The media of all requests.

    Parameters
    ----------
    items
        Of each request, in the order in which they stand in its prompt.
    token_bytes
        Bytes of the features of one token.
    """

    def __init__(self, items: Sequence[tuple[Encodable, ...]], token_bytes: int) -> None:
        self._items, self.token_bytes = items, token_bytes

    def of(self, index: int) -> tuple[Encodable, ...]:
        """Return the media of a request; none for one of text alone."""
        return self._items[index]

    def __iter__(self) -> Iterator[tuple[Encodable, ...]]:
        return iter(self._items)


def media_seen(
    encoder: EncoderSpec, media: Media, first_token: int, unknown: Content | None
) -> tuple[RequestMedia, list[int]]:
    """Return what an encoder makes of media, and the tokens of each request that its prompt does not count yet.

    Parameters
    ----------
    encoder
        The model's.
    media
        Of all requests.
    first_token
        Tokens of text that every prompt begins with, before any image.
    unknown
        What stands for items of which nothing is known but that they are there.

    Raises
    ------
    ScenarioError
        If the encoder does not take such items, or nothing is known of one.
    """
    known = {content: _seen(encoder, content, unknown) for content in dict.fromkeys(media.contents())}
    rows = [(known[content], content.tokens) for content in media.contents()]
    names, places = media.content.tolist(), media.place.tolist()
    items: list[tuple[Encodable, ...]] = []
    added: list[int] = []
    for start, end in pairwise(media.offsets.tolist()):
        place, more, found = first_token, 0, []
        for row in range(start, end):
            made, counted = rows[row]
            tokens = counted or made.tokens
            more += 0 if counted else tokens
            at = places[row] + place
            found.append(Encodable(names[row], made, at, tokens, encoder.feature_bytes(tokens)))
            place += tokens
        items.append(tuple(found))
        added.append(more)
    return RequestMedia(items, encoder.feature_bytes(1)), added


def _seen(encoder: EncoderSpec, content: Content, unknown: Content | None) -> Seen:
    if not content.known and unknown is not None:
        content = unknown._replace(kind=content.kind, tokens=0)
    if content.tokens and not (content.width or content.duration_ms):
        return seen_of_tokens(encoder, content.tokens)
    return seen(
        encoder,
        content.kind,
        width=content.width,
        height=content.height,
        frames=max(content.frames, 1),
        seconds=content.duration_ms / 1e3,
    )
