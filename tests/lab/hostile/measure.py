# Runs a command with its standard input from a file; prints its exit status, lines on standard error
# other than those of its log, peak memory in KiB and seconds, and what it said first.
import resource, subprocess, sys, time
source, command = sys.argv[1], sys.argv[2:]
begun = time.time()
try:
    with open(source, 'rb') as given:
        done = subprocess.run(command, stdin=given, capture_output=True, timeout=60)
    status, said = done.returncode, done.stderr.decode(errors='replace')
except subprocess.TimeoutExpired:
    status, said = -1, 'it does not end'
peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
said = [line for line in said.splitlines() if not line.startswith('[')]
print(status, len(said), peak, f'{time.time() - begun:.1f}', said[0] if said else '')
