/**
 * The system calls on one lock, from strace's log of several processes, one line for each:
 *
 *     begin end began ended process thread call arguments = answer
 *
 * `begin` and `end` are lines of the log. strace writes a call's beginning before the call takes effect, and its end
 * afterwards, so the effect lies between the two. `began` and `ended` are when it wrote those lines, in microseconds. A
 * process that is killed in a call leaves the answer open, as `?`; then `end` is that of the process. Files are `lock`,
 * `queue`, `temporary` and `guard`; descriptors are the process's own numbers.
 *
 * Some lines are no calls on the lock. They say what the process does between those: `note` is what JavaScript asks for
 * (notes.cjs), `resolve` that it has found a file's real path, `wake` that the timers' thread wakes up. A wait that a
 * signal has ended is there as well, with `EINTR`.
 */

import { readFileSync } from "node:fs";
import path from "node:path";

const FILES = { "": "lock", ".queue": "queue", ".new": "temporary", ".reclaim": "guard" };

/** `limit`: how many processes there may be at a time. */
export function readCalls(log, sessionFile, limit) {
  const lines = readFileSync(log, "utf8").split("\n").map(parse).filter(Boolean);
  const reader = new Reader(`${sessionFile}.lock`, limit, processesOf(lines), lines[0].us);
  lines.forEach((line) => reader.read(line));
  return reader.text();
}

function parse(line, number) {
  const [, thread, seconds, text] = /^(\d+) +([\d.]+) (.*)$/.exec(line) ?? [];
  return text === undefined ? undefined : { thread, text, number, us: Math.round(Number(seconds) * 1e6) };
}

/** By thread: its process. */
function processesOf(lines) {
  const creators = new Map();
  /** Threads that are creating a thread. */
  const begun = new Set();
  const processOf = new Map();
  const process = (thread) => {
    if (!processOf.has(thread)) {
      processOf.set(thread, creators.has(thread) ? process(creators.get(thread)) : thread);
    }
    return processOf.get(thread);
  };
  for (const { thread, text } of lines) {
    if (/^clone3?\(.*CLONE_THREAD/.test(text)) {
      begun.add(thread);
    }
    const created = /^(?:clone3?\(|<\.\.\. clone3? resumed>).* = (\d+)$/.exec(text)?.[1];
    if (created && begun.delete(thread)) {
      creators.set(created, thread);
    }
  }
  return process;
}

class Reader {
  #lock;
  /** When the log begins. */
  #start;
  #free;
  #processOf;
  #entries = [];
  /** By thread: a call that has begun. */
  #begun = new Map();
  /**
   * By number: `{ slot, files, timers, epoll, threads, open, refused, endsFrom }`; `timers`: its timerfds, and `epoll` the
   * one that waits for them; `open`: the calls that it was killed in; `refused`: by thread, a call that was refused after
   * it was killed. If that was the thread's last one, the errno may be nonsense, and it is left out.
   */
  #processes = new Map();

  constructor(lock, limit, processOf, start) {
    this.#start = start;
    this.#lock = lock;
    this.#free = Array.from({ length: limit }, (_, slot) => slot);
    this.#processOf = processOf;
  }

  text() {
    const inOrder = this.#entries.sort((a, b) => a.begin.number - b.begin.number);
    const line = ({ begin, end, slot, thread, what }) =>
      `${begin.number} ${end.number} ${this.#us(begin)} ${this.#us(end)} ${slot} ${thread} ${what}\n`;
    return inOrder.map(line).join("");
  }

  /** `begin` and `end` of a call are lines. */
  read(line) {
    const { thread, text } = line;
    const process = this.#process(thread);
    process.threads.add(thread);
    const resumed = /^<\.\.\. \w+ resumed>(.*)$/.exec(text)?.[1];
    if (/^\+\+\+ (exited|killed)/.test(text)) {
      this.#threadEnds(thread, process, line);
    } else if (resumed !== undefined) {
      const call = this.#begun.get(thread);
      this.#begun.delete(thread);
      this.#ends(process, { ...call, text: call.text + resumed }, line);
    } else {
      const unfinished = / *<unfinished \.\.\.>$/;
      const call = { thread, text: text.replace(unfinished, ""), begin: line };
      this.#begins(process, call);
      if (unfinished.test(text)) {
        this.#begun.set(thread, call);
      } else {
        this.#ends(process, call, line);
      }
    }
  }

  #us({ us }) {
    return us - this.#start;
  }

  #process(thread) {
    const number = this.#processOf(thread);
    if (!this.#processes.has(number)) {
      this.#processes.set(number, { number, files: new Set(), timers: new Set(), threads: new Set(), open: [], refused: new Map() });
    }
    return this.#processes.get(number);
  }

  /** What has to be noted when a call begins, not when it ends. */
  #begins(process, call) {
    process.refused.get(call.thread)?.();
    process.refused.delete(call.thread);
    const killed = /^kill\((\d+), SIGKILL/.exec(call.text)?.[1];
    if (killed) {
      this.#process(killed).endsFrom ??= call.begin;
    }
    if (/^exit_group\(/.test(call.text)) {
      process.endsFrom ??= call.begin;
    }
    const closed = /^close\((\d+)/.exec(call.text)?.[1];
    if (closed) {
      call.closesOurs = process.files.delete(closed);
    }
  }

  #ends(process, call, end) {
    const [, name, inside, result] = /^(\w+)\((.*)\) += (.*)$/s.exec(call.text) ?? [];
    // It is being killed. strace has more than one way to say so.
    if (/^\?(?! ERESTART)|^-1 \(errno \d/.test(result) || / <unfinished \.\.\.>\) += /.test(call.text)) {
      process.open.push({ ...call, text: call.text.replace(/(, )? *<unfinished \.\.\.>.*$/s, "") });
    } else if (process.endsFrom !== undefined && /^-1 E/.test(result)) {
      process.refused.set(call.thread, () => this.#note(process, call, end, name, inside, result));
    } else if (name !== undefined) {
      this.#note(process, call, end, name, inside, result);
    }
  }

  #threadEnds(thread, process, line) {
    process.threads.delete(thread);
    if (this.#begun.has(thread)) {
      process.open.push(this.#begun.get(thread));
    }
    process.refused.delete(thread);
    if (process.threads.size > 0) {
      return;
    }
    for (const call of process.open) {
      const [, name, inside] = /^(\w+)\((.*?)(?:\) += \?)?$/s.exec(call.text) ?? [];
      if (name !== undefined) {
        this.#note(process, call, line, name, inside, "?");
      }
    }
    this.#processes.delete(process.number);
    if (process.slot !== undefined) {
      this.#entries.push({ begin: process.endsFrom ?? line, end: line, slot: process.slot, thread, what: "end = 0" });
      this.#free.push(process.slot);
    }
  }

  #note(process, call, end, name, inside, result) {
    const isInterrupted = /^\? ERESTART|EINTR/.test(result); // it has changed nothing
    if (name === "timerfd_create") {
      process.timers.add(result);
    }
    const translated = this.#translate(process, call, name, inside);
    if (!translated) {
      return;
    }
    const what = typeof translated === "string" ? { call: translated } : translated;
    if (process.slot === undefined) {
      process.slot = this.#free.shift();
      if (process.slot === undefined) {
        throw new Error("more processes at a time than the simulation has");
      }
    }
    const errno = isInterrupted ? "EINTR" : /^-1 (E\w+)/.exec(result)?.[1];
    const answer = result === "?" ? "?" : (errno ?? what.answer ?? /^\d+/.exec(result)?.[0]);
    this.#entries.push({ begin: call.begin, end, slot: process.slot, thread: call.thread, what: `${what.call} = ${answer}` });
    if (what.opens && !errno && result !== "?") {
      process.files.add(answer);
    }
  }

  #file(name) {
    return name?.startsWith(this.#lock) ? FILES[name.slice(this.#lock.length)] : undefined;
  }

  #translate(process, { closesOurs }, name, inside) {
    const files = [...inside.matchAll(/"([^"]*)"/g)].map(([, name]) => this.#file(name));
    const [, fd] = /^(\d+)\b/.exec(inside) ?? [];
    const isOurs = process.files.has(fd);
    const note = /^"(.*)"/.exec(inside)?.[1]?.split(`${this.#lock}.note.`)[1];
    if (note !== undefined) {
      return `note ${note}`;
    }
    const again = /^"\/proc\/self\/fd\/(\d+)"/.exec(inside)?.[1];
    switch (name) {
      case "open":
        if (process.files.has(again)) {
          return { call: `reopen ${again}`, opens: true };
        }
        if (inside.includes("O_TMPFILE") && inside.startsWith(`"${path.dirname(this.#lock)}"`)) {
          return { call: "create-unnamed", opens: true };
        }
        if (!files[0]) {
          return undefined;
        }
        if (inside.includes("O_EXCL")) {
          return { call: `create-new ${files[0]}`, opens: true };
        }
        return { call: `${inside.includes("O_CREAT") ? "create-or-open" : "open"} ${files[0]}`, opens: true };
      case "epoll_ctl":
        if (process.timers.has(/EPOLL_CTL_ADD, (\d+)/.exec(inside)?.[1])) {
          process.epoll = fd;
        }
        return undefined;
      case "epoll_wait":
      case "epoll_pwait":
        return fd === process.epoll && "wake";
      case "readlink":
        return inside.startsWith(`"${path.dirname(this.#lock)}"`) && "resolve";
      case "newfstatat":
        return files[0] && { call: `status-at ${files[0]}`, answer: status(inside) };
      case "fstat":
        return isOurs && { call: `status-of ${fd}`, answer: status(inside) };
      case "pread64":
        return isOurs && { call: `read ${fd}`, answer: record(inside) };
      case "pwrite64":
        return isOurs && `write ${fd} ${record(inside)}`;
      case "utimensat":
        return isOurs && inside.includes("UTIME_OMIT") && `forget-reads ${fd}`;
      case "flock":
        return isOurs && `${flock(inside)} ${fd}`;
      case "fcntl":
        return isOurs && lock(fd, inside);
      case "close":
        return closesOurs && `close ${fd}`;
      case "unlinkat":
      case "unlink":
        return files[0] && `unlink ${files[0]}`;
      case "linkat": {
        const from = /"\/proc\/self\/fd\/(\d+)"/.exec(inside)?.[1];
        if (from !== undefined) {
          return process.files.has(from) && `link-unnamed ${from} ${files[1]}`;
        }
        return files[0] && `link ${files[0]} ${files[1]}`;
      }
      case "link":
        return files[0] && `link ${files[0]} ${files[1]}`;
      case "rename":
      case "renameat":
        return files[0] && `rename ${files[0]} ${files[1]}`;
      case "renameat2":
        return files[0] && `${inside.includes("RENAME_EXCHANGE") ? "exchange" : "rename"} ${files[0]} ${files[1]}`;
      default:
        if (files.some(Boolean) || isOurs) {
          if (!["fstatfs", "dup"].includes(name)) {
            throw new Error(`an unknown call: ${name}(${inside}`);
          }
        }
        return undefined;
    }
  }
}

/**
 * `inode:names:size:was it read`. `?` where strace shows no regular file: a process that is being killed may have had
 * no answer yet, and strace reads what was in its memory before.
 */
function status(inside) {
  if (!inside.includes("st_mode=S_IFREG|")) {
    return "?";
  }
  const number = (name) => new RegExp(`${name}=(\\d+)`).exec(inside)?.[1];
  const wasRead = number("st_atime") !== "0" || number("st_atime_nsec") !== "0";
  return [number("st_ino"), number("st_nlink"), number("st_size"), wasRead].join(":");
}

/** The token of a record, `empty`, `torn`, or `part` for the question whether a file can be read at all. */
function record(inside) {
  const token = /\\"token\\": \\"([0-9a-f]+)/.exec(inside)?.[1];
  const kind = /^\d+, *"(\{?)", /.exec(inside)?.[1];
  return token ?? { "": "empty", "{": "part" }[kind] ?? "torn";
}

function flock(inside) {
  const [, how, isTry] = /LOCK_(EX|SH|UN)(\|LOCK_NB)?/.exec(inside);
  return { EX: isTry ? "flock" : "flock-wait", SH: "flock-shared", UN: "unlock" }[how];
}

function lock(fd, inside) {
  const [, command] = /^\d+, (\w+)/.exec(inside);
  const [, type, start, length] = /l_type=F_(\w+), .*l_start=(\d+), l_len=(\d+)/.exec(inside) ?? [];
  switch (command) {
    case "F_OFD_SETLK":
      if (type === "UNLCK") {
        return `byte-unlock ${fd}`;
      }
      return length === "0" ? `byte-lock-all ${fd}` : `byte-lock ${fd} ${start}`;
    case "F_OFD_SETLKW":
      return `byte-wait ${fd} ${start}`;
    case "F_OFD_GETLK":
      // If there is a lock in the way, the kernel has written it over the question.
      return { call: `byte-ask ${fd}`, answer: type === "UNLCK" ? `none:${start}:${length}` : `${start}:${length}` };
    case "F_SETLEASE":
      return inside.includes("F_UNLCK") ? `end-lease ${fd}` : `lease ${fd} ${inside.includes("F_WRLCK") ? "exclusive" : "shared"}`;
    default:
      return undefined;
  }
}
