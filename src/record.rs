//! What a lock file says: the record, and how it is written and read.
//!
//! Pure and total. A record comes from disk, where anything may stand: [`Record::decode`] never
//! fails loudly, it finds less. An unknown field is ignored, a field of the wrong type counts as
//! absent, and a text that is no JSON object has no record in it. The layout is the one that
//! `JSON.stringify(record, null, 2)` gives, which processes with the older TypeScript lock read.

use serde::Serialize;
use serde_json::Value;

/// More than this is no record: ours are a few hundred bytes.
pub const MAX_BYTES: usize = 16 * 1024;

/// Stands in the place of a record's first byte while the rest of it is written over another record:
/// no mixture of two records may be read, and this is no JSON.
pub const BEING_WRITTEN: u8 = b'!';

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
    /// Random, one per acquisition: tells one record from another.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
}

/// The promise a record makes about its writer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum DeclaredWitness {
    /// The writer keeps an exclusive flock on the lock file until it releases or dies.
    Flock,
}

impl Record {
    /// The text of the lock file.
    ///
    /// # Panics
    /// Never: strings and numbers always serialise.
    pub fn encode(&self) -> String {
        serde_json::to_string_pretty(self).expect("strings and numbers serialise")
    }

    /// Whether its writer keeps a flock for as long as it holds.
    pub fn promises_flock(&self) -> bool {
        self.witness == Some(DeclaredWitness::Flock)
    }

    /// The record in `bytes`, or `None` where there is none.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        if bytes.len() > MAX_BYTES {
            return None;
        }
        if bytes.first() == Some(&BEING_WRITTEN) {
            // By one who has the flock, or had it and died.
            return Some(Self { witness: Some(DeclaredWitness::Flock), ..Self::default() });
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
            token: text("token"),
        })
    }
}

impl DeclaredWitness {
    fn named(name: &str) -> Option<Self> {
        (name == "flock").then_some(Self::Flock)
    }
}

/// A whole number as JavaScript sees one: `4`, `4.0` and `4e0` are the same.
fn whole(value: &Value) -> Option<u64> {
    const MAX_SAFE_INTEGER: f64 = 9_007_199_254_740_991.0;
    value.as_u64().or_else(|| {
        let number = value.as_f64()?;
        let fits = number.fract() == 0.0 && (0.0..=MAX_SAFE_INTEGER).contains(&number);
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // checked just above
        fits.then_some(number as u64)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(text: &str) -> Option<Record> {
        Record::decode(text.as_bytes())
    }

    #[test]
    fn a_record_reads_back_as_it_was_written() {
        let record = Record {
            pid: Some(4242),
            created_at: Some("2026-07-01T10:00:00.000Z".into()),
            starttime: Some(123),
            comm: Some("node".into()),
            max_hold_ms: Some(300_000),
            boot_id: Some("b".into()),
            pid_namespace: Some(4_026_531_836),
            witness: Some(DeclaredWitness::Flock),
            token: Some("t".into()),
        };
        assert_eq!(decode(&record.encode()), Some(record));
    }

    #[test]
    fn the_layout_is_json_stringify_with_two_spaces() {
        let record = Record { pid: Some(7), comm: Some("a\"b".into()), ..Record::default() };
        assert_eq!(record.encode(), "{\n  \"pid\": 7,\n  \"comm\": \"a\\\"b\"\n}");
    }

    #[test]
    fn what_is_no_object_has_no_record_in_it() {
        let deep = "[".repeat(100_000);
        for text in ["", "{", "null", "[]", "7", "\"x\"", "{\"pid\":1}x", "\u{feff}{}", &deep] {
            assert_eq!(decode(text), None, "{text:.20}");
        }
        assert_eq!(Record::decode(b"{\"comm\":\"\xff\"}"), None);
        assert_eq!(Record::decode(&vec![b' '; MAX_BYTES + 1]), None);
    }

    #[test]
    fn a_field_of_the_wrong_type_counts_as_absent_and_costs_no_other_field() {
        for pid in ["\"7\"", "-7", "0", "1.5", "1e300", "4294967296", "null", "true", "[7]", "{}"] {
            let record = decode(&format!("{{\"pid\":{pid},\"comm\":\"node\"}}")).unwrap();
            assert_eq!((record.pid, record.comm.as_deref()), (None, Some("node")), "{pid}");
        }
        let record = decode(r#"{"witness":"oath","createdAt":5,"starttime":"9","token":{}}"#);
        assert_eq!(record, Some(Record::default()));
    }

    #[test]
    fn a_record_that_is_being_written_over_another_promises_a_flock_and_no_more() {
        let promise = Record { witness: Some(DeclaredWitness::Flock), ..Record::default() };
        assert_eq!(decode("!\n  \"pid\": 7\n}"), Some(promise));
    }

    #[test]
    fn numbers_read_as_javascript_reads_them() {
        assert_eq!(decode(r#"{"pid":4.2e1}"#).unwrap().pid, Some(42));
        assert_eq!(decode(r#"{"pid":1,"pid":2}"#).unwrap().pid, Some(2));
        assert_eq!(decode(r#"{"starttime":0}"#).unwrap().starttime, Some(0));
        assert_eq!(decode(r#"{"maxHoldMs":0}"#).unwrap().max_hold_ms, None);
    }
}
