//! What a lock file says: written and read.

use session_write_lock::record::{DeclaredWitness, MAX_BYTES, Record, to_iso};

fn read_iso(text: &str) -> Option<i64> {
    let created_at = Some(text.to_owned());
    Record { created_at, ..Record::default() }.created_at_ms()
}

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
        label: Some("nightly".into()),
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
fn instants_are_written_as_javascript_writes_them_and_read_back() {
    for (ms, text) in [
        (0, "1970-01-01T00:00:00.000Z"),
        (1_783_000_000_123, "2026-07-02T13:46:40.123Z"),
        (253_402_300_799_999, "9999-12-31T23:59:59.999Z"),
    ] {
        assert_eq!(to_iso(ms), text);
        assert_eq!(read_iso(text), Some(ms));
    }
    assert_eq!(to_iso(253_402_300_800_000), "1970-01-01T00:00:00.000Z");
    assert_eq!(to_iso(-1), "1970-01-01T00:00:00.000Z");
    assert_eq!(read_iso("2026-07-01T10:00:00Z"), Some(1_782_900_000_000));
    for text in ["", "2026-07-01", "2026-13-01T00:00:00Z", "tomorrow", "2026-07-01T10:00:00"] {
        assert_eq!(read_iso(text), None, "{text}");
    }
}

#[test]
fn numbers_read_as_javascript_reads_them() {
    assert_eq!(decode(r#"{"pid":4.2e1}"#).unwrap().pid, Some(42));
    assert_eq!(decode(r#"{"pid":1,"pid":2}"#).unwrap().pid, Some(2));
    assert_eq!(decode(r#"{"starttime":0}"#).unwrap().starttime, Some(0));
    assert_eq!(decode(r#"{"maxHoldMs":0}"#).unwrap().max_hold_ms, None);
}
