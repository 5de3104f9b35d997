"""What a chip without measurements of its own borrows from a chip that has them.

Fractions of a peak carry over as they are: they say how well kernels of an architecture are written.
Of an all-reduce only alpha does; the bus bandwidth is scaled by the ratio of the link bandwidths.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hardware.efficiency import Efficiency
from hardware.errors import CatalogueError
from hardware.tables import validated

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from hardware.chip import Chip, Datasheet
    from hardware.efficiency import AllReduce

__all__ = ["resolve_efficiency"]

_FRACTIONS = (
    "gemm_bf16",
    "gemm_fp8",
    "gemm_floor_s",
    "hbm_decode_attention",
    "prefill_attention_bf16",
    "vit_attention_bf16",
)


def resolve_efficiency(
    measured: Mapping[str, Any], sheet: Datasheet, donors: Mapping[str, Chip], where: str
) -> Efficiency:
    """Complete the efficiency of a chip with that of its donors.

    Parameters
    ----------
    measured
        The ``[efficiency]`` table of the chip's file, without ``like`` and ``pcie_like``.
    sheet
        The chip's datasheet.
    donors
        ``like``: the chip that gives what is absent. ``pcie_like``: the chip that gives the
        all-reduce of groups that scale-up ports do not join; `like` where it is not given.
    where
        The file, for error sentences.

    Returns
    -------
    Efficiency
        Complete, with the borrowed keys named in `borrowed`.

    Raises
    ------
    CatalogueError
        A key is unknown, wrong, or absent with nobody to borrow it from.
    """
    table = dict(measured)
    borrowed: dict[str, str] = {}
    if "like" in donors:
        borrowed = _borrow_fractions(table, sheet, donors["like"])
    absent = [key for key in _FRACTIONS if key not in table and key != "gemm_fp8"]
    if absent and table.keys() <= Efficiency.model_fields.keys():
        raise CatalogueError(
            f"{where}: key 'efficiency.{absent[0]}' is missing: give it, or name a chip of the catalogue "
            f"to borrow it from, such as efficiency.like = 'h100_sxm'"
        )
    own = validated(Efficiency, table, where, "efficiency.")
    rows = {row.chips: row for row in own.all_reduce}
    for row, donor in _borrowed_groups(sheet, donors):
        if row.chips not in rows:
            rows[row.chips] = row
            borrowed |= _origin(f"all_reduce.{row.chips}", donor)
    complete = tuple(rows[chips] for chips in sorted(rows))
    return own.model_copy(update={"all_reduce": complete, "borrowed": tuple(sorted(borrowed.items()))})


def _borrow_fractions(table: dict[str, Any], sheet: Datasheet, donor: Chip) -> dict[str, str]:
    """Fill the keys absent from `table`; FP8 figures only where the chip has FP8."""
    keys = [key for key in _FRACTIONS if key not in table and getattr(donor.efficiency, key) is not None]
    wanted = [key for key in keys if key != "gemm_fp8" or sheet.flops_per_s.fp8]
    table.update({key: getattr(donor.efficiency, key) for key in wanted})
    return {key: chip for one in wanted for key, chip in _origin(one, donor).items()}


def _origin(key: str, donor: Chip) -> dict[str, str]:
    """Return the chip that a donor's figure was measured on: the donor may have borrowed it too."""
    return {key: dict(donor.efficiency.borrowed).get(key, donor.name)}


def _borrowed_groups(sheet: Datasheet, donors: Mapping[str, Chip]) -> Iterator[tuple[AllReduce, Chip]]:
    """Yield the donors' all-reduce of each group size, scaled to the links of this chip."""
    for joined in (True, False):
        donor = donors.get("like" if joined else "pcie_like", donors.get("like"))
        if donor is None:
            continue
        for row in donor.efficiency.all_reduce:
            if sheet.on_scale_up(row.chips) == joined:
                yield _scaled(row, sheet, donor), donor


def _scaled(row: AllReduce, sheet: Datasheet, donor: Chip) -> AllReduce:
    ratio = sheet.group_link_bytes_per_s(row.chips) / donor.group_link_bytes_per_s(row.chips)
    return row.model_copy(update={"bus_bytes_per_s": row.bus_bytes_per_s * ratio})
