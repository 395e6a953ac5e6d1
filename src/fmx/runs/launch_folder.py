"""Relative paths in a configuration: they are relative to the folder that the command was started in."""

from pathlib import Path

from hydra.core.hydra_config import HydraConfig

from fmx.config.bounded_files import get_nested, read_yaml_or_empty

__all__ = ["from_launch_folder", "launched_in"]


def from_launch_folder(path: Path) -> Path:
    """A path as it is, or below the folder of the command where only that exists (as with hydra.job.chdir=true)."""
    if path.is_absolute() or path.exists() or not HydraConfig.initialized():
        return path
    below = Path(HydraConfig.get().runtime.cwd, path)
    return below if below.exists() else path


def launched_in(run_dir: Path, text: str) -> str:
    """A path that a run names, absolute where it exists only below the folder that the run was started in."""
    started_in = get_nested(read_yaml_or_empty(run_dir / ".hydra" / "hydra.yaml"), "hydra", "runtime", "cwd")
    path = Path(text).expanduser()
    if path.is_absolute() or path.exists() or not isinstance(started_in, str):
        return text
    below = Path(started_in, path)
    return str(below) if below.exists() else text
