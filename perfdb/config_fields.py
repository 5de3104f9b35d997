"""The fields of a Hugging Face ``config.json``, under whichever name a family gives them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from hardware.errors import CatalogueError
from perfdb.model import FAMILIES

__all__ = ["ConfigFields"]

#: Other names of a size, in the order they are looked for: ``configuration_*.py`` in huggingface/transformers.
_OTHER_NAMES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "hidden_size": ("n_embed", "d_model"),
        "num_hidden_layers": ("n_layer", "depth", "encoder_layers"),
        "num_attention_heads": ("n_head", "num_heads", "encoder_attention_heads"),
        "num_key_value_heads": ("num_kv_heads", "n_head_kv"),
        "intermediate_size": ("ffn_dim", "ffn_hidden_size", "n_inner", "encoder_ffn_dim"),
        "num_experts": ("num_local_experts", "n_routed_experts"),
        "num_experts_per_tok": ("experts_per_token",),
        "in_channels": ("in_chans",),
    }
)
#: What a multimodal wrapper may say for the language model inside it, and where it describes that.
_OF_WRAPPER = ("architectures", "quantization_config", "tie_word_embeddings")
_INSIDE = ("text_config", "llm_config")
#: Architecture of a language model inside a wrapper that says its ``model_type`` alone.
_BY_TYPE: Mapping[str, str] = MappingProxyType(
    {
        "llama": "LlamaForCausalLM",
        "mistral": "MistralForCausalLM",
        "qwen2": "Qwen2ForCausalLM",
        "qwen3": "Qwen3ForCausalLM",
        "qwen3_moe": "Qwen3MoeForCausalLM",
        "internlm2": "InternLM2ForCausalLM",
    }
)
#: Sizes that a wrapper leaves out where they are those of the class (``configuration_llama.py`` and
#: ``configuration_mistral.py`` in huggingface/transformers): LLaVA's do.
_LLAMA_SIZES = {
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "vocab_size": 32000,
}
_SIZES_OF_CLASS: Mapping[str, Mapping[str, int]] = MappingProxyType(
    {"llama": _LLAMA_SIZES, "mistral": _LLAMA_SIZES | {"intermediate_size": 14336, "num_key_value_heads": 8}}
)


@dataclass(frozen=True)
class ConfigFields:
    """Fields of a configuration, looked up by the name most families use.

    Attributes
    ----------
    name
        What to call the model in messages.
    fields
        Those of the language model.
    """

    name: str
    fields: Mapping[str, Any]

    @classmethod
    def of(cls, name: str, config: Mapping[str, Any]) -> ConfigFields:
        """Return the fields of the language model, looking through a multimodal wrapper (``text_config``)."""
        found = next((config[key] for key in _INSIDE if isinstance(config.get(key), Mapping)), None)
        if found is None:
            return cls(name, config)
        kind = str(found.get("model_type"))
        named = {"architectures": [_BY_TYPE[kind]]} if kind in _BY_TYPE else {}
        inner = {**_SIZES_OF_CLASS.get(kind, {}), **named, **{k: v for k, v in found.items() if v is not None}}
        outer = {key: config[key] for key in _OF_WRAPPER if key in config}
        fields = cls(name, {**outer, **inner})
        # The model inside may be one on its own; if it is not known by itself, the wrapper's name says what it is.
        return fields if fields._named() in FAMILIES else cls(name, {**inner, **outer})

    def architecture(self) -> str:
        """Return the architecture.

        Raises
        ------
        CatalogueError
            If it is not a key of :data:`perfdb.model.FAMILIES`.
        """
        if self._named() not in FAMILIES:
            known = sorted({name.partition("For")[0] for name in FAMILIES})
            raise CatalogueError(
                f"{self.name}: architecture {self._named()!r} is not a transformer servesim prices; "
                f"expected one of the families {', '.join(known)}"
            )
        return self._named()

    def _named(self) -> str:
        found = self.fields.get("architectures") or ["(none)"]
        return str(found[0] if isinstance(found, list) else found)

    def size(self, field: str, default: int | None = None) -> int:
        """Return a positive integer.

        Raises
        ------
        CatalogueError
            If it is something else, or missing without a default.
        """
        given = (self.fields.get(key) for key in (field, *_OTHER_NAMES.get(field, ())))
        value = next((value for value in given if value is not None), default)
        if not isinstance(value, int) or isinstance(value, bool) or value <= 0:
            raise CatalogueError(f"{self.name}: {field} is {value!r}, expected a positive integer")
        return value

    def number(self, field: str, default: int = 0) -> int:
        """Return an integer that may be 0 or missing.

        Raises
        ------
        CatalogueError
            If it is something else.
        """
        value = self.fields.get(field)
        if value is None:
            return default
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise CatalogueError(f"{self.name}: {field} is {value!r}, expected an integer of at least 0")
        return value

    def flag(self, field: str, *, default: bool = False) -> bool:
        """Return whether a field is set and true."""
        return bool(self.fields.get(field, default))

    def of_layer(self, field: str, layer: int) -> Any:  # noqa: ANN401 - an entry of a list in a file
        """Return the entry of one layer in a list with one per layer, None where there is no such list.

        Raises
        ------
        CatalogueError
            If the list is shorter than the stack.
        """
        listed = self.fields.get(field)
        if not listed:
            return None
        if not isinstance(listed, list) or len(listed) <= layer:
            raise CatalogueError(
                f"{self.name}: {field} has no entry for layer {layer}, expected one for each of num_hidden_layers"
            )
        return listed[layer]
