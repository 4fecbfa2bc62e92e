"""Limits the process that decodes a recording, before it reads the first byte of it."""

import resource

_MAX_DESCRIPTORS = 16


def limit_process(*, memory_bytes: int, cpu_seconds: int) -> None:
    """Limit this process for good: memory, processor time, no files to write, no core dump.

    A core dump would hold a patient's voice. The system ends a process that exceeds its time with SIGXCPU.
    """
    limits = {
        resource.RLIMIT_AS: (memory_bytes, memory_bytes),
        resource.RLIMIT_DATA: (memory_bytes, memory_bytes),
        resource.RLIMIT_CPU: (cpu_seconds, cpu_seconds + 1),
        resource.RLIMIT_NOFILE: (_MAX_DESCRIPTORS, _MAX_DESCRIPTORS),
        resource.RLIMIT_FSIZE: (0, 0),
        resource.RLIMIT_CORE: (0, 0),
    }
    for kind, wanted in limits.items():
        _, most = resource.getrlimit(kind)
        values = [value if most == resource.RLIM_INFINITY else min(value, most) for value in wanted]
        resource.setrlimit(kind, (values[0], values[1]))
