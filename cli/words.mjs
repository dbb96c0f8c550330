/**
 * What things are called on the screen: times, names, and text from files and processes, which must not be able
 * to control a terminal; and the exit statuses that the commands share.
 */

import { getSystemErrorMap } from "node:util";

/** Everything went well, and no lock file is dead. */
export const NOTHING_DEAD = 0;
/** Some are. */
export const SOMETHING_DEAD = 1;
/** It could not be done, or not all of it. */
export const ERROR = 2;
/** `run` failed before it ran the command: not a status of the command, as timeout(1) and env(1) count. */
export const FAILED = 125;

/** Two units at most: `850 ms`, `1.5 s`, `12 s`, `3 min 12 s`, `2 h 5 min`, `3 d 4 h`. */
export function duration(ms) {
  if (ms < 1_000) {
    return `${Math.floor(ms)} ms`;
  }
  if (ms < 10_000) {
    return `${Math.floor(ms / 100) / 10} s`;
  }
  const seconds = Math.floor(ms / 1_000);
  const parts = [
    [Math.floor(seconds / 86_400), "d"],
    [Math.floor(seconds / 3_600) % 24, "h"],
    [Math.floor(seconds / 60) % 60, "min"],
    [seconds % 60, "s"],
  ];
  const first = parts.findIndex(([count]) => count > 0);
  const shown = parts.slice(first, first + 2).filter(([count]) => count > 0);
  return shown.map(([count, unit]) => `${count} ${unit}`).join(" ");
}

/** Control, format and unassigned characters, and what breaks lines: `\x1b`, `\u{202e}`. */
const UNPRINTABLE = /[\p{C}\p{Zl}\p{Zp}]/gu;

/** Text for a terminal: whatever could control it is written out. */
export function printable(text) {
  return text.replace(UNPRINTABLE, (character) => {
    const code = character.codePointAt(0).toString(16);
    return code.length <= 2 ? `\\x${code.padStart(2, "0")}` : `\\u{${code}}`;
  });
}

/** JSON that is safe to print as well. `JSON.stringify` leaves some control characters alone. */
export function json(value, indent) {
  return JSON.stringify(value, null, indent).replace(UNPRINTABLE, (character) => {
    const escape = (unit) => `\\u${unit.charCodeAt(0).toString(16).padStart(4, "0")}`;
    return character === "\n" ? character : character.split("").map(escape).join("");
  });
}

/** `1 lock file`, `3 lock files`. */
export function count(number, noun) {
  return `${number} ${noun}${number === 1 ? "" : "s"}`;
}

/** The message of an error, on one line and printable. */
export function messageOf(error) {
  return printable(String(error?.message ?? error)).trim();
}

/** The kernel's reason alone, without the path: `permission denied (EACCES)`. */
export function reasonOf(error) {
  const text = getSystemErrorMap().get(error.errno)?.[1];
  return text === undefined ? messageOf(error) : `${text} (${error.code})`;
}

/** The one of `names` that `name` may be a slip of the pen for. */
export function nearest(name, names) {
  const most = Math.max(1, Math.floor(name.length / 3));
  const ranked = names
    .map((each) => ({ each, distance: distance(name, each, most) }))
    .filter((one) => one.distance <= most)
    .sort((one, other) => one.distance - other.distance);
  return ranked[0]?.each;
}

/** How many letters have to be changed, added, removed or swapped; `Infinity` if more than `most`. */
function distance(one, other, most) {
  if (Math.abs(one.length - other.length) > most) {
    return Infinity;
  }
  let [before, last] = [[], Array.from({ length: other.length + 1 }, (_, index) => index)];
  for (let i = 1; i <= one.length; i += 1) {
    const next = [i];
    for (let j = 1; j <= other.length; j += 1) {
      const isSame = one[i - 1] === other[j - 1];
      const isSwap = i > 1 && j > 1 && one[i - 1] === other[j - 2] && one[i - 2] === other[j - 1];
      next[j] = Math.min(last[j] + 1, next[j - 1] + 1, last[j - 1] + (isSame ? 0 : 1));
      next[j] = isSwap ? Math.min(next[j], before[j - 2] + 1) : next[j];
    }
    [before, last] = [last, next];
  }
  return last[other.length];
}
