# Calls itself nginx, maps a module and then puts something else at the module's path.
import ctypes, mmap, os, sys, time
kind, directory = sys.argv[1:]
path = os.path.join(directory, 'ngx_stream_module.so')
with open(path, 'wb') as module:
    module.write(b'x' * 4096)
with open(path, 'rb') as module:
    mapped = mmap.mmap(module.fileno(), 4096, prot=mmap.PROT_READ)
other = path + '.new'
if kind == 'fifo':
    os.mkfifo(other, 0o666)
else:
    os.symlink('/dev/zero', other)
os.rename(other, path)
ctypes.CDLL(None).prctl(15, b'nginx', 0, 0, 0)
open(os.path.join(directory, 'ready'), 'w').close()
time.sleep(120)
