//! Random numbers.

use crate::os::Result;

/// Up to 256 bytes come whole (getrandom(2)).
pub fn random(bytes: &mut [u8]) -> Result<()> {
    rustix::rand::getrandom(bytes, rustix::rand::GetRandomFlags::empty())?;
    Ok(())
}
