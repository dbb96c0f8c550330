//! The calls that only macOS has. Nothing here can be run elsewhere, so it is little, and decides nothing.

pub mod events;
pub mod process;
pub mod trust;

use super::files;
use crate::os::{Errno, Result};

pub fn random(bytes: &mut [u8]) -> Result<()> {
    getrandom::fill(bytes).map_err(|error| error.raw_os_error().map_or(Errno::IO, Errno::from_raw))
}
