"""Rules of how measured runs were launched: from what a case says of itself to engine options, formats and client.

A rules file is TOML. ``[models]`` and ``[chips]`` give names their meaning here; ``[[rule]]`` tables follow each other,
and what a later one sets counts. A rule holds for a case if everything in its ``when`` does: a text is a pattern as
shells have them (``"DeepSeek-*"``), a list is any of its members, ``{ from = 8, below = 16 }`` a span of numbers or
dates. What is not known of a case meets no condition.
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, TypeAlias

from pydantic import AfterValidator, Field

from hardware.errors import CaseError, suggest
from hardware.strict import Strict
from hardware.tables import read_table, validated

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from simulator.cases import Case

__all__ = ["FORMULAS", "Facts", "LaunchRules", "Rule", "Settings", "load_rules"]

Facts: TypeAlias = "Mapping[str, str | float]"
"""What rules may ask of a case, by name; what is not known is not there."""

_SHIPPED: Final = Path(__file__).with_name("launch_rules.toml")
_TEXT_FACTS: Final = (
    *(
        "case_id",
        "origin",
        "engine",
        "engine_version",
        "model",
        "publisher",
        "precision",
        "chip",
        "date",
        "mode",
        "stage",
        "recipe",
    ),
    "mtp_label",
)
_NUMBER_FACTS: Final = (
    *("isl", "osl", "concurrency", "tensor_parallel", "data_parallel", "expert_parallel", "prefill_dp", "decode_dp"),
    *("batch", "chips", "drafts"),
)


def _prompt_and_batch(facts: Mapping[str, float]) -> int:
    """Return the tokens of one prompt, one token for each user and 64 to spare, up to a multiple of 64."""
    return -(-int(facts["isl"] + facts["concurrency"] + 64) // 64) * 64


#: What an option may be computed by; each takes numbers of a case.
FORMULAS: Final[Mapping[str, Callable[[Mapping[str, float]], int]]] = MappingProxyType(
    {
        "concurrency": lambda facts: int(facts["concurrency"]),
        "concurrency_per_rank": lambda facts: -(-int(facts["concurrency"]) // int(facts["data_parallel"])),
        "two_prompts": lambda facts: 2 * int(facts["isl"]),
        "longest": lambda facts: int(facts["isl"] + facts["osl"]) + 20,
        "prompt_and_batch": _prompt_and_batch,
        "prompt_and_batch_or_8192": lambda facts: max(_prompt_and_batch(facts), 8192),
        "two_prompts_and_batch": lambda facts: 2 * int(facts["isl"]) + int(facts["concurrency"]),
        "prompt_and_batch_in_blocks": lambda facts: -(-(int(facts["isl"] + facts["concurrency"]) + 500) // 32) * 32,
        "generated_prefill": lambda facts: int(facts["isl"]) + 1500,
        "recipe_batch": lambda facts: int(facts["batch"]),
        "chips": lambda facts: int(facts["chips"]),
        "recipe_drafts": lambda facts: int(facts["drafts"]),
    }
)


def _known_facts(when: dict[str, Any]) -> dict[str, Any]:
    known = (*_TEXT_FACTS, *_NUMBER_FACTS)
    for name in when:
        if name not in known:
            raise ValueError(f"asks for {name!r}, which is not known of a case; {suggest(name, known)}")
    return when


class Span(Strict):
    """Numbers or dates from one on, below another."""

    since: Annotated[float | str | None, Field(alias="from")] = None
    below: float | str | None = None

    def holds(self, found: str | float) -> bool:
        """Tell whether a value lies within."""
        bounds = ((self.since, True), (self.below, False))
        for bound, wanted in bounds:
            if bound is not None and (_comparable(found, bound) >= _comparable(bound, bound)) is not wanted:
                return False
        return True


def _comparable(value: str | float, bound: str | float) -> Any:  # noqa: ANN401 - numbers with numbers, texts with texts
    return str(value) if isinstance(bound, str) else float(value)


_Condition: TypeAlias = str | float | Span | tuple[str | float, ...]


def _known_formulas(options: dict[str, Any]) -> dict[str, Any]:
    """Check every ``{ formula = NAME }`` of a table, inner tables included."""
    for key, value in options.items():
        if isinstance(value, dict):
            formula = _formula(value)
            if formula is None:
                _known_formulas(value)
            elif formula not in FORMULAS:
                raise ValueError(f"{key}: formula {formula!r} is unknown; {suggest(formula, FORMULAS)}")
    return options


def _formula(value: dict[str, Any]) -> str | None:
    return str(value["formula"]) if set(value) == {"formula"} else None


class Settings(Strict):
    """How a case was run, or what one rule says of it.

    Attributes
    ----------
    model, pool, network
        Keys of these tables of a scenario.
    engine_options
        Options of the engine under its own names.
    client
        ``requests_per_user``, ``shortest`` (lengths are uniform from this share of the nominal ones), ``sent_before``
        (every prompt was sent once before, so that caches know it).
    """

    model: dict[str, Any] = Field(default_factory=dict)
    pool: Annotated[dict[str, Any], AfterValidator(_known_formulas)] = Field(default_factory=dict)
    network: dict[str, Any] = Field(default_factory=dict)
    engine_options: Annotated[dict[str, Any], AfterValidator(_known_formulas)] = Field(default_factory=dict)
    client: dict[str, Any] = Field(default_factory=dict)


class Rule(Strict):
    """One rule.

    Attributes
    ----------
    why
        Where it comes from.
    when
        Conditions by fact; all must hold.
    set
        What the run was then launched with.
    skip
        Why such a case is not replayed.
    """

    why: str = ""
    when: Annotated[dict[str, _Condition], AfterValidator(_known_facts)] = Field(default_factory=dict)
    set: Settings = Settings()
    skip: str | None = None

    def holds(self, facts: Facts) -> bool:
        """Tell whether every condition holds."""
        return all(name in facts and _meets(facts[name], wanted) for name, wanted in self.when.items())


class LaunchRules(Strict):
    """A rules file.

    Attributes
    ----------
    extends
        The rules that are shipped come first, and their names count where this file has none.
    models, chips
        Patterns of names that cases use, and what each is called here; the first that fits counts.
    rule
        Rules in order.
    """

    extends: Literal["shipped"] | None = None
    models: dict[str, str] = Field(default_factory=dict)
    chips: dict[str, str] = Field(default_factory=dict)
    rule: tuple[Rule, ...] = ()

    def model_name(self, case: Case) -> str:
        """Return what the model of a case is called here."""
        return _renamed(self.models, case.model)

    def chip_name(self, case: Case) -> str:
        """Return what the chip of a case is called here."""
        return _renamed(self.chips, case.texts.get("gpu", ""))

    def settings(self, facts: Facts) -> Settings:
        """Return what all rules that hold come to.

        Raises
        ------
        CaseError
            If a rule says that such a case is not replayed.
        """
        found: dict[str, Any] = Settings().model_dump()
        numbers = {name: float(value) for name, value in facts.items() if not isinstance(value, str)}
        for rule in self.rule:
            if rule.holds(facts):
                if rule.skip is not None:
                    raise CaseError(rule.skip)
                _merge(found, rule.set.model_dump(), numbers)
        return Settings(**found)

    def with_pool(self, keys: Mapping[str, Any]) -> LaunchRules:
        """Return the same rules, after which every pool of every case has these keys."""
        return self.model_copy(update={"rule": (*self.rule, Rule(set=Settings(pool=dict(keys))))})


def load_rules(path: str | Path | None = None) -> LaunchRules:
    """Read a rules file; None takes the one that is shipped.

    Raises
    ------
    CaseError
        If it cannot be read, or has a key, fact or formula that is not known.
    """
    file = _SHIPPED if path is None else Path(path)
    found = validated(LaunchRules, read_table(file, CaseError), str(file), error=CaseError)
    if found.extends is None:
        return found
    base = load_rules()
    return LaunchRules(
        models=_over(base.models, found.models), chips=_over(base.chips, found.chips), rule=base.rule + found.rule
    )


def _over(base: Mapping[str, str], own: Mapping[str, str]) -> dict[str, str]:
    """Return names whose own patterns are tried before those of the base."""
    return {**own, **{pattern: name for pattern, name in base.items() if pattern not in own}}


def _renamed(names: Mapping[str, str], found: str) -> str:
    return next((name for pattern, name in names.items() if _like(found, pattern)), found)


def _meets(found: str | float, wanted: _Condition) -> bool:
    if isinstance(wanted, Span):
        return wanted.holds(found)
    if isinstance(wanted, tuple):
        return any(_meets(found, one) for one in wanted)
    return _like(found, wanted) if isinstance(found, str) else float(found) == wanted


def _like(found: str, pattern: str | float) -> bool:
    return fnmatchcase(found.lower(), str(pattern).lower())


def _merge(into: dict[str, Any], table: Mapping[str, Any], numbers: Mapping[str, float]) -> None:
    """Put a table over another, inner tables over inner ones, formulas computed."""
    for key, value in table.items():
        if not isinstance(value, dict):
            into[key] = value
        elif (formula := _formula(value)) is None:
            _merge(into.setdefault(key, {}), value, numbers)
        else:
            into[key] = _computed(key, formula, numbers)


def _computed(key: str, formula: str, numbers: Mapping[str, float]) -> int:
    try:
        return FORMULAS[formula](numbers)
    except KeyError as missing:
        raise CaseError(
            f"{key} is computed by {formula}, which needs {missing.args[0]}, and that is not known of this case"
        ) from missing
