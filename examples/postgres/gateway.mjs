/**
 * A small gateway that may run on several machines: it appends messages to a conversation in PostgreSQL, under the
 * lock of the conversation. A message that could not be written is written again, until it is there.
 *
 * `node gateway.mjs <machine> <messages> <connection string>`
 */

import pg from "pg";
import { setTimeout as delay } from "node:timers/promises";
import { postgresLocks } from "session-write-lock/postgres";

const [machine, count, connectionString] = process.argv.slice(2);
// The network can be cut at any moment: no query may wait for ever.
const pool = new pg.Pool({ connectionString, connectionTimeoutMillis: 5_000, query_timeout: 5_000 });
pool.on("connect", (client) => client.on("error", () => {})); // a lost connection: its query rejects
pool.on("error", () => {}); // the same of an idle one: the pool makes another
const locks = postgresLocks({ pool });

for (let message = 1; message <= Number(count); message += 1) {
  const text = `${machine}-${message}`;
  while (!(await append("chat", text))) {
    await delay(500);
  }
  console.log(`${machine} wrote ${message}`);
}
await locks.close();
await pool.end();

/** Whether the message is in the conversation. */
async function append(conversation, text) {
  try {
    await locks.withLock(conversation, (lock) => write(lock, conversation, text));
    return true;
  } catch (error) {
    console.log(`${machine} failed: ${error.message}`);
    return false;
  }
}

/** The next message. Its number is the last one and one more, which is only right if nobody else writes. */
async function write(lock, conversation, text) {
  const client = await pool.connect();
  let isDone = false;
  try {
    await client.query("BEGIN");
    await lock.fence(client); // from here on, no later holder can write before this transaction ends
    const { rows } = await client.query("SELECT max(number) AS last FROM messages WHERE conversation = $1", [conversation]);
    await delay(20); // the work
    // The text is unique: an attempt whose answer got lost may have written it.
    await client.query("INSERT INTO messages VALUES ($1, $2, $3) ON CONFLICT (text) DO NOTHING", [
      conversation,
      (rows[0].last ?? 0) + 1,
      text,
    ]);
    await client.query("COMMIT");
    isDone = true;
  } finally {
    client.release(!isDone); // a connection that is ended rolls its transaction back
  }
}
