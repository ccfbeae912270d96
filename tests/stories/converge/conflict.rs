//! Invariant 11: a path enters the store only if it vouches for itself, or a trusted builder
//! signed it, and only with the hash that the manifest pins.
