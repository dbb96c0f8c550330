//! `npm run fuzz`: looks for bytes in a lock file of which `property.rs` does not hold.

#![no_main]

mod property;
#[allow(dead_code, reason = "the fuzzer needs a part of it")]
#[path = "../../src/record.rs"]
mod record;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| property::holds_of(bytes));
