# A listening program whose ELF header claims ARGV[1] sections, run by nobody.
import os, struct, sys

count = int(sys.argv[1])
program = bytearray(open("/usr/bin/python3", "rb").read())
offset = (len(program) + 0xFFFF) & ~0xFFFF
struct.pack_into("<Q", program, 0x28, offset)  # e_shoff
struct.pack_into("<HHH", program, 0x3A, 64, 0, 1)  # e_shentsize, e_shnum (see section 0), e_shstrndx
with open("bomb", "wb") as file:
    file.write(program)
    file.seek(offset)
    file.write(struct.pack("<IIQQQQIIQQ", 0, 0, 0, 0, 0, count, 1, 0, 0, 0))
    file.truncate(offset + 64 * count)
os.chmod("bomb", 0o755)
listen = """
import socket, time
s = socket.socket(); s.bind(("127.0.0.1", 0)); s.listen(1)
open("ready.new", "w").write(str(s.getsockname()[1]))
import os; os.rename("ready.new", "ready"); time.sleep(600)
"""
os.setgid(65534)
os.setuid(65534)
os.execve("./bomb", ["bomb", "-c", listen], {"PYTHONHOME": "/usr"})
