"""`remove` and `load_replaced`: models with less attention, from Python."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from labbook.console import UserError, keywords
from redundancy.probe.kept import Probes

if TYPE_CHECKING:
    from redundancy.replaced.kept import Router
    from redundancy.replaced.model import ReplacedModel
    from redundancy.replaced.replacement import Replacement


def remove(
    model: "str | Path | Any" = "embedded",
    probes: "str | Path | Probes | None" = None,
    *,
    router: "str | Router | None" = None,
    share: float | None = None,
    layers: Sequence[int] | None = None,
    heads: Mapping[int, Sequence[int]] | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
    device: str = "auto",
) -> "ReplacedModel":
    """The model with predictions in the place of the attention that it needs least: one that runs, generates,
    and is saved.

    Parameters
    ----------
    model : a name or path as on the command line, or a loaded transformers model, which is left as it is.
    probes : the maps that stand for attention: the folder of a run of redundancy.removal or redundancy.probe,
        a repository on the hub, or loaded `Probes`.
    router : which operations go: an order of the removal run, as its table `curve.csv` names it
        (network_fisher, predicted_fisher, heads_fisher, layers_cosine, ...), or a loaded `Router`; with a
        share and without a router it is the order that the run chose on its validation documents, which
        spares most there at +0.05 nats per token. Single (token, head) operations are chosen while the model
        runs, from hidden state and position, with the threshold of the validation documents of that run.
    share : of the attention operations, above 0 and up to 1, over the layers that have probes. Of whole
        layers or heads, as many go as fit into it.
    layers, heads : instead of a router, the blocks, or block -> heads, that go.
    revision, trust_remote_code : of a hub model.
    device : auto (a loaded model stays where it is), cpu, cuda, cuda:1, ...

    Returns
    -------
    ReplacedModel, which is also of the model's own class: `forward`, `generate`, `save(folder)`,
    `push_to_hub(repo_id)`, `realised_share`.

    Raises
    ------
    UserError : for shares outside (0, 1], layers and heads without a probe, a router that the run does not
        hold, a router or probes of another model, and models whose layers cannot be taken out.

    Examples
    --------
    >>> from redundancy import remove, remove_attention
    >>> lost = remove_attention(
    ...     parts=["all"], layers=[0, 1], tokens=2000, eval_tokens=2000, context=64, out="removal"
    ... )
    >>> replaced = remove("embedded", "removal", router="layers_cosine", share=0.5)
    >>> replaced.replacement.layers
    (1,)
    """
    from redundancy.replaced.kept import Router
    from redundancy.replaced.replacement import chosen

    with keywords():
        if probes is None:
            raise UserError(
                "probes= is missing: the maps that stand for attention. Give the folder of a run of "
                "redundancy.removal, which keeps them and its routers."
            )
        found = probes if isinstance(probes, Probes) else Probes.from_pretrained(probes)
        # a share of the operations without a word on which
        unnamed = router is None and share is not None and not layers and not heads
        if isinstance(router, str) or unnamed:
            if isinstance(probes, Probes):
                asked = f"share={share}" if router is None else f"router={router!r}"
                raise UserError(
                    f"{asked} was asked for with loaded probes, which bring no routers. Give the folder of a "
                    "removal run as probes=, or Router.load(folder, name) as router=."
                )
            router = Router.load(probes, router)  # type: ignore[arg-type]
        replacement = chosen(found, router, share, layers, heads)
        return _applied(replacement, model, revision, device, trust_remote_code)


def load_replaced(
    name: str | Path,
    model: "str | Path | Any" = "embedded",
    *,
    name_revision: str | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
    device: str = "auto",
) -> "ReplacedModel":
    """A replaced model from what `save` or `push_to_hub` wrote, and the model it was made of.

    Parameters
    ----------
    name : a folder, or a repository on the hub, of which `name_revision` is a branch, tag or commit.
    model, revision, trust_remote_code, device : as for `remove`. Its weights have to be those that the maps
        were fitted to.

    Raises
    ------
    UserError : when there is no replaced model, when a file is damaged, and for a model with other weights.

    Examples
    --------
    >>> from redundancy import load_replaced, probe_model, remove
    >>> result = probe_model(layers=[0], tokens=2000, eval_tokens=2000, context=64, out="run")
    >>> replaced = remove("embedded", "run", layers=[0])
    >>> folder = replaced.save("without-layer-0")
    >>> load_replaced("without-layer-0", "embedded").replacement.layers
    (0,)
    """
    from redundancy.replaced.replacement import Replacement

    with keywords():
        replacement = Replacement.from_pretrained(name, revision=name_revision)
        return _applied(replacement, model, revision, device, trust_remote_code)


def _applied(
    replacement: "Replacement", model: Any, revision: str | None, device: str, trust_remote_code: bool
) -> "ReplacedModel":
    """The model with the replacement at work; one that is named is loaded in the dtype of the maps."""
    import torch

    from redundancy.given.model import evaluating, source_of
    from redundancy.model.loading import choose_device, load_model
    from redundancy.replaced.model import replace

    source = source_of(model, revision=revision, trust_remote_code=trust_remote_code)
    where, _ = choose_device(device, source.model)
    dtype = getattr(torch, replacement.about.dtype) if source.model is None else source.model.dtype
    with evaluating(model):
        replaced: ReplacedModel = replace(
            load_model(source, where, dtype, 0, split=device == "split"), replacement
        )
    return replaced
