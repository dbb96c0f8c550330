//! What holds of any bytes in a lock file.

#![cfg_attr(fuzzing, no_main)]

use session_write_lock::record::{MAX_BYTES, Record, is_foreign};

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| holds_of(bytes));

/// Reading ends, and never fails loudly. What we would write of what was read reads back as the same, and is no other
/// program's file.
pub fn holds_of(bytes: &[u8]) {
    is_foreign(bytes);
    let Some(record) = Record::decode(bytes) else {
        return;
    };
    assert!(bytes.len() <= MAX_BYTES);
    assert!(record.pid.is_none_or(|pid| pid > 0));
    assert!(record.created_at.is_some() || record.created_at_ms().is_none());
    let written = record.encode();
    // A text with many escapes is longer when it is written.
    if written.len() <= MAX_BYTES {
        assert_eq!(Record::decode(written.as_bytes()), Some(record.clone()));
    }
    if record.pid.is_some() || record.created_at.is_some() {
        assert!(!is_foreign(written.as_bytes()));
    }
}
