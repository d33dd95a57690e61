# The package on a fresh Debian 12 with a systemd of its own: installed by apt, started by systemd, the
# incident counted and alerted, reloaded, removed; nothing left. Run as root by `trial.service` in the machine.
URL=http://127.0.0.1:9435

say() { printf 'trial: %s\n' "$*"; }
die() { say "FAILED: $*"; journalctl --no-pager --unit floodmark | tail -30 >&2; exit 1; }
until_true() { for _ in $(seq 480); do ! "$@" || return 0; sleep 0.5; done; die "in vain: $*"; }
shows() { curl --silent --fail "$URL$1" | grep --quiet "$2"; }
property() { systemctl show --value --property "$1" floodmark; }
# systemd has programs of its own, for each unit whose devices are its own.
attached() { bpftool prog list | grep '^[0-9]' | grep --count --invert-match ': cgroup_' || true; }
left() {
    find / -xdev \( -path /proc -o -path /sys -o -path /dev -o -path /tmp -o -path /run -o -path /root \
        -o -path /var/log -o -path /var/cache -o -path '/var/lib/dpkg/*' -o -path '/var/lib/apt/*' \
        -o -path '/var/lib/systemd/*' -o -name 'passwd*' -o -name 'group*' -o -name '*shadow*' \
        -o -name 'subuid*' -o -name 'subgid*' \) -prune -o -print | sort
    find /run /sys/fs/bpf -path /run/systemd -prune -o -name '*floodmark*' -print
}

ip link set lo up
say "$(. /etc/os-release; echo "$PRETTY_NAME"), Linux $(uname -r), $(systemctl --version | head -1); process 1 is $(cat /proc/1/comm)"
left > /root/before
programs_before=$(attached)

apt-get install --yes --quiet --no-install-recommends /root/floodmark.deb >&2 || die 'apt-get install'
systemctl is-enabled --quiet floodmark || die 'it is not enabled'
until_true systemctl is-active --quiet floodmark
until_true shows /readyz '^ready'
pid=$(property MainPID)
say "installed and $(systemctl is-active floodmark): Type=$(property Type), watchdog every $(property WatchdogUSec), as $(property User), with $(sed -n 's/^CapEff:\t//p' "/proc/$pid/status"); $(attached) eBPF programs"
[ "$(property Type)" = notify ] && [ "$(property WatchdogUSec)" = 30s ] || die 'no notify, or no watchdog'
[ "$(stat --format=%U "/proc/$pid")" = floodmark ] || die 'it does not run as floodmark'
say "systemd-analyze security: $(systemd-analyze security --no-pager floodmark 2>/dev/null | tail -1)"

# The rungs, by a service with the same user, capabilities and restrictions. A signal that is only had
# where it is asked for ends the command with status 1.
sed -e 's/^Type=.*/Type=oneshot/' -e 's/^ExecStart=.*/ExecStart=\/usr\/bin\/floodmark doctor/' \
    -e '/^ExecReload=\|^WatchdogSec=\|^Restart=\|Directory=/d' -e 's/^UMask/StandardOutput=file:\/root\/doctor\n&/' \
    /lib/systemd/system/floodmark.service > /run/systemd/system/doctor.service
systemctl daemon-reload
systemctl start doctor || true
rm /run/systemd/system/doctor.service
sed 's/^/doctor: /' /root/doctor
grep --quiet fentry /root/doctor || die 'doctor names no fentry rung'
shows /metrics '^floodmark_signal_rung_info{.*rung="fentry"' || die 'no signal is had by fentry'

python3 /root/incident.py 300 &
incident=$!
until_true shows /metrics '^floodmark_listener_overflows_total{.*127.0.0.1:19436.*} [1-9][0-9]'
say "the overflow is counted: $(curl --silent $URL/metrics | grep '^floodmark_listener_overflows_total{.*127.0.0.1:19436')"
# Owners are looked up beside the tick.
until_true shows /metrics '^floodmark_listener_info{.*127.0.0.1:19436.*unit="trial.service"'

# By the rules that the package brings, which want a minute of it.
cat > /root/prometheus.yml <<YML
global: { scrape_interval: 5s, evaluation_interval: 5s }
rule_files: [/usr/share/doc/floodmark/prometheus/floodmark.rules.yml]
scrape_configs: [{ job_name: floodmark, honor_labels: true, static_configs: [{ targets: ["127.0.0.1:9435"] }] }]
YML
/root/prometheus --config.file=/root/prometheus.yml --storage.tsdb.path=/tmp/prometheus \
    --web.listen-address=127.0.0.1:19090 --log.level=error &
prometheus=$!
alerts() { curl --silent "http://127.0.0.1:19090/api/v1/query?query=ALERTS%7Balertstate=%22firing%22%7D"; }
fires() { alerts | grep --quiet '"FloodmarkAcceptQueueOverflow".*"listener":"127.0.0.1:19436".*"owner":"unit trial.service"'; }
until_true fires
say "the incident is alerted: $(alerts | grep --only-matching '"alertname":[^}]*' | head -1)"
counted=$(curl --silent $URL/metrics | sed -n 's/^floodmark_listener_overflows_total{.*127.0.0.1:19436.*} //p')

echo 'listeners = 10' >> /etc/floodmark/floodmark.toml
systemctl reload floodmark || die 'systemctl reload'
sleep 2
shows /metrics '^floodmark_config_last_reload_successful 1' || die 'the reload did not succeed'
after=$(curl --silent $URL/metrics | sed -n 's/^floodmark_listener_overflows_total{.*127.0.0.1:19436.*} //p')
[ "$after" -ge "$counted" ] && [ "$(property MainPID)" = "$pid" ] || die 'the reload lost counts'
echo 'listners = 10' >> /etc/floodmark/floodmark.toml
! systemctl reload floodmark 2>/dev/null || die 'a wrong configuration was taken on'
systemctl is-active --quiet floodmark || die 'a wrong configuration ended the service'
say "reloaded with $after overflows kept; a wrong configuration is refused by systemctl reload, and the service goes on"
sed -i '$d' /etc/floodmark/floodmark.toml
kill $incident
wait $incident || true
alerts_no_more() { ! fires; }
until_true alerts_no_more
say 'the alert resolves once the listener is gone'
kill $prometheus
wait $prometheus || true

systemctl restart floodmark || die 'systemctl restart'
until_true shows /readyz '^ready'
[ "$(property NRestarts)" = 0 ] || die 'it was started anew by systemd'

apt-get purge --yes --quiet floodmark >&2 || die 'apt-get purge'
! systemctl cat floodmark > /dev/null 2>&1 || die 'the unit was left behind'
left > /root/after
diff /root/before /root/after || die 'files were left behind'
! getent passwd floodmark || die 'the user was left behind'
! pgrep --exact floodmark || die 'it still runs'
sleep 1
[ "$(attached)" = "$programs_before" ] || die "eBPF programs were left behind: $(bpftool prog list)"
say "purged: no file, no user, no unit, no process, no program ($programs_before as before), no pin is left"
