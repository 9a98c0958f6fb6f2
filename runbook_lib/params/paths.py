"""All paths on the hosts, named once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from runbook_lib.params.models import Params

DEFAULT_WORK = "/var/lib/ascend-runbook"
DEFAULT_ASCEND_ROOT = "/usr/local/Ascend"
DEFAULT_HCCN_CONF = "/etc/hccn.conf"
DEFAULT_MPI = "/usr/local/mpich"

#: Variable on a host of a twin of level L0: the folder where its file system begins.
ROOT_VARIABLE = "RUNBOOK_HOST_ROOT"
#: Ends the SSH version of any other host of a twin: its file system begins at `/`, and nobody need ask.
OWN_ROOT = " own-root"


@dataclass(frozen=True, slots=True)
class HostPaths:
    """Where things are on one host. `root` is "" on real hosts and a directory on a twin of level L0."""

    hccn_conf: str
    ascend_root: str
    weights: str
    image_tar: str
    work: str
    root: str = ""
    mpi: str = DEFAULT_MPI

    @classmethod
    def of(cls, params: Params, root: str = "") -> HostPaths:
        """Return the paths of a host whose file system begins at `root`."""
        return cls(
            hccn_conf=root + params.paths.hccn_conf,
            ascend_root=root + params.paths.ascend_root,
            weights=root + params.model.weights.directory,
            image_tar=root + params.container.image_tar if params.container.image_tar else "",
            work=root + params.paths.work,
            root=root,
            mpi=root + params.paths.mpi,
        )

    @property
    def hccn_tool(self) -> str:
        """The tool that sets and reads the RoCE ports of the NPUs."""
        return f"{self.ascend_root}/driver/tools/hccn_tool"

    @property
    def toolkit(self) -> str:
        """The folder of the installed CANN toolkits, one below it for each version."""
        return f"{self.ascend_root}/ascend-toolkit"

    @property
    def driver_version(self) -> str:
        """Driver package version and the firmware range that it accepts."""
        return f"{self.ascend_root}/driver/version.info"

    @property
    def firmware_version(self) -> str:
        """Firmware package version."""
        return f"{self.ascend_root}/firmware/version.info"

    @property
    def install_info(self) -> str:
        """Driver install record; npu-smi wants it inside the container."""
        return f"{self.root}/etc/ascend_install.info"

    @property
    def service(self) -> str:
        """Folder with all that the service reads; mounted into the container at the same path."""
        return f"{self.work}/service"

    @property
    def config_json(self) -> str:
        """The service's config.json."""
        return f"{self.service}/config.json"

    @property
    def rank_table(self) -> str:
        """The rank table, identical on all hosts."""
        return f"{self.service}/rank_table.json"

    @property
    def env_file(self) -> str:
        """The environment of the daemon on this host."""
        return f"{self.service}/service.env"

    @property
    def start_script(self) -> str:
        """What the container runs to start the daemon."""
        return f"{self.service}/start.sh"

    @property
    def plog(self) -> str:
        """ASCEND_WORK_PATH: where CANN writes its logs."""
        return f"{self.service}/plog"

    @property
    def mindie_log(self) -> str:
        """MINDIE_LOG_PATH: where the service writes its logs."""
        return f"{self.service}/mindie-log"

    def inside(self, path: str) -> str:
        """Return the container's name of a host path: the same without the twin's root."""
        return path.removeprefix(self.root) if self.root else path
