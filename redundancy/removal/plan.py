"""Every way in which a removal run runs the model outside the curve, see `experiment`."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from torch import Tensor

from redundancy.evaluation import Key, Variant
from redundancy.model.substitution import Predict, Rule, zero
from redundancy.removal.config import PartName
from redundancy.removal.replacements.previous import seen
from redundancy.removal.replacements.sampled import slots

# what is put into one layer at a time
ALONE = (
    "probe",
    "with_position",
    "weighted",
    "position_mean",
    "token_mean",
    "resampled",
    "training_mean",
    "zero",
    "shuffled",
)
CUMULATIVE = (
    "probe",
    "with_position",
    "position_mean",
    "sequential",
    "sequential_intact",
    "training_mean",
)


@dataclass(frozen=True)
class Replacements:
    """What stands for attention: rules by name and layer.

    Attributes
    ----------
    rules : name -> layer -> rule.
    """

    rules: dict[str, dict[int, Rule]] = field(default_factory=dict)

    def add(self, name: str, maps: Mapping[int, Predict]) -> None:
        """Maps from resid_pre and position."""
        self.rules[name] = {n: Rule(predict) for n, predict in maps.items()}

    def add_tables(self, name: str, tables: Mapping[int, Tensor]) -> None:
        """Values (position, d_z) by layer, whatever the hidden state."""
        self.add(name, {n: _row(values) for n, values in tables.items()})

    def add_constants(self, name: str, values: Mapping[int, Tensor]) -> None:
        """One value (d_z,) by layer."""
        self.add(name, {n: _constant(value) for n, value in values.items()})

    def add_past(self, past: int, maps: Mapping[int, Predict], means: Mapping[int, Tensor]) -> None:
        """Maps from the hidden states of a token and of `past` before it; `means` stand before the window."""
        self.rules[f"previous_{past}"] = {
            n: Rule(predict, sees=seen(past, means[n])) for n, predict in maps.items()
        }

    def add_token_means(self, means: Mapping[int, Predict]) -> None:
        """Means per token id."""
        self.rules["token_mean"] = {n: Rule(predict, sees=slots) for n, predict in means.items()}

    def finish(self) -> None:
        """What needs no fit of its own: nothing at all, and the prediction for another token."""
        probes = self.rules["probe"]
        self.rules["zero"] = {n: Rule(zero, dropped=True) for n in probes}
        self.rules["shuffled"] = {n: replace(rule, permuted=True) for n, rule in probes.items()}

    def maps(self, name: str) -> dict[int, Predict]:
        """The maps of a name by layer."""
        return {n: rule.predict for n, rule in self.rules[name].items()}


def _row(values: Tensor) -> Predict:
    return lambda x, position: values.to(x)[position]


def _constant(value: Tensor) -> Predict:
    return lambda x, position: value.to(x).expand(len(x), -1)


def plan(
    layers: Sequence[int], n_heads: int, replacements: Replacements, parts: Sequence[PartName]
) -> Iterator[Variant]:
    """The variants of the parts `layers`, `heads`, `all` and `cumulative`."""
    rules = replacements.rules
    alone = [name for name in rules if name in ALONE or name.startswith("previous")]
    if "layers" in parts:
        for n in layers:
            for name in alone:
                yield Variant(Key("layers", name, layer=n), {n: rules[name][n]})
    if "heads" in parts:
        for n in layers:
            for h in range(n_heads):
                for name in ("probe", "with_position", "training_mean"):
                    rule = replace(rules[name][n], heads=(h,))
                    yield Variant(Key("heads", name, layer=n, head=h), {n: rule})
    if "all" in parts:
        for name, by_layer in rules.items():
            yield Variant(Key("all", name), {n: by_layer[n] for n in layers})
    if "cumulative" in parts:
        for stop, n in enumerate(layers, 1):
            for name in CUMULATIVE:
                yield Variant(Key("cumulative", name, layer=n), {m: rules[name][m] for m in layers[:stop]})
