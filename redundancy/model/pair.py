"""Tensors and what they are, as two files that belong together: in a folder, or in a repository of the
Hugging Face hub.
"""

import json
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from labbook.console import UserError

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Pair:
    """The two files of one kind.

    Attributes
    ----------
    tensors, about : their names, safetensors and JSON.
    schema : version of the JSON that is written.
    kind : what they hold, for errors.
    instead : what to name instead of a folder without them.
    apart : what is said of two files that do not belong together.
    older : versions that are read as well, as far as what they hold goes; others are refused.
    """

    tensors: str
    about: str
    schema: int
    kind: str
    instead: str
    apart: str = "are not of one run"
    older: tuple[int, ...] = ()

    def save(self, folder: str | Path, tensors: "dict[str, Tensor]", about: Mapping[str, Any]) -> Path:
        """Write both files into `folder`, and return it."""
        from labbook.run import save_tensors, write_json

        folder = Path(folder)
        save_tensors(folder / self.tensors, tensors, {"about": json.dumps(about)})
        write_json(folder / self.about, {"schema": self.schema, **about})
        return folder

    def load(self, folder: str | Path) -> "tuple[dict[str, Tensor], dict[str, Any]]":
        """The tensors in `folder`, and what they are.

        Raises UserError when a file is missing or damaged, of another version, or of another pair.
        """
        from labbook.run import load_tensors, read_json

        folder = Path(folder)
        missing = [name for name in (self.tensors, self.about) if not (folder / name).is_file()]
        if missing:
            raise UserError(f"{folder} holds no {self.kind} (no {' and no '.join(missing)}). {self.instead}")
        tensors, metadata = load_tensors(folder / self.tensors)
        found = read_json(folder / self.about)
        known = (*self.older, self.schema)
        if found.pop("schema", None) not in known:
            raise UserError(
                f"{folder / self.about} is of another version than this one reads "
                f"({', '.join(map(str, known))})."
            )
        stored = json.loads(metadata.get("about", "null"))
        if isinstance(stored, dict):
            stored.pop("schema", None)  # some files hold it twice
        if found != stored:
            raise UserError(
                f"{folder / self.tensors} and {self.about} beside it {self.apart}. Restore them from a copy."
            )
        return tensors, found

    def push_to_hub(
        self,
        save: Callable[[Path], object],
        repo_id: str,
        *,
        private: bool | None,
        revision: str | None,
        message: str,
    ) -> str:
        """Upload what `save` writes into a folder to the model repository `repo_id`, which is made if it is
        not there, and return the address of the commit. huggingface_hub finds the token.
        """
        from huggingface_hub import HfApi

        api = HfApi()
        api.create_repo(repo_id, private=private, exist_ok=True)
        with tempfile.TemporaryDirectory() as folder:
            save(Path(folder))
            done = api.upload_folder(
                repo_id=repo_id, folder_path=folder, revision=revision, commit_message=message
            )
        return str(done)

    def fetch(self, name: str | Path, revision: str | None) -> Path:
        """The local folder `name`, or a snapshot of the repository of that name.

        Raises UserError when the repository cannot be reached.
        """
        if Path(name).is_dir():
            return Path(name)
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

        wanted = [self.tensors, self.about]
        try:
            return Path(snapshot_download(str(name), revision=revision, allow_patterns=wanted))
        except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
            raise UserError(
                f"{str(name)!r} is neither a local folder nor a repository of the hub that can be reached "
                f"({type(error).__name__}). Name another, or connect to the hub."
            ) from error
