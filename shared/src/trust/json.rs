//! A look over JSON before anything parses it for its meaning.
//!
//! Two readers of one file must never see two files: so no member may come twice, nothing nests
//! without end, and no string holds a control character (TUF's canonical form writes those raw).

use std::collections::BTreeSet;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};

/// How deep metadata may nest; the deepest that TUF needs is 7.
pub const MAX_DEPTH: u32 = 16;

/// Whether strings may hold control characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Controls {
    /// They may: public keys in PEM hold line feeds.
    Allowed,
    /// They may not.
    Refused,
}

/// Why a text was refused before it was parsed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not acceptable JSON: {0}")]
pub struct JsonError(String);

/// Checks that `bytes` are one JSON value without duplicate members, deep nesting or (if so
/// wished) control characters.
///
/// # Errors
/// When they are not; the message says where.
pub fn scan(bytes: &[u8], controls: Controls) -> Result<(), JsonError> {
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    Scan { depth: 0, controls }
        .deserialize(&mut deserializer)
        .and_then(|()| deserializer.end())
        .map_err(|error| JsonError(error.to_string()))
}

#[derive(Clone, Copy)]
struct Scan {
    depth: u32,
    controls: Controls,
}

impl Scan {
    fn deeper<E: serde::de::Error>(self) -> Result<Self, E> {
        if self.depth == MAX_DEPTH {
            return Err(E::custom(format_args!("nested deeper than {MAX_DEPTH}")));
        }
        Ok(Self { depth: self.depth + 1, ..self })
    }

    fn check_string<E: serde::de::Error>(self, text: &str) -> Result<(), E> {
        if self.controls == Controls::Refused && text.contains(char::is_control) {
            return Err(E::custom("control character in a string"));
        }
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for Scan {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Scan {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_bool<E: serde::de::Error>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E: serde::de::Error>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E: serde::de::Error>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E: serde::de::Error>(self, _: f64) -> Result<(), E> {
        Err(E::custom("a number that is no integer"))
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<(), E> {
        self.check_string(text)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        let inner = self.deeper()?;
        while seq.next_element_seed(inner)?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let inner = self.deeper()?;
        let mut names = BTreeSet::new();
        while let Some(name) = map.next_key::<String>()? {
            self.check_string(&name)?;
            map.next_value_seed(inner)?;
            if let Some(name) = names.replace(name) {
                return Err(A::Error::custom(format_args!("member `{name}` comes twice")));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str) -> String {
        scan(text.as_bytes(), Controls::Refused).expect_err(text).to_string()
    }

    #[test]
    fn accepts_plain_json() {
        for text in [r#"{"a":[1,-2,null,true,"ü\"\\"],"b":{"a":{}}}"#, "1", "[]", " {} \n"] {
            assert_eq!(scan(text.as_bytes(), Controls::Refused), Ok(()), "{text}");
        }
    }

    #[test]
    fn refuses_a_member_that_comes_twice_however_it_is_spelled() {
        assert!(refused(r#"{"a":1,"a":1}"#).contains("`a` comes twice"));
        assert!(refused(r#"{"x":[{"a":1,"\u0061":2}]}"#).contains("`a` comes twice"));
    }

    #[test]
    fn refuses_nesting_beyond_the_cap_without_using_the_stack() {
        let nested = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
        assert_eq!(scan(nested(16).as_bytes(), Controls::Refused), Ok(()));
        assert!(refused(&nested(17)).contains("nested"));
        assert!(refused(&"[".repeat(1_000_000)).contains("nested"));
        assert!(refused(&r#"{"a":"#.repeat(1_000_000)).contains("nested"));
    }

    #[test]
    fn refuses_control_characters_unless_told_otherwise() {
        for text in [r#""\n""#, r#"{"\u0000":1}"#, r#""\u007f""#, r#""\u0085""#] {
            assert!(refused(text).contains("control character"), "{text}");
            assert_eq!(scan(text.as_bytes(), Controls::Allowed), Ok(()), "{text}");
        }
        assert!(refused("\"\n\"").contains("control character"), "raw, which JSON itself forbids");
    }

    #[test]
    fn refuses_what_is_no_json_or_no_integer() {
        for text in ["", "{", "{}{}", "1.0", "1e3", "-0", "18446744073709551616", r#""\ud800""#] {
            refused(text);
        }
        assert!(scan(b"\"\xff\"", Controls::Refused).is_err());
    }
}
