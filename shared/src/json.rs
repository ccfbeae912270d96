//! Strict reading of JSON that may come from an attacker.
//!
//! `serde_json` takes the last of two equal keys in a map; a signature checked over one reading
//! must not meet a program with another. Here size, depth and every key are checked first.

use std::{borrow::Cow, collections::BTreeSet, fmt};

use serde::{
    Deserialize,
    de::{DeserializeOwned, DeserializeSeed, Error as _, MapAccess, SeqAccess, Visitor},
};

/// Deepest nesting that any of our formats needs, with room.
pub const MAX_DEPTH: usize = 24;

/// Whether strings may hold control characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Controls {
    /// They may: an escape makes them harmless to readers of JSON.
    Allowed,
    /// They may not: TUF's canonical form would write them raw.
    Refused,
}

/// Why bytes are not the JSON that was expected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JsonError {
    /// Longer than the format allows.
    #[error("{actual} bytes where at most {max} are allowed")]
    TooLong {
        /// The limit in bytes.
        max: usize,
        /// The length in bytes.
        actual: usize,
    },
    /// Not JSON, a repeated key, a fraction, too deep, or not of this shape.
    #[error("{0}")]
    Invalid(String),
}

/// Reads JSON strictly.
///
/// # Errors
///
/// If the bytes are too long or no JSON, nest deeper than [`MAX_DEPTH`], repeat a key, hold a
/// number that is no integer, or do not fit the type.
pub fn read<T: DeserializeOwned>(bytes: &[u8], max_len: usize) -> Result<T, JsonError> {
    check(bytes, max_len, Controls::Allowed)?;
    serde_json::from_slice(bytes).map_err(|error| JsonError::Invalid(error.to_string()))
}

/// Checks everything that [`read`] checks beside the type, and control characters if so wished.
///
/// # Errors
///
/// As [`read`].
pub fn check(bytes: &[u8], max_len: usize, controls: Controls) -> Result<(), JsonError> {
    if bytes.len() > max_len {
        return Err(JsonError::TooLong { max: max_len, actual: bytes.len() });
    }
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    Strict { depth: 0, controls }
        .deserialize(&mut deserializer)
        .and_then(|()| deserializer.end())
        .map_err(|error| JsonError::Invalid(error.to_string()))
}

/// Reads an optional member that may be absent but not `null`.
///
/// # Errors
///
/// If it is there and not of the type.
pub fn present<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Deserialize<'de>,
{
    T::deserialize(deserializer).map(Some)
}

/// Reads a member that may be `null` but not absent.
///
/// `serde` makes every plain `Option` optional; naming this function takes that away.
///
/// # Errors
///
/// If it is neither `null` nor of the type.
pub fn nullable<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Deserialize<'de>,
{
    Option::deserialize(deserializer)
}

/// Walks a value without keeping it.
struct Strict {
    depth: usize,
    controls: Controls,
}

impl Strict {
    fn deeper<E: serde::de::Error>(&self) -> Result<Self, E> {
        if self.depth >= MAX_DEPTH {
            return Err(E::custom(format_args!("nested deeper than {MAX_DEPTH}")));
        }
        Ok(Self { depth: self.depth + 1, controls: self.controls })
    }

    fn check_text<E: serde::de::Error>(&self, text: &str) -> Result<(), E> {
        if self.controls == Controls::Refused && text.contains(char::is_control) {
            return Err(E::custom("a string holds a control character"));
        }
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for Strict {
    type Value = ();

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON with integers only")
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<(), E> {
        self.check_text(text)
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        while items.next_element_seed(self.deeper()?)?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<(), A::Error> {
        let mut keys = Keys::default();
        while let Some(key) = members.next_key_seed(Key)? {
            self.check_text(&key)?;
            if let Err(key) = keys.insert(key) {
                let shown: String = key.chars().take(40).flat_map(char::escape_default).collect();
                return Err(A::Error::custom(format_args!("key `{shown}` is repeated")));
            }
            members.next_value_seed(self.deeper()?)?;
        }
        Ok(())
    }
}

/// The keys of one object so far; the few of a usual one need neither a tree nor copies.
#[derive(Default)]
struct Keys<'de> {
    few: Vec<Cow<'de, str>>,
    more: BTreeSet<Cow<'de, str>>,
}

impl<'de> Keys<'de> {
    const FEW: usize = 24;

    /// Notes a key, or gives it back if it was there.
    fn insert(&mut self, key: Cow<'de, str>) -> Result<(), Cow<'de, str>> {
        if self.few.contains(&key) || self.more.contains(&key) {
            return Err(key);
        }
        if self.few.len() < Self::FEW {
            self.few.push(key);
        } else {
            self.more.insert(key);
        }
        Ok(())
    }
}

/// Reads a key, and copies it only where it is written with escapes.
struct Key;

impl<'de> DeserializeSeed<'de> for Key {
    type Value = Cow<'de, str>;

    fn deserialize<D: serde::Deserializer<'de>>(self, key: D) -> Result<Self::Value, D::Error> {
        key.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for Key {
    type Value = Cow<'de, str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_borrowed_str<E>(self, key: &'de str) -> Result<Self::Value, E> {
        Ok(Cow::Borrowed(key))
    }

    fn visit_str<E>(self, key: &str) -> Result<Self::Value, E> {
        Ok(Cow::Owned(key.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str) -> String {
        check(text.as_bytes(), 1000, Controls::Allowed).unwrap_err().to_string()
    }

    #[test]
    fn takes_plain_json() {
        let text = r#"{"a":[1,-2,null,true,"x",{"a":{}}],"b":18446744073709551615}"#;
        assert_eq!(check(text.as_bytes(), text.len(), Controls::Allowed), Ok(()));
    }

    #[test]
    fn refuses_a_repeated_key_however_it_is_written() {
        assert!(refused(r#"{"a":1,"a":1}"#).contains("repeated"));
        assert!(refused(r#"[{"x":{"a":1,"\u0061":2}}]"#).contains("repeated"));
    }

    #[test]
    fn refuses_a_repeated_key_among_any_number_of_keys() {
        for keys in [1, Keys::FEW, Keys::FEW + 1, 500] {
            let members: Vec<String> = (0..keys).map(|key| format!("\"{key}\":0")).collect();
            let object = |again: usize| format!("{{{},\"{again}\":0}}", members.join(","));
            let fine = object(keys);
            assert_eq!(check(fine.as_bytes(), fine.len(), Controls::Allowed), Ok(()));
            for again in [0, keys / 2, keys - 1] {
                let error = check(object(again).as_bytes(), 10_000, Controls::Allowed);
                assert!(error.unwrap_err().to_string().contains("repeated"), "{again} of {keys}");
            }
        }
    }

    #[test]
    fn refuses_numbers_that_are_no_integers() {
        for text in ["1.0", "1e3", "[0.5]", "18446744073709551616"] {
            assert!(refused(text).contains("integers only"), "{text}");
        }
    }

    #[test]
    fn refuses_what_is_too_deep_too_long_or_followed_by_more() {
        let deep = |depth| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        assert_eq!(check(deep(MAX_DEPTH).as_bytes(), 1000, Controls::Allowed), Ok(()));
        assert!(refused(&deep(MAX_DEPTH + 2)).contains("deeper"));
        assert_eq!(
            check(b"[1]", 2, Controls::Allowed),
            Err(JsonError::TooLong { max: 2, actual: 3 })
        );
        for text in ["", "{", "{} {}", "nul", "'a'", "[1,]", "\u{feff}{}"] {
            refused(text);
        }
        assert!(check(b"\"\xff\"", 10, Controls::Allowed).is_err());
    }

    #[test]
    fn refuses_control_characters_where_they_would_be_written_raw() {
        for text in [r#""\n""#, r#"{"\u0000":1}"#, r#"["\u007f"]"#, r#""\u0085""#] {
            assert_eq!(check(text.as_bytes(), 1000, Controls::Allowed), Ok(()), "{text}");
            let error = check(text.as_bytes(), 1000, Controls::Refused).unwrap_err();
            assert!(error.to_string().contains("control character"), "{text}");
        }
    }

    #[test]
    fn refuses_endless_nesting_without_using_the_stack() {
        assert!(check(&[b'['; 1_000_000], 1_000_000, Controls::Allowed).is_err());
        let text = r#"{"a":"#.repeat(200_000);
        assert!(check(text.as_bytes(), 1_000_000, Controls::Allowed).is_err());
    }
}
