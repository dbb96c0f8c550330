/** What a shared library says about itself: the processor, what it needs, and the oldest system that it runs on. */

import { readFileSync } from "node:fs";

const SECTION_VERSION_NEEDS = 0x6ffffffe;
const SECTION_DYNAMIC = 6;
const NEEDED = 1;

/**
 * `{ size, machine, needed }` of a shared library: `needed` are the libraries that it asks for. For Linux also
 * `glibc`, the highest version of glibc's symbols among those it needs, `undefined` without any. For macOS also
 * `macos`, the oldest version, and `isSigned`. For Windows also `windows`: true.
 */
export function inspectBinary(file) {
  const bytes = readFileSync(file);
  const magic = bytes.length < 64 ? 0 : bytes.readUInt32BE(0);
  if (magic === 0x7f454c46) {
    return inspectElf(bytes);
  }
  if (magic === 0xcffaedfe) {
    return inspectMachO(bytes);
  }
  if (bytes.subarray(0, 2).toString() === "MZ") {
    return inspectPe(bytes);
  }
  throw new Error(`${file} is no shared library of a system that is known here`);
}

/** Microsoft's "PE Format": headers, sections, and the table of imports. */
function inspectPe(bytes) {
  const OPTIONAL_HEADER = 24;
  const IMPORTS = 8;

  const header = bytes.readUInt32LE(0x3c);
  const directories = header + OPTIONAL_HEADER + 112; // of a 64-bit image
  const sectionsAt = header + OPTIONAL_HEADER + bytes.readUInt16LE(header + 20);
  const sections = Array.from({ length: bytes.readUInt16LE(header + 6) }, (_, index) => {
    const at = sectionsAt + 40 * index;
    const [size, address, , offset] = [8, 12, 16, 20].map((field) => bytes.readUInt32LE(at + field));
    return { size, address, offset };
  });
  const offsetOf = (address) => {
    const section = sections.find((one) => address >= one.address && address < one.address + one.size);
    return section.offset + address - section.address;
  };
  const needed = [];
  for (let at = offsetOf(bytes.readUInt32LE(directories + IMPORTS)); ; at += 20) {
    const name = bytes.readUInt32LE(at + 12);
    if (name === 0) {
      break;
    }
    const start = offsetOf(name);
    needed.push(bytes.toString("latin1", start, bytes.indexOf(0, start)));
  }
  return { size: bytes.length, machine: bytes.readUInt16LE(header + 4), needed, windows: true };
}

/** mach-o/loader.h. */
function inspectMachO(bytes) {
  const LOAD_DYLIB = 0xc;
  const CODE_SIGNATURE = 0x1d;
  const VERSION_MIN_MACOSX = 0x24;
  const BUILD_VERSION = 0x32;

  const found = { size: bytes.length, machine: bytes.readUInt32LE(4), needed: [], macos: undefined, isSigned: false };
  let at = 32;
  for (let left = bytes.readUInt32LE(16); left > 0; left -= 1) {
    const [command, length] = [bytes.readUInt32LE(at), bytes.readUInt32LE(at + 4)];
    if (command === LOAD_DYLIB) {
      const start = at + bytes.readUInt32LE(at + 8);
      found.needed.push(bytes.toString("latin1", start, bytes.indexOf(0, start)));
    } else if (command === CODE_SIGNATURE) {
      found.isSigned = true;
    } else if (command === BUILD_VERSION || command === VERSION_MIN_MACOSX) {
      const version = bytes.readUInt32LE(at + (command === BUILD_VERSION ? 12 : 8));
      found.macos = `${version >>> 16}.${(version >>> 8) & 0xff}`;
    }
    at += length;
  }
  return found;
}

function inspectElf(bytes) {
  const wide = bytes[4] === 2;
  const word = (at) => (wide ? Number(bytes.readBigUInt64LE(at)) : bytes.readUInt32LE(at));
  const sectionsAt = word(wide ? 0x28 : 0x20);
  const [sectionSize, sectionCount] = [0, 2].map((at) => bytes.readUInt16LE((wide ? 0x3a : 0x2e) + at));
  const sections = Array.from({ length: sectionCount }, (_, index) => {
    const at = sectionsAt + index * sectionSize;
    const [offset, size] = wide ? [at + 0x18, at + 0x20] : [at + 0x10, at + 0x14];
    return {
      type: bytes.readUInt32LE(at + 4),
      offset: word(offset),
      size: word(size),
      link: bytes.readUInt32LE(at + (wide ? 0x28 : 0x18)),
      info: bytes.readUInt32LE(at + (wide ? 0x2c : 0x1c)),
    };
  });
  const text = (section, at) => {
    const start = sections[section.link].offset + at;
    return bytes.toString("latin1", start, bytes.indexOf(0, start));
  };

  const needed = [];
  for (const section of sections.filter(({ type }) => type === SECTION_DYNAMIC)) {
    const step = wide ? 16 : 8;
    for (let at = section.offset; at < section.offset + section.size; at += step) {
      if (word(at) === NEEDED) {
        needed.push(text(section, word(at + step / 2)));
      }
    }
  }

  const versions = [];
  for (const section of sections.filter(({ type }) => type === SECTION_VERSION_NEEDS)) {
    let at = section.offset;
    for (let file = 0; file < section.info; file += 1) {
      let entry = at + bytes.readUInt32LE(at + 8);
      for (let left = bytes.readUInt16LE(at + 2); left > 0; left -= 1) {
        versions.push(text(section, bytes.readUInt32LE(entry + 8)));
        entry += bytes.readUInt32LE(entry + 12);
      }
      at += bytes.readUInt32LE(at + 12);
    }
  }
  const glibcs = versions.filter((name) => name.startsWith("GLIBC_")).map((name) => name.slice("GLIBC_".length));
  return {
    size: bytes.length,
    machine: bytes.readUInt16LE(0x12),
    needed,
    glibc: glibcs.sort(compareVersions).at(-1),
  };
}

/** The oldest system that an inspected binary runs on, in words. */
export function floorOf({ macos, glibc, windows }) {
  if (windows) {
    return "Windows 10";
  }
  if (macos) {
    return `macOS ${macos}`;
  }
  return glibc ? `glibc ${glibc}` : "musl";
}

/** Compares versions number by number. */
export function compareVersions(left, right) {
  const numbers = (version) => version.split(".").map(Number);
  const [a, b] = [numbers(left), numbers(right)];
  for (let index = 0; index < Math.max(a.length, b.length); index += 1) {
    const difference = (a[index] ?? 0) - (b[index] ?? 0);
    if (difference !== 0) {
      return difference;
    }
  }
  return 0;
}
