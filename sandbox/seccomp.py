"""The system calls that a program in a sandbox may not make, as a BPF program that we assemble ourselves.

No binding is kept well (pyseccomp has not moved since 2021 and wants libseccomp installed), and the filter is a list: one
comparison for each call that is refused. It stands in front of what namespaces and lost capabilities refuse already, so
that a fault in a rarely used part of the kernel is out of reach.

    another architecture or ABI      the process is killed (32-bit calls), ENOSYS (x32)
    refused calls                    EPERM, as without the capability
    calls newer than this list       ENOSYS, as on an older kernel; clone3 too, whose flags a filter cannot read
    clone with a namespace flag      EPERM
    socket                           Unix, IPv4, IPv6; else EAFNOSUPPORT
    ioctl                            not those that put characters into a terminal

Source: seccomp(2); the kernel's Documentation/userspace-api/seccomp_filter.rst; syscall tables of Linux 6.10.
"""

import platform
import struct

_EPERM, _ENOSYS, _EAFNOSUPPORT = 1, 38, 97
_ALLOW, _ERRNO, _KILL = 0x7FFF0000, 0x00050000, 0x80000000
_LOAD, _EQUAL, _ABOVE, _ANY_BIT, _RETURN = 0x20, 0x15, 0x25, 0x45, 0x06
_NUMBER, _ARCH, _ARGUMENT_0, _ARGUMENT_1 = 0, 4, 16, 24  # offsets in struct seccomp_data, low words
_NEW_NAMESPACES = 0x7E020080  # CLONE_NEWNS, CGROUP, UTS, IPC, USER, PID, NET and TIME
_FAMILIES = (1, 2, 10)
_TERMINAL_INPUT = (0x5412, 0x541C, 0x5423)  # TIOCSTI, TIOCLINUX, TIOCSETD
_NEWEST = 462  # mseal, Linux 6.10

# name: (x86_64, aarch64); 0 where the architecture has no such call
_REFUSED = {
    # other processes
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "kcmp": (312, 272),
    "pidfd_getfd": (438, 438), "process_madvise": (440, 440), "migrate_pages": (256, 238), "move_pages": (279, 239),
    # mounts and namespaces
    "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41), "chroot": (161, 51), "open_tree": (428, 428),
    "move_mount": (429, 429), "fsopen": (430, 430), "fsconfig": (431, 431), "fsmount": (432, 432), "fspick": (433, 433),
    "mount_setattr": (442, 442), "unshare": (272, 97), "setns": (308, 268), "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265), "quotactl": (179, 60), "quotactl_fd": (443, 443), "fanotify_init": (300, 262),
    "fanotify_mark": (301, 263), "lookup_dcookie": (212, 18), "nfsservctl": (180, 42), "ustat": (136, 0), "sysfs": (139, 0),
    # what outlives a process
    "keyctl": (250, 219), "add_key": (248, 217), "request_key": (249, 218), "shmget": (29, 194), "shmctl": (31, 195),
    "shmat": (30, 196), "shmdt": (67, 197), "semget": (64, 190), "semctl": (66, 191), "semop": (65, 193),
    "semtimedop": (220, 192), "msgget": (68, 186), "msgctl": (71, 187), "msgrcv": (70, 188), "msgsnd": (69, 189),
    "mq_open": (240, 180), "mq_unlink": (241, 181),
    # memory that no limit counts where there is no cgroup
    "memfd_create": (319, 279), "memfd_secret": (447, 447),
    # large parts of the kernel
    "bpf": (321, 280), "perf_event_open": (298, 241), "userfaultfd": (323, 282), "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426), "io_uring_register": (427, 427), "modify_ldt": (154, 0), "personality": (135, 92),
    # the machine
    "kexec_load": (246, 104), "kexec_file_load": (320, 294), "init_module": (175, 105), "finit_module": (313, 273),
    "delete_module": (176, 106), "create_module": (174, 0), "query_module": (178, 0), "get_kernel_syms": (177, 0),
    "reboot": (169, 142), "swapon": (167, 224), "swapoff": (168, 225), "settimeofday": (164, 170),
    "clock_settime": (227, 112), "adjtimex": (159, 171), "clock_adjtime": (305, 266), "sethostname": (170, 161),
    "setdomainname": (171, 162), "acct": (163, 89), "syslog": (103, 116), "vhangup": (153, 58), "iopl": (172, 0),
    "ioperm": (173, 0), "uselib": (134, 0), "_sysctl": (156, 0),
}  # fmt: skip
_CLONE, _SOCKET, _IOCTL, _CLONE3 = (56, 220), (41, 198), (16, 29), (435, 435)
_ARCHITECTURES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}


def architectures() -> list[str]:
    """The machines that there is a filter for, as `platform.machine()` names them."""
    return list(_ARCHITECTURES)


def assemble(machine: str | None = None) -> bytes:
    """The filter for a machine: an array of `struct sock_filter`.

    Args:
        machine: as `platform.machine()` names it; None for this one.

    Raises:
        KeyError: there is no filter for it.
    """
    column, architecture = _ARCHITECTURES[machine or platform.machine()]
    program: list[tuple[int, int, int, int]] = []

    def add(code: int, k: int, if_true: int = 0, if_false: int = 0) -> None:
        program.append((code, if_true, if_false, k))

    def end(action: int) -> None:
        add(_RETURN, action)

    add(_LOAD, _ARCH)
    add(_EQUAL, architecture, 1, 0)
    end(_KILL)
    add(_LOAD, _NUMBER)
    add(_ABOVE, _NEWEST, 0, 1)  # x32 calls, whose numbers start at 2**30, end here too
    end(_ERRNO | _ENOSYS)
    add(_EQUAL, _CLONE3[column], 0, 1)
    end(_ERRNO | _ENOSYS)
    for numbers in _REFUSED.values():
        if numbers[column]:
            add(_EQUAL, numbers[column], 0, 1)
            end(_ERRNO | _EPERM)
    add(_EQUAL, _CLONE[column], 0, 4)
    add(_LOAD, _ARGUMENT_0)
    add(_ANY_BIT, _NEW_NAMESPACES, 0, 1)
    end(_ERRNO | _EPERM)
    end(_ALLOW)
    add(_EQUAL, _SOCKET[column], 0, 3 + len(_FAMILIES))
    add(_LOAD, _ARGUMENT_0)
    for n, family in enumerate(_FAMILIES):
        add(_EQUAL, family, len(_FAMILIES) - n, 0)
    end(_ERRNO | _EAFNOSUPPORT)
    end(_ALLOW)
    add(_EQUAL, _IOCTL[column], 0, 3 + len(_TERMINAL_INPUT))
    add(_LOAD, _ARGUMENT_1)
    for n, request in enumerate(_TERMINAL_INPUT):
        add(_EQUAL, request, len(_TERMINAL_INPUT) - n, 0)
    end(_ALLOW)
    end(_ERRNO | _EPERM)
    end(_ALLOW)
    return b"".join(struct.pack("@HBBI", *instruction) for instruction in program)
