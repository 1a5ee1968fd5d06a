"""Uses what software expects of a kernel, and prints what comes of it.

Each line is the name of a case and its outcome: "works", a value, or the error.
"""

import ctypes
import errno
import faulthandler
import fcntl
import hashlib
import mmap
import os
import socket
import struct
import subprocess
import tempfile

faulthandler.dump_traceback_later(120, exit=True)
libc = ctypes.CDLL(None, use_errno=True)
CLONE_NEWNS, CLONE_NEWNET = 0x20000, 0x40000000
AT_FDCWD = -100
MACHINE = os.uname().machine


def case(name):
    """Runs a function at once, and prints its outcome."""
    def run(function):
        try:
            outcome = function()
        except Exception as error:
            outcome = f"{type(error).__name__}: {error}"
        print(f"{name}: {'works' if outcome is None else outcome}", flush=True)
        return function
    return run


def call(name, *arguments):
    ctypes.set_errno(0)
    result = getattr(libc, name)(*arguments)
    if result == -1:
        raise OSError(ctypes.get_errno(), name)
    return result


def same(found, wanted):
    if found != wanted:
        raise ValueError(f"{found!r} instead of {wanted!r}")


# --- processes and memory

@case("32-bit program")
def thirty_two_bits():
    machine, flags, code = {
        # mov eax, 1 (exit); mov ebx, 42; int 0x80
        "x86_64": (3, 0, "b801000000 bb2a000000 cd80"),
        # mov r7, 1 (exit); mov r0, 42; svc 0
        "aarch64": (40, 0x05000000, "0170a0e3 2a00a0e3 000000ef"),
    }[MACHINE]
    code = bytes.fromhex(code)
    base, headers = 0x08048000, 52 + 32
    size = headers + len(code)
    header = b"\x7fELF\x01\x01\x01".ljust(16, b"\0") + struct.pack(
        "<HHIIIIIHHHHHH", 2, machine, 1, base + headers, 52, 0, flags, 52, 32, 1, 0, 0, 0)
    segment = struct.pack("<IIIIIIII", 1, 0, base, base, size, size, 5, 0x1000)
    with tempfile.TemporaryDirectory() as folder:
        program = f"{folder}/program"
        with open(program, "wb") as file:
            file.write(header + segment + code)
        os.chmod(program, 0o755)
        try:
            return f"exits with {subprocess.run([program]).returncode}"
        except OSError as error:
            return errno.errorcode[error.errno]


class IoVec(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p), ("length", ctypes.c_size_t)]


@case("process_vm_readv")
def other_memory():
    secret = ctypes.create_string_buffer(b"the parent's", 32)
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        secret.value = b"the child's"
        os.write(writer, b"x")
        libc.pause()
    os.read(reader, 1)
    copy = ctypes.create_string_buffer(32)
    local = IoVec(ctypes.addressof(copy), 32)
    remote = IoVec(ctypes.addressof(secret), 32)
    try:
        call("process_vm_readv", pid, ctypes.byref(local), 1, ctypes.byref(remote), 1, 0)
    finally:
        os.kill(pid, 9)
        os.waitpid(pid, 0)
    same(copy.value, b"the child's")


@case("memfd_secret")
def secret_memory():
    file = call("syscall", 447, 0)
    os.ftruncate(file, mmap.PAGESIZE)
    with mmap.mmap(file, mmap.PAGESIZE) as memory:
        memory[:6] = b"secret"
        same(memory[:6], b"secret")


@case("get_mempolicy")
def memory_policy():
    mode = ctypes.c_int(-1)
    number = {"x86_64": 239, "aarch64": 236}[MACHINE]
    call("syscall", number, ctypes.byref(mode), None, ctypes.c_ulong(0), None, ctypes.c_ulong(0))
    same(mode.value, 0)


@case("io_uring_setup")
def ring():
    parameters = ctypes.create_string_buffer(120)
    os.close(call("syscall", 425, 8, parameters))
    same(struct.unpack_from("<I", parameters)[0], 8)


# --- files

@case("file handles")
def handles():
    for path in ("/", "/etc/passwd"):
        handle = ctypes.create_string_buffer(struct.pack("<Ii", 128, 0), 8 + 128)
        mount = ctypes.c_int()
        call("name_to_handle_at", AT_FDCWD, path.encode(), handle, ctypes.byref(mount), 0)
        root = os.open("/", os.O_RDONLY)
        opened = call("open_by_handle_at", root, handle, os.O_RDONLY)
        same(os.fstat(opened).st_ino, os.stat(path).st_ino)
        os.close(opened)
        os.close(root)


@case("file systems")
def file_systems():
    with open("/proc/filesystems") as file:
        known = {line.split()[-1] for line in file}
    wanted = {"autofs", "binfmt_misc", "erofs", "ext4", "fuse", "iso9660", "overlay",
              "squashfs", "vfat", "virtiofs", "xfs"}
    same(sorted(known & wanted), sorted(wanted))


@case("loop devices")
def loop():
    with open("/dev/loop-control") as control:
        number = fcntl.ioctl(control, 0x4C82)
    with open(f"/dev/loop{number}", "rb"):
        pass


# Mounts from here on are this process's own.
call("unshare", CLONE_NEWNS)
call("mount", b"none", b"/", None, 0x4000 | 0x40000, None)  # MS_REC | MS_PRIVATE


@case("quota")
def quota():
    call("mount", b"tmpfs", b"/mnt", b"tmpfs", 0, b"usrquota")
    call("umount", b"/mnt")


@case("binfmt_misc")
def formats():
    folder = "/proc/sys/fs/binfmt_misc"
    call("mount", b"binfmt_misc", folder.encode(), b"binfmt_misc", 0, None)
    with tempfile.NamedTemporaryFile("w", delete=False) as file:
        file.write("OURS and its text")
    os.chmod(file.name, 0o755)
    with open(f"{folder}/register", "w") as register:
        register.write(":ours:M::OURS::/bin/cat:")
    try:
        same(subprocess.run([file.name], capture_output=True).stdout, b"OURS and its text")
    finally:
        with open(f"{folder}/ours", "w") as entry:
            entry.write("-1")
        os.unlink(file.name)


# --- sockets

@case("AF_ALG")
def ciphers():
    with socket.socket(socket.AF_ALG, socket.SOCK_SEQPACKET) as algorithm:
        algorithm.bind(("hash", "sha256"))
        with algorithm.accept()[0] as operation:
            operation.sendall(b"abc")
            same(operation.recv(32), hashlib.sha256(b"abc").digest())
    for kind, name in (("skcipher", "cbc(aes)"), ("aead", "gcm(aes)")):
        with socket.socket(socket.AF_ALG, socket.SOCK_SEQPACKET) as algorithm:
            try:
                algorithm.bind((kind, name))
            except OSError as error:
                return f"{name}: {error}"


@case("interfaces")
def interfaces():
    return " ".join(name for _, name in socket.if_nameindex())


# The network from here on is this process's own.
call("unshare", CLONE_NEWNET)


@case("interfaces of a new network")
def new_interfaces():
    return " ".join(name for _, name in socket.if_nameindex())


def attribute(kind, value):
    length = 4 + len(value)
    return struct.pack("=HH", length, kind) + value + b"\0" * (-length % 4)


def netlink(protocol, kind, flags, payload):
    """Sends one request. Returns the type of the answer, once it is no error."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, protocol) as link:
        link.bind((0, 0))
        link.send(struct.pack("=IHHII", 16 + len(payload), kind, flags | 1, 1, 0) + payload)
        answer = link.recv(65536)
    _, answered, _, _, _ = struct.unpack_from("=IHHII", answer)
    if answered == 2 and (error := struct.unpack_from("=i", answer, 16)[0]) != 0:
        raise OSError(-error, os.strerror(-error))
    return answered


def route(kind, flags, payload):
    return netlink(0, kind, flags | 4, payload)  # NETLINK_ROUTE, NLM_F_ACK


CREATE = 0x600  # NLM_F_CREATE | NLM_F_EXCL


def add_link(name, kind, data=b"", below=None):
    info = attribute(1, kind.encode()) + (attribute(2, data) if data else b"")
    payload = struct.pack("=BxHiII", 0, 0, 0, 0, 0) + attribute(3, name.encode() + b"\0")
    if below is not None:
        payload += attribute(5, struct.pack("=I", socket.if_nametoindex(below)))
    route(16, CREATE, payload + attribute(18, info))


def up(name):
    index = socket.if_nametoindex(name)
    route(16, 0, struct.pack("=BxHiII", 0, 0, index, 1, 1))


@case("links")
def links():
    add_link("base", "dummy")
    for kind, data, below in (
        ("bridge", b"", None), ("veth", b"", None), ("wireguard", b"", None),
        ("vlan", attribute(1, struct.pack("=H", 7)), "base"),
        ("macvlan", b"", "base"), ("vxlan", attribute(1, struct.pack("=I", 7)), None),
    ):
        try:
            add_link(f"our-{kind}", kind, data, below)
        except OSError as error:
            return f"{kind}: {error}"
    add_link("base2", "dummy")
    add_link("our-ipvlan", "ipvlan", b"", "base2")


@case("tun")
def tun():
    with open("/dev/net/tun", "r+b", buffering=0) as device:
        fcntl.ioctl(device, 0x400454CA, struct.pack("16sH22x", b"our-tun", 1))
        socket.if_nametoindex("our-tun")


@case("netem")
def netem():
    index = socket.if_nametoindex("base")
    message = struct.pack("=BxHiIII", 0, 0, index, 0, 0xFFFFFFFF, 0)
    options = struct.pack("=IIIIII", 1000, 100, 0, 0, 0, 0)
    route(36, CREATE, message + attribute(1, b"netem\0") + attribute(2, options))


@case("policy routing")
def rules():
    for family in (socket.AF_INET, socket.AF_INET6):
        header = struct.pack("=BBBBBBBBI", family, 0, 0, 0, 100, 0, 0, 1, 0)
        route(32, CREATE, header + attribute(6, struct.pack("=I", 1000)))


@case("iptables")
def iptables():
    for family, level in ((socket.AF_INET, 0), (socket.AF_INET6, 41)):
        with socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_RAW) as raw:
            for table in ("filter", "nat", "mangle", "raw"):
                info = ctypes.create_string_buffer(table.encode(), 84)
                size = ctypes.c_uint(84)
                call("getsockopt", raw.fileno(), level, 64, info, ctypes.byref(size))
            # In IPv6 the questions for revisions have numbers of their own.
            match, target = (66, 67) if level == 0 else (68, 69)
            for question, name, revision in (
                (match, "addrtype", 1), (match, "conntrack", 3), (match, "comment", 0),
                (match, "set", 4), (match, "multiport", 1), (match, "physdev", 0),
                (target, "MASQUERADE", 0), (target, "REDIRECT", 0), (target, "REJECT", 0),
                (target, "MARK", 2), (target, "CT", 2), (target, "LOG", 0),
            ):
                wanted = ctypes.create_string_buffer(name.encode().ljust(29, b"\0")
                                                     + bytes([revision]), 30)
                size = ctypes.c_uint(30)
                try:
                    call("getsockopt", raw.fileno(), level, question, wanted, ctypes.byref(size))
                except OSError as error:
                    return f"{family.name} {name}: {error}"


def netfilter(subsystem, message, flags, payload=b""):
    # NETLINK_NETFILTER, with its own header: family, version and resource.
    header = struct.pack("=BBH", socket.AF_INET, 0, 0)
    return netlink(12, subsystem << 8 | message, flags, header + payload)


@case("nftables compat")
def compat():
    question = (attribute(1, b"addrtype\0") + attribute(2, struct.pack(">I", 1))
                + attribute(3, struct.pack(">I", 0)))
    same(netfilter(11, 0, 0, question), 11 << 8)


@case("conntrack netlink")
def conntrack():
    same(netfilter(1, 1, 0x300), 3)  # a dump that is done: there is no connection


@case("bridge netfilter")
def bridge_filter():
    with open("/proc/sys/net/bridge/bridge-nf-call-iptables") as file:
        return file.read().strip()


@case("SCTP")
def sctp():
    up("lo")
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, 132) as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM, 132) as client:
            client.connect(server.getsockname())
            client.sendall(b"over SCTP")
            with server.accept()[0] as connection:
                same(connection.recv(100), b"over SCTP")

