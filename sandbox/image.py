"""Making the image of the docker backend: from `Dockerfile`, from a root file system in a tar, or from this machine.

The third way needs no registry: on Debian and its kin it takes the files of the packages that `Dockerfile` names, and of
all that they depend on, from where they are installed.
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from pathlib import Path

from .docker import IMAGE, connect
from .errors import SandboxUnavailable

_PACKAGES = (
    *(
        "base-files",
        "bash",
        "coreutils",
        "dash",
        "diffutils",
        "findutils",
        "g++",
        "gcc",
        "grep",
        "libc6-dev",
        "lua5.4",
        "nodejs",
    ),
    *("procps", "python3", "sed"),
)
_LEFT_OUT = re.compile(
    r"^/usr/share/(doc|info|lintian|locale|man|nodejs)/|/lib[a-z]*san\.|/usr/include/node/"
)
_ETC = (
    "/etc/alternatives",
    "/etc/group",
    "/etc/ld.so.cache",
    "/etc/ld.so.conf",
    "/etc/ld.so.conf.d",
    "/etc/passwd",
)


def build(
    tag: str = IMAGE, *, docker_host: str = "", rootfs: Path | None = None, debian: bool = False
) -> str:
    """Make the image of the docker backend, and give its id.

    Args:
        tag: its name.
        docker_host: of the daemon; empty for DOCKER_HOST or Docker's default.
        rootfs: a tar of a root file system to import; None to build `Dockerfile`.
        debian: make that tar from this machine's packages instead.

    Raises:
        SandboxUnavailable: no daemon answers, or it refuses; the message has its words.
    """
    client = connect(docker_host)
    import docker

    with tempfile.TemporaryDirectory(prefix="turnwise-image-") as folder:
        if debian:
            rootfs = Path(folder) / "rootfs.tar"
            pack_debian(rootfs)
        try:
            if rootfs is None:
                image, _ = client.images.build(path=str(Path(__file__).parent), tag=tag, rm=True)
                return str(image.id)
            repository, _, version = tag.partition(":")
            client.api.import_image_from_file(str(rootfs), repository=repository, tag=version or "latest")
            return str(client.images.get(tag).id)
        except (docker.errors.DockerException, TypeError) as error:
            raise SandboxUnavailable(f"the image {tag!r} cannot be made: {error}") from error


def pack_debian(tar: Path) -> None:
    """Write a tar of the packages that programs need, as they are installed here, with all that they depend on.

    Raises:
        SandboxUnavailable: this is no Debian, or one of the packages is not installed.
    """
    paths = sorted({*_files(_closure(_PACKAGES)), *_alternatives()})
    paths += [path for path in (*_ETC, "/bin", "/lib", "/lib32", "/lib64", "/sbin") if os.path.lexists(path)]
    inside = [
        path for folder in ("/etc/alternatives", "/etc/ld.so.conf.d") for path in Path(folder).glob("*")
    ]
    command = ["tar", "--create", "--file", str(tar), "--no-recursion", "--null", "--files-from", "-"]
    done = subprocess.run(command, input="\0".join([*paths, *map(str, inside)]).encode(), capture_output=True)
    if done.returncode:
        raise SandboxUnavailable(
            f"tar cannot pack the packages: {done.stderr.decode(errors='replace').strip()}"
        )


def _closure(names: tuple[str, ...]) -> set[str]:
    """The installed packages that these need, themselves included."""
    fields = "${Package}\t${Pre-Depends}, ${Depends}\t${Provides}\n"
    try:
        table = subprocess.run(
            ["dpkg-query", "-W", "-f", fields], capture_output=True, text=True, check=True
        ).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        raise SandboxUnavailable(f"only Debian and its kin can pack their own packages: {error}") from error
    needs: dict[str, str] = {}
    provided: dict[str, str] = {}
    for line in table.splitlines():
        name, depends, provides = line.split("\t")
        needs[name] = depends
        provided.update({_bare(other): name for other in provides.split(",")})
    missing = [name for name in names if name not in needs and name not in provided]
    if missing:
        raise SandboxUnavailable(f"install these packages first: apt-get install {' '.join(missing)}")
    found: set[str] = set()
    look = list(names)
    while look:
        name = look.pop()
        name = name if name in needs else provided[name]
        if name not in found:
            found.add(name)
            for choice in needs[name].split(","):
                here = [
                    other for other in map(_bare, choice.split("|")) if other in needs or other in provided
                ]
                look += here[:1]
    return found


def _bare(name: str) -> str:
    return re.sub(r"\(.*?\)|:any|\[.*?\]", "", name).strip()


def _files(packages: set[str]) -> list[str]:
    """The paths of the files and folders of packages, through links such as /bin."""
    listing = subprocess.run(["dpkg", "-L", *packages], capture_output=True, text=True, check=True).stdout
    paths = [
        os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))
        for path in listing.splitlines()
    ]
    return [
        path
        for path in paths
        if path.startswith("/usr/") and not _LEFT_OUT.search(path) and os.path.lexists(path)
    ]


def _alternatives() -> list[str]:
    """The links in /usr/bin by which Debian chooses between programs, such as awk and c++."""
    links = (path for path in Path("/usr/bin").iterdir() if path.is_symlink())
    return [str(path) for path in links if os.readlink(path).startswith("/etc/alternatives/")]
