"""The machine and the libraries that an artifact was made with: recorded beside it, never part of its key."""

import os
import platform
from importlib.metadata import PackageNotFoundError, version

LIBRARIES = ("posttrain", "torch", "transformers", "peft", "datasets", "tokenizers", "safetensors", "numpy")
OUT_OF_MEMORY = ("can't allocate memory", "not enough memory", "out of memory", "could not create a memory")


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def memory() -> int:
    """Bytes of main memory, 0 where the system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return 0


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an accelerator or the machine had no more memory: torch's allocators say so in words."""
    return isinstance(error, MemoryError) or any(words in str(error).lower() for words in OUT_OF_MEMORY)


def versions() -> dict[str, str]:
    """Installed versions of the libraries that can change a result. Imports none of them."""
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def environment() -> dict[str, str]:
    """What stands under `environment` in every manifest."""
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cores": str(cores()),
        **versions(),
    }
