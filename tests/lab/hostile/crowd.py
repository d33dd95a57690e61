# Listeners in one network namespace, as many for each process as its descriptors allow, and empty
# namespaces beside it, all by nobody. The last listener's queue is full.
import ctypes, fcntl, os, resource, socket, struct, sys, time

listeners, namespaces = int(sys.argv[1]), int(sys.argv[2])
CLONE_NEWUSER, CLONE_NEWNET = 0x10000000, 0x40000000
libc = ctypes.CDLL(None, use_errno=True)


def enter_new_namespace():
    if libc.unshare(CLONE_NEWUSER | CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "unshare")


def child(work):
    pid = os.fork()
    if pid == 0:
        work()
        os._exit(0)
    return pid


def hold(count, number, told):
    sockets = []
    for i in range(count):
        s = socket.socket()
        s.bind(("127.0.%d.1" % number, 1024 + i))
        s.listen(1)
        sockets.append(s)
    if number == 0:
        addr = sockets[-1].getsockname()
        clients = []
        for _ in range(6):
            c = socket.socket()
            c.setblocking(False)
            c.connect_ex(addr)
            clients.append(c)
    os.write(told, b".")
    time.sleep(600)


hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
each = min(hard - 100, 50000)
os.setgid(65534)
os.setuid(65534)
outer = os.getpid()


def empty():
    enter_new_namespace()
    os.write(told, b".")
    time.sleep(600)


reading, told = os.pipe()
for _ in range(namespaces):
    child(empty)
enter_new_namespace()
# Loopback up: SIOCSIFFLAGS with IFF_UP.

fcntl.ioctl(socket.socket(), 0x8914, struct.pack("16sh14x", b"lo", 1))
left, number = listeners, 0
while left > 0:
    # The one with the listener in trouble comes last, so that it is the youngest.
    count = min(each, left)
    last = left == count
    child(lambda: hold(count, 0 if last else number + 1, told))
    left -= count
    number += 1
waited = namespaces + number
while waited > 0:
    waited -= len(os.read(reading, waited))
open("ready.new", "w").write("127.0.0.1:%d" % (1024 + count - 1))
os.rename("ready.new", "ready")
time.sleep(600)
