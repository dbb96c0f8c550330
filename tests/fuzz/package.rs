//! The package without Node, and without the locks of a process, for the targets beside this file.

#[path = "../../src/error.rs"]
pub mod error;
#[path = "../../src/os/mod.rs"]
pub mod os;
#[path = "../../src/process.rs"]
pub mod process;
#[path = "../../src/protocol/mod.rs"]
pub mod protocol;
#[path = "../../src/record.rs"]
pub mod record;
#[path = "../../src/verdict.rs"]
pub mod verdict;
