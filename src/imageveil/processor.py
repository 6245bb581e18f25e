"""What this machine's processor is and whether bfloat16 is its fast path."""

import platform
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Processor:
    """A processor as the kernel describes it.

    Attributes:
        model: its name.
        vendor: the maker as the processor reports it.
        flags: its instruction sets.
    """

    model: str
    vendor: str = ""
    flags: frozenset[str] = frozenset()

    @property
    def bf16(self) -> str | None:
        """The instruction set that makes bfloat16 faster than float32 here, `AMX` or `AVX512-BF16`, or None.

        AMD's AVX512-BF16 multiplies twice as many numbers a cycle as float32. Intel's multiplies as many, and the
        conversions come on top: training there took 1.5 times as long in bfloat16 where AMX was switched off.
        """
        if "amx_bf16" in self.flags:
            return "AMX"
        return "AVX512-BF16" if "avx512_bf16" in self.flags and self.vendor == "AuthenticAMD" else None


def this_processor(cpuinfo: Path = Path("/proc/cpuinfo")) -> Processor:
    """Describe the processor of this machine; without a `cpuinfo`, by its name alone."""
    name = platform.processor() or platform.machine()
    if not cpuinfo.is_file():
        return Processor(model=name)
    lines = (line.split(":", 1) for line in cpuinfo.read_text().splitlines() if ":" in line)
    values = {key.strip(): value.strip() for key, value in lines}
    return Processor(
        model=values.get("model name", name),
        vendor=values.get("vendor_id", ""),
        flags=frozenset(values.get("flags", "").split()),
    )
