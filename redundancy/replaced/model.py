"""A language model whose attention is replaced: a transformers model that runs, generates and is saved.

model    ids --> block 0 --> block 1 --> ... --> logits
                 Whole       Partial             see `skipping`
Reading  position of every token, from position_ids, the mask or the cache, before the blocks run
"""

import copy
import inspect
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from labbook.console import UserError, warn
from redundancy.model.capture import IDENTITY, activations
from redundancy.model.decoder import Decoder, first_line
from redundancy.model.loading import quiet_loading
from redundancy.replaced.cache import adapt, advance
from redundancy.replaced.maps import first_values, folded
from redundancy.replaced.replacement import Replacement
from redundancy.replaced.skipping import INTERFACE, SITE, Partial, Reading, Whole, register

# relative difference of logits up to which attention computed in parts is that of the model, in float32
SAME = 1e-3


class ReplacedModel:
    """A transformers model in which predictions stand for some of its attention.

    It is also an object of the model's own class (`GPT2LMHeadModel`, ...), so `forward`, `generate`,
    `device`, and whatever takes a transformers model (lm-evaluation-harness: `HFLM(pretrained=replaced)`) are
    as ever. Its weights are those of the model it was made of, in the same memory; that model is left as it
    is.

    What is not computed, and what a cache does not hold:

    - of whole layers, neither queries, keys, values nor scores; nothing is cached.
    - of whole heads, no scores and weighted sums; keys and values are cached where another head reads them.
      The projections to queries, keys and values run for all heads.
    - of single operations, no scores and weighted sums of the skipped (token, head). Keys and values of a
      skipped token are computed and cached all the same, because later tokens that keep attention read them.

    At position 0 attention stays, as in the run that fitted the maps; it goes to the token itself, so nothing
    has to be cached for it either.

    The maps know the positions they were fitted at: longer texts are refused, and
    `config.max_position_embeddings` says how long they may be. Left padding needs an attention mask.

    Attributes
    ----------
    replacement : what is replaced by what.
    skips : whether scores are really left out where heads or operations are replaced; False, with a warning,
        for architectures whose attention cannot be run in parts. It is overwritten there.

    Raises
    ------
    UserError : by `forward`, for texts that are too long and for caches that another model filled.
    """

    replacement: Replacement
    skips: bool
    _reading: Reading

    def save(self, folder: str | Path) -> Path:
        """Write what is replaced by what (not the weights of the model) into `folder`, and return it."""
        return self.replacement.save(folder)

    def push_to_hub(self, repo_id: str, *, private: bool | None = None, revision: str | None = None) -> str:
        """Upload what `save` writes to the Hugging Face hub, and return the address of the commit."""
        return self.replacement.push_to_hub(repo_id, private=private, revision=revision)

    def save_pretrained(self, *args: Any, **kwargs: Any) -> None:
        """Refused with a UserError: what transformers would write, it could not load."""
        raise UserError(
            "save_pretrained would write weights that no class of transformers takes. Use save(folder), and "
            "load_replaced(folder, model) to have the model again."
        )

    @property
    def realised_share(self) -> float:
        """Share of the attention operations replaced in the text read so far, over the layers that have
        probes and the positions from the first replaced one on; NaN before any. See `read_anew`.
        """
        about = self.replacement.about
        total = int(self._reading.tokens) * about.n_heads * len(about.layers)
        return int(self._reading.skipped) / total if total else float("nan")

    def read_anew(self) -> None:
        """Begin to count `realised_share` again."""
        self._reading.count_anew()


@lru_cache
def _class_of(base: type) -> type:
    """The class of a replaced model of class `base`."""
    return type(f"Replaced{base.__name__}", (ReplacedModel, base), {"__module__": base.__module__})


class _Bounds:
    """Hooks on the module that runs the blocks: positions and cache beforehand, and counting afterwards."""

    def __init__(self, reading: Reading, replacement: Replacement, config: Any, stack: Any):
        self.reading, self.config, self.depth = reading, config, config.num_hidden_layers
        self.positions, self.without = replacement.about.positions, replacement.layers
        self.heads: dict[int, list[int]] = {}
        self.names = list(inspect.signature(stack.forward).parameters)

    def begin(self, stack: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Before the blocks run."""
        given = dict(zip(self.names, args, strict=False)) | kwargs
        ids = given.get("input_ids")
        tokens = given["inputs_embeds"] if ids is None else ids
        batch, count = tokens.shape[:2]
        cache, wanted = given.get("past_key_values"), given.get("use_cache")
        if cache is None and (self.config.use_cache if wanted is None else wanted):
            cache = given["past_key_values"] = DynamicCache(config=self.config)
        if cache is not None:
            adapt(cache, self.depth, self.without, self.heads)
        past = 0 if cache is None else int(cache.get_seq_length())
        mask = given.get("attention_mask")
        mask = mask if isinstance(mask, Tensor) and mask.dim() == 2 else None
        position = given.get("position_ids")
        if position is None and mask is not None:
            position = (mask.long().cumsum(-1) - 1).clamp_min(0)[:, -count:]
            if "position_ids" in self.names:
                given["position_ids"] = position
        if position is None:
            position = torch.arange(past, past + count, device=tokens.device)[None]
        position = position.expand(batch, count)
        low, high = (int(edge) for edge in position.aminmax())
        if high >= self.positions:
            raise UserError(
                f"the text has {high + 1} tokens; the maps that stand for attention were fitted at positions "
                f"0 to {self.positions - 1}. Cut it, or fit with a longer context=."
            )
        valid = torch.ones_like(position) if mask is None else mask[:, -count:].to(position.device)
        self.reading.read(position, valid.bool(), begins=low < self.reading.start)
        return (), given

    def end(self, stack: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        """After the blocks ran."""
        if kwargs.get("past_key_values") is not None:
            advance(kwargs["past_key_values"], self.reading.position.shape[1])


def replace(decoder: Decoder, replacement: Replacement) -> Any:
    """The model of `decoder` with `replacement` at work: a `ReplacedModel` that is also of the model's class.

    Raises UserError for weights that the maps were not fitted to, for a model that is spread over devices,
    and where whole layers cannot be taken out of the architecture.
    """
    about, model = replacement.about, decoder.model
    if len(set(getattr(model, "hf_device_map", {}).values())) > 1:
        raise UserError(
            f"{decoder.name!r} is spread over several devices; a replaced model has to be on one. Load it "
            "with device='cpu' or device='cuda'."
        )
    if decoder.weight_hash() != about.weight_hash:
        raise UserError(
            f"model={decoder.name!r} has other weights than those that the maps were fitted to "
            f"({about.model}, {about.dtype}, hash {about.weight_hash[:12]}): another model, checkpoint, "
            f"revision or dtype (here {str(decoder.dtype).removeprefix('torch.')}). Load that one, or fit "
            "again."
        )
    twin = Decoder(_sharing(model), decoder.name)
    device, reading = twin.device, Reading(about.start_position)
    stays = sorted({*replacement.layers, *replacement.heads}) if reading.start else []
    first = first_values(decoder, stays)
    # OPT's language model calls it past its own backbone
    stack = next(m for m in twin.model.modules() if any(child is twin.layers for child in m.children()))
    bounds = _Bounds(reading, replacement, twin.model.config.get_text_config(decoder=True), stack)
    stack.register_forward_pre_hook(bounds.begin, with_kwargs=True)
    stack.register_forward_hook(bounds.end, with_kwargs=True)

    partial = dict[int, Partial]()
    for n in sorted({*replacement.heads, *replacement.need}):
        partial[n] = Partial(
            reading,
            replacement.maps[n],
            about.n_heads,
            replacement.heads.get(n, ()),
            replacement.need.get(n),
            replacement.limit,
            tuple(t.to(decoder.dtype) for t in first[n]) if n in first else None,  # type: ignore[arg-type]
        ).to(device)
        _install_partial(twin, n, partial[n])
    skips = not partial or _runs_in_parts(decoder, twin, reading)
    for n, site in partial.items():
        site.skips = skips
        if skips and not site.routed:
            bounds.heads[n] = site.kept_kv_heads()
    for n in replacement.layers:
        _install_whole(twin, n, reading, replacement, first.get(n))

    # what was read while it was built
    reading.count_anew()
    found = twin.model
    text = found.config.get_text_config(decoder=True)
    if getattr(text, "max_position_embeddings", None) is None or (
        text.max_position_embeddings > about.positions
    ):
        text.max_position_embeddings = about.positions
    found.__class__ = _class_of(type(found))  # type: ignore[arg-type]
    found.replacement, found.skips, found._reading = replacement, skips, reading
    return found


def _sharing(model: Any) -> Any:
    """A copy of a model with modules and parameters of its own, in the memory of the original's."""
    memo: dict[int, Any] = {id(buffer): buffer for buffer in model.buffers()}
    for p in model.parameters():
        memo[id(p)] = nn.Parameter(p.detach(), requires_grad=False)
    return copy.deepcopy(model, memo).eval()


def _install_partial(twin: Decoder, n: int, site: Partial) -> None:
    block, attention = twin.layers[n], twin.attention(n)
    # a part of the block, so that it moves to another device with it
    block.add_module(SITE, site)
    for module in attention.modules():
        # known to the module that calls `attend`, without being a part of it a second time
        object.__setattr__(module, SITE, site)
    block.register_forward_pre_hook(site.enter, with_kwargs=True)
    attention.register_forward_pre_hook(site.enter_attention, with_kwargs=True)
    twin.projection(n).register_forward_pre_hook(site.fill)


def _install_whole(
    twin: Decoder,
    n: int,
    reading: Reading,
    replacement: Replacement,
    first: tuple[Tensor, Tensor] | None,
) -> None:
    """Put the map of layer `n` in the place of its attention. Raises UserError where the module gives more
    than its output projection does.
    """
    length = _returned(twin, n)
    weight, bias = twin.output_map(n)
    fold = None
    if not replacement.dropped:
        fold = folded(_on(replacement.maps[n], weight.device), weight, bias, twin.dtype)
    stays = None
    if first is not None:
        stays = ((first[0] @ weight.double()).to(twin.dtype), _constant(first[1], weight, bias, twin.dtype))
    whole = Whole(reading, fold, stays, replacement.about.n_heads, length)
    setattr(twin.layers[n], twin.attention_name, whole)
    twin.layers[n].register_forward_pre_hook(whole.enter, with_kwargs=True)


def _constant(constant: Tensor, weight: Tensor, bias: Tensor, dtype: torch.dtype) -> Tensor:
    return (constant @ weight.double() + bias.double()).to(dtype)


def _on(probe: Any, device: torch.device) -> Any:
    return type(probe)(*(getattr(probe, part).to(device) for part in ("weight", "bias", "shift")))


@torch.inference_mode()
def _returned(twin: Decoder, n: int) -> int:
    """Number of things that the attention module of layer `n` returns as a tuple; 0 for the tensor itself."""
    found: list[int] = []

    def keep(module: nn.Module, args: Any, output: Any) -> None:
        found.append(len(output) if isinstance(output, tuple) else 0)

    hook = twin.attention(n).register_forward_hook(keep)
    ids = torch.arange(8, device=twin.device)[None] % twin.vocabulary
    try:
        parts = activations(twin, ids, n)
    finally:
        hook.remove()
    error = float((parts["attn_out"] - parts["projected"]).norm() / parts["projected"].norm())
    if error > max(IDENTITY, 4 * torch.finfo(twin.dtype).eps):
        raise UserError(
            f"{twin.name!r}: the attention module of layer {n} returns something else than its output "
            "projection gives, so the layer cannot be left out. Use a router of single operations."
        )
    return found[0]


@torch.inference_mode()
def _runs_in_parts(decoder: Decoder, twin: Decoder, reading: Reading) -> bool:
    """Whether the attention of `skipping.attend` is that of the model; if so, `twin` goes on with it, else a
    warning says why not.
    """
    ids = ((torch.arange(32, device=decoder.device) * 7 + 5) % decoder.vocabulary).view(2, 16)
    register()
    before = twin.model.config._attn_implementation
    reading.everything = True
    try:
        with quiet_loading():
            twin.model.set_attn_implementation(INTERFACE)
        reference = decoder.model(input_ids=ids, use_cache=False).logits.float()
        ours = twin.model(input_ids=ids, use_cache=False).logits.float()
        if twin.model.config.get_text_config(decoder=True)._attn_implementation != INTERFACE:
            raise NotImplementedError("it does not take attention from elsewhere")
        error = float((ours - reference).abs().max() / reference.abs().max())
        if not error < max(SAME, 4 * torch.finfo(decoder.dtype).eps):
            raise NotImplementedError(f"softmax(q k') v differs by {error:.1e}")
    except (RuntimeError, ValueError, KeyError, TypeError, NotImplementedError) as error:
        with quiet_loading():
            twin.model.set_attn_implementation(before)
        warn(
            f"{decoder.name}: attention cannot be run in parts here ({first_line(error)}). What is replaced "
            "is right, and computed all the same: it saves nothing."
        )
        return False
    finally:
        reading.everything = False
    return True
