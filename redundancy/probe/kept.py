"""Fitted probes that are kept: saved beside the tables of a run, loaded again, and put in the place of
attention.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from labbook.console import UserError, keywords
from redundancy.model.pair import Pair

if TYPE_CHECKING:
    from torch import Tensor

    from redundancy.facts import Facts
    from redundancy.model.decoder import Decoder
    from redundancy.passes import Task
    from redundancy.regression.controls import Fitted

FILES = Pair(
    "probes.safetensors",
    "probes.json",
    schema=1,
    kind="probes",
    instead="Name the folder of a run of redundancy.probe that kept them (it does unless probes=False or "
    "--no-probes).",
)
PARTS = ("weight", "bias", "shift")


@dataclass(frozen=True)
class About:
    """What probes belong to; the fields of `probes.json`.

    Attributes
    ----------
    model, weight_hash : name, and SHA-256 of the weights (names and values, in `dtype`).
    data_hash : SHA-256 of the text.
    feature : what predicts: resid_pre, ln1 or embedding.
    layers : that probes were fitted to.
    d_model, d_z, n_heads : width of the hidden state and of z, and heads per layer.
    start_position : first position that was fitted; before it attention stays.
    positions : with an intercept of their own.
    """

    model: str
    weight_hash: str
    data_hash: str
    feature: str
    dtype: str
    layers: tuple[int, ...]
    d_model: int
    d_z: int
    n_heads: int
    start_position: int
    positions: int

    @staticmethod
    def read(values: Mapping[str, Any]) -> "About":
        """What a JSON file holds."""
        return About(**{**values, "layers": tuple(values["layers"])})


class Probes:
    """The linear probes of a run: z of every layer predicted from the hidden state.

    z is what the heads of a layer hand to its output projection, (..., n_heads * d_head), so the attention
    output is z W_O + b_O. There are two maps per layer:

        z = (x - shift) W + b               the probe
        z = (x - shift) W + b[position]     hidden state and position

    Attributes
    ----------
    about : what they belong to.
    tensors : `LAYER/probe/weight` (d_model, d_z), `LAYER/probe/bias` (d_z,), `LAYER/probe/shift` (d_model,);
        the same under `with_position`, whose bias is (position, d_z).

    Examples
    --------
    >>> import torch
    >>> from redundancy import Probes, probe_model
    >>> result = probe_model(layers=[0], tokens=2000, eval_tokens=2000, context=64, out="run")
    >>> probes = Probes.load("run")
    >>> probes.predict(torch.zeros(2, 5, 128), layer=0).shape
    torch.Size([2, 5, 128])
    """

    def __init__(self, about: About, tensors: "Mapping[str, Tensor]"):
        self.about, self.tensors = about, dict(tensors)

    def __repr__(self) -> str:
        a = self.about
        return f"Probes({a.model}, {a.feature} -> z, layers {', '.join(map(str, a.layers))})"

    @classmethod
    def of(cls, fitted: "Mapping[int, Fitted]", decoder: "Decoder", task: "Task", facts: "Facts") -> "Probes":
        """The probes of a fit with controls, by layer; float32 unless the model is float64."""
        import torch

        dtype = torch.float64 if decoder.dtype == torch.float64 else torch.float32
        tensors: dict[str, Tensor] = {}
        for layer, one in fitted.items():
            assert one.with_position is not None
            for name, found in (("probe", one.probe), ("with_position", one.with_position)):
                # a copy of each: both maps may share one shift, and shared memory cannot be saved
                tensors |= {
                    f"{layer}/{name}/{part}": getattr(found, part).to(dtype, copy=True) for part in PARTS
                }
        about = About(
            model=facts.model,
            weight_hash=facts.weight_hash,
            data_hash=facts.data_hash,
            feature=task.feature,
            dtype=str(decoder.dtype).removeprefix("torch."),
            layers=tuple(fitted),
            d_model=decoder.d_model,
            d_z=decoder.d_z,
            n_heads=decoder.n_heads,
            start_position=task.start_position,
            positions=len(tensors[f"{task.layers[0]}/with_position/bias"]),
        )
        return cls(about, tensors)

    def save(self, folder: str | Path) -> Path:
        """Write `probes.safetensors` and `probes.json` into `folder`, and return it."""
        return FILES.save(folder, self.tensors, asdict(self.about))

    @classmethod
    def load(cls, folder: str | Path) -> "Probes":
        """The probes in `folder`: of a finished run, of `save`, or of a hub snapshot.

        Raises UserError when there are none, when a file is damaged, and when the two files are not of one
        run.
        """
        tensors, about = FILES.load(folder)
        return cls(About.read(about), tensors)

    def predict(self, x: "Tensor", layer: int, position: "Tensor | None" = None) -> "Tensor":
        """z of `layer` predicted from its feature, in the dtype and on the device of `x`.

        Parameters
        ----------
        x : (..., d_model), the feature that the probes were fitted to: resid_pre, what enters the block,
            unless the run said otherwise.
        position : (...) place in the window of every row; None takes the map that does not use it.

        Returns
        -------
        (..., n_heads * d_head)

        Raises UserError for a layer without a probe, another width, and positions beyond those fitted.
        """
        a = self.about
        if layer not in a.layers:
            raise UserError(f"layer={layer} has no probe; there are {', '.join(map(str, a.layers))}.")
        if x.shape[-1] != a.d_model:
            raise UserError(
                f"x has {x.shape[-1]} columns; the {a.feature} of {a.model} has d_model = {a.d_model}."
            )
        name = "probe" if position is None else "with_position"
        weight, bias, shift = (self.tensors[f"{layer}/{name}/{part}"].to(x) for part in PARTS)
        if position is None:
            from redundancy.regression.ridge import Affine

            predicted: Tensor = Affine(weight, bias, shift)(x)
            return predicted
        from redundancy.regression.controls import PositionAffine

        if position.numel() and not (int(position.min()) >= 0 and int(position.max()) < a.positions):
            raise UserError(
                f"position= runs from {int(position.min())} to {int(position.max())}; intercepts were fitted "
                f"at 0 to {a.positions - 1}. Leave position out, or fit with a longer context."
            )
        return PositionAffine(weight, bias, shift)(x, position)

    @contextmanager
    def hook(
        self, model: Any, layers: Sequence[int] | None = None, *, with_position: bool = False
    ) -> Iterator[None]:
        """Inside the `with` block `model` runs with the prediction in the place of attention.

        Parameters
        ----------
        model : the transformers model with the weights that the probes were fitted to.
        layers : where; None is every layer that has a probe.
        with_position : use the map that knows the position too.

        Positions before the first one that was fitted (position 0, unless the run kept it) keep their
        attention. The model has to read whole sequences: a cache of earlier positions is refused.

        Raises UserError for a model with other weights, for layers without a probe, and for probes of another
        feature than resid_pre.
        """
        from redundancy.given.model import source_of
        from redundancy.model.decoder import Decoder
        from redundancy.model.substitution import Rule, Substitution

        a, chosen = self.about, self.about.layers if layers is None else tuple(layers)
        if a.feature != "resid_pre":
            raise UserError(
                f"these probes predict from {a.feature}; only those of resid_pre can stand for attention. "
                "Fit with feature='resid_pre'."
            )
        if set(chosen) - set(a.layers):
            raise UserError(f"layers={chosen} was asked for; there are probes of {a.layers}.")
        if type(model).__module__.startswith("transformer_lens"):
            raise UserError(
                "model= is a TransformerLens bridge, whose modules are not those of the model. Give the "
                "transformers model, or call `predict` in a hook of the bridge."
            )
        with keywords():
            source = source_of(model)
            decoder = Decoder(model, source.name)
        if decoder.weight_hash() != a.weight_hash:
            raise UserError(
                f"model= has other weights than those that the probes were fitted to ({a.model}, {a.dtype}, "
                f"hash {a.weight_hash[:12]}): another model, checkpoint, revision or dtype (here "
                f"{str(decoder.dtype).removeprefix('torch.')}). Load that one, or fit again."
            )

        def rule(layer: int) -> Rule:
            return Rule(lambda x, position: self.predict(x, layer, position if with_position else None))

        def whole(module: Any, args: Any, kwargs: dict[str, Any]) -> None:
            cache = kwargs.get("past_key_values")
            if cache is not None and cache.get_seq_length() > 0:
                raise UserError(
                    "the model reads on from a cache, where the probes do not know the position. Call it "
                    "with use_cache=False."
                )

        guard = decoder.backbone.register_forward_pre_hook(whole, with_kwargs=True)
        try:
            with Substitution(decoder, {n: rule(n) for n in chosen}, a.start_position):
                yield
        finally:
            guard.remove()

    def push_to_hub(self, repo_id: str, *, private: bool | None = None, revision: str | None = None) -> str:
        """Upload the probes to the model repository `repo_id` on the Hugging Face hub, which is made if it is
        not there, and return the address of the commit. huggingface_hub finds the token.
        """
        message = f"Linear probes of the attention of {self.about.model}"
        return FILES.push_to_hub(self.save, repo_id, private=private, revision=revision, message=message)

    @classmethod
    def from_pretrained(cls, name: str | Path, *, revision: str | None = None) -> "Probes":
        """The probes in a local folder or in a repository of the Hugging Face hub.

        Raises UserError when the repository cannot be reached or holds no probes.
        """
        return cls.load(FILES.fetch(name, revision))
