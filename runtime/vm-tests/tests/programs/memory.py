"""Uses a file's pages in every way that a debugger or a database does, and prints what it sees.

Run as `memory.py FILE`: the output is the same wherever FILE lies, since it must not depend on the
file system. Each line is the name of a case and its outcome.
"""

import ctypes
import faulthandler
import hashlib
import mmap
import os
import sys

PAGE = mmap.PAGESIZE
PAGES = 4
SIZE = PAGES * PAGE
# In the second page, so that its neighbours show damage too.
AT = PAGE + 64
PROT = mmap.PROT_READ | mmap.PROT_WRITE
PTRACE_PEEKDATA, PTRACE_POKEDATA, PTRACE_DETACH, PTRACE_SEIZE, PTRACE_INTERRUPT = (
    2, 5, 17, 0x4206, 0x4207)

libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int,
                      ctypes.c_long]
libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
libc.mlock.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
libc.ptrace.restype = ctypes.c_long
libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]


class IoVec(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p), ("length", ctypes.c_size_t)]


def say(case, outcome):
    print(f"{case}: {outcome}", flush=True)


def verdict(found, wanted):
    if found == wanted:
        return "as expected"
    first = next(n for n in range(len(wanted)) if found[n:n + 1] != wanted[n:n + 1])
    return f"differs at {first}: {found[first:first + 16].hex()}"


def changed(data, at=AT, new=b"\xcc"):
    return data[:at] + new + data[at + len(new):]


def call(name, *arguments):
    result = getattr(libc, name)(*arguments)
    return result if result != -1 else f"errno {ctypes.get_errno()}"


def map_file(path, protection, kind):
    file = os.open(path, os.O_RDWR if kind == mmap.MAP_SHARED and protection == PROT else os.O_RDONLY)
    address = libc.mmap(None, SIZE, protection, kind, file, 0)
    os.close(file)
    assert address not in (None, ctypes.c_void_p(-1).value), os.strerror(ctypes.get_errno())
    return address


def content(address):
    return ctypes.string_at(address, SIZE)


def in_child(path, protection, act):
    """A child maps the file and touches every page; `act` changes it from here; then the child
    sends all that it sees."""
    to_child, from_child = os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(to_child[1])
        address = map_file(path, protection, mmap.MAP_PRIVATE)
        hashlib.sha256(content(address)).digest()
        os.write(from_child[1], address.to_bytes(8, "little"))
        os.read(to_child[0], 1)
        seen = content(address)
        while seen:
            seen = seen[os.write(from_child[1], seen):]
        os._exit(0)
    os.close(from_child[1])
    address = int.from_bytes(os.read(from_child[0], 8), "little")
    outcome = act(pid, address)
    os.write(to_child[1], b"x")
    seen = b""
    while piece := os.read(from_child[0], SIZE):
        seen += piece
    os.waitpid(pid, 0)
    for end in (to_child[0], to_child[1], from_child[0]):
        os.close(end)
    return outcome, seen


def poke(pid, address):
    """Sets a breakpoint as a debugger does: a word is read, one byte of it changed, written back."""
    call("ptrace", PTRACE_SEIZE, pid, None, None)
    call("ptrace", PTRACE_INTERRUPT, pid, None, None)
    os.waitpid(pid, 0)
    word = libc.ptrace(PTRACE_PEEKDATA, pid, address, None)
    word = (word & ((1 << 64) - 1)) & ~0xFF | 0xCC
    outcome = call("ptrace", PTRACE_POKEDATA, pid, address, word)
    call("ptrace", PTRACE_DETACH, pid, None, None)
    return outcome


def process_vm(name, pid, address, buffer):
    local = IoVec(ctypes.cast(buffer, ctypes.c_void_p).value, len(buffer))
    remote = IoVec(address, len(buffer))
    return call(name, pid, ctypes.byref(local), 1, ctypes.byref(remote), 1, 0)


def write_memory(pid, address):
    with open(f"/proc/{pid}/mem", "r+b", buffering=0) as memory:
        memory.seek(address)
        return memory.write(b"\xcc")


def from_outside(path, data):
    text = mmap.PROT_READ | mmap.PROT_EXEC
    # Pages that may not be written are what breakpoints are set in.
    for case, protection, act in (
        ("ptrace", text, lambda pid, address: poke(pid, address + AT)),
        ("/proc/PID/mem", text, lambda pid, address: write_memory(pid, address + AT)),
        ("/proc/PID/mem, writable", PROT, lambda pid, address: write_memory(pid, address + AT)),
        ("process_vm_writev", PROT, lambda pid, address: process_vm(
            "process_vm_writev", pid, address + AT, ctypes.create_string_buffer(b"\xcc", 1))),
    ):
        outcome, seen = in_child(path, protection, act)
        # Where there is no such call, nothing was changed.
        failed = isinstance(outcome, str)
        say(case, f"{outcome}, {verdict(seen, data if failed else changed(data))}")

    copy = ctypes.create_string_buffer(SIZE)
    outcome, _ = in_child(path, PROT, lambda pid, address: process_vm(
        "process_vm_readv", pid, address, copy))
    failed = isinstance(outcome, str)
    say("process_vm_readv", f"{outcome}, {failed or verdict(copy.raw, data)}")


def private(path, data):
    address = map_file(path, PROT, mmap.MAP_PRIVATE)
    say("private, read", verdict(content(address), data))
    ctypes.memset(address + AT, 0xCC, 1)
    say("private, written", verdict(content(address), changed(data)))

    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        inherited = verdict(content(address), changed(data))
        ctypes.memset(address + AT + 1, 0xDD, 1)
        own = verdict(content(address), changed(data, new=b"\xcc\xdd"))
        os.write(writer, f"{inherited}, {own}".encode())
        os._exit(0)
    os.waitpid(pid, 0)
    say("fork, child", os.read(reader, 1000).decode())
    say("fork, parent", verdict(content(address), changed(data)))

    say("mlock", call("mlock", address, SIZE))
    say("mlock, content", verdict(content(address), changed(data)))
    libc.munlock(ctypes.c_void_p(address), ctypes.c_size_t(SIZE))
    say("madvise", call("madvise", address, SIZE, mmap.MADV_DONTNEED))
    say("madvise, content", verdict(content(address), data))
    say("mlock, untouched", call("mlock", map_file(path, PROT, mmap.MAP_PRIVATE), SIZE))


def direct(path, data):
    file = os.open(path, os.O_RDONLY | os.O_DIRECT)
    space = mmap.mmap(-1, SIZE)
    count = os.preadv(file, [space], 0)
    os.close(file)
    say("O_DIRECT", f"{count}, {verdict(space[:], data)}")


def shared(path, data):
    say("shared, read", verdict(content(map_file(path, mmap.PROT_READ, mmap.MAP_SHARED)), data))
    address = map_file(path, PROT, mmap.MAP_SHARED)
    ctypes.memset(address + AT, 0xCC, 1)
    with open(path, "rb") as file:
        say("shared, written", verdict(file.read(SIZE), changed(data)))
    with open(path, "r+b") as file:
        file.seek(AT + 1)
        file.write(b"\xdd")
    say("shared, file written", verdict(content(address), changed(data, new=b"\xcc\xdd")))


def watched(path):
    """A watch that was set before the file moves to the writable layer sees later writes."""
    watch = libc.inotify_init1(os.O_NONBLOCK)
    libc.inotify_add_watch(watch, path.encode(), 0x2)
    with open(path, "r+b") as file:
        file.write(b"\xee")
    try:
        mask = int.from_bytes(os.read(watch, 64)[4:8], "little")
        say("inotify", f"{mask:#x}")
    except BlockingIOError:
        say("inotify", "nothing")
    os.close(watch)


def main(path):
    with open(path, "rb") as file:
        data = file.read(SIZE)
    assert len(data) == SIZE
    from_outside(path, data)
    private(path, data)
    direct(path, data)
    with open(path, "rb") as file:
        say("file, unchanged", verdict(file.read(SIZE), data))
    # These change the file, which moves to the writable layer.
    watched(path)
    with open(path, "rb") as file:
        data = file.read(SIZE)
    shared(path, data)


faulthandler.dump_traceback_later(120, exit=True)
main(sys.argv[1])
