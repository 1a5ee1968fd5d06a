"""Sets a breakpoint in a program that runs, as `breakpoint.py PROGRAM`, and prints whether the page
that it is in is otherwise as the file has it."""

import ctypes
import faulthandler
import os
import sys

PAGE = 4096
TRACEME, POKEDATA, CONT, KILL, SYSCALL = 0, 5, 7, 8, 24
# int3, and brk #0.
BREAKPOINT = {"x86_64": b"\xcc", "aarch64": b"\x00\x00\x20\xd4"}[os.uname().machine]

libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.restype = ctypes.c_long
libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]


def program_counter(pid):
    with open(f"/proc/{pid}/syscall") as file:
        return int(file.read().split()[-1], 16)


def mapping(pid, address):
    """The file behind an address, and where in it the address's page is."""
    with open(f"/proc/{pid}/maps") as file:
        for line in file:
            bounds, _, offset, _, _, path = line.split(maxsplit=5)
            start, end = (int(bound, 16) for bound in bounds.split("-"))
            if start <= address < end:
                return path.strip(), int(offset, 16) + (address - start) // PAGE * PAGE
    raise LookupError(hex(address))


def main(program):
    pid = os.fork()
    if pid == 0:
        libc.ptrace(TRACEME, 0, None, None)
        os.execv(program, [program])
    os.waitpid(pid, 0)
    # It has to run, so that the page is mapped in its memory already.
    for _ in range(2):
        libc.ptrace(SYSCALL, pid, None, None)
        os.waitpid(pid, 0)
    address = program_counter(pid)
    path, offset = mapping(pid, address)
    with open(path, "rb") as file:
        file.seek(offset)
        page = bytearray(file.read(PAGE).ljust(PAGE, b"\0"))
    start = address // PAGE * PAGE
    with open(f"/proc/{pid}/mem", "r+b", buffering=0) as memory:
        memory.seek(start)
        before = memory.read(PAGE) == page
        memory.seek(address)
        code = BREAKPOINT + memory.read(8)[len(BREAKPOINT):]
        word = int.from_bytes(code, "little")
        assert libc.ptrace(POKEDATA, pid, address, word) == 0, os.strerror(ctypes.get_errno())
        memory.seek(start)
        found = memory.read(PAGE)
    page[address - start:address - start + len(BREAKPOINT)] = BREAKPOINT
    damaged = [n for n in range(PAGE) if found[n] != page[n]]
    _, status = os.waitpid(pid, 0) if libc.ptrace(CONT, pid, None, None) == 0 else (0, 0)
    print(f"read before: {before}")
    print(f"damaged bytes: {len(damaged)}")
    print(f"stopped by signal {os.WSTOPSIG(status) if os.WIFSTOPPED(status) else -status}")
    libc.ptrace(KILL, pid, None, None)


faulthandler.dump_traceback_later(60, exit=True)
main(sys.argv[1])
