//! What the CPU offers.

use std::sync::Once;

/// Says once if hashing is slow here; the hash library uses the CPU's instructions by itself.
pub(crate) fn warn_of_slow_hashing() {
    static SAID: Once = Once::new();
    SAID.call_once(|| {
        if !has_sha256() {
            tracing::warn!(
                "this CPU has no instructions for SHA-256: what is fetched takes four times as long to hash"
            );
        }
    });
}

/// Returns whether there are instructions for SHA-256, and all that is used with them.
#[cfg(any(target_arch = "x86_64", target_arch = "x86"))]
fn has_sha256() -> bool {
    is_x86_feature_detected!("sha")
        && is_x86_feature_detected!("ssse3")
        && is_x86_feature_detected!("sse4.1")
}

#[cfg(target_arch = "aarch64")]
fn has_sha256() -> bool {
    std::arch::is_aarch64_feature_detected!("sha2")
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "x86", target_arch = "aarch64")))]
const fn has_sha256() -> bool {
    false
}
