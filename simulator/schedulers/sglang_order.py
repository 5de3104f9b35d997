"""In which order SGLang's waiting requests are offered: its schedule policies (``managers/schedule_policy.py``)."""

from __future__ import annotations

from itertools import islice
from math import inf
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from simulator.radix_cache import RadixCache
    from simulator.radix_node import Node
    from simulator.request import Request
    from simulator.schedulers.sglang_line import Line
    from simulator.schedulers.sglang_memory import Memory

__all__ = ["ORDERS", "arrange"]

#: More requests than these are not looked up in the tree to be sorted.
_MOST_MATCHED = 128
#: Passes over the queue from one look at what its first requests would find to the next.
_LOOKS_APART = 32
#: A request that finds no more than this in the tree may wait for another one in the queue that begins alike.
_ALIKE_TOKENS = 32

#: Policies that look requests up in the tree.
_AWARE = frozenset({"lpm", "dfs-weight", "hrrn", "shortest-prefill-first"})


def arrange(name: str, memory: Memory, pool: RadixCache, line: Line, *, ranked: bool) -> None:
    """Bring the waiting requests into the order in which they are offered.

    Parameters
    ----------
    name
        The policy, a key of :data:`ORDERS`.
    memory, pool
        Of the instance.
    line
        The requests as the last pass left them.
    ranked
        The most urgent go first under ``fcfs`` and ``lof``.
    """
    if name in _AWARE and not pool.keeps:
        name = "fcfs"
    if name in {"lpm", "hrrn"} and len(line) > _MOST_MATCHED:
        # Then SGLang neither matches nor sorts, by priority either.
        name, ranked = "fcfs", False
    if name != "fcfs" or ranked:
        queue = list(line)
        late = _match(memory, pool, queue) if name in _AWARE else set()
        order = _urgent_longest_output if ranked and name == "lof" else ORDERS[name]
        line.reorder(order(memory, pool, queue, late))
    if name not in _AWARE and line and pool.keeps:
        _refresh(memory, pool, line)


def _match(memory: Memory, pool: RadixCache, queue: Sequence[Request]) -> set[int]:
    """Look every request up, and return those that do better to wait for another one."""
    late: set[int] = set()
    known: dict[int, int] = {}
    for request in queue:
        seat = memory.seats[request.index]
        found, seat.node = pool.match(request, request.tokens)
        seat.found, seat.matched = found, min(found, request.tokens - 1)
        if found <= _ALIKE_TOKENS:
            if _shared(request, known) >= _ALIKE_TOKENS:
                late.add(request.index)
            else:
                _note(request, known)
    return late


def _shared(request: Request, known: Mapping[int, int]) -> int:
    """Return how many tokens a request begins with that another one begins with."""
    shared = 0
    for content, end in (*zip(request.prefix, request.prefix_ends, strict=True), (request.own_content, request.tokens)):
        up_to = min(known.get(content, 0), end)
        shared = max(shared, up_to)
        if up_to < end:
            break
    return shared


def _note(request: Request, known: dict[int, int]) -> None:
    for content, end in zip(request.prefix, request.prefix_ends, strict=True):
        known[content] = max(known.get(content, 0), end)
    known[request.own_content] = request.tokens


def _refresh(memory: Memory, pool: RadixCache, line: Line) -> None:
    """Look, now and then, at what the first requests would find, so that it is not evicted before they come."""
    memory.looks += 1
    if memory.looks % _LOOKS_APART == 1:
        for request in reversed(list(islice(line, _MOST_MATCHED))):
            pool.match(request, request.tokens)


def _first_come(memory: Memory, _pool: RadixCache, queue: list[Request], _late: set[int]) -> list[Request]:
    queue.sort(key=lambda request: (request.priority, memory.seats[request.index].entered))
    return queue


def _longest_prefix(memory: Memory, _pool: RadixCache, queue: list[Request], late: set[int]) -> list[Request]:
    queue.sort(key=lambda request: inf if request.index in late else -memory.seats[request.index].matched)
    return queue


def _longest_output(memory: Memory, _pool: RadixCache, queue: list[Request], _late: set[int]) -> list[Request]:
    queue.sort(key=lambda request: _answer(memory, request))
    return queue


def _urgent_longest_output(memory: Memory, _pool: RadixCache, queue: list[Request], _late: set[int]) -> list[Request]:
    queue.sort(key=lambda request: (request.priority, _answer(memory, request)))
    return queue


def _answer(memory: Memory, request: Request) -> int:
    """Return the length of the longest answer, less than zero."""
    seat = memory.seats[request.index]
    return seat.prompt - seat.limit


def _shuffled(memory: Memory, _pool: RadixCache, queue: list[Request], _late: set[int]) -> list[Request]:
    memory.random.shuffle(queue)
    return queue


def _response_ratio(memory: Memory, _pool: RadixCache, queue: list[Request], late: set[int]) -> list[Request]:
    def key(request: Request) -> tuple[float, int]:
        if request.index in late:
            return inf, request.index
        seat = memory.seats[request.index]
        uncached = seat.prompt - seat.matched
        if uncached <= 0:
            return -inf, request.index
        return -(memory.processed - seat.processed) / uncached, request.index

    queue.sort(key=key)
    return queue


def _shortest_prefill(memory: Memory, _pool: RadixCache, queue: list[Request], late: set[int]) -> list[Request]:
    def key(request: Request) -> tuple[bool, int, int]:
        seat = memory.seats[request.index]
        return request.index in late, max(1, request.tokens - seat.matched), seat.entered

    queue.sort(key=key)
    return queue


def _by_subtree(memory: Memory, pool: RadixCache, queue: list[Request], _late: set[int]) -> list[Request]:
    """Order requests by a walk over the tree, first where the most of them go on."""
    ending: dict[Node, list[Request]] = {}
    weights: dict[Node, int] = {}
    for request in queue:
        node = memory.seats[request.index].node or pool.root
        ending.setdefault(node, []).append(request)
        walked: Node | None = node
        while walked is not None:
            weights[walked] = weights.get(walked, 0) + 1
            walked = walked.parent
    order: list[Request] = []
    stack: list[tuple[Node, bool]] = [(pool.root, False)]
    while stack:
        node, visited = stack.pop()
        if visited:
            order.extend(ending.get(node, ()))
            continue
        stack.append((node, True))
        children = [child for child in node.children.values() if child in weights]
        children.sort(key=lambda child: -weights[child])
        stack.extend((child, False) for child in reversed(children))
    return order


#: Every schedule policy by name: sorts a list of requests, knowing who does better to wait.
ORDERS: Mapping[str, Callable[[Memory, RadixCache, list[Request], set[int]], list[Request]]] = MappingProxyType(
    {
        "fcfs": _first_come,
        "lpm": _longest_prefix,
        "lof": _longest_output,
        "random": _shuffled,
        "hrrn": _response_ratio,
        "shortest-prefill-first": _shortest_prefill,
        "dfs-weight": _by_subtree,
    }
)
