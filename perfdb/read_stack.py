"""Read the layers of a Hugging Face configuration: what each is made of, and in which formats."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING

from perfdb.parts import Experts, Layers
from perfdb.read_feed_forward import read_feed_forward
from perfdb.read_mixer import read_mixer

if TYPE_CHECKING:
    from perfdb.config_fields import ConfigFields
    from perfdb.model import Family
    from perfdb.quantisation import Quantisation

__all__ = ["read_stack"]


def read_stack(config: ConfigFields, family: Family, quantisation: Quantisation) -> tuple[Layers, ...]:
    """Return the layers, equal ones together, in the order their kinds first occur.

    Parameters
    ----------
    config
        Fields of the language model.
    family
        What its architecture implies.
    quantisation
        Which matrices are in which format.

    Raises
    ------
    CatalogueError
        If a shape is missing or impossible.
    """
    indices = range(config.size("num_hidden_layers"))
    parts = [(read_mixer(config, family, layer), read_feed_forward(config, family, layer)) for layer in indices]
    sparse = any(isinstance(feed_forward, Experts) for _, feed_forward in parts)
    kinds: Counter[Layers] = Counter()
    for layer, (mixer, feed_forward) in enumerate(parts):
        modules = {**mixer.MODULES, **feed_forward.MODULES}
        kinds[Layers(1, mixer, feed_forward, quantisation.of_layer(layer, modules, sparse=sparse))] += 1
    return tuple(replace(kind, count=count) for kind, count in kinds.items())
