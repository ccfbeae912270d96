//! The network side of trust.

mod source;
