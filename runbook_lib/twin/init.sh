# The first process of an emulated host, in three stages (arguments after the stage: mnt files twin facts name).
#   user   in a new user namespace: waits until the server has written the uid map
#   build  in new mount, pid and uts namespaces: makes the host's own `/`, then becomes its PID 1
# PID 1 reaps what its children leave behind (bash does this on every SIGCHLD) and ends when the server closes stdin:
# then the kernel kills everything in the pid namespace, so nothing outlives the server.
set -eu
stage=$1 self=$0
shift

if [ "$stage" = user ]; then
    echo map
    read -r _
    died="" # a second line of defence for a server that is killed
    if command -v setpriv >/dev/null; then died="setpriv --pdeathsig KILL"; fi
    exec $died unshare --mount --uts --pid --fork --kill-child --propagation private bash "$self" build "$@"
fi

mnt=$1 files=$2 twin=$3 facts=$4 name=$5
read -r host_pid _ </proc/self/stat # this /proc is still the server's, so is the number

readonly_mount() { # what a locked mount of the outside carries must be named again
    mount -o remount,bind,ro "$1" 2>/dev/null || mount -o remount,bind,ro,nosuid,nodev "$1" 2>/dev/null ||
        mount -o remount,bind,ro,nosuid "$1" || mount -o remount,bind,ro,nodev "$1"
}
bind() { mount --rbind "$1" "$2" && readonly_mount "$2"; }

mount --bind "$files" "$mnt"
for name_ in bin sbin lib lib32 lib64 libx32; do
    if [ -L "/$name_" ]; then
        ln -sfn "$(readlink "/$name_")" "$mnt/$name_"
    elif [ -d "/$name_" ]; then
        mkdir -p "$mnt/$name_"
        bind "/$name_" "$mnt/$name_"
    fi
done
bind /usr "$mnt/usr"
mount --bind "$files/usr/local" "$mnt/usr/local"

bind "$twin" "$mnt/opt/twin"
while IFS=$'\t' read -r source target; do bind "$source" "$mnt/opt/twin/$target"; done <"$facts/binds"

mount -t tmpfs -o mode=755,size=16m dev "$mnt/dev"
for device in null zero full random urandom tty; do
    : >"$mnt/dev/$device"
    mount --bind "/dev/$device" "$mnt/dev/$device"
done
ln -s /proc/self/fd "$mnt/dev/fd"
ln -s /proc/self/fd/0 "$mnt/dev/stdin"
ln -s /proc/self/fd/1 "$mnt/dev/stdout"
ln -s /proc/self/fd/2 "$mnt/dev/stderr"
mkdir "$mnt/dev/shm" "$mnt/dev/pts"
mount -t tmpfs -o mode=1777 shm "$mnt/dev/shm"
if mount -t devpts -o newinstance,ptmxmode=0666,mode=620 devpts "$mnt/dev/pts" 2>/dev/null; then
    ln -s pts/ptmx "$mnt/dev/ptmx"
fi
while read -r device; do (umask 117 && : >"$mnt/dev/$device"); done <"$facts/devices"
mount -t tmpfs -o mode=755 run "$mnt/run"
mkdir "$mnt/run/lock"

# containers need one /proc without anything mounted over it, else the kernel refuses them a /proc of their own
mount -t proc proc "$mnt/opt/twin/proc"
mount -t proc proc "$mnt/proc"
hostname "$name" 2>/dev/null || printf "%s\n" "$name" >"$mnt/proc/sys/kernel/hostname" || true # the shim answers then
for fact in meminfo cpuinfo version cmdline; do bind "$facts/$fact" "$mnt/proc/$fact"; done
mount --bind "$mnt/proc/sys" "$mnt/proc/sys"
readonly_mount "$mnt/proc/sys" # as the machine's own root this node could else change the real kernel's settings
for fact in osrelease boot_id; do
    target="$mnt/proc/sys/kernel/$fact"
    [ "$fact" = boot_id ] && target="$mnt/proc/sys/kernel/random/boot_id"
    bind "$facts/$fact" "$target"
done
[ -e "$mnt/proc/sysrq-trigger" ] && mount --bind "$mnt/dev/null" "$mnt/proc/sysrq-trigger"

cd "$mnt"
pivot_root . .
umount -l .
cd /
exec -a /usr/lib/systemd/systemd bash -c 'echo "ready $1"; while read -r _; do :; done' init "$host_pid"
