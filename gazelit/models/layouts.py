"""The layouts of files of transformer weights, and timm's names for their keys.

Publishers name the same transformer's tensors differently, and wrap them in towers. Here a file's layout is recognised
by keys that no other layout has, and its tensors get timm's names. Tensors that belong to no encoder (text towers,
classification heads, mask tokens) are dropped by rule. A tensor that is left over is an error.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from gazelit.errors import InputError

logger = logging.getLogger("gazelit")

State = dict[str, Tensor]


@dataclass(frozen=True)
class Layout:
    """How a publisher names a transformer's tensors.

    Attributes:
        name: As messages call it.
        signature: Keys that a file of this layout has; the text before the first one is the tower's prefix.
        renamed: Regular expressions of keys and their replacements; the first that matches counts.
        dropped: Regular expressions of whole keys that an encoder does not use.
        attention: Names of separate queries, keys and values, which are fused into ``attn.qkv``.
        finish: A function for what remains to be done with the renamed tensors.
    """

    name: str
    signature: tuple[str, ...]
    renamed: tuple[tuple[str, str], ...] = ()
    dropped: tuple[str, ...] = ()
    attention: tuple[str, str, str] | None = None
    finish: tuple[Callable[[State], State], ...] = field(default=())

    def prefix(self, state: Mapping[str, Tensor]) -> str | None:
        """The prefix of this layout's keys, if the file has them; of towers within each other that of the outermost.

        Raises:
            InputError: Several towers lie side by side.
        """
        first = self.signature[0]
        prefixes = [key[: len(key) - len(first)] for key in state if key.endswith(first)]
        # A name must begin where the signature does.
        whole = [prefix for prefix in prefixes if not prefix or prefix.endswith(".")]
        fitting = [prefix for prefix in whole if all(prefix + key in state for key in self.signature)]
        if not fitting:
            return None
        outermost = min(fitting, key=len)
        if not all(prefix.startswith(outermost) for prefix in fitting):
            names = [prefix.removesuffix(".") for prefix in sorted(fitting)]
            raise InputError(f"holds several encoders ({', '.join(names)}); name one, such as FILE#{names[-1]}")
        return outermost


@dataclass(frozen=True)
class Recognised:
    """A file's tensors under timm's names.

    Attributes:
        state: The tensors.
        layout: Name of the layout.
        prefix: Prefix of the tower that was taken.
        dropped: Keys, as in the file, that were left out by rule.
    """

    state: State
    layout: str
    prefix: str
    dropped: list[str]


def _unchunked(state: State) -> State:
    """Blocks that lie in chunks (``blocks.0.3.…``), as Meta trains them, under their own number."""
    return {re.sub(r"^blocks\.\d+\.(\d+)\.", r"blocks.\1.", key): value for key, value in state.items()}


def _registers_apart(state: State) -> State:
    """With registers, timm adds the class token's position to the token, because registers have none."""
    if "reg_token" not in state or "pos_embed" not in state:
        return state
    position = state["pos_embed"]
    return state | {"cls_token": state["cls_token"] + position[:, :1], "pos_embed": position[:, 1:]}


def _fused_gates(state: State) -> State:
    """SwiGLU: two gates in one layer are timm's ``fc1``."""
    renamed = ((".mlp.w12.", ".mlp.fc1."), (".mlp.w3.", ".mlp.fc2."))
    for old, new in renamed:
        state = {key.replace(old, new): value for key, value in state.items()}
    return state


def _shaped(state: State) -> State:
    """Class token (C,) and positions (N, C), as CLIP and SigLIP have them, with timm's leading dimensions."""
    shaped = dict(state)
    if "cls_token" in state:
        shaped["cls_token"] = state["cls_token"].reshape(1, 1, -1)
    if "pos_embed" in state and state["pos_embed"].ndim == 2:
        shaped["pos_embed"] = state["pos_embed"][None]
    return shaped


def _biases_apart(state: State) -> State:
    """DINOv3: timm keeps the biases of queries and values separate; that of keys is masked to 0."""
    result = {}
    for key, value in state.items():
        if key.endswith("attn.qkv.bias"):
            query, _, content = value.chunk(3)
            result[key.replace("qkv.bias", "q_bias")] = query
            result[key.replace("qkv.bias", "v_bias")] = content
        else:
            result[key] = value
    return result


def _biases_of_projections(state: State) -> State:
    """EVA: if queries and values have projections of their own, timm keeps the biases there."""
    if "blocks.0.attn.q_proj.weight" not in state:
        return state
    return {re.sub(r"\.attn\.([qv])_bias$", r".attn.\1_proj.bias", key): value for key, value in state.items()}


def _downsampled_later(state: State) -> State:
    """Swin: down-sampling is at the end of a stage in older files, at the start of the next stage in timm."""

    def renamed(key: str) -> str:
        return re.sub(r"^layers\.(\d+)\.downsample", lambda found: f"layers.{int(found[1]) + 1}.downsample", key)

    return {renamed(key): value for key, value in state.items()}


#: Heads and helpers of training that no encoder has.
_HEADS = (r"head\..*", r"classifier\..*", r"fc\..*", r"mask_token", r"pooler\..*", r"dino_head\..*", r"ibot_head\..*")


def _eva(name: str, *signature: str) -> Layout:
    renamed = (
        (r"blocks\.(\d+)\.attn\.inner_attn_ln\.(.*)", r"blocks.\1.attn.norm.\2"),
        (r"blocks\.(\d+)\.mlp\.ffn_ln\.(.*)", r"blocks.\1.mlp.norm.\2"),
        (r"blocks\.(\d+)\.mlp\.w12\.(.*)", r"blocks.\1.mlp.fc1.\2"),
        (r"blocks\.(\d+)\.mlp\.w1\.(.*)", r"blocks.\1.mlp.fc1_g.\2"),
        (r"blocks\.(\d+)\.mlp\.w2\.(.*)", r"blocks.\1.mlp.fc1_x.\2"),
        (r"blocks\.(\d+)\.mlp\.w3\.(.*)", r"blocks.\1.mlp.fc2.\2"),
    )
    # The authors' features are those of the last block; their normalisation belongs to the head.
    dropped = (r"(.*\.)?rope\..*", r"lm_head\..*", r"(fc_)?norm\..*", *_HEADS)
    return Layout(name, ("patch_embed.proj.weight", *signature), renamed, dropped, finish=(_biases_of_projections,))


LAYOUTS = (
    Layout(
        "DINOv2 of Hugging Face",
        ("embeddings.patch_embeddings.projection.weight", "encoder.layer.0.layer_scale1.lambda1"),
        (
            (r"embeddings\.cls_token", "cls_token"),
            (r"embeddings\.register_tokens", "reg_token"),
            (r"embeddings\.position_embeddings", "pos_embed"),
            (r"embeddings\.patch_embeddings\.projection\.(.*)", r"patch_embed.proj.\1"),
            (r"encoder\.layer\.(\d+)\.attention\.attention\.(query|key|value)\.(.*)", r"blocks.\1.attn.\2.\3"),
            (r"encoder\.layer\.(\d+)\.attention\.output\.dense\.(.*)", r"blocks.\1.attn.proj.\2"),
            (r"encoder\.layer\.(\d+)\.layer_scale([12])\.lambda1", r"blocks.\1.ls\2.gamma"),
            (r"encoder\.layer\.(\d+)\.mlp\.weights_in\.(.*)", r"blocks.\1.mlp.w12.\2"),
            (r"encoder\.layer\.(\d+)\.mlp\.weights_out\.(.*)", r"blocks.\1.mlp.w3.\2"),
            (r"encoder\.layer\.(\d+)\.(.*)", r"blocks.\1.\2"),
            (r"layernorm\.(.*)", r"norm.\1"),
        ),
        (r"embeddings\.mask_token", *_HEADS),
        ("query", "key", "value"),
        (_fused_gates, _registers_apart),
    ),
    Layout(
        "DINOv3 of Hugging Face",
        ("embeddings.patch_embeddings.weight", "layer.0.attention.q_proj.weight", "layer.0.layer_scale1.lambda1"),
        (
            (r"embeddings\.cls_token", "cls_token"),
            (r"embeddings\.register_tokens", "reg_token"),
            (r"embeddings\.patch_embeddings\.(.*)", r"patch_embed.proj.\1"),
            (r"layer\.(\d+)\.attention\.([qkv])_proj\.(.*)", r"blocks.\1.attn.\2.\3"),
            (r"layer\.(\d+)\.attention\.o_proj\.(.*)", r"blocks.\1.attn.proj.\2"),
            (r"layer\.(\d+)\.layer_scale([12])\.lambda1", r"blocks.\1.gamma_\2"),
            (r"layer\.(\d+)\.mlp\.up_proj\.(.*)", r"blocks.\1.mlp.fc1.\2"),
            (r"layer\.(\d+)\.mlp\.down_proj\.(.*)", r"blocks.\1.mlp.fc2.\2"),
            (r"layer\.(\d+)\.(.*)", r"blocks.\1.\2"),
        ),
        (r"embeddings\.mask_token", *_HEADS),
        ("q", "k", "v"),
        (_biases_apart,),
    ),
    Layout(
        "SigLIP or CLIP of Hugging Face",
        ("embeddings.patch_embedding.weight", "encoder.layers.0.self_attn.q_proj.weight"),
        (
            (r"embeddings\.class_embedding", "cls_token"),
            (r"embeddings\.position_embedding\.weight", "pos_embed"),
            (r"embeddings\.patch_embedding\.(.*)", r"patch_embed.proj.\1"),
            (r"pre_layrnorm\.(.*)", r"norm_pre.\1"),
            (r"post_layernorm\.(.*)", r"norm.\1"),
            (r"encoder\.layers\.(\d+)\.self_attn\.([qkv])_proj\.(.*)", r"blocks.\1.attn.\2.\3"),
            (r"encoder\.layers\.(\d+)\.self_attn\.out_proj\.(.*)", r"blocks.\1.attn.proj.\2"),
            (r"encoder\.layers\.(\d+)\.layer_norm([12])\.(.*)", r"blocks.\1.norm\2.\3"),
            (r"encoder\.layers\.(\d+)\.(.*)", r"blocks.\1.\2"),
        ),
        (r"embeddings\.position_ids", *_HEADS),
        ("q", "k", "v"),
        (_shaped,),
    ),
    Layout(
        "CLIP of OpenAI or open_clip",
        ("conv1.weight", "transformer.resblocks.0.attn.in_proj_weight"),
        (
            (r"class_embedding", "cls_token"),
            (r"positional_embedding", "pos_embed"),
            (r"conv1\.(.*)", r"patch_embed.proj.\1"),
            (r"ln_pre\.(.*)", r"norm_pre.\1"),
            (r"ln_post\.(.*)", r"norm.\1"),
            (r"transformer\.resblocks\.(\d+)\.attn\.in_proj_(weight|bias)", r"blocks.\1.attn.qkv.\2"),
            (r"transformer\.resblocks\.(\d+)\.attn\.out_proj\.(.*)", r"blocks.\1.attn.proj.\2"),
            (r"transformer\.resblocks\.(\d+)\.ln_([12])\.(.*)", r"blocks.\1.norm\2.\3"),
            (r"transformer\.resblocks\.(\d+)\.mlp\.c_fc\.(.*)", r"blocks.\1.mlp.fc1.\2"),
            (r"transformer\.resblocks\.(\d+)\.mlp\.c_proj\.(.*)", r"blocks.\1.mlp.fc2.\2"),
        ),
        (r"proj", *_HEADS),
        finish=(_shaped,),
    ),
    _eva("EVA-02 or EVA-X", "blocks.0.mlp.w1.weight"),
    _eva("EVA-02 or EVA-X, gates in one layer", "blocks.0.mlp.w12.weight", "blocks.0.attn.q_bias"),
    Layout(
        "Swin of older timm or Microsoft",
        ("layers.0.downsample.reduction.weight", "layers.0.blocks.0.attn.qkv.weight"),
        (),
        (r".*\.attn_mask", r".*\.relative_position_index", r"omni_heads\..*", r"projector\..*", *_HEADS),
        finish=(_downsampled_later,),
    ),
    Layout(
        "DINOv3 of Meta",
        ("patch_embed.proj.weight", "storage_tokens", "rope_embed.periods"),
        (
            (r"storage_tokens", "reg_token"),
            (r"blocks\.(\d+)\.ls([12])\.gamma", r"blocks.\1.gamma_\2"),
        ),
        (r".*\.periods", r".*\.bias_mask", r"local_cls_norm\..*", *_HEADS),
        finish=(_biases_apart,),
    ),
    Layout(
        "DINOv2 of Meta",
        ("patch_embed.proj.weight", "mask_token", "cls_token"),
        ((r"register_tokens", "reg_token"),),
        _HEADS,
        finish=(_unchunked, _fused_gates, _registers_apart),
    ),
    Layout(
        "timm",
        # timm's own model shows which keys its pyramid does not use.
        ("patch_embed.proj.weight", "blocks.0.norm1.weight"),
    ),
)


def recognise(state: Mapping[str, Tensor]) -> Recognised | None:
    """Recognises the layout of a transformer's file and gives its tensors timm's names.

    Args:
        state: The file's tensors.

    Returns:
        The tensors; None if no layout is known.

    Raises:
        InputError: Queries, keys and values do not fit together, or several towers lie side by side.
    """
    state = {key.removeprefix("module."): value for key, value in state.items()}
    for layout in LAYOUTS:
        prefix = layout.prefix(state)
        if prefix is not None:
            return _translated(state, layout, prefix)
    return None


def log_recognised(recognised: Recognised) -> None:
    """Logs the layout of a file, and which tensors were left out."""
    under = f" under {recognised.prefix}" if recognised.prefix else ""
    names = f" ({', '.join(recognised.dropped[:3])}…)" if recognised.dropped else ""
    logger.info(
        "weight file in the layout of %s%s; left out by rule: %d tensors%s",
        recognised.layout, under, len(recognised.dropped), names,
    )  # fmt: skip


def _translated(state: Mapping[str, Tensor], layout: Layout, prefix: str) -> Recognised:
    result: State = {}
    # A file with a tower also has other towers, and tensors that join them.
    dropped = [key for key in state if not key.startswith(prefix)]
    for key, value in state.items():
        if not key.startswith(prefix):
            continue
        name = key[len(prefix) :]
        if any(re.fullmatch(pattern, name) for pattern in layout.dropped):
            dropped.append(key)
            continue
        for pattern, replacement in layout.renamed:
            if re.fullmatch(pattern, name):
                name = re.sub(pattern, replacement, name)
                break
        result[name] = value
    if layout.attention is not None:
        result = _fused(result, layout.attention)
    for step in layout.finish:
        result = step(result)
    return Recognised(result, layout.name, prefix, dropped)


def _fused(state: State, names: tuple[str, str, str]) -> State:
    """Queries, keys and values of each block in one tensor; a bias that is missing is 0."""
    query, key, content = names
    fused = dict(state)
    blocks = sorted({name.partition(".attn.")[0] for name in state if ".attn." in name})
    for block in blocks:
        stem = f"{block}.attn."
        for kind in ("weight", "bias"):
            parts = [fused.pop(f"{stem}{name}.{kind}", None) for name in (query, key, content)]
            known = [part for part in parts if part is not None]
            if not known:
                continue
            if kind == "weight" and len(known) < len(parts):
                raise InputError(f"{stem}: has no weight of query, key or value; is the file whole?")
            filled = [torch.zeros_like(known[0]) if part is None else part for part in parts]
            fused[f"{stem}qkv.{kind}"] = torch.cat(filled)
    return fused
