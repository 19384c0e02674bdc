#!/bin/bash
# The first process of a user-mode Linux kernel that tests/durability/foreign_kernel.py boots: its root is the host's, so
# the same Python and the same tests are there. Mounts a scratch disk, lends it out by NFS, mounts that, and runs
#     $RELIGHT_TRIAL    in    $RELIGHT_ROOT
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root PYTHONDONTWRITEBYTECODE=1
mount -t proc proc /proc
mount -t sysfs sys /sys
for folder in /run /mnt /dev/shm /var/lib/nfs; do
    mkdir -p "$folder"
    mount -t tmpfs tmpfs "$folder"
done
ip link set lo up
mkdir -p /mnt/export /mnt/nfs4 /mnt/nfs3 /mnt/vfat /var/lib/nfs/rpc_pipefs /var/lib/nfs/v4recovery /var/lib/nfs/sm
touch /var/lib/nfs/etab /var/lib/nfs/rmtab

set_up() {
    modprobe -d "$RELIGHT_MODULES" lockd nlm_timeout=3 nlm_grace_period=3 # locks wait so long for clients from before
    modprobe -d "$RELIGHT_MODULES" -a nfsd nfsv4 nfsv3 vfat nls_ascii nls_cp437
    mount -t ext4 -o commit=1 /dev/ubda /mnt/export
    mount -t vfat -o iocharset=ascii /dev/ubdb /mnt/vfat
    mount -t nfsd nfsd /proc/fs/nfsd
    mount -t rpc_pipefs sunrpc /var/lib/nfs/rpc_pipefs
    rpcbind
    exportfs -o rw,sync,fsid=0,no_root_squash,insecure,no_subtree_check 127.0.0.1:/mnt/export
    rpc.mountd
    rpc.statd --no-notify
    rpc.nfsd 4
    echo Y >/proc/fs/nfsd/v4_end_grace # nobody has locks from before
    mount -t nfs -o vers=4.2,proto=tcp 127.0.0.1:/ /mnt/nfs4
    mount -t nfs -o vers=3,proto=tcp 127.0.0.1:/mnt/export /mnt/nfs3
}

set_up >/run/set-up.log 2>&1 || cat /run/set-up.log
cd "$RELIGHT_ROOT" || exit
echo "the kernel is up"
$RELIGHT_TRIAL
echo "the trial ended with code $?"
sync
echo o >/proc/sysrq-trigger
sleep 60
