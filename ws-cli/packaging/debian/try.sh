#!/bin/sh
# Installs the package, runs the server as the service would, removes the package: try.sh ws.deb
#
# The system itself stays as it is: everything happens in a mount namespace of its own, on a layer
# over /. Needs root, unshare and overlayfs; ends with 77 where they are missing.
set -eu

if [ "${1-}" != --inside ]; then
    package=$(realpath "$1")
    scratch=$(mktemp -d)
    trap 'rm -rf "$scratch"' EXIT
    # The layer has to be of a file system that overlayfs takes, which / may not be.
    unshare --mount --propagation private true 2> "$scratch/why" || {
        echo "skipped: no mount namespace: $(cat "$scratch/why")"
        exit 77
    }
    unshare --mount --propagation private sh -eu -c '
        mount -t tmpfs -o mode=0755 layer "$1"
        mkdir "$1/upper" "$1/work" "$1/root"
        options="lowerdir=/,upperdir=$1/upper,workdir=$1/work"
        mount -t overlay -o "$options" overlay "$1/root" 2> "$1/why" || {
            echo "skipped: no overlay: $(cat "$1/why")"
            exit 77
        }
        mount --bind /proc "$1/root/proc"
        mount --bind /dev "$1/root/dev"
        mkdir -p "$1/root/tmp/package"
        cp "$2" "$1/root/tmp/package/ws.deb"
        cp "$3" "$1/root/tmp/package/try.sh"
        exec chroot "$1/root" sh /tmp/package/try.sh --inside
    ' sh "$scratch" "$package" "$(realpath "$0")"
    exit
fi

say() { echo "== $*"; }
fail() { echo "FAILED: $*"; exit 1; }
has() { echo "$1" | grep -q -- "$2" || fail "no '$2' in: $1"; }

say "installed"
dpkg --force-depends --install /tmp/package/ws.deb
getent passwd ws > /dev/null || fail "there is no user ws"
[ "$(stat -c %U:%a /usr/bin/ws)" = root:755 ] || fail "/usr/bin/ws"
for file in /etc/ws/ws.toml /lib/systemd/system/ws.service /lib/systemd/system/ws.socket \
    /usr/share/ws/shims/fork.php /usr/share/man/man1/ws-serve.1.gz \
    /usr/share/bash-completion/completions/ws; do
    [ -f "$file" ] || fail "there is no $file"
done
ws config check --config /etc/ws/ws.toml

say "started, as the service would"
install -d -o ws -g ws -m 0750 /run/ws /var/lib/ws
start() {
    STATE_DIRECTORY=/var/lib/ws setpriv --reuid ws --regid ws --init-groups --no-new-privs \
        /usr/bin/ws serve --config /etc/ws/ws.toml --listen 127.0.0.1:0 > /tmp/url 2> /tmp/log &
    server=$!
    until [ -s /tmp/url ]; do
        kill -0 "$server" || fail "$(cat /tmp/log)"
        sleep 0.05
    done
}
start
[ "$(stat -c %U /proc/"$server")" = ws ] || fail "the server is not ws's"
has "$(ws status --json)" '"pid"'
[ -f /var/lib/ws/sessions.db ] || fail "there are no sessions"

say "asked, by the demo"
has "$(echo /whoami | ws connect "$(head -1 /tmp/url)" --header "Origin: http://localhost" 2>&1)" .

say "stopped"
kill "$server"
wait "$server" || fail "ended with $?: $(cat /tmp/log)"

say "removed, with its configuration kept"
dpkg --force-depends --remove ws
[ ! -e /usr/bin/ws ] || fail "/usr/bin/ws is still there"
[ -f /etc/ws/ws.toml ] || fail "the configuration is gone"

say "purged"
dpkg --purge ws
[ ! -e /etc/ws/ws.toml ] && [ ! -e /var/lib/ws ] || fail "something is left"
say "all is well"
