//! Entity tags of files.

use axum::http::{HeaderMap, HeaderValue, header};
use shared::id::Digest;

/// The entity tag of a file: the first 16 hexadecimal digits of its SHA-256, in quotes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Tag(HeaderValue);

impl Tag {
    /// Returns the tag of a file with this content.
    pub(crate) fn of_bytes(bytes: &[u8]) -> Self {
        Self::of_digest(Digest::of(bytes))
    }

    /// Returns the tag of a file with this digest.
    pub(crate) fn of_digest(digest: Digest) -> Self {
        let mut hex = digest.to_string();
        hex.truncate(16);
        // Digits and quotes always make a value.
        Self(HeaderValue::try_from(format!("\"{hex}\"")).unwrap_or(HeaderValue::from_static("")))
    }

    /// Returns it as it stands in a header.
    pub(crate) const fn value(&self) -> &HeaderValue {
        &self.0
    }

    /// Tells whether whoever asks has what this tag names.
    pub(crate) fn is_known(&self, headers: &HeaderMap) -> bool {
        let tag = self.0.as_bytes();
        headers.get_all(header::IF_NONE_MATCH).iter().any(|value| {
            value == self.0
                || value.as_bytes().split(|byte| *byte == b',').any(|known| {
                    let known = known.trim_ascii();
                    known == b"*" || known.strip_prefix(b"W/").unwrap_or(known) == tag
                })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_is_recognised_in_all_its_forms() {
        let tag = Tag::of_digest(Digest([0xab; 32]));
        let asked = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::IF_NONE_MATCH, HeaderValue::from_str(value).unwrap());
            tag.is_known(&headers)
        };
        let ours = "\"abababababababab\"";
        for value in [ours, &format!("W/{ours}"), &format!("\"x\", {ours}"), "*"] {
            assert!(asked(value), "{value}");
        }
        for value in ["abababababababab", "\"ababababababababa\"", "\"\"", "", "W/*x"] {
            assert!(!asked(value), "{value}");
        }
        assert!(!tag.is_known(&HeaderMap::new()));
    }
}
