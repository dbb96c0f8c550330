//! What a fuzzer has found interesting holds.

#[path = "../fuzz/mounts.rs"]
mod mounts;
#[path = "../fuzz/names.rs"]
mod names;
#[path = "../fuzz/record.rs"]
mod record;
#[path = "../fuzz/verdict.rs"]
pub mod verdict;

/// Replays a folder of the corpus.
fn replay(target: &str, holds_of: fn(&[u8])) {
    let corpus = format!("{}/tests/fuzz/corpus/{target}", env!("CARGO_MANIFEST_DIR"));
    let mut count = 0;
    for entry in std::fs::read_dir(corpus).unwrap() {
        holds_of(&std::fs::read(entry.unwrap().path()).unwrap());
        count += 1;
    }
    assert!(count > 20, "{target}: {count}");
}

#[test]
fn the_properties_hold_of_all_that_the_fuzzer_has_collected() {
    replay("mounts", mounts::holds_of);
    replay("names", names::holds_of);
    replay("record", record::holds_of);
    replay("verdict", verdict::holds_of);
}
