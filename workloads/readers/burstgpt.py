"""The BurstGPT traces of campus use of ChatGPT and GPT-4.

Source: https://github.com/HPMLL/BurstGPT (CC-BY-4.0). A request that failed has no response tokens; the
files named ``without_fails`` leave those rows out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from workloads.readers.fields import csv_fields, time_ns, tokens
from workloads.readers.protocol import BadRowError, Layout, Row

if TYPE_CHECKING:
    from collections.abc import Sequence

    from workloads.readers.protocol import Container

__all__ = ["BurstGpt"]


class BurstGpt:
    """``Timestamp`` (s), ``Request tokens``, ``Response tokens`` and, in later files, ``Session ID``."""

    container: Container = "csv"
    expects = "the columns Timestamp (s), Request tokens, Response tokens and optionally Session ID"
    generic = False
    example = (
        "Timestamp,Session ID,Elapsed time,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
        "19440110.0,1722ac82,43,GPT-4,600,10,610,Conversation log\n"
        "19440112.0,d5983bf9,2,ChatGPT,1100,20,1120,Conversation log\n"
        "19440115.0,,,ChatGPT,30,30,60,API log\n"
    )

    def matches(self, keys: Sequence[str]) -> bool:
        """See Reader."""
        return {"Timestamp", "Request tokens", "Response tokens"} <= set(keys)

    def layout(self, keys: Sequence[str]) -> Layout:
        """See Reader."""
        if "Session ID" in keys:
            with_session = csv_fields(keys, ("Timestamp", "Request tokens", "Response tokens", "Session ID"))
            return Layout(lambda text: _session_row(*with_session(text)), columns=("session",))
        fields = csv_fields(keys, ("Timestamp", "Request tokens", "Response tokens"))
        return Layout(lambda text: _row(*fields(text)))


def _row(time_s: str, prompt: str, output: str) -> Row:
    output_tokens = tokens(output, "Response tokens", lowest=0)
    if not output_tokens:
        detail = "Response tokens is 0 (a failed request), expected at least 1"
        raise BadRowError("no response tokens", detail)
    return Row(time_ns(time_s, "Timestamp"), tokens(prompt, "Request tokens"), output_tokens)


def _session_row(time_s: str, prompt: str, output: str, session: str) -> Row:
    return _row(time_s, prompt, output)._replace(session=session or None)
