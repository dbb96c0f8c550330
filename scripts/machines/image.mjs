// Makes what a virtual machine starts with: Debian's kernel, and a file system in memory with busybox, Node, the NFS
// tools of this machine, and the addon as it is built here.

import { execFileSync } from "node:child_process";
import {
  chmodSync, cpSync, existsSync, mkdirSync, mkdtempSync, readdirSync, realpathSync, rmSync, symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";

const ROOT = path.resolve(import.meta.dirname, "../..");
const CACHE = path.join(ROOT, ".cache/machines");

/** The package that names Debian's newest kernel for virtual machines. */
const KERNEL = "linux-image-cloud-amd64";

const MODULES = ["virtio_pci", "virtio_net", "virtio_blk", "nfsv4", "nfsd"];

/** What the machines run besides busybox and Node. */
const PROGRAMS = [
  "/usr/sbin/exportfs",
  "/usr/sbin/mkfs.ext4",
  "/usr/sbin/mount.nfs",
  "/usr/sbin/nfsdcld",
  "/usr/sbin/rpc.mountd",
  "/usr/sbin/rpc.nfsd",
];

const SETTINGS = ["/etc/netconfig", "/etc/protocols", "/etc/rpc", "/etc/services"];

/** The packages of Debian that a run needs. */
const PACKAGES = ["qemu-system-x86", "busybox-static", "cpio", "kmod", "e2fsprogs", "nfs-kernel-server", "netbase"];

function run(command, ...parameters) {
  return execFileSync(command, parameters, { encoding: "utf8", stdio: ["ignore", "pipe", "pipe"] });
}

/** Why there can be no machines here, or `undefined`. Installs what is missing. */
export function reasonAgainst() {
  if (process.platform !== "linux" || process.arch !== "x64") {
    return "the machines are made on Linux on x64";
  }
  try {
    run("dpkg", "-s", ...PACKAGES);
  } catch {
    try {
      process.stderr.write(`set-up: installing ${PACKAGES.join(", ")}\n`);
      run("apt-get", "update");
      run("apt-get", "install", "-y", "--no-install-recommends", ...PACKAGES);
    } catch {
      return `apt-get can't install ${PACKAGES.join(", ")}`;
    }
  }
  return undefined;
}

/** The kernel's files, unpacked and not installed. */
function kernel() {
  const folder = path.join(CACHE, "kernel");
  if (!existsSync(folder)) {
    const [name] = run("apt-cache", "depends", KERNEL).match(/linux-image-\S+-cloud-amd64/);
    process.stderr.write(`set-up: fetching ${name}\n`);
    const download = mkdtempSync(path.join(tmpdir(), "kernel-"));
    chmodSync(download, 0o777); // apt downloads as a user of its own
    execFileSync("apt-get", ["download", name], { cwd: download, stdio: "pipe" });
    mkdirSync(CACHE, { recursive: true });
    const [file] = readdirSync(download);
    run("dpkg-deb", "-x", path.join(download, file), `${folder}.new`);
    const [version] = readdirSync(`${folder}.new/lib/modules`);
    run("depmod", "-b", `${folder}.new`, version);
    run("mv", `${folder}.new`, folder);
    rmSync(download, { recursive: true });
  }
  const [version] = readdirSync(path.join(folder, "lib/modules"));
  return { folder, version, file: path.join(folder, "boot", `vmlinuz-${version}`) };
}

/** `{ kernel, initrd }`, the paths of both. */
export function makeImage() {
  const { folder, version, file } = kernel();
  const root = mkdtempSync(path.join(tmpdir(), "image-"));
  const copy = (from, to = from) => {
    const target = path.join(root, to);
    mkdirSync(path.dirname(target), { recursive: true });
    cpSync(realpathSync(from), target);
    return target;
  };
  /** A program, and the libraries that it loads. */
  const install = (program, to = program) => {
    copy(program, to);
    for (const [library] of run("ldd", program).matchAll(/\/\S+/g)) {
      copy(library);
    }
  };

  copy("/bin/busybox");
  PROGRAMS.forEach((program) => install(program));
  install(process.execPath, "/bin/node");
  run("strip", path.join(root, "bin/node"));
  mkdirSync(path.join(root, "sbin"), { recursive: true });
  symlinkSync("/usr/sbin/mount.nfs", path.join(root, "sbin/mount.nfs"));
  SETTINGS.forEach((settings) => copy(settings));
  writeFileSync(path.join(root, "etc/passwd"), "root:x:0:0::/:/bin/sh\n");
  writeFileSync(path.join(root, "etc/nsswitch.conf"), "passwd: files\nhosts: files\nservices: files\nrpc: files\n");

  for (const module of MODULES) {
    const needed = run("modprobe", "-d", folder, "-S", version, "--show-depends", module).matchAll(/^insmod (\S+)/gm);
    for (const [, from] of needed) {
      copy(from, path.relative(folder, from));
    }
  }
  for (const list of ["modules.order", "modules.builtin", "modules.builtin.modinfo"]) {
    copy(path.join(folder, "lib/modules", version, list), path.join("lib/modules", version, list));
  }
  run("depmod", "-b", root, version);

  for (const part of ["package.json", "index.js", "native.js", "lib"]) {
    cpSync(path.join(ROOT, part), path.join(root, "package", part), { recursive: true });
  }
  const addon = "session-write-lock.linux-x64-gnu.node";
  copy(path.join(ROOT, addon), path.join("package", addon));
  for (const file of ["init", "guest.cjs", "actor.cjs"]) {
    copy(path.join(import.meta.dirname, file), file);
  }
  chmodSync(path.join(root, "init"), 0o755);

  const initrd = path.join(CACHE, "initrd.img");
  execFileSync("sh", ["-c", `find . | cpio -o -H newc --quiet >"$1"`, "sh", initrd], { cwd: root });
  rmSync(root, { recursive: true });
  return { kernel: file, initrd };
}
