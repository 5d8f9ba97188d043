"""What a GGUF file says about itself: its name, how it was tuned and quantised, and which tensors it holds.

The format keeps this under keys such as `general.name` and `general.file_type`
(https://github.com/ggml-org/ggml/blob/master/docs/gguf.md); transformers reads the configuration of the
network and no more.
"""

import importlib.util
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from labbook.console import UserError

# What every decoder's file states by the format's specification, and what transformers replaces by a default
# where it is missing; of the last two, the one that belongs to the kind of norm.
REQUIRED = ("context_length", "embedding_length", "block_count", "attention.head_count")
EPSILONS = ("attention.layer_norm_rms_epsilon", "attention.layer_norm_epsilon")
TUNED = re.compile(r"(^|[^a-z])(instruct|chat|it|sft|dpo)([^a-z]|$)", re.IGNORECASE)


@dataclass(frozen=True)
class GgufFile:
    """The metadata of one file.

    Attributes
    ----------
    path : of the file.
    architecture : `general.architecture`.
    name, basename, finetune : `general.name`, `general.basename` and `general.finetune`; None where the file
        does not say.
    quantisation : `general.file_type` (Q4_1, Q4_K_M, F16, ...), or the type of most values, or both where
        they contradict each other.
    tensor_types : number of tensors of each type.
    chat_template : whether the file carries a template for dialogues, which base models do not have.
    add_bos : whether texts begin with the BOS token; None where the file does not say.
    values : number of values of each tensor.
    """

    path: Path
    architecture: str
    name: str | None
    basename: str | None
    finetune: str | None
    quantisation: str
    tensor_types: dict[str, int]
    chat_template: bool
    add_bos: bool | None
    values: dict[str, int]

    @property
    def title(self) -> str:
        """The model's name: that of the file, which says more (`Instruct`), unless it has nothing in common
        with the file's own `general.name`, as after renaming; then it is that.
        """
        stem = re.sub(
            rf"[-._](mostly[-._])?{re.escape(self.quantisation)}$", "", self.path.stem, flags=re.IGNORECASE
        )
        own = self.basename or (self.name or "").split(" ")[0]
        return stem if not own or _letters(own) in _letters(stem) else (self.name or self.basename or stem)

    @property
    def label(self) -> str:
        """The title with tuning and quantisation: `SmolLM2-135M-Instruct (GGUF, Q4_1)`."""
        notes = ["GGUF", self.quantisation]
        if self.chat_template and not TUNED.search(self.title):
            notes.append("chat template")
        return f"{self.title} ({', '.join(notes)})"

    @property
    def facts(self) -> dict[str, Any]:
        """What goes into the provenance of a run."""
        return {
            "file": self.path.name,
            "general_name": self.name,
            "finetune": self.finetune,
            "chat_template": self.chat_template,
            "quantisation": self.quantisation,
            "tensor_types": self.tensor_types,
        }


def _letters(text: str) -> str:
    return re.sub(r"[^a-z0-9]", "", text.lower())


def read_gguf(path: Path) -> GgufFile:
    """Read the metadata of a file. Raises UserError when it is damaged, is no GGUF file, or the package gguf
    is missing.
    """
    if importlib.util.find_spec("gguf") is None:
        raise UserError(f"{path.name} needs the package gguf to be read. Run `pip install gguf`.")
    from gguf import GGUFReader, LlamaFileType

    try:
        reader = GGUFReader(str(path))
        types, sizes = Counter[str](), Counter[str]()
        for tensor in reader.tensors:
            types[tensor.tensor_type.name] += 1
            sizes[tensor.tensor_type.name] += int(tensor.n_elements)
        most = sizes.most_common(1)[0][0]
        architecture = _text(reader, "general.architecture") or ""
        missing = [key for key in REQUIRED if f"{architecture}.{key}" not in reader.fields]
        if not any(f"{architecture}.{key}" in reader.fields for key in EPSILONS):
            missing.append(" or ".join(EPSILONS))
        if missing:
            raise ValueError(f"its metadata for the architecture {architecture!r} lack {', '.join(missing)}")
        number = _field(reader, "general.file_type")
        stated = (
            LlamaFileType(number).name.removeprefix("MOSTLY_").removeprefix("ALL_")
            if number is not None
            else most
        )
        return GgufFile(
            path=path,
            architecture=architecture,
            name=_text(reader, "general.name"),
            basename=_text(reader, "general.basename"),
            finetune=_text(reader, "general.finetune"),
            quantisation=stated if stated.startswith(most) else f"{most}, by its own account {stated}",
            tensor_types=dict(types),
            chat_template="tokenizer.chat_template" in reader.fields,
            add_bos=_field(reader, "tokenizer.ggml.add_bos_token"),
            values={t.name: int(t.n_elements) for t in reader.tensors},
        )
    except (
        Exception
    ) as error:  # the reader trusts its input: index, key, value, memory-map and decoding errors
        raise UserError(
            f"{path} cannot be loaded as a GGUF file ({type(error).__name__}: {error}). Get it again, or "
            "give another MODEL."
        ) from error


def _field(reader: Any, key: str) -> Any:
    return reader.fields[key].contents() if key in reader.fields else None


def _text(reader: Any, key: str) -> str | None:
    value = _field(reader, key)
    return value if isinstance(value, str) and value else None


def unread_tensors(model: Any, file: GgufFile) -> list[str]:
    """Tensors of `file` that no parameter of the model took: transformers passes over them in silence.

    File and model are compared by their numbers of values, since the loader splits and joins tensors; names
    only explain a difference.
    """
    from gguf import MODEL_ARCH_NAMES, get_tensor_name_map

    # frequencies of the rotation, computed from the configuration
    stored = {name: size for name, size in file.values.items() if not name.startswith("rope_freqs")}
    surplus = sum(stored.values()) - sum(p.numel() for p in model.parameters())
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    if "output.weight" in stored and head is not None and head.weight is embedding.weight:
        surplus -= stored["output.weight"]  # stored twice, tied here
    if surplus == 0:
        return []
    if surplus < 0:
        return [f"{-surplus:,} values fewer than the architecture has"]
    number = next((k for k, v in MODEL_ARCH_NAMES.items() if v == file.architecture), None)
    names = None if number is None else get_tensor_name_map(number, model.config.num_hidden_layers)
    known = (
        {names.get_name(key, try_suffixes=(".weight", ".bias")) for key in model.state_dict()}
        if names
        else set()
    )
    return sorted(set(stored) - known) or [f"{surplus:,} values more than the architecture has"]
