# ARGV[1] processes that listen, whose executable is on a FUSE file system that stops to answer when all
# are ready. A minimal server of the FUSE protocol (include/uapi/linux/fuse.h) with one file: the
# interpreter that runs this. (/proc/PID/cmdline does not read memory of files, since CVE-2018-1120.)
import ctypes, os, struct, sys, time

MOUNT = os.path.join(os.getcwd(), "hung")
PROGRAM = open("/usr/bin/python3", "rb").read()
LOOKUP, GETATTR, OPEN, READ, STATFS, RELEASE, FLUSH, INIT = 1, 3, 14, 15, 17, 18, 25, 26
ENOENT, ENOSYS = 2, 38
libc = ctypes.CDLL(None, use_errno=True)

LISTEN = """
import os, socket, sys, time
s = socket.socket(); s.bind(('127.0.0.1', 0)); s.listen(1)
with open(sys.argv[1] + '.new', 'w') as file: file.write(str(s.getsockname()[1]))
os.rename(sys.argv[1] + '.new', sys.argv[1])
time.sleep(600)
"""


def attributes(inode):
    mode = 0o40755 if inode == 1 else 0o100755
    size = 0 if inode == 1 else len(PROGRAM)
    return struct.pack("<QQQQQQIIIIIIIIII", inode, size, 0, 0, 0, 0, 0, 0, 0, mode, 1, 0, 0, 0, 4096, 0)


def answer(opcode, inode, body):
    if opcode == INIT:
        return struct.pack("<IIIIHHIIHHI28x", 7, 31, 65536, 0, 16, 12, 65536, 1, 16, 0, 0)
    if opcode == LOOKUP:
        if body.rstrip(b"\0") != b"program":
            return ENOENT
        return struct.pack("<QQQQII", 2, 0, 3600, 3600, 0, 0) + attributes(2)
    if opcode == GETATTR:
        return struct.pack("<QII", 3600, 0, 0) + attributes(inode)
    if opcode == OPEN:
        return struct.pack("<QII", 1, 2, 0)  # FOPEN_KEEP_CACHE
    if opcode == READ:
        _, offset, size = struct.unpack_from("<QQI", body)
        return PROGRAM[offset : offset + size].ljust(size, b"\0")
    if opcode == STATFS:
        return struct.pack("<QQQQQIIII24x", 0, 0, 0, 0, 0, 4096, 255, 4096, 0)
    if opcode in (RELEASE, FLUSH):
        return b""
    return ENOSYS


def serve(device):
    while True:
        request = os.read(device, 1 << 17)
        _, opcode, unique, inode = struct.unpack_from("<IIQQ", request)
        if opcode in (2, 36, 42):  # FORGET, INTERRUPT, BATCH_FORGET have no answer
            continue
        if os.path.exists("hang"):
            continue
        result = answer(opcode, inode, request[40:])
        error, data = (-result, b"") if isinstance(result, int) else (0, result)
        os.write(device, struct.pack("<IiQ", 16 + len(data), error, unique) + data)


os.makedirs(MOUNT, exist_ok=True)
device = os.open("/dev/fuse", os.O_RDWR)
options = "fd=%d,rootmode=40000,user_id=0,group_id=0,allow_other,default_permissions" % device
# MS_NOSUID|MS_NODEV, in a mount namespace of its own: the mount goes with the last process in it.
if libc.unshare(0x20000) != 0 or libc.mount(b"none", b"/", None, 0x44000, None) != 0:
    raise OSError(ctypes.get_errno(), "unshare")
if libc.mount(b"hung", MOUNT.encode(), b"fuse", 6, options.encode()) != 0:
    raise OSError(ctypes.get_errno(), "mount")
if os.fork() == 0:
    serve(device)
os.close(device)
names = ["port-%d" % i for i in range(int(sys.argv[1]))]
for name in names:
    if os.fork() == 0:
        os.setgid(65534)
        os.setuid(65534)
        os.execve(MOUNT + "/program", ["hung", "-c", LISTEN, name], {"PYTHONHOME": "/usr"})
for name in names:
    while not os.path.exists(name):
        time.sleep(0.05)
open("hang", "w").close()
with open("ready.new", "w") as file:
    file.write(" ".join(open(name).read() for name in names))
os.rename("ready.new", "ready")
time.sleep(600)
