"""Read the encoder of a multimodal model from its Hugging Face configuration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from perfdb.config_fields import ConfigFields
from perfdb.encoder import EncoderSpec, Projection
from perfdb.media_rules import AnyResolution, Clips, PatchGrid, Slices, Tiles
from perfdb.parts import GroupedQuery, Layers, Mlp

if TYPE_CHECKING:
    from collections.abc import Callable, Container

__all__ = ["ENCODERS", "read_encoder"]


@dataclass(frozen=True, slots=True)
class _Tower:
    """What an encoder's configuration leaves implicit.

    Attributes
    ----------
    gated
        The MLP has a gate.
    norm_tensors
        Vectors of a norm: 1 (RMS) or 2 (LayerNorm).
    patch_bias
        The embedding of patches has one.
    scales
        Each layer scales what its two parts return by a vector.
    rotary
        Queries and keys are rotated by their positions; else a position is added to each patch.
    """

    gated: bool = False
    norm_tensors: int = 2
    patch_bias: bool = True
    scales: bool = False
    rotary: bool = False


#: Limits of Qwen2-VL and Qwen2.5-VL: an image of 4 to 16,384 tokens of 28 x 28 pixels (their
#: ``preprocessor_config.json``), a frame of 128 to 768 (``Qwen2VLVideoProcessor`` in huggingface/transformers 5.24).
_QWEN2_GRID = PatchGrid(14, 2, 2, 3_136, 12_845_056, 128 * 28**2, 768 * 28**2)
#: Limits of Qwen3-VL and Qwen3.5: 64 to 16,384 tokens of 32 x 32 pixels, and of a video in all (their
#: ``preprocessor_config.json`` and ``video_preprocessor_config.json``).
_QWEN3_GRID = PatchGrid(16, 2, 2, 65_536, 16_777_216, 4_096, 25_165_824, whole_video=True)
#: Canvases of LLaVA-NeXT, where its configuration does not list them (``image_grid_pinpoints``).
_CANVASES = ((336, 672), (672, 336), (672, 672), (1008, 336), (336, 1008))


def read_encoder(name: str, config: Mapping[str, Any], text_hidden: int) -> EncoderSpec | None:
    """Return the encoder that a configuration describes; None where there is none, or none that is known.

    Parameters
    ----------
    name
        What to call the model in messages.
    config
        The fields of ``config.json``, with ``vision_config`` or ``audio_config``.
    text_hidden
        Width of the language model, elements.

    Raises
    ------
    CatalogueError
        If a shape is missing or impossible.
    """
    listed = config.get("architectures") or [""]
    reader = ENCODERS.get(str(listed[0] if isinstance(listed, list) else listed))
    kind = next((key for key in ("vision_config", "audio_config") if isinstance(config.get(key), Mapping)), None)
    if reader is None or kind is None:
        return None
    return reader(ConfigFields(f"{name}: {kind}", config[kind]), ConfigFields(name, config), text_hidden)


def _layers(fields: ConfigFields, tower: _Tower, hidden: int, full: Container[int], window: int) -> tuple[Layers, ...]:
    """Return the layers: those listed in ``full`` see whole sequences, the others ``window`` patches."""
    heads = fields.size("num_attention_heads")
    width = fields.size("intermediate_size", hidden * fields.size("mlp_ratio", 4))
    bias = fields.flag("qkv_bias", default=fields.flag("attention_bias", default=True))
    attention = GroupedQuery(
        heads,
        heads,
        hidden // heads,
        qkv_bias=bias,
        out_bias=True,
        qk_norm_whole=fields.flag("qk_normalization", default=fields.flag("use_qk_norm")),
        rotary=tower.rotary,
    )
    mlp, layers = Mlp(width, tower.gated, bias=True), fields.size("num_hidden_layers")
    seeing = len([layer for layer in range(layers) if layer in full])
    kinds = (Layers(seeing, attention, mlp), Layers(layers - seeing, replace(attention, window=window), mlp))
    return tuple(kind for kind in kinds if kind.count)


def _norms(fields: ConfigFields, tower: _Tower, hidden: int, extra: int) -> int:
    """Return the vectors of the layers' norms and scales, and of ``extra`` norms as wide as they."""
    layers = fields.size("num_hidden_layers")
    return hidden * (tower.norm_tensors * (2 * layers + extra) + 2 * tower.scales * layers)


def _of_grid(grid: PatchGrid, tower: _Tower) -> Callable[[ConfigFields, ConfigFields, int], EncoderSpec]:
    """Return a reader of encoders of any resolution, whose merger joins neighbouring patches."""

    def read(fields: ConfigFields, _config: ConfigFields, text_hidden: int) -> EncoderSpec:
        # Qwen2-VL calls its own width embed_dim, and that of the language model hidden_size.
        own = fields.fields.get("embed_dim") is not None
        hidden = fields.size("embed_dim" if own else "hidden_size")
        out = fields.size("out_hidden_size", text_hidden)
        rule = replace(
            grid,
            patch=fields.size("patch_size", grid.patch),
            merge=fields.size("spatial_merge_size", grid.merge),
            frames_per_patch=fields.size("temporal_patch_size", grid.frames_per_patch),
            min_pixels=fields.size("min_pixels", grid.min_pixels),
            max_pixels=fields.size("max_pixels", grid.max_pixels),
            window=fields.number("window_size"),
        )
        layers = range(fields.size("num_hidden_layers"))
        full = (fields.fields.get("fullatt_block_indexes") or []) if rule.window else layers
        taps = len(fields.fields.get("deepstack_visual_indexes") or [])
        merged = hidden * rule.merge**2
        pixels = fields.size("in_channels", 3) * rule.frames_per_patch * rule.patch**2
        return EncoderSpec(
            name=fields.name.partition(":")[0],
            rule=rule,
            hidden=hidden,
            stack=_layers(fields, tower, hidden, full, (rule.window // rule.patch) ** 2),
            around=(
                Projection("patch_embedding", pixels, hidden, "patch", bias=tower.patch_bias),
                Projection("merger_in", merged, merged, "token", 1 + taps, cut="columns"),
                Projection("merger_out", merged, out, "token", 1 + taps, cut="rows"),
            ),
            features=out * (1 + taps),
            vectors=_norms(fields, tower, hidden, 1 + taps * rule.merge**2)
            + fields.number("num_position_embeddings") * hidden,
        )

    return read


def _square(fields: ConfigFields, field: str) -> int:
    """Return a side that may be listed as height and width."""
    listed = fields.fields.get(field)
    inner = {field: listed[0]} if isinstance(listed, list) and listed else fields.fields
    return ConfigFields(fields.name, inner).size(field)


def _internvl(fields: ConfigFields, config: ConfigFields, text_hidden: int) -> EncoderSpec:
    tower = _Tower(scales=True, norm_tensors=1 if fields.fields.get("norm_type") == "rms_norm" else 2)
    hidden, side, patch = fields.size("hidden_size"), _square(fields, "image_size"), _square(fields, "patch_size")
    patches = (side // patch) ** 2
    shrink = round(1 / float(config.fields.get("downsample_ratio", 0.5))) ** 2
    return EncoderSpec(
        name=config.name,
        rule=Tiles(patches, patches // shrink, side, config.size("max_dynamic_patch", 12)),
        hidden=hidden,
        stack=_layers(fields, tower, hidden, range(fields.size("num_hidden_layers")), 0),
        around=(
            Projection("patch_embedding", 3 * patch**2, hidden, "patch"),
            Projection("projector_in", shrink * hidden, text_hidden, "token"),
            Projection("projector_out", text_hidden, text_hidden, "token"),
        ),
        features=text_hidden,
        vectors=_norms(fields, tower, hidden, 0) + (2 * shrink + patches + 2) * hidden,
    )


def _llava(fields: ConfigFields, config: ConfigFields, text_hidden: int) -> EncoderSpec:
    tower, hidden = _Tower(patch_bias=False), fields.size("hidden_size")
    side, patch = fields.size("image_size"), fields.size("patch_size")
    patches = (side // patch) ** 2
    return EncoderSpec(
        name=config.name,
        rule=Tiles(patches, patches, side),
        hidden=hidden,
        stack=_layers(fields, tower, hidden, range(fields.size("num_hidden_layers")), 0),
        around=(
            Projection("patch_embedding", 3 * patch**2, hidden, "patch", bias=False),
            Projection("projector_in", hidden, text_hidden, "patch", cut="columns"),
            Projection("projector_out", text_hidden, text_hidden, "patch", cut="rows"),
        ),
        features=text_hidden,
        # A norm before the layers and one after them, positions, and the class embedding.
        vectors=_norms(fields, tower, hidden, 2) + (patches + 2) * hidden,
    )


def _llava_next(fields: ConfigFields, config: ConfigFields, text_hidden: int) -> EncoderSpec:
    found = _llava(fields, config, text_hidden)
    listed = config.fields.get("image_grid_pinpoints") or _CANVASES
    canvases = tuple((int(height), int(width)) for height, width in listed)
    rule = AnyResolution(fields.size("image_size"), fields.size("patch_size"), canvases)
    return replace(found, rule=rule, vectors=found.vectors + text_hidden)


def _minicpm_v(fields: ConfigFields, config: ConfigFields, text_hidden: int) -> EncoderSpec:
    tower, hidden = _Tower(), fields.size("hidden_size")
    sliced = config.fields.get("slice_config")
    slices = ConfigFields(f"{config.name}: slice_config", sliced if isinstance(sliced, Mapping) else {})
    patch, queries = fields.size("patch_size"), config.size("query_num", 64)
    positions = (fields.size("image_size") // patch) ** 2
    # The resampler: learned queries attend to the patches of a slice, at the width of the language model.
    resampler = (
        Projection("resampler_in", hidden, text_hidden, "patch", bias=False),
        Projection("resampler_keys_values", text_hidden, 2 * text_hidden, "patch"),
        Projection("resampler_queries", text_hidden, text_hidden, "token"),
        Projection("resampler_attention_out", text_hidden, text_hidden, "token"),
        Projection("resampler_out", text_hidden, text_hidden, "token", bias=False),
    )
    return EncoderSpec(
        name=config.name,
        rule=Slices(slices.size("scale_resolution", 448), patch, queries, slices.size("max_slice_nums", 9)),
        hidden=hidden,
        stack=_layers(fields, tower, hidden, range(fields.size("num_hidden_layers")), 0),
        around=(Projection("patch_embedding", 3 * patch**2, hidden, "patch"), *resampler),
        features=text_hidden,
        vectors=_norms(fields, tower, hidden, 1) + positions * hidden + (queries + 6) * text_hidden,
    )


def _whisper(fields: ConfigFields, config: ConfigFields, text_hidden: int) -> EncoderSpec:
    tower, hidden = _Tower(), fields.size("d_model")
    positions = fields.size("max_source_positions", 1500)
    # Two convolutions over three frames each: one over the mel frames, of which a position has two.
    return EncoderSpec(
        name=config.name,
        rule=Clips(seconds=positions // 50, pool=2),
        hidden=hidden,
        stack=_layers(fields, tower, hidden, range(fields.size("num_hidden_layers")), 0),
        around=(
            Projection("convolution_in", 2 * 3 * fields.size("num_mel_bins"), hidden, "patch"),
            Projection("convolution_out", 3 * hidden, hidden, "patch"),
            Projection("projector", hidden, text_hidden, "token"),
        ),
        features=text_hidden,
        vectors=_norms(fields, tower, hidden, 1) + positions * hidden,
    )


_QWEN2_VL = _of_grid(_QWEN2_GRID, _Tower(patch_bias=False, rotary=True))
_QWEN25_VL = _of_grid(_QWEN2_GRID, _Tower(gated=True, norm_tensors=1, patch_bias=False, rotary=True))
_OPENPANGU_VL = _of_grid(_QWEN2_GRID, _Tower(norm_tensors=1, patch_bias=False, rotary=True))
_QWEN3_VL = _of_grid(_QWEN3_GRID, _Tower(rotary=True))

#: Readers by the ``architectures`` entry of the whole model. Structure as in the Hugging Face model definitions; each
#: is checked by counting parameters against published sizes.
ENCODERS: Mapping[str, Callable[[ConfigFields, ConfigFields, int], EncoderSpec]] = MappingProxyType(
    {
        "Qwen2VLForConditionalGeneration": _QWEN2_VL,
        "Qwen2_5_VLForConditionalGeneration": _QWEN25_VL,
        "Qwen3VLForConditionalGeneration": _QWEN3_VL,
        "Qwen3VLMoeForConditionalGeneration": _QWEN3_VL,
        "Qwen3_5ForConditionalGeneration": _QWEN3_VL,
        "Qwen3_5MoeForConditionalGeneration": _QWEN3_VL,
        # openPangu-VL merges and cuts windows as Qwen2.5-VL does.
        "OpenPanguVLForConditionalGeneration": _OPENPANGU_VL,
        "InternVLChatModel": _internvl,
        "InternVLForConditionalGeneration": _internvl,
        "LlavaForConditionalGeneration": _llava,
        "LlavaNextForConditionalGeneration": _llava_next,
        "MiniCPMV": _minicpm_v,
        "Qwen2AudioForConditionalGeneration": _whisper,
    }
)
