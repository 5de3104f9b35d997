"""A transformer as the simulator sees it: shapes, parameters, KV bytes.

Field names of the input are those of a Hugging Face ``config.json``; a family (the first entry of
``architectures``) adds what that file leaves implicit: gated MLP, biases, norms, position tables.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING

from perfdb.parts import Experts, Latent

if TYPE_CHECKING:
    from collections.abc import Mapping

    from perfdb.encoder import EncoderSpec
    from perfdb.parts import Layers

__all__ = ["FAMILIES", "Family", "ModelSpec"]


@dataclass(frozen=True, slots=True)
class Family:
    """What an architecture's name implies beyond its ``config.json``.

    Attributes
    ----------
    gated_mlp
        The MLP has a gate and an up projection.
    linear_bias
        Every projection has a bias.
    qkv_bias
        The query, key and value projections have one.
    out_bias
        The projection out of attention has one.
    qk_norm
        Queries and keys are normalised per head.
    norm_tensors
        Vectors of a norm: 1 (RMS: weight) or 2 (LayerNorm: weight and bias).
    norms_per_layer
        Norms in each layer.
    extra_norms
        Norms outside the layers, the final one included.
    rotary
        Queries and keys are rotated by their positions; else positions are learned, or a bias of attention.
    position_offset
        Rows of a learned position table beyond ``max_position_embeddings``; None where there is no table.
    head_bias
        The output projection to the vocabulary has a bias.
    tied
        Input and output embeddings are one matrix unless ``tie_word_embeddings`` says otherwise.
    window_switch
        ``sliding_window`` counts only where ``use_sliding_window`` is true, from layer ``max_window_layers`` on.
    window_every
        Without ``layer_types``, the first of so many layers has the sliding window; 0 for no such pattern.
    full_every
        The last of so many layers sees all tokens, the others those of one chunk (``attention_chunk_size``).
    sinks
        Attention has a learned sink per head.
    sparse
        Layers may have experts.
    expert_bias
        The experts' projections and the router have biases.
    shared_experts
        Experts that every token passes, where the configuration does not count them.
    shared_gate
        A gate scales what those return.
    """

    gated_mlp: bool = True
    linear_bias: bool = False
    qkv_bias: bool = False
    out_bias: bool = False
    qk_norm: bool = False
    norm_tensors: int = 1
    norms_per_layer: int = 2
    extra_norms: int = 1
    rotary: bool = True
    position_offset: int | None = None
    head_bias: bool = False
    tied: bool = False
    window_switch: bool = False
    window_every: int = 0
    full_every: int = 0
    sinks: bool = False
    sparse: bool = False
    expert_bias: bool = False
    shared_experts: int = 0
    shared_gate: bool = False


#: Families this version prices, by the ``architectures`` entry of ``config.json``. Structure as in
#: the Hugging Face model definitions; each is checked by counting parameters against published sizes.
#: Defaults of ``tied`` and ``window_switch``: the families' ``configuration_*.py`` in huggingface/transformers.
FAMILIES: Mapping[str, Family] = MappingProxyType(
    {
        "LlamaForCausalLM": Family(),
        "MistralForCausalLM": Family(),
        "Qwen2ForCausalLM": Family(qkv_bias=True, window_switch=True),
        "Qwen3ForCausalLM": Family(qk_norm=True, window_switch=True),
        "PhiForCausalLM": Family(gated_mlp=False, linear_bias=True, norm_tensors=2, norms_per_layer=1, head_bias=True),
        "OPTForCausalLM": Family(
            gated_mlp=False, linear_bias=True, norm_tensors=2, rotary=False, position_offset=2, tied=True
        ),
        "BloomForCausalLM": Family(
            gated_mlp=False, linear_bias=True, norm_tensors=2, extra_norms=2, rotary=False, tied=True
        ),
        "FalconForCausalLM": Family(gated_mlp=False, norm_tensors=2, tied=True),
        "MixtralForCausalLM": Family(sparse=True),
        "Qwen3MoeForCausalLM": Family(qk_norm=True, window_switch=True, sparse=True),
        "GptOssForCausalLM": Family(window_every=2, sinks=True, sparse=True, expert_bias=True),
        "MiniMaxM2ForCausalLM": Family(sparse=True),
        "Llama4ForConditionalGeneration": Family(full_every=4, sparse=True, shared_experts=1),
        "DeepseekV2ForCausalLM": Family(sparse=True),
        "DeepseekV3ForCausalLM": Family(sparse=True),
        "DeepseekV32ForCausalLM": Family(sparse=True),
        "GlmMoeDsaForCausalLM": Family(sparse=True),
        "Qwen3_5ForConditionalGeneration": Family(qk_norm=True),
        "Qwen3_5MoeForConditionalGeneration": Family(qk_norm=True, sparse=True, shared_gate=True),
        "Qwen3NextForCausalLM": Family(qk_norm=True, sparse=True, shared_gate=True),
        "InternLM2ForCausalLM": Family(),
        "Qwen2VLForConditionalGeneration": Family(qkv_bias=True, window_switch=True),
        "Qwen2_5_VLForConditionalGeneration": Family(qkv_bias=True, window_switch=True),
        "Qwen3VLForConditionalGeneration": Family(qk_norm=True),
        "Qwen3VLMoeForConditionalGeneration": Family(qk_norm=True, sparse=True),
        "OpenPanguVLForConditionalGeneration": Family(qkv_bias=True, out_bias=True),
        "MiniCPMV": Family(qkv_bias=True, window_switch=True),
    }
)


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """Shapes of a transformer.

    Attributes
    ----------
    name
        Preset name or path it was read from.
    family
        What the architecture implies.
    hidden, vocab
        Sizes, in elements.
    max_tokens
        Longest sequence (``max_position_embeddings``).
    stack
        Its layers, those of one kind together.
    tied
        Input and output embeddings are one matrix.
    weights
        Format of what is quantised, a key of :data:`perfdb.formats.WEIGHT_BYTES`; the layers say what is.
    kv_cache
        ``bf16`` or ``fp8``.
    encoder
        What makes tokens of images, videos or sounds; None for a model of text alone.
    """

    name: str
    family: Family
    hidden: int
    vocab: int
    max_tokens: int
    stack: tuple[Layers, ...]
    tied: bool = False
    weights: str = "bf16"
    kv_cache: str = "bf16"
    encoder: EncoderSpec | None = None

    @property
    def layers(self) -> int:
        """Layers of all kinds."""
        return sum(group.count for group in self.stack)

    @property
    def matrix_parameters(self) -> int:
        """Weights of the projections inside the layers."""
        return sum(group.count * weights for group in self.stack for _, weights in group.matrices(self.hidden))

    @property
    def embedding_parameters(self) -> int:
        """Input and output embeddings and the learned position table."""
        family = self.family
        positions = 0 if family.position_offset is None else self.max_tokens + family.position_offset
        matrices = 1 if self.tied else 2
        return (matrices * self.vocab + positions) * self.hidden + (self.vocab if family.head_bias else 0)

    @property
    def vector_parameters(self) -> int:
        """Norms and biases."""
        family = self.family
        norms = (family.norms_per_layer * self.layers + family.extra_norms) * self.hidden * family.norm_tensors
        return norms + sum(group.count * group.vector_parameters(self.hidden) for group in self.stack)

    @property
    def parameters(self) -> int:
        """All parameters, those of an encoder among them, tied embeddings counted once."""
        encoder = self.encoder.parameters if self.encoder else 0
        return self.matrix_parameters + self.embedding_parameters + self.vector_parameters + encoder

    @property
    def active_parameters(self) -> int:
        """Parameters that one token passes: all but the experts its router does not pick."""
        idle = sum(group.count * group.feed_forward.idle_parameters(self.hidden) for group in self.stack)
        return self.parameters - idle

    @property
    def weight_bytes(self) -> int:
        """Bytes of the language model on all chips: matrices in the formats of their layers, the rest in 16 bits."""
        matrices = sum(group.count * group.formats.bytes_of(group.matrices(self.hidden)) for group in self.stack)
        return round(matrices) + 2 * (self.embedding_parameters + self.vector_parameters)

    @property
    def experts(self) -> tuple[Experts, ...]:
        """The mixtures of experts among its layers, one for each kind of layer."""
        return tuple(group.feed_forward for group in self.stack if isinstance(group.feed_forward, Experts))

    @property
    def expert_bytes(self) -> float:
        """Bytes of the routed experts of all layers."""
        return sum(
            group.count * group.formats.bytes_of(((role, weights),))
            for group in self.stack
            if isinstance(group.feed_forward, Experts)
            for role, weights in group.feed_forward.matrices(self.hidden)
            if role == "feed_forward"
        )

    @property
    def whole_bytes(self) -> float:
        """Bytes of what every chip holds whole: what picks the experts, and the projections into latents."""
        return sum(
            group.count * group.formats.bytes_of(((role, weights),))
            for group in self.stack
            for role, weights in group.matrices(self.hidden)
            if role in {"latent", "router"}
        )

    def cuts_experts(self, tensor: int, expert: int, redundant: int = 0) -> bool:
        """Return whether experts can be dealt to ``expert`` groups of chips and each be cut over ``tensor`` chips.

        Parameters
        ----------
        tensor, expert
            See above.
        redundant
            Second copies of some of them, dealt with the others.
        """
        return all(
            (part.experts + redundant) % expert == 0 and part.intermediate % tensor == 0 for part in self.experts
        )

    def expert_copies(self, redundant: int) -> float:
        """Return how many times experts stand in memory, over all of them, with so many second copies per layer."""
        return 1 + redundant / self.experts[0].experts if self.experts else 1.0

    @property
    def drafting_layer(self) -> ModelSpec:
        """The model that drafts tokens: a layer more like the last one, with the embedding and head of the model."""
        return replace(self, stack=(replace(self.stack[-1], count=1),), encoder=None)

    @property
    def with_drafting_layer(self) -> ModelSpec:
        """The model and a layer more that drafts tokens, as both stand in memory."""
        *others, last = self.stack
        return replace(self, stack=(*others, replace(last, count=last.count + 1)))

    @property
    def sparse_attention(self) -> bool:
        """Whether an indexer picks the tokens that are looked at."""
        return any(isinstance(group.mixer, Latent) and group.mixer.indexer is not None for group in self.stack)

    @property
    def kv_element_bytes(self) -> int:
        """Bytes of one element of the KV cache."""
        return 1 if self.kv_cache == "fp8" else 2

    @property
    def kv_bytes_per_token(self) -> int:
        """KV-cache bytes of one token over all layers, on all chips, none of them replicated."""
        return self.kv_bytes_on_chip(1)

    def kv_bytes_on_chip(self, chips: int) -> int:
        """Return the KV-cache bytes of one token over all layers, on each of ``chips`` that share every layer."""
        element = self.kv_element_bytes
        return sum(group.count * group.mixer.cached_bytes(element, chips) for group in self.stack)

    @property
    def kv_arrays(self) -> int:
        """Arrays of blocks in the KV cache of one chip that holds all layers."""
        return sum(group.count * group.mixer.cached_arrays for group in self.stack)

    def state_bytes_on_chip(self, chips: int) -> int:
        """Return the bytes of one sequence, over all layers, that do not grow with it, on each of ``chips``."""
        return sum(group.count * group.mixer.state_bytes(chips) for group in self.stack)

    def indivisible(self, chips: int) -> tuple[int, str] | None:
        """Return what cannot be split over so many chips, its size and its name, or None."""
        for group in self.stack:
            for size, name in (*group.mixer.split(), *group.feed_forward.split()):
                if size % chips:
                    return size, name
            for size, name in group.mixer.replicated():
                if size % chips and chips % size:
                    return size, name
        return None
