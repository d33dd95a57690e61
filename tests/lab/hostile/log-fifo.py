# Exchanges a log with a FIFO as fast as it can (RENAME_EXCHANGE), and leaves the log there.
import ctypes, os, sys, time
log = sys.argv[1].encode()
os.mkfifo(log + b'.fifo')
exchange = ctypes.CDLL(None).renameat2
end = time.time() + float(sys.argv[2])
while time.time() < end:
    for _ in range(1000):
        exchange(-100, log, -100, log + b'.fifo', 2)
