"""What tells checkpoints apart without loading them."""

from __future__ import annotations

import hashlib
from pathlib import Path

_SUFFIXES = (".jinja", ".json", ".model", ".safetensors")
_SAMPLES, _SAMPLE_BYTES = 64, 4096  # of a file of weights


def identity_of(checkpoint: str | Path, revision: str | None = None, adapter: str | Path | None = None) -> str:
    """A hash of the files of a folder, or a hub id with the commit that was downloaded; those of an adapter behind it.

    Args:
        checkpoint: a folder or hub id.
        revision: of a hub id.
        adapter: a folder or hub id.
    """
    return "+".join(_identity(source, revision) for source in (checkpoint, adapter) if source is not None)


def cached_config(hub_id: str, revision: str | None) -> Path | None:
    """The `config.json` of a hub id that has been downloaded before."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        path = try_to_load_from_cache(hub_id, "config.json", revision=revision)
    except HFValidationError:  # no hub id at all, which loading will tell
        return None
    return Path(path) if isinstance(path, str) else None


def _identity(source: str | Path, revision: str | None) -> str:
    folder = Path(source)
    if folder.is_dir():
        return _hash_of(folder)
    config = cached_config(str(source), revision)
    return str(source) if config is None else f"{source}@{config.parent.name}"  # the cache names folders by commits


def _hash_of(folder: Path) -> str:
    """16 hex digits over the files of a checkpoint: of weights their size and samples, of the others all."""
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.iterdir() if p.suffix in _SUFFIXES):
        size = path.stat().st_size
        digest.update(f"{path.name} {size} ".encode())
        step = max(_SAMPLE_BYTES, size // _SAMPLES) if path.suffix == ".safetensors" else _SAMPLE_BYTES
        with path.open("rb") as file:
            for start in range(0, size, step):
                file.seek(start)
                digest.update(file.read(_SAMPLE_BYTES))
    return digest.hexdigest()[:16]
