# neighbour.py LOG: as a user without privileges, a process that calls itself nginx, and a copy of nginx's
# program that only sleeps, write an nginx's words to its log, which is writable.
import ctypes, os, shutil, sys, time

log = sys.argv[1]
copy = os.path.join(os.getcwd(), "copy")
os.makedirs(copy)
shutil.copy("/usr/sbin/nginx", os.path.join(copy, "nginx"))
with open(os.path.join(copy, "nginx.conf"), "w") as f:
    f.write(f"daemon off; master_process off; pid {copy}/pid; error_log {log}; events {{}}\n")
os.chmod(copy, 0o777)
os.setgid(65534)
os.setuid(65534)
child = os.fork()
if child == 0:
    os.execv(f"{copy}/nginx", ["nginx", "-p", copy, "-c", f"{copy}/nginx.conf", "-e", log])
ctypes.CDLL(None).prctl(15, b"nginx", 0, 0, 0)
file = open(log, "a")
while True:
    for pid in (os.getpid(), child):
        stamp = time.strftime("%Y/%m/%d %H:%M:%S")
        file.write(
            f"{stamp} [error] {pid}#{pid}: *1 no live upstreams while connecting to upstream, client: "
            f'10.9.9.9, server: , request: "GET / HTTP/1.1", upstream: "http://app/", host: "h"\n'
        )
    file.flush()
    time.sleep(0.3)
