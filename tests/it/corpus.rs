//! What a fuzzer has found interesting holds.

#[path = "../fuzz/property.rs"]
mod property;

#[test]
fn the_property_holds_of_all_that_the_fuzzer_has_collected() {
    let corpus = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fuzz/corpus");
    let mut count = 0;
    for entry in std::fs::read_dir(corpus).unwrap() {
        property::holds_of(&std::fs::read(entry.unwrap().path()).unwrap());
        count += 1;
    }
    assert!(count > 50, "{count}");
}
