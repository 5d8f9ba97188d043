"""The Hugging Face hub, asked once whether it is there.

Its library asks six times, with pauses of 23 seconds in all, for what the local cache does not hold; no
setting of it makes these fewer. Without a network nobody should wait for that.
"""

from typing import Literal

from huggingface_hub import get_hf_file_metadata, hf_hub_url, is_offline_mode, try_to_load_from_cache
from huggingface_hub.errors import HFValidationError

# a file that is asked for; that there is none is an answer too
FILES: dict[Literal["model", "dataset"], str] = {"model": "config.json", "dataset": "README.md"}
# what the errors of a network are called, whichever library it is that speaks over it
NO_NETWORK = {"ConnectError", "ConnectionError", "TimeoutException", "gaierror"}


def kinds(error: BaseException) -> set[str]:
    """The names of the classes of an error, and of all those that it came from."""
    chain: list[BaseException] = [error]
    while chain[-1].__cause__ or chain[-1].__context__:
        chain.append(chain[-1].__cause__ or chain[-1].__context__ or error)
    return {kind.__name__ for one in chain for kind in type(one).__mro__}


def is_id(name: str) -> bool:
    """Whether something on the hub could have this name."""
    try:
        hf_hub_url(name, FILES["model"])
    except HFValidationError:
        return False
    return True


def cached(name: str, kind: Literal["model", "dataset"], revision: str | None = None) -> bool:
    """Whether the local cache holds a model or data set of this hub id. Raises ValueError for what is no
    id.
    """
    there = try_to_load_from_cache(name, FILES[kind], revision=revision, repo_type=kind)
    return isinstance(there, str)


def require_reachable(name: str, kind: Literal["model", "dataset"], revision: str | None = None) -> None:
    """Ask the hub once for `name`, unless the local cache holds it or HF_HUB_OFFLINE is set.

    Raises ConnectionError where the hub cannot be reached. Whatever it answers, a refusal too, is left to its
    library, which asks again and finds the words; so is what is no hub id.
    """
    try:
        if is_offline_mode() or cached(name, kind, revision):
            return
        get_hf_file_metadata(hf_hub_url(name, FILES[kind], repo_type=kind, revision=revision))
    except Exception as error:
        if kinds(error) & NO_NETWORK:
            raise ConnectionError(f"the hub cannot be reached: {error}") from error
