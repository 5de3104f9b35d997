"""Workloads generated with ServeGen, text or multimodal.

Source of the generator: https://github.com/alibaba/ServeGen (Apache-2.0). The multimodal form lists the
tokens of each image, separated by semicolons.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from workloads.media import Item
from workloads.readers.fields import csv_fields, time_ns, tokens
from workloads.readers.protocol import Layout, Row

if TYPE_CHECKING:
    from collections.abc import Sequence

    from workloads.readers.protocol import Container

__all__ = ["ServeGen"]

_TEXT: Final = ("timestamp", "input_tokens", "output_tokens")
_MULTIMODAL: Final = ("timestamp", "text_tokens", "image_tokens", "output_tokens")


class ServeGen:
    """``timestamp`` (s), ``input_tokens`` or ``text_tokens`` with ``image_tokens``, ``output_tokens``."""

    container: Container = "csv"
    expects = (
        "the columns timestamp, input_tokens, output_tokens and optionally reason_ratio,"
        " or timestamp, text_tokens, image_tokens, output_tokens"
    )
    generic = False
    example = (
        "timestamp,text_tokens,image_tokens,output_tokens\n0.5000,100,300;200,10\n2.5000,100,1000,20\n5.5000,30,,30\n"
    )

    def matches(self, keys: Sequence[str]) -> bool:
        """See Reader."""
        return tuple(keys) in {_TEXT, (*_TEXT, "reason_ratio"), _MULTIMODAL}

    def layout(self, keys: Sequence[str]) -> Layout:
        """See Reader."""
        if "image_tokens" in keys:
            multimodal = csv_fields(keys, _MULTIMODAL)
            return Layout(lambda text: _multimodal_row(*multimodal(text)), columns=("media",))
        fields = csv_fields(keys, _TEXT)
        return Layout(lambda text: _row(*fields(text)))


def _row(time_s: str, prompt: str, output: str) -> Row:
    return Row(time_ns(time_s, "timestamp"), tokens(prompt, "input_tokens"), tokens(output, "output_tokens"))


def _multimodal_row(time_s: str, text: str, images: str, output: str) -> Row:
    sizes = [tokens(size, "image_tokens") for size in images.split(";")] if images else []
    text_tokens = tokens(text, "text_tokens", lowest=0)
    return Row(
        time_ns(time_s, "timestamp"),
        tokens(text_tokens + sum(sizes), "text_tokens + image_tokens"),
        tokens(output, "output_tokens"),
        items=[Item(tokens=size) for size in sizes],
    )
