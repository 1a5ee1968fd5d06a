"""Watches files while they change, as `tail -F` and programs with inotify do.

Run as `watching.py FOLDER`, with files `log`, `watched` and `gone` in FOLDER: the output is the same wherever
FOLDER lies. Each line is the name of a case and its outcome.
"""

import ctypes
import faulthandler
import os
import select
import struct
import subprocess
import sys

LIMIT = 20
EVENTS = {
    0x2: "modify", 0x4: "attrib", 0x8: "close_write", 0x40: "moved_from", 0x80: "moved_to",
    0x100: "create", 0x200: "delete", 0x400: "delete_self", 0x800: "move_self", 0x8000: "ignored",
}
libc = ctypes.CDLL(None, use_errno=True)


def say(case, outcome):
    print(f"{case}: {outcome}", flush=True)


class Watch:
    def __init__(self, *paths):
        self.file = libc.inotify_init1(os.O_NONBLOCK)
        self.names = {}
        for path in paths:
            number = libc.inotify_add_watch(self.file, path.encode(), 0xFCE)
            assert number > 0, os.strerror(ctypes.get_errno())
            self.names[number] = "the folder" if os.path.isdir(path) else os.path.basename(path)

    def seen(self):
        found = []
        while select.select([self.file], [], [], 0)[0]:
            data = os.read(self.file, 65536)
            while data:
                number, mask, _, length = struct.unpack("iIII", data[:16])
                name = data[16:16 + length].rstrip(b"\0").decode()
                data = data[16 + length:]
                event = EVENTS.get(mask & 0xFFFF, hex(mask))
                found.append(f"{self.names[number]} {event} {name}".strip())
        return ", ".join(found) or "nothing"


def append(path, text):
    with open(path, "a") as file:
        file.write(text)


def watches(folder):
    watch = Watch(folder, f"{folder}/watched", f"{folder}/gone")
    # The first change moves the file to the writable layer.
    append(f"{folder}/watched", "first\n")
    say("appended", watch.seen())
    append(f"{folder}/watched", "second\n")
    say("appended again", watch.seen())
    os.chmod(f"{folder}/watched", 0o600)
    say("mode", watch.seen())
    os.utime(f"{folder}/watched", (1, 1))
    say("time", watch.seen())
    os.rename(f"{folder}/watched", f"{folder}/moved")
    say("renamed", watch.seen())
    append(f"{folder}/moved", "third\n")
    say("appended under its new name", watch.seen())
    # Its metadata alone changes.
    os.chmod(f"{folder}/gone", 0o640)
    say("mode of another", watch.seen())
    os.unlink(f"{folder}/gone")
    say("removed", watch.seen())
    with open(f"{folder}/gone", "w"):
        pass
    say("made anew", watch.seen())


class Tail:
    """`tail -F`, which prints what is appended, and follows a name to a new file."""

    def __init__(self, path):
        self.program = subprocess.Popen(["tail", "-n", "2", "-F", path], stdout=subprocess.PIPE,
                                        stderr=subprocess.DEVNULL)

    def line(self):
        out = self.program.stdout
        # One line is printed at a time, so none is left in the buffer.
        ready, _, _ = select.select([out], [], [], LIMIT)
        return out.readline().decode().strip() if ready else "nothing"


def tails(folder):
    path = f"{folder}/log"
    tail = Tail(path)
    say("tail, last but one", tail.line())
    say("tail, last", tail.program.stdout.readline().decode().strip())
    for number in range(3):
        append(path, f"appended {number}\n")
        say("tail, appended", tail.line())
    os.rename(path, f"{path}.1")
    append(path, "rotated\n")
    say("tail, rotated", tail.line())
    with open(path, "w") as file:
        file.write("cut\n")
    say("tail, cut off", tail.line())
    tail.program.kill()
    tail.program.wait()


def held(folder):
    """A file that was opened before it changed shows the change."""
    with open(f"{folder}/log.0", "rb", buffering=0) as before:
        first = before.read(5)
        append(f"{folder}/log.0", "more\n")
        say("open before", f"{first.decode()}{before.read().decode()}".replace("\n", " "))
        size = os.fstat(before.fileno()).st_size
        say("same file", size == os.stat(f"{folder}/log.0").st_size)
        same = os.fstat(before.fileno()).st_ino == os.stat(f"{folder}/log.0").st_ino
        say("same number", same)


faulthandler.dump_traceback_later(180, exit=True)
watches(sys.argv[1])
tails(sys.argv[1])
held(sys.argv[1])
