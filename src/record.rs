//! What a lock file says: the record, and how it is written and read.
//!
//! Pure and total. A record comes from disk, where anything may stand: [`Record::decode`] never
//! fails loudly, it finds less. An unknown field is ignored, a field of the wrong type counts as
//! absent, and a text that is no JSON object has no record in it. The layout is the one that
//! `JSON.stringify(record, null, 2)` gives, which processes with the older TypeScript lock read.

use std::time::{Duration, UNIX_EPOCH};

use serde::Serialize;
use serde_json::Value;

/// More than this is no record: ours are a few hundred bytes.
pub const MAX_BYTES: usize = 16 * 1024;

/// The JSON in a lock file, in the order in which it is written.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// The holder's process number, as its own pid namespace counts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid: Option<i32>,
    /// When the lock was acquired: ISO 8601, UTC, milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created_at: Option<String>,
    /// The holder's start time in clock ticks since boot: field 22 of `/proc/<pid>/stat`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub starttime: Option<u64>,
    /// The name of the holder's executable.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub comm: Option<String>,
    /// After so many milliseconds the holder itself is expected to let go.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_hold_ms: Option<u64>,
    /// The boot in which `pid` and `starttime` mean something.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub boot_id: Option<String>,
    /// The pid namespace in which `pid` means something: the inode of `/proc/self/ns/pid`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid_namespace: Option<u64>,
    /// What the kernel keeps for this holder as long as it lives.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub witness: Option<DeclaredWitness>,
    /// What the lock is for, in the holder's words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// Random, one per acquisition: tells one record from another.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
}

/// The promise a record makes about its writer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum DeclaredWitness {
    /// The writer keeps an exclusive flock on the lock file until it releases or dies.
    Flock,
    /// The same, and a file server keeps it. Programs on the server itself do not see it.
    ServerFlock,
}

impl Record {
    /// The text of the lock file.
    ///
    /// # Panics
    /// Never: strings and numbers always serialise.
    pub fn encode(&self) -> String {
        serde_json::to_string_pretty(self).expect("strings and numbers serialise")
    }

    /// When the lock was acquired, in milliseconds since the epoch.
    pub fn created_at_ms(&self) -> Option<i64> {
        from_iso(self.created_at.as_deref()?)
    }

    /// The record in `bytes`, or `None` where there is none.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        if bytes.len() > MAX_BYTES {
            return None;
        }
        // Field by field: of a repeated key the last one counts, as in `JSON.parse`, and what has
        // the wrong type costs no other field.
        let Value::Object(fields) = serde_json::from_slice(bytes).ok()? else {
            return None;
        };
        let text = |name| fields.get(name).and_then(Value::as_str).map(str::to_owned);
        let count = |name| fields.get(name).and_then(whole);
        let positive = |name| count(name).filter(|&number| number > 0);
        Some(Self {
            pid: positive("pid").and_then(|pid| i32::try_from(pid).ok()),
            created_at: text("createdAt"),
            starttime: count("starttime"),
            comm: text("comm"),
            max_hold_ms: positive("maxHoldMs"),
            boot_id: text("bootId"),
            pid_namespace: count("pidNamespace"),
            witness: text("witness").and_then(|name| DeclaredWitness::named(&name)),
            label: text("label"),
            token: text("token"),
        })
    }
}

/// Whether a file with this content is no lock file: it holds neither a record nor what a crash leaves of one.
pub fn is_foreign(bytes: &[u8]) -> bool {
    // A power failure can leave zeros.
    if bytes.iter().all(|&byte| byte == 0) {
        return false;
    }
    match serde_json::from_slice(bytes) {
        Ok(Value::Object(fields)) => {
            !fields.contains_key("pid") && !fields.contains_key("createdAt")
        }
        Ok(_) => true,
        Err(_) => !begins_like_a_record(bytes),
    }
}

/// Every writer puts the pid first.
fn begins_like_a_record(bytes: &[u8]) -> bool {
    let begins = |start: &[u8]| bytes.iter().zip(start).all(|(one, other)| one == other);
    begins(b"{\n  \"pid\":") || begins(b"{\"pid\":")
}

impl DeclaredWitness {
    fn named(name: &str) -> Option<Self> {
        match name {
            "flock" => Some(Self::Flock),
            "server-flock" => Some(Self::ServerFlock),
            _ => None,
        }
    }
}

/// An instant, in milliseconds since the epoch, as JavaScript's `toISOString` writes it.
pub fn to_iso(ms: i64) -> String {
    let since_epoch = Duration::from_millis(u64::try_from(ms).unwrap_or(0));
    let instant = UNIX_EPOCH.checked_add(since_epoch).filter(|_| ms < YEAR_10_000_MS);
    humantime::format_rfc3339_millis(instant.unwrap_or(UNIX_EPOCH)).to_string()
}

/// Where `toISOString` begins to write six digits of a year, and a clock is broken.
const YEAR_10_000_MS: i64 = 253_402_300_800_000;

/// The instant that a text like `toISOString`'s names, in milliseconds since the epoch.
fn from_iso(text: &str) -> Option<i64> {
    let instant = humantime::parse_rfc3339(text).ok()?;
    let since_epoch = instant.duration_since(UNIX_EPOCH).ok()?;
    i64::try_from(since_epoch.as_millis()).ok()
}

/// A whole number as JavaScript sees one: `4`, `4.0` and `4e0` are the same, and 2^53 is too large to be told from its
/// neighbours.
fn whole(value: &Value) -> Option<u64> {
    const MAX_SAFE_INTEGER: f64 = 9_007_199_254_740_991.0;
    let number = value.as_f64()?;
    let fits = number.fract() == 0.0 && (0.0..=MAX_SAFE_INTEGER).contains(&number);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // checked just above
    fits.then_some(number as u64)
}
