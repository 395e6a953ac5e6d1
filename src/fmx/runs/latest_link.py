"""The link outputs/latest to the newest run or sweep."""

import logging
import os
from pathlib import Path

__all__ = ["link_latest"]

log = logging.getLogger(__name__)


def link_latest(newest: Path, started_in: Path) -> None:
    """Point outputs/latest to a run or a sweep.

    Only in outputs/ of the folder that the command was started in, and where such a link exists already: no link
    appears in other folders of the user's choice.
    """
    homes = [parent for parent in newest.parents if parent.name in {"runs", "sweeps"}]
    if not homes:
        return
    outputs = homes[0].parent
    link, temporary = outputs / "latest", outputs / f".latest.{os.getpid()}"
    usual = outputs == started_in / "outputs"
    try:  # a link that fails must not end the run
        ours = link.is_symlink() and link.readlink().parts[0] in {"runs", "sweeps"}
        if ours or (usual and not (link.is_symlink() or link.exists())):
            temporary.symlink_to(newest.relative_to(outputs))
            temporary.replace(link)
        elif usual:
            log.warning("%s is no link of fmx, as after a copy, so it does not lead to this run: remove it", link)
    except OSError as error:
        log.warning("%s does not lead to this run, for it cannot be changed: %s", link, error.strerror)
