# The first process of an emulated container, in its own mount, pid and uts namespaces inside the node.
# Arguments: the container's folder on the node, then the command. The folder holds rootfs/ (its own files),
# merged/ (empty), and spec: lines of word TAB value [TAB value [TAB value]].
# Says `PID` (as the node counts) in the file ready when the command is about to start; errors go to stderr.
set -eu
dir=$1
shift
read -r node_pid _ </proc/self/stat # this /proc is still the node's, so is the number
exec 9>"$dir/ready"
spec=$(<"$dir/spec")
r=$dir/merged
mount --bind "$dir/rootfs" "$r"
for name in bin sbin lib lib32 lib64 libx32; do
    if [ -L "/$name" ]; then
        ln -sfn "$(readlink "/$name")" "$r/$name"
    elif [ -d "/$name" ]; then
        mkdir -p "$r/$name"
        mount --rbind "/$name" "$r/$name"
    fi
done
mount --rbind /usr "$r/usr"
mount --bind "$dir/rootfs/usr/local" "$r/usr/local"
mount --rbind /opt/twin "$r/opt/twin"

mount -t tmpfs -o mode=755,size=16m dev "$r/dev"
place() { # a device of the node
    mkdir -p "$(dirname "$r$2")"
    : >"$r$2"
    mount --bind "$1" "$r$2"
}
for device in null zero full random urandom tty; do place "/dev/$device" "/dev/$device"; done
for link in fd:/proc/self/fd stdin:/proc/self/fd/0 stdout:/proc/self/fd/1 stderr:/proc/self/fd/2; do
    ln -s "${link#*:}" "$r/dev/${link%%:*}"
done
mkdir "$r/dev/shm" "$r/dev/pts"
if mount -t devpts -o newinstance,ptmxmode=0666,mode=620 devpts "$r/dev/pts" 2>/dev/null; then
    ln -s pts/ptmx "$r/dev/ptmx"
fi

mount -t proc proc "$r/proc"
mount --rbind /proc/sys "$r/proc/sys"
for fact in meminfo cpuinfo version cmdline; do mount --bind "/proc/$fact" "$r/proc/$fact"; done
mount --rbind /sys "$r/sys" 2>/dev/null || true
for file in hosts resolv.conf ld.so.cache nsswitch.conf; do
    [ -e "/etc/$file" ] || continue
    : >>"$r/etc/$file"
    mount --bind "/etc/$file" "$r/etc/$file"
done
[ -d /etc/alternatives ] && mkdir -p "$r/etc/alternatives" && mount --bind /etc/alternatives "$r/etc/alternatives"

workdir=/ user="" init=""
while IFS=$'\t' read -r word one two three; do
    case $word in
        shm) mount -t tmpfs -o "mode=1777,size=$one" shm "$r/dev/shm" ;;
        device) place "$one" "$two" ;;
        hostname) printf '%s\n' "$one" >/proc/sys/kernel/hostname 2>/dev/null || hostname "$one" ;;
        workdir) workdir=$one ;;
        user) user=$one ;;
        init) init=yes ;;
        bind)
            if [ -d "$one" ]; then
                mkdir -p "$r$two"
            else
                mkdir -p "$(dirname "$r$two")"
                [ -e "$r$two" ] || : >"$r$two"
            fi
            mount --rbind "$one" "$r$two"
            if [ "$three" = ro ]; then
                mount -o remount,bind,ro "$r$two" 2>/dev/null || mount -o remount,bind,ro,nosuid,nodev "$r$two"
            fi
            ;;
    esac
done <<<"$spec"
mapfile -d '' -t environment <"$dir/environment"

cd "$r"
pivot_root . .
umount -l .
cd /
if ! cd "$workdir" 2>/dev/null; then
    mkdir -p "$workdir"
    cd "$workdir"
fi
as=()
[ -z "$user" ] || as=(setpriv --reuid "${user%%:*}" --regid "${user#*:}" --clear-groups)
if ! type -P -- "$1" >/dev/null; then
    echo "exec: \"$1\": executable file not found in \$PATH" >&2
    exit 127
fi
echo "$node_pid" >&9
exec 9>&-
if [ -z "$init" ]; then
    exec "${as[@]}" env -i "${environment[@]}" "$@"
fi
"${as[@]}" env -i "${environment[@]}" "$@" <&0 &
child=$!
trap 'kill -TERM "$child"' TERM
while kill -0 "$child" 2>/dev/null; do
    code=0
    wait "$child" || code=$?
done
exit "$code"
