#!/bin/bash
# Stage 3, `sealed` alone: what can be executed goes unless lists/programs.sealed names it, and with it what only it needs.
#   30-seal.sh TREE
set -euo pipefail
tree=$1
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
here=$(cd "$(dirname "$0")" && pwd)

# Links in the directories of programs by their own names; files wherever they are. Libraries are not started.
mapfile -t keep < <(grep -v '^#' "$here/lists/programs.sealed")
is_kept() { [[ " ${keep[*]} " == *" ${1##*/} "* ]]; }
{
    find "$tree"/usr/{bin,sbin} -mindepth 1 -maxdepth 1 -print0
    find "$tree" -xdev -type f -perm /111 ! -name '*.so' ! -name '*.so.*' -print0
} | while IFS= read -r -d '' program; do
    is_kept "$program" || rm -rf "$program"
done
for name in "${keep[@]}"; do
    if [ -z "$(find "$tree/usr" -name "$name" ! -type d -print -quit)" ]; then
        echo "$name is in programs.sealed and not in the tree" >&2
        exit 1
    fi
done
# A script is no use without an interpreter, whatever its mode.
grep -rIlZ --devices=skip -m1 '^#!' "$tree/etc" "$tree/usr" | while IFS= read -r -d '' file; do
    if [ "$(head -c 2 "$file")" = '#!' ]; then rm "$file"; fi
done

# Libraries and data of what is gone.
rm -rf "$tree"/usr/lib/{apt,dpkg,init,kernel,locale,lsb,mime,pam.d,terminfo,usrmerge,environment.d,binfmt.d} "$tree"/usr/libexec \
    "$tree"/usr/lib/x86_64-linux-gnu/{perl,perl-base,perl5,gconv,security,xtables,gawk,e2fsprogs,krb5,sasl2,audit} \
    "$tree"/usr/lib/systemd/{system-shutdown,system-sleep,user,user-generators,user-environment-generators,user-preset} \
    "$tree"/usr/lib/systemd/{catalog,ntp-units.d,system-environment-generators} \
    "$tree"/usr/share/{base-files,base-passwd,bug,dbus-1,debianutils,dict,doc-base,dpkg,initramfs-tools,libc-bin,libgcrypt20} \
    "$tree"/usr/share/{misc,pam,pam-configs,perl,perl5,pkgconfig,polkit-1,systemd,tabset,terminfo,util-linux} \
    "$tree"/etc/{adduser.conf,alternatives,bash.bashrc,bindresvport.blacklist,debconf.conf,debian_version,default,deluser.conf} \
    "$tree"/etc/{dhcp,environment,gss,kernel,libaudit.conf,login.defs,netconfig,opt,pam.conf,pam.d,perl,profile,profile.d,rmt} \
    "$tree"/etc/{security,selinux,shells,subgid,subuid,terminfo,update-motd.d,xattr.conf,xdg,binfmt.d,modules}

# Rules of udev that call programs which are gone.
rm -f "$tree"/usr/lib/udev/rules.d/{60-cdrom_id,60-fido-id,60-persistent-v4l,70-memory,75-probe_mtd,61-persistent-storage-android,85-hwclock}.rules

# Units whose program is gone.
for unit in systemd-logind.service systemd-user-sessions.service systemd-hostnamed.service systemd-localed.service \
    systemd-timedated.service dbus.service dbus.socket user@.service user-runtime-dir@.service systemd-fsck-root.service \
    systemd-fsck@.service systemd-fsckd.socket systemd-pstore.service systemd-rfkill.socket systemd-quotacheck.service \
    systemd-initctl.socket systemd-coredump.socket systemd-backlight@.service systemd-binfmt.service quotaon.service \
    systemd-ask-password-console.service systemd-ask-password-wall.service systemd-pcrphase-initrd.service \
    systemd-update-utmp.service systemd-update-utmp-runlevel.service systemd-volatile-root.service rc-local.service; do
    ln -sfn /dev/null "$tree/etc/systemd/system/$unit"
done
# A link to nothing starts nothing, and says so at each boot.
find "$tree"/etc/systemd/system/*.wants -type l | while IFS= read -r link; do
    [ -e "$tree/$(readlink "$link")" ] || rm "$link"
done

# Nobody's shell is there to be named.
sed -i 's#:[^:]*$#:/usr/sbin/nologin#' "$tree/etc/passwd"
rm -rf "$tree"/var/*
