/**
 * How things are called on the screen: times, processes, verdicts, and text that comes from files
 * and processes, which must not be able to do anything to a terminal.
 */

/** Two units at most: `850 ms`, `12 s`, `3 min 12 s`, `2 h 5 min`, `3 d 4 h`. */
export function duration(ms) {
  if (ms < 1_000) {
    return `${Math.floor(ms)} ms`;
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

/** Text for a terminal: whatever could be an order to it is written out. */
export function printable(text) {
  return text.replace(UNPRINTABLE, (character) => {
    const code = character.codePointAt(0).toString(16);
    return code.length <= 2 ? `\\x${code.padStart(2, "0")}` : `\\u{${code}}`;
  });
}

/** JSON that is safe to look at as well. `JSON.stringify` leaves some control characters alone. */
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

/** What an error says, on one line: no stack, nothing that a terminal would obey. */
export function messageOf(error) {
  return printable(String(error?.message ?? error)).trim();
}
