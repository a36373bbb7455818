//! A secret that is only compared. It stores a digest, so that nothing can print the secret, and compares in constant
//! time.

use std::fmt;

use aws_lc_rs::{constant_time::verify_slices_are_equal, digest};

/// A secret of the configuration.
#[derive(Clone)]
pub struct Secret([u8; digest::SHA256_OUTPUT_LEN]);

impl Secret {
    /// Stores the digest of a secret.
    #[must_use]
    pub fn new(secret: &str) -> Self {
        Self(of(secret))
    }

    /// True if `presented` is the secret.
    #[must_use]
    pub fn is(&self, presented: &str) -> bool {
        verify_slices_are_equal(&self.0, &of(presented)).is_ok()
    }
}

fn of(text: &str) -> [u8; digest::SHA256_OUTPUT_LEN] {
    let mut out = [0; digest::SHA256_OUTPUT_LEN];
    out.copy_from_slice(digest::digest(&digest::SHA256, text.as_bytes()).as_ref());
    out
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(super::masked::MASK)
    }
}
