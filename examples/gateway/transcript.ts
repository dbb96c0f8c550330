/**
 * A session's transcript: a header and entries, one line of JSON each. An entry names the one
 * before it, so that the file tells a conversation and not merely lines.
 *
 * Whoever appends must hold the session's lock: between reading the last entry and writing the
 * next, nobody else may write.
 */

import { randomUUID } from "node:crypto";
import fs from "node:fs";

export type Role = "user" | "assistant";

interface Header {
  type: "session";
  version: 1;
  id: string;
  timestamp: string;
}

export interface Entry {
  type: "message";
  id: string;
  /** The entry before this one; `null` for the first. */
  parentId: string | null;
  timestamp: string;
  message: { role: Role; content: string };
}

/** How much of the end of a file is read at first, to find its last line. */
const TAIL_BYTES = 4096;

/**
 * Appends one entry and returns it. Synchronous: nothing of this process, a signal's listener
 * included, comes between the question whether the lock is held and the write.
 */
export function appendEntry(sessionFile: string, role: Role, content: string): Entry {
  const file = fs.openSync(sessionFile, fs.constants.O_RDWR | fs.constants.O_CREAT, 0o600);
  try {
    const { last, end } = readLastLine(file);
    const entry = makeEntry(last, role, content);
    const lines = last === undefined ? [makeHeader(), entry] : [entry];
    const text = Buffer.from(lines.map((line) => `${JSON.stringify(line)}\n`).join(""));
    // A line without an end is what a writer left who died in the middle of it.
    fs.ftruncateSync(file, end);
    writeAll(file, text, end);
    return entry;
  } finally {
    fs.closeSync(file);
  }
}

function makeHeader(): Header {
  return { type: "session", version: 1, id: randomUUID(), timestamp: new Date().toISOString() };
}

function makeEntry(last: Header | Entry | undefined, role: Role, content: string): Entry {
  return {
    type: "message",
    id: randomUUID(),
    parentId: last?.type === "message" ? last.id : null,
    timestamp: new Date().toISOString(),
    message: { role, content },
  };
}

/** The last whole line of a file, and where it ends. */
function readLastLine(file: number): { last: Header | Entry | undefined; end: number } {
  const { size } = fs.fstatSync(file);
  for (let length = Math.min(TAIL_BYTES, size); ; length = Math.min(2 * length, size)) {
    const tail = readAt(file, size - length, length);
    const lineEnd = tail.lastIndexOf("\n");
    const lineStart = lineEnd > 0 ? tail.lastIndexOf("\n", lineEnd - 1) + 1 : 0;
    if (lineStart > 0 || length === size) {
      const line = tail.subarray(lineStart, lineEnd + 1).toString();
      return { last: line ? JSON.parse(line) : undefined, end: size - length + lineEnd + 1 };
    }
  }
}

function readAt(file: number, position: number, length: number): Buffer {
  const buffer = Buffer.alloc(length);
  return buffer.subarray(0, fs.readSync(file, buffer, 0, length, position));
}

function writeAll(file: number, text: Buffer, position: number): void {
  for (let written = 0; written < text.length; ) {
    written += fs.writeSync(file, text, written, text.length - written, position + written);
  }
}
