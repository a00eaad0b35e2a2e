#!/bin/bash
# Stage 2: one tree of Debian's packages, our packages, the files of this directory and the kernel's modules.
#   20-tree.sh FLAVOUR BASE.tar PACKAGES MODULES TREE     PACKAGES: a directory of .deb files; MODULES: …/lib/modules/RELEASE
set -euo pipefail
flavour=$1 base=$2 packages=$3 modules=$4 tree=$5
here=$(cd "$(dirname "$0")" && pwd)
umask 022
export PATH=/usr/sbin:/usr/bin:/sbin:/bin

rm -rf "$tree"
mkdir -p "$tree"
tar -C "$tree" -xf "$base"

# For the programs that run in it now.
mkdir -p "$tree/dev"
mknod -m 666 "$tree/dev/null" c 1 3
mknod -m 444 "$tree/dev/urandom" c 1 9

# Ours. Their scripts make users; nothing is started, for no systemd runs here.
mkdir "$tree/packages"
cp "$packages"/{culvert,wgd,edge,storaged,culvert-agent}_*.deb "$tree/packages/"
chroot "$tree" sh -ec 'dpkg --install /packages/*.deb >/dev/null'
rm -r "$tree/packages"

# What belongs on the data partition, as a first content of it.
mkdir -p "$tree/usr/share/culvert/factory"
mv "$tree/etc/culvert/wgd.toml" "$tree/usr/share/culvert/factory/"
sed -i 's/^# whois_users/whois_users/' "$tree/usr/share/culvert/factory/wgd.toml"

# The files of this directory. A checkout's modes and owners are not the image's.
for layer in common "$flavour"; do
    [ -d "$here/overlay/$layer" ] || continue
    (cd "$here/overlay/$layer" && find . -type f -print0 | LC_ALL=C sort -z) |
        while IFS= read -r -d '' file; do install -D -m 0644 "$here/overlay/$layer/$file" "$tree/$file"; done
done

# The kernel's modules: a directory of those that lists/modules.root names, made by the build.
mkdir -p "$tree/usr/lib/modules"
cp -r "$modules" "$tree/usr/lib/modules/"
depmod --basedir "$tree" "$(basename "$modules")"

# Places where the first process mounts something, and those that the data partition fills.
mkdir -p "$tree"/{srv,etc/culvert,etc/wireguard,etc/credstore.encrypted,proc,sys,dev,run,tmp,var,root,home}
rm -rf "$tree/etc/systemd/network"
ln -sn ../culvert/network "$tree/etc/systemd/network"
ln -sfn culvert/hostname "$tree/etc/hostname"
ln -sfn culvert/resolv.conf "$tree/etc/resolv.conf"
ln -sfn ../proc/self/mounts "$tree/etc/mtab"
: > "$tree/etc/machine-id"
printf '127.0.0.1 localhost\n::1 localhost\n' > "$tree/etc/hosts"
: > "$tree/etc/fstab"
rm -f "$tree"/etc/{motd,issue,issue.net} "$tree"/etc/ssh/ssh_host_*

# What starts by itself, and what never does.
chroot "$tree" systemctl --quiet enable culvert-identity.service culvert-init-storaged.service culvert-report.service \
    culvert-image-confirm.service culvert-image-update.service wgd@wg0.service edge.service storaged.service culvert-agent.service systemd-networkd.service systemd-networkd-wait-online.service
chroot "$tree" systemctl --quiet set-default multi-user.target
never=(getty@.service getty-static.service serial-getty@.service console-getty.service container-getty@.service debug-shell.service
    emergency.service rescue.service systemd-update-done.service systemd-hwdb-update.service ldconfig.service
    systemd-journal-catalog-update.service systemd-journal-flush.service systemd-machine-id-commit.service systemd-firstboot.service
    systemd-boot-update.service systemd-pcrphase.service systemd-pcrphase-sysinit.service
    apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer e2scrub_reap.service fstrim.timer
    systemd-network-generator.service systemd-ask-password-console.path systemd-ask-password-wall.path
    proc-sys-fs-binfmt_misc.automount sys-kernel-debug.mount sys-kernel-tracing.mount)
for unit in "${never[@]}"; do ln -sfn /dev/null "$tree/etc/systemd/system/$unit"; done
if [ "$flavour" = managed ]; then
    chroot "$tree" systemctl --quiet enable culvert-ssh-identity.service root.mount ssh.service
    # Socket activation would listen before there is a key.
    ln -sfn /dev/null "$tree/etc/systemd/system/ssh.socket"
fi

# Nobody logs in with a password.
sed -i 's/^\([^:]*\):[^:]*:/\1:!*:/' "$tree/etc/shadow"
# Root is the one account that a key may open, in `managed`; a locked one would be refused.
[ "$flavour" != managed ] || sed -i 's/^root:[^:]*:/root:*:/' "$tree/etc/shadow"
rm -f "$tree"/etc/{passwd,shadow,group,gshadow,subuid,subgid}- "$tree/etc/.pwd.lock"

# What is there, before its list goes.
chroot "$tree" dpkg-query --show --showformat='${Package} ${Version} ${Architecture}\n' |
    LC_ALL=C sort > "$tree/usr/share/culvert/packages.txt"

# No bit that lends a user's rights to who calls a program.
find "$tree" -xdev -type f -perm /6000 -exec chmod a-s {} +

# Traces of the installation, and what nobody uses.
rm -rf "$tree"/dev/* "$tree"/var/* "$tree"/run/* "$tree"/tmp/* "$tree"/boot "$tree"/media "$tree"/mnt "$tree"/opt \
    "$tree"/etc/{apt,dpkg,cron.d,cron.daily,cron.hourly,cron.monthly,cron.weekly,init.d,sv,logrotate.d,skel} \
    "$tree"/etc/rc?.d "$tree"/etc/udev/hwdb.bin "$tree"/usr/lib/udev/hwdb.bin "$tree"/usr/lib/udev/hwdb.d \
    "$tree"/usr/share/{bash-completion,zsh,fish,lintian,bug,menu,debconf,man,info,locale,i18n,pixmaps,applications} \
    "$tree"/usr/share/doc/*/changelog* "$tree"/usr/games "$tree"/usr/local "$tree"/usr/include "$tree"/usr/src
find "$tree" -name __pycache__ -type d -prune -exec rm -rf {} +
find "$tree" -name '*.dpkg-*' -delete
