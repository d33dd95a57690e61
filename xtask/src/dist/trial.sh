# The package on a fresh Debian 12: installed, run as its unit has it, reloaded, removed; nothing left.
#
# There is no init in the root, so what systemd would do is done by hand: the unit's user, capabilities
# and directories, its command line, SIGHUP and SIGTERM. Called in a mount namespace of its own with
# ROOT (a fresh Debian 12) and DEB (the package) set.
PORT=19435
URL=http://127.0.0.1:$PORT
work=$(mktemp -d)
agent=
trap 'rm -rf "$work"; [ -z "$agent" ] || kill "$agent"' EXIT

say() { printf 'trial: %s\n' "$*"; }
programs() { bpftool prog list 2>/dev/null | grep -c '^[0-9]' || true; }
pins() { find /sys/fs/bpf -mindepth 1 2>/dev/null | wc -l; }
inside() { chroot "$ROOT" "$@"; }
until_true() { for _ in $(seq 150); do ! "$@" || return 0; sleep 0.2; done; say "in vain: $*"; return 1; }
shows() { curl --silent --fail "$URL$1" | grep --quiet "$2"; }
listing() {
    inside find / -xdev \( -path /proc -o -path /sys -o -path /dev -o -path /tmp -o -path /var/log \
        -o -path /var/cache -o -path /run/adduser -o -path '/var/lib/dpkg/*' -o -name 'passwd*' -o -name 'group*' \
        -o -name '*shadow*' \) -prune -o -print | sort
}

mount -t proc proc "$ROOT/proc"
mount -t sysfs sysfs "$ROOT/sys"
mount --bind /dev "$ROOT/dev"
listing > "$work/before"
programs_before=$(programs) pins_before=$(pins)

cp "$DEB" "$ROOT/tmp/floodmark.deb"
inside dpkg --install /tmp/floodmark.deb
user=$(inside id -u floodmark) group=$(inside id -g floodmark)
say "installed $(inside floodmark --version), for user $user"
inside floodmark config check
unit=$ROOT/lib/systemd/system/floodmark.service
[ -e "$unit" ] || unit=$ROOT/usr/lib/systemd/system/floodmark.service

install -d -o "$user" -g "$group" "$ROOT/run/floodmark" "$ROOT/var/lib/floodmark"
capabilities=$(sed -n 's/^AmbientCapabilities=//p' "$unit" | tr 'A-Z ' 'a-z,' | sed 's/cap_/+/g')
start=$(sed -n 's/^ExecStart=//p' "$unit")
STATE_DIRECTORY=/var/lib/floodmark FLOODMARK_LISTEN=127.0.0.1:$PORT chroot "$ROOT" \
    setpriv --reuid="$user" --regid="$group" --clear-groups --no-new-privs \
    --bounding-set="-all,$capabilities" --inh-caps="-all,$capabilities" \
    --ambient-caps="-all,$capabilities" -- $start 2> "$work/agent" &
agent=$!
until_true shows /readyz '^ready' || { cat "$work/agent"; exit 1; }
say "runs as user $(stat --format=%u /proc/$agent), with $(sed -n 's/^CapEff:\t//p' /proc/$agent/status); $(programs) eBPF programs"

# The incident in small: a queue of one, and clients that nobody accepts.
python3 - <<'PYTHON' &
import socket, time
listener = socket.socket()
listener.bind(("127.0.0.1", 19436))
listener.listen(1)
clients = [socket.socket() for _ in range(12)]
for client in clients:
    client.setblocking(False)
    client.connect_ex(("127.0.0.1", 19436))
time.sleep(12)
PYTHON
overflow=$!
until_true shows /metrics '^floodmark_listener_overflows_total{.*127.0.0.1:19436.*} [1-9]'
say "the overflow is counted: $(curl --silent $URL/metrics | grep '^floodmark_listener_overflows_total{.*127.0.0.1:19436' | head -1)"
kill $overflow; wait $overflow || true

echo 'listeners = 10' >> "$ROOT/etc/floodmark/floodmark.toml"
kill -HUP $agent
sleep 2
shows /metrics '^floodmark_config_last_reload_successful 1'
kill -TERM $agent
wait $agent
agent=
say "reloaded, and stopped with status 0"

inside dpkg --purge floodmark
rm "$ROOT/tmp/floodmark.deb"
rmdir "$ROOT/run/floodmark" 2>/dev/null || true
listing > "$work/after"
diff "$work/before" "$work/after" || { say "files were left behind"; exit 1; }
if inside getent passwd floodmark; then say "the user was left behind"; exit 1; fi
[ "$(programs)" = "$programs_before" ] && [ "$(pins)" = "$pins_before" ] ||
    { say "eBPF programs or pins were left behind"; exit 1; }
say "removed: no file, no user, no program ($programs_before as before), no pin is left"
